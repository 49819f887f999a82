//! Spans: one a request, one for each stage it stands in, one a batch. None holds a text of a request.
//!
//! They are made at level `debug` under the target [`TARGET`], so that the usual log neither shows nor pays for them: a
//! request without spans carries a null pointer. What collects them is the log at that level, or the OTLP exporter
//! (feature `otlp`), whatever the log's level. docs/tracing.md tells what they hold.

use std::time::Duration;

use tracing::field::{DisplayValue, Empty, display};
use tracing::{Level, Span};

use crate::protocol::{RefusalKind, TraceContext};

/// The target of every span, and of the lines that report a request's receipt and its end.
pub const TARGET: &str = "nats_rerank::traces";

/// What a request is at; the words of `timings_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waits, for a tokenizer thread or for the device.
    Queue,
    /// Is being tokenized.
    Tokenize,
    /// Is being computed, from the start of its first batch to the end of its last.
    Infer,
}

/// A request's span. Ends when it is dropped; [`RequestTrace::end`] says how the request ended.
///
/// Spans are never entered: a request changes threads. What is logged on its behalf names [`RequestTrace::span`] as its
/// parent.
#[derive(Debug, Default)]
pub struct RequestTrace(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    span: Span,
    stage: Span,
    caller: Option<TraceContext>,
}

/// A batch's span.
#[derive(Debug)]
pub struct BatchTrace(Span);

/// A request that is part of a batch, for as long as the batch's span is being made.
#[derive(Debug)]
pub struct InBatch {
    request: Span,
    stage: Span,
}

impl RequestTrace {
    /// Begins the span of a request, below the caller's if it sent one.
    pub fn begin(caller: Option<TraceContext>) -> RequestTrace {
        let span = tracing::debug_span!(
            target: TARGET,
            parent: None,
            "rerank",
            otel.kind = "server",
            otel.status_code = Empty,
            worker = Empty,
            budget_ms = Empty,
            pairs = Empty,
            tokens = Empty,
            outcome = Empty,
            kind = Empty,
        );
        if span.is_disabled() && caller.is_none() {
            return RequestTrace(None);
        }
        if !span.is_disabled() {
            // A line of its own and no part of the span: what a worker held when it was killed has no end.
            let trace_id = caller.as_ref().map(|caller| display(caller.trace_id()));
            tracing::event!(target: TARGET, parent: None, Level::DEBUG, trace_id, "received");
        }
        #[cfg(feature = "otlp")]
        if let Some(caller) = &caller {
            super::otlp::set_parent(&span, caller);
        }
        RequestTrace(Some(Box::new(Open {
            span,
            stage: Span::none(),
            caller,
        })))
    }

    /// The caller's budget, once it is known.
    pub fn set_budget(&self, budget: Duration) {
        self.record("budget_ms", budget.as_millis() as u64);
    }

    /// How many pairs it asks for.
    pub fn set_pairs(&self, pairs: usize) {
        self.record("pairs", pairs as u64);
    }

    /// How many tokens they have.
    pub fn set_tokens(&self, tokens: u64) {
        self.record("tokens", tokens);
    }

    fn record(&self, field: &'static str, value: u64) {
        if let Some(open) = &self.0 {
            open.span.record(field, number(value));
        }
    }

    /// Ends the stage before, if there is one, and begins another.
    pub fn stage(&mut self, stage: Stage) {
        let Some(open) = &mut self.0 else { return };
        // The one before ends first, so that they do not overlap.
        open.stage = Span::none();
        if open.span.is_disabled() {
            return;
        }
        let parent = &open.span;
        open.stage = match stage {
            Stage::Queue => tracing::debug_span!(target: TARGET, parent: parent, "queue"),
            Stage::Tokenize => tracing::debug_span!(target: TARGET, parent: parent, "tokenize"),
            Stage::Infer => tracing::debug_span!(target: TARGET, parent: parent, "infer"),
        };
    }

