//! What `bench` reads from the command line, and what follows from it.

use std::path::PathBuf;
use std::time::Duration;

use super::payload::LengthMix;
use super::schedule::Spacing;
use crate::cli::{CallerFlags, CliError};

/// Requests of a run at most: each leaves its latency behind, eight bytes.
pub(super) const REQUESTS_MAX: u64 = 10_000_000;
/// Requests of a closed loop that is given neither a number nor a time.
const REQUESTS_DEFAULT: u64 = 200;
/// Seconds of an open loop that is given neither a number nor a time.
const SECONDS_DEFAULT: f64 = 10.0;
/// Rates of one sweep at most.
const SWEEP_MAX: usize = 50;

/// Flags of `nats-rerank bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file of requests as JSON, sent in turn: one, an array of them, or one a line [default: built-in text]
    #[arg(long, value_name = "FILE", help_heading = "Payload", conflicts_with_all = ["documents", "length_mix"])]
    pub(super) payload: Option<PathBuf>,

    /// Built-in text: documents of each request
    #[arg(long, value_name = "N", default_value_t = 24, help_heading = "Payload", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(super) documents: u64,

    /// Built-in text: how long the documents are
    #[arg(long, value_enum, default_value_t = LengthMix::Mixed, help_heading = "Payload")]
    pub(super) length_mix: LengthMix,

    /// Speak MessagePack in place of JSON
    #[arg(long, help_heading = "Payload")]
    pub(super) msgpack: bool,

    /// Closed loop: callers at once, each with one request under way
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(super) callers: u64,

    /// Open loop: requests a second, sent whether the ones before were answered or not
    #[arg(long, value_name = "R", help_heading = "Load", value_parser = rate, conflicts_with = "callers")]
    pub(super) rate: Option<f64>,

    /// Open loop at each of these rates in turn
    #[arg(long, value_name = "R1,R2,...", help_heading = "Load", value_parser = rate, value_delimiter = ',', conflicts_with_all = ["callers", "rate"])]
    pub(super) sweep: Vec<f64>,

    /// Open loop: how arrivals are spaced
    #[arg(long, value_enum, default_value_t = Spacing::Poisson, help_heading = "Load")]
    pub(super) arrivals: Spacing,

    /// Open loop: requests under way at most; an arrival beyond is not sent and counted as such
    #[arg(long, value_name = "N", default_value_t = 1_000, help_heading = "Load", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) in_flight_max: u32,

    /// Requests in all [default: 200 in a closed loop without --duration-s]
    #[arg(long, value_name = "N", help_heading = "Load", value_parser = clap::value_parser!(u64).range(1..=REQUESTS_MAX))]
    pub(super) requests: Option<u64>,

    /// Seconds during which requests begin; with --requests, whichever ends first [default: 10 in an open loop
    /// without --requests]
    #[arg(long, value_name = "S", help_heading = "Load", value_parser = seconds)]
    pub(super) duration_s: Option<f64>,

    /// Requests before the clock starts
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Load", value_parser = clap::value_parser!(u64).range(0..=REQUESTS_MAX))]
    pub(super) warmup: u64,

    /// Budget of each request, in milliseconds; in an open loop it counts from the time the request was due
    #[arg(long, value_name = "N", default_value_t = 10_000, help_heading = "Load", value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub(super) timeout_ms: u64,

    /// How often a request that was refused as `overloaded` is asked again, at once and within its budget
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Load", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(super) retries: u8,

    /// Seed of arrivals and built-in text
    #[arg(long, value_name = "N", default_value_t = 7, help_heading = "Load")]
    pub(super) seed: u64,

    /// Write all figures, settings and the machine to this file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(super) json: Option<PathBuf>,

    /// Draw latencies, and how requests ended, into this file, as SVG
    #[arg(long, value_name = "FILE.svg", help_heading = "Output", value_parser = svg_file)]
    pub(super) plot: Option<PathBuf>,

    /// Send nothing: compare two files of --json
    #[arg(long, value_names = ["A", "B"], num_args = 2, action = clap::ArgAction::Set, help_heading = "Output", conflicts_with_all = [
        "payload", "documents", "length_mix", "msgpack", "callers", "rate", "sweep", "arrivals", "in_flight_max",
        "requests", "duration_s", "warmup", "timeout_ms", "retries", "seed", "json", "plot",
    ])]
    pub(super) compare: Vec<PathBuf>,

    /// How to show the figures
    #[arg(long, value_enum, default_value_t = Format::Table, help_heading = "Output")]
    pub(super) format: Format,

    #[command(flatten)]
    pub(super) settings: CallerFlags,
}

