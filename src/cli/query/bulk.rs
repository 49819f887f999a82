//! Many queries in one run: read as they come, a few under way at once, results in the queries' order.
//!
//! Everything is bounded: lines read ahead, requests under way, results that wait for an earlier one, and the bytes of
//! all of these together.

mod output;
mod source;
mod tally;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinError;

use crate::cli::signals::Signals;
use crate::cli::{CliError, output_error, say};
use crate::client::{CallOptions, Caller};
use crate::config::Config;
use crate::protocol::Document;

use super::args::Args;
use super::failure::{BAD_SETTING, Failure};
use super::input;
use super::render::{Outcome, json};
use output::Output;
use source::{Line, Query, Recipe, Source, What};
use tally::{Ended, Tally};

/// Results that may wait for an earlier one, for each request under way.
const WAITING_EACH: usize = 16;
/// Bytes of all lines from their reading to the writing of their results.
const BYTES_MAX: usize = 256 << 20;
/// [`BYTES_MAX`] is counted in these.
const BLOCK_BYTES: usize = 1 << 10;
/// How long a write may take that is under way when the run is stopped.
const LAST_WRITE_MAX: Duration = Duration::from_secs(2);
/// The pause between two pictures of the progress bar.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// Asks every query in the file and writes the results. The exit code: 0 if all were scored, 1 if not, 128 and the
/// signal's number if a signal stopped the run.
///
/// # Errors
/// Queries or documents that cannot be read, no connection, an output that cannot be written; with `--strict` a line
/// that is no query, with `--fail` a query without a ranking.
pub(super) fn run(args: &Args, queries: &Path, config: &Config) -> Result<u8, CliError> {
    let documents = match args.documents.given() {
        true => Some(input::documents(&args.documents).map_err(CliError::Usage)?),
        false => None,
    };
    let (output, done) = output::open(args.bulk.output.as_deref(), args.bulk.resume).map_err(CliError::Usage)?;
    let recipe = Recipe {
        shared: documents.is_some(),
        fields: input::fields(&args.documents),
        format: args.bulk.queries_format,
        top_k: args.call.top_k,
        raw_scores: args.call.raw_scores,
        model: args.call.model.clone(),
        done,
    };
    if queries.as_os_str() == "-" && io::stdin().is_terminal() {
        say("Reading queries, one a line; end with Ctrl-D. (--queries FILE reads a file.)");
    }
    let source = source::open(queries, recipe)
        .map_err(|error| CliError::Usage(format!("--queries {}: {error}", queries.display())))?;
    let runtime = super::runtime()?;
    let ended = runtime.block_on(async {
        let caller = connect(config).await?;
        let concurrency = usize::from(args.bulk.concurrency);
        let asking = Arc::new(Asking {
            caller,
            options: args.call.options(config),
            documents: documents.unwrap_or_default(),
            turns: Semaphore::new(concurrency),
            texts: args.bulk.return_documents,
            fail: args.call.fail,
            strict: args.bulk.strict,
        });
        let bar = bar(&source, &output);
        let signals =
            Signals::new().map_err(|error| CliError::Failed(format!("cannot listen for signals: {error}")))?;
        let results = results(source.lines, asking, concurrency * WAITING_EACH);
        let (stop, tally) = write(results, output, signals, &bar).await;
        bar.finish_and_clear();
        conclude(stop, &tally, args)
    });
    // What is still under way has nobody to wait for it, and a write that hangs must not hold us.
    runtime.shutdown_background();
    ended
}

async fn connect(config: &Config) -> Result<Caller, CliError> {
    Caller::connect(&config.nats.connection()).await.map_err(|error| {
        let failure = Failure::from(error);
        let message = format!("nothing was asked: {}. {}", failure.what, failure.advice);
        if failure.kind == BAD_SETTING {
            CliError::Usage(message)
        } else {
            CliError::Failed(message)
        }
    })
}

/// What all queries share.
struct Asking {
    caller: Caller,
    options: CallOptions,
    /// For queries that bring none of their own.
    documents: Vec<Document>,
    /// One for each request that may be under way.
    turns: Semaphore,
    texts: bool,
    fail: bool,
    strict: bool,
}

