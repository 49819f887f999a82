//! Bodies that are broken, hostile, or in the wrong encoding.

use super::super::*;
use super::{BOTH, refusal_of};

fn json(body: &str) -> String {
    refusal_of(Encoding::Json, body.as_bytes()).message
}

fn msgpack(body: &[u8]) -> String {
    refusal_of(Encoding::MsgPack, body).message
}

/// A MessagePack string of at most 31 bytes.
fn text(text: &str) -> Vec<u8> {
    [&[0xa0 | text.len() as u8], text.as_bytes()].concat()
}

/// `{"query": "q", <key>: <value>}` with the value in bytes.
fn with(key: &str, value: &[u8]) -> Vec<u8> {
    [&[0x82][..], &text("query"), &text("q"), &text(key), value].concat()
}

#[test]
fn broken_json_is_told_with_its_place() {
    assert!(json(r#"{"query": "SECRET", "documents": ["SECRET", "SECR"#).starts_with("`documents[1]`: not valid JSON"));
    assert!(json(r#"{"query": "SECRET" "documents"}"#).contains("line 1 column"));
    assert!(json(r#"{"query": SECRET}"#).starts_with("`query`: not valid JSON"));
    assert!(json(r#"{"query": "q", "documents": [], "timeout_ms": NaN}"#).starts_with("`timeout_ms`: not valid JSON"));
    assert!(
        json(r#"{"query": "q", "documents": [], "timeout_ms": 1e999}"#).starts_with("`timeout_ms`: not valid JSON")
    );
    assert!(json("nonsense").starts_with("the body: not valid JSON"));
    assert!(json("").starts_with("the body: not valid JSON"));
}

#[test]
fn json_has_to_be_utf8() {
    let message = refusal_of(Encoding::Json, b"{\"query\": \"\xff\", \"documents\": []}").message;
    assert_eq!(message, "the body: not JSON: it is not UTF-8 from byte 11 on");
}

#[test]
fn nothing_may_follow_the_object() {
    let object = r#"{"query": "q", "documents": []}"#;
    assert!(Request::decode(Encoding::Json, format!(" {object} \n").as_bytes()).is_ok());
    for more in ["{}", "SECRET", "]", ","] {
        assert!(
            json(&format!("{object} {more}")).contains("expected nothing after the object"),
            "{more}"
        );
    }
    let object = with("documents", &[0x90]);
    assert!(Request::decode(Encoding::MsgPack, &object).is_ok());
    // A whole value, a number, the start of an array, of a number, and a byte that means nothing.
    for more in [&[0xc0][..], &[0x05], &[0x91], &[0xcd], &[0xc1]] {
        let message = msgpack(&[&object, more].concat());
        assert!(
            message.contains("expected nothing after the object"),
            "{more:x?}: {message}"
        );
    }
}

#[test]
fn a_field_given_twice_is_refused() {
    let cases = [
        (
            r#"{"query": "a", "query": "a", "documents": []}"#,
            "`query` is given more than once",
        ),
        (
            r#"{"query": "a", "documents": [], "documents": null}"#,
            "`documents` is given more than once",
        ),
        (
            r#"{"query": "a", "texts": [], "texts": []}"#,
            "`texts` is given more than once",
        ),
        (
            r#"{"query": "a", "documents": ["x", {"text": "a", "id": 1, "text": "b"}]}"#,
            "`documents[1].text` is given more than once",
        ),
    ];
    for (body, message) in cases {
        assert_eq!(json(body), message);
    }
    let twice = [&[0x82][..], &text("query"), &text("a"), &text("query"), &text("a")].concat();
    assert_eq!(msgpack(&twice), "`query` is given more than once");
    // Fields that mean nothing here may come as often as they like.
    let unknown = r#"{"x": 1, "x": 2, "query": "a", "documents": []}"#;
    assert!(Request::decode(Encoding::Json, unknown.as_bytes()).is_ok());
}

#[test]
fn binary_data_is_not_text() {
    // bin8 with the UTF-8 bytes of "a" would do as a string, if one let it.
    let bin = [0xc4, 1, b'a'];
    let found = "found binary data, or a string that is not UTF-8";
    assert_eq!(
        msgpack(&with("documents", &[&[0x91][..], &bin].concat())),
        format!("`documents[0]`: expected a string or an object with `text`, {found}")
    );
    let object = [&[0x91, 0x81][..], &text("text"), &bin].concat();
    assert_eq!(
        msgpack(&with("documents", &object)),
        format!("`documents[0].text`: expected a string, {found}")
    );
    assert_eq!(
        msgpack(&with("model", &bin)),
        format!("`model`: expected a string, {found}")
    );
    let query = [&[0x81][..], &text("query"), &bin].concat();
    assert_eq!(msgpack(&query), format!("`query`: expected a string, {found}"));
    // A string that is none.
    assert_eq!(
        msgpack(&with("model", &[0xa1, 0xff])),
        format!("`model`: expected a string, {found}")
    );
    // Where nothing is expected, anything may stand.
    let ignored = [
        &[0x83][..],
        &text("query"),
        &text("q"),
        &text("documents"),
        &[0x90],
        &text("x"),
        &bin,
    ]
    .concat();
    assert!(Request::decode(Encoding::MsgPack, &ignored).is_ok());
}

#[test]
fn keys_are_strings() {
    for (key, found) in [
        (&[0x05][..], "an integer"),
        (&[0xc0], "null"),
        (&[0xc4, 1, b'a'], "binary data, or a string that is not UTF-8"),
        (&[0x80], "an object"),
        (&[0xd4, 1, 1], "a MessagePack extension"),
    ] {
        let message = msgpack(&[&[0x81], key, &[0x01]].concat());
        assert_eq!(message, format!("the body: expected string keys only, found {found}"));
    }
}

#[test]
fn extensions_are_ignored_where_unknown_and_refused_where_known() {
    // A timestamp, as fixext4 and ext8.
    for ext in [&[0xd6, 0xff, 1, 2, 3, 4][..], &[0xc7, 3, 0xff, 1, 2, 3], &[0xc7, 0, 1]] {
        let body = [
            &[0x83][..],
            &text("query"),
            &text("q"),
            &text("at"),
            ext,
            &text("documents"),
            &[0x91, 0xa1, b'd'],
        ]
        .concat();
        let request = Request::decode(Encoding::MsgPack, &body).unwrap_or_else(|refusal| panic!("{ext:x?}: {refusal}"));
        assert_eq!(request.documents.len(), 1);
        assert_eq!(
            msgpack(&with("model", ext)),
            "`model`: expected a string, found a MessagePack extension"
        );
    }
}

#[test]
fn numbers_of_every_width_are_read() {
    let request = |key: &str, value: &[u8]| {
        let body = [
            &[0x83][..],
            &text("query"),
            &text("q"),
            &text("documents"),
            &[0x90],
            &text(key),
            value,
        ]
        .concat();
        Request::decode(Encoding::MsgPack, &body)
    };
    for three in [
        &[3][..],
        &[0xcc, 3],
        &[0xcd, 0, 3],
        &[0xce, 0, 0, 0, 3],
        &[0xcf, 0, 0, 0, 0, 0, 0, 0, 3],
        &[0xd0, 3],
        &[0xd1, 0, 3],
        &[0xd2, 0, 0, 0, 3],
        &[0xd3, 0, 0, 0, 0, 0, 0, 0, 3],
    ] {
        assert_eq!(
            request("top_k", three).expect("an integer").top_k,
            Some(3),
            "{three:x?}"
        );
        assert_eq!(
            request("timeout_ms", three).expect("a number").timeout_ms,
            Some(3.0),
            "{three:x?}"
        );
    }
    let single = [&[0xca][..], &2.5_f32.to_be_bytes()].concat();
    let double = [&[0xcb][..], &2.5_f64.to_be_bytes()].concat();
    for value in [&single, &double] {
        assert_eq!(request("timeout_ms", value).expect("a number").timeout_ms, Some(2.5));
        assert!(request("top_k", value).is_err());
    }
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, -0.0] {
        let refusal = request("timeout_ms", &[&[0xcb][..], &odd.to_be_bytes()].concat()).expect_err("not a time-out");
        assert!(
            refusal.message.starts_with("`timeout_ms`: expected a finite number"),
            "{}",
            refusal.message
        );
    }
    assert!(
        request("top_k", &[0xff])
            .expect_err("minus one")
            .message
            .ends_with("found -1")
    );
}

#[test]
fn a_length_that_is_only_claimed_costs_nothing() {
    // Four thousand million elements, entries, bytes. Were they allocated, this test would not end.
    let ends = "not valid MessagePack: it ends before a value is complete";
    let claim = [0xff; 4];
    for (value, place) in [(0xdd, "`documents[0]`"), (0xdb, "`documents`"), (0xc6, "`documents`")] {
        let message = msgpack(&with("documents", &[&[value][..], &claim].concat()));
        assert_eq!(message, format!("{place}: {ends}"), "{value:x}");
    }
    assert_eq!(msgpack(&[&[0xdf][..], &claim].concat()), format!("the body: {ends}"));
    for value in [0xdd, 0xdf, 0xdb, 0xc6, 0xc9] {
        let message = msgpack(&with("unknown", &[&[value][..], &claim].concat()));
        assert!(message.ends_with(ends), "{value:x}: {message}");
    }
}

#[test]
fn nesting_has_an_end() {
    // Where nothing may nest, at once.
    let deep = "[".repeat(500_000);
    assert_eq!(
        json(&format!(r#"{{"query": {deep}"#)),
        "`query`: expected a string, found an array"
    );
    assert_eq!(
        msgpack(&with("model", &[0x91; 500_000])),
        "`model`: expected a string, found an array"
    );
    // In unknown fields: JSON skips without recursion, MessagePack stops at a depth.
    let closed = format!(
        r#"{{"x": {deep}{}, "query": "q", "documents": []}}"#,
        "]".repeat(500_000)
    );
    assert!(Request::decode(Encoding::Json, closed.as_bytes()).is_ok());
    assert!(msgpack(&with("x", &[0x91; 500_000])).contains("deeper than 128 levels"));
    assert!(msgpack(&with("x", &[0x81; 500_000])).contains("deeper than 128 levels"));
    let mut bearable = with("documents", &[0x90]);
    bearable[0] = 0x83;
    bearable.extend(text("x"));
    bearable.extend([0x91; 100]);
    bearable.push(0xc0);
    assert!(Request::decode(Encoding::MsgPack, &bearable).is_ok());
    // Keys, too.
    assert!(!msgpack(&[0x81; 500_000]).is_empty());
}

#[test]
fn the_wrong_encoding_is_told() {
    let request = Request::new("SECRET", ["SECRET"]);
    assert!(
        refusal_of(Encoding::Json, &request.encode(Encoding::MsgPack))
            .message
            .contains("not JSON")
    );
    // `{` is the number 123 in MessagePack.
    let message = msgpack(&request.encode(Encoding::Json));
    assert_eq!(message, "the body: expected an object, found an integer");
    for encoding in BOTH {
        assert!(refusal_of(encoding, b"").message.starts_with("the body"));
    }
}

#[test]
fn every_cut_of_a_request_is_refused() {
    let mut request = Request::new("question", ["one", "two"]);
    request.documents[0].id = Some(DocumentId::Integer(300));
    request.timeout_ms = Some(1.5);
    for encoding in BOTH {
        let whole = request.encode(encoding);
        for length in 0..whole.len() {
            let refusal = Request::decode(encoding, &whole[..length]).expect_err("not whole");
            assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
        }
    }
}

#[test]
fn half_a_character_is_read_as_the_replacement_character() {
    let body = r#"{"half \ud83d": 1, "query": "q \uD83D", "documents": ["\ude00 a", {"text": "\ud83d\ude00\ud83d", "id": "\udbff"}],
        "model": "\ud800"}"#;
    let request = Request::decode(Encoding::Json, body.as_bytes()).expect("a request");
    assert_eq!(request.query, "q \u{fffd}");
    assert_eq!(request.documents[0].text, "\u{fffd} a");
    assert_eq!(request.documents[1].text, "\u{1f600}\u{fffd}");
    assert_eq!(request.documents[1].id, Some(DocumentId::Text("\u{fffd}".to_owned())));
    assert_eq!(request.model.as_deref(), Some("\u{fffd}"));
    // As bytes: Python's `surrogatepass` in JSON, JavaScript's MessagePack.
    let in_bytes = b"{\"query\": \"a\xed\xa0\xbd\", \"documents\": []}";
    assert_eq!(
        Request::decode(Encoding::Json, in_bytes).expect("a request").query,
        "a\u{fffd}"
    );
    let documents = [&[0x91][..], &[0xa4, b'a', 0xed, 0xa0, 0xbd]].concat();
    let request = Request::decode(Encoding::MsgPack, &with("documents", &documents)).expect("a request");
    assert_eq!(request.documents[0].text, "a\u{fffd}");
    // A reply holds texts, too.
    let reply = br#"{"rankings": [{"index": 0, "score": 1, "document": {"text": "\ud83d"}}], "top_k_applied": false, "model": "m"}"#;
    let reply = Reply::decode(Encoding::Json, reply).expect("a reply");
    assert_eq!(
        reply.rankings[0].document.as_ref().expect("a document").text,
        "\u{fffd}"
    );
    // What else is wrong is still found, at its place.
    assert!(json(r#"{"query": "\ud83d", "documents": ["\ud83d", 3]}"#).starts_with("`documents[1]`: expected"));
    assert!(json(r#"{"query": "\ud83d", "documents": [}"#).contains("line 1 column 35"));
}

#[test]
fn whatever_a_stock_writer_makes_of_a_string_is_read() {
    // Java, .NET and PHP escape more than they have to; .NET begins with a byte order mark.
    let body = "\u{feff}{\"query\": \"\\u003ca\\u003E \\/ \\u0000 \\u2028 \u{2028} \u{7f} \\b\\f\\n\\r\\t\\u0001\", \"documents\": []}";
    let request = Request::decode(Encoding::Json, body.as_bytes()).expect("a request");
    assert_eq!(request.query, "<a> / \0 \u{2028} \u{2028} \u{7f} \u{8}\u{c}\n\r\t\u{1}");
    assert_eq!(Encoding::detect(None, body.as_bytes()), Ok(Encoding::Json));
}
