//! An engine that works ahead, as a GPU does: the next full batch is begun while one is under way, and everybody is answered
//! whatever becomes of either.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use nats_rerank::model::engine::{Begun, Engine, EngineError, EngineInfo};
use nats_rerank::model::tokenizer::PairTokens;
use nats_rerank::protocol::{RefusalKind, Request};
use tokio::task::JoinHandle;

use crate::faults::{InProcess, lengths, words};
use crate::support::nats_server::NatsServer;
use crate::support::{Answer, PATIENCE, RawCaller, until};

/// What the engine was told, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Begin,
    End,
}

/// Ends a batch when the test lets it.
struct Ahead {
    info: EngineInfo,
    told: Arc<Mutex<Vec<Told>>>,
    leave: Receiver<()>,
    fails: fn(Told, usize) -> Option<EngineError>,
}

impl Ahead {
    /// Notes it, and fails if that is in the script: by which time it is that this is told.
    fn tell(&self, what: Told) -> Result<(), EngineError> {
        let mut told = self.told.lock().unwrap();
        told.push(what);
        let times = told.iter().filter(|&&one| one == what).count();
        (self.fails)(what, times).map_or(Ok(()), Err)
    }
}

impl Engine for Ahead {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn score(&mut self, pairs: &[&PairTokens]) -> Result<Vec<f32>, EngineError> {
        Ok(lengths(pairs))
    }

    fn works_ahead(&self) -> bool {
        true
    }

    fn begin(&mut self, pairs: &[&PairTokens]) -> Result<Begun, EngineError> {
        self.tell(Told::Begin)?;
        self.score(pairs).map(Begun::there)
    }

    fn end(&mut self, begun: Begun) -> Result<Vec<f32>, EngineError> {
        self.leave.recv_timeout(PATIENCE).expect("the test lets it end");
        self.tell(Told::End)?;
        begun.logits()
    }
}

const BACKLOG: usize = 20;

/// A worker whose engine is at a first batch, while more than two full ones wait.
struct Scene {
    server: NatsServer,
    worker: InProcess,
    caller: RawCaller,
    told: Arc<Mutex<Vec<Told>>>,
    leave: Sender<()>,
    calls: Vec<JoinHandle<Answer>>,
}

impl Scene {
    async fn set(fails: fn(Told, usize) -> Option<EngineError>) -> Scene {
        let server = NatsServer::start();
        let told = Arc::new(Mutex::new(Vec::new()));
        let (leave, left) = channel();
        let noted = told.clone();
        let make = move |info| -> Box<dyn Engine> {
            Box::new(Ahead {
                info,
                told: noted,
                leave: left,
                fails,
            })
        };
        let worker = InProcess::start_with(&server, |_| (), make).await;
        let caller = RawCaller::connect(&server.url).await;
        let mut scene = Scene {
            server,
            worker,
            caller,
            told,
            leave,
            calls: Vec::new(),
        };
        scene.call(1).await;
        until("the first batch is begun", || !scene.told.lock().unwrap().is_empty()).await;
        scene.call(BACKLOG).await;
        scene
    }

    /// So many more requests of 30 tokens or more each, where a batch has 256; returns when they have come.
    async fn call(&mut self, count: usize) {
        for place in 0..count {
            let (caller, text) = (self.caller.clone(), words(20 + place));
            let call = async move { caller.ask(&Request::new("q", [text.as_str(), "b"])).await };
            self.calls.push(tokio::spawn(call));
        }
        let all = self.calls.len() as u64;
        until("they have come", || self.worker.status.snapshot().received == all).await;
    }

    fn told_of(&self, what: Told) -> usize {
        self.told.lock().unwrap().iter().filter(|&&one| one == what).count()
    }

    /// The most batches that were under way at once.
    fn under_way_max(&self) -> usize {
        let (mut now, mut most) = (0, 0);
        for &one in self.told.lock().unwrap().iter() {
            now = if one == Told::Begin { now + 1 } else { now - 1 };
            most = most.max(now);
        }
        most
    }

    fn let_all_end(&self) {
        (0..1000).for_each(|_| self.leave.send(()).expect("the engine is there"));
    }

    /// How many were scored rightly, and how many refused as what.
    async fn answers(&mut self) -> (usize, Vec<RefusalKind>) {
        let (mut scored, mut refused) = (0, Vec::new());
        for call in self.calls.drain(..) {
            match call.await.expect("no panic") {
                Answer::Scored(reply) => {
                    let of = |index| {
                        reply
                            .rankings
                            .iter()
                            .find(|one| one.index == index)
                            .expect("both")
                            .score
                    };
                    assert!(of(0) > of(1), "longer texts score higher: {:?}", reply.rankings);
                    scored += 1;
                }
                Answer::Refused { refusal, .. } => refused.push(refusal.kind),
            }
        }
        (scored, refused)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_full_batch_is_begun_before_the_one_before_ends() {
    let mut scene = Scene::set(|_, _| None).await;
    // What has come may not be tokenized yet, so that no full batch waits when the engine looks: then at a later one.
    for ended in 1..20 {
        scene.leave.send(()).unwrap();
        until("a batch ends, or two are under way", || {
            scene.told_of(Told::End) >= ended || scene.under_way_max() == 2
        })
        .await;
        if scene.under_way_max() == 2 {
            break;
        }
        scene.call(BACKLOG).await;
    }
    scene.let_all_end();
    let calls = scene.calls.len();
    assert_eq!(scene.answers().await, (calls, Vec::new()));
    assert_eq!(scene.under_way_max(), 2, "one ahead, and never more");
    assert_eq!(scene.told_of(Told::Begin), scene.told_of(Told::End));
    scene.worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_memory_for_a_second_batch_costs_nobody_an_answer() {
    let out_of_memory =
        |what, times| (what == Told::Begin && times == 3).then(|| EngineError::OutOfMemory("scripted".to_owned()));
    let mut scene = Scene::set(out_of_memory).await;
    scene.let_all_end();
    assert_eq!(scene.answers().await, (BACKLOG + 1, Vec::new()));
    assert_eq!(scene.worker.status.snapshot().out_of_memory, 1);
    scene.worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_takes_no_other_with_it() {
    let fails = |what, times| (what == Told::End && times == 2).then(|| EngineError::Failed("scripted".to_owned()));
    let mut scene = Scene::set(fails).await;
    scene.let_all_end();
    let (scored, refused) = scene.answers().await;
    assert_eq!(scored + refused.len(), BACKLOG + 1);
    assert!(!refused.is_empty() && scored > refused.len(), "{scored} {refused:?}");
    assert!(refused.iter().all(|&kind| kind == RefusalKind::Internal), "{refused:?}");
    scene.worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_lost_with_two_under_way_ends_the_worker_and_everybody_is_answered() {
    let lost = |what, times| (what == Told::End && times >= 2).then(|| EngineError::Fatal("scripted".to_owned()));
    let mut scene = Scene::set(lost).await;
    scene.let_all_end();
    let (scored, refused) = scene.answers().await;
    // The first batch, which had ended before.
    assert_eq!((scored, refused.len()), (1, BACKLOG));
    assert!(
        refused.iter().all(|&kind| kind == RefusalKind::Unavailable),
        "{refused:?}"
    );
    let error = scene.worker.ended().await.expect_err("a worker without a device ends");
    assert!(error.to_string().contains("the device is lost"), "{error}");
    assert_eq!(
        scene.server.subscriptions("rerank.v1.score"),
        0,
        "it has left the group"
    );
}
