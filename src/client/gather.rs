//! How the answers to a call are put together. Pure.

use super::reranked::Missing;
use super::scatter::{self, Split};
use super::{AnnReason, Answer, CallError};
use crate::protocol::{RefusalKind, RefusalScope, ScoreActivation, Usage};

/// What came of a call.
#[derive(Debug, Default)]
pub(super) struct Scored {
    /// Candidates and their scores, best first, at most `top_k`.
    pub(super) rankings: Vec<(usize, f32)>,
    /// Candidates without a score, in ANN order, and why there are any.
    pub(super) unscored: Option<(Vec<usize>, Missing)>,
    /// Of the best `top_k`, those below the least score that was asked for.
    pub(super) below_min_score: usize,
    pub(super) activation: Option<ScoreActivation>,
    pub(super) model: Option<String>,
    pub(super) workers: Vec<String>,
    pub(super) usage: Usage,
}

impl Scored {
    /// Not one of `candidates` has a score.
    pub(super) fn nothing(candidates: usize, why: Missing) -> Scored {
        Scored {
            unscored: Some(((0..candidates).collect(), why)),
            ..Scored::default()
        }
    }

    /// Leaves out what is below the least score. (A worker of before `min_score` has not done it, and the parts of a call
    /// are merged by logits.)
    fn leave_out_below(&mut self, min_score: Option<f32>) {
        let Some(least) = min_score else { return };
        let best = self.rankings.len();
        self.rankings.retain(|(_, score)| *score >= least);
        self.below_min_score += best - self.rankings.len();
    }
}

/// The answer to a request with every candidate.
pub(super) fn whole(answer: Answer, min_score: Option<f32>) -> Scored {
    let rankings = answer.reply.rankings.iter();
    let below = answer.reply.below_min_score.unwrap_or(0);
    let mut scored = Scored {
        rankings: rankings.map(|ranking| (ranking.index, ranking.score)).collect(),
        unscored: None,
        below_min_score: usize::try_from(below).unwrap_or(usize::MAX),
        activation: answer.activation,
        model: Some(answer.reply.model),
        workers: answer.worker.into_iter().collect(),
        usage: answer.reply.usage,
    };
    scored.leave_out_below(min_score);
    scored
}

/// What the parts of a call have to have in common: the model and, where scores are wanted rather than logits, what
/// makes them of logits.
#[derive(Clone, Debug, PartialEq)]
struct Family {
    model: String,
    activation: ScoreActivation,
}

impl Family {
    fn of(answer: &Answer, raw_scores: bool) -> Option<Family> {
        Some(Family {
            model: answer.reply.model.clone(),
            activation: if raw_scores {
                ScoreActivation::Identity
            } else {
                answer.activation?
            },
        })
    }
}

/// Puts the answers to the parts of `split` together, which hold logits. Of several families that which has scored most
/// counts; what others have scored has no score.
pub(super) fn gather(
    split: Split,
    answers: Vec<Result<Answer, CallError>>,
    raw_scores: bool,
    top_k: Option<usize>,
    min_score: Option<f32>,
) -> Scored {
    let chosen = chosen_family(&split, &answers, raw_scores);
    let mut scored = Scored::default();
    let mut logits: Vec<(usize, f32)> = Vec::new();
    let mut missing: Vec<(Vec<usize>, Missing)> = Vec::new();
    for (part, answer) in split.parts.into_iter().zip(answers) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                missing.push((part, error.into()));
                continue;
            }
        };
        match Family::of(&answer, raw_scores) {
            None => missing.push((part, bad_reply("it does not name the model's activation"))),
            family if family != chosen => missing.push((part, bad_reply("it is another model's"))),
            _ => {
                // Replies are checked: their indices are places in the part.
                let rankings = answer.reply.rankings.iter();
                logits.extend(rankings.map(|ranking| (part[ranking.index], ranking.score)));
                add(&mut scored.usage, answer.reply.usage);
                scored.activation = scored.activation.or(answer.activation);
                let worker = answer.worker.filter(|worker| !scored.workers.contains(worker));
                scored.workers.extend(worker);
            }
        }
    }
    if !split.too_large.is_empty() {
        missing.push((
            split.too_large,
            too_large("a candidate alone is larger than a message may be"),
        ));
    }
    if !split.left_over.is_empty() {
        missing.push((
            split.left_over,
            too_large("more candidates than the parts of a call may hold"),
        ));
    }
    scored.rankings = scatter::merge(logits, top_k);
    if let Some(Family { model, activation }) = chosen {
        scored.model = Some(model);
        for (_, score) in &mut scored.rankings {
            *score = activation.apply(*score);
        }
    }
    scored.leave_out_below(min_score);
    scored.unscored = all_of(missing);
    scored
}

