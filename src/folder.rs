//! Which model ids are folders: settings and model share the rule, and what a leading `~` stands for.

use std::path::PathBuf;

/// Whether an id is a folder by its looks (`./`, `../`, `/`, `~`), and no id of a hub.
pub(crate) fn is_path_like(id: &str) -> bool {
    id.starts_with('/') || id.starts_with('~') || matches!(id.split('/').next(), Some("." | ".."))
}

/// The path with a leading `~/` replaced by the home folder.
pub(crate) fn expanded(id: &str) -> PathBuf {
    match (id.strip_prefix('~'), std::env::home_dir()) {
        (Some(""), Some(home)) => home,
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(id),
    }
}
