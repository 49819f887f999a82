//! Who is served when places are short: connections that ask nothing, half-sent requests, probes, the stop, open files.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::PATIENCE;
use crate::fakes::{Act, Asked, Fake, right};
use crate::http::{finish, start};
use crate::nats_server::NatsServer;
use crate::process::{Gateway, wait};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const PROBES: [&str; 5] = ["/livez", "/readyz", "/health", "/metrics", "/stats"];

fn body() -> Value {
    json!({"query": "q", "documents": ["a 1", "b 2"]})
}

fn open(gateway: &Gateway) -> TcpStream {
    let stream = TcpStream::connect(&gateway.address).expect("the gateway");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// A connection on which these bytes were sent.
fn begun(gateway: &Gateway, bytes: &str) -> TcpStream {
    let mut stream = open(gateway);
    stream.write_all(bytes.as_bytes()).expect("room for it");
    stream
}

/// A request of which half of the body was sent.
fn half_sent(gateway: &Gateway) -> TcpStream {
    let body = body().to_string();
    let head = format!(
        "POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    begun(gateway, &format!("{head}{}", &body[..10]))
}

fn send_the_rest(stream: &mut TcpStream) {
    stream
        .write_all(&body().to_string().as_bytes()[10..])
        .expect("room for it");
}

/// Asks on a connection that is kept; the status. `None`: it is closed.
fn ask(stream: &mut TcpStream, head: &str) -> Option<u16> {
    if stream.write_all(head.as_bytes()).is_err() {
        return None;
    }
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("no answer: {error}"),
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let line = line.to_ascii_lowercase();
                line.strip_prefix("content-length: ")?.parse::<usize>().ok()
            });
            if length.is_none_or(|length| body.len() >= length) {
                return head.split(' ').nth(1)?.parse().ok();
            }
        }
    }
}

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

/// Waits until the gateway has closed it, without an answer.
#[track_caller]
fn assert_closed(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert!(bytes.is_empty(), "{}", String::from_utf8_lossy(&bytes));
}

fn evicted(gateway: &Gateway, reason: &str) -> u64 {
    gateway.stats()["connections"]["evicted"][reason]
        .as_u64()
        .expect("a count")
}

fn connections(gateway: &Gateway) -> u64 {
    gateway.stats()["connections"]["open"].as_u64().expect("a count")
}

