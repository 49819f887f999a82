//! What a caller is spared when the fleet is in trouble.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nats_rerank::client::{AnnReason, BreakerSettings, CircuitState, HedgeSettings, Order, Reranker};
use nats_rerank::protocol::RefusalKind;

use crate::fakes::{Act, Fake, builder, right};
use crate::nats_server::NatsServer;
use crate::{LONG, PATIENCE, frozen};

const DOCUMENTS: [&str; 3] = ["a 1", "b 3", "c 2"];
/// Long enough for a request to leave on a machine that stalls.
const SHORT: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_worker_is_asked_again_and_no_more_than_twice() {
    let server = NatsServer::start();
    let reranker = builder(&server).budget(LONG).connect().await.expect("a reranker");
    for (refusals, order, requests) in [
        (1, Order::Model, 2),
        (2, Order::Model, 3),
        (9, Order::Ann(AnnReason::Refused(RefusalKind::Overloaded)), 3),
    ] {
        let worker = Fake::start(&server, "one", move |asked| {
            if asked.number < refusals {
                Act::Refuse(RefusalKind::Overloaded)
            } else {
                right(asked)
            }
        })
        .await;
        let reranked = reranker.rerank("q", DOCUMENTS, None).await;
        assert_eq!((reranked.order, worker.asked()), (order, requests));
        worker.stop().await;
    }
    let worker = Fake::start(&server, "one", |_| Act::Refuse(RefusalKind::Internal)).await;
    let reranked = reranker.rerank("q", DOCUMENTS, None).await;
    assert_eq!(reranked.order, Order::Ann(AnnReason::Refused(RefusalKind::Internal)));
    assert_eq!((reranked.detail.as_deref(), worker.asked()), (Some("as scripted"), 1));
}

/// A reranker with this circuit breaker.
async fn guarded(server: &NatsServer, budget: Duration, breaker: BreakerSettings) -> Reranker {
    let reranker = builder(server).budget(budget).breaker(breaker);
    reranker.connect().await.expect("a reranker")
}

