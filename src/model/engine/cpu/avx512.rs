//! Kernels for AVX-512.

use std::arch::x86_64::*;

use super::formats::{Bf16, F32, Split, Tiled, Written};
use super::kernels::{Dequantize, Product, Quantize, RowKernels, TILE};
use super::row_kernels;
use super::rows;

pub(super) const PRODUCT_F32: Product = product_f32;
pub(super) const PRODUCT_BF16: Product = product_bf16;
pub(super) const PRODUCT_U8: Product = product_u8;
pub(super) const ROWS_F32: RowKernels = f32_rows::ROWS;
pub(super) const ROWS_SPLIT: RowKernels = split_rows::ROWS;
pub(super) const ROWS_BF16: RowKernels = bf16_rows::ROWS;
pub(super) const ROWS_BF16_TILED: RowKernels = bf16_tiled_rows::ROWS;
pub(super) const QUANTIZE: Quantize = quantize;
pub(super) const DEQUANTIZE: Dequantize = dequantize;

/// A product of 32-bit units, by rows of 12, 8 and 4: as many sums as fit the registers.
macro_rules! product {
    ($name:ident, $block:ident, $features:literal, $step:expr) => {
        /// # Safety
        /// The instruction sets named, and what `kernels::Product` says.
        #[target_feature(enable = $features)]
        unsafe fn $name(
            a: *const u32,
            a_stride: usize,
            panel: *const u32,
            units: usize,
            rows: usize,
            out: *mut f32,
            out_stride: usize,
        ) {
            // SAFETY: rows are rounded up to a multiple of 4 at the most.
            unsafe {
                let mut row = 0;
                while row < rows {
                    let (a, out) = (a.add(row * a_stride), out.add(row * out_stride));
                    row += match rows - row {
                        9.. => $block::<12>(a, a_stride, panel, units, out, out_stride),
                        5.. => $block::<8>(a, a_stride, panel, units, out, out_stride),
                        _ => $block::<4>(a, a_stride, panel, units, out, out_stride),
                    };
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $block<const ROWS: usize>(
            a: *const u32,
            a_stride: usize,
            panel: *const u32,
            units: usize,
            out: *mut f32,
            out_stride: usize,
        ) -> usize {
            // SAFETY: by the caller's promise.
            unsafe {
                let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
                for unit in 0..units {
                    let left = _mm512_loadu_si512(panel.add(unit * TILE).cast());
                    let right = _mm512_loadu_si512(panel.add(unit * TILE + 16).cast());
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let x = _mm512_set1_epi32(*a.add(row * a_stride + unit) as i32);
                        sums[0] = $step(sums[0], x, left);
                        sums[1] = $step(sums[1], x, right);
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    _mm512_storeu_si512(out.add(row * out_stride).cast(), sums[0]);
                    _mm512_storeu_si512(out.add(row * out_stride + 16).cast(), sums[1]);
                }
            }
            ROWS
        }
    };
}

/// `sum + x · w`, all as plain bits.
macro_rules! step_f32 {
    () => {
        |sum, x, w| {
            _mm512_castps_si512(_mm512_fmadd_ps(
                _mm512_castsi512_ps(x),
                _mm512_castsi512_ps(w),
                _mm512_castsi512_ps(sum),
            ))
        }
    };
}

macro_rules! step_bf16 {
    () => {
        |sum, x: __m512i, w: __m512i| {
            _mm512_castps_si512(_mm512_dpbf16_ps(
                _mm512_castsi512_ps(sum),
                std::mem::transmute::<__m512i, __m512bh>(x),
                std::mem::transmute::<__m512i, __m512bh>(w),
            ))
        }
    };
}

macro_rules! step_u8 {
    () => {
        |sum, x, w| _mm512_dpbusd_epi32(sum, x, w)
    };
}

product!(
    product_f32,
    block_f32,
    "avx512f,avx512bw,avx512vl,avx512dq",
    step_f32!()
);
product!(
    product_bf16,
    block_bf16,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni",
    step_bf16!()
);
product!(
    product_u8,
    block_u8,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni",
    step_u8!()
);

row_kernels!(
    f32_rows,
    __m512,
    F32,
    F32,
    "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma",
    super::pack_keys,
    super::pack_values_f32
);
row_kernels!(
    split_rows,
    __m512,
    F32,
    Split,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma",
    super::pack_keys,
    super::pack_values_f32
);
row_kernels!(
    bf16_tiled_rows,
    __m512,
    Bf16,
    Tiled,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma",
    super::pack_keys,
    super::pack_values_bf16
);
row_kernels!(
    bf16_rows,
    __m512,
    Bf16,
    Bf16,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma",
    super::pack_keys,
    super::pack_values_bf16
);

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn quantize(x: *const u8, rows: usize, width: usize, out: *mut u8, scales: *mut f32) {
    // SAFETY: by the caller's promise.
    unsafe { rows::quantize::<__m512, Bf16>(x.cast(), rows, width, out, scales) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn dequantize(
    tile: *mut f32,
    rows: usize,
    row_scales: *const f32,
    column_scales: *const f32,
    column_sums: *const i32,
) {
    // SAFETY: by the caller's promise.
    unsafe { rows::dequantize::<__m512>(tile, rows, row_scales, column_scales, column_sums) }
}

/// See `kernels::RowKernels::pack_keys`. Blocks of 16 keys by 16 units are turned in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn pack_keys(key: *const u32, stride: usize, keys: usize, units: usize, out: *mut u32) {
    const SIDE: usize = 16;
    // SAFETY: by the caller's promise; masks keep loads inside a row.
    unsafe {
        for first in (0..keys.next_multiple_of(TILE)).step_by(SIDE) {
            let out = out.add(first / TILE * units * TILE + first % TILE);
            for unit in (0..units).step_by(SIDE) {
                let count = (units - unit).min(SIDE);
                let mask = ((1u32 << count) - 1) as u16;
                let mut block = [_mm512_setzero_si512(); SIDE];
                for (row, line) in block.iter_mut().enumerate() {
                    if first + row < keys {
                        *line = _mm512_maskz_loadu_epi32(mask, key.add((first + row) * stride + unit).cast());
                    }
                }
                transpose(&mut block);
                for (row, line) in block.iter().enumerate().take(count) {
                    _mm512_storeu_si512(out.add((unit + row) * TILE).cast(), *line);
                }
            }
        }
    }
}

/// Rows become columns.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(block: &mut [__m512i; 16]) {
    let old = *block;
    for group in 0..4 {
        let at = 4 * group;
        let (a, b, c, d) = (old[at], old[at + 1], old[at + 2], old[at + 3]);
        let (low, high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (low2, high2) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        block[at] = _mm512_unpacklo_epi64(low, low2);
        block[at + 1] = _mm512_unpackhi_epi64(low, low2);
        block[at + 2] = _mm512_unpacklo_epi64(high, high2);
        block[at + 3] = _mm512_unpackhi_epi64(high, high2);
    }
    // Now each vector holds 4 × 4 pieces in its four quarters; the quarters are turned.
    let old = *block;
    for index in 0..4 {
        let (a, b, c, d) = (old[index], old[index + 4], old[index + 8], old[index + 12]);
        let (ab, ab2) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd, cd2) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        block[index] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        block[index + 8] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
        block[index + 4] = _mm512_shuffle_i32x4::<0x88>(ab2, cd2);
        block[index + 12] = _mm512_shuffle_i32x4::<0xdd>(ab2, cd2);
    }
}

/// See `kernels::RowKernels::pack_values`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn pack_values_f32(value: *const u8, stride: usize, keys: usize, width: usize, out: *mut u32) {
    // SAFETY: by the caller's promise; masks keep loads inside a row.
    unsafe {
        let value: *const u32 = value.cast();
        let units = keys.next_multiple_of(TILE);
        for column in (0..width).step_by(16) {
            let mask = ((1u32 << (width - column).min(16)) - 1) as u16;
            let out = out.add(column / TILE * units * TILE + column % TILE);
            for key in 0..units {
                let line = if key < keys {
                    _mm512_maskz_loadu_epi32(mask, value.add(key * stride + column).cast())
                } else {
                    _mm512_setzero_si512()
                };
                _mm512_storeu_si512(out.add(key * TILE).cast(), line);
            }
        }
    }
}

/// See `kernels::RowKernels::pack_values`: a unit holds two keys' values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn pack_values_bf16(value: *const u8, stride: usize, keys: usize, width: usize, out: *mut u32) {
    // SAFETY: by the caller's promise; masks keep loads inside a row.
    unsafe {
        let value: *const u16 = value.cast();
        let units = keys.next_multiple_of(TILE) / 2;
        for column in (0..width).step_by(16) {
            let mask = ((1u32 << (width - column).min(16)) - 1) as u16;
            let out = out.add(column / TILE * units * TILE + column % TILE);
            let load = |key: usize| {
                if key < keys {
                    _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, value.add(key * stride + column).cast()))
                } else {
                    _mm512_setzero_si512()
                }
            };
            for unit in 0..units {
                let (even, odd) = (load(2 * unit), load(2 * unit + 1));
                let both = _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd));
                _mm512_storeu_si512(out.add(unit * TILE).cast(), both);
            }
        }
    }
}
