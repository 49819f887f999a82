//! `nats-rerank top` against real servers and workers.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::time::Instant;

use nats_rerank::protocol::Request;
use serde_json::Value;

use crate::support::nats_server::NatsServer;
use crate::support::worker::{Worker, program};
use crate::support::{PATIENCE, RawCaller, reference};

/// A worker may take this long to answer, on a busy machine; once all have, nobody waits for more.
const INTERVAL_MS: &str = "4000";

fn once(url: &str, flags: &[&str]) -> Output {
    program()
        .args([
            "top",
            "--once",
            "--interval-ms",
            INTERVAL_MS,
            "--set",
            &format!("nats.url={url}"),
        ])
        .args(flags)
        .output()
        .expect("the program")
}

fn page(line: &[u8]) -> Value {
    serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)))
}

#[tokio::test(flavor = "multi_thread")]
async fn once_lists_two_workers_with_their_figures() {
    let server = NatsServer::start();
    let _workers = [0, 1].map(|_| Worker::start(&server.url, &reference("bert-small"), &[]));
    let caller = RawCaller::connect(&server.url).await;
    let mut request = Request::new("which one", ["this text", "another"]);
    request.timeout_ms = Some(60_000.0);
    for _ in 0..20 {
        caller.ask(&request).await.scored();
    }
    let output = once(&server.url, &["--format", "json"]);
    assert!(output.status.success(), "{output:?}");
    let page = page(&output.stdout);
    let workers = page["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2, "{page}");
    assert_ne!(workers[0]["worker"], workers[1]["worker"]);
    for worker in workers {
        assert_eq!(
            (&worker["state"], &worker["device"]),
            (&"serving".into(), &"cpu".into())
        );
        assert_eq!((&worker["precision"], &worker["gone"]), (&"fp32".into(), &false.into()));
        assert!(worker["model"].as_str().unwrap().contains("bert-small"), "{worker}");
        assert!(
            worker["requests_per_s"].is_number(),
            "two answers make a rate: {worker}"
        );
    }
    let requests = workers.iter().map(|worker| worker["requests"].as_u64().unwrap());
    assert_eq!(requests.sum::<u64>(), 20);

    let table = String::from_utf8(once(&server.url, &[]).stdout).unwrap();
    assert!(table.starts_with("rerank: 2 workers, 2 serving"), "{table}");
    for worker in workers {
        assert!(table.contains(worker["worker"].as_str().unwrap()), "{table}");
    }
}

#[test]
fn without_a_worker_it_says_what_to_check() {
    let server = NatsServer::start();
    let output = once(&server.url, &["--set", "nats.service_name=elsewhere"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    for words in ["$SRV.STATS.elsewhere", "nats.service_name", "nats.url"] {
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn a_worker_that_vanished_is_gone_then_forgotten() {
    let server = NatsServer::start();
    let mut workers = [0, 1].map(|_| Worker::start(&server.url, &reference("bert-small"), &[]));
    let mut top = program()
        .args(["top", "--format", "json", "--interval-ms", "500"])
        .args(["--set", &format!("nats.url={}", server.url)])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut lines = BufReader::new(top.stdout.take().expect("stdout")).lines();
    let started = Instant::now();
    // Workers, and those of them that are gone.
    let mut wait_for = |wanted: &[(usize, usize)]| {
        loop {
            assert!(started.elapsed() < PATIENCE, "never {wanted:?}");
            let line = lines.next().expect("a line").expect("a line");
            let page = page(line.as_bytes());
            let workers = page["workers"].as_array().unwrap();
            let gone = workers.iter().filter(|worker| worker["gone"] == true).count();
            if wanted.contains(&(workers.len(), gone)) {
                break;
            }
        }
    };
    wait_for(&[(2, 0)]);
    workers[0].signal("KILL");
    workers[0].wait();
    wait_for(&[(2, 1)]);
    wait_for(&[(1, 0)]);
    // A supervisor's stop is no failure.
    let stopped = std::process::Command::new("kill").arg(top.id().to_string()).status();
    assert!(stopped.expect("kill").success());
    assert!(top.wait().expect("an end").success());
}
