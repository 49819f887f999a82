//! A model of a Hugging Face style hub → a folder on disk.
//!
//! The folder layout, the names in it and the addresses are those of the `hf-hub` crate, so a model that any Hugging Face
//! tool has downloaded is found, and the other way round. The bytes are fetched by ourselves, on `ureq` (which `hf-hub` uses
//! too): `hf-hub` 0.5 has no time limits and no offline mode, repeats refusals as if they were accidents but not its first
//! request, appends to a half file even if the server starts again from the beginning, and takes a file into use without
//! looking at its length or checksum.
//!
//! What holds here instead:
//! - a file appears under its name only when it is whole: written elsewhere, measured, its checksum compared, then renamed;
//! - what broke off is resumed where the server can, and started again where it cannot;
//! - any number of processes may download the same model at once;
//! - the token goes to the hub only, never to a storage host that the hub points to;
//! - a warm cache needs one small request, and none for a pinned commit; a hub that is away does no harm to a warm cache.

mod cache;
mod download;
mod http;
pub mod progress;
mod redirects;

use std::path::PathBuf;
use std::time::Duration;

use tracing::{debug, warn};

use self::cache::RepoCache;
use self::http::{Client, RemoteFile};
use self::progress::Progress;
use super::error::{HubFailure, ModelError};
use super::files::{
    ADAPTER, CONFIG, PICKLES, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS, WEIGHTS_INDEX, missing_tokenizer, missing_weights,
    shard_names,
};
use super::layout::{CHAT_TEMPLATE, Layout, MODULES, SENTENCE_BERT, SENTENCE_TRANSFORMERS, holds_keys};
use super::source::ModelSource;
use super::spec::ModelSpec;

const ENDPOINT_DEFAULT: &str = "https://huggingface.co";

/// A snapshot whose files are all there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its folder in the cache.
    pub dir: PathBuf,
    /// The commit.
    pub commit: String,
}

/// Brings a hub model into the cache, as far as it is not there, and says where it lies.
///
/// Errors: [`ModelError::InvalidId`]; [`ModelError::Hub`] for whatever the network or the hub does; and what
/// [`ModelSpec::read`] refuses, before any weights are downloaded.
pub fn fetch(source: &ModelSource, progress: &Progress) -> Result<Snapshot, ModelError> {
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    Session::new(source, &environment, Duration::from_millis(500))?.run(source, progress)
}

/// All that one download needs.
struct Session {
    id: String,
    revision: String,
    cache: RepoCache,
    /// None in offline mode.
    client: Option<Client>,
}

impl Session {
    /// The environment and the first pause between repeats are arguments so that tests can set them.
    fn new(
        source: &ModelSource,
        environment: &dyn Fn(&str) -> Option<String>,
        backoff: Duration,
    ) -> Result<Session, ModelError> {
        let id = source.id.trim().to_owned();
        check_id(&id)?;
        let revision = source.revision.trim().to_owned();
        check_revision(&revision)?;
        let cache_dir = match &source.cache_dir {
            Some(dir) => dir.clone(),
            None => cache::default_dir(environment),
        };
        let cache = RepoCache::new(cache_dir, &id, &revision);
        let truthy = |value: String| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        let offline = source.offline || environment("HF_HUB_OFFLINE").is_some_and(truthy);
        let client = if offline {
            None
        } else {
            let endpoint = source.endpoint.clone().or_else(|| environment("HF_ENDPOINT"));
            let endpoint = endpoint.unwrap_or_else(|| ENDPOINT_DEFAULT.to_owned());
            let token = source
                .token
                .clone()
                .or_else(|| environment("HF_TOKEN"))
                .or_else(|| cache.token(environment));
            Some(Client::new(&id, &endpoint, token, source.retries_max, backoff)?)
        };
        Ok(Session {
            id,
            revision,
            cache,
            client,
        })
    }

    fn run(&self, source: &ModelSource, progress: &Progress) -> Result<Snapshot, ModelError> {
        let Some(client) = &self.client else {
            return self.cached().inspect(|snapshot| self.warn_of_unknown_layout(snapshot));
        };
        let commit = if is_commit(&self.revision) {
            self.revision.clone()
        } else {
            match self.current_commit(client)? {
                Some(commit) => commit,
                None => return self.cached(),
            }
        };
        let download = Download {
            session: self,
            client,
            commit,
            progress,
        };
        let dir = match download.run(source.length_max) {
            Ok(dir) => dir,
            Err(error) => return self.instead(&download.commit, error),
        };
        if let Err(error) = self.cache.set_reference(&download.commit) {
            // The files are there, and that is what counts; only offline mode goes by the note.
            warn!(model = %self.id, %error, "the cache cannot be written: what the revision stands for is not noted");
        }
        Ok(Snapshot {
            dir,
            commit: download.commit,
        })
    }

