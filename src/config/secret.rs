//! A string that is never printed.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// What is printed in place of a secret.
pub const REDACTED: &str = "***";

/// A password, token or the like. `Debug` and `Serialize` print `***`, so that a configuration can be logged or shown
/// whole; only [`Secret::expose`] gives the text.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: for the one place that sends it, never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True for the empty text, which stands for "not set".
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

/// A server URL as it may be shown: whatever stands before the `@` of its authority is a user, password or token.
pub fn redact_url(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let (authority, path) = match rest.find('/') {
        // A password may hold a slash that its owner forgot to escape: look for the last `@` in all that follows.
        Some(slash) if !rest[slash..].contains('@') => rest.split_at(slash),
        _ => (rest, ""),
    };
    match authority.rfind('@') {
        Some(at) => format!("{scheme}{REDACTED}{}{path}", &authority[at..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(***)");
        assert_eq!(serde_json::to_string(&secret).ok().as_deref(), Some("\"***\""));
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn user_information_in_a_url_is_hidden() {
        assert_eq!(redact_url("nats://ann:hunter2@db:4222"), "nats://***@db:4222");
        assert_eq!(redact_url("nats://token@db"), "nats://***@db");
        assert_eq!(redact_url("ann:hunter2@db"), "***@db");
        assert_eq!(
            redact_url("https://u:p@hub.example/path"),
            "https://***@hub.example/path"
        );
        assert_eq!(redact_url("nats://ann:hun/ter2@db"), "nats://***@db");
        assert_eq!(redact_url("nats://127.0.0.1:4222"), "nats://127.0.0.1:4222");
    }
}
