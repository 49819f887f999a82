//! The shapes that requests and answers come in. What is asked is the same in all of them; a file a dialect says how its
//! answers and failures look.

mod hosted;
mod own;
mod score;
mod tei;

use serde_json::Value;

use super::body::Asked;
use super::failure::Failure;
use crate::client::Reranked;
use crate::protocol::Document;

pub(super) use score::{Score, Scores};

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// `/rerank`: our own shape, or TEI's.
    Rerank,
    /// `/v1/rerank`: Jina, vLLM, LocalAI, and Cohere's first.
    V1,
    /// `/v2/rerank`: Cohere.
    V2,
}

/// How an answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// As on the wire.
    Own,
    /// text-embeddings-inference.
    Tei,
    /// `/v1`.
    V1,
    /// `/v2`.
    V2,
}

/// A ranking to be written: what was asked, what came back, and a score for everything in it.
pub(super) struct Ranking {
    pub(super) asked: Asked,
    pub(super) reranked: Reranked<Document>,
    /// One for each of the items.
    pub(super) scores: Vec<Score>,
    /// How many documents the request had.
    pub(super) documents: usize,
    /// Names this answer.
    pub(super) id: String,
}

impl Door {
    /// The value of the label `route`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Door::Rerank => "rerank",
            Door::V1 => "v1",
            Door::V2 => "v2",
        }
    }

    pub(super) fn of_path(path: &str) -> Option<Door> {
        match path {
            "/rerank" => Some(Door::Rerank),
            "/v1/rerank" => Some(Door::V1),
            "/v2/rerank" => Some(Door::V2),
            _ => None,
        }
    }

    /// The dialect to speak in while the body is not understood.
    pub(super) fn dialect(self) -> Dialect {
        match self {
            Door::Rerank => Dialect::Own,
            Door::V1 => Dialect::V1,
            Door::V2 => Dialect::V2,
        }
    }
}

impl Dialect {
    /// The dialect in which to speak of a path, known or not.
    pub(super) fn of_path(path: &str) -> Dialect {
        if path.starts_with("/v1/") {
            Dialect::V1
        } else if path.starts_with("/v2/") {
            Dialect::V2
        } else if path == "/info" {
            Dialect::Tei
        } else {
            Dialect::Own
        }
    }

    /// The scale of its scores, and whether the workers are asked for logits.
    pub(super) fn scores(self, raw_scores: bool) -> Scores {
        match self {
            Dialect::Own => Scores::AsTheModel { logits: raw_scores },
            Dialect::Tei if raw_scores => Scores::AsTheModel { logits: true },
            Dialect::Tei | Dialect::V1 | Dialect::V2 => Scores::Relevance,
        }
    }

    /// The body of an answer.
    pub(super) fn answer(self, ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
        match self {
            Dialect::Own => own::answer(ranking),
            Dialect::Tei => tei::answer(ranking),
            Dialect::V1 => hosted::answer_v1(ranking),
            Dialect::V2 => hosted::answer_v2(ranking),
        }
    }

    /// The body of a failure.
    pub(super) fn failure(self, failure: &Failure) -> Value {
        match self {
            Dialect::Own => own::failure(failure),
            Dialect::Tei => tei::failure(failure),
            Dialect::V1 => hosted::failure_v1(failure),
            Dialect::V2 => hosted::failure_v2(failure),
        }
    }
}