    /// What is served in place of `commit`, which could not be completed because of `error`: where the cache cannot be written (a
    /// read-only mount, no room) and the branch has moved, what it holds whole of the branch.
    fn instead(&self, commit: &str, error: ModelError) -> Result<Snapshot, ModelError> {
        if !matches!(error, ModelError::Io { .. }) || is_commit(&self.revision) {
            return Err(error);
        }
        match self.cached() {
            Ok(snapshot) if snapshot.commit != commit => {
                warn!(
                    model = %self.id, revision = %self.revision, cached = %snapshot.commit, %commit, %error,
                    "the revision has moved and the cache cannot be written: the cached commit is used"
                );
                Ok(snapshot)
            }
            _ => Err(error),
        }
    }

    /// The commit that the revision stands for now. None: the hub is away, and the cache holds an earlier one whole.
    fn current_commit(&self, client: &Client) -> Result<Option<String>, ModelError> {
        let cached = self.cached().is_ok();
        let asked = if cached {
            client.look_once(&self.revision, CONFIG)
        } else {
            client.look(&self.revision, CONFIG)
        };
        match asked {
            Ok(file) => Ok(Some(file.commit)),
            Err(failure) if cached && failure.is_retryable() => {
                warn!(model = %self.id, %failure, "the hub is away; the cached model is used");
                Ok(None)
            }
            // An adapter has no config.json of its own.
            Err(HubFailure::NotFound { .. }) if client.look(&self.revision, ADAPTER).is_ok() => {
                Err(ModelError::Adapter { place: self.id.clone() })
            }
            Err(failure) => Err(self.failed(CONFIG, failure)),
        }
    }

    /// The snapshot as the cache holds it; an error names the first file that is missing.
    fn cached(&self) -> Result<Snapshot, ModelError> {
        let missing = |file: &str| {
            let cache = self.cache.root().display().to_string();
            self.failed(file, HubFailure::Offline { cache })
        };
        let commit = match self.cache.reference() {
            Some(commit) => commit,
            None if is_commit(&self.revision) => self.revision.clone(),
            None => return Err(missing(&format!("revision {}", self.revision))),
        };
        let dir = self.cache.snapshot(&commit);
        let have = |name: &str| dir.join(name).is_file();
        for name in [CONFIG, TOKENIZER] {
            if !have(name) {
                return Err(missing(name));
            }
        }
        if !have(WEIGHTS) {
            if have(WEIGHTS_INDEX) {
                if let Some(shard) = shard_names(&dir.join(WEIGHTS_INDEX))?.iter().find(|shard| !have(shard)) {
                    return Err(missing(shard));
                }
            } else if let Some(file) = PICKLES.into_iter().find(|name| have(name)) {
                return Err(ModelError::PickleOnly {
                    place: self.id.clone(),
                    file: file.to_owned(),
                });
            } else {
                return Err(missing(WEIGHTS));
            }
        }
        Ok(Snapshot { dir, commit })
    }

    /// A cache that another tool filled, or an earlier version, may lack files that change scores.
    fn warn_of_unknown_layout(&self, snapshot: &Snapshot) {
        if !snapshot.dir.join(MODULES).is_file() && !self.cache.is_known_absent(&snapshot.commit, MODULES) {
            warn!(
                model = %self.id,
                "the cache does not say whether the model has a modules.json, and so perhaps a prompt: what filled it did not ask. \
                 `model info` with access to the hub completes it"
            );
        }
    }

    fn failed(&self, file: &str, failure: HubFailure) -> ModelError {
        ModelError::Hub {
            id: self.id.clone(),
            file: file.to_owned(),
            failure,
        }
    }
}

/// One commit, being completed in the cache.
struct Download<'a> {
    session: &'a Session,
    client: &'a Client,
    commit: String,
    progress: &'a Progress,
}

