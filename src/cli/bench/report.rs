//! The file that a benchmark leaves behind: all figures, and what they were measured on and with.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::args::Args;
use super::figures::{Curves, Figures};
use super::machine::Machine;
use super::payload::{Described, LengthMix};
use super::schedule::Spacing;
use crate::cli::CliError;
use crate::client::CallOptions;

/// The version of the file's form. A reader of another one refuses the file.
const FORMAT: u32 = 1;

/// A benchmark as a file holds it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    format: u32,
    /// The program's version.
    pub(super) version: String,
    /// When it ended, RFC 3339, UTC.
    pub(super) time: String,
    pub(super) machine: Machine,
    pub(super) settings: Settings,
    /// One, or one for each rate of a sweep.
    pub(super) runs: Vec<Measured>,
}

/// A run, measured.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) figures: Figures,
    pub(super) curves: Curves,
}

/// What all runs of a benchmark share.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) subject: String,
    /// The content type of requests.
    pub(super) encoding: String,
    pub(super) timeout_ms: u64,
    pub(super) retries: u8,
    pub(super) warmup: u64,
    pub(super) seed: u64,
    pub(super) arrivals: Spacing,
    pub(super) in_flight_max: u32,
    /// Of built-in text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) length_mix: Option<LengthMix>,
    pub(super) payload: Described,
}

impl Settings {
    pub(super) fn new(args: &Args, options: &CallOptions, payload: Described) -> Settings {
        Settings {
            subject: options.subject.clone(),
            encoding: options.encoding.content_type().to_owned(),
            timeout_ms: args.timeout_ms,
            retries: args.retries,
            warmup: args.warmup,
            seed: args.seed,
            arrivals: args.arrivals,
            in_flight_max: args.in_flight_max,
            length_mix: args.payload.is_none().then_some(args.length_mix),
            payload,
        }
    }
}

impl Report {
    /// What was measured here, just now.
    pub(super) fn new(settings: Settings, runs: Vec<Measured>) -> Report {
        Report {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time: rfc3339(time::OffsetDateTime::now_utc()),
            machine: Machine::here(),
            settings,
            runs,
        }
    }

    /// Reads a file that [`Report::write`] wrote.
    ///
    /// # Errors
    /// It cannot be read, or is no such file, or one of another form.
    pub(super) fn read(path: &Path) -> Result<Report, CliError> {
        let wrong = |reason: String| CliError::Usage(format!("{}: {reason}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        match value["format"].as_u64() {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => {
                return Err(wrong(format!(
                    "a report of form {format}; this program reads form {FORMAT}"
                )));
            }
            None => return Err(wrong("not a report of `nats-rerank bench --json`".to_owned())),
        }
        let report: Report = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
        if report.runs.is_empty() {
            return Err(wrong("there is no run in it".to_owned()));
        }
        Ok(report)
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&self, path: &Path) -> Result<(), CliError> {
        write(path, &super::json(self)?)
    }
}

/// Writes a file of results.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(path: &Path, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text).map_err(|error| CliError::Failed(format!("cannot write {}: {error}", path.display())))
}

fn rfc3339(utc: time::OffsetDateTime) -> String {
    let (year, month, day) = (utc.year(), u8::from(utc.month()), utc.day());
    let (hour, minute, second) = (utc.hour(), utc.minute(), utc.second());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::bench::payload;

    /// A report of runs with these figures.
    pub(in crate::cli::bench) fn report(figures: impl IntoIterator<Item = Figures>) -> Report {
        let settings = Settings {
            subject: "rerank.v1.score".to_owned(),
            encoding: "application/json".to_owned(),
            timeout_ms: 250,
            retries: 0,
            warmup: 10,
            seed: 7,
            arrivals: Spacing::Poisson,
            in_flight_max: 1_000,
            length_mix: Some(LengthMix::Mixed),
            payload: payload::describe("built-in", &payload::built_in(2, LengthMix::Mixed, 7)),
        };
        let runs = figures.into_iter().map(|figures| Measured {
            figures,
            curves: Curves::default(),
        });
        Report::new(settings, runs.collect())
    }

    #[test]
    fn a_report_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let written = report([Figures {
            requests: 3,
            p99_ms: 1.25,
            ..Figures::default()
        }]);
        written.write(&path).unwrap();
        let read = Report::read(&path).unwrap();
        assert_eq!(read.settings, written.settings);
        assert_eq!(read.runs[0].figures, written.runs[0].figures);
        assert_eq!(read.machine, written.machine);
    }

    #[test]
    fn a_file_that_is_no_report_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let mut other_form = report([Figures::default()]);
        other_form.format = 99;
        let without_runs = report([]);
        for text in [
            "no JSON".to_owned(),
            "{}".to_owned(),
            r#"{"format": 1}"#.to_owned(),
            serde_json::to_string(&other_form).unwrap(),
            serde_json::to_string(&without_runs).unwrap(),
        ] {
            std::fs::write(&path, &text).unwrap();
            assert!(matches!(Report::read(&path), Err(CliError::Usage(_))), "{text}");
        }
        assert!(Report::read(&folder.path().join("missing")).is_err());
    }

    #[test]
    fn times_are_rfc_3339() {
        let at = time::OffsetDateTime::from_unix_timestamp(951_782_400).unwrap();
        assert_eq!(rfc3339(at), "2000-02-29T00:00:00Z");
    }
}
