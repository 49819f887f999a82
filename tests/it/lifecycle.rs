//! Start, settings, stop: what an operator meets, with the real program.

use std::io::Write;

use std::process::{Output, Stdio};
use std::time::Duration;

use nats_rerank::protocol::{Encoding, Request};

use crate::support::nats_server::NatsServer;
use crate::support::worker::{Worker, program};
use crate::support::{RawCaller, reference, root, until};

fn run(args: &[&str]) -> Output {
    program().args(args).stdin(Stdio::null()).output().expect("the program")
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn exit_codes_and_plain_errors() {
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--version"], 0, "libtorch 2.11.0"),
        (&["--help"], 0, "worker"),
        (&["worker", "--help"], 0, "--model"),
        (&["wroker"], 64, "worker"),
        (&["worker", "--set", "batch.windw_ms=3"], 64, "batch.window_ms"),
        (&["worker", "--set", "batch.window_ms=-1"], 64, "batch.window_ms"),
        (&["worker", "--profile", "huge"], 64, "minimal"),
        (&["config", "check"], 0, "ok"),
        (&["model", "info", "/no/such/folder"], 1, "/no/such/folder"),
    ];
    for (args, code, says) in cases {
        let output = run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
        assert!(text(&output).contains(says), "{args:?}: {}", text(&output));
    }
}

#[test]
fn every_profile_is_valid() {
    for profile in ["dev", "production", "minimal", "gpu"] {
        let output = run(&["--profile", profile, "config", "check"]);
        assert_eq!(output.status.code(), Some(0), "{profile}: {}", text(&output));
    }
}

#[test]
fn environment_sets_keys_and_an_unknown_one_is_named() {
    let output = program()
        .args(["config", "print"])
        .env("RERANK_BATCH__WINDOW_MS", "7")
        .env("RERANK_ENABLED", "false")
        .output()
        .unwrap();
    let printed = text(&output);
    assert!(
        printed.contains("window_ms = 7") && printed.contains("enabled = false"),
        "{printed}"
    );
    let output = program()
        .args(["config", "check"])
        .env("RERANK_BATCH__WINDWO_MS", "7")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains("RERANK_BATCH__WINDWO_MS"), "{}", text(&output));
}

