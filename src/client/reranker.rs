//! The call.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ask::Asker;
use super::breaker::{CircuitState, Verdict};
use super::circuit::Circuit;
use super::enabled::Enabled;
use super::gather::Scored;
use super::record;
use super::size_class::{pair_bytes, size_class};
use super::{AnnReason, Caller, Order, Partial, Ranked, RerankOptions, Reranked, RerankerBuilder, Text};
use crate::protocol::headers::BUDGET_MAX;
use crate::protocol::{Document, RefusalScope, Request};
use crate::telemetry::caller_names;

/// A refusal that took no longer, nor a tenth of the budget, cost nothing that a circuit could save.
const QUICK_MAX: Duration = Duration::from_millis(100);

/// Reranks candidates, and cannot fail: whatever happens, a call ends within its budget, with the caller's own items in
/// the model's order or else in the order that they came in, and says which. Cheap to clone; clones share the
/// connection.
///
/// ```
/// use std::time::Duration;
/// use nats_rerank::client::{AnnReason, Order, Reranker};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), nats_rerank::client::BuildError> {
/// // Nothing listens on this port: the program starts all the same, and its calls come back at once.
/// let reranker = Reranker::builder()
///     .url("nats://127.0.0.1:9")
///     .budget(Duration::from_millis(150))
///     .connect_lazy()
///     .await?;
///
/// let candidates = vec!["Pizza recipes for beginners", "ML algorithms and optimization"];
/// let reranked = reranker.rerank("machine learning algorithms", candidates, 10).await;
///
/// assert_eq!(reranked.order, Order::Ann(AnnReason::Disconnected));
/// for ranked in &reranked.items {
///     println!("{:>2} {:?} {}", ranked.index, ranked.score, ranked.item);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Reranker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    asker: Asker,
    enabled: Enabled,
    circuit: Circuit,
    defaults: Defaults,
}

/// What holds for every call that says nothing else.
#[derive(Debug)]
pub(super) struct Defaults {
    pub(super) budget: Duration,
    pub(super) raw_scores: bool,
    pub(super) truncate: bool,
    pub(super) model: Option<String>,
}

impl Reranker {
    /// Settings to make one with.
    pub fn builder() -> RerankerBuilder {
        RerankerBuilder::default()
    }

    pub(super) fn new(asker: Asker, enabled: Enabled, circuit: Circuit, defaults: Defaults) -> Reranker {
        caller_names::describe();
        Reranker {
            shared: Arc::new(Shared {
                asker,
                enabled,
                circuit,
                defaults,
            }),
        }
    }

    /// The state of the circuit breaker.
    pub fn circuit(&self) -> CircuitState {
        self.shared.circuit.state()
    }

    /// Whether reranking is switched on at present.
    pub fn is_enabled(&self) -> bool {
        self.shared.enabled.is_on()
    }

    /// Whether there is a connection to NATS at present.
    pub fn is_connected(&self) -> bool {
        self.shared.asker.caller.is_connected()
    }

    /// Whether the NATS server has refused the credentials for so long that waiting is no use (see [`Caller::is_refused`]).
    ///
    /// [`Caller::is_refused`]: super::Caller::is_refused
    pub fn is_refused(&self) -> bool {
        self.shared.asker.caller.is_refused()
    }

    /// Over what, and on which subject it asks.
    pub(super) fn asks(&self) -> (&Caller, &str) {
        (&self.shared.asker.caller, &self.shared.asker.subject)
    }

    /// Puts `documents` (in ANN order) into the order of how well they answer `query`, and keeps the best `top_k` of
    /// them (`10`, or `None` for all).
    ///
    /// Takes the builder's budget at most. A dropped call leaves nothing behind.
    pub async fn rerank<T: Text>(
        &self,
        query: &str,
        documents: impl IntoIterator<Item = T>,
        top_k: impl Into<Option<usize>>,
    ) -> Reranked<T> {
        self.rerank_with(query, documents, T::text, top_k, &RerankOptions::default())
            .await
    }

    /// [`Reranker::rerank`] for items of any type: `text` finds an item's text.
    ///
    /// ```
    /// # use nats_rerank::client::Reranker;
    /// struct Hit {
    ///     url: String,
    ///     passage: String,
    /// }
    ///
    /// async fn best_three(reranker: &Reranker, query: &str, hits: Vec<Hit>) -> Vec<Hit> {
    ///     reranker.rerank_by(query, hits, |hit| &hit.passage, 3).await.into_items()
    /// }
    /// ```
    pub async fn rerank_by<T>(
        &self,
        query: &str,
        items: impl IntoIterator<Item = T>,
        text: impl Fn(&T) -> &str,
        top_k: impl Into<Option<usize>>,
    ) -> Reranked<T> {
        self.rerank_with(query, items, text, top_k, &RerankOptions::default())
            .await
    }

