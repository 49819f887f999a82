//! Attention of every pair to itself, on the flat matrix of all pairs' tokens, in one of two ways:
//!
//! * by libtorch's kernels for sequences of any length (CUDA): one call a layer, given where each pair ends;
//! * group by group: pairs of one length are a view of the matrix, so libtorch's usual operator takes them as they lie. A call a
//!   group costs nothing on a CPU, and on a GPU more than the attention itself.
//!
//! The first way is taken only where it agreed with the second on this very device when the model was loaded.

use tch::{Device, Kind, TchError, Tensor};

use super::layout::{Group, Layout};
use super::shim::{self, Varlen, VarlenKernel};
use crate::model::tokenizer::PairTokens;

type Outcome<T> = Result<T, TchError>;

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attention {
    /// A call a group of equal lengths.
    Grouped,
    /// One call.
    Varlen(VarlenKernel),
    /// One call, given the very same, computed by plain operators that any device has.
    #[cfg(test)]
    Reference,
}

/// Which tokens ask: the queries' rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// Every token.
    All,
    /// The first token of each pair: one row a pair.
    Firsts,
}

/// A batch as the kernels want it: whole numbers on the device, in one piece.
pub(super) struct Inputs {
    pub(super) ids: Tensor,
    pub(super) positions: Tensor,
    pub(super) types: Tensor,
    /// Where each pair's first token lies.
    pub(super) firsts: Tensor,
    /// Where each pair ends, a 0 before the first.
    ends: Tensor,
    /// The same where each pair has one row.
    first_ends: Tensor,
    /// What the device copies all that from. To be kept until it has.
    pub(super) given: Tensor,
}

impl Inputs {
    /// Brings a layout to the device in one copy, beside what the device computes.
    pub(super) fn new(layout: &Layout, device: Device) -> Outcome<Inputs> {
        let packed = layout.packed();
        let beside = device.is_cuda();
        let given = shim::host_integers(&packed.values, beside)?;
        let all = given.f_to_device_(device, Kind::Int, beside, false)?;
        let mut start = 0;
        let mut next = |count: usize| {
            let part = all.f_narrow(0, start, count as i64);
            start += count as i64;
            part
        };
        Ok(Inputs {
            ids: next(packed.rows)?,
            positions: next(packed.rows)?,
            types: next(packed.rows)?,
            firsts: next(packed.firsts)?,
            ends: next(packed.pairs + 1)?,
            first_ends: next(packed.pairs + 1)?,
            given,
        })
    }
}

impl Attention {
    /// The way for this device: the fastest that agrees with the grouped one there.
    pub(super) fn choose(device: Device, kind: Kind, heads: i64, size: i64) -> Attention {
        if !device.is_cuda() {
            return Attention::Grouped;
        }
        let candidates: &[VarlenKernel] = match kind {
            Kind::Half | Kind::BFloat16 => &[VarlenKernel::Flash, VarlenKernel::Efficient],
            _ => &[VarlenKernel::Efficient],
        };
        for &kernel in candidates {
            match disagreement(Attention::Varlen(kernel), device, kind, heads, size) {
                Ok(None) => return Attention::Varlen(kernel),
                Ok(Some(off)) => tracing::warn!(?kernel, off, "attention in one call is wrong here: not used"),
                Err(error) => {
                    let reason = super::EngineError::from(error);
                    tracing::warn!(?kernel, %reason, "attention in one call was refused here: not used");
                }
            }
        }
        tracing::warn!("attention goes by groups of equal length, which is slow on a GPU");
        Attention::Grouped
    }

    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Attention::Grouped => "grouped",
            Attention::Varlen(VarlenKernel::Flash) => "flash",
            Attention::Varlen(VarlenKernel::Efficient) => "efficient",
            #[cfg(test)]
            Attention::Reference => "reference",
        }
    }

    /// `query`, `key`, `value`: `[rows, heads, size]`. Gives `[rows of the query, heads · size]`; idle rows hold anything.
    pub(super) fn of(
        self,
        (query, key, value): (&Tensor, &Tensor, &Tensor),
        asking: Asking,
        inputs: &Inputs,
        layout: &Layout,
    ) -> Outcome<Tensor> {
        let (rows, heads, size) = query.size3()?;
        let length_max = layout.groups.first().map_or(0, |group| group.length) as i64;
        let varlen = Varlen {
            query,
            key,
            value,
            query_ends: match asking {
                Asking::All => &inputs.ends,
                Asking::Firsts => &inputs.first_ends,
            },
            key_ends: &inputs.ends,
            query_max: match asking {
                Asking::All => length_max,
                Asking::Firsts => 1,
            },
            key_max: length_max,
        };
        let context = match self {
            Attention::Grouped => return grouped(query, key, value, asking, &layout.groups),
            Attention::Varlen(kernel) => shim::varlen_attention(kernel, &varlen)?,
            #[cfg(test)]
            Attention::Reference => tests::reference(&varlen)?,
        };
        context.f_reshape([rows, heads * size])
    }
}

