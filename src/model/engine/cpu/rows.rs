//! What is not a matrix product, once for all instruction sets: see `kernels::RowKernels` for what each does.
//!
//! All of it is inlined into functions that enable an instruction set (`row_kernels!`), and unsafe for the reasons that
//! `simd::Simd` gives.

use super::formats::{F32, Operand, Written};
use super::kernels::TILE;
use super::simd::{self, Simd};
use crate::model::spec::HiddenActivation;

/// A function of tile elements: their vector and the column it begins at.
trait Epilogue<S> {
    unsafe fn apply(&self, x: S, row: usize, column: usize) -> S;
}

/// Stores `f(tile)`; columns behind the last are computed, since tiles and biases reach there, and not stored.
#[inline(always)]
unsafe fn each<S: Simd, O: Written, E: Epilogue<S>>(
    tile: *const f32,
    rows: usize,
    columns: usize,
    epilogue: &E,
    out: *mut O::Element,
    stride: usize,
) {
    unsafe {
        for row in 0..rows {
            let (from, to) = (tile.add(row * TILE), out.add(row * stride));
            if columns == TILE {
                let mut at = 0;
                while at < TILE {
                    O::store(epilogue.apply(S::load(from.add(at)), row, at), to.add(at));
                    at += S::LANES;
                }
            } else {
                let mut whole = [O::Element::default(); TILE];
                let mut at = 0;
                while at < TILE {
                    O::store(
                        epilogue.apply(S::load(from.add(at)), row, at),
                        whole.as_mut_ptr().add(at),
                    );
                    at += S::LANES;
                }
                std::ptr::copy_nonoverlapping(whole.as_ptr(), to, columns);
            }
        }
    }
}

struct Bias(*const f32);

impl<S: Simd> Epilogue<S> for Bias {
    #[inline(always)]
    unsafe fn apply(&self, x: S, _: usize, column: usize) -> S {
        unsafe { x.add(S::load(self.0.add(column))) }
    }
}

#[inline(always)]
pub(super) unsafe fn store<S: Simd, O: Operand>(
    tile: *const f32,
    rows: usize,
    columns: usize,
    bias: *const f32,
    out: *mut O::Element,
    stride: usize,
) {
    unsafe { each::<S, O, _>(tile, rows, columns, &Bias(bias), out, stride) }
}

macro_rules! activations {
    ($($name:ident: $x:ident => $value:expr;)*) => {
        $(
            struct $name<const EXACT: bool>(*const f32);
            impl<S: Simd, const EXACT: bool> Epilogue<S> for $name<EXACT> {
                #[inline(always)]
                unsafe fn apply(&self, x: S, _: usize, column: usize) -> S {
                    unsafe {
                        let $x = x.add(S::load(self.0.add(column)));
                        $value
                    }
                }
            }
        )*
    };
}

activations! {
    Gelu: x => simd::gelu::<S, EXACT>(x);
    GeluTanh: x => {
        // 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))
        let cube = x.mul(x).mul(x);
        let inner = cube.fma(S::splat(0.044_715), x).mul(S::splat(0.797_884_6));
        x.mul(S::splat(0.5)).mul(S::splat(1.0).add(simd::tanh(inner)))
    };
    Relu: x => x.max(S::splat(0.0));
    Silu: x => x.mul(simd::sigmoid(x));
    Tanh: x => simd::tanh(x);
}

#[inline(always)]
pub(super) unsafe fn activate<S: Simd, O: Written, const EXACT: bool>(
    tile: *const f32,
    rows: usize,
    columns: usize,
    bias: *const f32,
    activation: HiddenActivation,
    out: *mut O::Element,
    stride: usize,
) {
    unsafe {
        match activation {
            HiddenActivation::Gelu => each::<S, O, _>(tile, rows, columns, &Gelu::<EXACT>(bias), out, stride),
            HiddenActivation::GeluTanh => each::<S, O, _>(tile, rows, columns, &GeluTanh::<EXACT>(bias), out, stride),
            HiddenActivation::Relu => each::<S, O, _>(tile, rows, columns, &Relu::<EXACT>(bias), out, stride),
            HiddenActivation::Silu => each::<S, O, _>(tile, rows, columns, &Silu::<EXACT>(bias), out, stride),
            HiddenActivation::Tanh => each::<S, O, _>(tile, rows, columns, &Tanh::<EXACT>(bias), out, stride),
        }
    }
}

