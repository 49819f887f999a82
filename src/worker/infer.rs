//! The engine thread: the one thread that loads the model, and the only one that ever touches it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::budget::TokenBudget;
use super::forward::Scored;
use super::gather::Gatherer;
use super::snapshot::ModelFacts;
use super::status::Status;
use crate::model::ModelError;
use crate::model::engine::{Engine, EngineError, EngineInfo};
use crate::model::tokenizer::{PairTokenizer, PairTokens};
use crate::protocol::{Refusal, RefusalKind};
use crate::telemetry::names;

/// How often a model was loaded in this process. One, or something is wrong.
static MODEL_LOADS: AtomicUsize = AtomicUsize::new(0);

/// How often a model was loaded in this process.
pub fn model_loads() -> usize {
    MODEL_LOADS.load(Ordering::Relaxed)
}

/// A model that is ready: the engine stays on its thread, the tokenizer is shared.
pub struct Loaded {
    /// Scores pairs.
    pub engine: Box<dyn Engine>,
    /// Belongs to the same checkpoint.
    pub tokenizer: Arc<PairTokenizer>,
}

/// What the rest of the worker needs to know of the engine thread.
pub struct EngineThread {
    /// What was loaded.
    pub info: EngineInfo,
    /// The tokenizer of its checkpoint.
    pub tokenizer: Arc<PairTokenizer>,
    /// Ends with the reason if the engine died; without one after a clean stop.
    pub ended: oneshot::Receiver<Option<String>>,
    thread: JoinHandle<()>,
}

impl EngineThread {
    /// Starts the thread, which runs `load` and then serves `gatherer` — made by `gatherer_for` for what was loaded and a
    /// token budget, which is `batch_tokens_max` or what suits the engine — until that is closed. Returns when the model is
    /// loaded and, with `measure`, its speed is known.
    ///
    /// # Errors
    /// What `load` says, or that it panicked.
    pub async fn start(
        load: impl FnOnce() -> Result<Loaded, ModelError> + Send + 'static,
        status: Arc<Status>,
        batch_tokens_max: Option<usize>,
        gatherer_for: impl FnOnce(&EngineInfo, usize) -> Arc<Gatherer> + Send + 'static,
        score: impl Fn(Scored, &EngineInfo) + Send + 'static,
        measure: bool,
    ) -> Result<(EngineThread, Arc<Gatherer>), ModelError> {
        let (loaded_sender, loaded) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                let started = Instant::now();
                let Loaded { mut engine, tokenizer } = match load() {
                    Ok(loaded) => loaded,
                    Err(error) => {
                        let _ = loaded_sender.send(Err(error));
                        return;
                    }
                };
                MODEL_LOADS.fetch_add(1, Ordering::Relaxed);
                metrics::counter!(names::MODEL_LOADS_TOTAL).increment(1);
                metrics::gauge!(names::MODEL_LOAD_SECONDS).set(started.elapsed().as_secs_f64());
                let info = engine.info().clone();
                let batch_tokens_max = batch_tokens_max.unwrap_or(info.batch_tokens);
                status.set_model(ModelFacts {
                    id: info.model_id.clone(),
                    device: info.device.clone(),
                    precision: info.precision.clone(),
                    attention: info.attention,
                    length_max: info.length_max,
                    batch_tokens_max,
                });
                let gatherer = gatherer_for(&info, batch_tokens_max);
                if measure {
                    let measured = catch_unwind(AssertUnwindSafe(|| {
                        measure_rate(engine.as_mut(), &tokenizer, &gatherer);
                    }));
                    if measured.is_err() {
                        let _ = loaded_sender.send(Err(ModelError::Engine {
                            reason: "scoring a first batch panicked".to_owned(),
                        }));
                        return;
                    }
                    // Measuring may have taken long, and it went well.
                    status.beat();
                }
                let watch = Watch {
                    dummy: dummy_pair(&tokenizer),
                    status,
                };
                watch.status.device_memory(|| engine.device_memory());
                if loaded_sender
                    .send(Ok((info.clone(), tokenizer, gatherer.clone())))
                    .is_err()
                {
                    return; // the worker gave up meanwhile
                }
                let served = catch_unwind(AssertUnwindSafe(|| {
                    serve(engine.as_mut(), &gatherer, &info, &watch, score)
                }));
                let reason = served.unwrap_or_else(|_| Some("the engine thread panicked".to_owned()));
                if reason.is_some() {
                    gatherer.close(Refusal::new(
                        RefusalKind::Unavailable,
                        "the model of this worker has failed",
                    ));
                }
                let _ = ended_sender.send(reason);
            })
            .map_err(|error| ModelError::Engine {
                reason: format!("no thread for the engine: {error}"),
            })?;
        match loaded.await {
            Ok(Ok((info, tokenizer, gatherer))) => Ok((
                EngineThread {
                    info,
                    tokenizer,
                    ended,
                    thread,
                },
                gatherer,
            )),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ModelError::Engine {
                reason: "loading panicked".to_owned(),
            }),
        }
    }

    /// Waits for the thread's end; close its gatherer first.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}

