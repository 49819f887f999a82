//! The cache folder, in the layout that all Hugging Face tools share:
//! `models--owner--name/{blobs/<etag>, snapshots/<commit>/<file> → blob, refs/<revision>, .no_exist/<commit>/<file>}`.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::super::error::ModelError;

/// One model's part of the cache.
#[derive(Debug)]
pub(super) struct RepoCache {
    cache: Cache,
    repo: CacheRepo,
    folder: PathBuf,
    revision: String,
}

/// Where Python's huggingface_hub keeps its cache, by the same variables in the same order.
pub(super) fn default_dir(environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
        if let Some(dir) = environment(name) {
            return PathBuf::from(dir);
        }
    }
    home(environment).join("hub")
}

fn home(environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    if let Some(home) = environment("HF_HOME") {
        return PathBuf::from(home);
    }
    match environment("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir).join("huggingface"),
        // A service without a home folder still has somewhere to write.
        None => std::env::home_dir()
            .unwrap_or_else(std::env::temp_dir)
            .join(".cache")
            .join("huggingface"),
    }
}

impl RepoCache {
    pub(super) fn new(dir: PathBuf, id: &str, revision: &str) -> RepoCache {
        let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
        let folder = dir.join(repo.folder_name());
        let cache = Cache::new(dir);
        RepoCache {
            repo: cache.repo(repo),
            cache,
            folder,
            revision: revision.to_owned(),
        }
    }

    /// The whole cache's folder.
    pub(super) fn root(&self) -> &Path {
        self.cache.path()
    }

    /// The token that `hf auth login` has stored, if any.
    pub(super) fn token(&self, environment: &dyn Fn(&str) -> Option<String>) -> Option<String> {
        let path = match environment("HF_TOKEN_PATH") {
            Some(path) => PathBuf::from(path),
            None => home(environment).join("token"),
        };
        let token = fs::read_to_string(path).ok()?;
        Some(token.trim().to_owned()).filter(|token| !token.is_empty())
    }

    /// Where a file's bytes lie, by their etag.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.repo.blob_path(etag)
    }

    /// The folder of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    /// The lock that guards the download of a blob; Python's tools take the same one.
    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        let folder = self.folder.file_name().unwrap_or_default();
        self.root().join(".locks").join(folder).join(format!("{etag}.lock"))
    }

    /// The commit that the revision stood for when it was last complete.
    pub(super) fn reference(&self) -> Option<String> {
        let commit = fs::read_to_string(self.folder.join("refs").join(&self.revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| super::is_commit(commit))
    }

    /// Notes what the revision stands for. Only called when the snapshot is complete, so that offline mode can trust it.
    pub(super) fn set_reference(&self, commit: &str) -> Result<(), ModelError> {
        if self.revision == commit || self.reference().as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(&self.revision);
        create_parent(&path)?;
        let temporary = temporary_beside(&path);
        let written = fs::File::create(&temporary)
            .and_then(|mut file| file.write_all(commit.as_bytes()))
            .and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|error| ModelError::io(&path, error))
    }

    /// Whether the commit is known to have no such file.
    pub(super) fn is_known_absent(&self, commit: &str, file: &str) -> bool {
        self.folder.join(".no_exist").join(commit).join(file).is_file()
    }

    /// Notes that the commit has no such file. It only saves a request, so a failure (a read-only cache) is let pass.
    pub(super) fn set_known_absent(&self, commit: &str, file: &str) {
        let path = self.folder.join(".no_exist").join(commit).join(file);
        if create_parent(&path).is_ok()
            && let Err(error) = fs::File::create(&path)
        {
            tracing::debug!(path = %path.display(), %error, "could not note that a file does not exist");
        }
    }

    /// Puts a blob into a commit's folder under its file name, at once or not at all.
    pub(super) fn link(&self, commit: &str, file: &str, blob: &Path) -> Result<(), ModelError> {
        let path = self.snapshot(commit).join(file);
        create_parent(&path)?;
        let temporary = temporary_beside(&path);
        link_or_copy(blob, &temporary)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|error| ModelError::io(&path, error))
    }
}

/// `snapshots/<commit>/<file>` → `../../blobs/<etag>`: relative, so that the cache folder can be carried elsewhere. File names
/// are plain here (see `shard_names`), so the way up is always the same.
#[cfg(unix)]
fn link_or_copy(blob: &Path, at: &Path) -> std::io::Result<()> {
    let target = Path::new("../../blobs").join(blob.file_name().unwrap_or_default());
    std::os::unix::fs::symlink(target, at).or_else(|_| fs::copy(blob, at).map(|_| ()))
}

#[cfg(not(unix))]
fn link_or_copy(blob: &Path, at: &Path) -> std::io::Result<()> {
    fs::copy(blob, at).map(|_| ())
}

pub(super) fn create_parent(path: &Path) -> Result<(), ModelError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| ModelError::io(parent, error))
}

/// A name in the same folder that no other process or thread uses.
pub(super) fn temporary_beside(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let unique = format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{unique}.tmp"));
    let temporary = path.with_file_name(name);
    // Left over by a process of the same number, long ago.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::debug!(path = %temporary.display(), %error, "could not remove an old temporary file");
        }
        _ => {}
    }
    temporary
}
