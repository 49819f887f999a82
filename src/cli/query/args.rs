//! What `query` reads from the command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::cli::{CallerFlags, CliError};
use crate::config::Config;
use crate::{cli, client::CallOptions};

/// The longest wait for an answer that can be asked for.
const TIMEOUT_MS_MAX: u64 = 86_400_000;
/// The wait for an answer without a flag.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);

/// Flags of `nats-rerank query`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The question that the documents are ranked by
    // Not `conflicts_with`: clap would then no longer ask for --queries where another flag requires it.
    #[arg(required_unless_present = "queries")]
    pub(super) query: Option<String>,

    #[command(flatten)]
    pub(super) documents: DocumentArgs,

    #[command(flatten)]
    pub(super) call: CallArgs,

    #[command(flatten)]
    pub(super) show: ShowArgs,

    #[command(flatten)]
    pub(super) bulk: BulkArgs,

    #[command(flatten)]
    pub(super) settings: CallerFlags,
}

/// Where the documents come from, and how they are written.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Documents")]
pub(super) struct DocumentArgs {
    /// Read the documents from a file, one a line; `-`, or without it: from standard input
    #[arg(long, value_name = "FILE")]
    pub documents: Option<PathBuf>,

    /// How they are written. Without it the file's ending tells, else its first line
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub documents_format: Option<DocumentsFormat>,

    /// The same as --documents-format jsonl
    #[arg(long, conflicts_with = "documents_format")]
    pub jsonl: bool,

    /// Each file is a document, with its name as id. May be repeated
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "documents")]
    pub document: Vec<PathBuf>,

    /// Each file in a folder is a document, in the order of their names; hidden files and folders are left out
    #[arg(long, value_name = "DIR", conflicts_with_all = ["documents", "document"])]
    pub documents_from: Option<PathBuf>,

    /// The field of a JSON object that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub text_field: String,

    /// The field of a JSON object that holds the id
    #[arg(long, value_name = "NAME", default_value = "id")]
    pub id_field: String,
}

/// How documents are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum DocumentsFormat {
    /// A line is a document; blank lines are left out
    Lines,
    /// A line is JSON: a string, or an object {"text": "...", "id": ...}
    Jsonl,
    /// A line is the name of a file, and the file is a document
    Files,
}

impl DocumentArgs {
    /// Is there a source of documents, other than standard input for want of one?
    pub(super) fn given(&self) -> bool {
        self.documents.is_some() || !self.document.is_empty() || self.documents_from.is_some()
    }

    /// Do the documents come from standard input?
    pub(super) fn on_stdin(&self) -> bool {
        match &self.documents {
            Some(file) => file.as_os_str() == "-",
            None => !self.given(),
        }
    }

    /// The format that was asked for, if one was.
    pub(super) fn format(&self) -> Option<DocumentsFormat> {
        if self.jsonl {
            Some(DocumentsFormat::Jsonl)
        } else {
            self.documents_format
        }
    }
}

/// How a request is sent.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Request")]
pub(super) struct CallArgs {
    /// Show only the best N
    #[arg(long, value_name = "N")]
    pub top_k: Option<NonZeroUsize>,

    /// How long to wait for an answer, e.g. 250ms, 2s, 1m [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    pub timeout: Option<Duration>,

    /// The same in milliseconds
    #[arg(long, value_name = "N", conflicts_with = "timeout", value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_MS_MAX))]
    pub timeout_ms: Option<u64>,

    /// Show the model's logits in place of its activation's values
    #[arg(long)]
    pub raw_scores: bool,

    /// The model that has to answer; any, unless given
    #[arg(long, value_name = "ID")]
    pub model: Option<String>,

    /// Speak MessagePack in place of JSON with the worker
    #[arg(long)]
    pub msgpack: bool,

    /// Do not fall back: without a ranking, print no documents; with --queries, stop there
    #[arg(long)]
    pub fail: bool,
}

impl CallArgs {
    /// How requests are sent under these flags and settings.
    pub(super) fn options(&self, config: &Config) -> CallOptions {
        let timeout = self
            .timeout
            .or(self.timeout_ms.map(Duration::from_millis))
            .unwrap_or(TIMEOUT_DEFAULT);
        // `timeout` is whole milliseconds, a day of them at most.
        cli::call_options(config, self.msgpack, timeout.as_millis() as u64)
    }
}

/// How an answer is shown.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(super) struct ShowArgs {
    /// How to show the answer [default: table; with --queries: jsonl]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
}

/// How to show the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people: ranks now and before, how far each moved, scores, texts cut to the window's width
    Table,
    /// One JSON object on one line
    Json,
    /// A JSON object a document, one a line
    Jsonl,
    /// The documents' ids, or places from 0, best first, one a line
    Ids,
    /// The documents themselves, best first
    Text,
}

/// Many queries in one run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Queries in bulk")]
pub(super) struct BulkArgs {
    /// Read queries from a file, one a line; `-`: from standard input
    ///
    /// A line is a request as on the wire, with an id if wanted: {"id": ..., "query": "...", "documents": [...]}. With
    /// documents for all (--documents and its like) a line may be plain text. Results are JSON lines, in the order of
    /// the queries.
    #[arg(long, value_name = "FILE")]
    pub queries: Option<PathBuf>,

    /// How the queries are written. Without it the file's ending tells, else its first line
    #[arg(long, value_name = "FORMAT", value_enum, requires = "queries")]
    pub queries_format: Option<QueriesFormat>,

    /// Write the results to a file, which must be new or empty
    #[arg(long, value_name = "FILE", requires = "queries")]
    pub output: Option<PathBuf>,

