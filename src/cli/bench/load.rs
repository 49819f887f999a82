//! The load itself: callers in a closed loop, or arrivals on a schedule of their own.
//!
//! In an open loop a request's time and its budget count from when it was *due*, whatever kept it from leaving then: a
//! sender that waits for slow answers before it sends on would leave out the very requests that had to wait
//! ("coordinated omission").

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::schedule::Schedule;
use super::tally::{Ended, Ending, NotSent, Tally};
use crate::client::{CallError, CallOptions, Caller};
use crate::protocol::{RefusalKind, RefusalScope, Request};

/// Before the first arrival of a schedule, so that it finds everything in place.
const START_AHEAD: Duration = Duration::from_millis(5);

/// What is sent, and how.
pub(super) struct Load {
    pub(super) caller: Caller,
    /// Its time-out is the budget of a request.
    pub(super) options: CallOptions,
    /// Sent in turn; not empty.
    pub(super) requests: Vec<Request>,
    /// How often an `overloaded` request is asked again.
    pub(super) retries: u8,
}

/// A run's book, and how long it took from the first request to the last ending.
pub(super) struct Done {
    pub(super) tally: Tally,
    pub(super) took: Duration,
}

impl Load {
    /// Callers that each wait for the end of a request before they ask again: at most `requests`, begun within `window`.
    pub(super) async fn closed(
        self: &Arc<Self>,
        callers: u64,
        requests: u64,
        window: Option<Duration>,
        bar: &ProgressBar,
    ) -> Done {
        let tally = Arc::<Mutex<Tally>>::default();
        let turn = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let tasks: Vec<_> = (0..callers.min(requests))
            .map(|_| {
                let (load, tally, turn, bar) = (self.clone(), tally.clone(), turn.clone(), bar.clone());
                tokio::spawn(async move {
                    while window.is_none_or(|window| started.elapsed() < window) {
                        let number = turn.fetch_add(1, Ordering::Relaxed);
                        if number >= requests {
                            break;
                        }
                        let ended = load.ask(number, started, Instant::now()).await;
                        enter(&tally, ended);
                        bar.inc(1);
                    }
                })
            })
            .collect();
        for task in tasks {
            // A task that panicked has nothing to add; its request is missing from the count.
            let _ = task.await;
        }
        close(&tally, started)
    }

    /// Sends each request when it is due, whether those before were answered or not; `in_flight_max` are under way at
    /// most, and what is due beyond is not sent. Ends when the last one has.
    pub(super) async fn open(
        self: &Arc<Self>,
        schedule: Schedule,
        tally: Tally,
        in_flight_max: u32,
        bar: &ProgressBar,
    ) -> Done {
        let tally = Arc::new(Mutex::new(tally));
        let places = Arc::new(Semaphore::new(in_flight_max as usize));
        let started = Instant::now() + START_AHEAD;
        let arrivals = {
            let (load, tally, places, bar) = (self.clone(), tally.clone(), places.clone(), bar.clone());
            let runtime = Handle::current();
            // On a thread of its own: the runtime's timer counts whole milliseconds, and would be late by as much.
            tokio::task::spawn_blocking(move || {
                for (number, offset) in (0..).zip(schedule) {
                    let due = started + offset;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let Ok(place) = places.clone().try_acquire_owned() else {
                        enter(&tally, not_sent(offset, due, NotSent::InFlightLimit));
                        bar.inc(1);
                        continue;
                    };
                    let (load, tally, bar) = (load.clone(), tally.clone(), bar.clone());
                    runtime.spawn(async move {
                        let ended = load.ask(number, started, due).await;
                        enter(&tally, ended);
                        bar.inc(1);
                        drop(place);
                    });
                }
            })
        };
        let _ = arrivals.await;
        // Every request gives its place back at the end of its budget at the latest. The semaphore is never closed.
        let _ = places.acquire_many(in_flight_max).await;
        close(&tally, started)
    }

    /// One request that is due at `due`, again after a refusal for want of room if that is wanted.
    async fn ask(&self, number: u64, started: Instant, due: Instant) -> Ended {
        let request = &self.requests[(number % self.requests.len() as u64) as usize];
        let offset = due.saturating_duration_since(started);
        let lag = due.elapsed();
        let left = |due: Instant| self.options.timeout.saturating_sub(due.elapsed());
        if left(due).is_zero() {
            return not_sent(offset, due, NotSent::SenderLate);
        }
        let mut tries = 0;
        let (ending, worker, model) = loop {
            tries += 1;
            let options = CallOptions {
                timeout: left(due),
                ..self.options.clone()
            };
            match self.caller.rerank(request, &options).await {
                Ok(answer) => {
                    let usage = answer.reply.usage;
                    let answered = Ending::Answered {
                        pairs: usage.pairs,
                        tokens: usage.tokens,
                    };
                    break (answered, answer.worker, Some(answer.reply.model));
                }
                Err(CallError::Refused { refusal, .. })
                    if refusal.kind == RefusalKind::Overloaded
                        && refusal.scope == RefusalScope::Worker
                        && tries <= self.retries
                        && !left(due).is_zero() => {}
                Err(error) => {
                    let ending = Ending::of(&error);
                    let worker = match error {
                        CallError::Refused { worker, .. } => worker,
                        _ => None,
                    };
                    break (ending, worker, None);
                }
            }
        };
        if matches!(ending, Ending::NotSent(_)) {
            tries -= 1;
        }
        let took = due.elapsed();
        Ended {
            due: offset,
            took,
            lag: Some(lag),
            tries,
            worker,
            model,
            ending: ending.within(took, self.options.timeout),
        }
    }
}

fn not_sent(offset: Duration, due: Instant, why: NotSent) -> Ended {
    Ended {
        due: offset,
        took: due.elapsed(),
        lag: None,
        tries: 0,
        worker: None,
        model: None,
        ending: Ending::NotSent(why),
    }
}

fn enter(tally: &Mutex<Tally>, ended: Ended) {
    tally.lock().unwrap_or_else(PoisonError::into_inner).add(ended);
}

fn close(tally: &Mutex<Tally>, started: Instant) -> Done {
    let tally = std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner));
    Done {
        tally,
        took: started.elapsed(),
    }
}
