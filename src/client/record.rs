//! What the calls leave in the metrics.

use std::time::Duration;

use super::breaker::CircuitState;
use super::{AnnReason, Order, Reranked};
use crate::telemetry::caller_names;

/// Why a request is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum RequestKind {
    /// A call's own, or one of its parts.
    First,
    /// The one before was refused.
    Retry,
    /// The one before is late.
    Hedge,
}

pub(super) fn request_sent(kind: RequestKind) {
    let kind = match kind {
        RequestKind::First => "first",
        RequestKind::Retry => "retry",
        RequestKind::Hedge => "hedge",
    };
    metrics::counter!(caller_names::REQUESTS_TOTAL, "kind" => kind).increment(1);
}

pub(super) fn circuit_turned(to: CircuitState) {
    metrics::counter!(caller_names::CIRCUIT_TURNS_TOTAL, "to" => to.name()).increment(1);
}

/// A call has ended. `skipped`: it asked nobody, because there was no use.
pub(super) fn call_ended<T>(reranked: &Reranked<T>, skipped: bool) {
    call(
        reranked.order,
        reranked.partial.map(|partial| partial.reason),
        reranked.elapsed,
    );
    if skipped {
        metrics::counter!(caller_names::SKIPPED_TOTAL).increment(1);
    }
}

fn call(order: Order, partial: Option<AnnReason>, elapsed: Duration) {
    let (order, reason) = match (order, partial) {
        (Order::Ann(reason), _) => ("ann", reason.name()),
        (Order::Model, Some(reason)) => ("partial", reason.name()),
        (Order::Model, None) => ("model", "none"),
    };
    metrics::counter!(caller_names::CALLS_TOTAL, "order" => order, "reason" => reason).increment(1);
    metrics::histogram!(caller_names::CALL_SECONDS, "order" => order).record(elapsed.as_secs_f64());
}
