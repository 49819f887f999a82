//! Health over HTTP: is the process alive, can it be counted on, what does it measure.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while engine and NATS thread give signs of life, else 503 with the reason: time to start it again |
//! | `/readyz` | 200 while the worker is in its queue group and its engine computes, else 503; JSON with the reason |
//! | `/metrics` | Prometheus text |
//! | `/stats` | JSON for people and scripts |
//!
//! It has a thread and a runtime of its own, so that a worker whose cores are all busy still answers; and it is bounded:
//! connections, of which the oldest that asks nothing gives way to the next, the size of a request, and the time that one may
//! take.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::caller_names;
use super::process::{self, CpuMeter};
use super::visitors::Visitors;
use super::{names, recorder};
use crate::model::tokenizer::CacheCounts;
use crate::protocol::RefusalKind;
use crate::worker::{BUSY_WINDOW, Snapshot, State, Status};

/// Connections at once; past that, the oldest that has not asked is closed for the next.
const CONNECTIONS_MAX: usize = 32;
/// Bytes of a request's head; hyper wants no less than 8 KiB.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// For the head of a request to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole connection: it serves one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// When a connection could not be accepted and no other could be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For the task of a connection that was closed to give up its file.
const CLOSE_PAUSE: Duration = Duration::from_millis(5);
/// How often a warning about accepting is written at most.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Why health could not be started.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// Nothing can listen there.
    #[error(
        "cannot listen on {listen} (health.listen): {reason}. Several workers on one machine want an address each: port 0 \
         takes any free port, and the empty text switches health off"
    )]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        reason: io::Error,
    },
    /// No metrics recorder.
    #[error("cannot start the metrics: {0}")]
    Recorder(#[from] BuildError),
    /// No thread or runtime.
    #[error("cannot start the health thread: {0}")]
    Thread(io::Error),
}

