//! How a connection to NATS is made from plain settings. Shared by the worker and the client.
//!
//! async-nats' own types stay inside the crate: callers see [`ConnectionSettings`] only.

use std::path::PathBuf;
use std::time::Duration;

/// Where and as whom to connect. Plain data; nothing is opened or read before [`connect`].
#[derive(Clone, Debug, Default)]
pub struct ConnectionSettings {
    /// Server URLs, tried in turn (`nats://host:port`, `tls://…`).
    pub urls: Vec<String>,
    /// The name shown in server monitoring.
    pub name: String,
    /// A `.creds` file (JWT and nkey seed).
    pub credentials_file: Option<PathBuf>,
    /// A file that holds an nkey seed.
    pub nkey_seed_file: Option<PathBuf>,
    /// User name, with `password`.
    pub user: Option<String>,
    /// Password of `user`.
    pub password: Option<String>,
    /// Bearer token.
    pub token: Option<String>,
    /// Refuse a connection without TLS.
    pub tls_required: bool,
    /// Additional root certificates (PEM).
    pub tls_ca_file: Option<PathBuf>,
    /// Client certificate (PEM), with `tls_key_file`.
    pub tls_cert_file: Option<PathBuf>,
    /// Client key (PEM).
    pub tls_key_file: Option<PathBuf>,
    /// Prefix of reply inboxes (`_INBOX` unless set).
    pub inbox_prefix: Option<String>,
    /// How long one connection attempt may take.
    pub connect_timeout: Duration,
}
