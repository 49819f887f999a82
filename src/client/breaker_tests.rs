//! Tests of the circuit, in virtual time.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> BreakerSettings {
    BreakerSettings {
        calls: 8,
        calls_min: 4,
        failure_percent: 50,
        slow: None,
        pause_min: SECOND,
        pause_max: 4 * SECOND,
    }
}

/// One call, start to end.
fn call(breaker: &mut Breaker, verdict: Verdict, now: Instant) -> bool {
    match breaker.pass(now) {
        Some(pass) => {
            breaker.end(pass, verdict, now);
            true
        }
        None => false,
    }
}

fn opened(now: Instant) -> Breaker {
    let mut breaker = Breaker::new(settings());
    for _ in 0..4 {
        assert_eq!(breaker.state(), CircuitState::Closed);
        assert!(call(&mut breaker, Verdict::Bad, now));
    }
    assert_eq!(breaker.state(), CircuitState::Open);
    breaker
}

#[test]
fn too_few_failures_or_too_small_a_share_open_nothing() {
    let now = Instant::now();
    let mut breaker = Breaker::new(settings());
    for _ in 0..3 {
        call(&mut breaker, Verdict::Bad, now);
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
    let mut breaker = Breaker::new(settings());
    for place in 0..50 {
        let verdict = if place % 3 == 2 { Verdict::Bad } else { Verdict::Good };
        assert!(call(&mut breaker, verdict, now), "call {place}");
    }
}

#[test]
fn only_the_last_calls_count() {
    let now = Instant::now();
    let mut breaker = Breaker::new(settings());
    for _ in 0..1000 {
        call(&mut breaker, Verdict::Good, now);
    }
    for failures in 1..=4 {
        assert_eq!(breaker.state(), CircuitState::Closed);
        call(&mut breaker, Verdict::Bad, now);
        assert_eq!(breaker.state() == CircuitState::Open, failures == 4);
    }
}

#[test]
fn calls_that_say_nothing_change_nothing() {
    let now = Instant::now();
    let mut breaker = Breaker::new(settings());
    for _ in 0..100 {
        call(&mut breaker, Verdict::Mute, now);
    }
    assert_eq!((breaker.known, breaker.state()), (0, CircuitState::Closed));
}

#[test]
fn an_open_circuit_lets_one_probe_through_after_its_pause() {
    let now = Instant::now();
    let mut breaker = opened(now);
    assert!(breaker.pass(now + SECOND - Duration::from_nanos(1)).is_none());
    let later = now + SECOND;
    let probe = breaker.pass(later).expect("a probe");
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    for _ in 0..10 {
        assert!(breaker.pass(later).is_none(), "one probe at a time");
    }
    breaker.end(probe, Verdict::Good, later);
    assert_eq!(breaker.state(), CircuitState::Closed);
    // With nothing held against it from before.
    for _ in 0..3 {
        assert!(call(&mut breaker, Verdict::Bad, later));
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[test]
fn probes_that_fail_double_the_pause_up_to_its_bound_and_success_resets_it() {
    let mut now = Instant::now();
    let mut breaker = opened(now);
    for pause in [1, 2, 4, 4, 4] {
        assert!(breaker.pass(now + pause * SECOND - Duration::from_nanos(1)).is_none());
        now += pause * SECOND;
        assert!(call(&mut breaker, Verdict::Bad, now));
        assert_eq!(breaker.state(), CircuitState::Open);
    }
    now += 4 * SECOND;
    assert!(call(&mut breaker, Verdict::Good, now));
    for _ in 0..4 {
        call(&mut breaker, Verdict::Bad, now);
    }
    assert!(breaker.pass(now + SECOND).is_some());
}

#[test]
fn a_probe_that_was_given_up_makes_way_for_the_next() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let later = now + SECOND;
    let probe = breaker.pass(later).expect("a probe");
    breaker.end(probe, Verdict::Mute, later);
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    assert!(breaker.pass(later).is_some());
}

#[test]
fn calls_from_before_do_not_decide_what_came_after() {
    let now = Instant::now();
    let mut breaker = Breaker::new(settings());
    let early: Vec<Pass> = (0..20).map(|_| breaker.pass(now).expect("closed")).collect();
    for _ in 0..4 {
        call(&mut breaker, Verdict::Bad, now);
    }
    let later = now + SECOND;
    let probe = breaker.pass(later).expect("a probe");
    for pass in early {
        breaker.end(pass, Verdict::Good, later);
    }
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    breaker.end(probe, Verdict::Bad, later);
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[test]
fn settings_outside_their_range_are_told() {
    let wrong = |change: fn(&mut BreakerSettings)| {
        let mut settings = BreakerSettings::default();
        assert_eq!(settings.check(), Ok(()));
        change(&mut settings);
        settings.check().expect_err("outside the range").to_string()
    };
    assert!(wrong(|s| s.calls = 0).contains("calls"));
    assert!(wrong(|s| s.calls = 65).contains("calls"));
    assert!(wrong(|s| s.calls_min = 21).contains("calls_min"));
    assert!(wrong(|s| s.failure_percent = 0).contains("failure_percent"));
    assert!(wrong(|s| s.pause_min = Duration::ZERO).contains("pause_min"));
    assert!(wrong(|s| s.pause_max = Duration::MAX).contains("pause_max"));
    assert!(wrong(|s| s.pause_max = Duration::ZERO).contains("pause_max"));
}

proptest! {
    /// Whatever happens: with the circuit open at most one call is out that it let through, and a fleet that answers
    /// closes it within the longest pause.
    #[test]
    fn it_never_stays_shut_and_never_floods(
        steps in prop::collection::vec((0u8..4, 0u64..1500, any::<prop::sample::Index>()), 1..200),
    ) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(settings());
        let mut out: Vec<(Pass, bool)> = Vec::new();
        for (step, ms, which) in steps {
            now += Duration::from_millis(ms);
            let was_closed = breaker.state() == CircuitState::Closed;
            if step == 0 || out.is_empty() {
                if let Some(pass) = breaker.pass(now) {
                    let probes = out.iter().filter(|(pass, closed)| !closed && pass.era == breaker.era).count();
                    prop_assert!(was_closed || probes == 0);
                    out.push((pass, was_closed));
                }
            } else {
                let (pass, _) = out.swap_remove(which.index(out.len()));
                let verdict = [Verdict::Good, Verdict::Bad, Verdict::Mute][usize::from(step - 1)];
                breaker.end(pass, verdict, now);
            }
        }
        for (pass, _) in out {
            breaker.end(pass, Verdict::Mute, now);
        }
        now += settings().pause_max;
        prop_assert!(call(&mut breaker, Verdict::Good, now));
        let again = now + settings().pause_max;
        prop_assert!(breaker.state() == CircuitState::Closed || call(&mut breaker, Verdict::Good, again));
    }
}
