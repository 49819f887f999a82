//! Where the model lives and in which precision it computes.
//!
//! CUDA is not linked: libtorch's CUDA half is opened at run time when it is asked for, or when `auto` sees a driver.
//! So one binary serves both, and a CPU worker does not carry the memory of the CUDA libraries.

use std::path::Path;
use std::sync::OnceLock;

use crate::choices::{DeviceChoice, KernelsChoice, PrecisionChoice};
use crate::model::ModelError;

/// A device that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// A CUDA device, by index.
    Cuda(usize),
    /// Apple's GPU.
    Mps,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
            Device::Mps => f.write_str("mps"),
        }
    }
}

impl Device {
    pub(super) fn torch(self) -> tch::Device {
        match self {
            Device::Cpu => tch::Device::Cpu,
            Device::Cuda(index) => tch::Device::Cuda(index),
            Device::Mps => tch::Device::Mps,
        }
    }
}

/// What the encoder computes in. The head and the activation are in fp32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    Fp32,
    /// 16-bit IEEE floats.
    Fp16,
    /// bfloat16.
    Bf16,
    /// Whole numbers of 8 bit in the dense layers, bf16 elsewhere.
    Int8,
}

impl Precision {
    pub(super) fn kind(self) -> tch::Kind {
        match self {
            Precision::Fp32 => tch::Kind::Float,
            Precision::Fp16 => tch::Kind::Half,
            // Int8 never comes here: libtorch's operators do not serve it.
            Precision::Bf16 | Precision::Int8 => tch::Kind::BFloat16,
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        })
    }
}

/// Finds the device. `cuda_library` is libtorch's CUDA half, by name or path.
///
/// # Errors
/// [`ModelError::Device`] when a device was asked for by name and is not there.
pub fn choose_device(choice: DeviceChoice, cuda_library: &str) -> Result<Device, ModelError> {
    let missing = |device: &str, reason: String| ModelError::Device {
        device: device.to_owned(),
        reason,
    };
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(index) => {
            load_cuda(cuda_library).map_err(|reason| missing(&format!("cuda:{index}"), reason))?;
            let count = tch::Cuda::device_count();
            if (index as i64) < count {
                Ok(Device::Cuda(index))
            } else {
                Err(missing(
                    &format!("cuda:{index}"),
                    format!(
                        "the CUDA library was loaded and sees {count} devices; check the driver, CUDA_VISIBLE_DEVICES \
                         and the index"
                    ),
                ))
            }
        }
        DeviceChoice::Mps => {
            if tch::utils::has_mps() {
                Ok(Device::Mps)
            } else {
                Err(missing("mps", "this libtorch has no MPS device".to_owned()))
            }
        }
        DeviceChoice::Auto => Ok(auto_device(cuda_library)),
    }
}

fn auto_device(cuda_library: &str) -> Device {
    if driver_present() {
        match load_cuda(cuda_library) {
            Ok(()) if tch::Cuda::device_count() > 0 => return Device::Cuda(0),
            Ok(()) => tracing::warn!("an NVIDIA driver is here but CUDA sees no device: using the CPU"),
            Err(reason) => {
                tracing::warn!(
                    reason,
                    "an NVIDIA driver is here but libtorch's CUDA half cannot be loaded: using the CPU"
                );
            }
        }
    }
    if cfg!(target_os = "macos") && tch::utils::has_mps() {
        Device::Mps
    } else {
        Device::Cpu
    }
}

/// Whether the kernel side of a CUDA driver is here (Linux, and Windows' Linux subsystem). Asked first because opening
/// libtorch's CUDA half costs some 240 MB of memory.
fn driver_present() -> bool {
    ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"]
        .iter()
        .any(|path| Path::new(path).exists())
}

/// Opens libtorch's CUDA half, once a process, for all symbols and for good. It must happen before torch is asked
/// whether CUDA is there: torch remembers that answer.
fn load_cuda(library: &str) -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(|| open_cuda(library)).clone()
}

