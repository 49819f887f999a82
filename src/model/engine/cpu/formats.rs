//! The number formats of operands, as row kernels read and write them: see `kernels::Format`.

use super::kernels::TILE;
use super::simd::Simd;

/// A number format that is written.
///
/// # Safety
/// As [`Simd`].
pub(super) unsafe trait Written {
    type Element: Copy + Default;
    /// Whether functions are computed to the last bits of f32.
    const EXACT: bool;
    unsafe fn store<S: Simd>(x: S, to: *mut Self::Element);

    /// Where a vector goes that begins at this row and column of rows of this width.
    #[inline(always)]
    unsafe fn place(out: *mut Self::Element, row: usize, column: usize, width: usize) -> *mut Self::Element {
        unsafe { out.add(row * width + column) }
    }
}

/// A number format that is read too.
///
/// # Safety
/// As [`Simd`].
pub(super) unsafe trait Operand: Written {
    unsafe fn load<S: Simd>(from: *const Self::Element) -> S;
}

pub(super) struct F32;
pub(super) struct Bf16;
/// [`Bf16`] in tiles (`kernels::Kernels::tiled`).
pub(super) struct Tiled;
/// See [`super::kernels::Format::Split`]; in tiles always.
pub(super) struct Split;

// SAFETY: loads and stores of as many elements as the vector has.
unsafe impl Written for F32 {
    type Element = f32;
    const EXACT: bool = true;

    #[inline(always)]
    unsafe fn store<S: Simd>(x: S, to: *mut f32) {
        unsafe { x.store(to) }
    }
}

// SAFETY: as above.
unsafe impl Operand for F32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S {
        unsafe { S::load(from) }
    }
}

// SAFETY: as above.
unsafe impl Written for Bf16 {
    type Element = u16;
    const EXACT: bool = false;

    #[inline(always)]
    unsafe fn store<S: Simd>(x: S, to: *mut u16) {
        unsafe { x.store_bf16(to) }
    }
}

// SAFETY: as above.
unsafe impl Operand for Bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u16) -> S {
        unsafe { S::load_bf16(from) }
    }
}

// SAFETY: as above.
unsafe impl Written for Tiled {
    type Element = <Bf16 as Written>::Element;
    const EXACT: bool = Bf16::EXACT;

    #[inline(always)]
    unsafe fn store<S: Simd>(x: S, to: *mut u16) {
        unsafe { Bf16::store(x, to) }
    }

    #[inline(always)]
    unsafe fn place(out: *mut u16, row: usize, column: usize, width: usize) -> *mut u16 {
        unsafe { out.add(tile_before(row, column, width) + inside(row, column)) }
    }
}

// SAFETY: as above, into each of a tile's three parts.
unsafe impl Written for Split {
    type Element = u16;
    const EXACT: bool = true;

    #[inline(always)]
    unsafe fn store<S: Simd>(x: S, to: *mut u16) {
        unsafe {
            let (high, middle, low) = (to, to.add(TILE * TILE), to.add(2 * TILE * TILE));
            x.store_bf16(high);
            let rest = x.sub(S::load_bf16(high));
            rest.store_bf16(middle);
            rest.sub(S::load_bf16(middle)).store_bf16(low);
        }
    }

    #[inline(always)]
    unsafe fn place(out: *mut u16, row: usize, column: usize, width: usize) -> *mut u16 {
        unsafe { out.add(3 * tile_before(row, column, width) + inside(row, column)) }
    }
}

/// Elements in the tiles before the one that holds this row and column.
pub(super) fn tile_before(row: usize, column: usize, width: usize) -> usize {
    row / TILE * TILE * width + column / TILE * TILE * TILE
}

/// Elements before it in its tile.
fn inside(row: usize, column: usize) -> usize {
    row % TILE * TILE + column % TILE
}
