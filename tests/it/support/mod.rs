//! What the integration tests stand on: a real nats-server on a free port, real worker processes, a raw caller.

mod basics;
pub mod http;
pub mod ledger;
pub mod nats_server;
pub mod notify;
pub mod proxy;
pub mod site;
pub mod worker;

pub use basics::{PATIENCE, root, signal};

use std::path::PathBuf;
use std::time::Duration;

use async_nats::HeaderMap;
use nats_rerank::protocol::{Encoding, Refusal, Reply, Request};

/// Waits for something that happens soon.
pub async fn until(what: &str, mut there: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !there() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
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
        RawCaller::connect_with(async_nats::ConnectOptions::new(), url).await
    }

    pub async fn connect_with(options: async_nats::ConnectOptions, url: &str) -> RawCaller {
        let client = options
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

    /// Sends a request and is told that nobody serves the subject.
    pub async fn ask_nobody(&self) {
        let asked = self.client.request(self.subject.clone(), "{}".into()).await;
        let error = asked.expect_err("nobody serves");
        assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders);
    }

    /// Sends JSON text.
    pub async fn ask_json(&self, body: &str) -> Answer {
        self.send(body.as_bytes().to_vec(), &[], Encoding::Json).await
    }
}
