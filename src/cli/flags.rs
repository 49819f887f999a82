//! The flags that say where settings come from, and those that set one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgMatches, Args, FromArgMatches};

use super::CliError;
use crate::config::{self, Config, Flag, Loaded, Sources};

// `--profile`, `--config` and `--set`, as collected from every level of the command line. (Not a doc comment: that would
// become the description of every command it is added to.)
#[derive(Args, Default)]
#[command(next_help_heading = "Settings")]
pub(super) struct SettingFlags {
    /// Start from a profile's settings: dev, production, minimal or gpu [env: RERANK_PROFILE]
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Read settings from a TOML file; they win over the profile's [env: RERANK_CONFIG]
    #[arg(long = "config", value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Set one key; wins over files and the environment. Lists are comma-separated. May be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

impl SettingFlags {
    pub(super) fn augment(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }

    /// Adds what one level of the command line says; it wins over the levels before.
    pub(super) fn add(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let level = Self::from_arg_matches(matches)?;
        self.profile = level.profile.or(self.profile.take());
        self.config_file = level.config_file.or(self.config_file.take());
        self.set.extend(level.set);
        Ok(())
    }

    pub(super) fn with_environment(
        self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Global, CliError> {
        let mut environment = BTreeMap::new();
        for (name, value) in variables {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => {
                    environment.insert(name, value);
                }
                (Ok(name), Err(_)) if name.starts_with("RERANK_") => {
                    return Err(CliError::Usage(format!(
                        "bad configuration: {name} is not UTF-8 (environment)"
                    )));
                }
                // Other programs' variables.
                _ => {}
            }
        }
        let flags = self
            .set
            .into_iter()
            .map(|(key, value)| Flag {
                name: "--set".to_owned(),
                key,
                value,
            })
            .collect();
        Ok(Global {
            sources: Sources {
                profile: self.profile,
                file: self.config_file,
                environment,
                flags,
            },
        })
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expects KEY=VALUE".to_owned()),
    }
}

/// Where this run takes its settings from: profile, file, environment and `--set`.
pub struct Global {
    sources: Sources,
}

impl Global {
    /// Reads and validates the configuration.
    ///
    /// # Errors
    /// [`CliError::Usage`] with everything that is wrong with it.
    pub fn load(&self) -> Result<Config, CliError> {
        self.load_with(Vec::new()).map(|loaded| loaded.config)
    }

    /// The same with a subcommand's own flags, which win over `--set`; also tells where each value comes from.
    ///
    /// # Errors
    /// [`CliError::Usage`] with everything that is wrong with it.
    pub fn load_with(&self, flags: Vec<Flag>) -> Result<Loaded, CliError> {
        let mut sources = self.sources.clone();
        sources.flags.extend(flags);
        config::load(&sources).map_err(|error| CliError::Usage(error.to_string()))
    }
}

/// The flags that were given, each with the key it sets.
pub(super) fn given(flags: &[(&str, &str, &Option<String>)]) -> Vec<Flag> {
    flags
        .iter()
        .filter_map(|&(name, key, value)| {
            Some(Flag {
                name: name.to_owned(),
                key: key.to_owned(),
                value: value.clone()?,
            })
        })
        .collect()
}

/// Plain flags for the settings that a caller (`query`, `bench`, `top`) is most often started with. For
/// [`Global::load_with`].
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Settings")]
pub struct CallerFlags {
    /// NATS servers, comma-separated (nats.url)
    #[arg(long, value_name = "URL")]
    pub nats_url: Option<String>,
    /// The workers' subject: one for each model (nats.subject)
    #[arg(long, value_name = "SUBJECT")]
    pub subject: Option<String>,
}

impl CallerFlags {
    /// The flags that were given, each with the key it sets.
    pub fn flags(&self) -> Vec<Flag> {
        given(&[
            ("--nats-url", "nats.url", &self.nats_url),
            ("--subject", "nats.subject", &self.subject),
        ])
    }
}

/// Plain flags for the settings that a worker is most often started with. For [`Global::load_with`].
#[cfg(feature = "worker")]
#[derive(Args, Clone, Debug, Default)]
pub struct WorkerFlags {
    /// NATS servers, comma-separated (nats.url)
    #[arg(long, value_name = "URL")]
    pub nats_url: Option<String>,
    /// `builtin`, a folder, or a hub id (model.id)
    #[arg(long, value_name = "ID")]
    pub model: Option<String>,
    /// auto, cpu, cuda, cuda:N or mps (model.device)
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// auto, fp32, fp16, bf16 or int8 (model.precision)
    #[arg(long, value_name = "PRECISION")]
    pub precision: Option<String>,
}

#[cfg(feature = "worker")]
impl WorkerFlags {
    /// The flags that were given, each with the key it sets.
    pub fn flags(&self) -> Vec<Flag> {
        given(&[
            ("--nats-url", "nats.url", &self.nats_url),
            ("--model", "model.id", &self.model),
            ("--device", "model.device", &self.device),
            ("--precision", "model.precision", &self.precision),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "worker")]
    #[test]
    fn plain_flags_win_over_set_and_name_themselves() {
        let flags = SettingFlags {
            set: vec![("nats.url".to_owned(), "nats://a".to_owned())],
            ..SettingFlags::default()
        };
        let global = flags.with_environment([]).unwrap_or_else(|error| panic!("{error}"));
        let plain = WorkerFlags {
            nats_url: Some("nats://b,nats://c".to_owned()),
            device: Some("cuda:1".to_owned()),
            ..WorkerFlags::default()
        };
        let loaded = global
            .load_with(plain.flags())
            .unwrap_or_else(|error| panic!("{error}"));
        let urls: Vec<_> = loaded.config.nats.urls.iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["nats://b", "nats://c"]);
        assert_eq!(loaded.config.model.device, config::DeviceChoice::Cuda(1));

        let wrong = WorkerFlags {
            precision: Some("fp8".to_owned()),
            ..WorkerFlags::default()
        };
        let error = global
            .load_with(wrong.flags())
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(
            error.contains("model.precision") && error.contains("(flag --precision)"),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_of_ours_must_be_utf8_and_others_need_not() {
        use std::os::unix::ffi::OsStringExt;
        let broken = || OsString::from_vec(vec![0xff]);
        assert!(
            SettingFlags::default()
                .with_environment([("OTHER".into(), broken())])
                .is_ok()
        );
        let error = SettingFlags::default()
            .with_environment([("RERANK_MODEL__ID".into(), broken())])
            .err();
        assert!(matches!(error, Some(CliError::Usage(text)) if text.contains("RERANK_MODEL__ID")));
    }
}
