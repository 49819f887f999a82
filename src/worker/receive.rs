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
use crate::protocol::RequestHeaders;
use crate::telemetry::names;

/// How often a worker whose room has changed looks whether to ask for more.
const LOOK_EVERY: Duration = Duration::from_millis(5);

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
    pub(super) client: &'a async_nats::Client,
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
        let mut confirming = std::pin::pin!(self.link.round_trip(self.client, &self.own_subject));
        let (mut subscribed, mut confirmed, mut member) = (false, false, false);
        let mut elsewhere = Box::pin(self.link.elsewhere(self.client));
        loop {
            // A sender that is gone can wish for nothing any more.
            let wished = if wish.has_changed().is_ok() {
                *wish.borrow_and_update()
            } else {
                Wish::End
            };
            let Room { requests, at_rest } = (self.room)();
            let renewed = match wished {
                Wish::In => group.renew(requests).await.map_err(WorkerError::Subscription)?,
                // What was asked for still comes; no more is asked for.
                Wish::Full => false,
                Wish::Off | Wish::End => {
                    let reason = if wished == Wish::Off {
                        LeaveReason::Off
                    } else {
                        LeaveReason::End
                    };
                    self.leave(&mut group, &mut member, reason).await;
                    if wished == Wish::End {
                        return Ok(());
                    }
                    self.status.set_state(State::Off);
                    tokio::select! {
                        biased;
                        // The guard is dropped here: it must not be held while waiting.
                        () = async { let _ = wish.wait_for(|&wish| wish != Wish::Off).await; } => {}
                        () = &mut elsewhere => {
                            self.move_on(&mut wish).await;
                            elsewhere = Box::pin(self.link.elsewhere(self.client));
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
                    self.leave(&mut group, &mut member, LeaveReason::End).await;
                    self.status.set_state(State::Connecting);
                    self.move_on(&mut wish).await;
                    elsewhere = Box::pin(self.link.elsewhere(self.client));
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
                    None => {
                        self.status.left(LeaveReason::End);
                        let closed = "the subscription ended: the connection to NATS is closed";
                        return Err(WorkerError::Subscription(closed.to_owned()));
                    }
                },
                // Room comes back without a message when work is done.
                () = tokio::time::sleep(LOOK_EVERY), if !(at_rest && inside) => {}
            }
        }
    }

    /// Moves to another server, unless `wish` ends meanwhile: a stop waits for no server.
    async fn move_on(&self, wish: &mut watch::Receiver<Wish>) {
        tokio::select! {
            () = self.link.move_on(self.client) => {}
            // The guard is dropped here: it must not be held while waiting.
            () = async { let _ = wish.wait_for(|&wish| wish == Wish::End).await; } => {}
        }
    }

    /// Leaves the group, and passes on what still comes.
    async fn leave(&self, group: &mut Group, member: &mut bool, reason: LeaveReason) {
        group.leave().await;
        let mut drained = false;
        let round_trip = async || {
            // Without a connection nothing is under way.
            tokio::select! {
                () = self.link.round_trip(self.client, &self.own_subject) => {}
                () = self.link.away() => {}
            }
        };
        loop {
            let message = if self.link.is_away(self.client) {
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