    /// [`Reranker::rerank_by`] with options for this call alone.
    pub async fn rerank_with<T>(
        &self,
        query: &str,
        items: impl IntoIterator<Item = T>,
        text: impl Fn(&T) -> &str,
        top_k: impl Into<Option<usize>>,
        options: &RerankOptions,
    ) -> Reranked<T> {
        let started = Instant::now();
        let (top_k, items) = (top_k.into(), items.into_iter().collect::<Vec<T>>());
        let budget = options.budget.unwrap_or(self.shared.defaults.budget).min(BUDGET_MAX);
        let nothing_to_do = items.is_empty() || top_k == Some(0);
        let passage = match self.obstacle(budget) {
            Some(reason) => Err(reason.into()),
            None if nothing_to_do => Ok(None),
            None => {
                let size_class = size_class(pair_bytes(query, items.iter().map(&text)));
                self.shared.circuit.enter(size_class).map(Some)
            }
        };
        let (reranked, skipped) = match passage {
            Err(missing) => (Reranked::ann(items, top_k, missing, started.elapsed()), true),
            Ok(None) => (arrange(items, Scored::default(), top_k, started), false),
            Ok(Some(passage)) => {
                // The closure ends here: it need not be `Send` for the call to be.
                let request = self.request(query, documents(&items, text), top_k, options);
                let trace_context = options.trace_context.as_ref();
                let scored = self.shared.asker.ask(request, trace_context, started + budget).await;
                let missing = scored.unscored.as_ref().map(|(_, missing)| missing.reason);
                passage.end(self.verdict(&scored, items.len(), budget, started.elapsed()), missing);
                (arrange(items, scored, top_k, started), false)
            }
        };
        record::call_ended(&reranked, skipped);
        reranked
    }

    /// What there is to say without asking anybody. Comes before any work.
    fn obstacle(&self, budget: Duration) -> Option<AnnReason> {
        if !self.is_enabled() {
            Some(AnnReason::SwitchedOff)
        } else if !self.is_connected() {
            Some(AnnReason::Disconnected)
        } else if budget.is_zero() {
            Some(AnnReason::TimedOut)
        } else {
            None
        }
    }

    fn request(&self, query: &str, documents: Vec<Document>, top_k: Option<usize>, options: &RerankOptions) -> Request {
        let defaults = &self.shared.defaults;
        Request {
            query: query.to_owned(),
            documents,
            top_k,
            raw_scores: options.raw_scores.unwrap_or(defaults.raw_scores),
            return_documents: false,
            truncate: options.truncate.unwrap_or(defaults.truncate),
            timeout_ms: None,
            model: options.model.clone().or_else(|| defaults.model.clone()),
            min_score: options.min_score,
            max_tokens_per_document: options.max_tokens_per_document,
            max_tokens_per_pair: options.max_tokens_per_pair,
        }
    }

    /// What the outcome says about the fleet.
    fn verdict(&self, scored: &Scored, candidates: usize, budget: Duration, elapsed: Duration) -> Verdict {
        let Some((_, missing)) = scored
            .unscored
            .as_ref()
            .filter(|(unscored, _)| unscored.len() * 2 >= candidates)
        else {
            return Verdict::Good;
        };
        // An idle worker would have refused it as well.
        if missing.scope == Some(RefusalScope::Request) {
            return Verdict::Mute;
        }
        match missing.reason {
            // A connection of its own.
            AnnReason::Disconnected | AnnReason::CircuitOpen | AnnReason::SwitchedOff => Verdict::Mute,
            // What cost no time, a circuit cannot save.
            AnnReason::Refused(_) | AnnReason::NoResponders if elapsed <= (budget / 10).min(QUICK_MAX) => Verdict::Mute,
            _ if budget * 2 < self.shared.defaults.budget => Verdict::Mute,
            _ => Verdict::Bad,
        }
    }
}

fn documents<T>(items: &[T], text: impl Fn(&T) -> &str) -> Vec<Document> {
    items.iter().map(|item| Document::from(text(item))).collect()
}

/// The items in the order of their scores, those without one behind.
fn arrange<T>(items: Vec<T>, scored: Scored, top_k: Option<usize>, started: Instant) -> Reranked<T> {
    let (unscored, detail, partial) = match scored.unscored {
        None => (Vec::new(), None, None),
        Some((_, missing)) if scored.rankings.is_empty() && scored.below_min_score == 0 => {
            return Reranked::ann(items, top_k, missing, started.elapsed());
        }
        Some((indices, missing)) => {
            let partial = Partial {
                unscored: indices.len(),
                reason: missing.reason,
            };
            (indices, missing.detail, Some(partial))
        }
    };
    let scores = scored.rankings.into_iter().map(|(index, score)| (index, Some(score)));
    let places = scores.chain(unscored.into_iter().map(|index| (index, None)));
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    let ranked = places.take(top_k.unwrap_or(usize::MAX)).filter_map(|(index, score)| {
        // Replies are checked: every index is that of an item, and comes once.
        let item = items.get_mut(index).and_then(Option::take)?;
        Some(Ranked { item, index, score })
    });
    Reranked {
        items: ranked.collect(),
        order: Order::Model,
        partial,
        below_min_score: scored.below_min_score,
        activation: scored.activation,
        model: scored.model,
        workers: scored.workers,
        usage: scored.usage,
        detail,
        elapsed: started.elapsed(),
    }
}
