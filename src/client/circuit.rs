//! The circuit as calls share it: the lock, the clock, and the metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::breaker::{Breaker, BreakerSettings, CircuitState, Pass, Verdict};
use super::reranked::Missing;
use super::size_class::SIZE_CLASSES;
use super::{AnnReason, record};

/// A size that was not called for this long says nothing about the present.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The circuit of a reranker, one for each size of calls; without settings it is always closed.
#[derive(Debug)]
pub(super) struct Circuit {
    breakers: Option<Mutex<[ClassCircuit; SIZE_CLASSES]>>,
    slow: Option<Duration>,
}

/// The circuit for calls of one size.
#[derive(Debug)]
struct ClassCircuit {
    breaker: Breaker,
    /// Why it opened, until it closes again.
    opened_by: Option<FailureCause>,
    used_at: Option<Instant>,
}

/// What a call has failed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureCause {
    NoScores(AnnReason),
    Slow,
}

/// Leave to call. Dropped without a verdict (the call was given up), it says nothing about the fleet.
#[derive(Debug)]
pub(super) struct Passage<'a> {
    circuit: &'a Circuit,
    size_class: usize,
    pass: Option<Pass>,
    began: Instant,
}

impl Circuit {
    pub(super) fn new(settings: Option<BreakerSettings>) -> Circuit {
        Circuit {
            slow: settings.and_then(|settings| settings.slow),
            breakers: settings.map(|settings| {
                Mutex::new(std::array::from_fn(|_| ClassCircuit {
                    breaker: Breaker::new(settings),
                    opened_by: None,
                    used_at: None,
                }))
            }),
        }
    }

    /// Of the sizes that were called of late, the state of the worst.
    pub(super) fn state(&self) -> CircuitState {
        let Some(breakers) = &self.breakers else {
            return CircuitState::Closed;
        };
        let now = Instant::now();
        let breakers = lock(breakers);
        let of_late = breakers.iter().filter(|class| {
            class
                .used_at
                .is_some_and(|at| now.saturating_duration_since(at) < FORGOTTEN_AFTER)
        });
        let severity = |state: &CircuitState| match state {
            CircuitState::Closed => 0,
            CircuitState::HalfOpen => 1,
            CircuitState::Open => 2,
        };
        of_late
            .map(|class| class.breaker.state())
            .max_by_key(severity)
            .unwrap_or(CircuitState::Closed)
    }

    /// Leave to make a call of this size.
    ///
    /// # Errors
    /// The circuit is open; with what opened it.
    pub(super) fn enter(&self, size_class: usize) -> Result<Passage<'_>, Missing> {
        let began = Instant::now();
        let pass = match &self.breakers {
            Some(breakers) => {
                let class = &mut lock(breakers)[size_class];
                class.used_at = Some(began);
                let pass = change(class, |breaker| breaker.pass(began));
                Some(pass.ok_or_else(|| Missing {
                    reason: AnnReason::CircuitOpen,
                    detail: class.opened_by.map(|cause| match cause {
                        FailureCause::NoScores(reason) => format!("calls of this size have failed of late: {reason}"),
                        FailureCause::Slow => "calls of this size were slow of late".to_owned(),
                    }),
                    scope: None,
                })?)
            }
            None => None,
        };
        Ok(Passage {
            circuit: self,
            size_class,
            pass,
            began,
        })
    }
}

impl Passage<'_> {
    /// The call has ended. `reason`: why it has no scores, if it has none.
    pub(super) fn end(mut self, verdict: Verdict, reason: Option<AnnReason>) {
        let now = Instant::now();
        let is_slow = self.circuit.slow.is_some_and(|slow| now - self.began > slow);
        let (verdict, cause) = match verdict {
            Verdict::Good if is_slow => (Verdict::Bad, Some(FailureCause::Slow)),
            verdict => (verdict, reason.map(FailureCause::NoScores)),
        };
        self.bring_back(verdict, cause, now);
    }

    fn bring_back(&mut self, verdict: Verdict, cause: Option<FailureCause>, now: Instant) {
        if let (Some(pass), Some(breakers)) = (self.pass.take(), &self.circuit.breakers) {
            let class = &mut lock(breakers)[self.size_class];
            change(class, |breaker| breaker.end(pass, verdict, now));
            match class.breaker.state() {
                CircuitState::Closed => class.opened_by = None,
                // Probes that fail later change nothing about what it was.
                CircuitState::Open | CircuitState::HalfOpen => class.opened_by = class.opened_by.or(cause),
            }
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.bring_back(Verdict::Mute, None, self.began);
    }
}

fn lock(breakers: &Mutex<[ClassCircuit; SIZE_CLASSES]>) -> MutexGuard<'_, [ClassCircuit; SIZE_CLASSES]> {
    // Its steps do not panic half-way; and a panic elsewhere is no reason not to call.
    breakers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what may turn the state, and tells of it.
fn change<R>(class: &mut ClassCircuit, change: impl FnOnce(&mut Breaker) -> R) -> R {
    let before = class.breaker.state();
    let result = change(&mut class.breaker);
    let after = class.breaker.state();
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