/// What came of a line.
struct Item {
    /// What is to be written, with its line break.
    text: Option<String>,
    ended: Ended,
    end_bytes: u64,
    /// Its share of [`BYTES_MAX`], until it is written.
    _room: Option<OwnedSemaphorePermit>,
}

/// Why a run ended before its time.
enum Stop {
    Signal(u8),
    Error(CliError),
}

/// Asks as the lines come. Results come in the order of the lines.
fn results(
    lines: mpsc::Receiver<io::Result<Line>>,
    asking: Arc<Asking>,
    waiting_max: usize,
) -> impl Stream<Item = Result<Result<Item, Stop>, JoinError>> {
    // `buffered` polls handles of tasks that run by themselves, so that a slow writer stops nobody's clock.
    let room = Arc::new(Semaphore::new(BYTES_MAX / BLOCK_BYTES));
    futures_util::stream::unfold(lines, |mut lines| async move { Some((lines.recv().await?, lines)) })
        .then(move |line| {
            let room = room.clone();
            async move {
                // A line has 16 MiB at most; it is never more than there is in all.
                let bytes = line.as_ref().map_or(0, |line| line.bytes);
                let blocks = (bytes / BLOCK_BYTES + 1).min(BYTES_MAX / BLOCK_BYTES) as u32;
                // The semaphore is never closed.
                (line, room.acquire_many_owned(blocks).await.ok())
            }
        })
        .map(move |(line, room)| {
            let asking = asking.clone();
            tokio::spawn(async move {
                match line {
                    Ok(line) => asking.answer(line, room).await,
                    Err(error) => Err(Stop::Error(CliError::Failed(format!("--queries: {error}")))),
                }
            })
        })
        .buffered(waiting_max)
}

impl Asking {
    async fn answer(&self, line: Line, room: Option<OwnedSemaphorePermit>) -> Result<Item, Stop> {
        let number = line.number;
        let (result, ended) = match line.what {
            What::Done => (None, Ended::Done),
            What::Broken(broken) if self.strict => {
                let message = format!("--queries: line {number}: {}", broken.message);
                return Err(Stop::Error(CliError::Usage(message)));
            }
            What::Broken(broken) => {
                let error = json!({"kind": "invalid_line", "message": broken.message});
                let mut result = json!({"line": number, "error": error});
                if let Some(id) = broken.id {
                    result["id"] = json!(id);
                }
                (Some(result), Ended::Broken)
            }
            What::Query(query) => {
                let (result, ended) = self.ask(number, *query).await?;
                (Some(result), ended)
            }
        };
        Ok(Item {
            text: result.map(|result| format!("{result}\n")),
            ended,
            end_bytes: line.end_bytes,
            _room: room,
        })
    }

    async fn ask(&self, number: u64, query: Query) -> Result<(Value, Ended), Stop> {
        let Query {
            id,
            mut request,
            shared,
        } = query;
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await.ok();
        if shared {
            request.documents.clone_from(&self.documents);
        }
        let mut options = self.options.clone();
        if let Some(budget) = request.budget() {
            options.timeout = budget;
        }
        let asked = self.caller.rerank(&request, &options).await.map_err(Failure::from);
        let (outcome, ended) = match &asked {
            Ok(answer) => (Outcome::Ranked(answer), Ended::Scored(answer.elapsed)),
            Err(failure) if self.fail => {
                let message = format!("line {number}: not reranked: {}. {}", failure.what, failure.advice);
                return Err(Stop::Error(CliError::Failed(message)));
            }
            Err(failure) => (Outcome::Unranked(failure), Ended::Kept(failure.kind)),
        };
        let mut result = json::answer(&request, &outcome, self.texts);
        result.insert("line".to_owned(), json!(number));
        if let Some(id) = id {
            result.insert("id".to_owned(), json!(id));
        }
        Ok((Value::Object(result), ended))
    }
}

