//! What the gateway counts: for `/stats` in atomics, for `/metrics` through the recorder.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::dialect::Route;
use crate::client::AnnReason;
use crate::telemetry::gateway_names;
use crate::telemetry::latencies::Latencies;

/// How a request for a ranking ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Outcome {
    /// In the model's order.
    Reranked,
    /// In the model's order, some documents without a score.
    Partial,
    /// In ANN order.
    Ann,
    /// 503: no ranking.
    Failed,
    /// A 4xx but those below.
    Invalid,
    /// 401.
    Unauthorized,
    /// 429.
    Busy,
    /// 408.
    Late,
    /// The client hung up.
    Cancelled,
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        gateway_names::OUTCOMES[self as usize]
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stats {
    pub(super) started: Instant,
    outcomes: [AtomicU64; gateway_names::OUTCOMES.len()],
    reasons: [AtomicU64; AnnReason::ALL.len()],
    open: AtomicUsize,
    /// From the head of a request to its answer, of those in the model's order or in ANN order.
    pub(super) latencies: Latencies,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            outcomes: Default::default(),
            reasons: Default::default(),
            open: AtomicUsize::new(0),
            latencies: Latencies::default(),
        }
    }
}

impl Stats {
    /// The head of a request is there; it counts as cancelled unless it is reported to have ended otherwise.
    pub(super) fn begin(&self, route: &'static Route) -> Counted<'_> {
        Counted {
            stats: self,
            route,
            began: Instant::now(),
            outcome: Outcome::Cancelled,
            at_work: AtomicBool::new(false),
        }
    }

    /// A request has ended, or was never let in.
    pub(super) fn ended(&self, route: &'static Route, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
        metrics::counter!(gateway_names::REQUESTS_TOTAL, "route" => route.label, "outcome" => outcome.name())
            .increment(1);
    }

    /// There was no ranking, or not a whole one.
    pub(super) fn fell_back(&self, reason: AnnReason) {
        if let Some(place) = AnnReason::ALL.iter().position(|&other| other == reason) {
            self.reasons[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests at work.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many requests ended each way.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.outcomes.iter().map(|count| count.load(Ordering::Relaxed));
        gateway_names::OUTCOMES.iter().copied().zip(counts)
    }

    /// How often each reason kept documents without a score.
    pub(super) fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.reasons.iter().map(|count| count.load(Ordering::Relaxed));
        AnnReason::ALL.into_iter().map(AnnReason::name).zip(counts)
    }
}

/// A request that has arrived or is arriving. Dropped, it is counted: a client that hangs up drops it early.
pub(super) struct Counted<'a> {
    stats: &'a Stats,
    route: &'static Route,
    pub(super) began: Instant,
    pub(super) outcome: Outcome,
    at_work: AtomicBool,
}

impl Counted<'_> {
    /// It has arrived, and counts as at work until it is dropped.
    pub(super) fn set_at_work(&self) {
        if !self.at_work.swap(true, Ordering::Relaxed) {
            self.stats.open.fetch_add(1, Ordering::Relaxed);
            metrics::gauge!(gateway_names::REQUESTS_OPEN).increment(1);
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        self.stats.ended(self.route, self.outcome);
        if self.outcome != Outcome::Busy {
            metrics::histogram!(gateway_names::REQUEST_SECONDS, "route" => self.route.label).record(took.as_secs_f64());
        }
        if *self.at_work.get_mut() {
            self.stats.open.fetch_sub(1, Ordering::Relaxed);
            metrics::gauge!(gateway_names::REQUESTS_OPEN).decrement(1);
        }
        if matches!(self.outcome, Outcome::Reranked | Outcome::Partial | Outcome::Ann) {
            self.stats.latencies.record(took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::dialect::ROUTES;

    #[test]
    fn every_outcome_has_its_name() {
        let all = [
            (Outcome::Reranked, "reranked"),
            (Outcome::Partial, "partial"),
            (Outcome::Ann, "ann"),
            (Outcome::Failed, "failed"),
            (Outcome::Invalid, "invalid"),
            (Outcome::Unauthorized, "unauthorized"),
            (Outcome::Busy, "busy"),
            (Outcome::Late, "late"),
            (Outcome::Cancelled, "cancelled"),
        ];
        assert_eq!(all.map(|(_, name)| name), gateway_names::OUTCOMES);
        for (outcome, name) in all {
            assert_eq!(outcome.name(), name);
        }
    }

    #[test]
    fn a_request_that_is_dropped_was_cancelled() {
        let stats = Stats::default();
        let mut first = stats.begin(&ROUTES[0]);
        let second = stats.begin(&ROUTES[1]);
        assert_eq!(stats.open(), 0, "neither has arrived");
        first.set_at_work();
        second.set_at_work();
        assert_eq!(stats.open(), 2);
        first.outcome = Outcome::Ann;
        drop(first);
        drop(second);
        let count = |name| {
            stats
                .outcomes()
                .find(|(other, _)| *other == name)
                .map(|(_, count)| count)
        };
        assert_eq!((stats.open(), count("ann"), count("cancelled")), (0, Some(1), Some(1)));
        assert_eq!(stats.latencies.read().answers, 1);
    }
}
