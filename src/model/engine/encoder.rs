//! The forward pass of the BERT family: embeddings, encoder layers, classification head.
//!
//! One code for BERT, RoBERTa, XLM-RoBERTa and CamemBERT: they differ in the names of their weights, in their
//! positions (see `layout`) and in the head. Follows transformers' `*ForSequenceClassification`, inference only.

use tch::{Device, Kind, TchError, Tensor};

use super::attention::{Asking, Attention, Inputs};
use super::coming::{self, Coming};
use super::is_out_of_memory;
use super::layers::{Layer, LayerNorm, Linear, move_biases, round_biases};
use super::layout::Layout;
use crate::model::ModelError;
use crate::model::spec::{HiddenActivation, ModelSpec};
use crate::model::weights::{Dtype, Weights};

type Outcome<T> = Result<T, TchError>;

/// The model's weights on its device, in its precision, and its arithmetic.
pub(super) struct Encoder {
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    embedding_norm: LayerNorm,
    layers: Vec<Layer>,
    /// Views of the last layer's `qkv`: queries alone, and keys with values.
    last_query: Linear,
    last_key_value: Linear,
    /// Whether products are summed onto the residual as they are made (`layers`).
    onto_residual: bool,
    /// The head: a dense layer and tanh, then one output. BERT has it as pooler and classifier, RoBERTa as
    /// `classifier.dense` and `classifier.out_proj`: the same arithmetic under other names. In fp32.
    head_dense: Linear,
    head_out: Linear,
    heads: i64,
    head_size: i64,
    activation: HiddenActivation,
    attention: Attention,
    device: Device,
}

impl Encoder {
    /// Reads the weights. `kind` is the precision of everything but the head, which is in fp32 always. `onto_residual`: sums
    /// onto the residual are made by the products (`layers`), which pays on a GPU.
    pub(super) fn load(
        spec: &ModelSpec,
        weights: &Weights,
        device: Device,
        kind: Kind,
        attention: Attention,
        onto_residual: bool,
    ) -> Result<Encoder, ModelError> {
        let base = spec.architecture.prefix();
        let source = Source { weights, device };
        let hidden = spec.hidden;
        let table =
            |name: &str, rows: usize| source.tensor(&format!("{base}embeddings.{name}.weight"), &[rows, hidden], kind);
        let norm = |name: String| -> Result<LayerNorm, ModelError> {
            Ok(LayerNorm {
                weight: source.tensor(&format!("{name}.weight"), &[hidden], kind)?,
                bias: source.tensor(&format!("{name}.bias"), &[hidden], Kind::Float)?,
                epsilon: spec.layer_norm_eps,
            })
        };
        let mut layers = Vec::with_capacity(spec.layers);
        for index in 0..spec.layers {
            let at = |name: &str| format!("{base}encoder.layer.{index}.{name}");
            let qkv = source.joined(
                &[
                    at("attention.self.query"),
                    at("attention.self.key"),
                    at("attention.self.value"),
                ],
                hidden,
                kind,
            )?;
            layers.push(Layer {
                qkv,
                attention_out: source.linear(&at("attention.output.dense"), hidden, hidden, kind)?,
                attention_norm: norm(at("attention.output.LayerNorm"))?,
                up: source.linear(&at("intermediate.dense"), spec.intermediate, hidden, kind)?,
                down: source.linear(&at("output.dense"), hidden, spec.intermediate, kind)?,
                out_norm: norm(at("output.LayerNorm"))?,
            });
        }
        let (dense, out) = if spec.architecture.is_roberta_family() {
            ("classifier.dense".to_owned(), "classifier.out_proj".to_owned())
        } else {
            (format!("{base}pooler.dense"), "classifier".to_owned())
        };
        let mut embedding_norm = norm(format!("{base}embeddings.LayerNorm"))?;
        let settled = || -> Outcome<(Linear, Linear)> {
            if onto_residual {
                move_biases(&mut embedding_norm, &mut layers)?;
            }
            round_biases(&mut embedding_norm, &mut layers, kind)?;
            let (last, width) = (&layers[spec.layers - 1].qkv, hidden as i64);
            Ok((last.rows(0, width)?, last.rows(width, 2 * width)?))
        };
        let (last_query, last_key_value) = tch::no_grad(settled).map_err(tensor_error)?;
        Ok(Encoder {
            words: table("word_embeddings", spec.vocab_size)?,
            positions: table("position_embeddings", spec.positions_max)?,
            types: table("token_type_embeddings", spec.type_vocab_size)?,
            embedding_norm,
            layers,
            last_query,
            last_key_value,
            onto_residual,
            head_dense: source.linear(&dense, hidden, hidden, Kind::Float)?,
            head_out: source.linear(&out, 1, hidden, Kind::Float)?,
            heads: spec.heads as i64,
            head_size: (hidden / spec.heads) as i64,
            activation: spec.hidden_activation,
            attention,
            device,
        })
    }

