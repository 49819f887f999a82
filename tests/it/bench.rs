//! `nats-rerank bench` against real servers and workers: its books have to balance.

use std::process::Output;
use std::time::Duration;

use futures_util::StreamExt;
use nats_rerank::protocol::{Encoding, Ranking, Reply, Request, TimingsMs, Usage};
use serde_json::Value;

use crate::support::nats_server::NatsServer;
use crate::support::reference;
use crate::support::worker::{Worker, program};

/// Runs `bench` on the server at `url` with these flags, after so many requests that do not count.
fn bench_after(warmup: u64, url: &str, flags: &[&str]) -> Output {
    program()
        .args(["bench", "--set", &format!("nats.url={url}"), "--length-mix", "short"])
        .args(["--warmup", &warmup.to_string()])
        .args(flags)
        .output()
        .expect("the program")
}

fn bench(url: &str, flags: &[&str]) -> Output {
    bench_after(2, url, flags)
}

#[track_caller]
fn figures(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Every request that was due has ended once, whichever way one looks at it.
#[track_caller]
fn assert_balanced(figures: &Value) {
    let count = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value}: {figures}"));
    let sum = |value: &Value| value.as_object().unwrap().values().map(count).sum::<u64>();
    let (requests, answered, failed) = (&figures["requests"], &figures["answered"], &figures["failed"]);
    assert_eq!(count(requests), count(answered) + count(failed), "{figures}");
    assert_eq!(sum(&figures["reasons"]), count(failed), "{figures}");
    let at_try: u64 = figures["answered_at_try"].as_array().unwrap().iter().map(count).sum();
    assert_eq!(at_try, count(answered), "{figures}");
    for (kind, times) in figures["refusals"].as_object().unwrap() {
        let reason = match kind.as_str() {
            "no_responders" => "no responders".to_owned(),
            kind => format!("refused: {kind}"),
        };
        assert_eq!(times["count"], figures["reasons"][&reason], "{kind}: {figures}");
    }
    // A responder that is no worker gives no id.
    if let Some(workers) = figures["workers"].as_object().filter(|workers| !workers.is_empty()) {
        let by_workers: u64 = workers.values().map(|worker| count(&worker["answered"])).sum();
        assert_eq!(by_workers, count(answered), "{figures}");
    }
}

