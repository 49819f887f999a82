//! The engine: by our own kernels or by libtorch; loads a checkpoint once, then scores batches.

use std::time::{Duration, Instant};

use super::attention::Attention;
use super::cores::physical_cores;
#[cfg(target_arch = "x86_64")]
use super::cpu::Native;
use super::device::{Device, Precision, choose_device, choose_precision, missing_amx_cap};
use super::encoder::Encoder;
use super::layout::Layout;
use super::memory::{DeviceMemory, MemoryMeter};
use super::shim;
use super::{Begun, Engine, EngineError, EngineInfo};
use crate::choices::{DeviceChoice, KernelsChoice, PrecisionChoice};
use crate::model::ModelError;
use crate::model::files::Checkpoint;
use crate::model::sound;
use crate::model::spec::ModelSpec;
use crate::model::tokenizer::PairTokens;
use crate::model::weights::Weights;

/// How to load and run a model.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Which device.
    pub device: DeviceChoice,
    /// Which precision.
    pub precision: PrecisionChoice,
    /// Which code computes on a CPU; on a GPU `libtorch` leaves out attention in one call.
    pub kernels: KernelsChoice,
    /// Threads of a forward pass on a CPU device; 0: as many as there are physical cores for this process.
    pub threads: usize,
    /// Pairs to score before the engine counts as ready; 0: none.
    pub warmup_samples: usize,
    /// libtorch's CUDA half, by name or path.
    pub cuda_library: String,
}

impl Default for EngineSettings {
    fn default() -> Self {
        EngineSettings {
            device: DeviceChoice::Auto,
            precision: PrecisionChoice::Auto,
            kernels: KernelsChoice::Auto,
            threads: 0,
            warmup_samples: 8,
            cuda_library: "libtorch_cuda.so".to_owned(),
        }
    }
}

/// A cross-encoder on a device.
pub struct ModelEngine {
    forward: Forward,
    info: EngineInfo,
    vocab_size: usize,
    roberta_pad: Option<u32>,
    memory: Option<MemoryMeter>,
}

/// What computes.
enum Forward {
    /// libtorch's operators, on any device.
    Libtorch(Box<Encoder>),
    /// Our own kernels, on the CPU.
    #[cfg(target_arch = "x86_64")]
    Native(Box<Native>),
}

impl Forward {
    fn load(
        spec: &ModelSpec,
        weights: &Weights,
        device: Device,
        precision: Precision,
        settings: &EngineSettings,
    ) -> Result<Forward, ModelError> {
        #[cfg(target_arch = "x86_64")]
        if device == Device::Cpu
            && let Some(native) = Native::load(spec, weights, precision, settings.kernels, threads(settings))?
        {
            return Ok(Forward::Native(Box::new(native)));
        }
        if precision == Precision::Int8 {
            return Err(ModelError::Device {
                device: device.to_string(),
                reason: format!(
                    "model.precision = int8 wants a CPU with AVX-512 VNNI and BF16 or AMX, a model whose widths are multiples \
                     of 16, and model.kernels = auto, amx or avx512-bf16 (now {})",
                    settings.kernels
                ),
            });
        }
        if device == Device::Cpu
            && precision == Precision::Bf16
            && let Some((name, value)) = missing_amx_cap()
        {
            return Err(ModelError::Device {
                device: device.to_string(),
                reason: format!(
                    "this machine shows AMX and hides its palettes, on which libtorch's bf16 layers fail; start the program with \
                     {name}={value} in its environment, or set model.precision = fp32"
                ),
            });
        }
        if device == Device::Cpu {
            tch::set_num_threads(threads(settings) as i32);
        }
        let (place, kind) = (device.torch(), precision.kind());
        let attention = if settings.kernels == KernelsChoice::Libtorch {
            Attention::Grouped
        } else {
            let (heads, size) = (spec.heads as i64, (spec.hidden / spec.heads) as i64);
            tch::no_grad(|| Attention::choose(place, kind, heads, size))
        };
        let encoder = Encoder::load(spec, weights, place, kind, attention, place.is_cuda())?;
        Ok(Forward::Libtorch(Box::new(encoder)))
    }

    fn kernels(&self) -> &'static str {
        match self {
            Forward::Libtorch(_) => "libtorch",
            #[cfg(target_arch = "x86_64")]
            Forward::Native(native) => native.kernels(),
        }
    }

    fn attention(&self) -> &'static str {
        match self {
            Forward::Libtorch(encoder) => encoder.attention().name(),
            #[cfg(target_arch = "x86_64")]
            Forward::Native(_) => "own",
        }
    }

    fn begin(&mut self, layout: Layout) -> Result<Begun, EngineError> {
        match self {
            // Gradient mode is per thread in libtorch.
            Forward::Libtorch(encoder) => Ok(Begun::coming(tch::no_grad(|| encoder.begin(&layout))?, layout)),
            #[cfg(target_arch = "x86_64")]
            Forward::Native(native) => Ok(Begun::there(layout.unsort(&native.forward(&layout)?))),
        }
    }
}

fn threads(settings: &EngineSettings) -> usize {
    if settings.threads > 0 {
        settings.threads
    } else {
        physical_cores()
    }
}

