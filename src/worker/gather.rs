//! Gathers pairs of many requests into batches, and the logits of batches back into requests.
//!
//! Stands between the tokenizer threads, which push, and the one engine thread, which takes a batch when it is ready
//! for one: there is no backlog of formed batches, so the next batch grows while the device works. The decisions are
//! the pure batcher's (`batch`); here are the lock and the book of who awaits which logits, in `next` is the waiting.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::admit::Queue;
use super::batch::{BatchPolicy, Batcher, Job, JobId};
use super::fit::Outcome;
use super::forward::{Batch, Cost, Finished, Scored};
use super::next::refuse_expired;
use super::scores::{Known, PairKey, ScoreCache};
use super::ticket::Ticket;
use super::tokenize::Tokenized;
use crate::model::engine::EngineError;
use crate::model::tokenizer::PairTokens;
use crate::protocol::{Refusal, RefusalKind, RefusalScope, Request};
use crate::telemetry::traces::Stage;

pub(super) struct InProgress {
    pub(super) ticket: Ticket,
    request: Request,
    /// Those that have to be computed.
    pub(super) pairs: Arc<[PairTokens]>,
    /// The document of each of these; empty: they are all the documents, in order.
    places: Vec<usize>,
    /// One for each document, where scores are kept.
    keys: Vec<PairKey>,
    /// One for each document.
    logits: Vec<f32>,
    missing: usize,
    pushed_at: Instant,
    pub(super) first_batch_at: Option<Instant>,
    pub(super) cost: Cost,
}

/// A request's pairs, sorted by whether their scores are known. See [`InProgress`].
struct Pieces {
    keys: Vec<PairKey>,
    logits: Vec<f32>,
    places: Vec<usize>,
    pairs: Vec<PairTokens>,
}

pub(super) struct State {
    pub(super) batcher: Batcher,
    pub(super) jobs: HashMap<JobId, InProgress>,
    next_id: JobId,
    /// Set once: nothing is taken in any more, and this is why.
    pub(super) closed: Option<Refusal>,
}

/// See the module.
pub struct Gatherer {
    state: Mutex<State>,
    /// Whose load this works off.
    pub(super) queue: Arc<Queue>,
    /// Scores that need not be computed again.
    scores: Option<Arc<ScoreCache>>,
    /// Wakes the engine thread.
    pub(super) work: Condvar,
    /// Wakes the task that answers what expires.
    deadlines: Notify,
}

