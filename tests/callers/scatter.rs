//! Calls that are split and put together again.

use std::time::{Duration, Instant};

use nats_rerank::client::{AnnReason, Order, Partial, RerankOptions, Reranked};
use nats_rerank::protocol::{Encoding, RefusalKind};

use crate::LONG;
use crate::fakes::{Act, Asked, Fake, builder, right, right_reply};
use crate::nats_server::NatsServer;

fn indices<T>(reranked: &Reranked<T>) -> Vec<usize> {
    reranked.items.iter().map(|ranked| ranked.index).collect()
}

/// Candidates of which many have the same logit.
fn candidates(count: usize, padding: usize) -> Vec<String> {
    let filler = "x".repeat(padding);
    (0..count).map(|index| format!("{filler} {}", index * 7 % 13)).collect()
}

fn best_first(candidates: &[String]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| crate::fakes::logit(&candidates[*b]).total_cmp(&crate::fakes::logit(&candidates[*a])));
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_share_a_call_and_its_order_is_that_of_the_whole() {
    let server = NatsServer::start();
    // Each takes one request, and waits until the other has the other one: a call in sequence would never end.
    let both = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut workers = Vec::new();
    for id in ["one", "two"] {
        let both = both.clone();
        workers.push(
            Fake::start(&server, id, move |asked: Asked| {
                both.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                assert!(asked.request.raw_scores && asked.request.documents.len() <= 10);
                Act::When(both.clone(), 5, Box::new(right(asked)))
            })
            .await,
        );
    }
    let reranker = builder(&server)
        .budget(LONG)
        .split_pairs(10)
        .raw_scores(true)
        .connect()
        .await
        .expect("a reranker");
    let candidates = candidates(50, 1);
    let reranked = reranker.rerank("q", &candidates, None).await;
    assert_eq!((reranked.order, reranked.partial), (Order::Model, None));
    assert_eq!(indices(&reranked), best_first(&candidates));
    assert_eq!(reranked.usage.pairs, 50);
    assert!(!reranked.workers.is_empty());
    let top = reranker.rerank("q", &candidates, 7).await;
    assert_eq!(indices(&top), best_first(&candidates)[..7]);
}

/// A server that takes messages of up to 64 KiB.
fn small_server() -> (NatsServer, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "max_payload: 65536\n").expect("a configuration");
    let path = file.path().display().to_string();
    (NatsServer::start_with(&["-c", &path]), file)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_a_message_is_split_in_either_encoding() {
    let (server, _file) = small_server();
    let worker = Fake::start(&server, "one", right).await;
    for encoding in [Encoding::Json, Encoding::MsgPack] {
        let reranker = builder(&server)
            .budget(LONG)
            .encoding(encoding)
            .connect()
            .await
            .expect("a reranker");
        // Quotes take two bytes in JSON.
        let candidates: Vec<String> = candidates(60, 1500)
            .iter()
            .map(|text| text.replace('x', "\"y"))
            .collect();
        let before = worker.asked();
        let reranked = reranker.rerank("q", &candidates, None).await;
        assert_eq!(
            (reranked.order, reranked.partial),
            (Order::Model, None),
            "{:?}",
            reranked.detail
        );
        assert_eq!(indices(&reranked), best_first(&candidates));
        let requests = worker.asked() - before;
        assert!((3..=8).contains(&requests), "{requests}");
        // The scripted workers' activation.
        assert!(
            reranked
                .items
                .iter()
                .all(|ranked| ranked.score.is_some_and(|score| score <= 1.0))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_message_holds_stays_behind_and_the_answer_says_so() {
    let (server, _file) = small_server();
    let _worker = Fake::start(&server, "one", right).await;
    let reranker = builder(&server)
        .budget(LONG)
        .parts_max(2)
        .connect()
        .await
        .expect("a reranker");
    let huge = format!("{} 9", "x".repeat(70_000));
    let reranked = reranker.rerank("q", ["a 1", &huge, "b 2"], None).await;
    assert_eq!((reranked.order, indices(&reranked)), (Order::Model, vec![2, 0, 1]));
    let too_large = AnnReason::Refused(RefusalKind::TooLarge);
    assert_eq!(
        reranked.partial,
        Some(Partial {
            unscored: 1,
            reason: too_large
        })
    );
    assert_eq!(reranked.items[2].score, None);

    let alone = reranker.rerank("q", [&huge], None).await;
    assert_eq!(alone.order, Order::Ann(too_large));

    // Five messages' worth in two: the last in ANN order wait behind, in ANN order.
    let many: Vec<String> = (0..5).map(|index| format!("{} {index}", "x".repeat(50_000))).collect();
    let reranked = reranker.rerank("q", &many, None).await;
    assert_eq!(
        (reranked.order, indices(&reranked)),
        (Order::Model, vec![1, 0, 2, 3, 4])
    );
    assert_eq!(
        reranked.partial,
        Some(Partial {
            unscored: 3,
            reason: too_large
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_misses_the_deadline_leaves_its_candidates_behind() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "one", |asked| {
        let has_the_first = asked.request.documents[0].text.ends_with("first 100");
        if has_the_first { Act::Silence } else { right(asked) }
    })
    .await;
    let reranker = builder(&server)
        .budget(Duration::from_secs(10))
        .split_pairs(2)
        .raw_scores(true);
    let reranker = reranker.connect().await.expect("a reranker");
    let started = Instant::now();
    let candidates = ["first 100", "second 99", "c 1", "d 2", "e 3", "f 4"];
    let reranked = reranker.rerank("q", candidates, 5).await;
    assert!(started.elapsed() < crate::PATIENCE);
    assert_eq!(
        (reranked.order, indices(&reranked)),
        (Order::Model, vec![5, 4, 3, 2, 0])
    );
    assert_eq!(
        reranked.partial,
        Some(Partial {
            unscored: 2,
            reason: AnnReason::TimedOut
        })
    );
    assert_eq!(reranked.items.iter().filter(|ranked| ranked.score.is_some()).count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_another_model_are_not_mixed_in() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "one", |asked| {
        let mut reply = right_reply(&asked.request);
        if asked.request.documents[0].text == "a 1" {
            reply.model = "older".to_owned();
        }
        Act::Reply(reply)
    })
    .await;
    let reranker = builder(&server)
        .budget(LONG)
        .split_pairs(2)
        .connect()
        .await
        .expect("a reranker");
    let options = RerankOptions::default().raw_scores(true);
    let candidates = ["a 1", "b 9", "c 2", "d 3", "e 4"];
    let reranked = reranker.rerank_with("q", candidates, |text| text, None, &options).await;
    assert_eq!(indices(&reranked), [4, 3, 2, 0, 1]);
    assert_eq!(reranked.model.as_deref(), Some("scripted"));
    assert_eq!(
        reranked.partial,
        Some(Partial {
            unscored: 2,
            reason: AnnReason::BadReply
        })
    );
}
