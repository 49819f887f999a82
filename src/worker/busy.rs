//! Which share of the last seconds the device was computing. Pure: `now` is an argument.

use std::time::{Duration, Instant};

/// The share is of this long back from now, or from the start while that is shorter.
pub const BUSY_WINDOW: Duration = Duration::from_secs(10);
const SLOT: Duration = Duration::from_millis(100);
const SLOTS: usize = (BUSY_WINDOW.as_millis() / SLOT.as_millis()) as usize;

/// See the module.
#[derive(Clone, Debug)]
pub struct BusyMeter {
    origin: Instant,
    /// Time computing in each slot of the window; slot `n` since the origin is at `n` modulo the length.
    slots: [Duration; SLOTS],
    /// The latest slot that was written; those behind it, a window back, hold what is too old.
    newest: u64,
    /// The batch that runs.
    since: Option<Instant>,
}

impl BusyMeter {
    /// Idle from now on.
    pub fn new(now: Instant) -> BusyMeter {
        BusyMeter {
            origin: now,
            slots: [Duration::ZERO; SLOTS],
            newest: 0,
            since: None,
        }
    }

    /// The device begins.
    pub fn begin(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// The device is through.
    pub fn end(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.book(since, now);
        }
    }

    /// The share of the window in which the device was computing, the running batch included; 0 to 1.
    pub fn ratio(&self, now: Instant) -> f64 {
        let mut read = self.clone();
        read.end(now);
        read.advance(read.slot(now));
        let lived = now.saturating_duration_since(self.origin);
        // The oldest slot but one is the first that lies wholly within the window.
        let window = lived.min(BUSY_WINDOW - SLOT + self.since_slot_began(now));
        let busy: Duration = read.slots.iter().sum();
        (busy.as_secs_f64() / window.as_secs_f64().max(1e-9)).min(1.0)
    }

    fn slot(&self, at: Instant) -> u64 {
        (at.saturating_duration_since(self.origin).as_nanos() / SLOT.as_nanos()) as u64
    }

    fn since_slot_began(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.origin) - SLOT * self.slot(at) as u32
    }

    /// Empties the slots between the newest and `slot`.
    fn advance(&mut self, slot: u64) {
        for passed in (self.newest + 1..=slot).rev().take(SLOTS) {
            self.slots[passed as usize % SLOTS] = Duration::ZERO;
        }
        self.newest = self.newest.max(slot);
    }

    fn book(&mut self, since: Instant, until: Instant) {
        let (first, last) = (self.slot(since), self.slot(until));
        self.advance(last);
        for slot in (first..=last).rev().take(SLOTS) {
            let begins = self.origin + SLOT * slot as u32;
            let part = until.min(begins + SLOT).saturating_duration_since(since.max(begins));
            self.slots[slot as usize % SLOTS] += part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn near(left: f64, right: f64) {
        assert!((left - right).abs() < 0.011, "{left} is not {right}");
    }

    #[test]
    fn an_idle_device_is_not_busy_and_one_that_never_stops_is() {
        let start = Instant::now();
        let mut meter = BusyMeter::new(start);
        near(meter.ratio(start), 0.0);
        near(meter.ratio(start + MS * 5000), 0.0);
        meter.begin(start + MS * 5000);
        near(meter.ratio(start + MS * 10_000), 0.5);
        near(meter.ratio(start + MS * 100_000), 1.0);
    }

    #[test]
    fn the_share_is_that_of_the_window_alone() {
        let start = Instant::now();
        let mut meter = BusyMeter::new(start);
        for second in 0..30 {
            let at = start + MS * 1000 * second;
            meter.begin(at);
            meter.end(at + MS * 250);
        }
        near(meter.ratio(start + MS * 30_000), 0.25);
        // A quiet half of a window, then a whole one.
        near(meter.ratio(start + MS * 35_000), 0.125);
        near(meter.ratio(start + MS * 41_000), 0.0);
        meter.begin(start + MS * 41_000);
        meter.end(start + MS * 42_000);
        near(meter.ratio(start + MS * 42_000), 0.1);
    }

    #[test]
    fn short_batches_add_up() {
        let start = Instant::now();
        let mut meter = BusyMeter::new(start);
        for place in 0..20_000 {
            let at = start + Duration::from_micros(1000) * place;
            meter.begin(at);
            meter.end(at + Duration::from_micros(333));
        }
        near(meter.ratio(start + MS * 20_000), 0.333);
    }
}
