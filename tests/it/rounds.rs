//! `nats-rerank rounds`: what the benchmark suite drives line by line.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::support::nats_server::NatsServer;
use crate::support::reference;
use crate::support::worker::{Worker, program};

/// Runs `rounds` with these flags through these orders; its lines.
#[track_caller]
fn rounds(flags: &[&str], orders: &[Value]) -> (Vec<Value>, Output) {
    let mut child = program()
        .arg("rounds")
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut input = child.stdin.take().expect("stdin");
    for order in orders {
        writeln!(input, "{order}").expect("an order");
    }
    drop(input);
    let output = child.wait_with_output().expect("its end");
    let lines = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    (lines, output)
}

/// The first cases of a reference checkpoint that a request can hold, as a payload; the logits that transformers gives.
fn payload(model: &Path, file: &Path) -> Vec<Vec<f64>> {
    let text = std::fs::read_to_string(model.join("scores.json")).expect("scores.json");
    let scores: Value = serde_json::from_str(&text).expect("JSON");
    let cases: Vec<&Value> = scores["cases"]
        .as_array()
        .expect("cases")
        .iter()
        .filter(|case| case["name"] == "plain")
        .collect();
    assert!(!cases.is_empty());
    let requests: Vec<String> = cases
        .iter()
        .map(|case| format!("{}\n", json!({"query": case["query"], "documents": case["documents"]})))
        .collect();
    std::fs::write(file, requests.concat()).expect("the payload");
    cases
        .iter()
        .map(|case| serde_json::from_value(case["logits"].clone()).expect("logits"))
        .collect()
}

#[test]
fn the_engine_alone_gives_the_logits_of_the_reference_and_times_what_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (model, file) = (reference("bert-small"), folder.path().join("requests.jsonl"));
    let expected = payload(&model, &file);
    let flags = [
        "engine",
        "--set",
        &format!("model.id={}", model.display()),
        "--set",
        "model.precision=fp32",
        "--set",
        "model.device=cpu",
        "--set",
        "model.threads=1",
    ];
    let orders = [
        json!({"do": "load", "path": file}),
        json!({"do": "scores", "count": expected.len()}),
        json!({"do": "round", "count": 3}),
    ];
    let (lines, output) = rounds(&flags, &orders);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[0]["about"]["precision"], "fp32");
    assert_eq!(lines[1]["requests"], expected.len());
    let logits: Vec<Vec<f64>> = serde_json::from_value(lines[2]["scores"].clone()).expect("scores");
    for (ours, theirs) in logits.iter().flatten().zip(expected.iter().flatten()) {
        assert!((ours - theirs).abs() < 1e-4, "{logits:?} {expected:?}");
    }
    assert_eq!(logits.len(), expected.len());
    assert_eq!(lines[3]["ms"].as_array().map(Vec::len), Some(3), "{lines:?}");
}

#[test]
fn callers_over_nats_tell_times_stages_and_tokens_of_every_request() {
    let server = NatsServer::start();
    let model = reference("bert-small");
    let _worker = Worker::start(&server.url, &model, &[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("requests.jsonl");
    payload(&model, &file);
    let orders = [
        json!({"do": "load", "path": file}),
        json!({"do": "round", "count": 5, "callers": 2}),
        json!({"do": "round", "count": 1}),
    ];
    let flags = ["caller", "--set", &format!("nats.url={}", server.url)];
    let (lines, output) = rounds(&flags, &orders);
    assert!(output.status.success(), "{output:?}");
    for (line, count) in [(&lines[2], 5), (&lines[3], 1)] {
        for figure in ["ms", "queue_ms", "tokenize_ms", "infer_ms", "total_ms", "tokens"] {
            assert_eq!(line[figure].as_array().map(Vec::len), Some(count), "{figure}: {line}");
        }
        let all = |figure: &str| serde_json::from_value::<Vec<f64>>(line[figure].clone()).expect("numbers");
        assert!(all("tokens").iter().all(|&tokens| tokens > 8.0), "{line}");
        assert!(all("ms").iter().all(|&ms| ms > 0.0), "{line}");
    }
}

#[test]
fn an_order_that_is_none_ends_it_with_a_plain_reason() {
    let server = NatsServer::start();
    let flags = ["caller", "--set", &format!("nats.url={}", server.url)];
    for (order, reason) in [
        (json!({"do": "dance"}), "is no order"),
        (json!({"do": "round", "count": 1}), "nothing was loaded"),
        (json!({"do": "scores", "count": 1}), "gives no logits"),
    ] {
        let (_, output) = rounds(&flags, &[order]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{told}");
        assert!(told.contains(reason), "{told}");
    }
}
