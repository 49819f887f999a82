//! Checkpoints: from an id in the settings to tokens and tensors.
//!
//! | module | from → to |
//! |---|---|
//! | [`source`] | an id from the settings → its [`Checkpoint`] |
//! | [`files`] | a folder → [`Checkpoint`]: which file is what |
//! | [`hub`] | a hub id → a folder, downloaded once |
//! | [`spec`] | config.json → [`ModelSpec`]: what the engine must know |
//! | `layout` | the files that `CrossEncoder` saves beside it → prompt, limit, activation |
//! | `sound` | config.json and weights held together, before room is made for them |
//! | `trial` | plain texts through tokenizer and engine, before the model is served |
//! | [`weights`] | safetensors files → named tensors, mapped and not copied |
//! | [`tokenizer`] | a query and a document → token ids |
//! | `wordpiece` | the same for BERT's kind of tokenizer, without the library |
//! | [`engine`] | token ids → logits, on a device; the only place that names `tch` |

#[cfg(feature = "worker")]
pub mod engine;
pub mod error;
pub mod files;
#[cfg(feature = "worker")]
pub mod hub;
mod kinds;
mod layout;
mod object;
mod prefix;
mod requirements;
#[cfg(feature = "worker")]
mod sound;
#[cfg(feature = "worker")]
pub mod source;
pub mod spec;
mod template;
mod token_cache;
pub mod tokenizer;
mod tokenizer_class;
mod tokenizer_files;
#[cfg(feature = "worker")]
mod trial;
#[cfg(feature = "worker")]
pub mod weights;
mod wordpiece;

#[cfg(all(test, feature = "worker"))]
pub(crate) mod fixtures;

pub use error::{HubFailure, ModelError};
pub use files::Checkpoint;
#[cfg(feature = "worker")]
pub use hub::progress::Progress;
#[cfg(feature = "worker")]
pub use sound::check_weights;
#[cfg(feature = "worker")]
pub use source::{ModelSource, resolve};
pub use spec::{Architecture, HiddenActivation, ModelSpec, ScoreActivation};
pub use tokenizer::{PairTokenizer, PairTokens, QueryTokens, TokenizeError};
#[cfg(feature = "worker")]
pub use trial::try_texts;
#[cfg(feature = "worker")]
pub use weights::{Dtype, TensorView, Weights};
