//! What a collector gets: this file is a small one.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response};
use hyper_util::rt::TokioIo;
use nats_rerank::protocol::Encoding;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use tokio::net::TcpListener;

use super::{SECRET, SPAN, request};
use crate::support::nats_server::NatsServer;
use crate::support::worker::Worker;
use crate::support::{PATIENCE, RawCaller, reference};

/// Takes spans over HTTP, and keeps every byte that came.
#[derive(Clone)]
struct Collector {
    endpoint: String,
    bodies: Arc<Mutex<Vec<Bytes>>>,
}

impl Collector {
    async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let collector = Collector { endpoint, bodies };
        let taken = collector.bodies.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let taken = taken.clone();
                let service = service_fn(move |request| take(request, taken.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        collector
    }

    fn bytes(&self) -> Vec<u8> {
        self.bodies.lock().unwrap().concat()
    }

    fn exports(&self) -> Vec<ExportTraceServiceRequest> {
        let bodies = self.bodies.lock().unwrap();
        let decoded = bodies
            .iter()
            .map(|body| ExportTraceServiceRequest::decode(body.clone()));
        decoded.map(|export| export.expect("Protobuf")).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self
            .exports()
            .into_iter()
            .flat_map(|export| export.resource_spans)
            .flat_map(|resource| resource.scope_spans);
        resources.flat_map(|scope| scope.spans).collect()
    }

    fn named(&self, name: &str) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.name == name);
        spans
    }
}

async fn take(
    request: HttpRequest<Incoming>,
    taken: Arc<Mutex<Vec<Bytes>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let as_told = head.uri.path() == "/v1/traces" && head.headers["content-type"] == "application/x-protobuf";
    let body = body.collect().await.expect("a whole body").to_bytes();
    let mut response = Response::new(Full::new(Bytes::new()));
    if as_told {
        taken.lock().unwrap().push(body);
    } else {
        *response.status_mut() = hyper::StatusCode::NOT_FOUND;
    }
    Ok(response)
}

fn worker(server: &NatsServer, endpoint: &str, sets: &[&str]) -> Worker {
    let endpoint = format!("traces.otlp_endpoint={endpoint}");
    let mut all = vec![endpoint.as_str()];
    all.extend(sets);
    let model = reference("bert-small").display().to_string();
    let mut command = Worker::command(&server.url, &model, &all);
    // The default gathers for five seconds.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let worker = Worker::spawn_command(command);
    worker.wait_for_log("ready: joined the queue group");
    worker
}

fn stop(mut worker: Worker) {
    worker.signal("TERM");
    assert_eq!(worker.wait().code(), Some(143), "{}", worker.log());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match &found.value {
        Some(AnyValue { value }) => value.as_ref(),
        None => None,
    }
}

#[track_caller]
fn number(span: &Span, key: &str) -> i64 {
    match attribute(&span.attributes, key) {
        Some(Value::IntValue(number)) => *number,
        other => panic!("{key} of {}: {other:?}", span.name),
    }
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match attribute(attributes, key) {
        Some(Value::StringValue(text)) => Some(text),
        _ => None,
    }
}

