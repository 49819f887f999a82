//! When the requests of an open loop are due. Pure: the same seed gives the same times.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How arrivals are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Spacing {
    /// At random and independent of each other, as callers who do not know of each other come
    Poisson,
    /// At equal distances
    Even,
}

/// The times at which requests are due, from the start of the run.
#[derive(Debug)]
pub(super) struct Schedule {
    spacing: Spacing,
    rate: f64,
    left: u64,
    window: Option<Duration>,
    number: u64,
    /// Seconds; of Poisson's arrivals only.
    last_s: f64,
    random: fastrand::Rng,
}

impl Schedule {
    /// `rate` arrivals a second, at most `requests`, all of them before `window` has passed.
    pub(super) fn new(spacing: Spacing, rate: f64, requests: u64, window: Option<Duration>, seed: u64) -> Schedule {
        Schedule {
            spacing,
            rate,
            left: requests,
            window,
            number: 0,
            last_s: 0.0,
            random: fastrand::Rng::with_seed(seed),
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let at_s = match self.spacing {
            // Not a sum: its rounding errors would add up.
            Spacing::Even => self.number as f64 / self.rate,
            Spacing::Poisson => {
                // From (0, 1]: the logarithm of zero is no time to wait for.
                let share = 1.0 - self.random.f64();
                self.last_s += -share.ln() / self.rate;
                self.last_s
            }
        };
        self.number += 1;
        let at = Duration::from_secs_f64(at_s);
        if self.window.is_some_and(|window| at >= window) {
            self.left = 0;
            return None;
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poisson(seed: u64) -> Vec<Duration> {
        Schedule::new(Spacing::Poisson, 100.0, 20_000, None, seed).collect()
    }

    #[test]
    fn even_arrivals_are_evenly_spaced_and_end_with_the_window() {
        let window = Some(Duration::from_secs(2));
        let times: Vec<_> = Schedule::new(Spacing::Even, 4.0, 1_000, window, 1).collect();
        let expected: Vec<_> = (0..8).map(|number| Duration::from_millis(number * 250)).collect();
        assert_eq!(times, expected);
        assert_eq!(Schedule::new(Spacing::Even, 4.0, 3, window, 1).count(), 3);
    }

    #[test]
    fn a_seed_gives_the_same_arrivals_and_another_seed_others() {
        assert_eq!(poisson(7), poisson(7));
        assert_ne!(poisson(7)[..10], poisson(8)[..10]);
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_vary_as_they_should() {
        let times = poisson(7);
        assert!(times.is_sorted());
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 0.01).abs() < 0.000_3, "mean {mean}");
        // An exponential distribution's deviation is its mean.
        assert!(
            (variance.sqrt() / mean - 1.0).abs() < 0.03,
            "deviation {}",
            variance.sqrt()
        );
    }

    #[test]
    fn the_iterator_stays_at_its_end() {
        let mut schedule = Schedule::new(Spacing::Poisson, 10.0, 1_000, Some(Duration::from_millis(1)), 3);
        while schedule.next().is_some() {}
        assert_eq!(schedule.next(), None);
    }
}