#[test]
fn model_info_describes_a_folder() {
    let output = run(&[
        "model",
        "info",
        &reference("xlmr-small").display().to_string(),
        "--format",
        "json",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let info: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON on standard output");
    assert!(info.to_string().to_lowercase().contains("xlm"), "{info}");
}

#[test]
fn without_a_server_the_worker_ends_with_a_plain_reason() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("nats://127.0.0.1:{port}");
    let mut worker = Worker::spawn(
        &url,
        &reference("bert-small").display().to_string(),
        &["nats.connect_retries_max=1"],
    );
    assert_eq!(worker.wait().code(), Some(1));
    assert!(worker.log().contains(&port.to_string()), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_means_exit_1_and_no_subscription_ever() {
    let server = NatsServer::start();
    let mut worker = Worker::spawn(
        &server.url,
        "/no/such/model",
        &["model.fallback_ids=/none/either", "model.load_retry_delay_ms=1"],
    );
    let mut most = 0;
    let status = loop {
        most = most.max(server.subscriptions("rerank.v1.score"));
        if let Some(status) = worker.try_wait() {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert_eq!(status.code(), Some(1), "{}", worker.log());
    assert_eq!(most, 0, "a worker without a model subscribed");
    let log = worker.log();
    assert!(log.contains("/no/such/model") && log.contains("/none/either"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_model_serves_when_the_first_cannot_be_loaded() {
    let server = NatsServer::start();
    let fallback = reference("bert-small").display().to_string();
    let worker = Worker::spawn(
        &server.url,
        "/no/such/model",
        &[&format!("model.fallback_ids={fallback}"), "model.load_retry_delay_ms=1"],
    );
    worker.wait_for_log("ready: joined the queue group");
    let caller = RawCaller::connect(&server.url).await;
    let reply = caller.ask(&Request::new("q", ["a", "b"])).await.scored();
    assert_eq!(reply.model, "bert-small");
    assert_eq!(worker.count_log("model loaded"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_as_a_pickle_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(reference("bert-small").join(name), folder.path().join(name)).unwrap();
    }
    std::fs::File::create(folder.path().join("pytorch_model.bin"))
        .unwrap()
        .write_all(b"\x80\x02")
        .unwrap();
    let output = run(&["model", "info", &folder.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("safetensors") && text(&output).contains("pickle"),
        "{}",
        text(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_builtin_model_is_found_from_any_folder_and_understands_english() {
    let server = NatsServer::start();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = program();
    command
        .current_dir(elsewhere.path())
        .args(["worker", "--nats-url", &server.url]);
    let worker = Worker::spawn_command(command);
    worker.wait_for_log("ready: joined the queue group");
    let caller = RawCaller::connect(&server.url).await;
    // The seed's example.
    let documents = [
        "Deep learning uses neural networks",
        "Pizza recipes for beginners",
        "ML algorithms and optimization",
        "Sports statistics this season",
    ];
    let reply = caller
        .ask(&Request::new("machine learning algorithms", documents))
        .await
        .scored();
    let mut best: Vec<usize> = reply.rankings[..2].iter().map(|ranking| ranking.index).collect();
    best.sort_unstable();
    assert_eq!(best, [0, 2], "{:?}", reply.rankings);
    assert_eq!(reply.model, "builtin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_what_was_taken_and_exits_by_signal() {
    for (name, code) in [("TERM", 143), ("INT", 130)] {
        let server = NatsServer::start();
        // A budget that a slow machine keeps.
        let sets = ["limits.default_timeout_ms=60000", "limits.timeout_ms_max=60000"];
        let mut worker = Worker::start(&server.url, &reference("bert-small"), &sets);
        let caller = RawCaller::connect(&server.url).await;
        let documents: Vec<String> = (0..200)
            .map(|index| format!("document {index} with some words"))
            .collect();
        let request = Request::new("which", documents.iter().map(String::as_str));
        let body = request.encode(Encoding::Json);
        // Thirty requests are under way when the signal comes.
        let pending: Vec<_> = (0..30)
            .map(|_| {
                let (caller, body) = (caller.clone(), body.clone());
                tokio::spawn(async move { caller.client.request(caller.subject.clone(), body.into()).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        worker.signal(name);
        let (mut scored, mut turned_away) = (0, 0);
        for call in pending {
            match call.await.unwrap() {
                Ok(message) => {
                    let refused = message
                        .headers
                        .as_ref()
                        .is_some_and(|map| map.get("Nats-Service-Error-Code").is_some());
                    assert!(!refused, "refused: {}", String::from_utf8_lossy(&message.payload));
                    scored += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders, "{error}");
                    turned_away += 1;
                }
            }
        }
        assert_eq!(scored + turned_away, 30);
        assert!(scored > 0);
        assert_eq!(worker.wait().code(), Some(code), "{}", worker.log());
        assert_eq!(server.subscriptions("rerank.v1.score"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    for (second, code) in [("TERM", 143), ("INT", 130)] {
        let server = NatsServer::start();
        // Far more work than a test would wait for, and a grace to match.
        let sets = [
            "shutdown.grace_ms=600000",
            "limits.default_timeout_ms=600000",
            "limits.timeout_ms_max=600000",
            "queue.leave_at_percent=0",
            "model.hang_timeout_ms=0",
        ];
        let mut worker = Worker::start(&server.url, &root().join(".checkpoints/minilm-l6-seeded"), &sets);
        let caller = RawCaller::connect(&server.url).await;
        let documents: Vec<String> = (0..200)
            .map(|index| format!("{index} {}", "many words ".repeat(200)))
            .collect();
        let body = Request::new("which", documents.iter().map(String::as_str)).encode(Encoding::Json);
        for _ in 0..10 {
            let inbox = caller.client.new_inbox();
            let sent = caller
                .client
                .publish_with_reply(caller.subject.clone(), inbox, body.clone().into());
            sent.await.expect("a request");
        }
        caller.client.flush().await.expect("a flush");
        until("taken", || server.monitor("/varz")["out_msgs"].as_u64() >= Some(10)).await;
        worker.signal("TERM");
        worker.wait_for_log("finishing what was taken");
        assert!(worker.try_wait().is_none(), "it finished early: {}", worker.log());
        worker.signal(second);
        assert_eq!(worker.wait().code(), Some(code), "{}", worker.log());
        assert_eq!(worker.count_log("second signal: ending at once"), 1, "{}", worker.log());
        assert_eq!(worker.count_log("\"stopped\""), 0, "{}", worker.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_means_no_responders_at_once() {
    let server = NatsServer::start();
    let mut command = program();
    command.args([
        "worker",
        "--nats-url",
        &server.url,
        "--model",
        &reference("bert-small").display().to_string(),
    ]);
    command.env("RERANK_ENABLED", "false");
    let mut worker = Worker::spawn_command(command);
    worker.wait_for_log("switched off");
    let caller = RawCaller::connect(&server.url).await;
    caller.ask_nobody().await;
    worker.signal("TERM");
    assert_eq!(worker.wait().code(), Some(143));
}

#[tokio::test(flavor = "multi_thread")]
async fn query_asks_and_fails_open() {
    let server = NatsServer::start();
    let file = root().join("tests/it/support/candidates.txt");
    let args = |url: &str| -> Vec<String> {
        [
            "query",
            "what makes bread rise",
            "--documents",
            &file.display().to_string(),
            "--format",
            "json",
            "--set",
            &format!("nats.url={url}"),
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let ask = |args: Vec<String>| program().args(args).stdin(Stdio::null()).output().unwrap();
    // Nobody serves: the ANN order, the reason, exit 1.
    let alone = ask(args(&server.url));
    assert_eq!(alone.status.code(), Some(1), "{}", text(&alone));
    let json: serde_json::Value = serde_json::from_slice(&alone.stdout).expect("JSON");
    assert_eq!(json["order"], "ann", "{json}");
    let _worker = Worker::start(&server.url, &reference("bert-small"), &[]);
    let served = ask(args(&server.url));
    assert_eq!(served.status.code(), Some(0), "{}", text(&served));
    let json: serde_json::Value = serde_json::from_slice(&served.stdout).expect("JSON");
    assert_eq!(json["rankings"].as_array().map(Vec::len), Some(4), "{json}");
}
