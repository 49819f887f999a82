//! `nats-rerank query` as a shell meets it: the real program, a real nats-server, a real worker.

mod bulk;
mod scene;

use serde_json::{Value, json};

use scene::{PATIENT, Scene, TEXTS, by_index, code, page, problem, stranger, values, wait};

#[test]
fn documents_come_as_lines_as_json_or_as_files() {
    let scene = Scene::with_worker();
    let plain: Vec<(Value, String)> = TEXTS.map(|text| (Value::Null, text.to_owned())).into();
    let lines = TEXTS.join("\n\n");
    assert_eq!(by_index(&scene.json(&["q"], &lines)), plain);
    let file = scene.file("lines.txt", &lines);
    assert_eq!(by_index(&scene.json(&["q", "--documents", &file], "")), plain);

    let named: Vec<(Value, String)> = vec![(json!("a"), "one".into()), (json!(2), "two".into())];
    let jsonl = "{\"text\": \"one\", \"id\": \"a\"}\n{\"text\": \"two\", \"id\": 2}\n";
    let file = scene.file("documents.jsonl", jsonl);
    assert_eq!(by_index(&scene.json(&["q", "--documents", &file], "")), named);
    assert_eq!(by_index(&scene.json(&["q"], jsonl)), named, "told by its first line");
    assert_eq!(
        by_index(&scene.json(&["q", "--jsonl", "--documents", "-"], jsonl)),
        named
    );
    let renamed = jsonl.replace("text", "body").replace("\"id\"", "\"key\"");
    let fields = ["q", "--text-field", "body", "--id-field", "key"];
    assert_eq!(by_index(&scene.json(&fields, &renamed)), named);
    let as_lines = scene.json(&["q", "--documents-format", "lines"], jsonl);
    assert_eq!(as_lines["usage"]["pairs"], 2);
    assert!(by_index(&as_lines)[0].1.starts_with('{'));

    let (b, a) = (scene.file("notes/b.md", "bee\nbuzz"), scene.file("notes/a.md", "ant"));
    let files = vec![(json!("b.md"), "bee\nbuzz".into()), (json!("a.md"), "ant".into())];
    assert_eq!(
        by_index(&scene.json(&["q", "--document", &b, "--document", &a], "")),
        files
    );
    assert_eq!(by_index(&scene.json(&["q", "--document", &b, &a], "")), files);
    let list = format!("{b}\n{a}\n");
    assert_eq!(
        by_index(&scene.json(&["q", "--documents-format", "files"], &list)),
        files
    );
    let folder: Vec<_> = files.into_iter().rev().collect();
    assert_eq!(by_index(&scene.json(&["q", "--documents-from", "notes"], "")), folder);
}

