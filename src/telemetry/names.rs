//! The names of all metrics, in one place, by the conventions of Prometheus: base units, `_total` for counters. Label
//! values come from fixed sets only, never from a request.

/// Counter: requests answered. Label `outcome`: `ok`, `refused`, `failed`.
pub const REQUESTS_TOTAL: &str = "rerank_requests_total";

/// Counter: refusals sent. Label `kind`: the kinds of the wire protocol (`invalid_request`, `overloaded`, …).
pub const REFUSALS_TOTAL: &str = "rerank_refusals_total";

/// Histogram, seconds: time of a request in each stage. Label `stage`: `queue`, `tokenize`, `infer`, `total`.
pub const REQUEST_STAGE_SECONDS: &str = "rerank_request_stage_seconds";

/// Gauge: requests taken and not answered yet.
pub const QUEUE_REQUESTS: &str = "rerank_queue_requests";

/// Gauge: query and document pairs of those requests.
pub const QUEUE_PAIRS: &str = "rerank_queue_pairs";

/// Gauge: bytes of those requests' bodies.
pub const QUEUE_BYTES: &str = "rerank_queue_bytes";

/// Histogram: pairs of a batch.
pub const BATCH_PAIRS: &str = "rerank_batch_pairs";

/// Histogram: real tokens of a batch.
pub const BATCH_TOKENS: &str = "rerank_batch_tokens";

/// Histogram, 0 to 1: share of a batch's token slots that are padding.
pub const BATCH_PADDING_RATIO: &str = "rerank_batch_padding_ratio";

/// Counter, microseconds (the facade's counters are whole numbers, so seconds would lose every short batch): time the
/// model was computing. A millionth of its rate is the device's utilisation as the worker sees it.
pub const ENGINE_BUSY_MICROSECONDS_TOTAL: &str = "rerank_engine_busy_microseconds_total";

/// Gauge, seconds: how long the served model took to load, warm-up included.
pub const MODEL_LOAD_SECONDS: &str = "rerank_model_load_seconds";

/// Counter: models loaded. More than one a process means that loads failed and were tried again.
pub const MODEL_LOADS_TOTAL: &str = "rerank_model_loads_total";

/// Counter: messages without a reply subject, which cannot be answered and are dropped.
pub const MESSAGES_WITHOUT_REPLY_TOTAL: &str = "rerank_messages_without_reply_total";

/// Counter: replies that were not published. Label `reason`: `expired`, `disconnected`, `too_large`, `failed`.
pub const REPLIES_DROPPED_TOTAL: &str = "rerank_replies_dropped_total";

/// Counter: requests whose ticket was dropped unanswered, and which were answered `internal` for that. Any is a bug.
pub const TICKETS_DROPPED_TOTAL: &str = "rerank_tickets_dropped_total";

/// Counter: times the NATS client reported that messages come faster than they are taken, and dropped some.
pub const NATS_SLOW_CONSUMER_TOTAL: &str = "rerank_nats_slow_consumer_total";

/// Counter: times the connection to NATS was lost and taken up again.
pub const NATS_RECONNECTS_TOTAL: &str = "rerank_nats_reconnects_total";

/// Gauge: 1 while this worker is in the queue group, else 0.
pub const GROUP_MEMBER: &str = "rerank_group_member";

/// Gauge, always 1. Labels: `version`, `libtorch`, `model`, `device`, `precision`.
pub const BUILD_INFO: &str = "rerank_build_info";

/// Every name above.
pub const ALL: &[&str] = &[
    REQUESTS_TOTAL,
    REFUSALS_TOTAL,
    REQUEST_STAGE_SECONDS,
    QUEUE_REQUESTS,
    QUEUE_PAIRS,
    QUEUE_BYTES,
    BATCH_PAIRS,
    BATCH_TOKENS,
    BATCH_PADDING_RATIO,
    ENGINE_BUSY_MICROSECONDS_TOTAL,
    MODEL_LOAD_SECONDS,
    MODEL_LOADS_TOTAL,
    MESSAGES_WITHOUT_REPLY_TOTAL,
    REPLIES_DROPPED_TOTAL,
    TICKETS_DROPPED_TOTAL,
    NATS_SLOW_CONSUMER_TOTAL,
    NATS_RECONNECTS_TOTAL,
    GROUP_MEMBER,
    BUILD_INFO,
];

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn names_follow_the_conventions_and_are_unique() {
        for (place, name) in ALL.iter().enumerate() {
            assert!(!ALL[..place].contains(name), "{name} twice");
            assert!(name.starts_with("rerank_"), "{name}");
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{name}"
            );
            assert!(!name.contains("_ms"), "{name}: Prometheus counts in seconds");
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
}
