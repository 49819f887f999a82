//! Products on AMX: two by two tiles of 16 × 16 sums. Rust has no stable intrinsics for it, hence assembly.

use std::arch::asm;

use super::kernels::{AMX_UNITS, Format, Product, TILE};

pub(super) const PRODUCT_BF16: Product = product_bf16;
/// The operand in tiles.
pub(super) const PRODUCT_BF16_TILED: Product = product_bf16_tiled;
pub(super) const PRODUCT_U8: Product = product_u8;
/// The operand in tiles.
pub(super) const PRODUCT_SPLIT: Product = product_split;

/// Bytes of a unit, and of a row of a panel.
const UNIT: usize = 4;
const PANEL_ROW: usize = 128;

macro_rules! product {
    ($name:ident, $dot:literal, $next:literal) => {
        /// # Safety
        /// As `kernels::Product` says; units are a multiple of [`AMX_UNITS`] and not 0; the tiles of this thread are ready.
        unsafe fn $name(
            a: *const u32,
            a_stride: usize,
            panel: *const u32,
            units: usize,
            rows: usize,
            out: *mut f32,
            out_stride: usize,
        ) {
            let steps = units / AMX_UNITS;
            let (a_stride, out_stride) = (a_stride * UNIT, out_stride * UNIT);
            // SAFETY: reads 16 or 32 rows of `a`, `units` rows of the panel, writes 16 or 32 rows of 32 sums; all of it is
            // the caller's promise.
            unsafe {
                if rows > 16 {
                    asm!(
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "tilezero tmm2",
                        "tilezero tmm3",
                        "2:",
                        "tileloadd tmm6, [{b} + {b_stride}*1]",
                        "tileloadd tmm4, [{a} + {a_stride}*1]",
                        "tileloadd tmm7, [{b} + {b_stride}*1 + 64]",
                        "tileloadd tmm5, [{a_below} + {a_stride}*1]",
                        concat!($dot, " tmm0, tmm4, tmm6"),
                        concat!($dot, " tmm1, tmm4, tmm7"),
                        concat!($dot, " tmm2, tmm5, tmm6"),
                        concat!($dot, " tmm3, tmm5, tmm7"),
                        concat!("add {a}, ", $next),
                        concat!("add {a_below}, ", $next),
                        "add {b}, 2048",
                        "dec {steps}",
                        "jnz 2b",
                        "tilestored [{c} + {c_stride}*1], tmm0",
                        "tilestored [{c} + {c_stride}*1 + 64], tmm1",
                        "tilestored [{c_below} + {c_stride}*1], tmm2",
                        "tilestored [{c_below} + {c_stride}*1 + 64], tmm3",
                        a = inout(reg) a => _,
                        a_below = inout(reg) a.byte_add(16 * a_stride) => _,
                        a_stride = in(reg) a_stride,
                        b = inout(reg) panel => _,
                        b_stride = in(reg) PANEL_ROW,
                        steps = inout(reg) steps => _,
                        c = in(reg) out,
                        c_below = in(reg) out.byte_add(16 * out_stride),
                        c_stride = in(reg) out_stride,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                } else {
                    asm!(
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "2:",
                        "tileloadd tmm6, [{b} + {b_stride}*1]",
                        "tileloadd tmm4, [{a} + {a_stride}*1]",
                        "tileloadd tmm7, [{b} + {b_stride}*1 + 64]",
                        concat!($dot, " tmm0, tmm4, tmm6"),
                        concat!($dot, " tmm1, tmm4, tmm7"),
                        concat!("add {a}, ", $next),
                        "add {b}, 2048",
                        "dec {steps}",
                        "jnz 2b",
                        "tilestored [{c} + {c_stride}*1], tmm0",
                        "tilestored [{c} + {c_stride}*1 + 64], tmm1",
                        a = inout(reg) a => _,
                        a_stride = in(reg) a_stride,
                        b = inout(reg) panel => _,
                        b_stride = in(reg) PANEL_ROW,
                        steps = inout(reg) steps => _,
                        c = in(reg) out,
                        c_stride = in(reg) out_stride,
                        out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            }
        }
    };
}

// Bytes from one tile of an operand to the next: in a row of it, or in tiles of 32 rows.
product!(product_bf16, "tdpbf16ps", "64");
product!(product_bf16_tiled, "tdpbf16ps", "2048");
product!(product_u8, "tdpbusd", "64");

/// Loads of two tiles at an offset: rows of the operand (the second pair of sixteen below the first), columns of the panel.
macro_rules! rows {
    ($at:literal) => {
        concat!(
            "tileloadd tmm4, [{a} + {a_stride}*1 + ",
            $at,
            "]\ntileloadd tmm5, [{a_below} + {a_stride}*1 + ",
            $at,
            "]"
        )
    };
}

macro_rules! columns {
    ($at:literal) => {
        concat!(
            "tileloadd tmm6, [{b} + {b_stride}*1 + ",
            $at,
            "]\ntileloadd tmm7, [{b} + {b_stride}*1 + 64 + ",
            $at,
            "]"
        )
    };
}

/// The four products of what is loaded.
macro_rules! square {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// f32 by six products of bf16: each of a pair of f32 is a sum of three bf16, and of the nine products of parts the three
/// smallest stay below the rounding of an f32 sum (2⁻²⁵ of the largest). Small ones are added first. Each tile serves up to three
/// products, so this comes nearer to the rate of AMX than bf16 alone does.
///
/// # Safety
/// As `kernels::Product` says; units are those of whole tiles (`Format::Split`) and not 0; the tiles of this thread are ready.
unsafe fn product_split(
    a: *const u32,
    a_stride: usize,
    panel: *const u32,
    units: usize,
    rows: usize,
    out: *mut f32,
    out_stride: usize,
) {
    let steps = units / Format::Split.units(TILE);
    let (a_stride, out_stride) = (a_stride * UNIT, out_stride * UNIT);
    // With one row of tiles the second repeats the first, for nothing: only the last rows of a pass come so.
    let below = if rows > 16 { 16 } else { 0 };
    // SAFETY: as for the other products.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            // High rows with low, middle and, at the end, high columns; middle rows with middle and high ones; low rows with high.
            rows!(0),
            columns!(4096),
            square!(),
            columns!(2048),
            square!(),
            rows!(2048),
            square!(),
            columns!(0),
            square!(),
            rows!(4096),
            square!(),
            rows!(0),
            square!(),
            "add {a}, 6144",
            "add {a_below}, 6144",
            "add {b}, 6144",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c_below} + {c_stride}*1], tmm2",
            "tilestored [{c_below} + {c_stride}*1 + 64], tmm3",
            "tilestored [{c} + {c_stride}*1], tmm0",
            "tilestored [{c} + {c_stride}*1 + 64], tmm1",
            a = inout(reg) a => _,
            a_below = inout(reg) a.byte_add(below * a_stride) => _,
            a_stride = in(reg) a_stride,
            b = inout(reg) panel => _,
            b_stride = in(reg) PANEL_ROW,
            steps = inout(reg) steps => _,
            c = in(reg) out,
            c_below = in(reg) out.byte_add(below * out_stride),
            c_stride = in(reg) out_stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