fn nervous() -> BreakerSettings {
    BreakerSettings {
        calls: 4,
        calls_min: 3,
        pause_min: Duration::from_millis(50),
        pause_max: Duration::from_millis(100),
        ..BreakerSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_fleet_opens_the_circuit_and_one_that_answers_closes_it() {
    let server = NatsServer::start();
    let silent = Fake::start(&server, "one", |_| Act::Silence).await;
    let settings = BreakerSettings {
        pause_min: Duration::from_secs(3600),
        pause_max: Duration::from_secs(3600),
        ..nervous()
    };
    let reranker = guarded(&server, SHORT, settings).await;
    for _ in 0..3 {
        assert_eq!(reranker.circuit(), CircuitState::Closed);
        let reranked = reranker.rerank("q", DOCUMENTS, None).await;
        assert_eq!(reranked.order, Order::Ann(AnnReason::TimedOut));
    }
    assert_eq!(reranker.circuit(), CircuitState::Open);
    let started = Instant::now();
    while silent.asked() < 3 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let reranked = reranker.rerank("q", DOCUMENTS, 2).await;
    assert_eq!(reranked.order, Order::Ann(AnnReason::CircuitOpen));
    let detail = reranked.detail.as_deref().unwrap_or_default();
    assert!(
        detail.contains("no answer within the budget"),
        "what opened it: {detail}"
    );
    assert_eq!(reranked.into_items(), ["a 1", "b 3"]);
    assert_eq!(silent.asked(), 3, "with the circuit open nobody is asked");
    silent.stop().await;

    // The same with a short pause: probes find the fleet again.
    let silent = Fake::start(&server, "one", |_| Act::Silence).await;
    let reranker = guarded(&server, SHORT, nervous()).await;
    let started = Instant::now();
    while reranker.circuit() == CircuitState::Closed {
        reranker.rerank("q", DOCUMENTS, None).await;
        assert!(started.elapsed() < PATIENCE, "{:?}", reranker.circuit());
    }
    silent.stop().await;
    let _worker = Fake::start(&server, "two", right).await;
    loop {
        let reranked = reranker.rerank("q", DOCUMENTS, None).await;
        if reranked.order == Order::Model {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{reranked:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(reranker.circuit(), CircuitState::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_callers_do_wrong_is_not_held_against_the_fleet() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "one", |asked| match asked.request.query.as_str() {
        "hasty" => Act::Silence,
        _ => Act::Refuse(RefusalKind::InvalidRequest),
    })
    .await;
    let reranker = guarded(&server, LONG, nervous()).await;
    for _ in 0..10 {
        let reranked = reranker.rerank("q", DOCUMENTS, None).await;
        assert_eq!(
            reranked.order,
            Order::Ann(AnnReason::Refused(RefusalKind::InvalidRequest))
        );
        let hasty = nats_rerank::client::RerankOptions::default().budget(Duration::from_millis(5));
        reranker
            .rerank_with("hasty", DOCUMENTS, |text| text, None, &hasty)
            .await;
    }
    assert_eq!(reranker.circuit(), CircuitState::Closed);
}

/// What comes at once costs nothing that a circuit could save, and keeps a caller from nothing once it stops coming.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_that_come_at_once_open_nothing() {
    let server = NatsServer::start();
    let reranker = guarded(&server, LONG, nervous()).await;
    for _ in 0..10 {
        let reranked = reranker.rerank("q", DOCUMENTS, None).await;
        assert_eq!(reranked.order, Order::Ann(AnnReason::NoResponders));
    }
    let worker = Fake::start(&server, "one", |asked| match asked.request.query.as_str() {
        "too large for its budget" => Act::RefuseRequest(RefusalKind::Overloaded),
        "too late" => Act::RefuseRequest(RefusalKind::DeadlineExceeded),
        _ => Act::Refuse(RefusalKind::Overloaded),
    })
    .await;
    for (query, kind, asked) in [
        ("too large for its budget", RefusalKind::Overloaded, 1),
        ("too late", RefusalKind::DeadlineExceeded, 1),
        ("full", RefusalKind::Overloaded, 3),
    ] {
        for _ in 0..10 {
            let before = worker.asked();
            let reranked = reranker.rerank(query, DOCUMENTS, None).await;
            assert_eq!(reranked.order, Order::Ann(AnnReason::Refused(kind)), "{query}");
            // What an idle worker would refuse is not asked again.
            assert_eq!(worker.asked() - before, asked, "{query}");
        }
    }
    assert_eq!(reranker.circuit(), CircuitState::Closed);
}

/// A shared client's callers with large lists, which are not answered, change nothing for those with small ones.
#[tokio::test(flavor = "multi_thread")]
async fn large_lists_that_time_out_do_not_switch_small_ones_off() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "one", |asked| match asked.request.query.as_str() {
        "large" => Act::Silence,
        _ => right(asked),
    })
    .await;
    let settings = BreakerSettings {
        pause_min: Duration::from_secs(3600),
        pause_max: Duration::from_secs(3600),
        ..nervous()
    };
    let reranker = guarded(&server, SHORT, settings).await;
    let large: Vec<String> = (0..200)
        .map(|number| format!("{} {number}", "word ".repeat(60)))
        .collect();
    for _ in 0..3 {
        let reranked = reranker.rerank("large", &large, None).await;
        assert_eq!(reranked.order, Order::Ann(AnnReason::TimedOut));
    }
    let reranked = reranker.rerank("large", &large, None).await;
    assert_eq!(reranked.order, Order::Ann(AnnReason::CircuitOpen), "of their own size");
    for _ in 0..20 {
        assert_eq!(reranker.rerank("small", DOCUMENTS, None).await.order, Order::Model);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_answers_open_the_circuit_where_that_is_wanted() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "one", |asked| {
        Act::Late(Duration::from_millis(30), Box::new(right(asked)))
    })
    .await;
    let settings = BreakerSettings {
        slow: Some(Duration::from_millis(10)),
        ..nervous()
    };
    let reranker = guarded(&server, LONG, settings).await;
    for _ in 0..3 {
        assert_eq!(reranker.rerank("q", DOCUMENTS, None).await.order, Order::Model);
    }
    assert_eq!(reranker.circuit(), CircuitState::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_reads_nothing_costs_no_more_than_the_budget() {
    let url = frozen::start().await;
    let reranker = Reranker::builder()
        .url(url)
        .budget(SHORT)
        .read_environment(false)
        .without_breaker();
    let reranker = reranker.connect().await.expect("a reranker");
    // Far more than the sockets and the client hold, so that publishing itself has to wait.
    let large: Vec<String> = (0..50).map(|_| "word ".repeat(2000)).collect();
    let small = vec!["word".to_owned()];
    for _ in 0..3 {
        let started = Instant::now();
        let calls = (0..420).map(|call| reranker.rerank("q", if call < 20 { &large } else { &small }, None));
        for reranked in join_all(calls).await {
            // A machine that stalls for long enough sees the connection given up.
            let order = reranked.order;
            assert!(
                matches!(order, Order::Ann(AnnReason::TimedOut | AnnReason::Disconnected)),
                "{order:?}"
            );
        }
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    }
    assert_nothing_waits(&reranker);
}

/// The inbox has no place for an answer that nobody awaits.
#[track_caller]
fn assert_nothing_waits(reranker: &Reranker) {
    let shown = format!("{reranker:?}");
    assert!(shown.contains("waiting: 0"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_leaves_nothing_behind() {
    let server = NatsServer::start();
    let worker = Fake::start(&server, "one", |asked| match asked.request.query.as_str() {
        "silence" => Act::Silence,
        _ => right(asked),
    })
    .await;
    let settings = BreakerSettings {
        calls_min: 1,
        calls: 1,
        ..nervous()
    };
    let reranker = builder(&server)
        .budget(LONG)
        .split_pairs(1)
        .breaker(settings)
        .connect()
        .await
        .expect("a reranker");
    for _ in 0..3 {
        let asked = worker.asked();
        let call = reranker.rerank("silence", DOCUMENTS, None);
        let reached = async {
            while worker.asked() == asked {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            _ = call => panic!("nobody has answered"),
            () = reached => {}
        }
        assert_nothing_waits(&reranker);
    }
    assert_eq!(reranker.circuit(), CircuitState::Closed, "a call given up says nothing");
    assert_eq!(reranker.rerank("q", DOCUMENTS, None).await.order, Order::Model);
    // Late answers to what nobody awaits do no harm either: those calls' own are told apart.
    assert_nothing_waits(&reranker);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_late_is_asked_twice_and_the_first_answer_counts() {
    let server = NatsServer::start();
    let silent_once = AtomicBool::new(false);
    let worker = Fake::start(&server, "one", move |asked| match asked.request.query.as_str() {
        "late" if !silent_once.swap(true, Ordering::SeqCst) => Act::Silence,
        _ => right(asked),
    })
    .await;
    let settings = HedgeSettings {
        // As many as there are first ones: a machine that stalls may have made use of some.
        share_percent: 100.0,
        ..HedgeSettings::default()
    };
    let reranker = builder(&server)
        .budget(LONG)
        .hedge(settings)
        .connect()
        .await
        .expect("a reranker");
    for _ in 0..settings.samples_min {
        assert_eq!(reranker.rerank("q", DOCUMENTS, None).await.order, Order::Model);
    }
    let asked_before = worker.asked();
    let reranked = reranker.rerank("late", DOCUMENTS, None).await;
    assert_eq!(reranked.order, Order::Model, "the second request was answered");
    assert!(worker.asked() - asked_before >= 2);
    assert_nothing_waits(&reranker);
}

#[tokio::test(flavor = "multi_thread")]
async fn hedging_does_not_double_the_load_of_a_slow_fleet() {
    let server = NatsServer::start();
    let worker = Fake::start(&server, "one", |asked| {
        let late = if asked.number < 32 { 0 } else { 20 };
        Act::Late(Duration::from_millis(late), Box::new(right(asked)))
    })
    .await;
    let reranker = builder(&server)
        .budget(LONG)
        .hedge(HedgeSettings::default())
        .connect()
        .await
        .expect("a reranker");
    for _ in 0..100 {
        assert_eq!(reranker.rerank("q", DOCUMENTS, None).await.order, Order::Model);
    }
    // Five per cent of a hundred.
    assert!(worker.asked() <= 105, "{}", worker.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_reranker_leaves_no_connection() {
    let server = NatsServer::start();
    let connections = || server.monitor("/varz")["connections"].as_u64().expect("a count");
    for _ in 0..2 {
        // The bucket is not there: its watch goes on trying until nobody is interested any more.
        let reranker = builder(&server)
            .switch_bucket("switches")
            .connect()
            .await
            .expect("a reranker");
        let clone = reranker.clone();
        reranker.rerank("q", DOCUMENTS, None).await;
        drop(reranker);
        clone.rerank("q", DOCUMENTS, None).await;
        assert_eq!(connections(), 1);
        drop(clone);
        let started = Instant::now();
        while connections() > 0 {
            assert!(started.elapsed() < PATIENCE, "the connection stays");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
