//! The work that is on this worker, in tokens and in time: who waits with which deadline, what the device is at, how fast
//! it is. Pure: `now` is an argument. Admission asks it, the batcher's decisions are fed from it, and it says how full
//! the worker is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::rate::Rate;

/// Names a request's work: its deadline, so that the earliest comes first, and a number.
pub type WorkId = (Instant, u64);

/// Tokens a byte of text, before anything was learned: between English (0.25) and what splits into more.
const TOKENS_PER_BYTE: f64 = 0.3;
/// Special tokens of a pair, about.
const PAIR_TOKENS: usize = 3;
/// Weight of a new measurement of tokens a byte, and of a new budget.
const WEIGHT: f64 = 0.05;

/// Why work cannot be done in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It would itself be ready only after this long.
    Itself(Duration),
    /// It would be in time, but would make work late that was promised already; its own wait would be this long.
    Others(Duration),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Load {
    /// The measured device.
    pub rate: Rate,
    batch_tokens: usize,
    length_max: usize,
    waiting: BTreeMap<WorkId, usize>,
    tokens: usize,
    next_id: u64,
    /// When the running batch began, and how long it should take.
    running: Option<(Instant, Duration)>,
    tokens_per_byte: f64,
    budget_seconds: f64,
}

impl Load {
    /// Nothing to do. `budget`: what callers are taken to allow until some have said it.
    pub fn new(budget: Duration) -> Load {
        Load {
            rate: Rate::new(),
            batch_tokens: 1,
            length_max: usize::MAX,
            waiting: BTreeMap::new(),
            tokens: 0,
            next_id: 0,
            running: None,
            tokens_per_byte: TOKENS_PER_BYTE,
            budget_seconds: budget.as_secs_f64(),
        }
    }

    /// Tells the size of a batch and the longest pair, in tokens.
    pub fn set_sizes(&mut self, batch_tokens: usize, length_max: usize) {
        self.set_batch_tokens(batch_tokens);
        self.length_max = length_max;
    }

    /// The size of a batch has changed.
    pub fn set_batch_tokens(&mut self, batch_tokens: usize) {
        self.batch_tokens = batch_tokens.max(1);
    }

    /// About how many tokens the pairs of this query with documents of these sizes (bytes) have.
    pub fn estimate(&self, query_bytes: usize, document_bytes: impl Iterator<Item = usize>) -> usize {
        document_bytes
            .map(|bytes| {
                let tokens = (query_bytes.saturating_add(bytes)) as f64 * self.tokens_per_byte;
                (tokens as usize).saturating_add(PAIR_TOKENS).min(self.length_max)
            })
            .fold(0, usize::saturating_add)
    }

    /// Learns from pairs that were not cut: so many bytes of text became so many tokens.
    pub fn learn_tokens(&mut self, pairs: usize, bytes: usize, tokens: usize) {
        if bytes > 0 && pairs > 0 {
            let measured = tokens.saturating_sub(pairs * PAIR_TOKENS) as f64 / bytes as f64;
            self.tokens_per_byte += WEIGHT * (measured.clamp(0.01, 4.0) - self.tokens_per_byte);
        }
    }

    /// Learns what callers allow: the measure of a full queue.
    pub fn learn_budget(&mut self, budget: Duration) {
        self.budget_seconds += WEIGHT * (budget.as_secs_f64() - self.budget_seconds);
    }

    /// How long all that is here will take.
    pub fn wait(&self, now: Instant) -> Duration {
        self.ready_in(now, self.tokens)
    }

    /// The same as a share of what callers allow.
    pub fn fullness(&self, now: Instant) -> f64 {
        self.wait(now).as_secs_f64() / self.budget_seconds.max(1e-3)
    }

    /// The predicted tokens a second of full batches; `None` while nothing was measured.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.rate.tokens_per_second(self.batch_tokens).map(f64::round)
    }

    /// Tokens that wait for the device.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && self.tokens == 0
    }

    fn ready_in(&self, now: Instant, tokens: usize) -> Duration {
        let running = self.running.map_or(Duration::ZERO, |(started_at, expected)| {
            (started_at + expected).saturating_duration_since(now)
        });
        running + self.rate.queue_time(tokens, self.batch_tokens)
    }

    /// Whether `tokens` more can be ready by `deadline` without making late what waits already. The earliest deadline
    /// goes first, so only what is due before it stands in its way.
    ///
    /// # Errors
    /// Who would be late, and the predicted time.
    pub fn check(&self, now: Instant, deadline: Instant, tokens: usize) -> Result<(), Late> {
        let left = deadline.saturating_duration_since(now);
        // Everything fits before this deadline, and so before every later one; what is due earlier is not concerned.
        if self.ready_in(now, self.tokens.saturating_add(tokens)) <= left {
            return Ok(());
        }
        let mut sum: usize = self
            .waiting
            .range(..=(deadline, u64::MAX))
            .map(|(_, &tokens)| tokens)
            .sum();
        let own = self.ready_in(now, sum.saturating_add(tokens));
        if own > left {
            return Err(Late::Itself(own));
        }
        for (&(due, _), &waiting) in self.waiting.range((deadline, u64::MAX)..) {
            sum += waiting;
            let left = due.saturating_duration_since(now);
            let in_time = self.ready_in(now, sum) <= left;
            if in_time && self.ready_in(now, sum.saturating_add(tokens)) > left {
                return Err(Late::Others(own));
            }
        }
        Ok(())
    }

    /// So many tokens were refused for the predicted time while nothing waited or ran: see [`Rate::doubt`].
    pub fn doubt(&mut self, tokens: usize) {
        self.rate.doubt(tokens, self.batch_tokens);
    }

    /// Takes work in.
    pub fn add(&mut self, deadline: Instant, tokens: usize) -> WorkId {
        let id = (deadline, self.next_id);
        self.next_id += 1;
        self.waiting.insert(id, tokens);
        self.tokens = self.tokens.saturating_add(tokens);
        id
    }

    /// Sets how much of that work is left: the estimate gave way to the real number, or the device has taken some.
    pub fn set_left(&mut self, id: WorkId, tokens: usize) {
        if let Some(left) = self.waiting.get_mut(&id) {
            self.tokens = self.tokens.saturating_sub(*left).saturating_add(tokens);
            *left = tokens;
        }
    }

    /// How much of that work is left.
    pub fn left(&self, id: WorkId) -> usize {
        self.waiting.get(&id).copied().unwrap_or(0)
    }

    /// That work is done, or nobody wants it any more.
    pub fn remove(&mut self, id: WorkId) {
        if let Some(tokens) = self.waiting.remove(&id) {
            self.tokens = self.tokens.saturating_sub(tokens);
        }
    }

    /// The device begins a batch.
    pub fn start(&mut self, now: Instant, tokens: usize) {
        self.running = Some((now, self.rate.queue_time(tokens, self.batch_tokens)));
    }

    /// The device is through with its batch.
    pub fn finish(&mut self) {
        self.running = None;
    }

    /// Since when the device has been at its batch.
    pub fn running_since(&self) -> Option<Instant> {
        self.running.map(|(started_at, _)| started_at)
    }
}

#[cfg(test)]
mod tests {
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
        load.finish();
        assert!(load.is_idle());
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
            load.learn_budget(MS * 50);
        }
        assert!(load.fullness(now) > 0.9);
    }
}
