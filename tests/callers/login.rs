//! Credentials in files that are replaced while a program runs, and servers that a cluster advertises.

use std::path::Path;
use std::time::{Duration, Instant};

use nats_rerank::client::Reranker;
use nats_rerank::nats::ConnectionSettings;

use crate::PATIENCE;
use crate::nats_server::{NatsServer, cluster};

async fn until(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn reranker(settings: ConnectionSettings) -> Reranker {
    let builder = Reranker::builder().read_environment(false).connection(settings);
    builder.connect().await.expect("a reranker")
}

/// A server whose secret changes throws its clients out; a client whose file changes too is back at its next try.
async fn comes_back(server: impl Fn(&str) -> String, settings: impl Fn(&NatsServer, &Path) -> ConnectionSettings) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "first\n").expect("a secret");
    let running = NatsServer::start_configured(&server("first"), &[]);
    let reranker = reranker(settings(&running, file.path())).await;
    running.reload(&server("second"));
    until("thrown out", || !reranker.is_connected()).await;
    std::fs::write(file.path(), "second\n").expect("a secret");
    until("back", || reranker.is_connected()).await;
    assert!(!reranker.is_refused());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_file_is_read_again() {
    let server = |token: &str| format!("authorization {{ token: \"{token}\" }}");
    let settings = |server: &NatsServer, file: &Path| ConnectionSettings {
        urls: vec![server.url.clone()],
        token_file: Some(file.to_owned()),
        ..ConnectionSettings::default()
    };
    comes_back(server, settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_a_file_is_read_again() {
    let server = |password: &str| format!("authorization {{ user: ann, password: \"{password}\" }}");
    let settings = |server: &NatsServer, file: &Path| ConnectionSettings {
        urls: vec![server.url.clone()],
        user: Some("ann".to_owned()),
        password_file: Some(file.to_owned()),
        ..ConnectionSettings::default()
    };
    comes_back(server, settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_stay_wrong_are_reported() {
    let configuration = |token: &str| format!("authorization {{ token: {token} }}");
    let server = NatsServer::start_configured(&configuration("first"), &[]);
    let reranker = reranker(ConnectionSettings {
        urls: vec![server.url.clone()],
        token: Some("first".to_owned()),
        ..ConnectionSettings::default()
    })
    .await;
    assert!(!reranker.is_refused());
    server.reload(&configuration("second"));
    until("refused for long", || reranker.is_refused()).await;
    // A server that thinks better of it ends that.
    server.reload(&configuration("first"));
    until("back", || reranker.is_connected() && !reranker.is_refused()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_a_cluster_advertises_can_be_left_alone() {
    let mut nodes = cluster(2, "");
    until("the nodes know each other", || {
        nodes.iter().all(|node| node.peers() == 1)
    })
    .await;
    let to_the_first = |ignore_discovered_servers| {
        reranker(ConnectionSettings {
            urls: vec![nodes[0].url.clone()],
            ignore_discovered_servers,
            ..ConnectionSettings::default()
        })
    };
    let (follows, stays) = (to_the_first(false).await, to_the_first(true).await);
    drop(nodes.remove(0));
    until("one has noticed", || !stays.is_connected()).await;
    until("the other has moved", || {
        follows.is_connected() && nodes[0].monitor("/connz")["num_connections"] == 1
    })
    .await;
    assert!(!stays.is_connected());
}
