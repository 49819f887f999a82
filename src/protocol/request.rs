//! What a caller asks: a query, its documents, and how they are to be ranked.

use std::fmt;
use std::time::Duration;

use serde::de::Deserializer;
use serde::{Serialize, Serializer};

use super::headers::budget_from_ms;
use super::place::Found;
use super::reader::{self, Sink, Value};
use super::{Encoding, Refusal};

/// A request to rank `documents` by how well each answers `query`.
#[derive(Clone, PartialEq)]
pub struct Request {
    /// The question; holds something other than white space.
    pub query: String,
    /// The candidates, in the order that the search before gave them.
    pub documents: Vec<Document>,
    /// How many rankings to return, at least 1; all without it.
    pub top_k: Option<usize>,
    /// The model's logits in place of its activation's values.
    pub raw_scores: bool,
    /// Put each document's text into its ranking.
    pub return_documents: bool,
    /// Cut a pair that is longer than the model's limit; false: refuse the request.
    pub truncate: bool,
    /// The caller's budget in milliseconds, for callers that cannot set headers. A budget header wins.
    pub timeout_ms: Option<f64>,
    /// The model that has to answer; any without it.
    pub model: Option<String>,
    /// Rankings with a lower score, as it is returned, are left out. Finite.
    pub min_score: Option<f32>,
    /// Tokens of a document, at least 1: a longer one is cut to its first so many before it is paired with the query.
    pub max_tokens_per_document: Option<usize>,
    /// Tokens of a pair, at least 1: a limit below the model's own. (A pair keeps its special tokens and one token of each text.)
    pub max_tokens_per_pair: Option<usize>,
}

/// A candidate.
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    /// What is scored against the query. May be empty.
    pub text: String,
    /// The caller's own name for it, handed back with its ranking.
    pub id: Option<DocumentId>,
}

/// The caller's name for a document: a string, or any integer that both encodings can hold.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum DocumentId {
    /// A string.
    Text(String),
    /// An integer from `i64::MIN` to `i64::MAX`.
    Integer(i64),
    /// An integer above `i64::MAX`. (A smaller one comes back as [`DocumentId::Integer`].)
    Unsigned(u64),
}

impl Request {
    /// A request with every option at its default.
    pub fn new<D: Into<Document>>(query: impl Into<String>, documents: impl IntoIterator<Item = D>) -> Self {
        Self {
            query: query.into(),
            documents: documents.into_iter().map(Into::into).collect(),
            top_k: None,
            raw_scores: false,
            return_documents: false,
            truncate: true,
            timeout_ms: None,
            model: None,
            min_score: None,
            max_tokens_per_document: None,
            max_tokens_per_pair: None,
        }
    }

    /// Reads a request, with no limit but the body's own size on the number of documents.
    ///
    /// # Errors
    /// `invalid_request`, naming the field, what was expected and the type found.
    pub fn decode(encoding: Encoding, body: &[u8]) -> Result<Request, Refusal> {
        Self::decode_within(encoding, body, usize::MAX)
    }

    /// Reads a request of at most `documents_max` documents. Those beyond are read and counted but never kept, so that
    /// memory is bounded whatever a stranger sends.
    ///
    /// # Errors
    /// As [`Request::decode`], and `too_large` for more documents, naming limit and number.
    pub fn decode_within(encoding: Encoding, body: &[u8], documents_max: usize) -> Result<Request, Refusal> {
        let (sink, read) = reader::read(encoding, body, || RequestSink::within(documents_max));
        read.map_err(Refusal::invalid)?;
        sink.finish()
    }

    /// Writes the request; options at their default are left out.
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        encoding.write(&WireRequest {
            query: &self.query,
            documents: &self.documents,
            top_k: self.top_k,
            raw_scores: self.raw_scores,
            return_documents: self.return_documents,
            truncate: self.truncate,
            timeout_ms: self.timeout_ms,
            model: self.model.as_deref(),
            min_score: self.min_score,
            max_tokens_per_document: self.max_tokens_per_document,
            max_tokens_per_pair: self.max_tokens_per_pair,
        })
    }

    /// The budget that the body asks for, at most [`BUDGET_MAX`](super::headers::BUDGET_MAX).
    pub fn budget(&self) -> Option<Duration> {
        self.timeout_ms.map(budget_from_ms)
    }
}

impl From<&str> for Document {
    fn from(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            id: None,
        }
    }
}

impl From<String> for Document {
    fn from(text: String) -> Self {
        Self { text, id: None }
    }
}

