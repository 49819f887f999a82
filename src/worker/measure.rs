//! Made-up batches before the first request: how fast the device is, and how large its batches should be.

use std::time::{Duration, Instant};

use super::gather::Gatherer;
use crate::model::engine::{Engine, EngineError};
use crate::model::tokenizer::{PairTokenizer, PairTokens};

/// The longest that measuring may take, apart from the batch that passes it.
const MEASURE_MAX: Duration = Duration::from_millis(500);
/// The same where the size of batches is looked for: kernels of many shapes are chosen for the first time.
const CLIMB_MAX: Duration = Duration::from_secs(5);
/// Tokens of the largest batch that is measured: near enough to a full one, and no burden on a slow device.
const MEASURE_TOKENS_MAX: usize = 4096;
/// The largest size that is looked for. What it needs grows with it, and no GPU gains from more.
const CLIMB_TOKENS_MAX: usize = 32768;
/// No batch may take longer, unless the smallest does: a request that has just missed one waits for it.
const BATCH_TIME_MAX: Duration = Duration::from_millis(40);
/// A size of twice the tokens must bring this much more tokens a second, or the smaller one stays.
const GAIN_MIN: f64 = 1.05;

/// Looks for the tokens of a batch: twice as many each time, as long as that pays. Pure.
#[derive(Debug)]
pub(super) struct Climb {
    best: usize,
    best_rate: f64,
}

impl Climb {
    /// Nothing is known yet.
    pub(super) fn new() -> Climb {
        Climb {
            best: 0,
            best_rate: 0.0,
        }
    }

    /// A batch of `tokens` took `busy`. Whether a larger one should be tried.
    pub(super) fn took(&mut self, tokens: usize, busy: Duration) -> bool {
        let rate = tokens as f64 / busy.as_secs_f64().max(1e-9);
        let bounded = busy <= BATCH_TIME_MAX || self.best == 0;
        if !bounded || rate < self.best_rate * GAIN_MIN {
            return false;
        }
        (self.best, self.best_rate) = (tokens, rate);
        tokens < CLIMB_TOKENS_MAX && busy <= BATCH_TIME_MAX
    }

    /// The device had no memory for a batch of `tokens`.
    pub(super) fn failed(&mut self, tokens: usize) {
        if self.best == 0 {
            self.best = (tokens / 2).max(1);
        }
    }

    /// What was found; `None` before the first batch.
    pub(super) fn found(&self) -> Option<usize> {
        (self.best > 0).then_some(self.best)
    }
}

/// Scores made-up pairs to know the device's speed before the first request: one pair, then ever more, up to a full batch; with
/// `climb`, up to the size that serves the device best, which is then the size of batches. Each size twice, since the first pass
/// of a shape also sets things up. What fails here fails again, and is handled, in service.
pub(super) fn measure(engine: &mut dyn Engine, tokenizer: &PairTokenizer, gatherer: &Gatherer, climb: bool) {
    let pair = tokenizer
        .query("how fast is this device")
        .and_then(|query| tokenizer.pair(&query, &"a sentence of some words. ".repeat(12), true));
    let Ok(pair) = pair else { return };
    let length = pair.ids.len().max(1);
    let (tokens_max, time_max) = match climb {
        false => (gatherer.tokens_max().min(MEASURE_TOKENS_MAX), MEASURE_MAX),
        true => (CLIMB_TOKENS_MAX, CLIMB_MAX),
    };
    let pairs_max = (tokens_max / length).max(1);
    // Below this, batches are measured and none is chosen: a GPU is as fast with one pair as with ten.
    let climb_from = MEASURE_TOKENS_MAX / length;
    let mut found = Climb::new();
    let started = Instant::now();
    let mut count = 1;
    loop {
        let pairs = made_up(&pair, count);
        let borrowed: Vec<&PairTokens> = pairs.iter().collect();
        let mut best = None;
        for first in [true, false] {
            let began = Instant::now();
            match engine.score(&borrowed) {
                Err(EngineError::OutOfMemory(_)) if climb => {
                    found.failed(count * length);
                    break;
                }
                Err(_) => return,
                Ok(_) if first && started.elapsed() <= time_max => {}
                Ok(_) => {
                    let busy = began.elapsed();
                    gatherer.measured(count * length, busy);
                    best = Some(busy);
                    break;
                }
            }
        }
        let on = best.is_some_and(|busy| !climb || count < climb_from || found.took(count * length, busy));
        if !on || count == pairs_max || started.elapsed() > time_max {
            break;
        }
        let step = if climb && count >= climb_from { 2 } else { 4 };
        count = (count * step).min(pairs_max);
    }
    if let (true, Some(tokens)) = (climb, found.found()) {
        gatherer.set_tokens_max(tokens);
        // Sizes were tried that will not come again.
        engine.give_back_memory();
    }
}

/// `count` pairs of one length, different in a token or two each, since equal pairs are computed once.
fn made_up(pair: &PairTokens, count: usize) -> Vec<PairTokens> {
    let length = pair.ids.len().max(1);
    (0..count)
        .map(|place| {
            let mut pair = pair.clone();
            let middle = pair.ids.len() / 2;
            pair.ids[middle] = pair.ids[place % length];
            pair.ids.swap(middle, (place / length) % length);
            pair
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size that is found on a device that takes a fixed time a batch and a time a token.
    fn climbs_to(fixed: Duration, seconds_a_token: f64, memory_tokens: usize) -> usize {
        let mut climb = Climb::new();
        let mut tokens = 2048;
        loop {
            if tokens > memory_tokens {
                climb.failed(tokens);
                break;
            }
            let busy = fixed + Duration::from_secs_f64(seconds_a_token * tokens as f64);
            if !climb.took(tokens, busy) {
                break;
            }
            tokens *= 2;
        }
        climb.found().unwrap()
    }

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn batches_are_large_where_that_pays_and_no_larger() {
        let any = usize::MAX;
        // Small model on a fast device: what a batch costs by itself counts, so large batches pay.
        assert_eq!(climbs_to(US * 400, 10e-9, any), CLIMB_TOKENS_MAX);
        // Each token costs the same from the start: the first size is as good as any.
        assert_eq!(climbs_to(US, 100e-9, any), 2048);
        // Large model: the time of a batch bounds it.
        let found = climbs_to(US * 5000, 1.2e-6, any);
        assert!((16384..=32768).contains(&found), "{found}");
        // So slow that no size keeps the bound: the first.
        assert_eq!(climbs_to(US * 400, 1e-3, any), 2048);
        // Memory ends it.
        assert_eq!(climbs_to(US * 400, 10e-9, 10_000), 8192);
        assert_eq!(climbs_to(US * 400, 10e-9, 1000), 1024);
    }
}
