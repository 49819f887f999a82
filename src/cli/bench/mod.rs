//! `nats-rerank bench`: a load of callers over NATS, timed by the caller's clock.
//!
//! ```text
//! args ─Run→ load (schedule, payload) ─Tally→ figures → report → show, plot
//! ```
//!
//! `compare` sets two reports side by side.

mod args;
mod compare;
mod figures;
mod load;
mod machine;
mod payload;
mod plot;
mod report;
mod schedule;
mod show;
mod tally;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;

use crate::client::Caller;

use super::{CliError, Global, print};
pub use args::Args;
use args::{Format, Run};
use figures::Figures;
use load::{Done, Load};
#[cfg(feature = "worker")]
pub(super) use payload::from_file as requests_from_file;
use report::{Measured, Report, Settings};
use schedule::Schedule;
use tally::Tally;

/// Runs the benchmark.
///
/// # Errors
/// A payload that is no request, settings that will not do, no connection, or not one answer.
pub fn run(args: Args, global: &Global) -> Result<(), CliError> {
    if let [a, b] = args.compare.as_slice() {
        return compare_files(a, b, args.format);
    }
    let runs = args.runs()?;
    let config = global.load_with(args.settings.flags())?.config;
    let requests = match &args.payload {
        Some(path) => payload::from_file(path)?,
        None => payload::built_in(args.documents as usize, args.length_mix, args.seed),
    };
    let options = super::call_options(&config, args.msgpack, args.timeout_ms);
    let source = args.payload.as_ref().map_or("built-in", |_| "file");
    let settings = Settings::new(&args, &options, payload::describe(source, &requests));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the async runtime: {error}")))?;
    let measured = runtime.block_on(async {
        let caller = Caller::connect(&config.nats.connection())
            .await
            .map_err(|error| CliError::Failed(error.to_string()))?;
        let load = Arc::new(Load {
            caller,
            options,
            requests,
            retries: args.retries,
        });
        if args.warmup > 0 {
            load.closed(args.callers.min(args.warmup), args.warmup, None, &ProgressBar::hidden())
                .await;
        }
        let mut measured = Vec::with_capacity(runs.len());
        for run in &runs {
            measured.push(measure(&load, run, &args).await);
        }
        Ok::<_, CliError>(measured)
    })?;
    let report = Report::new(settings, measured);
    // Figures that took minutes are not lost for a file that cannot be written: they are shown first.
    let written = write_files(&report, &args);
    let figures: Vec<&Figures> = report.runs.iter().map(|run| &run.figures).collect();
    print(&match (args.format, figures.as_slice()) {
        (Format::Json, [one]) => json(one)?,
        (Format::Json, all) => json(all)?,
        (Format::Table, [one]) => show::table(one),
        (Format::Table, all) => show::sweep(all),
    })?;
    written?;
    if figures.iter().all(|figures| figures.answered == 0) {
        return Err(CliError::Failed("not one request was answered in time".to_owned()));
    }
    Ok(())
}

/// One run and its figures.
async fn measure(load: &Arc<Load>, run: &Run, args: &Args) -> Measured {
    // Drawn on a terminal only; indicatif sees to that.
    let bar = ProgressBar::new(run.requests());
    let done = match *run {
        Run::Closed {
            callers,
            requests,
            window,
        } => load.closed(callers, requests, window, &bar).await,
        Run::Open { rate, requests, window } => {
            let schedule = Schedule::new(args.arrivals, rate, requests, window, args.seed);
            let expected = Duration::from_secs_f64(run.requests() as f64 / rate);
            let book = Tally::over(expected, run.requests());
            let Done { tally, took } = load.open(schedule, book, args.in_flight_max, &bar).await;
            // A window lasts as long as it does, whenever its last request was due.
            let least = window.filter(|_| tally.requests < requests).unwrap_or_default();
            Done {
                tally,
                took: took.max(least),
            }
        }
    };
    bar.finish_and_clear();
    let (figures, curves) = figures::figures(run, done.tally, done.took);
    Measured { figures, curves }
}

fn write_files(report: &Report, args: &Args) -> Result<(), CliError> {
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    match &args.plot {
        Some(path) => report::write(path, &plot::svg(report)?),
        None => Ok(()),
    }
}

fn compare_files(a: &Path, b: &Path, format: Format) -> Result<(), CliError> {
    let comparison = compare::compare(&Report::read(a)?, &Report::read(b)?);
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    print(&match format {
        Format::Json => json(&comparison)?,
        Format::Table => compare::table(&comparison, &name(a), &name(b)),
    })
}

fn json(value: &(impl serde::Serialize + ?Sized)) -> Result<String, CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(format!("{text}\n"))
}
