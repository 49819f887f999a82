//! How a list of candidates is split into requests, and how their scores are put together again. Pure.
//!
//! Scores do not depend on what else is in a request, and merging goes by the logit: so the order is that of one
//! request with all candidates, ties in ANN order.

use std::cmp::Ordering;

/// What a part may hold, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of the candidates of a part, as they are encoded.
    pub(super) bytes_max: usize,
    /// Candidates from which on another worker may take a share.
    pub(super) split_pairs: Option<usize>,
    /// Parts at most.
    pub(super) parts_max: usize,
}

/// Candidates by their places in ANN order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    /// Each in ANN order, none empty.
    pub(super) parts: Vec<Vec<usize>>,
    /// No message can hold them.
    pub(super) too_large: Vec<usize>,
    /// For which there are not enough parts: the last in ANN order.
    pub(super) left_over: Vec<usize>,
}

/// Splits candidates whose encoded sizes are `bytes`: as few parts as the bounds allow, with equally many candidates
/// where their sizes allow it.
pub(super) fn split(bytes: &[usize], bounds: Bounds) -> Split {
    let (fitting, too_large): (Vec<usize>, Vec<usize>) =
        (0..bytes.len()).partition(|&index| bytes[index] <= bounds.bytes_max);
    let parts_max = bounds.parts_max.max(1);
    // A wish of how many share is met within the bound on parts; the bound on bytes is none that can be bent.
    let shared_by = bounds
        .split_pairs
        .map_or(1, |pairs| fitting.len().div_ceil(pairs.max(1)).min(parts_max));
    let needed = fill(bytes, &fitting, bounds.bytes_max, usize::MAX).len();
    let wanted = shared_by.max(needed).max(1);
    let evenly = fill(bytes, &fitting, bounds.bytes_max, fitting.len().div_ceil(wanted).max(1));
    // Candidates of very different sizes may need more parts that way than they have to.
    let mut parts = if evenly.len() <= parts_max {
        evenly
    } else {
        fill(bytes, &fitting, bounds.bytes_max, usize::MAX)
    };
    let left_over = match parts.len() > parts_max {
        true => parts.split_off(parts_max).concat(),
        false => Vec::new(),
    };
    Split {
        parts,
        too_large,
        left_over,
    }
}

/// Parts of at most so many bytes and candidates, filled one after the other.
fn fill(bytes: &[usize], fitting: &[usize], bytes_max: usize, pairs_max: usize) -> Vec<Vec<usize>> {
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut filled = 0;
    for &index in fitting {
        match parts.last_mut() {
            Some(part) if part.len() < pairs_max && bytes[index] <= bytes_max - filled => {
                part.push(index);
                filled += bytes[index];
            }
            _ => {
                parts.push(vec![index]);
                filled = bytes[index];
            }
        }
    }
    parts
}