    /// Begins to compute the logits of `layout`; on a GPU the device goes on while the caller does something else.
    pub(super) fn begin(&self, layout: &Layout) -> Outcome<Coming> {
        let inputs = Inputs::new(layout, self.device)?;
        match self.logits(&inputs, layout) {
            Ok(logits) => Coming::new(&logits, inputs.given, self.device),
            Err(error) => {
                if self.device.is_cuda() && !is_out_of_memory(&error.to_string()) {
                    coming::leave(inputs.given);
                }
                Err(error)
            }
        }
    }

    /// In layout order, fp32, `[pairs]`, on the device.
    fn logits(&self, inputs: &Inputs, layout: &Layout) -> Outcome<Tensor> {
        let mut x = self.embed(inputs)?;
        let last = self.layers.len() - 1;
        for layer in &self.layers[..last] {
            let context = self.attend_all(layer, &x, inputs, layout)?;
            x = self.after_attention(layer, &context, x)?;
        }
        // Only the first token of each pair goes into the head, so the last layer computes nothing else behind its
        // keys and values.
        let layer = &self.layers[last];
        let x_firsts = x.f_index_select(0, &inputs.firsts)?;
        let context = self.attend_firsts(&x, &x_firsts, inputs, layout)?;
        let x = self.after_attention(layer, &context, x_firsts)?;
        let pooled = self.head_dense.forward(&x.f_to_kind(Kind::Float)?)?.f_tanh()?;
        self.head_out
            .forward(&pooled)?
            .f_view([-1])?
            .f_narrow(0, 0, layout.pairs() as i64)
    }

    /// How attention is computed.
    pub(super) fn attention(&self) -> Attention {
        self.attention
    }

    fn embed(&self, inputs: &Inputs) -> Outcome<Tensor> {
        let words = self.words.f_index_select(0, &inputs.ids)?;
        let positions = self.positions.f_index_select(0, &inputs.positions)?;
        let types = self.types.f_index_select(0, &inputs.types)?;
        // transformers' order of summation: words + types, then positions.
        let mut sum = words.f_add(&types)?;
        sum = sum.f_add_(&positions)?;
        self.embedding_norm.forward(&sum)
    }

    /// Self-attention over every token: `[rows, hidden]`.
    fn attend_all(&self, layer: &Layer, x: &Tensor, inputs: &Inputs, layout: &Layout) -> Outcome<Tensor> {
        let qkv = layer.qkv.forward(x)?.f_view([-1, 3, self.heads, self.head_size])?;
        let part = |index| qkv.f_select(1, index);
        let parts = (&part(0)?, &part(1)?, &part(2)?);
        self.attention.of(parts, Asking::All, inputs, layout)
    }

    /// Self-attention of each pair's first token over all tokens of its pair: a row a pair.
    fn attend_firsts(&self, x: &Tensor, x_firsts: &Tensor, inputs: &Inputs, layout: &Layout) -> Outcome<Tensor> {
        let queries = self
            .last_query
            .forward(x_firsts)?
            .f_view([-1, self.heads, self.head_size])?;
        let key_value = self
            .last_key_value
            .forward(x)?
            .f_view([-1, 2, self.heads, self.head_size])?;
        let parts = (&queries, &key_value.f_select(1, 0)?, &key_value.f_select(1, 1)?);
        self.attention.of(parts, Asking::Firsts, inputs, layout)
    }

    /// What follows attention in a layer, for any set of rows.
    fn after_attention(&self, layer: &Layer, context: &Tensor, residual: Tensor) -> Outcome<Tensor> {
        let y = self.sum(&layer.attention_out, context, residual)?;
        let y = layer.attention_norm.forward(&y)?;
        let up = self.activate(layer.up.forward(&y)?)?;
        let down = self.sum(&layer.down, &up, y)?;
        drop(up);
        layer.out_norm.forward(&down)
    }

    /// What `linear` makes of `x`, and the residual.
    fn sum(&self, linear: &Linear, x: &Tensor, residual: Tensor) -> Outcome<Tensor> {
        if self.onto_residual {
            return linear.onto(residual, x);
        }
        linear.forward(x)?.f_add_(&residual)
    }

