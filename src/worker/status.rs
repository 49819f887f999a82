//! What the worker knows of itself right now: written by the stages in passing, read by health and by discovery.
//!
//! Bounded, and cheap to write: atomics, a fixed ring of latencies, one short lock around what changes rarely. It knows
//! neither NATS nor the tensor library.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::protocol::RefusalKind;
use crate::telemetry::names;

/// Latencies that are kept: the percentiles are those of so many scored answers back from now.
const LATENCIES: usize = 2048;

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The model is being loaded; nothing is connected.
    Loading,
    /// The model is there, the connection or the subscription is not yet.
    Connecting,
    /// In the queue group.
    Serving,
    /// Out of the queue group until the queue is shorter.
    Full,
    /// Out of the queue group because reranking is switched off.
    Off,
    /// Out of the queue group for good: finishing what was taken.
    Stopping,
    /// The engine is lost: the process is about to end.
    Failed,
}

impl State {
    const ALL: [State; 7] = [
        State::Loading,
        State::Connecting,
        State::Serving,
        State::Full,
        State::Off,
        State::Stopping,
        State::Failed,
    ];

    /// The state in one word, as discovery and health show it.
    pub fn name(self) -> &'static str {
        match self {
            State::Loading => "loading",
            State::Connecting => "connecting",
            State::Serving => "serving",
            State::Full => "full",
            State::Off => "off",
            State::Stopping => "stopping",
            State::Failed => "failed",
        }
    }

    /// Why a worker in this state takes no requests; `None` while it does.
    fn why_not_ready(self) -> Option<&'static str> {
        match self {
            State::Loading => Some("loading: the model is being loaded"),
            State::Connecting => Some("connecting: no connection to NATS, or no subscription yet"),
            State::Serving => None,
            State::Full => Some("full: out of the queue group until the queue is shorter"),
            State::Off => Some("off: switched off, so out of the queue group"),
            State::Stopping => Some("stopping: finishing what was taken"),
            State::Failed => Some("failed: the engine is lost"),
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With scores.
    Scored,
    /// With a reason.
    Refused(RefusalKind),
}

/// See the module.
#[derive(Debug)]
pub struct Status {
    started_at: Instant,
    started: SystemTime,
    state: AtomicU8,
    connected: AtomicBool,
    was_connected: AtomicBool,
    received: AtomicU64,
    scored: AtomicU64,
    dropped: AtomicU64,
    /// One for each of [`RefusalKind::ALL`].
    refused: [AtomicU64; RefusalKind::ALL.len()],
    /// Place in [`RefusalKind::ALL`] of the last refusal, and one more; 0: none yet.
    last_refusal: AtomicUsize,
    /// From receipt to the answer's leaving, of all answers.
    processing_ns: AtomicU64,
    /// Microseconds; the next place is the number of scored answers modulo its length.
    latencies: Box<[AtomicU32]>,
    batches: AtomicU64,
    batch_pairs: AtomicU64,
    batch_tokens: AtomicU64,
    batch_pairs_last: AtomicU64,
    engine_busy_us: AtomicU64,
    /// Milliseconds after the start; the engine's last forward pass that went well.
    heart_beat_ms: AtomicU64,
    model: Mutex<Option<ModelFacts>>,
}

/// What is served, for discovery and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// The id under which it is served.
    pub id: String,
    /// `cpu`, `cuda:0`, `mps`.
    pub device: String,
    /// `fp32`, `fp16`, `bf16`.
    pub precision: String,
    /// Tokens of a pair at most.
    pub length_max: usize,
    /// Tokens of a batch at most.
    pub batch_tokens_max: usize,
}

/// Latency of scored answers, from receipt to leaving; milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Half were faster.
    pub p50_ms: f64,
    /// 95 in a hundred were faster.
    pub p95_ms: f64,
    /// 99 in a hundred were faster.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// Answers that these are of; 2,048 at most.
    pub answers: usize,
}