/// Puts logits together, best first; equal ones in the order of their indices, which is ANN order. At most `top_k`.
pub(super) fn merge(mut logits: Vec<(usize, f32)>, top_k: Option<usize>) -> Vec<(usize, f32)> {
    // `partial_cmp`, so that 0.0 and -0.0 tie; all are finite.
    logits.sort_unstable_by(|(index_a, a), (index_b, b)| {
        b.partial_cmp(a).unwrap_or(Ordering::Equal).then(index_a.cmp(index_b))
    });
    logits.truncate(top_k.unwrap_or(usize::MAX));
    logits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDE: Bounds = Bounds {
        bytes_max: 1000,
        split_pairs: None,
        parts_max: 8,
    };

    #[test]
    fn what_fits_stays_whole() {
        let split = split(&[10; 50], WIDE);
        assert_eq!(split.parts, [(0..50).collect::<Vec<_>>()]);
        assert!(split.too_large.is_empty() && split.left_over.is_empty());
    }

    #[test]
    fn shares_are_even() {
        let sizes = |split: Split| split.parts.iter().map(Vec::len).collect::<Vec<_>>();
        let shared = |pairs, parts_max| Bounds {
            split_pairs: Some(pairs),
            parts_max,
            ..WIDE
        };
        assert_eq!(sizes(split(&[1; 50], shared(20, 8))), [17, 17, 16]);
        assert_eq!(sizes(split(&[1; 20], shared(20, 8))), [20]);
        assert_eq!(sizes(split(&[1; 90], shared(10, 3))), [30, 30, 30]);
        // By bytes: four hundred each would be three of 250 and one, or two of two.
        assert_eq!(sizes(split(&[300; 6], WIDE)), [3, 3]);
        assert_eq!(sizes(split(&[300; 4], WIDE)), [2, 2]);
    }

    #[test]
    fn what_no_message_holds_and_what_is_too_much_stays_behind() {
        let bounds = Bounds { parts_max: 2, ..WIDE };
        let split = split(&[600, 1001, 600, 600, 300], bounds);
        assert_eq!(split.parts, [vec![0], vec![2]]);
        assert_eq!(split.too_large, [1]);
        assert_eq!(split.left_over, [3, 4]);
    }

    #[test]
    fn nothing_makes_no_part() {
        assert_eq!(split(&[], WIDE), Split::default());
    }

    fn bounds() -> impl Strategy<Value = Bounds> {
        (1usize..2000, prop::option::of(0usize..40), 0usize..10).prop_map(|(bytes_max, split_pairs, parts_max)| {
            Bounds {
                bytes_max,
                split_pairs,
                parts_max,
            }
        })
    }

    proptest! {
        #[test]
        fn every_candidate_is_in_one_place_and_no_bound_is_broken(
            bytes in prop::collection::vec(0usize..600, 0..120),
            bounds in bounds(),
        ) {
            let split = split(&bytes, bounds);
            let mut all: Vec<usize> = split.parts.concat();
            let sent = all.clone();
            prop_assert!(sent.is_sorted(), "parts are in ANN order");
            prop_assert!(split.parts.len() <= bounds.parts_max.max(1));
            for part in &split.parts {
                prop_assert!(!part.is_empty());
                prop_assert!(part.iter().map(|&index| bytes[index]).sum::<usize>() <= bounds.bytes_max);
            }
            prop_assert!(split.too_large.iter().all(|&index| bytes[index] > bounds.bytes_max));
            if let (Some(last), Some(first)) = (sent.last(), split.left_over.first()) {
                prop_assert!(last < first, "what is left over comes last");
            }
            all.extend(&split.too_large);
            all.extend(&split.left_over);
            all.sort_unstable();
            prop_assert_eq!(all, (0..bytes.len()).collect::<Vec<_>>());
        }

        /// Split in any way and merged by logit, the order is that of no split: best first, ties in ANN order.
        #[test]
        fn any_split_gives_the_order_of_none(
            // Few different logits: many ties, also of 0.0 and -0.0.
            logits in prop::collection::vec(
                prop::sample::select(vec![-30.0f32, -1.5, -0.0, 0.0, 1.5, 40.0, 50.0]),
                1..60,
            ),
            bytes in 0usize..600,
            bounds in bounds(),
            top_k in prop::option::of(1usize..70),
        ) {
            let mut whole: Vec<(usize, f32)> = logits.iter().copied().enumerate().collect();
            whole.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
            whole.truncate(top_k.unwrap_or(usize::MAX));
            let bounds = Bounds { parts_max: logits.len(), ..bounds };
            let split = split(&vec![bytes.min(bounds.bytes_max); logits.len()], bounds);
            // As workers answer: each part ranked by itself, and cut.
            let scored = split.parts.iter().flat_map(|part| {
                let mut part: Vec<(usize, f32)> = part.iter().map(|&index| (index, logits[index])).collect();
                part.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
                part.truncate(top_k.unwrap_or(usize::MAX));
                part
            });
            prop_assert_eq!(merge(scored.collect(), top_k), whole);
        }
    }
}
