//! Traces: what the log shows of them, and what a collector gets.

#[cfg(feature = "otlp")]
mod export;

use nats_rerank::client::{CallOptions, Caller};
use nats_rerank::nats::ConnectionSettings;
use nats_rerank::protocol::{Encoding, RefusalKind, Request, TraceContext};

use crate::support::nats_server::NatsServer;
use crate::support::worker::Worker;
use crate::support::{PATIENCE, RawCaller, reference};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
/// Stands in every text of these tests, and must stand nowhere else.
const SECRET: &str = "zanzibar";

fn request(documents: usize) -> Request {
    let texts = (0..documents).map(|place| format!("{SECRET} text {place}"));
    let mut request = Request::new(format!("where is {SECRET}"), texts);
    request.timeout_ms = Some(60_000.0);
    request
}

/// The lines that tell of requests' ends, once there are `count`.
fn answered(worker: &Worker, count: usize) -> Vec<serde_json::Value> {
    let started = std::time::Instant::now();
    loop {
        let log = worker.log();
        let lines: Vec<serde_json::Value> = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|line: &serde_json::Value| line["message"] == "answered")
            .collect();
        if lines.len() >= count {
            return lines;
        }
        assert!(started.elapsed() < PATIENCE, "{count} lines, found {lines:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_shows_the_callers_trace_and_no_content() {
    let server = NatsServer::start();
    let worker = Worker::start(
        &server.url,
        &reference("bert-small"),
        &["log.level=info,nats_rerank::traces=debug"],
    );
    let caller = Caller::connect(&ConnectionSettings {
        urls: vec![server.url.clone()],
        ..ConnectionSettings::default()
    })
    .await
    .expect("a connection");
    let options = CallOptions {
        timeout: PATIENCE,
        trace_context: TraceContext::parse(&format!("00-{TRACE}-{SPAN}-01"), Some("vendor=1")),
        ..CallOptions::default()
    };
    assert!(options.trace_context.is_some());
    caller.rerank(&request(3), &options).await.expect("an answer");
    let lines = answered(&worker, 1);
    let line = &lines[0];
    assert_eq!(line["trace_id"], TRACE, "{line}");
    // What a killed worker held shows by its receipt alone.
    let received = worker.log();
    let mut received = received.lines().filter(|line| line.contains("\"received\""));
    let first: serde_json::Value = serde_json::from_str(received.next().expect("a line")).expect("JSON");
    assert_eq!(
        (&first["message"], &first["trace_id"]),
        (&"received".into(), &TRACE.into())
    );
    assert_eq!(
        (&line["span"]["outcome"], &line["span"]["pairs"]),
        (&"scored".into(), &3.into()),
        "{line}"
    );
    assert!(
        line["span"]["tokens"].as_u64().is_some_and(|tokens| tokens > 9),
        "{line}"
    );
    assert!(line["span"]["budget_ms"].as_u64().is_some_and(|ms| ms > 1000), "{line}");
    assert!(line["span"]["worker"].is_string() && line["latency_ms"].as_f64() > Some(0.0));
    // As in the log for people, a line stands in one span: what only exporters want is theirs alone.
    assert!(line.get("spans").is_none());

    // Any case of the name; a refusal has its trace as well, and its reason.
    let raw = RawCaller::connect(&server.url).await;
    let other = TRACE.replace('4', "5");
    let body = format!(r#"{{"query": "{SECRET}", "documents": 7}}"#).into_bytes();
    let headers = [("TraceParent", format!("00-{other}-{SPAN}-00"))];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let refusal = raw.send(body, &headers, Encoding::Json).await.refused();
    assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
    let line = answered(&worker, 2).remove(1);
    assert_eq!(line["trace_id"], other, "{line}");
    assert_eq!(
        (&line["span"]["outcome"], &line["span"]["kind"]),
        (&"refused".into(), &"invalid_request".into()),
        "{line}"
    );

    // A traceparent that makes no sense is no reason to refuse.
    let malformed = format!("00-{TRACE}-{SPAN}-01-more");
    let headers = [("traceparent", malformed.as_str())];
    raw.send(request(1).encode(Encoding::Json), &headers, Encoding::Json)
        .await
        .scored();
    let line = answered(&worker, 3).remove(2);
    assert_eq!(line["span"]["outcome"], "scored");
    assert!(line.get("trace_id").is_none(), "{line}");
    assert!(!worker.log().contains(SECRET), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usual_log_holds_nothing_of_spans() {
    let server = NatsServer::start();
    let mut worker = Worker::start(&server.url, &reference("bert-small"), &[]);
    let raw = RawCaller::connect(&server.url).await;
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let headers = [("traceparent", parent.as_str())];
    raw.send(request(2).encode(Encoding::Json), &headers, Encoding::Json)
        .await
        .scored();
    worker.signal("TERM");
    worker.wait();
    let log = worker.log();
    assert!(log.contains("stopped"), "{log}");
    for word in ["answered", TRACE, "\"span\"", "nats_rerank::traces"] {
        assert!(!log.contains(word), "{word} in {log}");
    }
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_program_that_cannot_export_says_so_at_its_start() {
    let mut worker = Worker::spawn(
        "nats://127.0.0.1:1",
        "builtin",
        &["traces.otlp_endpoint=http://127.0.0.1:4318"],
    );
    assert_eq!(worker.wait().code(), Some(64));
    let log = worker.log();
    for word in ["traces.otlp_endpoint", "`otlp`", "--features otlp"] {
        assert!(log.contains(word), "{word} in {log}");
    }
}
