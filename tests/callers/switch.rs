//! The live switch, over a real JetStream.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use nats_rerank::client::{AnnReason, Order, Reranker};

use crate::fakes::{Fake, builder, right};
use crate::nats_server::NatsServer;
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
    // The bucket as the stream that it is: this client library's own call asks for more than older servers know.
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
    let store = context.get_key_value("switches").await.expect("a bucket");
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
