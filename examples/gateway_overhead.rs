//! What the gateway adds to a request: the same question over HTTP through it, and over NATS without it, at a steady rate.
//!
//!     nats-server &
//!     cargo build --release --no-default-features --features gateway --bin nats-rerank --example gateway_overhead
//!     target/release/examples/gateway_overhead [nats://host:port [path of nats-rerank [requests a second [seconds]]]]
//!
//! A scripted responder answers at once, so that what is measured is the way and not the model. Requests leave on schedule,
//! whatever became of those before; blocks of both kinds take turns, so that both see the same machine.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use nats_rerank::protocol::{Encoding, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

mod scripted;

use scripted::{CANDIDATES, Failure, QUERY, candidates};

const SUBJECT: &str = "rerank.v1.score.gateway-overhead";
/// Of each kind, taking turns.
const BLOCKS: usize = 4;

/// Ends with the measurement.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    let program = arguments
        .next()
        .unwrap_or_else(|| "target/release/nats-rerank".to_owned());
    let rate: f64 = arguments.next().map_or(Ok(200.0), |text| text.parse())?;
    let seconds: f64 = arguments.next().map_or(Ok(5.0), |text| text.parse())?;
    scripted::start_responder(&url, SUBJECT)?;
    let (_gateway, address) = gateway(&program, &url)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(measure(&url, &address, rate, seconds))
}

/// Starts a gateway; its address is in its log.
fn gateway(program: &str, url: &str) -> Result<(Gateway, String), Failure> {
    let mut child = Command::new(program)
        .args(["gateway", "--nats-url", url, "--listen", "127.0.0.1:0"])
        .args(["--set", "log.format=json", "--set", &format!("nats.subject={SUBJECT}")])
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    let log = child.stderr.take().ok_or("no log")?;
    let gateway = Gateway(child);
    for line in BufReader::new(log).lines() {
        let line: serde_json::Value = serde_json::from_str(&line?)?;
        if let Some(address) = line["address"].as_str() {
            return Ok((gateway, address.to_owned()));
        }
    }
    Err("the gateway has ended".into())
}

async fn measure(url: &str, address: &str, rate: f64, seconds: f64) -> Result<(), Failure> {
    let (query, candidates) = (QUERY, candidates());
    let bare = async_nats::connect(url).await?;
    let wire = Bytes::from(Request::new(query, candidates.iter().map(String::as_str)).encode(Encoding::MsgPack));
    let json = serde_json::json!({"model": "any", "query": query, "documents": candidates}).to_string();
    let message = Bytes::from(format!(
        "POST /v2/rerank HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}",
        json.len()
    ));
    let connections = Arc::new(Mutex::new(Vec::new()));
    let ask_nats = || {
        let (bare, wire) = (bare.clone(), wire.clone());
        async move {
            let mut headers = HeaderMap::new();
            headers.insert("Content-Type", Encoding::MsgPack.content_type());
            bare.request_with_headers(SUBJECT, headers, wire).await?;
            Ok(())
        }
    };
    let ask_http = || ask_http(address.to_owned(), message.clone(), connections.clone());
    // Until the gateway is connected, and everything is warm.
    while ask_http().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    paced(rate, 1.0, ask_nats).await?;
    paced(rate, 1.0, ask_http).await?;
    let (mut over_nats, mut over_http) = (Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        over_nats.extend(paced(rate, seconds, ask_nats).await?);
        over_http.extend(paced(rate, seconds, ask_http).await?);
    }
    println!(
        "{CANDIDATES} candidates, {} bytes of JSON, {rate} requests a second, {} requests of each kind",
        json.len(),
        over_nats.len()
    );
    let nats = show("bare NATS request", &mut over_nats);
    let http = show("HTTP through the gateway", &mut over_http);
    println!("{:<26} p50 {:>8.1} us", "added by the gateway", (http - nats) * 1e6);
    Ok(())
}

/// One request in each of the rate's intervals, whatever became of those before; the times from leaving to the answer.
async fn paced<F, A>(rate: f64, seconds: f64, ask: F) -> Result<Vec<Duration>, Failure>
where
    F: Fn() -> A,
    A: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let (began, count) = (Instant::now(), (rate * seconds) as u32);
    let mut asked = Vec::new();
    for place in 0..count {
        let due = began + Duration::from_secs_f64(f64::from(place) / rate);
        tokio::time::sleep_until(due).await;
        // tokio's timers are a millisecond coarse: the clock starts when the request really leaves.
        let (left, answer) = (Instant::now(), ask());
        asked.push(tokio::spawn(async move { answer.await.map(|()| left.elapsed()) }));
    }
    let mut times = Vec::new();
    for answer in asked {
        times.push(answer.await??);
    }
    Ok(times)
}

/// Asks over a connection that is kept, or a new one.
async fn ask_http(address: String, message: Bytes, kept: Arc<Mutex<Vec<TcpStream>>>) -> Result<(), Failure> {
    let idle = kept.lock().expect("no panic while it was held").pop();
    let mut stream = match idle {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    stream.write_all(&message).await?;
    let mut answer = Vec::with_capacity(4096);
    let whole = loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("the gateway has hung up".into());
        }
        let text = std::str::from_utf8(&answer)?;
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.ok_or("no length")?.parse()? {
                break head;
            }
        }
    };
    if !whole.starts_with("HTTP/1.1 200") || whole.contains("rerank-fallback") {
        return Err(format!("not reranked: {whole}").into());
    }
    kept.lock().expect("no panic while it was held").push(stream);
    Ok(())
}

/// Shows p50 and p99; gives p50 in seconds.
fn show(name: &str, times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64();
    println!("{name:<26} p50 {:>8.1} us, p99 {:>8.1} us", at(50) * 1e6, at(99) * 1e6);
    at(50)
}
