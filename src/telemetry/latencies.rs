//! The latencies of the last answers, in a ring that is cheap to write.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Latencies that are kept: the percentiles are those of so many answers back from now.
pub const LATENCIES: usize = 2048;

/// A ring of the last [`LATENCIES`] latencies.
#[derive(Debug)]
pub struct Latencies {
    count: AtomicU64,
    /// Microseconds; the next place is the count modulo its length.
    ring: Box<[AtomicU32]>,
}

/// Percentiles of latency; milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Half were faster.
    pub p50_ms: f64,
    /// 95 in a hundred were faster.
    pub p95_ms: f64,
    /// 99 in a hundred were faster.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// Answers that these are of; 2,048 at most.
    pub answers: usize,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            ring: (0..LATENCIES).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

impl Latencies {
    /// An answer took so long.
    pub fn record(&self, latency: Duration) {
        let place = self.count.fetch_add(1, Ordering::Relaxed) as usize % LATENCIES;
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.ring[place].store(micros, Ordering::Relaxed);
    }

    /// Answers so far.
    pub fn answers(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The percentiles of what is in the ring.
    pub fn read(&self) -> Latency {
        let count = (self.answers() as usize).min(LATENCIES);
        let mut micros: Vec<u32> = self.ring[..count]
            .iter()
            .map(|latency| latency.load(Ordering::Relaxed))
            .collect();
        micros.sort_unstable();
        // Nearest rank.
        let at = |share: f64| {
            let rank = (share * count as f64).ceil() as usize;
            micros
                .get(rank.max(1) - 1)
                .map_or(0.0, |&micros| f64::from(micros) / 1e3)
        };
        Latency {
            p50_ms: at(0.50),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            answers: count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_last_answers() {
        let latencies = Latencies::default();
        assert_eq!(latencies.read(), Latency::default());
        for _ in 0..LATENCIES {
            latencies.record(Duration::from_secs(9));
        }
        for _ in 0..LATENCIES / 100 {
            (1..=100).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        }
        (0..LATENCIES % 100).for_each(|_| latencies.record(Duration::from_millis(50)));
        let latency = latencies.read();
        assert_eq!(
            (latency.p50_ms, latency.max_ms, latency.answers),
            (50.0, 100.0, LATENCIES)
        );
        assert!((94.0..=96.0).contains(&latency.p95_ms) && (98.0..=99.0).contains(&latency.p99_ms));
    }
}