/// The family that has scored most candidates; of equals, the first.
fn chosen_family(split: &Split, answers: &[Result<Answer, CallError>], raw_scores: bool) -> Option<Family> {
    let mut families: Vec<(Family, usize)> = Vec::new();
    for (part, answer) in split.parts.iter().zip(answers) {
        let Some(family) = answer.as_ref().ok().and_then(|answer| Family::of(answer, raw_scores)) else {
            continue;
        };
        match families.iter_mut().find(|(known, _)| *known == family) {
            Some((_, pairs)) => *pairs += part.len(),
            None => families.push((family, part.len())),
        }
    }
    // `max_by_key` takes the last of equals: so backwards.
    let most = families.into_iter().rev().max_by_key(|(_, pairs)| *pairs);
    most.map(|(family, _)| family)
}

/// Everything that is missing, in ANN order, with the reason of the first.
fn all_of(mut missing: Vec<(Vec<usize>, Missing)>) -> Option<(Vec<usize>, Missing)> {
    missing.sort_by_key(|(indices, _)| indices.first().copied());
    let mut indices: Vec<usize> = missing
        .iter()
        .flat_map(|(indices, _)| indices.iter().copied())
        .collect();
    indices.sort_unstable();
    let (_, why) = missing.into_iter().next()?;
    Some((indices, why))
}

fn bad_reply(detail: &str) -> Missing {
    CallError::BadReply(detail.to_owned()).into()
}

fn too_large(detail: &str) -> Missing {
    Missing {
        reason: AnnReason::Refused(RefusalKind::TooLarge),
        detail: Some(detail.to_owned()),
        scope: Some(RefusalScope::Request),
    }
}

