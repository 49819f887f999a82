//! Scores as the dialects give them.

use serde::Serialize;

use crate::client::{Order, Ranked, Reranked};
use crate::protocol::ScoreActivation;

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

/// What stands for scores where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum FallbackScores {
    /// Falling from 1, above 0: whoever cuts by a threshold keeps documents.
    Descending,
    /// 0: whoever cuts by a threshold keeps none.
    Zero,
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
    /// order falls from the last that has one. Or 0, where that is wanted (in the model's order no more than the last).
    pub(in super::super) fn of<T>(
        self,
        reranked: &Reranked<T>,
        documents: usize,
        fallback: FallbackScores,
    ) -> Vec<Score> {
        let zero = fallback == FallbackScores::Zero;
        if let Order::Ann(_) = reranked.order {
            return (0..reranked.items.len())
                .map(|place| 1.0 - place as f64 / documents.max(1) as f64)
                .map(|score| Score::Double(if zero { 0.0 } else { score }))
                .collect();
        }
        let scored: Vec<Score> = reranked.items.iter().filter_map(|item| self.own(item)).collect();
        match self {
            Scores::Relevance => Score::continued(scored, reranked.items.len(), fallback),
            Scores::AsTheModel { .. } => {
                let last = scored.last().map_or(1.0, |score| score.number());
                let missing = reranked.items.len() - scored.len();
                let below = (1..=missing).map(|place| if zero { last.min(0.0) } else { last - place as f64 });
                scored.iter().copied().chain(below.map(Score::Double)).collect()
            }
        }
    }

    fn own<T>(self, item: &Ranked<T>) -> Option<Score> {
        let score = item.score?;
        Some(match self {
            Scores::AsTheModel { .. } => Score::Single(score),
            Scores::Relevance => Score::Double(sigmoid(score)),
        })
    }
}

impl Score {
    fn number(self) -> f64 {
        match self {
            Score::Single(score) => f64::from(score),
            Score::Double(score) => score,
        }
    }

    /// Scores from 0 to 1, as many as `count`: those that are missing fall from the last that is there, or are 0.
    pub(super) fn continued(scored: Vec<Score>, count: usize, fallback: FallbackScores) -> Vec<Score> {
        let last = scored.last().map_or(1.0, |score| score.number());
        let missing = count.saturating_sub(scored.len());
        let below = (1..=missing).map(|place| match fallback {
            FallbackScores::Descending => last * (1.0 - place as f64 / (missing + 1) as f64),
            FallbackScores::Zero => 0.0,
        });
        scored.iter().copied().chain(below.map(Score::Double)).collect()
    }

    /// A model's score on the scale from 0 to 1; one that came of this activation. (Of an unknown one, as far as the number
    /// tells.)
    pub(super) fn relevance(self, activation: Option<ScoreActivation>) -> Score {
        match (self, activation) {
            (Score::Single(score), Some(ScoreActivation::Identity)) => Score::Double(sigmoid(score)),
            (Score::Single(score), Some(ScoreActivation::Tanh)) => {
                // The logit's sigmoid; what has saturated is as far as single precision goes.
                let logit = f64::from(score).clamp(-1.0 + f64::EPSILON, 1.0 - f64::EPSILON).atanh();
                Score::Double(1.0 / (1.0 + (-logit).exp()))
            }
            (Score::Single(score), None) if !(0.0..=1.0).contains(&score) => Score::Double(sigmoid(score)),
            (score, _) => score,
        }
    }

    /// Whether it is at least this one, which a request gave. A score in single precision is held to it in single precision,
    /// so that one that was written and sent back is not below itself.
    pub(in super::super) fn reaches(self, least: f32) -> bool {
        match self {
            Score::Single(score) => score >= least,
            Score::Double(score) => score >= f64::from(least) || score as f32 == least,
        }
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
            below_min_score: 0,
            activation: None,
            model: None,
            workers: Vec::new(),
            usage: Usage::default(),
            detail: None,
            elapsed: Duration::ZERO,
        }
    }

    fn numbers(scores: &[Score]) -> Vec<f64> {
        scores.iter().map(|score| score.number()).collect()
    }

    #[test]
    fn ann_order_falls_from_one_and_stays_above_zero() {
        let ann = reranked(Order::Ann(AnnReason::TimedOut), &[None, None]);
        assert_eq!(
            numbers(&Scores::Relevance.of(&ann, 4, FallbackScores::Descending)),
            [1.0, 0.75]
        );
        assert_eq!(
            numbers(&Scores::AsTheModel { logits: false }.of(&ann, 2, FallbackScores::Descending)),
            [1.0, 0.5]
        );
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
        let scores = numbers(&Scores::Relevance.of(&reranked(Order::Model, &logits), 7, FallbackScores::Descending));
        assert_eq!(scores[3], 0.5);
        assert!(scores.windows(2).all(|pair| pair[0] > pair[1]), "{scores:?}");
        assert!(scores.iter().all(|score| *score > 0.0 && *score < 1.0), "{scores:?}");
        let extreme = reranked(Order::Model, &[Some(f32::MAX), Some(f32::MIN)]);
        assert_eq!(
            numbers(&Scores::Relevance.of(&extreme, 2, FallbackScores::Descending)),
            [1.0, 0.0]
        );
    }

    #[test]
    fn what_has_no_score_falls_from_the_last_that_has_one() {
        let part = reranked(Order::Model, &[Some(2.0), Some(-1.0), None, None]);
        assert_eq!(
            numbers(&Scores::AsTheModel { logits: true }.of(&part, 4, FallbackScores::Descending)),
            [2.0, -1.0, -2.0, -3.0]
        );
        let relevance = numbers(&Scores::Relevance.of(&part, 4, FallbackScores::Descending));
        assert!(
            relevance.windows(2).all(|pair| pair[0] > pair[1]) && relevance[3] > 0.0,
            "{relevance:?}"
        );
    }

    #[test]
    fn zeros_stay_behind_what_has_a_score() {
        let ann = reranked(Order::Ann(AnnReason::TimedOut), &[None, None]);
        assert_eq!(
            numbers(&Scores::Relevance.of(&ann, 4, FallbackScores::Zero)),
            [0.0, 0.0]
        );
        let part = reranked(Order::Model, &[Some(2.0), Some(-1.0), None]);
        let logits = Scores::AsTheModel { logits: true };
        assert_eq!(numbers(&logits.of(&part, 3, FallbackScores::Zero)), [2.0, -1.0, -1.0]);
        assert_eq!(numbers(&Scores::Relevance.of(&part, 3, FallbackScores::Zero))[2], 0.0);
    }

    #[test]
    fn relevance_of_a_models_own_score() {
        let of = |score, activation| numbers(&[Score::Single(score).relevance(activation)])[0];
        assert_eq!(of(0.0, Some(ScoreActivation::Identity)), 0.5);
        assert_eq!(of(0.25, Some(ScoreActivation::Sigmoid)), 0.25);
        let tanh = of(0.5_f32.tanh(), Some(ScoreActivation::Tanh));
        assert!((tanh - sigmoid(0.5)).abs() < 1e-7, "{tanh}");
        assert!(of(1.0, Some(ScoreActivation::Tanh)) < 1.0 && of(-1.0, Some(ScoreActivation::Tanh)) > 0.0);
        assert_eq!((of(0.25, None), of(2.0, None)), (0.25, sigmoid(2.0)));
    }

    #[test]
    fn a_models_score_is_written_with_its_own_digits() {
        assert_eq!(
            serde_json::to_string(&Score::Single(8.31)).ok().as_deref(),
            Some("8.31")
        );
    }
}
