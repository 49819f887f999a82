//! The engine thread's side of gathering: waits for the next batch, and takes it.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::batch::{Decision, DeviceState, Slice};
use super::forward::{Batch, Part};
use super::gather::{Gatherer, State};
use crate::telemetry::traces::{BatchTrace, Stage};

/// Nothing to do for this long: the engine thread gets an empty batch, and shows that it is alive.
const IDLE_MAX: Duration = Duration::from_secs(5);

impl Gatherer {
    /// Waits for the next batch. For the engine thread alone. `None` after [`Gatherer::close`]; an empty batch when there
    /// was nothing to do for some seconds.
    pub fn next_batch(&self) -> Option<Batch> {
        // `None`: it has nothing to do.
        let mut free_since = Some(Instant::now());
        let mut state = self.lock();
        loop {
            if state.closed.is_some() {
                return None;
            }
            let now = Instant::now();
            let rate = self.queue.load().rate.clone();
            let tokens_max = state.batcher.tokens_max();
            let time = |tokens| rate.queue_time(tokens, tokens_max);
            let hopeless = refuse_expired(&mut state, now, time);
            if hopeless > 0 && free_since.is_none() {
                self.queue.load().doubt(hopeless);
            }
            let device = state.batcher.device_state(free_since, &rate);
            match state.batcher.poll(now, device, time) {
                Decision::Empty => {
                    free_since = None;
                    let waited = self.work.wait_timeout(state, IDLE_MAX);
                    let timeout;
                    (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    // Work that came at the last moment goes first.
                    if timeout.timed_out() && state.closed.is_none() && state.jobs.is_empty() {
                        return Some(Batch::empty(now));
                    }
                }
                Decision::Wait(until) => state = self.wait_until(state, now, until),
                Decision::Take(slices) => return Some(self.form(state, slices, now)),
            }
        }
    }

    /// A batch to be begun while the device is at another one, if a full one waits by the time that half of the other should
    /// be done. Not earlier, and nothing less than full: what is taken now misses what comes until the device is ready for
    /// it, and a full batch misses least. For the engine thread alone.
    pub fn next_full_batch(&self) -> Option<Batch> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let (rate, half_done_at, left) = {
                let load = self.queue.load();
                (load.rate.clone(), load.half_done_at(), load.running_left(now))
            };
            if state.closed.is_some() {
                return None;
            }
            if let Some(until) = half_done_at.filter(|&until| until > now) {
                state = self.wait_until(state, now, until);
                continue;
            }
            let tokens_max = state.batcher.tokens_max();
            if state.batcher.tokens() < tokens_max {
                return None;
            }
            // It begins when the device is through with what it has.
            let time = |tokens| left + rate.queue_time(tokens, tokens_max);
            refuse_expired(&mut state, now, time);
            if state.batcher.tokens() < tokens_max {
                return None;
            }
            return match state.batcher.poll(now, DeviceState::Idle, time) {
                Decision::Take(slices) => Some(self.form(state, slices, now)),
                Decision::Empty | Decision::Wait(_) => None,
            };
        }
    }

    fn wait_until<'a>(&self, state: MutexGuard<'a, State>, now: Instant, until: Instant) -> MutexGuard<'a, State> {
        let pause = until.saturating_duration_since(now);
        let waited = self.work.wait_timeout(state, pause);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn form(&self, mut state: MutexGuard<'_, State>, slices: Vec<Slice>, now: Instant) -> Batch {
        let mut batch = Batch::empty(now);
        batch.parts.reserve(slices.len());
        // Stays empty, and without memory, where there are no spans.
        let mut traced = Vec::new();
        let mut pairs = 0;
        for slice in slices {
            // Every job the batcher knows is in the book: both are changed under one lock.
            if let Some(job) = state.jobs.get_mut(&slice.job) {
                if job.first_batch_at.is_none() {
                    job.first_batch_at = Some(now);
                    job.ticket.begin_stage(Stage::Infer);
                }
                traced.extend(job.ticket.trace().in_batch());
                pairs += slice.pairs.len();
                job.ticket.tokens_taken(slice.tokens);
                batch.tokens += slice.tokens;
                batch.parts.push(Part {
                    job: slice.job,
                    range: slice.pairs,
                    tokens: slice.tokens,
                    pairs: job.pairs.clone(),
                });
            }
        }
        self.queue.load().start(now, batch.tokens);
        drop(state);
        batch.trace = BatchTrace::begin(&traced, batch.parts.len(), pairs, batch.tokens);
        batch
    }
}

/// The tokens of the smallest request that could have been begun and was refused for the predicted time alone, else 0.
pub(super) fn refuse_expired(state: &mut State, now: Instant, time: impl Fn(usize) -> Duration) -> usize {
    let mut hopeless = 0;
    for (id, deadline) in state.batcher.expire(now, time) {
        if let Some(job) = state.jobs.remove(&id) {
            if deadline > now {
                let tokens = job.cost.tokens as usize;
                hopeless = if hopeless == 0 { tokens } else { tokens.min(hopeless) };
                job.ticket.refuse_hopeless();
            } else {
                job.ticket.refuse_expired("while waiting for the device");
            }
        }
    }
    hopeless
}
