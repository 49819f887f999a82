//! The end of a worker that has left its queue group: what it took is finished within the grace, the rest is refused, and
//! all of it is sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::admit::Queue;
use super::error::WorkerError;
use super::gather::Gatherer;
use super::infer::EngineThread;
use super::state::State;
use super::status::Status;
use crate::protocol::{Refusal, RefusalKind};

/// How long the last answers may take on their way to the connection, and from there to the server, each.
const SEND_MAX: Duration = Duration::from_secs(5);
/// How often to look whether all is done.
const LOOK: Duration = Duration::from_millis(2);

/// What there is to end.
pub(super) struct Finish<Flush> {
    /// How long what was taken may still be computed.
    pub(super) grace: Duration,
    pub(super) status: Arc<Status>,
    pub(super) queue: Arc<Queue>,
    pub(super) gatherer: Arc<Gatherer>,
    pub(super) engine: EngineThread,
    /// Sends what the connection holds; begun after the last answer.
    pub(super) flush: Flush,
    /// Ends by itself when nobody can answer any more.
    pub(super) publisher: JoinHandle<()>,
    /// Refuses what expires.
    pub(super) deadlines: JoinHandle<()>,
}

impl<Flush: Future> Finish<Flush> {
    /// Ends it; `outcome` is that of serving.
    pub(super) async fn run(mut self, outcome: &Result<(), WorkerError>) {
        self.status.set_state(match outcome {
            Err(WorkerError::Engine(_)) => State::Failed,
            _ => State::Stopping,
        });
        let until = Instant::now() + self.grace;
        tracing::info!(
            requests = self.queue.requests(),
            "left the queue group: finishing what was taken"
        );
        // Without an engine nothing can be finished, and without a connection nothing can be sent.
        let finishes = !matches!(
            outcome,
            Err(WorkerError::Engine(_) | WorkerError::Rejected { .. } | WorkerError::Subscription(_))
        );
        while finishes && self.queue.requests() > 0 && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
        self.gatherer
            .close(Refusal::new(RefusalKind::Unavailable, "this worker is shutting down"));
        self.deadlines.abort();
        if tokio::time::timeout(SEND_MAX, &mut self.publisher).await.is_err() {
            tracing::error!("some answers could not be sent before the end");
            self.publisher.abort();
        }
        if tokio::time::timeout(SEND_MAX, self.flush).await.is_err() {
            tracing::error!("the last answers may not have left: NATS did not take them in time");
        }
        // The engine thread may be within a long batch whose callers have been refused: it is left behind, since the
        // process ends now.
        if outcome.is_ok() && until > Instant::now() {
            let engine = self.engine;
            let _ = tokio::task::spawn_blocking(move || engine.join()).await;
        }
    }
}
