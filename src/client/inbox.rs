//! One inbox for all answers to a caller.
//!
//! One subscription for the life of the connection: asking costs one message, and not a subscription more. async-nats
//! has such an inbox too, but keeps there, for good, whatever was never answered; here a question that is given up, for
//! whatever reason, leaves nothing behind. The subscription is made again when the library's task has ended (see
//! [`Sessions`]): answers under way at that time arrive all the same.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Message, SubscribeError};
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::nats::Sessions;

/// Answers that wait to be handed over. That takes a lookup each, so they only ever wait for the processor.
pub(super) const CAPACITY: usize = 1024;

/// Where the answers arrive. Dropped, it ends its subscription.
pub(super) struct Inbox {
    prefix: String,
    next: AtomicU64,
    waiting: Arc<Waiting>,
    reader: AbortHandle,
}

#[derive(Default)]
struct Waiting(Mutex<HashMap<u64, oneshot::Sender<Message>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Message>>> {
        // No panic can leave a map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that an answer may be sent to, for as long as this lives.
pub(super) struct Awaited<'a> {
    inbox: &'a Inbox,
    number: u64,
    answer: oneshot::Receiver<Message>,
}

impl Inbox {
    /// Subscribes.
    pub(super) async fn open(sessions: &Sessions) -> Result<Inbox, SubscribeError> {
        let sessions = sessions.clone();
        let mut session = sessions.now();
        let prefix = session.client.new_inbox();
        let subject = format!("{prefix}.*");
        let mut answers = session.client.subscribe(subject.clone()).await?;
        let waiting = Arc::new(Waiting::default());
        let (to, skip) = (waiting.clone(), prefix.len() + 1);
        let reader = tokio::spawn(async move {
            loop {
                while let Some(message) = answers.next().await {
                    let number = message.subject.get(skip..).and_then(|token| token.parse().ok());
                    let asker = number.and_then(|number: u64| to.lock().remove(&number));
                    if let Some(asker) = asker {
                        // Given up in this very moment: then nobody needs it.
                        let _ = asker.send(message);
                    }
                }
                let Some(next) = sessions.after(session.number).await else {
                    break;
                };
                session = next;
                if let Ok(again) = session.client.subscribe(subject.clone()).await {
                    answers = again;
                }
            }
            // There is no connection any more: whoever waits learns it now.
            to.lock().clear();
        });
        Ok(Inbox {
            prefix,
            next: AtomicU64::new(0),
            waiting,
            reader: reader.abort_handle(),
        })
    }

    /// A place for one answer.
    pub(super) fn expect(&self) -> Awaited<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().insert(number, sender);
        Awaited {
            inbox: self,
            number,
            answer,
        }
    }
}

impl Awaited<'_> {
    /// The subject that the answer is to be sent to.
    pub(super) fn subject(&self) -> String {
        format!("{}.{}", self.inbox.prefix, self.number)
    }

    /// The answer; `None` when there can be none any more.
    pub(super) async fn answer(&mut self) -> Option<Message> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.inbox.waiting.lock().remove(&self.number);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("prefix", &self.prefix)
            .field("waiting", &self.waiting.lock().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::nats::ConnectPlan;
    use crate::nats::fake_server::FakeServer;

    #[tokio::test]
    async fn an_answer_that_is_under_way_when_the_librarys_task_ends_arrives() {
        let server = FakeServer::start().await;
        let plan = ConnectPlan {
            retries_max: 0,
            subscription_capacity: CAPACITY,
            client_capacity: 16,
        };
        let sessions = Sessions::connect(&server.settings(), plan, |_| {})
            .await
            .expect("a session");
        let inbox = Inbox::open(&sessions).await.expect("an inbox");
        let mut awaited = inbox.expect();
        sessions.client().drain().await.expect("a drain");
        let worker = Sessions::connect(&server.settings(), plan, |_| {})
            .await
            .expect("a session");
        let worker = worker.client();
        let answered = async {
            let mut often = tokio::time::interval(Duration::from_millis(5));
            loop {
                tokio::select! {
                    answer = awaited.answer() => return answer,
                    // Until the inbox is back.
                    _ = often.tick() => {
                        let sent = worker.publish(format!("{}.0", inbox.prefix), "scores".into());
                        sent.await.expect("a publish");
                    }
                }
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(20), answered).await;
        assert_eq!(answer.expect("in time").expect("an answer").payload, "scores");
    }
}
