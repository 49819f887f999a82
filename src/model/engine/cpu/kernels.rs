//! The table of kernels: for each instruction set and number format, the functions that a forward pass is made of.
//!
//! All matrix products have one shape: up to [`TILE`] rows of an operand against a panel of [`TILE`] columns, into a tile of
//! f32 that stays in the first-level cache. A second function then does with the tile what follows (bias, activation,
//! residual). An operand is a row of 32-bit units, each one f32, two bf16 or four u8 (three units are two split f32); a panel
//! holds, for each unit, the [`TILE`] columns' weights side by side. That is how AMX, `vdpbf16ps` and `vpdpbusd` all want them,
//! so packed weights serve any of them. Each element of a tile is the sum over its own row and column in one order, whatever
//! lies around it: a pair's logit does not depend on its batch, to the last bit.

use super::formats::tile_before;
use super::isa::Isa;
use super::{amx, avx2, avx512};
use crate::model::spec::HiddenActivation;

/// Rows and columns of a tile at most, and columns of a panel.
pub(super) const TILE: usize = 32;

/// What the operands of matrix products are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    F32,
    /// f32 as the sum of three bf16: high, middle and low, each what the ones before it leave, which is exact. Operands are in
    /// tiles (`Kernels::tiled`), each with all high parts first, then the middle ones, then the low ones; so are panels. AMX alone.
    Split,
    Bf16,
    /// Unsigned bytes with a zero point of 128 and a scale for each row; the weights are signed bytes with a scale for
    /// each column.
    U8,
}

impl Format {
    pub(super) fn bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::Split => 6,
            Format::Bf16 => 2,
            Format::U8 => 1,
        }
    }

    /// 32-bit units of so many elements, which are a whole number of them.
    pub(super) fn units(self, elements: usize) -> usize {
        elements * self.bytes() / 4
    }
}

/// `out[r][c] = Σ_u a[r][u] · panel[u][c]`: operand, its row stride in units, panel, units, rows (at most [`TILE`]; the memory
/// behind `a` and `out` reaches to the next multiple of 16), tile (f32, or i32 for u8 operands), its row stride.
pub(super) type Product = unsafe fn(*const u32, usize, *const u32, usize, usize, *mut f32, usize);

/// Kernels over rows and tiles; strides are in elements, tiles have a row stride of [`TILE`]. Where `out` is bytes, it is in the
/// table's format; what `activate`, `layer_norm` and `convert` write is read by dense layers alone and may have its own
/// (`Kernels::between`, in tiles or not).
#[derive(Clone, Copy)]
pub(super) struct RowKernels {
    /// tile, rows, columns, bias, out, stride: `out = tile + bias`.
    pub(super) store: unsafe fn(*const f32, usize, usize, *const f32, *mut u8, usize),
    /// The same, then the activation.
    pub(super) activate: unsafe fn(*const f32, usize, usize, *const f32, HiddenActivation, *mut u8, usize),
    /// tile, rows, columns, bias, residual, its stride, out (f32), its stride: `out = tile + bias + residual`.
    pub(super) add: unsafe fn(*const f32, usize, usize, *const f32, *const f32, usize, *mut f32, usize),
    /// x (f32, normalised in place), rows, width, weight, bias, epsilon, and out, the same in the operand format; rows are
    /// contiguous.
    pub(super) layer_norm: unsafe fn(*mut f32, usize, usize, *const f32, *const f32, f32, *mut u8),
    /// x (f32) to the operand format: rows, width.
    pub(super) convert: unsafe fn(*const f32, usize, usize, *mut u8),
    /// word, position, type (rows of the tables in the operand format), width, out (f32): their sum.
    pub(super) embed: unsafe fn(*const u8, *const u8, *const u8, usize, *mut f32),
    /// scores, rows, keys, row stride (a multiple of [`TILE`], at least keys), factor, out (same stride), and one
    /// over each row's sum: out is not yet divided by it. Columns behind the last key come out as good as zero.
    pub(super) softmax: unsafe fn(*const f32, usize, usize, usize, f32, *mut u8, *mut f32),
    /// tile, rows, columns, a factor for each row, out, stride.
    pub(super) scale: unsafe fn(*const f32, usize, usize, *const f32, *mut u8, usize),
    /// One query of a head over all keys: query, first key, first value, keys, stride of both, width, factor, scratch for as
    /// many f32 as keys, out.
    pub(super) attend_one: unsafe fn(*const u8, *const u8, *const u8, usize, usize, usize, f32, *mut f32, *mut u8),
    /// first key, stride in units, keys, units, panels out: keys as columns, zeros behind the last.
    pub(super) pack_keys: unsafe fn(*const u32, usize, usize, usize, *mut u32),
    /// first value, stride in elements, keys, width, panels out: values as columns, zeros behind the last key.
    pub(super) pack_values: unsafe fn(*const u8, usize, usize, usize, *mut u32),
}

