//! The settings as the program uses them: validated and typed. Made by [`super::load`] only, so that whoever holds a
//! [`Config`] need not check it again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{
    DeviceChoice, FallbackScores, KernelsChoice, LogFormat, OnFailure, PrecisionChoice, Secret, TokenizerChoice,
};
use crate::nats::ConnectionSettings;

/// The whole configuration, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Whether reranking is switched on (`RERANK_ENABLED`). A worker that is off joins no queue group.
    pub enabled: bool,
    /// The connection to NATS, and where requests arrive.
    pub nats: NatsConfig,
    /// Which model is served, from where, and on what device.
    pub model: ModelConfig,
    /// How pairs are gathered into one forward pass.
    pub batch: BatchConfig,
    /// How much work may wait.
    pub queue: QueueConfig,
    /// What one request may hold.
    pub limits: LimitsConfig,
    /// The tokenizing stage.
    pub tokenize: TokenizeConfig,
    /// What is kept of requests that were answered.
    pub cache: CacheConfig,
    /// The clean stop.
    pub shutdown: ShutdownConfig,
    /// Health over HTTP.
    pub health: HealthConfig,
    /// The HTTP gateway.
    pub gateway: GatewayConfig,
    /// Spans that are sent to a collector.
    pub traces: TracesConfig,
    /// The program's own log.
    pub log: LogConfig,
}

/// The connection to NATS, and where requests arrive.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsConfig {
    /// Server URLs, tried in turn.
    pub urls: Vec<ServerUrl>,
    /// Whether to leave servers alone that a server of the cluster advertises.
    pub ignore_discovered_servers: bool,
    /// The subject that requests are published to.
    pub subject: String,
    /// The queue group that all workers of one model share.
    pub queue_group: String,
    /// The JetStream KV bucket whose key `enabled` is the live switch.
    pub switch_bucket: Option<String>,
    /// The JetStream domain that the bucket is in, unless it is the one of the servers here.
    pub switch_domain: Option<String>,
    /// The name in service discovery (ADR-32).
    pub service_name: String,
    /// The name in server monitoring.
    pub connection_name: String,
    /// A `.creds` file.
    pub credentials_file: Option<PathBuf>,
    /// A file that holds an nkey seed.
    pub nkey_seed_file: Option<PathBuf>,
    /// User name; always with `password` or `password_file`.
    pub user: Option<String>,
    /// Password of `user`.
    pub password: Option<Secret>,
    /// A file that holds the password of `user`.
    pub password_file: Option<PathBuf>,
    /// Bearer token.
    pub token: Option<Secret>,
    /// A file that holds the token.
    pub token_file: Option<PathBuf>,
    /// Refuse a connection without TLS.
    pub tls_required: bool,
    /// Additional root certificates (PEM).
    pub tls_ca_file: Option<PathBuf>,
    /// Client certificate (PEM); always with `tls_key_file`.
    pub tls_cert_file: Option<PathBuf>,
    /// Client key (PEM).
    pub tls_key_file: Option<PathBuf>,
    /// Prefix of reply inboxes, `_INBOX` unless set.
    pub inbox_prefix: Option<String>,
    /// A worker answers only at or below these (whole tokens, no wildcard); empty: anywhere that is not the server's or its
    /// own.
    pub reply_prefixes: Vec<String>,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How many more times the first connection is tried before the program gives up.
    pub connect_retries_max: u32,
    /// Silence of the server after which it is asked for a sign of life.
    pub ping_interval: Duration,
    /// Messages that the subscription holds before the client library drops the next one.
    pub subscription_capacity: usize,
}

impl NatsConfig {
    /// The part that [`crate::nats`] needs to connect.
    pub fn connection(&self) -> ConnectionSettings {
        ConnectionSettings {
            urls: self.urls.iter().map(|url| url.expose().to_owned()).collect(),
            ignore_discovered_servers: self.ignore_discovered_servers,
            name: self.connection_name.clone(),
            credentials_file: self.credentials_file.clone(),
            nkey_seed_file: self.nkey_seed_file.clone(),
            user: self.user.clone(),
            password: self.password.as_ref().map(|secret| secret.expose().to_owned()),
            password_file: self.password_file.clone(),
            token: self.token.as_ref().map(|secret| secret.expose().to_owned()),
            token_file: self.token_file.clone(),
            tls_required: self.tls_required,
            tls_ca_file: self.tls_ca_file.clone(),
            tls_cert_file: self.tls_cert_file.clone(),
            tls_key_file: self.tls_key_file.clone(),
            inbox_prefix: self.inbox_prefix.clone(),
            connect_timeout: self.connect_timeout,
            ping_interval: self.ping_interval,
        }
    }
}

/// A server URL. It may carry a user and a password, so `Debug` and `Display` hide what stands before the `@`.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(String);

impl ServerUrl {
    pub(super) fn new(url: String) -> Self {
        Self(url)
    }

    /// The URL with whatever secret it holds: for connecting, never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&super::redact_url(&self.0))
    }
}

