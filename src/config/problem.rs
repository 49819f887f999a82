//! What is wrong with a configuration: everything at once, each with the place it comes from.

use std::fmt;
use std::path::PathBuf;

use super::{Profile, schema};

/// Where a value comes from, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `config/default.toml`, part of the program.
    Default,
    /// A profile, part of the program.
    Profile(Profile),
    /// A file named by `--config` or `RERANK_CONFIG`.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::Profile(profile) => write!(f, "profile {profile}"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key or keys, the value where it may be shown, and what is allowed.
    pub text: String,
    /// Where the value comes from; none where several settings do not go together.
    pub source: Option<Source>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{} ({source})", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl Problem {
    /// Settings that do not go together.
    pub(super) fn together(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            source: None,
        }
    }

    /// Something wrong with a source.
    pub(super) fn with(source: &Source, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            source: Some(source.clone()),
        }
    }

    /// A key that does not exist.
    pub(super) fn unknown_key(source: &Source, name: &str) -> Self {
        let nearest = schema::nearest(name);
        let text = match source {
            Source::Environment(variable) => {
                format!("unknown variable {variable}; did you mean {}?", nearest.variable())
            }
            _ => format!("unknown key {name}; did you mean {}?", nearest.name),
        };
        Self::with(source, text)
    }
}

/// Why there is no configuration: every problem that was found, never only the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [problem] => write!(f, "bad configuration: {problem}"),
            problems => {
                write!(f, "bad configuration, {} problems:", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
        }
    }
}
