//! What one worker says of itself (`$SRV.STATS`), read as a stranger's answer: bounded, and without control characters.

use serde::Serialize;
use serde_json::Value;

/// A longer answer is not a worker's.
const BYTES_MAX: usize = 32 * 1024;
/// Characters of a text that are kept.
const CHARS_MAX: usize = 80;

/// A worker at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Stats {
    pub(super) worker: String,
    /// What it listens to.
    pub(super) subject: String,
    pub(super) state: String,
    pub(super) model: String,
    pub(super) device: String,
    pub(super) precision: String,
    pub(super) version: String,
    /// Requests taken and not answered yet.
    pub(super) queue_requests: Option<u64>,
    /// Pairs of a batch, on average.
    pub(super) batch_pairs_mean: Option<f64>,
    /// Of the worker's latest answers, from receipt.
    pub(super) p50_ms: Option<f64>,
    pub(super) p95_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) memory_mb: Option<f64>,
    /// Requests since it started.
    pub(super) requests: u64,
    /// Refusals since it started.
    pub(super) refused: u64,
}

impl Stats {
    /// Reads an answer of a service of this name; `None` if it is none.
    pub(super) fn read(service: &str, body: &[u8]) -> Option<Stats> {
        if body.len() > BYTES_MAX {
            return None;
        }
        let reply: Value = serde_json::from_slice(body).ok()?;
        if reply["name"].as_str() != Some(service) {
            return None;
        }
        let worker = plain(&reply["id"]);
        if worker.is_empty() {
            return None;
        }
        let (metadata, endpoint) = (&reply["metadata"], &reply["endpoints"][0]);
        let data = &endpoint["data"];
        // Zero before the first answer.
        let latency = |name: &str| data["latency_ms"][name].as_f64().filter(|ms| *ms > 0.0);
        Some(Stats {
            worker,
            subject: plain(&endpoint["subject"]),
            state: plain(&data["state"]),
            model: plain(&metadata["model"]),
            device: plain(&metadata["device"]),
            precision: plain(&metadata["precision"]),
            version: plain(&reply["version"]),
            queue_requests: data["queue_requests"].as_u64(),
            batch_pairs_mean: data["batch_pairs_mean"].as_f64(),
            p50_ms: latency("p50"),
            p95_ms: latency("p95"),
            p99_ms: latency("p99"),
            memory_mb: data["memory_mb"].as_f64(),
            requests: endpoint["num_requests"].as_u64()?,
            refused: endpoint["num_errors"].as_u64().unwrap_or_default(),
        })
    }
}

/// A text that cannot move a terminal's cursor; empty if it is none.
fn plain(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    let shown = text.chars().filter(|character| !character.is_control());
    shown.take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reply() -> Value {
        json!({
            "name": "rerank", "id": "W1", "version": "0.1.0", "type": "io.nats.micro.v1.stats_response",
            "metadata": {"model": "some/model", "device": "cpu", "precision": "bf16"},
            "endpoints": [{
                "name": "score", "subject": "rerank.v1.score", "num_requests": 12, "num_errors": 2,
                "data": {
                    "state": "serving", "queue_requests": 3, "batch_pairs_mean": 24.5,
                    "latency_ms": {"p50": 4.5, "p95": 9.0, "p99": 11.0}, "memory_mb": 210.5,
                },
            }],
        })
    }

    #[test]
    fn a_workers_answer_is_read() {
        let stats = Stats::read("rerank", reply().to_string().as_bytes()).unwrap();
        assert_eq!((stats.worker.as_str(), stats.state.as_str()), ("W1", "serving"));
        assert_eq!(stats.subject, "rerank.v1.score");
        assert_eq!((stats.model.as_str(), stats.precision.as_str()), ("some/model", "bf16"));
        assert_eq!((stats.requests, stats.refused, stats.queue_requests), (12, 2, Some(3)));
        assert_eq!((stats.p99_ms, stats.memory_mb), (Some(11.0), Some(210.5)));
    }

    #[test]
    fn what_is_missing_is_unknown_and_what_is_strange_is_left_out() {
        let mut bare = reply();
        bare["endpoints"][0]["data"] = json!(null);
        bare["metadata"] = json!(7);
        let stats = Stats::read("rerank", bare.to_string().as_bytes()).unwrap();
        assert_eq!(
            (stats.p50_ms, stats.state.as_str(), stats.model.as_str()),
            (None, "", "")
        );
        assert_eq!(Stats::read("other", reply().to_string().as_bytes()), None);
        for body in [
            "",
            "[]",
            "null",
            r#"{"name": "rerank"}"#,
            r#"{"name": "rerank", "id": "W1"}"#,
        ] {
            assert_eq!(Stats::read("rerank", body.as_bytes()), None, "{body}");
        }
        let mut long = reply();
        long["metadata"]["model"] = json!("x".repeat(BYTES_MAX));
        assert_eq!(Stats::read("rerank", long.to_string().as_bytes()), None);
    }

    #[test]
    fn a_strangers_text_does_not_reach_the_terminal_as_it_is() {
        let mut strange = reply();
        strange["metadata"]["model"] = json!(format!("\u{1b}[2J{}", "x".repeat(500)));
        let stats = Stats::read("rerank", strange.to_string().as_bytes()).unwrap();
        assert!(stats.model.starts_with("[2Jx") && stats.model.chars().count() == CHARS_MAX);
    }
}
