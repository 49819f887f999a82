//! `nats-rerank bench`: a closed loop of callers over NATS, timed by the caller's clock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde::Serialize;

use crate::client::{CallError, CallOptions, Caller};
use crate::protocol::{Encoding, Request};

use super::{CliError, Global, print};

/// Flags of `nats-rerank bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file of requests as JSON, sent in turn: one, an array of them, or one a line
    #[arg(long, value_name = "FILE")]
    payload: PathBuf,

    /// Requests in all
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    requests: u64,

    /// Requests before the clock starts
    #[arg(long, value_name = "N", default_value_t = 10)]
    warmup: u64,

    /// Callers at once, each with one request under way
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    callers: u64,

    /// Budget of each request, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    timeout_ms: u64,

    /// Speak MessagePack in place of JSON
    #[arg(long)]
    msgpack: bool,

    /// How to show the figures
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// What a run gave. Latencies are those of the answers in time.
#[derive(Debug, Default, Serialize)]
struct Figures {
    requests: u64,
    callers: u64,
    answered: u64,
    failed: u64,
    /// Failures by reason.
    reasons: BTreeMap<String, u64>,
    seconds: f64,
    requests_per_s: f64,
    pairs_per_s: f64,
    tokens_per_s: f64,
    p50_ms: f64,
    p90_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

/// Runs the benchmark.
///
/// # Errors
/// A payload that is no request, settings that will not do, no connection, or not one answer.
pub fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let config = global.load()?;
    let requests = payload(&args)?;
    let options = super::call_options(&config, args.msgpack, args.timeout_ms);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the async runtime: {error}")))?;
    let figures = runtime.block_on(async {
        let caller = Caller::connect(&config.nats.connection())
            .await
            .map_err(|error| CliError::Failed(error.to_string()))?;
        let load = Arc::new(Load {
            caller,
            options,
            requests,
            turn: AtomicUsize::new(0),
        });
        load.clone()
            .loop_closed(
                args.warmup,
                args.callers.min(args.warmup.max(1)),
                &ProgressBar::hidden(),
            )
            .await;
        // Drawn on a terminal only; indicatif sees to that.
        let bar = ProgressBar::new(args.requests);
        let figures = load.loop_closed(args.requests, args.callers, &bar).await;
        bar.finish_and_clear();
        Ok::<_, CliError>(figures)
    })?;
    print(&match args.format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&figures).unwrap_or_default()),
        Format::Table => table(&figures),
    })?;
    if figures.answered == 0 {
        return Err(CliError::Failed("not one request was answered in time".to_owned()));
    }
    Ok(())
}

fn payload(args: &Args) -> Result<Vec<Request>, CliError> {
    let shown = args.payload.display();
    let wrong = |reason: String| CliError::Usage(format!("--payload {shown}: {reason}"));
    let text = std::fs::read_to_string(&args.payload).map_err(|error| wrong(error.to_string()))?;
    let values = serde_json::Deserializer::from_str(&text)
        .into_iter::<serde_json::Value>()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    let values = match <[serde_json::Value; 1]>::try_from(values) {
        Ok([serde_json::Value::Array(values)]) => values,
        Ok([value]) => vec![value],
        Err(values) => values,
    };
    if values.is_empty() {
        return Err(wrong("there is no request in it".to_owned()));
    }
    values
        .iter()
        .map(|value| {
            Request::decode(Encoding::Json, value.to_string().as_bytes()).map_err(|refusal| wrong(refusal.message))
        })
        .collect()
}

struct Load {
    caller: Caller,
    options: CallOptions,
    requests: Vec<Request>,
    turn: AtomicUsize,
}

#[derive(Default)]
struct Tally {
    latencies: Vec<Duration>,
    reasons: BTreeMap<String, u64>,
    pairs: u64,
    tokens: u64,
}

