//! What goes through the model: pairs of many requests on the way there, requests with their logits on the way back.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::JobId;
use super::ticket::Ticket;
use crate::model::tokenizer::PairTokens;
use crate::protocol::Request;
use crate::telemetry::traces::BatchTrace;

/// A request with the logits of all its pairs.
#[derive(Debug)]
pub struct Scored {
    /// Its ticket.
    pub ticket: Ticket,
    /// The request.
    pub request: Request,
    /// One for each document, in order; finite.
    pub logits: Vec<f32>,
    /// What it cost.
    pub cost: Cost,
}

/// What a request took, for its reply.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Tokens of all pairs.
    pub tokens: u64,
    /// Pairs that were cut.
    pub truncated: u64,
    /// Pairs whose score was known.
    pub cached: u64,
    /// Waiting, for a tokenizer thread and for the device.
    pub queue: Duration,
    /// Tokenizing.
    pub tokenize: Duration,
    /// From the start of its first batch to the end of its last.
    pub infer: Duration,
}

/// Pairs for one forward pass.
#[derive(Debug)]
pub struct Batch {
    pub(super) parts: Vec<Part>,
    /// Tokens of all pairs.
    pub tokens: usize,
    /// Its span, linked with those of its requests.
    pub trace: BatchTrace,
    pub(super) started_at: Instant,
}

/// The pairs of one request in a batch.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) job: JobId,
    pub(super) range: Range<usize>,
    pub(super) tokens: usize,
    pub(super) pairs: Arc<[PairTokens]>,
}

/// What a batch has come to.
#[derive(Debug, Default)]
pub struct Finished {
    /// The requests that are complete.
    pub scored: Vec<Scored>,
    /// Time of the device that went to pairs of requests which had ended meanwhile.
    pub wasted: Duration,
}

impl Batch {
    /// Of nothing yet.
    pub(super) fn empty(now: Instant) -> Batch {
        Batch {
            parts: Vec::new(),
            tokens: 0,
            trace: BatchTrace::none(),
            started_at: now,
        }
    }

    /// Whether there is nothing to compute: a heart-beat is due.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The pairs, in the order in which [`finish`](super::gather::Gatherer::finish) expects their logits.
    pub fn pairs(&self) -> Vec<&PairTokens> {
        self.parts
            .iter()
            .flat_map(|part| &part.pairs[part.range.clone()])
            .collect()
    }
}
