//! A reading of what the worker knows of itself, for health and discovery.

use std::time::Duration;

use super::load::LoadReading;
use super::state::{LeaveReason, State};
use crate::model::engine::DeviceMemory;
use crate::model::tokenizer::CacheCounts;
use crate::protocol::RefusalKind;
use crate::telemetry::latencies::Latency;

/// What is served, for discovery and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// The id under which it is served.
    pub id: String,
    /// `cpu`, `cuda:0`, `mps`.
    pub device: String,
    /// `fp32`, `fp16`, `bf16`.
    pub precision: String,
    /// How attention is computed; see `EngineInfo`.
    pub attention: &'static str,
    /// Tokens of a pair at most.
    pub length_max: usize,
    /// Tokens of a batch at most.
    pub batch_tokens_max: usize,
}

/// What the caches have done; `None` for one that is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheReading {
    /// Tokens of documents.
    pub documents: Option<CacheCounts>,
    /// Scores of pairs.
    pub scores: Option<CacheCounts>,
}

/// A reading of [`Status`](super::status::Status). Its parts are read one after the other while the worker goes on.
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
    /// The share of the last seconds ([`super::BUSY_WINDOW`]) in which it was.
    pub engine_busy_ratio: f64,
    /// Time the engine was computing for requests that got no scores in time.
    pub engine_wasted: Duration,
    /// Forward passes for which there was no memory.
    pub out_of_memory: u64,
    /// Memory of the device, where it has its own and says so.
    pub device_memory: Option<DeviceMemory>,
    /// Times the queue group was joined.
    pub joins: u64,
    /// Times it was left, by reason.
    pub leaves: [(LeaveReason, u64); LeaveReason::ALL.len()],
    /// What waits for the device, and how long.
    pub load: LoadReading,
    /// What the caches have done.
    pub caches: CacheReading,
    /// Since the engine's last forward pass that went well.
    pub heart_beat_age: Duration,
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
