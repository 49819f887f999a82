//! What a single call may want other than its reranker does.

use std::time::Duration;

use crate::protocol::TraceContext;

/// What a call wants other than the builder said; what is not set is as the builder said.
///
/// ```
/// use std::time::Duration;
/// use nats_rerank::client::RerankOptions;
///
/// let options = RerankOptions::default().budget(Duration::from_millis(80)).raw_scores(true);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RerankOptions {
    pub(super) budget: Option<Duration>,
    pub(super) raw_scores: Option<bool>,
    pub(super) truncate: Option<bool>,
    pub(super) model: Option<String>,
    pub(super) min_score: Option<f32>,
    pub(super) max_tokens_per_document: Option<usize>,
    pub(super) max_tokens_per_pair: Option<usize>,
    pub(super) trace_context: Option<TraceContext>,
}

impl RerankOptions {
    /// The time that the call may take in all. What is left of it when a request leaves is told to the worker.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = Some(budget);
        self
    }

    /// True: scores are the model's logits; false: the logits after the model's own activation.
    pub fn raw_scores(mut self, raw_scores: bool) -> Self {
        self.raw_scores = Some(raw_scores);
        self
    }

    /// False: a pair that is longer than the model's limit has the call refused, in place of being cut.
    pub fn truncate(mut self, truncate: bool) -> Self {
        self.truncate = Some(truncate);
        self
    }

    /// The model that has to answer, by its id or alias; workers of another refuse (`unknown_model`).
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Leaves out items with a lower score, as it is returned (see [`raw_scores`](Self::raw_scores)); a number that is not
    /// finite leaves out none. Items that have no score stay. [`Reranked::below_min_score`](super::Reranked::below_min_score)
    /// says how many were left out.
    pub fn min_score(mut self, min_score: f32) -> Self {
        self.min_score = min_score.is_finite().then_some(min_score);
        self
    }

    /// Cuts a document to its first so many tokens, at least 1, before it is paired with the query. Workers of before this
    /// option do not.
    pub fn max_tokens_per_document(mut self, tokens: usize) -> Self {
        self.max_tokens_per_document = Some(tokens.max(1));
        self
    }

    /// A limit for a pair in tokens, special tokens included, at least 1, below the model's own. Workers of before this
    /// option do not know it.
    pub fn max_tokens_per_pair(mut self, tokens: usize) -> Self {
        self.max_tokens_per_pair = Some(tokens.max(1));
        self
    }

    /// The caller's span, of which the workers' become children. Unless set, they stand alone.
    pub fn trace_context(mut self, trace_context: TraceContext) -> Self {
        self.trace_context = Some(trace_context);
        self
    }
}
