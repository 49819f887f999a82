//! The program's own log, on standard error: results go to standard output.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{LogConfig, LogFormat, trimmed_log_filter};

/// Libraries that tell again what we tell ourselves. The level in the settings may say otherwise.
const QUIET: &str = "async_nats=warn,opentelemetry=warn";

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is no filter expression. Cannot come of a validated configuration.
    #[error("log.level cannot be used: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// The process has a log already.
    #[error("the log was started twice: {0}")]
    Started(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts the log of this process: lines for people (in colour on a terminal, unless `NO_COLOR` is set) or JSON.
///
/// # Errors
/// See [`LogError`].
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    Ok(subscriber(config, standard_error_in_colour(), io::stderr)?.try_init()?)
}

/// The same beside another layer, which goes by a filter of its own and not by the log's level.
///
/// # Errors
/// See [`LogError`].
#[cfg(feature = "otlp")]
pub fn init_beside(config: &LogConfig, other: impl Layer<Registry> + Send + Sync) -> Result<(), LogError> {
    let lines = lines(config, standard_error_in_colour(), io::stderr).with_filter(filter(config)?);
    Ok(Registry::default().with(other).with(lines).try_init()?)
}

fn standard_error_in_colour() -> bool {
    colour(io::stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref())
}

/// By the convention of no-color.org: any text but the empty one switches colour off.
fn colour(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

fn subscriber<W>(config: &LogConfig, colour: bool, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // One filter for the whole: what it leaves out costs next to nothing.
    let filter = filter(config)?;
    Ok(Box::new(
        Registry::default().with(filter).with(lines(config, colour, writer)),
    ))
}

fn filter(config: &LogConfig) -> Result<EnvFilter, LogError> {
    Ok(EnvFilter::builder().parse(format!("{QUIET},{}", trimmed_log_filter(&config.level)))?)
}

fn lines<S, W>(config: &LogConfig, colour: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colour)
        // Told on standard error, which is what failed; it would panic there.
        .log_internal_errors(false);
    match config.format {
        LogFormat::Text => Box::new(layer.compact()),
        LogFormat::Json => Box::new(layer.json().flatten_event(true).with_span_list(false)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .unwrap_or_else(|poison| poison.into_inner())
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str, colour: bool) -> String {
        let lines = Lines::default();
        let config = LogConfig {
            format,
            level: level.to_owned(),
        };
        let writer = {
            let lines = lines.clone();
            move || lines.clone()
        };
        let subscriber = subscriber(&config, colour, writer).unwrap_or_else(|error| panic!("{error}"));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "nats_rerank::worker", pairs = 24, "a batch was scored");
            tracing::debug!(target: "nats_rerank::worker", "a detail");
            tracing::info!(target: "another", "not ours");
        });
        let bytes = lines.0.lock().unwrap_or_else(|poison| poison.into_inner()).clone();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn json_lines_are_objects_with_their_fields() {
        let text = logged(LogFormat::Json, "info,another=off", true);
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_default())
            .collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert_eq!(lines[0]["message"], "a batch was scored");
        assert_eq!(lines[0]["pairs"], 24);
        assert_eq!(lines[0]["level"], "INFO");
        assert!(lines[0]["timestamp"].is_string());
    }

    #[test]
    fn text_lines_follow_the_filter() {
        let text = logged(LogFormat::Text, "off,nats_rerank=debug", false);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("a batch was scored") && text.contains("pairs=24") && text.contains("a detail"));
        assert!(!text.contains('\u{1b}'), "no colour was asked for: {text:?}");
        assert!(logged(LogFormat::Text, "info", true).contains('\u{1b}'));
    }

    #[test]
    fn white_space_between_the_parts_is_none_of_them() {
        let text = logged(LogFormat::Text, "off, nats_rerank=debug ", false);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(logged(LogFormat::Text, " debug", false).lines().count(), 3);
    }

    #[test]
    fn a_level_that_does_not_parse_is_told() {
        let config = LogConfig {
            format: LogFormat::Text,
            level: "nats_rerank=loud".to_owned(),
        };
        assert!(matches!(subscriber(&config, false, io::sink), Err(LogError::Level(_))));
    }

    #[test]
    fn colour_is_for_terminals_that_did_not_decline() {
        assert!(colour(true, None));
        assert!(colour(true, Some(OsStr::new(""))));
        assert!(!colour(true, Some(OsStr::new("1"))));
        assert!(!colour(false, None));
    }
}
