//! Tokenizing: from texts to token pairs, on threads of its own, beside inference.
//!
//! The query is tokenized once a request; its documents are shared out in chunks over the threads, and whoever finishes
//! the last chunk passes the request on. No task waits for another, so no thread is held up and no stack grows.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::admit::Admitted;
use super::ticket::Ticket;
use crate::model::tokenizer::{PairTokenizer, PairTokens, QueryTokens, TokenizeError};
use crate::protocol::{Refusal, RefusalKind, Request};
use crate::telemetry::traces::{RequestTrace, Stage};

/// Documents of one task. Small enough to share a request of 24 over some threads, large enough to be worth a task.
const CHUNK_DOCUMENTS: usize = 8;

/// A tokenized request.
#[derive(Debug)]
pub struct Tokenized {
    /// Its ticket.
    pub ticket: Ticket,
    /// The request (texts are kept for `return_documents`).
    pub request: Request,
    /// One for each document, in order.
    pub pairs: Vec<PairTokens>,
    /// How long it waited for a tokenizer thread.
    pub waited: Duration,
    /// How long tokenizing took.
    pub tokenize: Duration,
}

/// The tokenizer threads.
pub struct TokenizerPool {
    pool: rayon::ThreadPool,
    tokenizer: Arc<PairTokenizer>,
    next: Arc<dyn Fn(Tokenized) + Send + Sync>,
}

/// A request whose documents are being tokenized.
struct Work {
    tokenizer: Arc<PairTokenizer>,
    next: Arc<dyn Fn(Tokenized) + Send + Sync>,
    request: Request,
    query: QueryTokens,
    started_at: Instant,
    waited: Duration,
    chunks_left: AtomicUsize,
    outcome: Mutex<Outcome>,
}

struct Outcome {
    ticket: Option<Ticket>,
    pairs: Vec<Option<PairTokens>>,
    refusal: Option<Refusal>,
}

impl TokenizerPool {
    /// Starts `threads` threads (0: one for each core); `next` takes what is tokenized.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn new(
        tokenizer: Arc<PairTokenizer>,
        threads: usize,
        next: impl Fn(Tokenized) + Send + Sync + 'static,
    ) -> Result<TokenizerPool, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("tokenize-{index}"))
            // A panic must not take the process down: the ticket that was dropped by it has answered already.
            .panic_handler(|_| tracing::error!("a tokenizer task panicked"))
            .build()?;
        Ok(TokenizerPool {
            pool,
            tokenizer,
            next: Arc::new(next),
        })
    }

    /// Tokenizes a request in the background. Bounded by admission.
    pub fn submit(&self, admitted: Admitted) {
        let (tokenizer, next) = (self.tokenizer.clone(), self.next.clone());
        self.pool.spawn_fifo(move || start(admitted, tokenizer, next));
    }
}

fn start(admitted: Admitted, tokenizer: Arc<PairTokenizer>, next: Arc<dyn Fn(Tokenized) + Send + Sync>) {
    let Admitted { mut ticket, request } = admitted;
    let started_at = Instant::now();
    if ticket.expired(started_at) {
        return ticket.refuse_expired("before tokenizing");
    }
    ticket.begin_stage(Stage::Tokenize);
    let query = match tokenizer.query(&request.query) {
        Ok(query) => query,
        Err(error) => {
            let refused = refusal("query", &error, ticket.trace());
            return ticket.refuse(refused);
        }
    };
    let documents = request.documents.len();
    let chunks = documents.div_ceil(CHUNK_DOCUMENTS).max(1);
    let work = Arc::new(Work {
        waited: started_at - ticket.received_at(),
        tokenizer,
        next,
        request,
        query,
        started_at,
        chunks_left: AtomicUsize::new(chunks),
        outcome: Mutex::new(Outcome {
            ticket: Some(ticket),
            pairs: (0..documents).map(|_| None).collect(),
            refusal: None,
        }),
    });
    for chunk in 1..chunks {
        let work = work.clone();
        rayon::spawn_fifo(move || run_chunk(work, chunk));
    }
    run_chunk(work, 0);
}

fn run_chunk(work: Arc<Work>, chunk: usize) {
    let start = chunk * CHUNK_DOCUMENTS;
    let documents = &work.request.documents;
    let end = (start + CHUNK_DOCUMENTS).min(documents.len());
    // Tokenized outside the lock; the lock is held to store alone.
    let mut pairs = Vec::with_capacity(end - start);
    let mut failed = None;
    for (index, document) in documents.iter().enumerate().take(end).skip(start) {
        match work.tokenizer.pair(&work.query, &document.text, work.request.truncate) {
            Ok(pair) => pairs.push(pair),
            Err(error) => {
                failed = Some((index, error));
                break;
            }
        }
    }
    {
        let mut outcome = work.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        for (slot, pair) in outcome.pairs[start..].iter_mut().zip(pairs) {
            *slot = Some(pair);
        }
        if outcome.refusal.is_none()
            && let (Some((index, error)), Some(ticket)) = (failed, &outcome.ticket)
        {
            let refused = refusal(&format!("documents[{index}]"), &error, ticket.trace());
            outcome.refusal = Some(refused);
        }
    }
    if work.chunks_left.fetch_sub(1, Ordering::AcqRel) == 1 {
        finish(work);
    }
}

/// Run by whoever finished the last chunk.
fn finish(work: Arc<Work>) {
    let tokenize = work.started_at.elapsed();
    let (ticket, pairs, refused) = {
        let mut outcome = work.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        (
            outcome.ticket.take(),
            std::mem::take(&mut outcome.pairs),
            outcome.refusal.take(),
        )
    };
    let Some(ticket) = ticket else { return };
    if let Some(refused) = refused {
        return ticket.refuse(refused);
    }
    // A missing pair without a refusal means that a task panicked; the dropped ticket answers `internal`.
    let Some(pairs) = pairs.into_iter().collect::<Option<Vec<_>>>() else {
        return;
    };
    if ticket.expired(Instant::now()) {
        return ticket.refuse_expired("while tokenizing");
    }
    let next = work.next.clone();
    let waited = work.waited;
    // The other tasks may still hold their reference for an instant after counting down: then the texts are copied.
    let request = Arc::try_unwrap(work).map_or_else(|work| work.request.clone(), |work| work.request);
    next(Tokenized {
        ticket,
        request,
        pairs,
        waited,
        tokenize,
    });
}

fn refusal(field: &str, error: &TokenizeError, trace: &RequestTrace) -> Refusal {
    match error {
        TokenizeError::TooLong { tokens, tokens_max } => Refusal::new(
            RefusalKind::InvalidRequest,
            format!("`{field}` makes a pair of {tokens} tokens; the model takes {tokens_max} and `truncate` is false"),
        ),
        TokenizeError::Failed(_) => {
            tracing::error!(parent: trace.span(), trace_id = trace.trace_id(), field, "tokenizing failed");
            Refusal::new(RefusalKind::Internal, format!("`{field}` could not be tokenized"))
        }
    }
}
