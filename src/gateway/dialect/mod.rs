//! The shapes that requests and answers come in. What is asked is the same in all of them; `table` has a row a path and a row
//! a dialect, the other files say how answers and failures are written.

mod hosted;
mod lists;
mod notice;
mod own;
mod score;
mod table;
mod tei;

use serde_json::Value;

use super::body::ParsedRequest;
use super::candidates::{Candidate, Returned};
use super::failure::Failure;
use crate::client::Reranked;

pub(super) use notice::Notice;
pub(super) use score::{FallbackScores, Score, Scores};
pub(super) use table::ROUTES;

/// A path that takes requests for rankings.
pub(super) struct Route {
    /// As the router has it.
    pub(super) path: &'static str,
    /// The value of the label `route`.
    pub(super) label: &'static str,
    /// The dialect that is spoken there.
    dialect: &'static Dialect,
    /// Unless the body has this field.
    by_field: &'static [(&'static str, &'static Dialect)],
}

/// How requests are read and answers written.
pub(super) struct Dialect {
    /// For people.
    pub(super) name: &'static str,
    /// The field to name where the query is missing.
    pub(super) query_field: &'static str,
    /// The field to name where the documents are missing.
    pub(super) documents_field: &'static str,
    /// What the name of a model does.
    pub(super) model: ModelRule,
    /// What its scores mean.
    scale: Scale,
    /// Whether documents are given back where the request does not say.
    pub(super) returns_documents: bool,
    /// Whether a `top_n` of 0 means all; else it is refused.
    pub(super) top_zero_is_all: bool,
    /// Whether a document is given back as a string whatever was sent.
    pub(super) documents_as_strings: bool,
    /// Whether there may be a query for each document.
    pub(super) scores_pairs: bool,
    /// The body of an answer.
    answer: fn(&Ranking) -> Result<Vec<u8>, serde_json::Error>,
    /// The body of a failure.
    failure: fn(&Failure) -> Value,
}

/// What the name of a model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelRule {
    /// It chooses among `gateway.models`; another name is as good as none, or refused (`gateway.any_model`).
    ByName,
    /// Nothing.
    Ignored,
}

/// What a dialect's scores mean, unless a request asks for logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    /// From 0 to 1.
    Relevance,
    /// The model's own scores, and beside them from 0 to 1.
    Both,
    /// Logits.
    Logits,
}

/// A ranking to be written: what was asked, what came back, and a score for everything in it.
pub(super) struct Ranking {
    pub(super) asked: ParsedRequest,
    pub(super) reranked: Reranked<Candidate>,
    /// One for each of the items.
    pub(super) scores: Vec<Score>,
    /// What stands for scores where there are none.
    pub(super) fallback_scores: FallbackScores,
    /// How many documents the request had.
    pub(super) documents: usize,
    /// Bytes of their texts and of the query.
    pub(super) bytes: usize,
    /// Names this answer.
    pub(super) id: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// What is to be said beside the ranking.
    pub(super) notice: Notice,
}

impl Ranking {
    /// Who ranked; in ANN order whom the request named.
    fn model(&self) -> Option<&str> {
        self.reranked.model.as_deref().or(self.asked.named_model.as_deref())
    }

    /// A document as it is given back, if it is.
    fn returned<'a>(&self, candidate: &'a Candidate) -> Option<Returned<'a>> {
        self.asked
            .returns_documents
            .then_some(if self.asked.documents_as_strings {
                Returned::Text(&candidate.text)
            } else {
                Returned::Object(candidate)
            })
    }
}

impl Route {
    const fn plain(path: &'static str, label: &'static str, dialect: &'static Dialect) -> Route {
        Route {
            path,
            label,
            dialect,
            by_field: &[],
        }
    }

    /// The row of a path as it came.
    pub(super) fn of_path(path: &str) -> Option<&'static Route> {
        let matches = |pattern: &str| {
            let mut segments = path.split('/');
            let fits = pattern.split('/').all(|known| {
                segments
                    .next()
                    .is_some_and(|found| known == found || known.starts_with('{'))
            });
            fits && segments.next().is_none()
        };
        ROUTES.iter().find(|route| matches(route.path))
    }

    /// The dialect of a body that has these fields; that of the path while it is not understood.
    pub(super) fn dialect(&self, has: impl Fn(&str) -> bool) -> &'static Dialect {
        let told = self.by_field.iter().find(|(field, _)| has(field));
        told.map_or(self.dialect, |(_, dialect)| dialect)
    }

    /// The dialect of the path.
    pub(super) fn default_dialect(&self) -> &'static Dialect {
        self.dialect
    }
}

impl Dialect {
    /// The dialect in which to speak of a path, known or not.
    pub(super) fn of_path(path: &str) -> &'static Dialect {
        match Route::of_path(path) {
            Some(route) => route.dialect,
            None if path.starts_with("/v1/") => &table::V1,
            None if path.starts_with("/v2/") => &table::V2,
            None if path == "/info" => &table::TEI,
            None => &table::OWN,
        }
    }

    /// The scale of its scores.
    pub(super) fn scores(&self, raw_scores: bool) -> Scores {
        match self.scale {
            _ if raw_scores => Scores::AsTheModel { logits: true },
            Scale::Logits => Scores::AsTheModel { logits: true },
            Scale::Both => Scores::AsTheModel { logits: false },
            Scale::Relevance => Scores::Relevance,
        }
    }

    /// The body of an answer.
    pub(super) fn answer(&self, ranking: &Ranking) -> Result<Vec<u8>, serde_json::Error> {
        (self.answer)(ranking)
    }

    /// The body of a failure.
    pub(super) fn failure(&self, failure: &Failure) -> Value {
        (self.failure)(failure)
    }
}

/// One is another's equal if it has its name.
impl PartialEq for Dialect {
    fn eq(&self, other: &Dialect) -> bool {
        self.name == other.name
    }
}

impl std::fmt::Debug for Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_row() {
        for route in ROUTES {
            let same = ROUTES.iter().filter(|other| other.path == route.path).count();
            assert_eq!(same, 1, "{}", route.path);
            assert!(
                crate::telemetry::gateway_names::ROUTES.contains(&route.label),
                "{}",
                route.label
            );
        }
        let path = |path| Route::of_path(path).map(|route| route.path);
        assert_eq!(path("/v1/rerank"), Some("/v1/rerank"));
        let nvidia = "/v1/retrieval/{organization}/{model}/reranking";
        assert_eq!(path("/v1/retrieval/nvidia/reranker/reranking"), Some(nvidia));
        for other in [
            "/v1/retrieval/nvidia/reranking",
            "/v1/rerank/",
            "/",
            "",
            "/v1/retrieval/a/b/c/reranking",
        ] {
            assert_eq!(path(other), None, "{other}");
        }
    }
}