fn grouped(query: &Tensor, key: &Tensor, value: &Tensor, asking: Asking, groups: &[Group]) -> Outcome<Tensor> {
    let (rows, heads, size) = query.size3()?;
    let mut contexts = Vec::with_capacity(groups.len() + 1);
    let mut taken = 0;
    for group in groups {
        let (pairs, length) = (group.pairs as i64, group.length as i64);
        let (start, asking) = match asking {
            Asking::All => (group.token_start as i64, length),
            Asking::Firsts => (group.pair_start as i64, 1),
        };
        // Views of [pairs, heads, tokens of a pair, size]; nothing moves.
        let part = |all: &Tensor, start: i64, each: i64| {
            all.f_narrow(0, start, pairs * each)?
                .f_view([pairs, each, heads, size])?
                .f_transpose(1, 2)
        };
        let token_start = group.token_start as i64;
        let context = attend(
            &part(query, start, asking)?,
            &part(key, token_start, length)?,
            &part(value, token_start, length)?,
        )?;
        contexts.push(context.f_transpose(1, 2)?.f_reshape([pairs * asking, heads * size])?);
        taken += pairs * asking;
    }
    if taken < rows {
        contexts.push(Tensor::f_zeros(
            [rows - taken, heads * size],
            (query.kind(), query.device()),
        )?);
    }
    match contexts.len() {
        1 => Ok(contexts.remove(0)),
        _ => Tensor::f_cat(&contexts, 0),
    }
}

fn attend(query: &Tensor, key: &Tensor, value: &Tensor) -> Outcome<Tensor> {
    Tensor::f_scaled_dot_product_attention::<Tensor>(query, key, value, None, 0.0, false, None, false)
}

/// Lengths of the pairs of the check: one token, less and more than a tile of the kernels, and equal ones.
const LENGTHS: [usize; 7] = [1, 7, 64, 65, 65, 130, 257];

