use serde_json::json;

use super::super::fixtures;
use super::super::spec::Architecture;
use super::super::weights::{Dtype, Weights};
use super::*;

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fixtures::write_checkpoint(dir.path(), Architecture::Bert);
    dir
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let without = |name: &str| {
        let dir = folder();
        std::fs::remove_file(dir.path().join(name)).unwrap();
        Checkpoint::open("test", dir.path(), None)
    };
    without(TOKENIZER_CONFIG).unwrap();
    for name in [CONFIG, TOKENIZER, WEIGHTS] {
        let error = without(name).unwrap_err();
        assert!(
            matches!(&error, ModelError::MissingFile { file, .. } if file == name),
            "{error}"
        );
    }
    assert!(without(TOKENIZER).unwrap_err().to_string().contains("AutoTokenizer"));
}

#[test]
fn a_pickle_is_refused_with_the_reason_and_the_way_out() {
    let dir = folder();
    std::fs::rename(dir.path().join(WEIGHTS), dir.path().join("pytorch_model.bin")).unwrap();
    let message = Checkpoint::open("test", dir.path(), None).unwrap_err().to_string();
    for part in ["pytorch_model.bin", "runs code", "save_pretrained"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn shards_come_in_order_and_all_of_them() {
    let dir = folder();
    std::fs::remove_file(dir.path().join(WEIGHTS)).unwrap();
    let index = json!({"weight_map": {"b": "m-2.safetensors", "a": "m-1.safetensors", "c": "m-1.safetensors"}});
    fixtures::write_json(dir.path(), WEIGHTS_INDEX, &index);
    std::fs::write(
        dir.path().join("m-1.safetensors"),
        fixtures::safetensors(&[("a", 1.0), ("c", 7.0)]),
    )
    .unwrap();
    let message = Checkpoint::open("test", dir.path(), None).unwrap_err().to_string();
    assert!(message.contains("m-2.safetensors"), "{message}");
    std::fs::write(dir.path().join("m-2.safetensors"), fixtures::safetensors(&[("b", 4.0)])).unwrap();
    let checkpoint = Checkpoint::open("test", dir.path(), None).unwrap();
    let weights = Weights::open(&checkpoint).unwrap();
    assert_eq!(weights.names(), ["a", "b", "c"]);
    for (name, first) in [("a", 1.0f32), ("b", 4.0), ("c", 7.0)] {
        let tensor = weights.get(name).unwrap();
        assert_eq!(
            (tensor.dtype, tensor.shape.as_slice(), tensor.data.len()),
            (Dtype::F32, &[2, 3][..], 24)
        );
        assert_eq!(tensor.data[..4], first.to_le_bytes());
    }
    assert_eq!((weights.parameters(), weights.dtypes()), (18, vec![(Dtype::F32, 18)]));

    std::fs::write(dir.path().join("m-2.safetensors"), fixtures::safetensors(&[("a", 4.0)])).unwrap();
    assert!(
        Weights::open(&checkpoint)
            .unwrap_err()
            .to_string()
            .contains("`a` is there twice")
    );
}

#[test]
fn tensors_are_found_by_their_modern_names_or_named_in_the_error() {
    let dir = folder();
    let names = [
        ("bert.embeddings.LayerNorm.gamma", 1.0),
        ("bert.embeddings.LayerNorm.beta", 2.0),
    ];
    std::fs::write(dir.path().join(WEIGHTS), fixtures::safetensors(&names)).unwrap();
    let weights = Weights::open(&Checkpoint::open("test", dir.path(), None).unwrap()).unwrap();
    assert!(weights.contains("bert.embeddings.LayerNorm.weight"));
    assert!(weights.contains("bert.embeddings.LayerNorm.bias"));
    let error = weights.get("classifier.weight").unwrap_err();
    assert!(
        matches!(&error, ModelError::Tensor { name, .. } if name == "classifier.weight"),
        "{error}"
    );
}

#[test]
fn formats_that_are_not_served_are_refused_only_when_asked_for() {
    use safetensors::tensor::TensorView as FileTensor;
    let dir = folder();
    let bytes = [0u8; 24];
    let tensors = [
        (
            "position_ids",
            FileTensor::new(safetensors::Dtype::I64, vec![3], &bytes).unwrap(),
        ),
        (
            "half",
            FileTensor::new(safetensors::Dtype::BF16, vec![3, 4], &bytes).unwrap(),
        ),
    ];
    std::fs::write(dir.path().join(WEIGHTS), safetensors::serialize(tensors, None).unwrap()).unwrap();
    let weights = Weights::open(&Checkpoint::open("test", dir.path(), None).unwrap()).unwrap();
    assert_eq!(
        (weights.parameters(), weights.get("half").unwrap().dtype),
        (12, Dtype::BF16)
    );
    let message = weights.get("position_ids").unwrap_err().to_string();
    assert!(message.contains("position_ids") && message.contains("I64"), "{message}");
}

#[test]
fn half_a_weights_file_is_refused() {
    let dir = folder();
    let path = dir.path().join(WEIGHTS);
    let bytes = std::fs::read(&path).unwrap();
    for len in [0, 4, 20, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let error = Weights::open(&Checkpoint::open("test", dir.path(), None).unwrap()).unwrap_err();
        assert!(error.to_string().contains("model.safetensors"), "{len}: {error}");
    }
}
