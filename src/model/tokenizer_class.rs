//! What transformers' tokenizer class does that tokenizer.json does not say: which inputs it gives the model, and what it builds
//! anew.
//!
//! Since version 5 a class with a constructor of its own (BertTokenizer, RobertaTokenizer, XLMRobertaTokenizer,
//! CamembertTokenizer) takes vocabulary, merges and the compiled normalizer map from tokenizer.json, and builds normalizer,
//! pre-tokenizer, post-processor and the model's other settings from its own defaults and tokenizer_config.json. Mostly that gives what the file
//! says. Where it does not, the file is what the model was trained with, and `predict` scores otherwise: [`Compared::differences`] names
//! what differs, and [`Compared::as_class`] makes the tokenizer that the class makes.

use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer};

use super::error::ModelError;
use super::object::Object;
use super::spec::{Architecture, ModelSpec};
use super::template::{Piece, learn_template};

/// What is read of a tokenizer.json beside the tokenizer itself: its added tokens, and the parts that a class may build otherwise.
#[derive(serde::Deserialize)]
pub(super) struct Parts {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    /// As they are followed: set by who reads the file.
    #[serde(skip)]
    pub(super) normalizer: Value,
    #[serde(skip)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    model: ModelParts,
}

/// The model's settings, its vocabulary left out.
#[derive(Debug, Default, serde::Deserialize)]
struct ModelParts {
    #[serde(rename = "type")]
    kind: Option<String>,
    unk_token: Option<String>,
    unk_id: Option<u64>,
    max_input_chars_per_word: Option<u64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// Names under which version 5 knows BERT's class.
const BERT: &[&str] = &[
    "BertTokenizer",
    "ElectraTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MobileBertTokenizer",
    "SqueezeBertTokenizer",
];
/// Other classes that give token types, and those that give none, in version 4 as in 5.
const WITH_TYPES: &[&str] = &[
    "ConvBertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
];
const WITHOUT_TYPES: &[&str] = &[
    "BartTokenizer",
    "CamembertTokenizer",
    "DistilBertTokenizer",
    "MPNetTokenizer",
    "RobertaTokenizer",
    "T5Tokenizer",
    "XLMRobertaTokenizer",
];

/// The class that transformers takes, `Fast` left out: tokenizer_config.json's word, config.json's, else the architecture's own.
fn class<'a>(config: Option<&'a Object>, spec: &'a ModelSpec) -> &'a str {
    let named = config
        .and_then(|config| config.get("tokenizer_class")?.as_str())
        .or(spec.tokenizer_class.as_deref())
        .unwrap_or(match spec.architecture {
            Architecture::Bert => "BertTokenizer",
            Architecture::Roberta => "RobertaTokenizer",
            Architecture::XlmRoberta => "XLMRobertaTokenizer",
            Architecture::Camembert => "CamembertTokenizer",
        });
    // The generic class is no class "PreTrainedTokenizer" with another ending.
    match named {
        "PreTrainedTokenizerFast" => named,
        named => named.trim_end_matches("Fast"),
    }
}

/// Whether the model is given the token types (else it takes 0), and why.
pub(super) fn token_types(config: Option<&Object>, spec: &ModelSpec) -> (bool, String) {
    if spec.architecture.is_roberta_family() {
        return (false, "the RoBERTa family has none".to_owned());
    }
    if let Some(Value::Array(names)) = config.and_then(|config| config.get("model_input_names")) {
        let named = names.iter().any(|name| name.as_str() == Some("token_type_ids"));
        return (named, "tokenizer_config.json: model_input_names".to_owned());
    }
    let class = class(config, spec);
    if BERT.contains(&class) || WITH_TYPES.contains(&class) {
        return (true, format!("tokenizer class {class}"));
    }
    if WITHOUT_TYPES.contains(&class) {
        return (false, format!("tokenizer class {class}"));
    }
    if class == "TokenizersBackend" {
        return (
            false,
            "tokenizer class TokenizersBackend, which names no inputs".to_owned(),
        );
    }
    // transformers 4 gave types wherever the file did not say otherwise; 5 gives none for what it has no class of its own.
    let saved_by = spec.transformers_version.as_deref();
    let major = saved_by.and_then(|version| version.split('.').next()?.parse::<u64>().ok());
    let told = major.is_none_or(|major| major < 5);
    let version = saved_by.map_or_else(|| "no transformers_version".to_owned(), |v| format!("transformers {v}"));
    (
        told,
        format!("tokenizer class {class}, which names no inputs, saved by {version}"),
    )
}

/// What the class builds: a normalizer, a pre-tokenizer and the model's settings. `None`: it takes tokenizer.json as it is, or
/// is not known here.
struct Built {
    class: String,
    normalizer: Value,
    pre_tokenizer: Value,
    model: Vec<(&'static str, Value)>,
    /// The special tokens at the start and the end of a text, and how often the end stands between the two of a pair.
    ends: (&'static str, &'static str, usize),
}

/// A tokenizer.json beside its class.
pub(super) struct Compared<'a> {
    pub(super) parts: &'a Parts,
    /// tokenizer.json as it is followed.
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) config: Option<&'a Object>,
    pub(super) spec: &'a ModelSpec,
}

