//! What an answer says beside its ranking: that there is none, that a part is missing, what was left out. Header alone would not do:
//! most clients show the body and nothing else.

use serde::Serialize;

use crate::client::{Order, Reranked};

/// Fields of an answer's top level; those that say nothing are not there.
#[derive(Debug, Default, Serialize)]
pub(in super::super) struct Notice {
    /// The documents are in the order they came in, their scores are synthetic: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) fallback: Option<&'static str>,
    /// Some documents were not scored; they come last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) partial: Option<PartialNotice>,
    /// How many of the best were left out for `min_score`; there if the request had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) below_min_score: Option<usize>,
    /// The same in words, and what was asked for and is not done; written where a dialect's clients look.
    #[serde(skip)]
    pub(in super::super) warnings: Vec<String>,
}

/// That a part of the documents has no score.
#[derive(Debug, Serialize)]
pub(in super::super) struct PartialNotice {
    unscored: usize,
    reason: &'static str,
}

impl Notice {
    /// What is to be said of this ranking.
    pub(in super::super) fn of<T>(reranked: &Reranked<T>, below_min_score: Option<usize>, unused: &[&str]) -> Notice {
        let mut warnings: Vec<String> = Vec::new();
        let fallback = match reranked.order {
            Order::Model => None,
            Order::Ann(reason) => {
                warnings.push(format!(
                    "nothing was ranked ({}): the documents are in the order they came in, and their scores mean nothing",
                    reason.name()
                ));
                Some(reason.name())
            }
        };
        let partial = reranked.partial.map(|partial| {
            warnings.push(format!(
                "not scored: {} documents ({}); they come last, in the order they came in, and their scores mean nothing",
                partial.unscored,
                partial.reason.name()
            ));
            PartialNotice {
                unscored: partial.unscored,
                reason: partial.reason.name(),
            }
        });
        warnings.extend(unused.iter().map(|&text| text.to_owned()));
        Notice {
            fallback,
            partial,
            below_min_score,
            warnings,
        }
    }
}