/// A reading of [`Status`]. Its parts are read one after the other while the worker goes on.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where the worker is in its life.
    pub state: State,
    /// Whether there is a connection to NATS.
    pub connected: bool,
    /// Since the start.
    pub uptime: Duration,
    /// Requests with a reply subject, counted at receipt.
    pub received: u64,
    /// Requests answered with scores.
    pub scored: u64,
    /// Requests whose answer could not be sent.
    pub dropped: u64,
    /// Requests refused, by kind, in the order of [`RefusalKind::ALL`].
    pub refused: [(RefusalKind, u64); RefusalKind::ALL.len()],
    /// The kind of the last refusal.
    pub last_refusal: Option<RefusalKind>,
    /// Sum over all answers, from receipt to leaving.
    pub processing: Duration,
    /// Of the last scored answers.
    pub latency: Latency,
    /// Forward passes.
    pub batches: u64,
    /// Pairs of all forward passes.
    pub batch_pairs: u64,
    /// Tokens of all forward passes.
    pub batch_tokens: u64,
    /// Pairs of the last forward pass.
    pub batch_pairs_last: u64,
    /// Time the engine was computing.
    pub engine_busy: Duration,
    /// Since the engine's last forward pass that went well.
    pub heart_beat_age: Duration,
}

impl Status {
    /// The status of a worker that starts now.
    pub fn new() -> Arc<Status> {
        Arc::new(Status {
            started_at: Instant::now(),
            started: SystemTime::now(),
            state: AtomicU8::new(State::Loading as u8),
            connected: AtomicBool::new(false),
            was_connected: AtomicBool::new(false),
            received: AtomicU64::new(0),
            scored: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            refused: Default::default(),
            last_refusal: AtomicUsize::new(0),
            processing_ns: AtomicU64::new(0),
            latencies: (0..LATENCIES).map(|_| AtomicU32::new(0)).collect(),
            batches: AtomicU64::new(0),
            batch_pairs: AtomicU64::new(0),
            batch_tokens: AtomicU64::new(0),
            batch_pairs_last: AtomicU64::new(0),
            engine_busy_us: AtomicU64::new(0),
            heart_beat_ms: AtomicU64::new(0),
            model: Mutex::new(None),
        })
    }

    /// When the worker started.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// Where the worker is in its life.
    pub fn state(&self) -> State {
        State::ALL[usize::from(self.state.load(Ordering::Acquire))]
    }

