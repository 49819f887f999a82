//! What the program says about itself: its log, its metrics, its health, its traces.

pub mod caller_names;
#[cfg(feature = "gateway")]
pub mod gateway_names;
#[cfg(feature = "worker")]
pub mod health;
#[cfg(feature = "gateway")]
pub mod latencies;
#[cfg(feature = "gateway")]
pub mod logs;
pub mod names;
#[cfg(feature = "otlp")]
pub mod otlp;
#[cfg(feature = "gateway")]
pub mod process;
#[cfg(feature = "gateway")]
pub mod recorder;
#[cfg(feature = "gateway")]
mod start;
#[cfg(feature = "gateway")]
pub mod supervisor;
#[cfg(feature = "worker")]
pub mod traces;
#[cfg(feature = "worker")]
mod visitors;

#[cfg(feature = "gateway")]
pub use start::{Telemetry, TelemetryError, start};
