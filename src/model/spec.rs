//! config.json → [`ModelSpec`]: what the engine must know, checked, with the defaults of transformers' own classes.

use std::path::Path;

use serde_json::Value;

use super::error::ModelError;
use super::files::{CONFIG, TOKENIZER_CONFIG, WEIGHTS, WEIGHTS_INDEX};
use super::kinds::score_activation_from_python;
pub use super::kinds::{Architecture, HiddenActivation};
use super::layout::Layout;
pub use super::layout::QueryPrompt;
use super::object::Object;
pub use crate::protocol::ScoreActivation;

/// Which file or setting a value was taken from, for people who ask why a score or a limit is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origins {
    /// Where [`ModelSpec::length_max`] comes from.
    pub length_max: &'static str,
    /// Where [`ModelSpec::score_activation`] comes from.
    pub score_activation: &'static str,
}

/// A checkpoint's shape and conventions.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Family.
    pub architecture: Architecture,
    /// Encoder layers.
    pub layers: usize,
    /// Width of a token's vector.
    pub hidden: usize,
    /// Attention heads; divides `hidden`.
    pub heads: usize,
    /// Width inside the feed-forward layers.
    pub intermediate: usize,
    /// Rows of the word embeddings.
    pub vocab_size: usize,
    /// Rows of the position embeddings (`max_position_embeddings`).
    pub positions_max: usize,
    /// Position of a text's first token: 0, or `pad_token_id + 1` in the RoBERTa family.
    pub position_offset: usize,
    /// Rows of the token type embeddings.
    pub type_vocab_size: usize,
    /// Id of the padding token.
    pub pad_token_id: u32,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Activation inside the feed-forward layers.
    pub hidden_activation: HiddenActivation,
    /// From logit to score.
    pub score_activation: ScoreActivation,
    /// Longest pair in tokens, special tokens included.
    pub length_max: usize,
    /// What goes before every query: the checkpoint's default prompt.
    pub query_prompt: Option<QueryPrompt>,
    /// Whether texts are lowered before the tokenizer's own normalizer sees them.
    pub lowercase: bool,
    /// The version of transformers that saved config.json, as it says.
    pub transformers_version: Option<String>,
    /// The tokenizer's class, where config.json names it.
    pub tokenizer_class: Option<String>,
    /// Where some of the values come from.
    pub origins: Origins,
}

impl ModelSpec {
    /// Reads and checks the JSON files of a folder: config.json, and tokenizer_config.json and the files of
    /// sentence-transformers where there are any. `length_max` (the setting `model.max_length`) can only lower the
    /// checkpoint's own limit.
    ///
    /// Errors: an architecture or a value that is not served, named with its file and field.
    pub fn read(dir: &Path, length_max: Option<usize>) -> Result<ModelSpec, ModelError> {
        let config = Object::read(&dir.join(CONFIG))?;
        let tokenizer_config = Some(dir.join(TOKENIZER_CONFIG)).filter(|path| path.is_file());
        let tokenizer_config = tokenizer_config.as_deref().map(Object::read).transpose()?;
        // A model of another family is told so; within one, a chain of modules explains an unusual class.
        let of_family = |kind: &str| {
            Architecture::ALL
                .iter()
                .any(|architecture| architecture.model_type() == kind)
        };
        if config.string("model_type")?.is_none_or(|kind| !of_family(kind)) {
            architecture(&config)?;
        }
        let layout = Layout::read(dir, tokenizer_config.as_ref())?;
        Self::from_objects(&config, tokenizer_config.as_ref(), Some(&layout), length_max)
    }

