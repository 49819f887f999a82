//! The engine: token pairs in, logits out, on one device. The only module of the crate that names `tch`.
//!
//! An [`Engine`] is made, warmed and used by one thread (see `worker::infer`): it is neither `Send` nor shared, so
//! there is nothing to lock and no half-loaded weight to race on.

mod attention;
mod coming;
mod cores;
#[cfg(target_arch = "x86_64")]
mod cpu;
mod device;
mod encoder;
mod layers;
mod layout;
mod memory;
mod model_engine;
mod shim;

pub use crate::choices::{DeviceChoice, KernelsChoice, PrecisionChoice};
pub use device::{Device, Precision, amx_cap, choose_device, choose_precision};
pub use layout::Layout;
pub use memory::{DeviceMemory, OwnMemory};
pub use model_engine::{EngineSettings, ModelEngine};

use super::spec::ScoreActivation;
use super::tokenizer::PairTokens;

/// The libtorch that this program is built against and runs with (`tch` takes no other).
pub const LIBTORCH_VERSION: &str = "2.11.0";

/// What scores pairs. The worker knows nothing else of a model.
///
/// Not `Send` on purpose: one thread builds it and keeps it.
pub trait Engine {
    /// What was loaded, where, in which precision.
    fn info(&self) -> &EngineInfo;

    /// The logits of `pairs`, in their order, in fp32. A pair's logit does not depend on the others.
    ///
    /// # Errors
    /// [`EngineError`]; the engine stays usable after anything but [`EngineError::Fatal`]. A logit may be non-finite:
    /// the caller checks, since that concerns one request and not the batch.
    fn score(&mut self, pairs: &[&PairTokens]) -> Result<Vec<f32>, EngineError>;

    /// Whether [`Engine::begin`] returns before the device is through, so that the next batch can be made meanwhile.
    fn works_ahead(&self) -> bool {
        false
    }

    /// Begins to score `pairs`. What was begun first ends first; an engine that does not work ahead computes here.
    ///
    /// # Errors
    /// As [`Engine::score`].
    fn begin(&mut self, pairs: &[&PairTokens]) -> Result<Begun, EngineError> {
        self.score(pairs).map(Begun::there)
    }

    /// Waits for the logits of what was begun.
    ///
    /// # Errors
    /// As [`Engine::score`].
    fn end(&mut self, begun: Begun) -> Result<Vec<f32>, EngineError> {
        begun.logits()
    }

    /// Gives memory back to the device that is held for later batches.
    fn give_back_memory(&mut self) {}

    /// Memory of the device; `None` where it has none of its own, or does not say.
    fn device_memory(&self) -> Option<DeviceMemory> {
        None
    }
}

/// A batch that the device may still be computing.
pub struct Begun(Progress);

enum Progress {
    There(Vec<f32>),
    Coming(coming::Coming, Layout),
}

impl Begun {
    /// One that is through already.
    pub fn there(logits: Vec<f32>) -> Begun {
        Begun(Progress::There(logits))
    }

    fn coming(logits: coming::Coming, layout: Layout) -> Begun {
        Begun(Progress::Coming(logits, layout))
    }

    /// Waits for the logits, in the order of the pairs.
    ///
    /// # Errors
    /// What became of the device meanwhile.
    pub fn logits(self) -> Result<Vec<f32>, EngineError> {
        match self.0 {
            Progress::There(logits) => Ok(logits),
            Progress::Coming(logits, layout) => Ok(layout.unsort(&logits.take()?)),
        }
    }
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Begun")
    }
}

/// What an engine tells of itself.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// The id under which the model is served.
    pub model_id: String,
    /// `cpu`, `cuda:0`, `mps`.
    pub device: String,
    /// `fp32`, `fp16`, `bf16`, `int8`.
    pub precision: String,
    /// What computes: `libtorch`, or the instruction set of our own kernels (`amx`, `avx512-bf16`, `avx512`, `avx2`).
    pub kernels: &'static str,
    /// How attention is computed: `own` (our own kernels), `grouped` (a call of libtorch a length), `flash` or `efficient`
    /// (one call of libtorch's CUDA kernels).
    pub attention: &'static str,
    /// Tokens of a pair at most, special tokens counted.
    pub length_max: usize,
    /// From logit to score.
    pub activation: ScoreActivation,
    /// Tokens that one forward pass takes best on this device; `batch.tokens_max = 0` means this.
    pub batch_tokens: usize,
}

/// Why a forward pass gave no logits. Texts come from the tensor library and hold no request content.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The device has no memory for a batch of this size; a smaller one may do.
    #[error("the device is out of memory: {0}")]
    OutOfMemory(String),
    /// This batch failed; another may succeed.
    #[error("the forward pass failed: {0}")]
    Failed(String),
    /// The device or its context is lost; nothing will succeed any more.
    #[error("the device is lost: {0}")]
    Fatal(String),
}

impl From<tch::TchError> for EngineError {
    /// libtorch reports by text alone (FACTS: out of memory too), hence the sorting by what the text says.
    fn from(error: tch::TchError) -> Self {
        let text = first_line(&error.to_string());
        let lower = text.to_ascii_lowercase();
        // What CUDA says of faults after which nothing works in this process any more.
        const FATAL: [&str; 11] = [
            "device-side assert",
            "illegal memory access",
            "unspecified launch failure",
            "device lost",
            "uncorrectable ecc",
            "launch timed out",
            "hardware stack error",
            "illegal instruction",
            "misaligned address",
            "invalid program counter",
            "not supported on global/shared address space",
        ];
        if is_out_of_memory(&text) {
            EngineError::OutOfMemory(text)
        } else if FATAL.iter().any(|sign| lower.contains(sign)) {
            EngineError::Fatal(text)
        } else {
            EngineError::Failed(text)
        }
    }
}

/// By what libtorch says, in any case of letters.
fn is_out_of_memory(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    ["out of memory", "can't allocate memory", "alloc_failed"]
        .iter()
        .any(|sign| lower.contains(sign))
}

/// C++ messages carry a stack of many lines; the first says what happened.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> EngineError {
        tch::TchError::Torch(text.to_owned()).into()
    }

    #[test]
    fn what_libtorch_says_is_sorted_by_what_can_be_done_about_it() {
        for lost in [
            "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress'",
            "CUDA error: device-side assert triggered",
            "CUDA error: unspecified launch failure",
            "CUDA error: uncorrectable ECC error encountered",
            "CUDA error: the launch timed out and was terminated",
        ] {
            assert!(matches!(of(lost), EngineError::Fatal(_)), "{lost}");
        }
        for full in [
            "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 139.81 GiB",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory",
        ] {
            assert!(matches!(of(full), EngineError::OutOfMemory(_)), "{full}");
        }
        let other = of("The size of tensor a (3) must match the size of tensor b (4)\nframe #0");
        assert!(
            matches!(&other, EngineError::Failed(text) if !text.contains("frame")),
            "{other}"
        );
    }
}
