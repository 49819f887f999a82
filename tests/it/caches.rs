//! The caches: what they save, and that nobody can tell from the scores.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use nats_rerank::model::engine::EngineError;
use nats_rerank::model::tokenizer::{CacheCounts, PairTokens};
use nats_rerank::protocol::{Reply, Request};
use nats_rerank::worker::WorkerSettings;

use crate::faults::{InProcess, lengths, words};
use crate::support::nats_server::NatsServer;
use crate::support::worker::Worker;
use crate::support::{RawCaller, reference};

fn with_scores(settings: &mut WorkerSettings) {
    settings.scores_max = 1000;
}

/// An engine that never gives the same score twice: what is computed anew shows.
fn ever_new() -> impl FnMut(&[&PairTokens]) -> Result<Vec<f32>, EngineError> {
    let next = AtomicU32::new(1);
    move |pairs| {
        let new = || next.fetch_add(1, Ordering::Relaxed) as f32 / 7.0;
        Ok(pairs.iter().map(|_| new()).collect())
    }
}

/// Scores in the order of the documents, as bits.
fn bits(reply: &Reply, documents: usize) -> Vec<u32> {
    let mut bits = vec![0; documents];
    for ranking in &reply.rankings {
        bits[ranking.index] = ranking.score.to_bits();
    }
    bits
}

#[tokio::test(flavor = "multi_thread")]
async fn known_pairs_are_answered_without_the_device_and_with_the_same_bits() {
    let server = NatsServer::start();
    let worker = InProcess::start(&server, with_scores, ever_new()).await;
    let caller = RawCaller::connect(&server.url).await;
    // One document is cut.
    let long = words(900);
    let ask = async |query: &str, documents: &[&str]| {
        let request = Request::new(query, documents.iter().copied());
        caller.ask(&request).await.scored()
    };
    let scores = || worker.status.snapshot().caches.scores.expect("the cache is on");

    let first = ask("q", &["a", "b", &long]).await;
    assert_eq!((first.usage.cached, first.usage.truncated), (0, 1));
    let (batches, first_bits) = (worker.status.snapshot().batches, bits(&first, 3));
    let again = ask("q", &["a", "b", &long]).await;
    assert_eq!(bits(&again, 3), first_bits);
    assert_eq!(again.rankings, first.rankings);
    // What a request is told of itself does not depend on what was known.
    assert_eq!(
        (
            again.usage.cached,
            again.usage.pairs,
            again.usage.truncated,
            again.usage.tokens
        ),
        (3, 3, 1, first.usage.tokens)
    );
    assert_eq!(worker.status.snapshot().batches, batches, "the device was not asked");
    assert_eq!(
        scores(),
        CacheCounts {
            hits: 3,
            misses: 3,
            entries: 3
        }
    );

    // In another order and with a new one, twice: only the new ones are sent.
    let pairs_before = worker.status.snapshot().batch_pairs;
    let mixed = ask("q", &["b", "new words", "a", "new words"]).await;
    let mixed_bits = bits(&mixed, 4);
    assert_eq!((mixed_bits[0], mixed_bits[2]), (first_bits[1], first_bits[0]));
    assert_eq!(mixed.usage.cached, 2);
    assert_eq!(worker.status.snapshot().batch_pairs - pairs_before, 2);
    // Equal documents tie from then on.
    let tied = bits(&ask("q", &["new words", "new words"]).await, 2);
    assert_eq!(tied[0], tied[1]);

    // Another query is another pair, and so is the same text on the other side.
    assert_eq!(ask("r", &["a", "b"]).await.usage.cached, 0);
    assert_eq!(ask("a", &["q"]).await.usage.cached, 0);
    // A pair that may not be cut is refused, known or not.
    let mut whole = Request::new("q", [long.as_str()]);
    whole.truncate = false;
    caller.ask(&whole).await.refused();
    worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_never_kept() {
    let server = NatsServer::start();
    let mode = Arc::new(Mutex::new("nan"));
    let script = {
        let mode = mode.clone();
        move |pairs: &[&PairTokens]| match *mode.lock().unwrap() {
            "nan" => Ok(vec![f32::NAN; pairs.len()]),
            "failed" => Err(EngineError::Failed("scripted".to_owned())),
            _ => Ok(lengths(pairs)),
        }
    };
    let worker = InProcess::start(&server, with_scores, script).await;
    let caller = RawCaller::connect(&server.url).await;
    let request = Request::new("q", ["a", "b"]);
    for now in ["nan", "failed"] {
        *mode.lock().unwrap() = now;
        caller.ask(&request).await.refused();
    }
    *mode.lock().unwrap() = "well";
    let reply = caller.ask(&request).await.scored();
    assert_eq!(reply.usage.cached, 0);
    assert_eq!(caller.ask(&request).await.scored().usage.cached, 2);
    worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cache_stays_as_large_as_it_may() {
    let server = NatsServer::start();
    let worker = InProcess::start(&server, |settings| settings.scores_max = 64, ever_new()).await;
    let caller = RawCaller::connect(&server.url).await;
    for round in 0..20 {
        let documents: Vec<String> = (0..50).map(|place| format!("{round} {place}")).collect();
        let request = Request::new("q", documents.iter().map(String::as_str));
        let reply = caller.ask(&request).await.scored();
        assert_eq!(reply.rankings.len(), 50);
    }
    let scores = worker.status.snapshot().caches.scores.expect("the cache is on");
    assert!((1..=64).contains(&scores.entries), "{scores:?}");
    assert_eq!(scores.hits + scores.misses, 1000);
    worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_nothing_is_kept() {
    let server = NatsServer::start();
    let worker = InProcess::start(&server, |_| (), ever_new()).await;
    let caller = RawCaller::connect(&server.url).await;
    let request = Request::new("q", ["a"]);
    let first = caller.ask(&request).await.scored();
    let again = caller.ask(&request).await.scored();
    assert_ne!(bits(&first, 1), bits(&again, 1));
    assert_eq!(again.usage.cached, 0);
    let caches = worker.status.snapshot().caches;
    assert!(caches.scores.is_none() && caches.documents.is_none());
    worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_worker_gives_the_same_scores_from_its_caches_and_counts_them() {
    let server = NatsServer::start();
    let sets = [
        "health.listen=127.0.0.1:0",
        "cache.scores_max=1000",
        "cache.document_bytes_max=1000000",
    ];
    let worker = Worker::start(&server.url, &reference("xlmr-small"), &sets);
    let caller = RawCaller::connect(&server.url).await;
    let documents = ["the cat sat", "on the mat", "naïve café"];
    let first = caller.ask(&Request::new("who sat", documents)).await.scored();
    let again = caller.ask(&Request::new("who sat", documents)).await.scored();
    assert_eq!(bits(&first, 3), bits(&again, 3));
    assert_eq!((first.usage.cached, again.usage.cached), (0, 3));
    // Another query: the documents' tokens are known, the scores are not.
    let other = caller.ask(&Request::new("what is on it", documents)).await.scored();
    assert_eq!(other.usage.cached, 0);
    for (metric, value) in [
        ("rerank_cache_hits_total{cache=\"scores\"}", 3.0),
        ("rerank_cache_misses_total{cache=\"scores\"}", 6.0),
        ("rerank_cache_entries{cache=\"scores\"}", 6.0),
    ] {
        assert_eq!(worker.metric(metric), value, "{metric}");
    }
    // Made-up pairs of the warm-up are among them.
    assert!(worker.metric("rerank_cache_hits_total{cache=\"documents\"}") >= 6.0);
    assert!(worker.metric("rerank_cache_entries{cache=\"documents\"}") >= 3.0);
}
