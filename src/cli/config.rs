//! `config print|check|reference`: the settings, where they come from, and whether they are valid.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::{Subcommand, ValueEnum};

use super::{CliError, Global, print};
use crate::config::{Loaded, Setting, Source, reference};

/// What `config` reads from the command line.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show every setting with the layer that set it; secrets are hidden
    Print {
        /// How to write it
        #[arg(long, value_enum, default_value_t = Format::Toml)]
        format: Format,
    },
    /// Validate the settings and point out what looks like a mistake
    Check,
    /// Show every key with its type, default, range and meaning, as Markdown
    Reference,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// TOML with comments
    Toml,
    /// JSON: each key an object with value and source
    Json,
}

/// Runs the subcommand.
///
/// # Errors
/// [`CliError::Usage`] when the configuration is not valid.
pub fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let text = match args.action {
        Action::Reference => reference(),
        Action::Print { format: Format::Toml } => toml(&global.load_with(Vec::new())?.settings),
        Action::Print { format: Format::Json } => json(&global.load_with(Vec::new())?.settings),
        Action::Check => summary(&global.load_with(Vec::new())?),
    };
    print(&text)
}

/// A file that `--config` would take again, but for secrets.
fn toml(settings: &[Setting]) -> String {
    let mut text = String::new();
    let mut section = "";
    for setting in settings {
        // Writing to a String cannot fail.
        if setting.section != section {
            section = setting.section;
            let _ = writeln!(text, "\n[{section}]");
        }
        // JSON's way to write a boolean, an integer, a string or a list of strings is also TOML's.
        let assignment = format!("{} = {}", setting.key, setting.value);
        let _ = writeln!(text, "{assignment:<40} # {}", one_line(&setting.source));
    }
    text
}

/// A path may hold a line break, and a comment ends there.
fn one_line(source: &Source) -> String {
    source.to_string().replace(char::is_control, " ")
}

fn json(settings: &[Setting]) -> String {
    let mut root = serde_json::Map::new();
    for setting in settings {
        let entry = serde_json::json!({ "value": setting.value, "source": setting.source.to_string() });
        if setting.section.is_empty() {
            root.insert(setting.key.to_owned(), entry);
            continue;
        }
        let section = root.entry(setting.section).or_insert_with(|| serde_json::json!({}));
        section[setting.key] = entry;
    }
    format!("{:#}\n", serde_json::Value::Object(root))
}

