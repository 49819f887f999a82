//! From logits to rankings. Pure.

use crate::model::spec::ScoreActivation;
use crate::protocol::{RankedDocument, Ranking, Request};

/// Rankings of `request`, best first, at most `top_k`, and of those none whose score as it is returned is below `min_score`. `logits`:
/// one for each document, in the request's order, all finite.
///
/// Sorting goes by the logit, not by the score: an activation saturates (two logits of 20 and 25 are both 1.0 after a
/// sigmoid in fp32), and order must not be lost there. Equal logits keep their ANN order.
pub fn rank(request: Request, logits: &[f32], activation: ScoreActivation) -> Vec<Ranking> {
    debug_assert_eq!(request.documents.len(), logits.len());
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // A stable sort: ties keep their order. (`partial_cmp`, so that 0.0 and -0.0 tie.)
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap_or(std::cmp::Ordering::Equal));
    order.truncate(request.top_k.unwrap_or(usize::MAX));
    let score = |index: usize| {
        if request.raw_scores {
            logits[index]
        } else {
            activation.apply(logits[index])
        }
    };
    if let Some(least) = request.min_score {
        // Best first, and activations are monotone: from the first one below on, all are.
        let kept = order.iter().take_while(|&&index| score(index) >= least).count();
        order.truncate(kept);
    }
    let mut documents: Vec<Option<_>> = request.documents.into_iter().map(Some).collect();
    order
        .into_iter()
        .map(|index| {
            let document = documents[index].take();
            let (text, id) = document.map_or((None, None), |document| (Some(document.text), document.id));
            Ranking {
                index,
                score: score(index),
                id,
                document: text
                    .filter(|_| request.return_documents)
                    .map(|text| RankedDocument { text }),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Encoding;

    fn request(json: &str) -> Request {
        Request::decode(Encoding::Json, json.as_bytes()).unwrap()
    }

    #[test]
    fn best_first_and_ties_in_ann_order() {
        let rankings = rank(
            request(r#"{"query":"q","documents":["a","b","c","d"]}"#),
            &[1.0, 2.0, 1.0, 2.0],
            ScoreActivation::Identity,
        );
        assert_eq!(rankings.iter().map(|r| r.index).collect::<Vec<_>>(), [1, 3, 0, 2]);
    }

    #[test]
    fn saturated_scores_keep_the_order_of_their_logits() {
        let rankings = rank(
            request(r#"{"query":"q","documents":["a","b"]}"#),
            &[40.0, 50.0],
            ScoreActivation::Sigmoid,
        );
        assert_eq!(rankings.iter().map(|r| r.index).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(rankings[0].score, rankings[1].score);
    }

    #[test]
    fn top_k_ids_and_documents() {
        let rankings = rank(
            request(
                r#"{"query":"q","documents":[{"text":"a","id":7},{"text":"b","id":"x"},"c"],"top_k":2,"return_documents":true,"raw_scores":true}"#,
            ),
            &[0.5, 3.0, 1.0],
            ScoreActivation::Sigmoid,
        );
        assert_eq!(rankings.len(), 2);
        assert_eq!((rankings[0].index, rankings[0].score), (1, 3.0));
        assert_eq!(rankings[0].document.as_ref().unwrap().text, "b");
        assert!(rankings[0].id.is_some() && rankings[1].id.is_none());
    }

    #[test]
    fn the_least_score_is_held_to_the_score_as_it_is_returned() {
        let ranked = |more: &str, logits: &[f32], activation| {
            let json = format!(r#"{{"query":"q","documents":["a","b","c"],{more}}}"#);
            rank(request(&json), logits, activation)
                .iter()
                .map(|ranking| ranking.index)
                .collect::<Vec<_>>()
        };
        // sigmoid(0.0) = 0.5: a score that is the least itself stays.
        let logits = [-1.0, 0.0, 2.0];
        assert_eq!(ranked(r#""min_score":0.5"#, &logits, ScoreActivation::Sigmoid), [2, 1]);
        assert_eq!(
            ranked(
                r#""min_score":0.5,"raw_scores":true"#,
                &logits,
                ScoreActivation::Sigmoid
            ),
            [2]
        );
        assert_eq!(
            ranked(r#""min_score":0.5,"top_k":1"#, &logits, ScoreActivation::Sigmoid),
            [2]
        );
        assert!(ranked(r#""min_score":1.5"#, &logits, ScoreActivation::Sigmoid).is_empty());
        // A score in single precision, sent back as it was written.
        assert_eq!(
            ranked(r#""min_score":0.7"#, &[0.7, 0.69, 0.71], ScoreActivation::Identity),
            [2, 0]
        );
    }

    #[test]
    fn nothing_to_rank() {
        assert!(
            rank(
                request(r#"{"query":"q","documents":[]}"#),
                &[],
                ScoreActivation::Identity
            )
            .is_empty()
        );
    }
}
