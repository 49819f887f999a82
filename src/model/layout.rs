//! What sentence-transformers' `CrossEncoder` saves beside the model: modules.json and the files that it brings into play.
//!
//! These files count together or not at all. Without modules.json, or where config_sentence_transformers.json does not say
//! `"model_type": "CrossEncoder"`, sentence-transformers builds its default chain from config.json alone and reads none of them: neither prompts
//! nor activation nor limits. [`Layout::read`] does the same. What it cannot reproduce it refuses by file and key: no
//! key that changes a score is passed over.

use std::path::Path;

use serde_json::Value;

use super::error::ModelError;
use super::object::Object;
use super::requirements;

pub(super) const MODULES: &str = "modules.json";
pub(super) const SENTENCE_TRANSFORMERS: &str = "config_sentence_transformers.json";
/// The Transformer module's own file, under the names of all versions; the first that holds anything is read.
pub(super) const SENTENCE_BERT: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];
pub(super) const CHAT_TEMPLATE: &str = "chat_template.jinja";
const CHAT_TEMPLATES: &str = "additional_chat_templates";

/// The text that goes before every query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryPrompt {
    /// Its name in `prompts`.
    pub name: String,
    /// The text, joined to the query as it is.
    pub text: String,
}

/// What the files of a saved `CrossEncoder` say, checked.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// config_sentence_transformers.json, where it counts.
    pub(super) own: Option<Object>,
    pub(super) query_prompt: Option<QueryPrompt>,
    /// The limit that takes the place of tokenizer_config.json's, and where it stands.
    pub(super) length_max: Option<(usize, &'static str)>,
    /// Whether texts are lowered before the tokenizer's own normalizer.
    pub(super) lowercase: bool,
}

impl Layout {
    /// Whether the files of sentence-transformers count in this folder.
    pub(super) fn counts(dir: &Path) -> Result<bool, ModelError> {
        let own = dir.join(SENTENCE_TRANSFORMERS);
        if !dir.join(MODULES).is_file() || !own.is_file() {
            return Ok(false);
        }
        let model_type = Object::read(&own)?;
        Ok(model_type.get("model_type").and_then(Value::as_str) == Some("CrossEncoder"))
    }

    /// Reads the files in `dir`. `tokenizer_config` is looked at for a chat template.
    ///
    /// Errors: a module, a key or a value that cannot be reproduced, named with its file.
    pub(super) fn read(dir: &Path, tokenizer_config: Option<&Object>) -> Result<Layout, ModelError> {
        if !Self::counts(dir)? {
            no_chat_template(dir, tokenizer_config)?;
            return Ok(Layout::default());
        }
        one_transformer(&dir.join(MODULES))?;
        let own = Object::read(&dir.join(SENTENCE_TRANSFORMERS))?;
        requirements::check(&own)?;
        let mut layout = Layout {
            query_prompt: query_prompt(&own)?,
            ..Layout::default()
        };
        layout.own = Some(own);
        layout.transformer(dir)?;
        Ok(layout)
    }

    /// sentence_bert_config.json.
    fn transformer(&mut self, dir: &Path) -> Result<(), ModelError> {
        let path = dir.join(SENTENCE_BERT[0]);
        let mut file = Object {
            path,
            value: Value::Object(serde_json::Map::new()),
        };
        for name in SENTENCE_BERT {
            let path = dir.join(name);
            if path.is_file() && holds_keys(&path)? {
                file = Object::read(&path)?;
                break;
            }
        }
        match file.string("transformer_task")? {
            Some("sequence-classification") => {}
            task => {
                let found = task.unwrap_or("nothing, which means feature-extraction");
                return Err(file.refused("transformer_task", "`sequence-classification`", found));
            }
        }
        modality(&file)?;
        for key in file.value.as_object().into_iter().flat_map(serde_json::Map::keys) {
            self.key(&file, key)?;
        }
        Ok(())
    }

