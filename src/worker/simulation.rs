//! A deterministic simulation of admission, batcher and membership together, in virtual time: thousands of seeded
//! schedules, each checked for what must hold whatever happens. `SIMULATION_SEED=n` replays one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::batch::{BatchPolicy, Batcher, Decision, DeviceState, Job, Slice};
use super::load::{Load, WorkId};
use super::membership::{Membership, MembershipPolicy};

const US: Duration = Duration::from_micros(1);

/// Splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `low` to `high`, both included.
    fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.range(1, 100) <= percent
    }
}

/// How one request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Scored,
    /// 429 at admission.
    Refused,
    /// 504 while it waited.
    Expired,
    /// Sent while the worker was out of the group.
    Nobody,
}

struct Request {
    deadline: Instant,
    work: WorkId,
    tokens: usize,
    taken: usize,
    done: usize,
}

/// What a schedule came to.
#[derive(Debug, Default)]
struct Totals {
    sent: usize,
    in_time: usize,
    late: usize,
    tokens_computed: usize,
    tokens_wasted: usize,
    departures: usize,
}

/// What varies between schedules.
struct Plan {
    requests: u64,
    gap_us: u64,
    budget_us: (u64, u64),
    us_a_batch: u64,
    ns_a_token: u64,
    jitter_percent: u64,
    tokens_max: usize,
    window: Duration,
    large_percent: u64,
    away: bool,
}

struct World {
    random: Random,
    plan: Plan,
    now: Instant,
    batcher: Batcher,
    load: Load,
    membership: Membership,
    open: HashMap<u64, Request>,
    ends: HashMap<u64, End>,
    running: Option<(Instant, Duration, Vec<Slice>)>,
    device: DeviceState,
    inside: bool,
    totals: Totals,
}

impl World {
    fn new(mut random: Random, plan: Plan, start: Instant) -> World {
        let mut load = Load::new(US * plan.budget_us.1 as u32);
        load.set_sizes(plan.tokens_max, 512);
        if random.chance(80) {
            for tokens in [64, plan.tokens_max] {
                let busy = plan.us_a_batch + tokens as u64 * plan.ns_a_token / 1000;
                load.rate.observe(tokens, US * busy as u32);
            }
        }
        World {
            batcher: Batcher::new(BatchPolicy {
                window: plan.window,
                tokens_max: plan.tokens_max,
            }),
            membership: Membership::new(MembershipPolicy {
                leave_at: plan.away.then_some(0.8),
                rejoin_at: 0.5,
                dwell_min: US * 20_000,
            }),
            load,
            random,
            plan,
            now: start,
            open: HashMap::new(),
            ends: HashMap::new(),
            running: None,
            device: DeviceState::Idle,
            inside: true,
            totals: Totals::default(),
        }
    }

    fn end(&mut self, id: u64, end: End) {
        assert_eq!(self.ends.insert(id, end), None, "request {id} was answered twice");
        if let Some(request) = self.open.remove(&id) {
            self.load.remove(request.work);
            if end != End::Scored {
                self.totals.tokens_wasted += request.taken;
            }
        }
    }

    fn arrive(&mut self, id: u64) {
        self.totals.sent += 1;
        if !self.inside {
            return self.end(id, End::Nobody);
        }
        let (low, high) = self.plan.budget_us;
        let budget = US * self.random.range(low, high) as u32;
        let deadline = self.now + budget;
        let pairs = if self.random.chance(self.plan.large_percent) {
            200
        } else {
            self.random.range(1, 24)
        };
        let lengths: Vec<u32> = (0..pairs).map(|_| self.random.range(8, 128) as u32).collect();
        let tokens: usize = lengths.iter().map(|&length| length as usize).sum();
        // The estimate before tokenizing is off by up to a fifth.
        let estimate = tokens * self.random.range(80, 120) as usize / 100;
        self.load.learn_budget(budget);
        if self.load.check(self.now, deadline, estimate).is_err() {
            if self.load.is_idle() {
                self.load.doubt(estimate);
            }
            return self.end(id, End::Refused);
        }
        let work = self.load.add(deadline, estimate);
        self.load.set_left(work, tokens);
        let request = Request {
            deadline,
            work,
            tokens,
            taken: 0,
            done: 0,
        };
        self.open.insert(id, request);
        self.batcher.push(Job { id, deadline, lengths }, self.now);
    }

