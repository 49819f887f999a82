//! A pass over few rows: what one thread would do in a block is shared out by columns.
//!
//! A short request leaves most threads of a pass without a block of rows, and the one that has it is held up by reading the weights.
//! So here each product's panels are shared out, and threads meet after each. What is cheap (embeddings, layer norms) every thread
//! does for itself, which saves meetings. The sums are those of `pass`, in the same order: a logit has the same bits either way.

use super::crew::Member;
use super::kernels::TILE;
use super::network::Norm;
use super::panels::{Dense, Rows};
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
            let from = self.wanted_qkv(index).start;
            let rows = unsafe { self.operand(scratch.a.pointer(), count, hidden, scratch) };
            self.each_panel(phase, &layer.qkv, from, rows, |part| unsafe {
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
            let rows = unsafe { self.attended(self.shared.context.pointer(), count, scratch) };
            self.each_panel(phase + 3, &layer.attention_out, 0, rows, |part| unsafe {
                self.add(part, &mut scratch.tile, scratch.y.pointer(), self.shared.x.pointer());
            });
            member.meet();
            self.take_sums(count, &layer.attention_norm, scratch);
            let rows = unsafe { self.operand(scratch.a.pointer(), count, hidden, scratch) };
            self.each_panel(phase + 4, &layer.up, 0, rows, |part| unsafe {
                self.activate(part, &mut scratch.tile, self.shared.up.pointer());
            });
            member.meet();
            let rows = unsafe { self.operand(self.shared.up.pointer(), count, network.intermediate, scratch) };
            self.each_panel(phase + 5, &layer.down, 0, rows, |part| unsafe {
                self.add(part, &mut scratch.tile, scratch.y.pointer(), self.shared.x.pointer());
            });
            member.meet();
            self.take_sums(count, &layer.out_norm, scratch);
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
            (self.linear.rows.convert)(first, count, hidden, scratch.a.pointer());
        }
        let rows = unsafe { self.operand(scratch.a.pointer(), count, hidden, scratch) };
        self.each_panel(phase, &self.network.last_query, 0, rows, |part| unsafe {
            self.store(part, &mut scratch.tile, self.shared.query.pointer(), hidden);
        });
    }

    /// What all threads have added up together, normalised, for this thread: in `scratch.y`, and as an operand in `scratch.a`.
    fn take_sums(&self, count: usize, norm: &Norm, scratch: &Scratch) {
        // SAFETY: as above.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.shared.x.pointer(),
                scratch.y.pointer(),
                count * self.network.hidden,
            );
            self.layer_norm(scratch.y.pointer(), count, norm, scratch.a.pointer());
        }
    }

    /// Takes panels of a layer from the column `from` on, for these rows.
    fn each_panel<'a>(&self, phase: usize, dense: &'a Dense, from: usize, rows: Rows, mut work: impl FnMut(Part<'a>)) {
        let end = dense.all().end;
        self.each(phase, (end - from).div_ceil(TILE), |index| {
            let column = from + index * TILE;
            let columns = column..(column + TILE).min(end);
            work(Part { dense, rows, columns });
        });
    }
}
