//! What calls leave in the metrics.

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use nats_rerank::client::{AnnReason, Order};
use nats_rerank::protocol::RefusalKind;

use crate::LONG;
use crate::fakes::{Act, Fake, builder, right};
use crate::nats_server::NatsServer;

/// Every counter with its labels, and every histogram with the number of its observations, but for zeros.
fn counts(snapshotter: &Snapshotter) -> Vec<(String, u64)> {
    let snapshot = snapshotter.snapshot().into_vec().into_iter();
    let mut counts: Vec<(String, u64)> = snapshot
        .filter_map(|(key, _, _, value)| {
            let labels: Vec<&str> = key.key().labels().map(|label| label.value()).collect();
            let name = key.key().name().trim_start_matches("rerank_client_").to_owned();
            let count = match value {
                DebugValue::Counter(count) => count,
                DebugValue::Histogram(values) => values.len() as u64,
                DebugValue::Gauge(_) => return None,
            };
            Some((format!("{name} {}", labels.join(" ")), count))
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    counts.sort();
    counts
}

// One thread: the recorder is this thread's own.
#[tokio::test(flavor = "current_thread")]
async fn calls_are_counted_by_order_and_reason() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _installed = metrics::set_default_local_recorder(&recorder);

    let server = NatsServer::start();
    let worker = Fake::start(&server, "one", |asked| match asked.number {
        0 => Act::Refuse(RefusalKind::Overloaded),
        1 => right(asked),
        _ => Act::Refuse(RefusalKind::Internal),
    })
    .await;
    let reranker = builder(&server).budget(LONG).connect().await.expect("a reranker");
    assert_eq!(reranker.rerank("q", ["a 1", "b 2"], None).await.order, Order::Model);
    let internal = Order::Ann(AnnReason::Refused(RefusalKind::Internal));
    assert_eq!(reranker.rerank("q", ["a 1"], None).await.order, internal);
    drop(worker);
    let off = builder(&server).enabled(false).connect().await.expect("a reranker");
    assert_eq!(
        off.rerank("q", ["a 1"], None).await.order,
        Order::Ann(AnnReason::SwitchedOff)
    );

    let expected = [
        ("call_seconds ann", 2),
        ("call_seconds model", 1),
        ("calls_total ann internal", 1),
        ("calls_total ann switched_off", 1),
        ("calls_total model none", 1),
        ("requests_total first", 2),
        ("requests_total retry", 1),
        ("skipped_total ", 1),
    ];
    let counts = counts(&snapshotter);
    let counts: Vec<(&str, u64)> = counts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(counts, expected);
}