    /// Ends the batch that is due, begins the next; returns when to look again.
    fn device(&mut self) -> Option<Instant> {
        if let Some((until, busy, slices)) = self.running.take() {
            if until > self.now {
                self.running = Some((until, busy, slices));
                return Some(until);
            }
            self.load.finish();
            let tokens = slices.iter().map(|slice| slice.tokens).sum();
            self.load.rate.observe(tokens, busy);
            self.totals.tokens_computed += tokens;
            self.device = DeviceState::Busy;
            for slice in slices {
                let Some(request) = self.open.get_mut(&slice.job) else {
                    continue;
                };
                request.done += slice.tokens;
                if request.done == request.tokens {
                    if request.deadline >= self.now {
                        self.totals.in_time += 1;
                    } else {
                        self.totals.late += 1;
                        self.totals.tokens_wasted += request.tokens;
                    }
                    self.end(slice.job, End::Scored);
                }
            }
        }
        let rate = self.load.rate.clone();
        let tokens_max = self.plan.tokens_max;
        let time = |tokens| rate.queue_time(tokens, tokens_max);
        let expired = self.batcher.expire(self.now, time);
        let hopeless = expired.iter().filter(|&&(_, deadline)| deadline > self.now);
        let smallest = hopeless.map(|(id, _)| self.open[id].tokens).min();
        if let (DeviceState::Idle, Some(tokens)) = (self.device, smallest) {
            self.load.doubt(tokens);
        }
        for (id, _) in expired {
            self.end(id, End::Expired);
        }
        match self.batcher.poll(self.now, self.device, time) {
            Decision::Empty => {
                self.device = DeviceState::Idle;
                None
            }
            Decision::Wait(until) => {
                assert!(until > self.now, "a wait that is over");
                Some(until)
            }
            Decision::Take(slices) => {
                let tokens: usize = slices.iter().map(|slice| slice.tokens).sum();
                let pairs: usize = slices.iter().map(|slice| slice.pairs.len()).sum();
                assert!(tokens <= tokens_max || pairs == 1, "a batch over its budget");
                for slice in &slices {
                    let request = self.open.get_mut(&slice.job).expect("only open requests are computed");
                    assert!(request.deadline > self.now, "an expired request is computed");
                    request.taken += slice.tokens;
                    let left = request.tokens - request.taken;
                    self.load.set_left(request.work, left);
                }
                self.load.start(self.now, tokens);
                let exact = self.plan.us_a_batch + tokens as u64 * self.plan.ns_a_token / 1000;
                let jitter = self
                    .random
                    .range(100 - self.plan.jitter_percent, 100 + self.plan.jitter_percent);
                let busy = US * (exact * jitter / 100).max(1) as u32;
                self.running = Some((self.now + busy, busy, slices));
                Some(self.now + busy)
            }
        }
    }

    fn run(mut self) -> Totals {
        let mut next_arrival = Some(self.now);
        let mut id = 0;
        loop {
            let device_at = self.device();
            let inside = self.membership.step(self.now, true, self.load.fullness(self.now));
            self.totals.departures += usize::from(self.inside && !inside);
            self.inside = inside;
            let look = self.membership.is_away().then(|| self.now + US * 5000);
            let Some(next) = [device_at, next_arrival, look].into_iter().flatten().min() else {
                break;
            };
            assert!(next >= self.now, "time runs backwards");
            self.now = next;
            if next_arrival == Some(next) {
                self.arrive(id);
                id += 1;
                let gap = self.random.range(0, 2 * self.plan.gap_us);
                next_arrival = (id < self.plan.requests).then(|| next + US * gap as u32);
            }
        }
        assert_eq!(self.ends.len(), self.totals.sent, "every request has one end");
        assert!(self.open.is_empty(), "nothing is left behind");
        assert_eq!(
            (self.load.tokens(), self.batcher.tokens(), self.batcher.jobs()),
            (0, 0, 0)
        );
        assert!(self.load.is_idle());
        self.totals
    }
}

fn arbitrary(seed: u64, start: Instant) -> World {
    let mut random = Random(seed);
    let budget = random.range(2_000, 300_000);
    let plan = Plan {
        requests: random.range(1, 150),
        gap_us: random.range(1, 20_000),
        budget_us: (budget / 2 + 1, budget),
        us_a_batch: random.range(0, 5_000),
        ns_a_token: random.range(10, 30_000),
        jitter_percent: random.range(0, 60),
        tokens_max: random.range(1, 8192) as usize,
        window: US * random.range(0, 10_000) as u32,
        large_percent: random.range(0, 20),
        away: random.chance(50),
    };
    World::new(random, plan, start)
}

