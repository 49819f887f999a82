//! How the pairs of a batch lie in memory: one flat run of tokens, no padding anywhere.
//!
//! Pairs are sorted by length, so pairs of equal length are neighbours and form a group. Every linear layer works on
//! the flat `[tokens, hidden]` matrix; attention works group by group, and since all pairs of a group have the same
//! length, a group is a view of that matrix: nothing is padded, masked or copied.
//!
//! Behind the last pair come a few idle rows, up to a round number: the libraries below build and cache a plan for every
//! shape they meet (a megabyte each), so shapes must be few. At most one row in 32 of a large batch is idle; attention
//! never sees them.
//!
//! A pair that stands in the batch more than once is computed once; so equal pairs get equal logits to the last bit,
//! which matrix products alone do not promise for different rows.

use crate::model::tokenizer::PairTokens;

/// A run of pairs of one length, neighbours in the flat layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its first pair, counted in layout order.
    pub pair_start: usize,
    /// How many pairs.
    pub pairs: usize,
    /// Its first token in the flat run.
    pub token_start: usize,
    /// Tokens of each pair.
    pub length: usize,
}

/// The flat layout of a batch.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The place in the layout of each of the caller's pairs. Equal pairs share one.
    pub places: Vec<usize>,
    /// Groups of equal length, longest first.
    pub groups: Vec<Group>,
    /// Token ids, flat, `[rows]`.
    pub ids: Vec<i64>,
    /// Positions, flat, `[rows]`.
    pub positions: Vec<i64>,
    /// Type ids, flat, `[rows]`.
    pub types: Vec<i64>,
    /// Where each pair's first token lies, in layout order, then idle places up to a round number.
    pub firsts: Vec<i64>,
    pairs: usize,
    tokens: usize,
}

/// See [`Layout::packed`].
#[derive(Clone, Debug)]
pub struct Packed {
    /// The numbers.
    pub values: Vec<i32>,
    /// How many ids, positions and types.
    pub rows: usize,
    /// How many firsts.
    pub firsts: usize,
    /// How many pairs.
    pub pairs: usize,
}

impl Layout {
    /// Lays `pairs` out. `roberta_pad`: the padding id of a RoBERTa-type model, whose positions start behind it;
    /// `None` for BERT, whose positions start at 0.
    pub fn new(pairs: &[&PairTokens], roberta_pad: Option<u32>) -> Layout {
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        // Longest first: the largest allocations come first and later ones fit into what they leave. Then by content,
        // so that equal pairs are neighbours.
        let key = |pair: usize| (&pairs[pair].ids, &pairs[pair].type_ids);
        order.sort_by(|&a, &b| {
            pairs[b]
                .ids
                .len()
                .cmp(&pairs[a].ids.len())
                .then_with(|| key(a).cmp(&key(b)))
        });
        let tokens = pairs.iter().map(|pair| pair.ids.len()).sum();
        let mut layout = Layout {
            places: vec![0; pairs.len()],
            groups: Vec::new(),
            ids: Vec::with_capacity(tokens),
            positions: Vec::with_capacity(tokens),
            types: Vec::with_capacity(tokens),
            firsts: Vec::with_capacity(pairs.len()),
            pairs: 0,
            tokens: 0,
        };
        let mut previous = None;
        for index in order {
            if previous.is_none_or(|previous| key(previous) != key(index)) {
                layout.push(pairs[index], roberta_pad);
                previous = Some(index);
            }
            layout.places[index] = layout.firsts.len() - 1;
        }
        layout.pairs = layout.firsts.len();
        layout.tokens = layout.ids.len();
        let rows = rounded(layout.tokens);
        for column in [&mut layout.ids, &mut layout.positions, &mut layout.types] {
            column.resize(rows, 0);
        }
        layout.firsts.resize(rounded(layout.pairs), 0);
        layout
    }

    fn push(&mut self, pair: &PairTokens, roberta_pad: Option<u32>) {
        let (start, length) = (self.ids.len(), pair.ids.len());
        match self.groups.last_mut() {
            Some(group) if group.length == length => group.pairs += 1,
            _ => self.groups.push(Group {
                pair_start: self.firsts.len(),
                pairs: 1,
                token_start: start,
                length,
            }),
        }
        self.firsts.push(start as i64);
        self.ids.extend(pair.ids.iter().map(|&id| i64::from(id)));
        self.types.extend(pair.type_ids.iter().map(|&kind| i64::from(kind)));
        self.push_positions(&pair.ids, roberta_pad);
    }

