//! What the integration tests stand on: a real nats-server on a free port, real worker processes, a raw caller.

pub mod ledger;
pub mod nats_server;
pub mod worker;

use std::path::PathBuf;
use std::time::Duration;

use async_nats::HeaderMap;
use nats_rerank::protocol::{Encoding, Refusal, Reply, Request};

/// A wait that only a broken system reaches: long, since test machines are slow, but never endless.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of a reference checkpoint.
pub fn reference(name: &str) -> PathBuf {
    root().join("tests/reference").join(name)
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub enum Answer {
    Scored(Reply),
    Refused { refusal: Refusal, code_header: String },
}

impl Answer {
    #[track_caller]
    pub fn scored(self) -> Reply {
        match self {
            Answer::Scored(reply) => reply,
            Answer::Refused { refusal, .. } => panic!("refused: {refusal}"),
        }
    }

    #[track_caller]
    pub fn refused(self) -> Refusal {
        match self {
            Answer::Refused { refusal, .. } => refusal,
            Answer::Scored(reply) => panic!("expected a refusal, got {reply:?}"),
        }
    }
}

/// A caller on the plain NATS client, as any language's would be.
#[derive(Clone)]
pub struct RawCaller {
    pub client: async_nats::Client,
    pub subject: String,
}

impl RawCaller {
    pub async fn connect(url: &str) -> RawCaller {
        let client = async_nats::ConnectOptions::new()
            .request_timeout(Some(PATIENCE))
            .connect(url)
            .await
            .expect("a connection");
        RawCaller {
            client,
            subject: "rerank.v1.score".to_owned(),
        }
    }

    /// Sends `body` with `headers` and reads the answer in `encoding`.
    pub async fn send(&self, body: Vec<u8>, headers: &[(&str, &str)], encoding: Encoding) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let message = self
            .client
            .request_with_headers(self.subject.clone(), map, body.into())
            .await
            .unwrap_or_else(|error| panic!("no answer: {error}"));
        let header = |name: &str| {
            message
                .headers
                .as_ref()
                .and_then(|map| map.get(name))
                .map(|value| value.as_str().to_owned())
        };
        assert_eq!(header("Content-Type").as_deref(), Some(encoding.content_type()));
        match header("Nats-Service-Error-Code") {
            None => Answer::Scored(Reply::decode(encoding, &message.payload).expect("a reply")),
            Some(code_header) => {
                assert!(header("Nats-Service-Error").is_some());
                let refusal = Refusal::decode(encoding, &message.payload).expect("a refusal");
                Answer::Refused { refusal, code_header }
            }
        }
    }

    /// Sends a request in JSON.
    pub async fn ask(&self, request: &Request) -> Answer {
        self.send(
            request.encode(Encoding::Json),
            &[("Content-Type", "application/json")],
            Encoding::Json,
        )
        .await
    }

    /// Sends JSON text.
    pub async fn ask_json(&self, body: &str) -> Answer {
        self.send(body.as_bytes().to_vec(), &[], Encoding::Json).await
    }
}
