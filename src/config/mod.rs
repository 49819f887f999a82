//! Settings: layered, then validated.

mod choices;
mod secret;
mod settings;

pub use choices::{Device, LogFormat, Precision, Profile, UnknownChoice};
pub use secret::{Secret, redact_url};
pub use settings::{
    BatchConfig, Config, LimitsConfig, LogConfig, ModelConfig, NatsConfig, QueueConfig,
    RuntimeConfig, ServerUrl, ShutdownConfig, TokenizeConfig,
};
