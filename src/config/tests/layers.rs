//! Which layer wins, and how each is written.

use std::time::Duration;

use super::*;

#[test]
fn the_defaults_are_valid_and_as_promised() {
    let config = Config::default();
    assert!(config.enabled);
    assert_eq!(
        config.nats.urls.iter().map(ServerUrl::expose).collect::<Vec<_>>(),
        ["nats://127.0.0.1:4222"]
    );
    assert_eq!(
        (config.nats.subject.as_str(), config.nats.queue_group.as_str()),
        ("rerank.v1.score", "rerank")
    );
    assert_eq!(config.nats.service_name, "rerank");
    assert_eq!(config.nats.connect_timeout, Duration::from_secs(5));
    assert_eq!(config.nats.password, None);
    assert_eq!(config.model.id, "builtin");
    assert_eq!(
        (config.model.device, config.model.precision),
        (DeviceChoice::Auto, PrecisionChoice::Auto)
    );
    assert_eq!((config.model.max_length, config.model.threads), (None, None));
    assert_eq!(config.batch.window, Duration::from_millis(2));
    assert_eq!(config.batch.tokens_max, None);
    assert_eq!(
        config.queue,
        QueueConfig {
            requests_max: 512,
            pairs_max: 65_536,
            bytes_max: 64 << 20,
            leave_at: Some(0.8),
            rejoin_at: 0.5,
            dwell_min: std::time::Duration::from_millis(50),
        }
    );
    assert_eq!(config.limits.timeout_max, Duration::from_secs(60));
    assert_eq!(config.log.format, LogFormat::Text);
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
    assert_eq!(length(&sources), (Some(128), Source::Profile(Profile::Minimal)));
    sources.file = Some(path.clone());
    assert_eq!(length(&sources), (Some(200), Source::File(path)));
    sources
        .environment
        .insert("RERANK_MODEL__MAX_LENGTH".to_owned(), "300".to_owned());
    assert_eq!(
        length(&sources),
        (Some(300), Source::Environment("RERANK_MODEL__MAX_LENGTH".to_owned()))
    );
    sources.flags = with_set(&[("model.max_length", "400")]).flags;
    assert_eq!(length(&sources), (Some(400), Source::Flag("--set".to_owned())));
    sources.flags.extend(with_set(&[("model.max_length", "0")]).flags);
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
        found.nats.urls.iter().map(ServerUrl::expose).collect::<Vec<_>>(),
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

    let problem = only_problem(&with_environment(&[("RERANK_NATS__URL", "nats://a,,nats://b")]));
    assert!(
        problem.starts_with("nats.url = \"\": expects a list, each of it a URL"),
        "{problem}"
    );
    assert!(only_problem(&with_environment(&[("RERANK_NATS__URL", "")])).contains("has 0 items"));
    let many = vec!["nats://a"; 65].join(",");
    assert!(only_problem(&with_set(&[("nats.url", &many)])).contains("has 65 items: expects 1 to 64"));
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
fn the_hubs_own_variables_stand_in() {
    let hub = [
        ("HF_TOKEN", "t"),
        ("HF_ENDPOINT", "https://mirror.example"),
        ("HF_HUB_OFFLINE", "1"),
    ];
    let model = config(&with_environment(&hub)).model;
    assert_eq!(model.hub_token.as_ref().map(Secret::expose), Some("t"));
    assert_eq!(model.hub_endpoint.as_deref(), Some("https://mirror.example"));
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

    assert!(!config(&with_environment(&[("HF_HUB_OFFLINE", "0")])).model.hub_offline);
    let problem = only_problem(&with_environment(&[("HF_ENDPOINT", "mirror.example")]));
    assert!(
        problem.starts_with("model.hub_endpoint = ") && problem.ends_with("(environment HF_ENDPOINT)"),
        "{problem}"
    );
}

#[test]
fn reply_prefixes_are_read_as_permissions_write_them_too() {
    assert!(config(&with_set(&[])).nats.reply_prefixes.is_empty());
    let found = config(&with_set(&[("nats.reply_prefixes", "_INBOX.>,_INBOX_caller,a.b.>")]));
    assert_eq!(found.nats.reply_prefixes, ["_INBOX", "_INBOX_caller", "a.b"]);
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
        (connection.token, connection.credentials_file, connection.nkey_seed_file),
        (None, None, None)
    );
    assert_eq!(connection.tls_ca_file, Some(PathBuf::from("ca.pem")));
    assert_eq!(connection.tls_cert_file, Some(PathBuf::from("c.pem")));
    assert_eq!(connection.tls_key_file, Some(PathBuf::from("k.pem")));
    assert!(connection.tls_required);
    assert_eq!(connection.inbox_prefix.as_deref(), Some("_INBOX_rerank"));
    assert_eq!(connection.connect_timeout, Duration::from_millis(1500));
}
