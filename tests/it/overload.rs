//! More than can be done, and members of unlike speed: every request has one end, and the device works for those alone
//! who still wait. The engines are scripted (they sleep so long a token), so that four of them fit one small machine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nats_rerank::model::tokenizer::PairTokens;
use nats_rerank::protocol::{Encoding, Refusal, Request};
use nats_rerank::worker::WorkerSettings;

use crate::faults::{InProcess, lengths};
use crate::support::RawCaller;
use crate::support::nats_server::NatsServer;

/// What the callers of one run saw.
#[derive(Default)]
struct Seen {
    in_time: usize,
    late: usize,
    /// Refusals by kind, and "no responders".
    told: BTreeMap<String, usize>,
    told_ms: Vec<f64>,
}

impl Seen {
    fn total(&self) -> usize {
        self.in_time + self.late + self.told.values().sum::<usize>()
    }
}

/// A device that takes this long a token, and reports how many tokens it computed.
fn paced(
    us_a_token: u64,
) -> impl FnMut(&[&PairTokens]) -> Result<Vec<f32>, nats_rerank::model::engine::EngineError> + Send {
    move |pairs| {
        let tokens: usize = pairs.iter().map(|pair| pair.ids.len()).sum();
        std::thread::sleep(Duration::from_micros(us_a_token * tokens as u64));
        Ok(lengths(pairs))
    }
}

fn the_request() -> Request {
    Request::new("q", ["one", "two", "three", "four"])
}

fn as_shipped(settings: &mut WorkerSettings) {
    settings.membership.leave_at = Some(0.8);
    settings.membership.rejoin_at = 0.5;
    settings.membership.dwell_min = Duration::from_millis(50);
    settings.limits.default_timeout = Duration::from_secs(5);
    settings.batch_tokens_max = Some(64);
    settings.measure = true;
}

/// Sends `requests` at `rate` a second, each with `budget`, without waiting for answers.
async fn offer(server: &NatsServer, requests: usize, rate: f64, budget: Duration) -> Seen {
    offer_while(server, |sent| sent < requests, rate, budget).await
}

/// The same for as long as `more` says so of the number sent.
async fn offer_while(server: &NatsServer, more: impl Fn(usize) -> bool, rate: f64, budget: Duration) -> Seen {
    let callers = futures_util::future::join_all((0..4).map(|_| RawCaller::connect(&server.url))).await;
    let body = the_request().encode(Encoding::Json);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut calls = tokio::task::JoinSet::new();
    let started = Instant::now();
    let mut sent = 0;
    while more(sent) {
        let place = sent;
        sent += 1;
        let due = started + Duration::from_secs_f64(place as f64 / rate);
        tokio::time::sleep_until(due.into()).await;
        let (caller, seen, body) = (callers[place % 4].clone(), seen.clone(), body.clone());
        calls.spawn(async move {
            let mut map = async_nats::HeaderMap::new();
            map.insert("Rerank-Timeout-Ms", budget.as_millis().to_string().as_str());
            let asked = Instant::now();
            let answer = caller
                .client
                .request_with_headers(caller.subject.clone(), map, body.into())
                .await;
            let took = asked.elapsed();
            let mut seen = seen.lock().unwrap();
            let told = match answer {
                Ok(message) => match Refusal::decode(Encoding::Json, &message.payload) {
                    Ok(refusal) => refusal.kind.name().to_owned(),
                    Err(_) if took <= budget => {
                        seen.in_time += 1;
                        return;
                    }
                    Err(_) => {
                        seen.late += 1;
                        return;
                    }
                },
                Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => "no responders".to_owned(),
                Err(error) => panic!("a request was lost: {error}"),
            };
            *seen.told.entry(told).or_default() += 1;
            seen.told_ms.push(took.as_secs_f64() * 1e3);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.expect("no request is lost");
    }
    drop(calls);
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen.total(), sent, "every request has one end");
    seen.told_ms.sort_by(f64::total_cmp);
    seen
}

fn show(what: &str, seen: &Seen) {
    let p99 = seen.told_ms.get(seen.told_ms.len() * 99 / 100).copied().unwrap_or(0.0);
    println!(
        "{what}: {} sent, {} in time, {} late, told {:?} (p99 {p99:.1} ms)",
        seen.total(),
        seen.in_time,
        seen.late,
        seen.told
    );
}

/// Microseconds a token of the paced devices.
const US_A_TOKEN: u64 = 500;

/// Requests a second of one paced device.
async fn capacity(server: &NatsServer) -> f64 {
    let asked = RawCaller::connect(&server.url).await.ask(&the_request()).await.scored();
    1e6 / (US_A_TOKEN * asked.usage.tokens) as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn twice_what_one_worker_can_do() {
    let server = NatsServer::start();
    let worker = InProcess::start(&server, as_shipped, paced(US_A_TOKEN)).await;
    let capacity = capacity(&server).await;
    let budget = Duration::from_millis(250);
    let mut shares = Vec::new();
    for load in [1.0, 2.0] {
        let requests = (capacity * load * 6.0) as usize;
        let seen = offer(&server, requests, capacity * load, budget).await;
        show(&format!("one worker at {load} times its capacity"), &seen);
        shares.push(seen.in_time as f64 / (capacity * 6.0));
    }
    // A bound for a test machine that does other things meanwhile; the benchmark has the figures.
    assert!(shares[1] > 0.5 * shares[0], "overload costs throughput: {shares:?}");
    worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_four_ten_times_slower() {
    let server = NatsServer::start();
    let mut workers = Vec::new();
    for slow in [1, 1, 1, 10] {
        workers.push(InProcess::start(&server, as_shipped, paced(US_A_TOKEN * slow)).await);
    }
    let rate = 0.8 * 3.1 * capacity(&server).await;
    let requests = (rate * 10.0) as usize;
    let seen = offer(&server, requests, rate, Duration::from_millis(250)).await;
    show("one of four ten times slower, 80 % load", &seen);
    // The naive share is below 80 %; at 90 % and more on a quiet machine.
    assert!(seen.in_time * 10 > requests * 7, "the slow one drags the others down");
    for worker in workers {
        worker.stop().await.expect("a clean stop");
    }
}

/// Members come and go under load: each stop leaves the group early, which is where messages get lost if it is done wrong.
#[tokio::test(flavor = "multi_thread")]
async fn scale_downs_lose_no_request() {
    const SCALE_DOWNS: usize = 40;
    const REQUESTS: usize = 10_000;
    let server = NatsServer::start();
    // This one never leaves, so that somebody always serves, however slow the test machine is.
    let never_leaves = |settings: &mut WorkerSettings| {
        as_shipped(settings);
        settings.membership.leave_at = None;
        settings.measure = false;
    };
    let stays = InProcess::start(&server, never_leaves, |pairs| Ok(lengths(pairs))).await;
    let done = AtomicBool::new(false);
    let comes_and_goes = async {
        for _ in 0..SCALE_DOWNS {
            let worker = InProcess::start(&server, as_shipped, |pairs| Ok(lengths(pairs))).await;
            worker.stop().await.expect("a clean stop");
        }
        done.store(true, Ordering::Relaxed);
    };
    let more = |sent| sent < REQUESTS || !done.load(Ordering::Relaxed);
    let (seen, ()) = tokio::join!(
        offer_while(&server, more, 1000.0, Duration::from_secs(20)),
        comes_and_goes
    );
    show("through 40 scale-downs", &seen);
    // One member stayed: nobody was told that there is none.
    assert_eq!((seen.in_time, seen.late), (seen.total(), 0), "{:?}", seen.told);
    stays.stop().await.expect("a clean stop");
}
