//! Whether the weights are what config.json says they are, and numbers: asked before room is made for any of it.
//!
//! A size in config.json alone decides how much memory a loader asks for, and a size that was mistyped asks for more than
//! there is, which ends the process. The headers of the weights say what there really is; so every tensor that the model
//! needs is looked up there first.

use super::error::ModelError;
use super::files::Checkpoint;
use super::spec::ModelSpec;
use super::weights::{Dtype, TensorView, Weights};

/// A size of a tensor, and the field of config.json that it comes from; no field: it is the architecture's own.
#[derive(Clone, Copy)]
struct Size {
    field: &'static str,
    value: usize,
}

/// A tensor that the model needs.
struct Needed {
    name: String,
    sizes: Vec<Size>,
    /// A table of word embeddings: a row of it concerns the texts with that token, and no others.
    words: bool,
}

/// Compares every tensor that the model of `checkpoint` needs with config.json, and looks through its elements.
///
/// # Errors
/// [`ModelError::Field`] where a size is not that of the weights, with both; [`ModelError::Tensor`] where a tensor is missing,
/// in a format that is not served, or holds NaN or infinity.
pub(super) fn check(checkpoint: &Checkpoint, weights: &Weights) -> Result<(), ModelError> {
    let spec = &checkpoint.spec;
    let needed = embeddings(spec).into_iter().chain(head(spec));
    for tensor in needed {
        check_tensor(checkpoint, weights, &tensor)?;
    }
    for index in 0..spec.layers {
        // Ends at the first layer that is not there, however many config.json asks for.
        check_layer_is_there(checkpoint, weights, index)?;
        for tensor in layer(spec, index) {
            check_tensor(checkpoint, weights, &tensor)?;
        }
    }
    Ok(())
}

/// The same for a checkpoint whose weights are not open.
///
/// # Errors
/// What is found wrong with the weights by their sizes and numbers, and what [`Weights::open`] refuses.
pub fn check_weights(checkpoint: &Checkpoint) -> Result<(), ModelError> {
    check(checkpoint, &Weights::open(checkpoint)?)
}

fn size(field: &'static str, value: usize) -> Size {
    Size { field, value }
}

fn hidden(spec: &ModelSpec) -> Size {
    size("hidden_size", spec.hidden)
}

fn needed(name: String, sizes: &[Size]) -> Needed {
    Needed {
        name,
        sizes: sizes.to_vec(),
        words: false,
    }
}

/// A dense layer's weight and bias.
fn dense(name: &str, rows: Size, columns: Size) -> [Needed; 2] {
    [
        needed(format!("{name}.weight"), &[rows, columns]),
        needed(format!("{name}.bias"), &[rows]),
    ]
}

fn norm(name: &str, width: Size) -> [Needed; 2] {
    ["weight", "bias"].map(|part| needed(format!("{name}.{part}"), &[width]))
}

fn embeddings(spec: &ModelSpec) -> Vec<Needed> {
    let base = format!("{}embeddings", spec.architecture.prefix());
    let table = |name: &str, rows: Size| needed(format!("{base}.{name}_embeddings.weight"), &[rows, hidden(spec)]);
    let mut all = vec![
        Needed {
            words: true,
            ..table("word", size("vocab_size", spec.vocab_size))
        },
        table("position", size("max_position_embeddings", spec.positions_max)),
        table("token_type", size("type_vocab_size", spec.type_vocab_size)),
    ];
    all.extend(norm(&format!("{base}.LayerNorm"), hidden(spec)));
    all
}

fn layer_name(spec: &ModelSpec, index: usize) -> String {
    format!("{}encoder.layer.{index}", spec.architecture.prefix())
}

fn layer(spec: &ModelSpec, index: usize) -> Vec<Needed> {
    let base = layer_name(spec, index);
    let (width, between) = (hidden(spec), size("intermediate_size", spec.intermediate));
    let mut all = Vec::new();
    for name in ["self.query", "self.key", "self.value", "output.dense"] {
        all.extend(dense(&format!("{base}.attention.{name}"), width, width));
    }
    all.extend(norm(&format!("{base}.attention.output.LayerNorm"), width));
    all.extend(dense(&format!("{base}.intermediate.dense"), between, width));
    all.extend(dense(&format!("{base}.output.dense"), width, between));
    all.extend(norm(&format!("{base}.output.LayerNorm"), width));
    all
}

fn head(spec: &ModelSpec) -> Vec<Needed> {
    let (first, last) = if spec.architecture.is_roberta_family() {
        ("classifier.dense".to_owned(), "classifier.out_proj")
    } else {
        (format!("{}pooler.dense", spec.architecture.prefix()), "classifier")
    };
    let mut all = Vec::from(dense(&first, hidden(spec), hidden(spec)));
    all.extend(dense(last, size("", 1), hidden(spec)));
    all
}

