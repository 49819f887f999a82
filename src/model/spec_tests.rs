use serde_json::json;

use super::super::fixtures;
use std::path::PathBuf;

use super::*;

fn object(value: Value) -> Object {
    Object {
        path: PathBuf::from("config.json"),
        value,
    }
}

fn spec_of(config: Value) -> Result<ModelSpec, ModelError> {
    ModelSpec::from_objects(&object(config), None, None, None)
}

/// A configuration that can be served, with one key set.
fn with(architecture: Architecture, key: &str, value: Value) -> Value {
    let mut config = fixtures::config(architecture);
    config[key] = value;
    config
}

#[test]
fn what_config_json_leaves_out_is_as_in_transformers() {
    for architecture in Architecture::ALL {
        let config = json!({"model_type": architecture.model_type(), "num_labels": 1});
        let spec = spec_of(config).unwrap();
        let roberta = architecture.is_roberta_family();
        assert_eq!(spec.architecture, architecture);
        assert_eq!(
            (spec.layers, spec.hidden, spec.heads, spec.intermediate),
            (12, 768, 12, 3072)
        );
        assert_eq!(
            spec.vocab_size,
            if architecture == Architecture::Roberta {
                50265
            } else {
                30522
            }
        );
        assert_eq!((spec.positions_max, spec.type_vocab_size), (512, 2));
        assert_eq!(spec.pad_token_id, u32::from(roberta));
        assert_eq!(spec.position_offset, if roberta { 2 } else { 0 });
        assert_eq!(spec.length_max, if roberta { 510 } else { 512 });
        assert_eq!(spec.layer_norm_eps, 1e-12);
        assert_eq!(spec.hidden_activation, HiddenActivation::Gelu);
        assert_eq!(spec.score_activation, ScoreActivation::Sigmoid);
    }
}

