//! Settings with a fixed set of values, how they are written, and the three that the engine is given as they are.
//!
//! On its own, so that the engine knows nothing of settings files and the settings know nothing of the tensor library.

use std::fmt;
use std::str::FromStr;

/// A text that is none of the values a setting can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expects one of {allowed}")]
pub struct UnknownChoice {
    pub(crate) allowed: &'static str,
}

/// Where the model computes (`model.device`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first of CUDA, MPS and the CPU that is there.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by its index; `cuda` is index 0.
    Cuda(usize),
    /// Apple's GPU.
    Mps,
}

impl DeviceChoice {
    /// How the values are written.
    pub const ALLOWED: &'static str = "auto, cpu, cuda, cuda:N (N up to 63), mps";
    /// Indexes past this are typing mistakes.
    const CUDA_INDEX_MAX: usize = 63;
}

impl FromStr for DeviceChoice {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "auto" => Some(DeviceChoice::Auto),
            "cpu" => Some(DeviceChoice::Cpu),
            "cuda" => Some(DeviceChoice::Cuda(0)),
            "mps" => Some(DeviceChoice::Mps),
            _ => text
                .strip_prefix("cuda:")
                // `usize` would also read "+1".
                .filter(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|index| index.parse().ok())
                .filter(|&index| index <= Self::CUDA_INDEX_MAX)
                .map(DeviceChoice::Cuda),
        }
        .ok_or(UnknownChoice { allowed: Self::ALLOWED })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(index) => write!(f, "cuda:{index}"),
            DeviceChoice::Mps => f.write_str("mps"),
        }
    }
}

/// An enum of plain words: its values, and how each is written.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $allowed:literal, { $($(#[$value_meta:meta])* $value:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_meta])* $value),+
        }

        impl $name {
            /// How the values are written.
            pub const ALLOWED: &'static str = $allowed;
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];

            /// How the value is written.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $word),+
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::choices::UnknownChoice;

            fn from_str(text: &str) -> Result<Self, $crate::choices::UnknownChoice> {
                match text {
                    $($word => Ok(Self::$value),)+
                    _ => Err($crate::choices::UnknownChoice { allowed: Self::ALLOWED }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use words;

words! {
    /// In which number format the model computes (`model.precision`).
    PrecisionChoice, "auto, fp32, fp16, bf16, int8", {
        /// fp16 on a GPU, bf16 on a CPU that multiplies bf16 natively, else fp32.
        Auto = "auto",
        /// 32 bit: agrees with the reference to 1e-4.
        Fp32 = "fp32",
        /// 16 bit, IEEE half.
        Fp16 = "fp16",
        /// 16 bit, the exponent of fp32.
        Bf16 = "bf16",
        /// Whole numbers of 8 bit in the dense layers, bf16 elsewhere: on CPUs with AVX-512 VNNI or AMX only. Loses some
        /// ranking quality (docs/models.md).
        Int8 = "int8",
    }
}

words! {
    /// Which code computes on a CPU (`model.kernels`).
    KernelsChoice, "auto, amx, avx512-bf16, avx512, avx2, libtorch", {
        /// The best that this CPU has and that computes the model in its precision.
        Auto = "auto",
        /// Our own kernels, up to AMX.
        Amx = "amx",
        /// Up to AVX-512 with BF16 and VNNI.
        Avx512Bf16 = "avx512-bf16",
        /// Up to AVX-512: fp32.
        Avx512 = "avx512",
        /// AVX2: fp32.
        Avx2 = "avx2",
        /// libtorch's operators.
        Libtorch = "libtorch",
    }
}

words! {
    /// Which of the two is followed where tokenizer.json and the tokenizer's class in transformers 5 say different things
    /// (`model.tokenizer`).
    TokenizerChoice, "file, class", {
        /// tokenizer.json, which the model was trained with.
        File = "file",
        /// The class, as `predict` has it under transformers 5.
        Class = "class",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_and_written() {
        let read = |text: &str| text.parse::<DeviceChoice>().ok();
        assert_eq!(read("auto"), Some(DeviceChoice::Auto));
        assert_eq!(read("cpu"), Some(DeviceChoice::Cpu));
        assert_eq!(read("cuda"), Some(DeviceChoice::Cuda(0)));
        assert_eq!(read("cuda:3"), Some(DeviceChoice::Cuda(3)));
        assert_eq!(read("mps"), Some(DeviceChoice::Mps));
        for wrong in [
            "", "CUDA", "cuda:", "cuda:-1", "cuda:+1", "cuda:64", "cuda:x", "gpu", "cuda0",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(DeviceChoice::Cuda(3).to_string(), "cuda:3");
    }

    #[test]
    fn a_precision_is_read_and_written() {
        for &value in PrecisionChoice::ALL {
            assert_eq!(value.as_str().parse(), Ok(value));
        }
        let all: Vec<_> = PrecisionChoice::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(all.join(", "), PrecisionChoice::ALLOWED);
        assert!("FP16".parse::<PrecisionChoice>().is_err());
        let all: Vec<_> = KernelsChoice::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(all.join(", "), KernelsChoice::ALLOWED);
    }
}
