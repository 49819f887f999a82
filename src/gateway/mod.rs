//! HTTP in, NATS out: rerankers' known HTTP interfaces in front of the workers. No model inside, no state but what its
//! requests need; any number of gateways may stand side by side.
//!
//! | file | what it is for |
//! |---|---|
//! | `serve`, `socket` | connections: accepted, served, ended in good order |
//! | `connections`, `connection` | which one gives way when there are too many; what each is at |
//! | `routes` | which path leads where |
//! | `rerank`, `pairs` | the way of a request for a ranking; of one that scores pairs |
//! | `arrival`, `inflate`, `body`, `candidates` | how a body arrives, and the room for all that do; how it is decompressed, and what it asks for |
//! | `dialect` | the table of paths and of shapes; how answers and failures are written |
//! | `backend` | the models, a subject each |
//! | `guard`, `failure` | the token; what is answered in place of a ranking |
//! | `pages`, `page`, `openapi.json` | everything that is read by GET |
//! | `life` | signs of life, for a supervisor |
//! | `stats`, `served` | what the gateway knows of itself, and of the model behind it |
//!
//! It asks through [`Reranker`](crate::client::Reranker), which cannot fail; so neither can an answer, unless the settings ask for that.

mod arrival;
mod backend;
mod body;
mod candidates;
mod connection;
mod connections;
mod dialect;
mod failure;
mod guard;
mod inflate;
mod life;
mod pages;
mod pairs;
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

use self::backend::Backend;
use self::dialect::FallbackScores;
use crate::client::BuildError;
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
    /// The name of the workers' service, for discovery.
    pub service_name: String,
    /// Models that requests choose by name, and the subject of each.
    pub models: Vec<(String, String)>,
    /// What stands for scores without a ranking. True: zero; false: scores that fall from 1.
    pub zero_fallback_scores: bool,
    /// True: without a ranking, documents are answered in the order they came in; false: 503.
    pub fail_open: bool,
    /// Whether the default workers answer for names of models that are not among `models`.
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
impl GatewaySettings {
    fn fallback_scores(&self) -> FallbackScores {
        if self.zero_fallback_scores {
            FallbackScores::Zero
        } else {
            FallbackScores::Descending
        }
    }
}

/// What all requests share.
struct Gateway {
    settings: GatewaySettings,
    /// For requests that name no other model.
    default: backend::Backend,
    /// Those that requests choose by name.
    models: Vec<backend::Backend>,
    /// A permit for each request at work.
    places: Semaphore,
    room: arrival::Room,
    connections: connections::Connections,
    stats: stats::Stats,
    metrics: PrometheusHandle,
    cpu: CpuMeter,
    stopping: AtomicBool,
}

impl Gateway {
    /// Why the gateway should not be asked now; `None`: it should.
    fn why_not_ready(&self) -> Option<&'static str> {
        if self.stopping.load(Ordering::Acquire) {
            Some("stopping")
        } else if self.default.reranker.is_refused() {
            Some(REFUSED)
        } else if !self.default.reranker.is_connected() {
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
    let default = Backend::connect(&settings, None, &settings.subject).await?;
    let mut models = Vec::with_capacity(settings.models.len());
    for (name, subject) in &settings.models {
        models.push(Backend::connect(&settings, Some(name), subject).await?);
    }
    let gateway = Arc::new(Gateway {
        default,
        models,
        places: Semaphore::new(settings.requests_max),
        room: arrival::Room::new(settings.pending_body_bytes_max),
        connections: connections::Connections::new(serve::connections_max(settings.connections_max)),
        stats: stats::Stats::default(),
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
        () = life.pulse(|| (gateway.default.reranker.is_connected(), gateway.default.reranker.is_refused())) => {}
        () = recorder::upkeep(&gateway.metrics) => {}
    }
    Ok(())
}
