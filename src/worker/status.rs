//! What the worker knows of itself right now: written by the stages in passing, read by health and by discovery.
//!
//! Bounded, and cheap to write: atomics, a fixed ring of latencies, one short lock around what changes rarely. It knows
//! neither NATS nor the tensor library.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::busy::BusyMeter;
use super::load::LoadReading;
use super::snapshot::{CacheReading, ModelFacts, Snapshot};
use super::state::{LeaveReason, Outcome, State};
use crate::model::engine::DeviceMemory;
use crate::protocol::RefusalKind;
use crate::telemetry::latencies::Latencies;
use crate::telemetry::names;

/// The device is asked for its memory no more often than this.
const DEVICE_MEMORY_EVERY: Duration = Duration::from_secs(1);

/// How often the NATS thread says that it runs.
const PULSE_EVERY: Duration = Duration::from_secs(1);

/// How the load is read.
type LoadReader = Box<dyn Fn(Instant) -> LoadReading + Send + Sync>;

/// How the caches are read.
type CacheReader = Box<dyn Fn() -> CacheReading + Send + Sync>;

/// See the module.
pub struct Status {
    started_at: Instant,
    started: SystemTime,
    state: AtomicU8,
    connected: AtomicBool,
    was_connected: AtomicBool,
    received: AtomicU64,
    latencies: Latencies,
    dropped: AtomicU64,
    /// One for each of [`RefusalKind::ALL`].
    refused: [AtomicU64; RefusalKind::ALL.len()],
    /// Place in [`RefusalKind::ALL`] of the last refusal, and one more; 0: none yet.
    last_refusal: AtomicUsize,
    /// From receipt to the answer's leaving, of all answers.
    processing_ns: AtomicU64,
    batches: AtomicU64,
    batch_pairs: AtomicU64,
    batch_tokens: AtomicU64,
    batch_pairs_last: AtomicU64,
    engine_busy_us: AtomicU64,
    engine_wasted_ns: AtomicU64,
    out_of_memory: AtomicU64,
    busy: Mutex<BusyMeter>,
    device_memory: Mutex<Option<(Instant, Option<DeviceMemory>)>>,
    joins: AtomicU64,
    /// One for each of [`LeaveReason::ALL`].
    leaves: [AtomicU64; LeaveReason::ALL.len()],
    load: OnceLock<LoadReader>,
    caches: OnceLock<CacheReader>,
    /// Milliseconds after the start; the engine's last forward pass that went well.
    heart_beat_ms: AtomicU64,
    /// Milliseconds after the start, and one more; the NATS thread's last turn. 0: none yet.
    pulse_ms: AtomicU64,
    model: Mutex<Option<ModelFacts>>,
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
            latencies: Latencies::default(),
            dropped: AtomicU64::new(0),
            refused: Default::default(),
            last_refusal: AtomicUsize::new(0),
            processing_ns: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            batch_pairs: AtomicU64::new(0),
            batch_tokens: AtomicU64::new(0),
            batch_pairs_last: AtomicU64::new(0),
            engine_busy_us: AtomicU64::new(0),
            engine_wasted_ns: AtomicU64::new(0),
            out_of_memory: AtomicU64::new(0),
            busy: Mutex::new(BusyMeter::new(Instant::now())),
            device_memory: Mutex::new(None),
            joins: AtomicU64::new(0),
            leaves: Default::default(),
            load: OnceLock::new(),
            caches: OnceLock::new(),
            heart_beat_ms: AtomicU64::new(0),
            pulse_ms: AtomicU64::new(0),
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

    /// The queue group was joined: requests come from now on.
    pub fn joined(&self) {
        self.joins.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(names::GROUP_JOINS_TOTAL).increment(1);
        self.set_state(State::Serving);
    }

    /// The queue group was left: no request comes any more.
    pub fn left(&self, reason: LeaveReason) {
        self.leaves[reason as usize].fetch_add(1, Ordering::Relaxed);
        metrics::counter!(names::GROUP_LEAVES_TOTAL, "reason" => reason.name()).increment(1);
    }

    /// From now on the load is read like this. Once; a second reader is not taken.
    pub fn set_load_reader(&self, read: impl Fn(Instant) -> LoadReading + Send + Sync + 'static) {
        let _ = self.load.set(Box::new(read));
    }

