//! `nats-rerank query`: a small caller. One question, documents from a file or standard input, the ranking as a table,
//! as JSON, or as ids.
//!
//! It does what every caller should: without an answer it goes on with the order that it was given, and says so.

mod input;
mod render;

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::client::{Answer, CallError, Caller};
use crate::config::Config;
use crate::nats::{ConnectError, ConnectErrorKind};
use crate::protocol::{RefusalKind, Request};

use super::{CliError, Global};
use render::{Format, Look, Outcome};

/// What `query` reads from the command line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The question that the documents are ranked by
    query: String,

    /// File with one document a line; `-`, or without it: standard input. Blank lines are left out
    #[arg(long, value_name = "FILE")]
    documents: Option<PathBuf>,

    /// Each line is JSON: a string, or an object {"text": "...", "id": ...}
    #[arg(long)]
    jsonl: bool,

    /// Show only the best N
    #[arg(long, value_name = "N")]
    top_k: Option<NonZeroUsize>,

    /// How long to wait for the answer, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    timeout_ms: u64,

    /// Show the model's logits in place of its activation's values
    #[arg(long)]
    raw_scores: bool,

    /// The model that has to answer; any, unless given
    #[arg(long, value_name = "ID")]
    model: Option<String>,

    /// How to show the answer
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// Speak MessagePack in place of JSON with the worker
    #[arg(long)]
    msgpack: bool,
}

/// Asks once and shows the answer.
///
/// # Errors
/// [`CliError::Usage`] for arguments, documents or settings that will not do; [`CliError::Failed`] when there is no
/// ranking, after the documents have been shown in the order they came in.
pub fn run(args: Args, global: &Global) -> Result<(), CliError> {
    if args.query.trim().is_empty() {
        return Err(CliError::Usage(
            "QUERY: expected a question, found an empty or blank text".to_owned(),
        ));
    }
    let config = global.load()?;
    let documents = input::documents(args.documents.as_deref(), args.jsonl).map_err(CliError::Usage)?;
    let request = Request {
        top_k: args.top_k.map(NonZeroUsize::get),
        raw_scores: args.raw_scores,
        model: args.model.clone(),
        ..Request::new(args.query.as_str(), documents)
    };
    let asked = runtime()?.block_on(ask(&request, &args, &config));
    let outcome = match &asked {
        Ok(answer) => Outcome::Ranked(answer),
        Err(failure) => Outcome::Unranked(failure),
    };
    super::print(&render::page(args.format, &request, &outcome, &look()))?;
    match asked {
        Ok(_) => Ok(()),
        Err(failure) => {
            let message = format!(
                "not reranked: {}. {}. The documents above are in the order they came in",
                failure.what, failure.advice
            );
            Err(if failure.kind == BAD_SETTING {
                CliError::Usage(message)
            } else {
                CliError::Failed(message)
            })
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the async runtime: {error}")))
}

async fn ask(request: &Request, args: &Args, config: &Config) -> Result<Answer, Failure> {
    let caller = Caller::connect(&config.nats.connection())
        .await
        .map_err(Failure::from)?;
    let options = super::call_options(config, args.msgpack, args.timeout_ms);
    caller.rerank(request, &options).await.map_err(Failure::from)
}

/// Colour and width as standard output has them.
fn look() -> Look {
    let terminal = std::io::stdout().is_terminal();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    Look {
        color: terminal && !no_color,
        width: comfy_table::Table::new()
            .width()
            .or(columns)
            .unwrap_or(render::WIDTH_UNKNOWN),
    }
}

/// The kind of a failure that lies in the settings, not in the world.
const BAD_SETTING: &str = "bad_setting";

/// Why there is no ranking, and what a person can do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    /// A name for programs.
    kind: &'static str,
    what: String,
    advice: &'static str,
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let (kind, advice) = match error.kind() {
            ConnectErrorKind::Settings => (
                BAD_SETTING,
                "`nats-rerank config print` shows where each setting comes from",
            ),
            _ => ("not_connected", "`--set nats.url=nats://HOST:PORT` asks another server"),
        };
        Self {
            kind,
            what: error.to_string(),
            advice,
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let (kind, advice) = match &error {
            CallError::TimedOut { .. } => (
                "timed_out",
                "The workers may be busy, or still starting: wait longer with --timeout-ms",
            ),
            CallError::NoResponders { .. } => (
                "no_responders",
                "Start one with `nats-rerank worker`, with the same nats.url and nats.subject",
            ),
            CallError::Refused { refusal, .. } => (refusal.kind.name(), advice_on(refusal.kind)),
            CallError::Disconnected => ("disconnected", "Check that nats-server is still running"),
            CallError::TooLarge { .. } => (
                "request_too_large",
                "Send fewer or shorter documents, or raise max_payload in the server's configuration",
            ),
            CallError::InvalidSubject { .. } => ("invalid_subject", "Check nats.subject"),
            CallError::BadReply(_) => (
                "bad_reply",
                "Check that only nats-rerank workers of this version listen on nats.subject",
            ),
        };
        Self {
            kind,
            what: error.to_string(),
            advice,
        }
    }
}

fn advice_on(refusal: RefusalKind) -> &'static str {
    match refusal {
        RefusalKind::InvalidRequest => "The same request will be refused again: change it as the message says",
        RefusalKind::UnknownModel => "Leave --model out, or name the model that the workers serve",
        RefusalKind::TooLarge => "Send fewer or shorter documents, or raise the worker's limits",
        RefusalKind::Overloaded => "Try again shortly, wait longer with --timeout-ms, or start more workers",
        RefusalKind::Unavailable => "The worker is switched off, stopping, or has no model: see its log",
        RefusalKind::DeadlineExceeded => "Wait longer with --timeout-ms",
        RefusalKind::Internal => "See the worker's log",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::Refusal;

    #[test]
    fn every_refusal_keeps_its_kind_and_message() {
        for kind in RefusalKind::ALL {
            let refusal = Refusal::new(kind, "told by the worker");
            let failure = Failure::from(CallError::Refused { refusal, worker: None });
            assert_eq!(failure.kind, kind.name());
            assert!(failure.what.contains("told by the worker") && failure.what.contains(&kind.code().to_string()));
        }
    }

    #[test]
    fn nobody_there_and_too_late_are_told_apart() {
        let nobody = Failure::from(CallError::NoResponders { subject: "a.b".into() });
        assert!(nobody.kind == "no_responders" && nobody.what.contains("`a.b`"));
        let late = Failure::from(CallError::TimedOut {
            timeout: Duration::from_millis(250),
        });
        assert!(late.kind == "timed_out" && late.what.contains("250 ms"));
    }

    #[test]
    fn arguments_are_held_to_their_ranges() {
        use clap::Parser as _;
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let parse = |line: &str| Line::try_parse_from(line.split(' '));
        let args = parse("x question --top-k 3 --format ids --msgpack")
            .expect("valid")
            .args;
        assert_eq!(
            (args.top_k.map(NonZeroUsize::get), args.timeout_ms, args.msgpack),
            (Some(3), 1000, true)
        );
        for wrong in [
            "x",
            "x q --top-k 0",
            "x q --timeout-ms 0",
            "x q --timeout-ms -5",
            "x q --format xml",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
