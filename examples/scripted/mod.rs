//! What the measuring examples ask, and a worker without a model that answers it at once.

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::StreamExt;
use nats_rerank::protocol::{Encoding, Ranking, Reply, TimingsMs, Usage};

/// What may go wrong on the way.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Candidates of a request.
pub const CANDIDATES: usize = 24;
/// What they are asked about.
pub const QUERY: &str = "how does a neural network learn";

/// The texts of the candidates.
pub fn candidates() -> Vec<String> {
    let words = [
        "neural", "network", "pizza", "yeast", "orbit", "guitar", "harvest", "protein", "river", "copper",
    ];
    let text = |place: usize| (0..70).map(move |word| words[(place * 7 + word * 3) % words.len()]);
    (0..CANDIDATES)
        .map(|place| text(place).collect::<Vec<_>>().join(" "))
        .collect()
}

/// Starts a responder on `subject`, as a worker would be: with a runtime and a connection of its own. Returns once the
/// server knows its subscription. It answers every request with the same bytes, until the process ends.
pub fn start_responder(url: &str, subject: &'static str) -> Result<(), Failure> {
    let (ready, listening) = std::sync::mpsc::channel();
    let url = url.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(respond(url, subject, ready)).expect("a responder");
    });
    Ok(listening.recv()?)
}

async fn respond(url: String, subject: &'static str, ready: std::sync::mpsc::Sender<()>) -> Result<(), Failure> {
    let rankings = (0..CANDIDATES).map(|place| Ranking {
        index: (place * 7) % CANDIDATES,
        score: (CANDIDATES - place) as f32 * 0.37,
        id: None,
        document: None,
    });
    let reply = Reply {
        rankings: rankings.collect(),
        top_k_applied: false,
        below_min_score: None,
        model: "scripted".to_owned(),
        usage: Usage::default(),
        timings_ms: TimingsMs::default(),
    };
    let body = Bytes::from(reply.encode(Encoding::MsgPack).map_err(|refusal| refusal.to_string())?);
    let client = async_nats::connect(url).await?;
    let mut requests = client.queue_subscribe(subject, "rerank".to_owned()).await?;
    // A round trip (nobody listens there): the server knows the subscription now.
    let _ = client.request("nobody", "".into()).await;
    ready.send(())?;
    while let Some(request) = requests.next().await {
        if let Some(inbox) = request.reply {
            let mut headers = HeaderMap::new();
            headers.insert("Content-Type", Encoding::MsgPack.content_type());
            headers.insert("Rerank-Worker", "scripted");
            client.publish_with_headers(inbox, headers, body.clone()).await?;
        }
    }
    Ok(())
}