    fn key(&mut self, file: &Object, key: &str) -> Result<(), ModelError> {
        let Some(value) = file.get(key) else {
            return Ok(());
        };
        match key {
            // Read already; and how a batch is laid out in memory.
            "transformer_task" | "modality_config" | "module_output_name" | "unpad_inputs" => {}
            "max_seq_length" => {
                // `processing_kwargs` cuts even where this is lower.
                let tokens = (file.size(key, 1)?, "sentence_bert_config.json: max_seq_length");
                self.length_max.get_or_insert(tokens);
            }
            "do_lower_case" => match value {
                Value::Bool(lowercase) => self.lowercase = *lowercase,
                value => return Err(file.refused(key, "true or false", value)),
            },
            "processing_kwargs" => self.processing(file, value)?,
            "model_args" | "model_kwargs" | "config_args" | "config_kwargs" | "tokenizer_args" | "processor_kwargs" => {
                arguments(file, key, value)?;
            }
            _ => return Err(file.refused(key, "absent: it is no key of a classifier's Transformer module", value)),
        }
        Ok(())
    }

    /// What the tokenizer is called with.
    fn processing(&mut self, file: &Object, value: &Value) -> Result<(), ModelError> {
        let Value::Object(groups) = value else {
            return Err(file.refused("processing_kwargs", "an object", value));
        };
        for (group, arguments) in groups {
            // Those of inputs that a pair of texts has none of.
            if matches!(group.as_str(), "audio" | "image" | "video" | "chat_template") || arguments.is_null() {
                continue;
            }
            let field = format!("processing_kwargs.{group}");
            let (Value::Object(arguments), "common" | "text") = (arguments, group.as_str()) else {
                return Err(file.refused(&field, "an object, under `text` or `common`", arguments));
            };
            for (name, value) in arguments {
                let field = format!("{field}.{name}");
                match (group.as_str(), name.as_str(), value) {
                    // Padding changes no score.
                    ("text", "padding" | "pad_to_multiple_of" | "padding_side" | "logits_to_keep", _)
                    | ("common", "return_tensors", _)
                    | ("text", "truncation" | "add_special_tokens", Value::Bool(true))
                    | ("text", "max_length", Value::Null) => {}
                    ("text", "truncation", Value::String(strategy)) if strategy == "longest_first" => {}
                    ("text", "max_length", value) => match value.as_u64() {
                        Some(tokens @ 1..=0x4000_0000) => {
                            let origin = "sentence_bert_config.json: processing_kwargs.text.max_length";
                            self.length_max = Some((tokens as usize, origin));
                        }
                        _ => return Err(file.refused(&field, "a whole number above 0", value)),
                    },
                    _ => return Err(file.refused(&field, "absent: pairs cannot be tokenized so", value)),
                }
            }
        }
        Ok(())
    }
}

/// Whether the object in a file has any key: sentence-transformers passes an empty one over.
pub(super) fn holds_keys(path: &Path) -> Result<bool, ModelError> {
    let file = Object::read(path)?;
    Ok(file.value.as_object().is_some_and(|keys| !keys.is_empty()))
}

/// The chain of modules has to be one Transformer whose files lie in the folder itself.
fn one_transformer(path: &Path) -> Result<(), ModelError> {
    let file = Object::read_any(path)?;
    let Value::Array(modules) = &file.value else {
        return Err(file.refused("[]", "a list of modules", &file.value));
    };
    for (index, module) in modules.iter().enumerate() {
        let text = |field: &str| module.get(field).and_then(Value::as_str);
        let (kind, place) = (text("type").unwrap_or_default(), text("path").unwrap_or_default());
        let field = format!("[{index}].type");
        if !kind.starts_with("sentence_transformers.") {
            let expected = "a class of sentence_transformers: code that comes with a checkpoint is not run";
            return Err(file.refused(&field, expected, format!("`{kind}` (path `{place}`)")));
        }
        if index > 0 || kind.rsplit('.').next() != Some("Transformer") {
            let expected = "a single module, `Transformer`: no other is served";
            return Err(file.refused(&field, expected, format!("`{kind}` (path `{place}`)")));
        }
        if !matches!(place, "" | "." | "./") {
            return Err(file.refused(&format!("[{index}].path"), "empty: the folder itself", place));
        }
    }
    if modules.is_empty() {
        return Err(file.refused("[]", "a single module, `Transformer`", "none"));
    }
    Ok(())
}

