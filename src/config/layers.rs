//! The layers, the weakest first: defaults, profile, file, environment, flags. Each is checked by itself, so that a
//! mistake is told even where a stronger layer hides it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use config::{FileFormat, Source as _};

use super::key::Key;
use super::problem::{Problem, Source};
use super::schema::{self, KEYS};
use super::value::Value;
use super::{Profile, dates, kubernetes};

/// The defaults, part of the program.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");
/// What our environment variables begin with.
const PREFIX: &str = "RERANK_";
/// Selects a profile where no flag does.
const PROFILE_VARIABLE: &str = "RERANK_PROFILE";
/// Names a file where no flag does.
const FILE_VARIABLE: &str = "RERANK_CONFIG";
/// A longer configuration file is none.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where settings are taken from. Plain data: nothing is read before [`super::load`].
#[derive(Clone, Default)]
pub struct Sources {
    /// `--profile`.
    pub profile: Option<String>,
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The environment. All of it: other programs' variables are left alone.
    pub environment: BTreeMap<String, String>,
    /// Flags that set a key, in the order given; the last one of a key counts.
    pub flags: Vec<Flag>,
}

/// A flag that sets one key.
#[derive(Clone)]
pub struct Flag {
    /// The flag's name, for messages: `--set`, `--nats-url`.
    pub name: String,
    /// `section.key`.
    pub key: String,
    /// As written.
    pub value: String,
}

/// A key's value, and the layer that set it.
#[derive(Clone)]
pub struct Entry {
    /// Which key.
    pub key: &'static Key,
    /// Its value.
    pub value: Value,
    /// The strongest layer that sets it.
    pub source: Source,
}

/// All layers, one over the other.
#[derive(Default)]
pub struct Layers {
    values: BTreeMap<&'static str, Entry>,
    pub problems: Vec<Problem>,
}

impl Layers {
    /// Reads every layer. A value that is wrong becomes a problem and does not count.
    pub fn gather(sources: &Sources) -> Self {
        let mut layers = Self::default();
        layers.add_toml(&Source::Default, DEFAULT_TOML);
        layers.add_profile(sources);
        let variable = |name| sources.environment.get(name).filter(|value| !value.is_empty());
        match (&sources.file, variable(FILE_VARIABLE)) {
            (Some(path), _) => layers.add_file(path),
            (None, Some(path)) => layers.add_file(Path::new(path)),
            (None, None) => {}
        }
        for (name, value) in &sources.environment {
            layers.add_variable(name, value);
        }
        for flag in &sources.flags {
            let source = Source::Flag(flag.name.clone());
            layers.add(&source, &flag.key, |key| Value::from_text(key, &flag.value));
        }
        layers.add_hub_variables(&sources.environment);
        layers
    }

    /// Every key that has a value, in the order of the schema. Without problems in the defaults, that is every key.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        KEYS.iter().filter_map(|key| self.values.get(key.name))
    }

    fn add_profile(&mut self, sources: &Sources) {
        let (name, source) = match (&sources.profile, sources.environment.get(PROFILE_VARIABLE)) {
            (Some(name), _) => (name, Source::Flag("--profile".to_owned())),
            (None, Some(name)) if !name.is_empty() => (name, Source::Environment(PROFILE_VARIABLE.to_owned())),
            (None, _) => return,
        };
        match name.parse::<Profile>() {
            Ok(profile) => self.add_toml(&Source::Profile(profile), profile.toml()),
            Err(error) => self
                .problems
                .push(Problem::with(&source, format!("unknown profile {name:?}: {error}"))),
        }
    }

    fn add_file(&mut self, path: &Path) {
        let source = Source::File(path.to_owned());
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
        match read {
            Err(error) => self
                .problems
                .push(Problem::with(&source, format!("the file cannot be read: {error}"))),
            Ok(_) if text.len() as u64 > FILE_BYTES_MAX => {
                let problem = format!("the file is larger than {FILE_BYTES_MAX} bytes");
                self.problems.push(Problem::with(&source, problem));
            }
            Ok(_) => self.add_toml(&source, &text),
        }
    }

    fn add_toml(&mut self, source: &Source, text: &str) {
        match config::File::from_str(text, FileFormat::Toml).collect() {
            Ok(table) => self.add_table(source, "", &table, &dates::dates(text)),
            Err(error) => self
                .problems
                .push(Problem::with(source, without_excerpt(&error.to_string()))),
        }
    }

    fn add_table(
        &mut self,
        source: &Source,
        section: &str,
        table: &config::Map<String, config::Value>,
        dates: &BTreeMap<String, String>,
    ) {
        // The table's own order is that of a hash: sorted, the problems come out the same each time.
        let sorted: BTreeMap<_, _> = table.iter().collect();
        for (leaf, value) in sorted {
            let name = if section.is_empty() {
                leaf.clone()
            } else {
                format!("{section}.{leaf}")
            };
            match &value.kind {
                config::ValueKind::Table(inner) if schema::is_section(&name) || !inner.is_empty() => {
                    self.add_table(source, &name, inner, dates);
                }
                _ => self.add(source, &name, |key| match dates.get(&name) {
                    Some(date) => Err(Value::date_problem(key, date)),
                    None => Value::from_toml(key, value),
                }),
            }
        }
    }

    fn add_variable(&mut self, name: &str, value: &str) {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            return;
        };
        if name == PROFILE_VARIABLE || name == FILE_VARIABLE || kubernetes::is_service_link(rest, value) {
            return;
        }
        let source = Source::Environment(name.to_owned());
        let key_name = rest.to_lowercase().replace("__", ".");
        self.add(&source, &key_name, |key| Value::from_text(key, value));
    }

    /// What the hub's own tools read counts where none of our layers says anything.
    fn add_hub_variables(&mut self, environment: &BTreeMap<String, String>) {
        for (key_name, variable) in [("model.hub_token", "HF_TOKEN"), ("model.hub_endpoint", "HF_ENDPOINT")] {
            let unset = self.values.get(key_name).is_some_and(|entry| entry.value.is_empty());
            if let Some(text) = environment.get(variable).filter(|text| unset && !text.is_empty()) {
                let source = Source::Environment(variable.to_owned());
                self.add(&source, key_name, |key| Value::from_text(key, text));
            }
        }
        // Any other text means "no" to the hub's tools, so it does here.
        let offline = environment
            .get("HF_HUB_OFFLINE")
            .is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true"));
        let unset = self
            .values
            .get("model.hub_offline")
            .is_some_and(|entry| entry.source == Source::Default);
        if offline && unset {
            let source = Source::Environment("HF_HUB_OFFLINE".to_owned());
            self.add(&source, "model.hub_offline", |_| Ok(Value::Switch(true)));
        }
    }

    fn add(&mut self, source: &Source, name: &str, read: impl FnOnce(&Key) -> Result<Value, String>) {
        let Some(key) = schema::find(name) else {
            self.problems.push(Problem::unknown_key(source, name));
            return;
        };
        match read(key) {
            Ok(value) => {
                let entry = Entry {
                    key,
                    value,
                    source: source.clone(),
                };
                self.values.insert(key.name, entry);
            }
            Err(text) => self.problems.push(Problem::with(source, text)),
        }
    }
}

/// The parser's message without the excerpt of the file in it: the line in question may hold a password.
fn without_excerpt(message: &str) -> String {
    let is_excerpt = |line: &&str| {
        line.trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start()
            .starts_with('|')
    };
    let lines: Vec<&str> = message.lines().filter(|line| !is_excerpt(line)).collect();
    lines.join(": ")
}
