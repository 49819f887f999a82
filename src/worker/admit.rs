//! Admission: what may wait, and how much of it.
//!
//! Bounded by requests, pairs and bytes. What does not fit is refused at once (429), so its caller keeps the ANN order
//! without waiting. (Admission by predicted time has its place here: [`Queue::admit`] sees the deadline.)

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::decode::Decoded;
use super::ticket::Ticket;
use crate::protocol::{Refusal, RefusalKind, Request};
use crate::telemetry::names;

/// The bounds of the queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Unanswered requests.
    pub requests_max: usize,
    /// Their pairs.
    pub pairs_max: usize,
    /// Bytes of their bodies.
    pub bytes_max: usize,
}

/// What waits in this worker, from admission to the answer's leaving.
#[derive(Debug)]
pub struct Queue {
    limits: QueueLimits,
    requests: AtomicUsize,
    pairs: AtomicUsize,
    bytes: AtomicUsize,
}

/// An admitted request.
#[derive(Debug)]
pub struct Admitted {
    /// Its ticket, which now holds its share of the queue.
    pub ticket: Ticket,
    /// The request.
    pub request: Request,
}

/// A request's part of the queue; dropped, it is given back.
#[derive(Debug)]
pub struct Share {
    queue: Arc<Queue>,
    pairs: usize,
    bytes: usize,
}

impl Queue {
    /// An empty queue.
    pub fn new(limits: QueueLimits) -> Arc<Queue> {
        Arc::new(Queue {
            limits,
            requests: AtomicUsize::new(0),
            pairs: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        })
    }

    /// Unanswered requests now.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }

    /// Admits a request or refuses it; refused, it is answered and `None` comes back.
    pub fn admit(self: &Arc<Queue>, decoded: Decoded, now: Instant) -> Option<Admitted> {
        let Decoded {
            mut ticket,
            request,
            bytes,
        } = decoded;
        if ticket.expired(now) {
            ticket.refuse_expired("before the worker took the request");
            return None;
        }
        match self.take(request.documents.len(), bytes) {
            Ok(share) => {
                ticket.set_share(share);
                Some(Admitted { ticket, request })
            }
            Err(refusal) => {
                ticket.refuse(refusal);
                None
            }
        }
    }

    fn take(self: &Arc<Queue>, pairs: usize, bytes: usize) -> Result<Share, Refusal> {
        let QueueLimits {
            requests_max,
            pairs_max,
            bytes_max,
        } = self.limits;
        // The share is made first and given back by its drop, so that a refusal halfway leaves nothing behind.
        let share = Share {
            queue: self.clone(),
            pairs,
            bytes,
        };
        let taken = [
            (
                self.requests.fetch_add(1, Ordering::AcqRel) + 1,
                requests_max,
                "requests",
            ),
            (
                self.pairs.fetch_add(pairs, Ordering::AcqRel) + pairs,
                pairs_max,
                "pairs",
            ),
            (
                self.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes,
                bytes_max,
                "bytes",
            ),
        ];
        self.publish();
        for (now, max, unit) in taken {
            if now > max {
                return Err(Refusal::new(
                    RefusalKind::Overloaded,
                    format!("the queue is full: queue.{unit}_max is {max} and this request would make it {now}"),
                ));
            }
        }
        Ok(share)
    }

    fn publish(&self) {
        metrics::gauge!(names::QUEUE_REQUESTS).set(self.requests.load(Ordering::Relaxed) as f64);
        metrics::gauge!(names::QUEUE_PAIRS).set(self.pairs.load(Ordering::Relaxed) as f64);
        metrics::gauge!(names::QUEUE_BYTES).set(self.bytes.load(Ordering::Relaxed) as f64);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.queue.requests.fetch_sub(1, Ordering::AcqRel);
        self.queue.pairs.fetch_sub(self.pairs, Ordering::AcqRel);
        self.queue.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.queue.publish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Arc<Queue> {
        Queue::new(QueueLimits {
            requests_max: 2,
            pairs_max: 10,
            bytes_max: 100,
        })
    }

    #[test]
    fn refuses_what_does_not_fit_and_names_the_limit() {
        let queue = queue();
        let _first = queue.take(8, 10).unwrap();
        let refusal = queue.take(3, 10).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Overloaded);
        assert!(refusal.message.contains("queue.pairs_max is 10"), "{}", refusal.message);
        assert!(
            queue
                .take(1, 91)
                .unwrap_err()
                .message
                .contains("queue.bytes_max is 100")
        );
        let _second = queue.take(2, 90).unwrap();
        assert!(
            queue
                .take(0, 0)
                .unwrap_err()
                .message
                .contains("queue.requests_max is 2")
        );
    }

    #[test]
    fn shares_are_given_back_whole() {
        let queue = queue();
        for _ in 0..100 {
            let share = queue.take(10, 100).unwrap();
            assert!(queue.take(1, 0).is_err());
            drop(share);
        }
        assert_eq!(
            (
                queue.requests(),
                queue.pairs.load(Ordering::Acquire),
                queue.bytes.load(Ordering::Acquire)
            ),
            (0, 0, 0)
        );
    }
}
