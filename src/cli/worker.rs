//! `nats-rerank worker`: load the model, join the queue group, serve until a signal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::signals::{stop_on_signal, tell_supervisor};
use super::{CliError, Global, WorkerFlags};
use crate::config::{Config, ModelConfig};
use crate::model::ModelError;
use crate::model::engine::{EngineSettings, ModelEngine, amx_cap};
use crate::model::tokenizer::PairTokenizer;
use crate::model::{ModelSource, Progress, resolve, try_texts};
use crate::telemetry;
use crate::telemetry::health::{self, Health, HealthError};
use crate::telemetry::supervisor::{Phase, Report};
use crate::worker::{self, Loaded, MembershipPolicy, QueueLimits, RequestLimits, State, Status, WorkerSettings};

/// A stop takes no longer than `shutdown.grace_ms` and this: leaving the group, and sending the last answers.
const STOP_BESIDE_GRACE: Duration = Duration::from_secs(15);

/// Flags of `nats-rerank worker`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    settings: WorkerFlags,
}

/// Runs a worker. Returns the exit code: 128 and the signal's number after a clean stop.
///
/// # Errors
/// A bad setting, no model, no connection, or an engine that died.
pub fn run(args: Args, global: &Global) -> Result<u8, CliError> {
    settle_libraries();
    let config = global.load_with(args.settings.flags())?.config;
    let telemetry = telemetry::start(&config).map_err(|error| CliError::Usage(error.to_string()))?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let status = Status::new();
    // Before the model is loaded: whoever probes meanwhile is told so.
    let health = start_health(&config, &status).map_err(|error| CliError::Failed(error.to_string()))?;
    // For signals: the worker has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the async runtime: {error}")))?;
    let code = runtime.block_on(serve(config, status))?;
    // Whatever still runs is a thread that would not end; the process does.
    runtime.shutdown_timeout(Duration::from_millis(200));
    drop(health);
    telemetry.stop();
    Ok(code)
}

/// What the libraries below libtorch read from the environment, and what suits a worker. Whoever has set one of them
/// knows better. Measured on two cores (TinyBERT-L2, 24 candidates; docs/benchmarks/log.md has the tries):
///
/// * A thread of libtorch's pool spins for milliseconds between operators before it sleeps. Where cores are shared (two
///   workers, a busy neighbour) that eats the very core the work waits for: two workers, eight callers, 16 requests a
///   second by default, 89 with this; one worker alone is as fast with either.
/// * The bf16 layers' plans are cached a thousand shapes deep, twice: 700 MB after a few minutes, 250 MB with this.
/// * MKL keeps its buffers for good: 360 MB, 240 MB with this, at the same speed.
const LIBRARY_SETTINGS: [(&str, &str); 4] = [
    ("GOMP_SPINCOUNT", "1000"),
    ("LRU_CACHE_CAPACITY", "64"),
    ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"),
    ("MKL_DISABLE_FAST_MM", "1"),
];

/// The libraries read their environment when they are loaded, which is before `main`: so this program starts itself
/// again, in the same process, with the missing variables set.
#[cfg(target_os = "linux")]
pub(super) fn settle_libraries() {
    use std::os::unix::process::CommandExt;
    let missing: Vec<_> = LIBRARY_SETTINGS
        .into_iter()
        .chain(amx_cap())
        .filter(|(name, _)| std::env::var_os(name).is_none())
        .collect();
    let mut arguments = std::env::args_os();
    let (Ok(program), Some(name)) = (std::env::current_exe(), arguments.next()) else {
        return;
    };
    if missing.is_empty() {
        return;
    }
    // Returns only if it failed; then the worker runs on, just less well.
    let error = std::process::Command::new(program)
        .arg0(name)
        .args(arguments)
        .envs(missing)
        .exec();
    super::say(&format!(
        "warning: the worker could not start itself again with its library settings: {error}"
    ));
}

#[cfg(not(target_os = "linux"))]
pub(super) fn settle_libraries() {}

