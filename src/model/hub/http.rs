//! Requests to the hub: time limits, redirects that keep the token at home, failures told apart, bounded repeats.

use std::time::{Duration, SystemTime};

use tracing::{debug, warn};
use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::{Agent, Body};
use url::Url;

use super::super::error::{HubFailure, ModelError};
use super::redirects::{Way, redirect};
use crate::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that sends nothing for so long has stalled; the download itself may take as long as it takes.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What the hub says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) commit: String,
    /// Names the content: a SHA-256 for large files, a git hash for small ones. Safe as a file name.
    pub(super) etag: String,
    pub(super) size_bytes: Option<u64>,
}

/// A failure, and how long the server wants us to wait.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) failure: HubFailure,
    pub(super) retry_after: Option<Duration>,
}

impl From<HubFailure> for Refusal {
    fn from(failure: HubFailure) -> Self {
        Refusal {
            failure,
            retry_after: None,
        }
    }
}

/// One model's side of the hub.
pub(super) struct Client {
    agent: Agent,
    id: String,
    endpoint: Url,
    /// The endpoint without user name and password, for messages.
    endpoint_shown: String,
    token: Option<String>,
    retries_max: u32,
    backoff: Duration,
}

impl Client {
    pub(super) fn new(
        id: &str,
        endpoint: &str,
        token: Option<String>,
        retries_max: u32,
        backoff: Duration,
    ) -> Result<Client, ModelError> {
        let invalid = |reason: String| ModelError::Hub {
            id: id.to_owned(),
            file: "its address".to_owned(),
            failure: HubFailure::Protocol { reason },
        };
        let mut url = Url::parse(endpoint.trim()).map_err(|error| {
            invalid(format!(
                "the endpoint (model.hub_endpoint or HF_ENDPOINT) is not an address: {error}"
            ))
        })?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(invalid(
                "the endpoint (model.hub_endpoint or HF_ENDPOINT) must begin with http:// or https://".into(),
            ));
        }
        // So that joining paths keeps a prefix such as /api/huggingface of a company's mirror.
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let mut shown = url.clone();
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        if let Some(token) = &token
            && !token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(invalid(
                "the token (model.hub_token or HF_TOKEN) holds a character that no token has".into(),
            ));
        }
        Ok(Client {
            agent: agent(),
            id: id.to_owned(),
            endpoint_shown: shown.as_str().trim_end_matches('/').to_owned(),
            endpoint: url,
            token,
            retries_max,
            backoff,
        })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint_shown
    }

    pub(super) fn retries_max(&self) -> u32 {
        self.retries_max
    }

    /// Asks for a file's commit, etag and size; repeats after passing failures.
    pub(super) fn look(&self, revision: &str, file: &str) -> Result<RemoteFile, HubFailure> {
        let mut retries = 0;
        loop {
            match self.look_at(revision, file) {
                Ok(remote) => return Ok(remote),
                Err(refusal) if refusal.failure.is_retryable() && retries < self.retries_max => {
                    retries += 1;
                    self.pause(retries, file, &refusal);
                }
                Err(refusal) => return Err(refusal.failure),
            }
        }
    }

    /// As [`Self::look`], without repeats.
    pub(super) fn look_once(&self, revision: &str, file: &str) -> Result<RemoteFile, HubFailure> {
        self.look_at(revision, file).map_err(|refusal| refusal.failure)
    }

    fn look_at(&self, revision: &str, file: &str) -> Result<RemoteFile, Refusal> {
        let mut way = Way::new(self.url(revision, file)?);
        let (mut commit, mut etag, mut size_bytes) = (None, None, None);
        loop {
            let response = self.send("HEAD", way.at(), None)?;
            let headers = response.headers();
            commit = text(headers, "x-repo-commit").or(commit);
            // A large file's own hash and size come with the redirect to its storage, whose answer has others.
            etag = text(headers, "x-linked-etag").or(etag);
            size_bytes = number(headers, "x-linked-size").or(size_bytes);
            if let Some((location, relative)) = redirect(way.at(), &response)? {
                let known = commit.is_some() && (etag.is_some() || headers.contains_key(header::ETAG));
                if relative || !known {
                    way.on(location)?;
                    continue;
                }
                etag = etag.or_else(|| text(headers, "etag"));
                break;
            }
            self.check_status(&response)?;
            etag = etag.or_else(|| text(headers, "etag"));
            size_bytes = size_bytes.or_else(|| number(headers, "content-length"));
            break;
        }
        let protocol = |reason: &str| HubFailure::Protocol {
            reason: format!("{}: {reason}", self.endpoint_shown),
        };
        let commit = commit.filter(|commit| super::is_commit(commit)).ok_or_else(|| {
            protocol("its answer names no commit (X-Repo-Commit), so this is no hub, or a proxy has answered instead")
        })?;
        let etag = etag
            .as_deref()
            .and_then(plain_etag)
            .ok_or_else(|| protocol("its answer has no usable ETag"))?;
        Ok(RemoteFile {
            commit,
            etag,
            size_bytes,
        })
    }

    /// Opens a file for reading, from byte `start` on if the server can: 206 if it does, 200 if it begins at the beginning,
    /// 416 if there is nothing from there on.
    pub(super) fn open(&self, commit: &str, file: &str, start: u64) -> Result<Response<Body>, Refusal> {
        let mut way = Way::new(self.url(commit, file)?);
        loop {
            let response = self.send("GET", way.at(), (start > 0).then_some(start))?;
            if let Some((location, _)) = redirect(way.at(), &response)? {
                way.on(location)?;
                continue;
            }
            if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
                self.check_status(&response)?;
            }
            return Ok(response);
        }
    }

    fn url(&self, revision: &str, file: &str) -> Result<Url, HubFailure> {
        // A revision such as refs/pr/1 is one segment of the address.
        let revision = revision.replace('/', "%2F");
        let path = format!("{}/resolve/{revision}/{file}", self.id);
        self.endpoint.join(&path).map_err(|error| HubFailure::Protocol {
            reason: format!("no address for {path}: {error}"),
        })
    }

    fn send(&self, method: &str, url: &Url, start: Option<u64>) -> Result<Response<Body>, Refusal> {
        let mut request = match method {
            "HEAD" => self.agent.head(url.as_str()),
            _ => self.agent.get(url.as_str()),
        };
        // A compressed answer would have another length than the file.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if let Some(start) = start {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        if let Some(token) = &self.token
            && url.origin() == self.endpoint.origin()
        {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        debug!(method, host = url.host_str(), path = url.path(), start, "hub request");
        request.call().map_err(|error| self.connection(url, error).into())
    }

    /// What went wrong below HTTP. What will go wrong again in the same way is not worth a repeat.
    fn connection(&self, url: &Url, error: ureq::Error) -> HubFailure {
        let host = url.host_str().unwrap_or_default();
        match error {
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_)
            | ureq::Error::Protocol(_)
            | ureq::Error::BodyStalled => HubFailure::Connection {
                reason: format!("could not reach {host}: {error}"),
            },
            error => HubFailure::Protocol {
                reason: format!("request to {host} failed: {error}"),
            },
        }
    }

    fn check_status(&self, response: &Response<Body>) -> Result<(), Refusal> {
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let endpoint = self.endpoint_shown.clone();
        let failure = match status.as_u16() {
            401 => HubFailure::Unauthorized {
                endpoint,
                token: self.token.is_some(),
            },
            403 => HubFailure::Forbidden { endpoint },
            404 | 410 => {
                let what = match text(response.headers(), "x-error-code").as_deref() {
                    Some("RepoNotFound") => "no such model",
                    Some("RevisionNotFound") => "no such revision",
                    Some("EntryNotFound") => "no such file",
                    _ => "no such model, revision or file",
                };
                HubFailure::NotFound {
                    endpoint,
                    what: what.to_owned(),
                }
            }
            status => HubFailure::Status { endpoint, status },
        };
        let retry_after = retry_after(response.headers());
        Err(Refusal { failure, retry_after })
    }

    /// Waits before the `retry`th repeat: twice as long each time, with some jitter so that a fleet that failed together
    /// does not come back together; or as long as the server asks, within reason.
    pub(super) fn pause(&self, retry: u32, file: &str, refusal: &Refusal) {
        let doubled = self.backoff.saturating_mul(1 << retry.saturating_sub(1).min(10));
        let nanos = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| time.subsec_nanos());
        let jitter = 0.75 + f64::from(nanos % 1000) / 2000.0;
        let wait = refusal
            .retry_after
            .unwrap_or(doubled.min(BACKOFF_MAX).mul_f64(jitter))
            .min(BACKOFF_MAX);
        warn!(
            model = %self.id, file, retry, of = self.retries_max, wait_ms = wait.as_millis() as u64,
            failure = %refusal.failure, "hub request failed; it is repeated"
        );
        std::thread::sleep(wait);
    }
}

