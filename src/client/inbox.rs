//! One inbox for all answers to a caller.
//!
//! One subscription for the life of the connection: asking costs one message, and not a subscription more. async-nats
//! has such an inbox too, but keeps there, for good, whatever was never answered; here a question that is given up, for
//! whatever reason, leaves nothing behind. The subscription is made again when the library's task has ended (see
//! [`Sessions`]): answers under way at that time arrive all the same.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Message, SubscribeError, Subscriber};
use futures_util::StreamExt;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use crate::nats::{Backoff, Pinger, Session, Sessions};

/// Answers that wait to be handed over. That takes a lookup each, so they only ever wait for the processor.
pub(super) const CAPACITY: usize = 1024;

/// The first pause before a subscription that the server refused is made again; each refusal doubles it.
const REFUSED_PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Where the answers arrive. Dropped, it ends its subscription.
pub(super) struct Inbox {
    prefix: String,
    next: AtomicU64,
    sessions: Sessions,
    waiting: Arc<Waiting>,
    /// The server has refused the subscription, as far as is known: no answer arrives.
    deaf: Arc<AtomicBool>,
    reader: AbortHandle,
}

/// Who waits for an answer, and on which connection it was asked for.
type Asker = (u64, oneshot::Sender<Message>);

#[derive(Default)]
struct Waiting(Mutex<HashMap<u64, Asker>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Asker>> {
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
    /// Subscribes. `refusals`: how many subscriptions of this connection the server has refused for their number.
    pub(super) async fn open(sessions: &Sessions, refusals: watch::Receiver<u64>) -> Result<Inbox, SubscribeError> {
        let session = sessions.now();
        let prefix = session.client.new_inbox();
        // Before the inbox itself, so that no limit can be in its way.
        let pinger = Pinger::new();
        pinger.prepare(&session.client, format!("{prefix}.ping")).await;
        let subject = format!("{prefix}.*");
        let answers = session.client.subscribe(subject.clone()).await?;
        let (waiting, deaf) = (Arc::new(Waiting::default()), Arc::new(AtomicBool::new(false)));
        let reader = Reader {
            sessions: sessions.clone(),
            session,
            prefix: prefix.clone(),
            answers,
            refusals,
            waiting: waiting.clone(),
            deaf: deaf.clone(),
            pinger,
            backoff: Backoff::new(REFUSED_PAUSE_MIN, REFUSED_PAUSE_MAX),
            heard_on: None,
        };
        let reader = tokio::spawn(reader.run());
        Ok(Inbox {
            prefix,
            next: AtomicU64::new(0),
            sessions: sessions.clone(),
            waiting,
            deaf,
            reader: reader.abort_handle(),
        })
    }

    /// Whether the server has refused the subscription, so that no answer arrives until it takes it again.
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::Acquire)
    }

    /// A place for one answer.
    pub(super) fn expect(&self) -> Awaited<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let connection = self.sessions.connection();
        self.waiting.lock().insert(number, (connection, sender));
        Awaited {
            inbox: self,
            number,
            answer,
        }
    }
}

/// Hands answers to those who wait for them, and makes the subscription again when the server has refused it.
struct Reader {
    sessions: Sessions,
    session: Session,
    prefix: String,
    answers: Subscriber,
    refusals: watch::Receiver<u64>,
    waiting: Arc<Waiting>,
    deaf: Arc<AtomicBool>,
    pinger: Pinger,
    backoff: Backoff,
    /// The last connection on which a question was answered: there the subscription stands.
    heard_on: Option<u64>,
}

impl Reader {
    async fn run(mut self) {
        loop {
            tokio::select! {
                message = self.answers.next() => match message {
                    Some(message) => self.hand_over(message),
                    // The session has ended, and every subscription with it.
                    None => {
                        if !self.next_session().await {
                            break;
                        }
                    }
                },
                Ok(()) = self.refusals.changed() => {
                    // A subscription that cannot be asked for is one of a session that has ended: the answers end, too.
                    if self.heard_on != Some(self.sessions.connection()) {
                        let _ = self.subscribe_again().await;
                    }
                }
            }
        }
        // There is no connection any more: whoever waits learns it now.
        self.waiting.lock().clear();
    }

    /// Subscribes on the session after this one, where answers that are under way arrive all the same. False: there is none.
    async fn next_session(&mut self) -> bool {
        let Some(next) = self.sessions.after(self.session.number).await else {
            return false;
        };
        self.session = next;
        self.pinger
            .prepare(&self.session.client, format!("{}.ping", self.prefix))
            .await;
        if let Ok(again) = self.session.client.subscribe(self.subject()).await {
            self.answers = again;
        }
        true
    }

    fn subject(&self) -> String {
        format!("{}.*", self.prefix)
    }

    fn hand_over(&mut self, message: Message) {
        // One token behind the prefix.
        let number = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        let asker = number.and_then(|number: u64| self.waiting.lock().remove(&number));
        if let Some((connection, asker)) = asker {
            self.heard_on = Some(connection);
            // Given up in this very moment: then nobody needs it.
            let _ = asker.send(message);
        }
    }

    /// The server has refused a subscription and does not say which; nothing has arrived by this one yet. Whoever waits is
    /// released, and it is made again with growing pauses until nothing is refused.
    async fn subscribe_again(&mut self) -> Result<(), SubscribeError> {
        tracing::warn!(
            "the NATS server refuses subscriptions of this connection (`max_subscriptions`): without an inbox no answer \
             arrives, so calls keep their order until it takes one"
        );
        loop {
            self.deaf.store(true, Ordering::Release);
            self.waiting.lock().clear();
            tokio::time::sleep(self.backoff.refused(Instant::now())).await;
            // The old one ends first: at the limit there is no room for both.
            let _ = self.answers.unsubscribe().await;
            self.refusals.mark_unchanged();
            self.answers = self.session.client.subscribe(self.subject()).await?;
            let answered = self.pinger.round_trip(&self.session.client).await;
            if !self.refusals.has_changed().unwrap_or(false) {
                self.deaf.store(false, Ordering::Release);
                if answered {
                    self.backoff.accepted();
                    tracing::info!("the NATS server takes the inbox again");
                }
                return Ok(());
            }
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
        let inbox = Inbox::open(&sessions, watch::channel(0).1).await.expect("an inbox");
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
