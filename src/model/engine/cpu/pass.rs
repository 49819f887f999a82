//! A forward pass, as each thread of the crew goes through it.
//!
//! Between two meetings a thread takes blocks of rows (everything in a layer but attention is row by row, so the end of one
//! layer and the queries, keys and values of the next are one phase) or pairs with some of their heads. A block's
//! intermediate values stay in the thread's own scratch, which is sized to stay in the second-level cache.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::buffer::Buffer;
use super::columns;
use super::crew::Member;
use super::kernels::{Kernels, TILE};
use super::network::{Layer, Network};
use super::panels::Rows;
use super::scratch::Scratch;
use super::steps::Part;
use crate::model::spec::HiddenActivation;

/// A pair in the flat run of tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) start: usize,
    pub(super) length: usize,
}

/// What a pass works on. Rows are tokens; behind the last are idle ones up to a whole tile and one more tile.
pub(super) struct Shared {
    /// `[rows][hidden]`, f32: what the layers add to.
    pub(super) x: Buffer<f32>,
    /// `[rows][3 · hidden]`.
    pub(super) qkv: Buffer<u8>,
    /// `[rows][hidden]`.
    pub(super) context: Buffer<u8>,
    /// `[rows][intermediate]` and `[TILE][hidden]`, where columns are shared out.
    pub(super) up: Buffer<u8>,
    pub(super) query: Buffer<u8>,
    /// `[pairs]`.
    pub(super) logits: Buffer<f32>,
    /// What has been taken in each phase.
    pub(super) taken: Vec<AtomicUsize>,
}

/// One pass over a batch.
pub(super) struct Pass<'a> {
    pub(super) network: &'a Network,
    /// Products of dense layers, and everything row by row.
    pub(super) linear: &'a Kernels,
    /// Products of attention; the same row kernels.
    pub(super) attention: &'a Kernels,
    /// fp32, for the head.
    pub(super) exact: &'a Kernels,
    pub(super) ids: &'a [i64],
    pub(super) positions: &'a [i64],
    pub(super) types: &'a [i64],
    pub(super) pairs: &'a [Pair],
    pub(super) shared: &'a Shared,
    /// Tokens, without idle rows.
    pub(super) tokens: usize,
    /// Into how many blocks of whole tiles the rows are cut.
    pub(super) blocks: usize,
    pub(super) members: usize,
    /// Too few rows for all threads: columns are shared out (see `columns`).
    pub(super) by_columns: bool,
}

