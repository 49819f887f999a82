//! Servers and networks that go, hang, and come back: a worker notices, says so, comes back by itself, and sends nothing that
//! nobody waits for any more.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use futures_util::StreamExt;
use nats_rerank::model::tokenizer::PairTokens;
use nats_rerank::protocol::{Encoding, Request};
use nats_rerank::worker::WorkerSettings;

use crate::faults::{InProcess, Script, lengths};
use crate::support::ledger::{Ending, Load};
use crate::support::nats_server::{NatsServer, cluster, free_port};
use crate::support::proxy::Proxy;
use crate::support::worker::Worker;
use crate::support::{PATIENCE, RawCaller, reference, until};

const HEALTH: &str = "health.listen=127.0.0.1:0";
const SUBJECT: &str = "rerank.v1.score";

fn small() -> Request {
    Request::new("q", ["a", "b"])
}

/// Publishes a request with an inbox and a budget of its own.
async fn publish(caller: &RawCaller, inbox: &str, request: &Request, budget: Duration) {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Rerank-Timeout-Ms", budget.as_millis().to_string().as_str());
    let body = request.encode(Encoding::Json);
    let sent = caller
        .client
        .publish_with_reply_and_headers(SUBJECT, inbox.to_owned(), headers, body.into());
    sent.await.expect("a request");
    caller.client.flush().await.expect("a flush");
}

