//! The batcher: which pairs go into the next forward pass, and when. Pure: it takes `now` as an argument, does no I/O
//! and reads no clock, so that every decision can be replayed in a test.
//!
//! Jobs (one a request) wait in the order of their deadlines. A batch takes pairs from the front until the token budget
//! is spent; a job larger than a batch is spread over several, and small urgent jobs overtake what is left of it.
//!
//! How long tokens take on the device is an argument too (`time`): a job that can no longer be ready in time is not
//! begun, and a batch takes no more company than the earliest deadline in it allows.
//!
//! The window is an upper bound of waiting for company, not a delay: a device that idles takes work at once, a full
//! batch goes at once, a near deadline closes the batch early. While the device works, the next batch grows anyway.
//!
//! Nor does anything wait for longer than company is worth. What company saves is measured: the part of a pass that does not
//! grow with its tokens. A batch closes when the waits of all its jobs, added up, have cost as much, which is at most twice
//! what one who knows the future would lose (Dooly, Goldman and Scott, "TCP dynamic acknowledgment delay", STOC 1998). So on a
//! CPU, whose time grows with tokens from the first one on, hardly anything waits, and on a GPU a lone request does, a little.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::rate::Rate;

/// Names a job.
pub type JobId = u64;

/// A sleep is no more exact than this: what would wait less goes now.
const SLEEP_MIN: Duration = Duration::from_micros(50);

/// When a batch closes and how much it holds.
#[derive(Clone, Copy, Debug)]
pub struct BatchPolicy {
    /// How long a device that is through with a batch may wait for company at most. 0: never wait.
    pub window: Duration,
    /// Tokens of a batch. A single pair that is longer makes a batch of its own.
    pub tokens_max: usize,
}

/// A request as the batcher sees it.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name, unique among the jobs that wait.
    pub id: JobId,
    /// After this it is not worth computing.
    pub deadline: Instant,
    /// Tokens of each pair; not empty.
    pub lengths: Vec<u32>,
}

/// Pairs of one job in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Whose.
    pub job: JobId,
    /// Which of its pairs.
    pub pairs: Range<usize>,
    /// Their tokens.
    pub tokens: usize,
}

/// Whether the device had nothing to do when work came, or is just through with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It waits with nothing to do: work goes at once.
    Idle,
    /// It is through with a batch, and more waits: the next one may be given time to fill.
    Free {
        /// When it was through.
        since: Instant,
        /// What it saves if as much again as waits comes into the same pass. Those that wait lose no more than that together.
        saved_by_company: Duration,
    },
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing waits.
    Empty,
    /// Ask again at this time, or when a job is pushed.
    Wait(Instant),
    /// Compute these.
    Take(Vec<Slice>),
}

#[derive(Debug)]
struct Waiting {
    job: Job,
    /// Pairs handed out already.
    taken: usize,
    /// Tokens not handed out yet.
    tokens_left: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Batcher {
    policy: BatchPolicy,
    /// By deadline, then by arrival.
    waiting: BTreeMap<(Instant, JobId), Waiting>,
    tokens: usize,
}

impl Batcher {
    /// An empty batcher.
    pub fn new(policy: BatchPolicy) -> Batcher {
        Batcher {
            policy,
            waiting: BTreeMap::new(),
            tokens: 0,
        }
    }

    /// Adds a job.
    pub fn push(&mut self, job: Job) {
        debug_assert!(!job.lengths.is_empty());
        let tokens_left = job.lengths.iter().map(|&tokens| tokens as usize).sum();
        self.tokens += tokens_left;
        self.waiting.insert(
            (job.deadline, job.id),
            Waiting {
                job,
                taken: 0,
                tokens_left,
            },
        );
    }

    /// Tokens that wait.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Jobs of which pairs wait.
    pub fn jobs(&self) -> usize {
        self.waiting.len()
    }

    /// The earliest deadline of the jobs that wait.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|&(deadline, _)| deadline)
    }

    /// Tokens of the batches to come.
    pub fn tokens_max(&self) -> usize {
        self.policy.tokens_max
    }

