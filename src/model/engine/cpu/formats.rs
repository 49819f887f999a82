//! The number formats of operands, as row kernels read and write them: see `kernels::Format`.

use super::kernels::SPLIT_RUN;
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

    /// The place of the element `index` in a row, a whole number of vectors behind its start.
    #[inline(always)]
    unsafe fn at(row: *mut Self::Element, index: usize) -> *mut Self::Element {
        unsafe { row.add(index) }
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
/// See [`super::kernels::Format::Split`]. Rows are whole runs of [`SPLIT_RUN`] elements.
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

// SAFETY: as above, into each of a run's three parts.
unsafe impl Written for Split {
    type Element = [u16; 3];
    const EXACT: bool = true;

    #[inline(always)]
    unsafe fn store<S: Simd>(x: S, to: *mut [u16; 3]) {
        unsafe {
            let (high, middle, low) = {
                let to: *mut u16 = to.cast();
                (to, to.add(SPLIT_RUN), to.add(2 * SPLIT_RUN))
            };
            x.store_bf16(high);
            let rest = x.sub(S::load_bf16(high));
            rest.store_bf16(middle);
            rest.sub(S::load_bf16(middle)).store_bf16(low);
        }
    }

    #[inline(always)]
    unsafe fn at(row: *mut [u16; 3], index: usize) -> *mut [u16; 3] {
        unsafe {
            let run = row.add(index / SPLIT_RUN * SPLIT_RUN);
            run.cast::<u16>().add(index % SPLIT_RUN).cast()
        }
    }
}
