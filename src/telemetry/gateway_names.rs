//! The metrics of the HTTP gateway, in one place as the worker's in [`names`](super::names), and by the same conventions.
//! What becomes of its calls over NATS is counted by the client in it ([`caller_names`](super::caller_names)).

use super::names::{Kind, Metric, SECONDS, tell_meanings};

/// Counter: HTTP requests that have ended, by route and outcome.
pub const REQUESTS_TOTAL: &str = "rerank_gateway_requests_total";
/// Histogram, seconds: HTTP requests from their head to their answer.
pub const REQUEST_SECONDS: &str = "rerank_gateway_request_seconds";
/// Gauge: HTTP requests at work.
pub const REQUESTS_OPEN: &str = "rerank_gateway_requests_open";
/// Gauge: open HTTP connections.
pub const CONNECTIONS_OPEN: &str = "rerank_gateway_connections_open";
/// Counter: HTTP connections that were closed to make room for others, by reason.
pub const CONNECTIONS_EVICTED_TOTAL: &str = "rerank_gateway_connections_evicted_total";
/// Gauge: bodies of HTTP requests that are arriving.
pub const PENDING_BODIES: &str = "rerank_gateway_pending_bodies";
/// Gauge: bytes of bodies that are arriving.
pub const PENDING_BODY_BYTES: &str = "rerank_gateway_pending_body_bytes";
/// Gauge, 0 or 1: whether there is a connection to NATS.
pub const CONNECTED: &str = "rerank_gateway_connected";

/// Values of the label `route`.
pub const ROUTES: &[&str] = &[
    "rerank",
    "v1",
    "v2",
    "v3",
    "reranking",
    "zeroentropy",
    "ranking",
    "score",
];
/// Values of the label `outcome`.
pub const OUTCOMES: &[&str] = &[
    "reranked",
    "partial",
    "ann",
    "failed",
    "invalid",
    "unauthorized",
    "busy",
    "late",
    "cancelled",
];

/// Values of the label `reason`: why a connection was closed.
pub const EVICTION_REASONS: &[&str] = &["idle", "slow", "extra"];

/// Every metric of a gateway.
pub const ALL: &[Metric] = &[
    Metric {
        name: REQUESTS_TOTAL,
        kind: Kind::Counter,
        labels: &[("route", ROUTES), ("outcome", OUTCOMES)],
        help: "HTTP requests for a ranking that have ended: in the model's order (partial: some documents without a score), \
               in ANN order, failed (503, no ranking and `gateway.on_failure` is error, or the gateway stops), invalid (any other 4xx), \
               unauthorized (401), busy (429), late (408), cancelled (the client hung up)",
    },
    Metric {
        name: REQUEST_SECONDS,
        kind: SECONDS,
        labels: &[("route", ROUTES)],
        help: "Time of an HTTP request from its head to its answer, in seconds; of those that were let in",
    },
    Metric {
        name: REQUESTS_OPEN,
        kind: Kind::Gauge,
        labels: &[],
        help: "HTTP requests at work",
    },
    Metric {
        name: CONNECTIONS_OPEN,
        kind: Kind::Gauge,
        labels: &[],
        help: "Open HTTP connections",
    },
    Metric {
        name: CONNECTIONS_EVICTED_TOTAL,
        kind: Kind::Counter,
        labels: &[("reason", EVICTION_REASONS)],
        help: "HTTP connections closed to make room for others: the one idle longest, a slow one, an extra one (past \
               `gateway.connections_max`, for probes)",
    },
    Metric {
        name: PENDING_BODIES,
        kind: Kind::Gauge,
        labels: &[],
        help: "Bodies of HTTP requests for a ranking that are arriving",
    },
    Metric {
        name: PENDING_BODY_BYTES,
        kind: Kind::Gauge,
        labels: &[],
        help: "Bytes of bodies that are arriving, or have arrived and are not parsed yet",
    },
    Metric {
        name: CONNECTED,
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while there is a connection to NATS, else 0",
    },
];

/// Tells the recorder what each metric means, and starts the counters at zero. Once, after the recorder was installed.
pub fn describe() {
    tell_meanings(ALL);
    for metric in ALL.iter().filter(|metric| matches!(metric.kind, Kind::Gauge)) {
        metrics::gauge!(metric.name).set(0.0);
    }
    for reason in EVICTION_REASONS {
        metrics::counter!(CONNECTIONS_EVICTED_TOTAL, "reason" => *reason).increment(0);
    }
    for route in ROUTES {
        for outcome in OUTCOMES {
            metrics::counter!(REQUESTS_TOTAL, "route" => *route, "outcome" => *outcome).increment(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::check_names;
    use super::*;

    #[test]
    fn list_file_and_documentation_agree() {
        check_names(include_str!("gateway_names.rs"), "rerank_gateway_", ALL);
    }
}
