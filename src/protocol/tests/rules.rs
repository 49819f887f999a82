//! Every rule of the contract, by example.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::headers::BUDGET_MAX;
use super::super::*;
use super::{BOTH, accepted, body, refused};

#[test]
fn a_minimal_request_has_the_defaults() {
    let request = accepted(r#"{"query": "q", "documents": ["a", ""]}"#);
    assert!(request == Request::new("q", ["a", ""]));
    assert_eq!(
        (
            request.top_k,
            request.raw_scores,
            request.return_documents,
            request.truncate
        ),
        (None, false, false, true)
    );
    assert!(accepted(r#"{"query": "q", "documents": []}"#).documents.is_empty());
}

#[test]
fn every_field_is_read() {
    let request = accepted(
        r#"{"query": " q ", "documents": [{"text": "a", "id": "x"}, {"id": -7, "text": "b"},
            {"text": "c", "id": 18446744073709551615}, {"text": "d"}, "e"],
            "top_k": 3, "raw_scores": true, "return_documents": true, "truncate": false, "timeout_ms": 12.5,
            "model": "m"}"#,
    );
    assert_eq!(request.query, " q ");
    let ids: Vec<_> = request.documents.iter().map(|document| document.id.clone()).collect();
    let expected = [
        Some(DocumentId::Text("x".into())),
        Some(DocumentId::Integer(-7)),
        Some(DocumentId::Unsigned(u64::MAX)),
        None,
        None,
    ];
    assert!(ids == expected);
    assert_eq!(
        request
            .documents
            .iter()
            .map(|document| document.text.as_str())
            .collect::<String>(),
        "abcde"
    );
    assert_eq!(
        (request.top_k, request.raw_scores, request.return_documents),
        (Some(3), true, true)
    );
    assert_eq!((request.truncate, request.model.as_deref()), (false, Some("m")));
    assert_eq!(request.budget(), Some(Duration::from_micros(12_500)));
}

#[test]
fn aliases_stand_for_their_fields() {
    let request = accepted(r#"{"query": "q", "texts": ["a"], "top_n": 1}"#);
    assert_eq!((request.documents.len(), request.top_k), (1, Some(1)));
    let both = refused(r#"{"query": "q", "texts": ["a"], "documents": ["a"]}"#);
    assert!(both.contains("`documents`") && both.contains("`texts`"), "{both}");
    let both = refused(r#"{"query": "q", "texts": ["a"], "top_k": 1, "top_n": 1}"#);
    assert!(both.contains("`top_k`") && both.contains("`top_n`"), "{both}");
    assert!(refused(r#"{"query": "q", "texts": ["a", 1]}"#).starts_with("`texts[1]`"));
    assert!(refused(r#"{"query": "q", "texts": [], "top_n": 0}"#).starts_with("`top_n`"));
}

#[test]
fn null_stands_for_an_absent_option() {
    let request = accepted(
        r#"{"query": "q", "documents": [{"text": "a", "id": null}], "texts": null, "top_k": null, "top_n": 1,
            "raw_scores": null, "return_documents": null, "truncate": null, "timeout_ms": null, "model": null}"#,
    );
    let expected = Request {
        top_k: Some(1),
        ..Request::new("q", ["a"])
    };
    assert!(request == expected);
}

#[test]
fn unknown_fields_are_ignored_whatever_they_hold() {
    for value in [
        "1",
        "null",
        "[[1], {}]",
        r#"{"query": 5, "deep": [[[[{"a": []}]]]]}"#,
        r#""text""#,
        "1.5e300",
    ] {
        let json = format!(r#"{{"extra": {value}, "query": "q", "documents": [{{"text": "a", "more": {value}}}]}}"#);
        assert!(accepted(&json) == Request::new("q", ["a"]), "{json}");
    }
}

#[test]
fn every_refusal_names_the_field_what_was_expected_and_what_was_found() {
    let with = |field: &str| format!(r#"{{"query": "q", "documents": ["a"], {field}}}"#);
    let cases = [
        (
            r#"{"documents": []}"#.to_owned(),
            "`query` is missing: expected a string",
        ),
        (
            r#"{"query": null, "documents": []}"#.to_owned(),
            "`query` is missing: expected a string",
        ),
        (
            r#"{"query": 5, "documents": []}"#.to_owned(),
            "`query`: expected a string, found an integer",
        ),
        (
            r#"{"query": ["SECRET"], "documents": []}"#.to_owned(),
            "`query`: expected a string, found an array",
        ),
        (
            r#"{"query": " \t\n\u00a0\u3000", "documents": []}"#.to_owned(),
            "`query`: expected something other than white space, found an empty or blank string",
        ),
        (
            r#"{"query": "SECRET"}"#.to_owned(),
            "`documents` is missing: expected an array of strings or of objects with `text`",
        ),
        (
            r#"{"query": "q", "documents": "SECRET"}"#.to_owned(),
            "`documents`: expected an array, found a string",
        ),
        (
            r#"{"query": "q", "documents": {"text": "SECRET"}}"#.to_owned(),
            "`documents`: expected an array, found an object",
        ),
        (
            r#"{"query": "q", "documents": ["a", "b", true]}"#.to_owned(),
            "`documents[2]`: expected a string or an object with `text`, found a boolean",
        ),
        (
            r#"{"query": "q", "documents": [null]}"#.to_owned(),
            "`documents[0]`: expected a string or an object with `text`, found null",
        ),
        (
            r#"{"query": "q", "documents": ["a", {"text": 1.5}]}"#.to_owned(),
            "`documents[1].text`: expected a string, found a floating-point number",
        ),
        (
            r#"{"query": "q", "documents": ["a", {"id": "SECRET"}]}"#.to_owned(),
            "`documents[1].text` is missing: expected a string",
        ),
        (
            r#"{"query": "q", "documents": [{"text": null}]}"#.to_owned(),
            "`documents[0].text` is missing: expected a string",
        ),
        (
            r#"{"query": "q", "documents": [{"text": "SECRET", "id": 1.0}]}"#.to_owned(),
            "`documents[0].id`: expected a string or a 64-bit integer, found a floating-point number",
        ),
        (
            r#"{"query": "q", "documents": [{"text": "SECRET", "id": ["SECRET"]}]}"#.to_owned(),
            "`documents[0].id`: expected a string or a 64-bit integer, found an array",
        ),
        (
            with(r#""top_k": 0"#),
            "`top_k`: expected an integer of at least 1, found 0",
        ),
        (
            with(r#""top_k": -3"#),
            "`top_k`: expected an integer of at least 1, found -3",
        ),
        (
            with(r#""top_k": 3.0"#),
            "`top_k`: expected an integer of at least 1, found a floating-point number",
        ),
        (
            with(r#""top_k": "SECRET""#),
            "`top_k`: expected an integer of at least 1, found a string",
        ),
        (
            with(r#""raw_scores": 1"#),
            "`raw_scores`: expected a boolean, found an integer",
        ),
        (
            with(r#""return_documents": "SECRET""#),
            "`return_documents`: expected a boolean, found a string",
        ),
        (
            with(r#""truncate": []"#),
            "`truncate`: expected a boolean, found an array",
        ),
        (
            with(r#""timeout_ms": 0"#),
            "`timeout_ms`: expected a finite number of milliseconds above 0, found 0",
        ),
        (
            with(r#""timeout_ms": -0.5"#),
            "`timeout_ms`: expected a finite number of milliseconds above 0, found -0.5",
        ),
        (
            with(r#""timeout_ms": "SECRET""#),
            "`timeout_ms`: expected a finite number of milliseconds above 0, found a string",
        ),
        (with(r#""model": 5"#), "`model`: expected a string, found an integer"),
        (
            r#"["SECRET"]"#.to_owned(),
            "the body: expected an object, found an array",
        ),
        (r#""SECRET""#.to_owned(), "the body: expected an object, found a string"),
        ("null".to_owned(), "the body: expected an object, found null"),
        ("17".to_owned(), "the body: expected an object, found an integer"),
    ];
    for (json, message) in cases {
        assert_eq!(refused(&json), message, "{json}");
    }
}

#[test]
fn top_k_may_be_larger_than_any_list() {
    let request = accepted(r#"{"query": "q", "documents": [], "top_k": 18446744073709551615}"#);
    assert_eq!(request.top_k, Some(usize::MAX));
}

#[test]
fn more_documents_than_the_limit_are_counted_and_refused() {
    let json = r#"{"query": "q", "documents": ["a", {"text": "b"}, "c", ["whatever"]]}"#;
    for encoding in BOTH {
        let refusal = Request::decode_within(encoding, &body(encoding, json), 2).expect_err("four are too many");
        assert_eq!(refusal.kind, RefusalKind::TooLarge);
        assert_eq!(refusal.message, "`documents`: 4 documents, more than the limit of 2");
        let json = r#"{"query": "q", "documents": ["a", "b"]}"#;
        assert!(Request::decode_within(encoding, &body(encoding, json), 2).is_ok());
    }
}

#[test]
fn the_content_type_names_the_encoding() {
    use Encoding::{Json, MsgPack};
    let cases = [
        ("application/json", Json),
        ("Application/JSON; charset=utf-8", Json),
        (" application/json ;x=y;z", Json),
        ("application/msgpack", MsgPack),
        ("application/x-msgpack", MsgPack),
        ("APPLICATION/vnd.msgpack; v=5", MsgPack),
    ];
    for (content_type, encoding) in cases {
        // The body does not matter then.
        assert_eq!(
            Encoding::detect(Some(content_type), b"\x80"),
            Ok(encoding),
            "{content_type}"
        );
        assert_eq!(
            Encoding::detect(Some(content_type), b""),
            Ok(encoding),
            "{content_type}"
        );
    }
    for encoding in BOTH {
        assert_eq!(Encoding::detect(Some(encoding.content_type()), b""), Ok(encoding));
    }
    for content_type in [
        "text/plain",
        "",
        "application/json, application/json",
        "json",
        "SECRET/json",
    ] {
        let refusal = Encoding::detect(Some(content_type), b"{}").expect_err(content_type);
        assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
        assert!(refusal.message.contains("Content-Type") && !refusal.message.contains("SECRET"));
    }
}

#[test]
fn without_a_content_type_the_first_byte_names_the_encoding() {
    for body in [&b"{}"[..], b" \t\r\n{", b"[1]", b"nonsense", b"\"x\"", b"\xef\xbb\xbf{"] {
        assert_eq!(Encoding::detect(None, body), Ok(Encoding::Json), "{body:?}");
    }
    for body in [&[0x80][..], &[0x8f, 1], &[0xde, 0, 0], &[0xdf]] {
        assert_eq!(Encoding::detect(None, body), Ok(Encoding::MsgPack), "{body:?}");
    }
    for body in [
        &b""[..],
        b"  \n",
        &[0x90],
        &[0xc0],
        &[0xff],
        &[0xef, 0xbb, b'{'],
        &[0xef, 0xbb, 0xbf],
    ] {
        let refusal = Encoding::detect(None, body).expect_err("neither");
        assert_eq!(refusal.kind, RefusalKind::InvalidRequest, "{body:?}");
    }
}

fn headers(pairs: &[(&str, &str)]) -> RequestHeaders {
    RequestHeaders::from_pairs(pairs.iter().copied())
}

#[test]
fn header_names_know_no_case_and_others_are_ignored() {
    let found = headers(&[
        ("content-TYPE", "application/json"),
        ("RERANK-TIMEOUT-MS", "5"),
        ("rerank-deadline-unix-ms", "6"),
        ("Traceparent", "00-a"),
        ("TraceState", "a=1"),
        ("tracestate", "b=2"),
        ("Content-Types", "text/plain"),
    ]);
    let expected = RequestHeaders {
        content_type: Some("application/json".into()),
        timeout_ms: Some("5".into()),
        deadline_unix_ms: Some("6".into()),
        traceparent: Some("00-a".into()),
        tracestate: Some("a=1,b=2".into()),
    };
    assert_eq!(found, expected);
}

#[test]
fn the_earlier_budget_counts() {
    let now = UNIX_EPOCH + Duration::from_millis(1_000_000);
    let budget = |pairs: &[(&str, &str)]| headers(pairs).budget(now).expect("well-formed");
    assert_eq!(budget(&[]), None);
    assert_eq!(
        budget(&[("Rerank-Timeout-Ms", "250")]),
        Some(Duration::from_millis(250))
    );
    assert_eq!(
        budget(&[("Rerank-Timeout-Ms", " 0.5 ")]),
        Some(Duration::from_micros(500))
    );
    assert_eq!(
        budget(&[("Rerank-Deadline-Unix-Ms", "1000100")]),
        Some(Duration::from_millis(100))
    );
    assert_eq!(budget(&[("Rerank-Deadline-Unix-Ms", "1000000")]), Some(Duration::ZERO));
    assert_eq!(budget(&[("Rerank-Deadline-Unix-Ms", "0")]), Some(Duration::ZERO));
    let both = |timeout, deadline| budget(&[("Rerank-Timeout-Ms", timeout), ("Rerank-Deadline-Unix-Ms", deadline)]);
    assert_eq!(both("50", "1000100"), Some(Duration::from_millis(50)));
    assert_eq!(both("150", "1000100"), Some(Duration::from_millis(100)));
    assert_eq!(both("150", "5"), Some(Duration::ZERO));
    // Whatever the budget, it can be added to a point in time.
    let endless = "9".repeat(400);
    assert_eq!(both(&endless, &endless), Some(BUDGET_MAX));
}

#[test]
fn a_malformed_budget_is_refused_by_its_header() {
    let values = [
        "", " ", "abc", "-5", "+5", "1e3", "inf", "NaN", "0x10", "1,5", "5.", ".5", "1.2.3", "5 6", "٣", "SECRET",
    ];
    for name in [headers::TIMEOUT_MS, headers::DEADLINE_UNIX_MS] {
        for value in values {
            let refusal = headers(&[(name, value)]).budget(SystemTime::now()).expect_err(value);
            assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
            assert!(
                refusal.message.contains(name) && !refusal.message.contains("SECRET"),
                "{}",
                refusal.message
            );
        }
        // Two budgets are none, however they are spelt.
        assert!(
            headers(&[(name, "5"), (&name.to_lowercase(), "5")])
                .budget(SystemTime::now())
                .is_err()
        );
    }
    for zero in ["0", "0.0", "00"] {
        assert!(
            headers(&[("Rerank-Timeout-Ms", zero)])
                .budget(SystemTime::now())
                .is_err(),
            "{zero}"
        );
    }
}

#[test]
fn refusals_follow_the_table() {
    let table = [
        (RefusalKind::InvalidRequest, 400, "invalid_request", false),
        (RefusalKind::UnknownModel, 404, "unknown_model", false),
        (RefusalKind::TooLarge, 413, "too_large", false),
        (RefusalKind::Overloaded, 429, "overloaded", true),
        (RefusalKind::Unavailable, 429, "unavailable", true),
        (RefusalKind::DeadlineExceeded, 504, "deadline_exceeded", false),
        (RefusalKind::Internal, 500, "internal", true),
    ];
    assert_eq!(table.len(), RefusalKind::ALL.len());
    for (kind, code, name, retryable) in table {
        assert_eq!((kind.code(), kind.name(), kind.retryable()), (code, name, retryable));
        let refusal = Refusal::new(kind, "why");
        let json: serde_json::Value = serde_json::from_slice(&refusal.encode(Encoding::Json)).expect("JSON");
        let expected = serde_json::json!(
            {"error": {
                "code": code, "kind": name, "message": "why", "retryable": retryable, "scope": kind.scope().name(),
            }}
        );
        assert_eq!(json, expected);
        for encoding in BOTH {
            assert_eq!(
                Refusal::decode(encoding, &refusal.encode(encoding)),
                Ok(refusal.clone())
            );
        }
    }
}

#[test]
fn a_refusal_of_a_later_version_is_read_by_its_code() {
    let read = |json: &str| Refusal::decode(Encoding::Json, json.as_bytes());
    let later = read(r#"{"error": {"code": 429, "kind": "tired", "message": "m", "retryable": true, "x": 1}}"#);
    assert_eq!(later, Ok(Refusal::overloaded("m")));
    assert!(read(r#"{"error": {"code": 499, "kind": "tired", "message": "m"}}"#).is_err());
    assert!(read(r#"{"rankings": []}"#).is_err());
}

#[test]
fn the_scope_of_a_refusal_is_on_the_wire_and_goes_by_the_kind_where_it_is_not() {
    for encoding in [Encoding::Json, Encoding::MsgPack] {
        for kind in RefusalKind::ALL {
            for scope in RefusalScope::ALL {
                let refusal = Refusal::new(kind, "m").with_scope(scope);
                assert_eq!(Refusal::decode(encoding, &refusal.encode(encoding)), Ok(refusal));
            }
        }
    }
    let json = String::from_utf8(Refusal::overloaded("m").encode(Encoding::Json)).expect("UTF-8");
    assert_eq!(
        json,
        r#"{"error":{"code":429,"kind":"overloaded","message":"m","retryable":true,"scope":"worker"}}"#
    );
    // An older worker's, and a later one's.
    for (kind, scope) in [
        ("overloaded", RefusalScope::Worker),
        ("deadline_exceeded", RefusalScope::Worker),
        ("too_large", RefusalScope::Request),
        ("invalid_request", RefusalScope::Request),
    ] {
        for of_another_version in ["", r#", "scope": "galaxy""#, r#", "scope": null"#] {
            let body = format!(r#"{{"error": {{"kind": "{kind}", "message": "m"{of_another_version}}}}}"#);
            let read = Refusal::decode(Encoding::Json, body.as_bytes()).map(|refusal| refusal.scope);
            assert_eq!(read, Ok(scope), "{body}");
        }
    }
}

#[test]
fn messages_are_one_bounded_line() {
    let long = Refusal::internal(format!("first\nsecond\t{}", "é".repeat(1000)));
    assert!(
        long.message.len() <= MESSAGE_BYTES_MAX && long.message.ends_with("..."),
        "{}",
        long.message
    );
    assert!(long.message.starts_with("first second é"));
    let value = long.header_value();
    assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{value}");
    assert!(value.starts_with("first second ??"));
    // Also when somebody put the message there by hand.
    let by_hand = Refusal {
        kind: RefusalKind::Internal,
        message: "x\r\n".repeat(1000),
        scope: RefusalScope::Worker,
    };
    assert!(by_hand.header_value().len() <= MESSAGE_BYTES_MAX && !by_hand.header_value().contains(['\r', '\n']));
    let read = Refusal::decode(Encoding::Json, &by_hand.encode(Encoding::Json)).expect("readable");
    assert!(read.message.len() <= MESSAGE_BYTES_MAX);
}

fn reply(scores: &[f32]) -> Reply {
    let rankings = scores.iter().enumerate();
    Reply {
        rankings: rankings
            .map(|(index, score)| Ranking {
                index,
                score: *score,
                id: None,
                document: None,
            })
            .collect(),
        top_k_applied: false,
        below_min_score: None,
        model: "m".into(),
        usage: Usage {
            pairs: 24,
            tokens: 2368,
            truncated: 1,
            cached: 2,
        },
        timings_ms: TimingsMs {
            queue: 0.8,
            tokenize: 1.9004999,
            infer: 11.2,
            total: f64::NAN,
        },
    }
}

#[test]
fn a_reply_is_written_as_the_contract_shows() {
    let mut reply = reply(&[8.31, -0.25]);
    reply.rankings[0].id = Some(DocumentId::Text("doc-17".into()));
    reply.rankings[0].document = Some(RankedDocument { text: "t".into() });
    reply.rankings[1].id = Some(DocumentId::Unsigned(u64::MAX));
    let json = String::from_utf8(reply.encode(Encoding::Json).expect("finite")).expect("UTF-8");
    assert_eq!(
        json,
        concat!(
            r#"{"rankings":[{"index":0,"score":8.31,"id":"doc-17","document":{"text":"t"}},"#,
            r#"{"index":1,"score":-0.25,"id":18446744073709551615}],"top_k_applied":false,"model":"m","#,
            r#""usage":{"pairs":24,"tokens":2368,"truncated":1,"cached":2},"#,
            r#""timings_ms":{"queue":0.8,"tokenize":1.9,"infer":11.2,"total":0.0}}"#
        )
    );
}

#[test]
fn a_score_that_is_not_finite_never_leaves() {
    for score in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for encoding in BOTH {
            let refusal = reply(&[1.0, score]).encode(encoding).expect_err("not finite");
            assert_eq!(refusal.kind, RefusalKind::Internal);
        }
    }
    // Nor does one get in.
    let nan = r#"{"rankings": [{"index": 0, "score": 1e39}], "top_k_applied": false, "model": "m"}"#;
    assert!(Reply::decode(Encoding::Json, nan.as_bytes()).is_err());
}

#[test]
fn a_reply_may_lack_figures_but_not_its_ranking() {
    let read = |json: &str| {
        let [first, second] = BOTH.map(|encoding| Reply::decode(encoding, &body(encoding, json)));
        assert_eq!(first.is_ok(), second.is_ok(), "{json}");
        first
    };
    let bare = read(r#"{"rankings": [{"index": 0, "score": 2}], "top_k_applied": true, "model": "m", "x": {}}"#)
        .expect("enough");
    assert_eq!(
        (bare.rankings[0].score, bare.usage.pairs, bare.timings_ms.total),
        (2.0, 0, 0.0)
    );
    let message = |json: &str| read(json).expect_err(json).to_string();
    assert!(message(r#"{"top_k_applied": true, "model": "m"}"#).starts_with("`rankings` is missing"));
    let lacks = message(r#"{"rankings": [{"index": 0}], "top_k_applied": true, "model": "m"}"#);
    assert!(lacks.starts_with("`rankings[0].score` is missing"), "{lacks}");
    let lacks = message(r#"{"rankings": [{"index": 0, "score": 1, "document": {}}]}"#);
    assert!(lacks.starts_with("`rankings[0].document.text` is missing"), "{lacks}");
    for score in [r#""SECRET""#, "null", "[]", "true"] {
        let wrong =
            format!(r#"{{"rankings": [{{"index": 0, "score": {score}}}], "top_k_applied": true, "model": "m"}}"#);
        let message = message(&wrong);
        assert!(
            message.starts_with("`rankings[0].score`") && !message.contains("SECRET"),
            "{message}"
        );
    }
}

#[test]
fn a_reply_is_held_to_its_request() {
    assert_eq!(reply(&[3.0, 2.0, 2.0]).check(3, None), Ok(()));
    assert_eq!(reply(&[3.0]).check(3, Some(1)), Ok(()));
    assert_eq!(reply(&[3.0]).check(1, Some(9)), Ok(()));
    assert_eq!(reply(&[]).check(0, Some(2)), Ok(()));
    let fault = |reply: Reply, documents, top_k| reply.check(documents, top_k).expect_err("a fault").to_string();
    assert!(fault(reply(&[3.0]), 3, None).contains("expected 3 rankings"));
    assert!(fault(reply(&[3.0, 2.0]), 3, Some(1)).contains("expected 1 rankings"));
    assert!(fault(reply(&[1.0, 2.0]), 2, None).contains("higher than the one before"));
    assert!(fault(reply(&[f32::NAN]), 1, None).contains("finite"));
    let mut twice = reply(&[3.0, 2.0]);
    twice.rankings[1].index = 0;
    assert!(fault(twice, 2, None).contains("more than once"));
    let mut outside = reply(&[3.0, 2.0]);
    outside.rankings[1].index = 2;
    assert!(fault(outside, 2, None).contains("not among the 2 documents"));
}

#[test]
fn debug_shows_no_text() {
    let mut request = Request::new("SECRET", ["SECRET"]);
    request.documents[0].id = Some(DocumentId::Text("SECRET".into()));
    request.model = Some("SECRET".into());
    let mut answer = reply(&[1.0]);
    answer.rankings[0].document = Some(RankedDocument { text: "SECRET".into() });
    answer.rankings[0].id = Some(DocumentId::Text("SECRET".into()));
    assert!(!format!("{request:?} {:?} {answer:?}", request.documents).contains("SECRET"));
}
