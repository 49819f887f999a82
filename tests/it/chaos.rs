//! Things break under load: a worker is killed, a fleet is restarted one by one, the server goes away, a cluster loses
//! a node. Each test accounts for every request: answered once, or seen by its caller to end for a stated reason.

use std::time::Duration;

use nats_rerank::protocol::Request;

use crate::support::ledger::{Ending, Load};
use crate::support::nats_server::{NatsServer, free_port};
use crate::support::worker::Worker;
use crate::support::{PATIENCE, RawCaller, reference};

const CALLERS: usize = 12;

fn request() -> Request {
    let documents: Vec<String> = (0..12)
        .map(|index| format!("candidate {index} about bread and yeast"))
        .collect();
    Request::new("what makes bread rise", documents.iter().map(String::as_str))
}

fn worker(url: &str) -> Worker {
    Worker::start(url, &reference("bert-small"), &["tokenize.threads=1"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_under_load_costs_only_what_it_held() {
    let server = NatsServer::start();
    let (mut doomed, _survivor) = (worker(&server.url), worker(&server.url));
    let client = RawCaller::connect(&server.url).await.client;
    let load = Load::start(client, CALLERS, &request(), Duration::from_secs(5)).await;
    load.pass(200).await;
    doomed.signal("KILL");
    doomed.wait();
    load.pass(200).await;
    let ledger = load.stop().await;
    println!("{ledger:?}");
    assert_eq!(ledger.duplicates, 0);
    // Each caller has one request under way: those that the dead worker held time out, all others are scored.
    let lost = ledger.of(&Ending::TimedOut);
    assert!(lost <= CALLERS as u64, "{ledger:?}");
    assert_eq!(ledger.of(&Ending::Scored) + lost, ledger.sent(), "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_nothing() {
    let server = NatsServer::start();
    let mut fleet = vec![worker(&server.url), worker(&server.url), worker(&server.url)];
    let client = RawCaller::connect(&server.url).await.client;
    let load = Load::start(client, CALLERS, &request(), PATIENCE).await;
    for _ in 0..3 {
        load.pass(60).await;
        let mut old = fleet.remove(0);
        old.signal("TERM");
        assert_eq!(old.wait().code(), Some(143), "{}", old.log());
        fleet.push(worker(&server.url));
    }
    load.pass(60).await;
    let ledger = load.stop().await;
    println!("{ledger:?}");
    assert_eq!(ledger.duplicates, 0);
    assert_eq!(ledger.of(&Ending::Scored), ledger.sent(), "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_comes_and_goes_loses_nothing() {
    // The way of leaving, over and over: one worker stays, another joins and leaves.
    let server = NatsServer::start();
    let _constant = worker(&server.url);
    let client = RawCaller::connect(&server.url).await.client;
    let load = Load::start(client, CALLERS, &request(), PATIENCE).await;
    for _ in 0..6 {
        let mut guest = worker(&server.url);
        load.pass(30).await;
        guest.signal("TERM");
        assert_eq!(guest.wait().code(), Some(143));
    }
    let ledger = load.stop().await;
    println!("{ledger:?}");
    assert_eq!(
        (ledger.duplicates, ledger.of(&Ending::Scored)),
        (0, ledger.sent()),
        "{ledger:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_outlives_its_nats_server() {
    let port = free_port();
    let server = NatsServer::start_with(&["-p", &port]);
    let url = server.url.clone();
    let worker = worker(&url);
    let caller = RawCaller::connect(&url).await;
    caller.ask(&request()).await.scored();
    drop(server);
    worker.wait_for_log("the connection to NATS is lost");
    let server = NatsServer::start_with(&["-p", &port]);
    let started = std::time::Instant::now();
    while server.subscriptions("rerank.v1.score") == 0 {
        assert!(
            started.elapsed() < PATIENCE,
            "the worker did not come back: {}",
            worker.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let caller = RawCaller::connect(&url).await;
    caller.ask(&request()).await.scored();
    assert_eq!(worker.count_log("model loaded"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_a_node_goes_on_serving() {
    let (ports, cluster_ports) = (
        [free_port(), free_port(), free_port()],
        [free_port(), free_port(), free_port()],
    );
    let routes: Vec<String> = cluster_ports
        .iter()
        .map(|port| format!("nats://127.0.0.1:{port}"))
        .collect();
    let routes = routes.join(",");
    let mut nodes: Vec<NatsServer> = (0..3)
        .map(|node| {
            let cluster = format!("nats://127.0.0.1:{}", cluster_ports[node]);
            let arguments = [
                "-p",
                &ports[node],
                "--cluster_name",
                "trio",
                "--cluster",
                &cluster,
                "--routes",
                &routes,
            ];
            NatsServer::start_with(&arguments)
        })
        .collect();
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    // Workers know all nodes; one of them is first at the node that will die.
    let first = worker(&urls.join(","));
    let second = worker(&[urls[2].as_str(), urls[1].as_str()].join(","));
    let caller = RawCaller::connect(&urls[1]).await;
    let started = std::time::Instant::now();
    while caller
        .client
        .request(
            "rerank.v1.score",
            request().encode(nats_rerank::protocol::Encoding::Json).into(),
        )
        .await
        .is_err()
    {
        assert!(started.elapsed() < PATIENCE, "the routes did not come up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let load = Load::start(caller.client.clone(), 6, &request(), Duration::from_secs(5)).await;
    load.pass(60).await;
    drop(nodes.remove(0));
    load.pass(120).await;
    let ledger = load.stop().await;
    println!("{ledger:?}");
    assert_eq!(ledger.duplicates, 0);
    // What was on its way through the dead node, or held for it, is lost: one a caller at most, twice over for those that
    // were sent to a worker which had not yet moved to another node.
    let lost = ledger.sent() - ledger.of(&Ending::Scored);
    assert!(lost <= 12, "{ledger:?}");
    assert_eq!(first.count_log("model loaded") + second.count_log("model loaded"), 2);
}
