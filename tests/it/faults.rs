//! Engines that fail by script, behind the whole worker and a real nats-server: every request is answered once, and the
//! worker ends where it cannot go on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use nats_rerank::model::ModelError;
use nats_rerank::model::engine::{Engine, EngineError, EngineInfo};
use nats_rerank::model::files::Checkpoint;
use nats_rerank::model::spec::ScoreActivation;
use nats_rerank::model::tokenizer::{PairTokenizer, PairTokens};
use nats_rerank::nats::ConnectionSettings;
use nats_rerank::protocol::{RefusalKind, Request};
use nats_rerank::worker::{
    self, Loaded, MembershipPolicy, QueueLimits, RequestLimits, Status, WorkerError, WorkerSettings,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::nats_server::NatsServer;
use crate::support::{PATIENCE, RawCaller, reference, until};

/// What stands in for the forward pass.
pub type Script = Box<dyn FnMut(&[&PairTokens]) -> Result<Vec<f32>, EngineError> + Send>;

struct Scripted {
    info: EngineInfo,
    script: Script,
}

impl Engine for Scripted {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn score(&mut self, pairs: &[&PairTokens]) -> Result<Vec<f32>, EngineError> {
        (self.script)(pairs)
    }
}

pub struct InProcess {
    stop: watch::Sender<bool>,
    run: JoinHandle<Result<(), WorkerError>>,
    /// What the worker knows of itself.
    pub status: Arc<Status>,
}

impl InProcess {
    /// A worker within this process whose engine is `script`.
    pub async fn start(
        server: &NatsServer,
        change: impl FnOnce(&mut WorkerSettings),
        script: impl FnMut(&[&PairTokens]) -> Result<Vec<f32>, EngineError> + Send + 'static,
    ) -> InProcess {
        let script: Script = Box::new(script);
        InProcess::start_with(server, change, |info| Box::new(Scripted { info, script })).await
    }

    /// The same with an engine of the test's own, made on the engine thread.
    pub async fn start_with(
        server: &NatsServer,
        change: impl FnOnce(&mut WorkerSettings),
        make: impl FnOnce(EngineInfo) -> Box<dyn Engine> + Send + 'static,
    ) -> InProcess {
        let mut settings = WorkerSettings {
            connection: ConnectionSettings {
                urls: vec![server.url.clone()],
                ..ConnectionSettings::default()
            },
            connect_retries_max: 3,
            subscription_capacity: 4096,
            subject: "rerank.v1.score".to_owned(),
            queue_group: "rerank".to_owned(),
            reply_prefixes: Vec::new(),
            service_name: "rerank".to_owned(),
            enabled: true,
            switch_bucket: None,
            switch_domain: None,
            membership: MembershipPolicy {
                leave_at: None,
                rejoin_at: 0.5,
                dwell_min: Duration::from_millis(20),
            },
            hang_timeout: None,
            measure: false,
            aliases: Vec::new(),
            window: Duration::from_millis(1),
            batch_tokens_max: None,
            queue: QueueLimits {
                requests_max: 512,
                pairs_max: 65536,
                bytes_max: 1 << 26,
            },
            limits: RequestLimits {
                documents_max: 1000,
                query_bytes_max: 1 << 16,
                document_bytes_max: 1 << 20,
                default_timeout: PATIENCE,
                timeout_max: PATIENCE,
                model_names: Vec::new(),
            },
            scores_max: 0,
            tokenize_threads: 1,
            grace: Duration::from_secs(10),
        };
        change(&mut settings);
        let waits = settings.enabled && settings.switch_bucket.is_none();
        let subject = settings.subject.clone();
        let before = server.subscriptions(&subject);
        let load = move || -> Result<Loaded, ModelError> {
            let checkpoint = Checkpoint::open("scripted", &reference("bert-small"), None)?;
            let tokenizer = Arc::new(PairTokenizer::open(&checkpoint)?);
            let info = EngineInfo {
                kernels: "scripted",
                attention: "own",
                model_id: "scripted".to_owned(),
                device: "cpu".to_owned(),
                precision: "fp32".to_owned(),
                length_max: 512,
                activation: ScoreActivation::Identity,
                batch_tokens: 256,
            };
            Ok(Loaded {
                engine: make(info),
                tokenizer,
            })
        };
        let (stop, stopped) = watch::channel(false);
        let status = Status::new();
        let run = tokio::spawn(worker::run(settings, load, stopped, status.clone()));
        if waits {
            until("the worker has joined", || server.subscriptions(&subject) > before).await;
        }
        InProcess { stop, run, status }
    }

    /// Stops it and waits for its end.
    pub async fn stop(self) -> Result<(), WorkerError> {
        let _ = self.stop.send(true);
        self.ended().await
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) -> Result<(), WorkerError> {
        tokio::time::timeout(PATIENCE, self.run)
            .await
            .expect("the worker ends")
            .expect("no panic")
    }
}

/// The number of tokens, so that every pair's score is known.
pub fn lengths(pairs: &[&PairTokens]) -> Vec<f32> {
    pairs.iter().map(|pair| pair.ids.len() as f32).collect()
}

fn tokens(pairs: &[&PairTokens]) -> usize {
    pairs.iter().map(|pair| pair.ids.len()).sum()
}

pub fn words(count: usize) -> String {
    "word ".repeat(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_costs_latency_only_and_is_learned() {
    let server = NatsServer::start();
    let failures = Arc::new(AtomicUsize::new(0));
    let counted = failures.clone();
    let worker = InProcess::start(
        &server,
        |_| (),
        move |pairs| {
            if tokens(pairs) > 60 {
                counted.fetch_add(1, Ordering::Relaxed);
                return Err(EngineError::OutOfMemory("scripted".to_owned()));
            }
            Ok(lengths(pairs))
        },
    )
    .await;
    let caller = RawCaller::connect(&server.url).await;
    let text = words(6);
    let request = Request::new("q", std::iter::repeat_n(text.as_str(), 40));
    caller.ask(&request).await.scored();
    let learning = failures.load(Ordering::Relaxed);
    assert!(learning > 0);
    for _ in 0..5 {
        let reply = caller.ask(&request).await.scored();
        assert_eq!(reply.rankings.len(), 40);
    }
    assert_eq!(failures.load(Ordering::Relaxed), learning, "the budget was learned");
    // A pair that does not fit even alone is refused alone; another request at the same time is not.
    let long = words(300);
    let (alone, other) = tokio::join!(
        caller.ask(&request),
        caller.send(
            Request::new("q", [long.as_str()]).encode(nats_rerank::protocol::Encoding::Json),
            &[],
            nats_rerank::protocol::Encoding::Json
        )
    );
    alone.scored();
    let refusal = other.refused();
    assert_eq!(refusal.kind, RefusalKind::Internal);
    assert!(refusal.message.contains("memory"), "{}", refusal.message);
    caller.ask(&request).await.scored();
    worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_score_that_is_no_number_harms_its_own_request_alone() {
    let server = NatsServer::start();
    let (release, held) = mpsc::channel::<()>();
    let mut first = true;
    let batches = Arc::new(Mutex::new(Vec::new()));
    let seen = batches.clone();
    let worker = InProcess::start(
        &server,
        |_| (),
        move |pairs| {
            // Held once, so that what comes meanwhile shares a batch.
            if std::mem::take(&mut first) {
                let _ = held.recv();
            }
            seen.lock().unwrap().push(pairs.len());
            let nan = |length: f32| if length > 50.0 { f32::NAN } else { length };
            Ok(lengths(pairs).into_iter().map(nan).collect())
        },
    )
    .await;
    let caller = RawCaller::connect(&server.url).await;
    let long = words(60);
    let calls: Vec<_> = (0..9)
        .map(|place| {
            let (caller, text) = (caller.clone(), if place == 4 { long.clone() } else { words(3) });
            tokio::spawn(async move { caller.ask(&Request::new("q", [text.as_str(), "b"])).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    release.send(()).unwrap();
    for (place, call) in calls.into_iter().enumerate() {
        let answer = call.await.unwrap();
        if place == 4 {
            assert_eq!(answer.refused().kind, RefusalKind::Internal);
        } else {
            answer.scored();
        }
    }
    assert!(
        batches.lock().unwrap().iter().any(|&pairs| pairs > 2),
        "they shared a batch"
    );
    worker.stop().await.expect("a clean stop");
}

/// Sends `count` requests and counts (scored, refused as unavailable, refused as past their budget); anything else fails.
async fn flood(caller: &RawCaller, count: usize) -> (usize, usize, usize) {
    let calls: Vec<_> = (0..count)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { caller.ask(&Request::new("q", ["a", "b"])).await })
        })
        .collect();
    let mut counts = (0, 0, 0);
    for call in calls {
        match call.await.unwrap() {
            crate::support::Answer::Scored(_) => counts.0 += 1,
            crate::support::Answer::Refused { refusal, .. } => match refusal.kind {
                RefusalKind::Unavailable => counts.1 += 1,
                RefusalKind::DeadlineExceeded => counts.2 += 1,
                kind => panic!("{kind}: {}", refusal.message),
            },
        }
    }
    counts
}

async fn ends_and_answers(
    script: impl FnMut(&[&PairTokens]) -> Result<Vec<f32>, EngineError> + Send + 'static,
    hang_timeout: Option<Duration>,
    says: &str,
) {
    let server = NatsServer::start();
    let change = |settings: &mut WorkerSettings| settings.hang_timeout = hang_timeout;
    let worker = InProcess::start(&server, change, script).await;
    let caller = RawCaller::connect(&server.url).await;
    let (scored, unavailable, late) = flood(&caller, 20).await;
    assert_eq!((scored, unavailable, late), (0, 20, 0));
    let error = worker.ended().await.expect_err("a worker without an engine ends");
    assert!(error.to_string().contains(says), "{error}");
    assert_eq!(server.subscriptions("rerank.v1.score"), 0, "it has left the group");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_ends_the_worker_and_everybody_is_answered() {
    let script = |_: &[&PairTokens]| {
        std::thread::sleep(Duration::from_millis(300));
        Err(EngineError::Fatal("scripted".to_owned()))
    };
    ends_and_answers(script, None, "the device is lost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_engine_ends_the_worker_and_everybody_is_answered() {
    let script = |_: &[&PairTokens]| {
        std::thread::sleep(Duration::from_millis(300));
        panic!("scripted")
    };
    ends_and_answers(script, None, "panicked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_device_ends_the_worker_and_everybody_is_answered() {
    let script = |_: &[&PairTokens]| -> Result<Vec<f32>, EngineError> {
        loop {
            std::thread::park();
        }
    };
    ends_and_answers(script, Some(Duration::from_millis(500)), "model.hang_timeout_ms").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_is_refused_and_the_next_one_succeeds() {
    let server = NatsServer::start();
    let mut fails = true;
    let worker = InProcess::start(
        &server,
        |_| (),
        move |pairs| {
            if std::mem::take(&mut fails) {
                return Err(EngineError::Failed("scripted".to_owned()));
            }
            Ok(lengths(pairs))
        },
    )
    .await;
    let caller = RawCaller::connect(&server.url).await;
    let request = Request::new("q", ["a", "b"]);
    assert_eq!(caller.ask(&request).await.refused().kind, RefusalKind::Internal);
    caller.ask(&request).await.scored();
    worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn device_time_that_went_to_a_late_answer_is_counted_as_wasted_and_no_other() {
    let server = NatsServer::start();
    let (began, begun) = mpsc::channel::<()>();
    let (release, held) = mpsc::channel::<()>();
    let mut batches = 0;
    let worker = InProcess::start(
        &server,
        |_| (),
        move |pairs| {
            batches += 1;
            // The second batch is on the device for as long as the test wants.
            if batches == 2 {
                let _ = began.send(());
                let _ = held.recv();
            }
            Ok(lengths(pairs))
        },
    )
    .await;
    let caller = RawCaller::connect(&server.url).await;
    let mut request = Request::new("q", ["a", "b"]);
    caller.ask(&request).await.scored();
    // It is sure of being a member a round trip after the first subscription.
    until("joined", || worker.status.snapshot().joins == 1).await;
    let read = worker.status.snapshot();
    assert_eq!((read.engine_wasted, read.out_of_memory), (Duration::ZERO, 0));
    assert!(read.engine_busy_ratio <= 1.0);

    request.timeout_ms = Some(300.0);
    let late = {
        let (caller, request) = (caller.clone(), request.clone());
        tokio::spawn(async move { caller.ask(&request).await })
    };
    tokio::task::spawn_blocking(move || begun.recv_timeout(PATIENCE))
        .await
        .unwrap()
        .expect("the batch is on the device");
    // The budget runs out while the device is at it.
    tokio::time::sleep(Duration::from_millis(400)).await;
    release.send(()).unwrap();
    assert_eq!(late.await.unwrap().refused().kind, RefusalKind::DeadlineExceeded);
    let status = worker.status.clone();
    until("the time is booked", || {
        status.snapshot().engine_wasted > Duration::ZERO
    })
    .await;
    let read = status.snapshot();
    // One request had the batch for itself: all of its time is lost, and none of the first one's.
    assert!(
        read.engine_wasted <= read.engine_busy + Duration::from_millis(1),
        "{:?} of {:?}",
        read.engine_wasted,
        read.engine_busy
    );
    let wasted = read.engine_wasted;
    request.timeout_ms = None;
    caller.ask(&request).await.scored();
    assert_eq!(status.snapshot().engine_wasted, wasted);
    worker.stop().await.expect("a clean stop");
    assert_eq!(status.snapshot().leaves.map(|(_, count)| count), [0, 0, 0, 1]);
}