/// How far `attention` is from the grouped way on noise of this shape, if that is too far.
fn disagreement(attention: Attention, device: Device, kind: Kind, heads: i64, size: i64) -> Outcome<Option<f64>> {
    // Values are of the order of one. A mistake in what goes to which pair is of that order, too.
    let tolerance = match kind {
        Kind::Float => 1e-3,
        Kind::Half => 1e-2,
        _ => 5e-2,
    };
    let pairs: Vec<PairTokens> = LENGTHS
        .iter()
        .enumerate()
        .map(|(place, &length)| PairTokens {
            ids: vec![place as u32; length],
            type_ids: vec![0; length],
            truncated: false,
        })
        .collect();
    let layout = Layout::new(&pairs.iter().collect::<Vec<_>>(), None);
    let inputs = Inputs::new(&layout, device)?;
    // As the forward pass has them: parts of one product's outcome.
    let all = Tensor::f_randn([layout.rows() as i64, 3, heads, size], (kind, device))?;
    let part = |index| all.f_select(1, index);
    let (query, key, value) = (part(0)?, part(1)?, part(2)?);
    let firsts = query.f_index_select(0, &inputs.firsts)?;
    let mut off = 0f64;
    for (asking, query, rows) in [
        (Asking::All, &query, layout.tokens()),
        (Asking::Firsts, &firsts, layout.pairs()),
    ] {
        let of = |way: Attention| way.of((query, &key, &value), asking, &inputs, &layout);
        let difference = of(attention)?
            .f_sub(&of(Attention::Grouped)?)?
            .f_narrow(0, 0, rows as i64)?
            .f_to_kind(Kind::Float)?;
        let largest = difference.f_abs()?.f_max()?.f_double_value(&[])?;
        // What is no number agrees with nothing.
        off = off.max(if largest.is_nan() { f64::INFINITY } else { largest });
    }
    Ok((off > tolerance).then_some(off))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attention by the ends of sequences, computed by plain operators; refuses what the kernels would refuse.
    pub(super) fn reference(of: &Varlen) -> Outcome<Tensor> {
        let ends = |tensor: &Tensor| -> Vec<i32> {
            assert_eq!((tensor.kind(), tensor.dim()), (Kind::Int, 1));
            assert!(tensor.is_contiguous());
            Vec::try_from(tensor).unwrap()
        };
        let (query_ends, key_ends) = (ends(of.query_ends), ends(of.key_ends));
        assert_eq!(query_ends.len(), key_ends.len());
        let (query_rows, heads, size) = of.query.size3()?;
        let (key_rows, ..) = of.key.size3()?;
        assert_eq!(of.key.size(), [key_rows, heads, size]);
        assert_eq!(of.value.size(), of.key.size());
        for tensor in [of.query, of.key, of.value] {
            assert_eq!(tensor.kind(), of.query.kind());
            // The last dimension without gaps, rows and heads at places that 16-byte loads reach. (Heads of other sizes are refused by
            // the flash kernels in any layout.)
            let strides = tensor.stride();
            assert_eq!(strides[2], 1);
            let reached = strides.iter().take(2).all(|stride| stride % 8 == 0);
            assert!(reached || size % 8 != 0, "{strides:?}");
        }
        assert_eq!((query_ends[0], key_ends[0]), (0, 0));
        assert!(i64::from(*query_ends.last().unwrap()) <= query_rows);
        assert!(i64::from(*key_ends.last().unwrap()) <= key_rows);
        let longest = |ends: &[i32]| ends.windows(2).map(|two| i64::from(two[1] - two[0])).max();
        assert_eq!(longest(&query_ends), Some(of.query_max));
        assert_eq!(longest(&key_ends), Some(of.key_max));
        // Idle rows hold what the kernels would leave there: anything.
        let out = Tensor::f_full(
            [query_rows, heads, size],
            f64::NAN,
            (of.query.kind(), of.query.device()),
        )?;
        let scale = 1.0 / (size as f64).sqrt();
        for (queries, keys) in query_ends.windows(2).zip(key_ends.windows(2)) {
            assert!(queries[0] < queries[1] && keys[0] < keys[1], "an empty sequence");
            let part = |all: &Tensor, ends: &[i32]| {
                all.narrow(0, ends[0].into(), i64::from(ends[1] - ends[0]))
                    .transpose(0, 1)
                    .to_kind(Kind::Float)
            };
            let weights =
                (part(of.query, queries).matmul(&part(of.key, keys).transpose(1, 2)) * scale).softmax(-1, Kind::Float);
            let context = weights.matmul(&part(of.value, keys)).transpose(0, 1);
            out.narrow(0, queries[0].into(), i64::from(queries[1] - queries[0]))
                .copy_(&context);
        }
        Ok(out)
    }

    #[test]
    fn what_the_kernels_are_given_describes_what_the_groups_compute() {
        for (heads, size) in [(12, 32), (2, 64), (3, 24)] {
            let off = disagreement(Attention::Reference, Device::Cpu, Kind::Float, heads, size).unwrap();
            assert_eq!(off, None, "{heads} heads of {size}");
        }
    }

    #[test]
    fn the_check_at_load_sees_a_kernel_that_takes_the_wrong_ends() {
        let device = Device::Cpu;
        let all = Tensor::randn([72, 3, 2, 8], (Kind::Float, device));
        let part = |index| all.select(1, index);
        let at = |ends: &[i32]| {
            let ends = shim::host_integers(ends, false).unwrap();
            let key_max = Vec::<i32>::try_from(&ends)
                .unwrap()
                .windows(2)
                .map(|two| i64::from(two[1] - two[0]))
                .max();
            let (query, key, value) = (part(0), part(1), part(2));
            let of = Varlen {
                query: &query,
                key: &key,
                value: &value,
                query_ends: &ends,
                key_ends: &ends,
                query_max: key_max.unwrap(),
                key_max: key_max.unwrap(),
            };
            reference(&of).unwrap()
        };
        let off = (at(&[0, 40, 72]) - at(&[0, 41, 72])).abs().max().double_value(&[]);
        assert!(off > 0.05, "one token in the wrong pair moves values by {off} only");
    }

    #[test]
    fn a_device_without_the_kernels_is_told_apart() {
        for kernel in [VarlenKernel::Flash, VarlenKernel::Efficient] {
            assert!(disagreement(Attention::Varlen(kernel), Device::Cpu, Kind::Float, 2, 8).is_err());
        }
        assert_eq!(Attention::choose(Device::Cpu, Kind::Float, 2, 8), Attention::Grouped);
    }
}
