//! The worker's metrics: names, meaning, labels and buckets, in one place, by the conventions of Prometheus (base units, `_total`
//! for counters). Label values come from fixed sets only, never from a request. `docs/metrics.md` holds [`table`], and a
//! test keeps the two equal. Callers' metrics stand in [`caller_names`](super::caller_names).

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
/// Gauge: tokens of those requests that the device has not begun with.
pub const QUEUE_TOKENS: &str = "rerank_queue_tokens";
/// Gauge, seconds: what admission would predict for a request that comes now.
pub const PREDICTED_WAIT_SECONDS: &str = "rerank_predicted_wait_seconds";
/// Histogram: pairs of a batch.
pub const BATCH_PAIRS: &str = "rerank_batch_pairs";
/// Histogram: tokens of a batch.
pub const BATCH_TOKENS: &str = "rerank_batch_tokens";
/// Histogram, 0 to 1: tokens of a batch over the token budget.
pub const BATCH_FILL_RATIO: &str = "rerank_batch_fill_ratio";
/// Gauge: the token budget in force.
pub const BATCH_TOKENS_MAX: &str = "rerank_batch_tokens_max";
/// Counter: forward passes for which the device had no memory.
pub const OUT_OF_MEMORY_TOTAL: &str = "rerank_out_of_memory_total";
/// Counter, seconds: the engine was computing.
pub const ENGINE_BUSY_SECONDS_TOTAL: &str = "rerank_engine_busy_seconds_total";
/// Counter, microseconds: the same; deprecated.
pub const ENGINE_BUSY_MICROSECONDS_TOTAL: &str = "rerank_engine_busy_microseconds_total";
/// Gauge, 0 to 1: the share of the last seconds in which the engine was computing.
pub const ENGINE_BUSY_RATIO: &str = "rerank_engine_busy_ratio";
/// Counter, seconds: the engine was computing for nobody.
pub const ENGINE_WASTED_SECONDS_TOTAL: &str = "rerank_engine_wasted_seconds_total";
/// Counter, microseconds: the same; deprecated.
pub const ENGINE_WASTED_MICROSECONDS_TOTAL: &str = "rerank_engine_wasted_microseconds_total";
/// Gauge: the rate that predictions are made with.
pub const ENGINE_TOKENS_PER_SECOND: &str = "rerank_engine_tokens_per_second";
/// Gauge, bytes: memory of the device that is taken.
pub const DEVICE_MEMORY_USED_BYTES: &str = "rerank_device_memory_used_bytes";
/// Gauge, bytes: memory of the device.
pub const DEVICE_MEMORY_TOTAL_BYTES: &str = "rerank_device_memory_total_bytes";
/// Gauge, bytes: memory of the device that this process's tensors take.
pub const DEVICE_MEMORY_ALLOCATED_BYTES: &str = "rerank_device_memory_allocated_bytes";
/// Gauge, bytes: memory of the device that this process's allocator holds.
pub const DEVICE_MEMORY_RESERVED_BYTES: &str = "rerank_device_memory_reserved_bytes";
/// Gauge, seconds: loading of the served model.
pub const MODEL_LOAD_SECONDS: &str = "rerank_model_load_seconds";
/// Counter: models loaded by this process.
pub const MODEL_LOADS_TOTAL: &str = "rerank_model_loads_total";
/// Counter: what was found in a cache.
pub const CACHE_HITS_TOTAL: &str = "rerank_cache_hits_total";
/// Counter: what was not.
pub const CACHE_MISSES_TOTAL: &str = "rerank_cache_misses_total";
/// Gauge: what a cache holds.
pub const CACHE_ENTRIES: &str = "rerank_cache_entries";
/// Counter: messages that cannot be answered.
pub const MESSAGES_WITHOUT_REPLY_TOTAL: &str = "rerank_messages_without_reply_total";
/// Counter: reply subjects that no answer is sent to, by reason.
pub const REPLY_SUBJECTS_REFUSED_TOTAL: &str = "rerank_reply_subjects_refused_total";
/// Counter: answers that could not be sent, by reason.
pub const REPLIES_DROPPED_TOTAL: &str = "rerank_replies_dropped_total";
/// Counter: requests answered by the safety net.
pub const TICKETS_DROPPED_TOTAL: &str = "rerank_tickets_dropped_total";
/// Counter: slow consumer events.
pub const NATS_SLOW_CONSUMER_TOTAL: &str = "rerank_nats_slow_consumer_total";
/// Counter: announcements of a server that it is about to stop.
pub const NATS_LAME_DUCK_TOTAL: &str = "rerank_nats_lame_duck_total";
/// Counter: what the server did not permit, by what was tried.
pub const NATS_PERMISSION_VIOLATIONS_TOTAL: &str = "rerank_nats_permission_violations_total";
/// Counter: subscriptions that the server refused.
pub const NATS_SUBSCRIPTIONS_REFUSED_TOTAL: &str = "rerank_nats_subscriptions_refused_total";
/// Counter: reconnects.
pub const NATS_RECONNECTS_TOTAL: &str = "rerank_nats_reconnects_total";
/// Gauge, 0 or 1: membership of the queue group.
pub const GROUP_MEMBER: &str = "rerank_group_member";
/// Gauge, 0 or 1: out of the queue group on purpose.
pub const SWITCHED_OFF: &str = "rerank_switched_off";
/// Counter: times the queue group was joined.
pub const GROUP_JOINS_TOTAL: &str = "rerank_group_joins_total";
/// Counter: times the queue group was left, by reason.
pub const GROUP_LEAVES_TOTAL: &str = "rerank_group_leaves_total";
/// Gauge, always 1: what runs.
pub const BUILD_INFO: &str = "rerank_build_info";

