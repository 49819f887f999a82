//! The metrics of callers, in one place as the worker's in [`names`](super::names), and by the same conventions. They
//! go to whichever recorder the program has installed for the `metrics` facade; without one they cost nothing.

use super::names::{Kind, Metric, SECONDS, tell_meanings};

/// Counter: calls that have ended, by the order they brought and the reason for it.
pub const CALLS_TOTAL: &str = "rerank_client_calls_total";
/// Histogram, seconds: calls from start to end.
pub const CALL_SECONDS: &str = "rerank_client_call_seconds";
/// Counter: calls that asked nobody.
pub const SKIPPED_TOTAL: &str = "rerank_client_skipped_total";
/// Counter: requests sent, by what made them necessary.
pub const REQUESTS_TOTAL: &str = "rerank_client_requests_total";
/// Counter: turns of the circuit.
pub const CIRCUIT_TURNS_TOTAL: &str = "rerank_client_circuit_turns_total";

/// Values of the label `order`.
pub const ORDERS: &[&str] = &["model", "partial", "ann"];
/// Values of the label `reason`: none, or that of [`AnnReason`](crate::client::AnnReason).
pub const REASONS: &[&str] = &[
    "none",
    "timed_out",
    "no_responders",
    "disconnected",
    "bad_reply",
    "circuit_open",
    "switched_off",
    "invalid_request",
    "unknown_model",
    "too_large",
    "overloaded",
    "unavailable",
    "deadline_exceeded",
    "internal",
];
/// Values of the label `kind`.
pub const REQUEST_KINDS: &[&str] = &["first", "retry", "hedge"];
/// Values of the label `to`.
pub const CIRCUIT_STATES: &[&str] = &["closed", "open", "half_open"];

/// Every metric of a caller.
pub const ALL: &[Metric] = &[
    Metric {
        name: CALLS_TOTAL,
        kind: Kind::Counter,
        labels: &[("order", ORDERS), ("reason", REASONS)],
        help: "Calls that have ended, by the order of their items (partial: some without a score) and why it is not \
               wholly the model's (none: it is)",
    },
    Metric {
        name: CALL_SECONDS,
        kind: SECONDS,
        labels: &[("order", ORDERS)],
        help: "Time of a call from start to end, in seconds",
    },
    Metric {
        name: SKIPPED_TOTAL,
        kind: Kind::Counter,
        labels: &[],
        help: "Calls that asked nobody: switched off, not connected, the circuit open, or no budget",
    },
    Metric {
        name: REQUESTS_TOTAL,
        kind: Kind::Counter,
        labels: &[("kind", REQUEST_KINDS)],
        help: "Requests sent: a call's own (first, one for each part), after a refusal (retry), a second one for what \
               is late (hedge)",
    },
    Metric {
        name: CIRCUIT_TURNS_TOTAL,
        kind: Kind::Counter,
        labels: &[("to", CIRCUIT_STATES)],
        help: "Turns of the circuit breaker, by its new state",
    },
];

/// Tells the recorder what each metric means, and starts the counters at zero. With every reranker that is built: doing
/// it again changes nothing.
pub(crate) fn describe() {
    tell_meanings(ALL);
    metrics::counter!(CALLS_TOTAL, "order" => "model", "reason" => "none").increment(0);
    for reason in &REASONS[1..] {
        metrics::counter!(CALLS_TOTAL, "order" => "ann", "reason" => *reason).increment(0);
    }
    metrics::counter!(SKIPPED_TOTAL).increment(0);
    for kind in REQUEST_KINDS {
        metrics::counter!(REQUESTS_TOTAL, "kind" => *kind).increment(0);
    }
    for state in CIRCUIT_STATES {
        metrics::counter!(CIRCUIT_TURNS_TOTAL, "to" => *state).increment(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::{KINDS, check_names};
    use super::*;
    use crate::client::{AnnReason, CircuitState};

    #[test]
    fn list_file_and_documentation_agree() {
        check_names(include_str!("caller_names.rs"), "rerank_client_", ALL);
    }

    #[test]
    fn the_labels_are_those_of_the_client() {
        assert_eq!(REASONS[1..], AnnReason::ALL.map(AnnReason::name));
        assert_eq!(REASONS[7..], *KINDS);
        assert_eq!(CIRCUIT_STATES, CircuitState::ALL.map(CircuitState::name));
    }
}
