//! A model id → a folder → [`Checkpoint`]: which file is what, and that all of them are there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::ModelError;
use super::hub;
pub use super::hub::progress::Progress;
use super::object::Object;
use super::spec::{ModelSpec, SpecFiles};

/// The id of the model that comes with the program.
pub const BUILTIN: &str = "builtin";

pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const SENTENCE_TRANSFORMERS: &str = "config_sentence_transformers.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// Weights that we name in an error and never open.
pub(super) const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Which model to load, and how to get at it.
#[derive(Clone, PartialEq, Eq)]
pub struct ModelSource {
    /// `builtin`, a folder, or a hub id (`owner/name`).
    pub id: String,
    /// Branch, tag or commit on the hub.
    pub revision: String,
    /// Cache folder of the hub; none: where every Hugging Face tool has it.
    pub cache_dir: Option<PathBuf>,
    /// Access token; none: HF_TOKEN, or the file that `hf auth login` wrote.
    pub token: Option<String>,
    /// Address of the hub; none: HF_ENDPOINT, else huggingface.co.
    pub endpoint: Option<String>,
    /// Never ask the hub: only the cache.
    pub offline: bool,
    /// How often a request to the hub is repeated after a passing failure.
    pub retries_max: u32,
    /// Lowers the checkpoint's limit on tokens a pair.
    pub length_max: Option<usize>,
}

impl Default for ModelSource {
    fn default() -> Self {
        ModelSource {
            id: BUILTIN.to_owned(),
            revision: "main".to_owned(),
            cache_dir: None,
            token: None,
            endpoint: None,
            offline: false,
            retries_max: 3,
            length_max: None,
        }
    }
}

impl std::fmt::Debug for ModelSource {
    // By hand, so that a token never reaches a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelSource")
            .field("id", &self.id)
            .field("revision", &self.revision)
            .field("cache_dir", &self.cache_dir)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .field("retries_max", &self.retries_max)
            .field("length_max", &self.length_max)
            .finish()
    }
}

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

/// Finds the model: the built-in one, a folder, or a model of the hub (downloaded if need be, with `progress`).
///
/// A folder is what exists as a directory, or begins like a path (`./`, `../`, `/`, `~`). May block for as long as a
/// download takes.
pub fn resolve(source: &ModelSource, progress: &Progress) -> Result<Checkpoint, ModelError> {
    let id = source.id.trim();
    if id == BUILTIN {
        let places = builtin_places(std::env::current_exe().ok().as_deref());
        return match places.iter().find(|dir| dir.join(CONFIG).is_file()) {
            Some(dir) => Checkpoint::open(id, dir, source.length_max),
            None => Err(ModelError::NotFound {
                id: id.to_owned(),
                looked_in: places,
            }),
        };
    }
    let path = expanded(id);
    if path.is_dir() {
        return Checkpoint::open(&folder_id(&path), &path, source.length_max);
    }
    if is_path_like(id) {
        return Err(ModelError::NotFound {
            id: id.to_owned(),
            looked_in: vec![path],
        });
    }
    let found = hub::fetch(source, progress)?;
    let mut checkpoint = Checkpoint::open(id, &found.dir, source.length_max)?;
    checkpoint.revision = Some(found.commit);
    Ok(checkpoint)
}

/// A folder's model is served under the folder's name: callers see the id, and a path of this machine is not theirs.
fn folder_id(path: &Path) -> String {
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    resolved
        .file_name()
        .map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
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

/// Where the built-in model may lie: beside the binary, as an installation puts it, or in the source tree.
fn builtin_places(program: Option<&Path>) -> Vec<PathBuf> {
    let mut places = Vec::new();
    // A link in /usr/local/bin should lead to the files beside what it points at.
    let program = program.map(|path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf()));
    if let Some(beside) = program.as_deref().and_then(Path::parent) {
        places.push(beside.join("models").join(BUILTIN));
        if let Some(prefix) = beside.parent() {
            places.push(prefix.join("share/nats-rerank/models").join(BUILTIN));
        }
    }
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(BUILTIN));
    places
}

fn is_path_like(id: &str) -> bool {
    id.starts_with('/') || id.starts_with('~') || matches!(id.split('/').next(), Some("." | ".."))
}

/// The path with a leading `~/` replaced by the home folder.
fn expanded(id: &str) -> PathBuf {
    match (id.strip_prefix('~'), std::env::home_dir()) {
        (Some(""), Some(home)) => home,
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(id),
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
