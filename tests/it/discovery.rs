//! Discovery as a micro client sees it: async-nats' own types read what every worker answers.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::service::{Info, PingResponse, Stats};
use futures_util::StreamExt;
use nats_rerank::protocol::Request;
use serde::de::DeserializeOwned;

use crate::support::nats_server::NatsServer;
use crate::support::worker::Worker;
use crate::support::{PATIENCE, RawCaller, reference};

/// Asks `subject` and reads `count` answers; fails if another comes.
async fn ask<T: DeserializeOwned>(caller: &RawCaller, subject: &str, count: usize) -> Vec<T> {
    let inbox = caller.client.new_inbox();
    let mut replies = caller.client.subscribe(inbox.clone()).await.unwrap();
    caller
        .client
        .publish_with_reply(subject.to_owned(), inbox, "".into())
        .await
        .unwrap();
    let mut answers = Vec::new();
    while answers.len() < count {
        let message = tokio::time::timeout(PATIENCE, replies.next())
            .await
            .unwrap_or_else(|_| panic!("{subject}: {} answers, not {count}", answers.len()))
            .unwrap();
        assert!(
            message.payload.len() < 8192,
            "{subject}: {} bytes",
            message.payload.len()
        );
        answers.push(serde_json::from_slice(&message.payload).unwrap_or_else(|error| panic!("{subject}: {error}")));
    }
    let another = tokio::time::timeout(Duration::from_millis(100), replies.next()).await;
    assert!(another.is_err(), "{subject}: more than {count} answers");
    answers
}

fn request(text: &str) -> Request {
    let mut request = Request::new("which one", [text, "another"]);
    request.timeout_ms = Some(60_000.0);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn every_worker_answers_by_all_name_and_id() {
    let server = NatsServer::start();
    let _workers = [0, 1].map(|_| Worker::start(&server.url, &reference("bert-small"), &[]));
    let caller = RawCaller::connect(&server.url).await;

    let pings: Vec<PingResponse> = ask(&caller, "$SRV.PING", 2).await;
    let ids: HashSet<&str> = pings.iter().map(|ping| ping.id.as_str()).collect();
    assert_eq!(ids.len(), 2, "an id each");
    assert!(
        pings
            .iter()
            .all(|ping| ping.kind == "io.nats.micro.v1.ping_response" && ping.name == "rerank")
    );
    assert_eq!(ask::<PingResponse>(&caller, "$SRV.PING.rerank", 2).await.len(), 2);
    let id = &pings[0].id;
    assert_eq!(
        ask::<PingResponse>(&caller, &format!("$SRV.PING.rerank.{id}"), 1).await[0].id,
        *id
    );

    let info: Info = ask(&caller, &format!("$SRV.INFO.rerank.{id}"), 1).await.remove(0);
    assert_eq!(info.kind, "io.nats.micro.v1.info_response");
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    let endpoint = &info.endpoints[0];
    assert_eq!(
        (endpoint.subject.as_str(), endpoint.queue_group.as_str()),
        ("rerank.v1.score", "rerank")
    );
    for (key, value) in [
        ("device", "cpu"),
        ("precision", "fp32"),
        ("content_types", "application/json, application/msgpack"),
        ("schema_version", "1"),
        ("documents_max", "1000"),
    ] {
        assert_eq!(info.metadata[key], value, "{key}");
    }
    assert!(info.metadata["model"].contains("bert-small"), "{info:?}");
    assert_eq!(ask::<Info>(&caller, "$SRV.INFO", 2).await.len(), 2);
    assert_eq!(ask::<Stats>(&caller, "$SRV.STATS.rerank", 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_count_requests_and_errors_by_kind() {
    let server = NatsServer::start();
    let _worker = Worker::start(&server.url, &reference("bert-small"), &["nats.service_name=rank-2_b"]);
    let caller = RawCaller::connect(&server.url).await;
    for _ in 0..3 {
        caller.ask(&request("the text")).await.scored();
    }
    let refusal = caller
        .ask_json(r#"{"query": "secret words", "documents": 7}"#)
        .await
        .refused();
    assert!(!refusal.message.is_empty());
    // An answer is counted just after it was handed to the connection: the last may be under way.
    let stats: Stats = loop {
        let stats: Stats = ask(&caller, "$SRV.STATS.rank-2_b", 1).await.remove(0);
        if stats.endpoints[0].errors > 0 {
            break stats;
        }
    };
    assert_eq!(stats.kind, "io.nats.micro.v1.stats_response");
    let endpoint = &stats.endpoints[0];
    assert_eq!((endpoint.requests, endpoint.errors), (4, 1));
    assert!(endpoint.processing_time > Duration::ZERO);
    assert!(endpoint.average_processing_time <= endpoint.processing_time);
    let last = endpoint.last_error.as_ref().expect("a last error");
    assert_eq!((last.code, last.status.as_str()), (400, "invalid_request"));
    let data = endpoint.data.as_ref().expect("data");
    assert_eq!(data["state"], "serving");
    assert_eq!((&data["queue_requests"], &data["shed"]), (&0.into(), &0.into()));
    assert!(
        data["batch_pairs_mean"].as_f64().is_some_and(|mean| mean >= 2.0),
        "{data}"
    );
    let latency = |name: &str| data["latency_ms"][name].as_f64().expect("a latency");
    assert!(0.0 < latency("p50") && latency("p50") <= latency("p95") && latency("p95") <= latency("p99"));
    assert!(data["memory_mb"].as_f64().is_some_and(|mb| mb > 1.0), "{data}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_switched_off_is_found_and_says_so() {
    let server = NatsServer::start();
    let worker = Worker::spawn(
        &server.url,
        &reference("bert-small").display().to_string(),
        &["enabled=false"],
    );
    worker.wait_for_log("out of the queue group");
    let caller = RawCaller::connect(&server.url).await;
    assert_eq!(server.subscriptions("rerank.v1.score"), 0);
    let stats: Stats = ask(&caller, "$SRV.STATS", 1).await.remove(0);
    assert_eq!(stats.endpoints[0].data.as_ref().expect("data")["state"], "off");
}