#[test]
fn whatever_the_schedule_every_request_ends_once() {
    let start = Instant::now();
    if let Ok(seed) = std::env::var("SIMULATION_SEED") {
        let seed = seed.parse().expect("SIMULATION_SEED is a number");
        println!("{:?}", arbitrary(seed, start).run());
        return;
    }
    for seed in 0..3000 {
        let run = std::panic::AssertUnwindSafe(|| arbitrary(seed, start).run());
        if let Err(panic) = std::panic::catch_unwind(run) {
            println!("replay with SIMULATION_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A device of 100,000 tokens a second, callers with 250 ms, at `load` times what it can do.
fn served(seed: u64, load: f64, away: bool) -> Totals {
    let plan = Plan {
        requests: 4000,
        // 12.5 pairs of 68 tokens, 850 tokens: 8.5 ms of the device.
        gap_us: (8500.0 / load) as u64,
        budget_us: (249_000, 251_000),
        us_a_batch: 500,
        ns_a_token: 9750,
        jitter_percent: 15,
        tokens_max: 2048,
        window: US * 2000,
        large_percent: 0,
        away,
    };
    World::new(Random(seed), plan, Instant::now()).run()
}

#[test]
fn overload_leaves_throughput_whole_and_wastes_nothing() {
    for seed in 0..5 {
        for away in [false, true] {
            // Saturated: just as much as the device can do.
            let saturated = served(seed, 1.0, away);
            let twice = served(seed, 2.0, away);
            // The second comes in half the time: half as many can be served.
            let share = twice.in_time as f64 / (saturated.in_time as f64 / 2.0);
            assert!(
                share >= 0.95,
                "seed {seed}, away {away}: {share} {saturated:?} {twice:?}"
            );
            let wasted = twice.tokens_wasted as f64 / twice.tokens_computed as f64;
            assert!(wasted < 0.01, "seed {seed}, away {away}: {wasted} {twice:?}");
            assert!(!away || twice.departures > 0, "a full worker leaves");
        }
    }
}

#[test]
fn a_wrong_first_measurement_is_put_right() {
    let mut world = World::new(Random(7), served_plan(), Instant::now());
    // A thousand times slower than it is: at first nothing seems possible.
    world.load.rate = super::rate::Rate::new();
    for tokens in [64, 2048] {
        world.load.rate.observe(tokens, Duration::from_secs(tokens as u64 / 10));
    }
    let totals = world.run();
    assert!(totals.in_time * 10 > totals.sent * 8, "{totals:?}");
}

fn served_plan() -> Plan {
    Plan {
        requests: 2000,
        gap_us: 17_000,
        budget_us: (249_000, 251_000),
        us_a_batch: 500,
        ns_a_token: 9750,
        jitter_percent: 15,
        tokens_max: 2048,
        window: US * 2000,
        large_percent: 0,
        away: true,
    }
}

#[test]
fn large_requests_do_not_block_small_urgent_ones() {
    let start = Instant::now();
    let mut load = Load::new(US * 100_000);
    load.set_sizes(1000, 512);
    load.rate.observe(1000, US * 10_000);
    let mut batcher = Batcher::new(BatchPolicy {
        window: Duration::ZERO,
        tokens_max: 1000,
    });
    let rate = load.rate.clone();
    let time = |tokens| rate.queue_time(tokens, 1000);
    let far = start + Duration::from_secs(60);
    load.check(start, far, 100_000).expect("there is time");
    load.add(far, 100_000);
    batcher.push(
        Job {
            id: 1,
            deadline: far,
            lengths: vec![100; 1000],
        },
        start,
    );
    let Decision::Take(first) = batcher.poll(start, DeviceState::Idle, time) else {
        panic!("no batch")
    };
    assert_eq!((first[0].job, first[0].tokens), (1, 1000));
    load.start(start, 1000);
    // One batch of the large one runs; a small one with 40 ms is admitted and is the very next.
    let soon = start + US * 40_000;
    load.check(start, soon, 500).expect("the small one is in time");
    batcher.push(
        Job {
            id: 2,
            deadline: soon,
            lengths: vec![50; 10],
        },
        start,
    );
    let Decision::Take(second) = batcher.poll(start + US * 10_000, DeviceState::Busy, time) else {
        panic!("no batch")
    };
    assert_eq!((second[0].job, second[0].tokens), (2, 500));
}
