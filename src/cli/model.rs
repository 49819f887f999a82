//! `model info`: what a model is and whether it can be served, from its files alone.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::worker::{engine_settings, model_source};
use super::{CliError, Global, print};
use crate::model::engine::{EngineSettings, choose_device, choose_precision};
use crate::model::hub::progress::Progress;
use crate::model::{Checkpoint, check_weights, resolve};
use crate::model::{ModelError, PairTokenizer, Weights};
use crate::telemetry;

/// What `model` reads from the command line.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show architecture, size, limits and score activation; downloads a hub model that is not in the cache yet
    Info {
        /// `builtin`, a folder, or a hub id; the configured model (model.id) if left out
        #[arg(value_name = "ID|FOLDER")]
        id: Option<String>,
        /// Branch, tag or commit of a hub model; else model.revision
        #[arg(long, value_name = "REVISION")]
        revision: Option<String>,
        /// How to write it
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Names and values, for people
    Table,
    /// One JSON object
    Json,
}

/// Runs the subcommand.
///
/// # Errors
/// [`CliError::Usage`] for a bad setting or an id that cannot be one, [`CliError::Failed`] for a model that cannot be found,
/// downloaded or served.
pub fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let Action::Info { id, revision, format } = args.action;
    let config = global.load()?;
    telemetry::logs::init(&config.log).map_err(|error| CliError::Usage(error.to_string()))?;
    let mut source = model_source(&config.model, id.as_deref().unwrap_or(&config.model.id));
    if let Some(revision) = revision {
        source.revision = revision;
    }
    let checkpoint = resolve(&source, &Progress::auto()).map_err(cli_error)?;
    check_weights(&checkpoint).map_err(cli_error)?;
    let mut info = describe(&checkpoint).map_err(cli_error)?;
    place(&mut info, &engine_settings(&config.model));
    print(&match format {
        Format::Table => table(&info),
        Format::Json => format!("{info:#}\n"),
    })
}

fn cli_error(error: ModelError) -> CliError {
    match error {
        ModelError::InvalidId { .. } => CliError::Usage(error.to_string()),
        _ => CliError::Failed(error.to_string()),
    }
}

/// Everything that is shown, as JSON. Opens the tokenizer (so that one that does not fit is found here, not at a worker's
/// start) and the headers of the weights.
fn describe(checkpoint: &Checkpoint) -> Result<Value, ModelError> {
    let spec = &checkpoint.spec;
    let weights = Weights::open(checkpoint)?;
    let tokenizer = PairTokenizer::open(checkpoint)?;
    let dtypes: Vec<&str> = weights.dtypes().into_iter().map(|(dtype, _)| dtype.name()).collect();
    Ok(json!({
        "id": checkpoint.id,
        "revision": checkpoint.revision,
        "folder": absolute(&checkpoint.dir),
        "architecture": spec.architecture.name(),
        "layers": spec.layers,
        "hidden": spec.hidden,
        "heads": spec.heads,
        "intermediate": spec.intermediate,
        "hidden_activation": spec.hidden_activation.name(),
        "vocabulary": spec.vocab_size,
        "parameters": weights.parameters(),
        "weights_bytes": weights.size_bytes(),
        "weights_files": checkpoint.weights.len(),
        "weights_dtypes": dtypes,
        "max_length": spec.length_max,
        "max_length_from": spec.origins.length_max,
        "score_activation": spec.score_activation.name(),
        "score_activation_from": spec.origins.score_activation,
        "query_prompt": spec.query_prompt.as_ref().map(|prompt| &prompt.text),
        "query_prompt_name": spec.query_prompt.as_ref().map(|prompt| &prompt.name),
        "pair": tokenizer.template(),
        "token_types": tokenizer.token_types().0,
        "token_types_from": tokenizer.token_types().1,
        "tokenizer": checkpoint.tokenizer_choice.as_str(),
        "tokenizer_differences": tokenizer.class_differences(),
    }))
}

/// Where a worker with these settings would put the model on this machine, and in which precision. A device that is not
/// here is no reason not to look at a model.
fn place(info: &mut Value, settings: &EngineSettings) {
    match choose_device(settings.device, &settings.cuda_library) {
        Ok(device) => {
            info["device"] = json!(device.to_string());
            info["precision"] = json!(choose_precision(settings.precision, device, settings.kernels).to_string());
        }
        Err(error) => info["device_error"] = json!(error.to_string()),
    }
}

fn absolute(dir: &Path) -> String {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    dir.display().to_string()
}

