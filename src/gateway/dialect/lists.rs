//! Dialects whose answer is a list under a name of its own: NVIDIA's, Mixedbread's, vLLM's scores, Weaviate's.

use serde::Serialize;
use serde_json::{Value, json};

use super::super::candidates::Returned;
use super::super::failure::Failure;
use super::hosted::Usage;
use super::{Notice, Ranking, Score};

/// What stands beside each of these lists.
#[derive(Serialize)]
struct Beside<'a> {
    #[serde(flatten)]
    notice: &'a Notice,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

fn beside(ranking: &Ranking) -> Beside<'_> {
    Beside {
        notice: &ranking.notice,
        warnings: &ranking.notice.warnings,
    }
}

#[derive(Serialize)]
struct Nvidia<'a> {
    rankings: Vec<NvidiaRow>,
    usage: Usage,
    #[serde(flatten)]
    beside: Beside<'a>,
}

#[derive(Serialize)]
struct NvidiaRow {
    index: usize,
    logit: Score,
}

pub(super) fn answer_nvidia(ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
    let rows = ranking.reranked.items.iter().zip(&ranking.scores);
    serde_json::to_vec(&Nvidia {
        rankings: rows
            .map(|(ranked, &logit)| NvidiaRow {
                index: ranked.index,
                logit,
            })
            .collect(),
        usage: Usage::of(ranking.reranked.usage.tokens),
        beside: beside(ranking),
    })
}

pub(super) fn failure_nvidia(failure: &Failure) -> Value {
    json!({
        "object": "error", "message": failure.message, "detail": failure.message, "type": failure.kind,
        "error": failure.message,
    })
}

#[derive(Serialize)]
struct Mixedbread<'a> {
    object: &'static str,
    model: Option<&'a str>,
    data: Vec<MixedbreadRow<'a>>,
    usage: Usage,
    top_k: usize,
    return_input: bool,
    #[serde(flatten)]
    beside: Beside<'a>,
}

#[derive(Serialize)]
struct MixedbreadRow<'a> {
    index: usize,
    score: Score,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Returned<'a>>,
    object: &'static str,
}

pub(super) fn answer_mixedbread(ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
    let rows = ranking.reranked.items.iter().zip(&ranking.scores);
    serde_json::to_vec(&Mixedbread {
        object: "list",
        model: ranking.model(),
        data: rows
            .map(|(ranked, &score)| MixedbreadRow {
                index: ranked.index,
                score,
                input: ranking
                    .asked
                    .returns_documents
                    .then_some(Returned::as_sent(&ranked.item)),
                object: "rank_result",
            })
            .collect(),
        usage: Usage::of(ranking.reranked.usage.tokens),
        top_k: ranking.asked.top_k.unwrap_or(ranking.documents),
        return_input: ranking.asked.returns_documents,
        beside: beside(ranking),
    })
}

#[derive(Serialize)]
struct Scores<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: Option<&'a str>,
    data: Vec<ScoreRow>,
    usage: Usage,
    #[serde(flatten)]
    beside: Beside<'a>,
}

#[derive(Serialize)]
struct ScoreRow {
    index: usize,
    object: &'static str,
    score: Score,
}

/// Items with their scores, in the request's order.
fn in_order(ranking: &Ranking) -> Vec<(usize, &super::Candidate, Score)> {
    let rows = ranking.reranked.items.iter().zip(&ranking.scores);
    let mut rows: Vec<_> = rows
        .map(|(ranked, &score)| (ranked.index, &ranked.item, score))
        .collect();
    rows.sort_unstable_by_key(|(index, ..)| *index);
    rows
}

pub(super) fn answer_score(ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
    let rows = in_order(ranking);
    serde_json::to_vec(&Scores {
        id: &ranking.id,
        object: "list",
        created: ranking.created,
        model: ranking.model(),
        data: rows
            .into_iter()
            .map(|(index, _, score)| ScoreRow {
                index,
                object: "score",
                score,
            })
            .collect(),
        usage: Usage::of(ranking.reranked.usage.tokens),
        beside: beside(ranking),
    })
}

#[derive(Serialize)]
struct Weaviate<'a> {
    query: &'a str,
    scores: Vec<WeaviateRow<'a>>,
    #[serde(flatten)]
    beside: Beside<'a>,
}

#[derive(Serialize)]
struct WeaviateRow<'a> {
    document: &'a str,
    score: Score,
}

pub(super) fn answer_weaviate(ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
    let rows = in_order(ranking);
    serde_json::to_vec(&Weaviate {
        query: ranking.asked.queries.first().map_or("", String::as_str),
        scores: rows
            .into_iter()
            .map(|(_, candidate, score)| WeaviateRow {
                document: &candidate.text,
                score,
            })
            .collect(),
        beside: beside(ranking),
    })
}
