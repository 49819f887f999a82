//! How fast the device is: seconds a token, by size of the batch, measured and kept current. Pure: times are given.
//!
//! A prediction is the mean plus twice the mean deviation (as TCP does it for its time-outs), since what is built on it
//! are promises. Sizes fall into classes by powers of two; between measured classes the cost of a pass is taken to grow evenly.

use std::time::Duration;

/// Classes 2⁰ … 2²⁴ tokens; anything larger counts as the last.
const CLASSES: usize = 25;
/// Weight of a new measurement.
const WEIGHT: f64 = 0.2;
/// A measurement further off than this factor counts as this far off: a hiccup moves the estimate by a fifth at most.
const OUTLIER_FACTOR: f64 = 2.0;
/// So many of them in a row, all to one side, are no hiccups: the device has changed, and the last one is believed.
const OUTLIERS_BELIEVED: i8 = 3;
/// What one doubt leaves of a prediction; see [`Rate::doubt`].
const DOUBT: f64 = 0.9;

#[derive(Clone, Copy, Debug, Default)]
struct Class {
    /// Mean of seconds a token; 0: never measured.
    mean: f64,
    /// Mean distance from the mean.
    deviation: f64,
    /// Outliers in a row: above the mean if positive, below it if negative.
    outliers: i8,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Rate {
    classes: [Class; CLASSES],
    /// What doubt has left of each class' prediction.
    doubts: [f64; CLASSES],
}

impl Default for Rate {
    fn default() -> Rate {
        Rate::new()
    }
}

fn class_of(tokens: usize) -> usize {
    (tokens.max(1).ilog2() as usize).min(CLASSES - 1)
}

impl Rate {
    /// Nothing measured: every prediction is zero, and nothing is refused for its time.
    pub fn new() -> Rate {
        Rate {
            classes: [Class::default(); CLASSES],
            doubts: [1.0; CLASSES],
        }
    }

    /// Books that a batch of `tokens` took `busy`.
    pub fn observe(&mut self, tokens: usize, busy: Duration) {
        self.doubts[class_of(tokens)] = 1.0;
        // At least a nanosecond, so that "measured" and "never measured" differ.
        let measured = busy.as_secs_f64().max(1e-9) / tokens.max(1) as f64;
        let known = self.classes[class_of(tokens)];
        let class = &mut self.classes[class_of(tokens)];
        if known.mean == 0.0 {
            class.mean = measured;
            // Unknown yet, and not nothing.
            class.deviation = measured * 0.05;
            return;
        }
        let side = if measured > known.mean * OUTLIER_FACTOR {
            1
        } else if measured < known.mean / OUTLIER_FACTOR {
            -1
        } else {
            0
        };
        class.outliers = if side * known.outliers.signum() > 0 {
            known.outliers + side
        } else {
            side
        };
        if class.outliers.abs() >= OUTLIERS_BELIEVED {
            *class = Class {
                mean: measured,
                deviation: measured * 0.25,
                outliers: 0,
            };
            return;
        }
        let measured = measured.clamp(known.mean / OUTLIER_FACTOR, known.mean * OUTLIER_FACTOR);
        class.deviation += WEIGHT * ((measured - known.mean).abs() - known.deviation);
        class.mean += WEIGHT * (measured - known.mean);
    }

    /// Work was refused although the device had nothing else to do. A prediction that is wrong would never be put right
    /// that way, since nothing would be measured any more: so each refusal makes the prediction shorter, until something
    /// is tried. The next measurement of that size ends the doubt. `tokens` were refused, and batches have `batch_tokens`.
    pub fn doubt(&mut self, tokens: usize, batch_tokens: usize) {
        let batch_tokens = batch_tokens.max(1);
        let rest = class_of(tokens % batch_tokens);
        self.doubts[rest] *= DOUBT;
        if tokens >= batch_tokens && class_of(batch_tokens) != rest {
            self.doubts[class_of(batch_tokens)] *= DOUBT;
        }
    }

    /// The predicted time of one batch of `tokens`. Zero while nothing was measured.
    pub fn batch_time(&self, tokens: usize) -> Duration {
        self.undoubted_time(tokens).mul_f64(self.doubts[class_of(tokens)])
    }

    /// The same, had nobody doubted it.
    pub fn undoubted_time(&self, tokens: usize) -> Duration {
        let seconds = self.seconds_a_token(tokens) * tokens as f64;
        Duration::from_secs_f64(seconds.min(1e6))
    }

    /// Whether a prediction for this size was doubted since it was last measured.
    pub fn is_doubted(&self, tokens: usize) -> bool {
        self.doubts[class_of(tokens)] < 1.0
    }

    /// The predicted time of `tokens` worked off in batches of `batch_tokens`.
    pub fn queue_time(&self, tokens: usize, batch_tokens: usize) -> Duration {
        let batch_tokens = batch_tokens.max(1);
        let full = (tokens / batch_tokens) as f64 * self.batch_time(batch_tokens).as_secs_f64();
        Duration::from_secs_f64(full.min(1e6)) + self.batch_time(tokens % batch_tokens)
    }

    /// The same, had nobody doubted it.
    pub fn undoubted_queue_time(&self, tokens: usize, batch_tokens: usize) -> Duration {
        let batch_tokens = batch_tokens.max(1);
        let full = (tokens / batch_tokens) as f64 * self.undoubted_time(batch_tokens).as_secs_f64();
        Duration::from_secs_f64(full.min(1e6)) + self.undoubted_time(tokens % batch_tokens)
    }

    /// The predicted tokens a second of batches of this size; `None` while nothing was measured.
    pub fn tokens_per_second(&self, tokens: usize) -> Option<f64> {
        let seconds = self.seconds_a_token(tokens);
        (seconds > 0.0).then(|| 1.0 / seconds)
    }

