//! A folder → [`Checkpoint`]: which file is what, and that all of them are there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::choices::TokenizerChoice;

use super::error::ModelError;
use super::object::Object;
use super::spec::ModelSpec;

pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// A PEFT adapter, alone or beside a model.
pub(super) const ADAPTER: &str = "adapter_config.json";
/// What a training run of transformers or sentence-transformers leaves in each of its checkpoints.
const TRAINER_STATE: &str = "trainer_state.json";
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
    /// Whether tokenizer.json or the tokenizer's class is followed where they differ (the setting `model.tokenizer`).
    pub tokenizer_choice: TokenizerChoice,
}

impl Checkpoint {
    /// Looks at a folder. Reads the JSON files only; the weights are not opened.
    ///
    /// Errors: a file is missing, or the configuration cannot be served.
    pub fn open(id: &str, dir: &Path, length_max: Option<usize>) -> Result<Checkpoint, ModelError> {
        let place = dir.display().to_string();
        if dir.join(ADAPTER).is_file() {
            return Err(ModelError::Adapter { place });
        }
        let config = dir.join(CONFIG);
        if !config.is_file() {
            let hint = match training_checkpoint(dir) {
                Some(name) => {
                    format!("this is the folder of a training run: name one of its checkpoints, such as {name}")
                }
                None => "a checkpoint folder holds config.json, tokenizer.json and model.safetensors".to_owned(),
            };
            return Err(ModelError::MissingFile {
                file: CONFIG.to_owned(),
                place,
                hint,
            });
        }
        // First of all: a model that cannot be served should be told so, not to bring more files.
        let spec = ModelSpec::read(dir, length_max)?;
        let tokenizer_config = Some(dir.join(TOKENIZER_CONFIG)).filter(|path| path.is_file());
        let tokenizer = dir.join(TOKENIZER);
        if !tokenizer.is_file() {
            return Err(match dir.join(TRAINER_STATE).is_file() {
                true => trainer_without_tokenizer(place),
                false => missing_tokenizer(place),
            });
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
            tokenizer_choice: TokenizerChoice::File,
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

/// The Trainer saves a tokenizer only if it was given one.
fn trainer_without_tokenizer(place: String) -> ModelError {
    let hint = "this is a checkpoint of a training run (trainer_state.json), saved without its tokenizer. Copy tokenizer.json and \
                tokenizer_config.json into it from the model that the training began with, or give the Trainer \
                `processing_class=tokenizer`, so that it saves them";
    ModelError::MissingFile {
        file: TOKENIZER.to_owned(),
        place,
        hint: hint.to_owned(),
    }
}

/// The last `checkpoint-N` of a training run's output folder.
fn training_checkpoint(dir: &Path) -> Option<String> {
    let entries = std::fs::read_dir(dir).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let steps = names.filter_map(|name| name.strip_prefix("checkpoint-")?.parse::<u64>().ok());
    let step = steps.max()?;
    Some(format!("checkpoint-{step}"))
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