/// What the engine thread tells the status.
struct Watch {
    status: Arc<Status>,
    /// For heart-beats. `None`: the tokenizer cannot make one, and only batches count.
    dummy: Option<PairTokens>,
}

impl Watch {
    /// A forward pass of the dummy pair, as a sign of life. The reason, if the device is lost.
    fn beat(&self, engine: &mut dyn Engine) -> Option<String> {
        let Some(dummy) = self.dummy.as_ref() else {
            // An idle engine must not look hung: that its thread turns is what there is to say.
            self.status.beat();
            return None;
        };
        match engine.score(&[dummy]) {
            Ok(logits) if logits.len() == 1 && logits[0].is_finite() => self.status.beat(),
            Ok(_) => tracing::error!("heart-beat: the model gave a score that is not a finite number"),
            Err(error @ EngineError::Fatal(_)) => return Some(error.to_string()),
            Err(error) => tracing::error!(%error, "heart-beat: the forward pass failed"),
        }
        None
    }
}

fn dummy_pair(tokenizer: &PairTokenizer) -> Option<PairTokens> {
    let pair = tokenizer
        .query("heart")
        .and_then(|query| tokenizer.pair(&query, "beat", true));
    if let Err(error) = &pair {
        tracing::warn!(%error, "no heart-beat of an idle engine: its pair cannot be made");
    }
    pair.ok()
}

/// Serves until the gatherer is closed (`None`) or the device is lost (the reason).
fn serve(
    engine: &mut dyn Engine,
    gatherer: &Gatherer,
    info: &EngineInfo,
    watch: &Watch,
    score: impl Fn(Scored, &EngineInfo),
) -> Option<String> {
    let mut budget = TokenBudget::new(gatherer.tokens_max());
    while let Some(batch) = gatherer.next_batch() {
        if batch.is_empty() {
            watch.status.device_memory(|| engine.device_memory());
            match watch.beat(engine) {
                None => continue,
                fatal => return fatal,
            }
        }
        let pairs = batch.pairs();
        let tokens_max = budget.tokens();
        let started = Instant::now();
        watch.status.batch_begins(started);
        let outcome = batch.trace.in_scope(|| score_halving(engine, &pairs));
        let ended = Instant::now();
        let busy = ended - started;
        if let Ok(outcome) = &outcome {
            if outcome.halved && pairs.len() > 1 {
                budget.failed(outcome.fitted_tokens);
                tracing::warn!(
                    tokens_max = budget.tokens(),
                    "out of memory: batches are smaller from now on"
                );
                gatherer.set_tokens_max(budget.tokens());
            } else if !outcome.halved {
                // A batch that was computed in pieces says nothing about the speed of a whole one.
                gatherer.measured(batch.tokens, busy);
                let before = budget.tokens();
                budget.fitted(batch.tokens);
                if budget.tokens() != before {
                    gatherer.set_tokens_max(budget.tokens());
                }
            }
        }
        metrics::counter!(names::ENGINE_BUSY_MICROSECONDS_TOTAL).increment(busy.as_micros() as u64);
        metrics::histogram!(names::BATCH_PAIRS).record(pairs.len() as f64);
        metrics::histogram!(names::BATCH_TOKENS).record(batch.tokens as f64);
        metrics::histogram!(names::BATCH_FILL_RATIO).record(batch.tokens as f64 / tokens_max as f64);
        watch.status.batch(pairs.len(), batch.tokens, busy, ended);
        if let Ok(outcome) = &outcome {
            watch.status.beat();
            watch.status.out_of_memory(outcome.out_of_memory);
        }
        watch.status.device_memory(|| engine.device_memory());
        tracing::debug!(
            pairs = pairs.len(),
            tokens = batch.tokens,
            busy_us = busy.as_micros() as u64,
            "batch"
        );
        drop(pairs);
        if outcome.is_err() {
            batch.trace.failed();
        }
        let fatal = match &outcome {
            Err(error @ EngineError::Fatal(_)) => Some(error.to_string()),
            Err(error) => {
                tracing::error!(%error, "a batch failed");
                None
            }
            Ok(_) => None,
        };
        let finished = gatherer.finish(batch, outcome, busy);
        watch.status.wasted(finished.wasted);
        for scored in finished.scored {
            score(scored, info);
        }
        if fatal.is_some() {
            return fatal;
        }
    }
    None
}

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// One for each pair; meaningless for those in `unfit`.
    pub logits: Vec<f32>,
    /// Places of pairs for which the device has no memory even alone.
    pub unfit: Vec<usize>,
    /// Whether the batch was too large as a whole.
    pub halved: bool,
    /// Passes for which there was no memory.
    pub out_of_memory: u64,
    /// Tokens of the largest piece that was computed, if it was halved.
    pub fitted_tokens: usize,
}

