//! Scores as the dialects give them.

use serde::Serialize;

use crate::client::{Order, Ranked, Reranked};

/// What the scores of an answer mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Scores {
    /// What the model gives: its logit, or that after its own activation.
    AsTheModel {
        /// The logit.
        logits: bool,
    },
    /// From 0 to 1: the sigmoid of the logit, whatever the model's own activation is.
    Relevance,
}

/// A score to be written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(in super::super) enum Score {
    /// As it came from a worker: written with the digits that lead back to it.
    Single(f32),
    /// Worked out here.
    Double(f64),
}

impl Scores {
    /// Whether the workers are to be asked for logits.
    pub(in super::super) fn wants_logits(self) -> bool {
        match self {
            Scores::AsTheModel { logits } => logits,
            Scores::Relevance => true,
        }
    }

    /// A score for each item of a call with so many documents. In ANN order `1 − i/n`; what has no score in the model's
    /// order falls from the last that has one.
    pub(in super::super) fn of<T>(self, reranked: &Reranked<T>, documents: usize) -> Vec<Score> {
        if let Order::Ann(_) = reranked.order {
            return (0..reranked.items.len())
                .map(|place| Score::Double(1.0 - place as f64 / documents.max(1) as f64))
                .collect();
        }
        let scored: Vec<Score> = reranked.items.iter().filter_map(|item| self.own(item)).collect();
        let missing = reranked.items.len() - scored.len();
        let last = match scored.last() {
            Some(Score::Single(score)) => f64::from(*score),
            Some(Score::Double(score)) => *score,
            None => 1.0,
        };
        let below = (1..=missing).map(|place| {
            Score::Double(match self {
                Scores::Relevance => last * (1.0 - place as f64 / (missing + 1) as f64),
                Scores::AsTheModel { .. } => last - place as f64,
            })
        });
        scored.iter().copied().chain(below).collect()
    }

    fn own<T>(self, item: &Ranked<T>) -> Option<Score> {
        let score = item.score?;
        Some(match self {
            Scores::AsTheModel { .. } => Score::Single(score),
            Scores::Relevance => Score::Double(sigmoid(score)),
        })
    }
}

/// In double precision: single would make 1 of every logit above 17, and the order could no longer be read off.
fn sigmoid(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::AnnReason;
    use crate::protocol::Usage;

    fn reranked(order: Order, scores: &[Option<f32>]) -> Reranked<()> {
        let items = scores.iter().enumerate();
        Reranked {
            items: items.map(|(index, &score)| Ranked { item: (), index, score }).collect(),
            order,
            partial: None,
            model: None,
            workers: Vec::new(),
            usage: Usage::default(),
            detail: None,
            elapsed: Duration::ZERO,
        }
    }

    fn numbers(scores: &[Score]) -> Vec<f64> {
        let number = |score: &Score| match *score {
            Score::Single(score) => f64::from(score),
            Score::Double(score) => score,
        };
        scores.iter().map(number).collect()
    }

    #[test]
    fn ann_order_falls_from_one_and_stays_above_zero() {
        let ann = reranked(Order::Ann(AnnReason::TimedOut), &[None, None]);
        assert_eq!(numbers(&Scores::Relevance.of(&ann, 4)), [1.0, 0.75]);
        assert_eq!(numbers(&Scores::AsTheModel { logits: false }.of(&ann, 2)), [1.0, 0.5]);
    }

    #[test]
    fn relevance_keeps_the_order_of_large_logits_within_zero_and_one() {
        let logits = [
            Some(30.0),
            Some(20.0),
            Some(17.5),
            Some(0.0),
            Some(-20.0),
            Some(-90.0),
            Some(-700.0),
        ];
        let scores = numbers(&Scores::Relevance.of(&reranked(Order::Model, &logits), 7));
        assert_eq!(scores[3], 0.5);
        assert!(scores.windows(2).all(|pair| pair[0] > pair[1]), "{scores:?}");
        assert!(scores.iter().all(|score| *score > 0.0 && *score < 1.0), "{scores:?}");
        let extreme = reranked(Order::Model, &[Some(f32::MAX), Some(f32::MIN)]);
        assert_eq!(numbers(&Scores::Relevance.of(&extreme, 2)), [1.0, 0.0]);
    }

    #[test]
    fn what_has_no_score_falls_from_the_last_that_has_one() {
        let part = reranked(Order::Model, &[Some(2.0), Some(-1.0), None, None]);
        assert_eq!(
            numbers(&Scores::AsTheModel { logits: true }.of(&part, 4)),
            [2.0, -1.0, -2.0, -3.0]
        );
        let relevance = numbers(&Scores::Relevance.of(&part, 4));
        assert!(
            relevance.windows(2).all(|pair| pair[0] > pair[1]) && relevance[3] > 0.0,
            "{relevance:?}"
        );
    }

    #[test]
    fn a_models_score_is_written_with_its_own_digits() {
        assert_eq!(
            serde_json::to_string(&Score::Single(8.31)).ok().as_deref(),
            Some("8.31")
        );
    }
}
