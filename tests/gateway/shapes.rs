//! Each row of the gateway's table by its documented exchange, and what holds for all of them.

use std::io::Write;

use nats_rerank::protocol::RefusalKind;
use serde_json::{Value, json};

use crate::fakes::{Act, Asked, Fake, right, right_reply};
use crate::nats_server::NatsServer;
use crate::process::Gateway;

/// The scripted workers take the number at the end of a text for its logit.
const TEXTS: [&str; 3] = ["the first 0", "the second 2.5", "the third -20"];

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

fn usage() -> Value {
    json!({"total_tokens": 30, "prompt_tokens": 30, "completion_tokens": 0})
}

/// The body without what is another one each time.
fn settled(mut body: Value) -> Value {
    if let Some(body) = body.as_object_mut() {
        body.retain(|name, _| name != "id" && name != "created" && name != "meta");
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_answers_in_the_shape_that_its_clients_read() {
    let server = NatsServer::start();
    let script = |asked: Asked| {
        // As a worker whose model names Sigmoid does it.
        let mut reply = right_reply(&asked.request);
        if !asked.request.raw_scores {
            for ranking in &mut reply.rankings {
                ranking.score = 1.0 / (1.0 + (-ranking.score).exp());
            }
        }
        Act::Reply(reply)
    };
    let _worker = Fake::start(&server, "w", script).await;
    let gateway = Gateway::start(&server.url, &[]);
    let passages: Vec<Value> = TEXTS.iter().map(|text| json!({"text": text})).collect();
    let scores = [sigmoid(2.5), 0.5, sigmoid(-20.0)];
    let results = |document: fn(usize) -> Value| {
        let rows = [(1, scores[0]), (0, scores[1]), (2, scores[2])];
        let rows = rows.map(|(index, score)| {
            let mut row = json!({"index": index, "relevance_score": score});
            if document(index) != Value::Null {
                row["document"] = document(index);
            }
            row
        });
        json!(rows)
    };
    let none = |_| Value::Null;
    let v1 = json!({
        "object": "list", "model": "scripted", "results": results(|index| json!({"text": TEXTS[index]})), "data": results(none),
        "usage": usage(),
    });
    let nvidia = json!({
        "rankings": [{"index": 1, "logit": 2.5}, {"index": 0, "logit": 0.0}, {"index": 2, "logit": -20.0}], "usage": usage(),
    });
    let nvidia_request =
        json!({"model": "nvidia/reranker", "query": {"text": "q"}, "passages": passages, "truncate": "END"});
    let score = json!({
        "object": "list", "model": "scripted", "usage": usage(),
        "data": [
            {"index": 0, "object": "score", "score": 0.5},
            {"index": 1, "object": "score", "score": scores[0]},
            {"index": 2, "object": "score", "score": scores[2]},
        ],
    });
    let plain = json!({"model": "m", "query": "q", "documents": TEXTS});
    let zeroentropy = json!({"results": results(none), "total_bytes": 39, "total_tokens": 30});
    let score_request = json!({"model": "m", "text_1": "q", "text_2": TEXTS});
    for (path, request, expected) in [
        // Jina, vLLM, LocalAI, LiteLLM; OpenVINO Model Server; llama.cpp.
        ("/v1/rerank", plain.clone(), v1.clone()),
        ("/v3/rerank", plain.clone(), v1.clone()),
        ("/reranking", plain.clone(), v1.clone()),
        ("/v1/reranking", plain.clone(), v1.clone()),
        // Cohere.
        (
            "/v2/rerank",
            plain.clone(),
            json!({"model": "scripted", "results": results(none)}),
        ),
        // Voyage reads `data`, where a document is a string.
        (
            "/v1/rerank",
            json!({"model": "rerank-2", "query": "q", "documents": TEXTS, "return_documents": true, "truncation": true}),
            json!({
                "object": "list", "model": "scripted", "results": results(|index| json!({"text": TEXTS[index]})),
                "data": results(|index| json!(TEXTS[index])), "usage": usage(),
            }),
        ),
        // Mixedbread.
        (
            "/v1/reranking",
            json!({"model": "mxbai", "query": "q", "input": TEXTS, "top_k": 2, "return_input": true}),
            json!({
                "object": "list", "model": "scripted", "usage": usage(), "top_k": 2, "return_input": true,
                "data": [
                    {"index": 1, "score": scores[0], "input": TEXTS[1], "object": "rank_result"},
                    {"index": 0, "score": 0.5, "input": TEXTS[0], "object": "rank_result"},
                ],
            }),
        ),
        ("/models/rerank", plain.clone(), zeroentropy.clone()),
        ("/v1/models/rerank", plain.clone(), zeroentropy),
        ("/ranking", nvidia_request.clone(), nvidia.clone()),
        ("/v1/ranking", nvidia_request.clone(), nvidia.clone()),
        ("/v1/retrieval/nvidia/reranker/reranking", nvidia_request, nvidia),
        ("/score", score_request.clone(), score.clone()),
        ("/v1/score", score_request, score),
        // Weaviate's reranker-transformers.
        (
            "/rerank",
            json!({"query": "q", "documents": TEXTS, "property": ""}),
            json!({"query": "q", "scores": [
                {"document": TEXTS[0], "score": 0.5}, {"document": TEXTS[1], "score": scores[0]},
                {"document": TEXTS[2], "score": scores[2]},
            ]}),
        ),
    ] {
        let answer = gateway.post(path, &request);
        assert_eq!(settled(answer.ok()), expected, "{path} {request}");
    }
    // vLLM, infinity, llama.cpp, LiteLLM's hosted_vllm and infinity: at the path of the own shape.
    let single = |score: f64| f64::from(1.0 / (1.0 + (-(score as f32)).exp()));
    let own = gateway
        .post(
            "/rerank",
            &json!({"model": "m", "query": "q", "documents": TEXTS, "return_documents": true}),
        )
        .ok();
    let relevance: Vec<f64> = column(&own["results"], "relevance_score")
        .iter()
        .filter_map(Value::as_f64)
        .collect();
    assert!(
        relevance
            .iter()
            .zip([2.5, 0.0, -20.0])
            .all(|(found, logit)| (found - single(logit)).abs() < 1e-6),
        "{own}"
    );
    assert_eq!(own["results"][0]["document"], json!({"text": TEXTS[1]}));
    assert_eq!((&own["model"], &own["object"]), (&json!("scripted"), &json!("rerank")));
    // infinity's clients send raw_scores, and read a string.
    let infinity =
        json!({"model": "m", "query": "q", "documents": TEXTS, "return_documents": true, "raw_scores": true});
    let own = gateway.post("/rerank", &infinity).ok();
    assert_eq!(
        own["results"][0],
        json!({"index": 1, "relevance_score": 2.5, "document": TEXTS[1]})
    );
    // LiteLLM's infinity does not send it, and is told apart by the path.
    let litellm = json!({"model": "m", "query": "q", "documents": TEXTS, "return_documents": true});
    let own = gateway.post("/infinity/rerank", &litellm).ok();
    assert_eq!(own["results"][0]["document"], TEXTS[1]);
}

fn column(rows: &Value, name: &str) -> Vec<Value> {
    rows.as_array()
        .expect("an array")
        .iter()
        .map(|row| row[name].clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_ranking_reaches_the_workers() {
    let server = NatsServer::start();
    // The script answers with what it was asked, as a ranking.
    let script = |asked: Asked| {
        let request = &asked.request;
        let good = match request.query.as_str() {
            "limits" => request.max_tokens_per_document == Some(64) && request.max_tokens_per_pair == Some(128),
            "logits" => request.raw_scores,
            "half \u{fffd}" => request.documents[0].text == "\u{fffd} 1",
            "fields" => request.documents[0].text == "title: T\nn: 1",
            "named" => request.documents[0].text == "1\nT",
            "whole" => !request.truncate,
            _ => false,
        };
        if good {
            right(asked)
        } else {
            Act::Refuse(RefusalKind::InvalidRequest)
        }
    };
    let _worker = Fake::start(&server, "w", script).await;
    let gateway = Gateway::start(&server.url, &[]);
    let json = ("Content-Type", "application/json");
    for body in [
        r#"{"query": "limits", "documents": "a 1", "max_tokens_per_doc": 64, "truncate_prompt_tokens": "128"}"#,
        r#"{"query": "logits", "documents": ["a 1"], "use_activation": false, "top_n": 0}"#,
        r#"{"query": "logits", "documents": ["a 1"], "raw_scores": "true", "top_n": 1.0}"#,
        r#"{"query": "half \ud83d", "documents": ["\udc00 1"]}"#,
        r#"{"query": "fields", "documents": [{"title": "T", "n": 1}]}"#,
        r#"{"query": "named", "documents": [{"title": "T", "n": 1}], "rank_fields": ["n", "title"]}"#,
        r#"{"query": "whole", "documents": ["a 1"], "truncate": false}"#,
    ] {
        for path in ["/rerank", "/v1/rerank", "/v3/rerank"] {
            let stream = crate::http::start(&gateway.address, "POST", path, &[json], body);
            let answer = crate::http::finish(stream);
            assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
            let raw = body.contains("logits");
            let score = answer.ok()["results"][0]["relevance_score"].as_f64();
            assert!(!raw || score == Some(1.0), "{path} {body}: {answer:?}");
        }
    }
    // An object comes back as it was sent.
    let body = r#"{"query": "fields", "documents": [{"title": "T", "n": 1}], "return_documents": true}"#;
    let stream = crate::http::start(&gateway.address, "POST", "/v2/rerank", &[json], body);
    let answer = crate::http::finish(stream);
    assert!(answer.body.contains(r#""document":{"title":"T","n":1}"#), "{answer:?}");
    // Cohere's Rerank 5: spans are not there, and that is said.
    let spans =
        json!({"query": "whole", "documents": ["a 1"], "truncate": false, "relevant_spans": {"top": 1}, "priority": 1});
    let answer = gateway.post("/v2/rerank", &spans).ok();
    let warnings = answer["meta"]["warnings"].as_array().map(Vec::len);
    assert!(
        warnings == Some(1)
            && answer["meta"]["warnings"][0]
                .as_str()
                .is_some_and(|text| text.contains("relevant_spans")),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_says_that_nothing_or_only_a_part_was_ranked() {
    let server = NatsServer::start();
    let nobody = Gateway::start(&server.url, &["nats.subject=nobody.listens"]);
    let zero = Gateway::start(
        &server.url,
        &["nats.subject=nobody.listens", "gateway.fallback_scores=zero"],
    );
    let script = |asked: Asked| match asked
        .request
        .documents
        .iter()
        .any(|document| document.text.contains("refused"))
    {
        true => Act::Refuse(RefusalKind::Internal),
        false => right(asked),
    };
    let _worker = Fake::start(&server, "w", script).await;
    let partly = Gateway::start(&server.url, &["gateway.split_pairs=1"]);
    let documents = ["a 1", "b 2", "c 3", "refused 9"];
    let nvidia: Vec<Value> = documents.iter().map(|text| json!({"text": text})).collect();
    let plain = json!({"query": "q", "documents": documents});
    for (path, body, warnings, rows, score) in [
        ("/rerank", plain.clone(), "/warnings/0", "/rankings", "score"),
        ("/rerank", plain.clone(), "/warnings/0", "/results", "relevance_score"),
        (
            "/rerank",
            json!({"query": "q", "documents": documents, "property": ""}),
            "/warnings/0",
            "/scores",
            "score",
        ),
        (
            "/v1/rerank",
            plain.clone(),
            "/meta/warnings/0",
            "/results",
            "relevance_score",
        ),
        (
            "/v2/rerank",
            plain.clone(),
            "/meta/warnings/0",
            "/results",
            "relevance_score",
        ),
        (
            "/v1/models/rerank",
            plain.clone(),
            "/warnings/0",
            "/results",
            "relevance_score",
        ),
        (
            "/v1/reranking",
            json!({"query": "q", "input": documents}),
            "/warnings/0",
            "/data",
            "score",
        ),
        (
            "/ranking",
            json!({"query": {"text": "q"}, "passages": nvidia}),
            "/warnings/0",
            "/rankings",
            "logit",
        ),
        (
            "/score",
            json!({"text_1": "q", "text_2": documents}),
            "/warnings/0",
            "/data",
            "score",
        ),
    ] {
        let answer = nobody.post(path, &body);
        // At first nobody is there, and soon nobody is asked.
        let reason = answer.header("Rerank-Fallback").map(str::to_owned);
        assert!(
            matches!(reason.as_deref(), Some("no_responders" | "circuit_open")),
            "{answer:?}"
        );
        let answer = answer.ok();
        assert_eq!(answer["fallback"], json!(reason), "{path}: {answer}");
        let warning = |answer: &Value| answer.pointer(warnings).and_then(Value::as_str).map(str::to_owned);
        assert!(
            warning(&answer).is_some_and(|text| text.contains("nothing was ranked")),
            "{path}: {answer}"
        );
        let scores = |answer: &Value| column(answer.pointer(rows).expect("rows"), score);
        assert_eq!(
            scores(&answer),
            [1.0, 0.75, 0.5, 0.25].map(|score| json!(score)),
            "{path}"
        );
        assert_eq!(
            scores(&zero.post(path, &body).ok()),
            [0.0; 4].map(|score| json!(score)),
            "{path}"
        );

        let answer = partly.post(path, &body).ok();
        assert_eq!(
            answer["partial"],
            json!({"unscored": 1, "reason": "internal"}),
            "{path}: {answer}"
        );
        assert!(
            warning(&answer).is_some_and(|text| text.contains("not scored: 1 documents")),
            "{path}: {answer}"
        );
    }
    // A bare array has no place beside its rows.
    let tei = json!({"query": "q", "texts": documents});
    let answer = nobody.post("/rerank", &tei);
    let reason = json!(answer.header("Rerank-Fallback").expect("a reason"));
    assert_eq!(column(&answer.ok(), "fallback"), vec![reason; 4]);
    let rows = partly.post("/rerank", &tei).ok();
    assert_eq!(
        column(&rows, "fallback"),
        [Value::Null, Value::Null, Value::Null, json!("internal")]
    );
    // Nothing to say, nothing said.
    let whole = partly
        .post("/v2/rerank", &json!({"query": "q", "documents": ["a 1"]}))
        .ok();
    let said = ["fallback", "partial", "below_min_score"]
        .iter()
        .any(|field| whole.get(*field).is_some());
    assert!(!said && whole["meta"].get("warnings").is_none(), "{whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_score_holds_for_the_score_as_it_is_returned() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::start(&server.url, &[]);
    let nobody = Gateway::start(&server.url, &["nats.subject=nobody.listens"]);
    let rows = |answer: &Value, pointer: &str| answer.pointer(pointer).and_then(Value::as_array).map(Vec::len);
    for (path, body, pointer, kept, below) in [
        (
            "/v1/rerank",
            json!({"query": "q", "documents": TEXTS, "min_score": 0.5}),
            "/results",
            2,
            1,
        ),
        (
            "/v2/rerank",
            json!({"query": "q", "documents": TEXTS, "min_score": 0.5, "top_n": 2}),
            "/results",
            2,
            0,
        ),
        (
            "/v1/rerank",
            json!({"query": "q", "documents": TEXTS, "min_score": 1, "raw_scores": true}),
            "/results",
            1,
            2,
        ),
        (
            "/rerank",
            json!({"query": "q", "documents": TEXTS, "min_score": 0.0}),
            "/rankings",
            2,
            1,
        ),
        (
            "/v1/score",
            json!({"text_1": "q", "text_2": TEXTS, "min_score": 2}),
            "/data",
            0,
            3,
        ),
        (
            "/rerank",
            json!({"query": "q", "texts": TEXTS, "min_score": 0.6}),
            "",
            1,
            2,
        ),
    ] {
        let answer = gateway.post(path, &body);
        assert_eq!(rows(&answer.ok(), pointer), Some(kept), "{path} {body}: {answer:?}");
        assert_eq!(
            answer.header("Rerank-Below-Min-Score"),
            Some(below.to_string().as_str())
        );
        let told = answer.ok();
        assert!(pointer.is_empty() || told["below_min_score"] == below, "{path}: {told}");
        // Nothing was learned about the documents, so nothing is left out.
        let answer = nobody.post(path, &body).ok();
        let expected = if body.get("top_n").is_some() { 2 } else { 3 };
        assert_eq!(rows(&answer, pointer), Some(expected), "{path}: {answer}");
    }
    let answer = gateway.post(
        "/v1/rerank",
        &json!({"query": "q", "documents": TEXTS, "min_score": "high"}),
    );
    assert!(
        answer.status == 400 && answer.body.contains("`min_score`"),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_with_a_query_each_are_one_answer() {
    let server = NatsServer::start();
    let script = |asked: Asked| match asked.request.query.as_str() {
        "refused" => Act::Refuse(RefusalKind::Internal),
        _ => right(asked),
    };
    let worker = Fake::start(&server, "w", script).await;
    let gateway = Gateway::start(&server.url, &[]);
    let body = json!({"text_1": ["q", "q", "other"], "text_2": TEXTS, "use_activation": false});
    let answer = gateway.post("/score", &body).ok();
    assert_eq!(
        column(&answer["data"], "score"),
        [0.0, 2.5, -20.0].map(|score| json!(score))
    );
    assert_eq!(
        (answer["usage"]["total_tokens"].as_u64(), worker.asked()),
        (Some(30), 2)
    );
    let answer = gateway
        .post("/score", &json!({"text_1": ["q", "refused", "q"], "text_2": TEXTS}))
        .ok();
    assert_eq!(column(&answer["data"], "index"), [0, 1, 2].map(|index| json!(index)));
    assert_eq!(answer["partial"]["unscored"], 1, "{answer}");
    let refused = gateway.post("/score", &json!({"text_1": ["q", "r"], "text_2": TEXTS}));
    assert!(
        refused.status == 400 && refused.json()["detail"].is_string(),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_models_are_chosen_by_name() {
    let server = NatsServer::start();
    let signed = |name: &'static str| {
        move |asked: Asked| {
            if asked.request.model.is_some() {
                return Act::Refuse(RefusalKind::UnknownModel);
            }
            let mut reply = right_reply(&asked.request);
            reply.model = name.to_owned();
            Act::Reply(reply)
        }
    };
    let _default = Fake::start(&server, "d", signed("default-model")).await;
    let _other = Fake::start_on(&server, "rerank.other", "o", signed("other/model")).await;
    let models = "gateway.models=other/model=rerank.other,short=rerank.other";
    let gateway = Gateway::start(&server.url, &[models]);
    let by = |gateway: &Gateway, path: &str, model: &str| {
        let answer = gateway.post(path, &json!({"model": model, "query": "q", "documents": TEXTS}));
        (answer.status == 200).then(|| answer.json()["model"].clone())
    };
    for path in ["/rerank", "/v1/rerank", "/v2/rerank", "/v1/reranking"] {
        assert_eq!(by(&gateway, path, "other/model"), Some(json!("other/model")), "{path}");
        assert_eq!(by(&gateway, path, "short"), Some(json!("other/model")), "{path}");
        assert_eq!(by(&gateway, path, "whatever"), Some(json!("default-model")), "{path}");
    }
    // TEI knows of no models: none is looked for.
    let tei = gateway.post(
        "/rerank",
        &json!({"model": "other/model", "query": "q", "texts": TEXTS}),
    );
    assert_eq!(tei.status, 200);
    let listed = column(&gateway.get("/v1/models").ok()["data"], "id");
    assert_eq!(listed, [json!("default-model"), json!("other/model"), json!("short")]);
    assert_eq!(gateway.get("/models").ok(), gateway.get("/v1/models").ok());
    assert_eq!(gateway.get("/v1/models/other/model").ok()["id"], "other/model");
    assert_eq!(gateway.get("/v1/models/whatever").status, 200);

    let strict = Gateway::start(&server.url, &[models, "gateway.any_model=false"]);
    assert_eq!(by(&strict, "/v1/rerank", "short"), Some(json!("other/model")));
    assert_eq!(by(&strict, "/v1/rerank", "whatever"), None);
    assert_eq!(strict.get("/v1/models/whatever").status, 404);
    assert_eq!(strict.get("/v1/models/short").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workers_say_what_their_limits_are() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::start(&server.url, &[]);
    let unknown = gateway.get("/info").ok();
    assert_eq!(
        (&unknown["max_input_length"], &unknown["model_dtype"]),
        (&Value::Null, &Value::Null)
    );

    let told = |subject: &str, length_max: &str| {
        let metadata = json!({
            "model": "told", "precision": "bf16", "length_max": length_max, "batch_tokens_max": "8192", "documents_max": "100",
        });
        json!({"name": "rerank", "id": subject, "metadata": metadata, "endpoints": [{"subject": subject}]}).to_string()
    };
    let answers = [
        told("rerank.v1.score", "512"),
        told("rerank.v1.score", "256"),
        // Another model's worker, and nonsense.
        told("another.subject", "8"),
        "nonsense".to_owned(),
    ];
    let client = async_nats::connect(&server.url).await.expect("a connection");
    let mut asked = client.subscribe("$SRV.INFO.rerank").await.expect("a subscription");
    client.flush().await.expect("flushed");
    tokio::spawn(async move {
        while let Some(message) = futures_util::StreamExt::next(&mut asked).await {
            let inbox = message.reply.expect("an inbox");
            for answer in &answers {
                client
                    .publish(inbox.clone(), answer.clone().into())
                    .await
                    .expect("published");
            }
        }
    });
    let told = crate::process::wait("the limits", || {
        let info = gateway.get("/info").ok();
        (info["max_input_length"] != Value::Null).then_some(info)
    });
    assert_eq!(
        [
            &told["max_input_length"],
            &told["max_batch_tokens"],
            &told["max_client_batch_size"],
            &told["tokenization_workers"]
        ],
        [&json!(256), &json!(8192), &json!(100), &json!(2)]
    );
    assert_eq!(told["model_dtype"], "bfloat16");
    assert_eq!(gateway.get("/meta").ok()["subject"], "rerank.v1.score");
}

#[tokio::test(flavor = "multi_thread")]
async fn slashes_too_many_are_forgiven() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::start(&server.url, &["gateway.token=secret"]);
    let body = json!({"query": "q", "documents": TEXTS});
    let token = [("Content-Type", "application/json"), ("Authorization", "Bearer secret")];
    for path in [
        "//v1/rerank",
        "/v1//rerank/",
        "/v2/rerank///",
        "//rerank",
        "/v1/rerank/?a=b",
    ] {
        let answer = crate::http::post(&gateway.address, path, &token, &body);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        // The door is the same one.
        assert_eq!(gateway.post(path, &body).status, 401, "{path}");
    }
    assert_eq!(gateway.get("//readyz/").status, 200);
    assert_eq!(gateway.get("/v1//nothing/").status, 404);
    for path in ["/ping", "/.well-known/ready", "/.well-known/live"] {
        assert_eq!(gateway.get(path).status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_body_is_read_within_the_limit() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::start(&server.url, &["gateway.body_bytes_max=4096"]);
    let send = |encoding: &str, body: &[u8]| {
        let head = format!(
            "Content-Type: application/json\r\nContent-Encoding: {encoding}\r\nContent-Length: {}",
            body.len()
        );
        let mut stream = std::net::TcpStream::connect(&gateway.address).expect("the gateway");
        stream.set_read_timeout(Some(crate::PATIENCE)).expect("a time-out");
        let head = format!("POST /v1/rerank HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n{head}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body].concat()).expect("sent");
        crate::http::finish(stream)
    };
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text.as_bytes()).expect("memory");
        encoder.finish().expect("memory")
    };
    let body = json!({"query": "q", "documents": TEXTS}).to_string();
    for encoding in ["gzip", "x-gzip", "GZIP"] {
        assert_eq!(send(encoding, &gzip(&body)).status, 200, "{encoding}");
    }
    assert_eq!(send("identity", body.as_bytes()).status, 200);
    // Small on the way, large in memory.
    let bomb = gzip(&format!(
        r#"{{"query": "q", "documents": ["{}"]}}"#,
        "a".repeat(8 << 20)
    ));
    let some = gzip(&format!(r#"{{"query": "q", "documents": ["{}"]}}"#, "a".repeat(5000)));
    for body in [&bomb, &some] {
        let refused = send("gzip", body);
        assert!(
            refused.status == 413 && refused.body.contains("body_bytes_max"),
            "{refused:?}"
        );
    }
    for broken in [&gzip(&body)[..20], body.as_bytes(), b""] {
        let refused = send("gzip", broken);
        assert!(refused.status == 400, "{refused:?}");
    }
    for other in ["br", "deflate", "zstd", "gzip, gzip"] {
        let refused = send(other, &gzip(&body));
        assert!(
            refused.status == 415 && refused.body.contains("Content-Encoding"),
            "{other}: {refused:?}"
        );
    }
}
