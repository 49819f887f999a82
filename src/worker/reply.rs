//! The last stage: encodes answers and publishes them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::Receiver;

use super::connection::Link;
use super::state::Outcome;
use super::status::Status;
use super::ticket::{Answer, Outgoing};
use crate::protocol::{Encoding, Refusal, RefusalKind, Reply, ScoreActivation, headers};
use crate::telemetry::names;

/// Publishing normally takes microseconds; it waits only while the connection's buffer is full.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes that headers and protocol line add to a body, generously.
const OVERHEAD_BYTES: usize = 512;

/// Answers that are handed to the client library before it is asked whether they have left: with the connection lost at
/// that very moment, so many at most leave after it is back.
const BURST: usize = 16;

/// Publishes whatever comes out of the outbox, until every sender is gone.
pub(super) async fn publish_answers(
    client: async_nats::Client,
    worker_id: String,
    activation: ScoreActivation,
    status: Arc<Status>,
    link: Arc<Link>,
    mut outbox: Receiver<Outgoing>,
) {
    let mut way = Way::new(client, link);
    let mut burst = Vec::with_capacity(BURST);
    let mut owed_until = Instant::now();
    while outbox.recv_many(&mut burst, BURST).await > 0 {
        for outgoing in burst.drain(..) {
            owed_until = owed_until.max(outgoing.deadline);
            publish(outgoing, &mut way, &worker_id, activation, &status).await;
        }
        // Normally microseconds. If it takes longer, the next answer has to wait for it.
        let _ = way.has_left(Instant::now() + PUBLISH_TIMEOUT).await;
    }
    // The end: what is still in the client library is owed for as long as somebody waits for it.
    if way.leaving.is_some() {
        let _ = way.has_left(owed_until).await;
    }
}

async fn publish(outgoing: Outgoing, way: &mut Way, worker_id: &str, activation: ScoreActivation, status: &Status) {
    let (share, device_time, trace) = (outgoing.share, outgoing.device_time, outgoing.trace);
    let (encoding, received_at) = (outgoing.encoding, outgoing.received_at);
    let open = way.is_open_for(received_at, outgoing.deadline).await;
    let body_max = way.client.max_payload().saturating_sub(OVERHEAD_BYTES);
    let (header_map, body, outcome) = encode(
        outgoing.answer,
        encoding,
        received_at,
        outgoing.deadline,
        body_max,
        worker_id,
        activation,
    );
    let dropped = if open {
        let published = way
            .client
            .publish_with_headers(outgoing.reply_to, header_map, body.into());
        match tokio::time::timeout(PUBLISH_TIMEOUT, published).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(("publish_failed", error.to_string())),
            Err(_) => Some((
                "buffer_full",
                format!("no room in the connection's buffer for {PUBLISH_TIMEOUT:?}"),
            )),
        }
    } else {
        Some((
            "outdated",
            "its caller has given up before the connection to NATS was back".to_owned(),
        ))
    };
    let latency = received_at.elapsed();
    status.answered(outcome, latency, dropped.is_none());
    if dropped.is_some() || outcome != Outcome::Scored {
        status.wasted(device_time);
    }
    let sent = dropped.is_none();
    match (dropped, outcome) {
        (None, Outcome::Scored) => metrics::counter!(names::REQUESTS_TOTAL, "outcome" => "scored").increment(1),
        (None, Outcome::Refused(kind)) => {
            metrics::counter!(names::REQUESTS_TOTAL, "outcome" => "refused").increment(1);
            metrics::counter!(names::REFUSALS_TOTAL, "kind" => kind.name()).increment(1);
        }
        (Some((reason, error)), _) => {
            metrics::counter!(names::REQUESTS_TOTAL, "outcome" => "dropped").increment(1);
            metrics::counter!(names::REPLIES_DROPPED_TOTAL, "reason" => reason).increment(1);
            let trace_id = trace.trace_id();
            tracing::warn!(parent: trace.span(), trace_id, reason, error, "an answer could not be sent");
        }
    }
    metrics::histogram!(names::REQUEST_STAGE_SECONDS, "stage" => "total").record(latency.as_secs_f64());
    let refused = match outcome {
        Outcome::Scored => None,
        Outcome::Refused(kind) => Some(kind),
    };
    trace.end(worker_id, refused, sent, latency);
    drop(share);
}

/// The way to the server. What is published while there is no connection stays in the client library and leaves when there
/// is one again, however late: so an answer is handed to it only when the way is open.
struct Way {
    client: async_nats::Client,
    link: Arc<Link>,
    statistics: Arc<async_nats::Statistics>,
    /// Which connection this is, counted from 1.
    connection: u64,
    /// When it was made.
    connected_at: Instant,
    /// Completes once everything handed to the client library has been written to the connection; `None`: it has been.
    leaving: Option<BoxFuture<'static, ()>>,
    /// Since when.
    leaving_since: Instant,
}

