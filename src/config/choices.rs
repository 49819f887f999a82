//! Settings with a fixed set of values, and how they are written.

use std::fmt;
use std::str::FromStr;

/// A text that is none of the values a setting can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expects one of {allowed}")]
pub struct UnknownChoice {
    allowed: &'static str,
}

/// Where the model computes (`model.device`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
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

impl Device {
    /// How the values are written.
    pub const ALLOWED: &'static str = "auto, cpu, cuda, cuda:N (N up to 63), mps";
    /// Indexes past this are typing mistakes.
    const CUDA_INDEX_MAX: usize = 63;
}

impl FromStr for Device {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "auto" => Some(Device::Auto),
            "cpu" => Some(Device::Cpu),
            "cuda" => Some(Device::Cuda(0)),
            "mps" => Some(Device::Mps),
            _ => text
                .strip_prefix("cuda:")
                // `usize` would also read "+1".
                .filter(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|index| index.parse().ok())
                .filter(|&index| index <= Self::CUDA_INDEX_MAX)
                .map(Device::Cuda),
        }
        .ok_or(UnknownChoice { allowed: Self::ALLOWED })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
            Device::Mps => f.write_str("mps"),
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

        impl FromStr for $name {
            type Err = UnknownChoice;

            fn from_str(text: &str) -> Result<Self, UnknownChoice> {
                match text {
                    $($word => Ok(Self::$value),)+
                    _ => Err(UnknownChoice { allowed: Self::ALLOWED }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// In which number format the model computes (`model.precision`).
    Precision, "auto, fp32, fp16, bf16", {
        /// By device: half precision where the hardware is fast at it, else fp32.
        Auto = "auto",
        /// 32 bit: agrees with the reference to 1e-4.
        Fp32 = "fp32",
        /// 16 bit, IEEE half.
        Fp16 = "fp16",
        /// 16 bit, the exponent of fp32.
        Bf16 = "bf16",
    }
}

words! {
    /// How the log is written (`log.format`).
    LogFormat, "text, json", {
        /// Lines for people, coloured on a terminal.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// A named set of settings that comes with the program (`--profile`, `RERANK_PROFILE`).
    Profile, "dev, production, minimal, gpu", {
        /// A developer's machine.
        Dev = "dev",
        /// A CPU fleet behind a search page.
        Production = "production",
        /// A machine of 512 MB.
        Minimal = "minimal",
        /// A worker that owns a GPU.
        Gpu = "gpu",
    }
}

impl Profile {
    /// The profile's file, part of the program so that it runs from any folder.
    pub(super) fn toml(self) -> &'static str {
        match self {
            Profile::Dev => include_str!("../../config/dev.toml"),
            Profile::Production => include_str!("../../config/production.toml"),
            Profile::Minimal => include_str!("../../config/minimal.toml"),
            Profile::Gpu => include_str!("../../config/gpu.toml"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_and_written() {
        let read = |text: &str| text.parse::<Device>().ok();
        assert_eq!(read("auto"), Some(Device::Auto));
        assert_eq!(read("cpu"), Some(Device::Cpu));
        assert_eq!(read("cuda"), Some(Device::Cuda(0)));
        assert_eq!(read("cuda:3"), Some(Device::Cuda(3)));
        assert_eq!(read("mps"), Some(Device::Mps));
        for wrong in [
            "", "CUDA", "cuda:", "cuda:-1", "cuda:+1", "cuda:64", "cuda:x", "gpu", "cuda0",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(Device::Cuda(3).to_string(), "cuda:3");
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for &value in Precision::ALL {
            assert_eq!(value.as_str().parse(), Ok(value));
        }
        for &value in LogFormat::ALL {
            assert_eq!(value.as_str().parse(), Ok(value));
        }
        for &value in Profile::ALL {
            assert_eq!(value.as_str().parse(), Ok(value));
        }
        let error = "prod".parse::<Profile>().map_err(|error| error.to_string());
        assert_eq!(error, Err("expects one of dev, production, minimal, gpu".to_owned()));
    }

    #[test]
    fn the_allowed_words_are_all_of_them() {
        fn joined<T: ToString>(all: &[T]) -> String {
            all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
        }
        assert_eq!(joined(Precision::ALL), Precision::ALLOWED);
        assert_eq!(joined(LogFormat::ALL), LogFormat::ALLOWED);
        assert_eq!(joined(Profile::ALL), Profile::ALLOWED);
    }
}
