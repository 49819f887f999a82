//! The one thing that can fail.

use std::time::Duration;

use nats_rerank::client::{BreakerSettings, BuildError, HedgeSettings, Reranker, RerankerBuilder};
use nats_rerank::nats::{ConnectErrorKind, ConnectionSettings};

fn builder() -> RerankerBuilder {
    Reranker::builder().read_environment(false)
}

#[tokio::test]
async fn settings_outside_their_range_are_named() {
    let breaker = BreakerSettings {
        calls: 0,
        ..BreakerSettings::default()
    };
    let hedge = HedgeSettings {
        percentile: 0.0,
        ..HedgeSettings::default()
    };
    for (builder, name) in [
        (builder().budget(Duration::ZERO), "budget"),
        (builder().budget(Duration::MAX), "budget"),
        (builder().subject("rerank..score"), "subject"),
        (builder().subject("rerank.*"), "subject"),
        (builder().subject(""), "subject"),
        (builder().switch_bucket("a bucket"), "switch_bucket"),
        (builder().switch_domain("a.b"), "switch_domain"),
        (builder().switch_domain(""), "switch_domain"),
        (builder().retries_max(3), "retries_max"),
        (builder().split_pairs(0), "split_pairs"),
        (builder().parts_max(0), "parts_max"),
        (builder().parts_max(65), "parts_max"),
        (builder().breaker(breaker), "breaker"),
        (builder().hedge(hedge), "hedge"),
    ] {
        match builder.connect_lazy().await {
            Err(BuildError::Invalid { setting, .. }) => assert_eq!(setting, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_fails_the_one_way_and_not_the_other() {
    let nobody = || builder().url("nats://127.0.0.1:9");
    match nobody().connect().await {
        Err(BuildError::Connect(error)) => assert_eq!(error.kind(), ConnectErrorKind::Refused, "{error}"),
        other => panic!("{other:?}"),
    }
    let reranker = nobody().connect_lazy().await.expect("a reranker");
    assert!(!reranker.is_connected());
    // Wrong settings fail either way.
    let no_server = ConnectionSettings {
        urls: Vec::new(),
        ..ConnectionSettings::default()
    };
    match builder().connection(no_server).connect_lazy().await {
        Err(BuildError::Connect(error)) => assert_eq!(error.kind(), ConnectErrorKind::Settings),
        other => panic!("{other:?}"),
    }
}

/// A call can be spawned.
#[test]
fn calls_are_send() {
    fn assert_send<T: Send>(_: &T) {}
    fn check(reranker: &Reranker) {
        assert_send(&reranker.rerank("q", vec!["a".to_owned()], None));
        assert_send(&reranker.rerank_by("q", vec![(1, "a")], |(_, text)| text, 3));
    }
    let _ = check;
}
