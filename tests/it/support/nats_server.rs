//! A nats-server process on a free port, killed on drop.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{PATIENCE, root};

pub struct NatsServer {
    child: Child,
    pub url: String,
    monitoring: String,
    _folder: tempfile::TempDir,
}

/// Set-up leaves a link in the repository; an operator's own may be named by NATS_SERVER.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("NATS_SERVER") {
        return path.into();
    }
    let link = root().join(".nats-server");
    if link.exists() { link } else { "nats-server".into() }
}

impl NatsServer {
    pub fn start() -> NatsServer {
        NatsServer::start_with(&[])
    }

    pub fn start_with(args: &[&str]) -> NatsServer {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = program();
        let child = Command::new(&program)
            .args(["-a", "127.0.0.1", "-p", "-1", "-m", "-1", "--ports_file_dir"])
            .arg(folder.path())
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}; run `make setup`", program.display()));
        let ports = folder.path().join(format!("nats-server_{}.ports", child.id()));
        let started = Instant::now();
        let ports = loop {
            // The file is there before it is whole.
            if let Ok(text) = std::fs::read_to_string(&ports)
                && let Ok(value) = serde_json::from_str::<serde_json::Value>(&text)
            {
                break value;
            }
            // The link's file name may differ from the program's: any ports file in the folder is ours.
            let other = std::fs::read_dir(folder.path())
                .ok()
                .and_then(|mut entries| entries.next()?.ok())
                .map(|entry| entry.path());
            if let Some(text) = other.and_then(|path| std::fs::read_to_string(path).ok())
                && let Ok(value) = serde_json::from_str::<serde_json::Value>(&text)
            {
                break value;
            }
            assert!(started.elapsed() < PATIENCE, "nats-server wrote no ports file");
            std::thread::sleep(Duration::from_millis(5));
        };
        let first = |key: &str| ports[key][0].as_str().expect("an address").to_owned();
        NatsServer {
            child,
            url: first("nats"),
            monitoring: first("monitoring"),
            _folder: folder,
        }
    }

    /// A page of the server's monitoring, e.g. `/subsz?subs=1`.
    pub fn monitor(&self, path: &str) -> serde_json::Value {
        let address = self.monitoring.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).expect("the monitoring port");
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").expect("a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let (_, body) = text.split_once("\r\n\r\n").expect("headers and body");
        serde_json::from_str(body).expect("JSON")
    }

    /// Subscriptions to `subject` that exist now.
    pub fn subscriptions(&self, subject: &str) -> usize {
        let page = self.monitor("/subsz?subs=1&limit=10000");
        page["subscriptions_list"]
            .as_array()
            .map_or(0, |list| list.iter().filter(|sub| sub["subject"] == subject).count())
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
