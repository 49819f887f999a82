//! Whether this worker should be in the queue group: a pure state machine over time, fullness and the switch.
//!
//! A full worker leaves, so that NATS routes round it (or answers `no responders` at once when all are full), and comes
//! back once there is room. Two marks and a minimum dwell keep it from flapping.

use std::time::{Duration, Instant};

/// When to leave and when to come back. Fullness is the greatest of the queue's shares; 1 is full.
#[derive(Clone, Copy, Debug)]
pub struct MembershipPolicy {
    /// Leave at this fullness; `None`: never for fullness.
    pub leave_at: Option<f64>,
    /// Come back at this one; below `leave_at`.
    pub rejoin_at: f64,
    /// Stay at least this long, inside as well as outside.
    pub dwell_min: Duration,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Membership {
    policy: MembershipPolicy,
    /// Away for fullness.
    away: bool,
    changed_at: Option<Instant>,
}

impl Membership {
    /// Inside, and free to leave.
    pub fn new(policy: MembershipPolicy) -> Membership {
        Membership {
            policy,
            away: false,
            changed_at: None,
        }
    }

    /// Whether to be inside now. `enabled`: the switch; off means out at once, on means in unless full. `idle`: nothing waits
    /// and nothing is computed, which ends a stay outside at once.
    pub fn step(&mut self, now: Instant, enabled: bool, idle: bool, fullness: f64) -> bool {
        let dwelt = self
            .changed_at
            .is_none_or(|at| now.saturating_duration_since(at) >= self.policy.dwell_min);
        if dwelt || (idle && self.away) {
            let away = match self.policy.leave_at {
                None => false,
                Some(_) if idle => false,
                Some(leave_at) if !self.away => fullness >= leave_at,
                Some(_) => fullness > self.policy.rejoin_at,
            };
            if away != self.away {
                self.away = away;
                self.changed_at = Some(now);
            }
        }
        enabled && !self.away
    }

    /// Whether it is away because it is full.
    pub fn is_away(&self) -> bool {
        self.away
    }

    /// When the next change is possible at the earliest; `None`: at any time.
    pub fn dwells_until(&self) -> Option<Instant> {
        self.changed_at.map(|at| at + self.policy.dwell_min)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn machine() -> Membership {
        Membership::new(MembershipPolicy {
            leave_at: Some(0.8),
            rejoin_at: 0.5,
            dwell_min: MS * 100,
        })
    }

    #[test]
    fn leaves_at_the_high_mark_and_returns_at_the_low_one() {
        let now = Instant::now();
        let mut machine = machine();
        assert!(machine.step(now, true, false, 0.79));
        assert!(!machine.step(now, true, false, 0.8), "the first change needs no dwell");
        assert!(!machine.step(now + MS * 99, true, false, 0.0), "dwells outside");
        assert!(!machine.step(now + MS * 100, true, false, 0.51), "hysteresis");
        assert!(machine.step(now + MS * 101, true, false, 0.5));
        assert!(machine.step(now + MS * 150, true, false, 9.0), "dwells inside");
        assert!(!machine.step(now + MS * 201, true, false, 9.0));
    }

    #[test]
    fn an_idle_worker_is_never_away_for_fullness() {
        let now = Instant::now();
        let mut machine = machine();
        assert!(!machine.step(now, true, false, 1.0));
        assert!(!machine.step(now + MS, true, false, 0.0), "dwells outside");
        assert!(machine.step(now + MS, true, true, 0.0), "idle: back at once");
        assert!(
            machine.step(now + MS * 200, true, true, 9.0),
            "idle: not full, whatever is predicted"
        );
    }

    #[test]
    fn the_switch_waits_for_nothing() {
        let now = Instant::now();
        let mut machine = machine();
        assert!(machine.step(now, true, false, 0.0));
        assert!(!machine.step(now, false, false, 0.0));
        assert!(machine.step(now, true, false, 0.0));
    }

    #[test]
    fn without_a_mark_it_never_leaves() {
        let mut machine = Membership::new(MembershipPolicy {
            leave_at: None,
            rejoin_at: 0.5,
            dwell_min: MS,
        });
        assert!(machine.step(Instant::now(), true, false, f64::INFINITY));
    }

    proptest! {
        /// Whatever the fullness does, two changes lie at least the dwell apart, and each crosses its mark.
        #[test]
        fn never_flaps(steps in prop::collection::vec((0u32..60, 0.0f64..1.2), 1..200)) {
            let mut now = Instant::now();
            let mut machine = machine();
            let (mut inside, mut changed_at) = (true, None);
            for (ms, fullness) in steps {
                now += MS * ms;
                let next = machine.step(now, true, false, fullness);
                if next != inside {
                    prop_assert!(changed_at.is_none_or(|at| now - at >= MS * 100));
                    let crossed = if next { fullness <= 0.5 } else { fullness >= 0.8 };
                    prop_assert!(crossed);
                    (inside, changed_at) = (next, Some(now));
                }
            }
        }
    }
}
