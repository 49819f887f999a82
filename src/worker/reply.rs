//! The last stage: encodes answers and publishes them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::client::{PublishError, PublishErrorKind};
use async_nats::connection::State;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::Receiver;

use super::admit::Share;
use super::connection::Link;
use super::state::Outcome;
use super::status::Status;
use super::ticket::{Answer, Outgoing};
use crate::nats::{Session, Sessions};
use crate::protocol::{Encoding, Refusal, RefusalKind, RefusalScope, Reply, ScoreActivation, headers};
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
    sessions: Sessions,
    worker_id: String,
    activation: ScoreActivation,
    status: Arc<Status>,
    link: Arc<Link>,
    mut outbox: Receiver<Outgoing>,
) {
    let mut way = Way::new(sessions, link);
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
    let body_max = way.session.client.max_payload().saturating_sub(OVERHEAD_BYTES);
    let answer = in_time(outgoing.answer, received_at, outgoing.deadline, share.as_ref());
    let (header_map, body, outcome) = encode(answer, encoding, received_at, body_max, worker_id, activation);
    let dropped = if open {
        let message = Published {
            reply_to: outgoing.reply_to,
            headers: header_map,
            body: body.into(),
        };
        way.publish(message, outgoing.deadline).await.err()
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

/// An answer as it is handed to the client library.
struct Published {
    reply_to: String,
    headers: async_nats::HeaderMap,
    body: Bytes,
}

impl Published {
    async fn send(&self, client: &async_nats::Client) -> Result<(), PublishError> {
        let (reply_to, headers, body) = (self.reply_to.clone(), self.headers.clone(), self.body.clone());
        client.publish_with_headers(reply_to, headers, body).await
    }
}

/// The way to the server. What is published while there is no connection stays in the client library and leaves when there
/// is one again, however late: so an answer is handed to it only when the way is open.
struct Way {
    sessions: Sessions,
    session: Session,
    link: Arc<Link>,
    statistics: Arc<async_nats::Statistics>,
    /// Handed to the client library, which has not said yet that they have left. At most a burst.
    unconfirmed: Vec<Published>,
    /// What the library's task had taken of all that it was handed when there was nothing unconfirmed.
    taken_before: u64,
    /// Which connection this is, counted from 1.
    connection: u64,
    /// When it was made.
    connected_at: Instant,
    /// Completes once everything handed to the client library has been written to the connection; `None`: it has been.
    /// False: the library's task has ended.
    leaving: Option<BoxFuture<'static, bool>>,
    /// Since when.
    leaving_since: Instant,
}

impl Way {
    fn new(sessions: Sessions, link: Arc<Link>) -> Way {
        let session = sessions.now();
        let statistics = session.client.statistics();
        Way {
            connection: statistics.connects.load(Ordering::Relaxed),
            connected_at: Instant::now(),
            sessions,
            session,
            link,
            taken_before: statistics.out_messages.load(Ordering::Relaxed),
            statistics,
            unconfirmed: Vec::with_capacity(BURST),
            leaving: None,
            leaving_since: Instant::now(),
        }
    }

    /// Whether an answer may leave; waits while there is no connection, or a stalled one, for as long as its caller does.
    /// An answer past its deadline leaves too (it says so), unless the connection was lost since the request came.
    async fn is_open_for(&mut self, received_at: Instant, deadline: Instant) -> bool {
        let connected = self.session.client.connection_state() == State::Connected;
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
        loop {
            let client = &self.session.client;
            let since = &mut self.leaving_since;
            let leaving = self.leaving.get_or_insert_with(|| {
                let client = client.clone();
                *since = Instant::now();
                // It fails only once the library's task has ended.
                Box::pin(async move { client.flush().await.is_ok() })
            });
            let Ok(left) = tokio::time::timeout_at(until.into(), leaving).await else {
                return false;
            };
            self.leaving = None;
            if left {
                self.unconfirmed.clear();
                self.taken_before = self.statistics.out_messages.load(Ordering::Relaxed);
                return true;
            }
            if !self.next_session(until).await {
                return false;
            }
        }
    }

    /// Hands an answer to the client library; waits for the next session where this one has ended, until `deadline`.
    async fn publish(&mut self, message: Published, deadline: Instant) -> Result<(), (&'static str, String)> {
        loop {
            match tokio::time::timeout(PUBLISH_TIMEOUT, message.send(&self.session.client)).await {
                Ok(Ok(())) => {
                    self.unconfirmed.push(message);
                    return Ok(());
                }
                Ok(Err(error)) if error.kind() == PublishErrorKind::Send => {
                    if !self.next_session(deadline).await {
                        return Err(("publish_failed", error.to_string()));
                    }
                }
                Ok(Err(error)) => return Err(("publish_failed", error.to_string())),
                Err(_) => {
                    return Err((
                        "buffer_full",
                        format!("no room in the connection's buffer for {PUBLISH_TIMEOUT:?}"),
                    ));
                }
            }
        }
    }

    /// Goes over to the session after this one, with what the ended one's task had not taken yet. What it had taken may have
    /// left: to send that again might answer a request twice. False: there is no such session by `until`.
    async fn next_session(&mut self, until: Instant) -> bool {
        let next = tokio::time::timeout_at(until.into(), self.sessions.after(self.session.number)).await;
        let Ok(Some(session)) = next else {
            return false;
        };
        let taken = self.statistics.out_messages.load(Ordering::Relaxed) - self.taken_before;
        self.leaving = None;
        self.statistics = session.client.statistics();
        // The connection is a new one once it is there.
        self.connection = 0;
        self.taken_before = 0;
        self.session = session;
        let rest = self.unconfirmed.split_off(self.unconfirmed.len().min(taken as usize));
        self.unconfirmed.clear();
        for message in rest {
            let sent = tokio::time::timeout(PUBLISH_TIMEOUT, message.send(&self.session.client)).await;
            if matches!(sent, Ok(Ok(()))) {
                self.unconfirmed.push(message);
            }
        }
        true
    }
}

/// The answer, or that it comes too late.
fn in_time(answer: Answer, received_at: Instant, deadline: Instant, share: Option<&Share>) -> Answer {
    if matches!(answer, Answer::Refused(_)) || Instant::now() < deadline {
        return answer;
    }
    let budget = deadline - received_at;
    let why = format!(
        "the budget of {} ms ran out while the scores were computed",
        budget.as_millis()
    );
    let scope = share.map_or(RefusalScope::Worker, |share| share.scope(budget));
    Answer::Refused(Refusal::new(RefusalKind::DeadlineExceeded, why).with_scope(scope))
}

fn encode(
    answer: Answer,
    encoding: Encoding,
    received_at: Instant,
    body_max: usize,
    worker_id: &str,
    activation: ScoreActivation,
) -> (async_nats::HeaderMap, Vec<u8>, Outcome) {
    let now = Instant::now();
    let refusal = match answer {
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

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::nats::fake_server::FakeServer;
    use crate::worker::group::GroupAddress;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn answer(body: &'static str) -> Published {
        Published {
            reply_to: "inbox".to_owned(),
            headers: async_nats::HeaderMap::new(),
            body: body.into(),
        }
    }

    #[tokio::test]
    async fn an_answer_leaves_by_the_next_session_and_none_leaves_twice() {
        let server = FakeServer::start().await;
        let sessions = server.sessions().await;
        let caller = server.sessions().await;
        let mut inbox = caller.client().subscribe("inbox").await.expect("a subscription");
        caller.client().flush().await.expect("a flush");
        let address = GroupAddress {
            subject: "score".to_owned(),
            queue_group: "rerank".to_owned(),
        };
        let mut way = Way::new(sessions.clone(), Link::new(address, Status::new()));
        let until = Instant::now() + PATIENCE;
        way.publish(answer("first"), until).await.expect("a publish");
        // The library's task takes it, and ends before anybody has asked whether it has left.
        sessions.client().drain().await.expect("a drain");
        tokio::time::timeout(PATIENCE, sessions.after(1))
            .await
            .expect("in time")
            .expect("a session");
        way.publish(answer("second"), until).await.expect("a publish");
        assert!(way.has_left(until).await && way.unconfirmed.is_empty());
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| last != "second") {
            let message = tokio::time::timeout(PATIENCE, inbox.next()).await.expect("in time");
            heard.push(message.expect("a message").payload);
        }
        assert_eq!(heard, ["first", "second"]);
    }

    #[tokio::test]
    async fn what_the_ended_task_had_not_taken_leaves_by_the_next_session() {
        let server = FakeServer::start().await;
        let sessions = server.sessions().await;
        let address = GroupAddress {
            subject: "score".to_owned(),
            queue_group: "rerank".to_owned(),
        };
        let mut way = Way::new(sessions.clone(), Link::new(address, Status::new()));
        sessions.client().drain().await.expect("a drain");
        let next = tokio::time::timeout(PATIENCE, sessions.after(1))
            .await
            .expect("in time");
        let mut heard = next
            .expect("a session")
            .client
            .subscribe("inbox")
            .await
            .expect("a subscription");
        // Handed over when the task had already ended: the library had room, and nobody took it.
        way.unconfirmed.push(answer("lost"));
        assert!(way.next_session(Instant::now() + PATIENCE).await);
        let message = tokio::time::timeout(PATIENCE, heard.next()).await.expect("in time");
        assert_eq!(message.expect("a message").payload, "lost");
    }
}
