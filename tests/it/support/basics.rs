//! What all tests need that start processes, those in `tests/callers` too.

use std::path::PathBuf;
use std::time::Duration;

/// A wait that only a broken system reaches: long, since test machines are slow, but never endless.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Sends a signal to a process.
pub fn signal(pid: u32, name: &str) {
    let sent = std::process::Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    assert!(sent.expect("kill").success());
}

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
