//! Every way of logging in, against a real nats-server so configured: worker and caller come in with it, and a wrong
//! secret is a plain error that does not show the secret.

use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nats_rerank::client::{CallOptions, Caller};
use nats_rerank::nats::ConnectionSettings;
use nats_rerank::protocol::Request;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::support::nats_server::NatsServer;
use crate::support::worker::Worker;
use crate::support::{PATIENCE, reference};

pub struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Site {
        Site {
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    pub fn server(&self, configuration: &str) -> NatsServer {
        let file = self.write("server.conf", configuration);
        NatsServer::start_with(&["-c", &file.display().to_string()])
    }
}

pub fn set(key: &str, value: impl std::fmt::Display) -> String {
    format!("nats.{key}={value}")
}

/// A worker with `sets`, and a caller with the same identity, find each other.
async fn served(server: &NatsServer, url: &str, sets: &[String], caller: ConnectionSettings) {
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let _worker = Worker::start(url, &reference("bert-small"), &sets);
    let caller = Caller::connect(&ConnectionSettings {
        urls: vec![url.to_owned()],
        ..caller
    })
    .await
    .expect("a connection");
    let options = CallOptions {
        timeout: PATIENCE,
        ..CallOptions::default()
    };
    let answer = caller
        .rerank(&Request::new("q", ["a", "b"]), &options)
        .await
        .expect("an answer");
    assert_eq!(answer.reply.rankings.len(), 2);
    assert_eq!(server.members("rerank.v1.score"), 1);
}

/// A worker with `sets` is turned away: exit 1, a word on logging in, and nothing of `secret`.
fn turned_away(url: &str, sets: &[String], secret: &str) {
    let mut sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    sets.push("nats.connect_retries_max=1");
    let mut worker = Worker::spawn(url, &reference("bert-small").display().to_string(), &sets);
    assert_eq!(worker.wait().code(), Some(1), "{}", worker.log());
    let log = worker.log();
    assert!(
        log.to_lowercase().contains("auth") || log.contains("credentials"),
        "{log}"
    );
    assert!(!log.contains(secret), "the log shows a secret: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn user_and_password() {
    let site = Site::new();
    let server = site.server("authorization { user: rerank, password: \"fish-and-chips\" }");
    let sets = [set("user", "rerank"), set("password", "fish-and-chips")];
    let caller = ConnectionSettings {
        user: Some("rerank".to_owned()),
        password: Some("fish-and-chips".to_owned()),
        ..ConnectionSettings::default()
    };
    served(&server, &server.url, &sets, caller).await;
    turned_away(
        &server.url,
        &[set("user", "rerank"), set("password", "wrong-secret-1")],
        "wrong-secret-1",
    );
    let with_user = server.url.replace("nats://", "nats://rerank:wrong-secret-2@");
    turned_away(&with_user, &[], "wrong-secret-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn token() {
    let site = Site::new();
    let server = site.server("authorization { token: \"t0ken-of-trust\" }");
    let caller = ConnectionSettings {
        token: Some("t0ken-of-trust".to_owned()),
        ..ConnectionSettings::default()
    };
    served(&server, &server.url, &[set("token", "t0ken-of-trust")], caller).await;
    turned_away(&server.url, &[set("token", "wrong-token-3")], "wrong-token-3");
}

#[tokio::test(flavor = "multi_thread")]
async fn nkey() {
    let site = Site::new();
    let user = KeyPair::new_user();
    let server = site.server(&format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        user.public_key()
    ));
    let seed = site.write("user.nk", &format!("{}\n", user.seed().expect("a seed")));
    let caller = ConnectionSettings {
        nkey_seed_file: Some(seed.clone()),
        ..ConnectionSettings::default()
    };
    served(&server, &server.url, &[set("nkey_seed_file", seed.display())], caller).await;
    let stranger = KeyPair::new_user().seed().expect("a seed");
    let file = site.write("stranger.nk", &stranger);
    turned_away(&server.url, &[set("nkey_seed_file", file.display())], &stranger);
}

/// A JWT as nats-server wants it: claims signed by `issuer`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: Value) -> String {
    jwt_until(issuer, subject, name, nats, None)
}

/// The same, with an end: seconds since 1970.
fn jwt_until(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: Value, expires: Option<u64>) -> String {
    let mut claims = json!({
        "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(), "name": name, "nats": nats,
    });
    // Any unique text does as an id.
    claims["jti"] = json!(BASE32_NOPAD.encode(subject.public_key().as_bytes()));
    if let Some(expires) = expires {
        claims["exp"] = json!(expires);
    }
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!(
        "{}.{}",
        encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})),
        encode(&claims)
    );
    let signature = issuer.sign(signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

pub fn credentials(jwt: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

/// An operator with one account.
pub struct Issuer {
    account: KeyPair,
    /// What a server needs to know of it.
    pub configuration: String,
}

impl Issuer {
    pub fn new() -> Issuer {
        let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        });
        let operator_jwt = jwt(
            &operator,
            &operator,
            "operator",
            json!({"type": "operator", "version": 2}),
        );
        let account_jwt = jwt(
            &operator,
            &account,
            "account",
            json!({"type": "account", "version": 2, "limits": limits}),
        );
        Issuer {
            configuration: format!(
                "operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_jwt} }}",
                account.public_key()
            ),
            account,
        }
    }

    /// A user's JWT, without an end unless one is given, in seconds since 1970.
    pub fn user(&self, user: &KeyPair, expires: Option<u64>) -> String {
        let rights = json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        jwt_until(&self.account, user, "worker", rights, expires)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_file_with_a_jwt() {
    let site = Site::new();
    let (issuer, user) = (Issuer::new(), KeyPair::new_user());
    let user_jwt = issuer.user(&user, None);
    let server = site.server(&issuer.configuration);
    let seed = user.seed().expect("a seed");
    let file = site.write("worker.creds", &credentials(&user_jwt, &seed));
    let caller = ConnectionSettings {
        credentials_file: Some(file.clone()),
        ..ConnectionSettings::default()
    };
    served(&server, &server.url, &[set("credentials_file", file.display())], caller).await;
    // The right JWT with another user's seed.
    let stranger = KeyPair::new_user().seed().expect("a seed");
    let file = site.write("stranger.creds", &credentials(&user_jwt, &stranger));
    turned_away(&server.url, &[set("credentials_file", file.display())], &stranger);
}

struct Certificates {
    ca: PathBuf,
    server: (PathBuf, PathBuf),
    client: (PathBuf, PathBuf),
}

fn certificates(site: &Site) -> Certificates {
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = site.write(
        "ca.pem",
        &authority.self_signed(&authority_key).expect("a certificate").pem(),
    );
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let issue = |name: &str, usage: rcgen::ExtendedKeyUsagePurpose| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters =
            rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("parameters");
        parameters.extended_key_usages = vec![usage];
        let certificate = parameters.signed_by(&key, &issuer).expect("a certificate");
        (
            site.write(&format!("{name}.pem"), &certificate.pem()),
            site.write(&format!("{name}.key"), &key.serialize_pem()),
        )
    };
    Certificates {
        ca,
        server: issue("server", rcgen::ExtendedKeyUsagePurpose::ServerAuth),
        client: issue("client", rcgen::ExtendedKeyUsagePurpose::ClientAuth),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_client_certificates() {
    let site = Site::new();
    let certificates = certificates(&site);
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    let server = site.server(&format!(
        "tls {{ cert_file: {}, key_file: {}, ca_file: {}, verify: true, timeout: 10 }}",
        quoted(&certificates.server.0),
        quoted(&certificates.server.1),
        quoted(&certificates.ca)
    ));
    let url = server.url.replace("nats://", "tls://");
    let (certificate, key) = certificates.client.clone();
    let sets = [
        set("tls_required", true),
        set("tls_ca_file", certificates.ca.display()),
        set("tls_cert_file", certificate.display()),
        set("tls_key_file", key.display()),
    ];
    let caller = ConnectionSettings {
        tls_required: true,
        tls_ca_file: Some(certificates.ca.clone()),
        tls_cert_file: Some(certificate),
        tls_key_file: Some(key),
        connect_timeout: Duration::from_secs(20),
        ..ConnectionSettings::default()
    };
    served(&server, &url, &sets, caller).await;
    // Without the client's certificate, and without trust in the server's.
    for missing in [&sets[..2], &sets[2..]] {
        let sets: Vec<&str> = missing
            .iter()
            .map(String::as_str)
            .chain(["nats.connect_retries_max=0", "nats.tls_required=true"])
            .collect();
        let mut worker = Worker::spawn(&url, &reference("bert-small").display().to_string(), &sets);
        assert_eq!(worker.wait().code(), Some(1), "{}", worker.log());
    }
}

/// The permissions that are enough (deploy/nats carries them), and a caller that may listen on its own inbox alone.
#[tokio::test(flavor = "multi_thread")]
async fn least_privilege_and_an_inbox_prefix() {
    let site = Site::new();
    let server = site.server(
        r#"authorization { users: [
            { user: worker, password: w, permissions: {
                subscribe: { allow: ["rerank.v1.score rerank", "$SRV.>"] }
                allow_responses: { max: 1, expires: "30s" } } }
            { user: caller, password: c, permissions: {
                publish: { allow: ["rerank.v1.score"] }
                subscribe: { allow: ["_INBOX_caller.>"] } } }
        ] }"#,
    );
    let caller = ConnectionSettings {
        user: Some("caller".to_owned()),
        password: Some("c".to_owned()),
        inbox_prefix: Some("_INBOX_caller".to_owned()),
        ..ConnectionSettings::default()
    };
    served(
        &server,
        &server.url,
        &[set("user", "worker"), set("password", "w")],
        caller,
    )
    .await;
}
