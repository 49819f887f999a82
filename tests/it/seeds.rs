//! The failures that this project was founded on, as tests: a model loaded anew for every request (72 GB for 60
//! requests), threads that raced on half-loaded weights, answers that changed from run to run.

use futures_util::future::join_all;
use nats_rerank::protocol::{Reply, Request};

use crate::support::nats_server::NatsServer;
use crate::support::worker::Worker;
use crate::support::{RawCaller, reference};

const CALLERS: usize = 50;
const REQUESTS_EACH: usize = 15;
const ROUNDS: usize = 4;

/// fp32 products of different shapes differ in their last bits; this is what PROTOCOL allows.
const BATCH_TOLERANCE: f32 = 1e-5;

fn request(seed: usize) -> Request {
    let documents: Vec<String> = (0..24)
        .map(|index| format!("candidate {} of request {seed}: {}", index, "some words about it ".repeat((index * 5 + seed) % 7)))
        .collect();
    let mut request = Request::new(format!("which candidate fits number {seed}"), documents.iter().map(String::as_str));
    request.timeout_ms = Some(60_000.0);
    request
}

/// Scores in the order of the request's documents.
fn by_index(reply: &Reply) -> Vec<f32> {
    let mut scores = vec![f32::NAN; reply.rankings.len()];
    for ranking in &reply.rankings {
        scores[ranking.index] = ranking.score;
    }
    scores
}

#[track_caller]
fn assert_same(what: &str, ours: &[f32], expected: &[f32]) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (index, (a, b)) in ours.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= BATCH_TOLERANCE, "{what}, document {index}: {a} against {b}");
    }
}

/// Callers at once, each one request after the other; every answer is checked against a first one.
async fn storm(caller: &RawCaller, expected: &[Vec<f32>]) {
    join_all((0..CALLERS).map(|number| async move {
        for turn in 0..REQUESTS_EACH {
            let seed = (number * REQUESTS_EACH + turn) % expected.len();
            let reply = caller.ask(&request(seed)).await.scored();
            assert_eq!(reply.rankings.len(), 24);
            assert_same("in the storm", &by_index(&reply), &expected[seed]);
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_callers_four_times_over_one_model_and_flat_memory() {
    let server = NatsServer::start();
    let worker = Worker::start(&server.url, &reference("bert-small"), &[]);
    let caller = RawCaller::connect(&server.url).await;
    let mut expected = Vec::new();
    for seed in 0..20 {
        expected.push(by_index(&caller.ask(&request(seed)).await.scored()));
    }
    let mut rss_kib = Vec::new();
    for _ in 0..ROUNDS {
        storm(&caller, &expected).await;
        rss_kib.push(worker.rss_kib());
    }
    println!("resident after each quarter: {rss_kib:?} KiB");
    assert_eq!(worker.count_log("model loaded"), 1, "the model was loaded more than once");
    // Flat: the last quarter is within 5 % and 8 MiB of the first.
    let (first, last) = (rss_kib[0], rss_kib[ROUNDS - 1]);
    assert!(last <= first + first / 20 + 8192, "memory grew from {first} to {last} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_race_straight_after_start_get_the_same_scores() {
    let server = NatsServer::start();
    let caller = RawCaller::connect(&server.url).await;
    let mut expected: Option<Vec<Vec<f32>>> = None;
    // Two fresh starts of ten rounds each: the first round meets a worker that has only just joined.
    for _ in 0..2 {
        let worker = Worker::start(&server.url, &reference("bert-small"), &["model.warmup_samples=0"]);
        for round in 0..10 {
            let requests: Vec<Request> = (0..64).map(|seed| request(seed % 16)).collect();
            let replies = join_all(requests.iter().map(|request| caller.ask(request))).await;
            let scores: Vec<Vec<f32>> = replies.into_iter().map(|answer| by_index(&answer.scored())).collect();
            let expected = expected.get_or_insert_with(|| scores.clone());
            for (ours, expected) in scores.iter().zip(expected.iter()) {
                assert_same(&format!("round {round}"), ours, expected);
            }
        }
        assert_eq!(worker.count_log("model loaded"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_a_thousand_times_gives_one_answer() {
    let server = NatsServer::start();
    let _worker = Worker::start(&server.url, &reference("bert-small"), &[]);
    let caller = RawCaller::connect(&server.url).await;
    let request = request(3);
    let first = caller.ask(&request).await.scored();
    for turn in 0..1000 {
        let again = caller.ask(&request).await.scored();
        assert_eq!(again.rankings, first.rankings, "turn {turn}");
        assert_eq!(again.usage, first.usage);
    }
}
