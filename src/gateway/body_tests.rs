use super::super::dialect::Route;
use super::*;

fn read(path: &str, body: &str) -> Result<ParsedRequest, ParseError> {
    ParsedRequest::read(Route::of_path(path).expect("a path of the table"), body.as_bytes(), 3)
}

fn parsed(path: &str, body: &str) -> ParsedRequest {
    read(path, body).unwrap_or_else(|(refusal, _)| panic!("{path} {body}: {refusal}"))
}

fn texts(parsed: &ParsedRequest) -> Vec<&str> {
    parsed.documents.iter().map(|document| &*document.text).collect()
}

#[test]
fn path_and_body_tell_the_dialect() {
    for (path, body, dialect) in [
        ("/rerank", r#"{"query": "q", "documents": ["a"]}"#, "own"),
        ("/rerank", r#"{"query": "q", "texts": ["a"]}"#, "tei"),
        (
            "/rerank",
            r#"{"query": "q", "documents": ["a"], "property": ""}"#,
            "weaviate",
        ),
        ("/v1/rerank", r#"{"query": "q", "documents": ["a"]}"#, "v1"),
        ("/v2/rerank", r#"{"query": "q", "documents": ["a"]}"#, "v2"),
        ("/v3/rerank", r#"{"query": "q", "documents": ["a"]}"#, "v1"),
        ("/reranking", r#"{"query": "q", "documents": ["a"]}"#, "v1"),
        ("/v1/reranking", r#"{"query": "q", "input": ["a"]}"#, "mixedbread"),
        ("/models/rerank", r#"{"query": "q", "documents": ["a"]}"#, "zeroentropy"),
        (
            "/v1/ranking",
            r#"{"query": {"text": "q"}, "passages": [{"text": "a"}]}"#,
            "nvidia",
        ),
        (
            "/v1/retrieval/o/m/reranking",
            r#"{"query": {"text": "q"}, "passages": [{"text": "a"}]}"#,
            "nvidia",
        ),
        ("/score", r#"{"text_1": "q", "text_2": "a"}"#, "score"),
    ] {
        let parsed = parsed(path, body);
        assert_eq!(parsed.dialect.name, dialect, "{path}");
        assert_eq!(
            (&*parsed.queries, texts(&parsed)),
            (&["q".to_owned()][..], vec!["a"]),
            "{path}"
        );
    }
}

#[test]
fn options_mean_what_their_servers_mean_by_them() {
    let with = |path: &str, more: &str| parsed(path, &format!(r#"{{"query": "q", "documents": ["a", "b"], {more}}}"#));
    for (more, top_k) in [
        (r#""top_n": 0"#, None),
        (r#""top_n": 1.0"#, Some(1)),
        (r#""top_k": "2""#, Some(2)),
        (r#""top_n": null, "top_k": 1"#, Some(1)),
        (
            r#""top_n": 18446744073709551615"#,
            Some(usize::try_from(i64::MAX).expect("64 bits")),
        ),
    ] {
        assert_eq!(with("/v1/rerank", more).top_k, top_k, "{more}");
    }
    for (more, logits) in [
        (r#""raw_scores": true"#, true),
        (r#""raw_scores": "false""#, false),
        (r#""use_activation": false"#, true),
        (r#""activation": false"#, true),
        (r#""use_activation": true"#, false),
        (r#""use_activation": null"#, false),
    ] {
        assert_eq!(with("/v1/rerank", more).raw_scores, logits, "{more}");
    }
    for (more, truncate) in [
        (r#""truncate": false"#, false),
        (r#""truncate": "NONE""#, false),
        (r#""truncate": "END""#, true),
        (r#""truncation": "0""#, false),
        (r#""truncation_side": "right""#, true),
    ] {
        assert_eq!(with("/rerank", more).truncate, truncate, "{more}");
    }
    let limits = with(
        "/rerank",
        r#""max_tokens_per_doc": "64", "truncate_prompt_tokens": 128"#,
    );
    assert_eq!(
        (limits.max_tokens_per_document, limits.max_tokens_per_pair),
        (Some(64), Some(128))
    );
    assert_eq!(
        with("/rerank", r#""truncate_prompt_tokens": -1"#).max_tokens_per_pair,
        None
    );
    assert!(!with("/v1/rerank", r#""return_documents": "no""#).returns_documents);
    assert!(with("/v2/rerank", r#""return_documents": 1"#).returns_documents);
    assert!(with("/rerank", r#""raw_scores": false"#).documents_as_strings);
    let unused = with(
        "/v2/rerank",
        r#""relevant_spans": {"top": 1}, "priority": 3, "max_chunks_per_doc": null"#,
    );
    assert_eq!(
        unused.warnings,
        ["relevant_spans is not supported: no spans are returned"]
    );
    // What does not choose is not passed on.
    assert_eq!(with("/rerank", r#""model": "m""#).named_model.as_deref(), Some("m"));
    assert_eq!(
        parsed("/rerank", r#"{"query": "q", "texts": [], "model": "m"}"#).named_model,
        None
    );
}

#[test]
fn documents_of_every_kind_have_a_text() {
    let ranked = |more: &str, document: &str| {
        let parsed = parsed(
            "/v1/rerank",
            &format!(r#"{{"documents": [{document}], "query": "q"{more}}}"#),
        );
        parsed.documents[0].text.clone()
    };
    let object = r#"{"title": "T", "year": 1.50, "none": null, "author": {"b": 1, "a": "\ud83d"}}"#;
    assert_eq!(
        ranked("", object),
        "title: T\nyear: 1.50\nauthor: {\"b\": 1, \"a\": \"\\ufffd\"}"
    );
    assert_eq!(
        ranked(r#", "rank_fields": ["year", "title", "other"]"#, object),
        "1.50\nT"
    );
    assert_eq!(ranked(r#", "rank_fields": []"#, r#"{"text": "x", "title": "T"}"#), "x");
    assert_eq!(
        ranked(
            r#", "rank_fields": ["title"]"#,
            r#"{"text": "x", "title": "half \ud83d"}"#
        ),
        "half \u{fffd}"
    );
    // One string, one document.
    let one = parsed("/v1/rerank", r#"{"query": "q", "documents": "alone"}"#);
    assert_eq!(texts(&one), ["alone"]);
    // Given back as it was sent, number for number.
    let sent = parsed("/v1/rerank", &format!(r#"{{"query": "q", "documents": [{object}]}}"#));
    let back = serde_json::to_string(&sent.documents[0].sent).expect("JSON");
    assert_eq!(
        back,
        r#"{"title":"T","year":1.50,"none":null,"author":{"b": 1, "a": "\ufffd"}}"#
    );
}

#[test]
fn pairs_have_one_query_or_one_each() {
    let pairs = |queries: &str, documents: &str| {
        let parsed = parsed(
            "/v1/score",
            &format!(r#"{{"text_1": {queries}, "text_2": {documents}}}"#),
        );
        let texts = texts(&parsed).join(" ");
        (parsed.queries.join(" "), texts)
    };
    let pair = |queries: &str, documents: &str| (queries.to_owned(), documents.to_owned());
    assert_eq!(pairs(r#""q""#, r#"["a", "b"]"#), pair("q", "a b"));
    assert_eq!(pairs(r#"["q", "r"]"#, r#"["a", "b"]"#), pair("q r", "a b"));
    assert_eq!(pairs(r#"["q", "r"]"#, r#""a""#), pair("q r", "a a"));
    let message = |body: &str| read("/score", body).expect_err("no pairs").0.message;
    assert!(message(r#"{"text_1": ["q", "r"], "text_2": ["a", "b", "c"]}"#).contains("found 2 and 3"));
    assert!(message(r#"{"text_1": ["q", "r", "s", "t"], "text_2": "a"}"#).contains("more than the limit of 3"));
    assert!(message(r#"{"text_1": "q"}"#).contains("`text_2` is missing"));
    let (refusal, _) = read("/v1/rerank", r#"{"query": ["q", "r"], "documents": []}"#).expect_err("two queries");
    assert!(refusal.message.contains("expected one query, found 2"), "{refusal}");
}

#[test]
fn complaints_name_the_field_in_the_dialect_of_the_body() {
    for (path, body, expected, dialect) in [
        ("/rerank", "{", "not valid JSON", "own"),
        ("/rerank", r#"{"query": "q"}"#, "`documents` is missing", "own"),
        ("/rerank", r#"{"texts": ["a"]}"#, "`query` is missing", "tei"),
        (
            "/rerank",
            r#"{"texts": ["a"], "query": 3}"#,
            "`query`: expected a string, found an integer",
            "tei",
        ),
        (
            "/v1/rerank",
            r#"{"query": " ", "documents": []}"#,
            "`query`: expected something other",
            "v1",
        ),
        (
            "/v2/rerank",
            r#"{"query": "q", "documents": ["a"], "top_n": 0}"#,
            "`top_n`: expected an integer of at least 1",
            "v2",
        ),
        (
            "/v1/rerank",
            r#"{"query": "q", "documents": ["a"], "top_n": -1}"#,
            "`top_n`: expected an integer of at least 1",
            "v1",
        ),
        (
            "/v1/rerank",
            r#"{"query": "q", "documents": ["a"], "top_n": 1.5}"#,
            "`top_n`: expected an integer",
            "v1",
        ),
        (
            "/v1/rerank",
            r#"{"query": "q", "documents": [{"a": 1}], "rank_fields": ["b"]}"#,
            "`documents[0]`: has none of",
            "v1",
        ),
        (
            "/rerank",
            r#"{"query": "q", "texts": ["a"], "truncation_direction": "Left"}"#,
            "`truncation_direction`",
            "tei",
        ),
        (
            "/v2/rerank",
            r#"{"query": "q", "documents": [{"image": "https://…"}]}"#,
            "`documents[0].text` is missing",
            "v2",
        ),
        (
            "/v2/rerank",
            r#"{"query": "q", "documents": [{"text": 1}]}"#,
            "`documents[0].text`: expected a string",
            "v2",
        ),
        (
            "/v2/rerank",
            r#"{"query": "q", "documents": ["a", "b", "c", "d"]}"#,
            "4 documents, more than the limit of 3",
            "v2",
        ),
        (
            "/rerank",
            r#"{"query": "q", "documents": [], "texts": []}"#,
            "found both",
            "own",
        ),
        (
            "/v1/ranking",
            r#"{"query": {}, "passages": []}"#,
            "`query.text` is missing",
            "nvidia",
        ),
        (
            "/v1/rerank",
            r#"{"query": "q", "documents": [], "min_score": "much"}"#,
            "`min_score`: expected a finite number, found a string",
            "v1",
        ),
        (
            "/v1/rerank",
            r#"{"query": "q", "documents": [{"a": 1, "a": 2}]}"#,
            "given more than once",
            "v1",
        ),
    ] {
        let (refusal, found) = read(path, body).expect_err(body);
        assert!(refusal.message.contains(expected), "{body}: {}", refusal.message);
        assert_eq!(found.name, dialect, "{body}");
    }
}
