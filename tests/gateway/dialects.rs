//! Every dialect, from the request on the wire to the shape of the answer.

use serde_json::{Value, json};

use crate::fakes::{Act, Asked, Fake, right, right_reply};
use crate::nats_server::NatsServer;
use crate::process::Gateway;

/// The scripted workers take the number at the end of a text for its logit.
const TEXTS: [&str; 3] = ["the first 0", "the second 2.5", "the third -20"];

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

fn column(rows: &Value, name: &str) -> Vec<Value> {
    rows.as_array()
        .expect("an array")
        .iter()
        .map(|row| row[name].clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_shape_is_that_of_the_wire() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::start(&server.url, &[]);
    let documents =
        json!([{"text": TEXTS[0], "id": "a"}, TEXTS[1], {"text": TEXTS[2], "id": 18_446_744_073_709_551_615_u64}]);
    let answer = gateway.post(
        "/rerank",
        &json!({"query": "q", "documents": documents, "return_documents": true}),
    );
    assert_eq!(
        (answer.header("Rerank-Fallback"), answer.header("Rerank-Partial")),
        (None, None)
    );
    let mut body = answer.ok();
    for field in ["id", "created"] {
        assert!(
            body.as_object_mut().expect("an object").remove(field).is_some(),
            "{field}"
        );
    }
    assert_eq!(
        body,
        json!({
            "rankings": [
                {"index": 1, "score": 2.5, "document": {"text": TEXTS[1]}},
                {"index": 0, "score": 0.0, "id": "a", "document": {"text": TEXTS[0]}},
                {"index": 2, "score": -20.0, "id": 18_446_744_073_709_551_615_u64, "document": {"text": TEXTS[2]}},
            ],
            "top_k_applied": false, "model": "scripted",
            "usage": {
                "pairs": 3, "tokens": 30, "truncated": 0, "cached": 0,
                "total_tokens": 30, "prompt_tokens": 30, "completion_tokens": 0,
            },
            "object": "rerank",
            // The scripted worker says sigmoid, and gives what it likes.
            "results": [
                {"index": 1, "relevance_score": 2.5, "document": {"text": TEXTS[1]}},
                {"index": 0, "relevance_score": 0.0, "document": {"text": TEXTS[0], "id": "a"}},
                {"index": 2, "relevance_score": -20.0, "document": {"text": TEXTS[2], "id": 18_446_744_073_709_551_615_u64}},
            ],
        })
    );
    let answer = gateway.post("/rerank", &json!({"query": "q", "documents": TEXTS, "top_k": 1}));
    assert_eq!(answer.ok()["rankings"], json!([{"index": 1, "score": 2.5}]));
    assert_eq!(answer.ok()["top_k_applied"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn text_embeddings_inference() {
    let server = NatsServer::start();
    // Logits are asked for either way: a reply does not say what the model's activation is.
    let script = |asked: Asked| {
        assert!(asked.request.raw_scores);
        right(asked)
    };
    let _worker = Fake::start(&server, "w", script).await;
    let gateway = Gateway::start(&server.url, &[]);
    let answer = gateway.post(
        "/rerank",
        &json!({"query": "q", "texts": TEXTS, "raw_scores": true, "return_text": true}),
    );
    assert_eq!(
        answer.ok(),
        json!([
            {"index": 1, "score": 2.5, "text": TEXTS[1]},
            {"index": 0, "score": 0.0, "text": TEXTS[0]},
            {"index": 2, "score": -20.0, "text": TEXTS[2]},
        ])
    );
    let rows = gateway.post("/rerank", &json!({"query": "q", "texts": TEXTS})).ok();
    assert_eq!(
        column(&rows, "score"),
        [2.5, 0.0, -20.0].map(|logit| json!(sigmoid(logit)))
    );
    assert_eq!(
        rows[0].as_object().map(|row| row.len()),
        Some(2),
        "no text unless asked for"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hosted_rerankers() {
    let server = NatsServer::start();
    let script = |asked: Asked| {
        assert!(asked.request.raw_scores && asked.request.model.is_none());
        right(asked)
    };
    let _worker = Fake::start(&server, "w", script).await;
    let gateway = Gateway::start(&server.url, &[]);
    let documents = json!([TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]);
    let mut body =
        json!({"model": "rerank-v3.5", "query": "q", "documents": documents, "top_n": 2, "max_tokens_per_doc": 512});

    let v1 = gateway.post("/v1/rerank", &body).ok();
    assert_eq!(column(&v1["results"], "index"), [json!(1), json!(0)]);
    assert_eq!(
        column(&v1["results"], "relevance_score"),
        [json!(sigmoid(2.5)), json!(0.5)]
    );
    assert_eq!(
        column(&v1["results"], "document"),
        [json!({"text": TEXTS[1]}), json!({"text": TEXTS[0]})]
    );
    assert_eq!(
        v1["usage"],
        json!({"total_tokens": 30, "prompt_tokens": 30, "completion_tokens": 0})
    );
    assert_eq!(
        (&v1["model"], &v1["meta"]["api_version"]["version"]),
        (&json!("scripted"), &json!("1"))
    );

    let v2 = gateway.post("/v2/rerank", &body).ok();
    assert_eq!(
        column(&v2["results"], "relevance_score"),
        column(&v1["results"], "relevance_score")
    );
    assert_eq!(v2["results"][0].get("document"), None);
    assert_eq!(v2["meta"]["billed_units"], json!({"search_units": 1}));
    assert_eq!(v2["meta"]["tokens"], json!({"input_tokens": 30}));
    assert!(v2["id"].is_string() && v2["id"] != v1["id"]);

    for (path, returned) in [("/v1/rerank", false), ("/v2/rerank", true)] {
        body["return_documents"] = returned.into();
        let answer = gateway.post(path, &body).ok();
        assert_eq!(answer["results"][0].get("document").is_some(), returned, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_documents_is_no_work() {
    let server = NatsServer::start();
    let worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::start(&server.url, &[]);
    let own = gateway.post("/rerank", &json!({"query": "q", "documents": []})).ok();
    assert_eq!((&own["rankings"], &own["top_k_applied"]), (&json!([]), &json!(false)));
    assert_eq!(
        gateway.post("/rerank", &json!({"query": "q", "texts": []})).ok(),
        json!([])
    );
    for path in ["/v1/rerank", "/v2/rerank"] {
        assert_eq!(
            gateway
                .post(path, &json!({"query": "q", "documents": [], "top_n": 3}))
                .ok()["results"],
            json!([])
        );
    }
    assert_eq!(worker.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_passed_on_where_it_is_of_account() {
    let server = NatsServer::start();
    let script = |asked: Asked| match asked.request.model.as_deref() {
        Some("mine") => Act::Reply(right_reply(&asked.request)),
        _ => Act::Refuse(nats_rerank::protocol::RefusalKind::UnknownModel),
    };
    let _worker = Fake::start(&server, "w", script).await;
    let gateway = Gateway::start(&server.url, &["gateway.any_model=false"]);
    for path in ["/rerank", "/v1/rerank", "/v2/rerank"] {
        let ask = |model| gateway.post(path, &json!({"model": model, "query": "q", "documents": TEXTS}));
        assert_eq!(ask("mine").status, 200, "{path}");
        let refused = ask("another");
        assert_eq!(refused.status, 404, "{path}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_span_is_passed_on() {
    let server = NatsServer::start();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let script = move |asked: Asked| {
        let traced =
            asked.headers.traceparent.as_deref() == Some(parent) && asked.headers.tracestate.as_deref() == Some("a=b");
        if traced || asked.request.query == "untraced" && asked.headers.traceparent.is_none() {
            right(asked)
        } else {
            Act::Refuse(nats_rerank::protocol::RefusalKind::InvalidRequest)
        }
    };
    let _worker = Fake::start(&server, "w", script).await;
    let gateway = Gateway::start(&server.url, &[]);
    let json = ("Content-Type", "application/json");
    let ask = |query: &str, headers: &[(&str, &str)]| {
        let body = json!({"query": query, "documents": TEXTS});
        crate::http::post(&gateway.address, "/v2/rerank", headers, &body).status
    };
    assert_eq!(
        ask("traced", &[json, ("traceparent", parent), ("tracestate", "a=b")]),
        200
    );
    // One that cannot be understood is none, as on the wire.
    assert_eq!(ask("untraced", &[json, ("traceparent", "nonsense")]), 200);
    assert_eq!(ask("untraced", &[json]), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_without_scores_comes_last_and_is_told() {
    let server = NatsServer::start();
    // The second half is refused, however often it is asked for.
    let script = |asked: Asked| {
        if asked
            .request
            .documents
            .iter()
            .any(|document| document.text.contains("refused"))
        {
            Act::Refuse(nats_rerank::protocol::RefusalKind::Internal)
        } else {
            right(asked)
        }
    };
    let _worker = Fake::start(&server, "w", script).await;
    let gateway = Gateway::start(&server.url, &["gateway.split_pairs=2"]);
    let documents = ["a 1", "b 2", "refused 9", "refused 8"];
    let answer = gateway.post("/v2/rerank", &json!({"query": "q", "documents": documents}));
    let body = answer.ok();
    assert_eq!(answer.header("Rerank-Partial"), Some("internal"));
    assert_eq!(
        column(&body["results"], "index"),
        [json!(1), json!(0), json!(2), json!(3)]
    );
    let scores: Vec<f64> = column(&body["results"], "relevance_score")
        .iter()
        .filter_map(Value::as_f64)
        .collect();
    assert!(
        scores.windows(2).all(|pair| pair[0] > pair[1]) && scores[3] > 0.0,
        "{scores:?}"
    );
    assert_eq!(gateway.stats()["requests"]["partial"], 1);
}
