//! Kernels for AVX2 with FMA: fp32 only.

use std::arch::x86_64::*;

use super::formats::{F32, Written};
use super::kernels::{Product, RowKernels, TILE};
use super::row_kernels;
use super::rows;

pub(super) const PRODUCT: Product = product;
pub(super) const ROWS: RowKernels = f32_rows::ROWS;

row_kernels!(
    f32_rows,
    __m256,
    F32,
    F32,
    "avx2,fma",
    super::pack_keys,
    super::pack_values
);

/// # Safety
/// AVX2 and FMA, and what `kernels::Product` says.
#[target_feature(enable = "avx2,fma")]
unsafe fn product(
    a: *const u32,
    a_stride: usize,
    panel: *const u32,
    units: usize,
    rows: usize,
    out: *mut f32,
    out_stride: usize,
) {
    // SAFETY: rows are rounded up to a multiple of 2 at the most.
    unsafe {
        let mut row = 0;
        while row < rows {
            let (a, out) = (a.add(row * a_stride).cast(), out.add(row * out_stride));
            // Half a panel at a time: 6 × 2 sums, 2 weights and a factor fill the 16 registers.
            row += match rows - row {
                5.. => block::<6>(a, a_stride, panel.cast(), units, out, out_stride),
                3.. => block::<4>(a, a_stride, panel.cast(), units, out, out_stride),
                _ => block::<2>(a, a_stride, panel.cast(), units, out, out_stride),
            };
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn block<const ROWS: usize>(
    a: *const f32,
    a_stride: usize,
    panel: *const f32,
    units: usize,
    out: *mut f32,
    out_stride: usize,
) -> usize {
    // SAFETY: by the caller's promise.
    unsafe {
        for half in [0, 16] {
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            for unit in 0..units {
                let left = _mm256_loadu_ps(panel.add(unit * TILE + half));
                let right = _mm256_loadu_ps(panel.add(unit * TILE + half + 8));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*a.add(row * a_stride + unit));
                    sums[0] = _mm256_fmadd_ps(x, left, sums[0]);
                    sums[1] = _mm256_fmadd_ps(x, right, sums[1]);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                _mm256_storeu_ps(out.add(row * out_stride + half), sums[0]);
                _mm256_storeu_ps(out.add(row * out_stride + half + 8), sums[1]);
            }
        }
    }
    ROWS
}

/// See `kernels::RowKernels::pack_keys`.
unsafe fn pack_keys(key: *const u32, stride: usize, keys: usize, units: usize, out: *mut u32) {
    // SAFETY: by the caller's promise.
    unsafe {
        for first in (0..keys).step_by(TILE) {
            let out = out.add(first * units);
            for unit in 0..units {
                for column in 0..TILE {
                    let inside = first + column < keys;
                    *out.add(unit * TILE + column) = if inside {
                        *key.add((first + column) * stride + unit)
                    } else {
                        0
                    };
                }
            }
        }
    }
}

/// See `kernels::RowKernels::pack_values`.
unsafe fn pack_values(value: *const u8, stride: usize, keys: usize, width: usize, out: *mut u32) {
    // SAFETY: by the caller's promise.
    unsafe {
        let value: *const u32 = value.cast();
        let units = keys.next_multiple_of(TILE);
        for first in (0..width).step_by(TILE) {
            let columns = (width - first).min(TILE);
            let out = out.add(first * units);
            for key in 0..units {
                let line = std::slice::from_raw_parts_mut(out.add(key * TILE), TILE);
                line.fill(0);
                if key < keys {
                    line[..columns]
                        .copy_from_slice(std::slice::from_raw_parts(value.add(key * stride + first), columns));
                }
            }
        }
    }
}
