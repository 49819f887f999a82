//! What the connection to NATS tells of itself, and what follows from it: whether the worker may go on, whether it should
//! move to another server, since when there is a connection.
//!
//! The client library takes up a lost connection by itself and makes the subscriptions again; what it cannot know is what
//! a forbidden subject or a server that is about to stop means for a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Event, ServerError};
use tokio::sync::watch;

use super::WorkerError;
use super::group::GroupAddress;
use super::status::Status;
use super::violation::{Complaints, Repeated, Violation};
use crate::nats::{Pinger, REFUSALS_MAX, Sessions, is_refusal, is_subscription_limit};
use crate::telemetry::names;

/// Workers that are told at once that their server is about to stop spread their moves over this time, so that the queue
/// group is never without any. Servers give ten seconds unless told otherwise.
const MOVE_SPREAD: Duration = Duration::from_secs(2);
/// How long a move waits for the answers that are owed.
const MOVE_ANSWERS_MAX: Duration = Duration::from_secs(5);
/// How long the new connection may take before the worker goes on, unready until there is one.
const MOVE_CONNECT_MAX: Duration = Duration::from_secs(30);
/// How often what was told is held against what is.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Why a worker cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// It may not listen.
    Forbidden,
    /// It may not even connect.
    Rejected,
}

/// What was told so far.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    connected: bool,
    /// When the present connection was made, or the last one.
    connected_at: Option<Instant>,
    /// How often a server said that it is about to stop.
    lame_ducks: u64,
    /// Refusals of the credentials in a row.
    refusals: u32,
    /// Subscriptions that a server refused for their number.
    subscriptions_refused: u64,
    lost: Option<Lost>,
}

/// See [`Link::changes`].
pub(super) struct Changes(watch::Receiver<Told>);

impl Changes {
    /// Waits for the next change. Safe to cancel.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// See the module.
pub(super) struct Link {
    group: GroupAddress,
    status: Arc<Status>,
    told: watch::Sender<Told>,
    /// Of the lame ducks told, those that are dealt with.
    lame_ducks_seen: AtomicU64,
    slow: Repeated,
    limits: Repeated,
    complaints: Complaints,
    pinger: Pinger,
}

impl Link {
    pub(super) fn new(group: GroupAddress, status: Arc<Status>) -> Arc<Link> {
        Arc::new(Link {
            group,
            status,
            told: watch::Sender::new(Told::default()),
            lame_ducks_seen: AtomicU64::new(0),
            slow: Repeated::default(),
            limits: Repeated::default(),
            pinger: Pinger::new(),
            complaints: Complaints::default(),
        })
    }

    /// Takes note of an event. Never blocks.
    pub(super) fn on_event(&self, event: Event) {
        match event {
            Event::Connected => {
                self.set_connected(true);
                tracing::info!("connected to NATS");
            }
            Event::Disconnected => {
                self.set_connected(false);
                tracing::warn!("the connection to NATS is lost: reconnecting");
            }
            Event::LameDuckMode => {
                metrics::counter!(names::NATS_LAME_DUCK_TOTAL).increment(1);
                tracing::warn!("the NATS server is about to stop (lame duck mode)");
                self.told.send_modify(|told| told.lame_ducks += 1);
            }
            Event::SlowConsumer(_) => {
                metrics::counter!(names::NATS_SLOW_CONSUMER_TOTAL).increment(1);
                self.slow.tell(|times| {
                    tracing::warn!(
                        times,
                        "messages were dropped: they came faster than this worker takes them"
                    );
                });
            }
            Event::ServerError(ServerError::Other(text)) => self.on_server_error(&text),
            Event::ServerError(error) => tracing::error!(%error, "the NATS server reports an error"),
            // Told while a lost connection is taken up again: once for each try that the server refused.
            Event::ClientError(error) if is_refusal(&error) => self.on_refusal(),
            Event::ClientError(error) => tracing::warn!(%error, "NATS cannot be reached"),
            event => tracing::info!(%event, "NATS"),
        }
    }

