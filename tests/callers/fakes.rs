//! Scripted workers: they answer what a test tells them to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::{HeaderMap, Message};
use futures_util::StreamExt;
use nats_rerank::client::{Reranker, RerankerBuilder};
use nats_rerank::protocol::{
    DEFAULT_SUBJECT, Encoding, Ranking, Refusal, RefusalKind, RefusalScope, Reply, Request, RequestHeaders, TimingsMs,
    Usage,
};

use crate::nats_server::NatsServer;

/// What a scripted worker does with a request.
pub enum Act {
    /// Answers with this reply, checked by nobody.
    Reply(Reply),
    /// Answers with these bytes.
    Bytes(Vec<u8>),
    /// Refuses.
    Refuse(RefusalKind),
    /// Refuses what an idle worker would refuse as well.
    RefuseRequest(RefusalKind),
    /// Never answers.
    Silence,
    /// Answers after a while.
    Late(Duration, Box<Act>),
    /// Answers once so much has been counted.
    When(Arc<AtomicUsize>, usize, Box<Act>),
}

/// A request as a worker sees it.
pub struct Asked {
    pub request: Request,
    pub headers: RequestHeaders,
    /// How many came before it, to this worker.
    pub number: usize,
}

/// A scripted worker; it is gone when dropped.
pub struct Fake {
    task: tokio::task::JoinHandle<()>,
    asked: Arc<AtomicUsize>,
    client: async_nats::Client,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// Joins the queue group under `id` and answers as `script` says, all requests side by side.
    pub async fn start(server: &NatsServer, id: &str, script: impl Fn(Asked) -> Act + Send + 'static) -> Fake {
        Self::start_on(server, DEFAULT_SUBJECT, id, script).await
    }

    /// The same on another subject.
    pub async fn start_on(
        server: &NatsServer,
        subject: &str,
        id: &str,
        script: impl Fn(Asked) -> Act + Send + 'static,
    ) -> Fake {
        let client = async_nats::connect(&server.url).await.expect("a connection");
        let mut requests = client
            .queue_subscribe(subject.to_owned(), "rerank".to_owned())
            .await
            .expect("a subscription");
        round_trip(&client).await;
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, id, answering) = (asked.clone(), id.to_owned(), client.clone());
        let task = tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let act = script(asked_in(&message, number));
                tokio::spawn(answer(answering.clone(), message, id.clone(), act));
            }
        });
        Fake { task, asked, client }
    }

    /// Leaves, and returns once the server knows it.
    pub async fn stop(mut self) {
        self.task.abort();
        // The subscription ends with the task.
        let _ = (&mut self.task).await;
        round_trip(&self.client).await;
    }

    /// Requests that have come.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Whatever this client has sent before, the server has read afterwards. (Nobody listens there.)
async fn round_trip(client: &async_nats::Client) {
    client.request("nobody", "".into()).await.expect_err("no responders");
}

fn asked_in(message: &Message, number: usize) -> Asked {
    let headers = message.headers.clone().unwrap_or_default();
    let pairs: Vec<(String, String)> = headers
        .iter()
        .map(|(name, values)| (name.to_string(), values[0].to_string()))
        .collect();
    let headers = RequestHeaders::from_pairs(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let encoding = Encoding::detect(headers.content_type.as_deref(), &message.payload).expect("an encoding");
    Asked {
        request: Request::decode(encoding, &message.payload).expect("a request"),
        headers,
        number,
    }
}

async fn answer(client: async_nats::Client, message: Message, id: String, act: Act) {
    let content_type = message.headers.as_ref().and_then(|headers| headers.get("Content-Type"));
    let encoding = Encoding::detect(content_type.map(|value| value.as_str()), &message.payload).expect("an encoding");
    let mut act = act;
    loop {
        act = match act {
            Act::Late(after, then) => {
                tokio::time::sleep(after).await;
                *then
            }
            Act::When(count, enough, then) => {
                while count.load(Ordering::SeqCst) < enough {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                *then
            }
            act => break answer_at_once(client, message, id, encoding, act).await,
        };
    }
}

async fn answer_at_once(client: async_nats::Client, message: Message, id: String, encoding: Encoding, act: Act) {
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", encoding.content_type());
    headers.insert("Rerank-Worker", id.as_str());
    let body = match act {
        Act::Silence | Act::Late(..) | Act::When(..) => return,
        Act::Bytes(bytes) => bytes,
        Act::Reply(reply) => {
            headers.insert("Rerank-Activation", "sigmoid");
            serialized(encoding, &reply)
        }
        Act::Refuse(kind) | Act::RefuseRequest(kind) => {
            let mut refusal = Refusal::new(kind, "as scripted");
            if matches!(act, Act::RefuseRequest(_)) {
                refusal = refusal.with_scope(RefusalScope::Request);
            }
            headers.insert("Nats-Service-Error-Code", kind.code().to_string().as_str());
            headers.insert("Nats-Service-Error", refusal.header_value().as_str());
            refusal.encode(encoding)
        }
    };
    let reply_to = message.reply.expect("an inbox");
    let _ = client.publish_with_headers(reply_to, headers, body.into()).await;
}

/// Also what no worker would send.
fn serialized(encoding: Encoding, reply: &Reply) -> Vec<u8> {
    match encoding {
        Encoding::Json => serde_json::to_vec(reply).expect("JSON"),
        Encoding::MsgPack => rmp_serde::to_vec_named(reply).expect("MessagePack"),
    }
}

/// What the scripted workers take for the score of a text: the number that it ends in.
pub fn logit(text: &str) -> f32 {
    let digits = text.rsplit(' ').next().unwrap_or_default();
    digits.parse().unwrap_or_default()
}

/// The right reply to a request, by [`logit`].
pub fn right_reply(request: &Request) -> Reply {
    let mut rankings: Vec<Ranking> = request
        .documents
        .iter()
        .enumerate()
        .map(|(index, document)| Ranking {
            index,
            score: logit(&document.text),
            id: None,
            document: None,
        })
        .collect();
    rankings.sort_by(|a, b| b.score.total_cmp(&a.score));
    let pairs = rankings.len() as u64;
    rankings.truncate(request.top_k.unwrap_or(usize::MAX));
    Reply {
        top_k_applied: rankings.len() as u64 != pairs,
        below_min_score: None,
        rankings,
        model: "scripted".to_owned(),
        usage: Usage {
            pairs,
            tokens: 10 * pairs,
            ..Usage::default()
        },
        timings_ms: TimingsMs::default(),
    }
}

/// A worker that does what it should.
pub fn right(asked: Asked) -> Act {
    Act::Reply(right_reply(&asked.request))
}

/// A builder for this server, deaf to the environment.
pub fn builder(server: &NatsServer) -> RerankerBuilder {
    Reranker::builder().url(&server.url).read_environment(false)
}