#[test]
fn an_open_loop_counts_every_request_once() {
    let server = NatsServer::start();
    let _worker = Worker::start(&server.url, &reference("bert-small"), &[]);
    for arrivals in ["poisson", "even"] {
        let output = bench(
            &server.url,
            &[
                "--rate",
                "100",
                "--requests",
                "60",
                "--arrivals",
                arrivals,
                "--format",
                "json",
                "--timeout-ms",
                "60000",
            ],
        );
        assert!(output.status.success(), "{output:?}");
        let figures = figures(&output);
        assert_balanced(&figures);
        assert_eq!(
            (&figures["requests"], &figures["answered"]),
            (&60.into(), &60.into()),
            "{figures}"
        );
        assert_eq!(figures["rate_per_s"], 100.0);
        assert_eq!(figures["sender_lag"]["count"], 60);
        assert_eq!(figures["workers"].as_object().unwrap().len(), 1);
        assert!(figures["p50_ms"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn an_overloaded_worker_is_seen_as_refusals_and_retries_count() {
    let server = NatsServer::start();
    // Room for one request and no leaving of the group: of many at once nearly all are refused.
    let _worker = Worker::start(
        &server.url,
        &reference("bert-small"),
        &["queue.requests_max=1", "queue.leave_at_percent=0"],
    );
    let output = bench(
        &server.url,
        &[
            "--rate",
            "5000",
            "--requests",
            "400",
            "--retries",
            "2",
            "--format",
            "json",
            "--timeout-ms",
            "60000",
            "--documents",
            "200",
        ],
    );
    let figures = figures(&output);
    assert_balanced(&figures);
    let overloaded = figures["reasons"]["refused: overloaded"].as_u64();
    assert!(overloaded.is_some_and(|count| count > 0), "{figures}");
    assert!(figures["sent"].as_u64() > figures["requests"].as_u64(), "{figures}");
}

#[test]
fn an_open_loop_without_a_worker_counts_no_responders() {
    let server = NatsServer::start();
    let output = bench(&server.url, &["--rate", "200", "--requests", "40", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "not one answer is a failure");
    let figures = figures(&output);
    assert_balanced(&figures);
    assert_eq!(figures["reasons"]["no responders"], 40);
    assert_eq!(figures["refusals"]["no_responders"]["count"], 40);
}

#[test]
fn what_is_due_beyond_the_limit_is_not_sent_and_the_rest_times_out() {
    let server = NatsServer::start();
    // Somebody who listens and never answers.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _silent = runtime.block_on(async {
        let client = async_nats::connect(&server.url).await.unwrap();
        let subscription = client.subscribe("rerank.v1.score").await.unwrap();
        client.flush().await.unwrap();
        (client, subscription)
    });
    let output = bench(
        &server.url,
        &[
            "--rate",
            "1000",
            "--requests",
            "50",
            "--in-flight-max",
            "3",
            "--timeout-ms",
            "2000",
            "--format",
            "json",
        ],
    );
    let figures = figures(&output);
    assert_balanced(&figures);
    let reason = |name: &str| figures["reasons"][name].as_u64().unwrap_or(0);
    assert!(reason("timed out") >= 3, "{figures}");
    assert!(reason("not sent: in-flight limit") > 0, "{figures}");
}

/// Keeps every request of a load until `count` have come, then answers them all.
async fn hold_until(count: usize, hold: Duration, mut requests: async_nats::Subscriber, client: async_nats::Client) {
    let mut held = Vec::new();
    while held.len() < count {
        held.push(requests.next().await.expect("a request"));
    }
    tokio::time::sleep(hold).await;
    for message in held {
        let headers = message.headers.as_ref().expect("headers");
        let timeout_ms = headers.get("Rerank-Timeout-Ms").expect("a budget").as_str();
        let timeout_ms: f64 = timeout_ms.parse().expect("a number");
        assert!(timeout_ms <= 60_000.0, "what is left of the budget: {timeout_ms}");
        let request = Request::decode(Encoding::Json, &message.payload).expect("a request");
        let ranking = |index| Ranking {
            index,
            score: 0.5,
            id: None,
            document: None,
        };
        let reply = Reply {
            rankings: (0..request.documents.len()).map(ranking).collect(),
            top_k_applied: false,
            below_min_score: None,
            model: "held".to_owned(),
            usage: Usage::default(),
            timings_ms: TimingsMs::default(),
        };
        let body = reply.encode(Encoding::Json).expect("a reply");
        client
            .publish(message.reply.expect("an inbox"), body.into())
            .await
            .unwrap();
    }
    client.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_waits_for_nobody_and_counts_from_when_a_request_was_due() {
    let server = NatsServer::start();
    let client = async_nats::connect(&server.url).await.unwrap();
    let requests = client.subscribe("rerank.v1.score").await.unwrap();
    client.flush().await.unwrap();
    let hold = Duration::from_millis(300);
    let holding = tokio::spawn(hold_until(20, hold, requests, client));
    let url = server.url.clone();
    // The last of twenty is due 950 ms after the first, and none is answered before it has come.
    let output = tokio::task::spawn_blocking(move || {
        let flags = [
            "--rate",
            "20",
            "--requests",
            "20",
            "--arrivals",
            "even",
            "--timeout-ms",
            "60000",
        ];
        bench_after(0, &url, &[&flags[..], &["--format", "json"]].concat())
    });
    let output = output.await.unwrap();
    holding.await.unwrap();
    let figures = figures(&output);
    assert_balanced(&figures);
    assert_eq!(figures["answered"], 20, "{figures}");
    let ms = |name: &str| figures[name].as_f64().unwrap();
    assert!(
        ms("max_ms") >= 1_250.0,
        "the first was under way for all that time: {figures}"
    );
    assert!(ms("p50_ms") >= 700.0, "{figures}");
}

#[test]
fn a_closed_loop_ends_by_time_too() {
    let server = NatsServer::start();
    let _worker = Worker::start(&server.url, &reference("bert-small"), &[]);
    let output = bench(
        &server.url,
        &["--callers", "3", "--duration-s", "0.5", "--msgpack", "--format", "json"],
    );
    assert!(output.status.success(), "{output:?}");
    let figures = figures(&output);
    assert_balanced(&figures);
    assert_eq!(figures["callers"], 3);
    assert!(figures["sender_lag"].is_null());
}

#[test]
fn a_sweep_leaves_a_report_and_a_plot_that_can_be_compared() {
    let server = NatsServer::start();
    let _worker = Worker::start(&server.url, &reference("bert-small"), &[]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (a, b, plot) = (path("a.json"), path("b.json"), path("plot.svg"));
    let flags = ["--sweep", "20,80", "--requests", "20", "--timeout-ms", "60000"];
    let with = |more: &[&str]| bench(&server.url, &[&flags, more].concat());
    assert!(with(&["--json", &a, "--plot", &plot]).status.success());
    assert!(with(&["--json", &b, "--seed", "8"]).status.success());

    let report: Value = serde_json::from_str(&std::fs::read_to_string(&a).unwrap()).unwrap();
    for (run, rate) in [(0, 20.0), (1, 80.0)] {
        let run = &report["runs"][run];
        assert_balanced(&run["figures"]);
        assert_eq!(run["figures"]["rate_per_s"], rate);
        let spans = run["curves"]["timeline"]["spans"].as_array().unwrap();
        let counts = spans.iter().flat_map(|span| span.as_object().unwrap().values());
        assert_eq!(counts.map(|count| count.as_u64().unwrap()).sum::<u64>(), 20);
    }
    let page = std::fs::read_to_string(&plot).unwrap();
    assert!(page.trim_end().ends_with("</svg>") && page.contains("by rate"));

    let compare = |a: &str, b: &str| {
        let output = program()
            .args(["bench", "--compare", a, b, "--format", "json"])
            .output()
            .expect("the program");
        figures(&output)
    };
    let same = compare(&a, &a);
    assert_eq!(same["comparable"], true, "{same}");
    assert_eq!(same["runs"].as_array().unwrap().len(), 2);
    assert_eq!(same["runs"][0]["rows"][0]["ratio"], 1.0);
    let other = compare(&a, &b);
    assert_eq!(other["comparable"], false, "another seed sends other texts: {other}");
}

#[test]
fn a_report_that_is_none_is_a_bad_argument() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    std::fs::write(&path, "{}").unwrap();
    let output = program()
        .arg("bench")
        .arg("--compare")
        .args([&path, &path])
        .output()
        .expect("the program");
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}
