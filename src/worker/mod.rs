//! The worker: a pipeline of stages, one file a stage, wired here and only here.
//!
//! ```text
//! receive ─Incoming→ decode ─Decoded→ admit ─Admitted→ tokenize ─Tokenized→ gather+batch ─Batch→ infer ─Scored→ rank → reply
//!                       └──────────────┴─────────────────┴───── Refusal, through the ticket ───┴────────────────┘
//! ```
//!
//! Threads: tokio's (receive, decode, admit, reply, deadlines), the tokenizer pool, and one engine thread.

mod admit;
mod batch;
mod budget;
mod decode;
mod discovery;
mod gather;
mod govern;
mod infer;
mod load;
mod membership;
mod rank;
mod rate;
mod receive;
mod reply;
mod status;
mod ticket;
mod tokenize;

pub use admit::QueueLimits;
pub use batch::{BatchPolicy, Batcher, Decision, DeviceState, Job, JobId, Slice};
pub use decode::RequestLimits;
pub use infer::{Loaded, model_loads};
pub use membership::MembershipPolicy;
pub use rank::rank;
pub use status::{Latency, ModelFacts, Outcome, Snapshot, State, Status};

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::model::ModelError;
use crate::model::engine::{EngineInfo, LIBTORCH_VERSION};
use crate::nats::{self, ConnectionSettings};
use crate::protocol::{Refusal, RefusalKind, Reply, TimingsMs, Usage};
use crate::switch;
use crate::telemetry::names;
use gather::{Gatherer, Scored};
use infer::EngineThread;
use receive::Wish;
use ticket::Outbox;
use tokenize::{Tokenized, TokenizerPool};

/// Commands that may wait for the connection before publishing waits too (and gives up, see `reply`).
const CLIENT_CAPACITY: usize = 2048;

/// The longest that leaving the group may take once the model has failed.
const LEAVE_MAX: Duration = Duration::from_secs(5);

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
    /// The name in service discovery.
    pub service_name: String,
    /// False: stay connected, but out of the queue group, unless the live switch says otherwise.
    pub enabled: bool,
    /// The JetStream KV bucket of the live switch.
    pub switch_bucket: Option<String>,
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
    /// Tokenizer threads; 0: one for each core.
    pub tokenize_threads: usize,
    /// How long a stop may take.
    pub grace: Duration,
}

