//! A connection that outlives the client library's own task.
//!
//! async-nats takes up a lost connection by itself, within one task. A panic in that task (0.51.0 has one for a message that
//! it takes for impossible) ends it for good: every subscription ends, every publish fails, and the state stays
//! `Connected`. So whoever lives on a connection holds [`Sessions`]: a session is one client of the library, and when its
//! task has ended, the next session begins at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use tokio::sync::{oneshot, watch};

use super::{ConnectError, ConnectPlan, ConnectionSettings, connect, connect_lazy};

/// A session that ended sooner than this after its beginning makes the next one wait for [`PAUSE`].
const SHORT: Duration = Duration::from_millis(100);
/// Between sessions that end as soon as they begin, and before a session that could not begin is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// One client of the library.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) client: async_nats::Client,
    /// Counted from 1.
    pub(crate) number: u64,
}

/// The present session, and word of the next. Clones see the same sessions; with the last one gone, the connection is
/// closed.
#[derive(Clone, Debug)]
pub(crate) struct Sessions(watch::Receiver<Session>);

impl Sessions {
    /// Connects as [`connect`] does; later sessions begin by themselves. A session that ended without a word is reported to
    /// `on_event` as `Disconnected`.
    pub(crate) async fn connect(
        settings: &ConnectionSettings,
        plan: ConnectPlan,
        on_event: impl Fn(async_nats::Event) + Send + Sync + 'static,
    ) -> Result<Sessions, ConnectError> {
        let on_event = Arc::new(on_event);
        let (end, ended) = oneshot::channel();
        let client = connect(settings, plan, guarded(on_event.clone(), end)).await?;
        Ok(Sessions::keep(client, ended, settings.clone(), plan, on_event))
    }

    /// The same in the background, as [`connect_lazy`] does.
    pub(crate) async fn connect_lazy(
        settings: &ConnectionSettings,
        plan: ConnectPlan,
        on_event: impl Fn(async_nats::Event) + Send + Sync + 'static,
    ) -> Result<Sessions, ConnectError> {
        let on_event = Arc::new(on_event);
        let (end, ended) = oneshot::channel();
        let client = connect_lazy(settings, plan, guarded(on_event.clone(), end)).await?;
        Ok(Sessions::keep(client, ended, settings.clone(), plan, on_event))
    }

    fn keep<E>(
        client: async_nats::Client,
        mut ended: oneshot::Receiver<()>,
        settings: ConnectionSettings,
        plan: ConnectPlan,
        on_event: Arc<E>,
    ) -> Sessions
    where
        E: Fn(async_nats::Event) + Send + Sync + 'static,
    {
        let (sender, receiver) = watch::channel(Session { client, number: 1 });
        tokio::spawn(async move {
            let mut began = Instant::now();
            loop {
                tokio::select! {
                    _ = &mut ended => {}
                    () = sender.closed() => return,
                }
                tracing::error!("the NATS client library has ended its connection for good: connecting anew");
                on_event(async_nats::Event::Disconnected);
                if began.elapsed() < SHORT {
                    tokio::time::sleep(PAUSE).await;
                }
                let client = loop {
                    let (end, next_ended) = oneshot::channel();
                    ended = next_ended;
                    // Without a connection at first, so that whoever waits for the session has it at once.
                    match connect_lazy(&settings, plan, guarded(on_event.clone(), end)).await {
                        Ok(client) => break client,
                        // A file that the settings name cannot be read now.
                        Err(error) => tracing::error!(%error, "NATS: trying again"),
                    }
                    tokio::time::sleep(PAUSE).await;
                    if sender.is_closed() {
                        return;
                    }
                };
                began = Instant::now();
                sender.send_modify(|session| {
                    session.client = client;
                    session.number += 1;
                });
            }
        });
        Sessions(receiver)
    }

    /// Whether the present session has a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.0.borrow().client.connection_state() == State::Connected
    }

    /// A number for the present connection: another one after each loss, and in each session.
    pub(crate) fn connection(&self) -> u64 {
        let session = self.0.borrow();
        let connects = session.client.statistics().connects.load(Ordering::Relaxed);
        (session.number << 32) | (connects & u64::from(u32::MAX))
    }

    /// The present session.
    pub(crate) fn now(&self) -> Session {
        self.0.borrow().clone()
    }

    /// The present session's client.
    pub(crate) fn client(&self) -> async_nats::Client {
        self.0.borrow().client.clone()
    }

    /// The first session after number `seen`; waits for it. `None`: there will be none. Safe to cancel.
    pub(crate) async fn after(&self, seen: u64) -> Option<Session> {
        let mut sessions = self.0.clone();
        let next = sessions.wait_for(|session| session.number > seen).await;
        next.ok().map(|session| session.clone())
    }
}

/// `on_event`, that lets go of `end` when the client library drops it: as soon as its task has ended, however it ended.
fn guarded<E>(on_event: Arc<E>, end: oneshot::Sender<()>) -> impl Fn(async_nats::Event) + Send + Sync + 'static
where
    E: Fn(async_nats::Event) + Send + Sync + 'static,
{
    move |event| {
        let _held = &end;
        on_event(event);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::nats::fake_server::FakeServer;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn plan() -> ConnectPlan {
        ConnectPlan {
            retries_max: 0,
            subscription_capacity: 16,
            client_capacity: 16,
        }
    }

    #[tokio::test]
    async fn a_session_that_ends_is_followed_by_the_next() {
        let server = FakeServer::start().await;
        let (heard, mut events) = watch::channel(0);
        let settings = server.settings();
        let on_event = move |event| {
            if event == async_nats::Event::Disconnected {
                heard.send_modify(|times| *times += 1);
            }
        };
        let sessions = Sessions::connect(&settings, plan(), on_event).await.expect("a session");
        let first = sessions.now();
        let mut inbox = first.client.subscribe("a").await.expect("a subscription");
        // It ends the library's task, as a panic would.
        first.client.drain().await.expect("a drain");
        let second = tokio::time::timeout(PATIENCE, sessions.after(first.number)).await;
        let second = second.expect("in time").expect("a session");
        assert_eq!((first.number, second.number), (1, 2));
        assert!(inbox.next().await.is_none());
        let mut again = second.client.subscribe("b").await.expect("a subscription");
        second.client.publish("b", "c".into()).await.expect("a publish");
        let message = tokio::time::timeout(PATIENCE, again.next()).await.expect("in time");
        assert_eq!(message.expect("a message").payload, "c");
        assert_eq!(*events.borrow_and_update(), 1);
        assert_eq!(server.connections(), 2);
    }

    #[tokio::test]
    async fn the_connection_is_closed_with_the_last_holder() {
        let server = FakeServer::start().await;
        let sessions = Sessions::connect_lazy(&server.settings(), plan(), |_| {})
            .await
            .expect("a session");
        let other = sessions.clone();
        drop(sessions);
        other.client().flush().await.expect("a connection");
        assert_eq!((server.connections(), server.open()), (1, 1));
        drop(other);
        let closed = async {
            while server.open() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, closed).await.expect("closed");
    }
}
