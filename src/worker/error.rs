//! Why a worker could not start, or ended by itself.

use crate::model::ModelError;
use crate::nats;

/// Why a worker could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No model: no subscription was made.
    #[error("no model could be loaded: {0}")]
    Model(#[from] ModelError),
    /// No connection.
    #[error(transparent)]
    Connect(#[from] nats::ConnectError),
    /// The subscription failed or ended.
    #[error("{0}")]
    Subscription(String),
    /// The NATS server does not let this worker listen, from the start or since its permissions changed.
    #[error(
        "the NATS server does not let this worker subscribe to `{subject}` in queue group `{queue_group}`: grant its \
         user `subscribe` on \"{subject} {queue_group}\", or set `nats.subject` and `nats.queue_group` to what it may use"
    )]
    Forbidden {
        /// The subject.
        subject: String,
        /// The queue group.
        queue_group: String,
    },
    /// The NATS server has closed the connection, and has refused the credentials ever since.
    #[error(
        "the NATS server no longer accepts this worker's credentials (refused {refusals} times in a row): check \
         `nats.credentials_file`, `nats.nkey_seed_file`, `nats.user` with `nats.password`, or `nats.token`"
    )]
    Rejected {
        /// How often in a row.
        refusals: u32,
    },
    /// The engine died; the supervisor should start a new process.
    #[error("the engine has failed: {0}")]
    Engine(String),
    /// The system gave no threads.
    #[error("cannot start a thread: {0}")]
    Threads(String),
    /// The system gave no random numbers, which the cache of scores needs.
    #[error("the system gives no random numbers, and the cache of scores needs some: set `cache.scores_max` to 0")]
    Random,
    /// The thread that serves NATS is gone: a bug.
    #[error("the thread that serves NATS has panicked")]
    Panicked,
}
