//! What a worker is told when it starts.

use std::time::Duration;

use super::admit::QueueLimits;
use super::decode::RequestLimits;
use super::membership::MembershipPolicy;
use crate::nats::ConnectionSettings;

/// What a worker needs to know, validated.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Where and as whom to connect.
    pub connection: ConnectionSettings,
    /// How often the first connection is tried again.
    pub connect_retries_max: u32,
    /// Messages that the client library may hold for this worker before it drops.
    pub subscription_capacity: usize,
    /// The subject to serve.
    pub subject: String,
    /// The queue group to join.
    pub queue_group: String,
    /// Answers go only to subjects at or below these (whole tokens, no wildcard); empty: anywhere that is not the server's
    /// or this worker's own.
    pub reply_prefixes: Vec<String>,
    /// The name in service discovery.
    pub service_name: String,
    /// False: stay connected, but out of the queue group, unless the live switch says otherwise.
    pub enabled: bool,
    /// The JetStream KV bucket of the live switch.
    pub switch_bucket: Option<String>,
    /// The JetStream domain that the bucket is in, unless it is the one of the servers connected to.
    pub switch_domain: Option<String>,
    /// When to leave the queue group for fullness, and when to come back.
    pub membership: MembershipPolicy,
    /// A batch that takes longer than this means that the device hangs; `None`: it may take for ever.
    pub hang_timeout: Option<Duration>,
    /// Whether to measure the device's speed before requests are taken.
    pub measure: bool,
    /// The served model's aliases.
    pub aliases: Vec<String>,
    /// Longest wait for company.
    pub window: Duration,
    /// Tokens of a batch; `None`: what suits the device.
    pub batch_tokens_max: Option<usize>,
    /// Bounds of the queue.
    pub queue: QueueLimits,
    /// Bounds of one request; the model names are filled in by the worker.
    pub limits: RequestLimits,
    /// Scores that are kept for pairs that come again; 0: none.
    pub scores_max: usize,
    /// Tokenizer threads; 0: one for each core.
    pub tokenize_threads: usize,
    /// How long a stop may take.
    pub grace: Duration,
}
