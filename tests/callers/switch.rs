//! The live switch, over a real JetStream.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use nats_rerank::client::{AnnReason, Order, Reranker};

use crate::fakes::{Fake, builder, right};
use crate::nats_server::{NatsServer, free_port};
use crate::{LONG, PATIENCE};

async fn until_enabled(reranker: &Reranker, enabled: bool) {
    let started = Instant::now();
    while reranker.is_enabled() != enabled {
        assert!(started.elapsed() < PATIENCE, "never {enabled}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_switch_turns_callers_off_and_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = NatsServer::start_with(&["-js", "-sd", &folder.path().display().to_string()]);
    let worker = Fake::start(&server, "one", right).await;
    let client = async_nats::connect(&server.url).await.expect("a connection");
    let context = jetstream::new(client);
    let store = bucket(&context).await;
    let reranker = builder(&server).budget(LONG).enabled(false).switch_bucket("switches");
    let reranker = reranker.connect().await.expect("a reranker");

    assert!(!reranker.is_enabled(), "as configured, until the bucket says otherwise");
    for round in 0..2 {
        store.put("enabled", "true".into()).await.expect("a put");
        until_enabled(&reranker, true).await;
        assert_eq!(reranker.rerank("q", ["a 1"], None).await.order, Order::Model);
        store.put("enabled", "false".into()).await.expect("a put");
        until_enabled(&reranker, false).await;
        let reranked = reranker.rerank("q", ["a 1"], None).await;
        assert_eq!(reranked.order, Order::Ann(AnnReason::SwitchedOff));
        assert_eq!(worker.asked(), round + 1);
    }
    store.put("enabled", "true".into()).await.expect("a put");
    until_enabled(&reranker, true).await;
    store.delete("enabled").await.expect("a delete");
    until_enabled(&reranker, false).await;
}

/// The bucket as the stream that it is: this client library's own call asks for more than older servers know.
async fn bucket(context: &jetstream::Context) -> jetstream::kv::Store {
    let stream = jetstream::stream::Config {
        name: "KV_switches".to_owned(),
        subjects: vec!["$KV.switches.>".to_owned()],
        max_messages_per_subject: 1,
        discard: jetstream::stream::DiscardPolicy::New,
        allow_rollup: true,
        allow_direct: true,
        num_replicas: 1,
        ..Default::default()
    };
    context.create_stream(stream).await.expect("a stream");
    context.get_key_value("switches").await.expect("a bucket")
}

/// A leaf node with a JetStream of its own, below a hub that has the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_in_another_jetstream_domain_is_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let jetstream = |domain: &str| {
        let store = folder.path().join(domain);
        format!("jetstream {{ domain: {domain}, store_dir: \"{}\" }}\n", store.display())
    };
    let hub = jetstream("hub") + &format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}");
    let hub = NatsServer::start_configured(&hub, &["--server_name", "hub"]);
    let leaf = jetstream("leaf") + &format!("leafnodes {{ remotes: [ {{ url: \"nats-leaf://127.0.0.1:{port}\" }} ] }}");
    let leaf = NatsServer::start_configured(&leaf, &["--server_name", "leaf"]);
    let client = async_nats::connect(&hub.url).await.expect("a connection");
    let store = bucket(&jetstream::new(client)).await;
    store.put("enabled", "false".into()).await.expect("a put");

    let connect = |builder: nats_rerank::client::RerankerBuilder| async {
        builder.budget(LONG).connect().await.expect("a reranker")
    };
    let here = connect(builder(&leaf).switch_bucket("switches")).await;
    let there = connect(builder(&leaf).switch_bucket("switches").switch_domain("hub")).await;
    until_enabled(&there, false).await;
    store.put("enabled", "true".into()).await.expect("a put");
    until_enabled(&there, true).await;
    store.put("enabled", "false".into()).await.expect("a put");
    until_enabled(&there, false).await;
    assert!(here.is_enabled(), "its own domain has no such bucket");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bucket_what_is_configured_holds() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "one", right).await;
    let reranker = builder(&server)
        .budget(LONG)
        .switch_bucket("switches")
        .connect()
        .await
        .expect("a reranker");
    assert_eq!(reranker.rerank("q", ["a 1"], None).await.order, Order::Model);
}
