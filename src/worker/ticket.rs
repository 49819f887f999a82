//! The ticket: a caller's right to exactly one answer.
//!
//! Every request that can be answered carries one through the pipeline. The only ways to be rid of it are
//! [`Ticket::answer`] and [`Ticket::refuse`]; dropped without (a bug, a panic), it answers `internal` by itself and
//! counts `rerank_tickets_dropped_total`. A ticket holds its place in the outbox from the start, so answering
//! neither waits nor fails, and the outbox is bounded by what was let in.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{OwnedPermit, Receiver, Sender, channel};

use crate::protocol::{Encoding, Refusal, RefusalKind, RefusalScope, Reply};
use crate::telemetry::names;
use crate::telemetry::traces::{RequestTrace, Stage};
use crate::worker::admit::Share;

/// What goes back to a caller.
#[derive(Debug)]
pub enum Answer {
    /// Rankings.
    Scored(Reply),
    /// A reason.
    Refused(Refusal),
}

/// An answer on its way to the publisher.
#[derive(Debug)]
pub struct Outgoing {
    /// The caller's inbox.
    pub reply_to: String,
    /// The encoding the caller spoke.
    pub encoding: Encoding,
    /// What to say.
    pub answer: Answer,
    /// When the request was taken from the subscription.
    pub received_at: Instant,
    /// After this, scores are of no use to the caller.
    pub deadline: Instant,
    /// The request's share of the queue, given back once the answer has left.
    pub share: Option<Share>,
    /// Time of the device that was spent on it.
    pub device_time: Duration,
    /// The request's span, ended once the answer has left.
    pub trace: RequestTrace,
}

/// The sending side of the bounded way to the publisher. Clones share one bound.
#[derive(Clone, Debug)]
pub struct Outbox(Sender<Outgoing>);

impl Outbox {
    /// An outbox for `capacity` unanswered requests, and its receiving side.
    pub fn new(capacity: usize) -> (Outbox, Receiver<Outgoing>) {
        let (sender, receiver) = channel(capacity);
        (Outbox(sender), receiver)
    }

    /// Waits for a place. `None`: the publisher is gone, nothing can be answered any more.
    pub async fn place(&self) -> Option<Place> {
        self.0.clone().reserve_owned().await.ok().map(Place)
    }
}

/// A place in the outbox, for one answer.
#[derive(Debug)]
pub struct Place(OwnedPermit<Outgoing>);

/// See the module.
#[derive(Debug)]
pub struct Ticket {
    /// `None` once answered.
    open: Option<(Place, Outgoing)>,
}

impl Ticket {
    /// A ticket for a request that was just received. Its deadline is a first guess until the request is decoded.
    pub fn new(place: Place, reply_to: String, encoding: Encoding, received_at: Instant, budget: Duration) -> Ticket {
        let answer = Answer::Refused(Refusal::new(
            RefusalKind::Internal,
            "the request was lost inside the worker",
        ));
        let deadline = received_at + budget;
        Ticket {
            open: Some((
                place,
                Outgoing {
                    reply_to,
                    encoding,
                    answer,
                    received_at,
                    deadline,
                    share: None,
                    device_time: Duration::ZERO,
                    trace: RequestTrace::default(),
                },
            )),
        }
    }

    fn outgoing(&self) -> &Outgoing {
        // Proof: `open` is emptied only by methods that consume the ticket.
        &self.open.as_ref().expect("an open ticket").1
    }

    fn outgoing_mut(&mut self) -> &mut Outgoing {
        // Proof: as above.
        &mut self.open.as_mut().expect("an open ticket").1
    }

    /// When the request was taken from the subscription.
    pub fn received_at(&self) -> Instant {
        self.outgoing().received_at
    }

    /// When the caller stops waiting.
    pub fn deadline(&self) -> Instant {
        self.outgoing().deadline
    }

    /// Whether the caller has stopped waiting.
    pub fn expired(&self, now: Instant) -> bool {
        now >= self.deadline()
    }

    /// Sets the caller's budget, counted from receipt.
    pub fn set_budget(&mut self, budget: Duration) {
        let outgoing = self.outgoing_mut();
        outgoing.deadline = outgoing.received_at + budget;
        outgoing.trace.set_budget(budget);
    }

    /// Sets the encoding of the answer.
    pub fn set_encoding(&mut self, encoding: Encoding) {
        self.outgoing_mut().encoding = encoding;
    }

    /// Attaches the request's share of the queue: given back when the answer has left, however it ends.
    pub fn set_share(&mut self, share: Share) {
        self.outgoing_mut().share = Some(share);
    }

    /// Sets how many of its tokens the device has yet to take.
    pub fn set_tokens_left(&self, tokens: usize) {
        if let Some(share) = &self.outgoing().share {
            share.set_tokens_left(tokens);
        }
    }

