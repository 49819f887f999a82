//! How a body arrives: whole, within its limit and within the room for all bodies; or read and forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::Gateway;
use super::connection::{Connection, Cut, Phase};
use super::connections::{Bodies, SLOW_AFTER, SLOW_BYTES};
use super::failure::Failure;
use super::stats::Outcome;

/// Of a body that nobody wants, so much is read, for so long.
const FORGOTTEN_BYTES_MAX: usize = 64 << 20;
const FORGOTTEN_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a body waits for room: longer than it takes until another one that has stopped counts as slow.
const ROOM_TIME_MAX: Duration = Duration::from_secs(3);
/// How long room is waited for at least once a slow body was cut for it.
const CUT_TIME_MAX: Duration = Duration::from_secs(1);
/// How often somebody who waits for room looks for a slow body.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The room for bodies that are arriving, all together.
#[derive(Debug)]
pub(super) struct Room {
    bytes: Semaphore,
    bytes_max: usize,
    pending: AtomicUsize,
}

impl Room {
    /// Room for so many bytes.
    pub(super) fn new(bytes_max: usize) -> Room {
        Room {
            bytes: Semaphore::new(bytes_max),
            bytes_max,
            pending: AtomicUsize::new(0),
        }
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes of bodies that are arriving, or have arrived and are not read yet.
    pub(super) fn bytes_pending(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes.available_permits())
    }

    /// Bodies that are arriving.
    pub(super) fn bodies_pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }
}

/// A body that has arrived, with its room until it is dropped.
pub(super) struct Arrived<'a> {
    pub(super) bytes: Bytes,
    _room: Option<SemaphorePermit<'a>>,
}

/// What is answered to a body that has not arrived, and what that counts as.
pub(super) type NotArrived = (Outcome, Failure);

/// The whole body, within the limit.
pub(super) async fn whole<'a>(gateway: &'a Gateway, head: &Parts, body: Body) -> Result<Arrived<'a>, NotArrived> {
    let bytes_max = gateway.settings.body_bytes_max;
    let too_large = |found: &str| {
        let message = format!(
            "the body has {found}, more than this gateway's limit of {bytes_max} bytes (gateway.body_bytes_max)"
        );
        let failure = Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message);
        (Outcome::Invalid, failure)
    };
    if let Some(length) = length(head)
        && usize::try_from(length).map_or(true, |length| length > bytes_max)
    {
        forget(head, body).await;
        return Err(too_large(&format!("{length} bytes")));
    }
    let mut arrival = Arrival::new(gateway, head, body);
    while let Some(bytes) = arrival.next().await? {
        if arrival.received + bytes.len() > bytes_max {
            drop(bytes);
            forget(head, arrival.into_body()).await;
            return Err(too_large("more bytes"));
        }
        arrival.take(bytes).await?;
    }
    Ok(arrival.end())
}

fn length(head: &Parts) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn connection(head: &Parts) -> Option<&Arc<Connection>> {
    head.extensions.get()
}

/// A body on its way.
struct Arrival<'a, 'c> {
    gateway: &'a Gateway,
    /// There always is one: `serve` put it there.
    connection: Option<&'c Connection>,
    body: Body,
    first: Bytes,
    more: Vec<u8>,
    received: usize,
    /// What had been received when it made progress last.
    marked: usize,
    room: Option<SemaphorePermit<'a>>,
    _pending: Pending<'a>,
}

