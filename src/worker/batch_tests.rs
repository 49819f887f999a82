//! Tests of the batcher: rules one by one, then properties over arbitrary histories.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const US: Duration = Duration::from_micros(1);

/// A device that is through with a batch and for which company is worth more than any window.
fn free(since: Instant) -> DeviceState {
    DeviceState::Free {
        since,
        saved_by_company: Duration::MAX,
    }
}

/// A device of which nothing is known: everything is taken to be ready at once.
const AT_ONCE: fn(usize) -> Duration = |_| Duration::ZERO;

/// A device that takes a millisecond a token.
const MS_A_TOKEN: fn(usize) -> Duration = |tokens| Duration::from_millis(tokens as u64);

fn batcher(window_ms: u32, tokens_max: usize) -> Batcher {
    Batcher::new(BatchPolicy {
        window: MS * window_ms,
        tokens_max,
    })
}

fn job(id: JobId, deadline: Instant, lengths: &[u32]) -> Job {
    Job {
        id,
        deadline,
        lengths: lengths.to_vec(),
    }
}

fn taken(decision: Decision) -> Vec<(JobId, Range<usize>)> {
    match decision {
        Decision::Take(slices) => slices.into_iter().map(|slice| (slice.job, slice.pairs)).collect(),
        other => panic!("expected a batch, got {other:?}"),
    }
}

#[test]
fn an_idle_device_takes_work_at_once() {
    let now = Instant::now();
    let mut batcher = batcher(50, 100);
    assert_eq!(batcher.poll(now, DeviceState::Idle, AT_ONCE), Decision::Empty);
    batcher.push(job(1, now + MS * 1000, &[10]));
    assert_eq!(taken(batcher.poll(now, DeviceState::Idle, AT_ONCE)), [(1, 0..1)]);
    assert_eq!(batcher.poll(now, DeviceState::Idle, AT_ONCE), Decision::Empty);
    assert_eq!(batcher.tokens(), 0);
}

#[test]
fn a_free_device_waits_for_company_no_longer_than_the_window() {
    let now = Instant::now();
    let mut batcher = batcher(50, 100);
    batcher.push(job(1, now + MS * 1000, &[10]));
    assert_eq!(batcher.poll(now, free(now), AT_ONCE), Decision::Wait(now + MS * 50));
    batcher.push(job(2, now + MS * 900, &[10]));
    assert_eq!(
        batcher.poll(now + MS * 20, free(now), AT_ONCE),
        Decision::Wait(now + MS * 50)
    );
    assert_eq!(
        taken(batcher.poll(now + MS * 50, free(now), AT_ONCE)),
        [(2, 0..1), (1, 0..1)]
    );
}

#[test]
fn nothing_waits_longer_than_company_is_worth() {
    let now = Instant::now();
    let mut batcher = batcher(50, 100);
    batcher.push(job(1, now + MS * 1000, &[10]));
    let free = |saved_by_company| DeviceState::Free {
        since: now,
        saved_by_company,
    };
    assert_eq!(batcher.poll(now, free(MS * 3), AT_ONCE), Decision::Wait(now + MS * 3));
    // What is saved is known better meanwhile.
    assert_eq!(
        batcher.poll(now + MS, free(MS * 2), AT_ONCE),
        Decision::Wait(now + MS * 2)
    );
    assert_eq!(taken(batcher.poll(now + MS * 2, free(MS * 2), AT_ONCE)), [(1, 0..1)]);
    // Two that wait lose twice as much.
    batcher.push(job(3, now + MS * 1000, &[10]));
    batcher.push(job(4, now + MS * 1000, &[10]));
    assert_eq!(batcher.poll(now, free(MS * 4), AT_ONCE), Decision::Wait(now + MS * 2));
    assert_eq!(
        taken(batcher.poll(now + MS * 2, free(MS * 4), AT_ONCE)),
        [(3, 0..1), (4, 0..1)]
    );
    // Nothing to save; too little to sleep for.
    for saved in [Duration::ZERO, MS / 25] {
        batcher.push(job(2, now + MS * 1000, &[10]));
        assert_eq!(taken(batcher.poll(now, free(saved), AT_ONCE)), [(2, 0..1)]);
    }
}

