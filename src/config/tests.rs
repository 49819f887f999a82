//! The rules of the whole: layers, messages, cross-checks, and that schema, defaults and documents agree.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::layers::DEFAULT_TOML;
use super::schema::{KEYS, Kind};
use super::*;

/// An environment and nothing else.
fn with_environment(variables: &[(&str, &str)]) -> Sources {
    let pairs = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Sources {
        environment: pairs.collect(),
        ..Sources::default()
    }
}

fn with_set(pairs: &[(&str, &str)]) -> Sources {
    let flags = pairs.iter().map(|(key, value)| Flag {
        name: "--set".to_owned(),
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    });
    Sources {
        flags: flags.collect(),
        ..Sources::default()
    }
}

/// A file of that text, kept as long as the first part is.
fn file(text: &str) -> (tempfile::NamedTempFile, PathBuf) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("room for it");
    let path = file.path().to_owned();
    (file, path)
}

fn config(sources: &Sources) -> Config {
    load(sources)
        .unwrap_or_else(|error| panic!("{error}"))
        .config
}

/// The problems, one a line.
fn problems(sources: &Sources) -> Vec<String> {
    match load(sources) {
        Ok(_) => panic!("should not be valid"),
        Err(error) => error.problems.iter().map(ToString::to_string).collect(),
    }
}

fn only_problem(sources: &Sources) -> String {
    let mut problems = problems(sources);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

#[test]
fn the_defaults_are_valid_and_as_promised() {
    let config = Config::default();
    assert!(config.enabled);
    assert_eq!(
        config
            .nats
            .urls
            .iter()
            .map(ServerUrl::expose)
            .collect::<Vec<_>>(),
        ["nats://127.0.0.1:4222"]
    );
    assert_eq!(
        (
            config.nats.subject.as_str(),
            config.nats.queue_group.as_str()
        ),
        ("rerank.v1.score", "rerank")
    );
    assert_eq!(config.nats.service_name, "rerank");
    assert_eq!(config.nats.connect_timeout, Duration::from_secs(5));
    assert_eq!(config.nats.password, None);
    assert_eq!(config.model.id, "builtin");
    assert_eq!(
        (config.model.device, config.model.precision),
        (Device::Auto, Precision::Auto)
    );
    assert_eq!(
        (config.model.max_length, config.model.threads),
        (None, None)
    );
    assert_eq!(config.batch.window, Duration::from_millis(2));
    assert_eq!(config.batch.tokens_max, None);
    assert_eq!(
        config.queue,
        QueueConfig {
            requests_max: 512,
            pairs_max: 65_536,
            bytes_max: 64 << 20
        }
    );
    assert_eq!(config.limits.timeout_max, Duration::from_secs(60));
    assert_eq!(config.log.format, LogFormat::Text);
}

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
    for threads in [
        minimal.model.threads,
        minimal.tokenize.threads,
        minimal.runtime.threads,
    ] {
        assert_eq!(threads, Some(1));
    }
    assert!(minimal.queue.bytes_max <= 16 << 20);
    let gpu = profile(Profile::Gpu);
    assert_eq!(gpu.model.device, Device::Cuda(0));
    assert!(gpu.batch.window > Config::default().batch.window);
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
        let settings = load(&sources)
            .unwrap_or_else(|error| panic!("{error}"))
            .settings;
        for (default, setting) in defaults.iter().zip(&settings) {
            let told_anew = setting.source != Source::Default && setting.value == default.value;
            // What the profile promises even if the default should change.
            let promised = matches!(
                (setting.section, setting.key),
                ("log", _) | ("shutdown", "grace_ms")
            );
            assert!(
                !told_anew || promised,
                "{profile}: {}.{}",
                setting.section,
                setting.key
            );
        }
    }
}

