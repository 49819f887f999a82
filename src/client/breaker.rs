//! When to stop asking for a while: the states of a circuit. Pure: it is told the time and reads no clock.
//!
//! Own code, since the crates for it (recloser, failsafe) read the clock themselves, wrap a call whose cancelling they
//! do not see, and know neither outcomes that say nothing nor a single probe.

use std::time::{Duration, Instant};

use super::BuildError;

/// Most calls that can be looked back upon.
const CALLS_MAX: u32 = 64;

/// The longest pause: nobody who waits longer waits for a fleet, and a point in time stays one.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// When the circuit opens, and how it closes again.
///
/// There is a circuit for each size of calls (bytes of text in their pairs: up to 4 KiB, 16 KiB, and so on, each four times the one
/// before), so that lists of one size change nothing for those of another.
///
/// A call has failed if the fleet let it down and that cost time: no scores for at least half of its candidates for want of an
/// answer, of a worker, of room or of time, or by a bad reply; or, with `slow`, an answer that took longer. Not held against the
/// fleet: a refusal that an idle worker would have given too ([`RefusalScope::Request`](crate::protocol::RefusalScope)); a refusal, or
/// that no worker listens, which came within a tenth of the budget (100 ms at most), since asking costs nothing then; a call that had
/// less than half of the builder's budget; one that was given up; and a lost connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerSettings {
    /// How many of the last calls are looked at; 1 to 64. Unless set: 20.
    pub calls: u32,
    /// Fewer calls than this open nothing; 1 to `calls`. Unless set: 5.
    pub calls_min: u32,
    /// The share of failures, in per cent, from which the circuit opens; 1 to 100. Unless set: 50.
    pub failure_percent: u32,
    /// An answer that took longer counts as a failure. Unless set, none does.
    pub slow: Option<Duration>,
    /// How long the circuit stays open before one call is let through as a probe. Unless set: 500 ms.
    pub pause_min: Duration,
    /// Each probe that fails doubles the pause, up to this; a day at most. Unless set: 5 s.
    pub pause_max: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            calls: 20,
            calls_min: 5,
            failure_percent: 50,
            slow: None,
            pause_min: Duration::from_millis(500),
            pause_max: Duration::from_secs(5),
        }
    }
}

impl BreakerSettings {
    pub(super) fn check(&self) -> Result<(), BuildError> {
        let wrong = |problem| Err(BuildError::invalid("breaker", problem));
        if !(1..=CALLS_MAX).contains(&self.calls) {
            wrong("calls: expected 1 to 64")
        } else if !(1..=self.calls).contains(&self.calls_min) {
            wrong("calls_min: expected 1 to calls")
        } else if !(1..=100).contains(&self.failure_percent) {
            wrong("failure_percent: expected 1 to 100")
        } else if self.pause_min.is_zero() || self.pause_min > self.pause_max || self.pause_max > PAUSE_MAX {
            wrong("pause_min: expected more than zero, and pause_max not below it and at most a day")
        } else {
            Ok(())
        }
    }
}

/// The state of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CircuitState {
    /// Calls go through.
    Closed,
    /// No call goes through; after the pause the next one does, as a probe.
    Open,
    /// One call goes through as a probe, and decides.
    HalfOpen,
}

impl CircuitState {
    /// Every state.
    pub const ALL: [CircuitState; 3] = [CircuitState::Closed, CircuitState::Open, CircuitState::HalfOpen];

    /// A short name, for metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            CircuitState::Closed => "closed",
            CircuitState::Open => "open",
            CircuitState::HalfOpen => "half_open",
        }
    }
}

/// What a call that has ended says about the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answers.
    Good,
    /// It failed.
    Bad,
    /// Nothing.
    Mute,
}

/// Leave to call. It has to be brought back with a verdict.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// The number of the circuit's state that it was given in: later states do not count it.
    era: u64,
}

/// The circuit.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: BreakerSettings,
    state: State,
    /// How many states there have been.
    era: u64,
    /// The last calls, the latest in the lowest bit; set: failed.
    failures: u64,
    /// How many of those bits are calls.
    known: u32,
    /// How long the next opening lasts.
    pause: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { probing: bool },
}

impl Breaker {
    pub(super) fn new(settings: BreakerSettings) -> Breaker {
        Breaker {
            settings,
            state: State::Closed,
            era: 0,
            failures: 0,
            known: 0,
            pause: settings.pause_min,
        }
    }

    pub(super) fn state(&self) -> CircuitState {
        match self.state {
            State::Closed => CircuitState::Closed,
            State::Open { .. } => CircuitState::Open,
            State::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }

    /// Leave to call, if there is any.
    pub(super) fn pass(&mut self, now: Instant) -> Option<Pass> {
        match self.state {
            State::Closed => {}
            State::Open { until } if now < until => return None,
            State::Open { .. } => self.turn(State::HalfOpen { probing: true }),
            State::HalfOpen { probing: true } => return None,
            State::HalfOpen { probing: false } => self.state = State::HalfOpen { probing: true },
        }
        Some(Pass { era: self.era })
    }

    /// A call has ended, or was given up.
    pub(super) fn end(&mut self, pass: Pass, verdict: Verdict, now: Instant) {
        if pass.era != self.era {
            return;
        }
        match (self.state, verdict) {
            (State::Closed, Verdict::Mute) | (State::Open { .. }, _) => {}
            (State::Closed, verdict) => {
                self.note(verdict == Verdict::Bad);
                if verdict == Verdict::Bad && self.is_failing() {
                    self.open(now);
                }
            }
            (State::HalfOpen { .. }, Verdict::Mute) => self.state = State::HalfOpen { probing: false },
            (State::HalfOpen { .. }, Verdict::Bad) => self.open(now),
            (State::HalfOpen { .. }, Verdict::Good) => {
                self.pause = self.settings.pause_min;
                (self.failures, self.known) = (0, 0);
                self.turn(State::Closed);
            }
        }
    }

    fn open(&mut self, now: Instant) {
        let until = now + self.pause;
        self.pause = (self.pause * 2).min(self.settings.pause_max);
        self.turn(State::Open { until });
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.era += 1;
    }

    fn note(&mut self, failed: bool) {
        let mask = u64::MAX >> (CALLS_MAX - self.settings.calls);
        self.failures = ((self.failures << 1) | u64::from(failed)) & mask;
        self.known = (self.known + 1).min(self.settings.calls);
    }

    fn is_failing(&self) -> bool {
        let failed = self.failures.count_ones();
        self.known >= self.settings.calls_min && failed * 100 >= self.known * self.settings.failure_percent
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
