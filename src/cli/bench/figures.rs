//! The figures of a run, from its book.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::args::Run;
use super::tally::{Tally, Timeline, WorkerCount};

/// Percentiles of a latency curve: even steps in the logarithm of the share above, so that the tail is drawn as
/// finely as the middle.
const CURVE_STEPS: u32 = 40;
/// Steps of a curve for each factor of ten in the share above.
const CURVE_STEPS_PER_DECADE: f64 = 10.0;

/// Percentiles of a set of times, in milliseconds. Each is a time that was measured: the smallest that at least this
/// share did not exceed. All zero for an empty set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

/// What a run gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    /// Requests that were due: answered and failed.
    pub(super) requests: u64,
    /// Of a closed loop: callers at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) callers: Option<u64>,
    /// Of an open loop: requests a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rate_per_s: Option<f64>,
    /// In time, with a ranking.
    pub(super) answered: u64,
    pub(super) failed: u64,
    /// Answered in time, of those that were due.
    pub(super) answered_share: f64,
    /// Failures by reason.
    pub(super) reasons: BTreeMap<String, u64>,
    /// From the first request to the last ending.
    pub(super) seconds: f64,
    /// Answers in time a second: the goodput.
    pub(super) requests_per_s: f64,
    pub(super) pairs_per_s: f64,
    pub(super) tokens_per_s: f64,
    /// Latencies of the answers in time.
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    /// Times to a refusal that was the last word, by kind.
    pub(super) refusals: BTreeMap<String, Percentiles>,
    /// Messages that left: tries count.
    pub(super) sent: u64,
    /// Answers at the first, second and third try.
    pub(super) answered_at_try: [u64; 3],
    /// Of an open loop: how late the sender itself was. Part of every latency here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sender_lag: Option<Percentiles>,
    /// What each worker answered and refused.
    pub(super) workers: BTreeMap<String, WorkerCount>,
    /// The models that scored.
    pub(super) models: BTreeSet<String>,
}

impl Figures {
    /// The 99th percentile of the time in which a request was turned away: the slowest of the kinds that are meant to come
    /// at once. (`deadline_exceeded` is not: it waited for its budget.)
    pub(super) fn turned_away_p99_ms(&self) -> Option<f64> {
        let at_once = ["overloaded", "unavailable", "no_responders"];
        let times = at_once.iter().filter_map(|kind| self.refusals.get(*kind));
        times.map(|times| times.p99_ms).reduce(f64::max)
    }
}

/// A time at a percentile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    /// From 0 to 100.
    pub(super) percentile: f64,
    pub(super) ms: f64,
}

/// What a plot needs beside the figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Curves {
    /// Latencies of the answers in time.
    pub(super) answered: Vec<Point>,
    /// Times to a refusal, by kind.
    pub(super) refusals: BTreeMap<String, Vec<Point>>,
    /// Of an open loop: endings over time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timeline: Option<Timeline>,
}

/// The figures and curves of a run.
pub(super) fn figures(run: &Run, mut tally: Tally, took: Duration) -> (Figures, Curves) {
    tally.answered_ns.sort_unstable();
    tally.lag_ns.sort_unstable();
    tally.refused_ns.values_mut().for_each(|times| times.sort_unstable());
    let seconds = took.as_secs_f64().max(1e-9);
    let latency = percentiles(&tally.answered_ns);
    let answered = latency.count;
    let figures = Figures {
        requests: tally.requests,
        callers: match run {
            Run::Closed { callers, .. } => Some(*callers),
            Run::Open { .. } => None,
        },
        rate_per_s: run.rate(),
        answered,
        failed: tally.requests - answered,
        answered_share: answered as f64 / tally.requests.max(1) as f64,
        seconds,
        requests_per_s: answered as f64 / seconds,
        pairs_per_s: tally.pairs as f64 / seconds,
        tokens_per_s: tally.tokens as f64 / seconds,
        p50_ms: latency.p50_ms,
        p90_ms: latency.p90_ms,
        p95_ms: latency.p95_ms,
        p99_ms: latency.p99_ms,
        max_ms: latency.max_ms,
        refusals: by_kind(&tally, percentiles),
        sent: tally.sent,
        answered_at_try: tally.answered_at_try,
        sender_lag: run.rate().map(|_| percentiles(&tally.lag_ns)),
        reasons: tally.reasons.clone(),
        workers: tally.workers.clone(),
        models: tally.models.clone(),
    };
    let curves = Curves {
        answered: curve(&tally.answered_ns),
        refusals: by_kind(&tally, curve),
        timeline: tally.timeline,
    };
    (figures, curves)
}

