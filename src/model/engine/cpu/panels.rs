//! A dense layer's weights, in panels (see `kernels`), and its products.

use std::ops::Range;

use super::buffer::Buffer;
use super::kernels::{AMX_UNITS, Dequantize, Format, Kernels, TILE};

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

/// Panels that take their turn together: bytes, and how many at most.
const GROUP_BYTES: usize = 200 << 10;
const GROUP_PANELS_MAX: usize = 8;

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
    /// In tiles (`Kernels::tiled`), or row by row.
    pub(super) tiled: bool,
    /// For u8 operands: one for each row, readable like the rows.
    pub(super) scales: *const f32,
}

impl Dense {
    /// `weight`: `[columns][width]`; `width` is a whole number of units.
    pub(super) fn pack(weight: &[f32], bias: &[f32], format: Format) -> Dense {
        let columns = bias.len();
        let width = weight.len() / columns.max(1);
        let units = format.units(width);
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
            match format {
                Format::F32 => places.zip(row).for_each(|(place, x)| *place = x.to_bits()),
                Format::Split => {
                    let runs = row.chunks_exact(TILE);
                    places.zip(runs.flat_map(split)).for_each(|(place, unit)| *place = unit);
                }
                Format::Bf16 => places.zip(row.as_chunks::<2>().0).for_each(|(place, pair)| {
                    *place = unit(bf16(pair[0]), bf16(pair[1]));
                }),
                Format::U8 => {
                    let most = row.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
                    let whole = |x: f32| (x * (127.0 / most)).round_ties_even() as i8;
                    places.zip(row.as_chunks::<4>().0).for_each(|(place, four)| {
                        *place = u32::from_le_bytes(four.map(|x| whole(x) as u8));
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

    /// All columns.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.columns
    }

    /// Computes tile after tile and hands each to `then`: tile, its first row, rows, its first column, columns, their bias
    /// (readable for a whole tile). `wanted`: columns, from a multiple of [`TILE`] on.
    ///
    /// # Safety
    /// `rows` is an operand of this layer's width in the format of `kernels`, readable as [`Rows`] says; the tiles of this
    /// thread are ready (`Kernels::with_tiles`).
    #[inline(always)]
    pub(super) unsafe fn product(
        &self,
        kernels: &Kernels,
        rows: Rows,
        wanted: Range<usize>,
        tile: &mut Tile,
        mut then: impl FnMut(*const f32, usize, usize, usize, usize, *const f32),
    ) {
        let (product, stride) = if rows.tiled {
            (kernels.product_tiled(), AMX_UNITS)
        } else {
            (kernels.product(self.units), self.units)
        };
        let dequantize: Option<(Dequantize, &Scales)> =
            self.scales.as_ref().map(|scales| (super::avx512::DEQUANTIZE, scales));
        let tile = tile.0.as_mut_ptr();
        // Some panels at a time, which stay in the second-level cache, each row of tiles against all of them: so rows come from
        // the first-level cache and weights are read in order.
        let group = (GROUP_BYTES / (TILE * self.units * size_of::<u32>())).clamp(1, GROUP_PANELS_MAX) * TILE;
        for first in wanted.clone().step_by(group) {
            for row in (0..rows.count).step_by(TILE) {
                let count = (rows.count - row).min(TILE);
                for column in (first..(first + group).min(wanted.end)).step_by(TILE) {
                    let columns = (self.columns - column).min(TILE);
                    // SAFETY: one panel for each `TILE` columns, the last one too; biases and scales are as long; the rest is
                    // the caller's promise.
                    let bias = unsafe {
                        let panel = self.panels.pointer().add(column * self.units);
                        let a = rows.start.cast::<u32>().add(row * self.units);
                        product(a, stride, panel, self.units, count, tile, TILE);
                        if let Some((dequantize, scales)) = dequantize {
                            let (factors, sums) =
                                (scales.columns.pointer().add(column), scales.sums.pointer().add(column));
                            dequantize(tile, count, rows.scales.add(row), factors, sums);
                        }
                        self.bias.pointer().add(column)
                    };
                    then(tile, row, count, column, columns, bias);
                }
            }
        }
    }
}

fn unit(even: u16, odd: u16) -> u32 {
    u32::from(even) | u32::from(odd) << 16
}

/// The units of a panel's column in one tile's depth: see [`Format::Split`].
fn split(run: &[f32]) -> [u32; 3 * TILE / 2] {
    let mut units = [0; 3 * TILE / 2];
    let mut rest = [0f32; TILE];
    rest.copy_from_slice(run);
    for part in units.chunks_exact_mut(TILE / 2) {
        for (place, pair) in part.iter_mut().zip(rest.as_chunks_mut::<2>().0) {
            let rounded = pair.map(bf16);
            *place = unit(rounded[0], rounded[1]);
            for (x, rounded) in pair.iter_mut().zip(rounded) {
                *x -= f32::from_bits(u32::from(rounded) << 16);
            }
        }
    }
    units
}

/// Rounded to bf16, to the nearest even; not a number stays so.
pub(super) fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_number_is_the_sum_of_its_parts() {
        let mut state = 7u32;
        let mut run = [0f32; TILE];
        for _ in 0..1000 {
            for x in &mut run {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // All 24 bits of any fraction, large and small; far smaller ones have lowest parts that bf16 does not hold.
                *x = state as i32 as f32 * 2f32.powi((state % 120) as i32 - 90);
            }
            let units = split(&run);
            for (index, &x) in run.iter().enumerate() {
                let part = |place: usize| {
                    let unit = units[place * TILE / 2 + index / 2];
                    f32::from_bits(unit >> (16 * (index % 2)) << 16)
                };
                assert_eq!(part(0) + (part(1) + part(2)), x, "{x:e}");
                assert!(
                    (x - part(0)).abs() <= x.abs() / 256.0,
                    "{x:e} begins with {:e}",
                    part(0)
                );
            }
        }
    }

    #[test]
    fn row_kernels_split_as_packing_does() {
        let Some(kernels) = Kernels::choose(super::super::isa::Isa::Amx, Format::Split, true) else {
            panic!("there are kernels for it")
        };
        if super::super::isa::Isa::best() != Some(super::super::isa::Isa::Amx) {
            println!("NOT CHECKED: this CPU has no AMX");
            return;
        }
        let (rows, width, half) = (3, 2 * TILE, TILE / 2);
        let x: Vec<f32> = (0..rows * width).map(|at| (at as f32 - 71.3).powi(3) / 7.0).collect();
        let mut out = vec![0u32; Format::Split.units(TILE * width)];
        // SAFETY: this CPU has the instruction sets; two whole tiles out.
        unsafe { (kernels.rows.convert)(x.as_ptr(), rows, width, out.as_mut_ptr().cast()) };
        for (index, run) in x.chunks_exact(TILE).enumerate() {
            let (row, tile) = (index / 2, index % 2);
            for (part, units) in split(run).chunks_exact(half).enumerate() {
                let at = (tile * 3 + part) * TILE * half + row * half;
                assert_eq!(out[at..at + half], *units, "row {row}, tile {tile}, part {part}");
            }
        }
    }
}