fn add(sum: &mut Usage, usage: Usage) {
    // A stranger\'s numbers may be anything.
    sum.pairs = sum.pairs.saturating_add(usage.pairs);
    sum.tokens = sum.tokens.saturating_add(usage.tokens);
    sum.truncated = sum.truncated.saturating_add(usage.truncated);
    sum.cached = sum.cached.saturating_add(usage.cached);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::{Ranking, Refusal, Reply, TimingsMs};

    /// An answer that ranks the places of a part by these logits, best first.
    fn answer(model: &str, activation: Option<ScoreActivation>, logits: &[(usize, f32)]) -> Result<Answer, CallError> {
        let rankings = logits.iter().map(|&(index, score)| Ranking {
            index,
            score,
            id: None,
            document: None,
        });
        Ok(Answer {
            reply: Reply {
                rankings: rankings.collect(),
                top_k_applied: false,
                below_min_score: None,
                model: model.to_owned(),
                usage: Usage {
                    pairs: logits.len() as u64,
                    tokens: u64::MAX / 2 + 1,
                    ..Usage::default()
                },
                timings_ms: TimingsMs::default(),
            },
            worker: Some("w".to_owned()),
            activation,
            elapsed: Duration::ZERO,
        })
    }

    fn split(parts: &[&[usize]]) -> Split {
        Split {
            parts: parts.iter().map(|part| part.to_vec()).collect(),
            ..Split::default()
        }
    }

    const SIGMOID: Option<ScoreActivation> = Some(ScoreActivation::Sigmoid);

    #[test]
    fn logits_order_and_the_activation_shows() {
        // Both saturate: by their scores they would tie, and the ANN order would win.
        let answers = vec![
            answer("m", SIGMOID, &[(0, 40.0), (1, 0.0)]),
            answer("m", SIGMOID, &[(1, 50.0), (0, -1.0)]),
        ];
        let scored = gather(split(&[&[0, 1], &[2, 3]]), answers, false, Some(3), None);
        assert_eq!(scored.rankings, [(3, 1.0), (0, 1.0), (1, 0.5)]);
        assert_eq!(scored.unscored, None);
        assert_eq!(
            (scored.model.as_deref(), &*scored.workers),
            (Some("m"), &["w".to_owned()][..])
        );
        assert_eq!((scored.usage.pairs, scored.usage.tokens), (4, u64::MAX));
    }

    #[test]
    fn the_least_score_is_held_to_what_the_activation_shows() {
        let answers = || {
            vec![
                answer("m", SIGMOID, &[(0, 40.0), (1, 0.0)]),
                answer("m", SIGMOID, &[(1, 50.0), (0, -1.0)]),
            ]
        };
        let parts = || split(&[&[0, 1], &[2, 3]]);
        let scored = gather(parts(), answers(), false, Some(3), Some(0.6));
        assert_eq!(
            (&*scored.rankings, scored.below_min_score),
            (&[(3, 1.0), (0, 1.0)][..], 1)
        );
        let scored = gather(parts(), answers(), true, None, Some(45.0));
        assert_eq!((&*scored.rankings, scored.below_min_score), (&[(3, 50.0)][..], 3));
        // A worker that knows nothing of it is helped out.
        let one = answer("m", SIGMOID, &[(0, 0.9), (1, 0.1)]).expect("an answer");
        let scored = whole(one, Some(0.5));
        assert_eq!((&*scored.rankings, scored.below_min_score), (&[(0, 0.9)][..], 1));
    }

    #[test]
    fn logits_stay_logits_where_they_are_wanted() {
        let answers = vec![answer("m", None, &[(0, 40.0)]), answer("m", SIGMOID, &[(0, 50.0)])];
        let scored = gather(split(&[&[0], &[1]]), answers, true, None, None);
        assert_eq!(scored.rankings, [(1, 50.0), (0, 40.0)]);
    }

    #[test]
    fn a_part_that_is_missing_leaves_its_candidates_unscored_with_the_first_reason() {
        let refused = || {
            Err(CallError::Refused {
                refusal: Refusal::overloaded("full"),
                worker: None,
            })
        };
        let late = || {
            Err(CallError::TimedOut {
                timeout: Duration::ZERO,
            })
        };
        let mut parts = split(&[&[1, 2], &[3], &[4]]);
        parts.too_large = vec![0];
        parts.left_over = vec![5];
        let scored = gather(
            parts,
            vec![late(), answer("m", SIGMOID, &[(0, 0.0)]), refused()],
            false,
            None,
            None,
        );
        assert_eq!(scored.rankings, [(3, 0.5)]);
        let (unscored, why) = scored.unscored.expect("some are missing");
        assert_eq!(unscored, [0, 1, 2, 4, 5]);
        assert_eq!(why.reason, AnnReason::Refused(RefusalKind::TooLarge));

        let scored = gather(split(&[&[0], &[1]]), vec![refused(), late()], false, None, None);
        assert!(scored.rankings.is_empty() && scored.model.is_none());
        let (_, why) = scored.unscored.expect("all are missing");
        assert_eq!(why.reason, AnnReason::Refused(RefusalKind::Overloaded));
        assert_eq!(why.detail.as_deref(), Some("full"));
    }

    #[test]
    fn scores_of_different_models_are_not_mixed() {
        let answers = vec![
            answer("old", SIGMOID, &[(0, 9.0)]),
            answer("new", SIGMOID, &[(1, 2.0), (0, 1.0)]),
            answer("old", Some(ScoreActivation::Identity), &[(0, 9.0)]),
            answer("new", None, &[(0, 9.0)]),
        ];
        let scored = gather(split(&[&[0], &[1, 2], &[3], &[4]]), answers, false, None, None);
        assert_eq!(
            scored.rankings.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
            [2, 1]
        );
        assert_eq!(scored.model.as_deref(), Some("new"));
        let (unscored, why) = scored.unscored.expect("some are missing");
        assert_eq!((unscored, why.reason), (vec![0, 3, 4], AnnReason::BadReply));
        // Of equals, the first.
        let answers = vec![answer("a", None, &[(0, 1.0)]), answer("b", None, &[(0, 2.0)])];
        let scored = gather(split(&[&[0], &[1]]), answers, true, None, None);
        assert_eq!(scored.model.as_deref(), Some("a"));
    }
}
