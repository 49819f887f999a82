//! Leaving and rejoining the queue group for fullness. Nothing is lost on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nats_rerank::protocol::{Encoding, RefusalKind, Request};

use crate::faults::{InProcess, lengths};
use crate::support::RawCaller;
use crate::support::nats_server::NatsServer;

/// What callers saw.
#[derive(Default)]
struct Seen {
    scored: AtomicUsize,
    refused: AtomicUsize,
    nobody: AtomicUsize,
}

impl Seen {
    fn answered(&self) -> usize {
        self.scored.load(Ordering::Relaxed) + self.refused.load(Ordering::Relaxed) + self.nobody.load(Ordering::Relaxed)
    }
}

/// Asks once; anything but scores, an overload, an expiry or no responders fails the test.
async fn ask(caller: &RawCaller, request: &Request, seen: &Seen) {
    let mut map = async_nats::HeaderMap::new();
    map.insert("Rerank-Timeout-Ms", "250");
    let message = caller
        .client
        .request_with_headers(caller.subject.clone(), map, request.encode(Encoding::Json).into())
        .await;
    match message {
        Ok(message) => {
            let refused = message
                .headers
                .as_ref()
                .is_some_and(|map| map.get("Nats-Service-Error-Code").is_some());
            if refused {
                let refusal = nats_rerank::protocol::Refusal::decode(Encoding::Json, &message.payload).unwrap();
                let fair = [RefusalKind::Overloaded, RefusalKind::DeadlineExceeded];
                assert!(fair.contains(&refusal.kind), "{refusal}");
                seen.refused.fetch_add(1, Ordering::Relaxed);
            } else {
                seen.scored.fetch_add(1, Ordering::Relaxed);
            }
        }
        Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => {
            seen.nobody.fetch_add(1, Ordering::Relaxed);
        }
        Err(error) => panic!("a request was lost: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_departures_for_fullness_lose_no_request() {
    let server = NatsServer::start();
    let change = |settings: &mut nats_rerank::worker::WorkerSettings| {
        settings.membership.leave_at = Some(0.6);
        settings.membership.rejoin_at = 0.2;
        settings.membership.dwell_min = Duration::from_millis(5);
        settings.queue.requests_max = 24;
        settings.batch_tokens_max = Some(64);
    };
    let mut workers = Vec::new();
    for _ in 0..2 {
        let script = |pairs: &[&nats_rerank::model::tokenizer::PairTokens]| {
            std::thread::sleep(Duration::from_millis(4));
            Ok(lengths(pairs))
        };
        workers.push(InProcess::start(&server, change, script).await);
    }
    // How often the group was left, as the server sees it: its subscriptions' number falls.
    let callers = futures_util::future::join_all((0..4).map(|_| RawCaller::connect(&server.url))).await;
    let seen = Arc::new(Seen::default());
    let (mut departures, mut before, mut sent) = (0, 2, 0);
    let mut calls = tokio::task::JoinSet::new();
    let started = Instant::now();
    while departures < 20 {
        // A burst that fills both, then a pause in which they come back.
        for place in 0..120 {
            let (caller, seen) = (callers[place % 4].clone(), seen.clone());
            sent += 1;
            calls.spawn(async move { ask(&caller, &Request::new("q", ["one", "two", "three"]), &seen).await });
        }
        for _ in 0..20 {
            let now = server.subscriptions("rerank.v1.score");
            departures += usize::saturating_sub(before, now);
            before = now;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(
            started.elapsed() < crate::support::PATIENCE,
            "only {departures} departures"
        );
    }
    while let Some(call) = calls.join_next().await {
        call.expect("no request is lost");
    }
    assert_eq!(seen.answered(), sent);
    assert!(seen.scored.load(Ordering::Relaxed) > 0);
    for worker in workers {
        worker.stop().await.expect("a clean stop");
    }
    println!(
        "{sent} sent, {departures} departures: {} scored, {} refused, {} no responders",
        seen.scored.load(Ordering::Relaxed),
        seen.refused.load(Ordering::Relaxed),
        seen.nobody.load(Ordering::Relaxed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_room_for_one_request_answers_one_after_the_other() {
    let server = NatsServer::start();
    for requests_max in [1, 2] {
        let change = |settings: &mut nats_rerank::worker::WorkerSettings| {
            settings.membership.leave_at = Some(0.8);
            // Longer than this test may take: being full must not be paid for once nothing is here any more.
            settings.membership.dwell_min = crate::support::PATIENCE * 2;
            settings.queue.requests_max = requests_max;
        };
        let worker = InProcess::start(&server, change, |pairs| Ok(lengths(pairs))).await;
        let caller = RawCaller::connect(&server.url).await;
        let seen = Seen::default();
        let mut asked = 0;
        while seen.scored.load(Ordering::Relaxed) < 30 {
            let nobody = seen.nobody.load(Ordering::Relaxed);
            ask(&caller, &Request::new("q", ["one", "two"]), &seen).await;
            asked += 1;
            assert!(
                asked < 300,
                "{} of {asked} were answered",
                seen.scored.load(Ordering::Relaxed)
            );
            if seen.nobody.load(Ordering::Relaxed) > nobody {
                // The subscription is on its way.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        println!("queue.requests_max = {requests_max}: 30 answered of {asked} asked");
        worker.stop().await.expect("a clean stop");
    }
}