    /// The worker is now in `state`.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
        metrics::gauge!(names::GROUP_MEMBER).set(if state == State::Serving { 1.0 } else { 0.0 });
    }

    /// There is a connection to NATS, or there is none any more.
    pub fn set_connected(&self, connected: bool) {
        let before = self.connected.swap(connected, Ordering::AcqRel);
        if connected && !before && self.was_connected.swap(true, Ordering::AcqRel) {
            metrics::counter!(names::NATS_RECONNECTS_TOTAL).increment(1);
        }
    }

    /// The model is loaded and was warmed up.
    pub fn set_model(&self, facts: ModelFacts) {
        *self.model() = Some(facts);
        self.beat();
    }

    /// What is served, once it is loaded.
    pub fn model_facts(&self) -> Option<ModelFacts> {
        self.model().clone()
    }

    fn model(&self) -> MutexGuard<'_, Option<ModelFacts>> {
        // Assigned as a whole: a panic elsewhere leaves nothing half written.
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request with a reply subject was taken from the subscription.
    pub fn received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that was received has left; `latency` is from receipt, `sent` is false where its answer could not be.
    pub fn answered(&self, outcome: Outcome, latency: Duration, sent: bool) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.processing_ns.fetch_add(nanos, Ordering::Relaxed);
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match outcome {
            Outcome::Scored => {
                let place = self.scored.fetch_add(1, Ordering::Relaxed) as usize % LATENCIES;
                let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
                self.latencies[place].store(micros, Ordering::Relaxed);
            }
            Outcome::Refused(kind) => {
                let place = RefusalKind::ALL.iter().position(|&other| other == kind).unwrap_or(0);
                self.refused[place].fetch_add(1, Ordering::Relaxed);
                self.last_refusal.store(place + 1, Ordering::Relaxed);
            }
        }
    }

    /// A forward pass of `pairs` with `tokens` in all has ended after `busy`.
    pub fn batch(&self, pairs: usize, tokens: usize, busy: Duration) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.batch_pairs.fetch_add(pairs as u64, Ordering::Relaxed);
        self.batch_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        self.batch_pairs_last.store(pairs as u64, Ordering::Relaxed);
        self.engine_busy_us
            .fetch_add(busy.as_micros() as u64, Ordering::Relaxed);
    }

    /// A forward pass went well: of a batch, or of the dummy pair of an idle engine.
    pub fn beat(&self) {
        let now = self.started_at.elapsed().as_millis() as u64;
        self.heart_beat_ms.store(now, Ordering::Release);
    }

    /// Requests received and not answered yet.
    pub fn queue_requests(&self) -> u64 {
        // The ends are read first, so that a request that ends meanwhile cannot make the difference negative.
        let ended = self.ended();
        self.received.load(Ordering::Relaxed).saturating_sub(ended)
    }

    fn ended(&self) -> u64 {
        let refused: u64 = self.refused.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        refused + self.scored.load(Ordering::Relaxed) + self.dropped.load(Ordering::Relaxed)
    }

    /// Reads everything.
    pub fn snapshot(&self) -> Snapshot {
        let uptime = self.started_at.elapsed();
        let beat = Duration::from_millis(self.heart_beat_ms.load(Ordering::Acquire));
        let last_refusal = self.last_refusal.load(Ordering::Relaxed);
        Snapshot {
            state: self.state(),
            connected: self.connected.load(Ordering::Acquire),
            uptime,
            scored: self.scored.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            refused: std::array::from_fn(|place| {
                (RefusalKind::ALL[place], self.refused[place].load(Ordering::Relaxed))
            }),
            last_refusal: last_refusal.checked_sub(1).map(|place| RefusalKind::ALL[place]),
            processing: Duration::from_nanos(self.processing_ns.load(Ordering::Relaxed)),
            latency: self.latency(),
            batches: self.batches.load(Ordering::Relaxed),
            batch_pairs: self.batch_pairs.load(Ordering::Relaxed),
            batch_tokens: self.batch_tokens.load(Ordering::Relaxed),
            batch_pairs_last: self.batch_pairs_last.load(Ordering::Relaxed),
            engine_busy: Duration::from_micros(self.engine_busy_us.load(Ordering::Relaxed)),
            heart_beat_age: uptime.saturating_sub(beat),
            received: self.received.load(Ordering::Relaxed),
        }
    }

    fn latency(&self) -> Latency {
        let count = (self.scored.load(Ordering::Relaxed) as usize).min(LATENCIES);
        let mut micros: Vec<u32> = self.latencies[..count]
            .iter()
            .map(|latency| latency.load(Ordering::Relaxed))
            .collect();
        micros.sort_unstable();
        // Nearest rank.
        let at = |share: f64| {
            let rank = (share * count as f64).ceil() as usize;
            micros
                .get(rank.max(1) - 1)
                .map_or(0.0, |&micros| f64::from(micros) / 1e3)
        };
        Latency {
            p50_ms: at(0.50),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            answers: count,
        }
    }
}

impl Snapshot {
    /// Requests received and not answered yet.
    pub fn queue_requests(&self) -> u64 {
        self.received
            .saturating_sub(self.scored + self.refused_total() + self.dropped)
    }

