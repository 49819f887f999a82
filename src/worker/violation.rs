//! What a NATS server says that it does not permit, and how the log tells an operator what to grant.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What repeats is logged this often at most.
const REPEAT_EVERY: Duration = Duration::from_secs(10);

/// What a server says when something is not permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation<'a> {
    Subscribe(&'a str),
    Publish(&'a str),
}

impl<'a> Violation<'a> {
    /// E.g. `Permissions Violation for Subscription to "rerank.v1.score" using queue "rerank"`.
    pub(super) fn parse(text: &'a str) -> Option<Violation<'a>> {
        let rest = text.strip_prefix("Permissions Violation for ")?;
        let quoted = |rest: &'a str| rest.strip_prefix('"')?.split('"').next();
        if let Some(rest) = rest.strip_prefix("Subscription to ") {
            return quoted(rest).map(Violation::Subscribe);
        }
        quoted(rest.strip_prefix("Publish to ")?).map(Violation::Publish)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Violation::Subscribe(_) => "subscribe",
            Violation::Publish(_) => "publish",
        }
    }
}

/// Something that may happen thousands of times a second and is worth a line now and then.
#[derive(Default)]
pub(super) struct Repeated(Mutex<(Option<Instant>, u64)>);

impl Repeated {
    /// Calls `say` with the number of times since it was last called, unless that was a moment ago.
    pub(super) fn tell(&self, say: impl FnOnce(u64)) {
        // Two plain values: a panic elsewhere leaves nothing half written.
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.1 += 1;
        let now = Instant::now();
        if held
            .0
            .is_none_or(|at| now.saturating_duration_since(at) >= REPEAT_EVERY)
        {
            let times = std::mem::take(&mut held.1);
            held.0 = Some(now);
            drop(held);
            say(times);
        }
    }
}

/// The violations that a worker lives with, each kind told now and then.
#[derive(Default)]
pub(super) struct Complaints {
    discovery: Repeated,
    switch: Repeated,
    inboxes: Repeated,
    other: Repeated,
}

impl Complaints {
    /// Tells what is forbidden, what that means, and what to grant.
    pub(super) fn tell(&self, violation: Violation<'_>) {
        match violation {
            Violation::Subscribe(subject) if subject.starts_with("$SRV.") => self.discovery.tell(|times| {
                tracing::error!(
                    subject,
                    times,
                    "the NATS server forbids service discovery: this worker serves, but `nats micro` does not see it; \
                     grant its user `subscribe` on \"$SRV.>\""
                );
            }),
            Violation::Publish(subject) if subject.starts_with("$JS.") => self.switch.tell(|times| {
                tracing::error!(
                    subject,
                    times,
                    "the NATS server forbids what the live switch (`nats.switch_bucket`) needs: grant `publish` on it"
                );
            }),
            Violation::Subscribe(subject) => self.other.tell(|times| {
                tracing::error!(
                    subject,
                    times,
                    "the NATS server forbids a subscription: grant `subscribe` on it"
                );
            }),
            // An inbox: it belongs to a caller, and is not for the log.
            Violation::Publish(_) => self.inboxes.tell(|times| {
                tracing::error!(
                    times,
                    "the NATS server forbids publishing to callers' inboxes, so that they get no answer: give this \
                     worker's user `allow_responses`, or `publish` on the prefix of the inboxes (\"_INBOX.>\")"
                );
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_are_read_as_servers_write_them() {
        let cases = [
            (
                "Permissions Violation for Subscription to \"a.b\" using queue \"q\"",
                Some(Violation::Subscribe("a.b")),
            ),
            (
                "Permissions Violation for Subscription to \"a.b\" (sid \"7\")",
                Some(Violation::Subscribe("a.b")),
            ),
            (
                "Permissions Violation for Publish to \"_INBOX.x\"",
                Some(Violation::Publish("_INBOX.x")),
            ),
            ("Permissions Violation for Publish to ", None),
            ("Stale Connection", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Violation::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn what_repeats_is_told_once_in_a_while_with_its_number() {
        let repeated = Repeated::default();
        let told = std::cell::RefCell::new(Vec::new());
        for _ in 0..1000 {
            repeated.tell(|times| told.borrow_mut().push(times));
        }
        assert_eq!(*told.borrow(), [1]);
        repeated.0.lock().unwrap().0 = Instant::now().checked_sub(REPEAT_EVERY);
        repeated.tell(|times| told.borrow_mut().push(times));
        assert_eq!(*told.borrow(), [1, 1000]);
    }
}