impl<'a> Compared<'a> {
    fn built(&self) -> Result<Option<Built>, ModelError> {
        let (parts, config, spec) = (self.parts, self.config, self.spec);
        let flag = |field: &str, default: bool| match config.and_then(|config| Some((config, config.get(field)?))) {
            None => Ok(default),
            Some((_, Value::Bool(value))) => Ok(*value),
            Some((config, value)) => Err(config.refused(field, "true or false", value)),
        };
        let class = class(config, spec);
        let kind = parts.model.kind.as_deref();
        let metaspace = |add_prefix_space: bool| {
            let scheme = if add_prefix_space { "always" } else { "never" };
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true},
            ]})
        };
        let (normalizer, pre_tokenizer, model, ends) = match class {
            class if BERT.contains(&class) && kind.is_none_or(|kind| kind == "WordPiece") => {
                let strip_accents = config.and_then(|config| config.get("strip_accents")).cloned();
                let unk_token = self.special("unk_token", "[UNK]");
                let normalizer = json!({
                    "type": "BertNormalizer",
                    "clean_text": true,
                    "handle_chinese_chars": flag("tokenize_chinese_chars", true)?,
                    "strip_accents": strip_accents,
                    "lowercase": flag("do_lower_case", true)?,
                });
                let model = vec![
                    ("unk_token", json!(unk_token)),
                    ("continuing_subword_prefix", json!("##")),
                    ("max_input_chars_per_word", json!(100)),
                ];
                let ends = ("cls_token", "sep_token", 1);
                (normalizer, json!({"type": "BertPreTokenizer"}), model, ends)
            }
            "RobertaTokenizer" if kind.is_none_or(|kind| kind == "BPE") => {
                let add_prefix_space = flag("add_prefix_space", false)?;
                let pre_tokenizer = json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true});
                let model = vec![
                    ("unk_token", Value::Null),
                    ("continuing_subword_prefix", json!("")),
                    ("end_of_word_suffix", json!("")),
                    ("fuse_unk", json!(false)),
                    ("byte_fallback", json!(false)),
                    ("ignore_merges", json!(false)),
                ];
                (Value::Null, pre_tokenizer, model, ("cls_token", "sep_token", 2))
            }
            "XLMRobertaTokenizer" | "CamembertTokenizer" if kind.is_none_or(|kind| kind == "Unigram") => {
                let unk_id = match class {
                    "XLMRobertaTokenizer" => 3,
                    _ => self
                        .tokenizer
                        .token_to_id(self.special("unk_token", "<unk>"))
                        .unwrap_or_default(),
                };
                let model = vec![("unk_id", json!(unk_id)), ("byte_fallback", json!(false))];
                (
                    charsmap(&parts.normalizer),
                    metaspace(flag("add_prefix_space", true)?),
                    model,
                    ("bos_token", "eos_token", 2),
                )
            }
            _ => return Ok(None),
        };
        Ok(Some(Built {
            class: class.to_owned(),
            normalizer,
            pre_tokenizer,
            model,
            ends,
        }))
    }

    /// What the class builds otherwise than tokenizer.json has it, each as `where: file, class`; none where they agree.
    pub(super) fn differences(&self) -> Result<Vec<String>, ModelError> {
        let parts = self.parts;
        let Some(built) = self.built()? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        step("normalizer", &spaces_left_out(parts), &built.normalizer, &mut found);
        step("pre_tokenizer", &parts.pre_tokenizer, &built.pre_tokenizer, &mut found);
        let text = |value: &Option<String>| json!(value.as_deref().unwrap_or_default());
        for (field, wanted) in &built.model {
            let model = &parts.model;
            let (have, wanted) = match *field {
                "unk_token" => (text(&model.unk_token), json!(wanted.as_str().unwrap_or_default())),
                "continuing_subword_prefix" => (text(&model.continuing_subword_prefix), wanted.clone()),
                "end_of_word_suffix" => (text(&model.end_of_word_suffix), wanted.clone()),
                "max_input_chars_per_word" => (json!(model.max_input_chars_per_word.unwrap_or(100)), wanted.clone()),
                "unk_id" => (json!(model.unk_id), wanted.clone()),
                "fuse_unk" => (json!(model.fuse_unk), wanted.clone()),
                "byte_fallback" => (json!(model.byte_fallback), wanted.clone()),
                _ => (json!(model.ignore_merges), wanted.clone()),
            };
            if have != wanted {
                found.push(format!("model.{field} is {have}, {} {wanted}", built.class));
            }
        }
        if let Some(pair) = self.pair(&built) {
            let ours =
                learn_template(self.tokenizer).map_or_else(|_| "odd".to_owned(), |template| self.shown(&template));
            let wanted = self.shown(&pair);
            if ours != wanted {
                found.push(format!("a pair is `{ours}`, {} `{wanted}`", built.class));
            }
        }
        Ok(found
            .into_iter()
            .map(|difference| difference.replace("CLASS", &built.class))
            .collect())
    }

    /// tokenizer.json as the class builds it.
    ///
    /// Errors: the file is not JSON (the library has read it before, so that is not expected), or a flag that is none.
    pub(super) fn as_class(&self, bytes: &[u8]) -> Result<Option<Vec<u8>>, ModelError> {
        let Some(built) = self.built()? else {
            return Ok(None);
        };
        let Ok(mut file) = serde_json::from_slice::<Value>(bytes) else {
            return Ok(None);
        };
        if let Some(pair) = self.pair(&built) {
            file["post_processor"] = self.post_processor(&pair);
        }
        file["normalizer"] = built.normalizer;
        file["pre_tokenizer"] = built.pre_tokenizer;
        for (field, value) in built.model {
            file["model"][field] = value;
        }
        Ok(Some(file.to_string().into_bytes()))
    }

    /// The text of a special token of tokenizer_config.json.
    fn special(&self, field: &str, default: &'static str) -> &'a str {
        let value = self.config.and_then(|config| config.get(field));
        value
            .and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()))
            .unwrap_or(default)
    }

    /// How the class lays out a pair; `None` where the vocabulary lacks one of its special tokens.
    fn pair(&self, built: &Built) -> Option<Vec<Piece>> {
        let (start, end, between) = built.ends;
        let bert = between == 1;
        let id = |field, default| self.tokenizer.token_to_id(self.special(field, default));
        let start = id(start, if bert { "[CLS]" } else { "<s>" })?;
        let end = id(end, if bert { "[SEP]" } else { "</s>" })?;
        let special = |id: u32, type_id: u32| Piece::Special { id, type_id };
        let second = u32::from(bert);
        let mut pair = vec![special(start, 0), Piece::Query { type_id: 0 }];
        pair.extend(std::iter::repeat_n(special(end, 0), between));
        pair.extend([Piece::Document { type_id: second }, special(end, second)]);
        Some(pair)
    }

    /// A pair for people, with token types other than 0 where the model is given them.
    fn shown(&self, pair: &[Piece]) -> String {
        let told = token_types(self.config, self.spec).0;
        let shown = pair.iter().map(|piece| {
            let (name, type_id) = match *piece {
                Piece::Special { id, type_id } => (self.token(id), type_id),
                Piece::Query { type_id } => ("query".to_owned(), type_id),
                Piece::Document { type_id } => ("document".to_owned(), type_id),
            };
            if told && type_id != 0 {
                format!("{name}:{type_id}")
            } else {
                name
            }
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    fn token(&self, id: u32) -> String {
        self.tokenizer.id_to_token(id).unwrap_or_else(|| format!("token {id}"))
    }

    /// A pair as tokenizer.json has it.
    fn post_processor(&self, pair: &[Piece]) -> Value {
        let mut specials = serde_json::Map::new();
        let mut steps = Vec::new();
        for piece in pair {
            steps.push(match *piece {
                Piece::Special { id, type_id } => {
                    let token = self.token(id);
                    specials.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
                    json!({"SpecialToken": {"id": token, "type_id": type_id}})
                }
                Piece::Query { type_id } => json!({"Sequence": {"id": "A", "type_id": type_id}}),
                Piece::Document { type_id } => json!({"Sequence": {"id": "B", "type_id": type_id}}),
            });
        }
        // A text alone is never scored.
        let single = [json!({"Sequence": {"id": "A", "type_id": 0}})];
        json!({"type": "TemplateProcessing", "single": single, "pair": steps, "special_tokens": specials})
    }
}

/// The compiled map of a sentencepiece model, the one step of a normalizer that is kept.
fn charsmap(normalizer: &Value) -> Value {
    let is_map = |step: &&Value| step["type"] == "Precompiled";
    let steps = normalizer["normalizers"].as_array();
    let found = match steps {
        Some(steps) => steps.iter().find(is_map),
        None => Some(normalizer).filter(is_map),
    };
    found.cloned().unwrap_or_default()
}

/// A converted sentencepiece model joins runs of spaces; split at white space, nothing of them is left to join.
fn spaces_left_out(parts: &Parts) -> Value {
    let splits = parts.pre_tokenizer["pretokenizers"][0]["type"] == "WhitespaceSplit";
    let (true, Some(steps)) = (splits, parts.normalizer["normalizers"].as_array()) else {
        return parts.normalizer.clone();
    };
    let joins = |step: &Value| step["type"] == "Replace" && step["pattern"] == json!({"Regex": " {2,}"});
    let mut steps: Vec<Value> = steps.iter().filter(|step| !joins(step)).cloned().collect();
    match steps.len() {
        0 => Value::Null,
        1 => steps.remove(0),
        _ => json!({"type": "Sequence", "normalizers": steps}),
    }
}

/// Compares two steps: field by field where they are of one type.
fn step(place: &str, have: &Value, wanted: &Value, found: &mut Vec<String>) {
    let kind = |value: &Value| value["type"].as_str().unwrap_or("none").to_owned();
    if kind(have) != kind(wanted) {
        return found.push(format!("{place} is {}, CLASS {}", kind(have), kind(wanted)));
    }
    for list in ["normalizers", "pretokenizers"] {
        if let (Some(have), Some(wanted)) = (have[list].as_array(), wanted[list].as_array()) {
            let kinds = |steps: &[Value]| steps.iter().map(kind).collect::<Vec<_>>().join(" and ");
            if have.len() != wanted.len() {
                return found.push(format!("{place} is {}, CLASS {}", kinds(have), kinds(wanted)));
            }
            for (have, wanted) in have.iter().zip(wanted) {
                step(place, have, wanted, found);
            }
        }
    }
    let fields = wanted.as_object().into_iter().flatten();
    // How offsets are shown changes no token. A field that is left out has the default of the library, which is the class's.
    let counts = |field: &str| {
        !matches!(
            field,
            "type" | "normalizers" | "pretokenizers" | "precompiled_charsmap" | "trim_offsets"
        )
    };
    for (field, wanted) in fields.filter(|(field, _)| counts(field)) {
        match have.get(field) {
            Some(have) if have != wanted => found.push(format!("{place}.{field} is {have}, CLASS {wanted}")),
            _ => {}
        }
    }
}

#[cfg(all(test, feature = "worker"))]
#[path = "tokenizer_class_tests.rs"]
mod tests;
