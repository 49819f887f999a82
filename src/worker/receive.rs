//! The first stage: the queue-group subscription.
//!
//! Never blocks on anything but a place in the outbox, since a subscription that is not read drops messages silently.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::WorkerError;
use super::admit::Queue;
use super::connection::Link;
use super::decode::Incoming;
use super::group::Group;
use super::reply_subject::ReplySubjects;
use super::state::{LeaveReason, State};
use super::status::Status;
use super::ticket::{Outbox, Place};
use crate::nats::{Backoff, Session, Sessions};
use crate::protocol::RequestHeaders;
use crate::telemetry::names;

/// How often a worker whose room has changed looks whether to ask for more.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long the next session may take to begin; it need not be connected by then.
const SESSION_MAX: Duration = Duration::from_secs(5);

/// Subscriptions that were made since the last round trip are proven by the next one, no more often than this.
const PROVE_EVERY: Duration = Duration::from_secs(1);
/// The first pause before a subscription that the server refused is tried again; each refusal doubles it.
const REFUSED_PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(15);

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
    /// A subject that this worker listens to and no other: for the round trips of a new session.
    pub(super) own_subject: String,
    /// Where answers are sent to.
    pub(super) reply_subjects: &'a ReplySubjects,
    /// What could be taken now.
    pub(super) room: Space,
    /// What is admitted: told of when the last request has left.
    pub(super) queue: &'a Queue,
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
    /// about to stop. What the server refuses is tried again. Returns when `wish` ends.
    pub(super) async fn receive(&self, mut group: Group, mut wish: watch::Receiver<Wish>) -> Result<(), WorkerError> {
        let mut session = self.sessions.now();
        let mut standing = Standing::new(self.link);
        let mut changes = self.link.changes();
        // Once the server had time to forbid the first subscription.
        let (mut confirmed, mut member) = (false, false);
        let mut elsewhere = Box::pin(self.link.elsewhere(session.client.clone()));
        // A round trip that is under way.
        let mut proof = None;
        loop {
            // A sender that is gone can wish for nothing any more.
            let wished = if wish.has_changed().is_ok() {
                *wish.borrow_and_update()
            } else {
                Wish::End
            };
            let Room { requests, at_rest } = (self.room)();
            let now = Instant::now();
            if standing.look(&mut group, self.link, now) {
                proof = None;
            }
            match wished {
                Wish::In if standing.may_try(now) => {
                    group.end_suspects().await;
                    if let Err(error) = group.renew(requests).await {
                        session = self.next_session(&session, &mut group, error).await?;
                        elsewhere = Box::pin(self.link.elsewhere(session.client.clone()));
                        (standing, proof) = (Standing::new(self.link), None);
                        continue;
                    }
                }
                // What was asked for still comes; no more is asked for.
                Wish::In | Wish::Full => {}
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
                    standing = Standing::new(self.link);
                    proof = None;
                    self.status.set_state(State::Off);
                    tokio::select! {
                        biased;
                        // The guard is dropped here: it must not be held while waiting.
                        () = async { let _ = wish.wait_for(|&wish| wish != Wish::Off).await; } => {}
                        () = &mut elsewhere => {
                            self.move_on(&session, &mut wish).await;
                            elsewhere = Box::pin(self.link.elsewhere(session.client.clone()));
                        }
                    }
                    continue;
                }
            };
            if proof.is_none() && group.is_unproven() && standing.may_prove(now) {
                standing.proof_begins(&mut group, now);
                let client = session.client.clone();
                proof = Some(Box::pin(async move { self.link.round_trip(&client).await }));
            }
            let awaits_proof = proof.is_none() && group.is_unproven();
            let inside = group.outstanding() != Some(0);
            self.tell_membership(
                inside,
                confirmed && !standing.is_refused(),
                standing.is_refused(),
                &mut member,
            );
            tokio::select! {
                biased;
                _ = wish.changed() => {}
                () = &mut elsewhere => {
                    self.leave(&session, &mut group, &mut member, LeaveReason::End).await;
                    self.status.set_state(State::Connecting);
                    self.move_on(&session, &mut wish).await;
                    elsewhere = Box::pin(self.link.elsewhere(session.client.clone()));
                }
                () = async {
                    match proof.as_mut() {
                        Some(proof) => proof.await,
                        None => std::future::pending().await,
                    }
                } => {
                    proof = None;
                    if standing.proof_ends(&mut group, self.link) && !confirmed {
                        confirmed = true;
                        (self.joined)();
                    }
                }
                // A refusal, or a connection on which everything was subscribed to again.
                () = changes.next() => {}
                message = group.next() => match message {
                    Some(message) => {
                        if !self.pass_on(message).await {
                            return Err(WorkerError::Subscription("nothing can be answered any more".to_owned()));
                        }
                    }
                    // All subscriptions end at once, with the client library's task.
                    None => {
                        let closed = "the subscription ended: the connection to NATS is closed";
                        session = match self.next_session(&session, &mut group, closed.to_owned()).await {
                            Ok(session) => session,
                            Err(error) => {
                                self.status.left(LeaveReason::End);
                                return Err(error);
                            }
                        };
                        elsewhere = Box::pin(self.link.elsewhere(session.client.clone()));
                        (standing, proof) = (Standing::new(self.link), None);
                    }
                },
                () = standing.due(now, awaits_proof) => {}
                // At once: a caller that asks one request after the other is about to send its next.
                () = self.queue.idle(), if !inside => {}
                // Room comes back without a message when work is done.
                () = tokio::time::sleep(LOOK_EVERY), if !(at_rest && inside) && standing.may_try(now) => {}
            }
        }
    }

    /// Says whether this worker is in its group. `inside`: it has asked for messages; `stands`: and is known to get them.
    fn tell_membership(&self, inside: bool, stands: bool, refused: bool, member: &mut bool) {
        let outside = if refused { State::Refused } else { State::Full };
        // A subscription that may yet be forbidden is no membership.
        match (*member, inside) {
            (false, true) if stands => {
                self.status.joined();
                *member = true;
            }
            (true, false) => {
                let reason = if refused {
                    LeaveReason::Refused
                } else {
                    LeaveReason::Full
                };
                self.status.left(reason);
                self.status.set_state(outside);
                *member = false;
            }
            (false, false) => self.status.set_state(outside),
            (false, true) if refused => self.status.set_state(State::Refused),
            (false, true) => self.status.set_state(State::Connecting),
            (true, true) => {}
        }
    }

    /// The session after this one, which has ended: the worker stays what it is, its subscriptions are to be made anew.
    /// Without one in time, `error` stands.
    async fn next_session(&self, session: &Session, group: &mut Group, error: String) -> Result<Session, WorkerError> {
        let next = tokio::time::timeout(SESSION_MAX, self.sessions.after(session.number)).await;
        let next = next.ok().flatten().ok_or(WorkerError::Subscription(error))?;
        self.link.prepare(&next.client, self.own_subject.clone()).await;
        group.begin_on(next.client.clone());
        Ok(next)
    }

    /// Moves to another server, unless `wish` ends meanwhile: a stop waits for no server.
    async fn move_on(&self, session: &Session, wish: &mut watch::Receiver<Wish>) {
        tokio::select! {
            () = self.link.move_on(&session.client) => {}
            // The guard is dropped here: it must not be held while waiting.
            () = async { let _ = wish.wait_for(|&wish| wish == Wish::End).await; } => {}
        }
    }

    /// Leaves the group, and passes on what still comes.
    async fn leave(&self, session: &Session, group: &mut Group, member: &mut bool, reason: LeaveReason) {
        group.leave().await;
        let mut drained = false;
        let round_trip = async || {
            // Without a connection nothing is under way.
            tokio::select! {
                () = self.link.round_trip(&session.client) => {}
                () = self.link.away() => {}
            }
        };
        loop {
            let message = if self.link.is_away(&session.client) {
                group.next_at_hand().await
            } else {
                group.next_leaving(&mut drained, round_trip).await
            };
            match message {
                Some(message) => self.pass_on(message).await,
                None => break,
            };
        }
        if std::mem::take(member) {
            self.status.left(reason);
        }
    }

    /// False when nothing can be answered any more.
    async fn pass_on(&self, message: async_nats::Message) -> bool {
        let received_at = Instant::now();
        let received_at_unix = SystemTime::now();
        let reply_to = message.reply.filter(|subject| self.reply_subjects.answerable(subject));
        let Some(reply_to) = reply_to else {
            metrics::counter!(names::MESSAGES_WITHOUT_REPLY_TOTAL).increment(1);
            tracing::debug!("a message that no answer can be sent to was dropped");
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

/// What is known of whether the server takes this worker's subscriptions.
struct Standing {
    backoff: Backoff,
    /// Refusals that are dealt with.
    refusals_seen: u64,
    prove_at: Option<Instant>,
}

impl Standing {
    fn new(link: &Link) -> Standing {
        Standing {
            backoff: Backoff::new(REFUSED_PAUSE_MIN, REFUSED_PAUSE_MAX),
            refusals_seen: link.subscriptions_refused(),
            prove_at: None,
        }
    }

    /// Deals with refusals that were reported meanwhile. True if there were any: a round trip that is under way proves
    /// nothing then.
    fn look(&mut self, group: &mut Group, link: &Link, now: Instant) -> bool {
        let refusals = link.subscriptions_refused();
        if refusals == self.refusals_seen {
            if self.is_refused() && group.stands() {
                self.backoff.accepted();
                tracing::info!("the NATS server takes the subscription again");
            }
            return false;
        }
        self.refusals_seen = refusals;
        self.prove_at = None;
        if group.refused(now, link.connected_at()) {
            let pause = self.backoff.refused(now);
            tracing::debug!(pause_ms = pause.as_millis() as u64, "the subscription is tried again");
        }
        true
    }

    fn is_refused(&self) -> bool {
        self.backoff.retry_at().is_some()
    }

    /// Whether the pause after the last refusal is over.
    fn may_try(&self, now: Instant) -> bool {
        self.backoff.retry_at().is_none_or(|at| now >= at)
    }

    fn may_prove(&self, now: Instant) -> bool {
        self.prove_at.is_none_or(|at| now >= at)
    }

    fn proof_begins(&mut self, group: &mut Group, now: Instant) {
        self.prove_at = Some(now + PROVE_EVERY);
        group.proof_begins();
    }

    /// True if no refusal was reported since the round trip began, and there is a subscription.
    fn proof_ends(&self, group: &mut Group, link: &Link) -> bool {
        if link.subscriptions_refused() != self.refusals_seen {
            return false;
        }
        group.proven();
        group.outstanding() != Some(0)
    }

    /// Completes when it is time to try again, or (`unproven`) to prove what was subscribed to.
    async fn due(&self, now: Instant, unproven: bool) {
        let retry_at = self.backoff.retry_at().filter(|&at| at > now);
        let prove_at = self.prove_at.filter(|&at| unproven && at > now);
        match retry_at.into_iter().chain(prove_at).min() {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::nats::fake_server::FakeServer;
    use crate::worker::group::GroupAddress;

    const PATIENCE: Duration = Duration::from_secs(20);

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
        let (worker, caller) = (server.sessions().await, server.sessions().await);
        let address = GroupAddress {
            subject: "score".to_owned(),
            queue_group: "rerank".to_owned(),
        };
        let status = Status::new();
        let link = Link::new(address.clone(), status.clone());
        let (outbox, _outgoing) = Outbox::new(64);
        let taken = Mutex::new(Vec::new());
        let group = Group::new(worker.client(), address, 64);
        let limits = crate::worker::QueueLimits {
            requests_max: 64,
            pairs_max: 64,
            bytes_max: 1 << 20,
        };
        let queue = Queue::new(limits, Duration::from_secs(1), 0.8);
        let receiver = Receiver {
            sessions: &worker,
            outbox: &outbox,
            status: &status,
            link: &link,
            own_subject: "own".to_owned(),
            reply_subjects: &ReplySubjects::new("score".to_owned(), "_INBOX.own".to_owned(), Vec::new()),
            room: || Room {
                requests: None,
                at_rest: true,
            },
            queue: &queue,
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
