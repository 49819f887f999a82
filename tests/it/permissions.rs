//! What a worker may and may not do, by a real nats-server's permissions: at the start, and when they change under load.

use std::time::Duration;

use nats_rerank::protocol::Request;

use crate::support::ledger::{Ending, Load};
use crate::support::nats_server::NatsServer;
use crate::support::proxy::Proxy;
use crate::support::worker::Worker;
use crate::support::{PATIENCE, RawCaller, reference, until};

const USER: [&str; 3] = ["nats.user=worker", "nats.password=w", "health.listen=127.0.0.1:0"];
const RESPONSES: &str = "allow_responses: { max: 1, expires: \"60s\" }";

/// A server whose worker may `subscribe` to these and has `more` besides; a caller may do anything.
fn configuration(subscribe: &str, more: &str) -> String {
    format!(
        "authorization {{ users: [
            {{ user: worker, password: w, permissions: {{
                subscribe: {{ allow: [{subscribe}] }}, publish: {{ deny: \">\" }}, {more} }} }}
            {{ user: caller, password: c }}
        ] }}"
    )
}

fn model() -> String {
    reference("bert-small").display().to_string()
}

async fn caller(server: &NatsServer) -> RawCaller {
    let options = async_nats::ConnectOptions::with_user_and_password("caller".to_owned(), "c".to_owned());
    RawCaller::connect_with(options, &server.url).await
}

#[test]
fn a_forbidden_subject_ends_the_start_with_its_name() {
    for allowed in ["\"$SRV.>\"", "\"$SRV.>\", \"rerank.v1.score other\""] {
        let server = NatsServer::start_configured(&configuration(allowed, RESPONSES), &[]);
        let mut worker = Worker::spawn(&server.url, &model(), &USER);
        assert_eq!(worker.wait().code(), Some(1), "{}", worker.log());
        let log = worker.log();
        assert!(log.contains("`subscribe` on \\\"rerank.v1.score rerank\\\""), "{log}");
        assert_eq!(worker.count_log("ready: joined"), 0, "{log}");
    }
}

/// The violation comes a round trip after the subscription, and `ready` waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_subject_ends_the_start_over_a_slow_network_too() {
    let server = NatsServer::start_configured(&configuration("\"$SRV.>\"", RESPONSES), &[]);
    let network = Proxy::start_slow(server.address(), Duration::from_millis(250)).await;
    let mut worker = Worker::spawn(&network.url, &model(), &USER);
    let code = tokio::task::spawn_blocking(move || (worker.wait().code(), worker.log())).await;
    let (code, log) = code.expect("the worker");
    assert_eq!(code, Some(1), "{log}");
    assert!(!log.contains("ready: joined"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_discovery_a_worker_serves_and_says_so_once() {
    let server = NatsServer::start_configured(&configuration("\"rerank.v1.score rerank\"", RESPONSES), &[]);
    let worker = Worker::start(&server.url, &reference("bert-small"), &USER);
    let caller = caller(&server).await;
    caller.ask(&Request::new("q", ["a", "b"])).await.scored();
    assert_eq!(worker.count_log("forbids service discovery"), 1, "{}", worker.log());
    assert!(worker.log().contains("$SRV.>"), "{}", worker.log());
    // Nine subjects, and those of the round trip.
    assert!(worker.metric("rerank_nats_permission_violations_total{on=\"subscribe\"}") >= 9.0);
    assert_eq!(
        worker.metric("rerank_nats_permission_violations_total{on=\"publish\"}"),
        0.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_answer_says_so_and_counts() {
    const SENT: usize = 40;
    let server = NatsServer::start_configured(&configuration("\"rerank.v1.score rerank\", \"$SRV.>\"", ""), &[]);
    // All of them are taken, however slow the machine is.
    let sets = [USER.as_slice(), &["queue.leave_at_percent=0"]].concat();
    let worker = Worker::start(&server.url, &reference("bert-small"), &sets);
    let caller = caller(&server).await;
    let request = Request::new("q", ["a", "b"]);
    let asked = futures_util::future::join_all((0..SENT).map(|_| {
        let body = request.encode(nats_rerank::protocol::Encoding::Json);
        let inbox = caller.client.new_inbox();
        caller
            .client
            .publish_with_reply(caller.subject.clone(), inbox, body.into())
    }));
    asked.await.into_iter().for_each(|sent| sent.expect("a request"));
    let violations = || worker.metric("rerank_nats_permission_violations_total{on=\"publish\"}");
    until("every answer was forbidden", || violations() == SENT as f64).await;
    let log = worker.log();
    assert_eq!(worker.count_log("allow_responses"), 1, "{log}");
    // That of the advice; a caller's inbox is its own.
    assert_eq!(log.matches("_INBOX.").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_taken_away_ends_the_worker_and_every_caller_is_told() {
    let subjects = "\"rerank.v1.score rerank\", \"$SRV.>\"";
    // Callers may do anything, so that only the worker's side of the change is looked at.
    let server = NatsServer::start_configured(&configuration(subjects, "publish: { allow: \"_INBOX.>\" }"), &[]);
    let mut worker = Worker::start(&server.url, &reference("bert-small"), &USER);
    let client = caller(&server).await.client;
    let load = Load::start(client, 8, &Request::new("q", ["a", "b", "c"]), PATIENCE).await;
    load.pass(100).await;
    server.reload(&configuration("\"$SRV.>\"", "publish: { allow: \"_INBOX.>\" }"));
    assert_eq!(worker.wait().code(), Some(1), "{}", worker.log());
    load.pass(20).await;
    let ledger = load.stop().await;
    println!("{ledger:?}");
    assert!(worker.log().contains("rerank.v1.score rerank"), "{}", worker.log());
    assert_eq!(ledger.duplicates, 0);
    assert!(
        ledger.of(&Ending::NoResponders) > 0 && ledger.of(&Ending::Scored) > 0,
        "{ledger:?}"
    );
    let told = ledger.of(&Ending::Scored) + ledger.of(&Ending::NoResponders);
    assert_eq!(told, ledger.sent(), "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_taken_away_end_the_worker_after_a_bounded_number_of_tries() {
    let subjects = "\"rerank.v1.score rerank\", \"$SRV.>\"";
    let server = NatsServer::start_configured(&configuration(subjects, RESPONSES), &[]);
    let mut worker = Worker::start(&server.url, &reference("bert-small"), &USER);
    let client = caller(&server).await.client;
    let load = Load::start(client, 4, &Request::new("q", ["a", "b"]), Duration::from_secs(5)).await;
    load.pass(50).await;
    server.reload("authorization { users: [ { user: caller, password: c } ] }");
    worker.wait_for_log("does not accept the credentials any more");
    let ledger = load.stop().await;
    println!("{ledger:?}");
    assert_eq!(worker.wait().code(), Some(1), "{}", worker.log());
    assert!(worker.log().contains("no longer accepts"), "{}", worker.log());
    // The server has closed the connection: what was under way then is lost, one request a caller at most.
    let lost = ledger.of(&Ending::TimedOut);
    assert!(lost <= 4, "{ledger:?}");
    let told = ledger.of(&Ending::Scored) + ledger.of(&Ending::NoResponders);
    assert_eq!(told + lost, ledger.sent(), "{ledger:?}");
}
