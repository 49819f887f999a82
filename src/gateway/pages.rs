//! What is read by GET: health, metrics, the model, the description, and the page for people.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::json;

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
    if gateway.reranker.is_refused() {
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
        "ready": reason.is_none(), "reason": reason, "connected": gateway.reranker.is_connected(),
        "enabled": gateway.reranker.is_enabled(), "circuit": gateway.reranker.circuit().name(),
    });
    answer(status, JSON, format!("{body}\n"))
}

pub(super) async fn metrics(State(gateway): Shared) -> Response {
    let connected = if gateway.reranker.is_connected() { 1.0 } else { 0.0 };
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
        "connected": gateway.reranker.is_connected(),
        "enabled": gateway.reranker.is_enabled(),
        "circuit": gateway.reranker.circuit().name(),
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

/// As text-embeddings-inference has it; what only the workers know is null.
pub(super) async fn info(State(gateway): Shared) -> Response {
    let model = gateway.served.model(&gateway.reranker).await;
    let body = json!({
        "model_id": model, "model_sha": null, "model_dtype": null,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": gateway.settings.requests_max,
        "max_client_batch_size": gateway.settings.documents_max,
        "max_input_length": null, "max_batch_tokens": null, "max_batch_requests": null, "tokenization_workers": null,
        "auto_truncate": true,
        "version": env!("CARGO_PKG_VERSION"), "sha": null, "docker_label": null,
    });
    answer(StatusCode::OK, JSON, format!("{body}\n"))
}

pub(super) async fn models(State(gateway): Shared) -> Response {
    let model = gateway.served.model(&gateway.reranker).await;
    let started = SystemTime::now() - gateway.stats.started.elapsed();
    // A clock before 1970 is as good as one that stands at 1970.
    let created = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let list: Vec<_> = model
        .map(|id| json!({"id": id, "object": "model", "created": created, "owned_by": "nats-rerank"}))
        .into_iter()
        .collect();
    answer(
        StatusCode::OK,
        JSON,
        format!("{}\n", json!({"object": "list", "data": list})),
    )
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
