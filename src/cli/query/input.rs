//! Documents from a file or standard input.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use serde_json::Value;

use crate::protocol::{Document, DocumentId};

/// More than any NATS server takes in one message.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Reads the documents: one a line, or one JSON value a line. The error is a message for people.
pub(super) fn documents(file: Option<&Path>, jsonl: bool) -> Result<Vec<Document>, String> {
    let (from, bytes) = match file.filter(|file| *file != Path::new("-")) {
        Some(file) => {
            let from = format!("--documents {}", file.display());
            let bytes = File::open(file)
                .and_then(read)
                .map_err(|error| format!("{from}: {error}"))?;
            (from, bytes)
        }
        None => {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                crate::cli::say("Reading documents, one a line; end with Ctrl-D. (--documents FILE reads a file.)");
            }
            let bytes = read(stdin.lock()).map_err(|error| format!("standard input: {error}"))?;
            ("standard input".to_owned(), bytes)
        }
    };
    parse(&bytes, jsonl).map_err(|problem| format!("{from}: {problem}"))
}

fn read(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(io::Error::other(format!(
            "more than {} MiB of documents",
            INPUT_BYTES_MAX >> 20
        )));
    }
    Ok(bytes)
}

fn parse(bytes: &[u8], jsonl: bool) -> Result<Vec<Document>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!("line {line}: not UTF-8 text")
    })?;
    // Some editors begin a file with this mark. It is no part of the first document.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        documents.push(match jsonl {
            true => from_json(line).map_err(|problem| format!("line {}: {problem}", index + 1))?,
            false => Document::from(line),
        });
    }
    if documents.is_empty() {
        return Err("no documents: expected one a line, found none".to_owned());
    }
    Ok(documents)
}

fn from_json(line: &str) -> Result<Document, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| format!("not JSON at column {}", error.column()))?;
    match value {
        Value::String(text) => Ok(Document::from(text)),
        Value::Object(mut object) => {
            let text = match object.remove("text") {
                Some(Value::String(text)) => text,
                Some(other) => return Err(format!("`text`: expected a string, found {}", name(&other))),
                None => return Err("`text` is missing: expected a string".to_owned()),
            };
            let id = match object.remove("id") {
                None | Some(Value::Null) => None,
                Some(Value::String(id)) => Some(DocumentId::Text(id)),
                Some(other) => {
                    let integer = other
                        .as_i64()
                        .map(DocumentId::Integer)
                        .or(other.as_u64().map(DocumentId::Unsigned));
                    let expected = "`id`: expected a string or a 64-bit integer";
                    Some(integer.ok_or_else(|| format!("{expected}, found {}", name(&other)))?)
                }
            };
            Ok(Document { text, id })
        }
        other => Err(format!(
            "expected a JSON string or an object with `text`, found {}",
            name(&other)
        )),
    }
}

fn name(value: &Value) -> &'static str {
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
        let documents = parse("\u{feff}one\r\n\n  two \n\t\nthree".as_bytes(), false).expect("text");
        assert_eq!(texts(&documents), ["one", "  two ", "three"]);
        assert_eq!(texts(&parse(b"\"as it is\"", false).expect("text")), ["\"as it is\""]);
    }

    #[test]
    fn a_line_of_json_may_name_the_document() {
        let lines = br#""plain \u0041"
            {"text": "named", "id": "x", "more": 1}
            {"text": "numbered", "id": 18446744073709551615}
            {"text": "", "id": null}"#;
        let documents = parse(lines, true).expect("JSON lines");
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
    fn what_will_not_do_is_told_with_its_line() {
        let told = |bytes: &[u8], jsonl| parse(bytes, jsonl).expect_err("not documents");
        assert_eq!(told(b"", false), "no documents: expected one a line, found none");
        assert_eq!(told(b"\n \n", true), "no documents: expected one a line, found none");
        assert_eq!(told(b"fine\nbad \xff\n", false), "line 2: not UTF-8 text");
        assert_eq!(told(b"\"a\"\n\nSECRET", true), "line 3: not JSON at column 1");
        assert_eq!(
            told(b"[1]", true),
            "line 1: expected a JSON string or an object with `text`, found an array"
        );
        assert_eq!(told(b"{}", true), "line 1: `text` is missing: expected a string");
        assert_eq!(
            told(br#"{"text": 5}"#, true),
            "line 1: `text`: expected a string, found an integer"
        );
        let id = told(br#"{"text": "a", "id": 1.5}"#, true);
        assert_eq!(
            id,
            "line 1: `id`: expected a string or a 64-bit integer, found a floating-point number"
        );
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let missing = documents(Some(Path::new("/nonexistent/candidates.txt")), false).expect_err("no such file");
        assert!(
            missing.starts_with("--documents /nonexistent/candidates.txt: "),
            "{missing}"
        );
        let folder = documents(Some(Path::new("/")), false).expect_err("a folder");
        assert!(folder.starts_with("--documents /: "), "{folder}");
    }
}
