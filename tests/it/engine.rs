//! The engine against `transformers`: reference scores of small checkpoints of every architecture, and of the real
//! MiniLM-L6 encoder. tools/reference made them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nats_rerank::model::ModelError;
use nats_rerank::model::engine::{DeviceChoice, Engine, EngineSettings, KernelsChoice, ModelEngine, PrecisionChoice};
use nats_rerank::model::files::Checkpoint;
use nats_rerank::model::tokenizer::{PairTokenizer, PairTokens};
use serde::Deserialize;

use crate::support::{reference, root};

/// The contract (PROTOCOL): fp32 logits agree with transformers to this.
const FP32_TOLERANCE: f32 = 1e-4;
/// And do not depend on the rest of the batch beyond this.
const BATCH_TOLERANCE: f32 = 1e-5;

#[derive(Deserialize)]
struct Reference {
    length_max: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    query: String,
    documents: Vec<String>,
    logits: Vec<f32>,
    scores: Vec<f32>,
    token_counts: Vec<usize>,
    #[serde(default)]
    ids: Option<Vec<Vec<u32>>>,
}

struct Model {
    name: String,
    reference: Reference,
    checkpoint: Checkpoint,
    tokenizer: PairTokenizer,
}

impl Model {
    fn open(name: &str, folder: &Path) -> Model {
        let text = std::fs::read_to_string(reference(name).join("scores.json")).expect("scores.json");
        let checkpoint = Checkpoint::open(name, folder, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        let tokenizer = PairTokenizer::open(&checkpoint).unwrap_or_else(|error| panic!("{name}: {error}"));
        Model {
            name: name.to_owned(),
            reference: serde_json::from_str(&text).expect("scores"),
            checkpoint,
            tokenizer,
        }
    }

    fn engine(&self, precision: PrecisionChoice) -> ModelEngine {
        self.engine_by(precision, KernelsChoice::Auto)
    }

    fn engine_by(&self, precision: PrecisionChoice, kernels: KernelsChoice) -> ModelEngine {
        self.try_engine(precision, kernels, 1)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// On every kind of kernel that this CPU has for this model and precision, and by libtorch.
    fn engines(&self, precision: PrecisionChoice) -> Vec<ModelEngine> {
        let mut engines: Vec<ModelEngine> = Vec::new();
        for &kernels in KernelsChoice::ALL {
            if let Ok(engine) = self.try_engine(precision, kernels, 1)
                && engines.iter().all(|one| one.info().kernels != engine.info().kernels)
            {
                engines.push(engine);
            }
        }
        let kinds: Vec<_> = engines.iter().map(|engine| engine.info().kernels).collect();
        println!("{} in {precision}: {}", self.name, kinds.join(", "));
        engines
    }

    fn try_engine(
        &self,
        precision: PrecisionChoice,
        kernels: KernelsChoice,
        threads: usize,
    ) -> Result<ModelEngine, ModelError> {
        let settings = EngineSettings {
            device: DeviceChoice::Cpu,
            precision,
            kernels,
            threads,
            warmup_samples: 0,
            ..EngineSettings::default()
        };
        ModelEngine::load(&self.checkpoint, &settings)
    }

    fn pairs(&self, case: &Case) -> Vec<PairTokens> {
        let query = self.tokenizer.query(&case.query).expect("a query");
        case.documents
            .iter()
            .map(|document| self.tokenizer.pair(&query, document, true).expect("a pair"))
            .collect()
    }
}

/// The small checkpoints in the repository.
fn small_models() -> Vec<Model> {
    let mut names: Vec<String> = std::fs::read_dir(root().join("tests/reference"))
        .expect("tests/reference")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| reference(name).join("config.json").exists())
        .collect();
    names.sort();
    assert!(names.len() >= 7, "reference checkpoints are missing: {names:?}");
    names.iter().map(|name| Model::open(name, &reference(name))).collect()
}

/// The real MiniLM-L6 encoder with a seeded head, which set-up puts into the cache.
fn minilm() -> Model {
    let folder: PathBuf = root().join(".checkpoints/minilm-l6-seeded");
    assert!(folder.exists(), "{} is missing: run `make setup`", folder.display());
    Model::open("minilm-l6-seeded", &folder)
}

fn borrowed(pairs: &[PairTokens]) -> Vec<&PairTokens> {
    pairs.iter().collect()
}

#[track_caller]
fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) -> f32 {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let mut worst = 0f32;
    for (place, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let off = (a - b).abs();
        assert!(off <= tolerance, "{what}, pair {place}: {a} against {b}, off by {off}");
        worst = worst.max(off);
    }
    worst
}