#[test]
fn a_window_of_zero_never_waits() {
    let now = Instant::now();
    let mut batcher = batcher(0, 100);
    batcher.push(job(1, now + MS * 1000, &[10]));
    assert_eq!(taken(batcher.poll(now, free(now), AT_ONCE)), [(1, 0..1)]);
}

#[test]
fn a_full_batch_goes_at_once() {
    let now = Instant::now();
    let mut batcher = batcher(50, 30);
    batcher.push(job(1, now + MS * 1000, &[20]));
    batcher.push(job(2, now + MS * 1000, &[10]));
    assert_eq!(taken(batcher.poll(now, free(now), AT_ONCE)), [(1, 0..1), (2, 0..1)]);
}

#[test]
fn a_near_deadline_closes_the_batch_early() {
    let now = Instant::now();
    let mut batcher = batcher(50, 100);
    batcher.push(job(1, now + MS * 40, &[10]));
    assert_eq!(taken(batcher.poll(now, free(now), AT_ONCE)), [(1, 0..1)]);
    batcher.push(job(2, now + MS * 80, &[10]));
    assert_eq!(batcher.poll(now, free(now), AT_ONCE), Decision::Wait(now + MS * 40));
}

#[test]
fn the_earliest_deadline_goes_first_and_a_large_job_is_spread() {
    let now = Instant::now();
    let mut batcher = batcher(0, 30);
    batcher.push(job(1, now + MS * 1000, &[10; 7]));
    assert_eq!(taken(batcher.poll(now, free(now), AT_ONCE)), [(1, 0..3)]);
    batcher.push(job(2, now + MS * 10, &[10]));
    assert_eq!(taken(batcher.poll(now, free(now), AT_ONCE)), [(2, 0..1), (1, 3..5)]);
    assert_eq!(taken(batcher.poll(now, free(now), AT_ONCE)), [(1, 5..7)]);
    assert_eq!(batcher.poll(now, free(now), AT_ONCE), Decision::Empty);
}

#[test]
fn a_pair_longer_than_the_budget_makes_a_batch_of_its_own() {
    let now = Instant::now();
    let mut batcher = batcher(0, 30);
    batcher.push(job(1, now + MS * 1000, &[100, 5, 5]));
    assert_eq!(taken(batcher.poll(now, free(now), AT_ONCE)), [(1, 0..1)]);
    assert_eq!(taken(batcher.poll(now, free(now), AT_ONCE)), [(1, 1..3)]);
}

#[test]
fn expired_jobs_leave_and_are_named() {
    let now = Instant::now();
    let mut batcher = batcher(0, 30);
    batcher.push(job(1, now + MS * 5, &[10; 5]));
    batcher.push(job(2, now + MS * 50, &[10]));
    assert_eq!(batcher.next_deadline(), Some(now + MS * 5));
    assert_eq!(taken(batcher.poll(now, free(now), AT_ONCE)), [(1, 0..3)]);
    assert_eq!(batcher.expire(now + MS * 5, AT_ONCE), [(1, now + MS * 5)]);
    assert_eq!(batcher.tokens(), 10);
    assert_eq!(taken(batcher.poll(now + MS * 5, free(now), AT_ONCE)), [(2, 0..1)]);
}

#[test]
fn a_job_that_cannot_be_ready_in_time_is_not_begun() {
    let now = Instant::now();
    let mut batcher = batcher(0, 30);
    batcher.push(job(1, now + MS * 9, &[10]));
    batcher.push(job(2, now + MS * 10, &[10]));
    batcher.push(job(3, now + MS * 99, &[10; 10]));
    assert_eq!(batcher.expire(now, MS_A_TOKEN), [(1, now + MS * 9), (3, now + MS * 99)]);
    assert_eq!(batcher.tokens(), 10);
    assert_eq!(taken(batcher.poll(now, free(now), MS_A_TOKEN)), [(2, 0..1)]);
}

