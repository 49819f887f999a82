//! Discovery (ADR-32, NATS micro): answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS` for every micro client. Beside the
//! pipeline: it reads the status, and works whether the worker is in the queue group or out of it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::select_all;
use serde_json::{Value, json};

use super::connection::Link;
use super::decode::RequestLimits;
use super::group::GroupAddress;
use super::reply_subject::ReplySubjects;
use super::snapshot::{ModelFacts, Snapshot};
use super::state::State;
use super::status::Status;
use crate::nats::{Backoff, Sessions};
use crate::protocol::{Encoding, RefusalKind};
use crate::telemetry::process;

/// The one endpoint of the service.
const ENDPOINT: &str = "score";
/// The wire contract's version.
const SCHEMA_VERSION: &str = "1";
/// Publishing normally takes microseconds; it waits only while the connection's buffer is full.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);
/// Replies are about 2 KiB; a server that takes less than this has them kept back, since one that is too large would
/// close the connection.
const REPLY_BYTES_MAX: usize = 32 * 1024;

/// The first pause before subscriptions that were refused are made again; each refusal doubles it.
const REFUSED_PAUSE_MIN: Duration = Duration::from_secs(5);
/// The longest.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(300);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Ping,
    Info,
    Stats,
}

impl Verb {
    const ALL: [Verb; 3] = [Verb::Ping, Verb::Info, Verb::Stats];

    fn subject(self) -> &'static str {
        match self {
            Verb::Ping => "$SRV.PING",
            Verb::Info => "$SRV.INFO",
            Verb::Stats => "$SRV.STATS",
        }
    }
}

/// The subject that one worker listens to and no other.
pub(super) fn own_subject(service_name: &str, worker_id: &str) -> String {
    format!("{}.{service_name}.{worker_id}", Verb::Ping.subject())
}

/// What does not change while the worker runs.
pub(super) struct Service {
    name: String,
    id: String,
    membership: GroupAddress,
    metadata: Value,
    started: String,
}

impl Service {
    pub(super) fn new(
        name: &str,
        id: &str,
        membership: GroupAddress,
        limits: &RequestLimits,
        model: &ModelFacts,
        status: &Status,
    ) -> Service {
        let content_types = [Encoding::Json, Encoding::MsgPack].map(|encoding| encoding.content_type());
        // ADR-32 takes texts only.
        let metadata = json!({
            "model": model.id,
            "device": model.device,
            "precision": model.precision,
            "length_max": model.length_max.to_string(),
            "batch_tokens_max": model.batch_tokens_max.to_string(),
            "content_types": content_types.join(", "),
            "schema_version": SCHEMA_VERSION,
            "documents_max": limits.documents_max.to_string(),
            "query_bytes_max": limits.query_bytes_max.to_string(),
            "document_bytes_max": limits.document_bytes_max.to_string(),
            "default_timeout_ms": limits.default_timeout.as_millis().to_string(),
            "timeout_ms_max": limits.timeout_max.as_millis().to_string(),
        });
        Service {
            name: name.to_owned(),
            id: id.to_owned(),
            membership,
            metadata,
            started: rfc3339(status.started()),
        }
    }

    /// All nine subjects: for everybody, for this service, for this worker.
    fn subjects(&self) -> impl Iterator<Item = (Verb, String)> {
        Verb::ALL.into_iter().flat_map(|verb| {
            let all = verb.subject();
            [
                (verb, all.to_owned()),
                (verb, format!("{all}.{}", self.name)),
                (verb, format!("{all}.{}.{}", self.name, self.id)),
            ]
        })
    }

