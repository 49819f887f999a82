//! A gateway serves strangers: what some of its clients do must not keep the others from being ranked.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::start;
use crate::support::http;
use crate::support::nats_server::NatsServer;
use crate::support::worker::Worker;

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];
/// Honest clients, and what each asks.
const CLIENTS: usize = 4;
const CALLS: usize = 60;

/// A list that is within every limit, and that an idle worker refuses: by its measured speed, the scores would be late.
fn a_large_list() -> Value {
    let text =
        "sixty words make a document that a search might well return and a thousand of them make a list ".repeat(3);
    let documents: Vec<String> = (0..1000).map(|number| format!("{text} {number}")).collect();
    json!({"query": "which of these", "documents": documents})
}

/// Does `act` again and again until `stop`, and counts.
fn repeat(stop: &AtomicBool, done: &AtomicUsize, pause: Duration, act: impl Fn()) {
    while !stop.load(Ordering::Relaxed) {
        act();
        done.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(pause);
    }
}

/// Each kind of client that might do harm without meaning to, side by side with 240 requests of honest ones. Before refusals had a
/// scope, the large lists alone opened the circuit that all clients of a gateway share, and none of the 240 was ranked.
#[test]
fn no_client_keeps_the_others_from_being_ranked() {
    let server = NatsServer::start();
    let _worker = Worker::start(&server.url, std::path::Path::new("builtin"), &[]);
    let (_gateway, address) = start(&server.url, &["gateway.timeout_ms=1500"]);
    let honest =
        json!({"query": "how do cats purr", "documents": ["Dogs bark.", "Cats purr with the larynx.", "Pizza."]});
    let large = a_large_list();
    // The premise: an idle worker refuses such a list for its own sake, at once.
    let alone = http::post(&address, "/v1/rerank", &JSON, &large);
    assert_eq!(
        (alone.status, alone.header("Rerank-Fallback")),
        (200, Some("overloaded")),
        "{alone:?}"
    );

    let stop = AtomicBool::new(false);
    let [lists, hang_ups, hasty, malformed, oversized] = std::array::from_fn(|_| AtomicUsize::new(0));
    let ranked = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (stop, address) = (&stop, &*address);
        for _ in 0..4 {
            scope.spawn(|| {
                repeat(stop, &lists, Duration::ZERO, || {
                    http::post(address, "/v1/rerank", &JSON, &large);
                });
            });
        }
        scope.spawn(|| {
            repeat(stop, &hang_ups, Duration::from_millis(5), || {
                drop(http::start(address, "POST", "/v2/rerank", &JSON, &honest.to_string()));
            });
        });
        scope.spawn(|| {
            repeat(stop, &hasty, Duration::from_millis(5), || {
                http::post(address, "/v2/rerank", &[JSON[0], ("Rerank-Timeout-Ms", "1")], &honest);
            });
        });
        scope.spawn(|| {
            repeat(stop, &malformed, Duration::from_millis(5), || {
                http::post(
                    address,
                    "/v2/rerank",
                    &JSON,
                    &json!({"query": 7, "documents": "no list"}),
                );
            });
        });
        scope.spawn(|| {
            repeat(stop, &oversized, Duration::from_millis(50), || {
                let documents = vec!["x".repeat(100_000); 20];
                http::post(
                    address,
                    "/v2/rerank",
                    &JSON,
                    &json!({"query": "q", "documents": documents}),
                );
            });
        });
        let honest_clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..CALLS {
                        let answer = http::post(address, "/v2/rerank", &JSON, &honest);
                        if answer.status == 200 && answer.header("Rerank-Fallback").is_none() {
                            ranked.fetch_add(1, Ordering::Relaxed);
                        }
                        std::thread::sleep(Duration::from_millis(20));
                    }
                })
            })
            .collect();
        let ended: Vec<_> = honest_clients.into_iter().map(|client| client.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    let counts = [&lists, &hang_ups, &hasty, &malformed, &oversized].map(|count| count.load(Ordering::Relaxed));
    assert!(
        counts.iter().all(|&count| count > 0),
        "every kind of client was there: {counts:?}"
    );
    let ranked = ranked.into_inner();
    println!(
        "ranked {ranked} of {} honest requests beside {counts:?} others",
        CLIENTS * CALLS
    );
    assert!(
        ranked >= CLIENTS * CALLS * 95 / 100,
        "ranked {ranked}; others: {counts:?}"
    );
}
