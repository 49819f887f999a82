//! What a checkpoint's files say of its tokenizer beside the tokenizer itself: tokenizer.json's added tokens, and what
//! transformers takes from tokenizer_config.json.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::normalizers::{Lowercase, NormalizerWrapper, Sequence};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{AddedToken, Tokenizer, TruncationDirection};
use tracing::warn;

use super::error::ModelError;
use super::files::Checkpoint;
use super::object::{Object, read_json};
use super::tokenizer::TOKENIZER_BYTES_MAX;
use super::tokenizer_class::{Compared, Parts};
use crate::choices::TokenizerChoice;

/// What a tokenizer.json gives.
pub(super) struct ReadTokenizer {
    pub(super) tokenizer: Tokenizer,
    pub(super) added_tokens: Vec<AddedToken>,
    /// What the tokenizer's class builds otherwise.
    pub(super) class_differences: Vec<String>,
}

/// Reads a checkpoint's tokenizer.json, as the file or its class has it.
///
/// Errors: the file cannot be read, or a flag of tokenizer_config.json is none.
pub(super) fn read_tokenizer(checkpoint: &Checkpoint, config: Option<&Object>) -> Result<ReadTokenizer, ModelError> {
    let path = &checkpoint.tokenizer;
    // Read by ourselves, so that a missing file and a broken one are told apart.
    let bytes = read_json(path, TOKENIZER_BYTES_MAX)?;
    let unreadable =
        |error: &dyn std::fmt::Display| Refused { path }.because(format!("cannot be read as a tokenizer: {error}"));
    let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| unreadable(&error))?;
    // As the file has them: the library merges those that share an id.
    let mut parts: Parts = serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))?;
    let spec = &checkpoint.spec;
    if let Some(config) = config {
        follow_config(&mut tokenizer, config)?;
    }
    // A length from training would cut the texts that the template is learned from; its direction is read later.
    let truncation = tokenizer.get_truncation().cloned();
    let cut = |tokenizer: &mut Tokenizer, truncation| {
        let outcome = tokenizer.with_truncation(truncation).map(|_| ());
        outcome.map_err(|error| Refused { path }.because(error.to_string()))
    };
    cut(&mut tokenizer, None)?;
    tokenizer.with_padding(None);
    // What is followed already is no difference.
    parts.normalizer = serde_json::to_value(tokenizer.get_normalizer()).unwrap_or_default();
    parts.pre_tokenizer = serde_json::to_value(tokenizer.get_pre_tokenizer()).unwrap_or_default();
    let compared = Compared {
        parts: &parts,
        tokenizer: &tokenizer,
        config,
        spec,
    };
    let found = compared.differences()?;
    if checkpoint.tokenizer_choice == TokenizerChoice::Class
        && !found.is_empty()
        && let Some(bytes) = compared.as_class(&bytes)?
    {
        tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| unreadable(&error))?;
    }
    cut(&mut tokenizer, truncation)?;
    if !found.is_empty() {
        warn!(
            model = %checkpoint.id,
            followed = %checkpoint.tokenizer_choice,
            differences = found.join("; "),
            "tokenizer.json and the tokenizer's class in transformers 5 differ: scores are those of the one that is followed (model.tokenizer)"
        );
    }
    Ok(ReadTokenizer {
        tokenizer,
        added_tokens: parts.added_tokens,
        class_differences: found,
    })
}

/// Which end is cut: tokenizer_config.json's word, else what tokenizer.json was saved with, else the right.
pub(super) fn truncation_direction(
    tokenizer: &Tokenizer,
    config: Option<&Object>,
) -> Result<TruncationDirection, ModelError> {
    if let Some(config) = config {
        match config.string("truncation_side")? {
            Some("right") => return Ok(TruncationDirection::Right),
            Some("left") => return Ok(TruncationDirection::Left),
            Some(other) => {
                return Err(config.refused("truncation_side", "`right` or `left`", other));
            }
            None => {}
        }
    }
    Ok(tokenizer
        .get_truncation()
        .map(|params| params.direction)
        .unwrap_or_default())
}

/// What transformers' tokenizer classes take from tokenizer_config.json over tokenizer.json: BERT's normalizer, RoBERTa's
/// leading space, and whether a special token spelt out in a text is one. The class itself supplies the defaults, so those count only where the file names the class.
pub(super) fn follow_config(tokenizer: &mut Tokenizer, config: &Object) -> Result<(), ModelError> {
    let flag = |field: &str, default: Option<bool>| match config.get(field) {
        None => Ok(default),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(value) => Err(config.refused(field, "true or false", value)),
    };
    if flag("split_special_tokens", None)? == Some(true) {
        tokenizer.set_encode_special_tokens(true);
    }
    let class = config
        .string("tokenizer_class")?
        .unwrap_or_default()
        .trim_end_matches("Fast");
    if let Some(NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer() {
        let mut normalizer = *normalizer;
        let default = (class == "BertTokenizer").then_some(true);
        normalizer.lowercase = flag("do_lower_case", default)?.unwrap_or(normalizer.lowercase);
        normalizer.handle_chinese_chars =
            flag("tokenize_chinese_chars", default)?.unwrap_or(normalizer.handle_chinese_chars);
        if config.get("strip_accents").is_some() || default.is_some() {
            normalizer.strip_accents = flag("strip_accents", None)?;
        }
        tokenizer.with_normalizer(Some(normalizer));
    }
    if let Some(PreTokenizerWrapper::ByteLevel(byte_level)) = tokenizer.get_pre_tokenizer() {
        let mut byte_level = *byte_level;
        let default = (class == "RobertaTokenizer").then_some(false);
        byte_level.add_prefix_space = flag("add_prefix_space", default)?.unwrap_or(byte_level.add_prefix_space);
        tokenizer.with_pre_tokenizer(Some(byte_level));
    }
    Ok(())
}

/// As sentence-transformers' `do_lower_case` does it: before all else, unless the normalizer lowers by a step of its own.
pub(super) fn lower_first(tokenizer: &mut Tokenizer) {
    let lowers = |step: &NormalizerWrapper| matches!(step, NormalizerWrapper::Lowercase(_));
    let steps = match tokenizer.get_normalizer() {
        None => Vec::new(),
        Some(NormalizerWrapper::Sequence(steps)) => steps.as_ref().to_vec(),
        Some(step) => vec![step.clone()],
    };
    if !steps.iter().any(lowers) {
        let all = std::iter::once(NormalizerWrapper::Lowercase(Lowercase))
            .chain(steps)
            .collect();
        tokenizer.with_normalizer(Some(Sequence::new(all)));
    }
}

/// Makes the errors of a tokenizer.json.
pub(super) struct Refused<'a> {
    pub(super) path: &'a Path,
}

impl Refused<'_> {
    pub(super) fn because(&self, reason: String) -> ModelError {
        ModelError::Tokenizer {
            path: PathBuf::from(self.path),
            reason,
        }
    }
}
