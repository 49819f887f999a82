//! The live switch over JetStream KV: off and on, without JetStream, and across restarts of the server.

use std::time::Duration;

use async_nats::jetstream;
use nats_rerank::protocol::Request;
use nats_rerank::worker::WorkerSettings;

use crate::faults::{InProcess, lengths};
use crate::health::get;
use crate::support::nats_server::{NatsServer, free_port};
use crate::support::proxy::Proxy;
use crate::support::worker::Worker;
use crate::support::{Answer, PATIENCE, RawCaller, reference, until};

const SUBJECT: &str = "rerank.v1.score";

/// The live switch's bucket, by its stream: the client's own call asks for what servers before 2.10 do not tell.
async fn bucket(server: &NatsServer) -> jetstream::kv::Store {
    bucket_with_history(server, 1).await
}

/// The same with so many revisions kept of each key.
async fn bucket_with_history(server: &NatsServer, revisions: i64) -> jetstream::kv::Store {
    let client = RawCaller::connect(&server.url).await.client;
    let context = jetstream::new(client);
    let stream = jetstream::stream::Config {
        name: "KV_switch".to_owned(),
        subjects: vec!["$KV.switch.>".to_owned()],
        max_messages_per_subject: revisions,
        discard: jetstream::stream::DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        num_replicas: 1,
        ..Default::default()
    };
    let made = tokio::time::timeout(PATIENCE, async {
        while let Err(error) = context.get_or_create_stream(stream.clone()).await {
            println!("JetStream is not there yet: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    made.await.expect("a stream");
    context.get_key_value("switch").await.expect("a bucket")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_switch_turns_workers_off_and_on() {
    let store = tempfile::tempdir().unwrap();
    let server = NatsServer::start_with(&["-js", "-sd", &store.path().display().to_string()]);
    let change = |settings: &mut nats_rerank::worker::WorkerSettings| {
        settings.switch_bucket = Some("switch".to_owned());
    };
    // The bucket is not there yet: the configuration holds.
    let worker = InProcess::start(&server, change, |pairs| Ok(lengths(pairs))).await;
    let members = || server.subscriptions("rerank.v1.score");
    until("joined without a bucket", || members() == 1).await;
    let caller = RawCaller::connect(&server.url).await;
    let bucket = bucket(&server).await;
    bucket.put("enabled", "false".into()).await.expect("a value");
    until("left", || members() == 0).await;
    caller.ask_nobody().await;
    bucket.put("enabled", "nonsense".into()).await.expect("a value");
    bucket.put("enabled", "true".into()).await.expect("a value");
    until("back", || members() == 1).await;
    assert!(matches!(caller.ask(&Request::new("q", ["a"])).await, Answer::Scored(_)));
    bucket.put("enabled", "false".into()).await.expect("a value");
    until("left again", || members() == 0).await;
    bucket.delete("enabled").await.expect("a deletion");
    until("the configuration holds again", || members() == 1).await;
    worker.stop().await.expect("a clean stop");
}

/// A running worker goes by what it saw last; one that starts has nothing to go by, of a bucket that keeps one revision.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_the_switch_is_the_last_good_value_or_off() {
    let store = tempfile::tempdir().unwrap();
    let server = NatsServer::start_with(&["-js", "-sd", &store.path().display().to_string()]);
    let bucket = bucket(&server).await;
    let switched = |settings: &mut WorkerSettings| settings.switch_bucket = Some("switch".to_owned());
    for (value, state) in [("true", "serving"), ("false", "off")] {
        bucket.put("enabled", value.into()).await.expect("a value");
        let running = InProcess::start(&server, switched, |pairs| Ok(lengths(pairs))).await;
        until(state, || running.status.state().name() == state).await;
        bucket.put("enabled", "garbage".into()).await.expect("a value");
        let new = InProcess::start(&server, switched, |pairs| Ok(lengths(pairs))).await;
        until("off", || new.status.state().name() == "off").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(running.status.state().name(), state);
        assert_eq!(new.status.state().name(), "off");
        // Deleted: as configured, and what was good before is forgotten.
        bucket.delete("enabled").await.expect("a deletion");
        until("as configured", || {
            running.status.state().name() == "serving" && new.status.state().name() == "serving"
        })
        .await;
        bucket.put("enabled", "garbage".into()).await.expect("a value");
        until("off again", || {
            running.status.state().name() == "off" && new.status.state().name() == "off"
        })
        .await;
        running.stop().await.expect("a clean stop");
        new.stop().await.expect("a clean stop");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_with_garbage_goes_by_the_switchs_history() {
    let store = tempfile::tempdir().unwrap();
    let server = NatsServer::start_with(&["-js", "-sd", &store.path().display().to_string()]);
    let bucket = bucket_with_history(&server, 5).await;
    for (values, state) in [(["true", "x", ""], "serving"), (["false", "x", "1"], "off")] {
        for value in values {
            bucket.put("enabled", value.into()).await.expect("a value");
        }
        // The opposite is configured, so that the bucket's word shows.
        let change = |settings: &mut WorkerSettings| {
            settings.switch_bucket = Some("switch".to_owned());
            settings.enabled = state == "off";
        };
        let worker = InProcess::start(&server, change, |pairs| Ok(lengths(pairs))).await;
        until(state, || worker.status.state().name() == state).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(worker.status.state().name(), state);
        worker.stop().await.expect("a clean stop");
    }
}

/// A fleet that is switched off looks like one that is gone, but for this gauge. The program's own: only it has a recorder.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_the_live_switch_says() {
    let store = tempfile::tempdir().unwrap();
    let server = NatsServer::start_with(&["-js", "-sd", &store.path().display().to_string()]);
    let bucket = bucket(&server).await;
    bucket.put("enabled", "true".into()).await.expect("a value");
    let model = reference("bert-small").display().to_string();
    // Off by its configuration, which the bucket overrules.
    let worker = Worker::spawn(
        &server.url,
        &model,
        &[
            "health.listen=127.0.0.1:0",
            "enabled=false",
            "nats.switch_bucket=switch",
        ],
    );
    let address = worker.health_address();
    let tells = |switched_off: u8| {
        get(&address, "/metrics")
            .1
            .contains(&format!("\nrerank_switched_off {switched_off}\n"))
    };
    until("joined", || server.members(SUBJECT) == 1).await;
    until("on", || tells(0)).await;
    bucket.put("enabled", "false".into()).await.expect("a value");
    until("off", || tells(1) && server.members(SUBJECT) == 0).await;
    bucket.put("enabled", "true".into()).await.expect("a value");
    until("on again", || tells(0) && server.members(SUBJECT) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_jetstream_the_configuration_holds() {
    let server = NatsServer::start();
    let on = |settings: &mut nats_rerank::worker::WorkerSettings| settings.switch_bucket = Some("switch".to_owned());
    let worker = InProcess::start(&server, on, |pairs| Ok(lengths(pairs))).await;
    until("joined", || server.subscriptions("rerank.v1.score") == 1).await;
    worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_switch_is_followed_across_restarts_of_the_server() {
    let port = free_port();
    let start = |store: &tempfile::TempDir| {
        NatsServer::start_with(&["-p", &port, "-js", "-sd", &store.path().display().to_string()])
    };
    let kept = tempfile::tempdir().expect("a folder");
    let server = start(&kept);
    let store = bucket(&server).await;
    for value in ["true", "false", "true", "false"] {
        store.put("enabled", value.into()).await.expect("a value");
    }
    let switched = |settings: &mut WorkerSettings| settings.switch_bucket = Some("switch".to_owned());
    let worker = InProcess::start(&server, switched, |pairs| Ok(lengths(pairs))).await;
    let connected = || worker.status.snapshot().connected;
    let state = || worker.status.state().name();
    until("off", || state() == "off").await;
    drop(server);
    until("the worker has noticed", || !connected()).await;

    // With its storage: off until the bucket says otherwise.
    let server = start(&kept);
    until("the worker is back", connected).await;
    let store = bucket(&server).await;
    assert_eq!(state(), "off");
    store.put("enabled", "true".into()).await.expect("a value");
    until("on", || server.members(SUBJECT) == 1).await;
    store.put("enabled", "false".into()).await.expect("a value");
    until("off again", || state() == "off" && server.members(SUBJECT) == 0).await;
    drop(server);
    until("the worker has noticed", || !connected()).await;

    // Without it: what was seen last holds, nothing spins, and a bucket made anew, which counts from 1, is followed.
    let empty = tempfile::tempdir().expect("a folder");
    let server = start(&empty);
    until("the worker is back", connected).await;
    let asked = || server.monitor("/jsz")["api"]["total"].as_u64().unwrap_or(0);
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("{} calls to JetStream in three seconds without a bucket", asked());
    assert!(asked() < 60, "{} calls", asked());
    assert_eq!(state(), "off");
    let store = bucket(&server).await;
    store.put("enabled", "true".into()).await.expect("a value");
    until("on by the new bucket", || server.members(SUBJECT) == 1).await;
    store.put("enabled", "false".into()).await.expect("a value");
    until("off by the new bucket", || server.members(SUBJECT) == 0).await;
    worker.stop().await.expect("a clean stop");
}

/// A worker that `server` knows by way of `proxy`, in the group, and the bucket that switches it.
async fn switched_through(server: &NatsServer, proxy: &Proxy) -> (InProcess, jetstream::kv::Store) {
    let store = bucket(server).await;
    store.put("enabled", "true".into()).await.expect("a value");
    let change = |settings: &mut WorkerSettings| {
        settings.connection.urls = vec![proxy.url.clone()];
        settings.switch_bucket = Some("switch".to_owned());
    };
    let worker = InProcess::start(server, change, |pairs| Ok(lengths(pairs))).await;
    until("serving", || worker.status.state().name() == "serving").await;
    (worker, store)
}

/// Connections that were made to `server` so far.
fn connections(server: &NatsServer) -> u64 {
    server.monitor("/varz")["total_connections"].as_u64().unwrap_or(0)
}

/// The connection is lost between the end of the subscription on the server and the answer that tells the worker so. The
/// client library makes such a subscription again and forgets it: what the server sends there is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_while_the_group_is_left_leaves_no_subscription_behind() {
    let store = tempfile::tempdir().expect("a folder");
    let server = NatsServer::start_with(&["-js", "-sd", &store.path().display().to_string()]);
    let proxy = Proxy::start(server.address()).await;
    let (worker, store) = switched_through(&server, &proxy).await;
    let state = || worker.status.state().name();

    store.put("enabled", "false".into()).await.expect("a value");
    until("leaving", || server.last_messages(SUBJECT) > 0).await;
    proxy.mute();
    until("left", || server.members(SUBJECT) == 0).await;
    let before = connections(&server);
    proxy.heal(server.address());
    until("connected again", || connections(&server) > before).await;
    until("off, and out", || state() == "off" && server.members(SUBJECT) == 0).await;

    store.put("enabled", "true".into()).await.expect("a value");
    until("once in the group", || {
        state() == "serving" && server.subscriptions(SUBJECT) == 1
    })
    .await;
    let caller = RawCaller::connect(&server.url).await;
    for _ in 0..20 {
        caller.ask(&Request::new("q", ["a"])).await.scored();
    }
    worker.stop().await.expect("a clean stop");
}

/// A subscription that is older than its connection: the server has counted fewer of its messages than the worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_older_than_its_connection_ends_when_the_group_is_left() {
    let store = tempfile::tempdir().expect("a folder");
    let server = NatsServer::start_with(&["-js", "-sd", &store.path().display().to_string()]);
    let proxy = Proxy::start(server.address()).await;
    let (worker, store) = switched_through(&server, &proxy).await;
    let state = || worker.status.state().name();
    let caller = RawCaller::connect(&server.url).await;
    let request = Request::new("q", ["a"]);
    let ask = || async {
        for _ in 0..100 {
            let asked = (0..10).map(|_| caller.ask(&request));
            for answer in futures_util::future::join_all(asked).await {
                answer.scored();
            }
        }
    };
    ask().await;
    let before = connections(&server);
    proxy.heal(server.address());
    until("connected again", || {
        connections(&server) > before && server.members(SUBJECT) == 1
    })
    .await;

    // Under load, so that the worker leaves by count.
    let body = request.encode(nats_rerank::protocol::Encoding::Json);
    let flood = async {
        loop {
            let reply_to = caller.client.new_inbox();
            let sent = caller.client.publish_with_reply(SUBJECT, reply_to, body.clone().into());
            sent.await.expect("a message");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    store.put("enabled", "false".into()).await.expect("a value");
    tokio::select! {
        () = flood => {}
        () = until("off", || state() == "off") => {}
    }
    until("out of the group", || server.members(SUBJECT) == 0).await;
    caller.ask_nobody().await;
    worker.stop().await.expect("a clean stop");
}
