use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::fixtures::{change_json, change_tensor, copy_reference, write_json};
use super::*;

fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_reference(name, dir.path());
    dir
}

fn checked(dir: &TempDir) -> Result<(), ModelError> {
    let checkpoint = Checkpoint::open("test", dir.path(), None)?;
    check(&checkpoint, &Weights::open(&checkpoint)?)
}

#[test]
fn whole_checkpoints_of_every_architecture_pass() {
    for name in [
        "bert-small",
        "bert-odd",
        "roberta-small",
        "xlmr-small",
        "camembert-small",
        "minilm-l6-seeded",
    ] {
        if let Err(error) = checked(&copy(name)) {
            // Its weights are made from a seed where they are needed.
            assert!(
                name == "minilm-l6-seeded" && error.to_string().contains("model.safetensors"),
                "{name}: {error}"
            );
        }
    }
}

#[test]
fn a_size_that_is_not_that_of_the_weights_is_named_with_both_before_room_is_made() {
    // The first of a kind would take 4 EiB, the last is off by one.
    for (key, value, weights) in [
        ("hidden_size", 1u64 << 30, "64"),
        ("hidden_size", 60, "64"),
        ("num_hidden_layers", 1 << 30, "2"),
        ("num_hidden_layers", 3, "2"),
        ("intermediate_size", 1 << 30, "128"),
        ("vocab_size", 1 << 30, "1200"),
        ("vocab_size", 1201, "1200"),
        ("max_position_embeddings", 1 << 30, "128"),
        ("max_position_embeddings", 127, "128"),
        ("type_vocab_size", 1 << 30, "2"),
    ] {
        let dir = copy("bert-small");
        change_json(dir.path(), "config.json", |config| config[key] = json!(value));
        match checked(&dir) {
            Err(ModelError::Field {
                file,
                field,
                expected,
                found,
            }) => {
                assert!(file.ends_with("config.json"), "{key}");
                assert_eq!((field.as_str(), found), (key, value.to_string()));
                assert!(
                    expected.starts_with(weights) && expected.contains("`bert."),
                    "{key}: {expected}"
                );
            }
            other => panic!("{key} = {value}: {other:?}"),
        }
    }
    // Fewer layers than there are is how a model is cut short on purpose.
    let dir = copy("bert-small");
    change_json(dir.path(), "config.json", |config| {
        config["num_hidden_layers"] = json!(1)
    });
    checked(&dir).unwrap();
}

#[test]
fn sizes_that_are_none_are_refused_with_the_bounds() {
    for key in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "type_vocab_size",
    ] {
        let texts = [
            json!(-1),
            json!(0),
            json!(64.0),
            json!(2.5),
            json!("64"),
            json!([64]),
            json!(u64::MAX),
            json!(1e300),
        ];
        for value in texts {
            let dir = copy("bert-small");
            change_json(dir.path(), "config.json", |config| config[key] = value.clone());
            let error = checked(&dir).unwrap_err().to_string();
            assert!(
                error.contains(key) && error.contains("a whole number from 1 to 1073741824"),
                "{key} = {value}: {error}"
            );
        }
    }
    // A bound on texts that is larger than the positions is none, however it is written.
    for value in [json!(1u64 << 60), json!(1e30), json!(u64::MAX)] {
        let dir = copy("bert-small");
        write_json(
            dir.path(),
            "tokenizer_config.json",
            &json!({ "model_max_length": value }),
        );
        assert_eq!(Checkpoint::open("test", dir.path(), None).unwrap().spec.length_max, 128);
    }
    for value in [json!(-5), json!(0.5), json!("512")] {
        let dir = copy("bert-small");
        write_json(
            dir.path(),
            "tokenizer_config.json",
            &json!({ "model_max_length": value }),
        );
        let error = checked(&dir).unwrap_err().to_string();
        assert!(error.contains("model_max_length"), "{value}: {error}");
    }
}

