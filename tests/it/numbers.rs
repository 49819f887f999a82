//! Models that give no numbers: none of them joins the queue group, and one that stops giving them leaves it.

use std::path::Path;
use std::time::Duration;

use nats_rerank::model::engine::EngineError;
use nats_rerank::model::tokenizer::PairTokens;
use nats_rerank::protocol::{RefusalKind, Request};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::faults::{InProcess, lengths, words};
use crate::support::nats_server::NatsServer;
use crate::support::worker::{Worker, program};
use crate::support::{RawCaller, reference};

/// A whole checkpoint to be spoiled.
fn checkpoint() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        std::fs::copy(reference("bert-small").join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn change_json(dir: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let path = dir.join(name);
    let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Sets one element of a tensor of single precision, by the file's own header.
fn set_element(dir: &Path, name: &str, place: usize, value: f32) {
    let path = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let about: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    assert_eq!(about[name]["dtype"], "F32");
    let start = 8 + header + about[name]["data_offsets"][0].as_u64().unwrap() as usize + place * 4;
    bytes[start..start + 4].copy_from_slice(&value.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

type Spoil = (&'static str, fn(&Path), &'static [&'static str]);

/// What is spoiled, and what the last word names.
const SPOILT: [Spoil; 8] = [
    (
        "NaN in the weights",
        |dir| set_element(dir, "bert.encoder.layer.1.output.dense.weight", 5, f32::NAN),
        &["bert.encoder.layer.1.output.dense.weight", "holds NaN at element 5"],
    ),
    (
        "infinity in the weights",
        |dir| set_element(dir, "bert.pooler.dense.bias", 0, f32::INFINITY),
        &["bert.pooler.dense.bias", "holds inf at element 0"],
    ),
    (
        "weights so large that no score is finite",
        |dir| {
            for place in 0..64 {
                set_element(dir, "classifier.weight", place, f32::MAX);
            }
        },
        &["gives no numbers", "scores of plain texts are NaN or infinite"],
    ),
    (
        "an empty vocabulary",
        |dir| {
            change_json(dir, "tokenizer.json", |tokenizer| {
                tokenizer["model"]["vocab"] = json!({})
            })
        },
        &["tokenizer.json", "vocabulary is empty"],
    ),
    (
        "a normalizer that strips everything",
        |dir| {
            change_json(dir, "tokenizer.json", |tokenizer| {
                tokenizer["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "(?s).+"}, "content": ""});
            });
        },
        &["gives no token for any of 6 plain texts"],
    ),
    (
        "a width that no machine has room for",
        |dir| change_json(dir, "config.json", |config| config["hidden_size"] = json!(1u64 << 30)),
        &["config.json", "`hidden_size` must be 64", "found 1073741824"],
    ),
    (
        "layers that no machine has room for",
        |dir| {
            change_json(dir, "config.json", |config| {
                config["num_hidden_layers"] = json!(1u64 << 30)
            })
        },
        &["config.json", "`num_hidden_layers` must be 2", "found 1073741824"],
    ),
    (
        "positions that no machine has room for",
        |dir| {
            change_json(dir, "config.json", |config| {
                config["max_position_embeddings"] = json!(1u64 << 30)
            })
        },
        &[
            "config.json",
            "`max_position_embeddings` must be 128",
            "found 1073741824",
        ],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_gives_no_numbers_means_exit_1_and_no_subscription() {
    let server = NatsServer::start();
    for (what, spoil, says) in SPOILT {
        let dir = checkpoint();
        spoil(dir.path());
        let mut worker = Worker::spawn(
            &server.url,
            &dir.path().display().to_string(),
            &["model.load_retry_delay_ms=1", "model.warmup_samples=0"],
        );
        let mut most = 0;
        let status = loop {
            most = most.max(server.subscriptions("rerank.v1.score"));
            if let Some(status) = worker.try_wait() {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        assert_eq!(status.code(), Some(1), "{what}: {}", worker.log());
        worker.wait_for_log("no model could be loaded");
        let log = worker.log();
        assert_eq!(most, 0, "{what}: it subscribed");
        let last = log.lines().last().unwrap_or_default();
        for word in says {
            assert!(last.contains(word), "{what}: {word:?} in {last}");
        }
        // What a file says, it says again; a device may think better of it.
        let tries = worker.count_log("loading failed: trying again");
        assert_eq!(
            tries,
            if says[0] == "gives no numbers" { 2 } else { 0 },
            "{what}: {log}"
        );
    }
}

#[test]
fn model_info_finds_what_a_worker_would() {
    for (what, spoil, says) in SPOILT
        .iter()
        .filter(|(what, ..)| what.contains("NaN") || what.contains("room"))
    {
        let dir = checkpoint();
        spoil(dir.path());
        let output = program()
            .args(["model", "info"])
            .arg(dir.path())
            .output()
            .expect("the program");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {text}");
        assert!(says.iter().all(|word| text.contains(word)), "{what}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_serves_in_place_of_a_model_that_gives_no_numbers() {
    let server = NatsServer::start();
    let dir = checkpoint();
    set_element(dir.path(), "classifier.bias", 0, f32::NAN);
    let fallback = reference("bert-small").display().to_string();
    let worker = Worker::spawn(
        &server.url,
        &dir.path().display().to_string(),
        &[&format!("model.fallback_ids={fallback}")],
    );
    worker.wait_for_log("ready: joined the queue group");
    let caller = RawCaller::connect(&server.url).await;
    assert_eq!(
        caller.ask(&Request::new("q", ["a", "b"])).await.scored().model,
        "bert-small"
    );
    assert!(worker.log().contains("classifier.bias"), "{}", worker.log());
}

/// A worker whose engine is this script from its second batch on ends after three batches, and everybody is answered.
async fn ends_after_three_batches(
    mut script: impl FnMut(&[&PairTokens]) -> Result<Vec<f32>, EngineError> + Send + 'static,
) {
    let server = NatsServer::start();
    let mut batches = 0;
    let worker = InProcess::start(
        &server,
        |_| (),
        move |pairs| {
            batches += 1;
            if batches == 1 {
                Ok(lengths(pairs))
            } else {
                script(pairs)
            }
        },
    )
    .await;
    let caller = RawCaller::connect(&server.url).await;
    let request = Request::new("q", ["a", "b"]);
    caller.ask(&request).await.scored();
    for _ in 0..3 {
        assert_eq!(caller.ask(&request).await.refused().kind, RefusalKind::Internal);
    }
    let error = worker.ended().await.expect_err("a worker without scores ends");
    assert!(
        error.to_string().contains("the last 3 batches have no finite score"),
        "{error}"
    );
    assert_eq!(server.subscriptions("rerank.v1.score"), 0, "it has left the group");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_gives_no_numbers_any_more_ends_the_worker() {
    ends_after_three_batches(|pairs| Ok(vec![f32::NAN; pairs.len()])).await;
    ends_after_three_batches(|pairs| Ok(vec![f32::INFINITY; pairs.len()])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_on_which_every_batch_fails_ends_the_worker() {
    ends_after_three_batches(|_| Err(EngineError::Failed("scripted".to_owned()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_without_scores_shut_no_worker() {
    let server = NatsServer::start();
    let script = |pairs: &[&PairTokens]| {
        let nan = |length: f32| if length > 50.0 { f32::NAN } else { length };
        Ok(lengths(pairs).into_iter().map(nan).collect())
    };
    let worker = InProcess::start(&server, |_| (), script).await;
    let caller = RawCaller::connect(&server.url).await;
    let long = words(60);
    for _ in 0..10 {
        // One caller alone makes every batch one without a score.
        let answer = caller.ask(&Request::new("q", [long.as_str()])).await;
        assert_eq!(answer.refused().kind, RefusalKind::Internal);
    }
    caller.ask(&Request::new("q", ["a", "b"])).await.scored();
    worker.stop().await.expect("a clean stop");
}