/// An engine that waits for a word before its first batch.
fn held() -> (mpsc::SyncSender<()>, Script) {
    let (release, word) = mpsc::sync_channel::<()>(1);
    let mut first = true;
    let script = move |pairs: &[&PairTokens]| {
        if std::mem::take(&mut first) {
            let _ = word.recv();
        }
        Ok(lengths(pairs))
    };
    (release, Box::new(script))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_an_outage_made_too_late_never_leave() {
    let before = NatsServer::start();
    let network = Proxy::start(before.address()).await;
    let (release, script) = held();
    let through = |settings: &mut WorkerSettings| settings.connection.urls = vec![network.url.clone()];
    let worker = InProcess::start(&before, through, script).await;
    let caller = RawCaller::connect(&before.url).await;
    publish(&caller, "_INBOX.late", &small(), Duration::from_secs(2)).await;
    publish(&caller, "_INBOX.patient", &small(), PATIENCE).await;
    until("both are there", || worker.status.queue_requests() == 2).await;
    network.cut();
    drop(before);
    until("the worker has noticed", || !worker.status.snapshot().connected).await;
    release.send(()).expect("an engine that waits");
    until("the late one was given up", || worker.status.snapshot().dropped == 1).await;
    // Another server: whoever listens there hears everything that leaves the worker.
    let after = NatsServer::start();
    let spy = RawCaller::connect(&after.url).await;
    let mut inboxes = spy.client.subscribe("_INBOX.>").await.expect("a subscription");
    spy.client.flush().await.expect("a flush");
    until("the spy listens", || after.subscriptions("_INBOX.>") == 1).await;
    network.heal(after.address());
    until("the worker is back", || after.members(SUBJECT) == 1).await;
    publish(&spy, "_INBOX.fresh", &small(), PATIENCE).await;
    let mut heard = Vec::new();
    while !heard.contains(&"_INBOX.fresh".to_owned()) {
        let message = tokio::time::timeout(PATIENCE, inboxes.next()).await.expect("an answer");
        heard.push(message.expect("a message").subject.to_string());
    }
    assert_eq!(heard, ["_INBOX.patient", "_INBOX.fresh"]);
    let read = worker.status.snapshot();
    assert_eq!((read.received, read.scored, read.dropped), (3, 2, 1));
    worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_takes_nothing_holds_answers_up_for_no_longer_than_callers_wait() {
    const SENT: usize = 60;
    let server = NatsServer::start();
    let network = Proxy::start(server.address()).await;
    let (release, script) = held();
    let through = |settings: &mut WorkerSettings| {
        settings.connection.urls = vec![network.url.clone()];
        // The connection does not look lost: what bounds the wait is the deadline.
        settings.connection.ping_interval = PATIENCE;
    };
    let worker = InProcess::start(&server, through, script).await;
    let caller = RawCaller::connect(&server.url).await;
    // Thirty megabytes of answers: more than the buffers on the way hold.
    let text = "word ".repeat(100_000);
    let mut request = Request::new("q", [text.as_str()]);
    request.return_documents = true;
    for place in 0..SENT {
        publish(
            &caller,
            &format!("_INBOX.big.{place}"),
            &request,
            Duration::from_secs(20),
        )
        .await;
    }
    until("all are there", || worker.status.snapshot().received == SENT as u64).await;
    network.freeze();
    release.send(()).expect("an engine that waits");
    until("nothing is owed any more", || worker.status.queue_requests() == 0).await;
    let read = worker.status.snapshot();
    assert!(read.connected && read.dropped > 0, "{} dropped", read.dropped);
    assert_eq!(read.scored + read.refused_total() + read.dropped, SENT as u64);
    network.heal(server.address());
    // The server may still count the old connection as a member for a while, and send requests into it: the worker is back
    // when one is answered.
    let answered = async {
        let try_once = || caller.client.request(SUBJECT, small().encode(Encoding::Json).into());
        while !matches!(
            tokio::time::timeout(Duration::from_secs(1), try_once()).await,
            Ok(Ok(_))
        ) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .expect("the worker is back");
    worker.stop().await.expect("a clean stop");
}

fn prompt(url: &str) -> Worker {
    Worker::start(
        url,
        &reference("bert-small"),
        &[HEALTH, "nats.ping_interval_ms=200", "nats.connect_timeout_ms=1000"],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_noticed_and_healed() {
    let server = NatsServer::start();
    let network = Proxy::start(server.address()).await;
    let worker = prompt(&network.url);
    let caller = RawCaller::connect(&server.url).await;
    caller.ask(&small()).await.scored();
    assert!(worker.ready());
    network.freeze();
    until("unready", || !worker.ready()).await;
    // As long as it lasts.
    worker.wait_for_log("NATS cannot be reached");
    assert!(!worker.ready());
    network.heal(server.address());
    until("ready", || worker.ready() && server.members(SUBJECT) == 1).await;
    caller.ask(&small()).await.scored();
    assert_eq!(worker.metric("rerank_nats_reconnects_total"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_noticed_and_taken_up_again() {
    let server = NatsServer::start();
    let worker = prompt(&server.url);
    server.signal("STOP");
    until("unready", || !worker.ready()).await;
    server.signal("CONT");
    until("ready", || worker.ready()).await;
    let caller = RawCaller::connect(&server.url).await;
    until("one member, the old connection is gone", || {
        server.members(SUBJECT) == 1
    })
    .await;
    caller.ask(&small()).await.scored();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lame_duck_is_left_for_another_server() {
    let mut nodes = cluster(2, "");
    until("the nodes know each other", || {
        nodes.iter().all(|node| node.peers() == 1)
    })
    .await;
    // The first alone: it tells of the other.
    let workers = [0, 1].map(|_| Worker::start(&nodes[0].url, &reference("bert-small"), &[HEALTH]));
    let caller = RawCaller::connect(&nodes[1].url).await;
    let asked = || caller.client.request(SUBJECT, small().encode(Encoding::Json).into());
    let routed = tokio::time::timeout(PATIENCE, async { while asked().await.is_err() {} });
    routed.await.expect("the route tells of the workers");
    let load = Load::start(caller.client.clone(), 6, &small(), Duration::from_secs(10)).await;
    load.pass(60).await;
    nodes[0].signal("USR2");
    until("both have moved", || nodes[1].members(SUBJECT) == 2).await;
    load.pass(60).await;
    drop(nodes.remove(0));
    load.pass(60).await;
    let ledger = load.stop().await;
    println!("{ledger:?}");
    assert_eq!(ledger.duplicates, 0);
    // The worker loses nothing. The servers may: what is on its way over the route when the last member of the first server
    // has left is dropped there. One request a caller at most.
    let lost = ledger.of(&Ending::TimedOut);
    assert!(lost <= 6, "{ledger:?}");
    let told = ledger.of(&Ending::Scored) + ledger.of(&Ending::NoResponders);
    assert_eq!(told + lost, ledger.sent(), "{ledger:?}");
    for worker in &workers {
        assert_eq!(worker.count_log("moved to another NATS server"), 1, "{}", worker.log());
        assert_eq!(worker.metric("rerank_nats_lame_duck_total"), 1.0);
        assert_eq!(worker.metric("rerank_nats_reconnects_total"), 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lame_duck_that_is_the_only_server_is_kept_until_it_goes() {
    let server = NatsServer::start();
    let worker = Worker::start(&server.url, &reference("bert-small"), &[HEALTH]);
    let caller = RawCaller::connect(&server.url).await;
    server.signal("USR2");
    worker.wait_for_log("no other NATS server is known");
    caller.ask(&small()).await.scored();
    assert!(worker.ready());
    assert_eq!(worker.metric("rerank_nats_reconnects_total"), 0.0);
}

/// Nothing is owed, so nothing is waited for: neither an answer of the server nor for the last bytes to leave.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_without_nats_waits_for_no_server() {
    let server = NatsServer::start();
    let mut worker = prompt(&server.url);
    drop(server);
    until("unready", || !worker.ready()).await;
    worker.signal("TERM");
    assert_eq!(worker.wait().code(), Some(143), "{}", worker.log());
    for waited in ["does not answer in time", "may not have left", "could not be sent"] {
        assert_eq!(worker.count_log(waited), 0, "{}", worker.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_on_the_way_to_another_server_waits_for_no_server() {
    let server = NatsServer::start();
    // The other one that it knows of is not there.
    let both = format!("{},nats://127.0.0.1:{}", server.url, free_port());
    let mut worker = prompt(&both);
    server.signal("USR2");
    until("left for the other", || server.members(SUBJECT) == 0).await;
    until("on its way", || !worker.ready()).await;
    worker.signal("TERM");
    assert_eq!(worker.wait().code(), Some(143), "{}", worker.log());
    assert_eq!(
        worker.count_log("no other NATS server could be reached"),
        0,
        "{}",
        worker.log()
    );
    assert_eq!(worker.count_log("moved to another"), 0, "{}", worker.log());
}

/// What was taken is computed and answered, if the connection is back while its caller waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_without_nats_waits_for_what_is_owed() {
    let server = NatsServer::start();
    let network = Proxy::start(server.address()).await;
    let (release, script) = held();
    let through = |settings: &mut WorkerSettings| {
        settings.connection.urls = vec![network.url.clone()];
        settings.grace = PATIENCE;
    };
    let worker = InProcess::start(&server, through, script).await;
    let caller = RawCaller::connect(&server.url).await;
    let mut inbox = caller.client.subscribe("_INBOX.owed").await.expect("a subscription");
    publish(&caller, "_INBOX.owed", &small(), PATIENCE).await;
    until("it is there", || worker.status.queue_requests() == 1).await;
    network.cut();
    until("the worker has noticed", || !worker.status.snapshot().connected).await;
    let status = worker.status.clone();
    let stopped = tokio::spawn(worker.stop());
    until("stopping", || status.state().name() == "stopping").await;
    release.send(()).expect("an engine that waits");
    network.heal(server.address());
    let answer = tokio::time::timeout(PATIENCE, inbox.next())
        .await
        .expect("an answer in time");
    assert!(answer.is_some());
    stopped.await.expect("the stop").expect("a clean stop");
    let read = status.snapshot();
    assert_eq!((read.received, read.scored, read.dropped), (1, 1, 0));
}

/// A message to the workers as raw bytes, which the server passes on as they are.
fn send_raw(server: &NatsServer, reply_to: &[u8], headers: Option<&[u8]>) {
    let mut stream = std::net::TcpStream::connect(server.address()).expect("the server");
    let (verb, length) = match headers {
        Some(headers) => ("HPUB", format!("{0} {0}", headers.len())),
        None => ("PUB", "0".to_owned()),
    };
    let mut message = format!("CONNECT {{\"headers\":true}}\r\n{verb} {SUBJECT} ").into_bytes();
    message.extend_from_slice(reply_to);
    message.extend_from_slice(format!(" {length}\r\n").as_bytes());
    message.extend_from_slice(headers.unwrap_or_default());
    message.extend_from_slice(b"\r\n");
    stream.write_all(&message).expect("a message");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_the_client_library_cannot_read_cost_the_connection_and_no_more() {
    const CALLERS: usize = 6;
    let kinds: [(&[u8], Option<&[u8]>); 8] = [
        // Headers that are no UTF-8.
        (b"_INBOX.x", Some(b"NATS/1.0\r\nX: \xff\xfe\r\n\r\n")),
        // A reply subject that is no UTF-8, with headers and without.
        (b"_INBOX.\xff", Some(b"NATS/1.0\r\nX: y\r\n\r\n")),
        (b"_INBOX.\xff", None),
        // One with a white space that separates nothing for the server.
        (b"_INBOX.a\x0bb", Some(b"NATS/1.0\r\nX: y\r\n\r\n")),
        // No version, a status that is no number, a line without a colon, a name with a blank.
        (b"_INBOX.x", Some(b"X: y\r\n\r\n")),
        (b"_INBOX.x", Some(b"NATS/1.0 abc\r\n\r\n")),
        (b"_INBOX.x", Some(b"NATS/1.0\r\nno colon\r\n\r\n")),
        (b"_INBOX.x", Some(b"NATS/1.0\r\na name: y\r\n\r\n")),
    ];
    let server = NatsServer::start();
    let worker = Worker::start(&server.url, &reference("bert-small"), &[HEALTH]);
    let caller = RawCaller::connect(&server.url).await;
    let load = Load::start(caller.client.clone(), CALLERS, &small(), Duration::from_secs(5)).await;
    load.pass(60).await;
    for (sent, (reply_to, headers)) in kinds.iter().enumerate() {
        send_raw(&server, reply_to, *headers);
        until("thrown out and back", || {
            worker.metric("rerank_nats_reconnects_total") == (sent + 1) as f64 && worker.ready()
        })
        .await;
        load.pass(60).await;
    }
    let ledger = load.stop().await;
    println!("{ledger:?}");
    assert_eq!(ledger.duplicates, 0);
    // What was on its way in the connection: one request a caller at most, each time. What the worker had taken is answered.
    let lost = ledger.of(&Ending::TimedOut);
    assert!(lost <= (CALLERS * kinds.len()) as u64, "{ledger:?}");
    let ended = ledger.of(&Ending::Scored) + ledger.of(&Ending::NoResponders);
    assert_eq!(ended + lost, ledger.sent(), "{ledger:?}");
    assert_eq!(worker.metric("rerank_requests_total{outcome=\"dropped\"}"), 0.0);
    until("one member", || server.members(SUBJECT) == 1).await;
    assert_eq!(worker.metric("rerank_nats_reconnects_total"), kinds.len() as f64);
}

/// Sends `count` requests at once and collects what comes back by inbox, until nothing has come for a while.
async fn flood(caller: &RawCaller, count: usize, body: Vec<u8>) -> BTreeMap<String, usize> {
    let base = caller.client.new_inbox();
    let mut answers = caller
        .client
        .subscribe(format!("{base}.*"))
        .await
        .expect("a subscription");
    for place in 0..count {
        let inbox = format!("{base}.{place}");
        let sent = caller.client.publish_with_reply(SUBJECT, inbox, body.clone().into());
        sent.await.expect("a request");
    }
    caller.client.flush().await.expect("a flush");
    let mut heard = BTreeMap::new();
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_secs(5), answers.next()).await {
        *heard.entry(message.subject.to_string()).or_default() += 1;
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_the_client_drops_are_counted_and_the_rest_is_answered() {
    const SENT: usize = 5000;
    let server = NatsServer::start();
    let sets = [HEALTH, "nats.subscription_capacity=1", "queue.leave_at_percent=0"];
    let worker = Worker::start(&server.url, &reference("bert-small"), &sets);
    let caller = RawCaller::connect(&server.url).await;
    let heard = flood(&caller, SENT, small().encode(Encoding::Json)).await;
    let slow = worker.metric("rerank_nats_slow_consumer_total");
    println!("{} of {SENT} answered, {slow} slow consumer events", heard.len());
    assert!(heard.values().all(|&answers| answers == 1));
    assert!(
        slow > 0.0 && slow <= (SENT - heard.len()) as f64,
        "{slow} events, {} answers",
        heard.len()
    );
    let ended = |outcome: &str| worker.metric(&format!("rerank_requests_total{{outcome=\"{outcome}\"}}"));
    assert_eq!(ended("scored") + ended("refused"), heard.len() as f64);
    assert_eq!(ended("dropped"), 0.0);
    caller.ask(&small()).await.scored();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_the_server_throws_out_as_too_slow_comes_back() {
    let server = NatsServer::start_configured("max_pending: 1MB\nwrite_deadline: \"2s\"", &[]);
    let worker = Worker::start(&server.url, &reference("bert-small"), &[HEALTH]);
    let caller = RawCaller::connect(&server.url).await;
    let mut body: serde_json::Value = serde_json::from_slice(&small().encode(Encoding::Json)).expect("JSON");
    body["padding"] = "x".repeat(500_000).into();
    worker.signal("STOP");
    let flooded = tokio::spawn({
        let caller = caller.clone();
        async move { flood(&caller, 60, body.to_string().into_bytes()).await }
    });
    until("thrown out", || {
        server.monitor("/varz")["slow_consumers"].as_u64() >= Some(1)
    })
    .await;
    worker.signal("CONT");
    until("back", || {
        worker.metric("rerank_nats_reconnects_total") == 1.0 && worker.ready()
    })
    .await;
    let heard = flooded.await.expect("the flood");
    assert!(heard.values().all(|&answers| answers == 1), "{heard:?}");
    until("serving", || server.members(SUBJECT) == 1).await;
    caller.ask(&small()).await.scored();
}
