//! The words for a worker's life: its states, how requests end, why the group is left.

use crate::protocol::RefusalKind;

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The model is being loaded; nothing is connected.
    Loading,
    /// The model is there, the connection or the subscription is not yet.
    Connecting,
    /// In the queue group.
    Serving,
    /// Out of the queue group until the queue is shorter.
    Full,
    /// Out of the queue group because reranking is switched off.
    Off,
    /// Out of the queue group because the server refuses the subscription; tried again.
    Refused,
    /// Out of the queue group for good: finishing what was taken.
    Stopping,
    /// The engine is lost: the process is about to end.
    Failed,
}

impl State {
    pub(super) const ALL: [State; 8] = [
        State::Loading,
        State::Connecting,
        State::Serving,
        State::Full,
        State::Off,
        State::Refused,
        State::Stopping,
        State::Failed,
    ];

    /// The state in one word, as discovery and health show it.
    pub fn name(self) -> &'static str {
        match self {
            State::Loading => "loading",
            State::Connecting => "connecting",
            State::Serving => "serving",
            State::Full => "full",
            State::Off => "off",
            State::Refused => "refused",
            State::Stopping => "stopping",
            State::Failed => "failed",
        }
    }

    /// Why a worker in this state takes no requests; `None` while it does.
    pub(super) fn why_not_ready(self) -> Option<&'static str> {
        match self {
            State::Loading => Some("loading: the model is being loaded"),
            State::Connecting => Some("connecting: no connection to NATS, or no subscription yet"),
            State::Serving => None,
            State::Full => Some("full: out of the queue group until the queue is shorter"),
            State::Off => Some("off: switched off, so out of the queue group"),
            State::Refused => Some(
                "refused: the NATS server takes no subscription to the subject (a limit of the account or the server): trying again",
            ),
            State::Stopping => Some("stopping: finishing what was taken"),
            State::Failed => Some("failed: the engine is lost"),
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With scores.
    Scored,
    /// With a reason.
    Refused(RefusalKind),
}

/// Why the queue group was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// Until the queue is shorter.
    Full,
    /// Reranking was switched off.
    Off,
    /// The server refused the subscription.
    Refused,
    /// For good.
    End,
}

impl LeaveReason {
    pub(super) const ALL: [LeaveReason; 4] = [
        LeaveReason::Full,
        LeaveReason::Off,
        LeaveReason::Refused,
        LeaveReason::End,
    ];

    /// The reason in one word.
    pub fn name(self) -> &'static str {
        match self {
            LeaveReason::Full => "full",
            LeaveReason::Off => "off",
            LeaveReason::Refused => "refused",
            LeaveReason::End => "end",
        }
    }
}