/// How long the server wants us to wait (RFC 9110): seconds, or a date, which is compared with the server's own clock where it
/// shows it. A date that is past means no wait. `None`: it says nothing that can be read.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, "retry-after")?;
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has: longer than any bound.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(&value).ok()?;
    let now = text(headers, "date").and_then(|now| httpdate::parse_http_date(&now).ok());
    let now = now.unwrap_or_else(SystemTime::now);
    Some(date.duration_since(now).unwrap_or_default())
}

fn agent() -> Agent {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(STALL_TIMEOUT))
        .timeout_per_read(Some(STALL_TIMEOUT))
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));
    if let Some(tls) = tls::system_roots() {
        config = config.tls_config(tls);
    }
    config.build().into()
}

pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(|value| value.trim().to_owned())
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// The etag without its quotes, if it can be a file name.
fn plain_etag(etag: &str) -> Option<String> {
    let etag = etag.trim_start_matches("W/").trim_matches('"');
    let plain = etag
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    (plain && !etag.is_empty() && etag.len() <= 200 && !etag.starts_with('.')).then(|| etag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|&(name, value)| (ureq::http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn retry_after_is_read_in_every_form_of_the_rfc() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (value, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            // The three forms that a date may have, ten seconds later than the server's clock.
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10)),
            ("Sun Nov  6 08:49:47 1994", Some(10)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let found = retry_after(&headers(&[("retry-after", value), ("date", date)]));
            assert_eq!(found, seconds.map(Duration::from_secs), "{value:?}");
        }
        // Without the server's clock, by ours.
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3600));
        let found = retry_after(&headers(&[("retry-after", &soon)])).unwrap();
        assert!(
            (Duration::from_secs(3500)..=Duration::from_secs(3600)).contains(&found),
            "{found:?}"
        );
        assert_eq!(retry_after(&headers(&[])), None);
    }
}