fn start_health(config: &Config, status: &Arc<Status>) -> Result<Option<Health>, HealthError> {
    let Some(listen) = config.health.listen else {
        return Ok(None);
    };
    let metrics = health::install_recorder()?;
    let age_max = config.health.heart_beat_age_max;
    let start = |listen| Health::start(listen, status.clone(), metrics.clone(), age_max, silence_max(config));
    match start(listen) {
        // Most often the first worker of this machine: the second one shall start as well as it did.
        Err(HealthError::Listen { reason, .. })
            if config.health.listen_is_default && reason.kind() == std::io::ErrorKind::AddrInUse =>
        {
            let health = start(SocketAddr::new(listen.ip(), 0))?;
            tracing::warn!(
                address = %health.address(),
                "health: {listen} is taken, most likely by another worker of this machine: a free port was taken in its \
                 place (health.listen sets one)"
            );
            Ok(Some(health))
        }
        started => started.map(Some),
    }
}

/// No sign of life for this long, and the worker should be started again. `model.hang_timeout_ms` has its turn first.
fn silence_max(config: &Config) -> Duration {
    let hang_timeout = config.model.hang_timeout.unwrap_or_default();
    config.health.heart_beat_age_max.max(hang_timeout)
}

/// What the supervisor is told of this worker. It is started once it is in its queue group, or out of it on purpose.
fn report(status: &Status, stopping: bool, silence_max: Duration) -> Report {
    let state = status.state();
    let phase = match state {
        _ if stopping => Phase::Stopping,
        State::Loading | State::Connecting | State::Refused => Phase::Starting,
        State::Serving | State::Full | State::Off => Phase::Ready,
        State::Stopping | State::Failed => Phase::Stopping,
    };
    let why_not_alive = status.why_not_alive(silence_max);
    let model = status.model_facts();
    let text = match (&why_not_alive, model) {
        // Without the figure, which would be another in each round.
        (Some(_), _) => format!("{}: no sign of life", state.name()),
        (None, Some(model)) => format!(
            "{}: {} on {} in {}",
            state.name(),
            model.id,
            model.device,
            model.precision
        ),
        (None, None) => state.name().to_owned(),
    };
    Report {
        phase,
        alive: why_not_alive.is_none(),
        status: text,
    }
}

async fn serve(config: Config, status: Arc<Status>) -> Result<u8, CliError> {
    let (stop, code) = stop_on_signal()?;
    let settings = settings(&config);
    let _supervisor = tell_supervisor(STOP_BESIDE_GRACE + config.shutdown.grace, {
        let (status, stop, silence_max) = (status.clone(), stop.clone(), silence_max(&config));
        move || report(&status, *stop.borrow(), silence_max)
    });
    let (model, document_bytes_max) = (config.model, config.cache.document_bytes_max);
    let load = move || {
        let loaded = load_model(&model)?;
        if let Some(bytes_max) = document_bytes_max {
            loaded.tokenizer.cache_documents(bytes_max);
        }
        Ok(loaded)
    };
    let mut stopped = stop.clone();
    tokio::select! {
        outcome = worker::run(settings, load, stop, status) => {
            outcome.map_err(|error| CliError::Failed(error.to_string()))?;
        }
        // A stop while the model is still loading: nothing was taken, so nothing is owed.
        () = async {
            let _ = stopped.wait_for(|&stop| stop).await;
            if worker::model_loads() > 0 {
                std::future::pending::<()>().await;
            }
        } => {}
    }
    Ok(code.load(Ordering::Acquire))
}