impl std::fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Which model is served, from where, and on what device.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `builtin`, a folder, or a hub id (`owner/name`).
    pub id: String,
    /// Other names under which requests may ask for this model.
    pub aliases: Vec<String>,
    /// Branch, tag or commit of a hub repository.
    pub revision: String,
    /// Where downloads are kept; the hub's usual cache unless set.
    pub hub_cache_dir: Option<PathBuf>,
    /// Access token of the hub (falls back to `HF_TOKEN`).
    pub hub_token: Option<Secret>,
    /// Base URL of the hub (falls back to `HF_ENDPOINT`).
    pub hub_endpoint: Option<String>,
    /// Use only what the cache holds (falls back to `HF_HUB_OFFLINE`).
    pub hub_offline: bool,
    /// How many more times one download is tried.
    pub hub_retries_max: u32,
    /// How many more times loading one model is tried before the next of `fallback_ids`.
    pub load_retries_max: u32,
    /// Pause between two tries of loading.
    pub load_retry_delay: Duration,
    /// Models tried in order when `id` cannot be loaded.
    pub fallback_ids: Vec<String>,
    /// Where the model computes.
    pub device: DeviceChoice,
    /// In which number format the model computes.
    pub precision: PrecisionChoice,
    /// Which code computes on a CPU.
    pub kernels: KernelsChoice,
    /// What is followed where tokenizer.json and the tokenizer's class differ.
    pub tokenizer: TokenizerChoice,
    /// Tokens of a pair at most; `None`: the model's own limit.
    pub max_length: Option<usize>,
    /// Pairs scored before the queue group is joined; 0: no warm-up.
    pub warmup_samples: usize,
    /// Threads of one operation on a CPU device; `None`: by the number of cores.
    pub threads: Option<usize>,
    /// The library that brings CUDA, looked up at run time when a CUDA device is asked for.
    pub cuda_library: String,
    /// A batch that takes longer means that the device hangs; `None`: no bound.
    pub hang_timeout: Option<Duration>,
}

/// How pairs are gathered into one forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchConfig {
    /// How long an open batch waits for more pairs at most. Zero: never wait.
    pub window: Duration,
    /// Real tokens of a batch at most; `None`: by device.
    pub tokens_max: Option<usize>,
}

/// How much admitted work may wait; a request past any of these is refused as overloaded.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueConfig {
    /// Requests.
    pub requests_max: usize,
    /// Query and document pairs of all requests.
    pub pairs_max: usize,
    /// Bytes of all requests' bodies.
    pub bytes_max: usize,
    /// Share of any bound, or of the callers' budgets, at which the worker leaves the queue group; `None`: never.
    pub leave_at: Option<f64>,
    /// Share at which it comes back.
    pub rejoin_at: f64,
    /// How long it stays outside or inside at least.
    pub dwell_min: Duration,
}

/// What one request may hold; one past these is refused as invalid or too large.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsConfig {
    /// Documents of a request.
    pub documents_max: usize,
    /// UTF-8 bytes of a query.
    pub query_bytes_max: usize,
    /// UTF-8 bytes of one document.
    pub document_bytes_max: usize,
    /// The budget of a request that names none. At most `timeout_max`.
    pub default_timeout: Duration,
    /// A larger budget is cut to this.
    pub timeout_max: Duration,
}

/// The tokenizing stage.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizeConfig {
    /// Threads that tokenize; `None`: by the number of cores and the device.
    pub threads: Option<usize>,
}

/// What is kept of requests that were answered.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheConfig {
    /// Bytes of documents and their tokens; `None`: none are kept.
    pub document_bytes_max: Option<u64>,
    /// Scores; 0: none are kept.
    pub scores_max: usize,
}

/// The clean stop.
#[derive(Clone, Debug, PartialEq)]
pub struct ShutdownConfig {
    /// How long work that was taken may go on after the signal to stop.
    pub grace: Duration,
}

/// Health over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthConfig {
    /// Where to listen; port 0: any free one; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Whether nobody has chosen `listen`: then a free port will do where that one is taken.
    pub listen_is_default: bool,
    /// The worker counts as unready when its engine's last sign of life is older.
    pub heart_beat_age_max: Duration,
}

/// The HTTP gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayConfig {
    /// Where to listen; port 0: any free one.
    pub listen: SocketAddr,
    /// The budget of a ranking, unless the request has a smaller one.
    pub timeout: Duration,
    /// What there is when no ranking came in time.
    pub on_failure: OnFailure,
    /// What stands for scores where there is no ranking.
    pub fallback_scores: FallbackScores,
    /// Models that requests choose by name, and the subject of each one's workers.
    pub models: Vec<(String, String)>,
    /// Whether the workers of `nats.subject` answer for names that are not among `models`.
    pub any_model: bool,
    /// A request of more pairs is shared by several workers; `None`: only what is too large for one message.
    pub split_pairs: Option<usize>,
    /// The bearer token that requests have to carry.
    pub token: Option<Secret>,
    /// A file that holds that token.
    pub token_file: Option<PathBuf>,
    /// Requests at work at once.
    pub requests_max: usize,
    /// Connections at once; the one that has been idle longest gives way to the next.
    pub connections_max: usize,
    /// Documents of a request.
    pub documents_max: usize,
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Bytes of all bodies that are arriving. At least `body_bytes_max`.
    pub pending_body_bytes_max: usize,
    /// The time of a request in all, the arrival of its body counted. Above `timeout`.
    pub request_timeout: Duration,
    /// Origins whose pages may ask, as browsers send them; `*`: any; empty: CORS is off.
    pub cors_origins: Vec<String>,
}

/// Spans that are sent to a collector.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesConfig {
    /// Base URL of a collector that takes OTLP over HTTP; set only in programs that can send (feature `otlp`).
    pub otlp_endpoint: Option<String>,
    /// Share of the requests without a `traceparent` that are traced, 0 to 1.
    pub sample_ratio: f64,
}

/// The program's own log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// Lines for people or for machines.
    pub format: LogFormat,
    /// What is logged: a `tracing-subscriber` filter expression that is known to parse.
    pub level: String,
}
