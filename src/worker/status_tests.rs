use super::*;
use crate::model::engine::OwnMemory;

#[test]
fn counts_and_queue() {
    let status = Status::new();
    (0..5).for_each(|_| status.received());
    status.answered(Outcome::Scored, Duration::from_millis(3), true);
    status.answered(
        Outcome::Refused(RefusalKind::Overloaded),
        Duration::from_millis(1),
        true,
    );
    status.answered(Outcome::Scored, Duration::from_millis(1), false);
    let read = status.snapshot();
    assert_eq!((read.received, read.scored, read.dropped), (5, 1, 1));
    assert_eq!(read.refused_as(&[RefusalKind::Overloaded]), 1);
    assert_eq!(read.last_refusal, Some(RefusalKind::Overloaded));
    assert_eq!((read.queue_requests(), status.queue_requests()), (2, 2));
    assert_eq!(read.processing, Duration::from_millis(5));
    assert_eq!((read.latency.answers, read.latency.max_ms), (1, 3.0));
}

#[test]
fn ready_means_serving_connected_and_alive() {
    let status = Status::new();
    let why = || {
        status
            .snapshot()
            .why_not_ready(Duration::from_secs(3600))
            .unwrap_or_default()
    };
    assert!(why().starts_with("loading"));
    status.set_state(State::Serving);
    assert!(why().starts_with("disconnected"));
    status.set_connected(true);
    assert_eq!(why(), "");
    for state in [
        State::Connecting,
        State::Full,
        State::Off,
        State::Stopping,
        State::Failed,
    ] {
        status.set_state(state);
        assert!(why().starts_with(state.name()), "{state:?}");
    }
    status.set_state(State::Serving);
    let mut read = status.snapshot();
    read.heart_beat_age = Duration::from_secs(31);
    let why = read.why_not_ready(Duration::from_secs(30)).unwrap_or_default();
    assert!(why.contains("31000") && why.contains("30000"), "{why}");
}

#[test]
fn states_are_read_as_they_were_set() {
    let status = Status::new();
    for state in State::ALL {
        status.set_state(state);
        assert_eq!(status.state(), state);
    }
}

#[test]
fn joins_and_leaves_are_counted_by_reason() {
    let status = Status::new();
    status.joined();
    assert_eq!(status.state(), State::Serving);
    for reason in LeaveReason::ALL {
        assert_eq!(LeaveReason::ALL[reason as usize], reason);
        status.left(reason);
    }
    status.left(LeaveReason::Full);
    let read = status.snapshot();
    assert_eq!(read.joins, 1);
    assert_eq!(read.leaves.map(|(_, count)| count), [2, 1, 1, 1]);
}

#[test]
fn the_devices_time_and_memory_are_read_back() {
    let status = Status::new();
    let read = status.snapshot();
    assert_eq!((read.engine_wasted, read.device_memory), (Duration::ZERO, None));
    assert_eq!(read.load, LoadReading::default());
    let began = Instant::now();
    status.batch_begins(began);
    status.batch(1, 10, Duration::from_secs(3), began + Duration::from_secs(3));
    (0..3000).for_each(|_| status.wasted(Duration::from_nanos(500)));
    status.out_of_memory(2);
    let memory = DeviceMemory {
        used_bytes: 1,
        total_bytes: 2,
        own: OwnMemory::default(),
    };
    status.device_memory(|| Some(memory));
    status.device_memory(|| panic!("asked twice in a second"));
    status.set_load_reader(|_| LoadReading {
        queue_tokens: 7,
        ..LoadReading::default()
    });
    let read = status.snapshot();
    assert!(read.engine_busy_ratio > 0.0);
    assert_eq!(read.engine_wasted, Duration::from_micros(1500));
    assert_eq!((read.out_of_memory, read.device_memory), (2, Some(memory)));
    assert_eq!(read.load.queue_tokens, 7);
}

#[test]
fn alive_means_signs_of_life_and_not_readiness() {
    const FOREVER: Duration = Duration::from_secs(3600);
    let status = Status::new();
    // While the model loads there is none to go by.
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(status.why_not_alive(Duration::ZERO), None);
    for state in [State::Connecting, State::Full, State::Off, State::Stopping] {
        status.set_state(state);
        assert_eq!(status.why_not_alive(FOREVER), None, "{state:?}");
        let reason = status.why_not_alive(Duration::ZERO).unwrap_or_default();
        assert!(reason.starts_with("engine"), "{state:?}: {reason}");
    }
    status.set_state(State::Failed);
    assert!(
        status
            .why_not_alive(FOREVER)
            .is_some_and(|reason| reason.starts_with("failed"))
    );
}

/// The pulse is that of the runtime: a thread that is stuck gives none, even while the engine computes.
#[test]
fn a_stuck_nats_thread_is_not_alive() {
    let status = Status::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    runtime.spawn(status.clone().pulse());
    runtime.block_on(tokio::task::yield_now());
    status.set_state(State::Serving);
    let silent = Duration::from_millis(20);
    let stuck = std::time::Instant::now();
    while stuck.elapsed() <= 3 * silent {
        std::thread::sleep(silent);
        status.beat();
    }
    let reason = status.why_not_alive(silent).unwrap_or_default();
    assert!(reason.starts_with("nats"), "{reason}");
}