impl Way {
    fn new(client: async_nats::Client, link: Arc<Link>) -> Way {
        let statistics = client.statistics();
        Way {
            connection: statistics.connects.load(Ordering::Relaxed),
            connected_at: Instant::now(),
            client,
            link,
            statistics,
            leaving: None,
            leaving_since: Instant::now(),
        }
    }

    /// Whether an answer may leave; waits while there is no connection, or a stalled one, for as long as its caller does.
    /// An answer past its deadline leaves too (it says so), unless the connection was lost since the request came.
    async fn is_open_for(&mut self, received_at: Instant, deadline: Instant) -> bool {
        let connected = self.client.connection_state() == State::Connected;
        if !connected || self.leaving.is_some() {
            let until = if connected {
                deadline.max(self.leaving_since + PUBLISH_TIMEOUT)
            } else {
                deadline
            };
            if !self.has_left(until).await {
                return false;
            }
        }
        let connection = self.statistics.connects.load(Ordering::Relaxed);
        if connection != self.connection {
            self.connection = connection;
            // The count is ahead of what is told.
            let told = self.link.connected_at().filter(|&at| at > self.connected_at);
            self.connected_at = told.unwrap_or_else(Instant::now);
        }
        received_at >= self.connected_at || Instant::now() < deadline
    }

    /// Waits until what was published has left; false: it has not by `until`.
    async fn has_left(&mut self, until: Instant) -> bool {
        let client = &self.client;
        let since = &mut self.leaving_since;
        let leaving = self.leaving.get_or_insert_with(|| {
            let client = client.clone();
            *since = Instant::now();
            // It fails only once the client is closed: then publishing fails as well.
            Box::pin(async move { drop(client.flush().await) })
        });
        let left = tokio::time::timeout_at(until.into(), leaving).await.is_ok();
        if left {
            self.leaving = None;
        }
        left
    }
}

fn encode(
    answer: Answer,
    encoding: Encoding,
    received_at: Instant,
    deadline: Instant,
    body_max: usize,
    worker_id: &str,
    activation: ScoreActivation,
) -> (async_nats::HeaderMap, Vec<u8>, Outcome) {
    let now = Instant::now();
    let refusal = match answer {
        Answer::Scored(_) if now >= deadline => {
            let budget = deadline - received_at;
            Refusal::new(
                RefusalKind::DeadlineExceeded,
                format!(
                    "the budget of {} ms ran out while the scores were computed",
                    budget.as_millis()
                ),
            )
        }
        Answer::Scored(reply) => match encode_reply(reply, encoding, received_at, now, body_max) {
            Ok(body) => {
                let mut map = reply_headers(encoding, worker_id, None);
                map.insert(headers::ACTIVATION, activation.name());
                return (map, body, Outcome::Scored);
            }
            Err(refusal) => refusal,
        },
        Answer::Refused(refusal) => refusal,
    };
    let body = refusal.encode(encoding);
    let outcome = Outcome::Refused(refusal.kind);
    (reply_headers(encoding, worker_id, Some(&refusal)), body, outcome)
}

fn encode_reply(
    mut reply: Reply,
    encoding: Encoding,
    received_at: Instant,
    now: Instant,
    body_max: usize,
) -> Result<Vec<u8>, Refusal> {
    for (stage, ms) in [
        ("queue", reply.timings_ms.queue),
        ("tokenize", reply.timings_ms.tokenize),
        ("infer", reply.timings_ms.infer),
    ] {
        metrics::histogram!(names::REQUEST_STAGE_SECONDS, "stage" => stage).record(ms / 1e3);
    }
    reply.timings_ms.total = now.saturating_duration_since(received_at).as_secs_f64() * 1e3;
    let body = reply.encode(encoding)?;
    if body.len() > body_max {
        return Err(Refusal::too_large(format!(
            "the reply has {} bytes, and the NATS server's max_payload is {} of which {OVERHEAD_BYTES} are for headers; ask \
             without `return_documents` or with `top_k`",
            body.len(),
            body_max + OVERHEAD_BYTES
        )));
    }
    Ok(body)
}

fn reply_headers(encoding: Encoding, worker_id: &str, refusal: Option<&Refusal>) -> async_nats::HeaderMap {
    let mut map = async_nats::HeaderMap::new();
    map.insert(headers::CONTENT_TYPE, encoding.content_type());
    map.insert(headers::WORKER, worker_id);
    if let Some(refusal) = refusal {
        map.insert(headers::SERVICE_ERROR_CODE, refusal.kind.code().to_string().as_str());
        map.insert(headers::SERVICE_ERROR, refusal.header_value().as_str());
    }
    map
}
