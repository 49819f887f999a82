//! How a process starts to tell of itself.

use super::logs::{self, LogError};
#[cfg(feature = "otlp")]
use super::otlp;
use crate::config::Config;

/// Log and traces of this process; dropped, it sends the last spans, within a bounded time.
#[derive(Debug)]
pub struct Telemetry {
    #[cfg(feature = "otlp")]
    _exporter: Option<otlp::Exporter>,
}

impl Telemetry {
    /// Sends the last spans, within a bounded time. Dropping it does the same.
    pub fn stop(self) {}
}

/// Why log or traces could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The export of spans.
    #[cfg(feature = "otlp")]
    #[error("traces.otlp_endpoint cannot be used: {0}")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Starts the log of this process, and its traces where the settings ask for them.
///
/// # Errors
/// See [`TelemetryError`].
pub fn start(config: &Config) -> Result<Telemetry, TelemetryError> {
    #[cfg(feature = "otlp")]
    if let Some(endpoint) = &config.traces.otlp_endpoint {
        let exporter = otlp::Exporter::new(endpoint, config.traces.sample_ratio, &config.nats.service_name)?;
        logs::init_beside(&config.log, exporter.layer())?;
        tracing::info!(
            endpoint,
            sample_ratio = config.traces.sample_ratio,
            "traces: OTLP over HTTP"
        );
        return Ok(Telemetry {
            _exporter: Some(exporter),
        });
    }
    logs::init(&config.log)?;
    Ok(Telemetry {
        #[cfg(feature = "otlp")]
        _exporter: None,
    })
}
