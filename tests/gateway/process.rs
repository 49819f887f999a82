//! A gateway process.

use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::PATIENCE;
use crate::http::{self, Answer};
use crate::worker::{Worker, program};

pub struct Gateway {
    process: Worker,
    pub address: String,
}

impl Gateway {
    /// Starts a gateway and waits until it listens.
    #[track_caller]
    pub fn spawn(url: &str, sets: &[&str], environment: &[(&str, &str)]) -> Gateway {
        let mut command = program();
        command.envs(environment.iter().copied());
        Gateway::spawn_command(command, url, sets)
    }

    /// Starts a gateway that may have so many files open.
    #[track_caller]
    pub fn spawn_with_files(url: &str, files_max: usize) -> Gateway {
        let program = program();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files_max} && exec \"$0\" \"$@\"")]);
        command.arg(program.get_program());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Gateway::spawn_command(command, url, &[])
    }

    #[track_caller]
    fn spawn_command(mut command: Command, url: &str, sets: &[&str]) -> Gateway {
        command.args([
            "gateway",
            "--nats-url",
            url,
            "--listen",
            "127.0.0.1:0",
            "--set",
            "log.format=json",
        ]);
        for set in sets {
            command.args(["--set", set]);
        }
        let process = Worker::spawn_command(command);
        process.wait_for_log("listening for HTTP");
        let log = process.log();
        let line = log
            .lines()
            .find(|line| line.contains("listening for HTTP"))
            .expect("a line");
        let line: Value = serde_json::from_str(line).expect("a log in JSON");
        Gateway {
            address: line["address"].as_str().expect("an address").to_owned(),
            process,
        }
    }

    /// Starts a gateway with a budget that only a broken system spends, and waits until it is ready.
    #[track_caller]
    pub fn start(url: &str, sets: &[&str]) -> Gateway {
        let patient = ["gateway.timeout_ms=60000", "gateway.request_timeout_ms=120000"];
        let gateway = Gateway::spawn(url, &[&patient, sets].concat(), &[]);
        gateway.wait_ready();
        gateway
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        wait("ready", || (self.get("/readyz").status == 200).then_some(()));
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        http::post(&self.address, path, &[("Content-Type", "application/json")], body)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        http::get(&self.address, path)
    }

    #[track_caller]
    pub fn stats(&self) -> Value {
        self.get("/stats").ok()
    }

    /// Waits until the number at this place of `/stats` is `expected`.
    #[track_caller]
    pub fn wait_for_stat(&self, pointer: &str, expected: u64) {
        wait(pointer, || {
            let stats = self.stats();
            let found = stats.pointer(pointer).and_then(Value::as_u64);
            assert!(found.is_some(), "{pointer} in {stats:#}");
            (found == Some(expected)).then_some(())
        });
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        self.process.wait()
    }
}

/// Asks until there is something.
#[track_caller]
pub fn wait<T>(what: &str, done: impl Fn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
