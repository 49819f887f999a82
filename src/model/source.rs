//! A model id → its [`Checkpoint`]: the built-in model, a folder, or a model of the hub.

use std::path::{Path, PathBuf};

use crate::choices::TokenizerChoice;

use super::error::ModelError;
use super::files::{CONFIG, Checkpoint};
use super::hub;
use super::hub::progress::Progress;
use crate::folder::{expanded, is_path_like};

/// The id of the model that comes with the program.
pub const BUILTIN: &str = "builtin";

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
    /// Whether tokenizer.json or the tokenizer's class is followed where they differ.
    pub tokenizer: TokenizerChoice,
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
            tokenizer: TokenizerChoice::File,
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
            .field("tokenizer", &self.tokenizer)
            .finish()
    }
}

/// Finds the model: the built-in one, a folder, or a model of the hub (downloaded if need be, with `progress`).
///
/// A folder is what exists as a directory, or begins like a path (`./`, `../`, `/`, `~`). May block for as long as a
/// download takes.
pub fn resolve(source: &ModelSource, progress: &Progress) -> Result<Checkpoint, ModelError> {
    let mut checkpoint = find(source, progress)?;
    checkpoint.tokenizer_choice = source.tokenizer;
    Ok(checkpoint)
}

fn find(source: &ModelSource, progress: &Progress) -> Result<Checkpoint, ModelError> {
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

/// Folders above the program's in which a source tree is looked for.
const SOURCE_ABOVE_MAX: usize = 3;

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
        // In target/release/ or target/debug/deps/ of a source tree.
        let above = beside.ancestors().skip(1).take(SOURCE_ABOVE_MAX);
        let sources = above.filter(|folder| folder.join("Cargo.toml").is_file());
        places.extend(sources.map(|folder| folder.join("models").join(BUILTIN)));
    }
    // A release build holds no path of the machine that built it (tools/reproducible).
    #[cfg(debug_assertions)]
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(BUILTIN));
    places
}

#[cfg(test)]
mod tests {
    use super::super::files::WEIGHTS;
    use super::super::fixtures;
    use super::super::spec::Architecture;
    use super::*;

    fn source(id: impl Into<String>) -> ModelSource {
        ModelSource {
            id: id.into(),
            offline: true,
            ..ModelSource::default()
        }
    }

    #[test]
    fn a_folder_is_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        fixtures::write_checkpoint(dir.path(), Architecture::Bert);
        let source = ModelSource {
            length_max: Some(77),
            ..source(dir.path().display().to_string())
        };
        let checkpoint = resolve(&source, &Progress::silent()).unwrap();
        assert_eq!(checkpoint.weights, [dir.path().join(WEIGHTS)]);
        assert_eq!((checkpoint.spec.length_max, checkpoint.revision), (77, None));
    }

    #[test]
    fn paths_are_never_taken_for_hub_ids() {
        for id in ["./nowhere", "../nowhere", "/nowhere/at/all", "~/nowhere-at-all"] {
            let error = resolve(&source(id), &Progress::silent()).unwrap_err();
            assert!(matches!(&error, ModelError::NotFound { .. }), "{id}: {error}");
        }
        for id in ["owner/name", "name"] {
            let cache = tempfile::tempdir().unwrap();
            let source = ModelSource {
                cache_dir: Some(cache.path().to_path_buf()),
                ..source(id)
            };
            let error = resolve(&source, &Progress::silent()).unwrap_err();
            assert!(matches!(&error, ModelError::Hub { .. }), "{id}: {error}");
        }
    }

    #[test]
    fn the_builtin_model_is_looked_for_beside_the_program_first() {
        let install = tempfile::tempdir().unwrap();
        let root = install.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::write(root.join("bin/nats-rerank"), b"").unwrap();
        let places = builtin_places(Some(&root.join("bin/nats-rerank")));
        let expected = [
            root.join("bin/models/builtin"),
            root.join("share/nats-rerank/models/builtin"),
        ];
        assert_eq!(places[..2], expected);
        std::fs::create_dir_all(root.join("target/release")).unwrap();
        std::fs::write(root.join("target/release/nats-rerank"), b"").unwrap();
        let built = root.join("target/release/nats-rerank");
        assert!(!builtin_places(Some(&built)).contains(&root.join("models/builtin")));
        std::fs::write(root.join("Cargo.toml"), b"").unwrap();
        assert!(builtin_places(Some(&built)).contains(&root.join("models/builtin")));
        let message = ModelError::NotFound {
            id: BUILTIN.to_owned(),
            looked_in: places,
        }
        .to_string();
        assert!(message.contains("share/nats-rerank"), "{message}");
    }

    #[test]
    fn a_token_never_shows() {
        let source = ModelSource {
            token: Some("hf_secret".to_owned()),
            ..ModelSource::default()
        };
        assert!(!format!("{source:?}").contains("hf_secret"));
    }
}
