//! Plain texts through a model before it is served, the way a request goes: by its own tokenizer, then through the engine.
//!
//! A checkpoint can be whole by its files and still give nothing: a tokenizer that strips every text, weights that come to
//! no number in the precision that was chosen, a device that computes wrongly. Such a worker would take its share of the
//! requests and answer none.

use std::collections::BTreeSet;

use super::engine::Engine;
use super::error::ModelError;
use super::tokenizer::{PairTokenizer, PairTokens, QueryTokens, TokenizeError};

/// In several scripts: a tokenizer need not know each of them.
const TEXTS: [&str; 6] = [
    "how do cats purr",
    "A cat purrs by moving the muscles of its larynx 25 to 150 times a second.",
    "Über die Straße führt im Café der Weg.",
    "Как работает поиск?",
    "検索エンジンの仕組みとは何ですか。",
    "كيف يعمل محرك البحث؟",
];

/// Scores plain texts with a model that was just loaded.
///
/// # Errors
/// [`ModelError::NoTokens`] where no text comes to a token, or all come to the same one; [`ModelError::NoScores`] where a score
/// is not a finite number; [`ModelError::Engine`] where the forward pass fails.
pub fn try_texts(engine: &mut dyn Engine, tokenizer: &PairTokenizer) -> Result<(), ModelError> {
    let pairs = pairs(tokenizer).map_err(|reason| ModelError::NoTokens {
        model: engine.info().model_id.clone(),
        reason,
    })?;
    let borrowed: Vec<&PairTokens> = pairs.iter().collect();
    let logits = engine.score(&borrowed).map_err(|error| ModelError::Engine {
        reason: format!("scoring plain texts: {error}"),
    })?;
    let finite = logits.iter().filter(|logit| logit.is_finite()).count();
    if finite == pairs.len() {
        return Ok(());
    }
    let info = engine.info();
    Err(ModelError::NoScores {
        model: info.model_id.clone(),
        bad: pairs.len() - finite.min(pairs.len()),
        of: pairs.len(),
        precision: info.precision.clone(),
        device: info.device.clone(),
    })
}

/// Each text as a query with the next one as its document; those left out of which nothing is left. Not empty.
fn pairs(tokenizer: &PairTokenizer) -> Result<Vec<PairTokens>, String> {
    let queries: Vec<Result<QueryTokens, TokenizeError>> = TEXTS.iter().map(|text| tokenizer.query(text)).collect();
    let ids: BTreeSet<u32> = queries
        .iter()
        .flatten()
        .flat_map(|query| query.ids().iter().copied())
        .collect();
    let failure = queries.iter().find_map(|query| query.as_ref().err());
    match (ids.len(), failure) {
        (0, Some(failure)) => {
            return Err(format!(
                "the tokenizer takes none of {} plain texts: {failure}",
                TEXTS.len()
            ));
        }
        (0, None) => {
            return Err(format!(
                "the tokenizer gives no token for any of {} plain texts in five scripts (its normalizer or pre-tokenizer may \
                 strip everything)",
                TEXTS.len()
            ));
        }
        (1, _) => {
            return Err(format!(
                "the tokenizer gives one and the same token for everything in {} plain texts (its vocabulary may be empty, or \
                 another model's)",
                TEXTS.len()
            ));
        }
        _ => {}
    }
    let documents = TEXTS.iter().cycle().skip(1);
    let pairs = queries.iter().zip(documents).filter_map(|(query, document)| {
        let query = query.as_ref().ok().filter(|query| !query.is_empty())?;
        tokenizer.pair(query, document, true).ok()
    });
    Ok(pairs.collect())
}

#[cfg(test)]
#[path = "trial_tests.rs"]
mod tests;