/// Why a worker could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No model: no subscription was made.
    #[error("no model could be loaded: {0}")]
    Model(#[from] ModelError),
    /// No connection.
    #[error(transparent)]
    Connect(#[from] nats::ConnectError),
    /// The subscription failed or ended.
    #[error("{0}")]
    Subscription(String),
    /// The engine died; the supervisor should start a new process.
    #[error("the engine has failed: {0}")]
    Engine(String),
    /// The system gave no threads.
    #[error("cannot start the tokenizer threads: {0}")]
    Threads(String),
}

/// Runs a worker until `stop` turns true (then it leaves the group, finishes what it took, and returns `Ok`) or it
/// cannot go on. The model is loaded first, by the engine thread; the queue group is joined only after that. What
/// happens is written to `status`.
///
/// # Errors
/// See [`WorkerError`].
pub async fn run(
    settings: WorkerSettings,
    load: impl FnOnce() -> Result<Loaded, ModelError> + Send + 'static,
    stop: watch::Receiver<bool>,
    status: Arc<Status>,
) -> Result<(), WorkerError> {
    let WorkerSettings {
        window,
        batch_tokens_max,
        measure,
        ..
    } = settings;
    // Told early enough for the state machine to decide.
    let pressure_at = settings.membership.leave_at.unwrap_or(f64::INFINITY);
    let queue = admit::Queue::new(settings.queue, settings.limits.default_timeout, pressure_at);
    let worked_off = queue.clone();
    let (mut engine, gatherer) = EngineThread::start(
        load,
        status.clone(),
        batch_tokens_max,
        move |info, tokens_max| {
            worked_off.load().set_sizes(tokens_max, info.length_max);
            Gatherer::new(BatchPolicy { window, tokens_max }, worked_off)
        },
        answer,
        measure,
    )
    .await?;
    status.set_state(State::Connecting);
    publish_build_info(&engine.info);

    let _closing = Closing(gatherer.clone());

    let worker_id = nuid::next().to_string();
    let plan = nats::ConnectPlan {
        retries_max: settings.connect_retries_max,
        subscription_capacity: settings.subscription_capacity,
        client_capacity: CLIENT_CAPACITY,
    };
    let mut stopped = stop.clone();
    let on_event = {
        let status = status.clone();
        move |event| receive::on_event(event, &status)
    };
    let client = tokio::select! {
        client = nats::connect(&settings.connection, plan, on_event) => client?,
        // Nothing was taken, so nothing is owed.
        _ = stopped.wait_for(|&stop| stop) => return Ok(()),
    };

    // Every open ticket has a place in the outbox, and so have refusals that leave at once.
    let (outbox, outgoing) = Outbox::new(settings.queue.requests_max.saturating_add(256));
    let publisher = tokio::spawn(reply::publish_answers(
        client.clone(),
        worker_id.clone(),
        status.clone(),
        outgoing,
    ));
    let deadlines = tokio::spawn({
        let gatherer = gatherer.clone();
        async move { gatherer.watch_deadlines().await }
    });

    let mut limits = settings.limits.clone();
    limits.model_names = std::iter::once(engine.info.model_id.clone())
        .chain(settings.aliases.iter().cloned())
        .collect();
    let pool = {
        let (gatherer, info, queue) = (gatherer.clone(), engine.info.clone(), queue.clone());
        TokenizerPool::new(
            engine.tokenizer.clone(),
            settings.tokenize_threads,
            move |tokenized: Tokenized| {
                learn_tokens(&tokenized, &queue);
                if tokenized.pairs.is_empty() {
                    answer_empty(tokenized, &info)
                } else {
                    gatherer.push(tokenized)
                }
            },
        )
        .map_err(|error| WorkerError::Threads(error.to_string()))?
    };
    let take = {
        let queue = queue.clone();
        move |incoming, place| {
            let admitted =
                decode::decode(incoming, place, &limits).and_then(|decoded| queue.admit(decoded, Instant::now()));
            if let Some(admitted) = admitted {
                pool.submit(admitted);
            }
        }
    };

    let group = receive::Group {
        subject: settings.subject.clone(),
        queue_group: settings.queue_group.clone(),
    };
    let joined_before = std::sync::atomic::AtomicBool::new(false);
    let discovery = status.model_facts().map(|model| {
        let name = &settings.service_name;
        let service = discovery::Service::new(name, &worker_id, group.clone(), &settings.limits, &model, &status);
        tokio::spawn(discovery::answer_discovery(client.clone(), service, status.clone()))
    });
    let joined = || {
        if joined_before.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        tracing::info!(
            worker = worker_id,
            model = engine.info.model_id,
            device = engine.info.device,
            precision = engine.info.precision,
            subject = settings.subject,
            queue_group = settings.queue_group,
            tokens_per_second = queue.load().tokens_per_second(),
            "ready: joined the queue group"
        );
    };
    // Without a bucket the sender is kept here, so that the switch stays as it is.
    let (_configured, switch) = match settings.switch_bucket {
        Some(bucket) => (None, switch::watch_switch(client.clone(), bucket, settings.enabled)),
        None => {
            let (sender, receiver) = watch::channel(settings.enabled);
            (Some(sender), receiver)
        }
    };
    let (wish, wished) = watch::channel(Wish::Off);
    let wish = Arc::new(wish);
    let governor = tokio::spawn(govern::govern(
        settings.membership,
        queue.clone(),
        switch,
        stop,
        wish.clone(),
    ));
    let outcome = {
        let mut served = std::pin::pin!(receive::receive(
            &client, &group, &outbox, &status, wished, joined, take
        ));
        let failed = tokio::select! {
            outcome = &mut served => Err(outcome),
            ended = &mut engine.ended => Ok(match ended {
                Ok(None) => "the engine thread ended by itself".to_owned(),
                Ok(Some(reason)) => reason,
                Err(_) => "the engine thread is gone".to_owned(),
            }),
            after = watch_device(&queue, settings.hang_timeout) => Ok(format!(
                "the device has been at one batch for {} ms (model.hang_timeout_ms)",
                after.as_millis()
            )),
        };
        match failed {
            Err(served) => served.map_err(WorkerError::Subscription),
            Ok(reason) => {
                tracing::error!(
                    reason,
                    "the engine has failed: refusing what is queued and leaving the queue group"
                );
                gatherer.close(Refusal::new(
                    RefusalKind::Unavailable,
                    "the model of this worker has failed",
                ));
                // What still comes in while the group is left is refused as well.
                wish.send_replace(Wish::End);
                let _ = tokio::time::timeout(LEAVE_MAX, &mut served).await;
                Err(WorkerError::Engine(reason))
            }
        }
    };
    governor.abort();

    // What was taken is finished, within the grace.
    status.set_state(if matches!(outcome, Err(WorkerError::Engine(_))) {
        State::Failed
    } else {
        State::Stopping
    });
    let until = Instant::now() + settings.grace;
    tracing::info!(
        requests = queue.requests(),
        "left the queue group: finishing what was taken"
    );
    while queue.requests() > 0 && Instant::now() < until && outcome.is_ok() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    gatherer.close(Refusal::new(RefusalKind::Unavailable, "this worker is shutting down"));
    deadlines.abort();
    // The tickets that are left hold places; the publisher ends when the last has answered.
    drop(outbox);
    if tokio::time::timeout(Duration::from_secs(5), publisher).await.is_err() {
        tracing::error!("some answers could not be sent before the end");
    }
    if tokio::time::timeout(Duration::from_secs(5), client.flush())
        .await
        .is_err()
    {
        tracing::error!("the last answers may not have left: NATS did not take them in time");
    }
    // The engine thread may be within a long batch whose callers have been refused: it is left behind, since the
    // process ends now.
    if outcome.is_ok() && until > Instant::now() {
        let _ = tokio::task::spawn_blocking(move || engine.join()).await;
    }
    if let Some(discovery) = discovery {
        discovery.abort();
    }
    tracing::info!("stopped");
    outcome
}

fn publish_build_info(info: &EngineInfo) {
    metrics::gauge!(
        names::BUILD_INFO,
        "version" => env!("CARGO_PKG_VERSION"),
        "libtorch" => LIBTORCH_VERSION,
        "model" => info.model_id.clone(),
        "device" => info.device.clone(),
        "precision" => info.precision.clone(),
    )
    .set(1.0);
}

/// Ends the engine thread's waiting however `run` ends.
struct Closing(Arc<Gatherer>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0
            .close(Refusal::new(RefusalKind::Unavailable, "this worker is shutting down"));
    }
}