fn check_tokens(model: &Model) {
    assert_eq!(
        model.checkpoint.spec.length_max, model.reference.length_max,
        "{}",
        model.name
    );
    for case in &model.reference.cases {
        let pairs = model.pairs(case);
        let counts: Vec<usize> = pairs.iter().map(|pair| pair.ids.len()).collect();
        assert_eq!(counts, case.token_counts, "{} {}", model.name, case.name);
        if let Some(ids) = &case.ids {
            let ours: Vec<&Vec<u32>> = pairs.iter().map(|pair| &pair.ids).collect();
            assert_eq!(ours, ids.iter().collect::<Vec<_>>(), "{} {}", model.name, case.name);
        }
    }
}

fn check_fp32(model: &Model) {
    for mut engine in model.engines(PrecisionChoice::Fp32) {
        let (activation, kernels) = (engine.info().activation, engine.info().kernels);
        let mut worst = 0f32;
        for case in &model.reference.cases {
            let pairs = model.pairs(case);
            let logits = engine.score(&borrowed(&pairs)).expect("logits");
            let what = format!("{} {} by {kernels}", model.name, case.name);
            worst = worst.max(assert_close(&what, &logits, &case.logits, FP32_TOLERANCE));
            let scores: Vec<f32> = logits.iter().map(|&logit| activation.apply(logit)).collect();
            assert_close(&format!("{what}, scores"), &scores, &case.scores, FP32_TOLERANCE);
        }
        println!("{}: fp32 by {kernels} is off by {worst:.1e} at most", model.name);
    }
}

#[test]
fn tokens_are_those_of_transformers() {
    small_models().iter().for_each(check_tokens);
    check_tokens(&minilm());
}

#[test]
fn fp32_logits_and_scores_agree_with_transformers() {
    small_models().iter().for_each(check_fp32);
}

#[test]
fn fp32_agrees_on_real_weights_in_shards() {
    let model = minilm();
    assert!(
        model.checkpoint.weights.len() > 1,
        "set-up makes this checkpoint in shards"
    );
    check_fp32(&model);
}

/// How far a precision may be off: root mean square, as a share of the spread of a model's own logits.
fn check_rounded(precision: PrecisionChoice, share: f32) {
    for model in small_models().into_iter().chain([minilm()]) {
        for mut engine in model.engines(precision) {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for case in &model.reference.cases {
                let pairs = model.pairs(case);
                ours.extend(engine.score(&borrowed(&pairs)).expect("logits"));
                theirs.extend_from_slice(&case.logits);
            }
            let mean = theirs.iter().sum::<f32>() / theirs.len() as f32;
            let spread = (theirs.iter().map(|logit| (logit - mean).powi(2)).sum::<f32>() / theirs.len() as f32).sqrt();
            let error =
                (ours.iter().zip(&theirs).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / theirs.len() as f32).sqrt();
            let what = format!("{} in {precision} by {}", model.name, engine.info().kernels);
            println!("{what}: root mean square error {error:.4}, spread of the logits {spread:.4}");
            assert!(
                error <= share * spread + 0.02,
                "{what} is off by {error} where logits spread by {spread}"
            );
        }
    }
}

/// bf16 has 8 bits of mantissa: a relative error of 2^-9 a rounding, and every layer rounds some.
#[test]
fn bf16_stays_within_what_bf16_allows() {
    check_rounded(PrecisionChoice::Bf16, 0.1);
}

/// int8 rounds a row to 255 steps of its largest value, in every dense layer.
#[test]
fn int8_stays_within_what_int8_allows() {
    check_rounded(PrecisionChoice::Int8, 0.25);
}

