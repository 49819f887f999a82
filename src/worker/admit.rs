//! Admission: what may wait, and how much of it.
//!
//! Bounded by requests, pairs and bytes, and by time: what could not be ready within its budget, by the measured rate of
//! the device, and what would make an admitted request late. What does not fit is refused at once (429), so its caller
//! keeps the ANN order without waiting.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::decode::Decoded;
use super::load::{Late, Load, WorkId};
use super::ticket::Ticket;
use crate::protocol::{Refusal, RefusalKind, RefusalScope, Request};
use crate::telemetry::names;
use crate::telemetry::traces::Stage;

/// The bounds of the queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Unanswered requests.
    pub requests_max: usize,
    /// Their pairs.
    pub pairs_max: usize,
    /// Bytes of their bodies.
    pub bytes_max: usize,
}

/// What waits in this worker, from admission to the answer's leaving.
#[derive(Debug)]
pub struct Queue {
    limits: QueueLimits,
    requests: AtomicUsize,
    pairs: AtomicUsize,
    bytes: AtomicUsize,
    load: Mutex<Load>,
    /// Fullness from which `pressure` is told.
    pressure_at: f64,
    /// Told when the queue is past `pressure_at`.
    pressure: Notify,
    /// Told when the last request has left.
    idle: Notify,
}

/// An admitted request.
#[derive(Debug)]
pub struct Admitted {
    /// Its ticket, which now holds its share of the queue.
    pub ticket: Ticket,
    /// The request.
    pub request: Request,
}

/// A request's part of the queue; dropped, it is given back.
#[derive(Debug)]
pub struct Share {
    queue: Arc<Queue>,
    pairs: usize,
    bytes: usize,
    /// Its part of the device's time; `None` for one that was not admitted.
    work: Option<WorkId>,
    /// Its tokens in all: estimated until they are counted.
    tokens: AtomicUsize,
}

/// A request that would not be ready in `budget` on an idle device is refused for its own sake, whatever else is here.
fn scope(load: &Load, tokens: usize, budget: Duration) -> RefusalScope {
    if load.time_alone(tokens) > budget {
        RefusalScope::Request
    } else {
        RefusalScope::Worker
    }
}

impl Queue {
    /// An empty queue. `budget`: what callers are taken to allow until some have said it; [`Queue::pressure`] tells of
    /// fullness from `pressure_at` on.
    pub fn new(limits: QueueLimits, budget: Duration, pressure_at: f64) -> Arc<Queue> {
        Arc::new(Queue {
            limits,
            requests: AtomicUsize::new(0),
            pairs: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            load: Mutex::new(Load::new(budget)),
            pressure_at,
            pressure: Notify::new(),
            idle: Notify::new(),
        })
    }

    /// The load in time. Held for an instant only; nothing else may be locked meanwhile.
    pub fn load(&self) -> MutexGuard<'_, Load> {
        // Every change of it is whole: a panic meanwhile leaves nothing half done.
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How full this worker is: the greatest share of any bound; 1 is full.
    pub fn fullness(&self, now: Instant) -> f64 {
        let share = |taken: &AtomicUsize, max: usize| taken.load(Ordering::Relaxed) as f64 / max.max(1) as f64;
        share(&self.requests, self.limits.requests_max)
            .max(share(&self.pairs, self.limits.pairs_max))
            .max(share(&self.bytes, self.limits.bytes_max))
            .max(self.load().fullness(now))
    }

    /// Fullness as far as it is a reason to leave the group: 0 while at most one request is here. A lone request fills a small
    /// bound, and a slow device, by itself, and nothing waits behind it.
    pub fn crowding(&self, now: Instant) -> f64 {
        if self.requests() <= 1 { 0.0 } else { self.fullness(now) }
    }

    /// How much of a bound is asked for: one at least, so that an idle worker has room for a request whatever the bound.
    fn mark(&self, max: usize) -> usize {
        ((max as f64 * self.pressure_at) as usize).clamp(1, max.max(1))
    }

    /// How many more requests there is room for before the mark at which the group is left; `None`: it is never left. One
    /// while nothing is here, even if the prediction is against it, see [`Load::may_try`].
    pub fn room(&self, now: Instant) -> Option<u64> {
        if self.pressure_at.is_infinite() {
            return None;
        }
        let requests = self.requests();
        let by_count = self.mark(self.limits.requests_max).saturating_sub(requests);
        let pairs = self.pairs.load(Ordering::Relaxed);
        let bytes = self.bytes.load(Ordering::Relaxed);
        // Pairs and bytes by what a request here has on average; without any, they are far from their bounds.
        let fit = |taken: usize, max: usize| {
            let each = taken.checked_div(requests).unwrap_or(0).max(1);
            self.mark(max).saturating_sub(taken) / each
        };
        let load = self.load();
        let room = by_count
            .min(fit(pairs, self.limits.pairs_max))
            .min(fit(bytes, self.limits.bytes_max))
            .min(load.room(now, self.pressure_at));
        let tries = requests == 0 && load.may_try(now);
        Some(room.max(usize::from(tries)) as u64)
    }

    /// Waits until the queue is about to be full.
    pub async fn pressure(&self) {
        self.pressure.notified().await;
    }

    /// Waits until the last request has left: then there is room again, and the next caller may ask at once.
    pub async fn idle(&self) {
        self.idle.notified().await;
    }

    /// Unanswered requests now.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }

