//! Our own shape: that of the wire (docs/protocol.md), without the parts that only a worker knows. Beside it stands what clients
//! of vLLM, infinity and llama.cpp read at this path.

use serde::Serialize;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::hosted::{self, Row as ResultRow};
use super::{Notice, Ranking, Score};
use crate::protocol::{DocumentId, Usage};

#[derive(Serialize)]
struct Answer<'a> {
    rankings: Vec<Row<'a>>,
    top_k_applied: bool,
    /// Who ranked; in ANN order whom the request named, or null.
    model: Option<&'a str>,
    usage: BothUsages,
    #[serde(flatten)]
    notice: &'a Notice,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
    id: &'a str,
    object: &'static str,
    created: u64,
    results: Vec<ResultRow<'a>>,
}

#[derive(Serialize)]
struct BothUsages {
    #[serde(flatten)]
    wire: Usage,
    #[serde(flatten)]
    hosted: hosted::Usage,
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
    let items = &ranking.reranked.items;
    let rows = items.iter().zip(&ranking.scores);
    let relevance: Vec<Score> = if ranking.asked.raw_scores || ranking.notice.fallback.is_some() {
        ranking.scores.clone()
    } else {
        relevances(ranking)
    };
    serde_json::to_vec(&Answer {
        rankings: rows
            .map(|(ranked, &score)| Row {
                index: ranked.index,
                score,
                id: ranked.item.id.as_ref(),
                document: ranking.asked.returns_documents.then_some(Text {
                    text: &ranked.item.text,
                }),
            })
            .collect(),
        top_k_applied: ranking.asked.top_k.is_some_and(|top_k| top_k < ranking.documents),
        model: ranking.model(),
        usage: BothUsages {
            wire: ranking.reranked.usage,
            hosted: hosted::Usage::of(ranking.reranked.usage.tokens),
        },
        notice: &ranking.notice,
        warnings: &ranking.notice.warnings,
        id: &ranking.id,
        object: "rerank",
        created: ranking.created,
        results: hosted::rows_scored(ranking, &relevance, |candidate| ranking.returned(candidate)),
    })
}

/// The scores on the scale from 0 to 1; what has none falls from the last that has one, as on `/v1`.
fn relevances(ranking: &Ranking) -> Vec<Score> {
    let activation = ranking.reranked.activation;
    let scored = ranking.reranked.items.iter().zip(&ranking.scores);
    let scored = scored.filter(|(item, _)| item.score.is_some());
    let relevances = scored.map(|(_, score)| score.relevance(activation)).collect();
    Score::continued(relevances, ranking.scores.len(), ranking.fallback_scores)
}

/// Ours, with what vLLM's and infinity's clients look for.
pub(super) fn failure(failure: &Failure) -> Value {
    json!({
        "error": {
            "code": failure.status.as_u16(), "kind": failure.kind, "message": failure.message,
            "retryable": failure.is_retryable(), "type": failure.kind, "param": null,
        },
        "detail": failure.message,
        "message": failure.message,
    })
}
