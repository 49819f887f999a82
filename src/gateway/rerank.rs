//! The way of a request for a ranking: the body, a place, what it asks, the call, the answer.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;

use super::arrival::Arrived;
use super::body::Asked;
use super::dialect::{Dialect, Door, Ranking};
use super::failure::Failure;
use super::stats::{Counted, Outcome};
use super::{Gateway, arrival};
use crate::client::{AnnReason, Order, RerankOptions, Reranked};
use crate::protocol::{Document, Refusal, RefusalKind, RequestHeaders, Usage};

/// On an answer in ANN order: why.
pub(super) const FALLBACK: &str = "Rerank-Fallback";
/// On an answer in the model's order where some documents have no score: why.
pub(super) const PARTIAL: &str = "Rerank-Partial";

/// What is answered in place of a ranking, and in which dialect.
type Failed = (Failure, Dialect);

/// Answers one request. Dropped, it leaves nothing behind but a count: its place and its wait are given back. It takes its
/// place once its body is there, so that a slow sender holds nobody else's.
pub(super) async fn rerank(gateway: &Gateway, door: Door, request: Request) -> Response {
    let mut counted = gateway.stats.begin(door);
    let limit = gateway.settings.request_timeout;
    let (outcome, response) = match tokio::time::timeout(limit, handle(gateway, door, request, &counted)).await {
        Ok(handled) => handled,
        Err(_) => {
            let failure = Failure::new(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                format!(
                    "the request took longer to arrive than this gateway's limit of {} ms (gateway.request_timeout_ms)",
                    limit.as_millis()
                ),
            );
            (Outcome::Late, failure.response(door.dialect()))
        }
    };
    counted.outcome = outcome;
    response
}

/// The body, a place, the answer.
async fn handle(gateway: &Gateway, door: Door, request: Request, counted: &Counted<'_>) -> (Outcome, Response) {
    let (head, body) = request.into_parts();
    // Who waits for leave to send the body is spared it if it came for nothing.
    if gateway.places.available_permits() == 0 && arrival::waits_for_leave(&head) {
        return busy(gateway, door);
    }
    let arrived = match arrival::whole(gateway, &head, body).await {
        Ok(arrived) => arrived,
        Err((outcome, failure)) => return (outcome, failure.response(door.dialect())),
    };
    // Held until the answer is made.
    let Ok(_place) = gateway.places.try_acquire() else {
        return busy(gateway, door);
    };
    counted.set_at_work();
    match answer(gateway, door, &head, arrived, counted).await {
        Ok(answered) => answered,
        Err((failure, dialect)) => (outcome_of(&failure), failure.response(dialect)),
    }
}

fn busy(gateway: &Gateway, door: Door) -> (Outcome, Response) {
    let requests_max = gateway.settings.requests_max;
    let failure = Failure::new(
        StatusCode::TOO_MANY_REQUESTS,
        "overloaded",
        format!("{requests_max} requests are at work, which is this gateway's limit (gateway.requests_max)"),
    );
    (Outcome::Busy, failure.response(door.dialect()))
}

fn outcome_of(failure: &Failure) -> Outcome {
    if failure.status.is_server_error() {
        Outcome::Failed
    } else {
        Outcome::Invalid
    }
}

