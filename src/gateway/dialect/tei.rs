//! The shape of text-embeddings-inference: a bare array, best first.

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
}

pub(super) fn answer(ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
    let rows = ranking.reranked.items.iter().zip(&ranking.scores);
    let rows: Vec<Row<'_>> = rows
        .map(|(ranked, &score)| Row {
            index: ranked.index,
            score,
            text: ranking.asked.returns_texts.then_some(&*ranked.item.text),
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