fn table(info: &Value) -> String {
    let text = |field: &str| match &info[field] {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let number = |field: &str| info[field].as_u64().unwrap_or_default();
    let mut rows = vec![("model", text("id"))];
    if !info["revision"].is_null() {
        rows.push(("revision", text("revision")));
    }
    let dtypes: Vec<&str> = info["weights_dtypes"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let files = match number("weights_files") {
        1 => "1 file".to_owned(),
        files => format!("{files} files"),
    };
    rows.extend([
        ("folder", text("folder")),
        ("architecture", text("architecture")),
        (
            "shape",
            format!(
                "{} layers, {} hidden, {} heads, {} intermediate, {}",
                number("layers"),
                number("hidden"),
                number("heads"),
                number("intermediate"),
                text("hidden_activation")
            ),
        ),
        ("vocabulary", grouped(number("vocabulary"))),
        ("parameters", grouped(number("parameters"))),
        (
            "weights",
            format!("{} in {files}, {}", size(number("weights_bytes")), dtypes.join(" and ")),
        ),
        (
            "max length",
            format!(
                "{} tokens a pair (from {})",
                number("max_length"),
                text("max_length_from")
            ),
        ),
        (
            "score",
            format!(
                "{} of the logit (from {})",
                text("score_activation"),
                text("score_activation_from")
            ),
        ),
        ("pair", text("pair")),
        (
            "token types",
            format!(
                "{} ({})",
                if info["token_types"] == true {
                    "0 and 1, as in the pair"
                } else {
                    "none"
                },
                text("token_types_from")
            ),
        ),
    ]);
    if let Some(prompt) = info["query_prompt"].as_str() {
        let name = text("query_prompt_name");
        rows.push(("query prompt", format!("{prompt:?} before every query (`{name}`)")));
    }
    let differences = info["tokenizer_differences"].as_array();
    for difference in differences.into_iter().flatten().filter_map(Value::as_str) {
        rows.push((
            "tokenizer",
            format!("{difference} in transformers 5 (followed: {})", text("tokenizer")),
        ));
    }
    rows.push(match info["device_error"].as_str() {
        Some(error) => ("here", error.to_owned()),
        None => ("here", format!("{} in {}", text("device"), text("precision"))),
    });
    let mut shown = String::new();
    for (name, value) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(shown, "{name:<14}{value}");
    }
    shown
}

/// 22713217 → 22,713,217.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// Bytes in the unit that people use for files.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["bytes", "kB", "MB"] {
        if value < 1000.0 {
            return match unit {
                "bytes" => format!("{bytes} bytes"),
                unit => format!("{value:.1} {unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} GB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;
    use crate::model::fixtures;

    #[test]
    fn everything_about_a_model_is_shown() {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        fixtures::write_checkpoint(dir.path(), Architecture::XlmRoberta);
        let checkpoint = Checkpoint::open("mine", dir.path(), Some(100)).unwrap_or_else(|e| panic!("{e}"));
        let info = describe(&checkpoint).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(info["parameters"], 6);
        assert_eq!(info["weights_dtypes"], json!(["F32"]));
        assert_eq!(info["max_length"], 100);
        assert_eq!(info["pair"], "<s> query </s> </s> document </s>");
        let shown = table(&info);
        for part in [
            "XLMRobertaForSequenceClassification",
            "1 layers, 8 hidden, 2 heads",
            "100 tokens a pair (from setting: model.max_length)",
            "identity of the logit (from config.json: sbert_ce_default_activation_function)",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn what_changes_scores_is_shown() {
        let shown = |name: &str| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/reference/layout")
                .join(name);
            let checkpoint = Checkpoint::open(name, &folder, None).unwrap_or_else(|error| panic!("{error}"));
            table(&describe(&checkpoint).unwrap_or_else(|error| panic!("{error}")))
        };
        for (name, part) in [
            ("prompt", "query prompt  \"find: \" before every query (`query`)"),
            (
                "max-seq-length",
                "24 tokens a pair (from sentence_bert_config.json: max_seq_length)",
            ),
            (
                "types-generic-5",
                "token types   none (tokenizer class TokenizersBackend, which names no inputs)",
            ),
            (
                "types-generic-4",
                "0 and 1, as in the pair (tokenizer class PreTrainedTokenizerFast, which names no inputs, saved by transformers 4.57.1)",
            ),
            (
                "types-renamed-5",
                "none (tokenizer class PreTrainedTokenizerFast, which names no inputs, saved by transformers 5.24.0)",
            ),
            (
                "class-bert",
                "model.max_input_chars_per_word is 20, BertTokenizer 100 in transformers 5 (followed: file)",
            ),
        ] {
            let shown = shown(name);
            assert!(shown.contains(part), "{name}: {shown}");
        }
        assert!(!shown("no-modules").contains("query prompt"));
    }

    #[test]
    fn numbers_are_readable() {
        let shown: Vec<String> = [0, 999, 1000, 22_713_217].map(grouped).to_vec();
        assert_eq!(shown, ["0", "999", "1,000", "22,713,217"]);
        let shown: Vec<String> = [0, 999, 45_400_000, 2_271_000_000].map(size).to_vec();
        assert_eq!(shown, ["0 bytes", "999 bytes", "45.4 MB", "2.3 GB"]);
    }
}
