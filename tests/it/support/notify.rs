//! A supervisor's ear: the socket that `NOTIFY_SOCKET` names.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;

use super::PATIENCE;

pub struct Ear {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: tempfile::TempDir,
    /// Every assignment so far.
    heard: Vec<String>,
}

impl Ear {
    pub fn new() -> Ear {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Ear {
            socket,
            path,
            _folder: folder,
            heard: Vec::new(),
        }
    }

    /// What `NOTIFY_SOCKET` holds.
    pub fn address(&self) -> String {
        self.path.display().to_string()
    }

    /// Has `command` tell this ear, with a watchdog of so many microseconds.
    pub fn listen_to(&self, command: &mut Command, watchdog_usec: &str) {
        command.env("NOTIFY_SOCKET", self.address());
        command.env("WATCHDOG_USEC", watchdog_usec).env_remove("WATCHDOG_PID");
    }

    /// Waits for an assignment that begins with `text` and was not heard before; the ones before it are passed over.
    #[track_caller]
    pub fn hear(&mut self, text: &str) -> String {
        loop {
            let mut bytes = [0; 4096];
            let length = self
                .socket
                .recv(&mut bytes)
                .unwrap_or_else(|error| panic!("{error}: never {text:?} after {:?}", self.heard));
            let lines: Vec<String> = String::from_utf8_lossy(&bytes[..length])
                .lines()
                .map(str::to_owned)
                .collect();
            let found = lines.iter().find(|line| line.starts_with(text)).cloned();
            self.heard.extend(lines);
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// Whether such an assignment was heard so far.
    pub fn has_heard(&self, text: &str) -> bool {
        self.heard.iter().any(|line| line.starts_with(text))
    }
}
