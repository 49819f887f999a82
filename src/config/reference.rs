//! The table of every key, for people: from the schema and the comments of `config/default.toml`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Sources;
use super::key::Key;
use super::layers::{DEFAULT_TOML, Layers};
use super::schema::KEYS;

/// Stands before the table in `docs/configuration.md`.
pub const REFERENCE_BEGIN: &str = "<!-- keys: begin (written by `nats-rerank config reference`) -->";
/// Stands after the table.
pub const REFERENCE_END: &str = "<!-- keys: end -->";

/// Every key with its kind, default, range and meaning, as Markdown: one table a section.
pub fn reference() -> String {
    let comments = comments(DEFAULT_TOML);
    let defaults = Layers::gather(&Sources::default());
    let mut text = String::new();
    let mut section = None;
    for entry in defaults.entries() {
        let key = entry.key;
        if section != Some(key.section()) {
            section = Some(key.section());
            let (title, about) = match key.section() {
                "" => ("Top level".to_owned(), None),
                name => (format!("`[{name}]`"), comments.get(name)),
            };
            // Writing to a String cannot fail.
            let _ = write!(text, "\n### {title}\n");
            if let Some(about) = about {
                let _ = write!(text, "\n{about}\n");
            }
            let _ = write!(
                text,
                "\n| key | type | default | allowed | meaning |\n|---|---|---|---|---|\n"
            );
        }
        let meaning = comments.get(key.name).map_or("", String::as_str);
        let _ = writeln!(
            text,
            "| `{}` | {} | `{}` | {} | {} |",
            key.name,
            key.kind_name(),
            entry.value.shown(key),
            cell(&allowed(key)),
            cell(meaning)
        );
    }
    debug_assert_eq!(text.matches("\n| `").count(), KEYS.len());
    text
}

fn allowed(key: &Key) -> String {
    if key.secret {
        format!("{}; secret", key.allowed())
    } else {
        key.allowed()
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The comment above each key and section of a TOML text, by full name, lines joined.
pub(super) fn comments(toml: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut section = "";
    for line in toml.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
            found.insert(name.to_owned(), comment.join(" "));
        } else if let Some((leaf, _)) = line.split_once(" = ") {
            let name = if section.is_empty() {
                leaf.to_owned()
            } else {
                format!("{section}.{leaf}")
            };
            found.insert(name, comment.join(" "));
        }
        comment.clear();
    }
    found
}
