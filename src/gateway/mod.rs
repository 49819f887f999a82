//! HTTP in, NATS out: rerankers' known HTTP interfaces in front of the workers. No model inside, no state but what its
//! requests need; any number of gateways may stand side by side.
//!
//! | file | what it is for |
//! |---|---|
//! | `serve`, `socket` | connections: accepted, served, ended in good order |
//! | `connections`, `connection` | which one gives way when there are too many; what each is at |
//! | `routes` | which path leads where |
//! | `rerank` | the way of a request for a ranking |
//! | `arrival`, `body`, `dialect` | how a body arrives, and the room for all that do; the shapes of requests and answers: our own, TEI's, those of hosted rerankers |
//! | `guard`, `failure` | the token; what is answered in place of a ranking |
//! | `pages`, `page`, `openapi.json` | everything that is read by GET |
//! | `life` | signs of life, for a supervisor |
//! | `stats`, `served` | what the gateway knows of itself, and of the model behind it |
//!
//! It asks through [`Reranker`], which cannot fail; so neither can an answer, unless the settings ask for that.

mod arrival;
mod body;
mod connection;
mod connections;
mod dialect;
mod failure;
mod guard;
mod life;
mod pages;
mod rerank;
mod routes;
mod serve;
mod served;
mod socket;
mod stats;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::client::{BuildError, Reranker};
use crate::nats::ConnectionSettings;
use crate::telemetry::process::CpuMeter;
use crate::telemetry::{caller_names, gateway_names, recorder};

pub use guard::BearerToken;
pub use life::Life;

/// Everything that a gateway is told.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Where and as whom to connect to NATS.
    pub connection: ConnectionSettings,
    /// The subject that the workers listen on.
    pub subject: String,
    /// Whether reranking is on.
    pub enabled: bool,
    /// The JetStream KV bucket of the live switch.
    pub switch_bucket: Option<String>,
    /// The JetStream domain that the bucket is in, unless it is the one of the servers connected to.
    pub switch_domain: Option<String>,
    /// Where to listen for HTTP; port 0: any free one.
    pub listen: SocketAddr,
    /// The budget of a ranking, unless the request has a smaller one.
    pub timeout: Duration,
    /// True: without a ranking, documents are answered in the order they came in; false: 503.
    pub fail_open: bool,
    /// Whether the model that `/v1` and `/v2` requests name is of no account.
    pub any_model: bool,
    /// A request of more pairs is shared by several workers.
    pub split_pairs: Option<usize>,
    /// What a request has to carry to be let in.
    pub token: Option<BearerToken>,
    /// Requests for rankings at work at once.
    pub requests_max: usize,
    /// Connections at once; the one that has been idle longest gives way to the next.
    pub connections_max: usize,
    /// Documents of a request.
    pub documents_max: usize,
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Bytes of all bodies that are arriving; at least `body_bytes_max`.
    pub pending_body_bytes_max: usize,
    /// The time of a request in all, the arrival of its body counted.
    pub request_timeout: Duration,
    /// Origins whose pages may ask; `*`: any; empty: none.
    pub cors_origins: Vec<String>,
    /// How long requests may go on after the signal to stop.
    pub grace: Duration,
}

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Nothing can listen there.
    #[error("cannot listen on {listen} (gateway.listen): {reason}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        reason: io::Error,
    },
    /// No reranker: a setting of the connection is wrong.
    #[error(transparent)]
    Client(#[from] BuildError),
    /// No metrics recorder.
    #[error("cannot start the metrics: {0}")]
    Recorder(#[from] metrics_exporter_prometheus::BuildError),
}

/// Why a gateway is not alive whose credentials were refused again and again: whoever watches over it starts it with others.
const REFUSED: &str = "the NATS server refuses the credentials";

/// What all requests share.
struct Gateway {
    settings: GatewaySettings,
    reranker: Reranker,
    /// A permit for each request at work.
    places: Semaphore,
    room: arrival::Room,
    connections: connections::Connections,
    stats: stats::Stats,
    served: served::Served,
    metrics: PrometheusHandle,
    cpu: CpuMeter,
    stopping: AtomicBool,
}

impl Gateway {
    /// Why the gateway should not be asked now; `None`: it should.
    fn why_not_ready(&self) -> Option<&'static str> {
        if self.stopping.load(Ordering::Acquire) {
            Some("stopping")
        } else if self.reranker.is_refused() {
            Some(REFUSED)
        } else if !self.reranker.is_connected() {
            Some("not connected to NATS")
        } else {
            None
        }
    }
}

/// Serves until `stop` is true, then ends what is at work, within the grace. Starts whether or not there is a NATS server;
/// until there is, it is not ready. Installs the metrics recorder of this process, and gives its signs of life to `life`.
///
/// # Errors
/// The address cannot be listened on, or the settings of the connection are wrong.
pub async fn run(
    settings: GatewaySettings,
    mut stop: watch::Receiver<bool>,
    life: Arc<Life>,
) -> Result<(), GatewayError> {
    let listen = settings.listen;
    let listener = crate::listen::listen(listen)
        .and_then(TcpListener::from_std)
        .map_err(|reason| GatewayError::Listen { listen, reason })?;
    let metrics = recorder::install(&[gateway_names::ALL, caller_names::ALL])?;
    gateway_names::describe();
    let reranker = connect(&settings).await?;
    let gateway = Arc::new(Gateway {
        reranker,
        places: Semaphore::new(settings.requests_max),
        room: arrival::Room::new(settings.pending_body_bytes_max),
        connections: connections::Connections::new(serve::connections_max(settings.connections_max)),
        stats: stats::Stats::default(),
        served: served::Served::default(),
        metrics,
        cpu: CpuMeter::start(),
        stopping: AtomicBool::new(false),
        settings,
    });
    let stopped = {
        let gateway = gateway.clone();
        async move {
            // The sender's end is as good as a stop.
            let _ = stop.wait_for(|&stop| stop).await;
            gateway.stopping.store(true, Ordering::Release);
        }
    };
    life.set_listening();
    tokio::select! {
        () = serve::serve(listener, &gateway, stopped) => {}
        // In the very task that accepts, so that one does not go on without the other.
        () = life.pulse(|| (gateway.reranker.is_connected(), gateway.reranker.is_refused())) => {}
        () = recorder::upkeep(&gateway.metrics) => {}
    }
    Ok(())
}

async fn connect(settings: &GatewaySettings) -> Result<Reranker, BuildError> {
    let mut builder = Reranker::builder()
        .connection(settings.connection.clone())
        .subject(&settings.subject)
        .budget(settings.timeout)
        .enabled(settings.enabled)
        // The settings have it already.
        .read_environment(false);
    if let Some(bucket) = &settings.switch_bucket {
        builder = builder.switch_bucket(bucket);
    }
    if let Some(domain) = &settings.switch_domain {
        builder = builder.switch_domain(domain);
    }
    if let Some(pairs) = settings.split_pairs {
        builder = builder.split_pairs(pairs);
    }
    builder.connect_lazy().await
}