#[test]
fn the_batch_closes_in_time_to_be_computed() {
    let now = Instant::now();
    let mut batcher = batcher(50, 100);
    batcher.push(job(1, now + MS * 90, &[30]));
    // 60 ms until it must begin: closes halfway, though the window would allow more.
    assert_eq!(batcher.poll(now, free(now), MS_A_TOKEN), Decision::Wait(now + MS * 30));
    batcher.push(job(2, now + MS * 90, &[10]));
    assert_eq!(taken(batcher.poll(now, free(now), MS_A_TOKEN)), [(1, 0..1), (2, 0..1)]);
}

#[test]
fn company_does_not_make_the_urgent_late() {
    let now = Instant::now();
    let mut batcher = batcher(0, 100);
    batcher.push(job(1, now + MS * 25, &[10]));
    batcher.push(job(2, now + MS * 900, &[10; 9]));
    assert_eq!(
        taken(batcher.poll(now, DeviceState::Idle, MS_A_TOKEN)),
        [(1, 0..1), (2, 0..1)]
    );
    assert_eq!(taken(batcher.poll(now, DeviceState::Idle, MS_A_TOKEN)), [(2, 1..9)]);
}

/// Answers within ten virtual seconds to 16 callers that each ask again soon after an answer, from a device that takes
/// `pass` for a pass and `token` for each of its tokens.
fn answered(window: Duration, pass: Duration, token: Duration) -> usize {
    let start = Instant::now();
    let busy = |tokens: usize| pass + token * tokens as u32;
    let mut rate = Rate::new();
    for tokens in [32, 128, 512, 2048] {
        rate.observe(tokens, busy(tokens));
    }
    let mut batcher = Batcher::new(BatchPolicy {
        window,
        tokens_max: 4096,
    });
    let mut coming: BTreeSet<(Instant, JobId)> = (0..16).map(|id| (start + US * 37 * id as u32, id)).collect();
    let mut running: Option<(Instant, Vec<Slice>)> = None;
    let (mut now, mut free_since, mut answered) = (start, None, 0);
    while now < start + MS * 10_000 {
        while let Some(&(at, id)) = coming.first().filter(|(at, _)| *at <= now) {
            coming.pop_first();
            batcher.push(job(id, at + MS * 60_000, &[32; 4]));
        }
        if let Some((until, slices)) = running.take_if(|(until, _)| *until <= now) {
            for slice in slices {
                answered += 1;
                let pause = US * (150 + 100 * (answered as u32 * 5 % 7));
                coming.insert((until + pause, slice.job));
            }
            free_since = Some(until);
        }
        let device = batcher.device_state(free_since, &rate);
        let wake_at = match &running {
            Some((until, _)) => Some(*until),
            None => match batcher.poll(now, device, AT_ONCE) {
                Decision::Empty => {
                    free_since = None;
                    None
                }
                Decision::Wait(until) => Some(until),
                Decision::Take(slices) => {
                    let until = now + busy(slices.iter().map(|slice| slice.tokens).sum());
                    running = Some((until, slices));
                    Some(until)
                }
            },
        };
        let next = wake_at.into_iter().chain(coming.first().map(|&(at, _)| at)).min();
        now = next.expect("somebody computes, waits or is about to ask");
    }
    answered
}

#[test]
fn the_window_costs_no_throughput_and_wins_some_where_a_pass_is_dear() {
    // Time grows with tokens from the first one on, as on a CPU: the widest window is as good as none.
    let (never, wide) = (answered(Duration::ZERO, US, US), answered(MS * 100, US, US));
    assert!(wide * 100 >= never * 98, "{wide} with a window, {never} without");
    // A pass costs far more than its tokens, as on a GPU.
    let (never, short) = (
        answered(Duration::ZERO, MS * 3, US / 10),
        answered(MS * 2, MS * 3, US / 10),
    );
    assert!(short * 100 >= never * 103, "{short} with a window, {never} without");
    // However wide: no worse than none.
    let wide = answered(MS * 100, MS * 3, US / 10);
    assert!(wide >= never, "{wide} with a wide window, {never} without");
}

