//! Settings, layered and then validated.
//!
//! Defaults (`config/default.toml`) → profile → file → environment → flags. Every layer is read and checked against the
//! schema, the strongest value of each key is taken (`raw`), and only what goes together becomes a [`Config`].
//! All problems are told at once, and nothing is opened (but the configuration file), bound or loaded before.
//!
//! A new key: a line in `schema.rs`, its comment and default in `config/default.toml`, a field in `raw.rs` and
//! `settings.rs`, its conversion in `validate.rs`, and a row of `docs/configuration.md` (`config reference` writes it).
//! Tests fail where one of them is forgotten.

mod choices;
mod dates;
mod forms;
mod key;
mod kubernetes;
mod layers;
mod log_filter;
mod problem;
mod raw;
mod reference;
mod schema;
mod secret;
mod settings;
#[cfg(test)]
mod tests;
mod validate;
mod value;
mod warnings;

pub use crate::choices::{DeviceChoice, KernelsChoice, PrecisionChoice, TokenizerChoice, UnknownChoice};
pub use choices::{FallbackScores, LogFormat, OnFailure, Profile};
pub use layers::{Flag, Sources};
pub(crate) use log_filter::trimmed as trimmed_log_filter;
pub use problem::{ConfigError, Problem, Source};
pub use reference::{REFERENCE_BEGIN, REFERENCE_END, reference};
pub use secret::{Secret, redact_url};
pub use settings::{
    BatchConfig, CacheConfig, Config, GatewayConfig, HealthConfig, LimitsConfig, LogConfig, ModelConfig, NatsConfig,
    QueueConfig, ServerUrl, ShutdownConfig, TokenizeConfig, TracesConfig,
};

/// The key whose default gives way to any free port.
const HEALTH_LISTEN: &str = "health.listen";

/// A configuration, and how it came about.
pub struct Loaded {
    /// What the program runs with.
    pub config: Config,
    /// Every key in order, with its value as it may be shown and the layer that set it.
    pub settings: Vec<Setting>,
}

/// One key of a [`Loaded`] configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The part of the name before the dot; empty at the top.
    pub section: &'static str,
    /// The part after the dot.
    pub key: &'static str,
    /// The value, without secrets.
    pub value: serde_json::Value,
    /// The layer that set it.
    pub source: Source,
}

/// Reads and validates the configuration.
///
/// # Errors
/// Everything that is wrong with it: unknown keys and profiles, wrong kinds, values out of range, settings that do not
/// go together, an unreadable file. Each names the key, the value unless secret, what is allowed, and its source.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut layers = layers::Layers::gather(sources);
    let mut problems = std::mem::take(&mut layers.problems);
    // Values that were wrong are left out, so the weaker ones below them stand in, and the rest is still looked at.
    let validated = raw(&layers)
        .map_err(|problem| vec![problem])
        .and_then(validate::validate);
    match validated {
        Ok(mut config) if problems.is_empty() => {
            let mut entries = layers.entries();
            config.health.listen_is_default =
                entries.any(|entry| entry.key.name == HEALTH_LISTEN && entry.source == Source::Default);
            let settings = layers.entries().map(Setting::from).collect();
            Ok(Loaded { config, settings })
        }
        Ok(_) => Err(ConfigError { problems }),
        Err(more) => {
            problems.extend(more);
            Err(ConfigError { problems })
        }
    }
}

fn raw(layers: &layers::Layers) -> Result<raw::Raw, Problem> {
    layers
        .entries()
        .try_fold(config::Config::builder(), |builder, entry| {
            builder.set_override(entry.key.name, entry.value.clone())
        })
        .and_then(|builder| builder.build()?.try_deserialize())
        .map_err(|error| Problem::together(error.to_string()))
}

impl Default for Config {
    /// The built-in defaults alone.
    fn default() -> Self {
        match load(&Sources::default()) {
            Ok(loaded) => loaded.config,
            // Without other sources this depends on the embedded file only, and a test loads it.
            Err(error) => unreachable!("the built-in defaults are valid: {error}"),
        }
    }
}

impl From<&layers::Entry> for Setting {
    fn from(entry: &layers::Entry) -> Self {
        Self {
            section: entry.key.section(),
            key: entry.key.leaf(),
            value: entry.value.shown(entry.key),
            source: entry.source.clone(),
        }
    }
}
