//! Checkpoints as sentence-transformers' CrossEncoder saves them, through the program: workers and `model info`. Each key by itself is
//! held in src/model/layout_tests.rs.

use nats_rerank::protocol::Request;

use crate::support::nats_server::NatsServer;
use crate::support::worker::{Worker, program};
use crate::support::{RawCaller, reference};

/// Queries, documents and the scores of `predict` of a checkpoint.
fn cases(name: &str, field: &str) -> Vec<(String, Vec<String>, Vec<f32>)> {
    let text = std::fs::read(reference("layout").join(name).join("layout.json")).expect("layout.json");
    let layout: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let cases = layout[field].as_array().expect("cases").iter();
    let of = |case: &serde_json::Value| {
        (
            serde_json::from_value(case["query"].clone()).expect("a query"),
            serde_json::from_value(case["documents"].clone()).expect("documents"),
            serde_json::from_value(case["scores"].clone()).expect("scores"),
        )
    };
    let all: Vec<(String, Vec<String>, Vec<f32>)> = cases.map(of).collect();
    assert!(all.len() >= 5);
    all
}

/// A worker with this checkpoint scores every case, asked twice, as `predict` does.
async fn check(name: &str, field: &str, sets: &[&str]) -> Worker {
    let server = NatsServer::start();
    let mut all = vec![
        "model.precision=fp32",
        "cache.document_bytes_max=1000000",
        "cache.scores_max=1000",
    ];
    all.extend(sets);
    let worker = Worker::start(&server.url, &reference("layout").join(name), &all);
    let caller = RawCaller::connect(&server.url).await;
    for round in 0..2 {
        for (query, documents, expected) in cases(name, field) {
            if query.is_empty() {
                continue;
            }
            let request = Request::new(&query, documents.iter().map(String::as_str));
            let reply = caller.ask(&request).await.scored();
            assert_eq!(reply.rankings.len(), expected.len());
            for ranking in &reply.rankings {
                let wanted = expected[ranking.index];
                let off = (ranking.score - wanted).abs();
                assert!(
                    off < 1e-4,
                    "{name}, round {round}: {} and not {wanted} for {query:?}",
                    ranking.score
                );
            }
        }
    }
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_puts_the_saved_prompt_before_the_query() {
    check("prompt", "cases", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_follows_tokenizer_json_or_its_class() {
    let worker = check("class-bert", "by_file", &[]).await;
    worker.wait_for_log("model.max_input_chars_per_word is 20, BertTokenizer 100");
    check("class-bert", "cases", &["model.tokenizer=class"]).await;
}

#[test]
fn model_info_on_a_training_folder_or_an_adapter_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let step = folder.path().join("checkpoint-500");
    std::fs::create_dir(&step).expect("a folder");
    let info = |path: &std::path::Path| {
        let output = program()
            .args(["model", "info"])
            .arg(path)
            .output()
            .expect("the program");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(
        info(folder.path()).contains("checkpoint-500"),
        "{}",
        info(folder.path())
    );
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(reference("bert-small").join(name), step.join(name)).expect("a copy");
    }
    std::fs::write(step.join("trainer_state.json"), r#"{"global_step": 500}"#).expect("a file");
    let message = info(&step);
    assert!(
        message.contains("tokenizer.json") && message.contains("processing_class"),
        "{message}"
    );

    std::fs::remove_file(step.join("config.json")).expect("a file");
    std::fs::write(step.join("adapter_config.json"), r#"{"peft_type": "LORA"}"#).expect("a file");
    let message = info(&step);
    assert!(
        message.contains("adapter_config.json") && message.contains("merge_and_unload"),
        "{message}"
    );
}
