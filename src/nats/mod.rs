//! How a connection to NATS is made from plain settings. Shared by the worker and the client.
//!
//! async-nats' own types stay inside the crate: callers see [`ConnectionSettings`] and [`ConnectError`] only.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};

mod error;
#[cfg(test)]
pub(crate) mod fake_server;
mod login;
mod refusals;
mod session;
#[cfg(test)]
mod tests;

pub use error::{ConnectError, ConnectErrorKind};
pub(crate) use login::{REFUSALS_MAX, is_refusal};
pub(crate) use refusals::{Backoff, Pinger, is_subscription_limit};
pub(crate) use session::{Session, Sessions};

/// Where and as whom to connect. Plain data; nothing is opened or read before a connection is made.
///
/// `{:?}` hides passwords and tokens, also those inside URLs.
#[derive(Clone)]
pub struct ConnectionSettings {
    /// Server URLs, tried in turn (`nats://host:port`, `tls://…`).
    pub urls: Vec<String>,
    /// True: connect to `urls` alone, and not to further servers of the cluster that a server advertises.
    pub ignore_discovered_servers: bool,
    /// The name shown in server monitoring.
    pub name: String,
    /// A `.creds` file (JWT and nkey seed). Read again at each connect, like every file of credentials here.
    pub credentials_file: Option<PathBuf>,
    /// A file that holds an nkey seed.
    pub nkey_seed_file: Option<PathBuf>,
    /// User name, with `password` or `password_file`.
    pub user: Option<String>,
    /// Password of `user`.
    pub password: Option<String>,
    /// A file that holds the password of `user`; white space around it does not count.
    pub password_file: Option<PathBuf>,
    /// Bearer token.
    pub token: Option<String>,
    /// A file that holds the token; white space around it does not count.
    pub token_file: Option<PathBuf>,
    /// Refuse a connection without TLS.
    pub tls_required: bool,
    /// Root certificates (PEM) to trust, in place of the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// Client certificate (PEM), with `tls_key_file`.
    pub tls_cert_file: Option<PathBuf>,
    /// Client key (PEM).
    pub tls_key_file: Option<PathBuf>,
    /// Prefix of reply inboxes (`_INBOX` unless set).
    pub inbox_prefix: Option<String>,
    /// How long one connection attempt may take.
    pub connect_timeout: Duration,
    /// A server that has been silent for this long is asked for a sign of life; after three times as long, the connection
    /// counts as lost.
    pub ping_interval: Duration,
}

impl Default for ConnectionSettings {
    /// A server on this machine, without authentication.
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".to_owned()],
            ignore_discovered_servers: false,
            name: "nats-rerank".to_owned(),
            credentials_file: None,
            nkey_seed_file: None,
            user: None,
            password: None,
            password_file: None,
            token: None,
            token_file: None,
            tls_required: false,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            inbox_prefix: None,
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "***");
        f.debug_struct("ConnectionSettings")
            .field("urls", &self.shown_urls())
            .field("ignore_discovered_servers", &self.ignore_discovered_servers)
            .field("name", &self.name)
            .field("credentials_file", &self.credentials_file)
            .field("nkey_seed_file", &self.nkey_seed_file)
            .field("user", &self.user)
            .field("password", &hidden(&self.password))
            .field("password_file", &self.password_file)
            .field("token", &hidden(&self.token))
            .field("token_file", &self.token_file)
            .field("tls_required", &self.tls_required)
            .field("tls_ca_file", &self.tls_ca_file)
            .field("tls_cert_file", &self.tls_cert_file)
            .field("tls_key_file", &self.tls_key_file)
            .field("inbox_prefix", &self.inbox_prefix)
            .field("connect_timeout", &self.connect_timeout)
            .field("ping_interval", &self.ping_interval)
            .finish()
    }
}

impl ConnectionSettings {
    fn shown_urls(&self) -> Vec<String> {
        self.urls.iter().map(|url| shown_url(url)).collect()
    }
}

/// A URL without the user, password or token before its `@`.
fn shown_url(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    // A password may hold any character that its owner forgot to escape: the last `@` ends it.
    match rest.rsplit_once('@') {
        Some((_, server)) => format!("{scheme}***@{server}"),
        None => url.to_owned(),
    }
}

/// What the two kinds of connection (worker, caller) do differently.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectPlan {
    /// How many more times the first connection is tried. A rejection (credentials, settings) ends it at once.
    pub retries_max: u32,
    /// Messages that a subscription holds before async-nats drops the next one.
    pub subscription_capacity: usize,
    /// Commands (publishes, subscriptions) that wait for the connection before the next one blocks.
    pub client_capacity: usize,
}