fn summary(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let mut layers: BTreeMap<u8, (&str, usize)> = BTreeMap::new();
    for setting in &loaded.settings {
        let (rank, name) = match setting.source {
            Source::Default => (0, "default"),
            Source::Profile(_) => (1, "profile"),
            Source::File(_) => (2, "file"),
            Source::Environment(_) => (3, "environment"),
            Source::Flag(_) => (4, "flags"),
        };
        layers.entry(rank).or_insert((name, 0)).1 += 1;
    }
    let layers: Vec<String> = layers.values().map(|(name, count)| format!("{name} {count}")).collect();
    let urls: Vec<String> = config.nats.urls.iter().map(ToString::to_string).collect();
    let (model, nats) = (&config.model, &config.nats);
    let mut text = format!(
        "ok\n  model     {} (device {}, precision {})\n  requests  {} in queue group {}\n  servers   {}\n  settings  {}\n",
        model.id,
        model.device,
        model.precision,
        nats.subject,
        nats.queue_group,
        urls.join(", "),
        layers.join(", ")
    );
    for warning in config.warnings().into_iter().chain(config.missing_files()) {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn loaded(variables: &[(&str, &str)], profile: Option<&str>) -> Loaded {
        let environment = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let sources = Sources {
            environment,
            profile: profile.map(str::to_owned),
            ..Sources::default()
        };
        load(&sources).unwrap_or_else(|error| panic!("{error}"))
    }

    const LOGIN: &[(&str, &str)] = &[
        ("RERANK_NATS__USER", "ann"),
        ("RERANK_NATS__PASSWORD", "hunter2"),
        ("RERANK_NATS__URL", "nats://db:4222"),
        ("HF_TOKEN", "hf_secret"),
    ];

    #[test]
    fn printed_toml_names_each_layer_and_hides_secrets() {
        let text = toml(&loaded(LOGIN, Some("minimal")).settings);
        let line = |key: &str| {
            let found = text.lines().find(|line| line.starts_with(&format!("{key} = ")));
            found
                .unwrap_or_else(|| panic!("{key} is not printed"))
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(line("enabled"), "enabled = true # default");
        assert_eq!(line("max_length"), "max_length = 128 # profile minimal");
        assert_eq!(line("url"), "url = [\"nats://db:4222\"] # environment RERANK_NATS__URL");
        assert_eq!(
            line("password"),
            "password = \"***\" # environment RERANK_NATS__PASSWORD"
        );
        assert_eq!(line("hub_token"), "hub_token = \"***\" # environment HF_TOKEN");
        assert!(!text.contains("hunter2") && !text.contains("hf_secret"));
    }

    #[test]
    fn printed_toml_can_be_read_again() {
        let first = loaded(
            &[("RERANK_NATS__CONNECTION_NAME", "a \"quoted\\\" näme")],
            Some("production"),
        );
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let path = folder.path().join("printed.toml");
        std::fs::write(&path, toml(&first.settings)).unwrap_or_else(|error| panic!("{error}"));
        let again = load(&Sources {
            file: Some(path),
            ..Sources::default()
        });
        let mut expected = first.config;
        // A file that names the address has chosen it.
        assert!(std::mem::take(&mut expected.health.listen_is_default));
        assert_eq!(again.map(|loaded| loaded.config).as_ref(), Ok(&expected));
    }

    #[test]
    fn printed_json_has_value_and_source() {
        let text = json(&loaded(LOGIN, None).settings);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        assert_eq!(value["nats"]["password"]["value"], "***");
        assert_eq!(value["nats"]["user"]["source"], "environment RERANK_NATS__USER");
        assert_eq!(value["batch"]["window_ms"]["value"], 2);
        assert_eq!(value["enabled"]["source"], "default");
        assert!(!text.contains("hunter2"));
    }

    #[test]
    fn the_check_warns_about_a_password_that_can_be_overheard() {
        let text = summary(&loaded(LOGIN, None));
        assert!(text.starts_with("ok\n"), "{text}");
        assert!(
            text.contains("warning: a password or token goes to nats://db:4222 without TLS"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
        assert!(
            !summary(&loaded(&[], None)).contains("warning"),
            "the defaults are nothing to warn of"
        );
    }

    #[test]
    fn the_check_looks_for_the_files_that_are_named() {
        let text = summary(&loaded(
            &[("RERANK_NATS__CREDENTIALS_FILE", "/nonexistent/x.creds")],
            None,
        ));
        assert!(
            text.contains("warning: nats.credentials_file = \"/nonexistent/x.creds\": no such file"),
            "{text}"
        );
    }

    #[test]
    fn the_check_looks_for_the_model_folders_that_are_named() {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let empty = folder.path().display().to_string();
        for (id, says) in [
            ("/nonexistent/model", "no such folder"),
            ("./nonexistent-model", "no such folder"),
            ("../nonexistent/model", "no such folder"),
            ("~/nonexistent-model", "no such folder"),
            ("models/of/mine", "no such folder, and no hub id"),
            (empty.as_str(), "the folder holds no config.json"),
        ] {
            let text = summary(&loaded(&[("RERANK_MODEL__ID", id)], None));
            assert!(text.contains(&format!("warning: model.id = {id:?}: {says}")), "{text}");
            let text = summary(&loaded(&[("RERANK_MODEL__FALLBACK_IDS", id)], None));
            assert!(
                text.contains(&format!("warning: model.fallback_ids = {id:?}: {says}")),
                "{text}"
            );
        }
        std::fs::write(folder.path().join("config.json"), "{}").unwrap_or_else(|error| panic!("{error}"));
        for id in [empty.as_str(), "builtin", "cross-encoder/ms-marco-MiniLM-L6-v2", "bge"] {
            let text = summary(&loaded(&[("RERANK_MODEL__ID", id)], None));
            assert!(!text.contains("warning"), "{text}");
        }
    }
}
