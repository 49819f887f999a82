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
/// Weight of a new measurement of tokens a byte, of a budget, and of a request's size.
const WEIGHT: f64 = 0.05;
/// A device that was tried in spite of its prediction, and is just as slow, is not tried again for this long; each time that it turns out
/// to be, twice as long, up to [`CONFIRMED_FOR_MAX`]. So what is tried costs ever less, however often it is asked for.
const CONFIRMED_FOR: Duration = Duration::from_secs(1);
/// The longest.
const CONFIRMED_FOR_MAX: Duration = Duration::from_secs(64);
/// Without a request for this long that can be ready in time, a device is too slow for its callers.
const FEASIBLE_FOR: Duration = Duration::from_secs(2);
/// Tokens that a request is taken to have until some have come: 24 candidates of 100.
const REQUEST_TOKENS: f64 = 2400.0;

/// Why work cannot be done in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It would itself be ready only after this long.
    Itself(Duration),
    /// It would be in time, but would make work late that was promised already; its own wait would be this long.
    Others(Duration),
}

/// A reading of the load, for people and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadReading {
    /// Tokens that wait for the device.
    pub queue_tokens: usize,
    /// What would be predicted for a request that comes now and is due last.
    pub predicted_wait: Duration,
    /// The predicted tokens a second of full batches; `None` while nothing was measured.
    pub tokens_per_second: Option<f64>,
    /// Tokens of a batch at most, as learned.
    pub batch_tokens_max: usize,
}

/// Requests as they are of late.
#[derive(Clone, Copy, Debug)]
struct Usual {
    budget_seconds: f64,
    /// Tokens of a request.
    request_tokens: f64,
    /// Requests that were learned from, as far as it matters.
    learned: u32,
}

impl Usual {
    fn learn(&mut self, budget: Duration, tokens: usize) {
        self.learned = self.learned.saturating_add(1);
        let weight = WEIGHT.max(1.0 / f64::from(self.learned));
        // Each token counts alike, not each request: many small requests with small budgets do not outweigh the work of others.
        let allowed = self.budget_seconds * self.request_tokens;
        let allowed = allowed + weight * (budget.as_secs_f64() * tokens as f64 - allowed);
        self.request_tokens += weight * (tokens as f64 - self.request_tokens);
        if self.request_tokens > 0.0 {
            self.budget_seconds = allowed / self.request_tokens;
        }
    }
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
    /// How long the batch should take that the device has been given meanwhile.
    behind: Option<Duration>,
    tokens_per_byte: f64,
    /// The checkpoint's text before every query.
    prompt_bytes: usize,
    /// Requests whose texts were learned from, as far as it matters.
    texts_learned: u32,
    /// What callers allow and ask for.
    all: Usual,
    /// The same of requests that an idle device has ready within their budget.
    feasible: Usual,
    /// When the last one of those came.
    feasible_at: Option<Instant>,
    /// When a doubted prediction last turned out to be right.
    confirmed_at: Option<Instant>,
    /// How long it is believed after that.
    confirmed_for: Duration,
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
            behind: None,
            tokens_per_byte: TOKENS_PER_BYTE,
            prompt_bytes: 0,
            texts_learned: 0,
            all: Usual {
                budget_seconds: budget.as_secs_f64(),
                request_tokens: REQUEST_TOKENS,
                learned: 0,
            },
            feasible: Usual {
                budget_seconds: budget.as_secs_f64(),
                request_tokens: REQUEST_TOKENS,
                learned: 0,
            },
            feasible_at: None,
            confirmed_at: None,
            confirmed_for: CONFIRMED_FOR,
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

    /// Tells the size, in bytes, of the text that the model has before every query.
    pub fn set_prompt_bytes(&mut self, bytes: usize) {
        self.prompt_bytes = bytes;
    }

    /// As it was told.
    pub fn prompt_bytes(&self) -> usize {
        self.prompt_bytes
    }

    /// About how many tokens the pairs of this query with documents of these sizes (bytes) have.
    pub fn estimate(&self, query_bytes: usize, document_bytes: impl Iterator<Item = usize>) -> usize {
        let query_bytes = query_bytes.saturating_add(self.prompt_bytes);
        document_bytes
            .map(|bytes| {
                let tokens = (query_bytes.saturating_add(bytes)) as f64 * self.tokens_per_byte;
                (tokens.round() as usize)
                    .saturating_add(PAIR_TOKENS)
                    .min(self.length_max)
            })
            .fold(0, usize::saturating_add)
    }

    /// Learns from pairs that were not cut: so many bytes of text became so many tokens. The first are believed at once.
    pub fn learn_tokens(&mut self, pairs: usize, bytes: usize, tokens: usize) {
        if bytes > 0 && pairs > 0 {
            let measured = tokens.saturating_sub(pairs * PAIR_TOKENS) as f64 / bytes as f64;
            self.texts_learned = self.texts_learned.saturating_add(1);
            let weight = WEIGHT.max(1.0 / f64::from(self.texts_learned));
            self.tokens_per_byte += weight * (measured.clamp(0.01, 4.0) - self.tokens_per_byte);
        }
    }

