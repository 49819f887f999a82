use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::{Architecture, Checkpoint, PairTokenizer, fixtures};

fn differences_of(folder: &Path) -> Vec<String> {
    let checkpoint = Checkpoint::open("test", folder, None).unwrap();
    PairTokenizer::open(&checkpoint).unwrap().class_differences().to_vec()
}

#[test]
fn token_types_go_by_class_and_version() {
    for (class, version, told) in [
        (None, "5.24.0", true),
        (Some("BertTokenizerFast"), "5.24.0", true),
        (Some("ElectraTokenizer"), "5.24.0", true),
        (Some("TokenizersBackend"), "4.57.0", false),
        (Some("TokenizersBackend"), "5.24.0", false),
        (Some("PreTrainedTokenizerFast"), "4.57.0", true),
        (Some("PreTrainedTokenizerFast"), "5.0.0", false),
        (Some("MyTokenizer"), "5.24.0", false),
        (Some("DistilBertTokenizer"), "4.57.0", false),
        (Some("XLMRobertaTokenizerFast"), "4.57.0", false),
    ] {
        for (place, names) in [
            ("tokenizer_config.json", false),
            ("config.json", false),
            ("config.json", true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fixtures::write_checkpoint(dir.path(), Architecture::Bert);
            let mut config = fixtures::config(Architecture::Bert);
            config["transformers_version"] = json!(version);
            let mut tokenizer = json!({});
            let named_in = match place {
                "config.json" => &mut config,
                _ => &mut tokenizer,
            };
            named_in["tokenizer_class"] = json!(class);
            if names {
                tokenizer["model_input_names"] = json!(["input_ids", "token_type_ids", "attention_mask"]);
            }
            fixtures::write_json(dir.path(), "config.json", &config);
            fixtures::write_json(dir.path(), "tokenizer_config.json", &tokenizer);
            let checkpoint = Checkpoint::open("test", dir.path(), None).unwrap();
            let ours = PairTokenizer::open(&checkpoint).unwrap();
            let types = ours.pair(&ours.query("the").unwrap(), "cat", true).unwrap().type_ids;
            let expected = if told || names { vec![0, 0, 0, 1, 1] } else { vec![0; 5] };
            assert_eq!(types, expected, "{class:?} {version} {place}");
            assert_eq!(ours.token_types().0, told || names);
        }
    }
}

#[test]
fn a_tokenizer_class_that_agrees_with_the_file_is_no_difference() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let references = std::fs::read_dir(root.join("tests/reference")).unwrap();
    let mut folders: Vec<PathBuf> = references
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").is_file())
        .collect();
    assert!(folders.len() >= 7, "{folders:?}");
    folders.push(root.join("models/builtin"));
    for folder in folders {
        assert_eq!(differences_of(&folder), [""; 0], "{}", folder.display());
    }
    // Each is named with what the file has and what the class.
    for (name, parts) in [
        (
            "class-bert",
            vec![
                "normalizer.clean_text is false, BertTokenizer true",
                "max_input_chars_per_word is 20, BertTokenizer 100",
            ],
        ),
        (
            "class-template",
            vec!["a pair is `[CLS] query [SEP] document [SEP]`, BertTokenizer `[CLS] query [SEP] document:1 [SEP]:1`"],
        ),
        ("class-roberta", vec!["normalizer is Lowercase, RobertaTokenizer none"]),
        (
            "class-xlmr",
            vec![
                "pre_tokenizer is Metaspace, XLMRobertaTokenizer",
                "model.unk_id is 1, XLMRobertaTokenizer 3",
            ],
        ),
    ] {
        let found = differences_of(&root.join("tests/reference/layout").join(name)).join("; ");
        for part in parts {
            assert!(found.contains(part), "{name}: {found}");
        }
    }
}