/// Writes results as they come, until there are no more or something stops the run. What was written is whole.
async fn write(
    results: impl Stream<Item = Result<Result<Item, Stop>, JoinError>>,
    mut output: Output,
    mut signals: Signals,
    bar: &ProgressBar,
) -> (Option<Stop>, Tally) {
    let mut results = std::pin::pin!(results);
    let mut tally = Tally::new();
    let mut shown = Instant::now();
    loop {
        let result = tokio::select! {
            biased;
            code = signals.next() => return (Some(Stop::Signal(code)), tally),
            result = results.next() => result,
        };
        let item = match result {
            None => return (None, tally),
            Some(Ok(Ok(item))) => item,
            Some(Ok(Err(stop))) => return (Some(stop), tally),
            Some(Err(_)) => {
                let stop = Stop::Error(CliError::Failed("a query's task ended before its time".to_owned()));
                return (Some(stop), tally);
            }
        };
        if let Some(text) = item.text {
            // Off this thread: a pipe that nobody reads from must not keep signals and answers waiting.
            let mut writing = tokio::task::spawn_blocking(move || {
                let written = output.write(&text);
                (output, written)
            });
            let written = tokio::select! {
                biased;
                code = signals.next() => {
                    let written = tokio::time::timeout(LAST_WRITE_MAX, writing).await;
                    if matches!(written, Ok(Ok((_, Ok(()))))) {
                        tally.add(item.ended);
                    }
                    return (Some(Stop::Signal(code)), tally);
                }
                written = &mut writing => written,
            };
            let error = match written {
                Ok((back, written)) => {
                    output = back;
                    written.err()
                }
                Err(error) => return (Some(Stop::Error(CliError::Failed(error.to_string()))), tally),
            };
            if let Some(error) = error {
                let stop = match &output {
                    Output::Stdout => output_error(error),
                    Output::File(_) => CliError::Failed(format!("cannot write to --output: {error}")),
                };
                return (Some(Stop::Error(stop)), tally);
            }
        }
        tally.add(item.ended);
        bar.set_position(item.end_bytes);
        if shown.elapsed() >= SHOW_EVERY {
            shown = Instant::now();
            bar.set_message(tally.line());
        }
    }
}

/// A bar on a terminal, unless the results go there.
fn bar(source: &Source, output: &Output) -> ProgressBar {
    let results_on_terminal = matches!(output, Output::Stdout) && io::stdout().is_terminal();
    if results_on_terminal || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(source.bytes, ProgressDrawTarget::stderr());
    // The templates are constants and covered by a test; should one ever be wrong, the plain bar does.
    if let Ok(style) = ProgressStyle::with_template(template(source.bytes.is_some())) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(SHOW_EVERY);
    bar
}

fn template(length_is_known: bool) -> &'static str {
    if length_is_known {
        "[{bar:30}] {percent:>3}%  {msg}  {eta} left"
    } else {
        "{spinner} {msg}  {elapsed}"
    }
}

/// Tells what the run came to.
fn conclude(stop: Option<Stop>, tally: &Tally, args: &Args) -> Result<u8, CliError> {
    let resumable = args.bulk.output.is_some();
    let (ended, hint) = match stop {
        None => (Ok(u8::from(tally.failed())), false),
        Some(Stop::Signal(code)) => (Ok(code), true),
        // Whoever read has seen enough; the rest is not for them.
        Some(Stop::Error(CliError::OutputClosed)) => return Err(CliError::OutputClosed),
        Some(Stop::Error(error)) => (Err(error), true),
    };
    say(&tally.summary());
    if hint {
        say(match resumable {
            true => "stopped; every result written is whole, and --resume goes on from here",
            false => "stopped; every result written is whole",
        });
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bars_templates_are_valid() {
        for known in [true, false] {
            assert!(ProgressStyle::with_template(template(known)).is_ok());
        }
    }

    #[test]
    fn the_longest_line_fits_what_lines_may_take_together() {
        const { assert!(source::LINE_BYTES_MAX / BLOCK_BYTES < BYTES_MAX / BLOCK_BYTES) };
        assert!(u32::try_from(BYTES_MAX / BLOCK_BYTES).is_ok());
    }
}
