//! Which reply subjects an answer is sent to. A caller names the subject that its answer goes to, and a worker may publish
//! where the caller may not; so what could be written there by the worker's hand is held against rules first. Pure.
//!
//! | reason | reply subject |
//! |---|---|
//! | `invalid` | cannot be published to: an empty token, a wildcard token (`*`, `>`), white space or control characters |
//! | `reserved` | begins with `$`: JetStream, key-value buckets, discovery and the server's own services |
//! | `own` | the worker listens to it: the request subject, its own inboxes |
//! | `outside` | at or below none of `nats.reply_prefixes`, if there are any |
//!
//! A server puts a prefix of its own before a reply subject that comes by a gateway of a super-cluster
//! (`_GR_.<cluster>.<server>.`), and older ones show it to clients: the rules are for the subject behind it. A request that
//! comes by a service import of another account has a reply subject that its server made (`_R_.<random>`): it is answered
//! unless `nats.reply_prefixes` leaves `_R_` out. Clients can set neither: servers refuse them.

use super::violation::Repeated;
use crate::telemetry::names;

/// What a server puts before a reply subject that comes by a gateway: this, a token for the cluster, one for the server.
const GATEWAY_PREFIX: &str = "_GR_.";

/// Why no answer is sent to a reply subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswerable {
    Invalid,
    Reserved,
    Own,
    Outside,
}

impl Unanswerable {
    #[cfg(test)]
    const ALL: [Unanswerable; 4] = [
        Unanswerable::Invalid,
        Unanswerable::Reserved,
        Unanswerable::Own,
        Unanswerable::Outside,
    ];

    /// The reason in one word, the value of the metric's label.
    fn name(self) -> &'static str {
        match self {
            Unanswerable::Invalid => "invalid",
            Unanswerable::Reserved => "reserved",
            Unanswerable::Own => "own",
            Unanswerable::Outside => "outside",
        }
    }
}

/// The rules of one worker.
pub(super) struct ReplySubjects {
    /// Where this worker listens: at these subjects, and below the inbox.
    request_subject: String,
    inbox: String,
    /// Empty: anywhere.
    prefixes: Vec<String>,
    refused: Repeated,
}

impl ReplySubjects {
    /// `request_subject` and whatever is at or below `inbox` are the worker's own; `prefixes` as in `nats.reply_prefixes`.
    pub(super) fn new(request_subject: String, inbox: String, prefixes: Vec<String>) -> ReplySubjects {
        ReplySubjects {
            request_subject,
            inbox,
            prefixes,
            refused: Repeated::default(),
        }
    }

    /// Why no answer is sent to `subject`; `Ok` where one is.
    pub(super) fn check(&self, subject: &str) -> Result<(), Unanswerable> {
        let origin = behind_gateways(subject);
        if !is_publishable(origin) {
            return Err(Unanswerable::Invalid);
        }
        if origin.starts_with('$') {
            return Err(Unanswerable::Reserved);
        }
        if origin == self.request_subject || is_below(origin, &self.inbox) {
            return Err(Unanswerable::Own);
        }
        if !self.prefixes.is_empty() && !self.prefixes.iter().any(|prefix| is_below(origin, prefix)) {
            return Err(Unanswerable::Outside);
        }
        Ok(())
    }

    /// [`ReplySubjects::check`]; counts what is refused, and logs it now and then. The log names the reason and never the
    /// subject, which is a stranger's text.
    pub(super) fn answerable(&self, subject: &str) -> bool {
        let Err(reason) = self.check(subject) else {
            return true;
        };
        metrics::counter!(names::REPLY_SUBJECTS_REFUSED_TOTAL, "reason" => reason.name()).increment(1);
        self.refused.tell(|times| {
            tracing::warn!(
                reason = reason.name(),
                times,
                "messages were dropped: no answer is sent to the reply subject that they name (see nats.reply_prefixes)"
            );
        });
        false
    }
}

/// The reply subject as the caller wrote it.
fn behind_gateways(subject: &str) -> &str {
    let mut origin = subject;
    while let Some(rest) = origin.strip_prefix(GATEWAY_PREFIX) {
        // Two tokens less; what has no more is no subject behind a gateway, and none of a caller.
        origin = rest.splitn(3, '.').nth(2).unwrap_or_default();
    }
    origin
}

/// Whether a message can be published to `subject`.
fn is_publishable(subject: &str) -> bool {
    !subject.chars().any(|c| c.is_whitespace() || c.is_control())
        && subject.split('.').all(|token| !matches!(token, "" | "*" | ">"))
}

