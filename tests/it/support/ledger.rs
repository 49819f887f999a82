//! A load of callers that keeps a ledger: every request that was sent, and everything that came back for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::StatusCode;
use futures_util::StreamExt;
use futures_util::future::join_all;
use nats_rerank::protocol::{Encoding, Refusal, Request};
use tokio::sync::oneshot;

/// How a request ended, as its caller saw it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    Scored,
    Refused(&'static str),
    NoResponders,
    TimedOut,
    NotSent,
}

/// What a load came to.
#[derive(Debug, Default)]
pub struct Ledger {
    pub endings: BTreeMap<Ending, u64>,
    /// Messages beyond the first for one request.
    pub duplicates: u64,
}

impl Ledger {
    pub fn of(&self, ending: &Ending) -> u64 {
        self.endings.get(ending).copied().unwrap_or(0)
    }

    pub fn sent(&self) -> u64 {
        self.endings.values().sum()
    }
}

type Open = Arc<Mutex<HashMap<String, Option<oneshot::Sender<Ending>>>>>;

/// Callers in a closed loop until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Ledger>,
}

impl Load {
    /// Starts `callers` callers of `request`; each waits `timeout` for an answer.
    pub async fn start(client: async_nats::Client, callers: usize, request: &Request, timeout: Duration) -> Load {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let body = request.encode(Encoding::Json);
        let base = client.new_inbox();
        let mut answers = client.subscribe(format!("{base}.*")).await.expect("a subscription");
        client.flush().await.expect("a flush");
        let (open, duplicates): (Open, _) = (Open::default(), Arc::new(AtomicU64::new(0)));
        let collector = tokio::spawn({
            let (open, duplicates) = (open.clone(), duplicates.clone());
            async move {
                while let Some(message) = answers.next().await {
                    let waiting = open.lock().unwrap().get_mut(message.subject.as_str()).map(Option::take);
                    match waiting.flatten() {
                        // A caller that has timed out is gone, but its request was answered once all the same.
                        Some(waiting) => drop(waiting.send(ending(&message))),
                        None => drop(duplicates.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            }
        });
        let task = tokio::spawn({
            let (stop, done) = (stop.clone(), done.clone());
            async move {
                let counter = AtomicU64::new(0);
                let tallies = join_all((0..callers).map(|_| async {
                    let mut endings = BTreeMap::<Ending, u64>::new();
                    while !stop.load(Ordering::Relaxed) {
                        let inbox = format!("{base}.{}", counter.fetch_add(1, Ordering::Relaxed));
                        let ending = call(&client, &open, inbox, &body, timeout).await;
                        *endings.entry(ending).or_default() += 1;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    endings
                }))
                .await;
                // Late and second answers get their chance to be seen.
                tokio::time::sleep(Duration::from_millis(300)).await;
                collector.abort();
                let mut ledger = Ledger {
                    duplicates: duplicates.load(Ordering::Relaxed),
                    ..Ledger::default()
                };
                for (ending, count) in tallies.into_iter().flatten() {
                    *ledger.endings.entry(ending).or_default() += count;
                }
                ledger
            }
        });
        Load { stop, done, task }
    }

    /// Waits until `count` more requests have ended.
    pub async fn pass(&self, count: u64) {
        let target = self.done.load(Ordering::Relaxed) + count;
        while self.done.load(Ordering::Relaxed) < target {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the load")
    }
}

async fn call(client: &async_nats::Client, open: &Open, inbox: String, body: &[u8], timeout: Duration) -> Ending {
    let (sender, answer) = oneshot::channel();
    open.lock().unwrap().insert(inbox.clone(), Some(sender));
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Rerank-Timeout-Ms", timeout.as_millis().to_string().as_str());
    let sent = client.publish_with_reply_and_headers("rerank.v1.score", inbox, headers, body.to_vec().into());
    match tokio::time::timeout(timeout, async {
        sent.await.map_err(|_| ())?;
        Ok::<_, ()>(answer.await.unwrap_or(Ending::TimedOut))
    })
    .await
    {
        Ok(Ok(ending)) => ending,
        Ok(Err(())) => Ending::NotSent,
        Err(_) => Ending::TimedOut,
    }
}

fn ending(message: &async_nats::Message) -> Ending {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Ending::NoResponders;
    }
    let refused = message
        .headers
        .as_ref()
        .is_some_and(|map| map.get("Nats-Service-Error-Code").is_some());
    if !refused {
        return Ending::Scored;
    }
    let refusal = Refusal::decode(Encoding::Json, &message.payload).expect("a refusal");
    Ending::Refused(refusal.kind.name())
}
