//! A folder → [`Checkpoint`]: which file is what, and that all of them are there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::ModelError;
use super::object::Object;
use super::spec::{ModelSpec, SpecFiles};

pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const SENTENCE_TRANSFORMERS: &str = "config_sentence_transformers.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// Weights that we name in an error and never open.
pub(super) const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// A checkpoint whose files are all on disk and whose configuration can be served.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The id that it was asked for by.
    pub id: String,
    /// The commit, for a model of the hub.
    pub revision: Option<String>,
    /// The folder.
    pub dir: PathBuf,
    /// config.json.
    pub config: PathBuf,
    /// tokenizer.json.
    pub tokenizer: PathBuf,
    /// tokenizer_config.json, where there is one.
    pub tokenizer_config: Option<PathBuf>,
    /// The safetensors files: one, or all shards in the order of their names.
    pub weights: Vec<PathBuf>,
    /// What the configuration says.
    pub spec: ModelSpec,
}

impl Checkpoint {
    /// Looks at a folder. Reads the JSON files only; the weights are not opened.
    ///
    /// Errors: a file is missing, or the configuration cannot be served.
    pub fn open(id: &str, dir: &Path, length_max: Option<usize>) -> Result<Checkpoint, ModelError> {
        let place = dir.display().to_string();
        let config = dir.join(CONFIG);
        if !config.is_file() {
            let hint = "a checkpoint folder holds config.json, tokenizer.json and model.safetensors".to_owned();
            return Err(ModelError::MissingFile {
                file: CONFIG.to_owned(),
                place,
                hint,
            });
        }
        let optional = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        let tokenizer_config = optional(TOKENIZER_CONFIG);
        let sentence_transformers = optional(SENTENCE_TRANSFORMERS);
        let files = SpecFiles {
            config: &config,
            tokenizer_config: tokenizer_config.as_deref(),
            sentence_transformers: sentence_transformers.as_deref(),
        };
        // First of all: a model that cannot be served should be told so, not to bring more files.
        let spec = ModelSpec::read(files, length_max)?;
        let tokenizer = dir.join(TOKENIZER);
        if !tokenizer.is_file() {
            return Err(missing_tokenizer(place));
        }
        let weights = weight_files(dir)?;
        let dir = dir.to_path_buf();
        Ok(Checkpoint {
            id: id.to_owned(),
            revision: None,
            dir,
            config,
            tokenizer,
            tokenizer_config,
            weights,
            spec,
        })
    }
}

pub(super) fn missing_tokenizer(place: String) -> ModelError {
    let hint = "only the fast tokenizer format is read. Make one from the slow tokenizer's files with `python -c \
                \"from transformers import AutoTokenizer as T; T.from_pretrained('FOLDER').save_pretrained('FOLDER')\"`";
    ModelError::MissingFile {
        file: TOKENIZER.to_owned(),
        place,
        hint: hint.to_owned(),
    }
}

pub(super) fn missing_weights(place: String) -> ModelError {
    let hint = "nor is there a model.safetensors.index.json; only safetensors is read".to_owned();
    ModelError::MissingFile {
        file: WEIGHTS.to_owned(),
        place,
        hint,
    }
}

/// The safetensors files of a folder, one or the shards of an index.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let place = dir.display().to_string();
    let single = dir.join(WEIGHTS);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = dir.join(WEIGHTS_INDEX);
    if index.is_file() {
        let mut paths = Vec::new();
        for shard in shard_names(&index)? {
            let path = dir.join(&shard);
            if !path.is_file() {
                let hint = format!("{WEIGHTS_INDEX} names it; the checkpoint is incomplete");
                return Err(ModelError::MissingFile {
                    file: shard,
                    place,
                    hint,
                });
            }
            paths.push(path);
        }
        return Ok(paths);
    }
    match PICKLES.into_iter().find(|name| dir.join(name).is_file()) {
        Some(file) => Err(ModelError::PickleOnly {
            place,
            file: file.to_owned(),
        }),
        None => Err(missing_weights(place)),
    }
}

/// The shards that an index names, sorted. A name with a folder in it is refused: an index comes from outside and must not
/// reach out of its folder.
pub(super) fn shard_names(index: &Path) -> Result<Vec<String>, ModelError> {
    let object = Object::read(index)?;
    let expected = "an object from tensor names to names of .safetensors files";
    let map = match object.get("weight_map") {
        Some(serde_json::Value::Object(map)) if !map.is_empty() => map,
        Some(value) => return Err(object.refused("weight_map", expected, value)),
        None => return Err(object.refused("weight_map", expected, "nothing")),
    };
    let mut names = BTreeSet::new();
    for value in map.values() {
        match value.as_str() {
            Some(name) if is_plain_name(name) && name.ends_with(".safetensors") => names.insert(name.to_owned()),
            _ => return Err(object.refused("weight_map", expected, value)),
        };
    }
    Ok(names.into_iter().collect())
}

fn is_plain_name(name: &str) -> bool {
    !name.starts_with('.')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
