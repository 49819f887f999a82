//! Callers over NATS that wait for their answer before they ask again, and what the worker told of each answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{Obey, Order, in_turn, loaded};
use crate::cli::CliError;
use crate::cli::bench::requests_from_file;
use crate::client::{CallError, CallOptions, Caller};
use crate::config::Config;
use crate::protocol::{Request, TimingsMs};

/// Far longer than any request of the suite takes: a time-out would leave the slowest out of the figures.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Callers that share a connection.
pub(super) struct OverNats {
    runtime: Runtime,
    caller: Caller,
    options: CallOptions,
    requests: Arc<Vec<Request>>,
    next: usize,
}

/// An answer as a caller saw it.
struct Answered {
    took_ms: f64,
    timings: TimingsMs,
    tokens: usize,
}

impl OverNats {
    pub(super) fn connect(config: &Config) -> Result<OverNats, CliError> {
        // One thread, as a caller's: its cores are the worker's too.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| CliError::Failed(format!("cannot start the async runtime: {error}")))?;
        let caller = runtime
            .block_on(Caller::connect(&config.nats.connection()))
            .map_err(|error| CliError::Failed(error.to_string()))?;
        let options = CallOptions {
            subject: config.nats.subject.clone(),
            timeout: TIMEOUT,
            ..CallOptions::default()
        };
        Ok(OverNats {
            runtime,
            caller,
            options,
            requests: Arc::default(),
            next: 0,
        })
    }

    /// Asks for `places`, `callers` at once. The order of the answers is that of their ends.
    fn ask(&self, places: Vec<usize>, callers: usize) -> Result<Vec<Answered>, CallError> {
        let places = Arc::new(places);
        let turn = Arc::new(AtomicUsize::new(0));
        let task = || {
            let (caller, options) = (self.caller.clone(), self.options.clone());
            let (requests, places, turn) = (self.requests.clone(), places.clone(), turn.clone());
            async move {
                let mut answered = Vec::new();
                while let Some(&place) = places.get(turn.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    let answer = caller.rerank(&requests[place], &options).await?;
                    answered.push(Answered {
                        took_ms: began.elapsed().as_secs_f64() * 1e3,
                        timings: answer.reply.timings_ms,
                        tokens: answer.reply.usage.tokens as usize,
                    });
                }
                Ok::<_, CallError>(answered)
            }
        };
        self.runtime.block_on(async {
            let tasks: Vec<_> = (0..callers.clamp(1, places.len().max(1)))
                .map(|_| tokio::spawn(task()))
                .collect();
            let mut all = Vec::with_capacity(places.len());
            for task in tasks {
                // A panic of the client is a bug, and ends the run like any failed call.
                let answered = task.await.map_err(|error| CallError::BadReply(error.to_string()))?;
                all.extend(answered?);
            }
            Ok(all)
        })
    }
}

impl Obey for OverNats {
    fn obey(&mut self, order: Order) -> Result<Value, CliError> {
        match order {
            Order::Load { path } => {
                self.requests = Arc::new(requests_from_file(&path)?);
                self.next = 0;
                Ok(json!({"requests": self.requests.len()}))
            }
            Order::Round { count, callers } => {
                loaded(&self.requests)?;
                let places = in_turn(&mut self.next, count, self.requests.len());
                let began = Instant::now();
                let answered = self
                    .ask(places, callers)
                    .map_err(|error| CliError::Failed(error.to_string()))?;
                let seconds = began.elapsed().as_secs_f64();
                let of = |figure: fn(&Answered) -> f64| -> Vec<f64> { answered.iter().map(figure).collect() };
                Ok(json!({
                    "ms": of(|one| one.took_ms),
                    "queue_ms": of(|one| one.timings.queue),
                    "tokenize_ms": of(|one| one.timings.tokenize),
                    "infer_ms": of(|one| one.timings.infer),
                    "total_ms": of(|one| one.timings.total),
                    "tokens": answered.iter().map(|one| one.tokens).collect::<Vec<_>>(),
                    "seconds": seconds,
                }))
            }
            Order::Scores { .. } => Err(CliError::Usage("a caller gives no logits".to_owned())),
        }
    }
}
