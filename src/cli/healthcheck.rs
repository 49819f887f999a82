//! `nats-rerank healthcheck`: asks a running worker's health over HTTP; the exit code is the answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{CliError, Global};

/// Flags of `nats-rerank healthcheck`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to ask; without it /readyz at health.listen
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How long to wait for an answer
    #[arg(long, value_name = "MS", default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout_ms: u64,
}

/// A longer answer is no answer of health.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Succeeds if the answer is 200, and prints it.
///
/// # Errors
/// [`CliError::Failed`] with the reason that was given, or why there is no answer.
pub fn run(args: &Args, global: &Global) -> Result<(), CliError> {
    let url = match &args.url {
        Some(url) => url.clone(),
        None => url_of(global.load()?.health.listen)?,
    };
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_millis(args.timeout_ms)))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .build()
        .new_agent();
    let failed = |error: ureq::Error| CliError::Failed(format!("no answer from {url}: {error}"));
    let mut response = agent.get(&url).call().map_err(failed)?;
    let text = response
        .body_mut()
        .with_config()
        .limit(ANSWER_BYTES_MAX)
        .read_to_string()
        .map_err(failed)?;
    if response.status().as_u16() != 200 {
        return Err(CliError::Failed(format!(
            "{url}: {} {}",
            response.status(),
            text.trim()
        )));
    }
    super::print(&format!("{}\n", text.trim()))
}

/// Where a worker with these settings is asked, from the same machine.
fn url_of(listen: Option<SocketAddr>) -> Result<String, CliError> {
    match listen {
        None => Err(CliError::Failed(
            "health.listen is empty, so there is nothing to ask: set it, or give --url".to_owned(),
        )),
        Some(listen) if listen.port() == 0 => Err(CliError::Failed(
            "health.listen has port 0, so the port is known from the worker's log alone: give --url".to_owned(),
        )),
        Some(listen) => {
            let ip = match listen.ip() {
                ip if !ip.is_unspecified() => ip,
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            Ok(format!("http://{}/readyz", SocketAddr::new(ip, listen.port())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_asked_where_it_listens() {
        let url = |listen: &str| url_of(listen.parse().ok());
        assert_eq!(url("127.0.0.1:9464"), Ok("http://127.0.0.1:9464/readyz".to_owned()));
        assert_eq!(url("0.0.0.0:80"), Ok("http://127.0.0.1:80/readyz".to_owned()));
        assert_eq!(url("[::]:80"), Ok("http://[::1]:80/readyz".to_owned()));
        assert!(url("127.0.0.1:0").is_err() && url("").is_err());
    }
}
