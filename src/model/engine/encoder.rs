//! The forward pass of the BERT family: embeddings, encoder layers, classification head.
//!
//! One code for BERT, RoBERTa, XLM-RoBERTa and CamemBERT: they differ in the names of their weights, in their
//! positions (see `layout`) and in the head. Follows transformers' `*ForSequenceClassification`, inference only.

use tch::{Device, Kind, TchError, Tensor};

use super::attention::{Asking, Attention, Inputs};
use super::coming::{self, Coming};
use super::is_out_of_memory;
use super::layout::Layout;
use crate::model::ModelError;
use crate::model::spec::{HiddenActivation, ModelSpec};
use crate::model::weights::{Dtype, Weights};

type Outcome<T> = Result<T, TchError>;

/// A dense layer: `x · weightᵀ + bias`, weight `[out, in]`.
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Outcome<Tensor> {
        x.f_linear(&self.weight, Some(&self.bias))
    }

    /// A view of the rows `start .. start + rows` of the layer: some of its outputs.
    fn rows(&self, start: i64, rows: i64) -> Outcome<Linear> {
        Ok(Linear {
            weight: self.weight.f_narrow(0, start, rows)?,
            bias: self.bias.f_narrow(0, start, rows)?,
        })
    }
}

struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    fn forward(&self, x: &Tensor) -> Outcome<Tensor> {
        x.f_layer_norm(
            [self.weight.size1()?],
            Some(&self.weight),
            Some(&self.bias),
            self.epsilon,
            false,
        )
    }
}

struct Layer {
    /// Query, key and value as one product, in that order: `[3 · hidden, hidden]`.
    qkv: Linear,
    /// Views of `qkv` for the last layer: queries alone, and keys with values.
    query: Linear,
    key_value: Linear,
    attention_out: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    out_norm: LayerNorm,
}

/// The model's weights on its device, in its precision, and its arithmetic.
pub(super) struct Encoder {
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    embedding_norm: LayerNorm,
    layers: Vec<Layer>,
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
    /// Reads the weights. `kind` is the precision of everything but the head, which is in fp32 always.
    pub(super) fn load(
        spec: &ModelSpec,
        weights: &Weights,
        device: Device,
        kind: Kind,
        attention: Attention,
    ) -> Result<Encoder, ModelError> {
        let base = spec.architecture.prefix();
        let source = Source { weights, device };
        let hidden = spec.hidden;
        let table =
            |name: &str, rows: usize| source.tensor(&format!("{base}embeddings.{name}.weight"), &[rows, hidden], kind);
        let norm = |name: String| -> Result<LayerNorm, ModelError> {
            Ok(LayerNorm {
                weight: source.tensor(&format!("{name}.weight"), &[hidden], kind)?,
                bias: source.tensor(&format!("{name}.bias"), &[hidden], kind)?,
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
            let width = hidden as i64;
            layers.push(Layer {
                query: qkv.rows(0, width).map_err(tensor_error)?,
                key_value: qkv.rows(width, 2 * width).map_err(tensor_error)?,
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
        Ok(Encoder {
            words: table("word_embeddings", spec.vocab_size)?,
            positions: table("position_embeddings", spec.positions_max)?,
            types: table("token_type_embeddings", spec.type_vocab_size)?,
            embedding_norm: norm(format!("{base}embeddings.LayerNorm"))?,
            layers,
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
            x = self.after_attention(layer, &context, &x)?;
        }
        // Only the first token of each pair goes into the head, so the last layer computes nothing else behind its
        // keys and values.
        let layer = &self.layers[last];
        let x_firsts = x.f_index_select(0, &inputs.firsts)?;
        let context = self.attend_firsts(layer, &x, &x_firsts, inputs, layout)?;
        let x = self.after_attention(layer, &context, &x_firsts)?;
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
    fn attend_firsts(
        &self,
        layer: &Layer,
        x: &Tensor,
        x_firsts: &Tensor,
        inputs: &Inputs,
        layout: &Layout,
    ) -> Outcome<Tensor> {
        let queries = layer
            .query
            .forward(x_firsts)?
            .f_view([-1, self.heads, self.head_size])?;
        let key_value = layer
            .key_value
            .forward(x)?
            .f_view([-1, 2, self.heads, self.head_size])?;
        let parts = (&queries, &key_value.f_select(1, 0)?, &key_value.f_select(1, 1)?);
        self.attention.of(parts, Asking::Firsts, inputs, layout)
    }

    /// What follows attention in a layer, for any set of rows.
    fn after_attention(&self, layer: &Layer, context: &Tensor, residual: &Tensor) -> Outcome<Tensor> {
        let mut y = layer.attention_out.forward(context)?;
        let y = layer.attention_norm.forward(&y.f_add_(residual)?)?;
        let up = self.activate(layer.up.forward(&y)?)?;
        let mut down = layer.down.forward(&up)?;
        drop(up);
        layer.out_norm.forward(&down.f_add_(&y)?)
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
            bias: self.tensor(&format!("{name}.bias"), &[rows], kind)?,
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

    fn logits(folder: &str, kind: Kind, attention: Attention) -> Vec<f32> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/reference")
            .join(folder);
        let checkpoint = Checkpoint::open("test", &folder, None).unwrap();
        let (spec, weights) = (&checkpoint.spec, Weights::open(&checkpoint).unwrap());
        let encoder = Encoder::load(spec, &weights, Device::Cpu, kind, attention).unwrap();
        let tokenizer = PairTokenizer::open(&checkpoint).unwrap();
        let query = tokenizer.query("what is a river").unwrap();
        let pairs: Vec<PairTokens> = (1..40)
            .map(|words| tokenizer.pair(&query, &"the river is long ".repeat(words % 13 + words / 30), true))
            .collect::<Result<_, _>>()
            .unwrap();
        let pad = spec.architecture.is_roberta_family().then_some(spec.pad_token_id);
        let layout = Layout::new(&pairs.iter().collect::<Vec<_>>(), pad);
        assert!(layout.groups.len() > 5 && layout.rows() > layout.tokens());
        tch::no_grad(|| encoder.begin(&layout).unwrap().take().unwrap())
    }

    #[test]
    fn one_call_for_all_lengths_gives_what_a_call_a_length_gives() {
        for folder in ["bert-small", "xlmr-small", "bert-perturbed"] {
            let grouped = logits(folder, Kind::Float, Attention::Grouped);
            let varlen = logits(folder, Kind::Float, Attention::Reference);
            assert_eq!(grouped.len(), varlen.len());
            for (grouped, varlen) in grouped.iter().zip(&varlen) {
                // Idle rows hold NaN in the second form: none of it comes through.
                assert!((grouped - varlen).abs() < 1e-5, "{folder}: {grouped} and {varlen}");
            }
        }
    }
}
