//! Documents written as lines: plain text, or JSON. Pure: bytes come in, documents go out.
//!
//! What goes wrong is told with the line's number and never with what stands in it.

use std::path::Path;

use serde_json::Value;

use crate::protocol::{Document, DocumentId};

/// As many as a worker can be configured to take.
const DOCUMENTS_MAX: usize = 1_000_000;

/// Which fields of a JSON object are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub text: String,
    pub id: String,
}

impl Default for Fields {
    /// Those of the wire contract.
    fn default() -> Self {
        Self {
            text: "text".to_owned(),
            id: "id".to_owned(),
        }
    }
}

/// The text in `bytes`, without the mark that some editors begin a file with.
pub(super) fn text(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line}: not UTF-8 text")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Are these lines JSON? The file's ending tells, else the first line that is not blank.
pub(super) fn look_like_json(file: Option<&Path>, first_line: &str) -> bool {
    let ending = file.and_then(Path::extension).unwrap_or_default().to_ascii_lowercase();
    match ending.to_str() {
        Some("jsonl" | "ndjson" | "json") => true,
        Some("txt" | "text") => false,
        _ => first_line.trim_start().starts_with('{') && serde_json::from_str::<Value>(first_line).is_ok(),
    }
}

/// The lines that are not blank, each with its number.
pub(super) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| !line.trim().is_empty())
}

/// A document from each line; of JSON, if the fields of its objects are given.
pub(super) fn documents(text: &str, json: Option<&Fields>) -> Result<Vec<Document>, String> {
    let mut documents = Vec::new();
    for (number, line) in numbered(text) {
        if documents.len() == DOCUMENTS_MAX {
            return Err(format!("line {number}: more than {DOCUMENTS_MAX} documents"));
        }
        documents.push(match json {
            Some(fields) => value(line)
                .and_then(|value| document(value, fields))
                .map_err(|problem| format!("line {number}: {problem}"))?,
            None => Document::from(line),
        });
    }
    if documents.is_empty() {
        return Err("no documents: expected one a line, found none".to_owned());
    }
    Ok(documents)
}

/// A document from a JSON value: a string, or an object with the given fields.
pub(super) fn document(value: Value, fields: &Fields) -> Result<Document, String> {
    match value {
        Value::String(text) => Ok(Document::from(text)),
        Value::Object(mut object) => {
            let name = &fields.text;
            let text = match object.remove(name) {
                Some(Value::String(text)) => text,
                Some(other) => return Err(format!("`{name}`: expected a string, found {}", kind(&other))),
                None => return Err(format!("`{name}` is missing: expected a string")),
            };
            let id = id(&fields.id, object.remove(&fields.id))?;
            Ok(Document { text, id })
        }
        other => Err(format!(
            "expected a JSON string or an object with `{}`, found {}",
            fields.text,
            kind(&other)
        )),
    }
}

/// Reads a line as JSON.
pub(super) fn value(line: &str) -> Result<Value, String> {
    serde_json::from_str(line).map_err(|error| format!("not JSON at column {}", error.column()))
}

/// The id in the field `name`, if there is one.
pub(super) fn id(name: &str, value: Option<Value>) -> Result<Option<DocumentId>, String> {
    Ok(match value {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(DocumentId::Text(id)),
        Some(other) => {
            let signed = other.as_i64().map(DocumentId::Integer);
            let integer = signed.or(other.as_u64().map(DocumentId::Unsigned));
            let expected = || {
                let found = kind(&other);
                format!("`{name}`: expected a string or a 64-bit integer, found {found}")
            };
            Some(integer.ok_or_else(expected)?)
        }
    })
}

/// What a value is, for a message that must not show it.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a floating-point number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(documents: &[Document]) -> Vec<&str> {
        documents.iter().map(|document| document.text.as_str()).collect()
    }

    #[test]
    fn a_line_is_a_document() {
        let lines = text("\u{feff}one\r\n\n  two \n\t\nthree".as_bytes()).expect("text");
        assert_eq!(
            texts(&documents(lines, None).expect("documents")),
            ["one", "  two ", "three"]
        );
        assert_eq!(
            texts(&documents("\"as it is\"", None).expect("documents")),
            ["\"as it is\""]
        );
    }

    #[test]
    fn a_line_of_json_may_name_the_document() {
        let lines = r#""plain \u0041"
            {"text": "named", "id": "x", "more": 1}
            {"text": "numbered", "id": 18446744073709551615}
            {"text": "", "id": null}"#;
        let documents = documents(lines, Some(&Fields::default())).expect("JSON lines");
        assert_eq!(texts(&documents), ["plain A", "named", "numbered", ""]);
        let ids: Vec<_> = documents.into_iter().map(|document| document.id).collect();
        assert!(
            ids == [
                None,
                Some(DocumentId::Text("x".into())),
                Some(DocumentId::Unsigned(u64::MAX)),
                None
            ]
        );
    }

    #[test]
    fn fields_may_go_by_other_names() {
        let fields = Fields {
            text: "body".into(),
            id: "key".into(),
        };
        let read = documents(r#"{"body": "a", "key": -3, "text": "no", "id": "no"}"#, Some(&fields)).expect("JSON");
        assert!(
            read == [Document {
                text: "a".into(),
                id: Some(DocumentId::Integer(-3))
            }]
        );
        assert_eq!(
            documents(r#"{"text": "a"}"#, Some(&fields)).expect_err("no `body`"),
            "line 1: `body` is missing: expected a string"
        );
    }

    #[test]
    fn the_ending_tells_what_lines_are_and_else_the_first_line() {
        let looks = |file: &str, line: &str| look_like_json(Some(Path::new(file)), line);
        assert!(looks("a.jsonl", "text") && looks("a.NDJSON", "") && !looks("a.txt", r#"{"text": ""}"#));
        assert!(looks("a", r#" {"text": "x"}"#) && looks("a.data", "{}"));
        assert!(!looks("a", r#""a quotation""#) && !looks("a", "{curly} words") && !looks("a", "text"));
        assert!(look_like_json(None, "{}") && !look_like_json(None, "text"));
    }

    #[test]
    fn what_will_not_do_is_told_with_its_line() {
        let told = |bytes: &[u8]| {
            let fields = Fields::default();
            text(bytes)
                .and_then(|text| documents(text, Some(&fields)))
                .expect_err("not documents")
        };
        assert_eq!(told(b""), "no documents: expected one a line, found none");
        assert_eq!(told(b"\n \n"), "no documents: expected one a line, found none");
        assert_eq!(told(b"fine\nbad \xff\n"), "line 2: not UTF-8 text");
        assert_eq!(told(b"\"a\"\n\nSECRET"), "line 3: not JSON at column 1");
        assert_eq!(
            told(b"[1]"),
            "line 1: expected a JSON string or an object with `text`, found an array"
        );
        assert_eq!(told(b"{}"), "line 1: `text` is missing: expected a string");
        assert_eq!(
            told(br#"{"text": 5}"#),
            "line 1: `text`: expected a string, found an integer"
        );
        assert_eq!(
            told(br#"{"text": "a", "id": 1.5}"#),
            "line 1: `id`: expected a string or a 64-bit integer, found a floating-point number"
        );
    }
}
