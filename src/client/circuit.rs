//! The circuit as calls share it: the lock, the clock, and the metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::breaker::{Breaker, BreakerSettings, CircuitState, Pass, Verdict};
use super::record;

/// The circuit of a reranker; without settings it is always closed.
#[derive(Debug)]
pub(super) struct Circuit {
    breaker: Option<Mutex<Breaker>>,
    slow: Option<Duration>,
}

/// Leave to call. Dropped without a verdict (the call was given up), it says nothing about the fleet.
#[derive(Debug)]
pub(super) struct Passage<'a> {
    circuit: &'a Circuit,
    pass: Option<Pass>,
    began: Instant,
}

impl Circuit {
    pub(super) fn new(settings: Option<BreakerSettings>) -> Circuit {
        Circuit {
            slow: settings.and_then(|settings| settings.slow),
            breaker: settings.map(|settings| Mutex::new(Breaker::new(settings))),
        }
    }

    pub(super) fn state(&self) -> CircuitState {
        let breaker = self.breaker.as_ref().map(lock);
        breaker.map_or(CircuitState::Closed, |breaker| breaker.state())
    }

    /// Leave to call, if there is any.
    pub(super) fn enter(&self) -> Option<Passage<'_>> {
        let began = Instant::now();
        let pass = match &self.breaker {
            Some(breaker) => Some(change(&mut lock(breaker), |breaker| breaker.pass(began))?),
            None => None,
        };
        Some(Passage {
            circuit: self,
            pass,
            began,
        })
    }
}

impl Passage<'_> {
    /// The call has ended.
    pub(super) fn end(mut self, verdict: Verdict) {
        let now = Instant::now();
        let is_slow = self.circuit.slow.is_some_and(|slow| now - self.began > slow);
        self.bring_back(
            if verdict == Verdict::Good && is_slow {
                Verdict::Bad
            } else {
                verdict
            },
            now,
        );
    }

    fn bring_back(&mut self, verdict: Verdict, now: Instant) {
        if let (Some(pass), Some(breaker)) = (self.pass.take(), &self.circuit.breaker) {
            change(&mut lock(breaker), |breaker| breaker.end(pass, verdict, now));
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.bring_back(Verdict::Mute, self.began);
    }
}

fn lock(breaker: &Mutex<Breaker>) -> MutexGuard<'_, Breaker> {
    // Its steps do not panic half-way; and a panic elsewhere is no reason not to call.
    breaker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what may turn the state, and tells of it.
fn change<R>(breaker: &mut Breaker, change: impl FnOnce(&mut Breaker) -> R) -> R {
    let before = breaker.state();
    let result = change(breaker);
    let after = breaker.state();
    if before != after {
        record::circuit_turned(after);
        match after {
            CircuitState::Open if before == CircuitState::Closed => {
                tracing::warn!("reranking has failed or was slow of late: not asking for a while");
            }
            CircuitState::Closed => tracing::info!("reranking works again"),
            state => tracing::debug!(state = state.name(), "circuit"),
        }
    }
    result
}
