//! Dense layers with what follows each, and layer norms: what both ways of sharing out a pass are made of.

use std::ops::Range;

use super::kernels::Format;
use super::network::Norm;
use super::panels::{Dense, Rows, Tile};
use super::pass::Pass;
use super::scratch::Scratch;

/// Some columns of a dense layer for some rows.
#[derive(Clone)]
pub(super) struct Part<'a> {
    pub(super) dense: &'a Dense,
    pub(super) rows: Rows,
    pub(super) columns: Range<usize>,
}

impl<'a> Part<'a> {
    /// All columns.
    pub(super) fn whole(dense: &'a Dense, rows: Rows) -> Part<'a> {
        Part {
            dense,
            rows,
            columns: dense.all(),
        }
    }
}

impl Pass<'_> {
    /// Into `out` with a row stride in elements, in the format of attention.
    ///
    /// # Safety
    /// The rows are an operand of this layer, and this part of `out` is this thread's.
    pub(super) unsafe fn store(&self, part: Part<'_>, tile: &mut Tile, out: *mut u8, stride: usize) {
        let bytes = self.attention.format.bytes();
        // SAFETY: the caller's promise; tiles lie inside the rows and columns asked for.
        unsafe {
            part.dense.product(
                self.linear,
                part.rows,
                part.columns,
                tile,
                |tile, row, count, column, columns, bias| {
                    let out = out.add((row * stride + column) * bytes);
                    (self.linear.rows.store)(tile, count, columns, bias, out, stride);
                },
            );
        }
    }

    /// The activation of it into `out`, `[rows][intermediate]`.
    ///
    /// # Safety
    /// As [`Pass::store`].
    pub(super) unsafe fn activate(&self, part: Part<'_>, tile: &mut Tile, out: *mut u8) {
        // SAFETY: as above.
        unsafe {
            part.dense.product(
                self.linear,
                part.rows,
                part.columns,
                tile,
                |tile, row, count, column, columns, bias| {
                    let (at, stride) = self.linear.tile_between(row, column, self.network.intermediate);
                    let out = out.add(at);
                    (self.linear.rows.activate)(tile, count, columns, bias, self.network.activation, out, stride);
                },
            );
        }
    }

    /// Together with `residual` into `out`, both `[rows][hidden]` of f32.
    ///
    /// # Safety
    /// As [`Pass::store`]; `residual` has as many rows.
    pub(super) unsafe fn add(&self, part: Part<'_>, tile: &mut Tile, residual: *const f32, out: *mut f32) {
        let (rows, hidden) = (&self.linear.rows, self.network.hidden);
        // SAFETY: as above.
        unsafe {
            part.dense.product(
                self.linear,
                part.rows,
                part.columns,
                tile,
                |tile, row, count, column, columns, bias| {
                    let at = row * hidden + column;
                    (rows.add)(
                        tile,
                        count,
                        columns,
                        bias,
                        residual.add(at),
                        hidden,
                        out.add(at),
                        hidden,
                    );
                },
            );
        }
    }

    /// # Safety
    /// `x` has `count` rows for this thread, and `out` room for as many.
    pub(super) unsafe fn layer_norm(&self, x: *mut f32, count: usize, norm: &Norm, out: *mut u8) {
        let (weight, bias) = (norm.weight.pointer(), norm.bias.pointer());
        // SAFETY: widths are whole vectors; the rest is the caller's promise.
        unsafe { (self.linear.rows.layer_norm)(x, count, self.network.hidden, weight, bias, norm.epsilon, out) }
    }

    /// Rows in the format between dense layers as an operand of one.
    ///
    /// # Safety
    /// `start` has `count` rows of `width`, readable up to the next multiple of 16; the scratch was reserved for as many.
    pub(super) unsafe fn operand(&self, start: *const u8, count: usize, width: usize, scratch: &Scratch) -> Rows {
        let (made, scales) = (scratch.made.pointer(), scratch.scales.pointer());
        if self.linear.format != Format::U8 {
            return Rows {
                start,
                count,
                tiled: self.linear.tiled,
                scales: std::ptr::null(),
            };
        }
        // SAFETY: the caller's promise.
        unsafe { super::avx512::QUANTIZE(start, count, width, made, scales) };
        Rows {
            start: made,
            count,
            tiled: false,
            scales,
        }
    }

    /// The same for rows of `hidden` in the format of attention.
    ///
    /// # Safety
    /// As [`Pass::operand`].
    pub(super) unsafe fn attended(&self, start: *const u8, count: usize, scratch: &Scratch) -> Rows {
        let hidden = self.network.hidden;
        if self.linear.format == Format::Split {
            let made = scratch.made.pointer();
            // SAFETY: attention is in f32 there; the rest is the caller's promise.
            unsafe { (self.linear.rows.convert)(start.cast(), count, hidden, made) };
            return Rows {
                start: made,
                count,
                tiled: true,
                scales: std::ptr::null(),
            };
        }
        // SAFETY: the caller's promise.
        let rows = unsafe { self.operand(start, count, hidden, scratch) };
        Rows { tiled: false, ..rows }
    }
}
