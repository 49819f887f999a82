//! What a caller with the right to publish requests can have a worker write, and where: the reply subject, on a real
//! nats-server.

use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt;
use nats_rerank::protocol::{Encoding, Request};

use crate::support::nats_server::NatsServer;
use crate::support::worker::Worker;
use crate::support::{RawCaller, reference, until};

const SUBJECT: &str = "rerank.v1.score";
const HEALTH: &str = "health.listen=127.0.0.1:0";

fn body() -> bytes::Bytes {
    Request::new("q", ["a", "b"]).encode(Encoding::Json).into()
}

fn refused(worker: &Worker, reason: &str) -> f64 {
    worker.metric(&format!("rerank_reply_subjects_refused_total{{reason=\"{reason}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_written_where_a_caller_may_not_write() {
    let store = tempfile::tempdir().expect("a folder");
    let server = NatsServer::start_with(&["-js", "-sd", &store.path().display().to_string()]);
    let worker = Worker::start(&server.url, &reference("bert-small"), &[HEALTH]);
    let caller = RawCaller::connect(&server.url).await;
    let context = jetstream::new(caller.client.clone());
    let stream = jetstream::stream::Config {
        name: "KV_switch".to_owned(),
        subjects: vec!["$KV.switch.>".to_owned()],
        ..Default::default()
    };
    let mut stream = context.create_stream(stream).await.expect("a stream");
    // Of whatever is published in this account.
    let mut all = caller.client.subscribe(">").await.expect("a subscription");
    caller.client.flush().await.expect("a flush");
    let id = async {
        let ping = caller
            .client
            .request("$SRV.PING.rerank", "".into())
            .await
            .expect("an answer");
        let ping: serde_json::Value = serde_json::from_slice(&ping.payload).expect("JSON");
        ping["id"].as_str().expect("an id").to_owned()
    };
    let id = id.await;
    let own_inbox = format!("_INBOX.{id}.x");
    let cases = [
        ("reserved", "$KV.switch.enabled"),
        ("reserved", "$SRV.PING"),
        ("invalid", "answers.*"),
        ("own", SUBJECT),
        ("own", own_inbox.as_str()),
    ];
    for (reason, reply_to) in cases {
        // By a request, and by discovery.
        for subject in [SUBJECT, "$SRV.PING.rerank"] {
            let before = refused(&worker, reason);
            let sent = caller.client.publish_with_reply(subject, reply_to.to_owned(), body());
            sent.await.expect("a message");
            until(reply_to, || refused(&worker, reason) > before).await;
        }
    }
    // What only servers may put before a reply subject does not even arrive.
    for forged in ["_R_.abc.x", "_GR_.abcdef.ghijkl._INBOX.x", "$JS.ACK.a.b.1.1.1.1.0"] {
        let sent = caller.client.publish_with_reply(SUBJECT, forged, body());
        sent.await.expect("a message");
    }
    assert_eq!(worker.metric("rerank_requests_total{outcome=\"scored\"}"), 0.0);
    // One line for all of it, and no stranger's text in it.
    assert_eq!(
        worker.count_log("no answer is sent to the reply subject"),
        1,
        "{}",
        worker.log()
    );
    assert!(
        !worker.log().contains("$KV") && !worker.log().contains("answers.*"),
        "{}",
        worker.log()
    );
    assert_eq!(stream.info().await.expect("a stream").state.messages, 0);
    // Behind everything that a worker could have written, an honest answer.
    caller.ask(&Request::new("q", ["a", "b"])).await.scored();
    assert_eq!(worker.metric("rerank_messages_without_reply_total"), cases.len() as f64);
    assert_eq!(worker.metric("rerank_requests_total{outcome=\"scored\"}"), 1.0);
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(200), all.next()).await {
        let written = ["$KV.", "answers."]
            .iter()
            .any(|prefix| message.subject.starts_with(prefix));
        assert!(!written, "{}", message.subject);
        assert!(message.subject.as_str() != own_inbox, "{}", message.subject);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_go_below_the_listed_prefixes_alone() {
    let server = NatsServer::start();
    let set = "nats.reply_prefixes=_INBOX.>,_INBOX_caller";
    let worker = Worker::start(&server.url, &reference("bert-small"), &[HEALTH, set]);
    let caller = RawCaller::connect(&server.url).await;
    caller.ask(&Request::new("q", ["a", "b"])).await.scored();
    let sent = caller.client.publish_with_reply(SUBJECT, "_INBOX_other.x", body());
    sent.await.expect("a message");
    until("dropped", || refused(&worker, "outside") == 1.0).await;
    let options = async_nats::ConnectOptions::new().custom_inbox_prefix("_INBOX_caller");
    let listed = RawCaller::connect_with(options, &server.url).await;
    listed.ask(&Request::new("q", ["a", "b"])).await.scored();
}

/// A request of another account comes with a reply subject that the server made.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_another_account_is_answered_unless_the_list_leaves_it_out() {
    let configuration = "accounts {
            WORKERS { users: [{ user: w, password: p }], exports: [{ service: \"rerank.v1.score\" }] }
            CALLERS { users: [{ user: c, password: p }],
                      imports: [{ service: { account: WORKERS, subject: \"rerank.v1.score\" } }] }
        }";
    for (list, answered) in [("", true), ("_INBOX,_R_", true), ("_INBOX", false)] {
        let server = NatsServer::start_configured(configuration, &[]);
        let set = format!("nats.reply_prefixes={list}");
        let mut sets = vec![HEALTH, "nats.user=w", "nats.password=p"];
        sets.extend((!list.is_empty()).then_some(set.as_str()));
        let worker = Worker::start(&server.url, &reference("bert-small"), &sets);
        let options = async_nats::ConnectOptions::with_user_and_password("c".to_owned(), "p".to_owned());
        let caller = RawCaller::connect_with(options, &server.url).await;
        if answered {
            caller.ask(&Request::new("q", ["a", "b"])).await.scored();
            assert_eq!(refused(&worker, "outside"), 0.0);
            // What docs/security.md warns of: what the caller wrote is hidden from the worker, and is its own account's.
            let mut written = caller.client.subscribe("$KV.theirs.>").await.expect("a subscription");
            let sent = caller.client.publish_with_reply(SUBJECT, "$KV.theirs.key", body());
            sent.await.expect("a message");
            let message = tokio::time::timeout(crate::support::PATIENCE, written.next()).await;
            assert_eq!(
                message.expect("an answer").expect("a message").subject.as_str(),
                "$KV.theirs.key"
            );
        } else {
            let inbox = caller.client.new_inbox();
            caller
                .client
                .publish_with_reply(SUBJECT, inbox, body())
                .await
                .expect("a message");
            until("dropped", || refused(&worker, "outside") == 1.0).await;
        }
    }
}

/// A request that crosses a gateway of a super-cluster is answered, with prefixes too.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_behind_a_gateway_is_answered() {
    let ports: Vec<String> = (0..2).map(|_| crate::support::nats_server::free_port()).collect();
    let gateway = |name: &str, port: &str| {
        format!(
            "gateway {{ name: {name}, listen: \"127.0.0.1:{port}\", gateways: [
                {{ name: east, url: \"nats://127.0.0.1:{}\" }}, {{ name: west, url: \"nats://127.0.0.1:{}\" }} ] }}",
            ports[0], ports[1]
        )
    };
    let east = NatsServer::start_configured(&gateway("east", &ports[0]), &[]);
    let west = NatsServer::start_configured(&gateway("west", &ports[1]), &[]);
    until("the gateways know each other", || {
        let there = |server: &NatsServer| {
            server.monitor("/gatewayz")["outbound_gateways"]
                .as_object()
                .map_or(0, |all| all.len())
        };
        there(&east) == 1 && there(&west) == 1
    })
    .await;
    let _worker = Worker::start(
        &east.url,
        &reference("bert-small"),
        &[HEALTH, "nats.reply_prefixes=_INBOX"],
    );
    let caller = RawCaller::connect(&west.url).await;
    // Interest crosses in its own time.
    let answered = tokio::time::timeout(crate::support::PATIENCE, async {
        while caller.client.request(SUBJECT, body()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    answered.await.expect("an answer");
    for _ in 0..10 {
        caller.ask(&Request::new("q", ["a", "b"])).await.scored();
    }
}