/// A layer of which nothing is there was counted wrong; one of which something is there is damaged, and said so by name.
fn check_layer_is_there(checkpoint: &Checkpoint, weights: &Weights, index: usize) -> Result<(), ModelError> {
    let of_layer = |index: usize| format!("{}.", layer_name(&checkpoint.spec, index));
    let name = of_layer(index);
    if index == 0 || weights.names().iter().any(|tensor| tensor.starts_with(&name)) {
        return Ok(());
    }
    Err(field(
        checkpoint,
        "num_hidden_layers",
        format!("{index}, the number of layers in the weights (no tensor begins with `{name}`)"),
        checkpoint.spec.layers,
    ))
}

fn check_tensor(checkpoint: &Checkpoint, weights: &Weights, needed: &Needed) -> Result<(), ModelError> {
    let view = weights.get(&needed.name)?;
    let refused = |reason: String| ModelError::Tensor {
        name: needed.name.clone(),
        reason,
    };
    let wanted: Vec<usize> = needed.sizes.iter().map(|size| size.value).collect();
    if view.shape.len() == wanted.len() {
        let mut sizes = needed.sizes.iter().zip(&view.shape);
        if let Some((size, &found)) = sizes.find(|(size, found)| size.value != **found && !size.field.is_empty()) {
            let expected = format!("{found}, by the shape {:?} of tensor `{}`", view.shape, needed.name);
            return Err(field(checkpoint, size.field, expected, size.value));
        }
    }
    if view.shape != wanted {
        let shape = &view.shape;
        return Err(refused(format!(
            "its shape is {shape:?} where config.json asks for {wanted:?}"
        )));
    }
    let Some(NotFinite { place, value, count }) = not_finite(&view) else {
        return Ok(());
    };
    let total = view.shape.iter().product::<usize>();
    let what = format!("holds {value} at element {place}, and {count} of its {total} elements are NaN or infinite");
    // An unused token may carry anything and harm nobody; half a table does harm.
    if needed.words && count < total / 2 {
        tracing::warn!(
            tensor = needed.name,
            "{what}: texts with the tokens of such rows get no scores, others do"
        );
        return Ok(());
    }
    let repair = "the checkpoint is damaged: get it again, or save it anew from the framework that trained it";
    Err(refused(format!("{what}; {repair}")))
}

fn field(checkpoint: &Checkpoint, field: &str, expected: String, found: usize) -> ModelError {
    ModelError::Field {
        file: checkpoint.config.clone(),
        field: field.to_owned(),
        expected,
        found: found.to_string(),
    }
}

/// What is wrong with a tensor's elements.
struct NotFinite {
    /// The first of them.
    place: usize,
    value: f64,
    count: usize,
}

/// Looks for what is no number, or none in single precision, in which everything is computed.
fn not_finite(view: &TensorView<'_>) -> Option<NotFinite> {
    let data = view.data;
    match view.dtype {
        Dtype::F32 => among(
            data.as_chunks::<4>().0,
            |x| f64::from(f32::from_le_bytes(x)),
            |x| u32::from_le_bytes(x) & 0x7f80_0000 == 0x7f80_0000,
        ),
        Dtype::BF16 => among(
            data.as_chunks::<2>().0,
            |x| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(x)) << 16)),
            |x| u16::from_le_bytes(x) & 0x7f80 == 0x7f80,
        ),
        Dtype::F16 => among(
            data.as_chunks::<2>().0,
            |x| match u16::from_le_bytes(x) {
                0x7c00 => f64::INFINITY,
                0xfc00 => f64::NEG_INFINITY,
                _ => f64::NAN,
            },
            |x| u16::from_le_bytes(x) & 0x7c00 == 0x7c00,
        ),
        Dtype::F64 => among(data.as_chunks::<8>().0, f64::from_le_bytes, |x| {
            !(f64::from_le_bytes(x) as f32).is_finite()
        }),
    }
}

fn among<const N: usize>(
    elements: &[[u8; N]],
    value: impl Fn([u8; N]) -> f64,
    bad: impl Fn([u8; N]) -> bool,
) -> Option<NotFinite> {
    // Without a way out of the loop, which makes it as fast as memory.
    let count = elements.iter().map(|&element| usize::from(bad(element))).sum();
    if count == 0 {
        return None;
    }
    let place = elements.iter().position(|&element| bad(element))?;
    Some(NotFinite {
        place,
        value: value(elements[place]),
        count,
    })
}

#[cfg(test)]
#[path = "sound_tests.rs"]
mod tests;
