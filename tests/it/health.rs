//! Health over HTTP, as probes, Prometheus and people see it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use nats_rerank::protocol::Request;

use crate::support::nats_server::NatsServer;
use crate::support::worker::{Worker, program};
use crate::support::{PATIENCE, RawCaller, reference};

const FREE_PORT: &str = "health.listen=127.0.0.1:0";

/// One HTTP request; the status code and the body.
fn http(address: &str, head: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the health port");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{head}\r\nHost: {address}\r\n\r\n").expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("headers and body");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.expect("a status code"), body.to_owned())
}

pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    http(address, &format!("GET {path} HTTP/1.1"))
}

fn json(address: &str, path: &str) -> (u16, serde_json::Value) {
    let (code, body) = get(address, path);
    (
        code,
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")),
    )
}

/// Asks /readyz until its state is `state`.
fn wait_for_state(address: &str, state: &str) -> (u16, serde_json::Value) {
    let started = Instant::now();
    loop {
        let (code, body) = json(address, "/readyz");
        if body["state"] == state {
            return (code, body);
        }
        assert!(started.elapsed() < PATIENCE, "never {state}: {body}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn healthcheck(args: &[&str]) -> Output {
    program()
        .arg("healthcheck")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn request() -> Request {
    let mut request = Request::new("which one", ["the text", "another"]);
    request.timeout_ms = Some(60_000.0);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serving_worker_is_ready_and_measured() {
    let server = NatsServer::start();
    let worker = Worker::start(&server.url, &reference("bert-small"), &[FREE_PORT]);
    let address = worker.health_address();
    assert_eq!(get(&address, "/livez").0, 200);
    let (code, ready) = wait_for_state(&address, "serving");
    assert_eq!((code, &ready["ready"]), (200, &true.into()));

    let caller = RawCaller::connect(&server.url).await;
    for _ in 0..3 {
        caller.ask(&request()).await.scored();
    }
    caller.ask_json(r#"{"query": "secret words"}"#).await.refused();
    let started = Instant::now();
    let stats = loop {
        let (code, stats) = json(&address, "/stats");
        assert_eq!(code, 200);
        if stats["requests"]["refused"]["invalid_request"] == 1 {
            break stats;
        }
        assert!(started.elapsed() < PATIENCE, "{stats:#}");
    };
    assert_eq!(stats["requests"]["received"], 4);
    assert_eq!(stats["requests"]["scored"], 3);
    assert_eq!(stats["queue"]["requests"], 0);
    let number = |path: &str| {
        let value = stats.pointer(path).and_then(serde_json::Value::as_f64);
        value.unwrap_or_else(|| panic!("{path} in {stats:#}"))
    };
    assert!(number("/memory_mb/rss") > 1.0 && number("/memory_mb/virtual") >= number("/memory_mb/rss"));
    assert!(number("/threads") >= 3.0 && number("/cpu_percent") >= 0.0);
    assert!(0.0 < number("/latency_ms/p50") && number("/latency_ms/p99") <= number("/latency_ms/max"));
    assert!(number("/batch/pairs_mean") >= 2.0 && number("/engine/busy_ratio") > 0.0);

    assert!(number("/engine/tokens_per_second") > 0.0 && number("/queue/predicted_wait_ms") >= 0.0);
    assert_eq!(
        (number("/engine/wasted_ms"), number("/batch/tokens_max")),
        (0.0, 4096.0)
    );
    assert_eq!((number("/group/joins"), number("/group/leaves/full")), (1.0, 0.0));
    assert_eq!(stats["group"]["member"], true);
    assert!(stats["device_memory_mb"].is_null(), "{stats:#}");

    let (code, metrics) = get(&address, "/metrics");
    assert_eq!(code, 200);
    assert!(!metrics.contains("rerank_engine_tokens_per_second 0\n"), "{metrics}");
    for metric in nats_rerank::telemetry::names::ALL {
        if matches!(metric.kind, nats_rerank::telemetry::names::Kind::GaugeIfKnown) {
            // These tests run on the CPU, which has no memory of its own.
            assert!(!metrics.contains(&format!("\n{} ", metric.name)), "{}", metric.name);
            continue;
        }
        assert!(metrics.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
        assert!(metrics.contains(&format!("# HELP {} ", metric.name)), "{}", metric.name);
    }
    for line in [
        "rerank_requests_total{outcome=\"scored\"} 3",
        "rerank_refusals_total{kind=\"invalid_request\"} 1",
        "rerank_refusals_total{kind=\"overloaded\"} 0",
        "rerank_request_stage_seconds_count{stage=\"tokenize\"} 3",
        "rerank_request_stage_seconds_count{stage=\"total\"} 4",
        "rerank_group_member 1",
        "rerank_switched_off 0",
        "rerank_group_joins_total 1",
        "rerank_group_leaves_total{reason=\"full\"} 0",
        "rerank_engine_wasted_seconds_total 0",
        "rerank_engine_wasted_microseconds_total 0",
        "rerank_out_of_memory_total 0",
        "rerank_queue_tokens 0",
        "rerank_batch_tokens_max 4096",
        "rerank_model_loads_total 1",
        "rerank_nats_reconnects_total 0",
    ] {
        assert!(metrics.lines().any(|other| other == line), "no {line:?} in\n{metrics}");
    }
    assert!(metrics.contains("rerank_batch_pairs_bucket{le=\"2\"}"), "{metrics}");
    assert!(metrics.contains("libtorch=\"2.11.0\""), "{metrics}");
    assert!(!metrics.contains("secret"), "request content in metrics");

    assert_eq!(get(&address, "/").0, 404);
    assert_eq!(http(&address, "POST /readyz HTTP/1.1").0, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_server_makes_the_worker_unready_and_its_return_ready_again() {
    let server = NatsServer::start();
    let port = server.url.rsplit(':').next().unwrap().to_owned();
    let worker = Worker::start(&server.url, &reference("bert-small"), &[FREE_PORT]);
    let address = worker.health_address();
    wait_for_state(&address, "serving");
    drop(server);
    let started = Instant::now();
    let reason = loop {
        let (code, body) = json(&address, "/readyz");
        if code == 503 {
            break body["reason"].to_string();
        }
        assert!(started.elapsed() < PATIENCE);
    };
    assert!(reason.contains("disconnected"), "{reason}");
    assert_eq!(get(&address, "/livez").0, 200);
    let _server = NatsServer::start_with(&["-p", &port]);
    let started = Instant::now();
    while get(&address, "/readyz").0 != 200 {
        assert!(started.elapsed() < PATIENCE, "never ready again: {}", worker.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(get(&address, "/metrics").1.contains("rerank_nats_reconnects_total 1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_and_switched_off_are_not_ready_and_say_why() {
    // No server: health is there before model and connection, and neither makes it wait.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("nats://127.0.0.1:{port}");
    // A hub that takes connections and never answers: the model is loading for as long as this test wants.
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let loading = Worker::spawn(
        &url,
        "owner/model",
        &[
            FREE_PORT,
            &format!("model.hub_endpoint=http://{}", hub.local_addr().unwrap()),
            &format!("model.hub_cache_dir={}", folder.path().display()),
        ],
    );
    let (code, body) = wait_for_state(&loading.health_address(), "loading");
    assert_eq!(code, 503, "{body}");
    drop(loading);

    let server = NatsServer::start();
    let model = reference("bert-small").display().to_string();
    let worker = Worker::spawn(&server.url, &model, &[FREE_PORT, "enabled=false"]);
    let address = worker.health_address();
    let (code, body) = wait_for_state(&address, "off");
    assert_eq!((code, &body["ready"]), (503, &false.into()));
    assert!(
        body["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("switched off"))
    );
    let (_, metrics) = get(&address, "/metrics");
    assert!(metrics.contains("\nrerank_switched_off 1\n"), "{metrics}");

    let waiting = Worker::spawn(&url, &model, &[FREE_PORT, "nats.connect_retries_max=10000"]);
    let (code, body) = wait_for_state(&waiting.health_address(), "connecting");
    assert_eq!(code, 503, "{body}");
}

#[test]
fn a_second_worker_on_one_machine_starts_with_a_free_health_port() {
    // Whoever has it, the default's port is taken.
    let _taken = TcpListener::bind("127.0.0.1:9464");
    let model = reference("bert-small").display().to_string();
    let mut command = Worker::command("nats://127.0.0.1:1", &model, &["nats.connect_retries_max=10000"]);
    command.env_remove("RERANK_HEALTH__LISTEN");
    let worker = Worker::spawn_command(command);
    worker.wait_for_log("127.0.0.1:9464 is taken");
    let address = worker.health_address();
    assert_ne!(address, "127.0.0.1:9464");
    assert_eq!(get(&address, "/livez").0, 200);
}

#[test]
fn an_address_in_use_ends_the_start_with_a_plain_reason() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mut worker = Worker::spawn(
        "nats://127.0.0.1:1",
        &reference("bert-small").display().to_string(),
        &[&format!("health.listen={listen}")],
    );
    assert_eq!(worker.wait().code(), Some(1));
    let log = worker.log();
    assert!(
        log.contains(&listen) && log.contains("health.listen") && log.contains("port 0"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_tells_by_its_exit_code() {
    let server = NatsServer::start();
    let worker = Worker::start(&server.url, &reference("bert-small"), &[FREE_PORT]);
    let address = worker.health_address();
    wait_for_state(&address, "serving");
    assert_eq!(
        healthcheck(&["--set", &format!("health.listen={address}")])
            .status
            .code(),
        Some(0)
    );
    let live = healthcheck(&["--url", &format!("http://{address}/livez")]);
    assert_eq!(
        (live.status.code(), live.stdout.as_slice()),
        (Some(0), b"alive\n".as_slice())
    );
    let wrong = healthcheck(&["--url", &format!("http://{address}/nothing")]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("404"));
    drop(worker);
    let gone = healthcheck(&["--set", &format!("health.listen={address}")]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains(&address), "{gone:?}");
    assert_eq!(healthcheck(&["--set", "health.listen="]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_slow_connections_are_bounded_and_health_still_answers() {
    let server = NatsServer::start();
    let worker = Worker::start(&server.url, &reference("bert-small"), &[FREE_PORT]);
    let address = worker.health_address();
    // As many as there are places. The oldest one gives way to the first probe, whose own connection ends with its answer.
    let idle: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(&address).unwrap()).collect();
    for path in ["/livez", "/readyz", "/metrics", "/stats"].repeat(5) {
        assert_eq!(get(&address, path).0, 200);
    }
    // So most of the others are still there: nobody waited for them to be closed after their time.
    let answered = idle.into_iter().skip(1).filter(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        let _ = write!(stream, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
        let _ = stream.read_to_string(&mut answer);
        answer.starts_with("HTTP/1.1 200")
    });
    assert!(answered.count() >= 16);
    // Three times as many, some with half a request.
    let idle: Vec<TcpStream> = (0..96)
        .map(|number| {
            let mut stream = TcpStream::connect(&address).unwrap();
            if number % 2 == 0 {
                let _ = write!(stream, "GET /livez HTTP");
            }
            stream
        })
        .collect();
    assert_eq!(get(&address, "/livez").0, 200);
    drop(idle);
    let long = "x".repeat(64 * 1024);
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The worker may close while the rest is still being written.
    let _ = write!(stream, "GET /livez HTTP/1.1\r\nHost: x\r\nLong: {long}\r\n\r\n");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(
        !answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(get(&address, "/livez").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_engine_shows_that_it_is_alive() {
    let server = NatsServer::start();
    let worker = Worker::start(&server.url, &reference("bert-small"), &[FREE_PORT]);
    let address = worker.health_address();
    let age = || {
        let (_, stats) = json(&address, "/stats");
        stats["engine"]["heart_beat_age_ms"].as_u64().expect("an age")
    };
    // Nobody asks anything: only a heart-beat can make the age fall.
    let started = Instant::now();
    let mut last = age();
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = age();
        if now < last {
            break;
        }
        last = now;
        assert!(started.elapsed() < PATIENCE, "no heart-beat: {last} ms");
    }
    let (_, stats) = json(&address, "/stats");
    assert_eq!(stats["batch"]["count"], 0, "a heart-beat is no batch");
}

/// As in a cluster of IPv6 alone: NATS, the health listener, and who asks it. The wildcard takes IPv4 as well.
#[tokio::test(flavor = "multi_thread")]
async fn ipv6_is_enough() {
    let server = NatsServer::start_with(&["-a", "::1"]);
    assert!(server.url.contains("[::1]"), "{}", server.url);
    let worker = Worker::start(&server.url, &reference("bert-small"), &["health.listen=[::]:0"]);
    let caller = RawCaller::connect(&server.url).await;
    caller.ask(&Request::new("q", ["a"])).await.scored();
    let address = worker.health_address();
    let port = address.strip_prefix("[::]:").expect("IPv6's wildcard");
    for host in ["[::1]", "127.0.0.1"] {
        assert_eq!(get(&format!("{host}:{port}"), "/livez").0, 200, "{host}");
    }
    let asked = healthcheck(&["--url", &format!("http://[::1]:{port}/readyz")]);
    assert!(asked.status.success(), "{asked:?}");
}
