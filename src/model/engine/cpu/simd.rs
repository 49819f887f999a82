//! Vectors of f32 under one trait, so that what is not a matrix product is written once for all instruction sets.
//!
//! Everything here is inlined into a function that enables the instruction set (see `kernels`); called from anywhere
//! else it would be slow, and without the instruction set undefined.

use std::arch::x86_64::*;

/// A vector of f32.
///
/// # Safety
/// All functions want the instruction set of the implementing type; those with pointers want as many elements behind
/// them as the vector has, in any alignment.
pub(super) unsafe trait Simd: Copy {
    const LANES: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count` elements, fewer than the vector has; `fill` for the others, whose memory is not read.
    unsafe fn load_or(from: *const f32, count: usize, fill: f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn div(self, b: Self) -> Self;
    unsafe fn max(self, b: Self) -> Self;
    unsafe fn min(self, b: Self) -> Self;
    /// `self · b + c`.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// To the nearest whole number.
    unsafe fn round(self) -> Self;
    /// `self · 2ⁿ`, `n` whole and between -126 and 127.
    unsafe fn scale(self, n: Self) -> Self;
    unsafe fn sum(self) -> f32;
    unsafe fn largest(self) -> f32;
    /// Rounded to bf16, to the nearest even.
    unsafe fn store_bf16(self, to: *mut u16);
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// Rounded to whole numbers from 0 to 255.
    unsafe fn store_u8(self, to: *mut u8);
    unsafe fn load_i32(from: *const i32) -> Self;
}

// SAFETY: each function is what its name says, by one or a few instructions.
unsafe impl Simd for __m512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_or(from: *const f32, count: usize, fill: f32) -> Self {
        unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), (1 << count) - 1, from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { _mm512_add_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { _mm512_sub_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { _mm512_mul_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        unsafe { _mm512_div_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { _mm512_max_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        unsafe { _mm512_min_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, b, c) }
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { _mm512_roundscale_ps::<0x08>(self) }
    }

    #[inline(always)]
    unsafe fn scale(self, n: Self) -> Self {
        unsafe { _mm512_scalef_ps(self, n) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        unsafe {
            let narrow: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(self));
            _mm256_storeu_si256(to.cast(), narrow);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn store_u8(self, to: *mut u8) {
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(self))) }
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self {
        unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(from.cast())) }
    }
}

// SAFETY: as above.
unsafe impl Simd for __m256 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_or(from: *const f32, count: usize, fill: f32) -> Self {
        unsafe {
            let places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), places);
            let loaded = _mm256_maskload_ps(from, mask);
            _mm256_blendv_ps(_mm256_set1_ps(fill), loaded, _mm256_castsi256_ps(mask))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { _mm256_add_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { _mm256_sub_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { _mm256_mul_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        unsafe { _mm256_div_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { _mm256_max_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        unsafe { _mm256_min_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        unsafe { _mm256_fmadd_ps(self, b, c) }
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self) }
    }

    #[inline(always)]
    unsafe fn scale(self, n: Self) -> Self {
        unsafe {
            let bits = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
            _mm256_mul_ps(self, _mm256_castsi256_ps(bits))
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let half = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
        }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe {
            let half = _mm_max_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let pair = _mm_max_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        unsafe {
            let bits = _mm256_castps_si256(self);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let high = _mm256_srli_epi32::<16>(rounded);
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(high, high));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn store_u8(self, to: *mut u8) {
        unsafe {
            let whole = _mm256_cvtps_epi32(self);
            let words = _mm256_packus_epi32(whole, whole);
            let bytes = _mm256_packus_epi16(words, words);
            let low = _mm256_extract_epi32::<0>(bytes);
            let high = _mm256_extract_epi32::<4>(bytes);
            to.cast::<i32>().write_unaligned(low);
            to.add(4).cast::<i32>().write_unaligned(high);
        }
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self {
        unsafe { _mm256_cvtepi32_ps(_mm256_loadu_si256(from.cast())) }
    }
}

/// `c[0] + c[1]·x + …`
#[inline(always)]
unsafe fn polynomial<S: Simd, const N: usize>(x: S, coefficients: [f32; N]) -> S {
    unsafe {
        let mut sum = S::splat(coefficients[N - 1]);
        for &coefficient in coefficients[..N - 1].iter().rev() {
            sum = sum.fma(x, S::splat(coefficient));
        }
        sum
    }
}

/// 2ˣ for x from -120 up to 127; below it is as good as zero. (Closer to -126 the outcome would be a subnormal number,
/// and each of those costs a hundred cycles.) Polynomials here and below are weighted least-maximum fits of
/// our own. `EXACT`: to the last bits of f32; else to 3·10⁻⁶, far below what bf16 shows.
#[inline(always)]
pub(super) unsafe fn exp2<S: Simd, const EXACT: bool>(x: S) -> S {
    unsafe {
        let x = x.max(S::splat(-120.0));
        let whole = x.round();
        let rest = x.sub(whole);
        let power = if EXACT {
            const C: [f32; 7] = [
                1.0, 0.693_147_2, 0.240_226_46, 0.055_503_286, 0.009_618_489, 0.001_339_993_1, 0.000_153_458_11,
            ];
            polynomial(rest, C)
        } else {
            const C: [f32; 5] = [0.999_999_3, 0.693_121_8, 0.240_247_44, 0.055_917_86, 0.009_570_101];
            polynomial(rest, C)
        };
        power.scale(whole)
    }
}

/// eˣ, see [`exp2`].
#[inline(always)]
pub(super) unsafe fn exp<S: Simd, const EXACT: bool>(x: S) -> S {
    unsafe { exp2::<S, EXACT>(x.mul(S::splat(std::f32::consts::LOG2_E)).min(S::splat(127.0))) }
}

/// x·Φ(x), the GELU by the error function. `EXACT`: off by at most 2.5·10⁻⁷; else by 7·10⁻⁵, a tenth of what bf16 rounds away
/// from values near 1.
#[inline(always)]
pub(super) unsafe fn gelu<S: Simd, const EXACT: bool>(x: S) -> S {
    unsafe {
        if EXACT {
            // max(x, 0) - |x|·(1 - Φ(|x|)); the tail as the density times a polynomial in 1 / (1 + 0.34·|x|), in the manner
            // of Abramowitz and Stegun 26.2.17.
            const C: [f32; 5] = [0.129_483_88, 0.185_423_57, -0.038_488_787, 0.329_488_75, -0.105_908_73];
            let size = x.max(S::splat(0.0).sub(x));
            let u = S::splat(1.0).div(size.fma(S::splat(0.34), S::splat(1.0)));
            let density = exp::<S, true>(size.mul(size).mul(S::splat(-0.5)));
            let tail = polynomial(u, C).mul(u).mul(density);
            x.max(S::splat(0.0)).sub(size.mul(tail))
        } else {
            // Φ is as good as 0 or 1 beyond 4.5.
            const C: [f32; 9] = [
                0.398_712_6, -0.065_984_66, 0.009_585_205, -0.001_037_591_8, 8.142_525e-5, -4.451_737e-6, 1.591_000_7e-7,
                -3.314_670_3e-9, 3.036_430_1e-11,
            ];
            let near = x.min(S::splat(4.5)).max(S::splat(-4.5));
            let phi = polynomial(near.mul(near), C).fma(near, S::splat(0.5));
            x.mul(phi)
        }
    }
}

/// The logistic function.
#[inline(always)]
pub(super) unsafe fn sigmoid<S: Simd>(x: S) -> S {
    unsafe { S::splat(1.0).div(S::splat(1.0).add(exp::<S, true>(S::splat(0.0).sub(x)))) }
}

/// The hyperbolic tangent, off by at most 3·10⁻⁷.
#[inline(always)]
pub(super) unsafe fn tanh<S: Simd>(x: S) -> S {
    unsafe {
        let two = S::splat(2.0);
        two.mul(sigmoid(two.mul(x))).sub(S::splat(1.0))
    }
}
