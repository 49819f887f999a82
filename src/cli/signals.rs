//! What a supervisor says to this program, and what it is told: signals that ask for a stop, and notices of systemd's kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::CliError;
use crate::telemetry::supervisor::{Report, Supervisor};

/// What the first signal to a server turns true, with the exit code that it stands for. A second one ends the process at
/// once.
///
/// # Errors
/// The system lets nobody listen for signals.
pub(super) fn stop_on_signal() -> Result<(watch::Receiver<bool>, Arc<AtomicU8>), CliError> {
    let mut signals =
        Signals::new().map_err(|error| CliError::Failed(format!("cannot listen for signals: {error}")))?;
    let (sender, stop) = watch::channel(false);
    let code = Arc::new(AtomicU8::new(0));
    tokio::spawn({
        let code = code.clone();
        async move {
            let first = signals.next().await;
            code.store(first, Ordering::Release);
            tracing::info!(signal = first - 128, "stopping; a second signal ends at once");
            let _ = sender.send(true);
            let second = signals.next().await;
            tracing::warn!("second signal: ending at once");
            std::process::exit(i32::from(second));
        }
    });
    Ok((stop, code))
}

/// Tells the supervisor, if there is one that listens, what `report` says. A program that cannot tell goes on.
pub(super) fn tell_supervisor(stop_max: Duration, report: impl Fn() -> Report + Send + 'static) -> Option<Supervisor> {
    Supervisor::from_environment(stop_max, report).unwrap_or_else(|error| {
        tracing::warn!(%error, "the supervisor (NOTIFY_SOCKET) cannot be told how this program is");
        None
    })
}

/// SIGTERM and SIGINT, as exit codes.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on: neither ends the process by itself any more.
    pub(super) fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one: 128 and its number.
    pub(super) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.terminate.recv() => 143,
            _ = self.interrupt.recv() => 130,
        }
    }
}
