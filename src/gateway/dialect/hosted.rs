//! The shape of hosted rerankers: `/v1/rerank` as Jina has it, and vLLM, LocalAI, Voyage and Cohere's first interface with it;
//! `/v2/rerank` as Cohere has it. They agree on `results`, and differ in what stands around.

use serde::Serialize;
use serde_json::{Value, json};

use super::super::candidates::Returned;
use super::super::failure::Failure;
use super::{Notice, Ranking, Score};

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'static str>,
    /// Who ranked; in ANN order whom the request named.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    results: Vec<Row<'a>>,
    /// Voyage's name for the results.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Vec<Row<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(flatten)]
    notice: &'a Notice,
    meta: Meta<'a>,
}

#[derive(Serialize)]
pub(super) struct Row<'a> {
    index: usize,
    relevance_score: Score,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Returned<'a>>,
}

/// OpenAI's three numbers.
#[derive(Serialize)]
pub(super) struct Usage {
    total_tokens: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl Usage {
    pub(super) fn of(tokens: u64) -> Usage {
        Usage {
            total_tokens: tokens,
            prompt_tokens: tokens,
            completion_tokens: 0,
        }
    }
}

#[derive(Serialize)]
struct Meta<'a> {
    api_version: Version,
    billed_units: Billed,
    tokens: Tokens,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
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

/// The rows of `results`, by `returned` with their documents.
pub(super) fn rows<'a>(
    ranking: &'a Ranking,
    returned: impl Fn(&'a super::Candidate) -> Option<Returned<'a>>,
) -> Vec<Row<'a>> {
    rows_scored(ranking, &ranking.scores, returned)
}

/// The same with scores of another scale.
pub(super) fn rows_scored<'a>(
    ranking: &'a Ranking,
    scores: &[Score],
    returned: impl Fn(&'a super::Candidate) -> Option<Returned<'a>>,
) -> Vec<Row<'a>> {
    let rows = ranking.reranked.items.iter().zip(scores);
    rows.map(|(ranked, &relevance_score)| Row {
        index: ranked.index,
        relevance_score,
        document: returned(&ranked.item),
    })
    .collect()
}

pub(super) fn answer_v1(ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
    // Texts twice only where they are asked for: Voyage's clients ask.
    let as_text = |candidate| ranking.asked.asks_for_documents.then_some(Returned::text(candidate));
    let answer = Answer {
        object: Some("list"),
        data: Some(rows(ranking, as_text)),
        usage: Some(Usage::of(ranking.reranked.usage.tokens)),
        ..common(ranking, "1")
    };
    serde_json::to_vec(&answer)
}

pub(super) fn answer_v2(ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&common(ranking, "2"))
}

fn common<'a>(ranking: &'a Ranking, version: &'static str) -> Answer<'a> {
    Answer {
        id: &ranking.id,
        object: None,
        model: ranking.model(),
        results: rows(ranking, |candidate| ranking.returned(candidate)),
        data: None,
        usage: None,
        notice: &ranking.notice,
        meta: Meta {
            api_version: Version { version },
            billed_units: Billed { search_units: 1 },
            tokens: Tokens {
                input_tokens: ranking.reranked.usage.tokens,
            },
            warnings: &ranking.notice.warnings,
        },
    }
}

#[derive(Serialize)]
struct ZeroEntropy<'a> {
    results: Vec<Row<'a>>,
    total_bytes: usize,
    total_tokens: u64,
    #[serde(flatten)]
    notice: &'a Notice,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

pub(super) fn answer_zeroentropy(ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&ZeroEntropy {
        results: rows(ranking, |candidate| ranking.returned(candidate)),
        total_bytes: ranking.bytes,
        total_tokens: ranking.reranked.usage.tokens,
        notice: &ranking.notice,
        warnings: &ranking.notice.warnings,
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
