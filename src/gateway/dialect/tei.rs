//! The shape of text-embeddings-inference: a bare array, best first. There is no place beside it, so each row without a score
//! of the model says so.

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::{Ranking, Score};

#[derive(Serialize)]
struct Row<'a> {
    index: usize,
    score: Score,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    /// Why this score is synthetic.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<&'static str>,
}

pub(super) fn answer(ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
    let reranked = &ranking.reranked;
    let reason = reranked
        .order
        .fallback()
        .or(reranked.partial.map(|partial| partial.reason))
        .map(|reason| reason.name());
    let rows = ranking.reranked.items.iter().zip(&ranking.scores);
    let rows: Vec<Row<'_>> = rows
        .map(|(ranked, &score)| Row {
            index: ranked.index,
            score,
            text: ranking.asked.returns_documents.then_some(&*ranked.item.text),
            fallback: reason.filter(|_| ranked.score.is_none()),
        })
        .collect();
    serde_json::to_vec(&rows)
}

pub(super) fn failure(failure: &Failure) -> Value {
    let error_type = match failure.status {
        StatusCode::TOO_MANY_REQUESTS => "Overloaded",
        StatusCode::SERVICE_UNAVAILABLE => "Unhealthy",
        status if status.is_client_error() => "Validation",
        _ => "Backend",
    };
    json!({"error": failure.message, "error_type": error_type})
}