    /// Learns what callers allow and ask for: the measure of a full queue. The first are believed at once. Requests that are too
    /// large for their own budget count by themselves: lists of one caller would have the worker take itself for full, and idle.
    pub fn learn_request(&mut self, now: Instant, budget: Duration, tokens: usize) {
        self.all.learn(budget, tokens);
        if self.time_alone(tokens) <= budget {
            self.feasible.learn(budget, tokens);
            self.feasible_at = Some(now);
        }
    }

    /// What room is measured by: requests that this device can have ready in time, as long as some come, however many others do. A
    /// device that is too slow for all its callers has no room, so that others are asked.
    fn usual(&self, now: Instant) -> &Usual {
        match self.feasible_at {
            Some(at) if now.saturating_duration_since(at) < FEASIBLE_FOR => &self.feasible,
            _ => &self.all,
        }
    }

    /// How many more requests of the learned size there is room for until all would take this share of what callers allow.
    pub fn room(&self, now: Instant, share: f64) -> usize {
        let allowed = Duration::from_secs_f64((self.usual(now).budget_seconds * share).clamp(0.0, 1e6));
        let Some(tokens_per_second) = self.rate.tokens_per_second(self.batch_tokens) else {
            return usize::MAX;
        };
        let one = self.usual(now).request_tokens.max(1.0);
        // Small batches cost more a token: the next one is looked at by itself.
        if self.ready_in(now, self.tokens.saturating_add(one as usize)) > allowed {
            return 0;
        }
        let time = allowed.saturating_sub(self.running_left(now)).as_secs_f64();
        ((time * tokens_per_second - self.tokens as f64) / one).max(1.0) as usize
    }

    /// Whether a worker that has nothing to do should ask for a request, whatever there is room for: yes if one can be ready
    /// within what callers allow, and from time to time even if not, since the prediction may be wrong.
    pub fn may_try(&self, now: Instant) -> bool {
        let one = self.ready_in(now, self.usual(now).request_tokens as usize);
        one.as_secs_f64() <= self.usual(now).budget_seconds || self.may_doubt(now)
    }

    /// Whether a prediction that nothing is tried against may be doubted: not if it turned out to be right a moment ago.
    pub fn may_doubt(&self, now: Instant) -> bool {
        self.confirmed_at
            .is_none_or(|at| now.saturating_duration_since(at) >= self.confirmed_for)
    }

    /// Books that a batch of `tokens` took `busy`.
    pub fn observe(&mut self, now: Instant, tokens: usize, busy: Duration) {
        if self.rate.is_doubted(tokens) {
            let doubted = self.rate.undoubted_time(tokens);
            self.confirmed_for = match self.confirmed_at {
                Some(_) if busy >= doubted / 2 => (self.confirmed_for * 2).min(CONFIRMED_FOR_MAX),
                _ => CONFIRMED_FOR,
            };
            self.confirmed_at = (busy >= doubted / 2).then_some(now);
        }
        self.rate.observe(tokens, busy);
    }

    /// How long all that is here will take.
    pub fn wait(&self, now: Instant) -> Duration {
        self.ready_in(now, self.tokens)
    }

    /// The same as a share of what callers allow.
    pub fn fullness(&self, now: Instant) -> f64 {
        self.wait(now).as_secs_f64() / self.usual(now).budget_seconds.max(1e-3)
    }

    /// The predicted tokens a second of full batches; `None` while nothing was measured.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.rate.tokens_per_second(self.batch_tokens).map(f64::round)
    }

    /// What there is to show.
    pub fn read(&self, now: Instant) -> LoadReading {
        LoadReading {
            queue_tokens: self.tokens,
            predicted_wait: self.wait(now),
            tokens_per_second: self.tokens_per_second(),
            batch_tokens_max: self.batch_tokens,
        }
    }

    /// Tokens that wait for the device.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && self.tokens == 0
    }

    /// How long so many tokens take a device that has nothing else to do, by its measured rate, whatever is doubted.
    pub fn time_alone(&self, tokens: usize) -> Duration {
        self.rate.undoubted_queue_time(tokens, self.batch_tokens)
    }

    fn ready_in(&self, now: Instant, tokens: usize) -> Duration {
        self.running_left(now) + self.rate.queue_time(tokens, self.batch_tokens)
    }

    /// How long the device will take for what it has been given.
    pub fn running_left(&self, now: Instant) -> Duration {
        let running = self.running.map_or(Duration::ZERO, |(started_at, expected)| {
            (started_at + expected).saturating_duration_since(now)
        });
        running + self.behind.unwrap_or_default()
    }

    /// When half of the running batch should be done; `None` where nothing runs.
    pub fn half_done_at(&self) -> Option<Instant> {
        self.running.map(|(started_at, expected)| started_at + expected / 2)
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

    /// The device is given a batch: it begins with it, or will once it is through with the one before.
    pub fn start(&mut self, now: Instant, tokens: usize) {
        let expected = self.rate.queue_time(tokens, self.batch_tokens);
        if self.running.is_some() {
            self.behind = Some(expected);
        } else {
            self.running = Some((now, expected));
        }
    }

    /// The device is through with its batch.
    pub fn finish(&mut self, now: Instant) {
        self.running = self.behind.take().map(|expected| (now, expected));
    }

    /// Since when the device has been at its batch.
    pub fn running_since(&self) -> Option<Instant> {
        self.running.map(|(started_at, _)| started_at)
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
