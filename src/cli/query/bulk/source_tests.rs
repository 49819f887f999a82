//! Lines of all kinds, and what they come to.

use super::super::output;
use super::*;

fn recipe() -> Recipe {
    Recipe {
        shared: false,
        fields: Fields::default(),
        format: None,
        top_k: None,
        raw_scores: false,
        model: None,
        done: Done::default(),
    }
}

fn read(text: &[u8], path: Option<&str>, recipe: Recipe) -> Vec<Line> {
    let mut reader = LineReader::new(text, path.map(PathBuf::from), recipe);
    std::iter::from_fn(|| reader.next().expect("memory can be read")).collect()
}

/// The only line's query.
fn query(line: &str, recipe: Recipe) -> Query {
    match read(line.as_bytes(), None, recipe).pop().expect("a line").what {
        What::Query(query) => *query,
        What::Broken(broken) => panic!("{line}: {}", broken.message),
        What::Done => panic!("{line}: done"),
    }
}

fn broken(line: &[u8], recipe: Recipe) -> Broken {
    match read(line, None, recipe).pop().expect("a line").what {
        What::Broken(broken) => broken,
        _ => panic!("{} is a query", String::from_utf8_lossy(line)),
    }
}

#[test]
fn a_line_is_a_request_with_an_id() {
    let line = r#"{"id": 7, "query": "q", "documents": ["a", {"text": "b", "id": "x"}], "top_k": 1, "return_documents": true}"#;
    let read = query(line, recipe());
    assert_eq!(read.id, Some(DocumentId::Integer(7)));
    let request = &read.request;
    assert!(!read.shared && !request.return_documents && !request.raw_scores);
    assert_eq!((request.query.as_str(), request.top_k), ("q", Some(1)));
    let texts: Vec<_> = request
        .documents
        .iter()
        .map(|document| document.text.as_str())
        .collect();
    assert_eq!(texts, ["a", "b"]);
    assert_eq!(request.documents[1].id, Some(DocumentId::Text("x".into())));
    assert_eq!(
        query(r#"{"query": "q", "texts": ["a"]}"#, recipe())
            .request
            .documents
            .len(),
        1
    );
}

#[test]
fn flags_are_for_queries_that_do_not_say() {
    let flags = || Recipe {
        top_k: NonZeroUsize::new(5),
        raw_scores: true,
        model: Some("m".into()),
        fields: Fields {
            text: "body".into(),
            id: "key".into(),
        },
        ..recipe()
    };
    let silent = query(r#"{"query": "q", "documents": [{"body": "a", "key": 1}]}"#, flags()).request;
    assert!(silent.raw_scores && silent.top_k == Some(5) && silent.model.as_deref() == Some("m"));
    assert!(silent.documents[0].text == "a" && silent.documents[0].id == Some(DocumentId::Integer(1)));
    let own = query(r#"{"query": "q", "documents": [], "top_k": 2, "model": "n"}"#, flags()).request;
    assert!(own.top_k == Some(2) && own.model.as_deref() == Some("n"));
}

#[test]
fn with_documents_for_all_a_line_may_be_plain() {
    let shared = || Recipe {
        shared: true,
        ..recipe()
    };
    let lines = read("\u{feff}first\n\n  second \r\n{third}".as_bytes(), None, shared());
    let read_lines: Vec<_> = lines
        .iter()
        .map(|line| match &line.what {
            What::Query(query) => (line.number, query.request.query.as_str(), query.shared),
            _ => panic!("line {}", line.number),
        })
        .collect();
    assert_eq!(
        read_lines,
        [(1, "first", true), (3, "second", true), (4, "{third}", true)]
    );
    assert_eq!(lines[2].end_bytes, 3 + 6 + 1 + 11 + 7);
    // JSON by its first line or its ending; its own documents win.
    assert!(query(r#"{"query": "q"}"#, shared()).shared);
    assert!(!query(r#"{"query": "q", "documents": ["a"]}"#, shared()).shared);
    let lines = read(b"\"q\"", Some("queries.jsonl"), shared());
    assert!(matches!(&lines[0].what, What::Query(query) if query.request.query == "q" && query.shared));
    let as_text = Recipe {
        format: Some(QueriesFormat::Lines),
        ..shared()
    };
    assert_eq!(query(r#"{"query": "q"}"#, as_text).request.query, r#"{"query": "q"}"#);
}

#[test]
fn what_is_no_query_is_told_without_its_content() {
    for (line, message) in [
        ("SECRET", "not JSON at column 1"),
        ("[\"SECRET\"]", "expected a JSON object with `query`, found an array"),
        (r#"{"documents": ["SECRET"]}"#, "`query` is missing"),
        (
            r#"{"query": " ", "documents": []}"#,
            "`query`: expected something other than white space",
        ),
        (r#"{"query": "SECRET"}"#, "`documents` is missing"),
        (
            r#"{"query": "SECRET", "documents": "SECRET"}"#,
            "`documents`: expected an array",
        ),
        (
            r#"{"query": "q", "documents": ["SECRET", 5]}"#,
            "`documents[1]`: expected a JSON string or an object",
        ),
        (
            r#"{"query": "q", "documents": [{"id": 1}]}"#,
            "`documents[0]`: `text` is missing",
        ),
        (
            r#"{"query": "q", "documents": [], "texts": []}"#,
            "two names of one field",
        ),
        (
            r#"{"query": "q", "documents": [], "id": {}}"#,
            "`id`: expected a string or a 64-bit integer",
        ),
        (r#"{"query": "q", "documents": [], "top_k": 0}"#, "`top_k`"),
    ] {
        let told = broken(line.as_bytes(), recipe()).message;
        assert!(told.contains(message) && !told.contains("SECRET"), "{line}: {told}");
    }
    assert_eq!(broken(b"\"\xff\"", recipe()).message, "not UTF-8 text");
    // With an id that can be read, the result has it.
    assert_eq!(
        broken(br#"{"id": "x"}"#, recipe()).id,
        Some(DocumentId::Text("x".into()))
    );
}

#[test]
fn an_overlong_line_is_passed_over() {
    let mut text = vec![b'x'; LINE_BYTES_MAX + 10];
    text.extend(b"\n{\"query\": \"q\", \"documents\": []}");
    let lines = read(&text, None, recipe());
    assert_eq!(lines.len(), 2);
    assert!(matches!(&lines[0].what, What::Broken(broken) if broken.message == "longer than 16 MiB"));
    assert!(lines[1].number == 2 && matches!(&lines[1].what, What::Query(_)));
    assert_eq!(lines[1].end_bytes, text.len() as u64);
}

#[test]
fn what_is_done_is_not_asked_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("results");
    std::fs::write(&path, "{\"line\": 1}\n{\"line\": 9, \"id\": \"b\"}\n").expect("a file");
    let (_, done) = output::open(Some(&path), true).expect("results");
    let text =
        "not a query\n{\"id\": \"b\", \"query\": \"q\", \"documents\": []}\n{\"query\": \"q\", \"documents\": []}\n";
    let lines = read(text.as_bytes(), None, Recipe { done, ..recipe() });
    let done: Vec<bool> = lines.iter().map(|line| matches!(line.what, What::Done)).collect();
    assert_eq!(done, [true, true, false]);
}