#[test]
fn the_limit_is_the_smallest_of_three() {
    let length = |tokenizer: Value, setting: Option<usize>| {
        let config = object(fixtures::config(Architecture::XlmRoberta));
        let spec = ModelSpec::from_objects(&config, Some(&object(tokenizer)), None, setting)?;
        Ok::<_, ModelError>((
            spec.length_max,
            spec.origins.length_max.split(':').next().unwrap_or_default(),
        ))
    };
    assert_eq!(length(json!({}), None).unwrap(), (512, "config.json"));
    // How transformers writes "no limit".
    let none: Value = serde_json::from_str(r#"{"model_max_length": 1000000000000000019884624838656}"#).unwrap();
    assert_eq!(length(none, None).unwrap(), (512, "config.json"));
    assert_eq!(
        length(json!({"model_max_length": 1e30}), None).unwrap(),
        (512, "config.json")
    );
    assert_eq!(
        length(json!({"model_max_length": 256}), None).unwrap(),
        (256, "tokenizer_config.json")
    );
    assert_eq!(
        length(json!({"model_max_length": 256}), Some(300)).unwrap(),
        (256, "tokenizer_config.json")
    );
    assert_eq!(
        length(json!({"model_max_length": 256}), Some(64)).unwrap(),
        (64, "setting")
    );
    assert!(length(json!({"model_max_length": "long"}), None).is_err());
    assert!(length(json!({"model_max_length": 0}), None).is_err());
}

#[test]
fn the_score_activation_is_found_as_sentence_transformers_finds_it() {
    let activation = |config: Value, own: Option<Value>| {
        let layout = Layout {
            own: own.map(object),
            ..Layout::default()
        };
        let spec = ModelSpec::from_objects(&object(config), None, Some(&layout), None)?;
        Ok::<_, ModelError>(spec.score_activation)
    };
    let none = with(Architecture::Bert, "sbert_ce_default_activation_function", Value::Null);
    assert_eq!(activation(none.clone(), None).unwrap(), ScoreActivation::Sigmoid);
    for (name, expected) in [
        ("torch.nn.modules.linear.Identity", ScoreActivation::Identity),
        ("torch.nn.Identity()", ScoreActivation::Identity),
        ("torch.nn.modules.activation.Sigmoid", ScoreActivation::Sigmoid),
        ("torch.nn.modules.activation.Tanh", ScoreActivation::Tanh),
    ] {
        let old = with(Architecture::Bert, "sbert_ce_default_activation_function", json!(name));
        assert_eq!(activation(old.clone(), None).unwrap(), expected);
        // The newer places win over the older ones.
        let mut new = none.clone();
        new["sentence_transformers"] = json!({"activation_fn": name, "version": "4.0.1"});
        new["sbert_ce_default_activation_function"] = json!("torch.nn.modules.activation.Softmax");
        assert_eq!(activation(new, None).unwrap(), expected);
        let mut newest = none.clone();
        newest["sentence_transformers"] = json!({"activation_fn": "torch.nn.modules.activation.Softmax"});
        assert_eq!(
            activation(newest, Some(json!({"activation_fn": name}))).unwrap(),
            expected
        );
    }
    for name in ["torch.nn.modules.activation.Softmax", "my_package.Identity", "Identity"] {
        let config = with(Architecture::Bert, "sbert_ce_default_activation_function", json!(name));
        let message = activation(config, None).unwrap_err().to_string();
        assert!(
            message.contains(name) && message.contains("sbert_ce_default_activation_function"),
            "{message}"
        );
    }
}

#[test]
fn activations_compute_what_torch_computes() {
    assert_eq!(ScoreActivation::Identity.apply(-3.25), -3.25);
    assert_eq!(ScoreActivation::Sigmoid.apply(0.0), 0.5);
    assert!((ScoreActivation::Sigmoid.apply(8.607139) - 0.9998173).abs() < 1e-6);
    assert_eq!(ScoreActivation::Sigmoid.apply(-200.0), 0.0);
    assert_eq!(ScoreActivation::Sigmoid.apply(200.0), 1.0);
    assert!((ScoreActivation::Tanh.apply(0.5) - 0.46211717).abs() < 1e-7);
}

#[test]
fn other_models_are_refused_by_name() {
    for (config, name) in [
        (
            json!({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}),
            "T5ForConditionalGeneration",
        ),
        (
            json!({"architectures": ["BertModel"], "model_type": "bert"}),
            "BertModel",
        ),
        (json!({"model_type": "modernbert"}), "modernbert"),
    ] {
        let message = spec_of(config).unwrap_err().to_string();
        assert!(
            message.contains(name) && message.contains("XLMRobertaForSequenceClassification"),
            "{message}"
        );
    }
    assert!(spec_of(json!({})).unwrap_err().to_string().contains("architectures"));
}

#[test]
fn values_that_cannot_be_served_are_named_with_field_and_value() {
    for (key, value, shown) in [
        ("model_type", json!("roberta"), "roberta"),
        ("position_embedding_type", json!("relative_key"), "relative_key"),
        ("is_decoder", json!(true), "true"),
        ("add_cross_attention", json!(true), "true"),
        ("num_attention_heads", json!(3), "3"),
        ("num_attention_heads", json!(0), "0"),
        ("hidden_size", json!("wide"), "wide"),
        ("num_hidden_layers", json!(-1), "-1"),
        ("id2label", json!({"0": "no", "1": "yes"}), "2 labels"),
        ("hidden_act", json!("quick_gelu"), "quick_gelu"),
        ("layer_norm_eps", json!(0), "0"),
        ("pad_token_id", json!(400), "400"),
        ("max_position_embeddings", json!(1u64 << 40), "1099511627776"),
        ("pruned_heads", json!({"0": [1]}), "[1]"),
        ("quantization_config", json!({"quant_method": "gptq"}), "gptq"),
    ] {
        let message = spec_of(with(Architecture::Bert, key, value)).unwrap_err().to_string();
        assert!(
            message.contains(key) && message.contains(shown) && message.contains("config.json"),
            "{message}"
        );
    }
    let two = json!({"model_type": "bert"});
    assert!(spec_of(two).unwrap_err().to_string().contains("num_labels"));
    let short = with(Architecture::Roberta, "max_position_embeddings", json!(2));
    assert!(
        spec_of(short)
            .unwrap_err()
            .to_string()
            .contains("max_position_embeddings")
    );
}

#[test]
fn a_value_is_never_shown_at_full_length() {
    let message = spec_of(with(Architecture::Bert, "hidden_act", json!("x".repeat(5000))))
        .unwrap_err()
        .to_string();
    assert!(message.len() < 1000, "{}", message.len());
}
