//! The way of a request for a ranking: the body, a place, what it asks, the call, the answer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use tokio::time::Instant;

use super::arrival::Arrived;
use super::backend::Backend;
use super::body::ParsedRequest;
use super::candidates::Candidate;
use super::dialect::{Dialect, Notice, Ranking, Route};
use super::failure::Failure;
use super::inflate::ContentEncoding;
use super::stats::{Counted, Outcome};
use super::{Gateway, arrival, pairs};
use crate::client::{AnnReason, Order, RerankOptions, Reranked};
use crate::protocol::{Refusal, RefusalKind, RequestHeaders, Usage};

/// On an answer in ANN order: why.
pub(super) const FALLBACK: &str = "Rerank-Fallback";
/// On an answer in the model's order where some documents have no score: why.
pub(super) const PARTIAL: &str = "Rerank-Partial";
/// On an answer to a request with `min_score`: how many were left out.
pub(super) const BELOW_MIN_SCORE: &str = "Rerank-Below-Min-Score";

/// What is answered in place of a ranking, and in which dialect.
type Failed = (Failure, &'static Dialect);

/// Answers one request. Dropped, it leaves nothing behind but a count: its place and its wait are given back. It takes its
/// place once its body is there, so that a slow sender holds nobody else's.
pub(super) async fn rerank(gateway: &Gateway, route: &'static Route, request: Request) -> Response {
    let mut counted = gateway.stats.begin(route);
    let limit = gateway.settings.request_timeout;
    let (outcome, response) = match tokio::time::timeout(limit, handle(gateway, route, request, &counted)).await {
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
            (Outcome::Late, failure.response(route.default_dialect()))
        }
    };
    counted.outcome = outcome;
    response
}

/// The body, a place, the answer.
async fn handle(
    gateway: &Gateway,
    route: &'static Route,
    request: Request,
    counted: &Counted<'_>,
) -> (Outcome, Response) {
    let (head, body) = request.into_parts();
    // Who waits for leave to send the body is spared it if it came for nothing.
    if gateway.places.available_permits() == 0 && arrival::waits_for_leave(&head) {
        return busy(gateway, route);
    }
    let arrived = match body_of(gateway, &head, body).await {
        Ok(arrived) => arrived,
        Err((outcome, failure)) => return (outcome, failure.response(route.default_dialect())),
    };
    // Held until the answer is made.
    let Ok(_place) = gateway.places.try_acquire() else {
        return busy(gateway, route);
    };
    counted.set_at_work();
    match answer(gateway, route, &head, arrived, counted).await {
        Ok(answered) => answered,
        Err((failure, dialect)) => (outcome_of(&failure), failure.response(dialect)),
    }
}

fn busy(gateway: &Gateway, route: &'static Route) -> (Outcome, Response) {
    let requests_max = gateway.settings.requests_max;
    let failure = Failure::new(
        StatusCode::TOO_MANY_REQUESTS,
        "overloaded",
        format!("{requests_max} requests are at work, which is this gateway's limit (gateway.requests_max)"),
    );
    (Outcome::Busy, failure.response(route.default_dialect()))
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
    route: &'static Route,
    head: &Parts,
    body: Arrived<'_>,
    counted: &Counted<'_>,
) -> Result<(Outcome, Response), Failed> {
    let settings = &gateway.settings;
    let invalid = |failure: Failure| (failure, route.default_dialect());
    let wire = wire_headers(&head.headers);
    // As of the head's arrival, from which the budget counts.
    let arrived = SystemTime::now() - counted.began.elapsed();
    let budget = wire.budget(arrived).map_err(|refusal| invalid(refusal.into()))?;
    is_json(&head.headers).map_err(invalid)?;
    let mut asked = ParsedRequest::read(route, &body.bytes, settings.documents_max)
        .map_err(|(refusal, dialect)| (refusal.into(), dialect))?;
    // Its bytes, and their room.
    drop(body);

    let dialect = asked.dialect;
    let scores = dialect.scores(asked.raw_scores);
    let (backend, model) = gateway.choose(asked.named_model.as_deref());
    let documents = std::mem::take(&mut asked.documents);
    let count = documents.len();
    let texts = asked
        .queries
        .iter()
        .chain(documents.iter().map(|document| &document.text));
    let bytes = texts.map(String::len).sum();
    let reranked = if documents.is_empty() {
        nothing()
    } else {
        // A body has a budget for callers that cannot set headers; a header wins, as on the wire.
        let budget = budget
            .or(asked.budget)
            .unwrap_or(settings.timeout)
            .min(settings.timeout);
        let deadline = Instant::now() + budget.saturating_sub(counted.began.elapsed());
        let options = options(&asked, &wire, scores.wants_logits(), model);
        call(backend, &asked, documents, &options, deadline).await
    };
    let outcome = judge(gateway, backend, &reranked).map_err(|failure| (failure, dialect))?;
    let ranking = ranking(gateway, asked, reranked, count, bytes);
    let response = written(&ranking).map_err(|failure| (failure, dialect))?;
    Ok((outcome, response))
}

