//! What is read by GET: health, metrics, the model, the description, and the page for people.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::backend::Backend;
use super::dialect::Dialect;
use super::failure::Failure;
use super::{Gateway, REFUSED};
use crate::telemetry::{gateway_names, process, recorder};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The page loads nothing but its own two files, and asks nobody but its own gateway.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

type Shared = State<Arc<Gateway>>;

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

pub(super) async fn alive(State(gateway): Shared) -> Response {
    if gateway.default.reranker.is_refused() {
        return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not alive: {REFUSED}\n"));
    }
    answer(StatusCode::OK, TEXT, "alive\n")
}

pub(super) async fn ready(State(gateway): Shared) -> Response {
    let reason = gateway.why_not_ready();
    let status = match reason {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({
        "ready": reason.is_none(), "reason": reason, "connected": gateway.default.reranker.is_connected(),
        "enabled": gateway.default.reranker.is_enabled(), "circuit": gateway.default.reranker.circuit().name(),
    });
    answer(status, JSON, format!("{body}\n"))
}

pub(super) async fn metrics(State(gateway): Shared) -> Response {
    let connected = if gateway.default.reranker.is_connected() {
        1.0
    } else {
        0.0
    };
    metrics::gauge!(gateway_names::CONNECTED).set(connected);
    metrics::gauge!(gateway_names::PENDING_BODIES).set(gateway.room.bodies_pending() as f64);
    metrics::gauge!(gateway_names::PENDING_BODY_BYTES).set(gateway.room.bytes_pending() as f64);
    for (reason, count) in gateway.connections.evicted() {
        metrics::counter!(gateway_names::CONNECTIONS_EVICTED_TOTAL, "reason" => reason).absolute(count);
    }
    answer(StatusCode::OK, recorder::CONTENT_TYPE, gateway.metrics.render())
}

pub(super) async fn stats(State(gateway): Shared) -> Response {
    let usage = process::usage();
    let latency = gateway.stats.latencies.read();
    let map = |counts: &mut dyn Iterator<Item = (&'static str, u64)>| {
        let counts = counts.map(|(name, count)| (name.to_owned(), json!(count)));
        serde_json::Value::Object(counts.collect())
    };
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": gateway.why_not_ready().unwrap_or("serving"),
        "connected": gateway.default.reranker.is_connected(),
        "enabled": gateway.default.reranker.is_enabled(),
        "circuit": gateway.default.reranker.circuit().name(),
        "uptime_s": gateway.stats.started.elapsed().as_secs(),
        "requests": map(&mut gateway.stats.outcomes()),
        "requests_open": gateway.stats.open(),
        "requests_max": gateway.settings.requests_max,
        "connections": {
            "open": gateway.connections.open(), "max": gateway.connections.max(),
            "evicted": map(&mut gateway.connections.evicted()),
        },
        "pending": {
            "bodies": gateway.room.bodies_pending(), "body_bytes": gateway.room.bytes_pending(),
            "body_bytes_max": gateway.room.bytes_max(),
        },
        "fallbacks": map(&mut gateway.stats.reasons()),
        "latency_ms": {
            "p50": latency.p50_ms, "p95": latency.p95_ms, "p99": latency.p99_ms, "max": latency.max_ms,
            "answers": latency.answers,
        },
        "memory_mb": usage.map(|usage| json!({"rss": usage.rss_mb, "virtual": usage.virtual_mb})),
        "threads": usage.map(|usage| usage.threads),
        "cpu_percent": gateway.cpu.percent(),
    });
    answer(StatusCode::OK, JSON, format!("{body:#}\n"))
}

/// As text-embeddings-inference has it. The numbers are the workers' own (discovery); null while none answers.
pub(super) async fn info(State(gateway): Shared) -> Response {
    let Backend { reranker, served, .. } = &gateway.default;
    let limits = served.limits(reranker).await;
    let model = served.model(reranker).await;
    let settings = &gateway.settings;
    let documents_max = limits.documents_max.map_or(settings.documents_max, |workers| {
        settings
            .documents_max
            .min(usize::try_from(workers).unwrap_or(usize::MAX))
    });
    let body = json!({
        "model_id": model, "model_sha": null, "model_dtype": limits.precision.as_deref().map(dtype),
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": settings.requests_max,
        "max_client_batch_size": documents_max,
        "max_input_length": limits.length_max, "max_batch_tokens": limits.batch_tokens_max,
        "max_batch_requests": null, "tokenization_workers": limits.length_max.map(|_| limits.workers),
        "auto_truncate": true,
        "version": env!("CARGO_PKG_VERSION"), "sha": null, "docker_label": null,
    });
    answer(StatusCode::OK, JSON, format!("{body}\n"))
}

/// TEI's word for a precision.
fn dtype(precision: &str) -> &str {
    match precision {
        "fp32" => "float32",
        "fp16" => "float16",
        "bf16" => "bfloat16",
        other => other,
    }
}

/// What Weaviate asks of a module when it starts.
pub(super) async fn meta(State(gateway): Shared) -> Response {
    let Backend { reranker, served, .. } = &gateway.default;
    let body = json!({
        "model": served.model(reranker).await, "version": env!("CARGO_PKG_VERSION"), "subject": served.subject(),
    });
    answer(StatusCode::OK, JSON, format!("{body}\n"))
}

/// A model as OpenAI's interface lists it.
fn listed(gateway: &Gateway, id: &str) -> Value {
    let started = SystemTime::now() - gateway.stats.started.elapsed();
    // A clock before 1970 is as good as one that stands at 1970.
    let created = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    json!({"id": id, "object": "model", "created": created, "owned_by": "nats-rerank"})
}

async fn names(gateway: &Gateway) -> Vec<String> {
    let listed = join_all(gateway.backends().map(Backend::listed_name)).await;
    let mut names: Vec<String> = Vec::with_capacity(listed.len());
    for name in listed.into_iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

pub(super) async fn models(State(gateway): Shared) -> Response {
    let list: Vec<Value> = names(&gateway)
        .await
        .iter()
        .map(|name| listed(&gateway, name))
        .collect();
    answer(
        StatusCode::OK,
        JSON,
        format!("{}\n", json!({"object": "list", "data": list})),
    )
}

/// One of the list. Where any name will do, any is there: clients look before they ask.
pub(super) async fn model(State(gateway): Shared, Path(id): Path<String>) -> Response {
    if gateway.settings.any_model || names(&gateway).await.contains(&id) {
        return answer(StatusCode::OK, JSON, format!("{}\n", listed(&gateway, &id)));
    }
    let failure = Failure::new(
        StatusCode::NOT_FOUND,
        "unknown_model",
        "this model is not served here: /v1/models lists what is",
    );
    failure.response(Dialect::of_path("/v1/models"))
}

pub(super) async fn openapi() -> Response {
    answer(StatusCode::OK, JSON, include_str!("openapi.json"))
}

pub(super) async fn page() -> Response {
    let mut response = answer(
        StatusCode::OK,
        "text/html; charset=utf-8",
        include_str!("page/index.html"),
    );
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

pub(super) async fn css() -> Response {
    answer(StatusCode::OK, "text/css; charset=utf-8", include_str!("page/page.css"))
}

pub(super) async fn js() -> Response {
    answer(
        StatusCode::OK,
        "text/javascript; charset=utf-8",
        include_str!("page/page.js"),
    )
}

pub(super) async fn icon() -> Response {
    answer(StatusCode::OK, "image/svg+xml", include_str!("page/icon.svg"))
}