/// The prompt that `predict` puts before every query: the default one. Others are for callers that name them.
fn query_prompt(own: &Object) -> Result<Option<QueryPrompt>, ModelError> {
    let prompts = match own.value.get("prompts") {
        None => None,
        Some(Value::Object(prompts)) => Some(prompts),
        Some(value) => return Err(own.refused("prompts", "an object from names to texts", value)),
    };
    let Some(name) = own.string("default_prompt_name")? else {
        return Ok(None);
    };
    let text = match prompts.and_then(|prompts| prompts.get(name)) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) => String::new(),
        Some(value) => return Err(own.refused(&format!("prompts.{name}"), "a text", value)),
        None => return Err(own.refused("default_prompt_name", "a name in `prompts`", name)),
    };
    Ok(Some(QueryPrompt {
        name: name.to_owned(),
        text,
    }))
}

/// The classifier's logits of plain texts, and no chat template.
fn modality(file: &Object) -> Result<(), ModelError> {
    if let Some(output) = file.string("module_output_name")?
        && output != "scores"
    {
        return Err(file.refused("module_output_name", "`scores`", output));
    }
    let modes = match file.get("modality_config") {
        None => return Ok(()),
        Some(Value::Object(modes)) => modes,
        Some(value) => return Err(file.refused("modality_config", "an object", value)),
    };
    if let Some(value) = modes.get("message") {
        let expected = "absent: pairs that go through a chat template are not served";
        return Err(file.refused("modality_config.message", expected, value));
    }
    let text = |field: &str| modes.get("text").and_then(|text| text.get(field)?.as_str());
    for (field, expected) in [("method", "forward"), ("method_output_name", "logits")] {
        if text(field) != Some(expected) {
            let key = format!("modality_config.text.{field}");
            return Err(file.refused(&key, format!("`{expected}`"), text(field).unwrap_or("nothing")));
        }
    }
    // Without its name the library refuses the file.
    if file.get("module_output_name").is_none() {
        return Err(file.refused("module_output_name", "`scores`", "nothing"));
    }
    Ok(())
}

/// Arguments of transformers' loaders: those that say how to load, or in which number format, change no score of fp32.
fn arguments(file: &Object, key: &str, value: &Value) -> Result<(), ModelError> {
    const HARMLESS: &[&str] = &[
        "attn_implementation",
        "dtype",
        "low_cpu_mem_usage",
        "padding_side",
        "torch_dtype",
        "trust_remote_code",
        "use_fast",
        "use_safetensors",
    ];
    let Value::Object(arguments) = value else {
        return Err(file.refused(key, "an object", value));
    };
    match arguments.iter().find(|(name, _)| !HARMLESS.contains(&name.as_str())) {
        None => Ok(()),
        Some((name, value)) => Err(file.refused(&format!("{key}.{name}"), "absent: it is not followed", value)),
    }
}

/// Without modules.json a tokenizer with a chat template makes sentence-transformers send every pair through it.
fn no_chat_template(dir: &Path, tokenizer_config: Option<&Object>) -> Result<(), ModelError> {
    let expected = "absent: pairs that go through a chat template are not served";
    let path = dir.join(CHAT_TEMPLATE);
    if path.is_file() {
        let file = Object {
            path,
            value: Value::Null,
        };
        return Err(file.refused("template", expected, "one"));
    }
    let more = dir.join(CHAT_TEMPLATES);
    if more.is_dir() {
        let file = Object {
            path: more,
            value: Value::Null,
        };
        return Err(file.refused("template", expected, "some"));
    }
    match tokenizer_config.and_then(|file| Some((file, file.get("chat_template")?))) {
        Some((file, value)) => Err(file.refused("chat_template", expected, value)),
        None => Ok(()),
    }
}

#[cfg(all(test, feature = "worker"))]
#[path = "layout_tests.rs"]
mod tests;
