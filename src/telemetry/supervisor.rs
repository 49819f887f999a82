//! What the supervisor that started this program is told: systemd's `sd_notify` protocol, for units of `Type=notify`. Without
//! `NOTIFY_SOCKET` in the environment nothing happens at all.
//!
//! Ours and not a crate's, since the small crate for it knows no abstract sockets (which containers use) and waits without
//! a bound for a supervisor that does not read. What to say next is pure (`Book`); a thread of its own says it, so that a
//! hung supervisor holds up nothing.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the program is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A supervisor that does not read for so long is told again later.
const SEND_MAX: Duration = Duration::from_secs(1);
/// While the program starts, it asks for this much time…
const EXTEND_BY: Duration = Duration::from_secs(60);
/// …this often…
const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// …but a start that takes longer than this is for the supervisor to judge: a download of many gigabytes ends sooner.
const START_MAX: Duration = Duration::from_secs(3600);

/// Where the program is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not of use yet; asks for time.
    Starting,
    /// Of use.
    Ready,
    /// On its way out.
    Stopping,
}

/// The program as it is right now.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it should go on: false stops the watchdog's pings.
    pub alive: bool,
    /// One line for people.
    pub status: String,
}

/// Tells the supervisor until it is dropped, and then that the program stops.
#[derive(Debug)]
pub struct Supervisor {
    stop: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Tells the supervisor that the environment names, if it names one, what `report` says. A stop takes `stop_max` at most.
    ///
    /// # Errors
    /// The socket cannot be used, or the system gives no thread. The program can do without.
    pub fn from_environment(
        stop_max: Duration,
        report: impl Fn() -> Report + Send + 'static,
    ) -> io::Result<Option<Supervisor>> {
        let Some(address) = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return Ok(None);
        };
        let socket = connect(&address)?;
        let watchdog = watchdog(
            env::var_os("WATCHDOG_USEC"),
            env::var_os("WATCHDOG_PID"),
            std::process::id(),
        );
        let book = Book::new(watchdog, stop_max, Instant::now());
        let (stop, stopped) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || tell(&socket, book, &report, &stopped))?;
        Ok(Some(Supervisor {
            stop: Some(stop),
            thread: Some(thread),
        }))
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn tell(socket: &UnixDatagram, mut book: Book, report: &impl Fn() -> Report, stopped: &mpsc::Receiver<()>) {
    let pause = book.pause();
    let mut complained = false;
    let mut say = |book: &mut Book, report: &Report| {
        let (text, told) = book.due(report, Instant::now());
        if text.is_empty() {
            return;
        }
        match socket.send(text.as_bytes()) {
            // What was not taken is due again in the next round.
            Ok(_) => *book = told,
            Err(error) if !complained => {
                complained = true;
                tracing::warn!(%error, "the supervisor (NOTIFY_SOCKET) cannot be told; trying again");
            }
            Err(_) => {}
        }
    };
    loop {
        say(&mut book, &report());
        if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    let end = Report {
        phase: Phase::Stopping,
        ..report()
    };
    say(&mut book, &end);
}

/// What was told so far, and so what is due. Reads no clock.
#[derive(Clone, Debug)]
struct Book {
    watchdog: Option<Duration>,
    stop_max: Duration,
    started: Instant,
    phase: Phase,
    status: String,
    extended: Option<Instant>,
    pinged: Option<Instant>,
}

impl Book {
    fn new(watchdog: Option<Duration>, stop_max: Duration, now: Instant) -> Book {
        Book {
            watchdog,
            stop_max,
            started: now,
            phase: Phase::Starting,
            status: String::new(),
            extended: None,
            pinged: None,
        }
    }

    /// How long to wait between two rounds: short enough for three pings before the watchdog bites.
    fn pause(&self) -> Duration {
        self.watchdog
            .map_or(LOOK_EVERY, |watchdog| LOOK_EVERY.min(watchdog / 6))
            .max(Duration::from_millis(1))
    }

    /// One datagram, empty if nothing is due, and the book as it is once that was taken.
    fn due(&self, report: &Report, now: Instant) -> (String, Book) {
        let mut told = self.clone();
        let mut lines = Vec::new();
        let due = |last: Option<Instant>, every: Duration| last.is_none_or(|last| now.duration_since(last) >= every);
        if report.phase != self.phase {
            match report.phase {
                // A program that was ready and is not any more (full, switched off) is still started.
                Phase::Starting => {}
                Phase::Ready if self.phase == Phase::Stopping => {}
                Phase::Ready => {
                    lines.push("READY=1".to_owned());
                    told.phase = Phase::Ready;
                }
                Phase::Stopping => {
                    lines.push("STOPPING=1".to_owned());
                    lines.push(extend(self.stop_max));
                    told.phase = Phase::Stopping;
                }
            }
        }
        if told.phase == Phase::Starting
            && report.alive
            && now.duration_since(self.started) < START_MAX
            && due(self.extended, EXTEND_EVERY)
        {
            lines.push(extend(EXTEND_BY));
            told.extended = Some(now);
        }
        if let Some(watchdog) = self.watchdog
            && told.phase == Phase::Ready
            && report.alive
            && due(self.pinged, watchdog / 3)
        {
            lines.push("WATCHDOG=1".to_owned());
            told.pinged = Some(now);
        }
        if report.status != self.status {
            // A line break would begin another assignment.
            lines.push(format!("STATUS={}", report.status.replace(['\n', '\r'], " ")));
            told.status.clone_from(&report.status);
        }
        (lines.join("\n"), told)
    }
}

fn extend(by: Duration) -> String {
    format!("EXTEND_TIMEOUT_USEC={}", by.as_micros())
}

/// The watchdog's time, if there is one and it is meant for this process.
fn watchdog(usec: Option<OsString>, pid: Option<OsString>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.to_str().and_then(|pid| pid.parse().ok()) != Some(own)) {
        return None;
    }
    let usec: u64 = usec?.to_str()?.parse().ok()?;
    (usec > 0).then(|| Duration::from_micros(usec))
}

fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_MAX))?;
    match address.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => connect_abstract(&socket, name)?,
        None => socket.connect(address)?,
    }
    Ok(socket)
}

#[cfg(target_os = "linux")]
fn connect_abstract(socket: &UnixDatagram, name: &[u8]) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
fn connect_abstract(_: &UnixDatagram, _: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
