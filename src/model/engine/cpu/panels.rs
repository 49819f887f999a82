//! A dense layer's weights, in panels (see `kernels`), and its products.

use super::buffer::Buffer;
use super::kernels::{Dequantize, Format, Kernels, TILE};

/// `y = x · weightᵀ + bias` for `[columns, width]` weights.
pub(super) struct Dense {
    /// `[panels][units][TILE]`.
    panels: Buffer<u32>,
    /// `[columns]`, then zeros up to a whole panel.
    bias: Buffer<f32>,
    columns: usize,
    units: usize,
    /// For u8 operands.
    scales: Option<Scales>,
}

/// What turns the sums of whole numbers back: for each column its weights' scale and sum.
struct Scales {
    columns: Buffer<f32>,
    sums: Buffer<i32>,
}

/// A tile of sums, at home in the first-level cache.
#[repr(align(64))]
pub(super) struct Tile(pub(super) [f32; TILE * TILE]);

impl Tile {
    pub(super) fn new() -> Tile {
        Tile([0.0; TILE * TILE])
    }
}

/// Rows of an operand.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) start: *const u8,
    /// Readable up to the next multiple of 16.
    pub(super) count: usize,
    /// For u8 operands: one for each row, readable like the rows.
    pub(super) scales: *const f32,
}

impl Dense {
    /// `weight`: `[columns][width]`; `width` is a whole number of units.
    pub(super) fn pack(weight: &[f32], bias: &[f32], format: Format) -> Dense {
        let columns = bias.len();
        let width = weight.len() / columns.max(1);
        let (per_unit, units) = (format.per_unit(), width / format.per_unit());
        let padded = columns.next_multiple_of(TILE);
        let mut panels = Buffer::<u32>::zeros(padded * units);
        let mut bias_padded = Buffer::zeros(padded);
        bias_padded.slice_mut()[..columns].copy_from_slice(bias);
        let mut scales = (format == Format::U8).then(|| Scales {
            columns: Buffer::zeros(padded),
            sums: Buffer::zeros(padded),
        });
        for (column, row) in weight.chunks_exact(width).enumerate() {
            let panel = &mut panels.slice_mut()[column / TILE * units * TILE..][..units * TILE];
            let places = panel.iter_mut().skip(column % TILE).step_by(TILE);
            let chunks = row.chunks_exact(per_unit);
            match format {
                Format::F32 => places.zip(row).for_each(|(place, x)| *place = x.to_bits()),
                Format::Bf16 => places.zip(chunks).for_each(|(place, pair)| {
                    *place = u32::from(bf16(pair[0])) | u32::from(bf16(pair[1])) << 16;
                }),
                Format::U8 => {
                    let most = row.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
                    let whole = |x: f32| (x * (127.0 / most)).round_ties_even() as i8;
                    places.zip(chunks).for_each(|(place, four)| {
                        *place = u32::from_le_bytes([0, 1, 2, 3].map(|at| whole(four[at]) as u8));
                    });
                    if let Some(scales) = &mut scales {
                        scales.columns.slice_mut()[column] = most / 127.0;
                        scales.sums.slice_mut()[column] = row.iter().map(|&x| i32::from(whole(x))).sum();
                    }
                }
            }
        }
        Dense {
            panels,
            bias: bias_padded,
            columns,
            units,
            scales,
        }
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Computes tile after tile and hands each to `then`: tile, its first row, rows, its first column, columns, their bias
    /// (readable for a whole tile). `from`: the first column wanted, a multiple of [`TILE`].
    ///
    /// # Safety
    /// `rows` is an operand of this layer's width in the format of `kernels`, readable as [`Rows`] says; the tiles of this
    /// thread are ready (`Kernels::with_tiles`).
    #[inline(always)]
    pub(super) unsafe fn product(
        &self,
        kernels: &Kernels,
        rows: Rows,
        from: usize,
        tile: &mut Tile,
        mut then: impl FnMut(*const f32, usize, usize, usize, usize, *const f32),
    ) {
        let product = kernels.product(self.units);
        let dequantize: Option<(Dequantize, &Scales)> = self.scales.as_ref().map(|scales| (super::avx512::DEQUANTIZE, scales));
        let tile = tile.0.as_mut_ptr();
        for column in (from..self.columns).step_by(TILE) {
            let columns = (self.columns - column).min(TILE);
            // SAFETY: one panel for each `TILE` columns, the last one too; biases and scales are as long.
            let (panel, bias) = unsafe {
                (self.panels.pointer().add(column * self.units), self.bias.pointer().add(column))
            };
            for row in (0..rows.count).step_by(TILE) {
                let count = (rows.count - row).min(TILE);
                // SAFETY: the caller's promise.
                unsafe {
                    let a = rows.start.cast::<u32>().add(row * self.units);
                    product(a, self.units, panel, self.units, count, tile, TILE);
                    if let Some((dequantize, scales)) = dequantize {
                        let (factors, sums) = (scales.columns.pointer().add(column), scales.sums.pointer().add(column));
                        dequantize(tile, count, rows.scales.add(row), factors, sums);
                    }
                }
                then(tile, row, count, column, columns, bias);
            }
        }
    }
}

/// Rounded to bf16, to the nearest even; not a number stays so.
pub(super) fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}