fn settings(config: &Config) -> WorkerSettings {
    WorkerSettings {
        connection: config.nats.connection(),
        connect_retries_max: config.nats.connect_retries_max,
        subscription_capacity: config.nats.subscription_capacity,
        subject: config.nats.subject.clone(),
        queue_group: config.nats.queue_group.clone(),
        reply_prefixes: config.nats.reply_prefixes.clone(),
        service_name: config.nats.service_name.clone(),
        enabled: config.enabled,
        switch_bucket: config.nats.switch_bucket.clone(),
        switch_domain: config.nats.switch_domain.clone(),
        membership: MembershipPolicy {
            leave_at: config.queue.leave_at,
            rejoin_at: config.queue.rejoin_at,
            dwell_min: config.queue.dwell_min,
        },
        hang_timeout: config.model.hang_timeout,
        measure: config.model.warmup_samples > 0,
        aliases: config.model.aliases.clone(),
        window: config.batch.window,
        batch_tokens_max: config.batch.tokens_max,
        queue: QueueLimits {
            requests_max: config.queue.requests_max,
            pairs_max: config.queue.pairs_max,
            bytes_max: config.queue.bytes_max,
        },
        limits: RequestLimits {
            documents_max: config.limits.documents_max,
            query_bytes_max: config.limits.query_bytes_max,
            document_bytes_max: config.limits.document_bytes_max,
            default_timeout: config.limits.default_timeout,
            timeout_max: config.limits.timeout_max,
            model_names: Vec::new(),
        },
        scores_max: config.cache.scores_max,
        tokenize_threads: config.tokenize.threads.unwrap_or(0),
        grace: config.shutdown.grace,
    }
}

/// Where a model id of this configuration leads.
pub(super) fn model_source(model: &ModelConfig, id: &str) -> ModelSource {
    ModelSource {
        id: id.to_owned(),
        revision: model.revision.clone(),
        cache_dir: model.hub_cache_dir.clone(),
        token: model.hub_token.as_ref().map(|token| token.expose().to_owned()),
        endpoint: model.hub_endpoint.clone(),
        offline: model.hub_offline,
        retries_max: model.hub_retries_max,
        length_max: model.max_length,
        tokenizer: model.tokenizer,
    }
}

/// How this configuration wants a model to be run.
pub(super) fn engine_settings(model: &ModelConfig) -> EngineSettings {
    EngineSettings {
        device: model.device,
        precision: model.precision,
        kernels: model.kernels,
        threads: model.threads.unwrap_or(0),
        warmup_samples: model.warmup_samples,
        cuda_library: model.cuda_library.clone(),
    }
}

/// Loads the configured model, or a fallback: each is tried again a bounded number of times, then the next.
pub(super) fn load_model(model: &ModelConfig) -> Result<Loaded, ModelError> {
    let mut first_error = None;
    for id in std::iter::once(&model.id).chain(&model.fallback_ids) {
        match load_with_retries(model, id) {
            Ok(loaded) => {
                if first_error.is_some() {
                    tracing::warn!(model = id, "serving a fallback model");
                }
                return Ok(loaded);
            }
            Err(error) => {
                tracing::error!(model = id, %error, "cannot load the model");
                first_error.get_or_insert(error);
            }
        }
    }
    // Proof: the loop ran at least once, and every turn that does not return sets the error. The first is the one that
    // the operator asked for.
    Err(first_error.unwrap_or(ModelError::Engine {
        reason: "no model is configured".to_owned(),
    }))
}

fn load_with_retries(model: &ModelConfig, id: &str) -> Result<Loaded, ModelError> {
    let mut attempt = 0;
    loop {
        match load_once(model, id) {
            Err(error) if error.is_retryable() && attempt < model.load_retries_max => {
                attempt += 1;
                tracing::warn!(model = id, attempt, retries_max = model.load_retries_max, %error, "loading failed: trying again");
                std::thread::sleep(model.load_retry_delay);
            }
            outcome => return outcome,
        }
    }
}

fn load_once(model: &ModelConfig, id: &str) -> Result<Loaded, ModelError> {
    let checkpoint = resolve(&model_source(model, id), &Progress::auto())?;
    let tokenizer = Arc::new(PairTokenizer::open(&checkpoint)?);
    let mut engine = Box::new(ModelEngine::load(&checkpoint, &engine_settings(model))?);
    try_texts(engine.as_mut(), &tokenizer)?;
    Ok(Loaded { engine, tokenizer })
}
