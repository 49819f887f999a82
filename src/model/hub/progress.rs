//! How a download shows itself: a bar on a terminal, a log line now and then anywhere else.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

/// Files smaller than this come without a word.
const QUIET_BYTES: u64 = 1 << 20;
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Whether downloads are shown, and how.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Bar,
    Log,
    Silent,
}

impl Progress {
    /// A bar if standard error is a terminal, log lines if not.
    pub fn auto() -> Progress {
        Progress {
            how: if std::io::stderr().is_terminal() {
                How::Bar
            } else {
                How::Log
            },
        }
    }

    /// Nothing at all.
    pub fn silent() -> Progress {
        Progress { how: How::Silent }
    }

    pub(super) fn begin(&self, file: &str, total_bytes: Option<u64>) -> FileProgress {
        let how = if total_bytes.is_some_and(|total| total < QUIET_BYTES) {
            How::Silent
        } else {
            self.how
        };
        let bar = (how == How::Bar).then(|| bar(file, total_bytes));
        if how == How::Log {
            info!(file, bytes = total_bytes, "downloading");
        }
        FileProgress {
            file: file.to_owned(),
            total_bytes,
            how,
            bar,
            logged: Instant::now(),
        }
    }
}

fn bar(file: &str, total_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match total_bytes {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ),
        None => (ProgressBar::no_length(), "{msg} {bytes} {bytes_per_sec}"),
    };
    // The template is a constant and is covered by a test; should it ever be wrong, the plain bar does.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(file.to_owned());
    bar
}

/// One file on its way.
#[derive(Debug)]
pub(super) struct FileProgress {
    file: String,
    total_bytes: Option<u64>,
    how: How,
    bar: Option<ProgressBar>,
    logged: Instant,
}

impl FileProgress {
    /// So many bytes are there now (fewer than before, if the server made us start again).
    pub(super) fn at(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
        if self.how == How::Log && self.logged.elapsed() >= LOG_EVERY {
            self.logged = Instant::now();
            info!(file = self.file, bytes, of = self.total_bytes, "downloading");
        }
    }

    /// Something that the person waiting should know.
    pub(super) fn say(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{} ({message})", self.file)),
            None if self.how == How::Log => info!(file = self.file, "{message}"),
            None => {}
        }
    }

    /// The file is whole.
    pub(super) fn finish(self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(self.file.clone());
            bar.set_position(bytes);
            bar.finish();
        }
        if self.how == How::Log {
            info!(file = self.file, bytes, "downloaded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bars_templates_are_valid() {
        for total in [None, Some(5_000_000)] {
            let shown = bar("model.safetensors", total);
            assert_eq!(shown.message(), "model.safetensors");
            assert_eq!(shown.length(), total);
        }
        assert!(ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}").is_ok());
        assert!(ProgressStyle::with_template("{msg} {bytes} {bytes_per_sec}").is_ok());
    }
}