    fn reply(&self, verb: Verb, status: &Status) -> Value {
        let GroupAddress { subject, queue_group } = &self.membership;
        let mut reply = json!({
            "name": self.name,
            "id": self.id,
            "version": env!("CARGO_PKG_VERSION"),
            "metadata": self.metadata,
        });
        match verb {
            Verb::Ping => reply["type"] = json!("io.nats.micro.v1.ping_response"),
            Verb::Info => {
                reply["type"] = json!("io.nats.micro.v1.info_response");
                reply["description"] = json!("Reranks search candidates with a cross-encoder");
                reply["endpoints"] = json!([{
                    "name": ENDPOINT, "subject": subject, "queue_group": queue_group, "metadata": {},
                }]);
            }
            Verb::Stats => {
                let read = status.snapshot();
                let errors = read.refused_total() + read.dropped;
                let ended = u128::from((read.scored + errors).max(1));
                reply["type"] = json!("io.nats.micro.v1.stats_response");
                reply["started"] = json!(self.started);
                reply["endpoints"] = json!([{
                    "name": ENDPOINT,
                    "subject": subject,
                    "queue_group": queue_group,
                    "num_requests": read.received,
                    "num_errors": errors,
                    "last_error": last_error(&read),
                    "processing_time": nanos(read.processing.as_nanos()),
                    "average_processing_time": nanos(read.processing.as_nanos() / ended),
                    "data": data(&read),
                }]);
            }
        }
        reply
    }
}

/// With microseconds, always: nats-py reads neither more digits nor none.
fn rfc3339(at: SystemTime) -> String {
    let utc = time::OffsetDateTime::from(at);
    let (year, month, day) = (utc.year(), u8::from(utc.month()), utc.day());
    let (hour, minute, second, microsecond) = (utc.hour(), utc.minute(), utc.second(), utc.microsecond());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{microsecond:06}Z")
}

/// Code and kind; never the message, which may name what a caller sent.
fn last_error(read: &Snapshot) -> String {
    read.last_refusal
        .map_or_else(String::new, |kind| format!("{}:{}", kind.code(), kind.name()))
}