/// Returns when the device has been at one batch for longer than `max`; never without a bound.
async fn watch_device(queue: &admit::Queue, max: Option<Duration>) -> Duration {
    let Some(max) = max else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep((max / 8).max(Duration::from_millis(1))).await;
        let since = queue.load().running_since();
        if let Some(since) = since
            && since.elapsed() > max
        {
            return since.elapsed();
        }
    }
}

/// What a byte of text comes to in tokens, for the estimates of admission.
fn learn_tokens(tokenized: &Tokenized, queue: &admit::Queue) {
    let query_bytes = tokenized.request.query.len();
    let (mut pairs, mut bytes, mut tokens) = (0, 0, 0);
    for (pair, document) in tokenized.pairs.iter().zip(&tokenized.request.documents) {
        // A pair that was cut tells nothing of the bytes that were cut off.
        if !pair.truncated {
            pairs += 1;
            bytes += query_bytes + document.text.len();
            tokens += pair.ids.len();
        }
    }
    queue.load().learn_tokens(pairs, bytes, tokens);
}

/// From logits to the reply; on the engine thread, since it takes microseconds.
fn answer(scored: Scored, info: &EngineInfo) {
    let Scored {
        ticket,
        request,
        logits,
        cost,
    } = scored;
    let pairs = logits.len();
    let rankings = rank(request, &logits, info.activation);
    ticket.answer(Reply {
        top_k_applied: rankings.len() < pairs,
        rankings,
        model: info.model_id.clone(),
        usage: Usage {
            pairs: pairs as u64,
            tokens: cost.tokens,
            truncated: cost.truncated,
            cached: 0,
        },
        timings_ms: TimingsMs {
            queue: ms(cost.queue),
            tokenize: ms(cost.tokenize),
            infer: ms(cost.infer),
            total: 0.0,
        },
    });
}

/// No candidates: nothing to score.
fn answer_empty(tokenized: Tokenized, info: &EngineInfo) {
    tokenized.ticket.answer(Reply {
        rankings: Vec::new(),
        top_k_applied: false,
        model: info.model_id.clone(),
        usage: Usage::default(),
        timings_ms: TimingsMs {
            queue: ms(tokenized.waited),
            tokenize: ms(tokenized.tokenize),
            infer: 0.0,
            total: 0.0,
        },
    });
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod simulation;
