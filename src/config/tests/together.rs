//! Settings that do not go together, and those that hardly do.

use super::*;

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
            assert!(problem.starts_with("only one way to log in may be set"), "{problem}");
        }
        let problem = only_problem(&with_set(&[*one, ("nats.user", "u"), ("nats.password", "p")]));
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
    assert_eq!(problem, "nats.tls_cert_file is set without nats.tls_key_file");
    let problem = only_problem(&with_set(&[("nats.tls_key_file", "k.pem")]));
    assert_eq!(problem, "nats.tls_key_file is set without nats.tls_cert_file");
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
    let problem = only_problem(&with_set(&[("batch.tokens_max", "255"), ("model.max_length", "256")]));
    assert!(
        problem.starts_with("batch.tokens_max = 255 is below model.max_length = 256"),
        "{problem}"
    );
    config(&with_set(&[("batch.tokens_max", "256"), ("model.max_length", "256")]));
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
    assert_eq!(warned(&[("nats.token", "t")]), "", "it stays on this machine");
    assert!(warned(&[("shutdown.grace_ms", "4999")]).contains("shutdown.grace_ms = 4999 is below"));
    let slow = warned(&[("batch.window_ms", "100"), ("limits.default_timeout_ms", "150")]);
    assert!(slow.contains("batch.window_ms = 100 is more than half"));
    assert!(warned(&[("model.device", "cpu"), ("model.precision", "fp16")]).contains("slow on a CPU"));
    assert!(warned(&[("model.fallback_ids", "builtin")]).contains("names model.id"));
    assert!(warned(&[("model.hub_endpoint", "http://hub"), ("model.hub_token", "t")]).contains("can be read"));
}
