//! What becomes of a call, by what the other side does.

use std::time::{Duration, Instant};

use nats_rerank::client::{AnnReason, Order, RerankOptions, Reranker};
use nats_rerank::protocol::{RefusalKind, Reply, TraceContext};

use crate::LONG;
use crate::fakes::{Act, Fake, builder, right, right_reply};
use crate::nats_server::NatsServer;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const DOCUMENTS: [&str; 4] = ["a 1", "b 4", "c 2", "d 3"];

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_own_items_come_back_in_the_models_order() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "one", right).await;
    let reranker = builder(&server).budget(LONG).connect().await.expect("a reranker");

    let items: Vec<(u64, String)> = (10..).zip(DOCUMENTS.map(str::to_owned)).collect();
    let reranked = reranker.rerank("q", items.clone(), 3).await;
    assert_eq!(reranked.order, Order::Model, "{reranked:?}");
    let places: Vec<_> = reranked
        .items
        .iter()
        .map(|ranked| (ranked.index, ranked.item.0, ranked.score))
        .collect();
    assert_eq!(places, [(1, 11, Some(4.0)), (3, 13, Some(3.0)), (2, 12, Some(2.0))]);
    assert_eq!(reranked.model.as_deref(), Some("scripted"));
    assert_eq!(reranked.workers, ["one"]);
    assert_eq!((reranked.usage.pairs, reranked.usage.tokens), (4, 40));
    assert_eq!(reranked.partial, None);

    struct Hit {
        passage: String,
    }
    let hits = items.into_iter().map(|(_, passage)| Hit { passage });
    let best = reranker.rerank_by("q", hits, |hit| &hit.passage, None).await;
    let passages: Vec<_> = best.iter().map(|hit| hit.passage.as_str()).collect();
    assert_eq!(passages, ["b 4", "d 3", "c 2", "a 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_rank_is_in_order_without_asking() {
    let server = NatsServer::start();
    let worker = Fake::start(&server, "one", right).await;
    let reranker = builder(&server).connect().await.expect("a reranker");
    let reranked = reranker.rerank("q", Vec::<String>::new(), None).await;
    assert_eq!((reranked.order, reranked.items.len()), (Order::Model, 0));
    let reranked = reranker.rerank("q", DOCUMENTS, 0).await;
    assert_eq!((reranked.order, reranked.items.len()), (Order::Model, 0));
    assert_eq!(worker.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_is_told_what_is_left_and_how_to_rank() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "one", |asked| {
        let budget = asked.headers.budget(std::time::SystemTime::now()).expect("a budget");
        let budget = budget.expect("a budget");
        assert!(
            budget <= Duration::from_secs(40) && budget > Duration::from_secs(20),
            "{budget:?}"
        );
        assert!(asked.request.raw_scores && !asked.request.truncate && !asked.request.return_documents);
        assert_eq!(asked.request.model.as_deref(), Some("m"));
        let context = asked.headers.trace_context().expect("the caller's span");
        assert_eq!(
            (context.traceparent().as_str(), context.tracestate()),
            (TRACEPARENT, Some("a=b"))
        );
        right(asked)
    })
    .await;
    let reranker = builder(&server)
        .budget(LONG)
        .model("other")
        .connect()
        .await
        .expect("a reranker");
    let options = RerankOptions::default()
        .budget(Duration::from_secs(40))
        .raw_scores(true)
        .truncate(false)
        .model("m")
        .trace_context(TraceContext::parse(TRACEPARENT, Some("a=b")).expect("a context"));
    let reranked = reranker.rerank_with("q", DOCUMENTS, |text| text, None, &options).await;
    assert_eq!(reranked.order, Order::Model, "{reranked:?}");
}

/// What comes of `act`, with a long budget.
async fn order_after(act: impl Fn(Reply) -> Act + Send + 'static) -> (Order, Vec<usize>) {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "one", move |asked| act(right_reply(&asked.request))).await;
    let reranker = builder(&server).budget(LONG).connect().await.expect("a reranker");
    let reranked = reranker.rerank("q", DOCUMENTS, 3).await;
    (
        reranked.order,
        reranked.items.iter().map(|ranked| ranked.index).collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_are_held_to_the_request() {
    let bad: Vec<fn(Reply) -> Act> = vec![
        |_| Act::Bytes(b"\xc1 what is this".to_vec()),
        |_| Act::Bytes(Vec::new()),
        |mut reply| {
            reply.rankings[0].index = 4;
            Act::Reply(reply)
        },
        |mut reply| {
            reply.rankings[0].index = reply.rankings[1].index;
            Act::Reply(reply)
        },
        |mut reply| {
            reply.rankings[1].score = f32::NAN;
            Act::Reply(reply)
        },
        |mut reply| {
            reply.rankings[0].score = f32::INFINITY;
            Act::Reply(reply)
        },
        |mut reply| {
            reply.rankings.pop();
            Act::Reply(reply)
        },
        |mut reply| {
            reply.rankings.swap(0, 1);
            Act::Reply(reply)
        },
    ];
    for act in bad {
        assert_eq!(order_after(act).await, (Order::Ann(AnnReason::BadReply), vec![0, 1, 2]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_with_their_kind() {
    for kind in RefusalKind::ALL {
        let (order, indices) = order_after(move |_| Act::Refuse(kind)).await;
        assert_eq!((order, indices), (Order::Ann(AnnReason::Refused(kind)), vec![0, 1, 2]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_lateness_end_with_the_budget() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "one", |asked| match asked.number {
        0 => Act::Silence,
        _ => Act::Late(Duration::from_secs(3600), Box::new(right(asked))),
    })
    .await;
    let reranker = builder(&server)
        .budget(Duration::from_millis(300))
        .connect()
        .await
        .expect("a reranker");
    for _ in 0..2 {
        let started = Instant::now();
        let reranked = reranker.rerank("q", DOCUMENTS, None).await;
        assert_eq!(reranked.order, Order::Ann(AnnReason::TimedOut));
        assert!(started.elapsed() < crate::PATIENCE, "{:?}", started.elapsed());
        assert_eq!(reranked.into_items(), DOCUMENTS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_server_says_so() {
    let server = NatsServer::start();
    let reranker = builder(&server).budget(LONG).connect().await.expect("a reranker");
    let reranked = reranker.rerank("q", DOCUMENTS, None).await;
    assert_eq!(reranked.order, Order::Ann(AnnReason::NoResponders));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_the_call_comes_back_and_later_finds_it() {
    let server = NatsServer::start();
    let url = server.url.clone();
    let port = url.rsplit(':').next().expect("a port").to_owned();
    let reranker = builder(&server).budget(LONG).connect_lazy().await.expect("a reranker");
    until(&reranker, Order::Ann(AnnReason::NoResponders)).await;
    drop(server);
    until(&reranker, Order::Ann(AnnReason::Disconnected)).await;
    let server = NatsServer::start_with(&["-p", &port]);
    let _worker = Fake::start(&server, "one", right).await;
    until(&reranker, Order::Model).await;
}

/// Calls until a call ends so.
async fn until(reranker: &Reranker, order: Order) {
    let started = Instant::now();
    loop {
        let reranked = reranker.rerank("q", DOCUMENTS, None).await;
        if reranked.order == order {
            return;
        }
        assert!(started.elapsed() < crate::PATIENCE, "{reranked:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switched_off_reranker_asks_nobody() {
    let server = NatsServer::start();
    let worker = Fake::start(&server, "one", right).await;
    let reranker = builder(&server).enabled(false).connect().await.expect("a reranker");
    let reranked = reranker.rerank("q", DOCUMENTS, 1).await;
    assert_eq!(reranked.order, Order::Ann(AnnReason::SwitchedOff));
    assert_eq!(reranked.into_items(), ["a 1"]);
    assert_eq!(worker.asked(), 0);
}

/// JetStream answers a message that a stream has stored, and is faster than any worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_captures_the_subject_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = NatsServer::start_with(&["-js", "-sd", &folder.path().display().to_string()]);
    let client = async_nats::connect(&server.url).await.expect("a connection");
    let stream = async_nats::jetstream::stream::Config {
        name: "EVERYTHING".to_owned(),
        subjects: vec!["rerank.>".to_owned()],
        num_replicas: 1,
        ..Default::default()
    };
    let context = async_nats::jetstream::new(client);
    context.create_stream(stream).await.expect("a stream");
    // A caller alone: there is nobody to be faster.
    for encoding in [
        nats_rerank::protocol::Encoding::Json,
        nats_rerank::protocol::Encoding::MsgPack,
    ] {
        let reranker = builder(&server).budget(LONG).encoding(encoding).connect().await;
        let reranked = reranker.expect("a reranker").rerank("q", DOCUMENTS, None).await;
        assert_eq!(reranked.order, Order::Ann(AnnReason::BadReply), "{reranked:?}");
        let detail = reranked.detail.unwrap_or_default();
        assert!(
            detail.contains("`EVERYTHING` captures `rerank.v1.score`"),
            "{encoding:?}: {detail}"
        );
    }
}