/// Asks with a trace of its own; `pairs` documents.
async fn ask(raw: &RawCaller, trace: &str, sampled: bool, pairs: usize) {
    let parent = format!("00-{trace}-{SPAN}-0{}", u8::from(sampled));
    let headers = [("traceparent", parent.as_str()), ("tracestate", "vendor=1, other=2")];
    raw.send(request(pairs).encode(Encoding::Json), &headers, Encoding::Json)
        .await
        .scored();
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_go_below_their_callers_and_batches_are_linked_with_exactly_their_requests() {
    let (server, collector) = (NatsServer::start(), Collector::start().await);
    // The log's level says nothing of what is exported.
    let worker = worker(
        &server,
        &collector.endpoint,
        &["log.level=warn,nats_rerank::worker=info"],
    );
    let raw = RawCaller::connect(&server.url).await;
    // Traces and how many pairs each asks for: different numbers, so that sums tell who was in a batch.
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    let started = Instant::now();
    let shared = |collector: &Collector| collector.named("batch").iter().any(|batch| batch.links.len() > 1);
    let refused = "f".repeat(32);
    while !shared(&collector) {
        assert!(started.elapsed() < PATIENCE, "no batch of several requests");
        let round: Vec<(String, usize)> = (0..6)
            .map(|place| (format!("{:032x}", 0xace0_0000 + asked.len() + place), 1 << place))
            .collect();
        join_all(round.iter().map(|(trace, pairs)| ask(&raw, trace, true, *pairs))).await;
        asked.extend(round);
    }
    let parent = format!("00-{refused}-{SPAN}-01");
    let body = format!(r#"{{"query": "{SECRET}", "documents": "{SECRET}"}}"#);
    raw.send(body.into_bytes(), &[("traceparent", &parent)], Encoding::Json)
        .await
        .refused();
    // What is left is sent before the end.
    stop(worker);

    let requests = collector.named("rerank");
    assert_eq!(requests.len(), asked.len() + 1, "one span a request");
    let mut by_id: BTreeMap<String, &Span> = BTreeMap::new();
    for span in &requests {
        let trace = hex(&span.trace_id);
        assert_eq!(hex(&span.parent_span_id), SPAN);
        assert_eq!(span.kind, SpanKind::Server as i32);
        by_id.insert(hex(&span.span_id), span);
        if trace == refused {
            assert_eq!(text(&span.attributes, "outcome"), Some("refused"));
            assert_eq!(text(&span.attributes, "kind"), Some("invalid_request"));
            continue;
        }
        assert_eq!(number(span, "pairs"), asked[&trace] as i64);
        assert_eq!(number(span, "budget_ms"), 60_000);
        assert_eq!(text(&span.attributes, "outcome"), Some("scored"));
        assert_eq!(span.trace_state, "vendor=1,other=2");
        assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    }
    let traces: BTreeSet<String> = requests.iter().map(|span| hex(&span.trace_id)).collect();
    let expected: BTreeSet<String> = asked.keys().cloned().chain([refused.clone()]).collect();
    assert_eq!(traces, expected);

    // Each request fits a batch, so each is in one, whole.
    let batches = collector.named("batch");
    let mut linked = Vec::new();
    let mut batch_of: BTreeMap<String, String> = BTreeMap::new();
    for batch in &batches {
        assert!(batch.parent_span_id.is_empty() && !traces.contains(&hex(&batch.trace_id)));
        assert_eq!(number(batch, "requests"), batch.links.len() as i64);
        let (mut pairs, mut tokens) = (0, 0);
        for link in &batch.links {
            let request = by_id[&hex(&link.span_id)];
            assert_eq!(link.trace_id, request.trace_id);
            pairs += number(request, "pairs");
            tokens += number(request, "tokens");
            batch_of.insert(hex(&request.span_id), hex(&batch.span_id));
            linked.push(hex(&request.trace_id));
        }
        assert_eq!((number(batch, "pairs"), number(batch, "tokens")), (pairs, tokens));
    }
    linked.sort();
    assert_eq!(linked, asked.keys().cloned().collect::<Vec<_>>(), "each in one batch");

    // Below each request, its stages in their order; the device's stage leads to the batch.
    for request in requests.iter().filter(|span| hex(&span.trace_id) != refused) {
        let mut stages = collector.spans();
        stages.retain(|span| span.parent_span_id == request.span_id);
        stages.sort_by_key(|span| span.start_time_unix_nano);
        let names: Vec<&str> = stages.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["queue", "tokenize", "queue", "infer"]);
        assert!(stages.iter().all(|span| span.trace_id == request.trace_id));
        let links: Vec<String> = stages[3].links.iter().map(|link| hex(&link.span_id)).collect();
        assert_eq!(links, [batch_of[&hex(&request.span_id)].clone()]);
    }

    let export = collector.exports().remove(0);
    let resource = export.resource_spans[0].resource.clone().expect("a resource");
    assert_eq!(text(&resource.attributes, "service.name"), Some("rerank"));
    assert_eq!(
        text(&resource.attributes, "service.version"),
        Some(env!("CARGO_PKG_VERSION"))
    );
    assert!(
        !String::from_utf8_lossy(&collector.bytes()).contains(SECRET),
        "content of a request was exported"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_decides_what_is_recorded() {
    let (server, collector) = (NatsServer::start(), Collector::start().await);
    let worker = worker(&server, &collector.endpoint, &["traces.sample_percent=0"]);
    let raw = RawCaller::connect(&server.url).await;
    // One after the other: a batch each.
    ask(&raw, &"1".repeat(32), false, 2).await;
    raw.ask(&request(2)).await.scored();
    ask(&raw, &"2".repeat(32), true, 2).await;
    stop(worker);
    let requests = collector.named("rerank");
    assert_eq!(requests.len(), 1);
    assert_eq!(hex(&requests[0].trace_id), "2".repeat(32));
    let batches = collector.named("batch");
    assert_eq!(batches.len(), 1, "only the batch of a recorded request");
    assert_eq!(batches[0].links[0].span_id, requests[0].span_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_parent_begins_a_trace() {
    let (server, collector) = (NatsServer::start(), Collector::start().await);
    let worker = worker(&server, &collector.endpoint, &["nats.service_name=rerank-de"]);
    let raw = RawCaller::connect(&server.url).await;
    raw.ask(&request(2)).await.scored();
    let malformed = [("traceparent", "00-0-0-00")];
    let sent = raw.send(request(2).encode(Encoding::Json), &malformed, Encoding::Json);
    sent.await.scored();
    stop(worker);
    let requests = collector.named("rerank");
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|span| span.parent_span_id.is_empty()));
    assert_ne!(requests[0].trace_id, requests[1].trace_id);
    let resource = collector.exports()[0].resource_spans[0].resource.clone();
    assert_eq!(
        text(&resource.expect("a resource").attributes, "service.name"),
        Some("rerank-de")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_costs_no_request_and_no_stop() {
    let server = NatsServer::start();
    // Connections are taken by the system, and nobody reads them.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let worker = worker(&server, &endpoint, &[]);
    let raw = RawCaller::connect(&server.url).await;
    for _ in 0..20 {
        raw.ask(&request(2)).await.scored();
    }
    stop(worker);
}
