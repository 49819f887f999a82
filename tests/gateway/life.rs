//! A gateway from start to stop: clients that leave, what it tells of itself, the clean stop.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::fakes::{Act, Asked, Fake, right};
use crate::http::{finish, start};
use crate::nats_server::{NatsServer, free_port};
use crate::notify::Ear;
use crate::process::{Gateway, wait};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn body() -> Value {
    json!({"query": "q", "documents": ["a 1", "b 2"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_is_not_waited_for() {
    let server = NatsServer::start();
    let script = |asked: Asked| if asked.number == 0 { Act::Silence } else { right(asked) };
    let worker = Fake::start(&server, "w", script).await;
    // One place, and a budget far longer than the test's patience.
    let sets = [
        "gateway.requests_max=1",
        "gateway.timeout_ms=500000",
        "gateway.request_timeout_ms=600000",
    ];
    let gateway = Gateway::start(&server.url, &sets);
    let stream = start(&gateway.address, "POST", "/v1/rerank", &[JSON], &body().to_string());
    wait("the worker is asked", || (worker.asked() == 1).then_some(()));
    assert_eq!(gateway.stats()["requests_open"], 1);
    drop(stream);
    gateway.wait_for_stat("/requests_open", 0);
    assert_eq!(gateway.stats()["requests"]["cancelled"], 1);
    // The place is free again.
    assert_eq!(gateway.post("/v1/rerank", &body()).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_was_begun() {
    let server = NatsServer::start();
    let go_on = Arc::new(AtomicUsize::new(0));
    let gate = go_on.clone();
    let script = move |asked: Asked| Act::When(gate.clone(), 1, Box::new(right(asked)));
    let worker = Fake::start(&server, "w", script).await;
    let mut gateway = Gateway::start(&server.url, &["shutdown.grace_ms=60000"]);
    let stream = start(&gateway.address, "POST", "/rerank", &[JSON], &body().to_string());
    wait("the worker is asked", || (worker.asked() == 1).then_some(()));
    gateway.signal("TERM");
    let refused = || TcpStream::connect(&gateway.address).is_err().then_some(());
    wait("no more connections", refused);
    go_on.store(1, Ordering::SeqCst);
    let answer = finish(stream);
    assert_eq!(answer.ok()["model"], "scripted");
    assert_eq!(gateway.end().code(), Some(0), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_ever() {
    let server = NatsServer::start();
    let worker = Fake::start(&server, "w", |_| Act::Silence).await;
    let sets = [
        "shutdown.grace_ms=100",
        "gateway.timeout_ms=500000",
        "gateway.request_timeout_ms=600000",
    ];
    let mut gateway = Gateway::start(&server.url, &sets);
    let _stream = start(&gateway.address, "POST", "/rerank", &[JSON], &body().to_string());
    wait("the worker is asked", || (worker.asked() == 1).then_some(()));
    gateway.signal("INT");
    assert_eq!(gateway.end().code(), Some(0));
    assert!(gateway.log().contains("still at work"), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_of_itself_and_of_the_model() {
    let server = NatsServer::start();
    let gateway = Gateway::start(&server.url, &[]);
    assert_eq!(gateway.get("/v1/models").ok(), json!({"object": "list", "data": []}));
    assert_eq!(gateway.get("/info").ok()["model_id"], Value::Null);
    let worker = Fake::start(&server, "w", right).await;
    // Without a ranking it asks for itself, once in a second at most.
    wait("the model is known", || {
        (gateway.get("/info").ok()["model_id"] == "scripted").then_some(())
    });
    let models = gateway.get("/v1/models").ok();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["object"]),
        (&json!("scripted"), &json!("model"))
    );
    assert_eq!(worker.asked(), 1);
    assert_eq!(gateway.get("/info").ok()["max_client_batch_size"], 1000);

    for _ in 0..3 {
        gateway.post("/rerank", &body()).ok();
    }
    gateway.post("/v2/rerank", &json!({"query": "secret words"}));
    let stats = gateway.stats();
    let number = |pointer: &str| {
        stats
            .pointer(pointer)
            .and_then(Value::as_f64)
            .unwrap_or_else(|| panic!("{pointer} in {stats:#}"))
    };
    assert_eq!(
        (
            number("/requests/reranked"),
            number("/requests/invalid"),
            number("/requests_open")
        ),
        (3.0, 1.0, 0.0)
    );
    assert_eq!(
        (&stats["state"], &stats["circuit"], number("/latency_ms/answers")),
        (&json!("serving"), &json!("closed"), 3.0)
    );
    assert!(0.0 < number("/latency_ms/p50") && number("/latency_ms/p50") <= number("/latency_ms/max"));
    assert!(number("/memory_mb/rss") > 1.0 && number("/threads") >= 2.0);

    let metrics = gateway.get("/metrics").body;
    for metric in nats_rerank::telemetry::gateway_names::ALL {
        assert!(metrics.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
    }
    for line in [
        "rerank_gateway_requests_total{route=\"rerank\",outcome=\"reranked\"} 3",
        "rerank_gateway_requests_total{route=\"v2\",outcome=\"invalid\"} 1",
        "rerank_gateway_requests_total{route=\"v1\",outcome=\"cancelled\"} 0",
        "rerank_gateway_request_seconds_count{route=\"rerank\"} 3",
        "rerank_gateway_connected 1",
        "rerank_client_calls_total{order=\"model\",reason=\"none\"} 4",
    ] {
        assert!(metrics.lines().any(|other| other == line), "no {line:?} in\n{metrics}");
    }
    assert!(!metrics.contains("secret words") && !gateway.log().contains("secret words"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_comes_whole_from_the_program() {
    let server = NatsServer::start();
    let gateway = Gateway::start(&server.url, &[]);
    let page = gateway.get("/");
    assert_eq!(
        (page.status, page.header("Content-Type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let policy = page.header("Content-Security-Policy").unwrap_or_default();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    for file in ["page.css", "page.js", "icon.svg"] {
        assert!(page.body.contains(&format!("\"{file}\"")), "{file}");
        let loaded = gateway.get(&format!("/{file}"));
        assert_eq!(loaded.status, 200);
        assert!(
            !loaded.body.contains("https://"),
            "{file} loads something from elsewhere"
        );
    }
    assert!(!page.body.contains("//") && !page.body.contains("<script>") && !page.body.contains("style="));
    let described = gateway.get("/openapi.json").ok();
    assert_eq!(described["openapi"], "3.1.0");
    let head = finish(start(&gateway.address, "HEAD", "/", &[], ""));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

/// `Type=notify`: a gateway is started once it listens, with NATS or without, since it answers from then on.
#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_is_told_of_start_life_and_stop() {
    let port = free_port();
    let mut ear = Ear::new();
    let address = ear.address();
    let mut gateway = Gateway::spawn(
        &format!("nats://127.0.0.1:{port}"),
        &[],
        &[("NOTIFY_SOCKET", &address), ("WATCHDOG_USEC", "300000")],
    );
    ear.hear("READY=1");
    ear.hear("WATCHDOG=1");
    ear.hear("WATCHDOG=1");
    assert!(ear.has_heard("STATUS=listening, not connected to NATS"));
    let _server = NatsServer::start_with(&["-p", &port]);
    ear.hear("STATUS=listening, connected to NATS");
    gateway.signal("TERM");
    ear.hear("STOPPING=1");
    assert_eq!(gateway.end().code(), Some(0), "{}", gateway.log());
}

/// A token that was changed on the servers alone: nothing that a gateway can do mends it, so whoever watches over it is to act.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_refused_for_good_is_not_alive() {
    let configuration = |token: &str| format!("authorization {{ token: {token} }}");
    let server = NatsServer::start_configured(&configuration("first"), &[]);
    let mut ear = Ear::new();
    let notify = ear.address();
    let gateway = Gateway::spawn(
        &server.url,
        &["nats.token=first"],
        &[("NOTIFY_SOCKET", &notify), ("WATCHDOG_USEC", "300000")],
    );
    gateway.wait_ready();
    assert_eq!(gateway.get("/livez").status, 200);
    server.reload(&configuration("second"));
    let dead = || {
        let answer = gateway.get("/livez");
        (answer.status == 503).then_some(answer.body)
    };
    assert!(wait("not alive", dead).contains("refuses the credentials"));
    assert!(gateway.get("/readyz").body.contains("refuses the credentials"));
    ear.hear("STATUS=listening, NATS refuses the credentials");
    // Until it is started anew, it answers as it should without NATS.
    let answer = gateway.post("/v1/rerank", &body());
    assert_eq!(
        (answer.status, answer.header("Rerank-Fallback")),
        (200, Some("disconnected"))
    );
    server.reload(&configuration("first"));
    wait("alive again", || (gateway.get("/livez").status == 200).then_some(()));
    gateway.wait_ready();
    assert!(!gateway.log().contains("first") && !gateway.log().contains("second"));
}
