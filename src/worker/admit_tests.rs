use proptest::prelude::*;

use super::*;

proptest! {
    /// Whatever the bounds and the mark: an idle worker has room for a request and takes it, which is no reason to leave,
    /// and has room again once that is answered.
    #[test]
    fn an_idle_worker_has_room_for_a_request(
        requests_max in 1usize..60,
        pairs_max in 1usize..2000,
        bytes_max in 1usize..4096,
        percent in 1u32..=100,
        pairs in 0usize..2000,
        bytes in 0usize..10_000,
    ) {
        let leave_at = f64::from(percent) / 100.0;
        let limits = QueueLimits { requests_max, pairs_max, bytes_max };
        let queue = Queue::new(limits, Duration::from_secs(1), leave_at);
        let now = Instant::now();
        for _ in 0..3 {
            prop_assert!(queue.room(now).is_some_and(|room| room >= 1));
            let share = queue.take(pairs.min(pairs_max), bytes);
            prop_assert!(share.is_ok());
            prop_assert!(queue.crowding(now) < leave_at);
            drop(share);
            prop_assert_eq!(queue.requests(), 0);
        }
    }
}

fn queue() -> Arc<Queue> {
    let limits = QueueLimits {
        requests_max: 2,
        pairs_max: 10,
        bytes_max: 100,
    };
    Queue::new(limits, Duration::from_secs(1), 0.8)
}

#[tokio::test]
async fn what_would_be_late_is_refused_with_the_prediction_and_the_budget() {
    use crate::protocol::Encoding;
    use crate::worker::ticket::{Answer, Outbox};
    let limits = QueueLimits {
        requests_max: 20,
        pairs_max: 1000,
        bytes_max: 1 << 20,
    };
    let queue = Queue::new(limits, Duration::from_secs(1), 0.8);
    queue.load().set_sizes(1000, 512);
    // A second for a thousand tokens.
    queue.load().rate.observe(1000, Duration::from_secs(1));
    let (outbox, mut receiver) = Outbox::new(4);
    let now = Instant::now();
    let text = "word ".repeat(100);
    let admit = async |budget: Duration, documents: usize| {
        let place = outbox.place().await.unwrap();
        let ticket = Ticket::new(place, "inbox".to_owned(), Encoding::Json, now, budget);
        let request = Request::new("query", std::iter::repeat_n(text.as_str(), documents));
        queue.admit(
            Decoded {
                ticket,
                request,
                bytes: 10,
            },
            now,
        )
    };
    // About 150 tokens a document.
    assert!(admit(Duration::from_millis(100), 5).await.is_none());
    let Answer::Refused(refusal) = receiver.recv().await.unwrap().answer else {
        panic!("scored");
    };
    assert_eq!(refusal.kind, RefusalKind::Overloaded);
    assert!(refusal.message.contains("budget of 100 ms"), "{}", refusal.message);
    assert_eq!(refusal.scope, RefusalScope::Request, "too large for its own budget");
    let first = admit(Duration::from_secs(7), 40).await.expect("in time");
    // Now it is the queue that is too long: the wait outlasts a budget that is due later.
    assert!(admit(Duration::from_millis(7_100), 40).await.is_none());
    let Answer::Refused(refusal) = receiver.recv().await.unwrap().answer else {
        panic!("scored");
    };
    assert_eq!(
        refusal.scope,
        RefusalScope::Worker,
        "an idle worker would have taken it"
    );
    assert!(queue.fullness(now) > 0.8, "{}", queue.fullness(now));
    assert_eq!(queue.crowding(now), 0.0, "nothing waits behind it");
    let second = admit(Duration::from_secs(7), 1).await.expect("in time");
    assert!(queue.crowding(now) > 0.8);
    queue.pressure().await;
    drop(second);
    while receiver.try_recv().is_ok() {}
    // What is due before it makes it late; by itself it would not do either.
    assert!(admit(Duration::from_millis(900), 10).await.is_none());
    let Answer::Refused(refusal) = receiver.recv().await.unwrap().answer else {
        panic!("scored");
    };
    assert_eq!(refusal.scope, RefusalScope::Request, "{refusal}");
    drop(first);
    assert_eq!(queue.load().tokens(), 40 * 155, "until the answer has left");
    while receiver.try_recv().is_ok() {}
    assert_eq!(queue.load().tokens(), 0);
    assert!(admit(Duration::from_millis(7_100), 40).await.is_some());
}

#[tokio::test]
async fn lists_that_are_too_large_for_their_budget_change_nothing_for_others() {
    use crate::protocol::Encoding;
    use crate::worker::ticket::Outbox;
    let limits = QueueLimits {
        requests_max: 20,
        pairs_max: 10_000,
        bytes_max: 1 << 24,
    };
    let queue = Queue::new(limits, Duration::from_secs(1), 0.8);
    queue.load().set_sizes(1000, 512);
    // Ten thousand tokens a second.
    let mut now = Instant::now();
    queue.load().observe(now, 1000, Duration::from_millis(100));
    let (outbox, mut receiver) = Outbox::new(4);
    let text = "word ".repeat(60);
    let room = queue.room(now);
    let (mut tried, mut device) = (0, Duration::ZERO);
    for number in 0..10_000 {
        now += Duration::from_millis(1);
        let place = outbox.place().await.unwrap();
        let ticket = Ticket::new(place, "inbox".to_owned(), Encoding::Json, now, Duration::from_secs(1));
        let is_honest = number % 100 == 0;
        let documents = if is_honest { 20 } else { 1000 };
        let request = Request::new("query", std::iter::repeat_n(text.as_str(), documents));
        let decoded = Decoded {
            ticket,
            request,
            bytes: 300_000,
        };
        let admitted = queue.admit(decoded, now);
        if is_honest {
            assert!(admitted.is_some(), "request {number}");
        } else if let Some(admitted) = admitted {
            // It is tried, and is just as slow as predicted: the rest is given up.
            tried += 1;
            device += Duration::from_millis(100);
            queue.load().observe(now, 1000, Duration::from_millis(100));
            drop(admitted);
        }
        while receiver.try_recv().is_ok() {}
    }
    assert!((1..=5).contains(&tried), "in ten seconds it is tried {tried} times");
    assert!(device <= Duration::from_millis(500), "{device:?}");
    assert!(queue.room(now) >= room, "and there is as much room as before");
}

#[test]
fn refuses_what_does_not_fit_and_names_the_limit() {
    let queue = queue();
    let _first = queue.take(8, 10).unwrap();
    let refusal = queue.take(3, 10).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Overloaded);
    assert!(refusal.message.contains("queue.pairs_max is 10"), "{}", refusal.message);
    assert!(
        queue
            .take(1, 91)
            .unwrap_err()
            .message
            .contains("queue.bytes_max is 100")
    );
    let _second = queue.take(2, 90).unwrap();
    assert!(
        queue
            .take(0, 0)
            .unwrap_err()
            .message
            .contains("queue.requests_max is 2")
    );
}

#[test]
fn shares_are_given_back_whole() {
    let queue = queue();
    for _ in 0..100 {
        let share = queue.take(10, 100).unwrap();
        assert!(queue.take(1, 0).is_err());
        drop(share);
    }
    assert_eq!(
        (
            queue.requests(),
            queue.pairs.load(Ordering::Acquire),
            queue.bytes.load(Ordering::Acquire)
        ),
        (0, 0, 0)
    );
}
