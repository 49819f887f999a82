//! The shape of hosted rerankers: `/v1/rerank` as Jina has it, and vLLM, LocalAI and Cohere's first interface with it;
//! `/v2/rerank` as Cohere has it. They agree on `results`, and differ in what stands around.

use serde::Serialize;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::{Ranking, Score};

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    /// Who ranked; in ANN order whom the request named.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    results: Vec<Row<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    meta: Meta,
}

#[derive(Serialize)]
struct Row<'a> {
    index: usize,
    relevance_score: Score,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Text<'a>>,
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct Usage {
    total_tokens: u64,
    prompt_tokens: u64,
}

#[derive(Serialize)]
struct Meta {
    api_version: Version,
    billed_units: Billed,
    tokens: Tokens,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

#[derive(Serialize)]
struct Billed {
    search_units: u64,
}

#[derive(Serialize)]
struct Tokens {
    input_tokens: u64,
}

pub(super) fn answer_v1(ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
    let tokens = ranking.reranked.usage.tokens;
    answer(
        ranking,
        "1",
        Some(Usage {
            total_tokens: tokens,
            prompt_tokens: tokens,
        }),
    )
}

pub(super) fn answer_v2(ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
    answer(ranking, "2", None)
}

fn answer(ranking: &Ranking, version: &'static str, usage: Option<Usage>) -> Result<Vec<u8>, serde_json::Error> {
    let reranked = &ranking.reranked;
    let rows = reranked.items.iter().zip(&ranking.scores);
    serde_json::to_vec(&Answer {
        id: &ranking.id,
        model: reranked.model.as_deref().or(ranking.asked.named_model.as_deref()),
        results: rows
            .map(|(ranked, &relevance_score)| Row {
                index: ranked.index,
                relevance_score,
                document: ranking.asked.returns_texts.then_some(Text {
                    text: &ranked.item.text,
                }),
            })
            .collect(),
        usage,
        meta: Meta {
            api_version: Version { version },
            billed_units: Billed { search_units: 1 },
            tokens: Tokens {
                input_tokens: reranked.usage.tokens,
            },
        },
    })
}

/// For every client of `/v1`: Jina's read `detail`, vLLM's and LocalAI's `error.message`, Cohere's `message`.
pub(super) fn failure_v1(failure: &Failure) -> Value {
    json!({
        "detail": failure.message,
        "message": failure.message,
        "error": {
            "message": failure.message, "type": failure.kind, "param": null, "code": failure.status.as_u16(),
        },
    })
}

pub(super) fn failure_v2(failure: &Failure) -> Value {
    json!({"id": nuid::next().as_str(), "message": failure.message})
}
