//! Spans to a collector: OTLP over HTTP, in Protobuf.
//!
//! A thread of the SDK's takes ended spans from a bounded queue (2,048, or `OTEL_BSP_MAX_QUEUE_SIZE`) and sends them in
//! batches; what ends while the queue is full is lost, and the log tells how many. A request never waits for it.

use std::future::Future;
use std::pin::Pin;
use std::str::FromStr as _;
use std::time::Duration;

use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample};
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt as _};
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::{Layer, Registry};

use super::traces::TARGET;
use crate::protocol::TraceContext;
use crate::tls;

/// One export, from the connection to the end of the answer.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// What the end of the program waits at most for the spans that are still here.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read: it says no more than how many spans were refused.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Links of one batch; a batch of more requests than this counts the others.
const LINKS_MAX: u32 = 1024;

/// The export of this process' spans; dropped, it sends what is left, within a bounded time.
#[derive(Debug)]
pub struct Exporter(SdkTracerProvider);

impl Exporter {
    /// An exporter to the collector at `endpoint` (its base URL). Of the requests without a `traceparent`, `ratio` (0 to
    /// 1) are sampled. `service_name` stands in for `OTEL_SERVICE_NAME`. Nothing is connected yet.
    ///
    /// # Errors
    /// The endpoint is no URI, or a variable `OTEL_EXPORTER_OTLP_*` cannot be used.
    pub fn new(endpoint: &str, ratio: f64, service_name: &str) -> Result<Exporter, ExporterBuildError> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new())
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .build()?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(RootSampler(Sampler::TraceIdRatioBased(
                ratio,
            )))))
            .with_max_links_per_span(LINKS_MAX)
            .with_resource(resource(service_name))
            .build();
        Ok(Exporter(provider))
    }

    /// The layer that takes the spans of [`TARGET`], and nothing else, whatever the log's level.
    pub fn layer(&self) -> impl Layer<Registry> + Send + Sync + use<> {
        let ours = FilterFn::new(|metadata| metadata.is_span() && metadata.target() == TARGET);
        OpenTelemetryLayer::new(self.0.tracer(env!("CARGO_PKG_NAME")))
            // Where in the source a span begins, on which thread, at which level: the same for every span of a name.
            .with_location(false)
            .with_threads(false)
            .with_level(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(ours.with_max_level_hint(LevelFilter::DEBUG))
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH_MAX) {
            tracing::warn!(%error, "the last spans may not have reached the collector");
        }
    }
}

fn resource(service_name: &str) -> Resource {
    // With what the environment says (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES).
    let builder = || Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let resource = builder().build();
    let named = resource
        .get(&Key::from_static_str("service.name"))
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    if named {
        resource
    } else {
        builder().with_service_name(service_name.to_owned()).build()
    }
}

/// Makes the caller's span the parent of `span`, which must not have begun a child or a link yet. Without an exporter it
/// does nothing.
pub(super) fn set_parent(span: &Span, caller: &TraceContext) {
    let state = caller.tracestate().and_then(|state| TraceState::from_str(state).ok());
    let flags = if caller.is_sampled() {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::default()
    };
    let parent = SpanContext::new(
        TraceId::from_bytes(caller.trace_id().bytes()),
        SpanId::from_bytes(caller.span_id().bytes()),
        flags,
        true,
        state.unwrap_or_default(),
    );
    // Fails where nothing exports: the log alone collects the span.
    let _ = span.set_parent(Context::new().with_remote_span_context(parent));
}

/// Decides for spans without a parent: a batch is recorded if one of its requests is, and anything else by its trace id.
#[derive(Clone, Debug)]
struct RootSampler(Sampler);

impl ShouldSample for RootSampler {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        span_kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        if links.is_empty() {
            return self
                .0
                .should_sample(parent_context, trace_id, name, span_kind, attributes, links);
        }
        let sampled = links.iter().any(|link| link.span_context.is_sampled());
        SamplingResult {
            decision: if sampled {
                SamplingDecision::RecordAndSample
            } else {
                SamplingDecision::Drop
            },
            attributes: Vec::new(),
            trace_state: TraceState::default(),
        }
    }
}

/// Posts an export. It blocks, which is right on the SDK's own thread.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Client {
    fn new() -> Client {
        let mut config = ureq::Agent::config_builder()
            .timeout_global(Some(EXPORT_TIMEOUT))
            // A collector's refusal is the exporter's to judge, and spans go where the settings say and nowhere else.
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));
        if let Some(tls) = tls::system_roots() {
            config = config.tls_config(tls);
        }
        Client(config.build().into())
    }

    fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let mut answer = self.0.run(Request::from_parts(head, body.as_ref()))?;
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        let (head, _) = answer.into_parts();
        Ok(Response::from_parts(head, Bytes::from(body)))
    }
}

impl HttpClient for Client {
    // What `async_trait` would write.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move { self.post(request) })
    }
}