/// x (bf16), rows, width, out (u8), one scale for each row.
pub(super) type Quantize = unsafe fn(*const u8, usize, usize, *mut u8, *mut f32);
/// tile (i32 in, f32 out), rows, scales of the rows, scales of the columns, sums of the columns' weights.
pub(super) type Dequantize = unsafe fn(*mut f32, usize, *const f32, *const f32, *const i32);

/// The kernels of one instruction set in one number format.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    pub(super) isa: Isa,
    /// Of operands, that is of activations and weights.
    pub(super) format: Format,
    /// Of what the row kernels write for the next dense layer; [`Format::U8`] operands are made of it by [`Quantize`].
    pub(super) between: Format,
    /// Whether that is in tiles: of [`TILE`] rows, one tile of as many columns behind the other. AMX reads such operands without
    /// striding through memory.
    pub(super) tiled: bool,
    product: Product,
    /// For operands whose units are a multiple of [`AMX_UNITS`].
    product_amx: Option<Product>,
    pub(super) rows: RowKernels,
}

/// Units of one row of an AMX tile.
pub(super) const AMX_UNITS: usize = 16;

impl Kernels {
    /// `None` where this instruction set does not have the format; of what `isa` holds, what the format needs. `tiled`: whether
    /// what is between dense layers may be in tiles, since all widths are whole ones.
    pub(super) fn choose(isa: Isa, format: Format, tiled: bool) -> Option<Kernels> {
        let tiled = tiled && isa == Isa::Amx && matches!(format, Format::Bf16 | Format::Split);
        let (product, rows) = match (format, isa) {
            (Format::F32, Isa::Avx2) => (avx2::PRODUCT, avx2::ROWS),
            (Format::F32, _) => (avx512::PRODUCT_F32, avx512::ROWS_F32),
            (Format::Split, Isa::Amx) if tiled => (amx::PRODUCT_SPLIT, avx512::ROWS_SPLIT),
            (Format::Bf16, Isa::Amx) if tiled => (avx512::PRODUCT_BF16, avx512::ROWS_BF16_TILED),
            (Format::Bf16, Isa::Avx512Bf16 | Isa::Amx) => (avx512::PRODUCT_BF16, avx512::ROWS_BF16),
            (Format::U8, Isa::Avx512Bf16 | Isa::Amx) => (avx512::PRODUCT_U8, avx512::ROWS_BF16),
            (Format::Split, _) | (Format::Bf16 | Format::U8, Isa::Avx2 | Isa::Avx512) => return None,
        };
        let product_amx = match (format, isa) {
            (Format::Bf16, Isa::Amx) => Some(amx::PRODUCT_BF16),
            (Format::U8, Isa::Amx) => Some(amx::PRODUCT_U8),
            _ => None,
        };
        let isa = match format {
            Format::F32 => isa.min(Isa::Avx512),
            Format::Split | Format::Bf16 | Format::U8 => isa,
        };
        Some(Kernels {
            isa,
            format,
            between: if format == Format::U8 { Format::Bf16 } else { format },
            tiled,
            product,
            product_amx,
            rows,
        })
    }

    /// The product for operands of so many units, row by row.
    pub(super) fn product(&self, units: usize) -> Product {
        match self.product_amx {
            Some(product) if units.is_multiple_of(AMX_UNITS) => product,
            _ => self.product,
        }
    }

    /// The product for operands in tiles, whose rows are [`AMX_UNITS`] apart.
    pub(super) fn product_tiled(&self) -> Product {
        match self.format {
            Format::Split => amx::PRODUCT_SPLIT,
            Format::F32 | Format::Bf16 | Format::U8 => amx::PRODUCT_BF16_TILED,
        }
    }

    /// Where the tile at this row and column of what is between dense layers begins, in bytes, and its row stride in elements.
    pub(super) fn tile_between(&self, row: usize, column: usize, width: usize) -> (usize, usize) {
        let bytes = self.between.bytes();
        if self.tiled {
            (tile_before(row, column, width) * bytes, TILE)
        } else {
            ((row * width + column) * bytes, width)
        }
    }

    /// Runs `work` with the tiles of this thread ready.
    pub(super) fn with_tiles<T>(isa: Isa, work: impl FnOnce() -> T) -> T {
        /// Gives the tiles up also when the work panics.
        struct Release;
        impl Drop for Release {
            fn drop(&mut self) {
                // SAFETY: made below only.
                unsafe { super::isa::amx::end() };
            }
        }
        let _release = (isa == Isa::Amx).then(|| {
            // SAFETY: `Isa::Amx` is found only where AMX may be used.
            unsafe { super::isa::amx::begin() };
            Release
        });
        work()
    }
}
