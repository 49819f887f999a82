//! Everything that can go wrong between a model id and a model that is ready.

use std::path::{Path, PathBuf};

/// Why a checkpoint cannot be used. The text is meant for the person who wrote the settings: it names the file, the
/// field, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The id names no folder that exists.
    #[error("model `{id}` not found; looked in: {}", listed(.looked_in))]
    NotFound {
        /// The id as it was given.
        id: String,
        /// Every folder that was tried.
        looked_in: Vec<PathBuf>,
    },

    /// The id (or the revision) is neither a folder nor something that a hub could know.
    #[error("`{id}` is no folder here and cannot be a hub id: {reason}")]
    InvalidId {
        /// The id or revision as it was given.
        id: String,
        /// Which rule it breaks.
        reason: String,
    },

    /// The checkpoint lacks a file that it cannot do without.
    #[error("{file} is missing in {place}: {hint}")]
    MissingFile {
        /// The file's name.
        file: String,
        /// Folder or hub id.
        place: String,
        /// What to do about it.
        hint: String,
    },

    /// The weights are there only as a Python pickle.
    #[error(
        "{place} holds its weights only as {file}, a Python pickle. Reading a pickle runs code from the file, so only \
         safetensors is read. Convert it once, where you trust the file: `python -c \"from transformers import \
         AutoModelForSequenceClassification as M; M.from_pretrained('{place}').save_pretrained('converted')\"`, then \
         copy tokenizer.json and tokenizer_config.json beside it (docs/models.md)"
    )]
    PickleOnly {
        /// Folder or hub id.
        place: String,
        /// The pickle's name.
        file: String,
    },

    /// A PEFT adapter: a difference to a model, not a model.
    #[error(
        "{place} is a PEFT adapter (adapter_config.json), which holds only what was changed in another model. Merge it once: \
         `python -c \"from peft import AutoPeftModelForSequenceClassification as M; M.from_pretrained('{place}', \
         num_labels=1).merge_and_unload().save_pretrained('merged')\"`, copy tokenizer.json and tokenizer_config.json of the base \
         model beside it, and name that folder (docs/models.md)"
    )]
    Adapter {
        /// Folder or hub id.
        place: String,
    },

    /// A model of another kind.
    #[error("architecture `{architecture}` is not supported; supported are: {supported}")]
    Unsupported {
        /// What config.json names.
        architecture: String,
        /// What could be served, ready to print.
        supported: String,
    },

    /// A value in one of the checkpoint's JSON files that cannot be served.
    #[error("{}: `{field}` must be {expected}, found {found}", .file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// The key, dotted where nested.
        field: String,
        /// What could be served.
        expected: String,
        /// What stands there.
        found: String,
    },

    /// A file that is not the JSON it should be.
    #[error("{} is not valid JSON: {reason}", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        reason: String,
    },

    /// A file could not be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// tokenizer.json cannot be used, or does not fit the model.
    #[error("{}: {reason}", .path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A tensor is missing, or not what the model needs.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// The tensor's full name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A weights file is not a whole, valid safetensors file.
    #[error("{} is not a valid safetensors file: {reason}", .path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The hub did not give the file.
    #[error("hub model `{id}`: {file}: {failure}")]
    Hub {
        /// The hub id.
        id: String,
        /// The file that was asked for.
        file: String,
        /// Why it did not come.
        failure: HubFailure,
    },

    /// A device that was asked for by name is not there.
    #[error("device `{device}` cannot be used: {reason}")]
    Device {
        /// As the setting names it.
        device: String,
        /// What is missing, and what to check.
        reason: String,
    },

    /// The tokenizer makes nothing of plain texts.
    #[error("model `{model}` cannot be served: {reason}")]
    NoTokens {
        /// The id of the model.
        model: String,
        /// What comes of the texts.
        reason: String,
    },

    /// The weights are finite, and plain texts still get no finite scores.
    #[error(
        "model `{model}` gives no numbers: {bad} of {of} scores of plain texts are NaN or infinite in {precision} on \
         {device}{}", if precision == "fp32" { "" } else { "; model.precision = \"fp32\" may do" }
    )]
    NoScores {
        /// The id of the model.
        model: String,
        /// Scores that are not finite.
        bad: usize,
        /// Scores in all.
        of: usize,
        /// The precision that it was loaded in.
        precision: String,
        /// The device.
        device: String,
    },

    /// The tensor library failed while the model was loaded or warmed up.
    #[error("the model cannot be brought onto its device: {reason}")]
    Engine {
        /// The library's words.
        reason: String,
    },
}

/// Why the hub did not give a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubFailure {
    /// 404: no such repository, revision or file.
    #[error("not found at {endpoint} ({what}); check id and revision")]
    NotFound {
        /// The endpoint that was asked.
        endpoint: String,
        /// Repository, revision or file.
        what: String,
    },
    /// 401: the hub wants to know who asks. It answers the same for what does not exist.
    #[error(
        "{endpoint} refused access (401): the model does not exist, or is private and needs a token that may read it \
         (model.hub_token or HF_TOKEN){}", if *.token { "; a token was sent, it may be wrong or expired" } else { "; no token was sent" }
    )]
    Unauthorized {
        /// The endpoint that was asked.
        endpoint: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// 403: known, and not allowed.
    #[error(
        "{endpoint} forbids it (403): the model may be gated (accept its terms on its page) or the token may not \
         read it"
    )]
    Forbidden {
        /// The endpoint that was asked.
        endpoint: String,
    },
    /// Offline mode, and the cache does not hold it.
    #[error(
        "offline mode, and it is not in the cache {cache}. Download it once on a machine with access, then carry the \
         cache folder over or name a folder as the model"
    )]
    Offline {
        /// The cache folder.
        cache: String,
    },
    /// Another status.
    #[error("{endpoint} answered with status {status}")]
    Status {
        /// The endpoint that was asked.
        endpoint: String,
        /// HTTP status.
        status: u16,
    },
    /// The connection failed, stalled or broke off.
    #[error("{reason}")]
    Connection {
        /// What happened.
        reason: String,
    },
    /// The bytes that came are not those that were promised.
    #[error("{reason}")]
    Corrupt {
        /// What differs.
        reason: String,
    },
    /// An answer that no hub gives.
    #[error("{reason}")]
    Protocol {
        /// What is odd about it.
        reason: String,
    },
}

impl HubFailure {
    /// Whether the same request may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        match self {
            HubFailure::Connection { .. } | HubFailure::Corrupt { .. } => true,
            HubFailure::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            HubFailure::NotFound { .. }
            | HubFailure::Unauthorized { .. }
            | HubFailure::Forbidden { .. }
            | HubFailure::Offline { .. }
            | HubFailure::Protocol { .. } => false,
        }
    }
}

impl ModelError {
    /// Whether loading the same model again, unchanged, may succeed: the network's moods are such, and a device whose
    /// memory somebody else holds for now.
    pub fn is_retryable(&self) -> bool {
        match self {
            ModelError::Hub { failure, .. } => failure.is_retryable(),
            // A device computes wrongly for now, or for good: the retries are bounded.
            ModelError::Engine { .. } | ModelError::NoScores { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        ModelError::Io {
            path: path.as_ref().to_path_buf(),
            source,
        }
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}