#[test]
fn each_line_of_a_profile_says_why() {
    for &profile in Profile::ALL {
        let lines: Vec<&str> = profile.toml().lines().collect();
        for (place, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.contains(" = "))
        {
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
fn a_stronger_layer_wins() {
    // Each layer is added to those before; minimal sets max_length to 128.
    let length = |sources: &Sources| {
        let loaded = load(sources).unwrap_or_else(|error| panic!("{error}"));
        let setting = loaded
            .settings
            .into_iter()
            .find(|setting| setting.key == "max_length")
            .expect("a key");
        (loaded.config.model.max_length, setting.source)
    };
    let (_kept, path) = file("[model]\nmax_length = 200\n");
    let mut sources = Sources::default();
    assert_eq!(length(&sources), (None, Source::Default));
    sources.profile = Some("minimal".to_owned());
    assert_eq!(
        length(&sources),
        (Some(128), Source::Profile(Profile::Minimal))
    );
    sources.file = Some(path.clone());
    assert_eq!(length(&sources), (Some(200), Source::File(path)));
    sources
        .environment
        .insert("RERANK_MODEL__MAX_LENGTH".to_owned(), "300".to_owned());
    assert_eq!(
        length(&sources),
        (
            Some(300),
            Source::Environment("RERANK_MODEL__MAX_LENGTH".to_owned())
        )
    );
    sources.flags = with_set(&[("model.max_length", "400")]).flags;
    assert_eq!(
        length(&sources),
        (Some(400), Source::Flag("--set".to_owned()))
    );
    sources
        .flags
        .extend(with_set(&[("model.max_length", "0")]).flags);
    assert_eq!(length(&sources), (None, Source::Flag("--set".to_owned())));
}

#[test]
fn profile_and_file_may_be_named_in_the_environment() {
    let (_kept, path) = file("[batch]\nwindow_ms = 7\n");
    let path = path.display().to_string();
    let sources = with_environment(&[("RERANK_PROFILE", "production"), ("RERANK_CONFIG", &path)]);
    let found = config(&sources);
    assert_eq!(
        (found.log.format, found.batch.window),
        (LogFormat::Json, Duration::from_millis(7))
    );

    let flag = Sources {
        profile: Some("dev".to_owned()),
        ..sources
    };
    assert_eq!(config(&flag).log.format, LogFormat::Text, "the flag wins");

    let empty = with_environment(&[("RERANK_PROFILE", ""), ("RERANK_CONFIG", "")]);
    assert_eq!(config(&empty), Config::default(), "empty is not set");
}

#[test]
fn an_unknown_profile_is_answered_with_the_four() {
    let sources = Sources {
        profile: Some("prod".to_owned()),
        ..Sources::default()
    };
    let problem = only_problem(&sources);
    assert_eq!(
        problem,
        "unknown profile \"prod\": expects one of dev, production, minimal, gpu (flag --profile)"
    );
    let problem = only_problem(&with_environment(&[("RERANK_PROFILE", "Dev")]));
    assert!(
        problem.ends_with("(environment RERANK_PROFILE)"),
        "{problem}"
    );
}

#[test]
fn the_switch_is_read_as_people_write_it() {
    for (text, expected) in [
        ("true", true),
        ("1", true),
        ("ON", true),
        ("false", false),
        ("0", false),
        ("no", false),
    ] {
        assert_eq!(
            config(&with_environment(&[("RERANK_ENABLED", text)])).enabled,
            expected,
            "{text}"
        );
    }
    let problem = only_problem(&with_environment(&[("RERANK_ENABLED", "maybe")]));
    assert_eq!(
        problem,
        "enabled = \"maybe\": expects true or false (environment RERANK_ENABLED)"
    );
}

#[test]
fn lists_are_separated_by_commas_in_text() {
    let found = config(&with_environment(&[
        ("RERANK_NATS__URL", "nats://a:4222, tls://b:4222"),
        ("RERANK_MODEL__FALLBACK_IDS", "one/two,builtin"),
        ("RERANK_MODEL__ALIASES", ""),
    ]));
    assert_eq!(
        found
            .nats
            .urls
            .iter()
            .map(ServerUrl::expose)
            .collect::<Vec<_>>(),
        ["nats://a:4222", "tls://b:4222"]
    );
    assert_eq!(found.model.fallback_ids, ["one/two", "builtin"]);
    assert!(found.model.aliases.is_empty());

    let (_kept, path) = file("[nats]\nurl = [\"nats://a\", \"nats://b\"]\n");
    let found = config(&Sources {
        file: Some(path),
        ..Sources::default()
    });
    assert_eq!(found.nats.urls.len(), 2);

    let problem = only_problem(&with_environment(&[(
        "RERANK_NATS__URL",
        "nats://a,,nats://b",
    )]));
    assert!(
        problem.starts_with("nats.url = \"\": expects a list, each of it a URL"),
        "{problem}"
    );
    assert!(only_problem(&with_environment(&[("RERANK_NATS__URL", "")])).contains("has 0 items"));
    let many = vec!["nats://a"; 65].join(",");
    assert!(
        only_problem(&with_set(&[("nats.url", &many)])).contains("has 65 items: expects 1 to 64")
    );
}

#[test]
fn a_text_that_looks_like_a_number_stays_a_text() {
    let found = config(&with_environment(&[
        ("RERANK_NATS__TOKEN", "0123"),
        ("RERANK_MODEL__REVISION", "1e5"),
    ]));
    assert_eq!(found.nats.token.as_ref().map(Secret::expose), Some("0123"));
    assert_eq!(found.model.revision, "1e5");
}

#[test]
fn an_unknown_key_is_named_with_its_source_and_nearest_neighbour() {
    let (_kept, path) = file("[batch]\nwindow = 3\n[nots]\nurl = \"x\"\n[empty]\n");
    let found = problems(&Sources {
        file: Some(path.clone()),
        ..Sources::default()
    });
    let place = format!("(file {})", path.display());
    assert_eq!(
        found[0],
        format!("unknown key batch.window; did you mean batch.window_ms? {place}")
    );
    assert!(
        found[1].starts_with("unknown key empty;") && found[1].ends_with(&place),
        "{}",
        found[1]
    );
    assert_eq!(
        found[2],
        format!("unknown key nots.url; did you mean nats.url? {place}")
    );

    assert_eq!(
        only_problem(&with_environment(&[("RERANK_NATS_URL", "x")])),
        "unknown variable RERANK_NATS_URL; did you mean RERANK_NATS__URL? (environment RERANK_NATS_URL)"
    );
    let problem = only_problem(&with_environment(&[("RERANK_FOO__BAR", "hunter2")]));
    assert!(
        problem.starts_with("unknown variable RERANK_FOO__BAR; did you mean RERANK_"),
        "{problem}"
    );
    assert!(
        !problem.contains("hunter2"),
        "it could be a secret with a slip in its name"
    );
    assert_eq!(
        only_problem(&with_set(&[("batch.tokens", "1")])),
        "unknown key batch.tokens; did you mean batch.tokens_max? (flag --set)"
    );
}

#[test]
fn a_section_is_no_key_and_a_key_no_section() {
    let (_kept, path) = file("nats = 5\n[log.level]\nx = 1\n");
    let found = problems(&Sources {
        file: Some(path),
        ..Sources::default()
    });
    assert!(
        found
            .iter()
            .any(|problem| problem.starts_with("unknown key nats;")),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|problem| problem.starts_with("unknown key log.level.x; did you mean log.level?"))
    );
}

#[test]
fn variables_of_others_are_left_alone() {
    let others = with_environment(&[
        ("PATH", "/bin"),
        ("RERANKER_X", "1"),
        ("NATS_URL", "nats://elsewhere"),
        ("RERANK_SERVICE_HOST", "10.0.0.7"),
        ("RERANK_PORT_80_TCP", "tcp://10.0.0.7:80"),
    ]);
    assert_eq!(config(&others), Config::default());
}

#[test]
fn numbers_have_ranges_and_the_message_names_them() {
    for key in KEYS {
        let Kind::Integer { min, max, zero, .. } = key.kind else {
            continue;
        };
        let mut wrong = vec![max + 1, -1];
        if min > 0 {
            wrong.push(min - 1);
        }
        for value in wrong
            .into_iter()
            .filter(|value| *value != 0 || zero.is_none())
        {
            let problem =
                problems(&with_environment(&[(&key.variable(), &value.to_string())])).remove(0);
            let expected = format!("{} = {value}: expects {}", key.name, key.allowed());
            assert!(
                problem.starts_with(&expected) && problem.ends_with(&format!("({})", source(key))),
                "{problem}"
            );
        }
        assert_eq!(key.kind_name(), "integer");
    }
    fn source(key: &schema::Key) -> Source {
        Source::Environment(key.variable())
    }
    assert_eq!(
        only_problem(&with_set(&[("batch.window_ms", "1001")])),
        "batch.window_ms = 1001: expects 0 to 1000 ms (flag --set)"
    );
    assert_eq!(
        only_problem(&with_set(&[("model.max_length", "7")])),
        "model.max_length = 7: expects 8 to 65536 tokens, or 0: the model's own limit (flag --set)"
    );
}

#[test]
fn a_wrong_type_is_told_with_its_value() {
    let text = "enabled = \"yes\"\n[batch]\nwindow_ms = 2.5\n[model]\naliases = [1, 2]\nid = true\n[log]\nlevel = [\"a\"]\n";
    let (_kept, path) = file(text);
    let found = problems(&Sources {
        file: Some(path),
        ..Sources::default()
    });
    for expected in [
        "enabled = \"yes\": expects true or false",
        "batch.window_ms = 2.5: expects 0 to 1000 ms",
        "model.aliases = a list with something else than strings: expects a list",
        "model.id = true: expects `builtin`",
        "log.level = a list: expects a filter",
    ] {
        assert!(
            found.iter().any(|problem| problem.starts_with(expected)),
            "{expected} in {found:?}"
        );
    }
    assert_eq!(found.len(), 5, "{found:?}");
    for text in ["", "2ms", "2.0", "99999999999999999999"] {
        let problem = only_problem(&with_environment(&[("RERANK_BATCH__WINDOW_MS", text)]));
        assert!(
            problem.starts_with(&format!("batch.window_ms = {text:?}: expects")),
            "{problem}"
        );
    }
}

#[test]
fn texts_have_forms() {
    for (key, wrong) in [
        ("nats.url", "http://127.0.0.1"),
        ("nats.subject", "rerank.*"),
        ("nats.subject", "rerank..score"),
        ("nats.subject", ""),
        ("nats.queue_group", "re rank"),
        ("nats.service_name", "re.rank"),
        ("nats.inbox_prefix", "_INBOX.>"),
        ("nats.connection_name", "a\nb"),
        ("model.id", " "),
        ("model.revision", "../../etc"),
        ("model.hub_endpoint", "hub.example"),
        ("model.device", "gpu"),
        ("model.precision", "int8"),
        ("log.format", "pretty"),
        ("log.level", "nats_rerank=loud"),
    ] {
        let problem = only_problem(&with_set(&[(key, wrong)]));
        assert!(
            problem.starts_with(&format!("{key} = ")) && problem.contains(": expects "),
            "{problem}"
        );
    }
    let long = "x".repeat(5000);
    let problem = only_problem(&with_set(&[("model.id", &long)]));
    assert!(problem.len() < 300, "a long value is cut in the message");
}

#[test]
fn secrets_are_in_no_message_and_no_output() {
    let hidden = "hunter2\u{7}";
    for key in KEYS.iter().filter(|key| key.secret) {
        let problem = problems(&with_set(&[(key.name, hidden)])).remove(0);
        assert!(
            problem.starts_with(&format!("{} = ***: expects", key.name)),
            "{problem}"
        );
        let (_kept, path) = file(&format!(
            "[{}]\n{} = [\"hunter2\"]\n",
            key.section(),
            key.leaf()
        ));
        let problem = problems(&Sources {
            file: Some(path),
            ..Sources::default()
        })
        .remove(0);
        assert!(problem.contains("= ***: expects"), "{problem}");
    }
    let problem = only_problem(&with_set(&[("nats.url", "nats://ann:hunter2@db:99999")]));
    assert!(
        problem.contains("nats://***@db:99999") && !problem.contains("hunter2"),
        "{problem}"
    );

    let sources = with_environment(&[
        ("RERANK_NATS__URL", "nats://ann:hunter2@db"),
        ("RERANK_MODEL__HUB_TOKEN", "hunter2"),
        (
            "RERANK_MODEL__HUB_ENDPOINT",
            "http://ann:hunter2@hub.example",
        ),
    ]);
    let loaded = load(&sources).unwrap_or_else(|error| panic!("{error}"));
    let shown = format!("{:?}{:?}", loaded.settings, loaded.config.nats);
    assert!(
        shown.contains("nats://***@db") && !shown.contains("hunter2"),
        "{shown}"
    );
    assert!(!format!("{:?}{:?}", loaded.config, loaded.config.warnings()).contains("hunter2"));
}

#[test]
fn a_broken_file_is_told_without_its_text() {
    let (_kept, path) = file("[nats]\npassword = \"hunter2\nuser = \"ann\"\n");
    let problem = only_problem(&Sources {
        file: Some(path.clone()),
        ..Sources::default()
    });
    assert!(
        problem.contains("line 2") && problem.contains(&path.display().to_string()),
        "{problem}"
    );
    assert!(!problem.contains("hunter2"), "{problem}");

    let problem = only_problem(&Sources {
        file: Some("/nonexistent/x.toml".into()),
        ..Sources::default()
    });
    assert!(
        problem.starts_with("the file cannot be read:") && problem.contains("/nonexistent/x.toml"),
        "{problem}"
    );

    let (_kept, path) = file(&"#".repeat((1 << 20) + 1));
    let problem = only_problem(&Sources {
        file: Some(path),
        ..Sources::default()
    });
    assert!(problem.contains("larger than 1048576 bytes"), "{problem}");
}

#[test]
fn all_problems_are_told_together() {
    let (_kept, path) = file("[batch]\nwindow = 3\nwindow_ms = \"two\"\n[nats]\nuser = \"ann\"\n");
    let mut sources = with_environment(&[("RERANK_FOO__BAR", "1")]);
    sources.file = Some(path);
    sources.profile = Some("nope".to_owned());
    sources.flags = with_set(&[("model.precision", "fp8")]).flags;
    let error = load(&sources).err().expect("not valid");
    assert_eq!(error.problems.len(), 6, "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("bad configuration, 6 problems:\n  - unknown profile"),
        "{text}"
    );
    assert!(
        text.ends_with("nats.user is set without nats.password"),
        "{text}"
    );
}

#[test]
fn a_mistake_is_told_even_where_a_stronger_layer_hides_it() {
    let (_kept, path) = file("[batch]\nwindow_ms = -5\n");
    let sources = Sources {
        file: Some(path),
        ..with_set(&[("batch.window_ms", "5")])
    };
    assert!(only_problem(&sources).starts_with("batch.window_ms = -5: expects"));
}

#[test]
fn there_is_one_way_to_log_in() {
    let login = [
        ("nats.credentials_file", "a.creds"),
        ("nats.nkey_seed_file", "a.nk"),
        ("nats.token", "t"),
        ("nats.url", "nats://u:p@db"),
    ];
    for (place, one) in login.iter().enumerate() {
        config(&with_set(&[*one]));
        for other in &login[place + 1..] {
            let problem = only_problem(&with_set(&[*one, *other]));
            assert!(
                problem.starts_with("only one way to log in may be set"),
                "{problem}"
            );
        }
        let problem = only_problem(&with_set(&[
            *one,
            ("nats.user", "u"),
            ("nats.password", "p"),
        ]));
        assert!(problem.contains("nats.user"), "{problem}");
    }
    config(&with_set(&[("nats.user", "u"), ("nats.password", "p")]));
    assert_eq!(
        only_problem(&with_set(&[("nats.user", "u")])),
        "nats.user is set without nats.password"
    );
    assert_eq!(
        only_problem(&with_set(&[("nats.password", "p")])),
        "nats.password is set without nats.user"
    );
}

#[test]
fn certificate_and_key_come_together() {
    let problem = only_problem(&with_set(&[("nats.tls_cert_file", "c.pem")]));
    assert_eq!(
        problem,
        "nats.tls_cert_file is set without nats.tls_key_file"
    );
    let problem = only_problem(&with_set(&[("nats.tls_key_file", "k.pem")]));
    assert_eq!(
        problem,
        "nats.tls_key_file is set without nats.tls_cert_file"
    );
    config(&with_set(&[
        ("nats.tls_key_file", "k.pem"),
        ("nats.tls_cert_file", "c.pem"),
    ]));
}

#[test]
fn no_limit_makes_another_unreachable() {
    for (key, value, expected) in [
        (
            "queue.pairs_max",
            "999",
            "queue.pairs_max = 999 is below limits.documents_max = 1000",
        ),
        (
            "queue.bytes_max",
            "1114111",
            "queue.bytes_max = 1114111 is below limits.query_bytes_max",
        ),
        (
            "limits.timeout_ms_max",
            "4999",
            "limits.default_timeout_ms = 5000 is above limits.timeout_ms_max = 4999",
        ),
    ] {
        let problem = only_problem(&with_set(&[(key, value)]));
        assert!(problem.starts_with(expected), "{problem}");
    }
    config(&with_set(&[
        ("queue.pairs_max", "1000"),
        ("queue.bytes_max", "1114112"),
        ("limits.timeout_ms_max", "5000"),
    ]));
    let problem = only_problem(&with_set(&[
        ("batch.tokens_max", "255"),
        ("model.max_length", "256"),
    ]));
    assert!(
        problem.starts_with("batch.tokens_max = 255 is below model.max_length = 256"),
        "{problem}"
    );
    config(&with_set(&[
        ("batch.tokens_max", "256"),
        ("model.max_length", "256"),
    ]));
}

#[test]
fn the_hubs_own_variables_stand_in() {
    let hub = [
        ("HF_TOKEN", "t"),
        ("HF_ENDPOINT", "https://mirror.example"),
        ("HF_HUB_OFFLINE", "1"),
    ];
    let model = config(&with_environment(&hub)).model;
    assert_eq!(model.hub_token.as_ref().map(Secret::expose), Some("t"));
    assert_eq!(
        model.hub_endpoint.as_deref(),
        Some("https://mirror.example")
    );
    assert!(model.hub_offline);

    let mut sources = with_environment(&hub);
    sources
        .environment
        .insert("RERANK_MODEL__HUB_TOKEN".to_owned(), "ours".to_owned());
    sources.flags = with_set(&[
        ("model.hub_offline", "false"),
        ("model.hub_endpoint", "https://other.example"),
    ])
    .flags;
    let model = config(&sources).model;
    assert_eq!(model.hub_token.as_ref().map(Secret::expose), Some("ours"));
    assert_eq!(model.hub_endpoint.as_deref(), Some("https://other.example"));
    assert!(!model.hub_offline);

    assert!(
        !config(&with_environment(&[("HF_HUB_OFFLINE", "0")]))
            .model
            .hub_offline
    );
    let problem = only_problem(&with_environment(&[("HF_ENDPOINT", "mirror.example")]));
    assert!(
        problem.starts_with("model.hub_endpoint = ")
            && problem.ends_with("(environment HF_ENDPOINT)"),
        "{problem}"
    );
}

#[test]
fn suspicious_combinations_are_warned_of() {
    let warned = |pairs: &[(&str, &str)]| config(&with_set(pairs)).warnings().join("\n");
    assert_eq!(warned(&[]), "");
    assert!(warned(&[("enabled", "false")]).contains("takes no requests"));
    let remote = ("nats.url", "nats://db");
    assert!(warned(&[remote, ("nats.token", "t")]).contains("nats://db without TLS"));
    assert!(warned(&[("nats.url", "nats://u:p@db")]).contains("nats://***@db without TLS"));
    assert_eq!(warned(&[remote]), "");
    assert_eq!(
        warned(&[remote, ("nats.token", "t"), ("nats.tls_required", "true")]),
        ""
    );
    assert_eq!(warned(&[("nats.url", "tls://db"), ("nats.token", "t")]), "");
    assert_eq!(
        warned(&[("nats.token", "t")]),
        "",
        "it stays on this machine"
    );
    assert!(warned(&[("shutdown.grace_ms", "4999")]).contains("shutdown.grace_ms = 4999 is below"));
    let slow = warned(&[
        ("batch.window_ms", "100"),
        ("limits.default_timeout_ms", "150"),
    ]);
    assert!(slow.contains("batch.window_ms = 100 is more than half"));
    assert!(
        warned(&[("model.device", "cpu"), ("model.precision", "fp16")]).contains("slow on a CPU")
    );
    assert!(warned(&[("model.fallback_ids", "builtin")]).contains("names model.id"));
    assert!(
        warned(&[
            ("model.hub_endpoint", "http://hub"),
            ("model.hub_token", "t")
        ])
        .contains("can be read")
    );
}

#[test]
fn connection_settings_carry_everything() {
    let found = config(&with_set(&[
        ("nats.url", "tls://a,tls://b"),
        ("nats.user", "u"),
        ("nats.password", "p"),
        ("nats.tls_ca_file", "ca.pem"),
        ("nats.tls_cert_file", "c.pem"),
        ("nats.tls_key_file", "k.pem"),
        ("nats.tls_required", "true"),
        ("nats.inbox_prefix", "_INBOX_rerank"),
        ("nats.connect_timeout_ms", "1500"),
    ]));
    let connection = found.nats.connection();
    assert_eq!(connection.urls, ["tls://a", "tls://b"]);
    assert_eq!(connection.name, "nats-rerank");
    assert_eq!(
        (connection.user.as_deref(), connection.password.as_deref()),
        (Some("u"), Some("p"))
    );
    assert_eq!(
        (
            connection.token,
            connection.credentials_file,
            connection.nkey_seed_file
        ),
        (None, None, None)
    );
    assert_eq!(connection.tls_ca_file, Some(PathBuf::from("ca.pem")));
    assert_eq!(connection.tls_cert_file, Some(PathBuf::from("c.pem")));
    assert_eq!(connection.tls_key_file, Some(PathBuf::from("k.pem")));
    assert!(connection.tls_required);
    assert_eq!(connection.inbox_prefix.as_deref(), Some("_INBOX_rerank"));
    assert_eq!(connection.connect_timeout, Duration::from_millis(1500));
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
        assert!(
            key.section().is_empty()
                || comments
                    .get(key.section())
                    .is_some_and(|about| !about.is_empty())
        );
        if let Kind::Integer { zero: Some(_), .. } = key.kind {
            assert!(
                comment.contains("0: "),
                "{} does not say what 0 stands for",
                key.name
            );
        }
    }
    let sections = comments
        .keys()
        .filter(|name| schema::is_section(name))
        .count();
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
    let document = include_str!("../../docs/configuration.md");
    let (_, rest) = document
        .split_once(REFERENCE_BEGIN)
        .expect("the mark before the table");
    let (table, _) = rest
        .split_once(REFERENCE_END)
        .expect("the mark after the table");
    assert!(
        table.trim() == reference().trim(),
        "docs/configuration.md is out of date: put the output of `nats-rerank config reference` between its marks"
    );
    for key in KEYS {
        assert_eq!(
            table.matches(&format!("| `{}` |", key.name)).count(),
            1,
            "{}",
            key.name
        );
    }
}