    /// What the device saves if `tokens` and `more` share a pass and do not take one each: the part of a pass that does not
    /// grow with its tokens. By the means alone, since nothing is promised on it. Zero where too little was measured.
    pub fn saved_by_sharing(&self, tokens: usize, more: usize) -> Duration {
        let of = |tokens: usize| self.per_token(tokens, |class| class.mean) * tokens as f64;
        let saved = of(tokens) + of(more) - of(tokens + more);
        Duration::from_secs_f64(saved.clamp(0.0, 1e6))
    }

    fn seconds_a_token(&self, tokens: usize) -> f64 {
        self.per_token(tokens, |class| class.mean + 2.0 * class.deviation)
    }

    /// Between classes that were measured, by interpolation; beyond them, as the nearest.
    fn per_token(&self, tokens: usize, figure: impl Fn(&Class) -> f64) -> f64 {
        let of = |class: usize| figure(&self.classes[class]);
        // A pass costs something by itself, and that is shared by its tokens.
        let size = |class: usize| f64::from(1 << class);
        let class = class_of(tokens);
        let below = (0..=class).rev().find(|&class| self.classes[class].mean > 0.0);
        let above = (class..CLASSES).find(|&class| self.classes[class].mean > 0.0);
        match (below, above) {
            (Some(below), Some(above)) if below < above => {
                let share = (1.0 - size(below) / size(class)) / (1.0 - size(below) / size(above));
                of(below) * (1.0 - share) + of(above) * share
            }
            (Some(class), _) | (None, Some(class)) => of(class),
            (None, None) => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn close(left: Duration, right: Duration, tolerance: f64) {
        let (left, right) = (left.as_secs_f64(), right.as_secs_f64());
        assert!(
            (left - right).abs() <= right * tolerance,
            "{left} is not within {tolerance} of {right}"
        );
    }

    #[test]
    fn unmeasured_it_predicts_nothing() {
        let rate = Rate::new();
        assert_eq!(rate.batch_time(1000), Duration::ZERO);
        assert_eq!(rate.queue_time(1 << 40, 1000), Duration::ZERO);
        assert_eq!(rate.tokens_per_second(10), None);
    }

    #[test]
    fn it_converges_to_a_steady_device_by_size() {
        let mut rate = Rate::new();
        for _ in 0..60 {
            rate.observe(64, MS * 4);
            rate.observe(2048, MS * 32);
        }
        close(rate.batch_time(64), MS * 4, 0.01);
        close(rate.batch_time(2048), MS * 32, 0.01);
        // Between the two a token costs something between.
        let between = rate.batch_time(512);
        assert!(between > MS * 8 && between < MS * 32, "{between:?}");
        // Four full batches and a small rest.
        close(rate.queue_time(4 * 2048 + 64, 2048), MS * 132, 0.01);
    }

    #[test]
    fn one_hiccup_moves_it_little_and_a_lasting_change_is_followed() {
        let mut rate = Rate::new();
        for _ in 0..60 {
            rate.observe(1024, MS * 10);
        }
        rate.observe(1024, MS * 10_000);
        assert!(rate.batch_time(1024) < MS * 17, "{:?}", rate.batch_time(1024));
        for _ in 0..60 {
            rate.observe(1024, MS * 100);
        }
        close(rate.batch_time(1024), MS * 100, 0.1);
        for _ in 0..60 {
            rate.observe(1024, MS * 10);
        }
        close(rate.batch_time(1024), MS * 10, 0.1);
    }

    #[test]
    fn jitter_makes_it_cautious() {
        let mut rate = Rate::new();
        for _ in 0..100 {
            rate.observe(1024, MS * 8);
            rate.observe(1024, MS * 12);
        }
        let predicted = rate.batch_time(1024);
        assert!(predicted > MS * 12 && predicted < MS * 18, "{predicted:?}");
    }

    #[test]
    fn sharing_saves_what_a_pass_costs_by_itself() {
        let mut rate = Rate::new();
        assert_eq!(rate.saved_by_sharing(500, 500), Duration::ZERO);
        let busy = |tokens: u32| MS * 3 + MS * tokens / 1000;
        for tokens in [128, 512, 2048, 8192] {
            rate.observe(tokens as usize, busy(tokens));
        }
        // Of sizes that were measured, and between them.
        for tokens in [256, 512, 1024, 2048, 4096] {
            close(rate.saved_by_sharing(tokens, tokens), MS * 3, 0.01);
        }
        // Each token costs the same: nothing to save. Larger passes are slower: less than nothing, which is nothing.
        for a_token in [1.0, 1.3] {
            let mut rate = Rate::new();
            for (step, tokens) in [128usize, 512, 2048, 8192].into_iter().enumerate() {
                rate.observe(
                    tokens,
                    (MS * tokens as u32 / 1000).mul_f64(f64::powi(a_token, step as i32)),
                );
            }
            assert!(rate.saved_by_sharing(512, 512) < MS / 1000);
        }
    }

    #[test]
    fn doubt_shortens_until_the_next_measurement() {
        let mut rate = Rate::new();
        rate.observe(1024, MS * 1000);
        let first = rate.batch_time(1024);
        for _ in 0..40 {
            rate.doubt(1024, 1024);
        }
        assert!(rate.batch_time(1024) < first / 50);
        rate.observe(1024, MS * 1000);
        assert!(rate.batch_time(1024) > first / 2);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut rate = Rate::new();
        rate.observe(0, Duration::ZERO);
        rate.observe(usize::MAX, Duration::from_secs(1));
        rate.observe(1, Duration::from_secs(1_000_000));
        let _ = rate.queue_time(usize::MAX, 0);
        let _ = rate.batch_time(usize::MAX);
    }
}
