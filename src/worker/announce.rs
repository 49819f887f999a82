//! Wakes the engine thread while a request is still being tokenized.
//!
//! Waking a thread on a core that sleeps takes some tens of microseconds, on virtual machines more: as long as tokenizing a request
//! with a fast tokenizer. So the thread that is about to tokenize says so, and an idle engine thread looks out for the outcome.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long it looks before it sleeps again: a request that is tokenized at once takes no longer.
const LOOK_MAX: Duration = Duration::from_micros(150);

/// What was announced, and what came.
#[derive(Default)]
pub(super) struct Announcements {
    announced: AtomicU64,
    came: AtomicU64,
}

impl Announcements {
    /// Something is about to come. Wake the engine thread after this.
    pub(super) fn announce(&self) {
        self.announced.fetch_add(1, Ordering::Relaxed);
    }

    /// It has come. Call it under the lock that guards what came.
    pub(super) fn came(&self) {
        self.came.fetch_add(1, Ordering::Release);
    }

    /// Take it under that lock, before sleeping and before looking.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            announced: self.announced.load(Ordering::Relaxed),
            came: self.came.load(Ordering::Acquire),
        }
    }

    /// Waits, awake, until something came since `seen`, or for a moment; others who want the core get it. Without the lock.
    pub(super) fn look(&self, seen: Seen) {
        let until = Instant::now() + LOOK_MAX;
        while self.came.load(Ordering::Acquire) == seen.came && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}

/// What there was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    announced: u64,
    came: u64,
}

impl Seen {
    /// Whether more was announced since, and nothing came.
    pub(super) fn awaits(self, now: Seen) -> bool {
        now.announced != self.announced && now.came == self.came
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_announced_is_awaited_until_it_comes() {
        let announcements = Announcements::default();
        let asleep = announcements.seen();
        assert!(!asleep.awaits(announcements.seen()));
        announcements.announce();
        assert!(asleep.awaits(announcements.seen()));
        // Nothing comes: it ends all the same.
        announcements.look(announcements.seen());
        let looking = announcements.seen();
        announcements.came();
        assert!(!asleep.awaits(announcements.seen()));
        // Ends at once.
        announcements.look(looking);
    }
}
