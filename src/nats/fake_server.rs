//! As much of a NATS server as the tests of one connection take: it hands what is published to who has subscribed, on the
//! same connection or another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::ConnectionSettings;

const INFO: &str = "INFO {\"server_id\":\"fake\",\"server_name\":\"fake\",\"version\":\"2.10.0\",\"go\":\"\",\"host\":\"127.0.0.1\",\
                    \"port\":4222,\"headers\":true,\"max_payload\":1048576,\"proto\":1}\r\n";

/// A subscription: its subject (`a.b` or `a.*`), its number, and the connection's way out.
type Subscription = (String, String, mpsc::Sender<Vec<u8>>);

#[derive(Default)]
struct State {
    connections: AtomicUsize,
    open: AtomicUsize,
    subscriptions: Mutex<Vec<Subscription>>,
}

/// See the module. Dropped, it takes no more connections.
pub(crate) struct FakeServer {
    url: String,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

impl FakeServer {
    pub(crate) async fn start() -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("nats://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(State::default());
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        FakeServer { url, state, accepting }
    }

    /// Sessions over this server, connected.
    #[cfg(feature = "worker")]
    pub(crate) async fn sessions(&self) -> super::Sessions {
        let plan = super::ConnectPlan {
            retries_max: 0,
            subscription_capacity: 64,
            client_capacity: 64,
        };
        let sessions = super::Sessions::connect(&self.settings(), plan, |_| {}).await;
        sessions.expect("a session")
    }

    pub(crate) fn settings(&self) -> ConnectionSettings {
        ConnectionSettings {
            urls: vec![self.url.clone()],
            ..ConnectionSettings::default()
        }
    }

    /// Connections made so far.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    state.connections.fetch_add(1, Ordering::SeqCst);
    state.open.fetch_add(1, Ordering::SeqCst);
    let (input, mut output) = stream.into_split();
    let (out, mut outgoing) = mpsc::channel::<Vec<u8>>(64);
    let writer = tokio::spawn(async move {
        while let Some(bytes) = outgoing.recv().await {
            if output.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    let _ = out.send(INFO.into()).await;
    let mut input = BufReader::new(input);
    let mut line = String::new();
    while matches!(input.read_line(&mut line).await, Ok(1..)) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match words.first().map(String::as_str) {
            Some("PING") => drop(out.send("PONG\r\n".into()).await),
            Some("SUB") => {
                let (subject, number) = (words[1].clone(), words[words.len() - 1].clone());
                let mut all = state.subscriptions.lock().expect("no panic");
                all.push((subject, number, out.clone()));
            }
            // With headers, they are handed on as a part of the body.
            Some(verb @ ("PUB" | "HPUB")) => {
                let length: usize = words[words.len() - 1].parse().expect("a length");
                let mut body = vec![0; length + 2];
                input.read_exact(&mut body).await.expect("a body");
                let plain = if verb == "PUB" { 3 } else { 4 };
                let reply_to = (words.len() > plain).then(|| words[2].as_str());
                deliver(&state, &words[1], reply_to, &body).await;
            }
            _ => {}
        }
        line.clear();
    }
    let own = |one: &Subscription| one.2.same_channel(&out);
    state.subscriptions.lock().expect("no panic").retain(|one| !own(one));
    writer.abort();
    state.open.fetch_sub(1, Ordering::SeqCst);
}

async fn deliver(state: &State, subject: &str, reply_to: Option<&str>, body_and_end: &[u8]) {
    let to: Vec<Subscription> = {
        let all = state.subscriptions.lock().expect("no panic");
        let hears = |wanted: &str| match wanted.strip_suffix('*') {
            Some(prefix) => subject.starts_with(prefix),
            None => subject == wanted,
        };
        all.iter().filter(|(wanted, ..)| hears(wanted)).cloned().collect()
    };
    for (_, number, out) in to {
        let reply_to = reply_to.map_or_else(String::new, |reply_to| format!("{reply_to} "));
        let mut message = format!("MSG {subject} {number} {reply_to}{}\r\n", body_and_end.len() - 2).into_bytes();
        message.extend_from_slice(body_and_end);
        let _ = out.send(message).await;
    }
}
