//! The client against real workers: what it brings back is what the model says, in one request or in many.

use std::time::{Duration, Instant};

use nats_rerank::client::{Order, Partial, RerankOptions, Reranked, Reranker, RerankerBuilder};

use crate::support::nats_server::NatsServer;
use crate::support::worker::Worker;
use crate::support::{PATIENCE, reference};

fn builder(server: &NatsServer) -> RerankerBuilder {
    Reranker::builder()
        .url(&server.url)
        .budget(PATIENCE)
        .read_environment(false)
}

fn candidates(count: usize) -> Vec<String> {
    let words = [
        "learning",
        "networks",
        "pizza",
        "algorithms",
        "season",
        "beginners",
        "optimization",
    ];
    let text = |place: usize| -> String {
        let spread = (0..3 + place % 9).map(|word| words[(place * 5 + word * word) % words.len()]);
        spread.collect::<Vec<_>>().join(" ")
    };
    (0..count).map(text).collect()
}

/// Each candidate's score by its place in ANN order.
fn scores(reranked: &Reranked<&String>) -> Vec<f32> {
    let mut scores = vec![f32::NAN; reranked.items.len()];
    for ranked in &reranked.items {
        scores[ranked.index] = ranked.score.expect("a score");
    }
    scores
}

#[tokio::test(flavor = "multi_thread")]
async fn split_or_whole_scores_and_order_are_the_models() {
    let server = NatsServer::start();
    // One of sigmoid: its activation has to be told, since parts are asked for logits.
    let _workers = [(); 2].map(|()| Worker::start(&server.url, &reference("xlmr-small"), &[]));
    let whole = builder(&server).connect().await.expect("a reranker");
    let parted = builder(&server).split_pairs(7).connect().await.expect("a reranker");
    let (query, candidates) = ("machine learning algorithms", candidates(40));
    for raw_scores in [false, true] {
        let options = RerankOptions::default().raw_scores(raw_scores);
        let one = whole
            .rerank_with(query, &candidates, |text| text.as_str(), None, &options)
            .await;
        let many = parted
            .rerank_with(query, &candidates, |text| text.as_str(), None, &options)
            .await;
        for reranked in [&one, &many] {
            assert_eq!(
                (reranked.order, reranked.partial),
                (Order::Model, None::<Partial>),
                "{:?}",
                reranked.detail
            );
            assert_eq!((reranked.items.len(), reranked.usage.pairs), (40, 40));
            assert!(reranked.items.is_sorted_by(|a, b| a.score >= b.score));
            assert!(
                raw_scores
                    || reranked
                        .items
                        .iter()
                        .all(|ranked| ranked.score.is_some_and(|score| score > 0.0))
            );
        }
        let (one, many) = (scores(&one), scores(&many));
        for (place, (one, many)) in one.iter().zip(&many).enumerate() {
            assert!((one - many).abs() < 2e-5, "candidate {place}: {one} and {many}");
        }
        // Equal texts have equal scores, and stay in ANN order.
        let same = vec!["the same text".to_owned(); 20];
        let reranked = parted
            .rerank_with(query, &same, |text| text.as_str(), 12, &options)
            .await;
        let places: Vec<usize> = reranked.items.iter().map(|ranked| ranked.index).collect();
        assert_eq!(places, (0..12).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_goes_leaves_ann_order_and_one_that_comes_is_found() {
    let server = NatsServer::start();
    let reranker = builder(&server).without_breaker().connect().await.expect("a reranker");
    let candidates = candidates(6);
    let mut worker = Worker::start(&server.url, &reference("bert-small"), &[]);
    for round in 0..2 {
        assert_eq!(
            reranker.rerank("q", &candidates, 3).await.order,
            Order::Model,
            "round {round}"
        );
        worker.signal("TERM");
        let started = Instant::now();
        loop {
            let reranked = reranker.rerank("q", &candidates, 3).await;
            if let Order::Ann(_) = reranked.order {
                assert_eq!(reranked.into_items(), candidates.iter().take(3).collect::<Vec<_>>());
                break;
            }
            assert!(started.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let status = worker.wait();
        assert_eq!(status.code(), Some(143), "{status}:\n{}", worker.log());
        worker = Worker::start(&server.url, &reference("bert-small"), &[]);
    }
}
