//! Queries and documents as the dialects write them: strings, objects, lists of either.

use std::fmt;

use serde::de::Deserializer;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::protocol::place::Found;
use crate::protocol::reader::{Sink, Value};
use crate::protocol::{DocumentId, Refusal};

/// A document to be ranked.
#[derive(Clone)]
pub(super) struct Candidate {
    /// What is scored against the query.
    pub(super) text: String,
    /// The caller's name for it.
    pub(super) id: Option<DocumentId>,
    /// The object that was sent; `None`: a string was.
    pub(super) sent: Option<SentObject>,
}

/// Without content.
impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("text_bytes", &self.text.len())
            .finish_non_exhaustive()
    }
}

/// A document that is an object, field by field as it came.
#[derive(Clone, Default)]
pub(super) struct SentObject(Vec<(String, Box<RawValue>)>);

impl Serialize for SentObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A document as an answer gives it back.
pub(super) enum Returned<'a> {
    /// Its text alone.
    Text(&'a str),
    /// The object that was sent, or one made of the text.
    Object(&'a Candidate),
    /// The object or the string that was sent.
    AsSent(&'a Candidate),
}

impl<'a> Returned<'a> {
    pub(super) fn text(candidate: &'a Candidate) -> Returned<'a> {
        Returned::Text(&candidate.text)
    }

    pub(super) fn as_sent(candidate: &'a Candidate) -> Returned<'a> {
        Returned::AsSent(candidate)
    }
}

impl Serialize for Returned<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Returned::Text(text) => serializer.serialize_str(text),
            Returned::Object(Candidate { sent: Some(sent), .. })
            | Returned::AsSent(Candidate { sent: Some(sent), .. }) => sent.serialize(serializer),
            Returned::AsSent(Candidate { text, .. }) => serializer.serialize_str(text),
            Returned::Object(Candidate { text, .. }) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("text", text)?;
                map.end()
            }
        }
    }
}

impl SentObject {
    fn get(&self, field: &str) -> Option<&RawValue> {
        self.0.iter().find(|(name, _)| name == field).map(|(_, value)| &**value)
    }

    /// What is ranked: the values of `rank_fields` one below the other, as Cohere's first interface puts them; without
    /// them `text`; without that every field as a line of YAML (`title: …`), as Cohere's second asks for and LangChain's
    /// client sends. `None`: nothing of that is there.
    fn text(&self, rank_fields: Option<&[String]>) -> Option<String> {
        if let Some(fields) = rank_fields.filter(|fields| !fields.is_empty()) {
            let values: Vec<String> = fields.iter().filter_map(|field| plain(self.get(field)?)).collect();
            return (!values.is_empty()).then(|| values.join("\n"));
        }
        if let Some(text) = self.get("text") {
            return string(text);
        }
        if self.get("image").is_some() {
            return None;
        }
        let lines = self
            .0
            .iter()
            .filter_map(|(name, value)| Some(format!("{name}: {}", plain(value)?)));
        let lines: Vec<String> = lines.collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn id(&self) -> Option<DocumentId> {
        let json = self.get("id")?;
        let integer = || json.get().parse().ok().map(DocumentId::Integer);
        let unsigned = || json.get().parse().ok().map(DocumentId::Unsigned);
        string(json).map(DocumentId::Text).or_else(integer).or_else(unsigned)
    }
}

/// The string that this JSON is.
fn string(json: &RawValue) -> Option<String> {
    serde_json::from_str(json.get()).ok()
}

/// A value as a text: a string itself, anything else as its JSON; `None` for null.
fn plain(json: &RawValue) -> Option<String> {
    string(json).or_else(|| (json.get() != "null").then(|| json.get().to_owned()))
}

impl Sink for SentObject {
    const ANY_FIELD: bool = true;

    fn other<'de, D: Deserializer<'de>>(&mut self, name: &str, value: Value<'_, D>) -> Result<(), D::Error> {
        let complaint = value.complaint();
        if self.get(name).is_some() {
            return Err(complaint.because(format_args!("a field is given more than once")));
        }
        self.0.push((name.to_owned(), value.json()?));
        Ok(())
    }
}

/// Documents; those beyond the limit are counted and not kept.
#[derive(Default)]
pub(super) struct CandidatesSink {
    documents_max: usize,
    kept: Vec<Element>,
    pub(super) count: usize,
}

enum Element {
    Text(String),
    Object(SentObject),
}

const EXPECTED: &str = "a string or an object with `text`";

impl CandidatesSink {
    /// An array of documents, or one document. `None` for null.
    pub(super) fn read<'de, D: Deserializer<'de>>(
        value: Value<'_, D>,
        documents_max: usize,
    ) -> Result<Option<CandidatesSink>, D::Error> {
        const EXPECTED: &str = "an array";
        let complaint = value.complaint();
        let mut sink = CandidatesSink {
            documents_max,
            ..CandidatesSink::default()
        };
        match value.read(&mut sink, EXPECTED)? {
            Found::Null => return Ok(None),
            Found::Array => {}
            // vLLM and infinity take one string as one document.
            Found::Text(text) => {
                sink.count = 1;
                sink.kept.push(Element::Text(text.into_owned()));
            }
            found => return Err(complaint.mismatch(EXPECTED, &found)),
        }
        Ok(Some(sink))
    }

