//! Who is there: the workers that have answered, round by round. Pure: time comes as an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::stats::Stats;

/// Workers that are followed at most.
pub(super) const WORKERS_MAX: usize = 1_000;
/// Rounds without an answer after which a worker counts as gone: one may be lost to a busy moment.
const GONE_AFTER: u32 = 2;
/// Rounds without an answer after which it is forgotten.
const FORGOTTEN_AFTER: u32 = 7;

/// The workers that are known.
#[derive(Debug)]
pub(super) struct Roll {
    workers: BTreeMap<String, Known>,
    /// Counts that are nearer to each other than this give no rate worth showing.
    rate_time_min: Duration,
    /// Workers of this round that there was no room for.
    beyond: u64,
}

#[derive(Debug)]
struct Known {
    stats: Stats,
    /// Requests and refusals, and when they were so many.
    base: (u64, u64, Instant),
    /// Requests and refusals a second.
    rates: Option<(f64, f64)>,
    /// Rounds since the last answer; 0 in the round of an answer.
    missed: u32,
    answered: bool,
}

/// A worker as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    pub(super) stats: Stats,
    /// Between the latest two answers; unknown after the first.
    pub(super) requests_per_s: Option<f64>,
    pub(super) refused_per_s: Option<f64>,
    /// It does not answer any more.
    pub(super) gone: bool,
}

impl Roll {
    /// Nobody yet; asked every `interval`.
    pub(super) fn new(interval: Duration) -> Roll {
        Roll {
            workers: BTreeMap::new(),
            rate_time_min: interval / 2,
            beyond: 0,
        }
    }

    /// A worker's answer.
    pub(super) fn enter(&mut self, stats: Stats, at: Instant) {
        let base = (stats.requests, stats.refused, at);
        let room = self.workers.len() < WORKERS_MAX;
        match self.workers.get_mut(&stats.worker) {
            Some(known) => {
                known.missed = 0;
                known.answered = true;
                let (requests, refused, then) = known.base;
                let passed = at.saturating_duration_since(then);
                if stats.requests < requests || stats.refused < refused {
                    (known.base, known.rates) = (base, None);
                } else if passed >= self.rate_time_min && !passed.is_zero() {
                    let rate = |now: u64, then: u64| (now - then) as f64 / passed.as_secs_f64();
                    known.rates = Some((rate(stats.requests, requests), rate(stats.refused, refused)));
                    known.base = base;
                }
                known.stats = stats;
            }
            None if room => {
                let known = Known {
                    base,
                    rates: None,
                    missed: 0,
                    answered: true,
                    stats,
                };
                self.workers.insert(known.stats.worker.clone(), known);
            }
            None => self.beyond += 1,
        }
    }

    /// Begins a round of asking: who does not answer in it has missed one more.
    pub(super) fn begin(&mut self) {
        self.beyond = 0;
        for known in self.workers.values_mut() {
            known.answered = false;
            known.missed += 1;
        }
        self.workers.retain(|_, known| known.missed <= FORGOTTEN_AFTER);
    }

    /// Whether everybody who is expected to answer in this round has, and somebody has.
    pub(super) fn complete(&self) -> bool {
        let mut there = self
            .workers
            .values()
            .filter(|known| known.answered || known.missed <= GONE_AFTER);
        let somebody = self.workers.values().any(|known| known.answered);
        somebody && there.all(|known| known.answered)
    }

    /// Workers that were left out for want of room.
    pub(super) fn beyond(&self) -> u64 {
        self.beyond
    }

    /// Everybody, by model, then by id.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .workers
            .values()
            .map(|known| {
                let gone = known.missed >= GONE_AFTER;
                let rates = known.rates.filter(|_| !gone);
                Row {
                    stats: known.stats.clone(),
                    requests_per_s: rates.map(|(requests, _)| requests),
                    refused_per_s: rates.map(|(_, refused)| refused),
                    gone,
                }
            })
            .collect();
        rows.sort_by(|a, b| a.stats.model.cmp(&b.stats.model));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn stats(worker: &str, requests: u64, refused: u64) -> Stats {
        Stats {
            worker: worker.to_owned(),
            requests,
            refused,
            ..Stats::default()
        }
    }

    #[test]
    fn rates_are_differences_of_counts() {
        let (mut roll, start) = (Roll::new(SECOND), Instant::now());
        roll.begin();
        roll.enter(stats("A", 100, 10), start);
        assert_eq!(roll.rows()[0].requests_per_s, None);
        roll.begin();
        roll.enter(stats("A", 140, 12), start + 2 * SECOND);
        let row = &roll.rows()[0];
        assert_eq!((row.requests_per_s, row.refused_per_s), (Some(20.0), Some(1.0)));
        // A late answer just before the next says nothing of a rate.
        roll.enter(stats("A", 141, 12), start + 2 * SECOND + Duration::from_millis(1));
        assert_eq!(roll.rows()[0].requests_per_s, Some(20.0));
        roll.begin();
        roll.enter(stats("A", 3, 0), start + 3 * SECOND);
        assert_eq!(
            roll.rows()[0].requests_per_s,
            None,
            "counts that fell are of another start"
        );
    }

    #[test]
    fn who_does_not_answer_is_gone_and_then_forgotten() {
        let (mut roll, start) = (Roll::new(SECOND), Instant::now());
        roll.begin();
        roll.enter(stats("A", 1, 0), start);
        let mut gone = Vec::new();
        for _ in 0..=FORGOTTEN_AFTER {
            roll.begin();
            gone.push(roll.rows().first().map(|row| row.gone));
        }
        assert_eq!(gone[..2], [Some(false), Some(true)], "one round may be missed");
        assert_eq!(gone[FORGOTTEN_AFTER as usize - 1..], [Some(true), None]);
        roll.enter(stats("A", 1, 0), start);
        assert!(!roll.rows()[0].gone);
    }

    #[test]
    fn a_round_is_complete_when_those_who_are_there_have_answered() {
        let (mut roll, start) = (Roll::new(SECOND), Instant::now());
        roll.begin();
        assert!(!roll.complete(), "nobody is known yet");
        roll.enter(stats("A", 1, 0), start);
        roll.enter(stats("B", 1, 0), start);
        roll.begin();
        roll.enter(stats("A", 1, 0), start);
        assert!(!roll.complete());
        roll.enter(stats("B", 1, 0), start);
        assert!(roll.complete());
        for _ in 0..4 {
            roll.begin();
            roll.enter(stats("A", 1, 0), start);
        }
        assert!(roll.complete(), "nobody waits for a worker that is gone");
    }

    #[test]
    fn a_flood_of_workers_is_bounded() {
        let (mut roll, start) = (Roll::new(SECOND), Instant::now());
        roll.begin();
        for number in 0..WORKERS_MAX + 5 {
            roll.enter(stats(&format!("W{number}"), 1, 0), start);
        }
        assert_eq!((roll.rows().len(), roll.beyond()), (WORKERS_MAX, 5));
    }

    #[test]
    fn rows_are_sorted_by_model_then_id() {
        let (mut roll, start) = (Roll::new(SECOND), Instant::now());
        for (worker, model) in [("C", "a"), ("A", "b"), ("B", "a")] {
            let model = model.to_owned();
            roll.enter(
                Stats {
                    model,
                    ..stats(worker, 1, 0)
                },
                start,
            );
        }
        let workers: Vec<String> = roll.rows().into_iter().map(|row| row.stats.worker).collect();
        assert_eq!(workers, ["B", "C", "A"]);
    }
}
