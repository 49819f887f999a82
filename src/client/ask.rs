//! How a call becomes requests: split where it has to be or ought to be, each asked again where that may help, and what
//! comes back put together.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{Either, join_all, select};
use tokio::time::Instant;

use super::caller::Ask;
use super::gather::{Scored, gather, whole};
use super::hedge::Hedge;
use super::record::{self, RequestKind};
use super::scatter::{self, Bounds, Split};
use super::size_class::{SIZE_CLASSES, pair_bytes, size_class};
use super::{Answer, CallError, Caller};
use crate::protocol::{Document, Encoding, RefusalKind, RefusalScope, Request, TraceContext};

/// Bytes of a message that are left to its headers (a trace's state may have 512) and to what stands round the texts,
/// generously.
const OVERHEAD_BYTES: usize = 2048;

/// How a reranker asks.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) caller: Caller,
    pub(super) subject: String,
    pub(super) encoding: Encoding,
    /// How often a part is asked again after a refusal.
    pub(super) retries_max: u32,
    pub(super) split_pairs: Option<usize>,
    pub(super) parts_max: usize,
    /// For each size of requests: large ones take longer by themselves.
    pub(super) hedge: Option<Mutex<[Hedge; SIZE_CLASSES]>>,
}

impl Asker {
    /// Asks for a ranking until `deadline`.
    pub(super) async fn ask(
        &self,
        mut request: Request,
        trace_context: Option<&TraceContext>,
        deadline: Instant,
    ) -> Scored {
        let split = self.split(&request);
        if let ([part], true, true) = (&*split.parts, split.too_large.is_empty(), split.left_over.is_empty()) {
            debug_assert_eq!(part.len(), request.documents.len());
            return match self.part(&request, trace_context, deadline).await {
                Ok(answer) => whole(answer, request.min_score),
                Err(error) => Scored::nothing(request.documents.len(), error.into()),
            };
        }
        let mut documents: Vec<Option<Document>> =
            std::mem::take(&mut request.documents).into_iter().map(Some).collect();
        let part_of = |indices: &Vec<usize>| Request {
            documents: indices.iter().filter_map(|&index| documents[index].take()).collect(),
            // Merging needs logits: scores that an activation has saturated are all alike.
            raw_scores: true,
            // It is meant for scores.
            min_score: None,
            ..request.clone()
        };
        let parts: Vec<Request> = split.parts.iter().map(part_of).collect();
        let answers = join_all(parts.iter().map(|part| self.part(part, trace_context, deadline))).await;
        gather(split, answers, request.raw_scores, request.top_k, request.min_score)
    }

    fn split(&self, request: &Request) -> Split {
        let model = request.model.as_deref().unwrap_or_default();
        let texts = encoded_bytes(self.encoding, &request.query) + encoded_bytes(self.encoding, model);
        let bytes: Vec<usize> = request
            .documents
            .iter()
            .map(|document| encoded_bytes(self.encoding, &document.text))
            .collect();
        let bounds = Bounds {
            bytes_max: self.caller.max_payload().saturating_sub(texts + OVERHEAD_BYTES),
            split_pairs: self.split_pairs,
            parts_max: self.parts_max,
        };
        scatter::split(&bytes, bounds)
    }

    /// Asks for one part; a second time, side by side, if it is late and that is wanted.
    async fn part(
        &self,
        request: &Request,
        trace_context: Option<&TraceContext>,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let body: bytes::Bytes = request.encode(self.encoding).into();
        let ask = |kind| {
            record::request_sent(kind);
            let body = body.clone();
            self.caller.ask(Ask {
                request,
                body,
                subject: &self.subject,
                encoding: self.encoding,
                trace_context,
                deadline,
            })
        };
        let Some(hedge) = &self.hedge else {
            return self.persist(ask, deadline).await;
        };
        let started = Instant::now();
        let texts = request.documents.iter().map(|document| &*document.text);
        let size_class = size_class(pair_bytes(&request.query, texts));
        let delay = lock(hedge)[size_class].begin();
        let mut first = pin!(self.persist(ask, deadline));
        let in_good_time = match delay {
            Some(delay) if started + delay < deadline => tokio::time::timeout(delay, &mut first).await.ok(),
            _ => Some((&mut first).await),
        };
        let answer = match in_good_time {
            Some(answer) => answer,
            None if !lock(hedge)[size_class].take() => first.await,
            None => match select(first, pin!(ask(RequestKind::Hedge))).await {
                Either::Left((Err(error), second)) => second.await.map_err(|_| error),
                Either::Right((Err(_), first)) => first.await,
                Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
            },
        };
        if answer.is_ok() {
            lock(hedge)[size_class].learn(started.elapsed());
        }
        answer
    }

    /// Asks, and again after a refusal that another worker, or the same one a moment later, may not repeat.
    async fn persist<F>(&self, ask: impl Fn(RequestKind) -> F, deadline: Instant) -> Result<Answer, CallError>
    where
        F: Future<Output = Result<Answer, CallError>>,
    {
        let mut answer = ask(RequestKind::First).await;
        for _ in 0..self.retries_max {
            match &answer {
                Err(CallError::Refused { refusal, .. })
                    if refusal.scope == RefusalScope::Worker
                        && matches!(refusal.kind, RefusalKind::Overloaded | RefusalKind::Unavailable)
                        && Instant::now() < deadline => {}
                _ => break,
            }
            answer = ask(RequestKind::Retry).await;
        }
        answer
    }
}

/// Bytes of a text in a list of candidates.
fn encoded_bytes(encoding: Encoding, text: &str) -> usize {
    match encoding {
        Encoding::MsgPack => 5 + text.len(),
        Encoding::Json => {
            let escaped = text.bytes().map(|byte| match byte {
                b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
                0..0x20 => 6,
                _ => 1,
            });
            3 + escaped.sum::<usize>()
        }
    }
}

fn lock(hedge: &Mutex<[Hedge; SIZE_CLASSES]>) -> MutexGuard<'_, [Hedge; SIZE_CLASSES]> {
    // Its steps do not panic half-way.
    hedge.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A message is never larger than it was taken for: half of the overhead is left to its headers.
        #[test]
        fn texts_take_no_more_than_was_reckoned(
            query in any::<String>(),
            model in any::<String>(),
            texts in prop::collection::vec(any::<String>(), 0..20),
        ) {
            for encoding in [Encoding::Json, Encoding::MsgPack] {
                let request = Request {
                    top_k: Some(usize::MAX),
                    raw_scores: true,
                    truncate: false,
                    model: Some(model.clone()),
                    min_score: Some(f32::MIN),
                    max_tokens_per_document: Some(usize::MAX),
                    max_tokens_per_pair: Some(usize::MAX),
                    ..Request::new(query.clone(), texts.iter().map(String::as_str))
                };
                let all = texts.iter().chain([&query, &model]);
                let reckoned: usize = all.map(|text| encoded_bytes(encoding, text)).sum();
                let body = request.encode(encoding).len();
                prop_assert!(body <= reckoned + OVERHEAD_BYTES / 2, "{body} > {reckoned}");
            }
        }
    }
}
