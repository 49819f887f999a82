//! Tokenizing: from texts to token pairs, on threads of its own, beside inference.
//!
//! The query is tokenized once a request; its documents are shared out in chunks over the threads, and whoever finishes
//! the last chunk passes the request on. No task waits for another, so no thread is held up and no stack grows.
//!
//! Waking a thread costs as much as tokenizing some kilobytes does where the tokenizer is fast: so a chunk is measured by bytes, and
//! a request that makes no more than a small one is not handed over at all.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::admit::Admitted;
use super::ticket::Ticket;
use crate::model::tokenizer::{PairLimits, PairTokenizer, PairTokens, QueryTokens, TokenizeError};
use crate::protocol::{Refusal, RefusalKind, RefusalScope, Request};
use crate::telemetry::traces::{RequestTrace, Stage};

/// Bytes of text that one task takes with the library's tokenizer: about a millisecond's work.
const CHUNK_BYTES: usize = 2 << 10;
/// And with the fast one.
const CHUNK_BYTES_FAST: usize = 32 << 10;
/// A request of so many bytes, all of it quick, is tokenized at once by the thread that took it from NATS: some 200
/// microseconds at most, for which nothing has to be woken.
const AT_ONCE_BYTES_MAX: usize = 16 << 10;
/// Bytes of a token, at most about: what a text has beyond so many times the longest pair is not looked at.
const TOKEN_BYTES: usize = 6;

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
    /// Where each task's documents end.
    chunks: Vec<usize>,
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

    /// Tokenizes a request: a small one at once, others in the background. Bounded by admission.
    pub fn submit(&self, admitted: Admitted) {
        let (tokenizer, next) = (self.tokenizer.clone(), self.next.clone());
        if is_small(&admitted.request, &tokenizer) {
            // As in the pool: a panic drops the ticket, which answers, and must not take this thread down.
            let small = AssertUnwindSafe(|| start(admitted, tokenizer, next));
            if catch_unwind(small).is_err() {
                tracing::error!("tokenizing panicked");
            }
        } else {
            self.pool.spawn_fifo(move || start(admitted, tokenizer, next));
        }
    }
}

fn is_small(request: &Request, tokenizer: &PairTokenizer) -> bool {
    let mut texts = std::iter::once(&request.query).chain(request.documents.iter().map(|document| &document.text));
    let bytes: usize = texts.clone().map(String::len).sum();
    bytes <= AT_ONCE_BYTES_MAX && texts.all(|text| tokenizer.is_quick(text))
}

/// Where each task's documents end.
fn chunks(request: &Request, tokenizer: &PairTokenizer) -> Vec<usize> {
    let bytes_max = if tokenizer.is_fast() {
        CHUNK_BYTES_FAST
    } else {
        CHUNK_BYTES
    };
    let text_max = tokenizer.length_max().saturating_mul(TOKEN_BYTES);
    let (mut ends, mut bytes) = (Vec::new(), 0);
    for (index, document) in request.documents.iter().enumerate() {
        bytes += document.text.len().min(text_max);
        if bytes >= bytes_max {
            ends.push(index + 1);
            bytes = 0;
        }
    }
    if ends.last().copied().unwrap_or_default() < request.documents.len() {
        ends.push(request.documents.len());
    }
    ends
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
    let waited = started_at - ticket.received_at();
    let chunks = chunks(&request, &tokenizer);
    if chunks.len() <= 1 {
        let all = 0..request.documents.len();
        return match tokenize(&tokenizer, &query, &request, all) {
            (pairs, None) => pass_on(ticket, request, pairs, waited, started_at, &*next),
            (_, Some((index, error))) => {
                let refused = refusal(&format!("documents[{index}]"), &error, ticket.trace());
                ticket.refuse(refused);
            }
        };
    }
    let count = chunks.len();
    let work = Arc::new(Work {
        waited,
        tokenizer,
        next,
        query,
        started_at,
        chunks,
        chunks_left: AtomicUsize::new(count),
        outcome: Mutex::new(Outcome {
            ticket: Some(ticket),
            pairs: (0..request.documents.len()).map(|_| None).collect(),
            refusal: None,
        }),
        request,
    });
    for chunk in 1..count {
        let work = work.clone();
        rayon::spawn_fifo(move || run_chunk(work, chunk));
    }
    run_chunk(work, 0);
}

/// The pairs of these documents, up to the first that fails, and how that failed.
fn tokenize(
    tokenizer: &PairTokenizer,
    query: &QueryTokens,
    request: &Request,
    documents: Range<usize>,
) -> (Vec<PairTokens>, Option<(usize, TokenizeError)>) {
    let mut pairs = Vec::with_capacity(documents.len());
    let limits = PairLimits {
        truncate: request.truncate,
        document_max: request.max_tokens_per_document,
        pair_max: request.max_tokens_per_pair,
    };
    for index in documents {
        match tokenizer.pair_within(query, &request.documents[index].text, limits) {
            Ok(pair) => pairs.push(pair),
            Err(error) => return (pairs, Some((index, error))),
        }
    }
    (pairs, None)
}

fn run_chunk(work: Arc<Work>, chunk: usize) {
    let start = chunk.checked_sub(1).map_or(0, |before| work.chunks[before]);
    // Tokenized outside the lock; the lock is held to store alone.
    let (pairs, failed) = tokenize(&work.tokenizer, &work.query, &work.request, start..work.chunks[chunk]);
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
    let (next, waited, started_at) = (work.next.clone(), work.waited, work.started_at);
    // The other tasks may still hold their reference for an instant after counting down: then the texts are copied.
    let request = Arc::try_unwrap(work).map_or_else(|work| work.request.clone(), |work| work.request);
    pass_on(ticket, request, pairs, waited, started_at, &*next);
}

fn pass_on(
    ticket: Ticket,
    request: Request,
    pairs: Vec<PairTokens>,
    waited: Duration,
    started_at: Instant,
    next: &(dyn Fn(Tokenized) + Send + Sync),
) {
    let now = Instant::now();
    if ticket.expired(now) {
        return ticket.refuse_expired("while tokenizing");
    }
    next(Tokenized {
        ticket,
        request,
        pairs,
        waited,
        tokenize: now - started_at,
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
                .with_scope(RefusalScope::Request)
        }
    }
}
