//! Who is let in, and with what.

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::PATIENCE;
use crate::fakes::{Act, Fake, right};
use crate::http::{self, finish, get, start};
use crate::nats_server::NatsServer;
use crate::process::{Gateway, wait};
use crate::worker::program;

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn body() -> Value {
    json!({"query": "q", "documents": ["a 1", "b 2"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_where_it_matters_and_shown_nowhere() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", right).await;
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(b"hunter2\n").expect("room for it");
    let from_file = format!("gateway.token_file={}", file.path().display());
    let by_file = Gateway::spawn(&server.url, &[&from_file, "log.level=debug"], &[]);
    let by_environment = Gateway::spawn(
        &server.url,
        &["log.level=debug"],
        &[("RERANK_GATEWAY__TOKEN", "hunter2")],
    );
    for gateway in [&by_file, &by_environment] {
        gateway.wait_ready();
        for (path, place) in [
            ("/rerank", "/error/message"),
            ("/v1/rerank", "/detail"),
            ("/v2/rerank", "/message"),
        ] {
            for given in [None, Some("Bearer hunter3"), Some("hunter2"), Some("Basic hunter2")] {
                let given: Vec<_> = given.iter().map(|value| ("Authorization", *value)).collect();
                let answer = http::post(&gateway.address, path, &[&[JSON], &given[..]].concat(), &body());
                assert_eq!(
                    (answer.status, answer.header("WWW-Authenticate")),
                    (401, Some("Bearer")),
                    "{path} {given:?}"
                );
                assert!(answer.json().pointer(place).is_some_and(Value::is_string), "{answer:?}");
            }
            let answer = http::post(
                &gateway.address,
                path,
                &[JSON, ("authorization", "bearer hunter2")],
                &body(),
            );
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        for path in ["/info", "/v1/models"] {
            assert_eq!(gateway.get(path).status, 401, "{path}");
        }
        for path in [
            "/",
            "/health",
            "/livez",
            "/readyz",
            "/metrics",
            "/stats",
            "/openapi.json",
            "/page.js",
        ] {
            let answer = gateway.get(path);
            assert_eq!(answer.status, 200, "{path}");
            assert!(!answer.body.contains("hunter2"), "{path}");
        }
        assert!(!gateway.log().contains("hunter"), "{}", gateway.log());
        assert_eq!(gateway.stats()["requests"]["unauthorized"], 12);
    }
}

#[test]
fn bad_settings_end_it_before_it_listens() {
    for (sets, named) in [
        (&["gateway.token_file=/no/such/file"][..], "gateway.token_file"),
        (
            &["gateway.token=a", "gateway.token_file=/dev/null"][..],
            "gateway.token",
        ),
        (&["gateway.on_failure=panic"][..], "ann, error"),
        (&["gateway.cors_origins=shop.example"][..], "gateway.cors_origins"),
        (&["gateway.timeout_ms=30000"][..], "gateway.request_timeout_ms"),
        (&["nats.credentials_file=/no/such/file"][..], "nats.credentials_file"),
    ] {
        let mut command = program();
        command.args(["gateway", "--listen", "127.0.0.1:0"]);
        for set in sets {
            command.args(["--set", set]);
        }
        let output = command.output().expect("the program");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{sets:?}: {told}");
        assert!(told.contains(named), "{told}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = program()
        .args(["gateway", "--listen", &address])
        .output()
        .expect("the program");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && told.contains("gateway.listen"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_no_json_is_refused_with_the_limit() {
    let server = NatsServer::start();
    let worker = Fake::start(&server, "w", right).await;
    let gateway = Gateway::start(&server.url, &["gateway.body_bytes_max=2000", "gateway.documents_max=3"]);
    let large = json!({"query": "q", "documents": ["x".repeat(3000)]});
    for (path, place) in [
        ("/rerank", "/error/message"),
        ("/v1/rerank", "/detail"),
        ("/v2/rerank", "/message"),
    ] {
        let answer = gateway.post(path, &large);
        let told = answer.json();
        let message = told.pointer(place).and_then(Value::as_str).unwrap_or_default();
        assert_eq!(answer.status, 413);
        assert!(
            message.contains(&format!("{} bytes", large.to_string().len())) && message.contains("2000"),
            "{message}"
        );
    }
    // Without a length it is read as far as the limit.
    let mut stream = TcpStream::connect(&gateway.address).expect("the gateway");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let head = "POST /rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", 1000, "x".repeat(1000));
    stream
        .write_all(format!("{head}{chunk}{chunk}{chunk}").as_bytes())
        .expect("a request");
    assert_eq!(finish(stream).status, 413);

    let four = json!({"query": "q", "documents": ["a", "b", "c", "d"]});
    let answer = gateway.post("/v2/rerank", &four);
    assert_eq!(answer.status, 413);
    assert_eq!(
        answer.json()["message"],
        "`documents`: 4 documents, more than the limit of 3"
    );

    let text = finish(start(
        &gateway.address,
        "POST",
        "/rerank",
        &[("Content-Type", "text/plain")],
        &body().to_string(),
    ));
    assert_eq!(text.status, 415);
    let untyped = finish(start(&gateway.address, "POST", "/rerank", &[], &body().to_string()));
    assert_eq!(untyped.status, 200);
    let charset = [("Content-Type", "Application/JSON; charset=utf-8")];
    assert_eq!(
        finish(start(
            &gateway.address,
            "POST",
            "/rerank",
            &charset,
            &body().to_string()
        ))
        .status,
        200
    );
    let broken = finish(start(&gateway.address, "POST", "/v1/rerank", &[JSON], "{\"query\": "));
    assert_eq!(broken.status, 400);
    assert!(
        broken.json()["detail"]
            .as_str()
            .is_some_and(|text| text.contains("not valid JSON")),
        "{broken:?}"
    );
    assert_eq!(worker.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_paths_and_methods_say_so_in_their_dialect() {
    let server = NatsServer::start();
    let gateway = Gateway::start(&server.url, &[]);
    for (path, place) in [
        ("/rerank", "/error/message"),
        ("/v1/rerank", "/detail"),
        ("/v2/rerank", "/message"),
    ] {
        let answer = gateway.get(path);
        assert_eq!((answer.status, answer.header("Allow")), (405, Some("POST")), "{path}");
        assert!(answer.json().pointer(place).is_some_and(Value::is_string), "{answer:?}");
    }
    let answer = gateway.post("/stats", &json!({}));
    assert_eq!((answer.status, answer.header("Allow")), (405, Some("GET,HEAD")));
    assert_eq!(gateway.get("/v1/embeddings").json()["error"]["code"], 404);
    assert_eq!(gateway.get("/nothing").json()["error"]["kind"], "not_found");
    // Without origins in the settings, a browser is told nothing.
    let preflight = [
        ("Origin", "https://shop.example"),
        ("Access-Control-Request-Method", "POST"),
    ];
    let answer = finish(start(&gateway.address, "OPTIONS", "/rerank", &preflight, ""));
    assert_eq!(
        (answer.status, answer.header("Access-Control-Allow-Origin")),
        (405, None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_too_many_is_refused_at_once() {
    let server = NatsServer::start();
    let worker = Fake::start(&server, "w", |_| Act::Silence).await;
    let gateway = Gateway::start(&server.url, &["gateway.requests_max=2"]);
    let waiting: Vec<_> = (0..2)
        .map(|_| start(&gateway.address, "POST", "/rerank", &[JSON], &body().to_string()))
        .collect();
    wait("the workers are asked", || (worker.asked() == 2).then_some(()));
    for path in ["/rerank", "/v1/rerank", "/v2/rerank"] {
        let answer = gateway.post(path, &body());
        assert_eq!(
            (answer.status, answer.header("Retry-After")),
            (429, Some("1")),
            "{answer:?}"
        );
    }
    assert_eq!(
        gateway.get("/readyz").status,
        200,
        "a full gateway still answers probes"
    );
    assert_eq!(gateway.stats()["requests"]["busy"], 3);
    drop(waiting);
    gateway.wait_for_stat("/requests_open", 0);
    assert_eq!(worker.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_arrives_though_the_body_was_large() {
    let server = NatsServer::start();
    let _worker = Fake::start(&server, "w", |_| Act::Silence).await;
    let gateway = Gateway::start(
        &server.url,
        &["gateway.requests_max=1", "gateway.body_bytes_max=100000"],
    );
    // More than any socket's buffers hold.
    let large = json!({"query": "q", "documents": ["x".repeat(20_000_000)]});
    assert_eq!(gateway.post("/rerank", &large).status, 413);
    assert_eq!(gateway.post("/nothing", &large).status, 404);
    assert_eq!(gateway.post("/stats", &large).status, 405);
    let waiting = start(&gateway.address, "POST", "/rerank", &[JSON], &body().to_string());
    gateway.wait_for_stat("/requests_open", 1);
    let within = json!({"query": "q", "documents": ["x".repeat(90_000)]});
    assert_eq!(gateway.post("/rerank", &within).status, 429);
    // Who asks for leave is refused at once, and not bid to send the body for nothing.
    let mut stream = TcpStream::connect(&gateway.address).expect("the gateway");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let head = "POST /rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 90000\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("a request");
    assert_eq!(finish(stream).status, 429);
    drop(waiting);
    let locked = Gateway::spawn(&server.url, &[], &[("RERANK_GATEWAY__TOKEN", "hunter2")]);
    assert_eq!(locked.post("/v1/rerank", &large).status, 401);
    // Whoever asks for leave first is told at once, and sends nothing.
    let mut stream = TcpStream::connect(&gateway.address).expect("the gateway");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let head = "POST /rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 20000000\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("a request");
    assert_eq!(finish(stream).status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let server = NatsServer::start();
    let sets = ["gateway.timeout_ms=100", "gateway.request_timeout_ms=300"];
    let gateway = Gateway::spawn(&server.url, &sets, &[]);
    let mut stream = TcpStream::connect(&gateway.address).expect("the gateway");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let head = "POST /v2/rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{\"query\"";
    stream.write_all(head.as_bytes()).expect("a request");
    let answer = finish(stream);
    assert_eq!(answer.status, 408);
    assert!(
        answer.json()["message"]
            .as_str()
            .is_some_and(|text| text.contains("300 ms")),
        "{answer:?}"
    );
    assert_eq!(gateway.stats()["requests"]["late"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_past_the_limit_wait_for_a_place() {
    let server = NatsServer::start();
    let gateway = Gateway::spawn(&server.url, &["gateway.connections_max=2"], &[]);
    let idle: Vec<_> = (0..2)
        .map(|_| TcpStream::connect(&gateway.address).expect("the gateway"))
        .collect();
    let waiting = start(&gateway.address, "GET", "/livez", &[], "");
    drop(idle);
    assert_eq!(finish(waiting).status, 200);
    assert_eq!(get(&gateway.address, "/livez").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn cors_is_for_the_origins_of_the_settings() {
    let server = NatsServer::start();
    let gateway = Gateway::spawn(
        &server.url,
        // As people write them; browsers send them otherwise.
        &["gateway.cors_origins=HTTPS://Shop.Example:443/,http://localhost:3000"],
        &[("RERANK_GATEWAY__TOKEN", "hunter2")],
    );
    let preflight = |origin: &str| {
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            (
                "Access-Control-Request-Headers",
                "authorization,content-type,rerank-timeout-ms",
            ),
        ];
        finish(start(&gateway.address, "OPTIONS", "/v2/rerank", &headers, ""))
    };
    let allowed = preflight("https://shop.example");
    // A browser sends no token with its question.
    assert_eq!(
        (allowed.status, allowed.header("Access-Control-Allow-Origin")),
        (200, Some("https://shop.example"))
    );
    let headers = allowed
        .header("Access-Control-Allow-Headers")
        .unwrap_or_default()
        .to_ascii_lowercase();
    for header in ["authorization", "content-type", "rerank-timeout-ms"] {
        assert!(headers.contains(header), "{headers}");
    }
    assert_eq!(
        preflight("https://evil.example").header("Access-Control-Allow-Origin"),
        None
    );
    let headers = [
        JSON,
        ("Origin", "http://localhost:3000"),
        ("Authorization", "Bearer hunter2"),
    ];
    let answer = http::post(&gateway.address, "/v2/rerank", &headers, &body());
    assert_eq!(
        (answer.status, answer.header("Access-Control-Allow-Origin")),
        (200, Some("http://localhost:3000"))
    );
    let exposed = answer
        .header("Access-Control-Expose-Headers")
        .unwrap_or_default()
        .to_ascii_lowercase();
    assert!(exposed.contains("rerank-fallback"), "{exposed}");
    // Also on a refusal, or its page could not read why.
    let refused = http::post(&gateway.address, "/v2/rerank", &headers[..2], &body());
    assert_eq!(
        (refused.status, refused.header("Access-Control-Allow-Origin")),
        (401, Some("http://localhost:3000"))
    );
}