    fn on_server_error(&self, text: &str) {
        if text.eq_ignore_ascii_case("slow consumer") {
            metrics::counter!(names::NATS_SLOW_CONSUMER_TOTAL).increment(1);
            tracing::warn!("the NATS server closes the connection: this worker did not read fast enough");
            return;
        }
        if is_subscription_limit(text) {
            metrics::counter!(names::NATS_SUBSCRIPTIONS_REFUSED_TOTAL).increment(1);
            self.told.send_modify(|told| told.subscriptions_refused += 1);
            self.limits.tell(|times| {
                tracing::error!(
                    times,
                    "the NATS server refuses a subscription: this connection has as many as the `max_subscriptions` of \
                     the account, the user or the server lets it have; grant some thirty"
                );
            });
            return;
        }
        let Some(violation) = Violation::parse(text) else {
            tracing::error!(error = text, "the NATS server reports an error");
            return;
        };
        metrics::counter!(names::NATS_PERMISSION_VIOLATIONS_TOTAL, "on" => violation.name()).increment(1);
        if violation == Violation::Subscribe(&self.group.subject) {
            tracing::error!(
                subject = self.group.subject,
                "the NATS server forbids the subscription that this worker lives on"
            );
            self.told.send_modify(|told| told.lost = Some(Lost::Forbidden));
        } else {
            self.complaints.tell(violation);
        }
    }

    fn on_refusal(&self) {
        self.told.send_modify(|told| {
            told.refusals += 1;
            if told.refusals == 1 {
                tracing::error!(
                    refusals_max = REFUSALS_MAX,
                    "the NATS server does not accept the credentials any more"
                );
            }
            if told.refusals == REFUSALS_MAX {
                told.lost = Some(Lost::Rejected);
            }
        });
    }

    fn set_connected(&self, connected: bool) {
        self.status.set_connected(connected);
        self.told.send_modify(|told| {
            told.connected = connected;
            if connected {
                told.connected_at = Some(Instant::now());
                told.refusals = 0;
            }
        });
    }

    /// Holds what was told against what is, for as long as it is polled: the client library drops events when there are
    /// very many at once, and a worker must not look disconnected for ever after.
    pub(super) async fn check(&self, sessions: &Sessions) {
        let mut differed = false;
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            let connected = sessions.is_connected();
            let differs = connected != self.told.borrow().connected;
            if differs && differed {
                self.set_connected(connected);
            }
            differed = differs;
        }
    }

    /// When the present connection, or the last one, was made.
    pub(super) fn connected_at(&self) -> Option<Instant> {
        self.told.borrow().connected_at
    }

    /// Whether there is no connection now.
    pub(super) fn is_away(&self, client: &async_nats::Client) -> bool {
        client.connection_state() != State::Connected
    }

    /// Returns when there is no connection.
    pub(super) async fn away(&self) {
        let mut told = self.told.subscribe();
        // Proof that it cannot fail: the sender lives in `self`.
        let _ = told.wait_for(|told| !told.connected).await;
    }

    /// Returns when this worker cannot go on with its NATS system.
    pub(super) async fn lost(&self) -> WorkerError {
        let lost = self
            .told
            .subscribe()
            .wait_for(|told| told.lost.is_some())
            .await
            .map(|told| *told);
        match lost.map(|told| (told.lost, told.refusals)) {
            Ok((Some(Lost::Rejected), refusals)) => WorkerError::Rejected { refusals },
            // Proof of the second half: the sender lives in `self`.
            Ok((Some(Lost::Forbidden) | None, _)) | Err(_) => WorkerError::Forbidden {
                subject: self.group.subject.clone(),
                queue_group: self.group.queue_group.clone(),
            },
        }
    }

    /// Prepares [`Link::round_trip`]. `subject` is one that this worker may listen to and nobody else does. To be called
    /// before anything else is subscribed to, so that no limit can be in its way.
    pub(super) async fn prepare(&self, client: &async_nats::Client, subject: String) {
        self.pinger.prepare(client, subject).await;
    }

    /// Waits until the server has answered what was sent before, so that a violation of permissions or a refusal would
    /// have been reported; within a bound.
    pub(super) async fn round_trip(&self, client: &async_nats::Client) {
        if !self.pinger.round_trip(client).await {
            tracing::warn!("the NATS server does not answer in time");
        }
    }

    /// Subscriptions of this connection, and those before it, that a server refused for their number.
    pub(super) fn subscriptions_refused(&self) -> u64 {
        self.told.borrow().subscriptions_refused
    }

    /// Returns once more subscriptions were refused than `seen`.
    pub(super) async fn refused_since(&self, seen: u64) {
        let mut told = self.told.subscribe();
        // Proof: the sender lives in `self`, so that this cannot fail.
        let _ = told.wait_for(|told| told.subscriptions_refused > seen).await;
    }