impl Gatherer {
    /// An empty one. `scores`: those that were computed by this very engine.
    pub fn new(policy: BatchPolicy, queue: Arc<Queue>, scores: Option<Arc<ScoreCache>>) -> Arc<Gatherer> {
        Arc::new(Gatherer {
            state: Mutex::new(State {
                batcher: Batcher::new(policy),
                jobs: HashMap::new(),
                next_id: 0,
                closed: None,
            }),
            queue,
            scores,
            work: Condvar::new(),
            deadlines: Notify::new(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held leaves at worst a job without its logits; its ticket still answers.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a tokenized request in; its pairs must not be empty. It comes back at once if the score of each is known. After
    /// [`Gatherer::close`] it is refused.
    pub fn push(&self, tokenized: Tokenized) -> Option<Scored> {
        let now = Instant::now();
        let Tokenized {
            mut ticket,
            request,
            pairs,
            waited,
            tokenize,
        } = tokenized;
        let deadline = ticket.deadline();
        let count = pairs.len();
        let tokens = pairs.iter().map(|pair| pair.ids.len() as u64).sum();
        let truncated = pairs.iter().filter(|pair| pair.truncated).count() as u64;
        let Pieces {
            keys,
            logits,
            places,
            pairs,
        } = self.pieces(pairs);
        let lengths: Vec<u32> = pairs.iter().map(|pair| pair.ids.len() as u32).collect();
        let cost = Cost {
            tokens,
            truncated,
            cached: (count - pairs.len()) as u64,
            queue: waited,
            tokenize,
            infer: Duration::ZERO,
        };
        ticket.trace().set_tokens(cost.tokens);
        ticket.begin_stage(Stage::Queue);
        let mut state = self.lock();
        if let Some(refusal) = state.closed.clone() {
            drop(state);
            ticket.refuse(refusal);
            return None;
        }
        if pairs.is_empty() {
            drop(state);
            ticket.set_tokens_left(0);
            return Some(Scored {
                ticket,
                request,
                logits,
                cost,
            });
        }
        let id = state.next_id;
        state.next_id += 1;
        // What is known already is no work for the device, and no part of what it is measured by.
        ticket.set_tokens_left(lengths.iter().map(|&tokens| tokens as usize).sum());
        let missing = pairs.len();
        let in_progress = InProgress {
            ticket,
            request,
            pairs: pairs.into(),
            places,
            keys,
            logits,
            missing,
            pushed_at: now,
            first_batch_at: None,
            cost,
        };
        state.jobs.insert(id, in_progress);
        state.batcher.push(Job { id, deadline, lengths });
        let is_next = state.batcher.next_deadline() == Some(deadline);
        drop(state);
        self.work.notify_one();
        if is_next {
            self.deadlines.notify_one();
        }
        None
    }

    /// Which pairs have to be computed.
    fn pieces(&self, pairs: Vec<PairTokens>) -> Pieces {
        let Some(scores) = &self.scores else {
            return Pieces {
                keys: Vec::new(),
                logits: vec![f32::NAN; pairs.len()],
                places: Vec::new(),
                pairs,
            };
        };
        let Known { keys, logits } = scores.look_up(&pairs);
        let missing = pairs
            .into_iter()
            .enumerate()
            .filter(|(place, _)| logits[*place].is_nan());
        let (places, pairs) = missing.unzip();
        Pieces {
            keys,
            logits,
            places,
            pairs,
        }
    }

    /// Books the outcome of a batch that took `busy`; what is complete comes back. Where the batch failed, every request with a pair in
    /// it is refused, and so is one whose logit is not finite or that has a pair too large for the device, alone.
    pub fn finish(&self, batch: Batch, outcome: Result<Outcome, EngineError>, busy: Duration) -> Finished {
        let now = Instant::now();
        self.queue.load().finish(now);
        let mut done = Finished::default();
        let mut state = self.lock();
        for part in &batch.parts {
            let spent = busy.mul_f64(part.tokens as f64 / batch.tokens.max(1) as f64);
            match state.jobs.get_mut(&part.job) {
                Some(job) => job.ticket.add_device_time(spent),
                None => done.wasted += spent,
            }
        }
        let Outcome { logits, unfit, .. } = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                let kind = if matches!(error, EngineError::Fatal(_)) {
                    RefusalKind::Unavailable
                } else {
                    RefusalKind::Internal
                };
                for part in &batch.parts {
                    fail(
                        &mut state,
                        part.job,
                        Refusal::new(kind, "the model failed on this batch"),
                    );
                }
                return done;
            }
        };
        let mut rest = logits.as_slice();
        let mut first_pair = 0;
        for part in &batch.parts {
            let places = first_pair..first_pair + part.range.len();
            first_pair = places.end;
            if unfit.iter().any(|place| places.contains(place)) {
                fail(
                    &mut state,
                    part.job,
                    Refusal::new(
                        RefusalKind::Internal,
                        "the device has no memory for one of the pairs; send shorter documents",
                    )
                    .with_scope(RefusalScope::Request),
                );
                rest = rest.get(part.range.len()..).unwrap_or_default();
                continue;
            }
            let (logits, behind) = rest.split_at(part.range.len().min(rest.len()));
            rest = behind;
            if logits.iter().any(|logit| !logit.is_finite()) || logits.len() < part.range.len() {
                fail(
                    &mut state,
                    part.job,
                    Refusal::new(
                        RefusalKind::Internal,
                        "the model gave a score that is not a finite number",
                    ),
                );
                continue;
            }
            // A job that expired or failed meanwhile has left the book: its logits are discarded.
            let Some(job) = state.jobs.get_mut(&part.job) else {
                continue;
            };
            if job.places.is_empty() {
                job.logits[part.range.clone()].copy_from_slice(logits);
            } else {
                for (&place, &logit) in job.places[part.range.clone()].iter().zip(logits) {
                    job.logits[place] = logit;
                }
            }
            job.missing -= part.range.len();
            if job.missing == 0
                && let Some(job) = state.jobs.remove(&part.job)
            {
                if let Some(scores) = &self.scores {
                    for &place in &job.places {
                        scores.insert(job.keys[place], job.logits[place]);
                    }
                }
                let first = job.first_batch_at.unwrap_or(batch.started_at);
                let mut cost = job.cost;
                cost.queue += first.saturating_duration_since(job.pushed_at);
                cost.infer = now.saturating_duration_since(first);
                done.scored.push(Scored {
                    ticket: job.ticket,
                    request: job.request,
                    logits: job.logits,
                    cost,
                });
            }
        }
        done
    }

    /// Whether the device has been given a batch and is not through with it.
    pub fn is_computing(&self) -> bool {
        self.queue.load().running_since().is_some()
    }

    /// Tokens of the batches to come.
    pub fn tokens_max(&self) -> usize {
        self.lock().batcher.tokens_max()
    }

    /// Sets the tokens of the batches to come.
    pub fn set_tokens_max(&self, tokens_max: usize) {
        self.lock().batcher.set_tokens_max(tokens_max);
        self.queue.load().set_batch_tokens(tokens_max);
    }

    /// Books how long a batch of that size took.
    pub fn measured(&self, tokens: usize, busy: Duration) {
        self.queue.load().observe(Instant::now(), tokens, busy);
    }

    /// Takes nothing in any more, refuses all that waits or is being computed, and ends the engine thread's waiting.
    pub fn close(&self, refusal: Refusal) {
        let jobs = {
            let mut state = self.lock();
            let refusal = state.closed.get_or_insert(refusal).clone();
            let ids: Vec<(JobId, Instant)> = state
                .jobs
                .iter()
                .map(|(&id, job)| (id, job.ticket.deadline()))
                .collect();
            for (id, deadline) in ids {
                state.batcher.remove(id, deadline);
            }
            (std::mem::take(&mut state.jobs), refusal)
        };
        self.work.notify_all();
        for (_, job) in jobs.0 {
            job.ticket.refuse(jobs.1.clone());
        }
    }

    /// Answers what expires while it waits, at the moment it expires, also while the device is busy with one long
    /// batch. Runs until it is dropped.
    pub async fn watch_deadlines(&self) {
        loop {
            let next = {
                let mut state = self.lock();
                refuse_expired(&mut state, Instant::now(), |_| Duration::ZERO);
                state.batcher.next_deadline()
            };
            match next {
                None => self.deadlines.notified().await,
                Some(deadline) => {
                    // Woken early by a push with an earlier deadline.
                    let _ = tokio::time::timeout_at(deadline.into(), self.deadlines.notified()).await;
                }
            }
        }
    }
}

fn fail(state: &mut State, id: JobId, refusal: Refusal) {
    if let Some(job) = state.jobs.remove(&id) {
        state.batcher.remove(id, job.ticket.deadline());
        job.ticket.refuse(refusal);
    }
}
