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
    /// Its configuration, where it was started with one.
    configuration: Option<tempfile::NamedTempFile>,
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
        let mut child = Command::new(&program)
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
            assert!(
                child.try_wait().is_ok_and(|ended| ended.is_none()),
                "nats-server does not start with {args:?}"
            );
            assert!(started.elapsed() < PATIENCE, "nats-server wrote no ports file");
            std::thread::sleep(Duration::from_millis(5));
        };
        let first = |key: &str| ports[key][0].as_str().expect("an address").to_owned();
        NatsServer {
            child,
            url: first("nats"),
            monitoring: first("monitoring"),
            _folder: folder,
            configuration: None,
        }
    }

    /// Starts with a configuration file that holds `text`.
    pub fn start_configured(text: &str, args: &[&str]) -> NatsServer {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("a configuration");
        let path = file.path().display().to_string();
        let mut server = NatsServer::start_with(&[&["-c", path.as_str()], args].concat());
        server.configuration = Some(file);
        server
    }

    /// Puts `text` in place of its configuration and has it read.
    pub fn reload(&self, text: &str) {
        let file = self.configuration.as_ref().expect("started with a configuration");
        std::fs::write(file.path(), text).expect("a configuration");
        self.signal("HUP");
    }

    /// Sends a signal: `STOP` hangs it, `CONT` wakes it, `USR2` is lame duck mode.
    pub fn signal(&self, name: &str) {
        super::signal(self.child.id(), name);
    }

    /// Where it listens for clients.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("nats://")
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

    /// Other servers of its cluster that it has routes to. From nats-server 2.10 on there are several routes to each.
    pub fn peers(&self) -> usize {
        let page = self.monitor("/routez");
        let routes = page["routes"].as_array().cloned().unwrap_or_default();
        let ids: std::collections::BTreeSet<_> =
            routes.iter().filter_map(|route| route["remote_id"].as_str()).collect();
        ids.len()
    }

    /// Connections that listen to `subject` now, with however many subscriptions.
    pub fn members(&self, subject: &str) -> usize {
        let page = self.monitor("/connz?subs=1&limit=10000");
        let connections = page["connections"].as_array().cloned().unwrap_or_default();
        let listens = |connection: &serde_json::Value| {
            let list = connection["subscriptions_list"].as_array();
            list.is_some_and(|list| list.iter().any(|one| one == subject))
        };
        connections.iter().filter(|connection| listens(connection)).count()
    }

    /// How many messages the server sends to subscriptions to `subject` before it ends them; 0 where no end is set.
    pub fn last_messages(&self, subject: &str) -> u64 {
        let page = self.monitor("/connz?subs=detail&limit=10000");
        let connections = page["connections"].as_array().cloned().unwrap_or_default();
        let lists = connections
            .iter()
            .filter_map(|connection| connection["subscriptions_list_detail"].as_array());
        let ends = lists
            .flatten()
            .filter(|one| one["subject"] == subject)
            .filter_map(|one| one["max"].as_u64());
        ends.max().unwrap_or(0)
    }

    /// Subscriptions to `subject` that exist now.
    pub fn subscriptions(&self, subject: &str) -> usize {
        let page = self.monitor("/subsz?subs=1&limit=10000");
        page["subscriptions_list"]
            .as_array()
            .map_or(0, |list| list.iter().filter(|sub| sub["subject"] == subject).count())
    }
}

/// A port that was free a moment ago, of those that the system gives to no connection: one that a stopped server is to
/// have again must not be another test's meanwhile.
pub fn free_port() -> String {
    use std::hash::{BuildHasher, RandomState};
    let free = (0..1000u32).find_map(|attempt| {
        let port = 10_000 + (RandomState::new().hash_one(attempt) % 20_000) as u16;
        std::net::TcpListener::bind(("127.0.0.1", port)).ok().map(|_| port)
    });
    free.expect("a free port").to_string()
}

/// Servers that know each other, started with `configuration` each.
pub fn cluster(size: usize, configuration: &str) -> Vec<NatsServer> {
    let ports: Vec<String> = (0..size).map(|_| free_port()).collect();
    let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let all = routes.join(",");
    let nodes = routes.iter().map(|own| {
        let args = [
            "--cluster_name",
            "test",
            "--cluster",
            own.as_str(),
            "--routes",
            all.as_str(),
        ];
        NatsServer::start_configured(configuration, &args)
    });
    nodes.collect()
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