impl Pass<'_> {
    /// Counters of what is taken, at most.
    pub(super) fn phases(network: &Network) -> usize {
        columns::PHASES * network.layers.len()
    }

    /// This member's part. All members have to call it, with scratch that has been reserved for the pass.
    pub(super) fn run(&self, member: &Member<'_>, scratch: &mut Scratch) {
        if self.by_columns {
            self.run_by_columns(member, scratch);
        } else {
            self.run_by_rows(member, scratch);
        }
    }

    fn run_by_rows(&self, member: &Member<'_>, scratch: &mut Scratch) {
        let last = self.network.layers.len() - 1;
        self.each_block(0, |start, count| self.embed(start, count, scratch));
        member.meet();
        for layer in 0..last {
            self.attention(2 * layer + 1, scratch);
            member.meet();
            self.each_block(2 * layer + 2, |start, count| {
                self.finish_layer(layer, start, count, scratch)
            });
            member.meet();
        }
        let chunk = self.pairs.len().div_ceil(self.members).clamp(1, TILE);
        self.each(2 * last + 1, self.pairs.len().div_ceil(chunk), |index| {
            let end = ((index + 1) * chunk).min(self.pairs.len());
            self.finish_pairs(index * chunk..end, scratch);
        });
    }

    /// Takes what nobody else has taken, until nothing is left.
    pub(super) fn each(&self, phase: usize, count: usize, mut work: impl FnMut(usize)) {
        loop {
            let index = self.shared.taken[phase].fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            work(index);
        }
    }

    fn each_block(&self, phase: usize, mut work: impl FnMut(usize, usize)) {
        let tiles = self.tokens.div_ceil(TILE);
        // Alike but for one tile.
        let edge = |index: usize| (index * tiles / self.blocks * TILE).min(self.tokens);
        self.each(phase, self.blocks, |index| {
            work(edge(index), edge(index + 1) - edge(index))
        });
    }

    /// Embeddings, and the first layer's queries, keys and values.
    fn embed(&self, start: usize, count: usize, scratch: &mut Scratch) {
        // SAFETY: this thread's rows.
        unsafe {
            let x = self.shared.x.pointer().add(start * self.network.hidden);
            self.embed_rows(start..start + count, x);
            self.layer_norm(x, count, &self.network.embedding_norm, scratch.a.pointer());
            self.qkv(0, start, count, scratch);
        }
    }

    /// Sums of embeddings.
    ///
    /// # Safety
    /// `out` has room for these rows.
    pub(super) unsafe fn embed_rows(&self, rows: Range<usize>, out: *mut f32) {
        let (network, hidden) = (self.network, self.network.hidden);
        // Ids were checked before the pass began; a row that is not there would be a panic, not a bad read.
        for (place, row) in rows.enumerate() {
            let word = network.words.row(self.ids[row] as usize);
            let position = network.positions.row(self.positions[row] as usize);
            let kind = network.types.row(self.types[row] as usize);
            // SAFETY: rows of `hidden` elements, which are whole vectors.
            unsafe {
                let out = out.add(place * hidden);
                (self.linear.rows.embed)(word.as_ptr(), position.as_ptr(), kind.as_ptr(), hidden, out);
            }
        }
    }

    /// The layer's queries, keys and values of the rows whose operand is in `scratch.a`.
    ///
    /// # Safety
    /// The rows are this thread's.
    unsafe fn qkv(&self, layer: usize, start: usize, count: usize, scratch: &mut Scratch) {
        let (stride, bytes) = (3 * self.network.hidden, self.attention.format.bytes());
        // SAFETY: the scratch was reserved for a block; the rows of `qkv` are this thread's.
        unsafe {
            let rows = self.operand(scratch.a.pointer(), count, self.network.hidden, scratch);
            let part = Part {
                dense: &self.network.layers[layer].qkv,
                rows,
                columns: self.wanted_qkv(layer),
            };
            self.store(
                part,
                &mut scratch.tile,
                self.shared.qkv.pointer().add(start * stride * bytes),
                stride,
            );
        }
    }

    /// Of the last layer's queries only the first tokens' are needed, and those are computed apart.
    pub(super) fn wanted_qkv(&self, layer: usize) -> Range<usize> {
        let hidden = self.network.hidden;
        let last = layer + 1 == self.network.layers.len();
        (if last { hidden / TILE * TILE } else { 0 })..3 * hidden
    }

    /// Self-attention over every token, pair by pair.
    pub(super) fn attention(&self, phase: usize, scratch: &mut Scratch) {
        let heads = self.network.heads;
        // Long pairs are shared out by heads, so that no thread is left waiting for another's.
        let groups = (8 * self.members).div_ceil(self.pairs.len()).clamp(1, heads);
        let each = heads.div_ceil(groups);
        self.each(phase, self.pairs.len() * groups, |index| {
            let pair = self.pairs[index / groups];
            for head in index % groups * each..((index % groups + 1) * each).min(heads) {
                // SAFETY: nobody else has this pair's head; the scratch was reserved for the longest pair.
                unsafe { self.attend(pair, head, scratch) };
            }
        });
    }

    /// # Safety
    /// This head of the pair is this thread's, and the scratch has room for the pair.
    unsafe fn attend(&self, pair: Pair, head: usize, scratch: &mut Scratch) {
        let (hidden, width) = (self.network.hidden, self.network.head_size());
        let (kernels, format) = (self.attention, self.attention.format);
        let (bytes, stride, keys) = (format.bytes(), 3 * hidden, pair.length.next_multiple_of(TILE));
        let (units, key_units, unit_stride) = (format.units(width), format.units(keys), format.units(stride));
        let (score, weigh) = (kernels.product(units), kernels.product(key_units));
        let (panels, values) = (scratch.keys.pointer(), scratch.values.pointer());
        let (scores, powers, sums) = (
            scratch.scores.pointer(),
            scratch.powers.pointer(),
            scratch.sums.as_mut_ptr(),
        );
        let tile = scratch.tile.0.as_mut_ptr();
        // SAFETY: `qkv` has idle rows behind the last, so whole tiles can be read; the rest by this function's contract.
        unsafe {
            let query = self
                .shared
                .qkv
                .pointer()
                .add((pair.start * stride + head * width) * bytes);
            let (key, value) = (query.add(hidden * bytes), query.add(2 * hidden * bytes));
            (kernels.rows.pack_keys)(key.cast(), unit_stride, pair.length, units, panels);
            (kernels.rows.pack_values)(value, stride, pair.length, width, values);
            for row in (0..pair.length).step_by(TILE) {
                let count = (pair.length - row).min(TILE);
                let query = query.add(row * stride * bytes).cast();
                for column in (0..keys).step_by(TILE) {
                    score(
                        query,
                        unit_stride,
                        panels.add(column * units),
                        units,
                        count,
                        scores.add(column),
                        keys,
                    );
                }
                (kernels.rows.softmax)(scores, count, pair.length, keys, self.factor(), powers, sums);
                for column in (0..width).step_by(TILE) {
                    let panel = values.add(column * key_units);
                    weigh(powers.cast(), key_units, panel, key_units, count, tile, TILE);
                    let place = (pair.start + row) * hidden + head * width + column;
                    let out = self.shared.context.pointer().add(place * bytes);
                    (kernels.rows.scale)(tile, count, (width - column).min(TILE), sums, out, hidden);
                }
            }
        }
    }

    /// What scores are multiplied with before the softmax.
    fn factor(&self) -> f32 {
        1.0 / (self.network.head_size() as f32).sqrt()
    }

    /// What follows attention, and the next layer's queries, keys and values.
    fn finish_layer(&self, layer: usize, start: usize, count: usize, scratch: &mut Scratch) {
        let (hidden, bytes) = (self.network.hidden, self.attention.format.bytes());
        // SAFETY: this thread's rows.
        unsafe {
            let context = self.shared.context.pointer().add(start * hidden * bytes);
            let x = self.shared.x.pointer().add(start * hidden);
            self.after_attention(&self.network.layers[layer], context, x, count, scratch);
            self.qkv(layer + 1, start, count, scratch);
        }
    }

    /// From attention's outcome and the layer's own input `x` to the layer's output, in `x` and as an operand in `scratch.a`.
    ///
    /// # Safety
    /// `count` rows of `context` and `x` are this thread's, and at most a block.
    unsafe fn after_attention(
        &self,
        layer: &Layer,
        context: *const u8,
        x: *mut f32,
        count: usize,
        scratch: &mut Scratch,
    ) {
        let (hidden, intermediate) = (self.network.hidden, self.network.intermediate);
        let (a, y, up) = (scratch.a.pointer(), scratch.y.pointer(), scratch.up.pointer());
        // SAFETY: the scratch was reserved for a block; tiles and their places lie inside it.
        unsafe {
            let operand = self.attended(context, count, scratch);
            self.add(Part::whole(&layer.attention_out, operand), &mut scratch.tile, x, y);
            self.layer_norm(y, count, &layer.attention_norm, a);
            let operand = self.operand(a, count, hidden, scratch);
            self.activate(Part::whole(&layer.up, operand), &mut scratch.tile, up);
            let operand = self.operand(up, count, intermediate, scratch);
            self.add(Part::whole(&layer.down, operand), &mut scratch.tile, y, x);
            self.layer_norm(x, count, &layer.out_norm, a);
        }
    }

    /// The last layer for the first token of each of these pairs (at most [`TILE`]), and the head.
    fn finish_pairs(&self, pairs: Range<usize>, scratch: &mut Scratch) {
        let (network, hidden) = (self.network, self.network.hidden);
        let count = pairs.len();
        let Some(layer) = network.layers.last() else { return };
        let (first, query, context) = (
            scratch.first.pointer(),
            scratch.query.pointer(),
            scratch.context.pointer(),
        );
        // SAFETY: scratch was reserved for a tile of pairs; what was written by other threads was written before the last
        // meeting; logits of these pairs are this thread's.
        unsafe {
            for (place, pair) in self.pairs[pairs.clone()].iter().enumerate() {
                let x = self.shared.x.pointer().add(pair.start * hidden);
                std::ptr::copy_nonoverlapping(x, first.add(place * hidden), hidden);
            }
            (self.linear.rows.convert)(first, count, hidden, scratch.a.pointer());
            let operand = self.operand(scratch.a.pointer(), count, hidden, scratch);
            self.store(
                Part::whole(&network.last_query, operand),
                &mut scratch.tile,
                query,
                hidden,
            );
            for (place, pair) in self.pairs[pairs.clone()].iter().enumerate() {
                for head in 0..network.heads {
                    self.attend_first(*pair, place, head, query, context, scratch.scores.pointer());
                }
            }
            self.after_attention(layer, context, first, count, scratch);
            self.head(first, count, scratch, self.shared.logits.pointer().add(pairs.start));
        }
    }

    /// One head's attention of a pair's first token, whose query is at `place` of `query` and whose outcome goes there in
    /// `context`, both `[pairs][hidden]`.
    ///
    /// # Safety
    /// `scores` has room for the pair's tokens; this part of `context` is this thread's.
    pub(super) unsafe fn attend_first(
        &self,
        pair: Pair,
        place: usize,
        head: usize,
        query: *const u8,
        context: *mut u8,
        scores: *mut f32,
    ) {
        let (hidden, width) = (self.network.hidden, self.network.head_size());
        let (bytes, stride) = (self.attention.format.bytes(), 3 * hidden);
        let at = (place * hidden + head * width) * bytes;
        // SAFETY: the caller's promise.
        unsafe {
            let key = self
                .shared
                .qkv
                .pointer()
                .add((pair.start * stride + hidden + head * width) * bytes);
            let value = key.add(hidden * bytes);
            let (query, out) = (query.add(at), context.add(at));
            (self.attention.rows.attend_one)(
                query,
                key,
                value,
                pair.length,
                stride,
                width,
                self.factor(),
                scores,
                out,
            );
        }
    }

    /// # Safety
    /// `x` has `count` rows, at most a tile, and `out` room for as many logits.
    pub(super) unsafe fn head(&self, x: *const f32, count: usize, scratch: &mut Scratch, out: *mut f32) {
        let hidden = self.network.hidden;
        let pooled = scratch.y.pointer();
        let operand = Rows {
            start: x.cast(),
            count,
            tiled: false,
            scales: std::ptr::null(),
        };
        // SAFETY: `y` has room for a block, which is a tile at least.
        unsafe {
            let dense = &self.network.head_dense;
            dense.product(
                self.exact,
                operand,
                dense.all(),
                &mut scratch.tile,
                |tile, row, count, column, columns, bias| {
                    let to = pooled.add(row * hidden + column).cast();
                    (self.exact.rows.activate)(tile, count, columns, bias, HiddenActivation::Tanh, to, hidden);
                },
            );
            for row in 0..count {
                let pooled = std::slice::from_raw_parts(pooled.add(row * hidden), hidden);
                *out.add(row) = dot(pooled, &self.network.head_out) + self.network.head_out_bias;
            }
        }
    }
}

/// In a fixed order, by eight sums.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}
