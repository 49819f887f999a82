//! What a body may hold, in any dialect, and which dialect it is in.

use serde::de::Deserializer;

use super::dialect::{Dialect, Door};
use crate::protocol::reader::{self, Sink, Value};
use crate::protocol::{Encoding, Refusal, Request, RequestSink};

/// A request for a ranking, understood.
#[derive(Debug)]
pub(super) struct Asked {
    /// What the workers are asked, in the terms of the wire.
    pub(super) request: Request,
    /// The shape of the answer.
    pub(super) dialect: Dialect,
    /// Whether the answer holds the texts.
    pub(super) returns_texts: bool,
    /// The model that the request named, whether or not that is of account.
    pub(super) named_model: Option<String>,
}

/// A body that will not do, and the dialect to say so in.
pub(super) type Misread = (Refusal, Dialect);

impl Asked {
    /// Reads a body that came in at `door`, with at most so many documents.
    pub(super) fn read(door: Door, body: &[u8], documents_max: usize, any_model: bool) -> Result<Asked, Misread> {
        let (sink, read) = reader::read(Encoding::Json, body, || BodySink {
            fields: RequestSink::within(documents_max),
            ..BodySink::default()
        });
        let dialect = match door {
            // TEI's name for the documents gives it away.
            Door::Rerank if sink.fields.has_texts() => Dialect::Tei,
            Door::Rerank => Dialect::Own,
            Door::V1 => Dialect::V1,
            Door::V2 => Dialect::V2,
        };
        read.map_err(|message| (Refusal::invalid(message), dialect))?;
        let returns_texts = match dialect {
            Dialect::Own => sink.fields.return_documents().unwrap_or(false),
            Dialect::Tei => sink.return_text.unwrap_or(false),
            // Who does not expect the texts ignores them; who does would stumble without.
            Dialect::V1 => sink.fields.return_documents().unwrap_or(true),
            Dialect::V2 => sink.fields.return_documents().unwrap_or(false),
        };
        let mut request = sink.fields.finish().map_err(|refusal| (refusal, dialect))?;
        let named_model = request.model.clone();
        if matches!(dialect, Dialect::V1 | Dialect::V2) && any_model {
            request.model = None;
        }
        Ok(Asked {
            request,
            dialect,
            returns_texts,
            named_model,
        })
    }
}

/// What no request on the wire has.
const DIALECT_FIELDS: &[&str] = &[
    "return_text",
    "truncation_direction",
    "rank_fields",
    "max_tokens_per_doc",
];

/// The fields of a request on the wire, and those that only a dialect has.
#[derive(Default)]
struct BodySink {
    fields: RequestSink,
    return_text: Option<bool>,
}

impl Sink for BodySink {
    const FIELDS: &'static [&'static str] = &{
        let (wire, own) = (RequestSink::FIELDS, DIALECT_FIELDS);
        let mut fields = [""; RequestSink::FIELDS.len() + DIALECT_FIELDS.len()];
        let mut at = 0;
        while at < fields.len() {
            fields[at] = if at < wire.len() {
                wire[at]
            } else {
                own[at - wire.len()]
            };
            at += 1;
        }
        fields
    };

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        match name {
            "return_text" => self.return_text = value.boolean()?,
            "truncation_direction" => {
                let complaint = value.complaint();
                if value.text()?.is_some_and(|side| !side.eq_ignore_ascii_case("right")) {
                    return Err(complaint.because(format_args!("expected Right: texts are cut at their end only")));
                }
            }
            "rank_fields" => {
                value.array(&mut RankFields)?;
            }
            // The model's limit cuts a pair; a tighter one for this request cannot be asked for on the wire.
            "max_tokens_per_doc" => {
                value.positive()?;
            }
            _ => self.fields.field(name, value)?,
        }
        Ok(())
    }
}

/// Only `text` can be ranked by: any other field would be left out without a word.
struct RankFields;

impl Sink for RankFields {
    const ELEMENTS: bool = true;