    fn from_objects(
        config: &Object,
        tokenizer_config: Option<&Object>,
        layout: Option<&Layout>,
        length_max: Option<usize>,
    ) -> Result<ModelSpec, ModelError> {
        let architecture = architecture(config)?;
        one_label(config)?;
        refuse_variants(config)?;

        // The defaults are those of the architecture's configuration class in transformers; `vocab_size` and the padding
        // token are the only ones that differ between the families.
        let roberta = architecture.is_roberta_family();
        let vocab_default = if architecture == Architecture::Roberta {
            50265
        } else {
            30522
        };
        let vocab_size = config.size("vocab_size", vocab_default)?;
        let hidden = config.size("hidden_size", 768)?;
        let heads = config.size("num_attention_heads", 12)?;
        if hidden % heads != 0 {
            return Err(config.refused(
                "num_attention_heads",
                format!("a divisor of hidden_size ({hidden})"),
                heads,
            ));
        }
        let pad_token_id = match config.get("pad_token_id") {
            None => u32::from(roberta),
            Some(value) => match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
                Some(id) if (id as usize) < vocab_size => id,
                _ => {
                    return Err(config.refused("pad_token_id", format!("below vocab_size ({vocab_size})"), value));
                }
            },
        };
        let positions_max = config.size("max_position_embeddings", 512)?;
        let position_offset = if roberta { pad_token_id as usize + 1 } else { 0 };
        if positions_max <= position_offset {
            let expected = format!("more than {position_offset}, the first position that is used");
            return Err(config.refused("max_position_embeddings", expected, positions_max));
        }
        let layer_norm_eps = match config.get("layer_norm_eps") {
            None => 1e-12,
            Some(value) => match value.as_f64() {
                Some(eps) if eps > 0.0 && eps < 1.0 => eps,
                _ => {
                    return Err(config.refused("layer_norm_eps", "a number between 0 and 1", value));
                }
            },
        };
        let (score_activation, score_origin) = score_activation(config, layout.and_then(|layout| layout.own.as_ref()))?;
        let saved = layout.and_then(|layout| layout.length_max);
        let (length_max, length_origin) =
            longest_pair(positions_max - position_offset, tokenizer_config, saved, length_max)?;
        Ok(ModelSpec {
            architecture,
            layers: config.size("num_hidden_layers", 12)?,
            hidden,
            heads,
            intermediate: config.size("intermediate_size", 3072)?,
            vocab_size,
            positions_max,
            position_offset,
            type_vocab_size: config.size("type_vocab_size", 2)?,
            pad_token_id,
            layer_norm_eps,
            hidden_activation: hidden_activation(config)?,
            score_activation,
            length_max,
            query_prompt: layout.and_then(|layout| layout.query_prompt.clone()),
            lowercase: layout.is_some_and(|layout| layout.lowercase),
            transformers_version: config.string("transformers_version")?.map(str::to_owned),
            tokenizer_class: config.string("tokenizer_class")?.map(str::to_owned),
            origins: Origins {
                length_max: length_origin,
                score_activation: score_origin,
            },
        })
    }
}

/// transformers picks the class by `model_type`; `architectures` tells whether there is a head. Both must agree.
fn architecture(config: &Object) -> Result<Architecture, ModelError> {
    let unsupported = |architecture: String| ModelError::Unsupported {
        architecture,
        supported: Architecture::supported(),
    };
    let named = match config.get("architectures") {
        None => None,
        Some(Value::Array(names)) => match names.as_slice() {
            [] => None,
            [Value::String(name)] => Some(name.as_str()),
            _ => {
                return Err(config.refused("architectures", "a list of one name", config.shown("architectures")));
            }
        },
        Some(value) => return Err(config.refused("architectures", "a list of one name", value)),
    };
    let model_type = config.string("model_type")?;
    let by_name = match named {
        Some(name) => {
            let known = Architecture::ALL
                .into_iter()
                .find(|architecture| architecture.name() == name);
            Some(known.ok_or_else(|| unsupported(name.to_owned()))?)
        }
        None => None,
    };
    let by_type = match model_type {
        Some(model_type) => {
            let known = Architecture::ALL
                .into_iter()
                .find(|architecture| architecture.model_type() == model_type);
            Some(known.ok_or_else(|| unsupported(model_type.to_owned()))?)
        }
        None => None,
    };
    match (by_name, by_type) {
        (Some(name), Some(of_type)) if name != of_type => Err(config.refused(
            "model_type",
            format!("`{}`, to agree with architectures ({})", name.model_type(), name.name()),
            of_type.model_type(),
        )),
        (Some(architecture), _) | (None, Some(architecture)) => Ok(architecture),
        (None, None) => Err(config.refused(
            "architectures",
            format!("one of {}", Architecture::supported()),
            "nothing",
        )),
    }
}

/// A reranker gives one number for a pair. transformers counts `id2label`, else `num_labels`, else takes 2.
fn one_label(config: &Object) -> Result<(), ModelError> {
    let expected = "1: a reranker has one label";
    match (config.get("id2label"), config.get("num_labels")) {
        (Some(Value::Object(labels)), _) if labels.len() == 1 => Ok(()),
        (Some(Value::Object(labels)), _) => {
            Err(config.refused("id2label", expected, format!("{} labels", labels.len())))
        }
        (Some(value), _) => Err(config.refused("id2label", "an object", value)),
        (None, Some(value)) if value.as_u64() == Some(1) => Ok(()),
        (None, Some(value)) => Err(config.refused("num_labels", expected, value)),
        (None, None) => Err(config.refused("num_labels", expected, "nothing, which means 2")),
    }
}