fn by_kind<T>(tally: &Tally, of: impl Fn(&[u64]) -> T) -> BTreeMap<String, T> {
    let kinds = tally.refused_ns.iter();
    kinds.map(|(kind, times)| ((*kind).to_owned(), of(times))).collect()
}

fn percentiles(sorted_ns: &[u64]) -> Percentiles {
    let at = |share| percentile_ms(sorted_ns, share);
    Percentiles {
        count: sorted_ns.len() as u64,
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        max_ms: at(1.0),
    }
}

/// The smallest time that at least `share` of all did not exceed (nearest rank); 0 without any.
fn percentile_ms(sorted_ns: &[u64], share: f64) -> f64 {
    let rank = (share * sorted_ns.len() as f64).ceil() as usize;
    sorted_ns.get(rank.max(1) - 1).map_or(0.0, |nanos| *nanos as f64 / 1e6)
}

/// The latency curve, as far as there are enough times to tell a percentile from the maximum.
fn curve(sorted_ns: &[u64]) -> Vec<Point> {
    let above_least = 1.0 / sorted_ns.len().max(1) as f64;
    (0..=CURVE_STEPS)
        .map(|step| 10f64.powf(-f64::from(step) / CURVE_STEPS_PER_DECADE))
        .take_while(|above| !sorted_ns.is_empty() && *above >= above_least * (1.0 - 1e-9))
        .map(|above| Point {
            percentile: (1.0 - above) * 100.0,
            ms: percentile_ms(sorted_ns, 1.0 - above),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::tally::{Ended, Ending};
    use crate::protocol::RefusalKind;

    const MS: u64 = 1_000_000;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let sorted: Vec<u64> = (1..=100).map(|ms| ms * MS).collect();
        assert_eq!(percentile_ms(&sorted, 0.5), 50.0);
        assert_eq!(percentile_ms(&sorted, 0.99), 99.0);
        assert_eq!(percentile_ms(&sorted, 1.0), 100.0);
        assert_eq!(percentile_ms(&sorted[..1], 0.5), 1.0);
        assert_eq!(percentile_ms(&[], 0.5), 0.0);
    }

    #[test]
    fn a_curve_rises_and_ends_where_the_times_do() {
        let sorted: Vec<u64> = (1..=1_000).map(|ms| ms * MS).collect();
        let points = curve(&sorted);
        assert_eq!(points.len(), 31, "three decades");
        assert!(points.is_sorted_by(|a, b| a.percentile < b.percentile && a.ms <= b.ms));
        let last = points.last().unwrap();
        assert!((last.percentile - 99.9).abs() < 1e-9 && last.ms == 999.0, "{last:?}");
        assert_eq!(curve(&[]), []);
        assert_eq!(curve(&[MS]).len(), 1);
    }

    #[test]
    fn figures_add_up() {
        let mut tally = Tally::default();
        let answered = Ending::Answered {
            pairs: 24,
            tokens: 2_400,
        };
        for (took, ending) in [
            (4, answered.clone()),
            (2, answered),
            (3, Ending::Refused(RefusalKind::Overloaded)),
            (10, Ending::TimedOut),
        ] {
            tally.add(Ended {
                due: Duration::ZERO,
                took: Duration::from_millis(took),
                lag: Some(Duration::from_micros(took)),
                tries: 1,
                worker: None,
                model: None,
                ending,
            });
        }
        let run = Run::Open {
            rate: 2.0,
            requests: 4,
            window: None,
        };
        let (figures, curves) = figures(&run, tally, Duration::from_secs(2));
        assert_eq!((figures.requests, figures.answered, figures.failed), (4, 2, 2));
        assert_eq!(figures.reasons.values().sum::<u64>(), figures.failed);
        assert_eq!((figures.requests_per_s, figures.tokens_per_s), (1.0, 2_400.0));
        assert_eq!(
            (figures.p50_ms, figures.max_ms, figures.answered_share),
            (2.0, 4.0, 0.5)
        );
        assert_eq!(figures.refusals["overloaded"].p99_ms, 3.0);
        assert_eq!(figures.turned_away_p99_ms(), Some(3.0));
        assert_eq!(figures.sender_lag.unwrap().max_ms, 0.01);
        assert_eq!(curves.refusals["overloaded"].len(), 1);
        let read: Figures = serde_json::from_str(&serde_json::to_string(&figures).unwrap()).unwrap();
        assert_eq!(read, figures);
    }
}