    /// Ends the stage.
    pub fn end_stage(&mut self) {
        if let Some(open) = &mut self.0 {
            open.stage = Span::none();
        }
    }

    /// This request as part of a batch; `None` where there are no spans.
    pub fn in_batch(&self) -> Option<InBatch> {
        let open = self.0.as_ref().filter(|open| !open.span.is_disabled())?;
        Some(InBatch {
            request: open.span.clone(),
            stage: open.stage.clone(),
        })
    }

    /// The span, as the parent of a line in the log.
    pub fn span(&self) -> Option<tracing::Id> {
        self.0.as_ref().and_then(|open| open.span.id())
    }

    /// The caller's trace, for a line in the log.
    pub fn trace_id(&self) -> Option<DisplayValue<impl std::fmt::Display + use<>>> {
        let caller = self.0.as_ref()?.caller.as_ref()?;
        Some(display(caller.trace_id()))
    }

    /// Ends the span. `worker`: the id of this worker; `refused`: why there is no ranking; `sent`: whether the answer has
    /// left; `latency`: from receipt to now.
    pub fn end(self, worker: &str, refused: Option<RefusalKind>, sent: bool, latency: Duration) {
        let Some(span) = self.0.as_ref().map(|open| &open.span) else {
            return;
        };
        if span.is_disabled() {
            return;
        }
        let outcome = match (sent, refused) {
            (false, _) => "dropped",
            (true, Some(_)) => "refused",
            (true, None) => "scored",
        };
        span.record("worker", worker);
        span.record("outcome", outcome);
        if let Some(kind) = refused {
            span.record("kind", kind.name());
        }
        // What is wrong with this worker, and not with the request, its budget or the load.
        if !sent || refused == Some(RefusalKind::Internal) {
            span.record("otel.status_code", "ERROR");
        }
        tracing::event!(
            target: TARGET,
            parent: span,
            Level::DEBUG,
            trace_id = self.trace_id(),
            latency_ms = latency.as_secs_f64() * 1e3,
            "answered"
        );
    }
}

impl BatchTrace {
    /// Begins the span of a batch and links it with its requests, both ways: the batch to the requests' spans, each
    /// request's stage to the batch. `parts`: how many requests have pairs in it.
    pub fn begin(requests: &[InBatch], parts: usize, pairs: usize, tokens: usize) -> BatchTrace {
        let span = tracing::debug_span!(
            target: TARGET,
            parent: None,
            "batch",
            otel.status_code = Empty,
            requests = number(parts as u64),
            pairs = number(pairs as u64),
            tokens = number(tokens as u64),
        );
        if !span.is_disabled() {
            // All of these first: whether a batch is recorded is decided by its links, when something points at it.
            for request in requests {
                span.follows_from(&request.request);
            }
            for request in requests {
                request.stage.follows_from(&span);
            }
        }
        BatchTrace(span)
    }

    /// Without a span.
    pub fn none() -> BatchTrace {
        BatchTrace(Span::none())
    }

    /// Does the batch's work within its span.
    pub fn in_scope<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.in_scope(work)
    }

    /// Marks the batch as one that failed.
    pub fn failed(&self) {
        self.0.record("otel.status_code", "ERROR");
    }
}

/// OpenTelemetry has signed integers alone; an unsigned one would be exported as text.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_collector_a_request_carries_nothing_but_its_callers_trace() {
        let mut trace = RequestTrace::begin(None);
        trace.stage(Stage::Infer);
        assert!(trace.0.is_none() && trace.in_batch().is_none() && trace.span().is_none());
        assert_eq!(size_of::<RequestTrace>(), size_of::<usize>());
        let caller = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None);
        let trace = RequestTrace::begin(caller);
        let shown = trace.trace_id().map(|id| format!("{id:?}"));
        assert_eq!(shown.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert!(trace.in_batch().is_none());
    }
}
