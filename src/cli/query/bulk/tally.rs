//! What a run came to: counts, reasons and latencies, in bounded memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How a line ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Reranked, after this time.
    Scored(Duration),
    /// Its documents kept their order, for this reason.
    Kept(&'static str),
    /// It was no query.
    Broken,
    /// Its result was there before.
    Done,
}

/// What a run came to.
#[derive(Debug)]
pub(super) struct Tally {
    scored: u64,
    /// By reason; the reasons are names in the source, so there are few.
    kept: BTreeMap<&'static str, u64>,
    broken: u64,
    done: u64,
    latencies: Latencies,
    began: Instant,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            scored: 0,
            kept: BTreeMap::new(),
            broken: 0,
            done: 0,
            latencies: Latencies::new(),
            began: Instant::now(),
        }
    }

    pub(super) fn add(&mut self, ended: Ended) {
        match ended {
            Ended::Scored(latency) => {
                self.scored += 1;
                self.latencies.add(latency);
            }
            Ended::Kept(reason) => *self.kept.entry(reason).or_default() += 1,
            Ended::Broken => self.broken += 1,
            Ended::Done => self.done += 1,
        }
    }

    /// Was there a line without a ranking?
    pub(super) fn failed(&self) -> bool {
        self.broken > 0 || !self.kept.is_empty()
    }

    fn kept(&self) -> u64 {
        self.kept.values().sum()
    }

    fn written(&self) -> u64 {
        self.scored + self.kept() + self.broken
    }

    /// One line for a progress bar.
    pub(super) fn line(&self) -> String {
        let rate = self.written() as f64 / self.began.elapsed().as_secs_f64().max(1e-3);
        let failed = self.kept() + self.broken;
        format!(
            "{} scored, {rate:.0}/s{}",
            self.scored,
            some(failed, ", ", " not reranked")
        )
    }

    /// The whole for people, without a line break at its end.
    pub(super) fn summary(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        let written = self.written();
        let mut text = format!(
            "{written} results in {seconds:.2} s ({:.1} a second): {} scored",
            written as f64 / seconds.max(1e-3),
            self.scored
        );
        if !self.kept.is_empty() {
            let reasons: Vec<String> = self
                .kept
                .iter()
                .map(|(reason, count)| format!("{reason} {count}"))
                .collect();
            text += &format!(", {} kept their order ({})", self.kept(), reasons.join(", "));
        }
        text += &some(self.broken, ", ", " broken");
        text += &some(self.done, "; ", " were there before");
        if self.scored > 0 {
            let ms = |share| self.latencies.at(share).as_secs_f64() * 1e3;
            text += &format!(
                "\nlatency of those scored: p50 {:.1} ms, p95 {:.1} ms",
                ms(0.5),
                ms(0.95)
            );
        }
        text
    }
}

/// A count with its words, unless it is nought.
fn some(count: u64, before: &str, after: &str) -> String {
    if count == 0 {
        String::new()
    } else {
        format!("{before}{count}{after}")
    }
}

/// Latencies by size, one bucket a per cent, so that any number of them takes the same room.
#[derive(Debug)]
struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

/// Each bucket's upper bound over its lower one.
const STEP: f64 = 1.01;
/// Up to more than a day, in microseconds.
const BUCKETS: usize = 2_600;

impl Latencies {
    fn new() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
        }
    }

    fn add(&mut self, latency: Duration) {
        let micros = (latency.as_secs_f64() * 1e6).max(1.0);
        let bucket = (micros.ln() / STEP.ln()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.count += 1;
    }

    /// The latency that `share` of them did not exceed (nearest rank), to a per cent; nought without any.
    fn at(&self, share: f64) -> Duration {
        let rank = ((share * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_secs_f64(STEP.powf(bucket as f64 + 0.5) / 1e6);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_a_per_cent() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.at(0.5), Duration::ZERO);
        for ms in (1..=1000).rev() {
            latencies.add(Duration::from_millis(ms));
        }
        for (share, ms) in [(0.5, 500.0), (0.95, 950.0), (1.0, 1000.0), (0.0, 1.0)] {
            let off = latencies.at(share).as_secs_f64() * 1e3 / ms;
            assert!((0.99..=1.01).contains(&off), "{share}: off by {off}");
        }
        // Beyond all bounds it is still counted.
        latencies.add(Duration::MAX);
        latencies.add(Duration::ZERO);
        assert_eq!(latencies.count, 1002);
        assert!(latencies.at(1.0) > Duration::from_secs(86_400));
    }

    #[test]
    fn the_summary_counts_by_reason() {
        let mut tally = Tally::new();
        assert!(!tally.failed() && tally.summary().starts_with("0 results"));
        for ended in [
            Ended::Scored(Duration::from_millis(10)),
            Ended::Done,
            Ended::Scored(Duration::from_millis(10)),
        ] {
            tally.add(ended);
        }
        assert!(!tally.failed());
        for ended in [
            Ended::Kept("timed_out"),
            Ended::Kept("no_responders"),
            Ended::Broken,
            Ended::Kept("timed_out"),
        ] {
            tally.add(ended);
        }
        assert!(tally.failed());
        let summary = tally.summary();
        for part in [
            "6 results in ",
            ": 2 scored, 3 kept their order (no_responders 1, timed_out 2), 1 broken; 1 were there before",
            "p50 10.",
        ] {
            assert!(summary.contains(part), "{summary}");
        }
        assert!(
            tally.line().starts_with("2 scored, ") && tally.line().ends_with(", 4 not reranked"),
            "{}",
            tally.line()
        );
    }
}