    /// From now on the caches are read like this. Once; a second reader is not taken.
    pub fn set_cache_reader(&self, read: impl Fn() -> CacheReading + Send + Sync + 'static) {
        let _ = self.caches.set(Box::new(read));
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
            Outcome::Scored => self.latencies.record(latency),
            Outcome::Refused(kind) => {
                let place = RefusalKind::ALL.iter().position(|&other| other == kind).unwrap_or(0);
                self.refused[place].fetch_add(1, Ordering::Relaxed);
                self.last_refusal.store(place + 1, Ordering::Relaxed);
            }
        }
    }

    /// A forward pass begins.
    pub fn batch_begins(&self, now: Instant) {
        self.busy().begin(now);
    }

    /// A forward pass of `pairs` with `tokens` in all has ended after `busy`.
    pub fn batch(&self, pairs: usize, tokens: usize, busy: Duration, now: Instant) {
        self.busy().end(now);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.batch_pairs.fetch_add(pairs as u64, Ordering::Relaxed);
        self.batch_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        self.batch_pairs_last.store(pairs as u64, Ordering::Relaxed);
        self.engine_busy_us
            .fetch_add(busy.as_micros() as u64, Ordering::Relaxed);
    }

    fn busy(&self) -> MutexGuard<'_, BusyMeter> {
        // It neither panics nor calls anything that does.
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So much of the device's time went to requests that got no scores in time.
    pub fn wasted(&self, spent: Duration) {
        if spent.is_zero() {
            return;
        }
        let spent = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        let all = self.engine_wasted_ns.fetch_add(spent, Ordering::Relaxed) + spent;
        // Kept in nanoseconds, so that many small parts are not lost to rounding.
        metrics::counter!(names::ENGINE_WASTED_MICROSECONDS_TOTAL).absolute(all.div_ceil(1000));
    }

    /// For so many forward passes there was no memory.
    pub fn out_of_memory(&self, passes: u64) {
        if passes > 0 {
            self.out_of_memory.fetch_add(passes, Ordering::Relaxed);
            metrics::counter!(names::OUT_OF_MEMORY_TOTAL).increment(passes);
        }
    }

    /// Reads the device's memory, if the last reading is not of this second. For the engine thread.
    pub fn device_memory(&self, read: impl FnOnce() -> Option<DeviceMemory>) {
        let now = Instant::now();
        let fresh = |at: Instant| now.saturating_duration_since(at) < DEVICE_MEMORY_EVERY;
        if self.known_memory().is_some_and(|(at, _)| fresh(at)) {
            return;
        }
        let memory = read();
        *self.known_memory() = Some((now, memory));
    }

    fn known_memory(&self) -> MutexGuard<'_, Option<(Instant, Option<DeviceMemory>)>> {
        // Assigned as a whole.
        self.device_memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A forward pass went well: of a batch, or of the dummy pair of an idle engine.
    pub fn beat(&self) {
        self.heart_beat_ms.store(self.uptime_ms(), Ordering::Release);
    }

    /// Takes a turn on the runtime that polls it, now and then, for as long as that runs: the NATS thread's sign of life.
    pub(super) async fn pulse(self: Arc<Status>) {
        loop {
            self.pulse_ms.store(self.uptime_ms() + 1, Ordering::Release);
            tokio::time::sleep(PULSE_EVERY).await;
        }
    }

    /// Why this worker should be started again; `None` while it should not. It goes by signs of life, of the engine and of
    /// the thread that speaks NATS, and neither by the connection nor by the queue: starting again would mend neither.
    /// While the model loads there is no sign to go by.
    pub fn why_not_alive(&self, silence_max: Duration) -> Option<String> {
        let now = self.uptime_ms();
        let pulse = self.pulse_ms.load(Ordering::Acquire);
        let silent_ms = now.saturating_sub(pulse.saturating_sub(1));
        if pulse > 0 && u128::from(silent_ms) > silence_max.as_millis() {
            return Some(format!("nats: its thread has not run for {silent_ms} ms"));
        }
        match self.state() {
            State::Loading => return None,
            State::Failed => return Some("failed: the engine is lost".to_owned()),
            _ => {}
        }
        let silent_ms = now.saturating_sub(self.heart_beat_ms.load(Ordering::Acquire));
        (u128::from(silent_ms) > silence_max.as_millis())
            .then(|| format!("engine: its last forward pass that went well is {silent_ms} ms old"))
    }

    fn uptime_ms(&self) -> u64 {
        self.started_at.elapsed().as_millis() as u64
    }

    /// Requests received and not answered yet.
    pub fn queue_requests(&self) -> u64 {
        // The ends are read first, so that a request that ends meanwhile cannot make the difference negative.
        let ended = self.ended();
        self.received.load(Ordering::Relaxed).saturating_sub(ended)
    }

    fn ended(&self) -> u64 {
        let refused: u64 = self.refused.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        refused + self.latencies.answers() + self.dropped.load(Ordering::Relaxed)
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
            scored: self.latencies.answers(),
            dropped: self.dropped.load(Ordering::Relaxed),
            refused: std::array::from_fn(|place| {
                (RefusalKind::ALL[place], self.refused[place].load(Ordering::Relaxed))
            }),
            last_refusal: last_refusal.checked_sub(1).map(|place| RefusalKind::ALL[place]),
            processing: Duration::from_nanos(self.processing_ns.load(Ordering::Relaxed)),
            latency: self.latencies.read(),
            batches: self.batches.load(Ordering::Relaxed),
            batch_pairs: self.batch_pairs.load(Ordering::Relaxed),
            batch_tokens: self.batch_tokens.load(Ordering::Relaxed),
            batch_pairs_last: self.batch_pairs_last.load(Ordering::Relaxed),
            engine_busy: Duration::from_micros(self.engine_busy_us.load(Ordering::Relaxed)),
            engine_busy_ratio: self.busy().ratio(Instant::now()),
            engine_wasted: Duration::from_nanos(self.engine_wasted_ns.load(Ordering::Relaxed)),
            out_of_memory: self.out_of_memory.load(Ordering::Relaxed),
            device_memory: self.known_memory().and_then(|(_, memory)| memory),
            joins: self.joins.load(Ordering::Relaxed),
            leaves: std::array::from_fn(|place| (LeaveReason::ALL[place], self.leaves[place].load(Ordering::Relaxed))),
            load: self
                .load
                .get()
                .map_or_else(LoadReading::default, |read| read(Instant::now())),
            caches: self.caches.get().map_or_else(CacheReading::default, |read| read()),
            heart_beat_age: uptime.saturating_sub(beat),
            received: self.received.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
