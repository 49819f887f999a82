//! Being in the queue group on credit: each subscription is for a fixed number of messages, so the server stops by itself
//! when the worker has been asked for as much as it has room for.
//!
//! Ending a subscription loses what the server has sent and the client library has not seen yet, unless both stop at the
//! same count. A count that is set at the start is exact; one that is set later is a guess at what is under way. So a
//! worker does not leave when it is full: it stops renewing its credit in time. Only a stop or the switch ends a
//! subscription early (see [`Group::leave`]).
//!
//! A connection that is lost meanwhile spoils that: the client library makes subscriptions again, with counts of its own,
//! and even one whose end it had asked for a moment before. Messages for such a subscription go to a worker that does not
//! know it. So what was begun on one connection is never taken as done on the next (see [`Group::let_go`]).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;

/// Where to listen.
#[derive(Clone, Debug)]
pub(super) struct GroupAddress {
    pub(super) subject: String,
    pub(super) queue_group: String,
}

/// How the group is left early so that nothing is lost (of the ways tried, the only one that lost none of 10,000): ask the
/// server to end the subscription this many messages from now, and as many as came in a recent moment, since more than
/// those would have to be under way for one to be lost; read on for as long as messages come, then drain.
const LEAVE_AFTER_MESSAGES: u64 = 64;
/// That moment: longer than a busy machine keeps a thread waiting.
const RECENT: Duration = Duration::from_millis(100);
/// No message for this long after asking to leave: drain.
const LEAVE_QUIET: Duration = Duration::from_millis(100);
/// How long what is written already may take to leave before the connection is made anew.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// Subscriptions at once. A new one comes beside what is left of the older ones, so that the worker is never out of the
/// group for want of credit alone.
const LIVE_MAX: usize = 8;
/// A refusal is reported at the latest this long after the subscription was sent: what is older was not refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);
/// Messages that one subscription is for at most.
const CREDIT_MAX: u64 = 256;

/// How much credit to ask for: `room` more requests could be taken, `outstanding` may still come. Pure. Asks for the whole
/// room once half of it is used up, so that a full subscription and not a message is what costs a round trip.
pub(super) fn grant(room: u64, outstanding: u64, credit_max: u64) -> u64 {
    let room = room.min(credit_max);
    if outstanding > room / 2 { 0 } else { room - outstanding }
}

/// The subscriptions of this worker.
pub(super) struct Group {
    client: async_nats::Client,
    address: GroupAddress,
    credit_max: u64,
    live: Vec<Live>,
    /// Came while leaving was prepared.
    held: VecDeque<Message>,
    recent: Recent,
    /// The connection on which leaving began; `None` where nothing is being left.
    leaving_on: Option<u64>,
}

struct Live {
    subscription: Subscriber,
    /// The connection on which it was made.
    made_on: u64,
    received: u64,
    /// Messages that may still come; `None`: no end is set.
    left: Option<u64>,
    made_at: Instant,
    /// The connection on which the server has answered what was sent after it.
    answered_on: Option<u64>,
    /// The connection whose answer is awaited.
    asked_on: Option<u64>,
    /// A message came on the connection on which it was made: it stands.
    heard: bool,
    /// The server may have refused it: it counts for nothing, and is read all the same.
    suspect: bool,
    /// It is being ended because of that.
    ending: bool,
}

impl Live {
    /// Whether a refusal that is reported now may be this one's, on the present `connection`, made at `connected_at`.
    fn may_be_refused(&self, now: Instant, connection: u64, connected_at: Option<Instant>) -> bool {
        if self.suspect || (self.heard && self.made_on == connection) {
            return false;
        }
        let sent_at = connected_at.map_or(self.made_at, |at| at.max(self.made_at));
        self.answered_on != Some(connection) || now.saturating_duration_since(sent_at) < REFUSED_WITHIN
    }
}