/// What a metric is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A gauge that is left out for as long as its value is unknown.
    GaugeIfKnown,
    /// Observations, counted in these buckets (upper bounds).
    Histogram(&'static [f64]),
    /// A counter in seconds, rendered from the counter in microseconds of this name.
    SecondsOf(&'static str),
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

pub(super) const SECONDS: Kind = Kind::Histogram(&[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
]);
const RATIO: Kind = Kind::Histogram(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]);
const PAIRS: Kind = Kind::Histogram(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]);
const TOKENS: Kind = Kind::Histogram(&[
    64.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0,
]);

const CACHES: &[(&str, &[&str])] = &[("cache", &["documents", "scores"])];

pub(super) const KINDS: &[&str] = &[
    "invalid_request",
    "unknown_model",
    "too_large",
    "overloaded",
    "unavailable",
    "deadline_exceeded",
    "internal",
];

pub(super) const fn metric(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric {
        name,
        kind,
        labels: &[],
        help,
    }
}

/// Every metric of a worker.
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
    metric(
        QUEUE_TOKENS,
        Kind::Gauge,
        "Tokens of those requests that the device has not begun with",
    ),
    metric(
        PREDICTED_WAIT_SECONDS,
        Kind::Gauge,
        "Predicted time, in seconds, until all that is here now is computed: what admission would predict for a request \
         that comes now and is due last",
    ),
    metric(BATCH_PAIRS, PAIRS, "Pairs of a batch"),
    metric(
        BATCH_TOKENS,
        TOKENS,
        "Tokens of a batch, which all are real: nothing is padded",
    ),
    metric(
        BATCH_FILL_RATIO,
        RATIO,
        "Tokens of a batch as a share of the token budget in force; one long pair may exceed it",
    ),
    metric(
        BATCH_TOKENS_MAX,
        Kind::Gauge,
        "The token budget in force: `batch.tokens_max`, or less where the device ran out of memory",
    ),
    metric(
        OUT_OF_MEMORY_TOTAL,
        Kind::Counter,
        "Forward passes for which the device had no memory; the batch was then halved",
    ),
    metric(
        ENGINE_BUSY_SECONDS_TOTAL,
        Kind::SecondsOf(ENGINE_BUSY_MICROSECONDS_TOTAL),
        "Time the engine was computing, in seconds; its rate is the share of time that the device is busy",
    ),
    metric(
        ENGINE_BUSY_MICROSECONDS_TOTAL,
        Kind::Counter,
        "Deprecated, gone in a later version: rerank_engine_busy_seconds_total in microseconds",
    ),
    metric(
        ENGINE_BUSY_RATIO,
        Kind::Gauge,
        "Share of the last 10 seconds in which the engine was computing, the batch under way included; 0 to 1",
    ),
    metric(
        ENGINE_WASTED_SECONDS_TOTAL,
        Kind::SecondsOf(ENGINE_WASTED_MICROSECONDS_TOTAL),
        "The part of the busy time, in seconds, that went to requests which got no scores in time: a batch's time is \
         shared by tokens. Should stay at zero",
    ),
    metric(
        ENGINE_WASTED_MICROSECONDS_TOTAL,
        Kind::Counter,
        "Deprecated, gone in a later version: rerank_engine_wasted_seconds_total in microseconds",
    ),
    metric(
        ENGINE_TOKENS_PER_SECOND,
        Kind::Gauge,
        "The measured rate that predictions are made with, for full batches; 0 before anything was measured",
    ),
    metric(
        DEVICE_MEMORY_USED_BYTES,
        Kind::GaugeIfKnown,
        "Memory of the CUDA device that is taken, by whomever, in bytes; left out on other devices",
    ),
    metric(
        DEVICE_MEMORY_TOTAL_BYTES,
        Kind::GaugeIfKnown,
        "Memory of the CUDA device, in bytes; left out on other devices",
    ),
    metric(
        DEVICE_MEMORY_ALLOCATED_BYTES,
        Kind::GaugeIfKnown,
        "Memory of the CUDA device that tensors of this process take, in bytes; left out on other devices",
    ),
    metric(
        DEVICE_MEMORY_RESERVED_BYTES,
        Kind::GaugeIfKnown,
        "Memory of the CUDA device that this process holds for tensors of now or later, in bytes; left out on other devices",
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
    Metric {
        name: CACHE_HITS_TOTAL,
        kind: Kind::Counter,
        labels: CACHES,
        help: "Documents whose tokens, and pairs whose scores, were found in the cache; 0 where it is off",
    },
    Metric {
        name: CACHE_MISSES_TOTAL,
        kind: Kind::Counter,
        labels: CACHES,
        help: "Documents, and pairs, that were looked for in the cache and not found; 0 where it is off",
    },
    Metric {
        name: CACHE_ENTRIES,
        kind: Kind::Gauge,
        labels: CACHES,
        help: "Entries of the cache",
    },
    metric(
        MESSAGES_WITHOUT_REPLY_TOTAL,
        Kind::Counter,
        "Messages without a reply subject, or with one that no answer is sent to: they were dropped",
    ),
    Metric {
        name: REPLY_SUBJECTS_REFUSED_TOTAL,
        kind: Kind::Counter,
        labels: &[("reason", &["invalid", "reserved", "own", "outside"])],
        help: "Messages, requests and those of discovery, whose reply subject no answer is sent to: no subject that can be \
               published to, the server's (`$`), the worker's own, or outside `nats.reply_prefixes`",
    },
    Metric {
        name: REPLIES_DROPPED_TOTAL,
        kind: Kind::Counter,
        labels: &[("reason", &["publish_failed", "buffer_full", "outdated"])],
        help: "Answers that could not be sent; outdated: their callers had given up before a lost connection was back",
    },
    metric(
        TICKETS_DROPPED_TOTAL,
        Kind::Counter,
        "Requests that got lost inside the worker and were answered as internal for that: any is a bug",
    ),
    metric(
        NATS_SLOW_CONSUMER_TOTAL,
        Kind::Counter,
        "Times the NATS client dropped messages because they came faster than they were taken, or the server closed the \
         connection for that",
    ),
    metric(
        NATS_LAME_DUCK_TOTAL,
        Kind::Counter,
        "Times a NATS server told that it is about to stop (lame duck mode)",
    ),
    Metric {
        name: NATS_PERMISSION_VIOLATIONS_TOTAL,
        kind: Kind::Counter,
        labels: &[("on", &["subscribe", "publish"])],
        help: "Times the NATS server did not permit something; publish: callers get no answer",
    },
    metric(
        NATS_SUBSCRIPTIONS_REFUSED_TOTAL,
        Kind::Counter,
        "Times the NATS server refused a subscription of this worker for a limit; the worker tries again, and is not \
         ready while it has none",
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
    metric(
        SWITCHED_OFF,
        Kind::Gauge,
        "1 while this worker is switched off, by the live switch or by `enabled`, else 0",
    ),
    metric(GROUP_JOINS_TOTAL, Kind::Counter, "Times the queue group was joined"),
    Metric {
        name: GROUP_LEAVES_TOTAL,
        kind: Kind::Counter,
        labels: &[("reason", &["full", "off", "refused", "end"])],
        help: "Times the queue group was left: for fullness, by the switch, because the NATS server refuses the \
               subscription, or for good",
    },
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
    tell_meanings(ALL);
    for metric in ALL {
        match (metric.kind, metric.labels) {
            (Kind::Counter, []) => metrics::counter!(metric.name).increment(0),
            (Kind::Counter, labels) => {
                for (label, values) in labels {
                    for value in *values {
                        metrics::counter!(metric.name, *label => *value).increment(0);
                    }
                }
            }
            (Kind::Gauge, []) => metrics::gauge!(metric.name).set(0.0),
            _ => {}
        }
    }
}

/// Tells the recorder what each of these metrics means.
pub(super) fn tell_meanings(metrics: &[Metric]) {
    for metric in metrics {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            // Of the recorder's counter: see `append_seconds`.
            Kind::SecondsOf(_) => {}
            Kind::Gauge | Kind::GaugeIfKnown => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}

/// Appends to Prometheus' `text` the counters of seconds: the recorder's own counters are whole numbers, so a time is counted
/// in microseconds there.
pub fn append_seconds(text: &mut String, metrics: &[Metric]) {
    for metric in metrics {
        let Kind::SecondsOf(source) = metric.kind else {
            continue;
        };
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(source)?.strip_prefix(' ')?.parse::<f64>().ok());
        if let Some(microseconds) = value {
            let Metric { name, help, .. } = metric;
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}\n\n",
                microseconds / 1e6
            );
        }
    }
}

