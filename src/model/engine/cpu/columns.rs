//! A pass over few rows: what one thread would do in a block is shared out by columns.
//!
//! A short request leaves most threads of a pass without a block of rows, and the one that has it is held up by reading the weights.
//! So here each product's panels are shared out, and threads meet after each. What is cheap (embeddings, layer norms) every thread
//! does for itself, which saves meetings. The sums are those of `pass`, in the same order: a logit has the same bits either way.

use super::crew::Member;
use super::kernels::TILE;
use super::panels::Dense;
use super::pass::Pass;
use super::scratch::Scratch;
use super::steps::Part;

/// Phases of a layer in which something is taken.
pub(super) const PHASES: usize = 6;

/// From so many tiles of rows on, what each thread does for itself costs more than idle threads do.
const TILES_MAX: usize = 8;

impl Pass<'_> {
    /// Whether columns are shared out: `tokens` in `pairs` by `members` threads.
    pub(super) fn wants_columns(tokens: usize, pairs: usize, members: usize) -> bool {
        members > 1 && tokens.div_ceil(TILE) < members.min(TILES_MAX) && pairs <= TILE
    }

    /// This member's part.
    pub(super) fn run_by_columns(&self, member: &Member<'_>, scratch: &mut Scratch) {
        let (network, hidden) = (self.network, self.network.hidden);
        let last = network.layers.len() - 1;
        // SAFETY (of all blocks below): scratch was reserved for a block, which holds all rows; shared rows are read after the
        // meeting behind which they were written; what is taken by `each` is this thread's alone.
        unsafe {
            self.embed_rows(0..self.tokens, scratch.y.pointer());
            self.layer_norm(
                scratch.y.pointer(),
                self.tokens,
                &network.embedding_norm,
                scratch.a.pointer(),
            );
        }
        let mut count = self.tokens;
        for (index, layer) in network.layers.iter().enumerate() {
            let phase = PHASES * index;
            let wanted = self.wanted_qkv(index);
            self.each_panel(phase, &layer.qkv, wanted.start, |columns| unsafe {
                let rows = self.operand(scratch.a.pointer(), count, hidden, &scratch.whole, &scratch.scales);
                let part = Part {
                    dense: &layer.qkv,
                    rows,
                    columns,
                };
                self.store(part, &mut scratch.tile, self.shared.qkv.pointer(), 3 * hidden);
            });
            if index == last {
                self.first_queries(phase + 1, scratch);
                count = self.pairs.len();
            }
            member.meet();
            if index == last {
                self.each(phase + 2, count * network.heads, |taken| unsafe {
                    let (place, head) = (taken / network.heads, taken % network.heads);
                    let (query, context) = (self.shared.query.pointer(), self.shared.context.pointer());
                    self.attend_first(self.pairs[place], place, head, query, context, scratch.scores.pointer());
                });
            } else {
                self.attention(phase + 2, scratch);
            }
            member.meet();
            self.each_panel(phase + 3, &layer.attention_out, 0, |columns| unsafe {
                let context = self.shared.context.pointer();
                let rows = self.operand(context, count, hidden, &scratch.whole, &scratch.scales);
                let part = Part {
                    dense: &layer.attention_out,
                    rows,
                    columns,
                };
                self.add(part, &mut scratch.tile, scratch.y.pointer(), self.shared.x.pointer());
            });
            member.meet();
            unsafe {
                std::ptr::copy_nonoverlapping(self.shared.x.pointer(), scratch.y.pointer(), count * hidden);
                self.layer_norm(scratch.y.pointer(), count, &layer.attention_norm, scratch.a.pointer());
            }
            self.each_panel(phase + 4, &layer.up, 0, |columns| unsafe {
                let rows = self.operand(scratch.a.pointer(), count, hidden, &scratch.whole, &scratch.scales);
                self.activate(
                    Part {
                        dense: &layer.up,
                        rows,
                        columns,
                    },
                    &mut scratch.tile,
                    self.shared.up.pointer(),
                );
            });
            member.meet();
            self.each_panel(phase + 5, &layer.down, 0, |columns| unsafe {
                let up = self.shared.up.pointer();
                let rows = self.operand(up, count, network.intermediate, &scratch.whole, &scratch.scales);
                let part = Part {
                    dense: &layer.down,
                    rows,
                    columns,
                };
                self.add(part, &mut scratch.tile, scratch.y.pointer(), self.shared.x.pointer());
            });
            member.meet();
            unsafe {
                std::ptr::copy_nonoverlapping(self.shared.x.pointer(), scratch.y.pointer(), count * hidden);
                self.layer_norm(scratch.y.pointer(), count, &layer.out_norm, scratch.a.pointer());
            }
        }
        if member.index == 0 {
            unsafe {
                let first = scratch.first.pointer();
                std::ptr::copy_nonoverlapping(scratch.y.pointer(), first, count * hidden);
                self.head(first, count, scratch, self.shared.logits.pointer());
            }
        }
    }

    /// Gathers the rows of the pairs' first tokens into `scratch.y`, and computes their queries.
    fn first_queries(&self, phase: usize, scratch: &mut Scratch) {
        let (hidden, count) = (self.network.hidden, self.pairs.len());
        let (first, y) = (scratch.first.pointer(), scratch.y.pointer());
        // SAFETY: scratch holds a tile of pairs; the rest as above.
        unsafe {
            for (place, pair) in self.pairs.iter().enumerate() {
                std::ptr::copy_nonoverlapping(y.add(pair.start * hidden), first.add(place * hidden), hidden);
            }
            std::ptr::copy_nonoverlapping(first, y, count * hidden);
            (self.linear.rows.convert)(first, count * hidden, scratch.a.pointer());
        }
        let dense = &self.network.last_query;
        self.each_panel(phase, dense, 0, |columns| unsafe {
            let rows = self.operand(scratch.a.pointer(), count, hidden, &scratch.whole, &scratch.scales);
            let part = Part { dense, rows, columns };
            self.store(part, &mut scratch.tile, self.shared.query.pointer(), hidden);
        });
    }

    /// Takes panels of a layer from the column `from` on.
    fn each_panel(&self, phase: usize, dense: &Dense, from: usize, mut work: impl FnMut(std::ops::Range<usize>)) {
        let end = dense.all().end;
        self.each(phase, (end - from).div_ceil(TILE), |index| {
            let column = from + index * TILE;
            work(column..(column + TILE).min(end));
        });
    }
}
