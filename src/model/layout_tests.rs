//! Held to checkpoints that sentence-transformers 6.2 has saved (tests/reference/layout, made by tools/reference/make_layout.py),
//! and to the scores of its `predict`.

use std::path::PathBuf;

use serde_json::json;

use super::super::engine::{DeviceChoice, EngineSettings, KernelsChoice, ModelEngine, PrecisionChoice};
use super::super::{Checkpoint, PairTokenizer, PairTokens, ScoreActivation, fixtures};
use super::*;
use crate::choices::TokenizerChoice;
use crate::model::engine::Engine as _;

#[derive(serde::Deserialize)]
struct Reference {
    prompt: Option<String>,
    #[serde(default)]
    cases: Vec<Case>,
    /// The cases with tokenizer.json followed in place of the class.
    by_file: Option<Vec<Case>>,
    /// Words that the refusal has to hold.
    refused: Option<Vec<String>>,
}

#[derive(serde::Deserialize)]
struct Case {
    query: String,
    documents: Vec<String>,
    ids: Vec<Vec<u32>>,
    types: Vec<Option<Vec<u32>>>,
    scores: Vec<f32>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference/layout")
        .join(name)
}

fn reference(name: &str) -> Reference {
    let text = std::fs::read(folder(name).join("layout.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn open(name: &str, choice: TokenizerChoice) -> (Checkpoint, PairTokenizer) {
    let mut checkpoint = Checkpoint::open(name, &folder(name), None).unwrap_or_else(|error| panic!("{name}: {error}"));
    checkpoint.tokenizer_choice = choice;
    let tokenizer = PairTokenizer::open(&checkpoint).unwrap_or_else(|error| panic!("{name}: {error}"));
    (checkpoint, tokenizer)
}

/// Tokens and scores of every case, in fp32.
fn check(name: &str, choice: TokenizerChoice, cases: &[Case]) {
    assert!(cases.len() >= 5, "{name}");
    let (checkpoint, tokenizer) = open(name, choice);
    let settings = EngineSettings {
        device: DeviceChoice::Cpu,
        precision: PrecisionChoice::Fp32,
        kernels: KernelsChoice::Libtorch,
        warmup_samples: 0,
        ..EngineSettings::default()
    };
    let mut engine = ModelEngine::load(&checkpoint, &settings).unwrap();
    for case in cases {
        let query = tokenizer.query(&case.query).unwrap();
        let pairs: Vec<PairTokens> = case
            .documents
            .iter()
            .map(|document| tokenizer.pair(&query, document, true).unwrap())
            .collect();
        for (index, pair) in pairs.iter().enumerate() {
            let place = format!("{name}: {:?}, document {index}", case.query);
            assert_eq!(pair.ids, case.ids[index], "{place}");
            let types = case.types[index].clone().unwrap_or_else(|| vec![0; pair.ids.len()]);
            assert_eq!(pair.type_ids, types, "{place}");
        }
        let logits = engine.score(&pairs.iter().collect::<Vec<_>>()).unwrap();
        for (logit, expected) in logits.iter().zip(&case.scores) {
            let score = checkpoint.spec.score_activation.apply(*logit);
            assert!(
                (score - expected).abs() < 1e-4,
                "{name}: {:?}: {score}, not {expected}",
                case.query
            );
        }
    }
}

#[test]
fn scores_are_those_of_predict_for_every_saved_layout() {
    let mut names: Vec<String> = std::fs::read_dir(folder(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 19, "{names:?}");
    for name in names {
        let reference = reference(&name);
        if let Some(words) = &reference.refused {
            let message = Checkpoint::open(&name, &folder(&name), None).unwrap_err().to_string();
            for word in words {
                assert!(message.contains(word), "{name}: {message}");
            }
            continue;
        }
        let (checkpoint, tokenizer) = open(&name, TokenizerChoice::Class);
        let prompt = checkpoint.spec.query_prompt.as_ref().map(|prompt| prompt.text.clone());
        assert_eq!(prompt, reference.prompt, "{name}");
        assert_eq!(
            tokenizer.query_prompt_bytes(),
            prompt.map_or(0, |prompt| prompt.len()),
            "{name}"
        );
        assert_eq!(
            tokenizer.class_differences().is_empty(),
            reference.by_file.is_none(),
            "{name}"
        );
        check(&name, TokenizerChoice::Class, &reference.cases);
        check(
            &name,
            TokenizerChoice::File,
            reference.by_file.as_ref().unwrap_or(&reference.cases),
        );
    }
}

#[test]
fn a_prompt_goes_through_the_fast_path_as_part_of_the_query() {
    let (_, tokenizer) = open("prompt", TokenizerChoice::File);
    assert!(tokenizer.is_fast());
    let plain = open("prompt-unused", TokenizerChoice::File).1;
    assert_eq!(tokenizer.query("an egg").unwrap(), plain.query("find: an egg").unwrap());
    assert_ne!(tokenizer.query("an egg").unwrap(), plain.query("an egg").unwrap());
    // It counts for the limit: a query that just fits without it does not fit with it.
    let fits = |tokenizer: &PairTokenizer, words: usize| {
        let query = tokenizer.query(&"egg ".repeat(words)).unwrap();
        tokenizer.pair(&query, "egg", false).is_ok()
    };
    let longest = |tokenizer: &PairTokenizer| (1..64).take_while(|&words| fits(tokenizer, words)).count();
    assert!(longest(&tokenizer) > 1);
    assert!(longest(&tokenizer) < longest(&plain));
}

/// The files of a saved CrossEncoder over a small BERT, with one file changed.
fn saved(file: &str, change: impl FnOnce(&mut Value)) -> Result<Checkpoint, ModelError> {
    let dir = tempfile::tempdir().unwrap();
    fixtures::write_checkpoint(dir.path(), super::super::Architecture::Bert);
    let transformer = "sentence_transformers.base.modules.transformer.Transformer";
    let mut files = json!({
        MODULES: [{"idx": 0, "name": "0", "path": "", "type": transformer}],
        SENTENCE_TRANSFORMERS: {
            "model_type": "CrossEncoder", "prompts": {"q": "find: "}, "default_prompt_name": "q",
            "activation_fn": "torch.nn.modules.activation.Tanh",
        },
        SENTENCE_BERT[0]: {
            "transformer_task": "sequence-classification",
            "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
            "module_output_name": "scores",
        },
        "config.json": fixtures::config(super::super::Architecture::Bert),
        "tokenizer_config.json": {"model_max_length": 40},
    });
    change(&mut files[file]);
    for (name, value) in files.as_object().unwrap() {
        if !value.is_null() {
            fixtures::write_json(dir.path(), name, value);
        }
    }
    Checkpoint::open("test", dir.path(), None)
}

#[test]
fn each_key_counts_or_is_refused_by_file_and_name() {
    let bert = SENTENCE_BERT[0];
    let plain = saved(bert, |_| {}).unwrap().spec;
    assert_eq!(plain.query_prompt.as_ref().unwrap().text, "find: ");
    assert_eq!((plain.score_activation, plain.length_max), (ScoreActivation::Tanh, 40));
    for (file, key, value, word) in [
        (
            MODULES,
            "/0/type",
            json!("sentence_transformers.base.modules.dense.Dense"),
            "Dense",
        ),
        (MODULES, "/0/type", json!("transformers.Transformer"), "not run"),
        (
            MODULES,
            "/0/type",
            json!("my_model.Transformer"),
            "my_model.Transformer",
        ),
        (MODULES, "/0/path", json!("0_Transformer"), "0_Transformer"),
        (
            SENTENCE_TRANSFORMERS,
            "/default_prompt_name",
            json!("other"),
            "default_prompt_name",
        ),
        (SENTENCE_TRANSFORMERS, "/prompts", json!(["a"]), "prompts"),
        (SENTENCE_TRANSFORMERS, "/prompts/q", json!(7), "prompts.q"),
        (
            SENTENCE_TRANSFORMERS,
            "/activation_fn",
            json!("torch.nn.GELU"),
            "activation_fn",
        ),
        (
            SENTENCE_TRANSFORMERS,
            "/requirements",
            json!({"transformers": ">=6"}),
            "requirements.transformers",
        ),
        (
            SENTENCE_TRANSFORMERS,
            "/requirements",
            json!({"mine": {"specifier": ">1"}}),
            "requirements.mine",
        ),
        (
            bert,
            "/transformer_task",
            json!("feature-extraction"),
            "transformer_task",
        ),
        (bert, "/transformer_task", json!(null), "transformer_task"),
        (
            bert,
            "/module_output_name",
            json!("token_embeddings"),
            "module_output_name",
        ),
        (
            bert,
            "/modality_config/message",
            json!({"method": "forward"}),
            "modality_config.message",
        ),
        (
            bert,
            "/modality_config/text",
            json!({"method": "encode"}),
            "modality_config.text.method",
        ),
        (bert, "/max_seq_length", json!("long"), "max_seq_length"),
        (bert, "/do_lower_case", json!("yes"), "do_lower_case"),
        (
            bert,
            "/processing_kwargs",
            json!({"text": {"truncation": "only_second"}}),
            "processing_kwargs.text.truncation",
        ),
        (
            bert,
            "/processing_kwargs",
            json!({"text": {"add_special_tokens": false}}),
            "add_special_tokens",
        ),
        (
            bert,
            "/processing_kwargs",
            json!({"common": {"max_length": 9}}),
            "processing_kwargs.common.max_length",
        ),
        (
            bert,
            "/config_kwargs",
            json!({"num_labels": 1}),
            "config_kwargs.num_labels",
        ),
        (
            bert,
            "/tokenizer_args",
            json!({"do_lower_case": false}),
            "tokenizer_args.do_lower_case",
        ),
        (bert, "/query_length", json!(32), "query_length"),
        ("config.json", "/is_causal", json!(true), "is_causal"),
        (
            "config.json",
            "/use_bidirectional_attention",
            json!(false),
            "use_bidirectional_attention",
        ),
        (
            "config.json",
            "/transformers_weights",
            json!("other.safetensors"),
            "transformers_weights",
        ),
    ] {
        let message = saved(file, |object| put(object, key, value.clone()))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(file) && message.contains(word),
            "{file} {key}: {message}"
        );
    }
}

/// Sets what a pointer names, with the last key made if need be.
fn put(object: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[key] = value;
}

#[test]
fn what_changes_no_score_and_what_is_honoured_passes() {
    let bert = SENTENCE_BERT[0];
    let spec = |file: &str, key: &str, value: Value| {
        let outcome = saved(file, |object| put(object, key, value));
        outcome.unwrap_or_else(|error| panic!("{file} {key}: {error}")).spec
    };
    for path in [
        "sentence_transformers.models.Transformer",
        "sentence_transformers.base.models.Transformer",
    ] {
        assert!(spec(MODULES, "/0/type", json!(path)).query_prompt.is_some());
    }
    // null: config.json's, here the identity.
    assert_eq!(
        spec(SENTENCE_TRANSFORMERS, "/activation_fn", json!(null)).score_activation,
        ScoreActivation::Identity
    );
    assert_eq!(
        spec(SENTENCE_TRANSFORMERS, "/default_prompt_name", json!(null)).query_prompt,
        None
    );
    assert_eq!(
        spec(SENTENCE_TRANSFORMERS, "/prompts/q", json!(null))
            .query_prompt
            .unwrap()
            .text,
        ""
    );
    let met =
        json!({"pytorch": ">=2", "sentence_transformers": {"specifier": ">=5.4,<7"}, "python": "<3", "tokenizers": 7});
    spec(SENTENCE_TRANSFORMERS, "/requirements", met);
    // In place of the tokenizer's 40, higher or lower; never past the positions.
    let length = |key: &str, value: Value| spec(bert, key, value).length_max;
    assert_eq!(length("/max_seq_length", json!(64)), 64);
    assert_eq!(length("/max_seq_length", json!(24)), 24);
    assert_eq!(length("/max_seq_length", json!(4096)), 512);
    assert_eq!(
        length(
            "/processing_kwargs",
            json!({"text": {"max_length": 20, "padding": "max_length", "truncation": true}})
        ),
        20
    );
    assert_eq!(
        length(
            "/processing_kwargs",
            json!({"image": {"size": 3}, "chat_template": {"x": 1}})
        ),
        40
    );
    let both = saved(bert, |file| {
        file["max_seq_length"] = json!(16);
        file["processing_kwargs"] = json!({"text": {"max_length": 20}});
    });
    assert_eq!(both.unwrap().spec.length_max, 20);
    for key in ["/model_args", "/model_kwargs"] {
        spec(
            bert,
            key,
            json!({"torch_dtype": "float16", "attn_implementation": "sdpa"}),
        );
    }
    spec(bert, "/unpad_inputs", json!(true));
    assert!(spec(bert, "/do_lower_case", json!(true)).lowercase);
    spec("config.json", "/is_causal", json!(false));
    spec("config.json", "/transformers_weights", json!("model.safetensors"));
    // A null under the newer key hides the older one, as in Python.
    let hidden = saved("config.json", |config| {
        config["sentence_transformers"] = json!({"activation_fn": null})
    });
    assert_eq!(hidden.unwrap().spec.score_activation, ScoreActivation::Tanh);
}

#[test]
fn files_that_do_not_count_are_not_read() {
    for change in [
        (MODULES, None),
        (SENTENCE_TRANSFORMERS, None),
        (
            SENTENCE_TRANSFORMERS,
            Some(json!({"prompts": {"q": "find: "}, "default_prompt_name": "q"})),
        ),
        (
            SENTENCE_TRANSFORMERS,
            Some(json!({"model_type": "SentenceTransformer", "default_prompt_name": "none"})),
        ),
    ] {
        let (file, value) = change;
        let spec = saved(file, |object| *object = value.unwrap_or_default()).unwrap().spec;
        assert_eq!(
            (spec.query_prompt, spec.score_activation),
            (None, ScoreActivation::Identity),
            "{file}"
        );
    }
    // Nor is a module that would be refused.
    let dir = tempfile::tempdir().unwrap();
    fixtures::write_checkpoint(dir.path(), super::super::Architecture::Bert);
    fixtures::write_json(
        dir.path(),
        MODULES,
        &json!([{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]),
    );
    fixtures::write_json(dir.path(), SENTENCE_BERT[0], &json!({"max_seq_length": 8}));
    assert_eq!(Checkpoint::open("test", dir.path(), None).unwrap().spec.length_max, 512);
}

#[test]
fn without_modules_a_chat_template_is_refused() {
    let message = saved("tokenizer_config.json", |file| {
        file["chat_template"] = json!("{{ messages }}")
    });
    message.unwrap();
    let dir = tempfile::tempdir().unwrap();
    fixtures::write_checkpoint(dir.path(), super::super::Architecture::Bert);
    let refused = || Checkpoint::open("test", dir.path(), None).unwrap_err().to_string();
    std::fs::write(dir.path().join(CHAT_TEMPLATE), "{{ messages }}").unwrap();
    assert!(refused().contains("chat_template.jinja"), "{}", refused());
    std::fs::remove_file(dir.path().join(CHAT_TEMPLATE)).unwrap();
    fixtures::write_json(
        dir.path(),
        "tokenizer_config.json",
        &json!({"chat_template": "{{ messages }}"}),
    );
    assert!(refused().contains("chat_template"), "{}", refused());
}

#[test]
fn an_adapter_and_a_training_folder_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let message = || Checkpoint::open("test", dir.path(), None).unwrap_err().to_string();
    std::fs::create_dir(dir.path().join("checkpoint-500")).unwrap();
    std::fs::create_dir(dir.path().join("checkpoint-1000")).unwrap();
    assert!(message().contains("checkpoint-1000"), "{}", message());
    fixtures::write_checkpoint(dir.path(), super::super::Architecture::Bert);
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    fixtures::write_json(dir.path(), "trainer_state.json", &json!({"global_step": 500}));
    assert!(
        message().contains("trainer_state.json") && message().contains("processing_class"),
        "{}",
        message()
    );
    fixtures::write_json(dir.path(), "adapter_config.json", &json!({"peft_type": "LORA"}));
    assert!(
        message().contains("adapter_config.json") && message().contains("merge_and_unload"),
        "{}",
        message()
    );
}
