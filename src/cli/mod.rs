//! The command line: what every subcommand shares.
//!
//! A subcommand is a module with `Args` (what it reads) and `run` (what it does). The settings' own flags
//! (`--profile`, `--config`, `--set`) are understood at every level, before and after the subcommand, and come as
//! [`Global`].

// `println!` panics when the reader of a pipe has left (`| head`); [`print`] does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod completions;
mod config;
mod flags;
mod gateway;
mod healthcheck;
mod man;
#[cfg(feature = "worker")]
mod model;
mod query;
#[cfg(feature = "worker")]
mod rounds;
mod signals;
mod top;
#[cfg(feature = "worker")]
mod worker;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::client::CallOptions;
use crate::config::Config;
use crate::protocol::Encoding;

#[cfg(feature = "worker")]
pub use flags::WorkerFlags;
pub use flags::{CallerFlags, Global};

/// What computes in this program.
fn engine() -> String {
    #[cfg(feature = "worker")]
    return format!("libtorch {}", crate::model::engine::LIBTORCH_VERSION);
    #[cfg(not(feature = "worker"))]
    return "without libtorch (no worker)".to_owned();
}

static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{}\n{}, {}-{}, {} build",
        env!("CARGO_PKG_VERSION"),
        engine(),
        std::env::consts::ARCH,
        std::env::consts::OS,
        if cfg!(debug_assertions) { "debug" } else { "release" }
    )
});

/// A bad setting or argument (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

const EXIT_CODES: &str = "\
Exit codes:
  0         success; of the gateway also a clean stop
  1         failure, or not reranked; the reason is on standard error
  64        a bad setting or argument; every problem is on standard error
  130, 143  stopped cleanly by SIGINT or SIGTERM";

const EXAMPLES: &str = "\
Examples:
  nats-rerank worker
  nats-rerank query \"how do cats purr\" --documents candidates.txt
  nats-rerank model info builtin
  nats-rerank config print --profile minimal";

/// Reranks search candidates with a cross-encoder, as workers of one NATS queue group.
#[derive(Parser)]
#[command(
    name = "nats-rerank",
    version,
    long_version = LONG_VERSION.as_str(),
    after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve: load the model, join the queue group, answer requests until stopped.
    #[cfg(feature = "worker")]
    #[command(after_help = format!(
        "Examples:
  nats-rerank worker
  nats-rerank worker --nats-url nats://nats:4222 --model cross-encoder/ms-marco-MiniLM-L6-v2
  RERANK_NATS__URL=nats://nats:4222 nats-rerank worker --profile gpu --set model.device=cuda:1\n\n{EXIT_CODES}"
    ))]
    Worker(worker::Args),
    /// Translate: take HTTP requests in the shapes of known rerankers and ask the workers over NATS. Holds no model.
    #[command(after_help = format!(
        "Examples:
  nats-rerank gateway
  nats-rerank gateway --nats-url nats://nats:4222 --listen [::]:8080 --set gateway.on_failure=error\n\n{EXIT_CODES}"
    ))]
    Gateway(gateway::Args),
    /// Ask: rerank documents for one query, or for every query in a file.
    ///
    /// Without an answer (no worker, too slow, refused) the documents keep the order they came in: they are shown all the
    /// same, the reason is on standard error, and the exit code is 1.
    #[command(
        override_usage = "nats-rerank query [OPTIONS] <QUERY>\n       nats-rerank query [OPTIONS] --queries <FILE>"
    )]
    #[command(after_help = format!(
        "Examples:
  nats-rerank query \"how do cats purr\" --documents candidates.txt
  cat candidates.txt | nats-rerank query \"how do cats purr\" --top-k 3 --format text
  nats-rerank query \"how do cats purr\" --document notes/*.md --format ids
  nats-rerank query --queries requests.jsonl --output results.jsonl --resume\n\n{EXIT_CODES}"
    ))]
    Query(query::Args),
    /// Measure: latency, throughput and refusals over NATS, by callers that wait (closed loop) or at a rate (open loop).
    #[command(after_help = format!(
        "Examples:
  nats-rerank bench --callers 8 --requests 500
  nats-rerank bench --rate 20 --duration-s 30 --timeout-ms 250
  nats-rerank bench --sweep 5,10,20,40 --timeout-ms 250
  nats-rerank bench --payload requests.json --callers 50 --timeout-ms 250 --format json\n\n{EXIT_CODES}"
    ))]
    Bench(bench::Args),
    /// Watch: the workers of a service, live, as they answer discovery.
    #[command(after_help = format!(
        "Examples:
  nats-rerank top
  nats-rerank top --once --format json\n\n{EXIT_CODES}"
    ))]
    Top(top::Args),
    /// Probe: is the worker of these settings ready? For containers, whose exit code is the answer.
    #[command(after_help = format!(
        "Examples:
  nats-rerank healthcheck
  nats-rerank healthcheck --url http://127.0.0.1:9464/livez\n\n{EXIT_CODES}"
    ))]
    Healthcheck(healthcheck::Args),
    /// Look at a model: architecture, size, limits, activation, precision.
    #[cfg(feature = "worker")]
    #[command(after_help = format!(
        "Examples:
  nats-rerank model info builtin
  nats-rerank model info ./checkpoints/mine
  nats-rerank model info cross-encoder/ms-marco-MiniLM-L6-v2\n\n{EXIT_CODES}"
    ))]
    Model(model::Args),
    /// Look at the settings: what they are, where they come from, whether they are valid.
    #[command(after_help = format!(
        "Examples:
  nats-rerank config print
  nats-rerank config print --profile production --format json
  nats-rerank config check --config /etc/nats-rerank.toml\n\n{EXIT_CODES}"
    ))]
    Config(config::Args),
    /// One system of the benchmark suite (bench/), told by lines on standard input when to compute.
    #[cfg(feature = "worker")]
    #[command(hide = true)]
    Rounds(rounds::Args),
    /// Write a completion script for a shell.
    #[command(after_help = format!(
        "Examples:
  nats-rerank completions bash > /usr/share/bash-completion/completions/nats-rerank
  source <(nats-rerank completions bash)\n\n{EXIT_CODES}"
    ))]
    Completions(completions::Args),
    /// Write manual pages.
    #[command(after_help = format!(
        "Examples:
  nats-rerank man worker | man -l -
  nats-rerank man --dir /usr/local/share/man/man1\n\n{EXIT_CODES}"
    ))]
    Man(man::Args),
}

