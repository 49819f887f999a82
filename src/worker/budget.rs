//! How many tokens a batch may hold, learned from what the device has memory for. Pure.
//!
//! Out of memory, the batch is halved until its pieces fit (`infer`), and the budget shrinks to what did fit. It creeps
//! back up with batches that succeed; each time that ends in another failure, it waits twice as long for the next try.

/// Successful large batches before the budget grows again, at first.
const GROW_AFTER_MIN: u32 = 64;
/// And at most.
const GROW_AFTER_MAX: u32 = 4096;

/// See the module.
#[derive(Clone, Debug)]
pub struct TokenBudget {
    max: usize,
    now: usize,
    grow_after: u32,
    successes: u32,
}

impl TokenBudget {
    /// A budget that was never too large.
    pub fn new(max: usize) -> TokenBudget {
        let max = max.max(1);
        TokenBudget {
            max,
            now: max,
            grow_after: GROW_AFTER_MIN,
            successes: 0,
        }
    }

    /// Tokens of the next batch. A single pair that is longer still makes a batch: less than a pair cannot be tried.
    pub fn tokens(&self) -> usize {
        self.now
    }

    /// A batch was too large; the largest piece of it that did fit had `fitted` tokens.
    pub fn failed(&mut self, fitted: usize) {
        self.now = fitted.clamp(1, self.now);
        self.grow_after = (self.grow_after * 2).min(GROW_AFTER_MAX);
        self.successes = 0;
    }

    /// A batch of `tokens` fitted. Only one that was nearly as large as allowed says something about larger ones.
    pub fn fitted(&mut self, tokens: usize) {
        if self.now == self.max || tokens < self.now / 2 {
            return;
        }
        self.successes += 1;
        if self.successes >= self.grow_after {
            self.successes = 0;
            self.now = (self.now + self.now / 8 + 1).min(self.max);
            if self.now == self.max {
                self.grow_after = GROW_AFTER_MIN;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinks_to_what_worked_and_creeps_back_up() {
        let mut budget = TokenBudget::new(1000);
        budget.failed(300);
        assert_eq!(budget.tokens(), 300);
        for _ in 0..100_000 {
            let before = budget.tokens();
            budget.fitted(before);
            assert!(budget.tokens() >= before && budget.tokens() <= before + before / 8 + 1);
        }
        assert_eq!(budget.tokens(), 1000);
    }

    #[test]
    fn small_batches_prove_nothing() {
        let mut budget = TokenBudget::new(1000);
        budget.failed(300);
        for _ in 0..10_000 {
            budget.fitted(100);
        }
        assert_eq!(budget.tokens(), 300);
    }

    #[test]
    fn failures_get_rare_on_a_device_that_never_takes_more() {
        let mut budget = TokenBudget::new(1000);
        let mut failures = 0;
        for _ in 0..100_000 {
            if budget.tokens() > 400 {
                failures += 1;
                budget.failed(400);
            } else {
                budget.fitted(budget.tokens());
            }
        }
        assert!((5..60).contains(&failures), "{failures}");
        budget.failed(0);
        assert_eq!(budget.tokens(), 1, "never nothing");
    }
}
