//! Which workers there are, as they answer `$SRV.INFO` (ADR-32).

use std::time::Duration;

use futures_util::StreamExt;
use serde::Deserialize;
use tokio::time::Instant;

use super::{Caller, Reranker};

/// Answers that are looked at.
const ANSWERS_MAX: usize = 1024;
/// Bytes of an answer that is looked at.
const ANSWER_BYTES_MAX: usize = 32 << 10;
/// After the first answer the others have this long.
const OTHERS: Duration = Duration::from_millis(100);

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// The id of its model.
    pub model: String,
    /// `fp32`, `bf16`, …
    pub precision: Option<String>,
    /// The longest pair in tokens.
    pub length_max: Option<u64>,
    /// Tokens of a batch.
    pub batch_tokens_max: Option<u64>,
    /// Documents of a request.
    pub documents_max: Option<u64>,
}

impl Reranker {
    /// The workers of the service `service_name` on this reranker's subject, which answer within `wait`. None if there is no
    /// connection, or if this user may not ask.
    pub async fn workers(&self, service_name: &str, wait: Duration) -> Vec<WorkerInfo> {
        let (caller, subject) = self.asks();
        caller.discover(service_name, subject, wait).await
    }
}

impl Caller {
    async fn discover(&self, service_name: &str, subject: &str, wait: Duration) -> Vec<WorkerInfo> {
        let mut found = Vec::new();
        let deadline = Instant::now() + wait;
        let client = self.sessions().client();
        let inbox = client.new_inbox();
        let asked = async {
            let answers = client.subscribe(inbox.clone()).await.ok()?;
            let to = format!("$SRV.INFO.{service_name}");
            client.publish_with_reply(to, inbox, "".into()).await.ok()?;
            Some(answers)
        };
        let Ok(Some(mut answers)) = tokio::time::timeout_at(deadline, asked).await else {
            return found;
        };
        let mut until = deadline;
        for _ in 0..ANSWERS_MAX {
            let Ok(Some(message)) = tokio::time::timeout_at(until, answers.next()).await else {
                break;
            };
            if message.status.is_some() {
                break;
            }
            if let Some(info) = read(&message.payload, subject) {
                found.push(info);
                until = until.min(Instant::now() + OTHERS);
            }
        }
        found
    }
}

#[derive(Deserialize)]
struct Answer {
    endpoints: Vec<Endpoint>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Endpoint {
    subject: String,
}

#[derive(Deserialize)]
struct Metadata {
    model: String,
    precision: Option<String>,
    length_max: Option<String>,
    batch_tokens_max: Option<String>,
    documents_max: Option<String>,
}

/// A stranger's answer: bounded; of a worker on this subject.
fn read(body: &[u8], subject: &str) -> Option<WorkerInfo> {
    if body.len() > ANSWER_BYTES_MAX {
        return None;
    }
    let Answer { endpoints, metadata } = serde_json::from_slice(body).ok()?;
    if !endpoints.iter().any(|endpoint| endpoint.subject == subject) {
        return None;
    }
    let number = |text: Option<String>| text?.parse().ok();
    Some(WorkerInfo {
        model: metadata.model,
        precision: metadata.precision,
        length_max: number(metadata.length_max),
        batch_tokens_max: number(metadata.batch_tokens_max),
        documents_max: number(metadata.documents_max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_workers_of_the_subject_are_read() {
        let answer = r#"{"name": "rerank", "endpoints": [{"subject": "s"}], "metadata": {"model": "m", "length_max": "512",
            "batch_tokens_max": "many"}}"#;
        let info = read(answer.as_bytes(), "s").expect("a worker");
        assert_eq!(
            (&*info.model, info.length_max, info.batch_tokens_max),
            ("m", Some(512), None)
        );
        assert_eq!(read(answer.as_bytes(), "other"), None);
        assert_eq!(read(b"nonsense", "s"), None);
        assert_eq!(read(&vec![b' '; ANSWER_BYTES_MAX + 1], "s"), None);
    }
}