    /// The device has begun with this many of its tokens.
    pub fn tokens_taken(&self, tokens: usize) {
        if let Some(share) = &self.outgoing().share {
            share.tokens_taken(tokens);
        }
    }

    /// The device has spent this on it.
    pub fn add_device_time(&mut self, spent: Duration) {
        self.outgoing_mut().device_time += spent;
    }

    /// Attaches the request's span.
    pub fn set_trace(&mut self, trace: RequestTrace) {
        self.outgoing_mut().trace = trace;
    }

    /// The request's span.
    pub fn trace(&self) -> &RequestTrace {
        &self.outgoing().trace
    }

    /// What the request is at from now on, for its span.
    pub fn begin_stage(&mut self, stage: Stage) {
        self.outgoing_mut().trace.stage(stage);
    }

    /// Answers with rankings.
    pub fn answer(self, reply: Reply) {
        self.close(Answer::Scored(reply));
    }

    /// Answers with a reason.
    pub fn refuse(self, refusal: Refusal) {
        self.close(Answer::Refused(refusal));
    }

    /// Answers that the budget ran out; `where_at` names the stage.
    pub fn refuse_expired(self, where_at: &str) {
        let scope = self.scope();
        self.refuse_expired_of(where_at, scope);
    }

    /// The same for a request that has no share of the queue, by which the scope is known otherwise.
    pub fn refuse_expired_of(self, where_at: &str, scope: RefusalScope) {
        let budget = self.deadline() - self.received_at();
        let why = format!("the budget of {} ms ran out {where_at}", budget.as_millis());
        self.refuse(Refusal::new(RefusalKind::DeadlineExceeded, why).with_scope(scope));
    }

    /// Whom a refusal for want of time says something about.
    fn scope(&self) -> RefusalScope {
        let Outgoing {
            share,
            received_at,
            deadline,
            ..
        } = self.outgoing();
        share
            .as_ref()
            .map_or(RefusalScope::Worker, |share| share.scope(*deadline - *received_at))
    }

    /// Answers that this worker cannot have the scores ready within what is left of the budget. Not expired: another worker
    /// may do it.
    pub fn refuse_hopeless(self) {
        let (budget, left) = (
            self.deadline() - self.received_at(),
            self.deadline().saturating_duration_since(Instant::now()),
        );
        let scope = self.scope();
        let why = format!(
            "the scores would not be ready within the {} ms that are left of the budget of {} ms",
            left.as_millis(),
            budget.as_millis()
        );
        self.refuse(Refusal::new(RefusalKind::Overloaded, why).with_scope(scope));
    }

    fn close(mut self, answer: Answer) {
        if let Some((place, mut outgoing)) = self.open.take() {
            outgoing.answer = answer;
            outgoing.trace.end_stage();
            place.0.send(outgoing);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some((place, mut outgoing)) = self.open.take() {
            metrics::counter!(names::TICKETS_DROPPED_TOTAL).increment(1);
            outgoing.trace.end_stage();
            let trace_id = outgoing.trace.trace_id();
            tracing::error!(parent: outgoing.trace.span(), trace_id, "a request was dropped unanswered inside the worker: answering `internal`");
            place.0.send(outgoing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ticket(outbox: &Outbox) -> Ticket {
        let place = outbox.place().await.unwrap();
        Ticket::new(
            place,
            "inbox".to_owned(),
            Encoding::Json,
            Instant::now(),
            Duration::from_secs(1),
        )
    }

    #[tokio::test]
    async fn a_refusal_is_sent_once() {
        let (outbox, mut receiver) = Outbox::new(2);
        ticket(&outbox)
            .await
            .refuse(Refusal::new(RefusalKind::Overloaded, "full"));
        let sent = receiver.recv().await.unwrap();
        assert!(matches!(sent.answer, Answer::Refused(refusal) if refusal.kind == RefusalKind::Overloaded));
        assert!(receiver.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_dropped_ticket_answers_internal_by_itself() {
        let (outbox, mut receiver) = Outbox::new(2);
        drop(ticket(&outbox).await);
        let sent = receiver.recv().await.unwrap();
        assert!(matches!(sent.answer, Answer::Refused(refusal) if refusal.kind == RefusalKind::Internal));
        assert!(receiver.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_panic_with_a_ticket_in_hand_still_answers() {
        let (outbox, mut receiver) = Outbox::new(2);
        let held = ticket(&outbox).await;
        let thread = std::thread::spawn(move || {
            let _held = held;
            panic!("scripted");
        });
        assert!(thread.join().is_err());
        assert!(matches!(receiver.recv().await.unwrap().answer, Answer::Refused(_)));
    }

    #[tokio::test]
    async fn the_outbox_is_bounded_by_open_tickets() {
        let (outbox, _receiver) = Outbox::new(1);
        let _held = ticket(&outbox).await;
        let second = tokio::time::timeout(Duration::from_millis(20), outbox.place()).await;
        assert!(second.is_err(), "a second place while one ticket is open");
    }
}
