//! The model's weights as the kernels want them.

use super::buffer::Buffer;
use super::kernels::{Format, Kernels, TILE};
use super::panels::{Dense, bf16};
use crate::model::ModelError;
use crate::model::spec::{HiddenActivation, ModelSpec};
use crate::model::weights::{Dtype, Weights};

/// A layer norm's weight and bias.
pub(super) struct Norm {
    pub(super) weight: Buffer<f32>,
    pub(super) bias: Buffer<f32>,
    pub(super) epsilon: f32,
}

/// An encoder layer.
pub(super) struct Layer {
    /// Query, key and value as one product, in that order.
    pub(super) qkv: Dense,
    pub(super) attention_out: Dense,
    pub(super) attention_norm: Norm,
    pub(super) up: Dense,
    pub(super) down: Dense,
    pub(super) out_norm: Norm,
}

/// A table of embeddings, in the format that attention computes in.
pub(super) struct Table {
    data: Buffer<u8>,
    row_bytes: usize,
    pub(super) rows: usize,
}

impl Table {
    /// The row, which has to be there.
    pub(super) fn row(&self, index: usize) -> &[u8] {
        &self.data.slice()[index * self.row_bytes..][..self.row_bytes]
    }
}

/// All weights.
pub(super) struct Network {
    pub(super) words: Table,
    pub(super) positions: Table,
    pub(super) types: Table,
    pub(super) embedding_norm: Norm,
    pub(super) layers: Vec<Layer>,
    /// Queries of the last layer alone, which only each pair's first token needs.
    pub(super) last_query: Dense,
    /// The head: a dense layer and tanh, then one output. In fp32 always.
    pub(super) head_dense: Dense,
    pub(super) head_out: Vec<f32>,
    pub(super) head_out_bias: f32,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) heads: usize,
    pub(super) activation: HiddenActivation,
}

/// Widths come in whole vectors of the widest kind.
const LANES: usize = 16;

impl Network {
    /// Whether the kernels can compute this shape.
    pub(super) fn fits(spec: &ModelSpec) -> bool {
        spec.hidden.is_multiple_of(LANES)
            && spec.intermediate.is_multiple_of(LANES)
            && (spec.hidden / spec.heads).is_multiple_of(LANES)
    }

    /// Whether all widths are whole tiles.
    pub(super) fn fits_tiles(spec: &ModelSpec) -> bool {
        spec.hidden.is_multiple_of(TILE) && spec.intermediate.is_multiple_of(TILE)
    }

    /// Reads the weights. `attention`: the kernels whose format embeddings and attention are in.
    pub(super) fn load(
        spec: &ModelSpec,
        weights: &Weights,
        linear: &Kernels,
        attention: &Kernels,
    ) -> Result<Network, ModelError> {
        let base = spec.architecture.prefix();
        let source = Source { weights };
        let hidden = spec.hidden;
        let norm = |name: String| -> Result<Norm, ModelError> {
            Ok(Norm {
                weight: buffer(&source.tensor(&format!("{name}.weight"), &[hidden])?),
                bias: buffer(&source.tensor(&format!("{name}.bias"), &[hidden])?),
                epsilon: spec.layer_norm_eps as f32,
            })
        };
        let table = |name: &str, rows: usize| -> Result<Table, ModelError> {
            source.table(
                &format!("{base}embeddings.{name}.weight"),
                rows,
                hidden,
                attention.format,
            )
        };
        let mut layers = Vec::with_capacity(spec.layers);
        let mut last_query = None;
        for index in 0..spec.layers {
            let at = |name: &str| format!("{base}encoder.layer.{index}.{name}");
            let dense = |name: &str, rows: usize, width: usize| -> Result<Dense, ModelError> {
                let (weight, bias) = source.dense(&at(name), rows, width)?;
                Ok(Dense::pack(&weight, &bias, linear.format))
            };
            let (mut weight, mut bias) = source.dense(&at("attention.self.query"), hidden, hidden)?;
            if index + 1 == spec.layers {
                last_query = Some(Dense::pack(&weight, &bias, linear.format));
            }
            for name in ["attention.self.key", "attention.self.value"] {
                let (more, more_bias) = source.dense(&at(name), hidden, hidden)?;
                weight.extend(more);
                bias.extend(more_bias);
            }
            layers.push(Layer {
                qkv: Dense::pack(&weight, &bias, linear.format),
                attention_out: dense("attention.output.dense", hidden, hidden)?,
                attention_norm: norm(at("attention.output.LayerNorm"))?,
                up: dense("intermediate.dense", spec.intermediate, hidden)?,
                down: dense("output.dense", hidden, spec.intermediate)?,
                out_norm: norm(at("output.LayerNorm"))?,
            });
        }
        let last_query = last_query.ok_or_else(|| ModelError::Engine {
            reason: "a model without layers".to_owned(),
        })?;
        let (dense, out) = if spec.architecture.is_roberta_family() {
            ("classifier.dense".to_owned(), "classifier.out_proj".to_owned())
        } else {
            (format!("{base}pooler.dense"), "classifier".to_owned())
        };
        let (head_weight, head_bias) = source.dense(&dense, hidden, hidden)?;
        let (head_out, head_out_bias) = source.dense(&out, 1, hidden)?;
        Ok(Network {
            words: table("word_embeddings", spec.vocab_size)?,
            positions: table("position_embeddings", spec.positions_max)?,
            types: table("token_type_embeddings", spec.type_vocab_size)?,
            embedding_norm: norm(format!("{base}embeddings.LayerNorm"))?,
            layers,
            last_query,
            head_dense: Dense::pack(&head_weight, &head_bias, Format::F32),
            head_out,
            head_out_bias: head_out_bias.first().copied().unwrap_or_default(),
            hidden,
            intermediate: spec.intermediate,
            heads: spec.heads,
            activation: spec.hidden_activation,
        })
    }