/// Why a subcommand ended without success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CliError {
    /// A bad setting or argument: exit code 64.
    #[error("{0}")]
    Usage(String),
    /// Anything else: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Whoever read our output has left (`| head`): nothing to say and nobody to say it to, exit code 0.
    #[error("standard output is closed")]
    OutputClosed,
}

/// Writes to standard output and flushes it. The one way to print a result: `println!` panics on a closed pipe.
///
/// # Errors
/// [`CliError::OutputClosed`] when the reader has left, which callers pass on; [`CliError::Failed`] otherwise.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(output_error)
}

fn output_error(error: io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::Failed(format!("cannot write to standard output: {error}")),
    }
}

/// Writes a line for people to standard error. There is nobody to tell when that fails.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A table with rules around head and foot only: between rows they would only take room.
fn ruled_table() -> comfy_table::Table {
    use comfy_table::TableComponent;
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    for rule in [
        TableComponent::HorizontalLines,
        TableComponent::MiddleIntersections,
        TableComponent::LeftBorderIntersections,
        TableComponent::RightBorderIntersections,
    ] {
        table.remove_style(rule);
    }
    table
}

/// Columns of the terminal on standard output, else of the variable `COLUMNS`; `None` where neither is known.
fn output_width() -> Option<u16> {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    // Some terminals (of containers, for instance) say that they have no columns at all.
    let known = |width: &u16| *width > 0;
    comfy_table::Table::new()
        .width()
        .filter(known)
        .or(columns.filter(known))
}

/// How the settings and the flags of a calling subcommand (`query`, `bench`) say that requests are sent.
fn call_options(config: &Config, msgpack: bool, timeout_ms: u64) -> CallOptions {
    CallOptions {
        subject: config.nats.subject.clone(),
        encoding: if msgpack { Encoding::MsgPack } else { Encoding::Json },
        timeout: Duration::from_millis(timeout_ms),
        trace_context: None,
    }
}

/// Runs the program with the arguments and the environment of this process; its exit code.
pub fn main() -> ExitCode {
    ExitCode::from(match parse(std::env::args_os()) {
        Ok((command, flags)) => flags
            .with_environment(std::env::vars_os())
            .map_or_else(fail, |global| run(command, &global)),
        Err(error) => {
            // Help and version are "errors" here too. A closed pipe must not matter.
            let _ = error.print();
            if error.use_stderr() { EXIT_USAGE } else { 0 }
        }
    })
}