    fn activate(&self, mut x: Tensor) -> Outcome<Tensor> {
        match self.activation {
            HiddenActivation::Gelu => x.f_gelu_("none"),
            HiddenActivation::GeluTanh => x.f_gelu_("tanh"),
            HiddenActivation::Relu => x.f_relu_(),
            HiddenActivation::Silu => x.f_silu_(),
            HiddenActivation::Tanh => x.f_tanh_(),
        }
    }
}

fn tensor_error(error: TchError) -> ModelError {
    ModelError::Engine {
        reason: super::EngineError::from(error).to_string(),
    }
}

/// From a checkpoint's tensors to tensors on the device.
struct Source<'a> {
    weights: &'a Weights,
    device: Device,
}

impl Source<'_> {
    fn tensor(&self, name: &str, shape: &[usize], kind: Kind) -> Result<Tensor, ModelError> {
        let view = self.weights.get(name)?;
        if view.shape != shape {
            return Err(ModelError::Tensor {
                name: name.to_owned(),
                reason: format!("its shape is {:?} where config.json asks for {shape:?}", view.shape),
            });
        }
        let size: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let stored = match view.dtype {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F64 => Kind::Double,
        };
        Tensor::f_from_data_size(view.data, &size, stored)
            .and_then(|tensor| tensor.f_to_kind(kind))
            .and_then(|tensor| tensor.f_to_device(self.device))
            .map_err(tensor_error)
    }

    fn linear(&self, name: &str, rows: usize, columns: usize, kind: Kind) -> Result<Linear, ModelError> {
        Ok(Linear {
            weight: self.tensor(&format!("{name}.weight"), &[rows, columns], kind)?,
            // In fp32 until they have their place.
            bias: self.tensor(&format!("{name}.bias"), &[rows], Kind::Float)?,
        })
    }

    /// Several square layers stacked into one: one product in place of several.
    fn joined(&self, names: &[String], width: usize, kind: Kind) -> Result<Linear, ModelError> {
        let parts = names
            .iter()
            .map(|name| self.linear(name, width, width, kind))
            .collect::<Result<Vec<_>, _>>()?;
        let cat = |pick: fn(&Linear) -> &Tensor| {
            Tensor::f_cat(&parts.iter().map(pick).collect::<Vec<_>>(), 0).map_err(tensor_error)
        };
        Ok(Linear {
            weight: cat(|part| &part.weight)?,
            bias: cat(|part| &part.bias)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::files::Checkpoint;
    use crate::model::tokenizer::{PairTokenizer, PairTokens};

    fn logits(folder: &str, attention: Attention, onto_residual: bool) -> Vec<f32> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/reference")
            .join(folder);
        let checkpoint = Checkpoint::open("test", &folder, None).unwrap();
        let (spec, weights) = (&checkpoint.spec, Weights::open(&checkpoint).unwrap());
        let encoder = Encoder::load(spec, &weights, Device::Cpu, Kind::Float, attention, onto_residual).unwrap();
        let tokenizer = PairTokenizer::open(&checkpoint).unwrap();
        let query = tokenizer.query("what is a river").unwrap();
        let pairs: Vec<PairTokens> = (1..40)
            .map(|words| tokenizer.pair(&query, &"the river is long ".repeat(words % 13 + words / 30), true))
            .collect::<Result<_, _>>()
            .unwrap();
        let pad = spec.architecture.is_roberta_family().then_some(spec.pad_token_id);
        let of = |count: usize| Layout::new(&pairs[..count].iter().collect::<Vec<_>>(), pad);
        // As many as leave some rows idle.
        let layout = (1..=pairs.len())
            .rev()
            .map(of)
            .find(|layout| layout.rows() > layout.tokens());
        let layout = layout.unwrap();
        assert!(layout.groups.len() > 2, "{:?}", layout.groups);
        tch::no_grad(|| encoder.begin(&layout).unwrap().take().unwrap())
    }

    fn compare(attention: Attention, onto_residual: bool, tolerance: f32) {
        for folder in ["bert-small", "xlmr-small", "bert-perturbed", "xlmr-perturbed"] {
            let plain = logits(folder, Attention::Grouped, false);
            let other = logits(folder, attention, onto_residual);
            assert_eq!(plain.len(), other.len());
            for (plain, other) in plain.iter().zip(&other) {
                assert!((plain - other).abs() < tolerance, "{folder}: {plain} and {other}");
            }
        }
    }

    #[test]
    fn one_call_for_all_lengths_gives_what_a_call_a_length_gives() {
        // Idle rows hold NaN in the second form: none of it comes through.
        compare(Attention::Reference, false, 1e-5);
    }

    #[test]
    fn products_summed_onto_the_residual_give_what_separate_sums_give() {
        compare(Attention::Grouped, true, 3e-5);
        compare(Attention::Reference, true, 3e-5);
    }
}