// Texts are the caller's business: none of them shows up in a log by way of `{:?}`.

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("query_bytes", &self.query.len())
            .field("documents", &self.documents.len())
            .field("top_k", &self.top_k)
            .field("raw_scores", &self.raw_scores)
            .field("return_documents", &self.return_documents)
            .field("truncate", &self.truncate)
            .field("timeout_ms", &self.timeout_ms)
            .field("min_score", &self.min_score)
            .field("max_tokens_per_document", &self.max_tokens_per_document)
            .field("max_tokens_per_pair", &self.max_tokens_per_pair)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("text_bytes", &self.text.len())
            .field("id", &self.id)
            .finish()
    }
}

impl fmt::Debug for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DocumentId::Text(text) => write!(f, "Text({} bytes)", text.len()),
            DocumentId::Integer(_) | DocumentId::Unsigned(_) => f.write_str("Integer"),
        }
    }
}

/// As the caller wrote it: for showing it back to that caller.
impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DocumentId::Text(text) => f.write_str(text),
            DocumentId::Integer(value) => write!(f, "{value}"),
            DocumentId::Unsigned(value) => write!(f, "{value}"),
        }
    }
}

#[derive(Serialize)]
struct WireRequest<'a> {
    query: &'a str,
    documents: &'a [Document],
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<usize>,
    #[serde(skip_serializing_if = "is_false")]
    raw_scores: bool,
    #[serde(skip_serializing_if = "is_false")]
    return_documents: bool,
    #[serde(skip_serializing_if = "is_true")]
    truncate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens_per_document: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens_per_pair: Option<usize>,
}

// serde's skip_serializing_if hands over a reference.
fn is_false(value: &bool) -> bool {
    !value
}

fn is_true(value: &bool) -> bool {
    *value
}

/// A plain string without an id, an object with one.
impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct WithId<'a> {
            text: &'a str,
            id: &'a DocumentId,
        }
        match &self.id {
            None => serializer.serialize_str(&self.text),
            Some(id) => WithId { text: &self.text, id }.serialize(serializer),
        }
    }
}

impl Serialize for DocumentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            DocumentId::Text(text) => serializer.serialize_str(text),
            DocumentId::Integer(value) => serializer.serialize_i64(*value),
            DocumentId::Unsigned(value) => serializer.serialize_u64(*value),
        }
    }
}

/// Takes the fields of a request.
#[derive(Default)]
struct RequestSink {
    documents_max: usize,
    query: Option<String>,
    documents: Option<DocumentsSink>,
    texts: Option<DocumentsSink>,
    top_k: Option<usize>,
    top_n: Option<usize>,
    raw_scores: Option<bool>,
    return_documents: Option<bool>,
    truncate: Option<bool>,
    timeout_ms: Option<f64>,
    model: Option<String>,
    min_score: Option<f32>,
    max_tokens_per_document: Option<usize>,
    max_tokens_per_pair: Option<usize>,
}

impl RequestSink {
    /// For a request of at most so many documents; those beyond are counted and not kept.
    fn within(documents_max: usize) -> Self {
        Self {
            documents_max,
            ..Self::default()
        }
    }

    /// The request, if all it needs is there.
    fn finish(self) -> Result<Request, Refusal> {
        let query = self
            .query
            .ok_or_else(|| Refusal::invalid(reader::missing("query", "a string")))?;
        let documents = one_of("documents", self.documents, "texts", self.texts)?.ok_or_else(|| {
            Refusal::invalid(reader::missing(
                "documents",
                "an array of strings or of objects with `text`",
            ))
        })?;
        if documents.count > self.documents_max {
            return Err(Refusal::too_large(format!(
                "`documents`: {} documents, more than the limit of {}",
                documents.count, self.documents_max
            )));
        }
        Ok(Request {
            query,
            documents: documents.kept,
            top_k: one_of("top_k", self.top_k, "top_n", self.top_n)?,
            raw_scores: self.raw_scores.unwrap_or(false),
            return_documents: self.return_documents.unwrap_or(false),
            truncate: self.truncate.unwrap_or(true),
            timeout_ms: self.timeout_ms,
            model: self.model,
            min_score: self.min_score,
            max_tokens_per_document: self.max_tokens_per_document,
            max_tokens_per_pair: self.max_tokens_per_pair,
        })
    }
}

/// The value of a field that goes by two names.
fn one_of<T>(name: &str, value: Option<T>, alias: &str, by_alias: Option<T>) -> Result<Option<T>, Refusal> {
    match (value, by_alias) {
        (Some(_), Some(_)) => Err(Refusal::invalid(format!(
            "`{name}` and `{alias}` are two names of one field: expected one of them, found both"
        ))),
        (value, by_alias) => Ok(value.or(by_alias)),
    }
}