/// Variants of the architectures that would be computed otherwise. Better no score than a wrong one.
fn refuse_variants(config: &Object) -> Result<(), ModelError> {
    match config.string("position_embedding_type")? {
        None | Some("absolute") => {}
        Some(other) => return Err(config.refused("position_embedding_type", "`absolute`", other)),
    }
    for field in ["is_decoder", "add_cross_attention", "is_encoder_decoder"] {
        match config.get(field) {
            None | Some(Value::Bool(false)) => {}
            Some(value) => return Err(config.refused(field, "false", value)),
        }
    }
    match config.get("is_causal") {
        None | Some(Value::Bool(false)) => {}
        Some(value) => return Err(config.refused("is_causal", "false", value)),
    }
    match config.get("use_bidirectional_attention") {
        None | Some(Value::Bool(true)) => {}
        Some(value) => return Err(config.refused("use_bidirectional_attention", "true", value)),
    }
    match config.string("transformers_weights")? {
        None | Some(WEIGHTS | WEIGHTS_INDEX) => {}
        Some(other) => {
            let expected = format!("{WEIGHTS}, the file that is read");
            return Err(config.refused("transformers_weights", expected, other));
        }
    }
    match config.get("pruned_heads") {
        Some(Value::Object(heads)) if !heads.is_empty() => {
            return Err(config.refused("pruned_heads", "empty", config.shown("pruned_heads")));
        }
        _ => {}
    }
    if let Some(Value::Object(quantization)) = config.get("quantization_config") {
        let method = quantization
            .get("quant_method")
            .and_then(Value::as_str)
            .unwrap_or("a quantized model");
        return Err(config.refused(
            "quantization_config",
            "absent: weights are read as F32, F16 or BF16",
            method,
        ));
    }
    Ok(())
}

fn hidden_activation(config: &Object) -> Result<HiddenActivation, ModelError> {
    let Some(name) = config.string("hidden_act")? else {
        return Ok(HiddenActivation::Gelu);
    };
    match HiddenActivation::NAMES.iter().find(|(known, _)| *known == name) {
        Some((_, activation)) => Ok(*activation),
        None => {
            let names: Vec<&str> = HiddenActivation::NAMES.iter().map(|(name, _)| *name).collect();
            Err(config.refused("hidden_act", format!("one of {}", names.join(", ")), name))
        }
    }
}

/// In the order of sentence-transformers: its own file, config.json's `sentence_transformers.activation_fn`, the key of
/// versions before 4, else Sigmoid for one label.
fn score_activation(
    config: &Object,
    sentence_transformers: Option<&Object>,
) -> Result<(ScoreActivation, &'static str), ModelError> {
    let own = sentence_transformers.and_then(|file| Some((file, file.get("activation_fn")?)));
    // Here null counts: it hides the older key.
    let nested = config
        .get("sentence_transformers")
        .and_then(|inner| inner.get("activation_fn"));
    let old = config.get("sbert_ce_default_activation_function");
    let (file, field, value, origin) = if let Some((file, value)) = own {
        (
            file,
            "activation_fn",
            value,
            "config_sentence_transformers.json: activation_fn",
        )
    } else if let Some(Value::Null) = nested {
        return Ok((ScoreActivation::Sigmoid, "default for one label"));
    } else if let Some(value) = nested {
        let field = "sentence_transformers.activation_fn";
        (config, field, value, "config.json: sentence_transformers.activation_fn")
    } else if let Some(value) = old {
        let field = "sbert_ce_default_activation_function";
        (
            config,
            field,
            value,
            "config.json: sbert_ce_default_activation_function",
        )
    } else {
        return Ok((ScoreActivation::Sigmoid, "default for one label"));
    };
    match value.as_str().and_then(score_activation_from_python) {
        Some(activation) => Ok((activation, origin)),
        None => Err(file.refused(field, "torch's Identity, Sigmoid or Tanh", value)),
    }
}

/// The checkpoint's limit, and what set it.
fn longest_pair(
    positions: usize,
    tokenizer_config: Option<&Object>,
    saved: Option<(usize, &'static str)>,
    setting: Option<usize>,
) -> Result<(usize, &'static str), ModelError> {
    let mut longest = (positions, "config.json: max_position_embeddings");
    // sentence-transformers' own takes the place of the tokenizer's, higher or lower.
    if let Some(saved) = saved {
        if saved.0 < longest.0 {
            longest = saved;
        }
    } else if let Some(file) = tokenizer_config
        && let Some(value) = file.get("model_max_length")
    {
        // "No limit" is written as 1e30, which is a float or an integer of 31 digits.
        match value.as_f64() {
            Some(length) if length >= 1.0 && length.fract() == 0.0 => {
                if length < longest.0 as f64 {
                    longest = (length as usize, "tokenizer_config.json: model_max_length");
                }
            }
            _ => return Err(file.refused("model_max_length", "a whole number of tokens", value)),
        }
    }
    match setting {
        Some(length) if length < longest.0 => Ok((length, "setting: model.max_length")),
        _ => Ok(longest),
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
