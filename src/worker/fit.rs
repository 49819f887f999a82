//! A batch that is too large for the device is scored in pieces.

use crate::model::engine::{Engine, EngineError};
use crate::model::tokenizer::PairTokens;

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// One for each pair; meaningless for those in `unfit`.
    pub logits: Vec<f32>,
    /// Places of pairs for which the device has no memory even alone.
    pub unfit: Vec<usize>,
    /// Whether the batch was too large as a whole.
    pub halved: bool,
    /// Passes for which there was no memory.
    pub out_of_memory: u64,
    /// Tokens of the largest piece that was computed, if it was halved.
    pub fitted_tokens: usize,
}

/// What comes of `pairs`, which were tried as a whole: where memory did not suffice, the halves are scored, down to one pair.
pub(super) fn score_halving(
    engine: &mut dyn Engine,
    pairs: &[&PairTokens],
    first: Result<Vec<f32>, EngineError>,
) -> Result<Outcome, EngineError> {
    let mut outcome = Outcome {
        logits: Vec::with_capacity(pairs.len()),
        ..Outcome::default()
    };
    add(engine, pairs, first, &mut outcome)?;
    Ok(outcome)
}

fn add(
    engine: &mut dyn Engine,
    pairs: &[&PairTokens],
    tried: Result<Vec<f32>, EngineError>,
    outcome: &mut Outcome,
) -> Result<(), EngineError> {
    match tried {
        Err(EngineError::OutOfMemory(reason)) => {
            tracing::warn!(pairs = pairs.len(), reason, "out of memory");
            outcome.halved = true;
            outcome.out_of_memory += 1;
            if pairs.len() == 1 {
                outcome.unfit.push(outcome.logits.len());
                outcome.logits.push(f32::NAN);
                return Ok(());
            }
            let (left, right) = pairs.split_at(pairs.len() / 2);
            for half in [left, right] {
                let tried = engine.score(half);
                add(engine, half, tried, outcome)?;
            }
            Ok(())
        }
        Err(error) => Err(error),
        Ok(mut logits) => {
            let tokens = pairs.iter().map(|pair| pair.ids.len()).sum();
            outcome.fitted_tokens = outcome.fitted_tokens.max(tokens);
            // An engine that gives too few: the rest counts as not finite.
            logits.resize(pairs.len(), f32::NAN);
            outcome.logits.append(&mut logits);
            Ok(())
        }
    }
}