/// The pause before the first repeated attempt; each further one doubles it, up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between attempts.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Connects. Once there is a connection, async-nats takes up a lost one again for as long as the client lives, and tells
/// of it through `on_event`, which must not block.
pub(crate) async fn connect(
    settings: &ConnectionSettings,
    plan: ConnectPlan,
    on_event: impl Fn(async_nats::Event) + Send + Sync + 'static,
) -> Result<async_nats::Client, ConnectError> {
    let servers = servers(settings)?;
    let options = options(settings, &servers, plan)?.event_callback(move |event| {
        on_event(event);
        std::future::ready(())
    });
    // async-nats bounds each address, but neither the name lookup nor their number.
    let attempt_max = settings.connect_timeout.saturating_mul(settings.urls.len() as u32 + 1);
    let mut pause = RETRY_PAUSE;
    let mut retries = 0;
    loop {
        let attempt = tokio::time::timeout(attempt_max, options.clone().connect(servers.clone()));
        let error = match attempt.await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => ConnectError::explain(settings, &error),
            Err(_) => ConnectError::timed_out(settings),
        };
        if retries == plan.retries_max || !error.kind().transient() {
            return Err(error);
        }
        retries += 1;
        tracing::warn!(
            error = %error,
            retry = retries,
            retries_max = plan.retries_max,
            pause_ms = pause.as_millis() as u64,
            "no connection to NATS yet"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

/// A client that connects in the background and does not give up. Its state says when it is connected.
pub(crate) async fn connect_lazy(
    settings: &ConnectionSettings,
    plan: ConnectPlan,
    on_event: impl Fn(async_nats::Event) + Send + Sync + 'static,
) -> Result<async_nats::Client, ConnectError> {
    let servers = servers(settings)?;
    let options = options(settings, &servers, plan)?
        .event_callback(move |event| {
            on_event(event);
            std::future::ready(())
        })
        .retry_on_initial_connect();
    options
        .connect(servers)
        .await
        .map_err(|error| ConnectError::explain(settings, &error))
}

fn servers(settings: &ConnectionSettings) -> Result<Vec<ServerAddr>, ConnectError> {
    if settings.urls.is_empty() {
        return Err(ConnectError::settings("no NATS server is named: `nats.url` is empty"));
    }
    let mut servers = Vec::with_capacity(settings.urls.len());
    for url in &settings.urls {
        let server: ServerAddr = url
            .parse()
            .map_err(|error| ConnectError::settings(format!("`nats.url`: {}: {error}", shown_url(url))))?;
        if !matches!(server.scheme(), "nats" | "tls") || server.host().is_empty() {
            return Err(ConnectError::settings(format!(
                "`nats.url`: {}: expected nats://host:port or tls://host:port",
                shown_url(url)
            )));
        }
        servers.push(server);
    }
    Ok(servers)
}

fn options(
    settings: &ConnectionSettings,
    servers: &[ServerAddr],
    plan: ConnectPlan,
) -> Result<ConnectOptions, ConnectError> {
    let mut options = login::options(settings, servers)?
        .name(&settings.name)
        .require_tls(settings.tls_required)
        .connection_timeout(settings.connect_timeout)
        .ping_interval(settings.ping_interval)
        .subscription_capacity(plan.subscription_capacity)
        .client_capacity(plan.client_capacity);
    if settings.ignore_discovered_servers {
        options = options.ignore_discovered_servers();
    }
    if let Some(file) = &settings.tls_ca_file {
        options = options.add_root_certificates(readable("nats.tls_ca_file", file)?);
    }
    match (&settings.tls_cert_file, &settings.tls_key_file) {
        (Some(certificate), Some(key)) => {
            options = options.add_client_certificate(
                readable("nats.tls_cert_file", certificate)?,
                readable("nats.tls_key_file", key)?,
            );
        }
        (None, None) => {}
        _ => {
            return Err(ConnectError::settings(
                "`nats.tls_cert_file` and `nats.tls_key_file` go together: only one of them is set",
            ));
        }
    }
    if let Some(prefix) = &settings.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    Ok(options)
}

fn readable(setting: &str, file: &Path) -> Result<PathBuf, ConnectError> {
    std::fs::File::open(file)
        .map(|_| file.to_owned())
        .map_err(|error| unreadable(setting, file, &error))
}

fn unreadable(setting: &str, file: &Path, error: &io::Error) -> ConnectError {
    ConnectError::settings(format!("`{setting}`: cannot read {}: {error}", file.display()))
}