/// Health that is served until this is dropped.
#[derive(Debug)]
pub struct Health {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Pages {
    status: Arc<Status>,
    metrics: PrometheusHandle,
    cpu: CpuMeter,
    heart_beat_age_max: Duration,
    silence_max: Duration,
}

/// Installs the recorder of this process, with the names, meanings and buckets of [`names::ALL`] (and the buckets
/// of [`caller_names::ALL`], should the process be a caller too).
///
/// # Errors
/// The process has a recorder already.
pub fn install_recorder() -> Result<PrometheusHandle, BuildError> {
    let handle = recorder::install(&[names::ALL, caller_names::ALL])?;
    names::describe();
    Ok(handle)
}

impl Health {
    /// Listens on `listen` (port 0: any free one) and serves from a thread of its own. `metrics` comes from
    /// [`install_recorder`]; a heart-beat older than `heart_beat_age_max` makes the worker unready, and no sign of life for
    /// `silence_max` makes it dead.
    ///
    /// # Errors
    /// The address cannot be listened on, or the system gives no thread.
    pub fn start(
        listen: SocketAddr,
        status: Arc<Status>,
        metrics: PrometheusHandle,
        heart_beat_age_max: Duration,
        silence_max: Duration,
    ) -> Result<Health, HealthError> {
        let refused = |reason| HealthError::Listen { listen, reason };
        let listener = crate::listen::listen(listen).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HealthError::Thread)?;
        let pages = Arc::new(Pages {
            status,
            metrics,
            cpu: CpuMeter::start(),
            heart_beat_age_max,
            silence_max,
        });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(listener, pages.clone()) => {}
                        () = recorder::upkeep(&pages.metrics) => {}
                        _ = stopped => {}
                    }
                });
            })
            .map_err(HealthError::Thread)?;
        tracing::info!(%address, "health: /livez, /readyz, /metrics and /stats");
        Ok(Health {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "health cannot be served");
            return std::future::pending().await;
        }
    };
    let mut visitors = Visitors::new(CONNECTIONS_MAX);
    let mut warned: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                visitors.make_room();
                let has_asked = Arc::new(AtomicBool::new(false));
                let task = tokio::spawn(attend(stream, pages.clone(), has_asked.clone()));
                visitors.enter(task.abort_handle(), has_asked);
            }
            Err(error) => {
                // Out of file descriptors, say: one that has not asked gives its own. Not at full speed, nor a line each time.
                let closed = visitors.close_one();
                if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                    warned = Some(Instant::now());
                    tracing::warn!(%error, "health: a connection could not be accepted");
                }
                tokio::time::sleep(if closed { CLOSE_PAUSE } else { ACCEPT_PAUSE }).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn attend(stream: TcpStream, pages: Arc<Pages>, has_asked: Arc<AtomicBool>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(REQUEST_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false);
    let service = service_fn(move |request| {
        has_asked.store(true, Ordering::Relaxed);
        let response = answer(&request, &pages);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http.serve_connection(TokioIo::new(stream), service);
    // How a caller of health ends its connection is of no concern.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
}

fn answer(request: &Request<Incoming>, pages: &Pages) -> Response<Full<Bytes>> {
    const JSON: &str = "application/json";
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n".to_owned());
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/livez" => match pages.status.why_not_alive(pages.silence_max) {
            None => page(StatusCode::OK, TEXT, "alive\n".to_owned()),
            Some(reason) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
        },
        "/readyz" => {
            let read = pages.status.snapshot();
            let reason = read.why_not_ready(pages.heart_beat_age_max);
            let code = match reason {
                None => StatusCode::OK,
                Some(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            let body = json!({"ready": reason.is_none(), "state": read.state.name(), "reason": reason});
            page(code, JSON, format!("{body}\n"))
        }
        "/metrics" => page(StatusCode::OK, recorder::CONTENT_TYPE, render(pages)),
        "/stats" => page(StatusCode::OK, JSON, format!("{:#}\n", stats(pages))),
        _ => page(
            StatusCode::NOT_FOUND,
            TEXT,
            "/livez, /readyz, /metrics or /stats\n".to_owned(),
        ),
    }
}

fn page(code: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The metrics, with the gauges that nobody has to keep current between two readings.
fn render(pages: &Pages) -> String {
    let read = pages.status.snapshot();
    metrics::gauge!(names::QUEUE_TOKENS).set(read.load.queue_tokens as f64);
    metrics::gauge!(names::PREDICTED_WAIT_SECONDS).set(read.load.predicted_wait.as_secs_f64());
    metrics::gauge!(names::ENGINE_TOKENS_PER_SECOND).set(read.load.tokens_per_second.unwrap_or(0.0));
    metrics::gauge!(names::BATCH_TOKENS_MAX).set(read.load.batch_tokens_max as f64);
    metrics::gauge!(names::ENGINE_BUSY_RATIO).set(read.engine_busy_ratio);
    for (cache, counts) in [("documents", read.caches.documents), ("scores", read.caches.scores)] {
        let counts = counts.unwrap_or_default();
        metrics::counter!(names::CACHE_HITS_TOTAL, "cache" => cache).absolute(counts.hits);
        metrics::counter!(names::CACHE_MISSES_TOTAL, "cache" => cache).absolute(counts.misses);
        metrics::gauge!(names::CACHE_ENTRIES, "cache" => cache).set(counts.entries as f64);
    }
    if let Some(memory) = read.device_memory {
        metrics::gauge!(names::DEVICE_MEMORY_USED_BYTES).set(memory.used_bytes as f64);
        metrics::gauge!(names::DEVICE_MEMORY_TOTAL_BYTES).set(memory.total_bytes as f64);
        metrics::gauge!(names::DEVICE_MEMORY_ALLOCATED_BYTES).set(memory.own.allocated_bytes as f64);
        metrics::gauge!(names::DEVICE_MEMORY_RESERVED_BYTES).set(memory.own.reserved_bytes as f64);
    }
    let mut text = pages.metrics.render();
    names::append_seconds(&mut text, names::ALL);
    text
}

fn stats(pages: &Pages) -> serde_json::Value {
    let read: Snapshot = pages.status.snapshot();
    let usage = process::usage();
    let refused: serde_json::Map<_, _> = read
        .refused
        .iter()
        .map(|(kind, count)| (kind.name().to_owned(), json!(count)))
        .collect();
    let model = pages.status.model_facts().map(|model| {
        json!({
            "id": model.id, "device": model.device, "precision": model.precision,
            "length_max": model.length_max, "batch_tokens_max": model.batch_tokens_max, "attention": model.attention,
        })
    });
    let leaves: serde_json::Map<_, _> = read
        .leaves
        .iter()
        .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
        .collect();
    const MIB: f64 = 1024.0 * 1024.0;
    let device_memory = read.device_memory.map(|memory| {
        json!({
            "used": memory.used_bytes as f64 / MIB, "total": memory.total_bytes as f64 / MIB,
            "allocated": memory.own.allocated_bytes as f64 / MIB,
            "allocated_max": memory.own.allocated_bytes_max as f64 / MIB,
            "reserved": memory.own.reserved_bytes as f64 / MIB,
        })
    });
    let cache = |counts: Option<CacheCounts>| {
        counts.map(|counts| json!({"hits": counts.hits, "misses": counts.misses, "entries": counts.entries}))
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": read.state.name(),
        "connected": read.connected,
        "uptime_s": read.uptime.as_secs(),
        "model": model,
        "memory_mb": {"rss": usage.map(|usage| usage.rss_mb), "virtual": usage.map(|usage| usage.virtual_mb)},
        "device_memory_mb": device_memory,
        "threads": usage.map(|usage| usage.threads),
        "cpu_percent": pages.cpu.percent(),
        "latency_ms": {
            "p50": read.latency.p50_ms, "p95": read.latency.p95_ms, "p99": read.latency.p99_ms,
            "max": read.latency.max_ms, "answers": read.latency.answers,
        },
        "requests": {
            "received": read.received, "scored": read.scored, "refused": refused, "dropped": read.dropped,
        },
        "skipped": {
            "shed": read.refused_as(&[RefusalKind::Overloaded, RefusalKind::Unavailable]),
            "expired": read.refused_as(&[RefusalKind::DeadlineExceeded]),
        },
        "queue": {
            "requests": read.queue_requests(), "tokens": read.load.queue_tokens,
            "predicted_wait_ms": read.load.predicted_wait.as_secs_f64() * 1e3,
        },
        "group": {"member": read.state == State::Serving, "joins": read.joins, "leaves": leaves},
        "batch": {
            "count": read.batches, "pairs_mean": read.batch_pairs_mean(), "pairs_last": read.batch_pairs_last,
            "tokens": read.batch_tokens, "tokens_max": read.load.batch_tokens_max,
        },
        "engine": {
            "busy_ratio": read.engine_busy_ratio, "busy_window_s": BUSY_WINDOW.as_secs(),
            "busy_ms": read.engine_busy.as_secs_f64() * 1e3, "wasted_ms": read.engine_wasted.as_secs_f64() * 1e3,
            "tokens_per_second": read.load.tokens_per_second, "out_of_memory": read.out_of_memory,
            "heart_beat_age_ms": read.heart_beat_age.as_millis() as u64,
        },
        "caches": {"documents": cache(read.caches.documents), "scores": cache(read.caches.scores)},
    })
}