impl Group {
    /// Outside. `capacity`: messages that the client library holds for one subscription; more would be dropped, so
    /// no credit is larger.
    pub(super) fn new(client: async_nats::Client, address: GroupAddress, capacity: usize) -> Group {
        Group {
            client,
            address,
            credit_max: CREDIT_MAX.min(capacity as u64).max(1),
            live: Vec::new(),
            held: VecDeque::new(),
            recent: Recent::default(),
            leaving_on: None,
        }
    }

    /// Begins anew on another client, outside: what the old one's subscriptions were for is gone with it.
    pub(super) fn begin_on(&mut self, client: async_nats::Client) {
        self.client = client;
        self.live.clear();
        self.leaving_on = None;
    }

    /// Which connection this is: the first, the second after it was lost once, and so on.
    fn connection(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Messages that may still come; `None`: no end is set.
    pub(super) fn outstanding(&self) -> Option<u64> {
        self.standing().map(|live| live.left).sum()
    }

    /// The subscriptions that the server has not refused, as far as is known.
    fn standing(&self) -> impl Iterator<Item = &Live> {
        self.live.iter().filter(|live| !live.suspect)
    }

    /// Whether there are subscriptions of which it is not known that the server, the present one, has taken them.
    pub(super) fn is_unproven(&self) -> bool {
        let connection = self.connection();
        self.standing()
            .any(|live| live.answered_on != Some(connection) && !(live.heard && live.made_on == connection))
    }

    /// Whether messages may come, by subscriptions all of which the server is known to have taken.
    pub(super) fn stands(&self) -> bool {
        let suspected = self.live.iter().any(|live| live.suspect && !live.ending);
        self.outstanding() != Some(0) && !suspected && !self.is_unproven()
    }

    /// A round trip to the server begins: see [`Group::proven`].
    pub(super) fn proof_begins(&mut self) {
        let connection = self.connection();
        self.live.iter_mut().for_each(|live| live.asked_on = Some(connection));
    }

    /// The server has answered, and reported no refusal meanwhile: what there was when the round trip began stands, unless
    /// the connection is another one by now.
    pub(super) fn proven(&mut self) {
        let connection = self.connection();
        for live in self.live.iter_mut().filter(|live| !live.suspect) {
            if live.asked_on == Some(connection) {
                live.answered_on = Some(connection);
            }
        }
    }

    /// The server has refused a subscription, and does not say which: every one that it may be is suspect from now on.
    /// False if there is none. `connected_at`: when the present connection was made.
    pub(super) fn refused(&mut self, now: Instant, connected_at: Option<Instant>) -> bool {
        let connection = self.connection();
        let mut any = false;
        for live in &mut self.live {
            if live.may_be_refused(now, connection, connected_at) {
                live.suspect = true;
                any = true;
            }
        }
        any
    }

    /// Ends what the server may have refused, before it is tried again.
    pub(super) async fn end_suspects(&mut self) {
        for live in self.live.iter_mut().filter(|live| live.suspect && !live.ending) {
            live.ending = true;
            let _ = live.subscription.drain().await;
        }
    }

    /// Sees to it that the server may send as much as there is room for. True if that took a new subscription.
    pub(super) async fn renew(&mut self, room: Option<u64>) -> Result<bool, String> {
        let credit = match (room, self.outstanding()) {
            (None, Some(_)) => None,
            (Some(room), Some(outstanding)) => match grant(room, outstanding, self.credit_max) {
                0 => return Ok(false),
                _ if self.live.len() >= LIVE_MAX => return Ok(false),
                credit => Some(credit),
            },
            (_, None) => return Ok(false),
        };
        let made_on = self.connection();
        let GroupAddress { subject, queue_group } = &self.address;
        let failed = |error: String| format!("cannot subscribe to {subject}: {error}");
        // Both commands without a pause in between, so that they leave together: the client library runs on this very
        // thread, and `unconstrained` keeps tokio from interrupting. Were the server to hear of the end later, it might have
        // sent more by then than the client library takes.
        let subscribed = tokio::task::unconstrained(async {
            let subscription = self.client.queue_subscribe(subject.clone(), queue_group.clone()).await;
            let mut subscription = subscription.map_err(|error| failed(error.to_string()))?;
            if let Some(credit) = credit {
                let limited = subscription.unsubscribe_after(credit).await;
                limited.map_err(|error| failed(error.to_string()))?;
            }
            Ok::<_, String>(subscription)
        });
        let subscription = subscribed.await?;
        self.live.push(Live {
            subscription,
            made_on,
            received: 0,
            left: credit,
            made_at: Instant::now(),
            answered_on: None,
            asked_on: None,
            heard: false,
            suspect: false,
            ending: false,
        });
        Ok(true)
    }

    /// The next message of any subscription; `None` when one ended before its credit was used, which means that the
    /// connection is closed. Waits for ever without a subscription. Safe to cancel.
    pub(super) async fn next(&mut self) -> Option<Message> {
        poll_fn(|context| match self.poll_live(context) {
            Poll::Ready(Polled::Message(message)) => Poll::Ready(Some(message)),
            Poll::Ready(Polled::Cut) => Poll::Ready(None),
            Poll::Ready(Polled::Over) | Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn poll_live(&mut self, context: &mut Context<'_>) -> Poll<Polled> {
        let connection = self.connection();
        let mut at = 0;
        while let Some(one) = self.live.get_mut(at) {
            match one.subscription.poll_next_unpin(context) {
                Poll::Ready(Some(message)) => {
                    one.left = one.left.map(|left| left.saturating_sub(1));
                    one.received += 1;
                    if one.made_on == connection {
                        one.heard = true;
                        one.suspect = one.ending;
                    }
                    self.recent.count(Instant::now());
                    // The others get their turn.
                    self.live.rotate_left(at + 1);
                    return Poll::Ready(Polled::Message(message));
                }
                Poll::Ready(None) => {
                    let ended = self.live.swap_remove(at);
                    if ended.left != Some(0) && !ended.ending {
                        return Poll::Ready(Polled::Cut);
                    }
                }
                Poll::Pending => at += 1,
            }
        }
        if self.live.is_empty() {
            Poll::Ready(Polled::Over)
        } else {
            Poll::Pending
        }
    }

    /// Begins to leave early: read on with [`Group::next_leaving`] until that ends.
    pub(super) async fn leave(&mut self) {
        // What has come already is taken first, so that the count below is of what is still under way.
        self.take_what_is_there().await;
        let more = LEAVE_AFTER_MESSAGES + self.recent.most();
        let connection = self.connection();
        self.leaving_on = (!self.live.is_empty()).then_some(connection);
        for live in &mut self.live {
            if live.made_on != connection {
                // The client library counts from the subscription's beginning, the server from the connection's: with
                // one number for both, the server would send more than is taken.
                let _ = live.subscription.drain().await;
            } else if live.left.is_none_or(|left| left > more) {
                let _ = live.subscription.unsubscribe_after(live.received + more).await;
                live.left = Some(more);
            }
        }
    }

    /// Puts all messages that have come into `held`, also those that the client library has not read yet.
    async fn take_what_is_there(&mut self) {
        // Ends by itself when nothing has come for two rounds; each takes a hundred or so.
        let (mut empty, mut rounds) = (0, 0);
        while empty < 2 && rounds < 64 {
            // The client library, which runs on this thread, reads its connection meanwhile.
            tokio::task::yield_now().await;
            let before = self.held.len();
            while let Some(message) = poll_fn(|context| match self.poll_live(context) {
                Poll::Ready(Polled::Message(message)) => Poll::Ready(Some(message)),
                _ => Poll::Ready(None),
            })
            .await
            {
                self.held.push_back(message);
            }
            empty = if self.held.len() == before { empty + 1 } else { 0 };
            rounds += 1;
        }
    }

    /// What still comes while leaving; `None` when that is over, at the latest some moments after the last message.
    /// `round_trip`: to the server and back, since what has not come by then was not under way.
    pub(super) async fn next_leaving(&mut self, drained: &mut bool, round_trip: impl AsyncFn()) -> Option<Message> {
        loop {
            if let Some(message) = self.held.pop_front() {
                return Some(message);
            }
            let quiet = if *drained { LEAVE_QUIET * 10 } else { LEAVE_QUIET };
            let polled = tokio::time::timeout(quiet, poll_fn(|context| self.poll_live(context))).await;
            match polled {
                Ok(Polled::Message(message)) => return Some(message),
                Ok(Polled::Over) => {
                    self.let_go().await;
                    return None;
                }
                Ok(Polled::Cut) => {}
                Err(_) if *drained => {
                    self.live.clear();
                    self.let_go().await;
                    return None;
                }
                Err(_) => {
                    // A worker or a server that got no time has no messages either.
                    round_trip().await;
                    self.take_what_is_there().await;
                    if !self.held.is_empty() {
                        continue;
                    }
                    *drained = true;
                    for live in &mut self.live {
                        let _ = live.subscription.drain().await;
                    }
                }
            }
        }
    }

    /// The next message that has come already while leaving; `None` when that is over. For a lost connection, over which
    /// nothing comes that could be waited for.
    pub(super) async fn next_at_hand(&mut self) -> Option<Message> {
        if self.held.is_empty() {
            self.take_what_is_there().await;
        }
        let message = self.held.pop_front();
        if message.is_none() {
            self.live.clear();
            self.let_go().await;
        }
        message
    }

    /// Once nothing is read any more: if the connection was lost while the group was left, the server may hold a
    /// subscription that the client library has made again and forgotten since. Nothing but a new connection ends it.
    async fn let_go(&mut self) {
        let Some(leaving_on) = self.leaving_on.take() else {
            return;
        };
        if self.connection() == leaving_on {
            return;
        }
        tracing::warn!(
            "the connection was lost while the queue group was left: connecting anew, to be out of it for sure"
        );
        // Answers that are written already leave first.
        let _ = tokio::time::timeout(FLUSH_MAX, self.client.flush()).await;
        let _ = self.client.force_reconnect().await;
    }
}

/// Messages of the last moments.
#[derive(Default)]
struct Recent {
    began: Option<Instant>,
    now: u64,
    before: u64,
}

impl Recent {
    fn count(&mut self, at: Instant) {
        let since = self.began.map(|began| at.saturating_duration_since(began));
        if since.is_none_or(|since| since >= RECENT) {
            self.before = if since.is_some_and(|since| since < 2 * RECENT) {
                self.now
            } else {
                0
            };
            (self.began, self.now) = (Some(at), 0);
        }
        self.now += 1;
    }

    /// The most that came in one moment.
    fn most(&self) -> u64 {
        self.now.max(self.before)
    }
}

/// What looking at all subscriptions gave.
enum Polled {
    Message(Message),
    /// One ended before its credit was used up.
    Cut,
    /// There is none.
    Over,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slow_worker_asks_for_one_at_a_time() {
        assert_eq!(grant(1, 0, 1024), 1);
        assert_eq!(grant(1, 1, 1024), 0);
        assert_eq!(grant(0, 0, 1024), 0);
    }

    #[test]
    fn a_fast_one_renews_at_half() {
        assert_eq!(grant(10, 6, 1024), 0);
        assert_eq!(grant(10, 5, 1024), 5);
        assert_eq!(grant(100_000, 0, 64), 64);
    }

    proptest! {
        /// Never more than there is room for, and never out of the group while there is room.
        #[test]
        fn stays_within_the_room(room in 0u64..5000, outstanding in 0u64..5000, credit_max in 1u64..2000) {
            let granted = grant(room, outstanding, credit_max);
            prop_assert!(granted == 0 || granted + outstanding <= room.min(credit_max));
            prop_assert!(room == 0 || granted + outstanding > 0);
        }
    }
}