struct BiasAndResidual {
    bias: *const f32,
    residual: *const f32,
    stride: usize,
}

impl<S: Simd> Epilogue<S> for BiasAndResidual {
    #[inline(always)]
    unsafe fn apply(&self, x: S, row: usize, column: usize) -> S {
        unsafe {
            let biased = x.add(S::load(self.bias.add(column)));
            biased.add(S::load(self.residual.add(row * self.stride + column)))
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn add<S: Simd>(
    tile: *const f32,
    rows: usize,
    columns: usize,
    bias: *const f32,
    residual: *const f32,
    residual_stride: usize,
    out: *mut f32,
    stride: usize,
) {
    let epilogue = BiasAndResidual {
        bias,
        residual,
        stride: residual_stride,
    };
    unsafe { each::<S, F32, _>(tile, rows, columns, &epilogue, out, stride) }
}

struct RowFactor(*const f32);

impl<S: Simd> Epilogue<S> for RowFactor {
    #[inline(always)]
    unsafe fn apply(&self, x: S, row: usize, _: usize) -> S {
        unsafe { x.mul(S::splat(*self.0.add(row))) }
    }
}

#[inline(always)]
pub(super) unsafe fn scale<S: Simd, O: Operand>(
    tile: *const f32,
    rows: usize,
    columns: usize,
    factors: *const f32,
    out: *mut O::Element,
    stride: usize,
) {
    unsafe { each::<S, O, _>(tile, rows, columns, &RowFactor(factors), out, stride) }
}

#[inline(always)]
pub(super) unsafe fn layer_norm<S: Simd, O: Written>(
    x: *mut f32,
    rows: usize,
    width: usize,
    weight: *const f32,
    bias: *const f32,
    epsilon: f32,
    out: *mut O::Element,
) {
    unsafe {
        for row in 0..rows {
            let x = x.add(row * width);
            let mut sum = S::splat(0.0);
            let mut at = 0;
            while at < width {
                sum = sum.add(S::load(x.add(at)));
                at += S::LANES;
            }
            let mean = S::splat(sum.sum() / width as f32);
            let mut squares = S::splat(0.0);
            at = 0;
            while at < width {
                let off = S::load(x.add(at)).sub(mean);
                squares = off.fma(off, squares);
                at += S::LANES;
            }
            let factor = S::splat(1.0 / (squares.sum() / width as f32 + epsilon).sqrt());
            at = 0;
            while at < width {
                let off = S::load(x.add(at)).sub(mean).mul(factor);
                let y = off.fma(S::load(weight.add(at)), S::load(bias.add(at)));
                y.store(x.add(at));
                O::store(y, O::place(out, row, at, width));
                at += S::LANES;
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn convert<S: Simd, O: Written>(x: *const f32, rows: usize, width: usize, out: *mut O::Element) {
    unsafe {
        for row in 0..rows {
            let mut at = 0;
            while at < width {
                O::store(S::load(x.add(row * width + at)), O::place(out, row, at, width));
                at += S::LANES;
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn embed<S: Simd, O: Operand>(
    word: *const O::Element,
    position: *const O::Element,
    kind: *const O::Element,
    width: usize,
    out: *mut f32,
) {
    unsafe {
        let mut at = 0;
        while at < width {
            // transformers' order of summation: words + types, then positions.
            let sum = O::load::<S>(word.add(at)).add(O::load::<S>(kind.add(at)));
            sum.add(O::load::<S>(position.add(at))).store(out.add(at));
            at += S::LANES;
        }
    }
}

#[inline(always)]
pub(super) unsafe fn softmax<S: Simd, O: Operand>(
    scores: *const f32,
    rows: usize,
    keys: usize,
    stride: usize,
    factor: f32,
    out: *mut O::Element,
    sums: *mut f32,
) {
    unsafe {
        let factor = S::splat(factor * std::f32::consts::LOG2_E);
        for row in 0..rows {
            let (scores, out) = (scores.add(row * stride), out.add(row * stride));
            let whole = keys / S::LANES * S::LANES;
            let tail = S::load_or(scores.add(whole), keys - whole, f32::NEG_INFINITY);
            let mut most = tail;
            let mut at = 0;
            while at < whole {
                most = most.max(S::load(scores.add(at)));
                at += S::LANES;
            }
            let most = S::splat(most.largest());
            let mut sum = S::splat(0.0);
            at = 0;
            while at < whole {
                let power = exp2_of::<S, O>(S::load(scores.add(at)).sub(most).mul(factor));
                sum = sum.add(power);
                O::store(power, out.add(at));
                at += S::LANES;
            }
            if whole < keys {
                let power = exp2_of::<S, O>(tail.sub(most).mul(factor));
                sum = sum.add(power);
                O::store(power, out.add(at));
                at += S::LANES;
            }
            while at < stride {
                O::store(S::splat(0.0), out.add(at));
                at += S::LANES;
            }
            *sums.add(row) = 1.0 / sum.sum();
        }
    }
}

#[inline(always)]
unsafe fn exp2_of<S: Simd, O: Operand>(x: S) -> S {
    unsafe {
        if O::EXACT {
            simd::exp2::<S, true>(x)
        } else {
            simd::exp2::<S, false>(x)
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn attend_one<S: Simd, O: Operand>(
    query: *const O::Element,
    key: *const O::Element,
    value: *const O::Element,
    keys: usize,
    stride: usize,
    width: usize,
    factor: f32,
    scratch: *mut f32,
    out: *mut O::Element,
) {
    unsafe {
        let mut most = f32::NEG_INFINITY;
        for index in 0..keys {
            let key = key.add(index * stride);
            let mut sum = S::splat(0.0);
            let mut at = 0;
            while at < width {
                sum = O::load::<S>(query.add(at)).fma(O::load::<S>(key.add(at)), sum);
                at += S::LANES;
            }
            let score = sum.sum() * factor;
            *scratch.add(index) = score;
            most = most.max(score);
        }
        let mut total = 0.0;
        for index in 0..keys {
            let power = (*scratch.add(index) - most).exp();
            *scratch.add(index) = power;
            total += power;
        }
        let one_over = S::splat(1.0 / total);
        let mut at = 0;
        while at < width {
            let mut sum = S::splat(0.0);
            for index in 0..keys {
                sum = S::splat(*scratch.add(index)).fma(O::load::<S>(value.add(index * stride + at)), sum);
            }
            O::store(sum.mul(one_over), out.add(at));
            at += S::LANES;
        }
    }
}

/// The absolute largest of each row becomes 127.
#[inline(always)]
pub(super) unsafe fn quantize<S: Simd, O: Operand>(
    x: *const O::Element,
    rows: usize,
    width: usize,
    out: *mut u8,
    scales: *mut f32,
) {
    unsafe {
        for row in 0..rows {
            let (x, out) = (x.add(row * width), out.add(row * width));
            let mut most = S::splat(0.0);
            let mut at = 0;
            while at < width {
                let value = O::load::<S>(x.add(at));
                most = most.max(value.max(S::splat(0.0).sub(value)));
                at += S::LANES;
            }
            let most = most.largest().max(f32::MIN_POSITIVE);
            let (factor, zero) = (S::splat(127.0 / most), S::splat(128.0));
            at = 0;
            while at < width {
                O::load::<S>(x.add(at)).fma(factor, zero).store_u8(out.add(at));
                at += S::LANES;
            }
            *scales.add(row) = most / 127.0;
        }
    }
}

#[inline(always)]
pub(super) unsafe fn dequantize<S: Simd>(
    tile: *mut f32,
    rows: usize,
    row_scales: *const f32,
    column_scales: *const f32,
    column_sums: *const i32,
) {
    unsafe {
        for row in 0..rows {
            let tile = tile.add(row * TILE);
            let scale = S::splat(*row_scales.add(row));
            let mut at = 0;
            while at < TILE {
                // The zero point of 128 has added 128 times the sum of the column's weights.
                let sum = S::load_i32(tile.add(at).cast());
                let shift = S::load_i32(column_sums.add(at)).mul(S::splat(128.0));
                sum.sub(shift)
                    .mul(scale)
                    .mul(S::load(column_scales.add(at)))
                    .store(tile.add(at));
                at += S::LANES;
            }
        }
    }
}
