//! The first stage: the queue-group subscription.
//!
//! Never blocks on anything but a place in the outbox, since a subscription that is not read drops messages silently.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::WorkerError;
use super::connection::Link;
use super::decode::Incoming;
use super::group::Group;
use super::state::{LeaveReason, State};
use super::status::Status;
use super::ticket::{Outbox, Place};
use crate::nats::{Session, Sessions};
use crate::protocol::RequestHeaders;
use crate::telemetry::names;

/// How often a worker whose room has changed looks whether to ask for more.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long the next session may take to begin; it need not be connected by then.
const SESSION_MAX: Duration = Duration::from_secs(5);

/// What this worker could take now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// So many more requests; `None`: no end is set.
    pub(super) requests: Option<u64>,
    /// Nothing waits, so this changes only when something comes.
    pub(super) at_rest: bool,
}

/// Where this worker should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// In the queue group.
    In,
    /// Out of it until the queue is shorter.
    Full,
    /// Out of it because reranking is switched off.
    Off,
    /// Out of it, for good.
    End,
}

/// What receiving stands on.
pub(super) struct Receiver<'a, Space, Joined, Take> {
    pub(super) sessions: &'a Sessions,
    pub(super) outbox: &'a Outbox,
    pub(super) status: &'a Status,
    pub(super) link: &'a Link,
    /// A subject that this worker listens to and no other: for the round trip.
    pub(super) own_subject: String,
    /// What could be taken now.
    pub(super) room: Space,
    /// Told once: the first subscription stands, and the server had time to forbid it.
    pub(super) joined: Joined,
    /// Takes what came.
    pub(super) take: Take,
}

