//! Dense layers and layer norms, and how their biases are moved so that a residual sum costs nothing.
//!
//! `norm(residual + x · weightᵀ + bias)`: a product can be summed onto the residual while it is made, but then it cannot add its
//! bias, too. So the bias is added by the norm before, whose outcome the residual is; and what the layer in between makes of it is taken from
//! that layer's own bias. The same sums in another order: logits of a real MiniLM-L6 differ by 6·10⁻⁶ in fp32, and in half precision are a
//! little nearer to fp32 than before, since two roundings are gone (docs/benchmarks/log.md).

use tch::{Kind, TchError, Tensor};

type Outcome<T> = Result<T, TchError>;

/// A dense layer: `x · weightᵀ + bias`, weight `[out, in]`.
pub(super) struct Linear {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

impl Linear {
    pub(super) fn forward(&self, x: &Tensor) -> Outcome<Tensor> {
        x.f_linear(&self.weight, Some(&self.bias))
    }

    /// A view of the rows `start .. start + rows` of the layer: some of its outputs.
    pub(super) fn rows(&self, start: i64, rows: i64) -> Outcome<Linear> {
        Ok(Linear {
            weight: self.weight.f_narrow(0, start, rows)?,
            bias: self.bias.f_narrow(0, start, rows)?,
        })
    }

    /// The product alone, summed onto `residual`, which is taken: no bias, no other pass over memory.
    pub(super) fn onto(&self, mut residual: Tensor, x: &Tensor) -> Outcome<Tensor> {
        residual.f_addmm_(x, &self.weight.f_tr()?)
    }
}

pub(super) struct LayerNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) epsilon: f64,
}

impl LayerNorm {
    pub(super) fn forward(&self, x: &Tensor) -> Outcome<Tensor> {
        x.f_layer_norm(
            [self.weight.size1()?],
            Some(&self.weight),
            Some(&self.bias),
            self.epsilon,
            false,
        )
    }

    /// Adds `moved` to what this norm gives, and takes that away again from what `next` makes of it.
    fn take_over(&mut self, moved: &Tensor, next: &mut Linear) -> Outcome<()> {
        self.bias = self.bias.f_add(moved)?;
        let made_of_it = next.weight.f_to_kind(Kind::Float)?.f_mv(moved)?;
        next.bias = next.bias.f_sub(&made_of_it)?;
        Ok(())
    }
}

pub(super) struct Layer {
    /// Query, key and value as one product, in that order: `[3 · hidden, hidden]`.
    pub(super) qkv: Linear,
    pub(super) attention_out: Linear,
    pub(super) attention_norm: LayerNorm,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) out_norm: LayerNorm,
}

/// Moves the biases of every sum onto a residual into the norms before them. Biases of dense layers and norms are in fp32 here.
pub(super) fn move_biases(embedding_norm: &mut LayerNorm, layers: &mut [Layer]) -> Outcome<()> {
    for index in 0..layers.len() {
        let (before, rest) = layers.split_at_mut(index);
        let layer = &mut rest[0];
        let norm = before
            .last_mut()
            .map_or(&mut *embedding_norm, |before| &mut before.out_norm);
        norm.take_over(&layer.attention_out.bias, &mut layer.qkv)?;
        layer.attention_norm.take_over(&layer.down.bias, &mut layer.up)?;
    }
    Ok(())
}

/// Brings the biases into the precision of the rest.
pub(super) fn round_biases(embedding_norm: &mut LayerNorm, layers: &mut [Layer], kind: Kind) -> Outcome<()> {
    let round = |bias: &mut Tensor| -> Outcome<()> {
        *bias = bias.f_to_kind(kind)?;
        Ok(())
    };
    round(&mut embedding_norm.bias)?;
    for layer in layers {
        let linears = [&mut layer.qkv, &mut layer.attention_out, &mut layer.up, &mut layer.down];
        for linear in linears {
            round(&mut linear.bias)?;
        }
        for norm in [&mut layer.attention_norm, &mut layer.out_norm] {
            round(&mut norm.bias)?;
        }
    }
    Ok(())
}
