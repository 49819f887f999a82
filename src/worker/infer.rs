//! The engine thread: the one thread that loads the model, and the only one that ever touches it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::budget::TokenBudget;
use super::fit::{Outcome, score_halving};
use super::forward::{Batch, Scored};
use super::gather::Gatherer;
use super::measure::measure;
use super::snapshot::ModelFacts;
use super::status::Status;
use crate::model::ModelError;
use crate::model::engine::{Begun, Engine, EngineError, EngineInfo};
use crate::model::tokenizer::{PairTokenizer, PairTokens};
use crate::protocol::{Refusal, RefusalKind};
use crate::telemetry::names;

/// Batches in a row without one finite score, after which the model itself is tried. Each costs its callers a refusal, and a
/// few of them may be the doing of their texts: only a pair that had a score when the worker started can tell. Heart-beats of
/// an idle engine count like batches.
const SCORELESS_MAX: u32 = 3;

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
    /// loaded and, with `measure_first`, its speed is known.
    ///
    /// # Errors
    /// What `load` says, or that it panicked.
    pub async fn start(
        load: impl FnOnce() -> Result<Loaded, ModelError> + Send + 'static,
        status: Arc<Status>,
        batch_tokens_max: Option<usize>,
        gatherer_for: impl FnOnce(&EngineInfo, usize) -> Arc<Gatherer> + Send + 'static,
        score: impl Fn(Scored, &EngineInfo) + Send + 'static,
        measure_first: bool,
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
                // What the user has set holds; else the engine's own, or what measuring finds on a GPU.
                let found = batch_tokens_max.is_none() && engine.works_ahead();
                let facts = |batch_tokens_max| ModelFacts {
                    id: info.model_id.clone(),
                    device: info.device.clone(),
                    precision: info.precision.clone(),
                    attention: info.attention,
                    length_max: info.length_max,
                    batch_tokens_max,
                };
                let batch_tokens_max = batch_tokens_max.unwrap_or(info.batch_tokens);
                status.set_model(facts(batch_tokens_max));
                let gatherer = gatherer_for(&info, batch_tokens_max);
                if measure_first {
                    let measured = catch_unwind(AssertUnwindSafe(|| {
                        measure(engine.as_mut(), &tokenizer, &gatherer, found);
                    }));
                    if found {
                        let tokens_max = gatherer.tokens_max();
                        tracing::info!(tokens_max, "tokens of a batch, as measured");
                        status.set_model(facts(tokens_max));
                    }
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
    /// A forward pass of the dummy pair, as a sign of life: whether it gave a score.
    ///
    /// # Errors
    /// The reason, if the device is lost.
    fn beat(&self, engine: &mut dyn Engine) -> Result<bool, String> {
        let Some(dummy) = self.dummy.as_ref() else {
            // An idle engine must not look hung: that its thread turns is what there is to say.
            self.status.beat();
            return Ok(true);
        };
        match engine.score(&[dummy]) {
            Ok(logits) if logits.len() == 1 && logits[0].is_finite() => {
                self.status.beat();
                return Ok(true);
            }
            Ok(_) => tracing::error!("heart-beat: the model gave a score that is not a finite number"),
            Err(error @ EngineError::Fatal(_)) => return Err(error.to_string()),
            Err(error) => tracing::error!(%error, "heart-beat: the forward pass failed"),
        }
        Ok(false)
    }
}

fn scoreless_reason(batches: u32) -> String {
    format!("the last {batches} batches have no finite score, nor has a pair that had one when the worker started")
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

/// A batch that the device is at, or will be once it is through with the one before.
struct Flying {
    batch: Batch,
    begun: Result<Begun, EngineError>,
    /// When the device was free for it, as far as is known.
    since: Instant,
}

/// What serving works on.
struct Serving<'a, Score> {
    engine: &'a mut dyn Engine,
    gatherer: &'a Gatherer,
    info: &'a EngineInfo,
    watch: &'a Watch,
    budget: TokenBudget,
    /// When the device was last through with a batch.
    free_since: Option<Instant>,
    /// Batches and heart-beats in a row without a finite score.
    scoreless: u32,
    score: Score,
}

/// Serves until the gatherer is closed (`None`) or the device is lost (the reason).
///
/// An engine that works ahead is given a full batch while it is at another one, so that it never waits for the host; then
/// there are two under way, and never more.
fn serve(
    engine: &mut dyn Engine,
    gatherer: &Gatherer,
    info: &EngineInfo,
    watch: &Watch,
    score: impl Fn(Scored, &EngineInfo),
) -> Option<String> {
    let budget = TokenBudget::new(gatherer.tokens_max());
    let mut serving = Serving {
        engine,
        gatherer,
        info,
        watch,
        budget,
        free_since: None,
        scoreless: 0,
        score,
    };
    let mut flying: Option<Flying> = None;
    loop {
        let next = match &flying {
            None => match gatherer.next_batch() {
                None => return None,
                batch => batch,
            },
            Some(_) => gatherer.next_full_batch(),
        };
        let fatal = match (next, flying.take()) {
            (Some(batch), None) if batch.is_empty() => serving.idle(),
            (Some(batch), before) => {
                let next = serving.begin(batch, before.is_some());
                let fatal = before.and_then(|before| serving.end(before));
                if fatal.is_some() || next.begun.is_err() || !serving.engine.works_ahead() {
                    // Everything taken is ended, so that nobody waits for it.
                    let also = serving.end(next);
                    fatal.or(also)
                } else {
                    flying = Some(next);
                    None
                }
            }
            (None, Some(before)) => serving.end(before),
            (None, None) => None,
        };
        if fatal.is_some() {
            return fatal;
        }
    }
}

impl<Score: Fn(Scored, &EngineInfo)> Serving<'_, Score> {
    /// Nothing to do. The reason, if the device is lost.
    fn idle(&mut self) -> Option<String> {
        self.watch.status.device_memory(|| self.engine.device_memory());
        match self.watch.beat(self.engine) {
            Ok(true) => self.scoreless = 0,
            Ok(false) => self.scoreless += 1,
            Err(lost) => return Some(lost),
        }
        (self.scoreless >= SCORELESS_MAX).then(|| scoreless_reason(self.scoreless))
    }

    /// What a batch says of the model: nothing, if memory did not suffice for any pair of it.
    fn count_scores(&mut self, outcome: &Result<Outcome, EngineError>) {
        match outcome {
            Ok(outcome) if outcome.logits.iter().any(|logit| logit.is_finite()) => self.scoreless = 0,
            Ok(outcome) if outcome.unfit.len() == outcome.logits.len() => {}
            Ok(_) | Err(_) => self.scoreless += 1,
        }
    }

    /// Where no batch has a score any more: whether a pair has one that always had. The reason, if it has none either: this
    /// worker would take its share of the requests and answer none.
    fn try_model(&mut self) -> Option<String> {
        if self.scoreless < SCORELESS_MAX {
            return None;
        }
        match self.watch.beat(self.engine) {
            Ok(true) => {
                tracing::warn!(
                    batches = self.scoreless,
                    "no score of the last batches was a finite number, and that of a pair of ours is: their texts have none"
                );
                self.scoreless = 0;
                None
            }
            Ok(false) => Some(scoreless_reason(self.scoreless)),
            Err(lost) => Some(lost),
        }
    }

    /// `behind`: the device is at another batch.
    fn begin(&mut self, batch: Batch, behind: bool) -> Flying {
        let since = Instant::now();
        if !behind {
            self.watch.status.batch_begins(since);
        }
        let pairs = batch.pairs();
        let begun = batch.trace.in_scope(|| self.engine.begin(&pairs));
        drop(pairs);
        Flying { batch, begun, since }
    }

    /// Waits for a batch, books it and answers what is complete. The reason, if the device is lost.
    fn end(&mut self, flying: Flying) -> Option<String> {
        let Flying { batch, begun, since } = flying;
        // Behind another batch, the device came to this one when that was through.
        let since = self.free_since.map_or(since, |free| free.max(since));
        let pairs = batch.pairs();
        let tokens_max = self.budget.tokens();
        let outcome = batch.trace.in_scope(|| {
            let first = begun.and_then(|begun| self.engine.end(begun));
            score_halving(self.engine, &pairs, first)
        });
        let ended = Instant::now();
        self.free_since = Some(ended);
        let busy = ended - since;
        if let Ok(outcome) = &outcome {
            self.learn(outcome, pairs.len(), batch.tokens, busy);
        }
        metrics::counter!(names::ENGINE_BUSY_MICROSECONDS_TOTAL).increment(busy.as_micros() as u64);
        metrics::histogram!(names::BATCH_PAIRS).record(pairs.len() as f64);
        metrics::histogram!(names::BATCH_TOKENS).record(batch.tokens as f64);
        metrics::histogram!(names::BATCH_FILL_RATIO).record(batch.tokens as f64 / tokens_max as f64);
        let status = &self.watch.status;
        status.batch(pairs.len(), batch.tokens, busy, ended);
        if let Ok(outcome) = &outcome {
            status.beat();
            status.out_of_memory(outcome.out_of_memory);
        }
        status.device_memory(|| self.engine.device_memory());
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
        self.count_scores(&outcome);
        let finished = self.gatherer.finish(batch, outcome, busy);
        if self.gatherer.is_computing() {
            status.batch_begins(ended);
        }
        status.wasted(finished.wasted);
        for scored in finished.scored {
            (self.score)(scored, self.info);
        }
        fatal.or_else(|| self.try_model())
    }

    /// What a batch has taught of the device's memory and speed.
    fn learn(&mut self, outcome: &Outcome, pairs: usize, tokens: usize, busy: Duration) {
        let before = self.budget.tokens();
        if outcome.halved && pairs > 1 {
            self.budget.failed(outcome.fitted_tokens);
            let tokens_max = self.budget.tokens();
            tracing::warn!(tokens_max, "out of memory: batches are smaller from now on");
        } else if !outcome.halved {
            // A batch that was computed in pieces says nothing about the speed of a whole one.
            self.gatherer.measured(tokens, busy);
            self.budget.fitted(tokens);
        }
        if self.budget.tokens() != before {
            self.gatherer.set_tokens_max(self.budget.tokens());
        }
    }
}
