//! What is said of a value that is wrong, and what is not said.

use super::*;
use crate::config::key::Kind;
use crate::config::schema::KEYS;

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
    assert!(problem.ends_with("(environment RERANK_PROFILE)"), "{problem}");
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
        found.iter().any(|problem| problem.starts_with("unknown key nats;")),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|problem| problem.starts_with("unknown key log.level.x; did you mean log.level?"))
    );
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
        for value in wrong.into_iter().filter(|value| *value != 0 || zero.is_none()) {
            let problem = problems(&with_environment(&[(&key.variable(), &value.to_string())])).remove(0);
            let expected = format!("{} = {value}: expects {}", key.name, key.allowed());
            assert!(
                problem.starts_with(&expected) && problem.ends_with(&format!("({})", source(key))),
                "{problem}"
            );
        }
        assert_eq!(key.kind_name(), "integer");
    }
    fn source(key: &key::Key) -> Source {
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
    let text =
        "enabled = \"yes\"\n[batch]\nwindow_ms = 2.5\n[model]\naliases = [1, 2]\nid = true\n[log]\nlevel = [\"a\"]\n";
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
fn a_date_is_no_text() {
    let text = "[model]\nrevision = 2026-01-31\naliases = [\"a\", 07:32:00]\nmax_length = 2026-01-31\n[nats]\ntoken = 1979-05-27T07:32:00Z\n";
    let (_kept, path) = file(text);
    let found = problems(&Sources {
        file: Some(path.clone()),
        ..Sources::default()
    });
    let place = format!("(file {})", path.display());
    for expected in [
        format!(
            "model.revision = 2026-01-31: expects a branch, tag or commit; 2026-01-31 is a date or a time in TOML, as a text it \
             is written \"2026-01-31\" {place}"
        ),
        "model.aliases = 07:32:00: expects a list".to_owned(),
        "model.max_length = 2026-01-31: expects 8 to 65536 tokens".to_owned(),
        format!("in TOML: put it in quotes {place}"),
    ] {
        assert!(
            found.iter().any(|problem| problem.contains(&expected)),
            "{expected} in {found:?}"
        );
    }
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(!found.join("").contains("1979"), "it was meant as a secret");
    let (_kept, path) = file("[model]\nrevision = \"2026-01-31\"\n");
    config(&Sources {
        file: Some(path),
        ..Sources::default()
    });
}

#[test]
fn a_slip_in_the_log_level_is_answered_with_its_neighbour() {
    assert_eq!(
        only_problem(&with_set(&[("log.level", "inf")])),
        "log.level = \"inf\": expects a filter such as `info` or `info,nats_rerank=debug`; `inf` is no level, did you mean \
         `info`? (a target is written `inf=info`) (flag --set)"
    );
    assert_eq!(
        config(&with_set(&[("log.level", "info,nats_rerank=debug")])).log.level,
        "info,nats_rerank=debug"
    );
}

#[test]
fn ports_are_checked_wherever_one_stands() {
    for (key, value) in [
        ("health.listen", "127.0.0.1:99999"),
        ("gateway.listen", "[::1]:65536"),
        ("nats.url", "nats://db:4222,nats://ann:hunter2@db:70000"),
        ("model.hub_endpoint", "https://hub.example:70000/mirror"),
        ("traces.otlp_endpoint", "http://collector:70000"),
        ("gateway.cors_origins", "https://shop.example:70000"),
    ] {
        let problem = problems(&with_set(&[(key, value)])).remove(0);
        assert!(
            problem.starts_with(&format!("{key} = ")) && problem.contains(" is above 65535"),
            "{problem}"
        );
        assert!(!problem.contains("hunter2"), "{problem}");
    }
    for (key, value) in [("nats.url", "nats://db:0"), ("model.hub_endpoint", "http://hub:0")] {
        let problem = only_problem(&with_set(&[(key, value)]));
        assert!(
            problem.contains("port 0 is none that a server can be reached at"),
            "{problem}"
        );
    }
    config(&with_set(&[
        ("health.listen", "127.0.0.1:0"),
        ("gateway.listen", "127.0.0.1:0"),
    ]));
}

#[test]
fn origins_are_kept_as_browsers_send_them() {
    let origins = |text: &str| {
        config(&with_set(&[("gateway.cors_origins", text)]))
            .gateway
            .cors_origins
    };
    assert_eq!(
        origins("HTTPS://Shop.Example:443/, http://bücher.example:3000"),
        ["https://shop.example", "http://xn--bcher-kva.example:3000"]
    );
    let problem = only_problem(&with_set(&[("gateway.cors_origins", "https://*.shop.example")]));
    assert!(problem.contains("an origin is one host"), "{problem}");
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
        ("nats.reply_prefixes", ">"),
        ("nats.reply_prefixes", "_INBOX.*"),
        ("nats.reply_prefixes", "_INBOX.,_INBOX_b"),
        ("nats.reply_prefixes", "_INBOX,$KV.switch"),
        ("nats.connection_name", "a\nb"),
        ("model.id", " "),
        ("model.revision", "../../etc"),
        ("model.hub_endpoint", "hub.example"),
        ("model.device", "gpu"),
        ("model.precision", "int4"),
        ("model.kernels", "sse2"),
        ("model.tokenizer", "fast"),
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
        let (_kept, path) = file(&format!("[{}]\n{} = [\"hunter2\"]\n", key.section(), key.leaf()));
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

    let problem = only_problem(&with_set(&[("model.hub_endpoint", "http://ann:hunter2@hub")]));
    assert!(
        problem.contains("http://***@hub") && !problem.contains("hunter2"),
        "{problem}"
    );

    let sources = with_environment(&[
        ("RERANK_NATS__URL", "nats://ann:hunter2@db"),
        ("RERANK_MODEL__HUB_TOKEN", "hunter2"),
    ]);
    let loaded = load(&sources).unwrap_or_else(|error| panic!("{error}"));
    let shown = format!("{:?}{:?}", loaded.settings, loaded.config.nats);
    assert!(shown.contains("nats://***@db") && !shown.contains("hunter2"), "{shown}");
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
    assert!(text.ends_with("nats.user is set without nats.password"), "{text}");
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