impl Download<'_> {
    /// Small files first, and the configuration checked, so that a model that cannot be served costs no gigabytes.
    fn run(&self, length_max: Option<usize>) -> Result<PathBuf, ModelError> {
        // Before config.json, which an adapter may not have.
        if self.layout_file(ADAPTER)? {
            return Err(ModelError::Adapter {
                place: self.session.id.clone(),
            });
        }
        self.required(CONFIG)?;
        self.optional(TOKENIZER_CONFIG)?;
        let dir = self.session.cache.snapshot(&self.commit);
        if self.layout_file(MODULES)? && self.layout_file(SENTENCE_TRANSFORMERS)? && Layout::counts(&dir)? {
            for name in SENTENCE_BERT {
                if self.layout_file(name)? && holds_keys(&dir.join(name))? {
                    break;
                }
            }
        } else {
            self.layout_file(CHAT_TEMPLATE)?;
        }
        ModelSpec::read(&dir, length_max)?;
        let id = || self.session.id.clone();
        if self.optional(TOKENIZER)?.is_none() {
            return Err(missing_tokenizer(id()));
        }
        if self.optional(WEIGHTS)?.is_none() {
            match self.optional(WEIGHTS_INDEX)? {
                Some(index) => {
                    for shard in shard_names(&index)? {
                        self.required(&shard)?;
                    }
                }
                None => {
                    for file in PICKLES {
                        if self.look(file)?.is_some() {
                            return Err(ModelError::PickleOnly {
                                place: id(),
                                file: file.to_owned(),
                            });
                        }
                    }
                    return Err(missing_weights(id()));
                }
            }
        }
        Ok(dir)
    }

    /// Brings a small file that says how the model is scored; false if the model has none. A whole snapshot that an earlier
    /// version brought, before these files were read, still serves while the hub is away.
    fn layout_file(&self, file: &str) -> Result<bool, ModelError> {
        match self.optional(file) {
            Err(error) if error.is_retryable() && self.session.cached().is_ok() => {
                warn!(model = %self.session.id, file, %error, "the hub is away, and whether the model has this file is not known; served without it");
                Ok(false)
            }
            found => Ok(found?.is_some()),
        }
    }

    fn required(&self, file: &str) -> Result<PathBuf, ModelError> {
        match self.optional(file)? {
            Some(path) => Ok(path),
            None => {
                let endpoint = self.client.endpoint().to_owned();
                Err(self.session.failed(
                    file,
                    HubFailure::NotFound {
                        endpoint,
                        what: "no such file".to_owned(),
                    },
                ))
            }
        }
    }

    /// The file in the snapshot, downloaded if it is not there yet; none if the model has no such file.
    fn optional(&self, file: &str) -> Result<Option<PathBuf>, ModelError> {
        let cache = &self.session.cache;
        let path = cache.snapshot(&self.commit).join(file);
        if path.is_file() {
            return Ok(Some(path));
        }
        if cache.is_known_absent(&self.commit, file) {
            return Ok(None);
        }
        let Some(remote) = self.look(file)? else {
            cache.set_known_absent(&self.commit, file);
            return Ok(None);
        };
        let blob = cache.blob(&remote.etag);
        if blob.is_file() {
            debug!(file, "already in the cache, of another revision");
        } else {
            download::download(self.client, cache, &remote, file, self.progress).map_err(|error| match error {
                download::Failure::Hub(failure) => self.session.failed(file, failure),
                download::Failure::Disk { path, source } => ModelError::Io { path, source },
            })?;
        }
        cache.link(&self.commit, file, &blob)?;
        Ok(Some(path))
    }

    /// What the hub says about a file; none if there is no such file.
    fn look(&self, file: &str) -> Result<Option<RemoteFile>, ModelError> {
        match self.client.look(&self.commit, file) {
            Ok(remote) => Ok(Some(remote)),
            Err(HubFailure::NotFound { .. }) => Ok(None),
            Err(failure) => Err(self.session.failed(file, failure)),
        }
    }
}

/// The hub's own rules for a repository's name.
fn check_id(id: &str) -> Result<(), ModelError> {
    let invalid = |reason: &str| {
        Err(ModelError::InvalidId {
            id: id.to_owned(),
            reason: reason.to_owned(),
        })
    };
    let parts: Vec<&str> = id.split('/').collect();
    if parts.len() > 2 {
        return invalid("it has the form `owner/name` or `name`");
    }
    if id.len() > 96 {
        return invalid("it has at most 96 characters");
    }
    if id.contains("--") || id.contains("..") {
        return invalid("it holds no `--` and no `..`");
    }
    for part in parts {
        if part.is_empty() {
            return invalid("it has the form `owner/name` or `name`");
        }
        if !part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        {
            return invalid("it holds letters, digits, `-`, `_` and `.` only");
        }
        if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
            return invalid("its parts neither begin nor end with `-` or `.`");
        }
    }
    Ok(())
}

/// A branch, tag, pull request (`refs/pr/1`) or commit. It becomes part of a path, so it must not climb.
fn check_revision(revision: &str) -> Result<(), ModelError> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if revision.len() <= 200 && revision.split('/').all(plain) {
        return Ok(());
    }
    let reason = "a revision is a branch, tag or commit of letters, digits, `-`, `_`, `.` and `/`".to_owned();
    Err(ModelError::InvalidId {
        id: revision.to_owned(),
        reason,
    })
}

/// Whether a revision is a whole commit hash, which never changes its meaning.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
