//! Connections: accepted, each served by a task of its own, and ended in good order.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::connection::{Connection, Phase, Verdict};
use super::connections::EXTRAS_MAX;
use super::dialect::Dialect;
use super::failure::Failure;
use super::socket::Socket;
use super::{Gateway, routes};
use crate::telemetry::gateway_names;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 100;
/// For the head of the next request to arrive: also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// When a connection could not be accepted and no other could give way: not at full speed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For the task of a connection that gave way to close its file.
const CLOSE_PAUSE: Duration = Duration::from_millis(5);
/// How often a warning about accepting is written at most.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// How often connections are looked through for those that do not read their answer.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// After an answer to a request that was not read to its end, so much is read on, for so long, before the connection is
/// closed. A connection that is closed over unread bytes is reset, and its client may never see the answer.
const LINGER_BYTES_MAX: usize = 16 << 20;
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
/// The same during a stop; and for the last answer of a connection that gave way.
const LINGER_TIME_LAST: Duration = Duration::from_millis(250);

/// Serves until `stopped`, then takes no more connections, and waits for requests at work.
pub(super) async fn serve(listener: TcpListener, gateway: &Arc<Gateway>, stopped: impl Future<Output = ()>) {
    match listener.local_addr() {
        Ok(address) => tracing::info!(%address, "gateway: listening for HTTP"),
        Err(error) => tracing::warn!(%error, "gateway: listening, where is not known"),
    }
    let router = routes::router(gateway.clone());
    // Each task has a sender; when all are gone, all have ended.
    let (alive, mut ended) = mpsc::channel::<Infallible>(1);
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    let mut warned = None;
    let mut stopped = std::pin::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => break,
            _ = sweep.tick() => {
                gateway.connections.sweep();
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = gateway.connections.admit();
                let attended = attend(stream, router.clone(), gateway.clone(), connection);
                let alive = alive.clone();
                tokio::spawn(async move {
                    attended.await;
                    drop(alive);
                });
            }
            Err(error) => {
                let pause = refused(gateway, &error, &mut warned);
                tokio::time::sleep(pause).await;
            }
        }
    }
    drop((listener, alive));
    gateway.connections.stop();
    let grace = gateway.settings.grace;
    if tokio::time::timeout(grace, ended.recv()).await.is_err() {
        tracing::warn!(
            grace_ms = grace.as_millis() as u64,
            "gateway: requests were still at work when the grace ended"
        );
    }
}

/// A connection could not be accepted; how long to wait before the next try. Out of file descriptors, an idle connection gives
/// its own.
fn refused(gateway: &Gateway, error: &io::Error, warned: &mut Option<std::time::Instant>) -> Duration {
    // ENFILE and EMFILE, by the same numbers on Linux, macOS and the BSDs.
    let spared = matches!(error.raw_os_error(), Some(23 | 24)) && gateway.connections.spare_one();
    if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
        *warned = Some(std::time::Instant::now());
        tracing::warn!(%error, connections = gateway.connections.open(), "gateway: a connection could not be accepted");
    }
    if spared { CLOSE_PAUSE } else { ACCEPT_PAUSE }
}

/// How many connections there may be: as many as the settings say, and no more than the process may have files open, less
/// those that extra connections and NATS need.
pub(super) fn connections_max(configured: usize) -> usize {
    const OTHER_FILES: usize = 32;
    let Some(files) = files_max() else {
        return configured;
    };
    let possible = files.saturating_sub(EXTRAS_MAX + OTHER_FILES).max(1);
    if possible < configured {
        tracing::info!(
            connections_max = possible,
            configured,
            files_max = files,
            "gateway: fewer connections than gateway.connections_max, by the limit of open files of this process (ulimit -n)"
        );
    }
    configured.min(possible)
}

/// The soft limit of open files, where the system tells it.
fn files_max() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    files_max_of(&limits)
}

