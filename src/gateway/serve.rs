//! Connections: accepted, bounded, and ended in good order.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::{Gateway, routes};
use crate::telemetry::gateway_names;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 100;
/// For the head of the next request to arrive: also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// When a connection could not be accepted (out of file descriptors, say): not at full speed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stopped`, then takes no more connections, and waits for requests at work.
pub(super) async fn serve(listener: TcpListener, gateway: &Arc<Gateway>, stopped: impl Future<Output = ()>) {
    match listener.local_addr() {
        Ok(address) => tracing::info!(%address, "gateway: listening for HTTP"),
        Err(error) => tracing::warn!(%error, "gateway: listening, where is not known"),
    }
    let router = routes::router(gateway.clone());
    let places = Arc::new(Semaphore::new(gateway.settings.connections_max));
    let graceful = GracefulShutdown::new();
    let mut stopped = std::pin::pin!(stopped);
    loop {
        let (stream, place) = tokio::select! {
            () = &mut stopped => break,
            next = next(&listener, &places) => next,
        };
        // An answer is small and should not wait for more.
        let _ = stream.set_nodelay(true);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        let service = TowerToHyperService::new(router.clone());
        // A client that hangs up ends the connection, which drops its request wherever that waits.
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let open = metrics::gauge!(gateway_names::CONNECTIONS_OPEN);
            open.increment(1);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "gateway: a connection ended early");
            }
            open.decrement(1);
            drop(place);
        });
    }
    drop(listener);
    let grace = gateway.settings.grace;
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            grace_ms = grace.as_millis() as u64,
            "gateway: requests were still at work when the grace ended"
        );
    }
}

/// The next connection, once there is a place for it.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, Option<tokio::sync::OwnedSemaphorePermit>) {
    // The semaphore is never closed, so there always is one.
    let place = places.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "gateway: a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