#[test]
fn int8_that_cannot_be_had_is_refused_by_name() {
    let model = Model::open("bert-small", &reference("bert-small"));
    let refused = model.try_engine(PrecisionChoice::Int8, KernelsChoice::Libtorch, 1);
    let Err(error) = refused else {
        panic!("libtorch's operators do not serve it")
    };
    assert!(
        error.to_string().contains("int8") && error.to_string().contains("libtorch"),
        "{error}"
    );
}

/// Our own kernels promise more than the contract: the very same bits, alone or in company, on one thread or several.
#[test]
fn own_kernels_give_the_same_bits_in_any_company() {
    for model in small_models().into_iter().chain([minilm()]) {
        // Fewer of the large model: each pair is computed by every kernel in every precision.
        let each = if model.checkpoint.spec.hidden > 100 { 2 } else { 8 };
        let cases = model.reference.cases.iter();
        let pairs: Vec<PairTokens> = cases
            .flat_map(|case| model.pairs(case).into_iter().take(each))
            .collect();
        for &precision in PrecisionChoice::ALL {
            for mut engine in model.engines(precision) {
                let kernels = engine.info().kernels;
                if kernels == "libtorch" {
                    continue;
                }
                let what = format!("{} in {precision} by {kernels}", model.name);
                let together = engine.score(&borrowed(&pairs)).expect("logits");
                for (pair, expected) in pairs.iter().zip(&together) {
                    let alone = engine.score(&[pair]).expect("a logit");
                    assert_eq!(alone, [*expected], "{what}: {} tokens alone", pair.ids.len());
                }
                let chosen = kernels.parse().expect("the name of a choice");
                let mut three = model.try_engine(precision, chosen, 3).expect("an engine");
                assert_eq!(
                    three.score(&borrowed(&pairs)).expect("logits"),
                    together,
                    "{what}: three threads"
                );
                // Short ones are shared out by columns there, two at a time too.
                for (two, expected) in pairs.chunks(2).zip(together.chunks(2)) {
                    let logits = three.score(&borrowed(two)).expect("logits");
                    assert_eq!(logits, expected, "{what}: two on three threads");
                }
            }
        }
    }
}

#[test]
fn a_pair_scores_the_same_alone_and_in_any_company() {
    for model in small_models().into_iter().chain([minilm()]) {
        let mut engine = model.engine(PrecisionChoice::Fp32);
        // All pairs of all cases but the very large ones in one batch: every length beside every other.
        let pairs: Vec<PairTokens> = model
            .reference
            .cases
            .iter()
            .flat_map(|case| model.pairs(case).into_iter().take(12))
            .collect();
        let together = engine.score(&borrowed(&pairs)).expect("logits");
        let mut reversed = borrowed(&pairs);
        reversed.reverse();
        let mut backwards = engine.score(&reversed).expect("logits");
        backwards.reverse();
        assert_close(
            &format!("{} reversed", model.name),
            &backwards,
            &together,
            BATCH_TOLERANCE,
        );
        let mut alone_by_ids: HashMap<&[u32], f32> = HashMap::new();
        let alone: Vec<f32> = pairs
            .iter()
            .map(|pair| {
                *alone_by_ids
                    .entry(&pair.ids)
                    .or_insert_with(|| engine.score(&[pair]).expect("a logit")[0])
            })
            .collect();
        assert_close(&format!("{} alone", model.name), &alone, &together, BATCH_TOLERANCE);
    }
}

#[test]
fn the_same_batch_gives_the_same_bits() {
    let model = minilm();
    let mut engine = model.engine(PrecisionChoice::Fp32);
    let pairs = model.pairs(&model.reference.cases[0]);
    let first = engine.score(&borrowed(&pairs)).expect("logits");
    for _ in 0..20 {
        assert_eq!(engine.score(&borrowed(&pairs)).expect("logits"), first);
    }
}

#[test]
fn a_cuda_device_that_is_not_there_is_a_plain_error() {
    let model = Model::open("bert-small", &reference("bert-small"));
    let settings = EngineSettings {
        device: DeviceChoice::Cuda(0),
        cuda_library: "libno_such_cuda.so".to_owned(),
        ..EngineSettings::default()
    };
    let Err(error) = ModelEngine::load(&model.checkpoint, &settings) else {
        panic!("there is no such library")
    };
    assert!(
        error.to_string().contains("cuda:0") && error.to_string().contains("libno_such_cuda.so"),
        "{error}"
    );
}
