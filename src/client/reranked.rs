//! What a call brings back: the caller's items in their new order, and how that order came about.

use std::fmt;
use std::time::Duration;

use super::CallError;
use crate::protocol::{RefusalKind, RefusalScope, ScoreActivation, Usage};

/// The caller's items after a call, whatever became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reranked<T> {
    /// The items in their new order, at most `top_k`.
    ///
    /// In the model's order: best first, equal logits in ANN order, then those without a score (see `partial`) in ANN
    /// order. In ANN order: the first `top_k` of the items as they came, without scores.
    pub items: Vec<Ranked<T>>,
    /// Whose order it is.
    pub order: Order,
    /// Only where `order` is the model's: that some candidates have no score, and why.
    pub partial: Option<Partial>,
    /// How many of the best `top_k` are not among `items`, since their score is below the call's `min_score`.
    pub below_min_score: usize,
    /// What made scores of the model's logits, or would have where logits were asked for. `None` in ANN order, and if the
    /// worker did not say.
    pub activation: Option<ScoreActivation>,
    /// The model that gave the scores. `None` in ANN order, or where nothing had to be asked.
    pub model: Option<String>,
    /// The ids of the workers that gave the scores, each once.
    pub workers: Vec<String>,
    /// What the workers computed for the scores that were used.
    pub usage: Usage,
    /// Why there is no ranking, or not a whole one, in words for people and logs: a worker's message or what was wrong
    /// with its reply. Without request content; bounded.
    pub detail: Option<String>,
    /// The time that the call took in all.
    pub elapsed: Duration,
}

/// An item in its new place.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked<T> {
    /// The caller's own item.
    pub item: T,
    /// Its place in the call's items, from 0: its place in ANN order.
    pub index: usize,
    /// How well it answers the query; finite. `None` in ANN order, and for what was not scored in time.
    pub score: Option<f32>,
}

/// Whose order the items are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// The model's. (Also of a call with nothing to put in order.)
    Model,
    /// That of the search before: there is no ranking, for this reason.
    Ann(AnnReason),
}

/// That a part of the candidates has no score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Partial {
    /// How many candidates of the call have none. With `top_k`, `items` may hold fewer of them, or none.
    pub unscored: usize,
    /// Why; of several reasons, that of the earliest candidates.
    pub reason: AnnReason,
}

/// Why there is no ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AnnReason {
    /// Nothing came within the budget.
    TimedOut,
    /// No worker listens: none runs, or all are full, off or stopping.
    NoResponders,
    /// A worker refused; or, with `too_large`, a candidate does not even fit into a message.
    Refused(RefusalKind),
    /// There is no connection to NATS at present. It is taken up again by itself.
    Disconnected,
    /// The answer was not one that this request can have.
    BadReply,
    /// Calls have failed or were slow of late: nothing was asked.
    CircuitOpen,
    /// Reranking is switched off: nothing was asked.
    SwitchedOff,
}

impl AnnReason {
    /// Every reason, each kind of refusal by itself.
    pub const ALL: [AnnReason; 13] = [
        AnnReason::TimedOut,
        AnnReason::NoResponders,
        AnnReason::Disconnected,
        AnnReason::BadReply,
        AnnReason::CircuitOpen,
        AnnReason::SwitchedOff,
        AnnReason::Refused(RefusalKind::InvalidRequest),
        AnnReason::Refused(RefusalKind::UnknownModel),
        AnnReason::Refused(RefusalKind::TooLarge),
        AnnReason::Refused(RefusalKind::Overloaded),
        AnnReason::Refused(RefusalKind::Unavailable),
        AnnReason::Refused(RefusalKind::DeadlineExceeded),
        AnnReason::Refused(RefusalKind::Internal),
    ];

    /// A short name that stays the same: for metrics, logs and headers. A refusal goes by its kind's name.
    pub fn name(self) -> &'static str {
        match self {
            AnnReason::TimedOut => "timed_out",
            AnnReason::NoResponders => "no_responders",
            AnnReason::Refused(kind) => kind.name(),
            AnnReason::Disconnected => "disconnected",
            AnnReason::BadReply => "bad_reply",
            AnnReason::CircuitOpen => "circuit_open",
            AnnReason::SwitchedOff => "switched_off",
        }
    }
}

