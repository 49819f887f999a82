//! Why there is no ranking, and what a person can do about it.

use crate::client::CallError;
use crate::nats::{ConnectError, ConnectErrorKind};
use crate::protocol::{RefusalKind, RefusalScope};

/// The kind of a failure that lies in the settings, not in the world.
pub(super) const BAD_SETTING: &str = "bad_setting";

/// Why there is no ranking, and what a person can do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// A name for programs.
    pub kind: &'static str,
    pub what: String,
    pub advice: &'static str,
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let (kind, advice) = match error.kind() {
            ConnectErrorKind::Settings => (
                BAD_SETTING,
                "`nats-rerank config print` shows where each setting comes from",
            ),
            _ => ("not_connected", "`--set nats.url=nats://HOST:PORT` asks another server"),
        };
        Self {
            kind,
            what: error.to_string(),
            advice,
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let (kind, advice) = match &error {
            CallError::TimedOut { .. } => (
                "timed_out",
                "The workers may be busy, or still starting: wait longer with --timeout",
            ),
            CallError::NoResponders { .. } => (
                "no_responders",
                "Start one with `nats-rerank worker`, with the same nats.url and nats.subject",
            ),
            CallError::Refused { refusal, .. } => {
                let own_doing = refusal.scope == RefusalScope::Request;
                let advice = match refusal.kind {
                    // The same worker, idle, would refuse it again.
                    RefusalKind::Overloaded | RefusalKind::DeadlineExceeded if own_doing => {
                        "Send fewer or shorter documents, or allow more time with --timeout"
                    }
                    kind => advice_on(kind),
                };
                (refusal.kind.name(), advice)
            }
            CallError::Disconnected => ("disconnected", "Check that nats-server is still running"),
            CallError::TooLarge { .. } => (
                "request_too_large",
                "Send fewer or shorter documents, or raise max_payload in the server's configuration",
            ),
            CallError::InvalidSubject { .. } => ("invalid_subject", "Check nats.subject"),
            CallError::BadReply(_) => (
                "bad_reply",
                "Check that only nats-rerank workers of this version listen on nats.subject",
            ),
        };
        Self {
            kind,
            what: error.to_string(),
            advice,
        }
    }
}

fn advice_on(refusal: RefusalKind) -> &'static str {
    match refusal {
        RefusalKind::InvalidRequest => "The same request will be refused again: change it as the message says",
        RefusalKind::UnknownModel => "Leave --model out, or name the model that the workers serve",
        RefusalKind::TooLarge => "Send fewer or shorter documents, or raise the worker's limits",
        RefusalKind::Overloaded => "Try again shortly, wait longer with --timeout, or start more workers",
        RefusalKind::Unavailable => "The worker is switched off, stopping, or has no model: see its log",
        RefusalKind::DeadlineExceeded => "Wait longer with --timeout",
        RefusalKind::Internal => "See the worker's log",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::Refusal;

    #[test]
    fn every_refusal_keeps_its_kind_and_message() {
        for kind in RefusalKind::ALL {
            let refusal = Refusal::new(kind, "told by the worker");
            let failure = Failure::from(CallError::Refused { refusal, worker: None });
            assert_eq!(failure.kind, kind.name());
            assert!(failure.what.contains("told by the worker") && failure.what.contains(&kind.code().to_string()));
        }
    }

    #[test]
    fn nobody_there_and_too_late_are_told_apart() {
        let nobody = Failure::from(CallError::NoResponders { subject: "a.b".into() });
        assert!(nobody.kind == "no_responders" && nobody.what.contains("`a.b`"));
        let late = Failure::from(CallError::TimedOut {
            timeout: Duration::from_millis(250),
        });
        assert!(late.kind == "timed_out" && late.what.contains("250 ms"));
    }
}
