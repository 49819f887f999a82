//! Tests of connection settings and of what a failed connection says.

use super::*;

const PLAN: ConnectPlan = ConnectPlan {
    retries_max: 0,
    subscription_capacity: 8,
    client_capacity: 8,
};

fn refused(settings: &ConnectionSettings) -> ConnectError {
    let servers = servers(settings);
    servers
        .and_then(|servers| options(settings, &servers, PLAN))
        .expect_err("these settings have a fault")
}

#[test]
fn debug_shows_no_secret() {
    let settings = ConnectionSettings {
        urls: vec![
            "nats://ann:hush@one:4222".into(),
            "hush@two".into(),
            "tls://ann:hu@sh/hush@three".into(),
        ],
        user: Some("ann".into()),
        password: Some("hush".into()),
        token: Some("hush".into()),
        ..ConnectionSettings::default()
    };
    let shown = format!("{settings:?}");
    assert!(!shown.contains("hush"), "{shown}");
    assert!(shown.contains("nats://***@one:4222") && shown.contains("***@two") && shown.contains("tls://***@three"));
}

#[test]
fn a_url_without_secrets_is_shown_as_it_is() {
    for url in ["nats://localhost:4222", "tls://nats.example", "localhost"] {
        assert_eq!(shown_url(url), url);
    }
}

#[test]
fn faults_in_the_settings_are_told_before_anything_is_opened() {
    let with = |change: fn(&mut ConnectionSettings)| {
        let mut settings = ConnectionSettings::default();
        change(&mut settings);
        let error = refused(&settings);
        assert_eq!(error.kind(), ConnectErrorKind::Settings);
        assert!(!error.to_string().contains("hush"), "{error}");
        error.to_string()
    };
    assert!(with(|s| s.urls.clear()).contains("`nats.url` is empty"));
    assert!(with(|s| s.urls = vec!["http://ann:hush@host".into()]).contains("http://***@host"));
    assert!(with(|s| s.urls = vec!["ws://host".into()]).contains("nats://host:port"));
    assert!(with(|s| s.urls = vec!["nats://ann:hush@host:port".into()]).contains("`nats.url`"));
    assert!(with(|s| s.user = Some("ann".into())).contains("`nats.password`"));
    assert!(with(|s| s.token_file = Some("/dev/null".into())).contains("`nats.token_file`: /dev/null is empty"));
    assert!(with(|s| s.password_file = Some("/dev/null".into())).contains("`nats.user`"));
    assert!(with(|s| s.tls_key_file = Some("/dev/null".into())).contains("`nats.tls_cert_file`"));
    assert!(with(|s| s.tls_ca_file = Some("/nonexistent/ca.pem".into())).contains("/nonexistent/ca.pem"));
    assert!(with(|s| s.nkey_seed_file = Some("/dev/null".into())).contains("no line with an nkey seed"));
    assert!(with(|s| s.credentials_file = Some("/dev/null".into())).contains("not a credentials file"));
    let both = with(|s| {
        s.token = Some("hush".into());
        s.urls = vec!["nats://ann:hush@host".into()];
    });
    assert!(
        both.contains("nats.token") && both.contains("a user in `nats.url`"),
        "{both}"
    );
}

#[tokio::test]
async fn a_refused_connection_names_the_server_and_what_to_check() {
    // A port that was free a moment ago, on an address that only this test uses.
    let listener = std::net::TcpListener::bind("127.77.1.9:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    drop(listener);
    let settings = ConnectionSettings {
        urls: vec![format!("nats://ann:hush@127.77.1.9:{port}")],
        ..ConnectionSettings::default()
    };
    let error = connect(&settings, PLAN, |_| ())
        .await
        .expect_err("nothing listens there");
    assert_eq!(error.kind(), ConnectErrorKind::Refused, "{error}");
    assert!(
        error.to_string().contains(&format!("nats://***@127.77.1.9:{port}")),
        "{error}"
    );
    assert!(!error.to_string().contains("hush"), "{error}");
}
