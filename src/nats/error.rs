//! Why there is no connection, in words that say what to check.

use std::error::Error as _;
use std::io;

use async_nats::ConnectErrorKind as NatsErrorKind;

use super::ConnectionSettings;

/// What kept a connection from being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// A setting is wrong, or a file that it names.
    Settings,
    /// A server's name has no address.
    Dns,
    /// Nothing listens there.
    Refused,
    /// No answer in time.
    TimedOut,
    /// The server does not accept the credentials.
    Authorization,
    /// No TLS connection could be made.
    Tls,
    /// Anything else.
    Other,
}

impl ConnectErrorKind {
    /// Whether another attempt may fare better.
    pub fn transient(self) -> bool {
        matches!(
            self,
            ConnectErrorKind::Dns | ConnectErrorKind::Refused | ConnectErrorKind::TimedOut | ConnectErrorKind::Other
        )
    }
}

/// Why there is no connection: which server, what happened, and what to look at. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConnectError {
    kind: ConnectErrorKind,
    message: String,
}

impl ConnectError {
    /// What kept the connection from being made.
    pub fn kind(&self) -> ConnectErrorKind {
        self.kind
    }

    pub(crate) fn settings(message: impl Into<String>) -> Self {
        Self {
            kind: ConnectErrorKind::Settings,
            message: message.into(),
        }
    }

    pub(super) fn new(settings: &ConnectionSettings, kind: ConnectErrorKind, what: &str, check: &str) -> Self {
        let servers = settings.shown_urls().join(", ");
        Self {
            kind,
            message: format!("cannot connect to NATS at {servers}: {what}. {check}"),
        }
    }

    pub(super) fn timed_out(settings: &ConnectionSettings) -> Self {
        Self::new(
            settings,
            ConnectErrorKind::TimedOut,
            "no answer in time",
            "Check that the address is that of a NATS server (its client port, 4222 by default) and that no firewall \
             is in between; `nats.connect_timeout_ms` sets how long to wait",
        )
    }

    pub(super) fn explain(settings: &ConnectionSettings, error: &async_nats::ConnectError) -> Self {
        // What an I/O error wraps (rustls puts its own error into one) says more than its wrapping.
        let io_kind = error
            .source()
            .and_then(|source| source.downcast_ref::<io::Error>())
            .map(io::Error::kind);
        let detail = error
            .source()
            .map(|source| one_line(&source.to_string()))
            .unwrap_or_default();
        match (error.kind(), io_kind) {
            (NatsErrorKind::TimedOut, _) => Self::timed_out(settings),
            (NatsErrorKind::Dns, _) => Self::new(
                settings,
                ConnectErrorKind::Dns,
                "a host name has no address",
                "Check the spelling of `nats.url` and the name service of this machine",
            ),
            (NatsErrorKind::Authentication, _) => Self::new(
                settings,
                ConnectErrorKind::Authorization,
                "the nkey seed cannot be used to sign in",
                "Check the file named by `nats.nkey_seed_file` or `nats.credentials_file`",
            ),
            (NatsErrorKind::AuthorizationViolation, _) => Self::new(
                settings,
                ConnectErrorKind::Authorization,
                "the server does not accept the credentials",
                "Check `nats.credentials_file`, `nats.nkey_seed_file`, `nats.user` with `nats.password` or \
                 `nats.password_file`, or `nats.token` or `nats.token_file`, whichever the server asks for",
            ),
            (NatsErrorKind::Tls, _) | (_, Some(io::ErrorKind::InvalidData)) => Self::new(
                settings,
                ConnectErrorKind::Tls,
                &format!("no TLS connection ({detail})"),
                "Check that the server speaks TLS, that `nats.tls_ca_file` holds its root certificate, that the URL \
                 names the host as the certificate does, and `nats.tls_cert_file` with `nats.tls_key_file` if it asks \
                 for a client certificate",
            ),
            (_, Some(io::ErrorKind::ConnectionRefused)) => Self::new(
                settings,
                ConnectErrorKind::Refused,
                "connection refused",
                "Check that nats-server runs there and that `nats.url` names its host and port",
            ),
            _ => Self::new(
                settings,
                ConnectErrorKind::Other,
                if detail.is_empty() {
                    "the connection failed"
                } else {
                    &detail
                },
                "Check that the address is that of a NATS server",
            ),
        }
    }
}

/// A library's message, on one line and of bounded length.
pub(super) fn one_line(message: &str) -> String {
    message
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(200)
        .collect()
}