/// Whether `subject` is `prefix` or has all its tokens first.
fn is_below(subject: &str, prefix: &str) -> bool {
    subject
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::names::ALL;

    fn rules(prefixes: &[&str]) -> ReplySubjects {
        let prefixes = prefixes.iter().map(|&prefix| prefix.to_owned()).collect();
        ReplySubjects::new("rerank.v1.score".to_owned(), "_INBOX_worker.ID7".to_owned(), prefixes)
    }

    #[test]
    fn each_reason_has_its_subjects() {
        let cases = [
            ("_INBOX.abc.7", Ok(())),
            ("_INBOX_worker.ID8.x", Ok(())),
            ("_INBOX_worker.ID70", Ok(())),
            ("_R_.ABC.7", Ok(())),
            ("answers", Ok(())),
            ("a*b.c>d.e$f", Ok(())),
            ("_GR_.c1.s1._INBOX.abc.7", Ok(())),
            ("", Err(Unanswerable::Invalid)),
            ("a..b", Err(Unanswerable::Invalid)),
            ("a.", Err(Unanswerable::Invalid)),
            ("a.*", Err(Unanswerable::Invalid)),
            (">", Err(Unanswerable::Invalid)),
            ("a.\u{b}b", Err(Unanswerable::Invalid)),
            ("a.\u{a0}", Err(Unanswerable::Invalid)),
            ("_GR_.c1.s1", Err(Unanswerable::Invalid)),
            ("_GR_.c1.s1.a.*", Err(Unanswerable::Invalid)),
            ("$KV.switch.enabled", Err(Unanswerable::Reserved)),
            ("$JS.ACK.s.c.1.1.1.1.0", Err(Unanswerable::Reserved)),
            ("$SRV.PING.rerank.ID7", Err(Unanswerable::Reserved)),
            ("_GR_.c1.s1.$KV.switch.enabled", Err(Unanswerable::Reserved)),
            ("_GR_.c1.s1._GR_.c2.s2.$KV.x", Err(Unanswerable::Reserved)),
            ("rerank.v1.score", Err(Unanswerable::Own)),
            ("_GR_.c1.s1.rerank.v1.score", Err(Unanswerable::Own)),
            ("_INBOX_worker.ID7", Err(Unanswerable::Own)),
            ("_INBOX_worker.ID7.abc.7", Err(Unanswerable::Own)),
        ];
        for (subject, expected) in cases {
            assert_eq!(rules(&[]).check(subject), expected, "{subject:?}");
        }
    }

    #[test]
    fn prefixes_are_whole_tokens() {
        let listed = rules(&["_INBOX", "a.b", "$KV"]);
        for subject in ["_INBOX", "_INBOX.x", "a.b", "a.b.c", "_GR_.c1.s1._INBOX.x"] {
            assert_eq!(listed.check(subject), Ok(()), "{subject}");
        }
        for subject in [
            "_INBOX_caller.x",
            "_INBOXX",
            "a",
            "a.bc",
            "b.a.b",
            "_R_.x",
            "_GR_.c1.s1.c",
        ] {
            assert_eq!(listed.check(subject), Err(Unanswerable::Outside), "{subject}");
        }
        assert_eq!(
            listed.check("$KV.switch.enabled"),
            Err(Unanswerable::Reserved),
            "whatever is listed"
        );
        assert_eq!(rules(&["_R_"]).check("_R_.x"), Ok(()));
    }

    #[test]
    fn the_reasons_are_the_labels() {
        let metric = ALL
            .iter()
            .find(|metric| metric.name == names::REPLY_SUBJECTS_REFUSED_TOTAL);
        assert_eq!(metric.unwrap().labels[0].1, Unanswerable::ALL.map(Unanswerable::name));
    }

    /// Tokens as people and strangers write them.
    fn tokens() -> impl Strategy<Value = Vec<String>> {
        let token = prop_oneof![
            6 => "[a-zA-Z0-9_-]{1,8}",
            1 => Just(String::new()),
            1 => Just("*".to_owned()),
            1 => Just(">".to_owned()),
            1 => "\\$[A-Z]{1,3}",
            1 => Just("_GR_".to_owned()),
            1 => Just("_R_".to_owned()),
            1 => Just("rerank".to_owned()),
            1 => "\\PC{0,4}",
            1 => any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(token, 0..7)
    }

    proptest! {
        /// What is answered can be published to, and belongs to neither the server nor this worker, whatever stands before it.
        #[test]
        fn what_is_answered_is_harmless(tokens in tokens(), prefixes in prop::collection::vec("[a-z_]{1,4}(\\.[a-z]{1,2})?", 0..3)) {
            let subject = tokens.join(".");
            let rules = ReplySubjects::new("rerank".to_owned(), "_INBOX".to_owned(), prefixes.clone());
            if rules.check(&subject).is_ok() {
                let mut parts: Vec<&str> = subject.split('.').collect();
                while parts.len() > 1 && parts[0] == "_GR_" {
                    prop_assert!(parts.len() > 3);
                    parts.drain(..3);
                }
                prop_assert!(parts.iter().all(|part| !part.is_empty() && *part != "*" && *part != ">"));
                prop_assert!(!subject.chars().any(|c| c == ' ' || c.is_control()));
                prop_assert!(!parts[0].starts_with('$'));
                prop_assert!(parts[0] != "_INBOX" && parts != ["rerank"]);
                let listed = |prefix: &String| {
                    let wanted: Vec<&str> = prefix.split('.').collect();
                    parts.starts_with(&wanted)
                };
                prop_assert!(prefixes.is_empty() || prefixes.iter().any(listed));
            }
        }

        /// Inboxes of clients are answered, by a gateway or not.
        #[test]
        fn inboxes_are_answered(
            prefix in "_INBOX(_[a-z]{1,8})?",
            rest in prop::collection::vec("[a-zA-Z0-9]{1,22}", 1..4),
            by_gateway in any::<bool>(),
            listed in any::<bool>(),
        ) {
            let gateway = if by_gateway { "_GR_.4xbQ2f.k9Zz1p." } else { "" };
            let subject = format!("{gateway}{prefix}.{}", rest.join("."));
            let prefixes = if listed { vec![prefix.clone()] } else { Vec::new() };
            let rules = ReplySubjects::new("rerank.v1.score".to_owned(), "_INBOX_worker.-".to_owned(), prefixes);
            prop_assert_eq!(rules.check(&subject), Ok(()));
        }
    }
}