async fn answer(
    gateway: &Gateway,
    door: Door,
    head: &Parts,
    body: Arrived<'_>,
    counted: &Counted<'_>,
) -> Result<(Outcome, Response), Failed> {
    let settings = &gateway.settings;
    let invalid = |failure: Failure| (failure, door.dialect());
    let wire = wire_headers(&head.headers);
    // As of the head's arrival, from which the budget counts.
    let arrived = SystemTime::now() - counted.began.elapsed();
    let budget = wire.budget(arrived).map_err(|refusal| invalid(refusal.into()))?;
    is_json(&head.headers).map_err(invalid)?;
    let mut asked = Asked::read(door, &body.bytes, settings.documents_max, settings.any_model)
        .map_err(|(refusal, dialect)| (refusal.into(), dialect))?;
    // Its bytes, and their room.
    drop(body);

    let dialect = asked.dialect;
    let scores = dialect.scores(asked.request.raw_scores);
    let documents = std::mem::take(&mut asked.request.documents);
    let count = documents.len();
    let reranked = if documents.is_empty() {
        nothing()
    } else {
        // A body has a budget for callers that cannot set headers; a header wins, as on the wire.
        let budget = budget
            .or(asked.request.budget())
            .unwrap_or(settings.timeout)
            .min(settings.timeout);
        let options = options(
            &asked,
            &wire,
            scores.wants_logits(),
            budget.saturating_sub(counted.began.elapsed()),
        );
        let request = &asked.request;
        gateway
            .reranker
            .rerank_with(
                &request.query,
                documents,
                |document| &document.text,
                request.top_k,
                &options,
            )
            .await
    };
    let outcome = judge(gateway, &reranked).map_err(|failure| (failure, dialect))?;
    let ranking = Ranking {
        scores: scores.of(&reranked, count),
        asked,
        reranked,
        documents: count,
        id: nuid::next().to_string(),
    };
    let written = dialect.answer(&ranking).map_err(|_| {
        let message = "the answer cannot be written";
        (
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message),
            dialect,
        )
    })?;
    let mut response = Response::new(Body::from(written));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Order::Ann(reason) = ranking.reranked.order {
        headers.insert(FALLBACK, HeaderValue::from_static(reason.name()));
    }
    if let Some(partial) = ranking.reranked.partial {
        headers.insert(PARTIAL, HeaderValue::from_static(partial.reason.name()));
    }
    Ok((outcome, response))
}

/// How a call ended for its HTTP client. What the request itself is to blame for is an error whatever the settings say:
/// it would never be ranked, and nobody would notice.
fn judge(gateway: &Gateway, reranked: &Reranked<Document>) -> Result<Outcome, Failure> {
    if let Some(model) = &reranked.model {
        gateway.served.saw(model);
    }
    let reason = match (reranked.order, reranked.partial) {
        (Order::Model, None) => return Ok(Outcome::Reranked),
        (Order::Model, Some(partial)) => {
            gateway.stats.fell_back(partial.reason);
            return Ok(Outcome::Partial);
        }
        (Order::Ann(reason), _) => reason,
    };
    gateway.stats.fell_back(reason);
    let detail = reranked.detail.as_deref();
    match reason {
        AnnReason::Refused(
            kind @ (RefusalKind::InvalidRequest | RefusalKind::UnknownModel | RefusalKind::TooLarge),
        ) => Err(Refusal::new(kind, detail.unwrap_or_default()).into()),
        _ if gateway.settings.fail_open => Ok(Outcome::Ann),
        _ => Err(Failure::no_ranking(reason, detail)),
    }
}

/// The call's options: what was asked, and the caller's span, should it have one.
fn options(asked: &Asked, wire: &RequestHeaders, logits: bool, budget: Duration) -> RerankOptions {
    let mut options = RerankOptions::default()
        .budget(budget)
        .raw_scores(logits)
        .truncate(asked.request.truncate);
    if let Some(model) = &asked.request.model {
        options = options.model(model);
    }
    if let Some(context) = wire.trace_context() {
        options = options.trace_context(context);
    }
    options
}

/// Nobody has to be asked about no documents.
fn nothing() -> Reranked<Document> {
    Reranked {
        items: Vec::new(),
        order: Order::Model,
        partial: None,
        model: None,
        workers: Vec::new(),
        usage: Usage::default(),
        detail: None,
        elapsed: Duration::ZERO,
    }
}

/// The headers that mean the same on the wire: budget and trace context.
fn wire_headers(headers: &HeaderMap) -> RequestHeaders {
    let pairs = headers.iter().map(|(name, value)| {
        // What is not ASCII is no number either, and so malformed where it matters.
        (name.as_str(), value.to_str().unwrap_or("?"))
    });
    RequestHeaders::from_pairs(pairs)
}

fn is_json(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(Failure::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "invalid_request",
        "header Content-Type: expected application/json, found another content type",
    ))
}
