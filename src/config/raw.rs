//! Settings as written: what the layers come to, each value in its range, nothing yet said about how they go together.

use serde::Deserialize;

use super::Secret;

macro_rules! section {
    ($name:ident { $($field:ident: $type:ty),+ $(,)? }) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $(pub $field: $type),+
        }
    };
}

section!(Raw {
    enabled: bool,
    nats: Nats,
    model: Model,
    batch: Batch,
    queue: Queue,
    limits: Limits,
    tokenize: Threads,
    cache: Cache,
    shutdown: Shutdown,
    health: Health,
    gateway: Gateway,
    traces: Traces,
    log: Log,
});

section!(Nats {
    url: Vec<String>,
    ignore_discovered_servers: bool,
    subject: String,
    queue_group: String,
    switch_bucket: String,
    switch_domain: String,
    service_name: String,
    connection_name: String,
    credentials_file: String,
    nkey_seed_file: String,
    user: String,
    password: Secret,
    password_file: String,
    token: Secret,
    token_file: String,
    tls_required: bool,
    tls_ca_file: String,
    tls_cert_file: String,
    tls_key_file: String,
    inbox_prefix: String,
    reply_prefixes: Vec<String>,
    connect_timeout_ms: u64,
    connect_retries_max: u32,
    ping_interval_ms: u64,
    subscription_capacity: usize,
});

section!(Model {
    id: String,
    aliases: Vec<String>,
    revision: String,
    hub_cache_dir: String,
    hub_token: Secret,
    hub_endpoint: String,
    hub_offline: bool,
    hub_retries_max: u32,
    load_retries_max: u32,
    load_retry_delay_ms: u64,
    fallback_ids: Vec<String>,
    device: String,
    precision: String,
    kernels: String,
    tokenizer: String,
    max_length: usize,
    warmup_samples: usize,
    threads: usize,
    cuda_library: String,
    hang_timeout_ms: u64,
});

section!(Batch {
    window_ms: u64,
    tokens_max: usize
});

section!(Queue {
    requests_max: usize,
    pairs_max: usize,
    bytes_max: usize,
    leave_at_percent: u32,
    rejoin_at_percent: u32,
    dwell_ms_min: u64,
});

section!(Limits {
    documents_max: usize,
    query_bytes_max: usize,
    document_bytes_max: usize,
    default_timeout_ms: u64,
    timeout_ms_max: u64,
});

section!(Threads { threads: usize });

section!(Cache {
    document_bytes_max: u64,
    scores_max: usize,
});

section!(Shutdown { grace_ms: u64 });

section!(Health {
    listen: String,
    heart_beat_age_max_ms: u64,
});

section!(Gateway {
    listen: String,
    timeout_ms: u64,
    on_failure: String,
    fallback_scores: String,
    models: Vec<String>,
    any_model: bool,
    split_pairs: usize,
    token: Secret,
    token_file: String,
    requests_max: usize,
    connections_max: usize,
    documents_max: usize,
    body_bytes_max: usize,
    pending_body_bytes_max: usize,
    request_timeout_ms: u64,
    cors_origins: Vec<String>,
});

section!(Traces {
    otlp_endpoint: String,
    sample_percent: u32,
});

section!(Log {
    format: String,
    level: String
});