impl ModelEngine {
    /// Loads `checkpoint` onto the device and warms it up, on the thread that will keep the engine.
    ///
    /// # Errors
    /// A device that is not there, a size in config.json that is not that of the weights, a tensor that is missing, misshapen or
    /// not finite, or a failed warm-up.
    pub fn load(checkpoint: &Checkpoint, settings: &EngineSettings) -> Result<ModelEngine, ModelError> {
        let started = Instant::now();
        let device = choose_device(settings.device, &settings.cuda_library)?;
        let mut precision = choose_precision(settings.precision, device, settings.kernels);
        let weights = Weights::open(checkpoint)?;
        // Before anything is allocated by what config.json says.
        sound::check(checkpoint, &weights)?;
        let spec = &checkpoint.spec;
        let mut forward = Forward::load(spec, &weights, device, precision, settings);
        let refused = matches!(forward, Err(ModelError::Device { .. }));
        if refused && settings.precision == PrecisionChoice::Auto && precision == Precision::Bf16 {
            // Nobody asked for bf16.
            precision = Precision::Fp32;
            forward = Forward::load(spec, &weights, device, precision, settings);
        }
        let forward = forward?;
        drop(weights);
        let mut engine = ModelEngine {
            info: EngineInfo {
                kernels: forward.kernels(),
                attention: forward.attention(),
                model_id: checkpoint.id.clone(),
                device: device.to_string(),
                precision: precision.to_string(),
                length_max: spec.length_max,
                activation: spec.score_activation,
                batch_tokens: batch_tokens(device),
            },
            forward,
            vocab_size: spec.vocab_size,
            roberta_pad: spec.architecture.is_roberta_family().then_some(spec.pad_token_id),
            memory: match device {
                Device::Cuda(index) => MemoryMeter::find(index),
                Device::Cpu | Device::Mps => None,
            },
        };
        let loaded = started.elapsed();
        engine.warm_up(settings.warmup_samples)?;
        log_loaded(&engine.info, precision, loaded, started.elapsed());
        Ok(engine)
    }

    /// Scores made-up pairs of several lengths, so that the first caller does not pay for libtorch's lazy set-up.
    fn warm_up(&mut self, samples: usize) -> Result<(), ModelError> {
        let id = |place: usize| (place * 7 + 3) % self.vocab_size;
        let pairs: Vec<PairTokens> = (0..samples)
            .map(|sample| {
                let length = (16 << (sample % 4)).min(self.info.length_max);
                PairTokens {
                    ids: (0..length).map(|place| id(place + sample) as u32).collect(),
                    type_ids: vec![0; length],
                    truncated: false,
                }
            })
            .collect();
        if pairs.is_empty() {
            return Ok(());
        }
        let borrowed: Vec<&PairTokens> = pairs.iter().collect();
        // Twice: libtorch's CPU kernels plan at the first call and run at speed from the second.
        for _ in 0..2 {
            self.score(&borrowed).map_err(|error| ModelError::Engine {
                reason: format!("warm-up: {error}"),
            })?;
        }
        Ok(())
    }

    /// Out of memory, what the allocator holds for later is given back: it may lie in pieces of the wrong size, and others on
    /// this device may need it.
    fn make_room(&mut self, error: &EngineError) {
        if matches!(error, EngineError::OutOfMemory(_)) {
            self.give_back_memory();
        }
    }
}

impl Engine for ModelEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn score(&mut self, pairs: &[&PairTokens]) -> Result<Vec<f32>, EngineError> {
        let begun = self.begin(pairs)?;
        self.end(begun)
    }

    fn works_ahead(&self) -> bool {
        self.info.device.starts_with("cuda")
    }

    fn begin(&mut self, pairs: &[&PairTokens]) -> Result<Begun, EngineError> {
        if pairs.is_empty() {
            return Ok(Begun::there(Vec::new()));
        }
        let layout = Layout::new(pairs, self.roberta_pad);
        self.forward.begin(layout).inspect_err(|error| self.make_room(error))
    }

    fn end(&mut self, begun: Begun) -> Result<Vec<f32>, EngineError> {
        begun.logits().inspect_err(|error| self.make_room(error))
    }

    fn give_back_memory(&mut self) {
        if self.works_ahead()
            && let Err(error) = shim::empty_cache()
        {
            let reason = EngineError::from(error);
            tracing::warn!(%reason, "cached memory of the device could not be given back");
        }
    }

    fn device_memory(&self) -> Option<DeviceMemory> {
        self.memory.as_ref().and_then(MemoryMeter::read)
    }
}

/// A CPU is busy with a few thousand tokens, and a longer batch only makes the next one wait; a GPU wants many.
fn batch_tokens(device: Device) -> usize {
    match device {
        Device::Cpu => 4096,
        Device::Cuda(_) | Device::Mps => 32768,
    }
}

fn log_loaded(info: &EngineInfo, precision: Precision, loaded: Duration, warm: Duration) {
    tracing::info!(
        model = info.model_id,
        device = info.device,
        %precision,
        kernels = info.kernels,
        attention = info.attention,
        length_max = info.length_max,
        load_ms = loaded.as_millis() as u64,
        warmup_ms = (warm - loaded).as_millis() as u64,
        "model loaded"
    );
}