impl Load {
    async fn loop_closed(self: Arc<Load>, requests: u64, callers: u64, bar: &ProgressBar) -> Figures {
        let started = Instant::now();
        let sent = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let (load, sent, bar) = (self.clone(), sent.clone(), bar.clone());
                tokio::spawn(async move {
                    let mut tally = Tally::default();
                    while (sent.fetch_add(1, Ordering::Relaxed) as u64) < requests {
                        load.ask(&mut tally).await;
                        bar.inc(1);
                    }
                    tally
                })
            })
            .collect();
        let mut all = Tally::default();
        for task in tasks {
            // A task that panicked has nothing to add; its requests are missing from the count.
            let Ok(tally) = task.await else { continue };
            all.latencies.extend(tally.latencies);
            all.pairs += tally.pairs;
            all.tokens += tally.tokens;
            for (reason, count) in tally.reasons {
                *all.reasons.entry(reason).or_default() += count;
            }
        }
        figures(all, requests, callers, started.elapsed())
    }

    async fn ask(&self, tally: &mut Tally) {
        let request = &self.requests[self.turn.fetch_add(1, Ordering::Relaxed) % self.requests.len()];
        let started = Instant::now();
        match self.caller.rerank(request, &self.options).await {
            Ok(answer) => {
                tally.latencies.push(started.elapsed());
                tally.pairs += answer.reply.usage.pairs;
                tally.tokens += answer.reply.usage.tokens;
            }
            Err(error) => *tally.reasons.entry(reason(&error)).or_default() += 1,
        }
    }
}

fn reason(error: &CallError) -> String {
    match error {
        CallError::Refused { refusal, .. } => format!("refused: {}", refusal.kind.name()),
        CallError::TimedOut { .. } => "timed out".to_owned(),
        CallError::NoResponders { .. } => "no responders".to_owned(),
        other => other.to_string(),
    }
}

fn figures(mut tally: Tally, requests: u64, callers: u64, took: Duration) -> Figures {
    tally.latencies.sort_unstable();
    let seconds = took.as_secs_f64();
    let at = |share: f64| percentile_ms(&tally.latencies, share);
    let answered = tally.latencies.len() as u64;
    Figures {
        requests,
        callers,
        answered,
        failed: requests.saturating_sub(answered),
        seconds,
        requests_per_s: answered as f64 / seconds,
        pairs_per_s: tally.pairs as f64 / seconds,
        tokens_per_s: tally.tokens as f64 / seconds,
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        reasons: tally.reasons,
    }
}

/// The smallest latency that at least `share` of the calls did not exceed (nearest rank); 0 without calls.
fn percentile_ms(sorted: &[Duration], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.max(1) - 1)
        .map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
}

fn table(figures: &Figures) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["figure", "value"]);
    let rows = [
        ("requests", figures.requests.to_string()),
        ("callers", figures.callers.to_string()),
        ("answered in time", figures.answered.to_string()),
        ("requests a second", format!("{:.1}", figures.requests_per_s)),
        ("pairs a second", format!("{:.0}", figures.pairs_per_s)),
        ("tokens a second", format!("{:.0}", figures.tokens_per_s)),
        ("p50 ms", format!("{:.2}", figures.p50_ms)),
        ("p90 ms", format!("{:.2}", figures.p90_ms)),
        ("p95 ms", format!("{:.2}", figures.p95_ms)),
        ("p99 ms", format!("{:.2}", figures.p99_ms)),
        ("max ms", format!("{:.2}", figures.max_ms)),
    ];
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    for (reason, count) in &figures.reasons {
        table.add_row([format!("failed: {reason}"), count.to_string()]);
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let sorted: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&sorted, 0.5), 50.0);
        assert_eq!(percentile_ms(&sorted, 0.99), 99.0);
        assert_eq!(percentile_ms(&sorted, 1.0), 100.0);
        assert_eq!(percentile_ms(&sorted[..1], 0.5), 1.0);
        assert_eq!(percentile_ms(&[], 0.5), 0.0);
    }

    #[test]
    fn figures_add_up() {
        let tally = Tally {
            latencies: vec![Duration::from_millis(4), Duration::from_millis(2)],
            reasons: BTreeMap::from([("timed out".to_owned(), 1)]),
            pairs: 48,
            tokens: 4800,
        };
        let figures = figures(tally, 3, 2, Duration::from_secs(2));
        assert_eq!((figures.answered, figures.failed), (2, 1));
        assert_eq!((figures.requests_per_s, figures.tokens_per_s), (1.0, 2400.0));
        assert_eq!((figures.p50_ms, figures.max_ms), (2.0, 4.0));
        assert!(table(&figures).contains("failed: timed out"));
    }
}