impl Sink for RequestSink {
    const FIELDS: &'static [&'static str] = &[
        "query",
        "documents",
        "texts",
        "top_k",
        "top_n",
        "raw_scores",
        "return_documents",
        "truncate",
        "timeout_ms",
        "model",
        "min_score",
        "max_tokens_per_document",
        "max_tokens_per_pair",
    ];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        match name {
            "query" => {
                let complaint = value.complaint();
                self.query = value.text()?;
                if self.query.as_deref().is_some_and(|query| query.trim().is_empty()) {
                    return Err(complaint.because(format_args!(
                        "expected something other than white space, found an empty or blank string"
                    )));
                }
            }
            "documents" => self.documents = documents(value, self.documents_max)?,
            "texts" => self.texts = documents(value, self.documents_max)?,
            "top_k" => self.top_k = value.positive()?.map(saturated),
            "top_n" => self.top_n = value.positive()?.map(saturated),
            "raw_scores" => self.raw_scores = value.boolean()?,
            "return_documents" => self.return_documents = value.boolean()?,
            "truncate" => self.truncate = value.boolean()?,
            "timeout_ms" => self.timeout_ms = timeout_ms(value)?,
            "min_score" => self.min_score = min_score(value)?,
            "max_tokens_per_document" => self.max_tokens_per_document = value.positive()?.map(saturated),
            "max_tokens_per_pair" => self.max_tokens_per_pair = value.positive()?.map(saturated),
            _ => self.model = value.text()?,
        }
        Ok(())
    }
}

/// As the single-precision number that scores are, so that a score of a reply may be sent as the least of the next request.
pub(crate) fn min_score<'de, D: Deserializer<'de>>(value: Value<'_, D>) -> Result<Option<f32>, D::Error> {
    const EXPECTED: &str = "a finite number";
    let complaint = value.complaint();
    match value.number(EXPECTED)?.map(|score| score as f32) {
        Some(score) if !score.is_finite() => Err(complaint.because(format_args!("expected {EXPECTED}"))),
        score => Ok(score),
    }
}

/// More rankings than memory can number are all rankings.
pub(crate) fn saturated(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

pub(crate) fn timeout_ms<'de, D: Deserializer<'de>>(value: Value<'_, D>) -> Result<Option<f64>, D::Error> {
    const EXPECTED: &str = "a finite number of milliseconds above 0";
    let complaint = value.complaint();
    match value.number(EXPECTED)? {
        Some(ms) if !ms.is_finite() || ms <= 0.0 => {
            Err(complaint.because(format_args!("expected {EXPECTED}, found {ms}")))
        }
        ms => Ok(ms),
    }
}

fn documents<'de, D: Deserializer<'de>>(
    value: Value<'_, D>,
    documents_max: usize,
) -> Result<Option<DocumentsSink>, D::Error> {
    let mut sink = DocumentsSink {
        documents_max,
        ..DocumentsSink::default()
    };
    Ok(value.array(&mut sink)?.then_some(sink))
}

#[derive(Default)]
struct DocumentsSink {
    documents_max: usize,
    kept: Vec<Document>,
    count: usize,
}

impl Sink for DocumentsSink {
    const ELEMENTS: bool = true;

    fn element<'de, D: Deserializer<'de>>(&mut self, index: usize, value: Value<'_, D>) -> Result<(), D::Error> {
        const EXPECTED: &str = "a string or an object with `text`";
        self.count = index + 1;
        if self.count > self.documents_max {
            return value.skip();
        }
        let complaint = value.complaint();
        let mut object = DocumentSink::default();
        let document = match value.read(&mut object, EXPECTED)? {
            Found::Text(text) => Document {
                text: text.into_owned(),
                id: None,
            },
            Found::Object => match object.text {
                Some(text) => Document { text, id: object.id },
                None => return Err(complaint.missing("text", "a string")),
            },
            found => return Err(complaint.mismatch(EXPECTED, &found)),
        };
        self.kept.push(document);
        Ok(())
    }
}

#[derive(Default)]
struct DocumentSink {
    text: Option<String>,
    id: Option<DocumentId>,
}

impl Sink for DocumentSink {
    const FIELDS: &'static [&'static str] = &["text", "id"];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        match name {
            "text" => self.text = value.text()?,
            _ => self.id = DocumentId::read(value)?,
        }
        Ok(())
    }
}

impl DocumentId {
    pub(crate) fn read<'de, D: Deserializer<'de>>(value: Value<'_, D>) -> Result<Option<DocumentId>, D::Error> {
        const EXPECTED: &str = "a string or a 64-bit integer";
        let complaint = value.complaint();
        match value.read(&mut reader::Plain, EXPECTED)? {
            Found::Null => Ok(None),
            Found::Text(text) => Ok(Some(DocumentId::Text(text.into_owned()))),
            Found::Integer(value) => Ok(Some(DocumentId::Integer(value))),
            Found::Unsigned(value) => Ok(Some(DocumentId::Unsigned(value))),
            found => Err(complaint.mismatch(EXPECTED, &found)),
        }
    }
}
