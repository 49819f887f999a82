//! The forward pass of the BERT family: embeddings, encoder layers, classification head.
//!
//! One code for BERT, RoBERTa, XLM-RoBERTa and CamemBERT: they differ in the names of their weights, in their
//! positions (see `layout`) and in the head. Follows transformers' `*ForSequenceClassification`, inference only.

use tch::{Device, Kind, TchError, Tensor};

use super::layout::{Group, Layout};
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
    device: Device,
}

impl Encoder {
    /// Reads the weights. `kind` is the precision of everything but the head, which is in fp32 always.
    pub(super) fn load(spec: &ModelSpec, weights: &Weights, device: Device, kind: Kind) -> Result<Encoder, ModelError> {
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
            device,
        })
    }

    /// Logits in layout order, fp32, `[pairs]`, on the CPU.
    pub(super) fn forward(&self, layout: &Layout) -> Outcome<Vec<f32>> {
        let mut x = self.embed(layout)?;
        let firsts = self.index(&layout.firsts)?;
        let last = self.layers.len() - 1;
        for layer in &self.layers[..last] {
            let context = self.attention(layer, &x, &layout.groups)?;
            x = self.after_attention(layer, &context, &x)?;
        }
        // Only the first token of each pair goes into the head, so the last layer computes nothing else behind its
        // keys and values.
        let layer = &self.layers[last];
        let x_firsts = x.f_index_select(0, &firsts)?;
        let context = self.first_token_attention(layer, &x, &x_firsts, &layout.groups)?;
        let x = self.after_attention(layer, &context, &x_firsts)?;
        let pooled = self.head_dense.forward(&x.f_to_kind(Kind::Float)?)?.f_tanh()?;
        let logits = self
            .head_out
            .forward(&pooled)?
            .f_view([-1])?
            .f_narrow(0, 0, layout.pairs() as i64)?
            .f_to_device(Device::Cpu)?;
        let mut host = vec![0f32; layout.pairs()];
        logits.f_copy_data(&mut host, layout.pairs())?;
        Ok(host)
    }

    fn index(&self, values: &[i64]) -> Outcome<Tensor> {
        Tensor::f_from_slice(values)?.f_to_device(self.device)
    }

    fn embed(&self, layout: &Layout) -> Outcome<Tensor> {
        let words = self.words.f_index_select(0, &self.index(&layout.ids)?)?;
        let positions = self.positions.f_index_select(0, &self.index(&layout.positions)?)?;
        let types = self.types.f_index_select(0, &self.index(&layout.types)?)?;
        // transformers' order of summation: words + types, then positions.
        let mut sum = words.f_add(&types)?;
        sum = sum.f_add_(&positions)?;
        self.embedding_norm.forward(&sum)
    }

    /// Self-attention over every token: `[tokens, hidden]`.
    fn attention(&self, layer: &Layer, x: &Tensor, groups: &[Group]) -> Outcome<Tensor> {
        let qkv = layer.qkv.forward(x)?;
        let mut contexts = Vec::with_capacity(groups.len());
        for group in groups {
            let (pairs, length) = (group.pairs as i64, group.length as i64);
            let view = qkv.f_narrow(0, group.token_start as i64, pairs * length)?;
            // [pairs, length, 3, heads, size] -> three of [pairs, heads, length, size]; views, nothing moves.
            let view = view.f_view([pairs, length, 3, self.heads, self.head_size])?;
            let part = |index| view.f_select(2, index)?.f_transpose(1, 2);
            let context = attend(&part(0)?, &part(1)?, &part(2)?)?;
            contexts.push(
                context
                    .f_transpose(1, 2)?
                    .f_reshape([pairs * length, self.heads * self.head_size])?,
            );
        }
        self.join(contexts, x)
    }

    /// Self-attention of each pair's first token over all tokens of its pair: `[pairs, hidden]`.
    fn first_token_attention(&self, layer: &Layer, x: &Tensor, x_firsts: &Tensor, groups: &[Group]) -> Outcome<Tensor> {
        let queries = layer.query.forward(x_firsts)?;
        let key_value = layer.key_value.forward(x)?;
        let mut contexts = Vec::with_capacity(groups.len());
        for group in groups {
            let (pairs, length) = (group.pairs as i64, group.length as i64);
            let query = queries
                .f_narrow(0, group.pair_start as i64, pairs)?
                .f_view([pairs, 1, self.heads, self.head_size])?
                .f_transpose(1, 2)?;
            let view = key_value
                .f_narrow(0, group.token_start as i64, pairs * length)?
                .f_view([pairs, length, 2, self.heads, self.head_size])?;
            let part = |index| view.f_select(2, index)?.f_transpose(1, 2);
            let context = attend(&query, &part(0)?, &part(1)?)?;
            contexts.push(
                context
                    .f_transpose(1, 2)?
                    .f_reshape([pairs, self.heads * self.head_size])?,
            );
        }
        self.join(contexts, x_firsts)
    }

    /// The groups' contexts as one matrix with as many rows as `like`: idle rows get zeros.
    fn join(&self, mut contexts: Vec<Tensor>, like: &Tensor) -> Outcome<Tensor> {
        let rows: i64 = contexts.iter().map(|context| context.size()[0]).sum();
        let idle = like.size()[0] - rows;
        if idle > 0 {
            contexts.push(Tensor::f_zeros([idle, like.size()[1]], (like.kind(), self.device))?);
        }
        match contexts.len() {
            1 => Ok(contexts.remove(0)),
            _ => Tensor::f_cat(&contexts, 0),
        }
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

fn attend(query: &Tensor, key: &Tensor, value: &Tensor) -> Outcome<Tensor> {
    Tensor::f_scaled_dot_product_attention::<Tensor>(query, key, value, None, 0.0, false, None, false)
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