    /// Go on with the --output of an earlier run: leave out queries whose results are in it
    ///
    /// A query with an id is found by its id, which should be its own; one without by the number of its line.
    #[arg(long, requires = "output")]
    pub resume: bool,

    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 4, requires = "queries",
          value_parser = clap::value_parser!(u16).range(1..=i64::from(CONCURRENCY_MAX)))]
    pub concurrency: u16,

    /// Stop at a line that is no query. Without it the line is reported in the results, and counted
    #[arg(long, requires = "queries")]
    pub strict: bool,

    /// Put each document's text into the results
    #[arg(long, requires = "queries")]
    pub return_documents: bool,
}

/// The most requests that can be under way at once.
const CONCURRENCY_MAX: u16 = 256;

/// How queries are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum QueriesFormat {
    /// A line is a query; blank lines are left out
    Lines,
    /// A line is a JSON object with "query"
    Jsonl,
}

impl Args {
    /// What clap cannot say by itself.
    ///
    /// # Errors
    /// [`CliError::Usage`] for flags that do not go together.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let usage = |problem: &str| Err(CliError::Usage(problem.to_owned()));
        let documents = &self.documents;
        if self.query.as_ref().is_some_and(|query| query.trim().is_empty()) {
            return usage("QUERY: expected a question, found an empty or blank text");
        }
        if documents.documents.is_none() && documents.given() && documents.format().is_some() {
            return usage("--document and --documents-from read each file as one text: they take no format");
        }
        let Some(queries) = &self.bulk.queries else {
            return Ok(());
        };
        if self.query.is_some() {
            return usage("QUERY and --queries: expected one of them, found both");
        }
        if !matches!(self.show.format, None | Some(Format::Jsonl)) {
            return usage("--format: results of --queries are JSON lines (jsonl)");
        }
        if queries.as_os_str() == "-" && documents.given() && documents.on_stdin() {
            return usage("--queries and --documents cannot both be read from standard input");
        }
        if !documents.given() && documents.format().is_some() {
            return usage("--queries: a format of documents is given, but no --documents");
        }
        if !documents.given() && self.bulk.queries_format == Some(QueriesFormat::Lines) {
            return usage("--queries-format lines: plain queries need documents, e.g. --documents FILE");
        }
        Ok(())
    }
}

/// Reads a wait such as `250ms`, `2s`, `1.5s` or `1m`.
fn timeout(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number and a unit, e.g. 250ms, 2s or 1m".to_owned();
    let text = text.trim();
    let digits = text
        .find(|character: char| !(character.is_ascii_digit() || character == '.'))
        .ok_or_else(expected)?;
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| expected())?;
    let ms = number
        * match unit.trim_start() {
            "ms" => 1.0,
            "s" => 1e3,
            "m" | "min" => 60e3,
            _ => return Err(expected()),
        };
    let ms = ms.round();
    if (1.0..=TIMEOUT_MS_MAX as f64).contains(&ms) {
        Ok(Duration::from_millis(ms as u64))
    } else {
        Err("expected 1ms to 24 hours".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.args)
    }

    fn checked(line: &str) -> Result<Args, String> {
        let args = parse(line).map_err(|error| error.to_string())?;
        args.check().map_err(|error| error.to_string())?;
        Ok(args)
    }

    #[test]
    fn a_wait_is_a_number_with_its_unit() {
        for (text, ms) in [
            ("250ms", 250),
            ("2s", 2_000),
            ("1.5s", 1_500),
            ("0.5 s", 500),
            ("2m", 120_000),
            ("1440min", 86_400_000),
        ] {
            assert_eq!(timeout(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in [
            "", "5", "s", "ms", "-1s", "1h", "1.2.3s", "0ms", "0.1ms", "1441m", "infs",
        ] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_flags_of_the_first_version_still_count() {
        let args = checked("x question --documents f --jsonl --timeout-ms 5000 --top-k 3 --format ids --msgpack")
            .expect("valid");
        assert_eq!(args.documents.format(), Some(DocumentsFormat::Jsonl));
        assert_eq!(args.call.timeout_ms, Some(5000));
        assert_eq!(args.call.top_k.map(NonZeroUsize::get), Some(3));
        assert!(args.show.format == Some(Format::Ids) && args.call.msgpack);
        let plain = checked("x question").expect("valid");
        assert!(plain.documents.on_stdin() && !plain.documents.given());
        assert_eq!(plain.call.options(&Config::default()).timeout, TIMEOUT_DEFAULT);
    }

    #[test]
    fn arguments_are_held_to_their_ranges() {
        for wrong in [
            "x",
            "x q --top-k 0",
            "x q --timeout-ms 0",
            "x q --timeout-ms -5",
            "x q --timeout 5",
            "x q --timeout 1s --timeout-ms 5",
            "x q --format xml",
            "x q --documents f --document g",
            "x q --resume",
            "x q --output f",
            "x --queries f --resume",
            "x --queries f --concurrency 0",
            "x --queries f --concurrency 257",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn flags_that_do_not_go_together_are_told() {
        for (line, names) in [
            ("x q --document f --jsonl", "no format"),
            ("x q --documents-from f --documents-format lines", "no format"),
            ("x q --queries f", "found both"),
            ("x --queries f --format table", "--format"),
            ("x --queries - --documents -", "standard input"),
            ("x --queries f --queries-format lines", "--documents FILE"),
            ("x --queries f --jsonl", "no --documents"),
        ] {
            let told = checked(line).expect_err(line);
            assert!(told.contains(names), "{line}: {told}");
        }
        assert!(checked("x --queries - --documents f --format jsonl --queries-format lines").is_ok());
    }
}