#[test]
fn a_layer_of_which_a_part_is_missing_is_damaged_and_not_counted_wrong() {
    let dir = copy("bert-small");
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    // Of the same length, so that the header stays whole.
    let (from, to) = ("layer.1.output.dense.bias", "layer.1.output.dense.xxxx");
    let text = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .unwrap();
    let mut changed = bytes.clone();
    changed[text..text + to.len()].copy_from_slice(to.as_bytes());
    std::fs::write(&path, changed).unwrap();
    match checked(&dir) {
        Err(ModelError::Tensor { name, .. }) => assert!(name.ends_with("layer.1.output.dense.bias"), "{name}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_header_that_claims_more_than_the_file_holds_is_refused() {
    let dir = copy("bert-small");
    let path = dir.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    for claimed in [u64::MAX, 1 << 62, 1 << 30, whole.len() as u64] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&claimed.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(checked(&dir), Err(ModelError::Weights { .. })), "{claimed}");
    }
    let shapes: [Value; 3] = [
        json!([1u64 << 62, 4]),
        json!([u64::MAX]),
        json!([1u64 << 40, 1u64 << 40]),
    ];
    for shape in shapes {
        let header = json!({"classifier.bias": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&[0; 4]);
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(checked(&dir), Err(ModelError::Weights { .. })), "{shape}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    for (tensor, value, shown) in [
        ("bert.encoder.layer.1.output.dense.weight", f32::NAN, "NaN"),
        ("bert.encoder.layer.0.attention.self.query.bias", f32::INFINITY, "inf"),
        // Behind the tanh: every score would be finite, and worthless.
        ("bert.pooler.dense.bias", f32::NEG_INFINITY, "-inf"),
        ("bert.embeddings.position_embeddings.weight", f32::NAN, "NaN"),
        ("classifier.weight", f32::NAN, "NaN"),
    ] {
        let dir = copy("bert-small");
        change_tensor(dir.path(), tensor, |values| values[7] = value);
        match checked(&dir) {
            Err(error @ ModelError::Tensor { .. }) => {
                let text = error.to_string();
                assert!(
                    text.contains(tensor) && text.contains(&format!("holds {shown} at element 7")),
                    "{text}"
                );
                assert!(!error.is_retryable(), "the file stays as it is");
            }
            other => panic!("{tensor}: {other:?}"),
        }
    }
}

#[test]
fn a_row_of_an_unused_token_harms_nobody_and_a_table_of_them_does() {
    let words = "bert.embeddings.word_embeddings.weight";
    let dir = copy("bert-small");
    change_tensor(dir.path(), words, |values| values[64 * 7..64 * 8].fill(f32::NAN));
    checked(&dir).unwrap();
    change_tensor(dir.path(), words, |values| values.fill(f32::INFINITY));
    let error = checked(&dir).unwrap_err().to_string();
    assert!(error.contains(words) && error.contains("76800 of its 76800"), "{error}");
}

#[test]
fn every_format_is_looked_through() {
    let view = |dtype, data: &[u8], count| {
        not_finite(&TensorView {
            dtype,
            shape: vec![count],
            data,
        })
        .map(|found| (found.place, found.value.is_nan(), found.count))
    };
    let f16 = [0x7bffu16, 0x7c00, 0x7e00].map(u16::to_le_bytes).concat();
    assert_eq!(view(Dtype::F16, &f16, 3), Some((1, false, 2)));
    assert_eq!(view(Dtype::F16, &f16[..2], 1), None);
    let bf16 = [0x7f7fu16, 0xff80, 0x7fc0].map(u16::to_le_bytes).concat();
    assert_eq!(view(Dtype::BF16, &bf16, 3), Some((1, false, 2)));
    let f32 = [f32::MAX, f32::NAN].map(f32::to_le_bytes).concat();
    assert_eq!(view(Dtype::F32, &f32, 2), Some((1, true, 1)));
    // Computed in single precision, this is infinite.
    let f64 = [1.0, 1e300].map(f64::to_le_bytes).concat();
    assert_eq!(view(Dtype::F64, &f64, 2), Some((1, false, 1)));
}