impl<'a, 'c> Arrival<'a, 'c> {
    fn new(gateway: &'a Gateway, head: &'c Parts, body: Body) -> Self {
        let connection = connection(head).map(Arc::as_ref);
        set(connection, Phase::Body);
        Arrival {
            gateway,
            connection,
            body,
            first: Bytes::new(),
            more: Vec::new(),
            received: 0,
            marked: 0,
            room: None,
            _pending: Pending::new(&gateway.room),
        }
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, NotArrived> {
        loop {
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => frame,
                cut = cut(self.connection) => return Err(not_waited_for(cut)),
            };
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    // Trailers are of no use.
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(_)) => {
                    let message = "the body ended before it was complete";
                    let failure = Failure::new(StatusCode::BAD_REQUEST, "invalid_request", message);
                    return Err((Outcome::Invalid, failure));
                }
            }
        }
    }

    /// Keeps these bytes, once there is room for them.
    async fn take(&mut self, bytes: Bytes) -> Result<(), NotArrived> {
        // A frame is no longer than the buffer it was read into.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let gateway = self.gateway;
        let room = match gateway.room.bytes.try_acquire_many(length) {
            Ok(room) => room,
            Err(_) => self.wait_for_room(length).await?,
        };
        match &mut self.room {
            None => self.room = Some(room),
            Some(all) => all.merge(room),
        }
        self.received += bytes.len();
        if self.received - self.marked >= SLOW_BYTES {
            self.marked = self.received;
            set(self.connection, Phase::Body);
        }
        // Most bodies come in one piece, which needs no copy.
        if self.first.is_empty() {
            self.first = bytes;
        } else {
            if self.more.is_empty() {
                self.more.extend_from_slice(&self.first);
            }
            self.more.extend_from_slice(&bytes);
        }
        Ok(())
    }

    /// Reads no further until there is room, a slow body having to make it.
    async fn wait_for_room(&mut self, length: u32) -> Result<SemaphorePermit<'a>, NotArrived> {
        set(self.connection, Phase::Room);
        let gateway = self.gateway;
        let mut until = Instant::now() + ROOM_TIME_MAX;
        let mut room = std::pin::pin!(gateway.room.bytes.acquire_many(length));
        loop {
            let now = Instant::now();
            let may_come = match gateway.connections.cut_slowest_body(self.connection) {
                Bodies::Cut => {
                    until = until.max(now + CUT_TIME_MAX);
                    true
                }
                Bodies::Arriving => now < until,
                // All would wait for each other.
                Bodies::None => false,
            };
            let wait = if may_come { LOOK_EVERY } else { Duration::ZERO };
            tokio::select! {
                biased;
                Ok(room) = &mut room => {
                    set(self.connection, Phase::Body);
                    return Ok(room);
                },
                cut = cut(self.connection) => return Err(not_waited_for(cut)),
                () = tokio::time::sleep(wait) => {}
            }
            if !may_come {
                return Err(no_room(gateway.room.bytes_max));
            }
        }
    }

    fn end(self) -> Arrived<'a> {
        if let Some(connection) = self.connection {
            connection.body_read();
        }
        let bytes = if self.more.is_empty() {
            self.first
        } else {
            self.more.into()
        };
        Arrived {
            bytes,
            _room: self.room,
        }
    }

    /// The rest of the body, whose beginning is not needed any more.
    fn into_body(self) -> Body {
        self.body
    }
}

fn set(connection: Option<&Connection>, phase: Phase) {
    if let Some(connection) = connection {
        connection.set(phase);
    }
}

async fn cut(connection: Option<&Connection>) -> Cut {
    match connection {
        Some(connection) => connection.cut().await,
        None => std::future::pending().await,
    }
}

fn not_waited_for(cut: Cut) -> NotArrived {
    match cut {
        Cut::Slow => {
            let message = format!(
                "the body brought less than {SLOW_BYTES} bytes in {} ms while other requests needed its room \
                 (gateway.pending_body_bytes_max) or its connection (gateway.connections_max)",
                SLOW_AFTER.as_millis()
            );
            let failure = Failure::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message);
            (Outcome::Late, failure)
        }
        Cut::Stop => {
            let message = "this gateway is stopping, and the request had not arrived";
            let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
            (Outcome::Failed, failure)
        }
    }
}

fn no_room(bytes_max: usize) -> NotArrived {
    let message = format!(
        "bodies of {bytes_max} bytes are arriving, which is this gateway's limit (gateway.pending_body_bytes_max)"
    );
    let failure = Failure::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message);
    (Outcome::Busy, failure)
}

/// Counts a body that is arriving.
struct Pending<'a>(&'a Room);

impl<'a> Pending<'a> {
    fn new(room: &'a Room) -> Self {
        room.pending.fetch_add(1, Ordering::Relaxed);
        Pending(room)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether its client waits for leave before it sends the body.
pub(super) fn waits_for_leave(head: &Parts) -> bool {
    head.headers.contains_key(header::EXPECT)
}

/// Reads a body that nobody wants, before its request is refused: then the connection can go on, and the answer is not lost
/// to a client that reads it only after it has sent everything. What is left after that is dealt with when the connection is
/// closed. One that waits for leave to send has sent nothing.
pub(super) async fn forget(head: &Parts, mut body: Body) {
    if waits_for_leave(head) {
        return;
    }
    let connection = connection(head).map(Arc::as_ref);
    set(connection, Phase::Body);
    let read = async {
        let mut bytes = 0;
        loop {
            match body.frame().await {
                None => break true,
                Some(Err(_)) => break false,
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
            }
            if bytes > FORGOTTEN_BYTES_MAX {
                break false;
            }
        }
    };
    // What does not come in time is not missed.
    let whole = tokio::select! {
        biased;
        whole = read => whole,
        _ = cut(connection) => false,
        () = tokio::time::sleep(FORGOTTEN_TIME_MAX) => false,
    };
    match connection {
        Some(connection) if whole => connection.body_read(),
        _ => set(connection, Phase::Work),
    }
}
