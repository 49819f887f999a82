//! Subscriptions that a real nats-server refuses for their number: told, counted, tried again, and not ready meanwhile.
//!
//! The limit is by connection, so the proxy between puts other subscriptions on the very connection: the server refuses for
//! as long as they are there.

use std::time::Duration;

use nats_rerank::client::{CallError, CallOptions, Caller};
use nats_rerank::nats::ConnectionSettings;
use nats_rerank::protocol::Request;

use crate::health::get;
use crate::support::nats_server::NatsServer;
use crate::support::proxy::Proxy;
use crate::support::worker::Worker;
use crate::support::{RawCaller, reference, until};

const SUBJECT: &str = "rerank.v1.score";
/// Subscriptions of a connection.
const LIMIT: usize = 30;
const REFUSED: &str = "rerank_nats_subscriptions_refused_total";

fn limited(subscriptions: usize) -> String {
    format!(
        "accounts {{
            LIMITED {{ users: [{{ user: u, password: p }}], limits {{ max_subscriptions: {subscriptions} }} }}
            FREE {{ users: [{{ user: f, password: p }}] }}
        }}
        no_auth_user: u"
    )
}

fn reason(worker: &Worker) -> String {
    get(&worker.health_address(), "/readyz").1
}

/// Refused from the start and for long: never ready, with pauses that grow. Then taken: ready, and answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_subscription_is_refused_is_not_ready_and_tries_again() {
    let server = NatsServer::start_configured(&limited(LIMIT), &[]);
    let proxy = Proxy::start(server.address()).await;
    proxy.crowd(LIMIT);
    let worker = Worker::spawn(
        &proxy.url,
        &reference("bert-small").display().to_string(),
        &["health.listen=127.0.0.1:0"],
    );
    worker.wait_for_log("the NATS server refuses a subscription");
    until("refused", || reason(&worker).contains("\"state\":\"refused\"")).await;
    // The queue group's is tried again and again, and no more often than the growing pauses allow.
    let tries = || worker.metric(REFUSED);
    let before = tries();
    until("tried again", || tries() >= before + 2.0).await;
    let before = tries();
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("{} refusals in three seconds, {before} before", tries() - before);
    assert!(tries() - before <= 9.0 + 4.0, "{} tries", tries() - before);
    assert!(
        !worker.ready() && reason(&worker).contains("takes no subscription"),
        "{}",
        reason(&worker)
    );
    assert_eq!(worker.metric("rerank_group_member"), 0.0);
    assert_eq!(worker.count_log("ready: joined"), 0, "{}", worker.log());
    assert_eq!(
        worker.count_log("the NATS server refuses a subscription"),
        1,
        "{}",
        worker.log()
    );

    proxy.crowd(0);
    worker.wait_for_log("ready: joined the queue group");
    until("ready", || worker.ready()).await;
    let caller = RawCaller::connect(&server.url).await;
    caller.ask(&Request::new("q", ["a", "b"])).await.scored();
    assert_eq!(worker.metric("rerank_group_member"), 1.0);
    // Discovery is back as well.
    until("discovery", || server.subscriptions("$SRV.PING") == 1).await;
}

/// Taken at first; then the connection is lost, and on the next one the server refuses what the client library makes again.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_refused_after_a_reconnect_is_made_again() {
    let server = NatsServer::start_configured(&limited(LIMIT), &[]);
    let proxy = Proxy::start(server.address()).await;
    let worker = Worker::start(&proxy.url, &reference("bert-small"), &["health.listen=127.0.0.1:0"]);
    let caller = RawCaller::connect(&server.url).await;
    for _ in 0..50 {
        caller.ask(&Request::new("q", ["a", "b"])).await.scored();
    }
    proxy.crowd(LIMIT);
    proxy.heal(server.address());
    until("refused", || reason(&worker).contains("\"state\":\"refused\"")).await;
    assert_eq!(server.members(SUBJECT), 0);
    assert!(worker.metric("rerank_group_leaves_total{reason=\"refused\"}") >= 1.0);
    caller.ask_nobody().await;
    proxy.crowd(0);
    until("ready", || worker.ready() && server.members(SUBJECT) == 1).await;
    for _ in 0..50 {
        caller.ask(&Request::new("q", ["a", "b"])).await.scored();
    }
}

/// The limit is made smaller while the worker serves, which closes its connection, and larger again.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_changes_while_a_worker_serves_leaves_it_in_its_group() {
    let server = NatsServer::start_configured(&limited(LIMIT), &[]);
    let worker = Worker::start(&server.url, &reference("bert-small"), &["health.listen=127.0.0.1:0"]);
    // Fewer than discovery alone has, which gives way.
    server.reload(&limited(4));
    until("refused once", || worker.metric(REFUSED) >= 1.0).await;
    until("ready with few subscriptions", || {
        worker.ready() && server.members(SUBJECT) == 1
    })
    .await;
    let caller = RawCaller::connect(&server.url).await;
    for _ in 0..20 {
        caller.ask(&Request::new("q", ["a", "b"])).await.scored();
    }
    server.reload(&limited(LIMIT));
    until("discovery is back", || server.subscriptions("$SRV.STATS.rerank") == 1).await;
    until("ready", || worker.ready() && server.members(SUBJECT) == 1).await;
    caller.ask(&Request::new("q", ["a", "b"])).await.scored();
}

/// Without its inbox a caller gets no answer: it says so at once in place of waiting, and has it back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_callers_refused_inbox_is_noticed_and_made_again() {
    let server = NatsServer::start_configured(&limited(LIMIT), &[]);
    let worker = Worker::start(&server.url, &reference("bert-small"), &["health.listen=127.0.0.1:0"]);
    let proxy = Proxy::start(server.address()).await;
    proxy.crowd(LIMIT);
    let settings = ConnectionSettings {
        urls: vec![proxy.url.clone()],
        ..ConnectionSettings::default()
    };
    let caller = Caller::connect(&settings).await.expect("a caller");
    let request = Request::new("q", ["a", "b"]);
    let options = CallOptions {
        timeout: crate::support::PATIENCE,
        ..CallOptions::default()
    };
    until("the refusal is noticed", || !caller.is_connected()).await;
    let refused = caller.rerank(&request, &options).await;
    assert_eq!(refused, Err(CallError::Disconnected));
    proxy.crowd(0);
    until("the inbox is back", || caller.is_connected()).await;
    caller.rerank(&request, &options).await.expect("an answer");

    // The same behind a reconnect, though it was answered before.
    proxy.crowd(LIMIT);
    proxy.heal(server.address());
    until("the refusal is noticed again", || !caller.is_connected()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(caller.rerank(&request, &options).await, Err(CallError::Disconnected));
    proxy.crowd(0);
    until("the inbox is back again", || caller.is_connected()).await;
    caller.rerank(&request, &options).await.expect("an answer");
    drop(worker);
}
