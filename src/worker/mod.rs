//! The worker: a pipeline of stages, one file a stage, wired here and only here.
//!
//! ```text
//! receive ─Incoming→ decode ─Decoded→ admit ─Admitted→ tokenize ─Tokenized→ gather+batch ─Batch→ infer ─Scored→ rank → reply
//!                       └──────────────┴─────────────────┴───── Refusal, through the ticket ───┴────────────────┘
//! ```
//!
//! Threads: one for NATS (receive, decode, admit, reply, deadlines), the tokenizer pool, and one for the engine.

mod admit;
mod answer;
mod batch;
mod budget;
mod busy;
mod connection;
mod decode;
mod discovery;
mod error;
mod finish;
mod fit;
mod forward;
mod gather;
mod govern;
mod group;
mod infer;
mod load;
mod measure;
mod membership;
mod next;
mod rank;
mod rate;
mod receive;
mod reply;
mod reply_subject;
mod scores;
mod settings;
mod snapshot;
mod state;
mod status;
mod ticket;
mod tokenize;
mod violation;

pub use admit::QueueLimits;
pub use batch::{BatchPolicy, Batcher, Decision, DeviceState, Job, JobId, Slice};
pub use busy::BUSY_WINDOW;
pub use decode::RequestLimits;
pub use error::WorkerError;
pub use infer::{Loaded, model_loads};
pub use load::LoadReading;
pub use membership::MembershipPolicy;
pub use rank::rank;
pub use settings::WorkerSettings;
pub use snapshot::{CacheReading, ModelFacts, Snapshot};
pub use state::{LeaveReason, Outcome, State};
pub use status::Status;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use crate::model::ModelError;
use crate::model::engine::{EngineInfo, LIBTORCH_VERSION};
use crate::nats::{self, Sessions};
use crate::protocol::{Refusal, RefusalKind};
use crate::switch;
use crate::telemetry::names;
use answer::{answer, answer_empty};
use connection::Link;
use finish::Finish;
use gather::Gatherer;
use group::{Group, GroupAddress};
use infer::EngineThread;
use receive::{Receiver, Room, Wish};
use reply_subject::ReplySubjects;
use scores::ScoreCache;
use ticket::Outbox;
use tokenize::{Tokenized, TokenizerPool};

/// Commands that may wait for the connection before publishing waits too (and gives up, see `reply`).
const CLIENT_CAPACITY: usize = 2048;

/// The longest that leaving the group may take once the model has failed.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// Runs a worker until `stop` turns true (then it leaves the group, finishes what it took, and returns `Ok`) or it
/// cannot go on. The model is loaded first, by the engine thread; the queue group is joined only after that. What
/// happens is written to `status`. Dropped, the worker goes on until `stop` turns true or its sender is gone.
///
/// # Errors
/// See [`WorkerError`].
pub async fn run(
    settings: WorkerSettings,
    load: impl FnOnce() -> Result<Loaded, ModelError> + Send + 'static,
    stop: watch::Receiver<bool>,
    status: Arc<Status>,
) -> Result<(), WorkerError> {
    let no_thread = |error: std::io::Error| WorkerError::Threads(error.to_string());
    let (ended, end) = oneshot::channel();
    // All of NATS on one thread. It has little to do, and what `receive` hands to the client library without a pause in
    // between leaves together: see `group`.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(no_thread)?;
    let thread = std::thread::Builder::new().name("nats".to_owned());
    let spawned = thread.spawn(move || {
        let outcome = runtime.block_on(serve(settings, load, stop, status));
        // What is still blocked is left behind.
        runtime.shutdown_timeout(Duration::from_millis(100));
        let _ = ended.send(outcome);
    });
    spawned.map_err(no_thread)?;
    end.await.unwrap_or(Err(WorkerError::Panicked))
}

