//! Subscriptions that a server refuses for a limit, and how both kinds of connection (worker, caller) deal with it.
//!
//! A server answers a subscription past `max_subscriptions` (of the account, the user or itself; counted by connection) with
//! an error that names no subject, keeps the connection, and forgets the subscription. The client library reports it as an
//! event and goes on as if the subscription stood.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::{Client, Subscriber};
use tokio::sync::Mutex;

/// A server answers sooner than this, or its caller goes on without having heard.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);
/// An answer of the server that is here takes no longer than this to be reported by the client library.
const REPORT_MAX: Duration = Duration::from_millis(50);
/// `PONG` and the end of its line.
const PONG_BYTES: u64 = 6;

/// Whether the text of a server's error says that it has refused a subscription for their number.
pub(crate) fn is_subscription_limit(text: &str) -> bool {
    text.eq_ignore_ascii_case("maximum subscriptions exceeded")
}

/// Growing pauses between tries at what a server refuses. Pure: it takes `now` and reads no clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    /// The pause that the next refusal brings.
    next: Duration,
    /// When the next try is due; `None`: what was tried last was not refused.
    retry_at: Option<Instant>,
}

impl Backoff {
    /// Pauses of `min`, then twice as long each time, `max` at most.
    pub(crate) fn new(min: Duration, max: Duration) -> Backoff {
        Backoff {
            min,
            max,
            next: min,
            retry_at: None,
        }
    }

    /// Refused at `now`. Returns the pause until the next try.
    pub(crate) fn refused(&mut self, now: Instant) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        self.retry_at = Some(now + pause);
        pause
    }

    /// Accepted. True if it had been refused before.
    pub(crate) fn accepted(&mut self) -> bool {
        self.next = self.min;
        self.retry_at.take().is_some()
    }

    /// When the next try is due (it may lie in the past); `None`: nothing is refused. A caller waits for nothing else
    /// meanwhile and need not ask.
    #[cfg(any(feature = "worker", test))]
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }
}

/// A way to ask the server for a sign of life that needs no subscription: the client library sends a PING when a
/// subscription is drained, and also when that subscription has ended already.
pub(crate) struct Pinger(Mutex<Option<Subscriber>>);

impl Pinger {
    /// Without a way to ask yet.
    pub(crate) fn new() -> Pinger {
        Pinger(Mutex::new(None))
    }

    /// Subscribes to `subject`, which nobody publishes to, and ends that at once.
    pub(crate) async fn prepare(&self, client: &Client, subject: String) {
        if let Ok(mut subscription) = client.subscribe(subject).await {
            let _ = subscription.drain().await;
            *self.0.lock().await = Some(subscription);
        }
    }

    /// Waits until the server has answered what was sent before, so that a refusal would have been reported; within a
    /// bound. False: no answer within that bound.
    ///
    /// A flush of the client library tells that bytes have left, not that they were answered. The answer to a PING shows in
    /// the number of bytes that came. Several, so that something else of a few bytes (the server pings too) cannot be taken
    /// for it.
    pub(crate) async fn round_trip(&self, client: &Client) -> bool {
        const PINGS: u64 = 3;
        let statistics = client.statistics();
        let before = statistics.in_bytes.load(Ordering::Relaxed);
        let answered = tokio::time::timeout(ROUND_TRIP_MAX, async {
            {
                let mut ended = self.0.lock().await;
                let Some(ended) = ended.as_mut() else { return };
                for _ in 0..PINGS {
                    let _ = ended.drain().await;
                }
            }
            while statistics.in_bytes.load(Ordering::Relaxed) < before + PINGS * PONG_BYTES {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let answered = answered.await.is_ok();
        tokio::time::sleep(REPORT_MAX).await;
        answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew_once_accepted() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 5);
        assert!(!backoff.accepted());
        let pauses: Vec<u64> = (0..5).map(|_| backoff.refused(now).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
        assert_eq!(backoff.retry_at(), Some(now + second * 5));
        assert!(backoff.accepted());
        assert_eq!((backoff.retry_at(), backoff.refused(now)), (None, second));
    }

    #[test]
    fn the_limit_is_known_by_the_servers_words() {
        assert!(is_subscription_limit("maximum subscriptions exceeded"));
        assert!(is_subscription_limit("Maximum Subscriptions Exceeded"));
        assert!(!is_subscription_limit("maximum connections exceeded"));
        assert!(!is_subscription_limit(
            "Permissions Violation for Subscription to \"a\""
        ));
    }
}