/// The fault: 1,100 of them silenced the probes for 75 s.
#[tokio::test(flavor = "multi_thread")]
async fn the_longest_idle_connections_give_way() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::start(&server.url, &["gateway.connections_max=20"]);
    wait("the probes' connections are closed", || {
        (connections(&gateway) == 1).then_some(())
    });
    // Some kept after an answer, the others silent.
    let mut idle: Vec<TcpStream> = Vec::new();
    for number in 0..60 {
        let mut stream = open(&gateway);
        if number < 20 {
            assert_eq!(ask(&mut stream, LIVEZ), Some(200));
        }
        idle.push(stream);
    }
    for probe in PROBES {
        assert_eq!(gateway.get(probe).status, 200, "{probe}");
    }
    assert_eq!(gateway.post("/rerank", &body()).status, 200);
    let gone = evicted(&gateway, "idle") + evicted(&gateway, "extra");
    assert!((8..=55).contains(&gone), "{:#}", gateway.stats());
    assert_eq!(evicted(&gateway, "slow"), 0);
    // Only as many have gone as there was no room for, which is 20 and 32.
    let (mut kept, mut closed) = (0, 0);
    for mut stream in idle {
        match ask(&mut stream, LIVEZ) {
            Some(200) => kept += 1,
            None => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(kept >= 18, "{kept} kept, {closed} closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_sent_head_is_spared_while_others_are_idle_and_then_for_a_while() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::start(&server.url, &["gateway.connections_max=4"]);
    wait("the probes' connections are closed", || {
        (connections(&gateway) == 1).then_some(())
    });
    let (first, rest) = LIVEZ.split_at(9);
    let mut half = begun(&gateway, first);
    let idle: Vec<_> = (0..9).map(|_| open(&gateway)).collect();
    assert_eq!(gateway.get("/livez").status, 200);
    // It is the oldest of all, and goes on.
    assert_eq!(ask(&mut half, rest), Some(200));
    drop((half, idle));
    wait("they are closed", || (connections(&gateway) == 1).then_some(()));
    // Nothing but half-sent heads, more than there are places of any kind.
    let _half: Vec<_> = (0..60).map(|_| begun(&gateway, first)).collect();
    for probe in PROBES {
        assert_eq!(gateway.get(probe).status, 200, "{probe}");
    }
    // They keep the places for a while, not for good.
    wait("a ranking", || {
        (gateway.post("/rerank", &body()).status == 200).then_some(())
    });
    assert!(evicted(&gateway, "slow") >= 1, "{:#}", gateway.stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_while_every_connection_is_at_work() {
    let server = NatsServer::start();
    let go_on = Arc::new(AtomicUsize::new(0));
    let gate = go_on.clone();
    let script = move |asked: Asked| Act::When(gate.clone(), 1, Box::new(right(asked)));
    let worker = Fake::start(&server, "w", script).await;
    let gateway = Gateway::start(&server.url, &["gateway.connections_max=3"]);
    wait("the probes' connections are closed", || {
        (connections(&gateway) == 1).then_some(())
    });
    let at_work: Vec<_> = (0..3)
        .map(|_| start(&gateway.address, "POST", "/rerank", &[JSON], &body().to_string()))
        .collect();
    wait("the workers are asked", || (worker.asked() == 3).then_some(()));
    for _ in 0..40 {
        for probe in PROBES {
            assert_eq!(gateway.get(probe).status, 200, "{probe}");
        }
    }
    let more = json!({"query": "q", "documents": ["x".repeat(20_000_000)]});
    for (path, place) in [
        ("/rerank", "/error/message"),
        ("/v1/rerank", "/detail"),
        ("/v2/rerank", "/message"),
    ] {
        for body in [&body(), &more] {
            let refused = gateway.post(path, body);
            assert_eq!(
                (refused.status, refused.header("Retry-After")),
                (429, Some("1")),
                "{refused:?}"
            );
            let told = refused.json();
            let told = told.pointer(place).and_then(Value::as_str).unwrap_or_default();
            assert!(
                told.contains("3 connections") && told.contains("gateway.connections_max"),
                "{told}"
            );
        }
    }
    go_on.store(1, Ordering::SeqCst);
    for stream in at_work {
        assert_eq!(finish(stream).status, 200);
    }
    assert_eq!(gateway.post("/rerank", &body()).status, 200);
}

/// The fault: 256 half-sent bodies gave everybody else 429 for 30 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_sent_body_holds_no_place() {
    let server = NatsServer::start();
    let worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::start(&server.url, &["gateway.requests_max=2"]);
    let half: Vec<_> = (0..50).map(|_| half_sent(&gateway)).collect();
    gateway.wait_for_stat("/pending/bodies", 50);
    assert_eq!(gateway.stats()["requests_open"], 0);
    for _ in 0..10 {
        assert_eq!(gateway.post("/rerank", &body()).status, 200);
    }
    assert_eq!(gateway.stats()["pending"]["body_bytes"], 500);
    let metrics = gateway.get("/metrics").body;
    for line in [
        "rerank_gateway_pending_bodies 50",
        "rerank_gateway_pending_body_bytes 500",
    ] {
        assert!(metrics.lines().any(|other| other == line), "no {line:?} in\n{metrics}");
    }
    // Nobody needed their room: whoever goes on is answered.
    for mut stream in half {
        send_the_rest(&mut stream);
        assert_eq!(finish(stream).status, 200);
    }
    assert_eq!(worker.asked(), 60);
    gateway.wait_for_stat("/pending/body_bytes", 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_bodies_on_every_connection_give_way_to_others() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::start(&server.url, &["gateway.connections_max=4"]);
    wait("the probes' connections are closed", || {
        (connections(&gateway) == 1).then_some(())
    });
    let half: Vec<_> = (0..4).map(|_| half_sent(&gateway)).collect();
    wait("their heads are read", || {
        let stats = gateway.stats();
        (stats["pending"]["bodies"] == 4).then_some(())
    });
    assert_eq!(gateway.get("/livez").status, 200);
    wait("a ranking", || {
        (gateway.post("/rerank", &body()).status == 200).then_some(())
    });
    assert!(evicted(&gateway, "slow") >= 1, "{:#}", gateway.stats());
    // It is told why.
    let answers: Vec<_> = half.into_iter().take(1).map(finish).collect();
    assert_eq!(answers[0].status, 408, "{answers:?}");
    assert!(answers[0].body.contains("gateway.connections_max"), "{answers:?}");
}

/// Two bodies that have stopped fill the room; a third one gets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_has_stopped_gives_its_room() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let sets = ["gateway.body_bytes_max=2000", "gateway.pending_body_bytes_max=4000"];
    let gateway = Gateway::start(&server.url, &sets);
    let head = "POST /v2/rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2000\r\n\r\n";
    let opening = r#"{"query": "q", "documents": ["a 1"], "text": ""#;
    let text = format!("{opening}{}", "x".repeat(1900 - opening.len()));
    let first = begun(&gateway, &format!("{head}{text}"));
    gateway.wait_for_stat("/pending/body_bytes", 1900);
    let mut second = begun(&gateway, &format!("{head}{text}"));
    gateway.wait_for_stat("/pending/body_bytes", 3800);
    // Room for small ones there is, at once; a large one waits until the oldest counts as slow.
    assert_eq!(gateway.post("/rerank", &body()).status, 200);
    let large = json!({"query": "q", "documents": ["x".repeat(1500)]});
    assert_eq!(gateway.post("/rerank", &large).status, 200);
    let cut = finish(first);
    assert_eq!(cut.status, 408);
    let told = cut.json()["message"].as_str().unwrap_or_default().to_owned();
    assert!(told.contains("gateway.pending_body_bytes_max"), "{told}");
    // One was enough.
    gateway.wait_for_stat("/pending/body_bytes", 1900);
    second
        .write_all(format!("{}\"}}", "x".repeat(98)).as_bytes())
        .expect("room for it");
    assert_eq!(finish(second).status, 200);
    assert_eq!(gateway.stats()["requests"]["late"], 1);
}

/// Bodies that only wait for each other: one is refused, so that the other can go on.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_do_not_wait_for_each_other() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let sets = ["gateway.body_bytes_max=40000", "gateway.pending_body_bytes_max=40000"];
    let gateway = Gateway::start(&server.url, &sets);
    let head = "POST /v2/rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 30000\r\n\r\n";
    let opening = r#"{"query": "q", "documents": ["a 1"], "text": ""#;
    let text = format!("{opening}{}\"}}", "x".repeat(29_998 - opening.len()));
    let mut first = begun(&gateway, &format!("{head}{}", &text[..20_000]));
    gateway.wait_for_stat("/pending/body_bytes", 20_000);
    let mut second = begun(&gateway, &format!("{head}{}", &text[..19_000]));
    gateway.wait_for_stat("/pending/body_bytes", 39_000);
    first.write_all(&text.as_bytes()[20_000..]).expect("room for it");
    second.write_all(&text.as_bytes()[19_000..]).expect("room for it");
    let mut answers = [finish(first), finish(second)];
    answers.sort_by_key(|answer| answer.status);
    assert_eq!([answers[0].status, answers[1].status], [200, 429], "{answers:?}");
    assert_eq!(answers[1].header("Retry-After"), Some("1"));
    assert!(
        answers[1].body.contains("gateway.pending_body_bytes_max"),
        "{answers:?}"
    );
    gateway.wait_for_stat("/pending/body_bytes", 0);
}

/// A body far over the limit is answered, though its client sends everything before it reads.
#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_is_answered_and_left_behind() {
    let server = NatsServer::start();
    let gateway = Gateway::start(&server.url, &["gateway.body_bytes_max=2000"]);
    let chunk = format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000));
    // 20 MB in pieces: all of it is taken.
    let mut stream = begun(
        &gateway,
        "POST /rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    for _ in 0..200 {
        stream.write_all(chunk.as_bytes()).expect("it is read on");
    }
    assert_eq!(ask(&mut stream, "0\r\n\r\n"), Some(413));
    // And it goes on with the connection.
    assert_eq!(ask(&mut stream, LIVEZ), Some(200));
    // Without an end, or with one far away: it is answered and closed all the same.
    for length in [
        "Transfer-Encoding: chunked",
        "Content-Length: 900000000000",
        "Expect: 100-continue\r\nContent-Length: 900000000000",
    ] {
        let mut stream = begun(
            &gateway,
            &format!("POST /rerank HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n"),
        );
        let mut writer = stream.try_clone().expect("a stream");
        let chunk = chunk.clone();
        let written =
            std::thread::spawn(move || (0..).take_while(|_| writer.write_all(chunk.as_bytes()).is_ok()).count());
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        while !bytes.ends_with(b"}") {
            match stream.read(&mut piece) {
                Ok(read @ 1..) => bytes.extend_from_slice(&piece[..read]),
                other => panic!("{length}: {other:?} after {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.starts_with("HTTP/1.1 413 "), "{length}: {text}");
        assert!(
            text.to_ascii_lowercase().contains("connection: close"),
            "{length}: {text}"
        );
        // Past its bounds the gateway closes, which ends the writer.
        let chunks = written.join().expect("the writer");
        assert!(chunks < 2000, "{chunks} chunks of 100 kB were taken");
    }
    gateway.wait_for_stat("/pending/bodies", 0);
}

/// The fault: one half-sent body held a stop for the whole grace.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_nobody_who_has_not_asked() {
    let server = NatsServer::start();
    let go_on = Arc::new(AtomicUsize::new(0));
    let gate = go_on.clone();
    let script = move |asked: Asked| Act::When(gate.clone(), 1, Box::new(right(asked)));
    let worker = Fake::start(&server, "w", script).await;
    let mut gateway = Gateway::start(
        &server.url,
        &["shutdown.grace_ms=600000", "gateway.body_bytes_max=100000"],
    );
    let silent = open(&gateway);
    let mut kept = open(&gateway);
    assert_eq!(ask(&mut kept, LIVEZ), Some(200));
    let half_head = begun(&gateway, "GET /livez HT");
    let half_body = half_sent(&gateway);
    let chunked = begun(
        &gateway,
        "POST /v2/rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"que\r\n",
    );
    let at_work = start(&gateway.address, "POST", "/rerank", &[JSON], &body().to_string());
    wait("the worker is asked", || (worker.asked() == 1).then_some(()));
    gateway.wait_for_stat("/pending/bodies", 2);
    gateway.signal("TERM");
    // They are ended before what is at work is.
    for stream in [silent, kept, half_head] {
        assert_closed(stream);
    }
    for stream in [half_body, chunked] {
        let answer = finish(stream);
        assert_eq!(
            (answer.status, answer.header("Retry-After")),
            (503, Some("1")),
            "{answer:?}"
        );
        assert_eq!(answer.header("Connection"), Some("close"), "{answer:?}");
        assert!(answer.body.contains("stopping"), "{answer:?}");
    }
    assert!(!gateway.log().contains("has ended"), "{}", gateway.log());
    go_on.store(1, Ordering::SeqCst);
    assert_eq!(finish(at_work).status, 200);
    assert_eq!(gateway.end().code(), Some(0), "{}", gateway.log());
    assert!(!gateway.log().contains("still at work"), "{}", gateway.log());
}

/// A client that asks for a large answer and does not read it keeps its connection from nobody.
#[tokio::test(flavor = "multi_thread")]
async fn an_unread_answer_gives_way() {
    let server = NatsServer::start();
    // Off, so that the answer holds what was asked, however large.
    let sets = [
        "enabled=false",
        "gateway.connections_max=1",
        "gateway.body_bytes_max=100000000",
    ];
    let gateway = Gateway::spawn(&server.url, &sets, &[]);
    let large = json!({"query": "q", "documents": ["x".repeat(60_000_000)], "return_documents": true});
    let unread = start(&gateway.address, "POST", "/rerank", &[JSON], &large.to_string());
    // The answer is being written: a probe is an extra connection then.
    gateway.wait_for_stat("/requests/ann", 1);
    assert_eq!(evicted(&gateway, "slow"), 0);
    wait("an answer", || {
        (gateway.post("/rerank", &body()).status == 200).then_some(())
    });
    assert_eq!(evicted(&gateway, "slow"), 1);
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_file_descriptors_idle_connections_give_way() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::start(&server.url, &[]);
    let limit = |files: &str| {
        let pid = gateway.pid().to_string();
        let set = std::process::Command::new("prlimit")
            .args(["--pid", &pid, &format!("--nofile={files}:")])
            .status();
        assert!(set.expect("prlimit, of util-linux").success());
    };
    limit("48");
    let idle: Vec<_> = (0..100).map(|_| open(&gateway)).collect();
    for _ in 0..20 {
        assert_eq!(gateway.get("/livez").status, 200);
        assert_eq!(gateway.post("/rerank", &body()).status, 200);
    }
    assert!(evicted(&gateway, "idle") >= 60, "{:#}", gateway.stats());
    let lines = gateway.log().matches("could not be accepted").count();
    assert!((1..=20).contains(&lines), "{lines} lines");
    assert!(gateway.log().contains("Too many open files"), "{}", gateway.log());
    drop(idle);
    // With half-sent requests, too: they give way once they are slow.
    let half: Vec<_> = (0..100).map(|_| begun(&gateway, "GET /liv")).collect();
    assert_eq!(gateway.get("/livez").status, 200);
    drop(half);
    limit("1024");
    assert_eq!(gateway.post("/rerank", &body()).status, 200);
}

/// The limit of open files is less than the settings want: then it is the limit, so that NATS and probes still have theirs.
#[tokio::test(flavor = "multi_thread")]
async fn fewer_files_are_fewer_connections() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::spawn_with_files(&server.url, 80);
    gateway.wait_ready();
    assert!(gateway.log().contains("gateway.connections_max"), "{}", gateway.log());
    let _idle: Vec<_> = (0..100).map(|_| open(&gateway)).collect();
    assert_eq!(gateway.post("/rerank", &body()).status, 200);
    assert_eq!(gateway.stats()["connections"]["max"], 16);
}