/// The body, whole and as it was before it was compressed, with the room that it has taken.
async fn body_of<'a>(gateway: &'a Gateway, head: &Parts, body: Body) -> Result<Arrived<'a>, arrival::NotArrived> {
    let encoding = match ContentEncoding::of(&head.headers) {
        Ok(encoding) => encoding,
        Err(failure) => {
            arrival::forget(head, body).await;
            return Err((Outcome::Invalid, failure));
        }
    };
    let mut arrived = arrival::whole(gateway, head, body).await?;
    let bytes = std::mem::take(&mut arrived.bytes);
    let decoded = encoding.decoded(bytes, gateway.settings.body_bytes_max).await;
    arrived.bytes = decoded.map_err(|failure| (outcome_of(&failure), failure))?;
    Ok(arrived)
}

async fn call(
    backend: &Backend,
    asked: &ParsedRequest,
    documents: Vec<Candidate>,
    options: &RerankOptions,
    deadline: Instant,
) -> Reranked<Candidate> {
    match &*asked.queries {
        [query] => {
            let budget = deadline.saturating_duration_since(Instant::now());
            let options = options.clone().budget(budget);
            backend
                .reranker
                .rerank_with(query, documents, |document| &document.text, asked.top_k, &options)
                .await
        }
        queries => pairs::score(&backend.reranker, queries, documents, options, deadline).await,
    }
}

/// What came back, with a score for everything in it, those below the least left out.
fn ranking(
    gateway: &Gateway,
    asked: ParsedRequest,
    mut reranked: Reranked<Candidate>,
    documents: usize,
    bytes: usize,
) -> Ranking {
    let scale = asked.dialect.scores(asked.raw_scores);
    let fallback_scores = gateway.settings.fallback_scores();
    let mut scores = scale.of(&reranked, documents, fallback_scores);
    let below = asked.min_score.map(|least| {
        let kept = |(item, score): &(_, super::dialect::Score)| {
            let item: &crate::client::Ranked<Candidate> = item;
            // What nothing was learned about stays: nobody knows on which side it is.
            item.score.is_none() || score.reaches(least)
        };
        let all = reranked.items.len();
        let items = std::mem::take(&mut reranked.items);
        (reranked.items, scores) = items.into_iter().zip(std::mem::take(&mut scores)).filter(kept).unzip();
        all - reranked.items.len()
    });
    // A clock before 1970 is as good as one that stands at 1970.
    let created = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    Ranking {
        notice: Notice::of(&reranked, below, &asked.warnings),
        scores,
        fallback_scores,
        asked,
        reranked,
        documents,
        bytes,
        id: nuid::next().to_string(),
        created,
    }
}

fn written(ranking: &Ranking) -> Result<Response, Failure> {
    let body = ranking.asked.dialect.answer(ranking).map_err(|_| {
        let message = "the answer cannot be written";
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })?;
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Order::Ann(reason) = ranking.reranked.order {
        headers.insert(FALLBACK, HeaderValue::from_static(reason.name()));
    }
    if let Some(partial) = ranking.reranked.partial {
        headers.insert(PARTIAL, HeaderValue::from_static(partial.reason.name()));
    }
    if let Some(below) = ranking.notice.below_min_score {
        headers.insert(BELOW_MIN_SCORE, HeaderValue::from(below));
    }
    Ok(response)
}

/// How a call ended for its HTTP client. What the request itself is to blame for is an error whatever the settings say:
/// it would never be ranked, and nobody would notice.
fn judge(gateway: &Gateway, backend: &Backend, reranked: &Reranked<Candidate>) -> Result<Outcome, Failure> {
    if let Some(model) = &reranked.model {
        backend.served.saw(model);
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
fn options(asked: &ParsedRequest, wire: &RequestHeaders, logits: bool, model: Option<&str>) -> RerankOptions {
    let mut options = RerankOptions::default().raw_scores(logits).truncate(asked.truncate);
    if let Some(model) = model {
        options = options.model(model);
    }
    if let Some(tokens) = asked.max_tokens_per_document {
        options = options.max_tokens_per_document(tokens);
    }
    if let Some(tokens) = asked.max_tokens_per_pair {
        options = options.max_tokens_per_pair(tokens);
    }
    if let Some(context) = wire.trace_context() {
        options = options.trace_context(context);
    }
    options
}

/// Nobody has to be asked about no documents.
pub(super) fn nothing() -> Reranked<Candidate> {
    Reranked {
        items: Vec::new(),
        order: Order::Model,
        partial: None,
        below_min_score: 0,
        activation: None,
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