/// One step of an arbitrary history.
#[derive(Clone, Debug)]
enum Step {
    Push { budget_ms: u32, lengths: Vec<u32> },
    Pass { ms: u32 },
    Poll { idle: bool, free_ms: u32, saved_ms: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u32..200, prop::collection::vec(1u32..60, 1..12))
            .prop_map(|(budget_ms, lengths)| Step::Push { budget_ms, lengths }),
        (0u32..40).prop_map(|ms| Step::Pass { ms }),
        (any::<bool>(), 0u32..20, 0u32..20).prop_map(|(idle, free_ms, saved_ms)| Step::Poll {
            idle,
            free_ms,
            saved_ms
        }),
    ]
}

proptest! {
    /// Every pair of every job is handed out exactly once, in order, or its job is reported as expired; no batch is
    /// over its budget unless it is a single pair; nothing that has expired is handed out; waiting ends in time.
    #[test]
    fn every_pair_once_or_expired(
        steps in prop::collection::vec(step(), 1..80),
        window_ms in 0u32..20,
        tokens_max in 1usize..150,
    ) {
        let mut now = Instant::now();
        let mut batcher = batcher(window_ms, tokens_max);
        let mut jobs: HashMap<JobId, Job> = HashMap::new();
        let mut handed: HashMap<JobId, usize> = HashMap::new();
        let mut expired: Vec<JobId> = Vec::new();
        let mut next_id = 0;
        let drain = std::iter::repeat_n(Step::Poll { idle: true, free_ms: 0, saved_ms: 0 }, 2000);
        for step in steps.into_iter().chain(drain) {
            match step {
                Step::Push { budget_ms, lengths } => {
                    next_id += 1;
                    let job = job(next_id, now + MS * budget_ms, &lengths);
                    jobs.insert(next_id, job.clone());
                    batcher.push(job);
                }
                Step::Pass { ms } => now += MS * ms,
                Step::Poll { idle, free_ms, saved_ms } => {
                    let (since, saved_by_company) = (now - MS * free_ms, MS * saved_ms);
                    let device = match idle {
                        true => DeviceState::Idle,
                        false => DeviceState::Free { since, saved_by_company },
                    };
                    expired.extend(batcher.expire(now, AT_ONCE).into_iter().map(|(id, _)| id));
                    match batcher.poll(now, device, AT_ONCE) {
                        Decision::Empty => prop_assert_eq!(batcher.tokens(), 0),
                        Decision::Wait(until) => {
                            prop_assert!(!idle);
                            prop_assert!(until > now && until <= now + MS * window_ms);
                            prop_assert!(until <= since + saved_by_company);
                            prop_assert!(batcher.tokens() < tokens_max);
                        }
                        Decision::Take(slices) => {
                            prop_assert!(!slices.is_empty());
                            let tokens: usize = slices.iter().map(|slice| slice.tokens).sum();
                            let pairs: usize = slices.iter().map(|slice| slice.pairs.len()).sum();
                            prop_assert!(tokens <= tokens_max || pairs == 1);
                            for slice in slices {
                                let job = &jobs[&slice.job];
                                prop_assert!(job.deadline > now && !expired.contains(&slice.job));
                                let done = handed.entry(slice.job).or_default();
                                prop_assert_eq!(slice.pairs.start, *done);
                                let sum: u32 = job.lengths[slice.pairs.clone()].iter().sum();
                                prop_assert_eq!(sum as usize, slice.tokens);
                                *done = slice.pairs.end;
                            }
                        }
                    }
                }
            }
        }
        prop_assert_eq!(batcher.jobs(), 0);
        prop_assert_eq!(batcher.tokens(), 0);
        for (id, job) in &jobs {
            let whole = handed.get(id) == Some(&job.lengths.len());
            prop_assert!(whole ^ expired.contains(id), "job {} is neither whole nor expired, or both", id);
        }
    }
}
