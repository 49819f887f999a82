//! Oversized everything: each is a clear refusal that names limit and value, and disturbs nobody else.

use nats_rerank::client::{CallError, CallOptions, Caller};
use nats_rerank::nats::ConnectionSettings;
use nats_rerank::protocol::{Encoding, RefusalKind, Request};

use crate::support::nats_server::NatsServer;
use crate::support::worker::Worker;
use crate::support::{PATIENCE, RawCaller, reference};

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_over_the_servers_max_payload_is_a_refusal_that_says_so() {
    let server = NatsServer::start_configured("max_payload: 8192", &[]);
    let _worker = Worker::start(&server.url, &reference("bert-small"), &[]);
    let caller = RawCaller::connect(&server.url).await;
    let text = "word ".repeat(60);
    let documents = std::iter::repeat_n(text.as_str(), 24);
    let mut request = Request::new("q", documents);
    assert!(request.encode(Encoding::Json).len() < 8192);
    request.return_documents = true;
    let refusal = caller.ask(&request).await.refused();
    assert_eq!(refusal.kind, RefusalKind::TooLarge);
    assert!(
        refusal.message.contains("max_payload is 8192") && refusal.message.contains("return_documents"),
        "{}",
        refusal.message
    );
    request.top_k = std::num::NonZeroUsize::new(3).map(Into::into);
    assert_eq!(caller.ask(&request).await.scored().rankings.len(), 3);
    request.top_k = None;
    request.return_documents = false;
    assert_eq!(caller.ask(&request).await.scored().rankings.len(), 24);

    // A request over it never leaves the caller.
    let settings = ConnectionSettings {
        urls: vec![server.url.clone()],
        ..ConnectionSettings::default()
    };
    let caller = Caller::connect(&settings).await.expect("a connection");
    let request = Request::new("q", std::iter::repeat_n(text.as_str(), 30));
    let options = CallOptions {
        timeout: PATIENCE,
        ..CallOptions::default()
    };
    let before = server.monitor("/varz")["in_msgs"].clone();
    let error = caller.rerank(&request, &options).await.expect_err("too large");
    match error {
        CallError::TooLarge { bytes, bytes_max } => assert!(bytes > 8192 && bytes_max == 8192, "{bytes}, {bytes_max}"),
        error => panic!("{error}"),
    }
    assert_eq!(server.monitor("/varz")["in_msgs"], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_too_much_is_refused_by_name_and_disturbs_nobody() {
    let server = NatsServer::start();
    let worker = Worker::start(
        &server.url,
        &reference("bert-small"),
        &["limits.documents_max=1000", "limits.document_bytes_max=100000"],
    );
    let caller = RawCaller::connect(&server.url).await;
    let polite = Request::new("q", ["a", "b"]);
    const MIB: usize = 1 << 20;
    let text = |bytes: usize| "x".repeat(bytes);
    let padded =
        |head: &str, tail: &str, bytes: usize| format!("{head}{}{tail}", text(bytes - head.len() - tail.len()));
    let one = |field: &str| format!("{{\"query\":\"q\",\"documents\":[\"a\"],{field}}}");
    let cases: Vec<(&str, String, u16, &str)> = vec![
        (
            "documents",
            format!("{{\"query\":\"q\",\"documents\":[{}\"a\"]}}", "\"a\",".repeat(1000)),
            413,
            "1000",
        ),
        (
            "half a million documents",
            format!("{{\"query\":\"q\",\"documents\":[{}\"\"]}}", "\"\",".repeat(340_000)),
            413,
            "1000",
        ),
        (
            "a document",
            padded("{\"query\":\"q\",\"documents\":[\"a\",\"", "\"]}", MIB - 1),
            413,
            "documents[1]",
        ),
        (
            "a query",
            padded("{\"documents\":[\"a\"],\"query\":\"", "\"}", MIB - 1),
            413,
            "query_bytes_max",
        ),
        (
            "an id",
            padded(
                "{\"query\":\"q\",\"documents\":[{\"text\":\"a\",\"id\":\"",
                "\"}]}",
                MIB - 1,
            ),
            413,
            "max_payload",
        ),
        ("open arrays", text(0) + &"[".repeat(MIB - 1), 400, ""),
        ("open objects", "{\"a\":".repeat(MIB / 5), 400, ""),
        (
            "a number",
            one(&format!("\"top_k\":{}", "9".repeat(100_000))),
            400,
            "top_k",
        ),
        ("a field's name", padded("{\"", "\":1}", MIB - 1), 400, "query"),
        ("nothing but a text", padded("\"", "\"", MIB - 1), 400, "object"),
    ];
    for (what, body, code, names) in cases {
        let answer = caller.ask_json(&body).await;
        let refusal = answer.refused();
        assert_eq!(refusal.kind.code(), code, "{what}: {refusal}");
        assert!(refusal.message.contains(names), "{what}: {}", refusal.message);
        assert!(
            !refusal.message.contains("xxxx"),
            "{what}: content in {}",
            refusal.message
        );
        caller.ask(&polite).await.scored();
    }
    // A field that is ignored may be as large and as deep as it likes.
    let field = padded("{\"query\":\"q\",\"documents\":[\"a\"],\"ignored\":\"", "\"}", MIB - 1);
    caller.ask_json(&field).await.scored();
    let deep = one(&format!("\"deep\":{}{}", "[".repeat(400_000), "]".repeat(400_000)));
    caller.ask_json(&deep).await.scored();
    // Headers: one of nearly a megabyte, many, and one that means something.
    let body = polite.encode(Encoding::Json);
    let long = text(MIB - body.len() - 200);
    caller
        .send(body.clone(), &[("X-Long", &long)], Encoding::Json)
        .await
        .scored();
    let names: Vec<String> = (0..5000).map(|place| format!("X-{place}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    caller.send(body.clone(), &many, Encoding::Json).await.scored();
    for name in ["Rerank-Timeout-Ms", "Rerank-Deadline-Unix-Ms", "Content-Type"] {
        let refusal = caller
            .send(body.clone(), &[(name, &text(500_000))], Encoding::Json)
            .await
            .refused();
        assert_eq!(refusal.kind, RefusalKind::InvalidRequest, "{name}");
        assert!(
            refusal.message.contains(name) && refusal.message.len() <= 300,
            "{}",
            refusal.message
        );
    }
    caller
        .send(body, &[("traceparent", &text(500_000))], Encoding::Json)
        .await
        .scored();
    assert_eq!(worker.count_log("panick"), 0, "{}", worker.log());
    assert_eq!(worker.count_log("connected to NATS"), 1, "{}", worker.log());
}