    /// The documents, each with its text.
    pub(super) fn finish(self, name: &str, rank_fields: Option<&[String]>) -> Result<Vec<Candidate>, Refusal> {
        let candidate = |(index, element)| match element {
            Element::Text(text) => Ok(Candidate {
                text,
                id: None,
                sent: None,
            }),
            Element::Object(sent) => {
                let Some(text) = sent.text(rank_fields) else {
                    return Err(Refusal::invalid(without_text(name, index, &sent, rank_fields)));
                };
                Ok(Candidate {
                    text,
                    id: sent.id(),
                    sent: Some(sent),
                })
            }
        };
        self.kept.into_iter().enumerate().map(candidate).collect()
    }
}

fn without_text(name: &str, index: usize, sent: &SentObject, rank_fields: Option<&[String]>) -> String {
    if rank_fields.is_some_and(|fields| !fields.is_empty()) {
        format!("`{name}[{index}]`: has none of `rank_fields`")
    } else if sent.get("text").is_some() {
        format!("`{name}[{index}].text`: expected a string")
    } else {
        format!("`{name}[{index}].text` is missing: expected a string")
    }
}

impl Sink for CandidatesSink {
    const ELEMENTS: bool = true;

    fn element<'de, D: Deserializer<'de>>(&mut self, index: usize, value: Value<'_, D>) -> Result<(), D::Error> {
        self.count = index + 1;
        if self.count > self.documents_max {
            return value.skip();
        }
        let complaint = value.complaint();
        let mut object = SentObject::default();
        let element = match value.read(&mut object, EXPECTED)? {
            Found::Text(text) => Element::Text(text.into_owned()),
            Found::Object => Element::Object(object),
            found => return Err(complaint.mismatch(EXPECTED, &found)),
        };
        self.kept.push(element);
        Ok(())
    }
}

/// A query: a string, an object with `text` (NVIDIA), or a list (vLLM's scores).
#[derive(Default)]
pub(super) struct QuerySink {
    texts: Vec<String>,
    text: Option<String>,
}

impl QuerySink {
    /// `None` for null.
    pub(super) fn read<'de, D: Deserializer<'de>>(value: Value<'_, D>) -> Result<Option<Vec<String>>, D::Error> {
        const EXPECTED: &str = "a string";
        let complaint = value.complaint();
        let mut sink = QuerySink::default();
        let queries = match value.read(&mut sink, EXPECTED)? {
            Found::Null => return Ok(None),
            Found::Text(text) => vec![text.into_owned()],
            Found::Array => sink.texts,
            Found::Object => match sink.text {
                Some(text) => vec![text],
                None => return Err(complaint.missing("text", "a string")),
            },
            found => return Err(complaint.mismatch(EXPECTED, &found)),
        };
        if queries.is_empty() || queries.iter().any(|query| query.trim().is_empty()) {
            return Err(complaint.because(format_args!(
                "expected something other than white space, found an empty or blank string"
            )));
        }
        Ok(Some(queries))
    }
}

impl Sink for QuerySink {
    const FIELDS: &'static [&'static str] = &["text"];
    const ELEMENTS: bool = true;

    fn field<'de, D: Deserializer<'de>>(&mut self, _: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        self.text = value.text()?;
        Ok(())
    }

    fn element<'de, D: Deserializer<'de>>(&mut self, _: usize, value: Value<'_, D>) -> Result<(), D::Error> {
        let complaint = value.complaint();
        match value.text()? {
            Some(text) => self.texts.push(text),
            None => return Err(complaint.because(format_args!("expected a string, found null"))),
        }
        Ok(())
    }
}

/// A list of strings.
#[derive(Default)]
pub(super) struct TextsSink(pub(super) Vec<String>);

impl Sink for TextsSink {
    const ELEMENTS: bool = true;

    fn element<'de, D: Deserializer<'de>>(&mut self, _: usize, value: Value<'_, D>) -> Result<(), D::Error> {
        let complaint = value.complaint();
        match value.text()? {
            Some(text) => self.0.push(text),
            None => return Err(complaint.because(format_args!("expected a string, found null"))),
        }
        Ok(())
    }
}
