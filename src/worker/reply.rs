//! The last stage: encodes answers and publishes them. With `receive` the only one that speaks NATS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;

use super::status::{Outcome, Status};
use super::ticket::{Answer, Outgoing};
use crate::protocol::{Encoding, Refusal, RefusalKind, Reply, headers};
use crate::telemetry::names;

/// Publishing normally takes microseconds; it waits only while the connection's buffer is full.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes that headers and protocol line add to a body, generously.
const OVERHEAD_BYTES: usize = 512;

/// Publishes whatever comes out of the outbox, until every sender is gone.
pub(super) async fn publish_answers(
    client: async_nats::Client,
    worker_id: String,
    status: Arc<Status>,
    mut outbox: Receiver<Outgoing>,
) {
    while let Some(outgoing) = outbox.recv().await {
        let share = outgoing.share;
        let body_max = client.server_info().max_payload.saturating_sub(OVERHEAD_BYTES);
        let (encoding, received_at) = (outgoing.encoding, outgoing.received_at);
        let (header_map, body, outcome) = encode(
            outgoing.answer,
            encoding,
            received_at,
            outgoing.deadline,
            body_max,
            &worker_id,
        );
        let published = tokio::time::timeout(
            PUBLISH_TIMEOUT,
            client.publish_with_headers(outgoing.reply_to, header_map, body.into()),
        )
        .await;
        let dropped = match published {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(("publish_failed", error.to_string())),
            Err(_) => Some((
                "buffer_full",
                format!("no room in the connection's buffer for {PUBLISH_TIMEOUT:?}"),
            )),
        };
        let latency = received_at.elapsed();
        status.answered(outcome, latency, dropped.is_none());
        match (dropped, outcome) {
            (None, Outcome::Scored) => metrics::counter!(names::REQUESTS_TOTAL, "outcome" => "scored").increment(1),
            (None, Outcome::Refused(kind)) => {
                metrics::counter!(names::REQUESTS_TOTAL, "outcome" => "refused").increment(1);
                metrics::counter!(names::REFUSALS_TOTAL, "kind" => kind.name()).increment(1);
            }
            (Some((reason, error)), _) => {
                metrics::counter!(names::REQUESTS_TOTAL, "outcome" => "dropped").increment(1);
                metrics::counter!(names::REPLIES_DROPPED_TOTAL, "reason" => reason).increment(1);
                tracing::warn!(reason, error, "an answer could not be sent");
            }
        }
        metrics::histogram!(names::REQUEST_STAGE_SECONDS, "stage" => "total").record(latency.as_secs_f64());
        drop(share);
    }
}

fn encode(
    answer: Answer,
    encoding: Encoding,
    received_at: Instant,
    deadline: Instant,
    body_max: usize,
    worker_id: &str,
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
            Ok(body) => return (reply_headers(encoding, worker_id, None), body, Outcome::Scored),
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
        return Err(Refusal::new(
            RefusalKind::TooLarge,
            format!(
                "the reply has {} bytes and the NATS server takes {body_max}; ask without `return_documents` or with `top_k`",
                body.len()
            ),
        ));
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