#[test]
fn the_answer_comes_in_every_format() {
    let scene = Scene::with_worker();
    let input =
        "{\"text\": \"yeast makes it rise\", \"id\": \"bread\"}\n\"a red car\"\n\"flour and water\"\n\"the moon\"\n";
    let whole = scene.json(&["what makes bread rise"], input);
    assert_eq!(
        (&whole["order"], &whole["usage"]["pairs"]),
        (&json!("reranked"), &json!(4))
    );
    let rankings = whole["rankings"].as_array().expect("rankings");
    for (place, ranking) in rankings.iter().enumerate() {
        let index = ranking["index"].as_i64().expect("an index");
        assert_eq!(ranking["rank"], place + 1);
        assert_eq!(ranking["moved"], index - place as i64);
        assert!(ranking["score"].is_f64());
    }
    let in_format = |format: &str, more: &[&str]| {
        let args = [&["what makes bread rise", "--format", format], &PATIENT[..], more].concat();
        let output = scene.query_reading(&args, input);
        assert_eq!(code(&output), 0, "{format}: {}", problem(&output));
        page(&output)
    };
    assert_eq!(&values(&in_format("jsonl", &[])), rankings);
    let expected: Vec<String> = rankings
        .iter()
        .map(|ranking| {
            ranking["id"]
                .as_str()
                .map_or(ranking["index"].to_string(), str::to_owned)
        })
        .collect();
    assert_eq!(in_format("ids", &[]).lines().collect::<Vec<_>>(), expected);
    assert_eq!(in_format("ids", &["--msgpack"]).lines().collect::<Vec<_>>(), expected);
    assert_eq!(
        in_format("ids", &["--top-k", "2"]).lines().collect::<Vec<_>>(),
        expected[..2]
    );
    let texts: Vec<&str> = rankings
        .iter()
        .map(|ranking| ranking["text"].as_str().expect("a text"))
        .collect();
    assert_eq!(in_format("text", &[]).lines().collect::<Vec<_>>(), texts);
    let table = in_format("table", &[]);
    for part in [
        "query   what makes bread rise",
        "rank",
        "before",
        "score",
        "document",
        "bread",
        "the moon",
    ] {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(!table.contains('\u{1b}'), "colours in a pipe: {table}");
    // bert-small names no activation: Sigmoid.
    let raw = scene.json(&["what makes bread rise", "--raw-scores"], input);
    let score = |answer: &Value| answer["rankings"][0]["score"].as_f64().expect("a score");
    assert!((1.0 / (1.0 + (-score(&raw)).exp()) - score(&whole)).abs() < 1e-5);
}

#[test]
fn without_a_ranking_the_order_stays_and_the_reason_is_told() {
    let scene = Scene::without_worker();
    let input = TEXTS.join("\n");
    let ask = |more: &[&str]| scene.query_reading(&[&["q", "--format", "ids"], more].concat(), &input);
    let nobody = ask(&PATIENT);
    assert_eq!((code(&nobody), page(&nobody).as_str()), (1, "0\n1\n2\n3\n"));
    assert!(problem(&nobody).contains("no worker listens on `rerank.v1.score`"));
    let first = ask(&["--top-k", "1"]);
    assert_eq!((code(&first), page(&first).as_str()), (1, "0\n"));
    let failed = ask(&["--fail"]);
    assert_eq!((code(&failed), page(&failed).as_str()), (1, ""));
    assert!(problem(&failed).contains("no worker listens"));
    let nowhere = ask(&["--set", "nats.url=nats://127.0.0.1:1"]);
    assert_eq!((code(&nowhere), page(&nowhere).as_str()), (1, "0\n1\n2\n3\n"));
    // What will not do is told before anybody is asked, with its line and without its text.
    for (args, says) in [
        (["--jsonl", "--top-k", "2"], "standard input: line 1: not JSON"),
        (
            ["--documents", "/no/such/file", "--raw-scores"],
            "--documents /no/such/file",
        ),
        (["--timeout", "5", "--raw-scores"], "e.g. 250ms"),
    ] {
        let output = ask(&args);
        assert_eq!((code(&output), page(&output).as_str()), (64, ""), "{args:?}");
        let told = problem(&output);
        assert!(told.contains(says) && !told.contains("yeast"), "{told}");
    }
    scene.file("pictures/one.txt", "text");
    scene.file("pictures/two.png", b"\x89PNG\0");
    let output = scene.query(&["q", "--documents-from", "pictures"]);
    assert_eq!(code(&output), 64);
    assert!(problem(&output).contains("two.png: not a text file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_come_in_time_is_not_waited_for() {
    let scene = Scene::without_worker();
    stranger(&scene, |_| None).await;
    for timeout in [["--timeout", "300ms"], ["--timeout-ms", "300"]] {
        let late = scene.query_reading(&["q", "--format", "ids", timeout[0], timeout[1]], "a\nb\n");
        assert_eq!((code(&late), page(&late).as_str()), (1, "0\n1\n"));
        assert!(problem(&late).contains("no answer within 300 ms"), "{}", problem(&late));
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let scene = Scene::with_worker();
    for format in ["table", "json", "jsonl", "ids", "text"] {
        let documents = scene.file("documents.txt", TEXTS.join("\n"));
        let args = [&["q", "--documents", &documents, "--format", format], &PATIENT[..]].concat();
        let mut child = scene.command(&args).spawn().expect("the program");
        drop(child.stdout.take());
        assert_eq!(wait(&mut child), 0, "{format}");
        let output = child.wait_with_output().expect("the program");
        assert_eq!(problem(&output), "", "{format}");
    }
}
