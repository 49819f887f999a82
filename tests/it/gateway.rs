//! The gateway before a real worker: its answers are the worker's. (What else it does is tested against scripted ones, in
//! tests/gateway.)

use nats_rerank::protocol::Request;
use serde_json::{Value, json};

use crate::support::nats_server::NatsServer;
use crate::support::worker::{Worker, program};
use crate::support::{RawCaller, http, reference};

const TEXTS: [&str; 4] = ["the text", "another", "pizza recipes", ""];

/// Starts a gateway; the process, and its address once it is ready.
pub fn start(url: &str, sets: &[&str]) -> (Worker, String) {
    let mut command = program();
    command.args(["gateway", "--nats-url", url, "--listen", "127.0.0.1:0"]);
    for set in [
        "log.format=json",
        "gateway.timeout_ms=60000",
        "gateway.request_timeout_ms=120000",
    ]
    .iter()
    .chain(sets)
    {
        command.args(["--set", set]);
    }
    let process = Worker::spawn_command(command);
    process.wait_for_log("listening for HTTP");
    let log = process.log();
    let line = log
        .lines()
        .find(|line| line.contains("listening for HTTP"))
        .expect("a line");
    let line: Value = serde_json::from_str(line).expect("a log in JSON");
    let address = line["address"].as_str().expect("an address").to_owned();
    while http::get(&address, "/readyz").status != 200 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    (process, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn its_scores_are_the_workers_in_every_dialect() {
    let server = NatsServer::start();
    let _worker = Worker::start(&server.url, &reference("bert-small"), &[]);
    let (_gateway, address) = start(&server.url, &[]);
    let caller = RawCaller::connect(&server.url).await;
    let mut request = Request::new("which one", TEXTS);
    request.timeout_ms = Some(60_000.0);
    let scores = caller.ask(&request).await.scored();
    request.raw_scores = true;
    let logits = caller.ask(&request).await.scored();

    let json = [("Content-Type", "application/json")];
    let post = |path: &str, body: Value| http::post(&address, path, &json, &body).ok();
    let rows = |rows: &Value, score: &str| -> Vec<(u64, f64)> {
        let rows = rows.as_array().expect("an array").iter();
        rows.map(|row| {
            (
                row["index"].as_u64().expect("a place"),
                row[score].as_f64().expect("a score"),
            )
        })
        .collect()
    };
    let of = |reply: &nats_rerank::protocol::Reply, map: fn(f32) -> f64| -> Vec<(u64, f64)> {
        let rankings = reply.rankings.iter();
        rankings
            .map(|ranking| (ranking.index as u64, map(ranking.score)))
            .collect()
    };
    let relevance = of(&logits, |logit| 1.0 / (1.0 + (-f64::from(logit)).exp()));
    // As the digits on the wire are read.
    let digits = |score: f32| score.to_string().parse().expect("a number");

    let own = post("/rerank", json!({"query": "which one", "documents": TEXTS}));
    assert_eq!(rows(&own["rankings"], "score"), of(&scores, digits));
    assert_eq!(
        (&own["model"], &own["usage"]["tokens"]),
        (&json!(scores.model), &json!(scores.usage.tokens))
    );
    let own = post(
        "/rerank",
        json!({"query": "which one", "documents": TEXTS, "raw_scores": true}),
    );
    assert_eq!(rows(&own["rankings"], "score"), of(&logits, digits));
    let tei = post(
        "/rerank",
        json!({"query": "which one", "texts": TEXTS, "raw_scores": true}),
    );
    assert_eq!(rows(&tei, "score"), of(&logits, digits));
    let tei = post("/rerank", json!({"query": "which one", "texts": TEXTS}));
    assert_eq!(rows(&tei, "score"), relevance);
    for path in ["/v1/rerank", "/v2/rerank"] {
        let answer = post(path, json!({"model": "any", "query": "which one", "documents": TEXTS}));
        assert_eq!(rows(&answer["results"], "relevance_score"), relevance, "{path}");
        assert_eq!(answer["meta"]["tokens"]["input_tokens"], json!(logits.usage.tokens));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_refuses_for_good_is_an_error_and_a_worker_that_leaves_is_none() {
    let server = NatsServer::start();
    let mut worker = Worker::start(&server.url, &reference("bert-small"), &["limits.documents_max=2"]);
    let (_gateway, address) = start(&server.url, &[]);
    let json = [("Content-Type", "application/json")];
    let post = |path: &str, body: &Value| http::post(&address, path, &json, body);
    let body = json!({"query": "which one", "documents": ["the text", "another"]});
    assert_eq!(post("/v2/rerank", &body).status, 200);

    let many = post("/v2/rerank", &json!({"query": "which one", "documents": TEXTS}));
    assert_eq!(many.status, 413);
    assert!(
        many.json()["message"]
            .as_str()
            .is_some_and(|text| text.contains("limit of 2")),
        "{many:?}"
    );
    let long = "the text ".repeat(2000);
    let uncut = post(
        "/rerank",
        &json!({"query": "which one", "texts": [long], "truncate": false}),
    );
    assert_eq!(
        (uncut.status, &uncut.json()["error_type"]),
        (400, &json!("Validation")),
        "{uncut:?}"
    );
    let mut named = body.clone();
    named["model"] = "another model".into();
    for path in ["/rerank", "/v1/rerank"] {
        assert_eq!(post(path, &named).status, 200, "{path}: any name will do");
    }
    let (_strict, strict) = start(&server.url, &["gateway.any_model=false"]);
    let unknown = http::post(&strict, "/rerank", &json, &named);
    assert_eq!(
        (unknown.status, &unknown.json()["error"]["kind"]),
        (404, &json!("unknown_model"))
    );

    worker.signal("TERM");
    worker.wait();
    let alone = post("/v1/rerank", &body);
    assert_eq!(
        (alone.status, alone.header("Rerank-Fallback")),
        (200, Some("no_responders"))
    );
}
