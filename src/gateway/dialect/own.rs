//! Our own shape: that of the wire (docs/protocol.md), without the parts that only a worker knows.

use serde::Serialize;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::{Ranking, Score};
use crate::protocol::{DocumentId, Usage};

#[derive(Serialize)]
struct Answer<'a> {
    rankings: Vec<Row<'a>>,
    top_k_applied: bool,
    /// Who ranked; null in ANN order.
    model: Option<&'a str>,
    usage: Usage,
}

#[derive(Serialize)]
struct Row<'a> {
    index: usize,
    score: Score,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a DocumentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Text<'a>>,
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

pub(super) fn answer(ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
    let rows = ranking.reranked.items.iter().zip(&ranking.scores);
    serde_json::to_vec(&Answer {
        rankings: rows
            .map(|(ranked, &score)| Row {
                index: ranked.index,
                score,
                id: ranked.item.id.as_ref(),
                document: ranking.asked.returns_texts.then_some(Text {
                    text: &ranked.item.text,
                }),
            })
            .collect(),
        top_k_applied: ranking.reranked.items.len() < ranking.documents,
        model: ranking.reranked.model.as_deref(),
        usage: ranking.reranked.usage,
    })
}

pub(super) fn failure(failure: &Failure) -> Value {
    json!({"error": {
        "code": failure.status.as_u16(), "kind": failure.kind, "message": failure.message,
        "retryable": failure.is_retryable(),
    }})
}
