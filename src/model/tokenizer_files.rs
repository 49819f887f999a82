//! What a checkpoint's files say of its tokenizer beside the tokenizer itself: tokenizer.json's added tokens, and what
//! transformers takes from tokenizer_config.json.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{AddedToken, Tokenizer, TruncationDirection};

use super::error::ModelError;
use super::object::Object;
use super::spec::ModelSpec;

/// The added tokens of a tokenizer.json.
#[derive(serde::Deserialize)]
pub(super) struct Added {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
}

/// Whether the model is told the token types. transformers leaves them out for the RoBERTa family, and for any checkpoint
/// whose `model_input_names` leave them out; the model then takes 0.
pub(super) fn uses_token_types(config: Option<&Object>, spec: &ModelSpec) -> bool {
    if spec.architecture.is_roberta_family() {
        return false;
    }
    match config.and_then(|config| config.get("model_input_names")) {
        Some(Value::Array(names)) => names.iter().any(|name| name.as_str() == Some("token_type_ids")),
        _ => true,
    }
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

/// What transformers' tokenizer classes take from tokenizer_config.json over tokenizer.json: BERT's normalizer and RoBERTa's
/// leading space. The class itself supplies the defaults, so those count only where the file names the class.
pub(super) fn follow_config(tokenizer: &mut Tokenizer, config: &Object) -> Result<(), ModelError> {
    let flag = |field: &str, default: Option<bool>| match config.get(field) {
        None => Ok(default),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(value) => Err(config.refused(field, "true or false", value)),
    };
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
