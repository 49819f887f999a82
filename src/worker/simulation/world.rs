//! A worker and its callers in virtual time, driven by one seed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::worker::batch::{BatchPolicy, Batcher, Decision, Job, Slice};
use crate::worker::group::grant;
use crate::worker::load::{Load, WorkId};
use crate::worker::membership::{Membership, MembershipPolicy};

/// Fullness at which the group is left, as shipped.
const LEAVE_AT: f64 = 0.8;
pub(super) const US: Duration = Duration::from_micros(1);

/// Splitmix64: small, and the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `low` to `high`, both included.
    pub(super) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
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
    /// Sent while the worker was out of the group: full, or without credit.
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
pub(super) struct Totals {
    pub(super) sent: usize,
    pub(super) in_time: usize,
    pub(super) late: usize,
    pub(super) tokens_computed: usize,
    pub(super) tokens_wasted: usize,
    pub(super) departures: usize,
}

/// What varies between schedules.
pub(super) struct Plan {
    pub(super) requests: u64,
    pub(super) gap_us: u64,
    pub(super) budget_us: (u64, u64),
    pub(super) us_a_batch: u64,
    pub(super) ns_a_token: u64,
    pub(super) jitter_percent: u64,
    pub(super) tokens_max: usize,
    pub(super) window: Duration,
    pub(super) large_percent: u64,
    pub(super) away: bool,
}

pub(super) struct World {
    random: Random,
    plan: Plan,
    now: Instant,
    batcher: Batcher,
    pub(super) load: Load,
    membership: Membership,
    open: HashMap<u64, Request>,
    ends: HashMap<u64, End>,
    running: Option<(Instant, Duration, Vec<Slice>)>,
    /// When the device was through with the last batch; `None`: it has nothing to do.
    free_since: Option<Instant>,
    inside: bool,
    /// Requests that the server may still send.
    credit: u64,
    totals: Totals,
}

impl World {
    pub(super) fn new(mut random: Random, plan: Plan, start: Instant) -> World {
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
                leave_at: plan.away.then_some(LEAVE_AT),
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
            free_since: None,
            inside: true,
            credit: 0,
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
        if self.plan.away {
            if self.credit == 0 {
                return self.end(id, End::Nobody);
            }
            self.credit -= 1;
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
        self.load.learn_request(self.now, budget, estimate);
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
        self.batcher.push(Job { id, deadline, lengths });
    }

    /// Ends the batch that is due, begins the next; returns when to look again.
    fn device(&mut self) -> Option<Instant> {
        if let Some((until, busy, slices)) = self.running.take() {
            if until > self.now {
                self.running = Some((until, busy, slices));
                return Some(until);
            }
            self.load.finish(self.now);
            let tokens = slices.iter().map(|slice| slice.tokens).sum();
            self.load.rate.observe(tokens, busy);
            self.totals.tokens_computed += tokens;
            self.free_since = Some(self.now);
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
        if let (None, Some(tokens)) = (self.free_since, smallest) {
            self.load.doubt(tokens);
        }
        for (id, _) in expired {
            self.end(id, End::Expired);
        }
        let device = self.batcher.device_state(self.free_since, &rate);
        match self.batcher.poll(self.now, device, time) {
            Decision::Empty => {
                self.free_since = None;
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

    pub(super) fn run(mut self) -> Totals {
        let mut next_arrival = Some(self.now);
        let mut id = 0;
        loop {
            let device_at = self.device();
            // As the queue has it.
            let crowding = if self.open.len() <= 1 {
                0.0
            } else {
                self.load.fullness(self.now)
            };
            let inside = self.membership.step(self.now, true, self.open.is_empty(), crowding);
            self.totals.departures += usize::from(self.inside && !inside);
            self.inside = inside;
            if inside && self.plan.away {
                let tries = self.open.is_empty() && self.load.may_try(self.now);
                let room = self.load.room(self.now, LEAVE_AT).max(usize::from(tries));
                self.credit += grant(room as u64, self.credit, 1024);
            }
            // What comes without a message: room, and the time to try again.
            let rests = inside && self.credit > 0 && self.open.is_empty();
            let look = (self.plan.away && !rests && next_arrival.is_some()).then(|| self.now + US * 5000);
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
