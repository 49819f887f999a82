//! The wire contract over a real nats-server: what PROTOCOL asks of requests, replies and refusals.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::future::join_all;
use nats_rerank::protocol::{Document, DocumentId, Encoding, RefusalKind, Request};
use serde_json::json;

use crate::support::nats_server::NatsServer;
use crate::support::worker::Worker;
use crate::support::{Answer, PATIENCE, RawCaller, reference};

struct Scene {
    server: NatsServer,
    worker: Worker,
    caller: RawCaller,
}

async fn scene(sets: &[&str]) -> Scene {
    let server = NatsServer::start();
    let worker = Worker::start(&server.url, &reference("bert-small"), sets);
    let caller = RawCaller::connect(&server.url).await;
    Scene { server, worker, caller }
}

fn request(documents: &[&str]) -> Request {
    Request::new(
        "what makes bread rise",
        documents.iter().map(|text| Document {
            text: (*text).to_owned(),
            id: None,
        }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_score_and_limits_in_tokens_are_kept_by_the_worker() {
    let scene = scene(&[]).await;
    let long = "yeast ".repeat(40);
    let mut request = request(&["yeast", &long, "flour and water", "the moon"]);
    let all = scene.caller.ask(&request).await.scored();
    assert_eq!(all.below_min_score, None, "nobody asked");

    // A score that came back is no lower than itself.
    request.min_score = Some(all.rankings[1].score);
    let kept = scene.caller.ask(&request).await.scored();
    assert_eq!(
        (&kept.rankings[..], kept.below_min_score),
        (&all.rankings[..2], Some(2))
    );
    assert!(!kept.top_k_applied);
    request.top_k = Some(1);
    let one = scene.caller.ask(&request).await.scored();
    assert_eq!(
        (one.rankings.len(), one.below_min_score, one.top_k_applied),
        (1, Some(0), true)
    );
    (request.min_score, request.top_k) = (None, None);

    // Cut to one token, the long document is the short one's first token over again.
    request.max_tokens_per_document = Some(1);
    let cut = scene.caller.ask(&request).await.scored();
    let of = |reply: &nats_rerank::protocol::Reply, index: usize| {
        let ranking = reply.rankings.iter().find(|ranking| ranking.index == index);
        ranking.expect("a ranking").score
    };
    assert_eq!(of(&cut, 0), of(&cut, 1));
    assert!(of(&all, 0) != of(&all, 1) && cut.usage.truncated >= 1 && cut.usage.tokens < all.usage.tokens);
    request.max_tokens_per_document = None;
    request.max_tokens_per_pair = Some(12);
    let cut = scene.caller.ask(&request).await.scored();
    assert!(
        cut.usage.tokens <= 4 * 12 && cut.usage.truncated >= 1,
        "{:?}",
        cut.usage
    );
    request.truncate = false;
    let refusal = scene.caller.ask(&request).await.refused();
    assert!(
        refusal.kind == RefusalKind::InvalidRequest && refusal.message.contains("12"),
        "{refusal}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn json_and_messagepack_answer_alike() {
    let scene = scene(&[]).await;
    let mut request = request(&["yeast", "a red car", "flour and water", "the moon"]);
    request.documents[2].id = Some(DocumentId::Text("doc-2".to_owned()));
    request.documents[3].id = Some(DocumentId::Integer(7));
    request.top_k = Some(3);
    request.return_documents = true;
    let in_json = scene.caller.ask(&request).await.scored();
    for content_type in [
        "application/msgpack",
        "application/x-msgpack",
        "application/vnd.msgpack",
    ] {
        let body = request.encode(Encoding::MsgPack);
        let packed = scene
            .caller
            .send(body, &[("content-type", content_type)], Encoding::MsgPack)
            .await
            .scored();
        assert_eq!(packed.rankings, in_json.rankings);
    }
    // Without a Content-Type the body tells.
    let guessed = scene
        .caller
        .send(request.encode(Encoding::MsgPack), &[], Encoding::MsgPack)
        .await
        .scored();
    assert_eq!(guessed.rankings, in_json.rankings);

    assert_eq!(in_json.rankings.len(), 3);
    assert!(in_json.top_k_applied);
    assert_eq!(in_json.usage.pairs, 4);
    assert!(in_json.usage.tokens >= 4 * 5);
    assert!(in_json.rankings.windows(2).all(|two| two[0].score >= two[1].score));
    for ranking in &in_json.rankings {
        assert_eq!(
            ranking.document.as_ref().expect("a document").text,
            request.documents[ranking.index].text
        );
        assert_eq!(ranking.id, request.documents[ranking.index].id);
    }
    assert!(in_json.timings_ms.total >= in_json.timings_ms.infer);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_do_what_they_say() {
    let scene = scene(&[]).await;
    let ask = async |body: serde_json::Value| scene.caller.ask_json(&body.to_string()).await;

    let plain = ask(json!({"query": "q", "documents": ["a b", "c d", "e f"]}))
        .await
        .scored();
    let aliased = ask(
        json!({"query": "q", "texts": [{"text": "a b"}, "c d", {"text": "e f"}], "top_n": 2, "unknown": {"x": [1]}}),
    )
    .await
    .scored();
    assert_eq!(aliased.rankings[..], plain.rankings[..2]);
    assert!(aliased.top_k_applied && !plain.top_k_applied);
    let more = ask(json!({"query": "q", "documents": ["a b"], "top_k": 50}))
        .await
        .scored();
    assert!(!more.top_k_applied);

    let empty = ask(json!({"query": "q", "documents": []})).await.scored();
    assert!(empty.rankings.is_empty() && !empty.top_k_applied);
    assert_eq!((empty.usage.pairs, empty.usage.tokens), (0, 0));

    // Equal documents have equal scores and keep their order.
    let ties = ask(json!({"query": "q", "documents": ["same", "same", "same"]}))
        .await
        .scored();
    assert_eq!(ties.rankings.iter().map(|r| r.index).collect::<Vec<_>>(), [0, 1, 2]);

    // bert-small names no activation: Sigmoid.
    let raw = ask(json!({"query": "q", "documents": ["a b", "c d", "e f"], "raw_scores": true}))
        .await
        .scored();
    for (raw, activated) in raw.rankings.iter().zip(&plain.rankings) {
        assert_eq!(raw.index, activated.index);
        let sigmoid = 1.0 / (1.0 + (-raw.score).exp());
        assert!(
            (sigmoid - activated.score).abs() < 1e-6,
            "{} {}",
            raw.score,
            activated.score
        );
    }
    let long = "word ".repeat(4000);
    let cut = ask(json!({"query": "q", "documents": [long, "short"]})).await.scored();
    assert_eq!(cut.usage.truncated, 1);
    let refusal = ask(json!({"query": "q", "documents": ["short", long], "truncate": false}))
        .await
        .refused();
    assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
    assert!(
        refusal.message.contains("documents[1]") && refusal.message.contains("truncate"),
        "{}",
        refusal.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_name_and_disturb_nobody() {
    let scene = scene(&[
        "limits.documents_max=5",
        "limits.document_bytes_max=100",
        "limits.query_bytes_max=50",
    ])
    .await;
    let cases = [
        (json!({"documents": ["a"]}), 400, "query"),
        (json!({"query": "  \n", "documents": ["a"]}), 400, "query"),
        (json!({"query": "q"}), 400, "documents"),
        (json!({"query": "q", "documents": "a"}), 400, "documents"),
        (json!({"query": "q", "documents": ["a", 5]}), 400, "documents[1]"),
        (
            json!({"query": "q", "documents": ["a", {"id": 5}]}),
            400,
            "documents[1]",
        ),
        (json!({"query": "q", "documents": ["a"], "top_k": 0}), 400, "top_k"),
        (json!({"query": "q", "documents": ["a"], "top_k": -1}), 400, "top_k"),
        (json!({"query": "q", "documents": ["a"], "top_k": 1.5}), 400, "top_k"),
        (
            json!({"query": "q", "documents": ["a"], "truncate": "no"}),
            400,
            "truncate",
        ),
        (
            json!({"query": "q", "documents": ["a"], "timeout_ms": 0}),
            400,
            "timeout_ms",
        ),
        (
            json!({"query": "q", "documents": ["a"], "model": "other"}),
            404,
            "model",
        ),
        (
            json!({"query": "q", "documents": ["a", "b", "c", "d", "e", "f"]}),
            413,
            "limit of 5",
        ),
        (
            json!({"query": "q", "documents": ["a", "b".repeat(101)]}),
            413,
            "documents[1]",
        ),
        (
            json!({"query": "q".repeat(51), "documents": ["a"]}),
            413,
            "query_bytes_max is 50",
        ),
        (json!([1, 2]), 400, "object"),
    ];
    for (body, code, names) in cases {
        let answer = scene.caller.ask_json(&body.to_string()).await;
        let Answer::Refused { refusal, code_header } = answer else {
            panic!("{body} was answered")
        };
        assert_eq!(
            (refusal.kind.code(), code_header.as_str()),
            (code, code.to_string().as_str()),
            "{body}: {refusal}"
        );
        assert!(refusal.message.contains(names), "{body}: {}", refusal.message);
    }
    let header_cases: [(&str, &str); 5] = [
        ("Rerank-Timeout-Ms", "soon"),
        ("Rerank-Timeout-Ms", "0"),
        ("Rerank-Timeout-Ms", "-5"),
        ("rerank-deadline-unix-ms", "yesterday"),
        ("Content-Type", "text/plain"),
    ];
    let good = request(&["a"]).encode(Encoding::Json);
    for (name, value) in header_cases {
        let refusal = scene
            .caller
            .send(good.clone(), &[(name, value)], Encoding::Json)
            .await
            .refused();
        assert_eq!(refusal.kind, RefusalKind::InvalidRequest, "{name}: {value}");
        assert!(
            refusal.message.to_lowercase().contains(&name.to_lowercase()),
            "{name}: {}",
            refusal.message
        );
    }
    // MessagePack `bin` where text is expected.
    let mut bin = vec![0x82, 0xa5];
    bin.extend(b"query\xc4\x01q\xa9documents\x91\xa1a");
    let refusal = scene
        .caller
        .send(bin, &[("Content-Type", "application/msgpack")], Encoding::MsgPack)
        .await
        .refused();
    assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
    assert!(refusal.message.contains("query"), "{}", refusal.message);
    // After all that, the worker is as good as new.
    assert_eq!(scene.caller.ask(&request(&["a", "b"])).await.scored().rankings.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_count_and_expired_work_is_refused() {
    let scene = scene(&[]).await;
    let body = request(&["a"]).encode(Encoding::Json);
    let past = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() - 1000;
    let refusal = scene
        .caller
        .send(
            body.clone(),
            &[("Rerank-Deadline-Unix-Ms", &past.to_string())],
            Encoding::Json,
        )
        .await
        .refused();
    assert_eq!(refusal.kind, RefusalKind::DeadlineExceeded);
    // With both, the earlier counts.
    let both = [
        ("Rerank-Deadline-Unix-Ms", past.to_string()),
        ("Rerank-Timeout-Ms", "5000".to_owned()),
    ];
    let both: Vec<(&str, &str)> = both.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(
        scene
            .caller
            .send(body.clone(), &both, Encoding::Json)
            .await
            .refused()
            .kind,
        RefusalKind::DeadlineExceeded
    );
    // A budget that no forward pass can meet: the header wins over the body.
    let mut hasty = request(&["a"]);
    hasty.timeout_ms = Some(60_000.0);
    let refusal = scene
        .caller
        .send(
            hasty.encode(Encoding::Json),
            &[("Rerank-Timeout-Ms", "0.001")],
            Encoding::Json,
        )
        .await;
    match refusal {
        Answer::Refused { refusal, .. } => {
            assert!(
                matches!(
                    refusal.kind,
                    RefusalKind::DeadlineExceeded | RefusalKind::InvalidRequest
                ),
                "{refusal}"
            );
        }
        Answer::Scored(reply) => panic!("answered within a microsecond: {reply:?}"),
    }
    let mut in_body = request(&["a"]);
    in_body.timeout_ms = Some(0.001);
    assert_eq!(
        scene.caller.ask(&in_body).await.refused().kind,
        RefusalKind::DeadlineExceeded
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reply_each_and_none_without_an_inbox() {
    let scene = scene(&[]).await;
    let body = request(&["a", "b"]).encode(Encoding::Json);
    scene
        .caller
        .client
        .publish(scene.caller.subject.clone(), body.clone().into())
        .await
        .unwrap();
    let inbox = scene.caller.client.new_inbox();
    let mut answers = scene.caller.client.subscribe(inbox.clone()).await.unwrap();
    const SENT: usize = 200;
    for index in 0..SENT {
        // Every third is broken: it is answered all the same, and once.
        let body = if index % 3 == 0 { b"{".to_vec() } else { body.clone() };
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("X-Secret", "not to be echoed");
        scene
            .caller
            .client
            .publish_with_reply_and_headers(scene.caller.subject.clone(), inbox.clone(), headers, body.into())
            .await
            .unwrap();
    }
    for _ in 0..SENT {
        let message = tokio::time::timeout(PATIENCE, answers.next())
            .await
            .expect("an answer")
            .expect("a message");
        assert!(message.headers.expect("headers").get("X-Secret").is_none());
    }
    // Anything beyond would be a second answer.
    assert!(
        tokio::time::timeout(Duration::from_millis(300), answers.next())
            .await
            .is_err()
    );
    let without_inbox = scene.worker.count_log("panick");
    assert_eq!(without_inbox, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    // One that never leaves its group, so that it is asked all the same.
    let scene = scene(&["queue.requests_max=4", "queue.leave_at_percent=0"]).await;
    let documents: Vec<String> = (0..400)
        .map(|index| format!("document number {index} about bread and yeast"))
        .collect();
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    let request = request(&documents);
    let answers = join_all((0..40).map(|_| scene.caller.ask(&request))).await;
    let (mut scored, mut overloaded) = (0, 0);
    for answer in answers {
        match answer {
            Answer::Scored(_) => scored += 1,
            Answer::Refused { refusal, code_header } => {
                assert_eq!(
                    (refusal.kind, code_header.as_str()),
                    (RefusalKind::Overloaded, "429"),
                    "{refusal}"
                );
                assert!(
                    refusal.message.contains("queue.requests_max is 4"),
                    "{}",
                    refusal.message
                );
                overloaded += 1;
            }
        }
    }
    assert!(scored >= 4 && overloaded > 0, "{scored} scored, {overloaded} refused");
    // And it recovers.
    assert_eq!(
        scene.caller.ask(&self::request(&["a"])).await.scored().rankings.len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_larger_than_a_batch_is_put_together_again() {
    let scene = scene(&["batch.tokens_max=64"]).await;
    let whole = NatsServer::start();
    let _other = Worker::start(&whole.url, &reference("bert-small"), &[]);
    let other = RawCaller::connect(&whole.url).await;
    let documents: Vec<String> = (0..300)
        .map(|index| format!("number {} {}", index * 7, "word ".repeat(index % 17)))
        .collect();
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    let request = request(&documents);
    let (spread, at_once) = tokio::join!(scene.caller.ask(&request), other.ask(&request));
    let (spread, at_once) = (spread.scored(), at_once.scored());
    assert_eq!(spread.rankings.len(), 300);
    let mut by_index = vec![f32::NAN; 300];
    for ranking in &at_once.rankings {
        by_index[ranking.index] = ranking.score;
    }
    for ranking in &spread.rankings {
        let off = (ranking.score - by_index[ranking.index]).abs();
        assert!(off <= 1e-5, "document {}: off by {off}", ranking.index);
    }
    let _ = &scene.server;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_the_work_and_no_worker_is_no_responders() {
    let server = NatsServer::start();
    let caller = RawCaller::connect(&server.url).await;
    caller.ask_nobody().await;
    let workers = [0, 1].map(|_| Worker::start(&server.url, &reference("bert-small"), &["log.level=debug"]));
    let body = request(&["a", "b"]).encode(Encoding::Json);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        let message = caller
            .client
            .request(caller.subject.clone(), body.clone().into())
            .await
            .unwrap();
        seen.insert(message.headers.unwrap().get("Rerank-Worker").unwrap().to_string());
    }
    assert_eq!(seen.len(), 2, "one worker answered everything");
    drop(workers);
}
