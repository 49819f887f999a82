//! Makes the table of row kernels for one instruction set and number format out of the generic functions of `rows`.

/// `module, vector, format, format between dense layers, instruction sets, pack_keys, pack_values`: a module with `ROWS`.
macro_rules! row_kernels {
    ($module:ident, $vector:ty, $format:ty, $between:ty, $features:literal, $pack_keys:path, $pack_values:path) => {
        /// # Safety
        /// All functions: the instruction sets named, and what `kernels::RowKernels` says.
        #[allow(clippy::too_many_arguments)]
        mod $module {
            #[allow(clippy::wildcard_imports)]
            use super::*;
            use crate::model::spec::HiddenActivation;

            const EXACT: bool = <$between as Written>::EXACT;

            pub(super) const ROWS: RowKernels = RowKernels {
                store,
                activate,
                add,
                layer_norm,
                convert,
                embed,
                softmax,
                scale,
                attend_one,
                pack_keys: $pack_keys,
                pack_values: $pack_values,
            };

            #[target_feature(enable = $features)]
            unsafe fn store(t: *const f32, rows: usize, columns: usize, bias: *const f32, out: *mut u8, stride: usize) {
                unsafe { rows::store::<$vector, $format>(t, rows, columns, bias, out.cast(), stride) }
            }

            #[target_feature(enable = $features)]
            unsafe fn activate(
                t: *const f32,
                rows: usize,
                columns: usize,
                bias: *const f32,
                activation: HiddenActivation,
                out: *mut u8,
                stride: usize,
            ) {
                let out = out.cast();
                unsafe { rows::activate::<$vector, $between, EXACT>(t, rows, columns, bias, activation, out, stride) }
            }

            #[target_feature(enable = $features)]
            unsafe fn add(
                t: *const f32,
                rows: usize,
                columns: usize,
                bias: *const f32,
                residual: *const f32,
                residual_stride: usize,
                out: *mut f32,
                stride: usize,
            ) {
                unsafe { rows::add::<$vector>(t, rows, columns, bias, residual, residual_stride, out, stride) }
            }

            #[target_feature(enable = $features)]
            unsafe fn layer_norm(
                x: *mut f32,
                rows: usize,
                width: usize,
                weight: *const f32,
                bias: *const f32,
                epsilon: f32,
                out: *mut u8,
            ) {
                unsafe { rows::layer_norm::<$vector, $between>(x, rows, width, weight, bias, epsilon, out.cast()) }
            }

            #[target_feature(enable = $features)]
            unsafe fn convert(x: *const f32, rows: usize, width: usize, out: *mut u8) {
                unsafe { rows::convert::<$vector, $between>(x, rows, width, out.cast()) }
            }

            #[target_feature(enable = $features)]
            unsafe fn embed(word: *const u8, position: *const u8, kind: *const u8, width: usize, out: *mut f32) {
                let (word, position, kind) = (word.cast(), position.cast(), kind.cast());
                unsafe { rows::embed::<$vector, $format>(word, position, kind, width, out) }
            }

            #[target_feature(enable = $features)]
            unsafe fn softmax(
                scores: *const f32,
                rows: usize,
                keys: usize,
                stride: usize,
                factor: f32,
                out: *mut u8,
                sums: *mut f32,
            ) {
                unsafe { rows::softmax::<$vector, $format>(scores, rows, keys, stride, factor, out.cast(), sums) }
            }

            #[target_feature(enable = $features)]
            unsafe fn scale(
                t: *const f32,
                rows: usize,
                columns: usize,
                factors: *const f32,
                out: *mut u8,
                stride: usize,
            ) {
                unsafe { rows::scale::<$vector, $format>(t, rows, columns, factors, out.cast(), stride) }
            }

            #[target_feature(enable = $features)]
            unsafe fn attend_one(
                query: *const u8,
                key: *const u8,
                value: *const u8,
                keys: usize,
                stride: usize,
                width: usize,
                factor: f32,
                scratch: *mut f32,
                out: *mut u8,
            ) {
                let (query, key, value, out) = (query.cast(), key.cast(), value.cast(), out.cast());
                unsafe {
                    rows::attend_one::<$vector, $format>(query, key, value, keys, stride, width, factor, scratch, out)
                }
            }
        }
    };
}

pub(super) use row_kernels;
