//! The metrics: names, meaning, labels and buckets, in one place, by the conventions of Prometheus (base units, `_total`
//! for counters). Label values come from fixed sets only, never from a request. `docs/metrics.md` holds [`table`], and a
//! test keeps the two equal.

use std::fmt::Write as _;

/// Counter: requests that have ended, by outcome.
pub const REQUESTS_TOTAL: &str = "rerank_requests_total";
/// Counter: refusals, by kind.
pub const REFUSALS_TOTAL: &str = "rerank_refusals_total";
/// Histogram, seconds: a request's time in each stage.
pub const REQUEST_STAGE_SECONDS: &str = "rerank_request_stage_seconds";
/// Gauge: requests admitted and not answered.
pub const QUEUE_REQUESTS: &str = "rerank_queue_requests";
/// Gauge: pairs of those requests.
pub const QUEUE_PAIRS: &str = "rerank_queue_pairs";
/// Gauge: bytes of those requests' bodies.
pub const QUEUE_BYTES: &str = "rerank_queue_bytes";
/// Histogram: pairs of a batch.
pub const BATCH_PAIRS: &str = "rerank_batch_pairs";
/// Histogram: tokens of a batch.
pub const BATCH_TOKENS: &str = "rerank_batch_tokens";
/// Histogram, 0 to 1: tokens of a batch over the token budget.
pub const BATCH_FILL_RATIO: &str = "rerank_batch_fill_ratio";
/// Counter, microseconds: the engine was computing.
pub const ENGINE_BUSY_MICROSECONDS_TOTAL: &str = "rerank_engine_busy_microseconds_total";
/// Gauge, seconds: loading of the served model.
pub const MODEL_LOAD_SECONDS: &str = "rerank_model_load_seconds";
/// Counter: models loaded by this process.
pub const MODEL_LOADS_TOTAL: &str = "rerank_model_loads_total";
/// Counter: messages that cannot be answered.
pub const MESSAGES_WITHOUT_REPLY_TOTAL: &str = "rerank_messages_without_reply_total";
/// Counter: answers that could not be sent, by reason.
pub const REPLIES_DROPPED_TOTAL: &str = "rerank_replies_dropped_total";
/// Counter: requests answered by the safety net.
pub const TICKETS_DROPPED_TOTAL: &str = "rerank_tickets_dropped_total";
/// Counter: slow consumer events.
pub const NATS_SLOW_CONSUMER_TOTAL: &str = "rerank_nats_slow_consumer_total";
/// Counter: reconnects.
pub const NATS_RECONNECTS_TOTAL: &str = "rerank_nats_reconnects_total";
/// Gauge, 0 or 1: membership of the queue group.
pub const GROUP_MEMBER: &str = "rerank_group_member";
/// Gauge, always 1: what runs.
pub const BUILD_INFO: &str = "rerank_build_info";

/// What a metric is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations, counted in these buckets (upper bounds).
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its label, and every value that it can have; a value in `<>` is fixed at the start of the process.
    pub labels: &'static [(&'static str, &'static [&'static str])],
    /// What it tells, for `# HELP` and the documentation.
    pub help: &'static str,
}

const SECONDS: Kind = Kind::Histogram(&[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
]);
const RATIO: Kind = Kind::Histogram(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]);
const PAIRS: Kind = Kind::Histogram(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]);
const TOKENS: Kind = Kind::Histogram(&[
    64.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0,
]);

const KINDS: &[&str] = &[
    "invalid_request",
    "unknown_model",
    "too_large",
    "overloaded",
    "unavailable",
    "deadline_exceeded",
    "internal",
];

const fn metric(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric {
        name,
        kind,
        labels: &[],
        help,
    }
}

