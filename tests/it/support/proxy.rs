//! A TCP proxy between a worker and its nats-server: a network that a test can break.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

/// What the network does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    /// Forwards to this address.
    To(String),
    /// Keeps connections open and forwards nothing; new ones are accepted and forgotten.
    Frozen,
    /// Holds what comes from the server and forwards what goes to it.
    Muted,
    /// Closes every connection.
    Cut,
}

pub struct Proxy {
    pub url: String,
    mode: watch::Sender<Mode>,
    /// Subscriptions of others on the connection, see [`Proxy::crowd`].
    crowd: watch::Sender<usize>,
    open: Arc<Mutex<Vec<AbortHandle>>>,
    accepts: JoinHandle<()>,
}

impl Proxy {
    /// A network that works, to `address`.
    pub async fn start(address: &str) -> Proxy {
        Proxy::start_slow(address, Duration::ZERO).await
    }

    /// A network that holds what it forwards for `delay`, each way.
    pub async fn start_slow(address: &str, delay: Duration) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("nats://{}", listener.local_addr().expect("an address"));
        let (mode, watched) = watch::channel(Mode::To(address.to_owned()));
        let (crowd, crowded) = watch::channel(0);
        let open = Arc::new(Mutex::new(Vec::new()));
        let accepts = tokio::spawn({
            let open = open.clone();
            async move {
                while let Ok((inside, _)) = listener.accept().await {
                    let connection = tokio::spawn(connection(inside, watched.clone(), crowded.clone(), delay));
                    open.lock().unwrap().push(connection.abort_handle());
                }
            }
        });
        Proxy {
            url,
            mode,
            crowd,
            open,
            accepts,
        }
    }

    /// Holds every byte, without a word to either side.
    pub fn freeze(&self) {
        self.mode.send_replace(Mode::Frozen);
    }

    /// From now on what the server says is held; what is said to it arrives.
    pub fn mute(&self) {
        self.mode.send_replace(Mode::Muted);
    }

    /// From now on each connection has so many subscriptions beside those of its own program, as if a part of it had made
    /// them: they count against the server's limit for one connection.
    pub fn crowd(&self, subscriptions: usize) {
        self.crowd.send_replace(subscriptions);
    }

    /// Closes every connection, and each new one.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
        self.close();
    }

    /// Works again, to `address`; what was open before is closed.
    pub fn heal(&self, address: &str) {
        self.close();
        self.mode.send_replace(Mode::To(address.to_owned()));
    }

    fn close(&self) {
        self.open
            .lock()
            .unwrap()
            .drain(..)
            .for_each(|connection| connection.abort());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepts.abort();
        self.close();
    }
}

async fn connection(
    inside: TcpStream,
    mut mode: watch::Receiver<Mode>,
    crowd: watch::Receiver<usize>,
    delay: Duration,
) {
    let now = mode.borrow_and_update().clone();
    let address = match now {
        Mode::To(address) => address,
        Mode::Cut => return,
        // Held open until it is closed from outside.
        Mode::Frozen | Mode::Muted => return std::future::pending().await,
    };
    let Ok(outside) = TcpStream::connect(address).await else {
        return;
    };
    let (inside_read, inside_write) = inside.into_split();
    let (outside_read, outside_write) = outside.into_split();
    // Either way's end is the end of both.
    tokio::select! {
        () = forward(inside_read, outside_write, mode.clone(), Some(crowd), delay, &[Mode::Frozen]) => {}
        () = forward(outside_read, inside_write, mode, None, delay, &[Mode::Frozen, Mode::Muted]) => {}
    }
}

/// Forwards, but not in the modes `held`. Puts the subscriptions of `crowd` in between.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    mut crowd: Option<watch::Receiver<usize>>,
    delay: Duration,
    held: &[Mode],
) {
    let mut buffer = vec![0; 16 * 1024];
    let (mut begun, mut there) = (false, 0);
    loop {
        let changed = async {
            let changed = match crowd.as_mut() {
                Some(crowd) => crowd.changed().await,
                None => std::future::pending().await,
            };
            if changed.is_err() {
                std::future::pending::<()>().await;
            }
        };
        // Held, even what has been read stays here.
        let read = tokio::select! {
            read = from.read(&mut buffer) => Some(read.unwrap_or(0)),
            () = changed, if begun => None,
        };
        if let Some(read) = read {
            tokio::time::sleep(delay).await;
            if mode.wait_for(|mode| !held.contains(mode)).await.is_err() || read == 0 {
                return;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
            // The first that a client says is CONNECT and PING, whole; the next ones are whole commands too, if small.
            if std::mem::replace(&mut begun, true) {
                continue;
            }
        }
        let wanted = crowd.as_mut().map_or(0, |crowd| *crowd.borrow_and_update());
        let lines: String = (there..wanted)
            .map(|n| format!("SUB crowd.{n} c{n}\r\n"))
            .chain((wanted..there).map(|n| format!("UNSUB c{n}\r\n")))
            .collect();
        there = wanted;
        if to.write_all(lines.as_bytes()).await.is_err() {
            return;
        }
    }
}