fn nanos(nanos: u128) -> u64 {
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// The endpoint's own figures.
fn data(read: &Snapshot) -> Value {
    let usage = process::usage();
    json!({
        "state": read.state.name(),
        "queue_requests": read.queue_requests(),
        "shed": read.refused_as(&[RefusalKind::Overloaded, RefusalKind::Unavailable]),
        "expired": read.refused_as(&[RefusalKind::DeadlineExceeded]),
        "batch_pairs_mean": read.batch_pairs_mean(),
        "batch_pairs_last": read.batch_pairs_last,
        "latency_ms": {"p50": read.latency.p50_ms, "p95": read.latency.p95_ms, "p99": read.latency.p99_ms},
        "memory_mb": usage.map(|usage| usage.rss_mb),
    })
}

/// Answers for as long as there are sessions, or until this is dropped. When the server refuses a subscription of this
/// connection for their number, these nine give way to the queue group's, and are made again after a pause.
pub(super) async fn answer_discovery(
    sessions: Sessions,
    service: Service,
    status: Arc<Status>,
    link: Arc<Link>,
    reply_subjects: Arc<ReplySubjects>,
) {
    let mut backoff = Backoff::new(REFUSED_PAUSE_MIN, REFUSED_PAUSE_MAX);
    let mut session = sessions.now();
    loop {
        let refused = link.subscriptions_refused();
        tokio::select! {
            () = answer_session(&session.client, &service, &status, &reply_subjects) => {
                match sessions.after(session.number).await {
                    Some(next) => session = next,
                    None => return,
                }
                continue;
            }
            () = link.refused_since(refused) => {}
        }
        let pause = backoff.refused(Instant::now());
        tracing::warn!(
            pause_s = pause.as_secs(),
            "discovery: the NATS server refuses subscriptions, so those of discovery give way for a while"
        );
        tokio::time::sleep(pause).await;
        while status.state() == State::Refused {
            tokio::time::sleep(REFUSED_PAUSE_MIN).await;
        }
    }
}

/// Answers until the session ends.
async fn answer_session(
    client: &async_nats::Client,
    service: &Service,
    status: &Status,
    reply_subjects: &ReplySubjects,
) {
    let mut subscriptions = Vec::with_capacity(9);
    for (verb, subject) in service.subjects() {
        // Not in a queue group: every worker answers.
        match client.subscribe(subject.clone()).await {
            Ok(subscription) => subscriptions.push(subscription.map(move |message| (verb, message))),
            Err(error) => tracing::warn!(subject, %error, "discovery: cannot subscribe"),
        }
    }
    let mut asked = select_all(subscriptions);
    while let Some((verb, message)) = asked.next().await {
        let reply_to = message.reply.filter(|subject| reply_subjects.answerable(subject));
        let Some(reply_to) = reply_to else { continue };
        let body = service.reply(verb, status).to_string();
        let room = client.server_info().max_payload.min(REPLY_BYTES_MAX);
        if body.len() > room {
            tracing::warn!(
                bytes = body.len(),
                room,
                "discovery: the reply is too large and was not sent"
            );
            continue;
        }
        let published = tokio::time::timeout(PUBLISH_TIMEOUT, client.publish(reply_to, body.into())).await;
        if !matches!(published, Ok(Ok(()))) {
            tracing::debug!("discovery: a reply could not be sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::state::Outcome;
    use async_nats::service::{Info, PingResponse, Stats};

    fn service(status: &Status) -> Service {
        let limits = RequestLimits {
            documents_max: 1000,
            query_bytes_max: 1,
            document_bytes_max: 1,
            default_timeout: Duration::from_secs(5),
            timeout_max: Duration::from_secs(60),
            model_names: Vec::new(),
        };
        let model = ModelFacts {
            id: "some/model".to_owned(),
            device: "cpu".to_owned(),
            precision: "fp32".to_owned(),
            attention: "own",
            length_max: 512,
            batch_tokens_max: 4096,
        };
        let membership = GroupAddress {
            subject: "rerank.v1.score".to_owned(),
            queue_group: "rerank".to_owned(),
        };
        Service::new("rerank", "ID7", membership, &limits, &model, status)
    }

    #[test]
    fn replies_are_what_the_clients_types_read() {
        let status = Status::new();
        status.set_state(State::Serving);
        let service = service(&status);
        let ping: PingResponse = serde_json::from_value(service.reply(Verb::Ping, &status)).unwrap();
        assert_eq!((ping.name.as_str(), ping.id.as_str()), ("rerank", "ID7"));
        let info: Info = serde_json::from_value(service.reply(Verb::Info, &status)).unwrap();
        assert_eq!(info.metadata["documents_max"], "1000");
        assert_eq!(info.endpoints[0].queue_group, "rerank");
        let stats: Stats = serde_json::from_value(service.reply(Verb::Stats, &status)).unwrap();
        assert_eq!(stats.endpoints[0].requests, 0);
        assert!(stats.endpoints[0].last_error.is_none());
    }

    #[test]
    fn stats_count_and_name_the_last_error_by_its_kind() {
        let status = Status::new();
        let service = service(&status);
        (0..3).for_each(|_| status.received());
        status.answered(Outcome::Scored, Duration::from_millis(6), true);
        status.answered(
            Outcome::Refused(RefusalKind::Overloaded),
            Duration::from_millis(2),
            true,
        );
        let stats: Stats = serde_json::from_value(service.reply(Verb::Stats, &status)).unwrap();
        let endpoint = &stats.endpoints[0];
        assert_eq!((endpoint.requests, endpoint.errors), (3, 1));
        assert_eq!(endpoint.processing_time, Duration::from_millis(8));
        assert_eq!(endpoint.average_processing_time, Duration::from_millis(4));
        let last = endpoint.last_error.as_ref().unwrap();
        assert_eq!((last.code, last.status.as_str()), (429, "overloaded"));
        let data = endpoint.data.as_ref().unwrap();
        assert_eq!((&data["shed"], &data["queue_requests"]), (&json!(1), &json!(1)));
    }

    #[test]
    fn the_start_is_written_with_microseconds() {
        let at =
            |nanos| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(951_782_400) + Duration::from_nanos(nanos));
        assert_eq!(at(0), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(7_000_999), "2000-02-29T00:00:00.007000Z");
    }

    #[test]
    fn nine_subjects() {
        let subjects: Vec<String> = service(&Status::new()).subjects().map(|(_, subject)| subject).collect();
        assert_eq!(subjects.len(), 9);
        assert_eq!(subjects[8], "$SRV.STATS.rerank.ID7");
    }
}