fn files_max_of(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Serves one connection to its end.
async fn attend(stream: TcpStream, router: Router, gateway: Arc<Gateway>, connection: Arc<Connection>) {
    let _open = Open::new(&gateway, &connection);
    // An answer is small and should not wait for more.
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let router = TowerToHyperService::new(router);
    let service = {
        let (gateway, connection) = (gateway.clone(), connection.clone());
        service_fn(move |request| answer(&router, &gateway, connection.clone(), request))
    };
    let socket = Socket::new(stream, connection.clone());
    // A client that hangs up ends the connection, which drops its request wherever that waits.
    let mut served = http.serve_connection(TokioIo::new(socket), service);
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut served => break ended,
            () = connection.wake.notified() => {}
        }
        match connection.verdict() {
            Verdict::Stay => {}
            Verdict::Close => return,
            Verdict::Finish => {
                Pin::new(&mut served).graceful_shutdown();
                if connection.is_out() {
                    // It is in no table any more, so nothing else bounds it.
                    let time = match connection.phase() {
                        Phase::Work => gateway.settings.request_timeout,
                        _ => LINGER_TIME_LAST,
                    };
                    let _ = tokio::time::timeout(time, &mut served).await;
                    return;
                }
            }
        }
    };
    let misread = ended.as_ref().is_err_and(hyper::Error::is_parse);
    if let Err(error) = ended {
        tracing::debug!(%error, "gateway: a connection ended early");
        if !misread {
            return;
        }
    }
    if (misread || connection.is_unread()) && !connection.is_out() {
        connection.set(Phase::Linger);
        linger(served.into_parts().io.into_inner(), &connection).await;
    }
}

/// Reads what the client still sends, for a bounded while; it has its answer.
async fn linger(mut socket: Socket, connection: &Connection) {
    let time = if connection.is_stopping() {
        LINGER_TIME_LAST
    } else {
        LINGER_TIME_MAX
    };
    let read = async {
        if socket.shutdown().await.is_err() {
            return;
        }
        let mut buffer = vec![0; 16 * 1024];
        let mut bytes = 0;
        while let Ok(read @ 1..) = socket.read(&mut buffer).await {
            bytes += read;
            if bytes > LINGER_BYTES_MAX {
                return;
            }
        }
    };
    let woken = async {
        while connection.verdict() != Verdict::Close {
            connection.wake.notified().await;
        }
    };
    let was_stopping = connection.is_stopping();
    tokio::select! {
        () = read => {}
        // Cut short by a stop, but not if the stop is what it was answered with.
        () = woken, if !was_stopping => {}
        () = tokio::time::sleep(time) => {}
    }
}

/// The answer to one request of a connection.
fn answer(
    router: &TowerToHyperService<Router>,
    gateway: &Gateway,
    connection: Arc<Connection>,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response, Infallible>> + use<> {
    connection.begin_request(!request.body().is_end_stream());
    let path = request.uri().path();
    let routed = if is_probe(request.method(), path) || gateway.connections.promote(&connection) {
        request.extensions_mut().insert(connection.clone());
        Ok(router.call(request))
    } else {
        Err(full(gateway, path))
    };
    async move {
        let mut response = match routed {
            Ok(routed) => routed.await?,
            Err(refusal) => refusal,
        };
        if connection.is_last() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        connection.set(Phase::Answer);
        Ok(response)
    }
}

/// What is answered on an extra connection, too.
fn is_probe(method: &Method, path: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
        && matches!(path, "/livez" | "/readyz" | "/health" | "/metrics" | "/stats")
}

fn full(gateway: &Gateway, path: &str) -> Response {
    let failure = Failure::new(
        StatusCode::TOO_MANY_REQUESTS,
        "overloaded",
        format!(
            "{} connections are at work, which is this gateway's limit (gateway.connections_max)",
            gateway.connections.max()
        ),
    );
    failure.response(Dialect::of_path(path))
}

/// A connection in the table and in the metrics, until this is dropped.
struct Open {
    gateway: Arc<Gateway>,
    connection: Arc<Connection>,
}

impl Open {
    fn new(gateway: &Arc<Gateway>, connection: &Arc<Connection>) -> Open {
        metrics::gauge!(gateway_names::CONNECTIONS_OPEN).increment(1);
        Open {
            gateway: gateway.clone(),
            connection: connection.clone(),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gateway.connections.ended(&self.connection);
        metrics::gauge!(gateway_names::CONNECTIONS_OPEN).decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_read_from_the_system() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             95000                95000                processes\n\
                      Max open files            1024                 1048576              files\n";
        assert_eq!(files_max_of(limits), Some(1024));
        assert_eq!(
            files_max_of("Max open files            unlimited            unlimited            files\n"),
            None
        );
        assert_eq!(files_max_of(""), None);
    }
}