    /// Admits a request or refuses it; refused, it is answered and `None` comes back.
    pub fn admit(self: &Arc<Queue>, decoded: Decoded, now: Instant) -> Option<Admitted> {
        let Decoded {
            mut ticket,
            request,
            bytes,
        } = decoded;
        let (received_at, deadline) = (ticket.received_at(), ticket.deadline());
        let budget = deadline.saturating_duration_since(received_at);
        let (tokens, scope) = self.estimate(budget, &request);
        if ticket.expired(now) {
            ticket.refuse_expired_of("before the worker took the request", scope);
            return None;
        }
        let taken = self.take(request.documents.len(), bytes).and_then(|mut share| {
            let work = self.take_time(now, deadline, budget, tokens)?;
            (share.work, share.tokens) = (Some(work), AtomicUsize::new(tokens));
            Ok(share)
        });
        // What an idle worker would refuse is refused for that, whatever else is in its way.
        let taken = taken.map_err(|refusal| match scope {
            RefusalScope::Request => refusal.with_scope(scope),
            RefusalScope::Worker => refusal,
        });
        let admitted = match taken {
            Ok(share) => {
                ticket.set_share(share);
                ticket.begin_stage(Stage::Queue);
                Some(Admitted { ticket, request })
            }
            Err(refusal) => {
                ticket.refuse(refusal);
                None
            }
        };
        if self.crowding(now) >= self.pressure_at {
            self.pressure.notify_one();
        }
        admitted
    }

    /// About how many tokens the request has, and whom a refusal for want of time says something about.
    fn estimate(&self, budget: Duration, request: &Request) -> (usize, RefusalScope) {
        let documents = request.documents.iter().map(|document| document.text.len());
        let load = self.load();
        let tokens = load.estimate(request.query.len(), documents);
        (tokens, scope(&load, tokens, budget))
    }

    fn take_time(&self, now: Instant, deadline: Instant, budget: Duration, tokens: usize) -> Result<WorkId, Refusal> {
        let mut load = self.load();
        load.learn_request(now, budget, tokens);
        let Err(late) = load.check(now, deadline, tokens) else {
            return Ok(load.add(deadline, tokens));
        };
        // A worker that is idle refuses it: that is what the scope says.
        let scope = if load.is_idle() {
            RefusalScope::Request
        } else {
            RefusalScope::Worker
        };
        if load.is_idle() && load.may_doubt(now) {
            load.doubt(tokens);
        }
        let left = deadline.saturating_duration_since(now).as_millis();
        let why = match late {
            Late::Itself(wait) => format!(
                "the scores would be ready in {} ms by this worker's measured speed, and {left} ms of the budget of {} ms \
                 are left",
                wait.as_millis(),
                budget.as_millis()
            ),
            Late::Others(wait) => format!(
                "the scores would be ready in {} ms, within the {left} ms that are left of the budget, but would make an \
                 admitted request late",
                wait.as_millis()
            ),
        };
        Err(Refusal::new(RefusalKind::Overloaded, why).with_scope(scope))
    }

    fn take(self: &Arc<Queue>, pairs: usize, bytes: usize) -> Result<Share, Refusal> {
        let QueueLimits {
            requests_max,
            pairs_max,
            bytes_max,
        } = self.limits;
        // The share is made first and given back by its drop, so that a refusal halfway leaves nothing behind.
        let share = Share {
            queue: self.clone(),
            pairs,
            bytes,
            work: None,
            tokens: AtomicUsize::new(0),
        };
        let taken = [
            (
                self.requests.fetch_add(1, Ordering::AcqRel) + 1,
                requests_max,
                "requests",
            ),
            (
                self.pairs.fetch_add(pairs, Ordering::AcqRel) + pairs,
                pairs_max,
                "pairs",
            ),
            (
                self.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes,
                bytes_max,
                "bytes",
            ),
        ];
        self.publish();
        // A request that is alone is taken whatever its size, or no worker would ever take it; what one request may hold is
        // bounded by `limits` and by the NATS server's max_payload.
        let alone = taken[0].0 == 1;
        for (now, max, unit) in taken {
            if now > max && !alone {
                return Err(Refusal::new(
                    RefusalKind::Overloaded,
                    format!("the queue is full: queue.{unit}_max is {max} and this request would make it {now}"),
                ));
            }
        }
        Ok(share)
    }

    fn publish(&self) {
        metrics::gauge!(names::QUEUE_REQUESTS).set(self.requests.load(Ordering::Relaxed) as f64);
        metrics::gauge!(names::QUEUE_PAIRS).set(self.pairs.load(Ordering::Relaxed) as f64);
        metrics::gauge!(names::QUEUE_BYTES).set(self.bytes.load(Ordering::Relaxed) as f64);
    }
}

impl Share {
    /// Sets how many of its tokens the device has yet to take: the estimate gives way to the real number.
    pub fn set_tokens_left(&self, tokens: usize) {
        self.tokens.store(tokens, Ordering::Relaxed);
        if let Some(work) = self.work {
            self.queue.load().set_left(work, tokens);
        }
    }

    /// Whom a refusal for want of time says something about, where the caller allows `budget` in all.
    pub fn scope(&self, budget: Duration) -> RefusalScope {
        scope(&self.queue.load(), self.tokens.load(Ordering::Relaxed), budget)
    }

    /// The device has begun with this many of its tokens.
    pub fn tokens_taken(&self, tokens: usize) {
        if let Some(work) = self.work {
            let mut load = self.queue.load();
            let left = load.left(work).saturating_sub(tokens);
            load.set_left(work, left);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(work) = self.work {
            self.queue.load().remove(work);
        }
        let requests = self.queue.requests.fetch_sub(1, Ordering::AcqRel) - 1;
        self.queue.pairs.fetch_sub(self.pairs, Ordering::AcqRel);
        self.queue.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.queue.publish();
        if requests == 0 {
            self.queue.idle.notify_one();
        }
    }
}

#[cfg(test)]
#[path = "admit_tests.rs"]
mod tests;
