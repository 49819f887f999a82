//! From settings as written to [`Config`]: what must go together does, and every value has its type.

use std::path::PathBuf;
use std::time::Duration;

use super::forms;
use super::problem::Problem;
use super::raw::{Batch, Gateway, Limits, Log, Model, Nats, Queue, Raw, Traces};
use super::settings::{
    BatchConfig, CacheConfig, Config, GatewayConfig, HealthConfig, LimitsConfig, LogConfig, ModelConfig, NatsConfig,
    QueueConfig, ServerUrl, ShutdownConfig, TokenizeConfig, TracesConfig,
};
use super::{
    DeviceChoice, FallbackScores, KernelsChoice, LogFormat, OnFailure, PrecisionChoice, Secret, TokenizerChoice,
    UnknownChoice,
};

/// Bodies of the largest size that may arrive at once, unless the setting says otherwise.
const PENDING_BODIES: usize = 64;

/// The typed configuration, or all that does not go together in it.
pub fn validate(raw: Raw) -> Result<Config, Vec<Problem>> {
    let mut problems = Vec::new();
    check_login(&raw.nats, &mut problems);
    check_certificate(&raw.nats, &mut problems);
    check_sizes(&raw, &mut problems);
    check_gateway(&raw.gateway, &mut problems);
    check_traces(&raw.traces, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    // The schema let only words through that parse.
    convert(raw).map_err(|error| vec![Problem::together(error.to_string())])
}

fn check_login(nats: &Nats, problems: &mut Vec<Problem>) {
    let in_url = nats.url.iter().any(|url| forms::has_user(url));
    let ways: Vec<&str> = [
        ("nats.credentials_file", !nats.credentials_file.is_empty()),
        ("nats.nkey_seed_file", !nats.nkey_seed_file.is_empty()),
        ("nats.user", !nats.user.is_empty()),
        ("nats.token", !nats.token.is_empty()),
        ("nats.token_file", !nats.token_file.is_empty()),
        ("a user in nats.url", in_url),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
    .collect();
    if ways.len() > 1 {
        problems.push(Problem::together(format!(
            "only one way to log in may be set, and there are {}",
            ways.join(", ")
        )));
    }
    let passwords = [
        ("nats.password", !nats.password.is_empty()),
        ("nats.password_file", !nats.password_file.is_empty()),
    ];
    let password = passwords.iter().find(|(_, set)| *set).map(|(name, _)| *name);
    if passwords.iter().all(|(_, set)| *set) {
        problems.push(Problem::together(
            "only one of nats.password and nats.password_file may be set".to_owned(),
        ));
    }
    if nats.user.is_empty() == password.is_some() {
        let (set, missing) = match password {
            None => ("nats.user", "nats.password"),
            Some(name) => (name, "nats.user"),
        };
        problems.push(Problem::together(format!("{set} is set without {missing}")));
    }
}

fn check_certificate(nats: &Nats, problems: &mut Vec<Problem>) {
    if nats.tls_cert_file.is_empty() != nats.tls_key_file.is_empty() {
        let (set, missing) = if nats.tls_key_file.is_empty() {
            ("nats.tls_cert_file", "nats.tls_key_file")
        } else {
            ("nats.tls_key_file", "nats.tls_cert_file")
        };
        problems.push(Problem::together(format!("{set} is set without {missing}")));
    }
}

/// A limit must never make another one unreachable: the requests between them could not be answered at any time.
fn check_sizes(raw: &Raw, problems: &mut Vec<Problem>) {
    let (queue, limits) = (&raw.queue, &raw.limits);
    if queue.pairs_max < limits.documents_max {
        problems.push(Problem::together(format!(
            "queue.pairs_max = {} is below limits.documents_max = {}: a request of that size could never be taken",
            queue.pairs_max, limits.documents_max
        )));
    }
    // Each is at most 64 MiB by the schema: no overflow.
    let texts = limits.query_bytes_max + limits.document_bytes_max;
    if queue.bytes_max < texts {
        problems.push(Problem::together(format!(
            "queue.bytes_max = {} is below limits.query_bytes_max and limits.document_bytes_max together = {texts}: a \
             request of one such pair could never be taken",
            queue.bytes_max
        )));
    }
    if queue.leave_at_percent != 0 && queue.rejoin_at_percent >= queue.leave_at_percent {
        problems.push(Problem::together(format!(
            "queue.rejoin_at_percent = {} is not below queue.leave_at_percent = {}: the worker would leave and rejoin all \
             the time",
            queue.rejoin_at_percent, queue.leave_at_percent
        )));
    }
    if limits.default_timeout_ms > limits.timeout_ms_max {
        problems.push(Problem::together(format!(
            "limits.default_timeout_ms = {} is above limits.timeout_ms_max = {}",
            limits.default_timeout_ms, limits.timeout_ms_max
        )));
    }
    let (tokens_max, max_length) = (raw.batch.tokens_max, raw.model.max_length);
    if tokens_max != 0 && tokens_max < max_length {
        problems.push(Problem::together(format!(
            "batch.tokens_max = {tokens_max} is below model.max_length = {max_length}: a pair of that length would fit \
             no batch"
        )));
    }
}

/// Models behind one gateway.
const MODELS_MAX: usize = 64;

fn check_gateway(gateway: &Gateway, problems: &mut Vec<Problem>) {
    if !gateway.token.is_empty() && !gateway.token_file.is_empty() {
        problems.push(Problem::together(
            "gateway.token and gateway.token_file are both set: keep one".to_owned(),
        ));
    }
    let pending = gateway.pending_body_bytes_max;
    if pending != 0 && pending < gateway.body_bytes_max {
        problems.push(Problem::together(format!(
            "gateway.pending_body_bytes_max = {pending} is below gateway.body_bytes_max = {}: the largest body would never \
             have room",
            gateway.body_bytes_max
        )));
    }
    let names: Vec<&str> = gateway
        .models
        .iter()
        .filter_map(|model| Some(model.split_once('=')?.0.trim()))
        .collect();
    if let Some(twice) = names
        .iter()
        .enumerate()
        .find_map(|(place, name)| names[..place].contains(name).then_some(name))
    {
        problems.push(Problem::together(format!(
            "gateway.models names `{twice}` more than once: keep one"
        )));
    }
    if gateway.models.len() > MODELS_MAX {
        problems.push(Problem::together(format!(
            "gateway.models has {} models: expected {MODELS_MAX} at most, since each has a connection of its own",
            gateway.models.len()
        )));
    }
    if gateway.timeout_ms >= gateway.request_timeout_ms {
        problems.push(Problem::together(format!(
            "gateway.timeout_ms = {} is not below gateway.request_timeout_ms = {}: requests would end before their \
             budget does",
            gateway.timeout_ms, gateway.request_timeout_ms
        )));
    }
}

/// A collector that waits for spans in vain looks like a worker that nobody asks.
fn check_traces(traces: &Traces, problems: &mut Vec<Problem>) {
    if !traces.otlp_endpoint.is_empty() && !cfg!(feature = "otlp") {
        problems.push(Problem::together(
            "traces.otlp_endpoint is set, and this program was built without the feature `otlp`: build it with `cargo build \
             --release --features otlp`, or leave the setting empty"
                .to_owned(),
        ));
    }
}

fn convert(raw: Raw) -> Result<Config, UnknownChoice> {
    Ok(Config {
        enabled: raw.enabled,
        nats: nats(raw.nats),
        model: model(raw.model)?,
        batch: batch(&raw.batch),
        queue: queue(&raw.queue),
        limits: limits(&raw.limits),
        tokenize: TokenizeConfig {
            threads: unless_zero(raw.tokenize.threads),
        },
        cache: CacheConfig {
            document_bytes_max: (raw.cache.document_bytes_max > 0).then_some(raw.cache.document_bytes_max),
            scores_max: raw.cache.scores_max,
        },
        shutdown: ShutdownConfig {
            grace: Duration::from_millis(raw.shutdown.grace_ms),
        },
        health: HealthConfig {
            // The schema let only addresses through; an empty text is none.
            listen: raw.health.listen.parse().ok(),
            // What has set it is known to `load`.
            listen_is_default: false,
            heart_beat_age_max: Duration::from_millis(raw.health.heart_beat_age_max_ms),
        },
        gateway: gateway(raw.gateway)?,
        traces: TracesConfig {
            otlp_endpoint: unless_empty(raw.traces.otlp_endpoint),
            sample_ratio: f64::from(raw.traces.sample_percent) / 100.0,
        },
        log: log(raw.log)?,
    })
}

fn nats(raw: Nats) -> NatsConfig {
    NatsConfig {
        urls: raw.url.into_iter().map(ServerUrl::new).collect(),
        ignore_discovered_servers: raw.ignore_discovered_servers,
        subject: raw.subject,
        queue_group: raw.queue_group,
        switch_bucket: unless_empty(raw.switch_bucket),
        switch_domain: unless_empty(raw.switch_domain),
        service_name: raw.service_name,
        connection_name: raw.connection_name,
        credentials_file: path(raw.credentials_file),
        nkey_seed_file: path(raw.nkey_seed_file),
        user: unless_empty(raw.user),
        password: secret(raw.password),
        password_file: path(raw.password_file),
        token: secret(raw.token),
        token_file: path(raw.token_file),
        tls_required: raw.tls_required,
        tls_ca_file: path(raw.tls_ca_file),
        tls_cert_file: path(raw.tls_cert_file),
        tls_key_file: path(raw.tls_key_file),
        inbox_prefix: unless_empty(raw.inbox_prefix),
        reply_prefixes: raw
            .reply_prefixes
            .iter()
            .map(|text| forms::subject_prefix(text).to_owned())
            .collect(),
        connect_timeout: Duration::from_millis(raw.connect_timeout_ms),
        connect_retries_max: raw.connect_retries_max,
        ping_interval: Duration::from_millis(raw.ping_interval_ms),
        subscription_capacity: raw.subscription_capacity,
    }
}

fn model(raw: Model) -> Result<ModelConfig, UnknownChoice> {
    Ok(ModelConfig {
        id: raw.id,
        aliases: raw.aliases,
        revision: raw.revision,
        hub_cache_dir: path(raw.hub_cache_dir),
        hub_token: secret(raw.hub_token),
        hub_endpoint: unless_empty(raw.hub_endpoint),
        hub_offline: raw.hub_offline,
        hub_retries_max: raw.hub_retries_max,
        load_retries_max: raw.load_retries_max,
        load_retry_delay: Duration::from_millis(raw.load_retry_delay_ms),
        fallback_ids: raw.fallback_ids,
        device: raw.device.parse::<DeviceChoice>()?,
        precision: raw.precision.parse::<PrecisionChoice>()?,
        kernels: raw.kernels.parse::<KernelsChoice>()?,
        tokenizer: raw.tokenizer.parse::<TokenizerChoice>()?,
        max_length: unless_zero(raw.max_length),
        warmup_samples: raw.warmup_samples,
        threads: unless_zero(raw.threads),
        cuda_library: raw.cuda_library,
        hang_timeout: (raw.hang_timeout_ms != 0).then(|| Duration::from_millis(raw.hang_timeout_ms)),
    })
}

fn batch(raw: &Batch) -> BatchConfig {
    BatchConfig {
        window: Duration::from_millis(raw.window_ms),
        tokens_max: unless_zero(raw.tokens_max),
    }
}

fn queue(raw: &Queue) -> QueueConfig {
    QueueConfig {
        requests_max: raw.requests_max,
        pairs_max: raw.pairs_max,
        bytes_max: raw.bytes_max,
        leave_at: (raw.leave_at_percent != 0).then(|| f64::from(raw.leave_at_percent) / 100.0),
        rejoin_at: f64::from(raw.rejoin_at_percent) / 100.0,
        dwell_min: Duration::from_millis(raw.dwell_ms_min),
    }
}

fn limits(raw: &Limits) -> LimitsConfig {
    LimitsConfig {
        documents_max: raw.documents_max,
        query_bytes_max: raw.query_bytes_max,
        document_bytes_max: raw.document_bytes_max,
        default_timeout: Duration::from_millis(raw.default_timeout_ms),
        timeout_max: Duration::from_millis(raw.timeout_ms_max),
    }
}

fn gateway(raw: Gateway) -> Result<GatewayConfig, UnknownChoice> {
    Ok(GatewayConfig {
        // The schema let only addresses through; port 0 of this machine stands in for none.
        listen: raw.listen.parse().unwrap_or_else(|_| ([127, 0, 0, 1], 0).into()),
        timeout: Duration::from_millis(raw.timeout_ms),
        on_failure: raw.on_failure.parse::<OnFailure>()?,
        fallback_scores: raw.fallback_scores.parse::<FallbackScores>()?,
        // The schema let only names with a subject through.
        models: raw
            .models
            .iter()
            .filter_map(|model| model.split_once('='))
            .map(|(name, subject)| (name.trim().to_owned(), subject.to_owned()))
            .collect(),
        any_model: raw.any_model,
        split_pairs: unless_zero(raw.split_pairs),
        token: secret(raw.token),
        token_file: path(raw.token_file),
        requests_max: raw.requests_max,
        connections_max: raw.connections_max,
        documents_max: raw.documents_max,
        body_bytes_max: raw.body_bytes_max,
        pending_body_bytes_max: unless_zero(raw.pending_body_bytes_max)
            .unwrap_or(raw.body_bytes_max.saturating_mul(PENDING_BODIES)),
        request_timeout: Duration::from_millis(raw.request_timeout_ms),
        // The schema let only origins through.
        cors_origins: raw
            .cors_origins
            .into_iter()
            .map(|text| forms::origin(&text).unwrap_or(text))
            .collect(),
    })
}

fn log(raw: Log) -> Result<LogConfig, UnknownChoice> {
    Ok(LogConfig {
        format: raw.format.parse::<LogFormat>()?,
        level: raw.level,
    })
}

fn path(text: String) -> Option<PathBuf> {
    unless_empty(text).map(PathBuf::from)
}

fn unless_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn unless_zero(number: usize) -> Option<usize> {
    (number != 0).then_some(number)
}

fn secret(secret: Secret) -> Option<Secret> {
    (!secret.is_empty()).then_some(secret)
}