fn run(asked: Command, global: &Global) -> u8 {
    let done = match asked {
        #[cfg(feature = "worker")]
        Command::Worker(args) => worker::run(args, global),
        Command::Gateway(args) => gateway::run(args, global).map(|()| 0),
        Command::Query(args) => query::run(args, global),
        Command::Bench(args) => bench::run(args, global).map(|()| 0),
        Command::Top(args) => top::run(&args, global).map(|()| 0),
        Command::Healthcheck(args) => healthcheck::run(&args, global).map(|()| 0),
        #[cfg(feature = "worker")]
        Command::Model(args) => model::run(args, global).map(|()| 0),
        Command::Config(args) => config::run(args, global).map(|()| 0),
        #[cfg(feature = "worker")]
        Command::Rounds(args) => rounds::run(args, global).map(|()| 0),
        Command::Completions(args) => completions::run(&args, command()).map(|()| 0),
        Command::Man(args) => man::run(&args, command()).map(|()| 0),
    };
    done.unwrap_or_else(fail)
}

fn fail(error: CliError) -> u8 {
    let code = match error {
        CliError::Usage(_) => EXIT_USAGE,
        CliError::Failed(_) => 1,
        CliError::OutputClosed => return 0,
    };
    say(&format!("error: {error}"));
    code
}

fn parse<I, T>(args: I) -> Result<(Command, flags::SettingFlags), clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let mut command = command();
    let matches = command.try_get_matches_from_mut(args)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    let mut flags = flags::SettingFlags::default();
    let mut level: Option<&ArgMatches> = Some(&matches);
    while let Some(matches) = level {
        flags.add(matches).map_err(|error| error.format(&mut command))?;
        level = matches.subcommand().map(|(_, inner)| inner);
    }
    Ok((cli.command, flags))
}

/// The whole command, with the settings' flags at every level. (clap's own global arguments would forget the `--set`
/// before a subcommand when there is another after it.)
fn command() -> clap::Command {
    fn with_flags(command: clap::Command) -> clap::Command {
        flags::SettingFlags::augment(command).mut_subcommands(with_flags)
    }
    with_flags(Cli::command())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn every_subcommand_shows_an_example_and_the_exit_codes() {
        for (name, about) in [
            #[cfg(feature = "worker")]
            ("worker", "Serve"),
            ("gateway", "Translate"),
            ("query", "Ask"),
            ("bench", "Measure"),
            ("top", "Watch"),
            ("healthcheck", "Probe"),
            #[cfg(feature = "worker")]
            ("model", "Look"),
            ("config", "Look"),
            ("completions", "Write"),
            ("man", "Write"),
        ] {
            let help = match parse(["nats-rerank", name, "--help"]) {
                Err(error) => error.to_string(),
                Ok(_) => panic!("--help of {name} is no command"),
            };
            assert!(help.starts_with(about), "{help}");
            assert!(help.contains(&format!("  nats-rerank {name} ")), "{help}");
            assert!(help.contains("Exit codes:") && help.contains("--profile"), "{help}");
        }
    }

    #[test]
    fn flags_count_before_and_after_the_subcommand() {
        let parsed = parse([
            "nats-rerank",
            "--set",
            "batch.window_ms=3",
            "--profile",
            "dev",
            "config",
            "--set",
            "batch.window_ms=4",
            "print",
            "--set",
            "nats.subject=a.b",
            "--profile",
            "gpu",
        ]);
        let (_, flags) = parsed.unwrap_or_else(|error| panic!("{error}"));
        let global = flags.with_environment([]).unwrap_or_else(|error| panic!("{error}"));
        let config = global.load().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.batch.window.as_millis(), 4, "the later --set of a key counts");
        assert_eq!(config.nats.subject, "a.b");
        assert_eq!(
            config.model.device,
            crate::config::DeviceChoice::Cuda(0),
            "the later profile counts"
        );
    }

    #[test]
    fn a_set_without_a_value_is_a_bad_argument() {
        let error = parse(["nats-rerank", "gateway", "--set", "batch.window_ms"]).err();
        assert!(error.is_some_and(|error| error.use_stderr() && error.to_string().contains("KEY=VALUE")));
    }

    #[test]
    fn exit_codes() {
        assert_eq!(fail(CliError::Usage("x".to_owned())), 64);
        assert_eq!(fail(CliError::Failed("x".to_owned())), 1);
        assert_eq!(fail(CliError::OutputClosed), 0);
        assert_eq!(output_error(io::ErrorKind::BrokenPipe.into()), CliError::OutputClosed);
        assert!(matches!(
            output_error(io::ErrorKind::StorageFull.into()),
            CliError::Failed(_)
        ));
    }

    #[test]
    fn the_version_names_libtorch_or_that_there_is_none() {
        let error = parse(["nats-rerank", "--version"])
            .err()
            .map(|error| (error.use_stderr(), error.to_string()));
        let (on_stderr, text) = error.unwrap_or_default();
        assert!(
            !on_stderr && text.contains(env!("CARGO_PKG_VERSION")) && text.contains("libtorch"),
            "{text}"
        );
    }
}
