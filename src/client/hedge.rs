//! When a request is worth asking twice: once it has taken longer than nearly all others. Pure.

use std::time::Duration;

use super::BuildError;

/// Latencies that are remembered.
const SAMPLES: usize = 256;
/// The percentile is learned anew after so many.
const RELEARN_AFTER: usize = 16;
/// Second requests that may come in a burst, whatever the share.
const BURST: f64 = 4.0;

/// A second request for what has not been answered in good time; the first good answer counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgeSettings {
    /// The percentile of the latencies of late after which a second request goes out; 50 to 99.9. Unless set: 95.
    pub percentile: f64,
    /// Second requests in per cent of the first ones, at most: a fleet that is late for being full is not to be asked
    /// twice as much. Above 0, at most 100. Unless set: 5.
    pub share_percent: f64,
    /// So many latencies have to be known first; 1 to 256. Unless set: 32.
    pub samples_min: usize,
}

impl Default for HedgeSettings {
    fn default() -> Self {
        Self {
            percentile: 95.0,
            share_percent: 5.0,
            samples_min: 32,
        }
    }
}

impl HedgeSettings {
    pub(super) fn check(&self) -> Result<(), BuildError> {
        let wrong = |problem| Err(BuildError::invalid("hedge", problem));
        if !(50.0..=99.9).contains(&self.percentile) {
            wrong("percentile: expected 50 to 99.9")
        } else if !(self.share_percent > 0.0 && self.share_percent <= 100.0) {
            wrong("share_percent: expected more than 0, at most 100")
        } else if !(1..=SAMPLES).contains(&self.samples_min) {
            wrong("samples_min: expected 1 to 256")
        } else {
            Ok(())
        }
    }
}

/// What was learned, and how many second requests may still be sent.
#[derive(Debug)]
pub(super) struct Hedge {
    settings: HedgeSettings,
    /// The last latencies, in a ring.
    samples: Vec<Duration>,
    next: usize,
    unlearned: usize,
    delay: Option<Duration>,
    /// Second requests that may be sent now.
    allowance: f64,
}

impl Hedge {
    pub(super) fn new(settings: HedgeSettings) -> Hedge {
        Hedge {
            settings,
            samples: Vec::with_capacity(SAMPLES),
            next: 0,
            unlearned: 0,
            delay: None,
            allowance: 0.0,
        }
    }

    /// A first request leaves: after how long a second one is worth it, if that is known.
    pub(super) fn begin(&mut self) -> Option<Duration> {
        self.allowance = (self.allowance + self.settings.share_percent / 100.0).min(BURST);
        self.delay
    }

    /// Leave for a second request.
    pub(super) fn take(&mut self) -> bool {
        let allowed = self.allowance >= 1.0;
        if allowed {
            self.allowance -= 1.0;
        }
        allowed
    }

    /// A request was answered after `latency`.
    pub(super) fn learn(&mut self, latency: Duration) {
        if self.samples.len() < SAMPLES {
            self.samples.push(latency);
        } else {
            self.samples[self.next] = latency;
            self.next = (self.next + 1) % SAMPLES;
        }
        self.unlearned += 1;
        let known = self.samples.len();
        if known >= self.settings.samples_min && (self.delay.is_none() || self.unlearned >= RELEARN_AFTER) {
            self.unlearned = 0;
            let mut sorted = self.samples.clone();
            let place = ((known as f64 * self.settings.percentile / 100.0).ceil() as usize).clamp(1, known) - 1;
            self.delay = Some(*sorted.select_nth_unstable(place).1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_delay_is_the_percentile_of_what_was_seen_of_late() {
        let mut hedge = Hedge::new(HedgeSettings {
            samples_min: 100,
            ..HedgeSettings::default()
        });
        for latency in 1..100 {
            hedge.learn(ms(latency));
            assert_eq!(hedge.begin(), None);
        }
        hedge.learn(ms(100));
        assert_eq!(hedge.begin(), Some(ms(95)));
        for _ in 0..SAMPLES {
            hedge.learn(ms(7));
        }
        assert_eq!(hedge.begin(), Some(ms(7)));
        assert_eq!(hedge.samples.len(), SAMPLES);
    }

    #[test]
    fn second_requests_are_a_bounded_share_of_the_first() {
        let mut hedge = Hedge::new(HedgeSettings::default());
        assert!(!hedge.take(), "nothing was saved up yet");
        let mut second = 0;
        for _ in 0..10_000 {
            hedge.begin();
            second += u32::from(hedge.take());
        }
        assert!((495..=500).contains(&second), "{second}");
        for _ in 0..10_000 {
            hedge.begin();
        }
        let burst = std::iter::repeat_with(|| hedge.take())
            .take_while(|taken| *taken)
            .count();
        assert_eq!(burst as f64, BURST);
    }

    #[test]
    fn settings_outside_their_range_are_told() {
        let wrong = |change: fn(&mut HedgeSettings)| {
            let mut settings = HedgeSettings::default();
            assert_eq!(settings.check(), Ok(()));
            change(&mut settings);
            settings.check().expect_err("outside the range").to_string()
        };
        assert!(wrong(|s| s.percentile = 49.0).contains("percentile"));
        assert!(wrong(|s| s.percentile = f64::NAN).contains("percentile"));
        assert!(wrong(|s| s.share_percent = 0.0).contains("share_percent"));
        assert!(wrong(|s| s.samples_min = 257).contains("samples_min"));
    }
}