    fn element<'de, D: Deserializer<'de>>(&mut self, _: usize, value: Value<'_, D>) -> Result<(), D::Error> {
        let complaint = value.complaint();
        match value.text()?.as_deref() {
            Some("text") => Ok(()),
            _ => Err(complaint.because(format_args!(
                "expected text: documents are ranked by their `text` alone"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(door: Door, body: &str) -> Result<Asked, Misread> {
        Asked::read(door, body.as_bytes(), 3, true)
    }

    fn complaint(door: Door, body: &str) -> (String, Dialect) {
        let (refusal, dialect) = read(door, body).expect_err("a complaint");
        (refusal.message, dialect)
    }

    #[test]
    fn the_shape_of_the_body_tells_the_dialect() {
        let own = read(
            Door::Rerank,
            r#"{"query": "q", "documents": ["a", {"text": "b", "id": 7}], "top_k": 1}"#,
        )
        .expect("own");
        assert_eq!(
            (own.dialect, own.request.top_k, own.returns_texts),
            (Dialect::Own, Some(1), false)
        );
        let tei = read(
            Door::Rerank,
            r#"{"query": "q", "texts": ["a"], "return_text": true, "raw_scores": true}"#,
        )
        .expect("TEI");
        assert_eq!(
            (tei.dialect, tei.request.raw_scores, tei.returns_texts),
            (Dialect::Tei, true, true)
        );
        let body =
            r#"{"model": "any", "query": "q", "documents": ["a"], "top_n": 9, "max_tokens_per_doc": 512, "new": {}}"#;
        let v1 = read(Door::V1, body).expect("v1");
        assert_eq!(
            (v1.dialect, v1.request.top_k, v1.returns_texts),
            (Dialect::V1, Some(9), true)
        );
        assert_eq!((v1.named_model.as_deref(), &v1.request.model), (Some("any"), &None));
        let v2 = read(Door::V2, body).expect("v2");
        assert_eq!((v2.dialect, v2.returns_texts), (Dialect::V2, false));
    }

    #[test]
    fn a_model_is_of_account_where_the_settings_or_the_route_say_so() {
        let body = br#"{"model": "m", "query": "q", "documents": []}"#;
        let model = |door, any| Asked::read(door, body, 3, any).expect("a request").request.model;
        assert_eq!(model(Door::V2, false).as_deref(), Some("m"));
        assert_eq!(model(Door::Rerank, true).as_deref(), Some("m"));
    }

    #[test]
    fn complaints_name_the_field_in_the_dialect_of_the_body() {
        for (door, body, expected, dialect) in [
            (Door::Rerank, "{", "not valid JSON", Dialect::Own),
            (
                Door::Rerank,
                r#"{"query": "q"}"#,
                "`documents` is missing",
                Dialect::Own,
            ),
            (Door::Rerank, r#"{"texts": ["a"]}"#, "`query` is missing", Dialect::Tei),
            (
                Door::Rerank,
                r#"{"texts": ["a"], "query": 3}"#,
                "`query`: expected a string, found an integer",
                Dialect::Tei,
            ),
            (
                Door::V1,
                r#"{"query": " ", "documents": []}"#,
                "`query`: expected something other",
                Dialect::V1,
            ),
            (
                Door::V2,
                r#"{"query": "q", "documents": ["a"], "top_n": 0}"#,
                "`top_n`: expected an integer of at least 1",
                Dialect::V2,
            ),
            (
                Door::V1,
                r#"{"query": "q", "documents": ["a"], "rank_fields": ["title"]}"#,
                "`rank_fields[0]`",
                Dialect::V1,
            ),
            (
                Door::Rerank,
                r#"{"query": "q", "texts": ["a"], "truncation_direction": "Left"}"#,
                "`truncation_direction`",
                Dialect::Tei,
            ),
            (
                Door::V2,
                r#"{"query": "q", "documents": [{"title": "t"}]}"#,
                "`documents[0].text` is missing",
                Dialect::V2,
            ),
            (
                Door::V2,
                r#"{"query": "q", "documents": ["a", "b", "c", "d"]}"#,
                "4 documents, more than the limit of 3",
                Dialect::V2,
            ),
        ] {
            let (message, found) = complaint(door, body);
            assert!(message.contains(expected), "{message}");
            assert_eq!(found, dialect, "{body}");
        }
    }
}
