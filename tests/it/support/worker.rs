//! Worker processes: the real program, its log read line by line.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// The program under test, with no setting from this process' environment.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nats-rerank"));
    for (name, _) in std::env::vars_os() {
        if ["RERANK_", "HF_", "OTEL_"]
            .iter()
            .any(|ours| name.to_string_lossy().starts_with(ours))
        {
            command.env_remove(name);
        }
    }
    // Many workers on one machine: a test of health asks for a free port.
    command.env("RERANK_HEALTH__LISTEN", "");
    command
}

pub struct Worker {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Worker {
    /// Starts a worker of the checkpoint in `model` and waits until it has joined its group.
    pub fn start(url: &str, model: &Path, sets: &[&str]) -> Worker {
        let worker = Worker::spawn(url, &model.display().to_string(), sets);
        worker.wait_for_log("ready: joined the queue group");
        worker
    }

    /// Starts a worker and does not wait.
    pub fn spawn(url: &str, model: &str, sets: &[&str]) -> Worker {
        Worker::spawn_command(Worker::command(url, model, sets))
    }

    /// The command that starts a worker.
    pub fn command(url: &str, model: &str, sets: &[&str]) -> Command {
        let mut command = program();
        command.args([
            "worker",
            "--nats-url",
            url,
            "--model",
            model,
            "--set",
            "log.format=json",
            "--set",
            "model.precision=fp32",
            "--set",
            "model.threads=1",
        ]);
        for set in sets {
            command.args(["--set", set]);
        }
        command
    }

    /// Starts the given command as a worker.
    pub fn spawn_command(mut command: Command) -> Worker {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().expect("stderr"));
        let written = log.clone();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                written.lock().unwrap().push(line);
            }
        });
        Worker { child, log }
    }

    /// Waits for a line that contains `text`.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        let started = Instant::now();
        while self.count_log(text) == 0 {
            assert!(
                started.elapsed() < PATIENCE,
                "no line with {text:?} in:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lines that contain `text`.
    pub fn count_log(&self, text: &str) -> usize {
        self.log
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Where its health listens: started with `health.listen=127.0.0.1:0`, the log tells.
    #[track_caller]
    pub fn health_address(&self) -> String {
        self.wait_for_log("health: /livez");
        let log = self.log();
        let line = log
            .lines()
            .find(|line| line.contains("health: /livez"))
            .expect("a line");
        let line: serde_json::Value = serde_json::from_str(line).expect("a log in JSON");
        line["address"].as_str().expect("an address").to_owned()
    }

    /// The value of a metric, with its labels if it has any: `rerank_requests_total{outcome="scored"}`.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let address = self.health_address();
        let mut stream = std::net::TcpStream::connect(&address).expect("the health port");
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").expect("a request");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("an answer");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.unwrap_or_else(|| panic!("no {name} in:\n{page}"));
        value.trim().parse().expect("a number")
    }

    /// The state that `/readyz` tells, and whether it says ready.
    #[track_caller]
    pub fn ready(&self) -> bool {
        let address = self.health_address();
        let mut stream = std::net::TcpStream::connect(&address).expect("the health port");
        write!(stream, "GET /readyz HTTP/1.0\r\nHost: {address}\r\n\r\n").expect("a request");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("an answer");
        page.split_whitespace().nth(1) == Some("200")
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a live process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace()
            .nth(1)
            .and_then(|number| number.parse().ok())
            .expect("a number")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        super::signal(self.pid(), name);
    }

    /// Its exit status, if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "the worker does not end; its log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