/// Scores, and where memory does not suffice, scores the halves, down to one pair.
fn score_halving(engine: &mut dyn Engine, pairs: &[&PairTokens]) -> Result<Outcome, EngineError> {
    let mut outcome = Outcome {
        logits: Vec::with_capacity(pairs.len()),
        ..Outcome::default()
    };
    score_into(engine, pairs, &mut outcome)?;
    Ok(outcome)
}

fn score_into(engine: &mut dyn Engine, pairs: &[&PairTokens], outcome: &mut Outcome) -> Result<(), EngineError> {
    match engine.score(pairs) {
        Err(EngineError::OutOfMemory(reason)) => {
            tracing::warn!(pairs = pairs.len(), reason, "out of memory");
            outcome.halved = true;
            outcome.out_of_memory += 1;
            if pairs.len() == 1 {
                outcome.unfit.push(outcome.logits.len());
                outcome.logits.push(f32::NAN);
                return Ok(());
            }
            let (left, right) = pairs.split_at(pairs.len() / 2);
            score_into(engine, left, outcome)?;
            score_into(engine, right, outcome)
        }
        Err(error) => Err(error),
        Ok(mut logits) => {
            let tokens = pairs.iter().map(|pair| pair.ids.len()).sum();
            outcome.fitted_tokens = outcome.fitted_tokens.max(tokens);
            // An engine that gives too few: the rest counts as not finite.
            logits.resize(pairs.len(), f32::NAN);
            outcome.logits.append(&mut logits);
            Ok(())
        }
    }
}

/// The longest that measuring may take, apart from the batch that passes it.
const MEASURE_MAX: Duration = Duration::from_millis(500);
/// Tokens of the largest batch that is measured: near enough to a full one, and no burden on a slow device.
const MEASURE_TOKENS_MAX: usize = 4096;

/// Scores made-up pairs to know the device's speed before the first request: one pair, then ever more, up to a full batch.
/// Each size twice, since the first pass of a shape also sets things up. What fails here fails again, and is handled, in
/// service.
fn measure_rate(engine: &mut dyn Engine, tokenizer: &PairTokenizer, gatherer: &Gatherer) {
    let pair = tokenizer
        .query("how fast is this device")
        .and_then(|query| tokenizer.pair(&query, &"a sentence of some words. ".repeat(12), true));
    let Ok(pair) = pair else { return };
    let length = pair.ids.len().max(1);
    let pairs_max = (gatherer.tokens_max().min(MEASURE_TOKENS_MAX) / length).max(1);
    let started = Instant::now();
    let mut count = 1;
    loop {
        // Different in one token each, since equal pairs are computed once.
        let pairs: Vec<PairTokens> = (0..count)
            .map(|place| {
                let mut pair = pair.clone();
                let middle = pair.ids.len() / 2;
                pair.ids[middle] = pair.ids[place % length];
                pair.ids.swap(middle, (place / length) % length);
                pair
            })
            .collect();
        let borrowed: Vec<&PairTokens> = pairs.iter().collect();
        for first in [true, false] {
            let began = Instant::now();
            if engine.score(&borrowed).is_err() {
                return;
            }
            if !first || started.elapsed() > MEASURE_MAX {
                gatherer.measured(count * length, began.elapsed());
                break;
            }
        }
        if count == pairs_max || started.elapsed() > MEASURE_MAX {
            return;
        }
        count = (count * 4).min(pairs_max);
    }
}