/// How to show figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// A run: how its requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Run {
    /// Callers that wait for their answer before they ask again.
    Closed {
        /// Callers at once.
        callers: u64,
        /// Requests in all, at most.
        requests: u64,
        /// How long requests begin.
        window: Option<Duration>,
    },
    /// Arrivals at a rate of their own.
    Open {
        /// Requests a second.
        rate: f64,
        /// Requests in all, at most.
        requests: u64,
        /// How long requests begin.
        window: Option<Duration>,
    },
}

impl Run {
    /// Requests at most.
    pub(super) fn requests(&self) -> u64 {
        match *self {
            Run::Closed { requests, .. } => requests,
            // Bounded by `Args::runs`.
            Run::Open { rate, requests, window } => window.map_or(requests, |window| {
                requests.min((rate * window.as_secs_f64()).ceil() as u64)
            }),
        }
    }

    /// Requests a second of an open loop.
    pub(super) fn rate(&self) -> Option<f64> {
        match *self {
            Run::Closed { .. } => None,
            Run::Open { rate, .. } => Some(rate),
        }
    }
}

impl Args {
    /// The runs that are asked for, in turn.
    ///
    /// # Errors
    /// A run with more requests than [`REQUESTS_MAX`], or a sweep of too many rates.
    pub(super) fn runs(&self) -> Result<Vec<Run>, CliError> {
        let window = self.duration_s.map(Duration::from_secs_f64);
        if self.sweep.len() > SWEEP_MAX {
            return Err(CliError::Usage(format!("--sweep: {SWEEP_MAX} rates at most")));
        }
        let rates: Vec<f64> = self.rate.iter().chain(&self.sweep).copied().collect();
        if rates.is_empty() {
            let requests = self.requests.unwrap_or(match window {
                Some(_) => REQUESTS_MAX,
                None => REQUESTS_DEFAULT,
            });
            return Ok(vec![Run::Closed {
                callers: self.callers,
                requests,
                window,
            }]);
        }
        let window = match (window, self.requests) {
            (None, None) => Some(Duration::from_secs_f64(SECONDS_DEFAULT)),
            _ => window,
        };
        rates
            .into_iter()
            .map(|rate| {
                let expected = window.map(|window| rate * window.as_secs_f64());
                if self.requests.is_none() && expected.is_some_and(|expected| expected > REQUESTS_MAX as f64) {
                    return Err(CliError::Usage(format!(
                        "--rate {rate} for that long is more than {REQUESTS_MAX} requests, the most of one run"
                    )));
                }
                Ok(Run::Open {
                    rate,
                    requests: self.requests.unwrap_or(REQUESTS_MAX),
                    window,
                })
            })
            .collect()
    }
}

fn svg_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("svg") => Ok(path),
        _ => Err("expected a file that ends in .svg: plots are written as SVG only".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.001, 1e6, "requests a second")
}

fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.001, 86_400.0, "seconds")
}

fn within(text: &str, least: f64, most: f64, unit: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(format!("expected a number of {unit} from {least} to {most}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn runs(flags: &[&str]) -> Result<Vec<Run>, String> {
        let program = Program::try_parse_from(["bench"].iter().chain(flags)).map_err(|error| error.to_string())?;
        program.args.runs().map_err(|error| error.to_string())
    }

    #[test]
    fn a_closed_loop_ends_by_number_or_by_time() {
        let closed = |requests, window: Option<u64>| {
            Ok(vec![Run::Closed {
                callers: 1,
                requests,
                window: window.map(Duration::from_secs),
            }])
        };
        assert_eq!(runs(&[]), closed(200, None));
        assert_eq!(runs(&["--duration-s", "3"]), closed(REQUESTS_MAX, Some(3)));
        assert_eq!(runs(&["--duration-s", "3", "--requests", "5"]), closed(5, Some(3)));
    }

    #[test]
    fn an_open_loop_has_a_rate_and_an_end() {
        let run = runs(&["--rate", "20"]).unwrap()[0];
        assert_eq!(run.requests(), 200);
        let run = runs(&["--rate", "20", "--requests", "10"]).unwrap()[0];
        assert_eq!(run.requests(), 10);
        let swept = runs(&["--sweep", "5,10,2.5", "--duration-s", "2"]).unwrap();
        assert_eq!(
            swept.iter().map(Run::rate).collect::<Vec<_>>(),
            [Some(5.0), Some(10.0), Some(2.5)]
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for flags in [
            &["--rate", "5", "--callers", "3"][..],
            &["--rate", "5", "--sweep", "1,2"],
            &["--rate", "0"],
            &["--rate", "NaN"],
            &["--sweep", "1,,2"],
            &["--duration-s", "-1"],
            &["--retries", "3"],
            &["--payload", "x", "--documents", "3"],
            &["--plot", "plot.png"],
            &["--compare", "a.json"],
            &["--compare", "a.json", "b.json", "--rate", "5"],
            &["--rate", "1000000", "--duration-s", "60"],
        ] {
            assert!(runs(flags).is_err(), "{flags:?}");
        }
    }
}
