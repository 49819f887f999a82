use super::*;

const MS: Duration = Duration::from_millis(1);

/// A device that takes 10 ms for each 1000 tokens, whatever the size of the batch.
fn load() -> Load {
    let mut load = Load::new(MS * 100);
    load.set_sizes(1000, 512);
    for class in 0..14 {
        for _ in 0..200 {
            load.rate.observe(1 << class, MS * 10 * (1 << class) / 1000);
        }
    }
    load
}

#[test]
fn refuses_what_would_itself_be_late() {
    let now = Instant::now();
    let mut load = load();
    assert_eq!(load.check(now, now + MS * 55, 5000), Ok(()));
    load.add(now + MS * 100, 5000);
    assert_eq!(load.check(now, now + MS * 200, 5000), Ok(()));
    assert!(matches!(load.check(now, now + MS * 100, 6000), Err(Late::Itself(wait)) if wait > MS * 100));
}

#[test]
fn what_is_due_later_does_not_stand_in_the_way() {
    let now = Instant::now();
    let mut load = load();
    load.add(now + MS * 10_000, 900_000);
    assert_eq!(load.check(now, now + MS * 20, 1000), Ok(()));
}

#[test]
fn a_promise_is_not_broken_for_a_newcomer() {
    let now = Instant::now();
    let mut load = load();
    load.add(now + MS * 100, 9000);
    assert!(matches!(load.check(now, now + MS * 50, 2000), Err(Late::Others(_))));
    // What is late anyway is no reason to refuse.
    load.add(now + MS * 101, 9000);
    assert_eq!(load.check(now, now + MS * 50, 500), Ok(()));
}

#[test]
fn the_running_batch_counts_for_what_is_left_of_it() {
    let now = Instant::now();
    let mut load = load();
    load.start(now, 1000);
    assert!(load.check(now, now + MS * 15, 1000).is_err());
    assert_eq!(load.check(now + MS * 9, now + MS * 24, 1000), Ok(()));
    assert_eq!(load.running_since(), Some(now));
    let read = load.read(now + MS * 4);
    assert!((MS * 5..=MS * 7).contains(&read.predicted_wait), "{read:?}");
    assert_eq!((read.queue_tokens, read.batch_tokens_max), (0, 1000));
    assert!(
        read.tokens_per_second
            .is_some_and(|rate| (90_000.0..=110_000.0).contains(&rate)),
        "{read:?}"
    );
    // A second batch lies behind it: it begins when the first is through.
    load.start(now + MS * 5, 1000);
    let left = load.running_left(now + MS * 5);
    assert!((MS * 14..=MS * 17).contains(&left), "{left:?}");
    assert!(load.half_done_at().is_some_and(|at| at < now + MS * 6));
    load.finish(now + MS * 8);
    assert_eq!(load.running_since(), Some(now + MS * 8));
    let left = load.running_left(now + MS * 8);
    assert!((MS * 9..=MS * 12).contains(&left), "{left:?}");
    load.finish(now + MS * 18);
    assert!(load.is_idle() && load.half_done_at().is_none());
}

#[test]
fn tokens_are_given_back_whole() {
    let now = Instant::now();
    let mut load = load();
    let ids: Vec<_> = (0..100).map(|place| load.add(now + MS * place, 10)).collect();
    for &id in &ids {
        load.set_left(id, 25);
    }
    assert_eq!(load.tokens(), 2500);
    for id in ids {
        load.remove(id);
        load.remove(id);
        load.set_left(id, 7);
    }
    assert_eq!(load.tokens(), 0);
}

#[test]
fn the_estimate_learns_and_is_cut_at_the_longest_pair() {
    let mut load = load();
    for _ in 0..200 {
        load.learn_tokens(2, 1000, 206);
    }
    let estimate = load.estimate(100, [400, 400].into_iter());
    assert!((200..=212).contains(&estimate), "{estimate}");
    assert_eq!(load.estimate(100, [1 << 20].into_iter()), 512);
}

#[test]
fn fullness_is_measured_in_what_callers_allow() {
    let now = Instant::now();
    let mut load = load();
    load.add(now, 5000);
    let full = load.fullness(now);
    assert!((0.45..0.55).contains(&full), "{full}");
    for _ in 0..200 {
        load.learn_request(now, MS * 50, 100);
    }
    assert!(load.fullness(now) > 0.9);
}

#[test]
fn a_device_that_is_too_slow_is_tried_now_and_then() {
    let mut now = Instant::now();
    let mut load = load();
    load.learn_request(now, MS * 100, 1000);
    assert!(load.may_try(now), "10 ms of 100");
    let mut load = self::load();
    load.learn_request(now, MS * 5, 1000);
    assert!(load.may_try(now), "nothing is confirmed yet");
    load.doubt(1000);
    load.observe(now, 1000, MS * 10);
    assert!(!load.may_try(now), "just as slow");
    now += CONFIRMED_FOR;
    assert!(load.may_try(now));
    load.doubt(1000);
    load.observe(now, 1000, MS * 2);
    assert!(load.may_try(now), "the prediction was wrong");
}

#[test]
fn room_is_what_fits_before_the_mark() {
    let now = Instant::now();
    let mut load = load();
    assert_eq!(load.room(now, 0.8), 3, "24 ms a request until one has come");
    // 80 of 100 ms at 10 ms a request, by a prediction that is a little cautious.
    load.learn_request(now, MS * 100, 1000);
    assert!((6..=8).contains(&load.room(now, 0.8)), "{}", load.room(now, 0.8));
    load.add(now + MS * 100, 5000);
    assert!((1..=3).contains(&load.room(now, 0.8)), "{}", load.room(now, 0.8));
    load.add(now + MS * 100, 3000);
    assert_eq!(load.room(now, 0.8), 0);
}

#[test]
fn the_models_prompt_counts_with_every_query() {
    let mut load = Load::new(Duration::from_secs(1));
    load.set_sizes(1000, 512);
    let plain = load.estimate(100, [200, 300].into_iter());
    let longer = load.estimate(140, [200, 300].into_iter());
    load.set_prompt_bytes(40);
    assert_eq!(load.estimate(100, [200, 300].into_iter()), longer);
    assert!(longer > plain);
}
