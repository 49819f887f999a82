use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::super::engine::{EngineError, EngineInfo};
use super::super::files::Checkpoint;
use super::super::fixtures::{change_json, copy_reference};
use super::super::spec::ScoreActivation;
use super::*;

/// An engine that gives what the script says.
struct Scripted(EngineInfo, fn(usize) -> Result<Vec<f32>, EngineError>);

impl Engine for Scripted {
    fn info(&self) -> &EngineInfo {
        &self.0
    }

    fn score(&mut self, pairs: &[&PairTokens]) -> Result<Vec<f32>, EngineError> {
        (self.1)(pairs.len())
    }
}

fn tried(dir: &Path, script: fn(usize) -> Result<Vec<f32>, EngineError>) -> Result<(), ModelError> {
    let checkpoint = Checkpoint::open("test", dir, None)?;
    let tokenizer = PairTokenizer::open(&checkpoint)?;
    let info = EngineInfo {
        model_id: "test".to_owned(),
        device: "cpu".to_owned(),
        precision: "fp16".to_owned(),
        kernels: "scripted",
        attention: "own",
        length_max: 128,
        activation: ScoreActivation::Identity,
        batch_tokens: 256,
    };
    try_texts(&mut Scripted(info, script), &tokenizer)
}

fn with_tokenizer(change: impl FnOnce(&mut serde_json::Value)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_reference("bert-small", dir.path());
    change_json(dir.path(), "tokenizer.json", change);
    dir
}

fn refused(dir: &TempDir) -> String {
    tried(dir.path(), |pairs| Ok(vec![0.5; pairs])).unwrap_err().to_string()
}

#[test]
fn a_whole_model_is_tried_with_six_pairs() {
    for name in ["bert-small", "roberta-small", "xlmr-small", "camembert-small"] {
        let dir = tempfile::tempdir().unwrap();
        copy_reference(name, dir.path());
        tried(dir.path(), |pairs| {
            assert!((2..=TEXTS.len()).contains(&pairs), "{pairs}");
            Ok(vec![0.5; pairs])
        })
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn scores_that_are_no_numbers_are_counted_and_tried_again() {
    for script in [
        (|pairs| Ok(vec![f32::NAN; pairs])) as fn(usize) -> Result<Vec<f32>, EngineError>,
        |pairs| Ok(vec![f32::INFINITY; pairs]),
        |_| Ok(Vec::new()),
    ] {
        let dir = with_tokenizer(|_| {});
        let error = tried(dir.path(), script).unwrap_err();
        assert!(error.is_retryable());
        let text = error.to_string();
        assert!(
            text.contains("6 of 6 scores of plain texts")
                && text.contains("fp16 on cpu")
                && text.contains("model.precision"),
            "{text}"
        );
    }
    let dir = with_tokenizer(|_| {});
    let one = tried(dir.path(), |pairs| {
        Ok((0..pairs)
            .map(|place| if place == 1 { f32::NAN } else { 0.5 })
            .collect())
    });
    assert!(one.unwrap_err().to_string().contains("1 of 6"));
    let failed = tried(dir.path(), |_| Err(EngineError::Failed("scripted".to_owned())));
    assert!(matches!(failed, Err(ModelError::Engine { .. })), "{failed:?}");
}

#[test]
fn an_empty_vocabulary_is_refused() {
    let dir = with_tokenizer(|tokenizer| tokenizer["model"]["vocab"] = json!({}));
    let text = refused(&dir);
    assert!(
        text.contains("vocabulary is empty") && text.contains("tokenizer.json"),
        "{text}"
    );
}

#[test]
fn a_tokenizer_that_strips_every_text_is_refused() {
    for normalizer in [
        json!({"type": "Replace", "pattern": {"Regex": "(?s).+"}, "content": ""}),
        json!({"type": "Replace", "pattern": {"Regex": "\\w"}, "content": " "}),
    ] {
        let dir = with_tokenizer(|tokenizer| {
            tokenizer["normalizer"] = normalizer.clone();
            tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "[^\\w]"}, "behavior": "Removed", "invert": false},
            ]});
        });
        let text = refused(&dir);
        assert!(
            text.contains("gives no token for any of 6 plain texts"),
            "{normalizer}: {text}"
        );
    }
}

#[test]
fn a_vocabulary_of_special_tokens_alone_is_refused() {
    let dir = with_tokenizer(|tokenizer| {
        tokenizer["model"]["vocab"] = json!({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4});
    });
    let text = refused(&dir);
    assert!(text.contains("one and the same token"), "{text}");
}

#[test]
fn a_tokenizer_that_fails_on_everything_is_refused_with_its_reason() {
    let dir = with_tokenizer(|tokenizer| {
        tokenizer["model"] = json!({"type": "WordLevel", "vocab": {"zebra": 7}, "unk_token": "[NONE]"});
    });
    let text = refused(&dir);
    assert!(text.contains("takes none of 6 plain texts"), "{text}");
}
