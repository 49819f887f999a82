//! What the client costs over a bare NATS request, and what a call costs that nobody can answer.
//!
//!     nats-server &
//!     cargo run --release --no-default-features --features client --example client_overhead [nats://host:port]
//!
//! A scripted responder answers every request with the same bytes, so that what is measured is the way and not the
//! model. Bare requests and calls take turns: both see the same machine.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use nats_rerank::client::{AnnReason, BreakerSettings, CircuitState, Order, Reranker, RerankerBuilder};
use nats_rerank::nats::ConnectionSettings;
use nats_rerank::protocol::{Encoding, Request};

mod scripted;

use scripted::{CANDIDATES, Failure, QUERY, candidates};

const SUBJECT: &str = "rerank.v1.score.client-overhead";
const ROUNDS: usize = 20_000;
const WARM_UP: usize = 2_000;
const BUDGET: Duration = Duration::from_secs(5);

fn main() -> Result<(), Failure> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    scripted::start_responder(&url, SUBJECT)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(measure(url))
}

fn builder(url: &str, subject: &str) -> RerankerBuilder {
    let connection = ConnectionSettings {
        urls: vec![url.to_owned()],
        ..ConnectionSettings::default()
    };
    Reranker::builder()
        .connection(connection)
        .subject(subject)
        .budget(BUDGET)
        .read_environment(false)
}

async fn measure(url: String) -> Result<(), Failure> {
    let candidates = candidates();
    let query = QUERY;

    let bare = async_nats::connect(&url).await?;
    let body: bytes::Bytes = Request::new(query, candidates.iter().map(String::as_str))
        .encode(Encoding::MsgPack)
        .into();
    let bytes = body.len();
    let reranker = builder(&url, SUBJECT).connect().await?;
    let (mut bare_times, mut call_times) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        let started = Instant::now();
        let mut headers = HeaderMap::new();
        headers.insert("Content-Type", Encoding::MsgPack.content_type());
        bare.request_with_headers(SUBJECT, headers, body.clone()).await?;
        let bare_time = started.elapsed();
        let started = Instant::now();
        let reranked = reranker.rerank(query, &candidates, None).await;
        let call_time = started.elapsed();
        if reranked.order != Order::Model {
            return Err(format!("not reranked: {:?} {:?}", reranked.order, reranked.detail).into());
        }
        if round >= WARM_UP {
            bare_times.push(bare_time);
            call_times.push(call_time);
        }
    }
    println!("{CANDIDATES} candidates, {bytes} bytes a request, {ROUNDS} rounds");
    let bare_p50 = show("bare NATS request", &mut bare_times);
    let call_p50 = show("call of the client", &mut call_times);
    println!(
        "{:<28} p50 {:>8.1} us, {:.2} times the bare request",
        "client over bare request",
        (call_p50.as_secs_f64() - bare_p50.as_secs_f64()) * 1e6,
        call_p50.as_secs_f64() / bare_p50.as_secs_f64()
    );

    let nobody = builder(&url, "rerank.v1.score.nobody")
        .without_breaker()
        .connect()
        .await?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let reranked = nobody.rerank(query, &candidates, None).await;
        times.push(started.elapsed());
        if reranked.order != Order::Ann(AnnReason::NoResponders) {
            return Err("somebody listens where nobody should".into());
        }
    }
    show("no worker at all", &mut times);

    let settings = BreakerSettings {
        pause_min: Duration::from_secs(3600),
        pause_max: Duration::from_secs(3600),
        ..BreakerSettings::default()
    };
    let shut = builder(&url, "rerank.v1.score.nobody")
        .breaker(settings)
        .connect()
        .await?;
    while shut.circuit() != CircuitState::Open {
        shut.rerank(query, &candidates, None).await;
    }
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let reranked = shut.rerank(query, &candidates, None).await;
        times.push(started.elapsed());
        if reranked.order != Order::Ann(AnnReason::CircuitOpen) {
            return Err("the circuit is not open".into());
        }
    }
    show("circuit open", &mut times);
    Ok(())
}

/// Shows p50 and p99; gives p50.
fn show(name: &str, times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    println!("{name:<28} p50 {:>8.1} us, p99 {:>8.1} us", us(at(50)), us(at(99)));
    at(50)
}