    /// Pairs in the layout: those that differ.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// Rows of the flat matrix: tokens and idle rows.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Tokens in the batch.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// transformers counts RoBERTa positions over the tokens that are not padding, and gives padding its own id as a
    /// position. A text may spell the padding token out, so that rule is followed here to the letter.
    fn push_positions(&mut self, ids: &[u32], roberta_pad: Option<u32>) {
        match roberta_pad {
            None => self.positions.extend(0..ids.len() as i64),
            Some(pad) => {
                let mut last = i64::from(pad);
                self.positions.extend(ids.iter().map(|&id| {
                    if id == pad {
                        i64::from(pad)
                    } else {
                        last += 1;
                        last
                    }
                }));
            }
        }
    }

    /// All that the device is given, in one piece: ids, positions and types of the rows, the firsts, then twice where each
    /// pair ends (of all tokens, and where a pair is one row), each with a 0 before the first.
    pub fn packed(&self) -> Packed {
        let (rows, pairs) = (self.rows(), self.pairs);
        let mut values = Vec::with_capacity(3 * rows + self.firsts.len() + 2 * (pairs + 1));
        for column in [&self.ids, &self.positions, &self.types, &self.firsts] {
            // None of them reaches a number that 32 bits do not hold: tables are smaller, and so are batches.
            values.extend(column.iter().map(|&value| value as i32));
        }
        let mut end = 0;
        values.push(end);
        for group in &self.groups {
            for _ in 0..group.pairs {
                end += group.length as i32;
                values.push(end);
            }
        }
        values.extend(0..=pairs as i32);
        Packed {
            values,
            rows,
            firsts: self.firsts.len(),
            pairs,
        }
    }

    /// Scores in layout order (`[pairs()]`) back into the caller's order.
    pub fn unsort(&self, scores: &[f32]) -> Vec<f32> {
        self.places
            .iter()
            .map(|&place| scores.get(place).copied().unwrap_or(f32::NAN))
            .collect()
    }
}

/// The next number of a coarse scale: 16 to 32 steps an octave, steps of 8 at the least.
fn rounded(count: usize) -> usize {
    count.next_multiple_of((count.next_power_of_two() / 32).max(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(ids: &[u32]) -> PairTokens {
        PairTokens {
            ids: ids.to_vec(),
            type_ids: vec![0; ids.len()],
            truncated: false,
        }
    }

    #[test]
    fn groups_equal_lengths_computes_equal_pairs_once_and_finds_the_way_back() {
        let pairs = [
            pair(&[10, 11]),
            pair(&[7, 8, 9]),
            pair(&[5, 6]),
            pair(&[12]),
            pair(&[10, 11]),
        ];
        let layout = Layout::new(&pairs.iter().collect::<Vec<_>>(), None);
        assert_eq!(layout.ids, [7, 8, 9, 5, 6, 10, 11, 12]);
        assert_eq!(layout.positions, [0, 1, 2, 0, 1, 0, 1, 0]);
        assert_eq!((layout.pairs(), layout.tokens(), layout.rows()), (4, 8, 8));
        assert_eq!(layout.firsts, [0, 3, 5, 7, 0, 0, 0, 0]);
        assert_eq!(layout.places, [2, 0, 1, 3, 2]);
        let group = |pair_start, pairs, token_start, length| Group {
            pair_start,
            pairs,
            token_start,
            length,
        };
        assert_eq!(layout.groups, [group(0, 1, 0, 3), group(1, 2, 3, 2), group(3, 1, 7, 1)]);
        assert_eq!(layout.unsort(&[0.0, 1.0, 2.0, 3.0]), [2.0, 0.0, 1.0, 3.0, 2.0]);
        let packed = layout.packed();
        assert_eq!((packed.rows, packed.firsts, packed.pairs), (8, 8, 4));
        let columns: Vec<i32> = [&layout.ids, &layout.positions, &layout.types, &layout.firsts]
            .into_iter()
            .flatten()
            .map(|&value| value as i32)
            .collect();
        let ends = [0, 3, 5, 7, 8];
        assert_eq!(packed.values, [&columns[..], &ends, &[0, 1, 2, 3, 4]].concat());
    }

    #[test]
    fn roberta_positions_skip_padding_spelt_out_in_a_text() {
        let pairs = [pair(&[0, 4, 1, 5, 2])];
        let layout = Layout::new(&pairs.iter().collect::<Vec<_>>(), Some(1));
        assert_eq!(layout.positions, [2, 3, 1, 4, 5, 0, 0, 0]);
        assert_eq!((layout.tokens(), layout.rows()), (5, 8));
    }

    #[test]
    fn shapes_are_few_and_idle_rows_too() {
        let shapes: std::collections::BTreeSet<usize> = (1..=4096).map(rounded).collect();
        assert!(shapes.len() <= 120, "{} shapes", shapes.len());
        for count in 1..=4096 {
            let idle = rounded(count) - count;
            assert!(idle < 8 || idle * 16 <= count, "{count} rows get {idle} idle ones");
        }
    }
}