#[cfg(unix)]
fn open_cuda(library: &str) -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the library is libtorch's own; its initialisers register CUDA with the libtorch that is loaded already.
    match unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(handle) => {
            // Never closed: torch holds pointers into it.
            std::mem::forget(handle);
            Ok(())
        }
        Err(error) => Err(format!(
            "cannot open {library} ({error}); put the torch/lib folder of a CUDA build of libtorch 2.11.0 on the library path"
        )),
    }
}

#[cfg(not(unix))]
fn open_cuda(library: &str) -> Result<(), String> {
    Err(format!("{library}: loading CUDA at run time is supported on Unix only"))
}

/// The precision to compute in, by these kernels.
pub fn choose_precision(choice: PrecisionChoice, device: Device, kernels: KernelsChoice) -> Precision {
    let precision = match (choice, device) {
        (PrecisionChoice::Fp32, _) => Precision::Fp32,
        (PrecisionChoice::Fp16, _) => Precision::Fp16,
        (PrecisionChoice::Bf16, _) => Precision::Bf16,
        (PrecisionChoice::Int8, _) => Precision::Int8,
        (PrecisionChoice::Auto, Device::Cuda(_) | Device::Mps) => Precision::Fp16,
        (PrecisionChoice::Auto, Device::Cpu) if cpu_is_fast_at_bf16(kernels) => Precision::Bf16,
        (PrecisionChoice::Auto, Device::Cpu) => Precision::Fp32,
    };
    if precision == Precision::Fp16 && device == Device::Cpu {
        tracing::warn!("fp16 on a CPU is slow on most; bf16 or fp32 serve better");
    }
    precision
}

#[cfg(target_arch = "x86_64")]
fn cpu_is_fast_at_bf16(kernels: KernelsChoice) -> bool {
    super::cpu::is_fast_at_bf16(kernels)
}

/// By what the kernel reports.
#[cfg(not(target_arch = "x86_64"))]
fn cpu_is_fast_at_bf16(_: KernelsChoice) -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    flags_name_bf16(&text)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn flags_name_bf16(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"))
        .is_some_and(|line| line.split_whitespace().any(|flag| flag == "bf16"))
}

/// What [`amx_cap`] asks for and this process was not given: libtorch's bf16 layers must not be used.
pub(super) fn missing_amx_cap() -> Option<(&'static str, &'static str)> {
    amx_cap().filter(|(name, _)| std::env::var_os(name).is_none())
}

/// The environment variable that keeps oneDNN (inside libtorch) from AMX, and its value, where oneDNN would fail with it.
///
/// Some hypervisors show AMX and hide its palettes (CPUID leaf 0x1D is missing or reads zero). oneDNN takes the tiles' sizes from there,
/// and ends the process with an illegal instruction. Seen on Firecracker. oneDNN reads the variable when it is loaded, so it
/// has to be set before the process begins.
pub fn amx_cap() -> Option<(&'static str, &'static str)> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        const LEAF_FEATURES: u32 = 7;
        const LEAF_PALETTES: u32 = 0x1d;
        const AMX_TILE: u32 = 1 << 24;
        let leaf_max = __cpuid(0).eax;
        if leaf_max >= LEAF_FEATURES
            && __cpuid_count(LEAF_FEATURES, 0).edx & AMX_TILE != 0
            && (leaf_max < LEAF_PALETTES || __cpuid_count(LEAF_PALETTES, 0).eax == 0)
        {
            return Some(("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cpu_flags() {
        assert!(flags_name_bf16("Features : fp asimd bf16\n"));
        assert!(!flags_name_bf16("flags : fpu avx2 avx512f\n"));
        assert!(!flags_name_bf16(""));
    }

    #[test]
    fn an_absent_cuda_library_is_named() {
        let error = open_cuda("libno_such_cuda.so").unwrap_err();
        assert!(
            error.contains("libno_such_cuda.so") && error.contains("2.11.0"),
            "{error}"
        );
    }
}
