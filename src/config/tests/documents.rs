//! The schema, the files in `config/` and the document agree.

use super::*;
use crate::config::key::Kind;
use crate::config::layers::DEFAULT_TOML;
use crate::config::schema::KEYS;

#[test]
fn every_profile_is_valid_and_does_what_it_is_for() {
    let profile = |profile: Profile| {
        let sources = Sources {
            profile: Some(profile.to_string()),
            ..Sources::default()
        };
        let loaded = load(&sources).unwrap_or_else(|error| panic!("{profile}: {error}"));
        assert!(
            loaded
                .settings
                .iter()
                .any(|setting| setting.source == Source::Profile(profile))
        );
        let config = loaded.config;
        // A developer's quick stop is meant.
        assert!(
            profile == Profile::Dev || config.warnings().is_empty(),
            "{profile}: {:?}",
            config.warnings()
        );
        config
    };
    assert_eq!(profile(Profile::Dev).log.format, LogFormat::Text);
    assert_eq!(profile(Profile::Production).log.format, LogFormat::Json);
    let minimal = profile(Profile::Minimal);
    assert_eq!(minimal.model.max_length, Some(128));
    for threads in [minimal.model.threads, minimal.tokenize.threads] {
        assert_eq!(threads, Some(1));
    }
    assert!(minimal.queue.bytes_max <= 16 << 20);
    let gpu = profile(Profile::Gpu);
    assert_eq!(gpu.model.device, DeviceChoice::Cuda(0));
    assert!(gpu.queue.requests_max > Config::default().queue.requests_max);
}

#[test]
fn a_profile_repeats_no_default() {
    let defaults = load(&Sources::default())
        .unwrap_or_else(|error| panic!("{error}"))
        .settings;
    for &profile in Profile::ALL {
        let sources = Sources {
            profile: Some(profile.to_string()),
            ..Sources::default()
        };
        let settings = load(&sources).unwrap_or_else(|error| panic!("{error}")).settings;
        for (default, setting) in defaults.iter().zip(&settings) {
            let told_anew = setting.source != Source::Default && setting.value == default.value;
            // What the profile promises even if the default should change.
            let promised = matches!((setting.section, setting.key), ("log", _) | ("shutdown", "grace_ms"));
            assert!(!told_anew || promised, "{profile}: {}.{}", setting.section, setting.key);
        }
    }
}

#[test]
fn each_line_of_a_profile_says_why() {
    for &profile in Profile::ALL {
        let lines: Vec<&str> = profile.toml().lines().collect();
        for (place, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(" = ")) {
            // A group of keys may share one reason.
            let reason = lines[..place]
                .iter()
                .rev()
                .find(|line| !line.contains(" = ") || line.starts_with('#'));
            assert!(
                reason.is_some_and(|reason| reason.starts_with('#')),
                "{profile}: {line}"
            );
        }
    }
}

#[test]
fn the_default_file_holds_every_key_with_a_comment() {
    let comments = reference::comments(DEFAULT_TOML);
    for key in KEYS {
        let comment = comments
            .get(key.name)
            .unwrap_or_else(|| panic!("{} is not in default.toml", key.name));
        assert!(
            comment.len() > 10 && comment.ends_with('.'),
            "{}: {comment:?}",
            key.name
        );
        // A section's comment tells what the section is for.
        assert!(key.section().is_empty() || comments.get(key.section()).is_some_and(|about| !about.is_empty()));
        if let Kind::Integer { zero: Some(_), .. } = key.kind {
            assert!(comment.contains("0: "), "{} does not say what 0 stands for", key.name);
        }
    }
    let sections = comments.keys().filter(|name| schema::is_section(name)).count();
    assert_eq!(
        comments.len(),
        KEYS.len() + sections,
        "default.toml holds something else than keys"
    );
    let order: Vec<&str> = load(&Sources::default())
        .map(|loaded| loaded.settings)
        .unwrap_or_default()
        .iter()
        .map(|s| s.key)
        .collect();
    assert_eq!(order.len(), KEYS.len());
}

#[test]
fn the_document_holds_the_table_of_every_key() {
    let document = include_str!("../../../docs/configuration.md");
    let (_, rest) = document.split_once(REFERENCE_BEGIN).expect("the mark before the table");
    let (table, _) = rest.split_once(REFERENCE_END).expect("the mark after the table");
    assert!(
        table.trim() == reference().trim(),
        "docs/configuration.md is out of date: put the output of `nats-rerank config reference` between its marks"
    );
    for key in KEYS {
        assert_eq!(table.matches(&format!("| `{}` |", key.name)).count(), 1, "{}", key.name);
    }
}