    pub(super) fn head_size(&self) -> usize {
        self.hidden / self.heads
    }
}

fn buffer(values: &[f32]) -> Buffer<f32> {
    let mut buffer = Buffer::zeros(values.len());
    buffer.slice_mut().copy_from_slice(values);
    buffer
}

/// From a checkpoint's tensors to f32.
struct Source<'a> {
    weights: &'a Weights,
}

impl Source<'_> {
    /// Hands out the tensor's elements, in order.
    fn each(&self, name: &str, shape: &[usize], mut take: impl FnMut(f32)) -> Result<(), ModelError> {
        let view = self.weights.get(name)?;
        if view.shape != shape {
            return Err(ModelError::Tensor {
                name: name.to_owned(),
                reason: format!("its shape is {:?} where config.json asks for {shape:?}", view.shape),
            });
        }
        let bytes = view.data;
        match view.dtype {
            Dtype::F32 => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .for_each(|&x| take(f32::from_le_bytes(x))),
            Dtype::BF16 => bytes
                .as_chunks::<2>()
                .0
                .iter()
                .for_each(|&x| take(f32::from_bits(u32::from(u16::from_le_bytes(x)) << 16))),
            Dtype::F16 => bytes
                .as_chunks::<2>()
                .0
                .iter()
                .for_each(|&x| take(half(u16::from_le_bytes(x)))),
            Dtype::F64 => bytes
                .as_chunks::<8>()
                .0
                .iter()
                .for_each(|&x| take(f64::from_le_bytes(x) as f32)),
        }
        Ok(())
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let mut values = Vec::with_capacity(shape.iter().product());
        self.each(name, shape, |x| values.push(x))?;
        Ok(values)
    }

    fn dense(&self, name: &str, rows: usize, width: usize) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        Ok((
            self.tensor(&format!("{name}.weight"), &[rows, width])?,
            self.tensor(&format!("{name}.bias"), &[rows])?,
        ))
    }

    fn table(&self, name: &str, rows: usize, width: usize, format: Format) -> Result<Table, ModelError> {
        let row_bytes = width * format.bytes();
        let mut data = Buffer::<u8>::zeros(rows * row_bytes);
        let bytes = data.slice_mut();
        let mut at = 0;
        self.each(name, &[rows, width], |x| match format {
            Format::Bf16 => {
                bytes[at..at + 2].copy_from_slice(&bf16(x).to_ne_bytes());
                at += 2;
            }
            Format::F32 | Format::Split | Format::U8 => {
                bytes[at..at + 4].copy_from_slice(&x.to_ne_bytes());
                at += 4;
            }
        })?;
        Ok(Table { data, row_bytes, rows })
    }
}

/// IEEE half to single precision.
fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (u32::from(bits >> 15) << 31, bits >> 10 & 0x1f, u32::from(bits & 0x3ff));
    match exponent {
        0 => {
            // Zero or below the smallest normal number: fraction · 2⁻²⁴.
            let size = fraction as f32 * (1.0 / 16_777_216.0);
            f32::from_bits(size.to_bits() | sign)
        }
        0x1f => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (u32::from(exponent) + 112) << 23 | fraction << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_read() {
        for (bits, value) in [
            (0x0000u16, 0.0f32),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x0001, 5.960_464_5e-8),
            (0x8400, -6.103_515_6e-5),
            (0x7bff, 65504.0),
            (0x3555, 0.333_251_95),
        ] {
            assert_eq!(half(bits), value, "{bits:#x}");
        }
        assert!(half(0x7c00).is_infinite() && half(0x7e00).is_nan());
    }

    #[test]
    fn bf16_is_rounded_to_the_nearest_even() {
        for x in [0.0f32, 1.0, -2.5, 3.140_625, 1e30, 1e-30] {
            let back = f32::from_bits(u32::from(bf16(x)) << 16);
            assert!((back - x).abs() <= x.abs() / 256.0, "{x} {back}");
        }
        assert_eq!(bf16(f32::from_bits(0x3f80_8000)), 0x3f80);
        assert_eq!(bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert!(f32::from_bits(u32::from(bf16(f32::NAN)) << 16).is_nan());
    }
}