    /// Completes with each change: a connection made or lost, a subscription refused.
    pub(super) fn changes(&self) -> Changes {
        Changes(self.told.subscribe())
    }

    /// Returns when it is time to move to another server: this one is about to stop, and there is another.
    pub(super) async fn elsewhere(&self, client: async_nats::Client) {
        loop {
            let seen = self.lame_ducks_seen.load(Ordering::Relaxed);
            let told = self
                .told
                .subscribe()
                .wait_for(|told| told.lame_ducks > seen)
                .await
                .map(|told| *told);
            let Ok(told) = told else {
                return std::future::pending().await;
            };
            tokio::time::sleep(spread()).await;
            self.lame_ducks_seen.store(told.lame_ducks, Ordering::Relaxed);
            if self.told.borrow().connected_at != told.connected_at {
                // The connection was lost meanwhile: it is on its way elsewhere already.
                continue;
            }
            match client.server_pool().await {
                Ok(pool) if pool.len() > 1 => return,
                _ => tracing::warn!("no other NATS server is known: staying until this one closes the connection"),
            }
        }
    }

    /// Moves to another server, once everything that is owed has been answered: to be called outside the queue group.
    pub(super) async fn move_on(&self, client: &async_nats::Client) {
        let until = Instant::now() + MOVE_ANSWERS_MAX;
        while self.status.queue_requests() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // What is not written is lost with the connection.
        let _ = tokio::time::timeout(MOVE_ANSWERS_MAX, client.flush()).await;
        let before = self.connected_at();
        if client.force_reconnect().await.is_err() {
            return;
        }
        let mut told = self.told.subscribe();
        let moved = told.wait_for(|told| told.connected && told.connected_at != before);
        match tokio::time::timeout(MOVE_CONNECT_MAX, moved).await {
            Ok(_) => tracing::info!("moved to another NATS server"),
            Err(_) => tracing::warn!("no other NATS server could be reached yet: trying on"),
        }
    }
}

/// A part of [`MOVE_SPREAD`] that differs from worker to worker.
fn spread() -> Duration {
    let id = nuid::next();
    let sum = id
        .bytes()
        .fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    MOVE_SPREAD * (sum % 1000) / 1000
}

#[cfg(test)]
mod tests {
    use async_nats::ClientError;

    use super::*;

    fn link() -> Arc<Link> {
        let group = GroupAddress {
            subject: "rerank.v1.score".to_owned(),
            queue_group: "rerank".to_owned(),
        };
        Link::new(group, Status::new())
    }

    fn server_error(text: &str) -> Event {
        Event::ServerError(ServerError::Other(text.to_owned()))
    }

    #[tokio::test]
    async fn only_the_groups_own_subject_ends_the_worker() {
        let link = link();
        link.on_event(server_error("Permissions Violation for Subscription to \"$SRV.PING\""));
        link.on_event(server_error("Permissions Violation for Publish to \"_INBOX.secret\""));
        link.on_event(server_error("Maximum Payload Violation"));
        assert_eq!(link.told.borrow().lost, None);
        link.on_event(server_error(
            "Permissions Violation for Subscription to \"rerank.v1.score\" using queue \"rerank\"",
        ));
        let error = link.lost().await;
        let text = error.to_string();
        assert!(
            matches!(error, WorkerError::Forbidden { .. }) && text.contains("\"rerank.v1.score rerank\""),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_refused_subscription_is_counted_and_ends_nothing() {
        let link = link();
        let mut changes = link.changes();
        link.on_event(server_error("maximum subscriptions exceeded"));
        changes.next().await;
        link.refused_since(0).await;
        assert_eq!((link.subscriptions_refused(), link.told.borrow().lost), (1, None));
    }

    #[tokio::test]
    async fn refusals_in_a_row_end_the_worker_and_a_connection_forgives_them() {
        let link = link();
        let refused = || Event::ClientError(ClientError::Other("authorization violation".to_owned()));
        (1..REFUSALS_MAX).for_each(|_| link.on_event(refused()));
        link.on_event(Event::Connected);
        (1..REFUSALS_MAX).for_each(|_| link.on_event(refused()));
        assert_eq!(link.told.borrow().lost, None);
        link.on_event(refused());
        assert!(matches!(
            link.lost().await,
            WorkerError::Rejected { refusals: REFUSALS_MAX }
        ));
    }
}
