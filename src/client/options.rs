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

    /// The caller's span, of which the workers' become children. Unless set, they stand alone.
    pub fn trace_context(mut self, trace_context: TraceContext) -> Self {
        self.trace_context = Some(trace_context);
        self
    }
}