/// Every metric.
pub const ALL: &[Metric] = &[
    Metric {
        name: REQUESTS_TOTAL,
        kind: Kind::Counter,
        labels: &[("outcome", &["scored", "refused", "dropped"])],
        help: "Requests that have ended; dropped: the answer could not be sent",
    },
    Metric {
        name: REFUSALS_TOTAL,
        kind: Kind::Counter,
        labels: &[("kind", KINDS)],
        help: "Refusals, by the kinds of the wire protocol",
    },
    Metric {
        name: REQUEST_STAGE_SECONDS,
        kind: SECONDS,
        labels: &[("stage", &["queue", "tokenize", "infer", "total"])],
        help: "Time of a scored request in each stage, in seconds; total, from receipt to leaving, of refused ones too",
    },
    metric(QUEUE_REQUESTS, Kind::Gauge, "Requests admitted and not answered yet"),
    metric(QUEUE_PAIRS, Kind::Gauge, "Query and document pairs of those requests"),
    metric(QUEUE_BYTES, Kind::Gauge, "Bytes of those requests' bodies"),
    metric(BATCH_PAIRS, PAIRS, "Pairs of a batch"),
    metric(
        BATCH_TOKENS,
        TOKENS,
        "Tokens of a batch, which all are real: nothing is padded",
    ),
    metric(
        BATCH_FILL_RATIO,
        RATIO,
        "Tokens of a batch as a share of the token budget; one long pair may exceed it",
    ),
    metric(
        ENGINE_BUSY_MICROSECONDS_TOTAL,
        Kind::Counter,
        "Time the engine was computing, in microseconds (counters are whole numbers: seconds would lose every short \
         batch); a millionth of its rate is the share of time that the device is busy",
    ),
    metric(
        MODEL_LOAD_SECONDS,
        Kind::Gauge,
        "Time it took to load the served model, warm-up included, in seconds",
    ),
    metric(
        MODEL_LOADS_TOTAL,
        Kind::Counter,
        "Models loaded by this process: 1, or something is wrong",
    ),
    metric(
        MESSAGES_WITHOUT_REPLY_TOTAL,
        Kind::Counter,
        "Messages without a reply subject, which cannot be answered and were dropped",
    ),
    Metric {
        name: REPLIES_DROPPED_TOTAL,
        kind: Kind::Counter,
        labels: &[("reason", &["publish_failed", "buffer_full"])],
        help: "Answers that could not be sent",
    },
    metric(
        TICKETS_DROPPED_TOTAL,
        Kind::Counter,
        "Requests that got lost inside the worker and were answered as internal for that: any is a bug",
    ),
    metric(
        NATS_SLOW_CONSUMER_TOTAL,
        Kind::Counter,
        "Times the NATS client dropped messages because they came faster than they were taken",
    ),
    metric(
        NATS_RECONNECTS_TOTAL,
        Kind::Counter,
        "Times a lost connection to NATS was taken up again",
    ),
    metric(
        GROUP_MEMBER,
        Kind::Gauge,
        "1 while this worker is in the queue group, else 0",
    ),
    Metric {
        name: BUILD_INFO,
        kind: Kind::Gauge,
        labels: &[
            ("version", &["<program>"]),
            ("libtorch", &["<library>"]),
            ("model", &["<served model>"]),
            ("device", &["<device>"]),
            ("precision", &["<precision>"]),
        ],
        help: "Always 1: what runs here",
    },
];

/// Tells the recorder what each metric means, and starts every counter at zero, so that the first event is a change
/// that a rate can see. Once, after the recorder was installed.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => {
                metrics::describe_counter!(metric.name, metric.help);
                match metric.labels {
                    [] => metrics::counter!(metric.name).increment(0),
                    labels => {
                        for (label, values) in labels {
                            for value in *values {
                                metrics::counter!(metric.name, *label => *value).increment(0);
                            }
                        }
                    }
                }
            }
            Kind::Gauge => {
                metrics::describe_gauge!(metric.name, metric.help);
                if metric.labels.is_empty() {
                    metrics::gauge!(metric.name).set(0.0);
                }
            }
            Kind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}

/// The table of `docs/metrics.md`.
pub fn table() -> String {
    let mut text = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let labels: Vec<String> = metric
            .labels
            .iter()
            .map(|(label, values)| format!("`{label}`: {}", values.join(", ")))
            .collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {kind} | {} | {} |",
            metric.name,
            labels.join("; ").replace('<', "‹").replace('>', "›"),
            metric.help
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::RefusalKind;

    #[test]
    fn names_follow_the_conventions_and_are_unique() {
        for (place, Metric { name, kind, .. }) in ALL.iter().enumerate() {
            assert!(ALL[..place].iter().all(|other| other.name != *name), "{name} twice");
            assert!(name.starts_with("rerank_"), "{name}");
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{name}"
            );
            assert!(!name.contains("_ms"), "{name}: Prometheus counts in seconds");
            assert_eq!(matches!(kind, Kind::Counter), name.ends_with("_total"), "{name}");
        }
    }

    #[test]
    fn the_list_holds_every_name_of_this_file() {
        let declared = include_str!("names.rs")
            .lines()
            .filter(|line| line.contains(": &str = \"rerank_"))
            .count();
        assert_eq!(declared, ALL.len());
    }

    #[test]
    fn the_kinds_are_those_of_the_protocol() {
        assert_eq!(KINDS, RefusalKind::ALL.map(RefusalKind::name));
    }

    #[test]
    fn the_documentation_holds_the_table() {
        let page = include_str!("../../docs/metrics.md");
        assert!(page.contains(&table()), "docs/metrics.md should hold:\n{}", table());
    }
}