    /// Requests refused.
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().map(|(_, count)| count).sum()
    }

    /// Requests refused for one of `kinds`.
    pub fn refused_as(&self, kinds: &[RefusalKind]) -> u64 {
        let counted = self.refused.iter().filter(|(kind, _)| kinds.contains(kind));
        counted.map(|(_, count)| count).sum()
    }

    /// Pairs of a batch, on average; 0 before the first.
    pub fn batch_pairs_mean(&self) -> f64 {
        if self.batches == 0 {
            return 0.0;
        }
        self.batch_pairs as f64 / self.batches as f64
    }

    /// Why this worker cannot be counted on for requests now; `None` if it can.
    pub fn why_not_ready(&self, heart_beat_age_max: Duration) -> Option<String> {
        if let Some(reason) = self.state.why_not_ready() {
            return Some(reason.to_owned());
        }
        if !self.connected {
            return Some("disconnected: the connection to NATS is lost".to_owned());
        }
        let age = self.heart_beat_age;
        (age > heart_beat_age_max).then(|| {
            format!(
                "engine: its last forward pass that went well is {} ms old, and health.heart_beat_age_max_ms is {}",
                age.as_millis(),
                heart_beat_age_max.as_millis()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_queue() {
        let status = Status::new();
        (0..5).for_each(|_| status.received());
        status.answered(Outcome::Scored, Duration::from_millis(3), true);
        status.answered(
            Outcome::Refused(RefusalKind::Overloaded),
            Duration::from_millis(1),
            true,
        );
        status.answered(Outcome::Scored, Duration::from_millis(1), false);
        let read = status.snapshot();
        assert_eq!((read.received, read.scored, read.dropped), (5, 1, 1));
        assert_eq!(read.refused_as(&[RefusalKind::Overloaded]), 1);
        assert_eq!(read.last_refusal, Some(RefusalKind::Overloaded));
        assert_eq!((read.queue_requests(), status.queue_requests()), (2, 2));
        assert_eq!(read.processing, Duration::from_millis(5));
        assert_eq!((read.latency.answers, read.latency.max_ms), (1, 3.0));
    }

    #[test]
    fn percentiles_are_those_of_the_last_answers() {
        let status = Status::new();
        assert_eq!(status.snapshot().latency, Latency::default());
        for _ in 0..LATENCIES {
            status.answered(Outcome::Scored, Duration::from_secs(9), true);
        }
        for _ in 0..LATENCIES / 100 {
            (1..=100).for_each(|ms| status.answered(Outcome::Scored, Duration::from_millis(ms), true));
        }
        (0..LATENCIES % 100).for_each(|_| status.answered(Outcome::Scored, Duration::from_millis(50), true));
        let latency = status.snapshot().latency;
        assert_eq!(
            (latency.p50_ms, latency.max_ms, latency.answers),
            (50.0, 100.0, LATENCIES)
        );
        assert!((94.0..=96.0).contains(&latency.p95_ms) && (98.0..=99.0).contains(&latency.p99_ms));
    }

    #[test]
    fn ready_means_serving_connected_and_alive() {
        let status = Status::new();
        let why = || {
            status
                .snapshot()
                .why_not_ready(Duration::from_secs(3600))
                .unwrap_or_default()
        };
        assert!(why().starts_with("loading"));
        status.set_state(State::Serving);
        assert!(why().starts_with("disconnected"));
        status.set_connected(true);
        assert_eq!(why(), "");
        for state in [
            State::Connecting,
            State::Full,
            State::Off,
            State::Stopping,
            State::Failed,
        ] {
            status.set_state(state);
            assert!(why().starts_with(state.name()), "{state:?}");
        }
        status.set_state(State::Serving);
        let mut read = status.snapshot();
        read.heart_beat_age = Duration::from_secs(31);
        let why = read.why_not_ready(Duration::from_secs(30)).unwrap_or_default();
        assert!(why.contains("31000") && why.contains("30000"), "{why}");
    }

    #[test]
    fn states_are_read_as_they_were_set() {
        let status = Status::new();
        for state in State::ALL {
            status.set_state(state);
            assert_eq!(status.state(), state);
        }
    }
}