    /// The state of a device of this rate that was through with its last batch at `free_since`; `None`: it has had nothing to do.
    pub fn device_state(&self, free_since: Option<Instant>, rate: &Rate) -> DeviceState {
        let Some(since) = free_since else {
            return DeviceState::Idle;
        };
        let room = self.policy.tokens_max.saturating_sub(self.tokens);
        DeviceState::Free {
            since,
            saved_by_company: rate.saved_by_sharing(self.tokens, self.tokens.min(room)),
        }
    }

    /// Changes the tokens of the batches to come.
    pub fn set_tokens_max(&mut self, tokens_max: usize) {
        self.policy.tokens_max = tokens_max;
    }

    /// Takes out every job whose deadline has come, or comes before what is left of the job could be ready: `time` says
    /// how long so many tokens take. Pairs of it that are being computed now are the caller's to discard.
    pub fn expire(&mut self, now: Instant, time: impl Fn(usize) -> Duration) -> Vec<(JobId, Instant)> {
        let mut expired = Vec::new();
        let tokens = &mut self.tokens;
        self.waiting.retain(|&(deadline, id), waiting| {
            let kept = deadline > now && now + time(waiting.tokens_left) <= deadline;
            if !kept {
                *tokens -= waiting.tokens_left;
                expired.push((id, deadline));
            }
            kept
        });
        expired
    }

    /// Takes a job out whatever its state, for one that has failed elsewhere.
    pub fn remove(&mut self, job: JobId, deadline: Instant) {
        if let Some(waiting) = self.waiting.remove(&(deadline, job)) {
            self.tokens -= waiting.tokens_left;
        }
    }

    /// Decides. Call [`Batcher::expire`] first: what has expired is not looked for here.
    pub fn poll(&mut self, now: Instant, device: DeviceState, time: impl Fn(usize) -> Duration) -> Decision {
        let Some(earliest) = self.next_deadline() else {
            return Decision::Empty;
        };
        let (
            DeviceState::Free {
                since,
                saved_by_company,
            },
            false,
        ) = (device, self.tokens >= self.policy.tokens_max)
        else {
            return Decision::Take(self.take(now, time));
        };
        // The batch must begin this soon for the earliest deadline to be met. Where that falls within the window, the batch
        // closes halfway to it, and if it is nearer than the window, now: a prediction is no certainty.
        let slack = earliest
            .saturating_duration_since(now)
            .saturating_sub(time(self.tokens));
        // There is one at least: the earliest.
        let worth = saved_by_company / self.jobs().max(1) as u32;
        let close_at = (since + worth.min(self.policy.window)).min(now + slack / 2);
        if slack <= self.policy.window || close_at < now + SLEEP_MIN {
            Decision::Take(self.take(now, time))
        } else {
            Decision::Wait(close_at)
        }
    }

    /// Pairs from the front, up to the token budget; at least one pair. The first job, which has the earliest deadline,
    /// gets company only as long as it is still ready in time.
    fn take(&mut self, now: Instant, time: impl Fn(usize) -> Duration) -> Vec<Slice> {
        let mut slices: Vec<Slice> = Vec::new();
        let mut budget = self.policy.tokens_max;
        let mut taken = 0;
        let left = self
            .next_deadline()
            .map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(now));
        while let Some(mut entry) = self.waiting.first_entry() {
            let waiting = entry.get_mut();
            let start = waiting.taken;
            let mut tokens = 0;
            while let Some(&length) = waiting.job.lengths.get(waiting.taken) {
                let length = length as usize;
                let first_of_batch = slices.is_empty() && tokens == 0;
                if tokens + length > budget && !first_of_batch {
                    break;
                }
                if !slices.is_empty() && time(taken + tokens + length) > left {
                    break;
                }
                tokens += length;
                waiting.taken += 1;
            }
            if waiting.taken > start {
                slices.push(Slice {
                    job: waiting.job.id,
                    pairs: start..waiting.taken,
                    tokens,
                });
                waiting.tokens_left -= tokens;
                self.tokens -= tokens;
                budget = budget.saturating_sub(tokens);
                taken += tokens;
            }
            if waiting.taken < waiting.job.lengths.len() {
                break;
            }
            entry.remove();
        }
        slices
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
