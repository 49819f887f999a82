//! What there is when there is no ranking.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nats_rerank::protocol::RefusalKind;
use serde_json::{Value, json};

use crate::fakes::{Act, Asked, Fake, right};
use crate::http;
use crate::nats_server::NatsServer;
use crate::process::Gateway;

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn body(documents: usize) -> Value {
    let texts: Vec<String> = (0..documents).map(|place| format!("text {place}")).collect();
    json!({"query": "q", "documents": texts})
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_means_the_order_they_came_in_with_falling_scores() {
    let server = NatsServer::start();
    let gateway = Gateway::start(&server.url, &[]);
    let own = gateway.post("/rerank", &body(4));
    assert_eq!(own.header("Rerank-Fallback"), Some("no_responders"));
    let expected: Vec<Value> = [1.0, 0.75, 0.5, 0.25]
        .iter()
        .enumerate()
        .map(|(index, score)| json!({"index": index, "score": score}))
        .collect();
    assert_eq!(own.ok()["rankings"], json!(expected));
    assert_eq!(own.ok()["model"], Value::Null);

    let tei = gateway.post(
        "/rerank",
        &json!({"query": "q", "texts": ["a", "b"], "return_text": true}),
    );
    assert_eq!(tei.header("Rerank-Fallback"), Some("no_responders"));
    assert_eq!(
        tei.ok(),
        json!([
            {"index": 0, "score": 1.0, "text": "a", "fallback": "no_responders"},
            {"index": 1, "score": 0.5, "text": "b", "fallback": "no_responders"},
        ])
    );

    for path in ["/v1/rerank", "/v2/rerank"] {
        let mut body = body(4);
        body["top_n"] = 2.into();
        body["model"] = "rerank-v3.5".into();
        let answer = gateway.post(path, &body);
        assert_eq!(answer.header("Rerank-Fallback"), Some("no_responders"));
        let results = &answer.ok()["results"];
        assert_eq!(
            (&results[0]["relevance_score"], &results[1]["relevance_score"]),
            (&json!(1.0), &json!(0.75))
        );
        assert_eq!(results.as_array().map(Vec::len), Some(2));
        assert_eq!(answer.ok()["model"], "rerank-v3.5");
    }
    let stats = gateway.stats();
    assert_eq!(
        (&stats["requests"]["ann"], &stats["fallbacks"]["no_responders"]),
        (&json!(4), &json!(4))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn as_an_error_it_is_503_in_every_dialect() {
    let server = NatsServer::start();
    let gateway = Gateway::start(&server.url, &["gateway.on_failure=error"]);
    let tei = json!({"query": "q", "texts": ["a"]});
    for (path, body, place) in [
        ("/rerank", body(1), "/error/message"),
        ("/rerank", tei, "/error"),
        ("/v1/rerank", body(1), "/detail"),
        ("/v1/rerank", body(1), "/error/message"),
        ("/v2/rerank", body(1), "/message"),
    ] {
        let answer = gateway.post(path, &body);
        assert_eq!(
            (answer.status, answer.header("Retry-After")),
            (503, Some("1")),
            "{answer:?}"
        );
        let told = answer.json();
        let message = told.pointer(place).and_then(Value::as_str);
        assert!(
            message.is_some_and(|message| message.contains("no worker listens")),
            "{told}"
        );
    }
    // Asking costs no time where nobody listens, so that however often it is asked no circuit opens.
    let own = gateway.post("/rerank", &body(1)).json();
    assert_eq!(
        (&own["error"]["kind"], &own["error"]["retryable"]),
        (&json!("no_responders"), &json!(true))
    );
    assert_eq!(
        gateway.post("/rerank", &json!({"query": "q", "texts": ["a"]})).json()["error_type"],
        "Unhealthy"
    );
    // Nothing to rank cannot fail.
    assert_eq!(gateway.post("/rerank", &body(0)).status, 200);
    assert_eq!(gateway.stats()["requests"]["failed"], 7);
    assert_eq!(gateway.stats()["circuit"], "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_nats_server_it_starts_and_is_ready_once_there_is_one() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = port.expect("a port").port().to_string();
    let gateway = Gateway::spawn(&format!("nats://127.0.0.1:{port}"), &["gateway.timeout_ms=20000"], &[]);
    assert_eq!(gateway.get("/livez").status, 200);
    let unready = gateway.get("/readyz");
    assert_eq!(
        (unready.status, unready.json()["connected"].clone()),
        (503, json!(false))
    );
    assert_eq!(gateway.get("/health").status, 503);
    let answer = gateway.post("/v1/rerank", &body(2));
    assert_eq!(
        (answer.status, answer.header("Rerank-Fallback")),
        (200, Some("disconnected"))
    );

    let server = NatsServer::start_with(&["-p", &port]);
    let _worker = Fake::start(&server, "w", right).await;
    gateway.wait_ready();
    let answer = gateway.post("/v1/rerank", &body(2));
    assert_eq!(
        (answer.status, answer.header("Rerank-Fallback")),
        (200, None),
        "{answer:?}"
    );

    drop(server);
    let ready = || (gateway.get("/readyz").status == 503).then_some(());
    crate::process::wait("unready", ready);
    assert_eq!(
        gateway.post("/v1/rerank", &body(2)).header("Rerank-Fallback"),
        Some("disconnected")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_request_is_to_blame_for_is_an_error_whatever_the_settings_say() {
    let server = NatsServer::start();
    let script = |asked: Asked| match asked.request.query.as_str() {
        "invalid" => Act::Refuse(RefusalKind::InvalidRequest),
        "large" => Act::Refuse(RefusalKind::TooLarge),
        "unknown" => Act::Refuse(RefusalKind::UnknownModel),
        "internal" => Act::Refuse(RefusalKind::Internal),
        _ => Act::Refuse(RefusalKind::Overloaded),
    };
    let _worker = Fake::start(&server, "w", script).await;
    for on_failure in ["ann", "error"] {
        let gateway = Gateway::start(&server.url, &[&format!("gateway.on_failure={on_failure}")]);
        for path in ["/rerank", "/v1/rerank", "/v2/rerank"] {
            let ask = |query: &str| {
                let mut body = body(2);
                body["query"] = query.into();
                gateway.post(path, &body)
            };
            for (query, status) in [("invalid", 400), ("large", 413), ("unknown", 404)] {
                let answer = ask(query);
                assert_eq!(answer.status, status, "{path} {answer:?}");
                assert!(answer.body.contains("as scripted"), "{answer:?}");
            }
            // Few enough for the circuit to stay closed.
            let failing = [("busy", "overloaded"), ("internal", "internal")];
            for (query, reason) in failing.into_iter().take(if path == "/rerank" { 2 } else { 1 }) {
                let answer = ask(query);
                let fallback = answer.header("Rerank-Fallback");
                if on_failure == "ann" {
                    assert_eq!((answer.status, fallback), (200, Some(reason)), "{path}");
                } else {
                    assert_eq!((answer.status, fallback), (503, None), "{path}");
                }
            }
        }
        assert_eq!(gateway.stats()["requests"]["invalid"], 9);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_lowers_the_budget_and_never_raises_it() {
    let server = NatsServer::start();
    let budgets = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = budgets.clone();
    let silent = Arc::new(AtomicUsize::new(0));
    let is_silent = silent.clone();
    let script = move |asked: Asked| {
        let budget = asked
            .headers
            .timeout_ms
            .as_deref()
            .and_then(|ms| ms.parse::<f64>().ok());
        seen.lock().unwrap().push(budget.expect("a budget"));
        if is_silent.load(Ordering::SeqCst) == 1 {
            Act::Silence
        } else {
            right(asked)
        }
    };
    let _worker = Fake::start(&server, "w", script).await;
    let gateway = Gateway::start(&server.url, &["gateway.timeout_ms=50000"]);
    let ask = |headers: &[(&str, &str)], timeout_ms: Option<u64>| {
        let mut body = body(2);
        if let Some(timeout_ms) = timeout_ms {
            body["timeout_ms"] = timeout_ms.into();
        }
        http::post(&gateway.address, "/rerank", &[&[JSON], headers].concat(), &body)
    };
    for (headers, in_body, above, at_most) in [
        (&[][..], None, 40_000.0, 50_000.0),
        (&[("Rerank-Timeout-Ms", "30000")][..], None, 20_000.0, 30_000.0),
        (&[("rerank-timeout-ms", "90000")][..], None, 40_000.0, 50_000.0),
        (&[][..], Some(35_000), 25_000.0, 35_000.0),
        (&[("Rerank-Timeout-Ms", "30000")][..], Some(20_000), 20_000.0, 30_000.0),
    ] {
        assert_eq!(ask(headers, in_body).status, 200);
        let budget = budgets.lock().unwrap().pop().expect("a request");
        assert!(budget > above && budget <= at_most, "{headers:?} {in_body:?}: {budget}");
    }
    for wrong in ["soon", "0", "-5", "1e3"] {
        let answer = ask(&[("Rerank-Timeout-Ms", wrong)], None);
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(
            answer.json()["error"]["message"]
                .as_str()
                .is_some_and(|text| text.contains("Rerank-Timeout-Ms"))
        );
    }
    silent.store(1, Ordering::SeqCst);
    let late = ask(&[("Rerank-Timeout-Ms", "150")], None);
    assert_eq!((late.status, late.header("Rerank-Fallback")), (200, Some("timed_out")));
}
