//! `nats-rerank gateway`: HTTP in, NATS out, until a signal.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use super::flags::given;
use super::signals::{stop_on_signal, tell_supervisor};
use super::{CliError, Global};
use crate::client::BuildError;
use crate::config::{Config, FallbackScores, OnFailure};
use crate::gateway::{self, BearerToken, GatewayError, GatewaySettings, Life};
use crate::nats::ConnectErrorKind;
use crate::telemetry;
use crate::telemetry::supervisor::{Phase, Report};

/// Flags of `nats-rerank gateway`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// NATS servers, comma-separated (nats.url)
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
    /// Where to listen for HTTP (gateway.listen)
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
}

/// A token file longer than this is another file.
const TOKEN_BYTES_MAX: u64 = 4096;

/// No sign of life for this long, and the gateway should be started again.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A stop takes no longer than `shutdown.grace_ms` and this.
const STOP_BESIDE_GRACE: Duration = Duration::from_secs(5);

/// Runs a gateway until SIGTERM or SIGINT.
///
/// # Errors
/// A bad setting, or an address that cannot be listened on.
pub fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let flags = given(&[
        ("--nats-url", "nats.url", &args.nats_url),
        ("--listen", "gateway.listen", &args.listen),
    ]);
    let config = global.load_with(flags)?.config;
    let telemetry = telemetry::start(&config).map_err(|error| CliError::Usage(error.to_string()))?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let settings = settings(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("async")
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the async runtime: {error}")))?;
    runtime.block_on(serve(settings))?;
    runtime.shutdown_timeout(Duration::from_millis(200));
    telemetry.stop();
    Ok(())
}

async fn serve(settings: GatewaySettings) -> Result<(), CliError> {
    let (stop, _) = stop_on_signal()?;
    let life = Life::new();
    let _supervisor = tell_supervisor(STOP_BESIDE_GRACE + settings.grace, {
        let (life, stop) = (life.clone(), stop.clone());
        move || report(&life, *stop.borrow())
    });
    gateway::run(settings, stop, life).await.map_err(|error| match &error {
        GatewayError::Client(BuildError::Invalid { .. }) => CliError::Usage(error.to_string()),
        GatewayError::Client(BuildError::Connect(connect)) if connect.kind() == ConnectErrorKind::Settings => {
            CliError::Usage(error.to_string())
        }
        _ => CliError::Failed(error.to_string()),
    })
}

/// What the supervisor is told. A gateway without NATS is started all the same: it answers, as `gateway.on_failure` says.
fn report(life: &Life, stopping: bool) -> Report {
    let (phase, status) = match (stopping, life.is_listening(), life.is_connected()) {
        (true, _, _) => (Phase::Stopping, "stopping"),
        (false, false, _) => (Phase::Starting, "starting"),
        (false, true, false) if life.is_refused() => (Phase::Ready, "listening, NATS refuses the credentials"),
        (false, true, false) => (Phase::Ready, "listening, not connected to NATS"),
        (false, true, true) => (Phase::Ready, "listening, connected to NATS"),
    };
    Report {
        phase,
        alive: life.silence() <= SILENCE_MAX && !life.is_refused(),
        status: status.to_owned(),
    }
}

fn settings(config: &Config) -> Result<GatewaySettings, CliError> {
    let gateway = &config.gateway;
    Ok(GatewaySettings {
        connection: config.nats.connection(),
        subject: config.nats.subject.clone(),
        enabled: config.enabled,
        switch_bucket: config.nats.switch_bucket.clone(),
        switch_domain: config.nats.switch_domain.clone(),
        listen: gateway.listen,
        timeout: gateway.timeout,
        fail_open: gateway.on_failure == OnFailure::Ann,
        zero_fallback_scores: gateway.fallback_scores == FallbackScores::Zero,
        models: gateway.models.clone(),
        service_name: config.nats.service_name.clone(),
        any_model: gateway.any_model,
        split_pairs: gateway.split_pairs,
        token: token(config)?,
        requests_max: gateway.requests_max,
        connections_max: gateway.connections_max,
        documents_max: gateway.documents_max,
        body_bytes_max: gateway.body_bytes_max,
        pending_body_bytes_max: gateway.pending_body_bytes_max,
        request_timeout: gateway.request_timeout,
        cors_origins: gateway.cors_origins.clone(),
        grace: config.shutdown.grace,
    })
}

/// The token of the settings, or of the file that they name. A file without one is an error: it must not open the door.
fn token(config: &Config) -> Result<Option<BearerToken>, CliError> {
    let gateway = &config.gateway;
    let (setting, text) = match (&gateway.token, &gateway.token_file) {
        (Some(token), _) => ("gateway.token", token.expose().to_owned()),
        (None, Some(file)) => (
            "gateway.token_file",
            read(file).map_err(|problem| {
                CliError::Usage(format!("gateway.token_file: cannot read {}: {problem}", file.display()))
            })?,
        ),
        (None, None) => return Ok(None),
    };
    match BearerToken::new(&text) {
        Some(token) => Ok(Some(token)),
        None => Err(CliError::Usage(format!("{setting}: there is no token in it"))),
    }
}

fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(error.to_string()),
        Ok(_) if text.len() as u64 > TOKEN_BYTES_MAX => Err(format!("it is longer than {TOKEN_BYTES_MAX} bytes")),
        Ok(_) => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_token_file_holds_a_token_or_is_an_error() {
        let with = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
            file.write_all(text.as_bytes()).expect("room for it");
            let mut config = Config::default();
            config.gateway.token_file = Some(file.path().to_owned());
            token(&config)
        };
        assert!(with("s3cret\n").is_ok_and(|token| token.is_some()));
        for wrong in ["", " \n", &"x".repeat(5000)] {
            assert!(matches!(with(wrong), Err(CliError::Usage(text)) if text.contains("gateway.token_file")));
        }
        let mut config = Config::default();
        assert!(token(&config).is_ok_and(|token| token.is_none()));
        config.gateway.token_file = Some("/no/such/file".into());
        assert!(token(&config).is_err());
        config.gateway.token_file = None;
        config.gateway.token = Some(Secret::new("  "));
        assert!(token(&config).is_err());
    }
}