impl fmt::Display for AnnReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AnnReason::TimedOut => "no answer within the budget",
            AnnReason::NoResponders => "no worker listens",
            AnnReason::Refused(kind) => return write!(f, "refused: {kind}"),
            AnnReason::Disconnected => "not connected to NATS",
            AnnReason::BadReply => "the answer makes no sense",
            AnnReason::CircuitOpen => "not asked: calls have failed of late",
            AnnReason::SwitchedOff => "not asked: switched off",
        })
    }
}

impl Order {
    /// The reason for ANN order; `None` in the model's.
    pub fn fallback(self) -> Option<AnnReason> {
        match self {
            Order::Model => None,
            Order::Ann(reason) => Some(reason),
        }
    }
}

impl<T> Reranked<T> {
    /// Whether the model ordered the items (all of them, but for `partial`).
    pub fn is_reranked(&self) -> bool {
        self.order == Order::Model
    }

    /// The items alone, in their new order.
    pub fn into_items(self) -> Vec<T> {
        self.items.into_iter().map(|ranked| ranked.item).collect()
    }

    /// The items alone, in their new order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|ranked| &ranked.item)
    }

    /// The first `top_k` items as they came.
    pub(super) fn ann(items: Vec<T>, top_k: Option<usize>, missing: Missing, elapsed: Duration) -> Reranked<T> {
        let items = items.into_iter().enumerate().take(top_k.unwrap_or(usize::MAX));
        Reranked {
            items: items
                .map(|(index, item)| Ranked {
                    item,
                    index,
                    score: None,
                })
                .collect(),
            order: Order::Ann(missing.reason),
            partial: None,
            below_min_score: 0,
            activation: None,
            model: None,
            workers: Vec::new(),
            usage: Usage::default(),
            detail: missing.detail,
            elapsed,
        }
    }
}

/// Why a request brought no scores, with words for people where there are any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) reason: AnnReason,
    pub(super) detail: Option<String>,
    /// Of a refusal: whom it says something about.
    pub(super) scope: Option<RefusalScope>,
}

impl From<AnnReason> for Missing {
    fn from(reason: AnnReason) -> Self {
        Self {
            reason,
            detail: None,
            scope: None,
        }
    }
}

impl From<CallError> for Missing {
    fn from(error: CallError) -> Self {
        let scope = match &error {
            CallError::Refused { refusal, .. } => Some(refusal.scope),
            CallError::TooLarge { .. } | CallError::InvalidSubject { .. } => Some(RefusalScope::Request),
            _ => None,
        };
        let (reason, detail) = match error {
            CallError::TimedOut { .. } => (AnnReason::TimedOut, None),
            CallError::NoResponders { .. } => (AnnReason::NoResponders, None),
            CallError::Refused { refusal, .. } => (AnnReason::Refused(refusal.kind), Some(refusal.message)),
            CallError::Disconnected => (AnnReason::Disconnected, None),
            CallError::TooLarge { .. } => (AnnReason::Refused(RefusalKind::TooLarge), Some(error.to_string())),
            // The builder lets no such subject pass.
            CallError::InvalidSubject { .. } => {
                (AnnReason::Refused(RefusalKind::InvalidRequest), Some(error.to_string()))
            }
            CallError::BadReply(complaint) => (AnnReason::BadReply, Some(complaint)),
        };
        Missing { reason, detail, scope }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        for (place, reason) in AnnReason::ALL.into_iter().enumerate() {
            let name = reason.name();
            assert!(
                AnnReason::ALL[..place].iter().all(|other| other.name() != name),
                "{name}"
            );
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{name}"
            );
        }
        for kind in RefusalKind::ALL {
            assert!(AnnReason::ALL.contains(&AnnReason::Refused(kind)));
        }
    }

    #[test]
    fn ann_order_is_cut_to_top_k() {
        let reranked = Reranked::ann(
            vec!["a", "b", "c"],
            Some(2),
            AnnReason::TimedOut.into(),
            Duration::from_millis(1),
        );
        assert_eq!(reranked.order, Order::Ann(AnnReason::TimedOut));
        assert_eq!(
            reranked.items.iter().map(|ranked| ranked.index).collect::<Vec<_>>(),
            [0, 1]
        );
        assert!(reranked.items.iter().all(|ranked| ranked.score.is_none()));
        assert_eq!(reranked.into_items(), ["a", "b"]);
    }
}