impl<Space, Joined, Take> Receiver<'_, Space, Joined, Take>
where
    Space: Fn() -> Room + Sync,
    Joined: Fn() + Sync,
    Take: Fn(Incoming, Place) + Sync,
{
    /// Joins and leaves the queue group as `wish` says, asks for as many messages as there is room for, and hands on each
    /// with a place to answer it. Loses nothing that the server has sent already. Moves to another server when this one is
    /// about to stop. Returns when `wish` ends.
    pub(super) async fn receive(&self, mut group: Group, mut wish: watch::Receiver<Wish>) -> Result<(), WorkerError> {
        // Begun with the first subscription; over once the server had time to forbid it.
        let mut session = self.sessions.now();
        let first = session.client.clone();
        let mut confirming = std::pin::pin!(self.link.round_trip(&first, &self.own_subject));
        let (mut subscribed, mut confirmed, mut member) = (false, false, false);
        let mut elsewhere = Box::pin(self.link.elsewhere(session.client.clone()));
        loop {
            // A sender that is gone can wish for nothing any more.
            let wished = if wish.has_changed().is_ok() {
                *wish.borrow_and_update()
            } else {
                Wish::End
            };
            let Room { requests, at_rest } = (self.room)();
            let renewed = match wished {
                Wish::In => match group.renew(requests).await {
                    Ok(renewed) => renewed,
                    Err(error) => {
                        session = self.next_session(&session, error).await?;
                        group.begin_on(session.client.clone());
                        elsewhere = Box::pin(self.link.elsewhere(session.client.clone()));
                        continue;
                    }
                },
                // What was asked for still comes; no more is asked for.
                Wish::Full => false,
                Wish::Off | Wish::End => {
                    let reason = if wished == Wish::Off {
                        LeaveReason::Off
                    } else {
                        LeaveReason::End
                    };
                    self.leave(&session, &mut group, &mut member, reason).await;
                    if wished == Wish::End {
                        return Ok(());
                    }
                    self.status.set_state(State::Off);
                    tokio::select! {
                        biased;
                        // The guard is dropped here: it must not be held while waiting.
                        () = async { let _ = wish.wait_for(|&wish| wish != Wish::Off).await; } => {}
                        () = &mut elsewhere => {
                            self.link.move_on(&session.client).await;
                            elsewhere = Box::pin(self.link.elsewhere(session.client.clone()));
                        }
                    }
                    continue;
                }
            };
            subscribed |= renewed;
            let inside = group.outstanding() != Some(0);
            // A subscription that may yet be forbidden is no membership.
            match (member, inside) {
                (false, true) if confirmed => {
                    self.status.joined();
                    member = true;
                }
                (true, false) => {
                    self.status.left(LeaveReason::Full);
                    self.status.set_state(State::Full);
                    member = false;
                }
                (false, false) => self.status.set_state(State::Full),
                (false, true) => self.status.set_state(State::Connecting),
                (true, true) => {}
            }
            tokio::select! {
                biased;
                _ = wish.changed() => {}
                () = &mut elsewhere => {
                    self.leave(&session, &mut group, &mut member, LeaveReason::End).await;
                    self.status.set_state(State::Connecting);
                    self.link.move_on(&session.client).await;
                    elsewhere = Box::pin(self.link.elsewhere(session.client.clone()));
                }
                () = &mut confirming, if subscribed && !confirmed => {
                    confirmed = true;
                    (self.joined)();
                }
                message = group.next() => match message {
                    Some(message) => {
                        if !self.pass_on(message).await {
                            return Err(WorkerError::Subscription("nothing can be answered any more".to_owned()));
                        }
                    }
                    // All subscriptions end at once, with the client library's task.
                    None => {
                        let closed = "the subscription ended: the connection to NATS is closed";
                        session = match self.next_session(&session, closed.to_owned()).await {
                            Ok(session) => session,
                            Err(error) => {
                                self.status.left(LeaveReason::End);
                                return Err(error);
                            }
                        };
                        group.begin_on(session.client.clone());
                        elsewhere = Box::pin(self.link.elsewhere(session.client.clone()));
                    }
                },
                // Room comes back without a message when work is done.
                () = tokio::time::sleep(LOOK_EVERY), if !(at_rest && inside) => {}
            }
        }
    }

    /// The session after this one, which has ended: the worker stays what it is, its subscriptions are to be made anew.
    /// Without one in time, `error` stands.
    async fn next_session(&self, session: &Session, error: String) -> Result<Session, WorkerError> {
        let next = tokio::time::timeout(SESSION_MAX, self.sessions.after(session.number)).await;
        next.ok().flatten().ok_or(WorkerError::Subscription(error))
    }

    /// Leaves the group, and passes on what still comes.
    async fn leave(&self, session: &Session, group: &mut Group, member: &mut bool, reason: LeaveReason) {
        group.leave().await;
        let mut drained = false;
        let round_trip = async || self.link.round_trip(&session.client, &self.own_subject).await;
        while let Some(message) = group.next_leaving(&mut drained, round_trip).await {
            self.pass_on(message).await;
        }
        if std::mem::take(member) {
            self.status.left(reason);
        }
    }

    /// False when nothing can be answered any more.
    async fn pass_on(&self, message: async_nats::Message) -> bool {
        let received_at = Instant::now();
        let received_at_unix = SystemTime::now();
        let Some(reply_to) = message.reply else {
            metrics::counter!(names::MESSAGES_WITHOUT_REPLY_TOTAL).increment(1);
            tracing::debug!("a message without a reply subject was dropped");
            return true;
        };
        self.status.received();
        let Some(place) = self.outbox.place().await else {
            return false;
        };
        let headers = message.headers.as_ref().map_or_else(RequestHeaders::default, |map| {
            let pairs = map
                .iter()
                .flat_map(|(name, values)| values.iter().map(move |value| (name.as_ref(), value.as_str())));
            RequestHeaders::from_pairs(pairs)
        });
        (self.take)(
            Incoming {
                reply_to: reply_to.to_string(),
                headers,
                body: message.payload,
                received_at,
                received_at_unix,
            },
            place,
        );
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::nats::ConnectPlan;
    use crate::nats::fake_server::FakeServer;
    use crate::worker::group::GroupAddress;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn sessions(server: &FakeServer) -> Sessions {
        let plan = ConnectPlan {
            retries_max: 0,
            subscription_capacity: 64,
            client_capacity: 64,
        };
        let sessions = Sessions::connect(&server.settings(), plan, |_| {}).await;
        sessions.expect("a session")
    }

    /// Asks until what was asked is taken.
    async fn ask(caller: &Sessions, body: &'static str, taken: &Mutex<Vec<String>>) {
        let client = caller.client();
        let asked = async {
            while !taken.lock().expect("no panic").iter().any(|one| one == body) {
                let sent = client.publish_with_reply("score", "_INBOX.x", body.into());
                sent.await.expect("a publish");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("taken in time");
    }

    #[tokio::test]
    async fn a_worker_outlives_the_client_librarys_task() {
        let server = FakeServer::start().await;
        let (worker, caller) = (sessions(&server).await, sessions(&server).await);
        let address = GroupAddress {
            subject: "score".to_owned(),
            queue_group: "rerank".to_owned(),
        };
        let status = Status::new();
        let link = Link::new(address.clone(), status.clone());
        let (outbox, _outgoing) = Outbox::new(64);
        let taken = Mutex::new(Vec::new());
        let group = Group::new(worker.client(), address, 64);
        let receiver = Receiver {
            sessions: &worker,
            outbox: &outbox,
            status: &status,
            link: &link,
            own_subject: "own".to_owned(),
            room: || Room {
                requests: None,
                at_rest: true,
            },
            joined: || {},
            take: |incoming: Incoming, _place: Place| {
                let body = String::from_utf8(incoming.body.to_vec()).expect("text");
                taken.lock().expect("no panic").push(body);
            },
        };
        let (wish, wished) = watch::channel(Wish::In);
        let asking = async {
            ask(&caller, "before", &taken).await;
            // It ends the library's task, as a panic would.
            worker.client().drain().await.expect("a drain");
            ask(&caller, "after", &taken).await;
            wish.send_replace(Wish::End);
        };
        let (served, ()) = tokio::join!(receiver.receive(group, wished), asking);
        served.expect("a worker that goes on");
        assert_eq!(worker.now().number, 2);
    }
}
