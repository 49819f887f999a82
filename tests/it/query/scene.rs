//! What tests of `query` share: the program with its files, and strangers that answer in a worker's place.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use nats_rerank::protocol::{Encoding, Ranking, Reply, Request, TimingsMs, Usage};
use serde_json::Value;

use crate::support::nats_server::NatsServer;
use crate::support::worker::{Worker, program};
use crate::support::{PATIENCE, reference};

/// A starved machine answers late; a test that is not about time must not end for that.
pub const PATIENT: [&str; 2] = ["--timeout", "60s"];
pub const TEXTS: [&str; 4] = ["yeast makes it rise", "a red car", "flour and water", "the moon"];

/// A server, a folder for files, and a worker if wanted.
pub struct Scene {
    pub server: NatsServer,
    _worker: Option<Worker>,
    folder: tempfile::TempDir,
}

impl Scene {
    pub fn with_worker() -> Scene {
        let scene = Scene::without_worker();
        let worker = Worker::start(&scene.server.url, &reference("bert-small"), &[]);
        Scene {
            _worker: Some(worker),
            ..scene
        }
    }

    pub fn without_worker() -> Scene {
        Scene {
            server: NatsServer::start(),
            _worker: None,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("folders");
        fs::write(&path, content).expect("a file");
        path.display().to_string()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = program();
        command
            .current_dir(self.folder.path())
            .args(["query", "--set", &format!("nats.url={}", self.server.url)])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    pub fn query(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program")
    }

    /// The same, reading `input`.
    pub fn query_reading(&self, args: &[&str], input: &str) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("the program");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).expect("a reader");
        drop(stdin);
        child.wait_with_output().expect("the program")
    }

    /// The one object of `--format json`.
    #[track_caller]
    pub fn json(&self, args: &[&str], input: &str) -> Value {
        let args = [args, &PATIENT, &["--format", "json"]].concat();
        let output = self.query_reading(&args, input);
        assert_eq!(code(&output), 0, "{args:?}: {}", problem(&output));
        serde_json::from_str(&page(&output)).expect("JSON")
    }
}

pub fn page(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub fn problem(output: &Output) -> String {
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!problem.contains("panicked"), "{problem}");
    problem
}

#[track_caller]
pub fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

#[track_caller]
pub fn values(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

/// (id, text) of each ranking, by the place that the document had before.
pub fn by_index(answer: &Value) -> Vec<(Value, String)> {
    let mut rankings: Vec<&Value> = answer["rankings"].as_array().expect("rankings").iter().collect();
    rankings.sort_by_key(|ranking| ranking["index"].as_u64());
    rankings
        .into_iter()
        .map(|ranking| {
            (
                ranking["id"].clone(),
                ranking["text"].as_str().expect("a text").to_owned(),
            )
        })
        .collect()
}

/// Somebody in the queue group who takes requests and does as `answer` says; `None`: says nothing.
pub async fn stranger(scene: &Scene, mut answer: impl FnMut(Request) -> Option<Vec<u8>> + Send + 'static) {
    let client = async_nats::connect(&scene.server.url).await.expect("a connection");
    let mut requests = client.subscribe("rerank.v1.score").await.expect("a subscription");
    client.flush().await.expect("a flush");
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let request = Request::decode(Encoding::Json, &message.payload).expect("a request");
            if let (Some(body), Some(inbox)) = (answer(request), message.reply) {
                client.publish(inbox, body.into()).await.expect("a connection");
            }
        }
    });
}

/// A ranking that leaves everything as it is.
pub fn unmoved(request: &Request) -> Vec<u8> {
    let rankings = (0..request.documents.len()).map(|index| Ranking {
        index,
        score: 1.0 - index as f32,
        id: request.documents[index].id.clone(),
        document: None,
    });
    let reply = Reply {
        rankings: rankings.collect(),
        top_k_applied: false,
        below_min_score: None,
        model: "stranger".to_owned(),
        usage: Usage::default(),
        timings_ms: TimingsMs::default(),
    };
    reply.encode(Encoding::Json).expect("finite scores")
}

pub fn wait(child: &mut Child) -> i32 {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code().expect("an exit code");
        }
        assert!(started.elapsed() < PATIENCE, "the program does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}