/// The table of `docs/metrics.md` for these metrics.
pub fn table(metrics: &[Metric]) -> String {
    let mut text = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in metrics {
        let kind = match metric.kind {
            Kind::Counter | Kind::SecondsOf(_) => "counter",
            Kind::Gauge | Kind::GaugeIfKnown => "gauge",
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

/// What holds for each file of names: the list has all that it declares, under this prefix, and the page of metrics has
/// its table.
#[cfg(test)]
#[track_caller]
pub(super) fn check_names(source: &str, prefix: &str, metrics: &[Metric]) {
    let declaration = format!(": &str = \"{prefix}");
    let declared = source.lines().filter(|line| line.contains(&declaration)).count();
    assert_eq!(declared, metrics.len(), "the list holds every name of its file");
    for Metric { name, kind, .. } in metrics {
        let counts = matches!(kind, Kind::Counter | Kind::SecondsOf(_));
        assert_eq!(counts, name.ends_with("_total"), "{name}");
    }
    let page = include_str!("../../docs/metrics.md");
    let table = table(metrics);
    assert!(page.contains(&table), "docs/metrics.md should hold:\n{table}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::RefusalKind;

    #[test]
    fn names_follow_the_conventions_and_are_unique() {
        for (place, Metric { name, .. }) in ALL.iter().enumerate() {
            assert!(ALL[..place].iter().all(|other| other.name != *name), "{name} twice");
            assert!(name.starts_with("rerank_"), "{name}");
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{name}"
            );
            assert!(!name.contains("_ms"), "{name}: Prometheus counts in seconds");
        }
    }

    #[test]
    fn seconds_are_those_of_the_counted_microseconds() {
        let mut text =
            "# TYPE rerank_engine_busy_microseconds_total counter\nrerank_engine_busy_microseconds_total 1500000\n\n\
                        rerank_engine_wasted_microseconds_total 7\n"
                .to_owned();
        append_seconds(&mut text, ALL);
        assert!(
            text.contains("\n# TYPE rerank_engine_busy_seconds_total counter\nrerank_engine_busy_seconds_total 1.5\n")
        );
        assert!(text.contains("\nrerank_engine_wasted_seconds_total 0.000007\n"));
    }

    #[test]
    fn list_file_and_documentation_agree() {
        check_names(include_str!("names.rs"), "rerank_", ALL);
    }

    #[test]
    fn the_kinds_are_those_of_the_protocol() {
        assert_eq!(KINDS, RefusalKind::ALL.map(RefusalKind::name));
    }
}
