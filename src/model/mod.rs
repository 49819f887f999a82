//! Checkpoints: from an id in the settings to tokens and tensors.
//!
//! | module | from → to |
//! |---|---|
//! | [`files`] | a folder → [`Checkpoint`]: which file is what |
//! | [`hub`] | a hub id → such a folder, downloaded once |
//! | [`spec`] | config.json → [`ModelSpec`]: what the engine must know |
//! | [`weights`] | safetensors files → named tensors, mapped and not copied |
//! | [`tokenizer`] | a query and a document → token ids |
//! | `wordpiece` | the same for BERT's kind of tokenizer, without the library |
//! | [`engine`] | token ids → logits, on a device; the only place that names `tch` |

pub mod engine;
pub mod error;
pub mod files;
pub mod hub;
mod kinds;
mod object;
mod prefix;
pub mod spec;
mod template;
mod token_cache;
pub mod tokenizer;
pub mod weights;
mod wordpiece;

#[cfg(test)]
pub(crate) mod fixtures;

pub use error::{HubFailure, ModelError};
pub use files::{Checkpoint, ModelSource, resolve};
pub use hub::progress::Progress;
pub use spec::{Architecture, HiddenActivation, ModelSpec, ScoreActivation};
pub use tokenizer::{PairTokenizer, PairTokens, QueryTokens, TokenizeError};
pub use weights::{Dtype, TensorView, Weights};