/// See [`run`].
async fn serve(
    settings: WorkerSettings,
    load: impl FnOnce() -> Result<Loaded, ModelError> + Send + 'static,
    stop: watch::Receiver<bool>,
    status: Arc<Status>,
) -> Result<(), WorkerError> {
    tokio::spawn(status.clone().pulse());
    // Before the live switch can be seen, which is after a model's download, the configuration holds.
    govern::tell_switch(settings.enabled);
    let WorkerSettings {
        window,
        batch_tokens_max,
        measure,
        ..
    } = settings;
    // Told early enough for the state machine to decide.
    let pressure_at = settings.membership.leave_at.unwrap_or(f64::INFINITY);
    let queue = admit::Queue::new(settings.queue, settings.limits.default_timeout, pressure_at);
    status.set_load_reader({
        let queue = queue.clone();
        move |now| queue.load().read(now)
    });
    let scores = score_cache(settings.scores_max)?;
    let (worked_off, known) = (queue.clone(), scores.clone());
    let (mut engine, gatherer) = EngineThread::start(
        load,
        status.clone(),
        batch_tokens_max,
        move |info, tokens_max| {
            worked_off.load().set_sizes(tokens_max, info.length_max);
            Gatherer::new(BatchPolicy { window, tokens_max }, worked_off, known)
        },
        answer,
        measure,
    )
    .await?;
    queue.load().set_prompt_bytes(engine.tokenizer.query_prompt_bytes());
    status.set_cache_reader({
        let tokenizer = engine.tokenizer.clone();
        move || CacheReading {
            documents: tokenizer.document_cache(),
            scores: scores.as_ref().map(|scores| scores.counts()),
        }
    });
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
    let address = GroupAddress {
        subject: settings.subject.clone(),
        queue_group: settings.queue_group.clone(),
    };
    let link = Link::new(address.clone(), status.clone());
    let on_event = {
        let link = link.clone();
        move |event| link.on_event(event)
    };
    let connection = with_own_inboxes(&settings.connection, &worker_id);
    let sessions = tokio::select! {
        sessions = Sessions::connect(&connection, plan, on_event) => sessions?,
        // Nothing was taken, so nothing is owed.
        _ = stopped.wait_for(|&stop| stop) => return Ok(()),
    };
    let own_subject = discovery::own_subject(&settings.service_name, &worker_id);
    link.prepare(&sessions.client(), own_subject.clone()).await;
    let reply_subjects = Arc::new(ReplySubjects::new(
        settings.subject.clone(),
        connection.inbox_prefix.unwrap_or_default(),
        settings.reply_prefixes,
    ));

    // Every open ticket has a place in the outbox, and so have refusals that leave at once.
    let (outbox, outgoing) = Outbox::new(settings.queue.requests_max.saturating_add(256));
    let publisher = tokio::spawn(reply::publish_answers(
        sessions.clone(),
        worker_id.clone(),
        engine.info.activation,
        status.clone(),
        link.clone(),
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
                } else if let Some(scored) = gatherer.push(tokenized) {
                    answer(scored, &info)
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

    let discovery = status.model_facts().map(|model| {
        let name = &settings.service_name;
        let service = discovery::Service::new(name, &worker_id, address.clone(), &settings.limits, &model, &status);
        tokio::spawn(discovery::answer_discovery(
            sessions.clone(),
            service,
            status.clone(),
            link.clone(),
            reply_subjects.clone(),
        ))
    });
    let joined = || {
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
        Some(name) => {
            let bucket = switch::Bucket {
                name,
                domain: settings.switch_domain,
            };
            (None, switch::watch_switch(sessions.clone(), bucket, settings.enabled))
        }
        None => {
            let (sender, receiver) = watch::channel(settings.enabled);
            (Some(sender), receiver)
        }
    };
    // As configured until the governor knows better.
    let (wish, wished) = watch::channel(if settings.enabled { Wish::In } else { Wish::Off });
    let wish = Arc::new(wish);
    let governor = tokio::spawn(govern::govern(
        settings.membership,
        queue.clone(),
        switch,
        stop,
        wish.clone(),
    ));
    let outcome = {
        let group = Group::new(sessions.client(), address, settings.subscription_capacity);
        let receiver = Receiver {
            sessions: &sessions,
            outbox: &outbox,
            status: &status,
            link: &link,
            own_subject,
            reply_subjects: &reply_subjects,
            room: || Room {
                requests: queue.room(Instant::now()),
                at_rest: queue.requests() == 0,
            },
            queue: &queue,
            joined,
            take,
        };
        let mut served = std::pin::pin!(receiver.receive(group, wished));
        let failed = tokio::select! {
            outcome = &mut served => Err(outcome),
            ended = &mut engine.ended => Ok(WorkerError::Engine(match ended {
                Ok(None) => "the engine thread ended by itself".to_owned(),
                Ok(Some(reason)) => reason,
                Err(_) => "the engine thread is gone".to_owned(),
            })),
            after = watch_device(&queue, settings.hang_timeout) => Ok(WorkerError::Engine(format!(
                "the device has been at one batch for {} ms (model.hang_timeout_ms)",
                after.as_millis()
            ))),
            error = link.lost() => Ok(error),
            () = link.check(&sessions) => Err(Ok(())),
        };
        match failed {
            Err(outcome) => outcome,
            Ok(error) => {
                tracing::error!(%error, "this worker cannot go on: leaving the queue group");
                if matches!(error, WorkerError::Engine(_)) {
                    gatherer.close(Refusal::new(
                        RefusalKind::Unavailable,
                        "the model of this worker has failed",
                    ));
                }
                // What still comes in while the group is left is answered as well.
                wish.send_replace(Wish::End);
                let _ = tokio::time::timeout(LEAVE_MAX, &mut served).await;
                Err(error)
            }
        }
    };
    governor.abort();
    let finish = Finish {
        grace: settings.grace,
        status,
        queue,
        gatherer,
        engine,
        flush: async move {
            // What is still to leave when the connection is gone has no more time: see `reply`.
            let client = sessions.client();
            tokio::select! {
                _ = client.flush() => {}
                () = link.away() => {}
            }
        },
        publisher,
        deadlines,
    };
    // With the last outbox here gone, the publisher ends when the last ticket is answered.
    drop(outbox);
    finish.run(&outcome).await;
    if let Some(discovery) = discovery {
        discovery.abort();
    }
    tracing::info!("stopped");
    outcome
}

/// The same connection with inboxes that no other has: what is below their prefix is this worker's own.
fn with_own_inboxes(connection: &nats::ConnectionSettings, worker_id: &str) -> nats::ConnectionSettings {
    let prefix = connection.inbox_prefix.as_deref().unwrap_or("_INBOX");
    nats::ConnectionSettings {
        inbox_prefix: Some(format!("{prefix}.{worker_id}")),
        ..connection.clone()
    }
}

/// The cache of scores, if there is to be one.
fn score_cache(scores_max: usize) -> Result<Option<Arc<ScoreCache>>, WorkerError> {
    if scores_max == 0 {
        return Ok(None);
    }
    match ScoreCache::new(scores_max) {
        Some(cache) => Ok(Some(Arc::new(cache))),
        None => Err(WorkerError::Random),
    }
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
    let mut load = queue.load();
    let query_bytes = load.prompt_bytes() + tokenized.request.query.len();
    let (mut pairs, mut bytes, mut tokens) = (0, 0, 0);
    for (pair, document) in tokenized.pairs.iter().zip(&tokenized.request.documents) {
        // A pair that was cut tells nothing of the bytes that were cut off.
        if !pair.truncated {
            pairs += 1;
            bytes += query_bytes + document.text.len();
            tokens += pair.ids.len();
        }
    }
    load.learn_tokens(pairs, bytes, tokens);
}

#[cfg(test)]
mod simulation;
