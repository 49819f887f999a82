//! Signs of life of a gateway, for whoever watches over the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the gateway gives a sign of life.
const PULSE_EVERY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Life {
    started_at: Instant,
    listening: AtomicBool,
    connected: AtomicBool,
    refused: AtomicBool,
    /// Milliseconds after the start; the last turn of the task that accepts connections.
    pulse_ms: AtomicU64,
}

impl Life {
    /// The life of a gateway that starts now.
    pub fn new() -> Arc<Life> {
        Arc::new(Life {
            started_at: Instant::now(),
            listening: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            pulse_ms: AtomicU64::new(0),
        })
    }

    /// Whether it accepts connections: from then on every request is answered, with a ranking or without.
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// Whether it was connected to NATS at its last sign of life.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Whether NATS had refused its credentials for long, at its last sign of life: it should be started anew with others.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// Since its last sign of life.
    pub fn silence(&self) -> Duration {
        let pulse = Duration::from_millis(self.pulse_ms.load(Ordering::Acquire));
        self.started_at.elapsed().saturating_sub(pulse)
    }

    pub(super) fn set_listening(&self) {
        self.listening.store(true, Ordering::Release);
    }

    /// Gives signs of life for as long as it is polled. `state`: whether there is a connection, whether it is refused for long.
    pub(super) async fn pulse(&self, state: impl Fn() -> (bool, bool)) {
        loop {
            let (connected, refused) = state();
            self.connected.store(connected, Ordering::Release);
            self.refused.store(refused, Ordering::Release);
            self.pulse_ms
                .store(self.started_at.elapsed().as_millis() as u64, Ordering::Release);
            tokio::time::sleep(PULSE_EVERY).await;
        }
    }
}
