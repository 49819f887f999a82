//! Many queries in one run: order, failures, stops, and going on.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdout, Command};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use nats_rerank::protocol::{Encoding, Refusal, RefusalKind, Request};
use serde_json::json;

use crate::support::worker::Worker;
use crate::support::{PATIENCE, reference};

use super::scene::{PATIENT, Scene, TEXTS, code, page, problem, stranger, unmoved, values, wait};

#[test]
fn queries_in_bulk_are_answered_in_order_and_failures_have_their_place() {
    let scene = Scene::with_worker();
    let lines: Vec<String> = (1..=40)
        .map(|number| match number {
            7 => "SECRET".to_owned(),
            8 => String::new(),
            13 => json!({"id": "stranger", "query": "q", "documents": TEXTS, "model": "unknown"}).to_string(),
            21 => json!({"id": "no documents", "query": "q"}).to_string(),
            // Documents of unlike number take unlike time.
            _ => json!({"id": number, "query": format!("question {number}"), "documents": vec![TEXTS[1]; number % 9]})
                .to_string(),
        })
        .collect();
    let queries = scene.file("queries.jsonl", lines.join("\n"));
    let output = scene.query(
        &[
            &["--queries", &queries, "--concurrency", "8", "--return-documents"],
            &PATIENT[..],
        ]
        .concat(),
    );
    let told = problem(&output);
    assert_eq!(code(&output), 1, "{told}");
    assert!(!told.contains("SECRET") && !told.contains('\u{1b}'), "{told}");
    for part in [
        "39 results in ",
        ": 36 scored, 1 kept their order (unknown_model 1), 2 broken",
        "p50 ",
        "p95 ",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let results = values(&page(&output));
    let numbers: Vec<u64> = results
        .iter()
        .map(|result| result["line"].as_u64().expect("a line"))
        .collect();
    assert_eq!(numbers, (1..=40).filter(|number| *number != 8).collect::<Vec<_>>());
    for result in &results {
        match result["line"].as_u64() {
            Some(7) => assert_eq!(
                result["error"],
                json!({"kind": "invalid_line", "message": "not JSON at column 1"})
            ),
            Some(13) => {
                assert_eq!(
                    (&result["order"], &result["reason"]["kind"]),
                    (&json!("ann"), &json!("unknown_model"))
                );
                assert_eq!(
                    (&result["id"], &result["rankings"][3]["index"]),
                    (&json!("stranger"), &json!(3))
                );
            }
            Some(21) => {
                assert_eq!(
                    (&result["id"], &result["error"]["kind"]),
                    (&json!("no documents"), &json!("invalid_line"))
                );
            }
            Some(number) => {
                assert_eq!((&result["id"], &result["order"]), (&json!(number), &json!("reranked")));
                let rankings = result["rankings"].as_array().expect("rankings");
                assert_eq!(rankings.len() as u64, number % 9);
                assert!(rankings.iter().all(|ranking| ranking["text"] == TEXTS[1]));
            }
            None => panic!("no line: {result}"),
        }
    }
    let strict = scene.query(&[&["--queries", &queries, "--strict"], &PATIENT[..]].concat());
    assert_eq!((code(&strict), values(&page(&strict)).len()), (64, 6));
    assert!(problem(&strict).contains("line 7: not JSON"), "{}", problem(&strict));
    let fail = scene.query(&[&["--queries", &queries, "--fail"], &PATIENT[..]].concat());
    assert_eq!((code(&fail), values(&page(&fail)).len()), (1, 11));
    assert!(problem(&fail).contains("line 13: not reranked"), "{}", problem(&fail));
}

#[test]
fn plain_queries_share_their_documents() {
    let scene = Scene::with_worker();
    let documents = scene.file("documents.txt", TEXTS.join("\n"));
    let args = [
        &["--queries", "-", "--documents", &documents, "--top-k", "2"],
        &PATIENT[..],
    ]
    .concat();
    let output = scene.query_reading(&args, "first question\n\nsecond question\n");
    assert_eq!(code(&output), 0, "{}", problem(&output));
    let results = values(&page(&output));
    assert_eq!(results.iter().map(|result| &result["line"]).collect::<Vec<_>>(), [1, 3]);
    for result in &results {
        assert_eq!(result["rankings"].as_array().expect("rankings").len(), 2);
        assert_eq!(
            (&result["top_k_applied"], &result["usage"]["pairs"]),
            (&json!(true), &json!(4))
        );
        assert!(result["rankings"][0].get("text").is_none());
    }
    let alone = scene.query_reading(&["--queries", "-"], "first question\n");
    assert_eq!(
        (code(&alone), values(&page(&alone))[0]["error"]["kind"].clone()),
        (1, json!("invalid_line"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_out_of_order_are_put_in_order() {
    let scene = Scene::without_worker();
    // Answers every four requests together, the last one first: nothing comes before four are under way.
    let client = async_nats::connect(&scene.server.url).await.expect("a connection");
    let mut requests = client.subscribe("rerank.v1.score").await.expect("a subscription");
    client.flush().await.expect("a flush");
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(message) = requests.next().await {
            held.push(message);
            if held.len() < 4 {
                continue;
            }
            for message in held.drain(..).rev() {
                let request = Request::decode(Encoding::Json, &message.payload).expect("a request");
                let body = if request.query == "q3" {
                    Refusal::new(RefusalKind::Overloaded, "full").encode(Encoding::Json)
                } else {
                    unmoved(&request)
                };
                let mut headers = async_nats::HeaderMap::new();
                if request.query == "q3" {
                    headers.insert("Nats-Service-Error-Code", "429");
                }
                let inbox = message.reply.expect("an inbox");
                client
                    .publish_with_headers(inbox, headers, body.into())
                    .await
                    .expect("a connection");
            }
        }
    });
    let queries: String = (1..=16).map(|number| format!("q{number}\n")).collect();
    let documents = scene.file("documents.txt", TEXTS.join("\n"));
    let output = scene.query_reading(
        &[&["--queries", "-", "--documents", &documents], &PATIENT[..]].concat(),
        &queries,
    );
    assert_eq!(code(&output), 1, "{}", problem(&output));
    let results = values(&page(&output));
    assert_eq!(
        results
            .iter()
            .map(|result| result["line"].as_u64().expect("a line"))
            .collect::<Vec<_>>(),
        (1..=16).collect::<Vec<_>>()
    );
    for result in results {
        let kept = result["order"] == "ann";
        assert_eq!(kept, result["line"] == 3);
    }
    assert!(problem(&output).contains("15 scored, 1 kept their order (overloaded 1)"));
}

fn lines_of(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_stopped_is_gone_on_with() {
    let scene = Scene::without_worker();
    // Answers five and then no more.
    let mut left = 5;
    stranger(&scene, move |request| {
        left -= 1;
        (left >= 0).then(|| unmoved(&request))
    })
    .await;
    let lines: Vec<String> = (1..=20)
        .map(|number| match number % 2 {
            0 => json!({"id": format!("id-{number}"), "query": "q", "documents": TEXTS}).to_string(),
            _ => json!({"query": "q", "documents": TEXTS}).to_string(),
        })
        .collect();
    let queries = scene.file("queries.jsonl", lines.join("\n"));
    let output = scene.path("results.jsonl");
    let args = [&["--queries", &queries, "--output", "results.jsonl"], &PATIENT[..]].concat();
    let mut child = scene.command(&args).spawn().expect("the program");
    let started = Instant::now();
    while lines_of(&output) < 5 {
        assert!(started.elapsed() < PATIENCE, "no results");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Nobody else may write to it meanwhile.
    let second = scene.query(&[&args[..], &["--resume"]].concat());
    assert!(
        code(&second) == 64 && problem(&second).contains("another run"),
        "{}",
        problem(&second)
    );
    let sent = Command::new("kill")
        .args(["-s", "INT", &child.id().to_string()])
        .status();
    assert!(sent.expect("kill").success());
    assert_eq!(wait(&mut child), 130);
    assert_eq!(values(&fs::read_to_string(&output).expect("results")).len(), 5);
    // Without --resume nothing is overwritten.
    let again = scene.query(&args);
    assert!(
        code(&again) == 64 && problem(&again).contains("--resume"),
        "{}",
        problem(&again)
    );

    // A machine that went down has left half a line.
    let mut file = fs::OpenOptions::new().append(true).open(&output).expect("the results");
    file.write_all(b"{\"line\":6,\"ra").expect("a write");
    // Another subject, where a worker is at home.
    let subject = "nats.subject=rerank.v1.resumed";
    let _worker = Worker::start(&scene.server.url, &reference("bert-small"), &[subject]);
    let resumed = scene.query(&[&args[..], &["--resume", "--set", subject]].concat());
    assert_eq!(code(&resumed), 0, "{}", problem(&resumed));
    assert!(problem(&resumed).contains("15 results in "), "{}", problem(&resumed));
    assert!(
        problem(&resumed).contains("5 were there before"),
        "{}",
        problem(&resumed)
    );
    let results = values(&fs::read_to_string(&output).expect("results"));
    let numbers: Vec<u64> = results
        .iter()
        .map(|result| result["line"].as_u64().expect("a line"))
        .collect();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    let models: HashSet<&str> = results
        .iter()
        .map(|result| result["model"].as_str().expect("a model"))
        .collect();
    assert_eq!(models.len(), 2, "all were asked again: {models:?}");
    let nothing_left = scene.query(&[&args[..], &["--resume", "--set", subject]].concat());
    assert_eq!((code(&nothing_left), lines_of(&output)), (0, 20));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let scene = Scene::with_worker();
    let lines: Vec<String> = (0..500)
        .map(|_| json!({"query": "q", "documents": TEXTS}).to_string())
        .collect();
    let queries = scene.file("queries.jsonl", lines.join("\n"));
    let args = [&["--queries", &queries], &PATIENT[..]].concat();
    let mut child = scene.command(&args).spawn().expect("the program");
    let mut reader: BufReader<ChildStdout> = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut first = String::new();
    reader.read_line(&mut first).expect("a result");
    assert_eq!(values(&first)[0]["line"], 1);
    drop(reader);
    assert_eq!(wait(&mut child), 0);
    let output = child.wait_with_output().expect("the program");
    assert_eq!(problem(&output), "");
}

#[test]
fn a_bulk_run_without_a_server_asks_nothing() {
    let scene = Scene::without_worker();
    let queries = scene.file("queries.jsonl", json!({"query": "q", "documents": TEXTS}).to_string());
    let nobody = scene.query(&["--queries", &queries]);
    assert_eq!(code(&nobody), 1);
    assert_eq!(values(&page(&nobody))[0]["reason"]["kind"], "no_responders");
    let nowhere = scene.query(&["--queries", &queries, "--set", "nats.url=nats://127.0.0.1:1"]);
    assert_eq!((code(&nowhere), page(&nowhere).as_str()), (1, ""));
    assert!(problem(&nowhere).contains("nothing was asked"), "{}", problem(&nowhere));
    let missing = scene.query(&["--queries", "/no/such/file"]);
    assert!(code(&missing) == 64 && problem(&missing).contains("--queries /no/such/file"));
}
