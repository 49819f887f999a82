//! What a body asks for, in any dialect.
//!
//! One reader takes the fields of all dialects, since servers borrow each other's; which dialect it is follows from the path
//! and the fields (`dialect::table`).

use std::time::Duration;

use serde::de::Deserializer;
use serde_json::value::RawValue;

use super::candidates::{Candidate, CandidatesSink, QuerySink, TextsSink};
use super::dialect::{Dialect, ModelRule, Route};
use crate::protocol::headers::budget_from_ms;
use crate::protocol::place::Found;
use crate::protocol::reader::{self, Sink, Value};
use crate::protocol::request::{min_score, saturated, timeout_ms};
use crate::protocol::{Encoding, Refusal};

/// A request for a ranking, understood.
#[derive(Debug)]
pub(super) struct ParsedRequest {
    /// One; or, in dialects that score pairs, one for each document.
    pub(super) queries: Vec<String>,
    /// What is to be ranked, in the order it came.
    pub(super) documents: Vec<Candidate>,
    /// How many rankings are returned; `None`: all.
    pub(super) top_k: Option<usize>,
    /// Logits in place of scores.
    pub(super) raw_scores: bool,
    /// Cut a pair over the model's limit; false: refuse it.
    pub(super) truncate: bool,
    /// The budget that the body names.
    pub(super) budget: Option<Duration>,
    /// The model that the request names, whether or not that counts.
    pub(super) named_model: Option<String>,
    /// Rankings with a lower score, as it is returned, are left out.
    pub(super) min_score: Option<f32>,
    /// Tokens of a document before it is paired.
    pub(super) max_tokens_per_document: Option<usize>,
    /// Tokens of a pair.
    pub(super) max_tokens_per_pair: Option<usize>,
    /// The shape of the answer.
    pub(super) dialect: &'static Dialect,
    /// Whether the answer holds the documents.
    pub(super) returns_documents: bool,
    /// Whether the request asked for that in so many words.
    pub(super) asks_for_documents: bool,
    /// A document is given back as a string, not as an object (infinity's clients).
    pub(super) documents_as_strings: bool,
    /// What was asked for and is not done.
    pub(super) warnings: Vec<&'static str>,
}

/// A body that will not do, and the dialect to say so in.
pub(super) type ParseError = (Refusal, &'static Dialect);

impl ParsedRequest {
    /// Reads a body that came in by `route`, with at most so many documents.
    pub(super) fn read(route: &Route, body: &[u8], documents_max: usize) -> Result<ParsedRequest, ParseError> {
        let (sink, read) = reader::read(Encoding::Json, body, || BodySink {
            documents_max,
            ..BodySink::default()
        });
        let dialect = route.dialect(|field| sink.has(field));
        read.map_err(|message| (Refusal::invalid(message), dialect))?;
        sink.finish(dialect).map_err(|refusal| (refusal, dialect))
    }
}

/// The fields of every dialect.
#[derive(Default)]
struct BodySink {
    documents_max: usize,
    queries: Option<(&'static str, Vec<String>)>,
    candidates: Option<(&'static str, CandidatesSink)>,
    rank_fields: Option<Vec<String>>,
    top: Option<(&'static str, i64)>,
    logits: Option<(&'static str, bool)>,
    returns: Option<bool>,
    truncate: Option<bool>,
    timeout_ms: Option<f64>,
    model: Option<String>,
    min_score: Option<f32>,
    max_tokens_per_document: Option<i64>,
    max_tokens_per_pair: Option<i64>,
    has_property: bool,
    unused: Vec<&'static str>,
}

impl Sink for BodySink {
    const FIELDS: &'static [&'static str] = &[
        "query",
        "queries",
        "text_1",
        "data_1",
        "documents",
        "texts",
        "passages",
        "input",
        "text_2",
        "data_2",
        "items",
        "rank_fields",
        "top_k",
        "top_n",
        "raw_scores",
        "use_activation",
        "activation",
        "return_documents",
        "return_text",
        "return_input",
        "truncate",
        "truncation",
        "truncation_direction",
        "truncation_side",
        "timeout_ms",
        "model",
        "min_score",
        "max_tokens_per_doc",
        "max_tokens_per_document",
        "truncate_prompt_tokens",
        "max_tokens_per_pair",
        "property",
        "relevant_spans",
        "priority",
        "max_tokens_per_query",
        "max_chunks_per_doc",
    ];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        let complaint = value.complaint();
        match name {
            "query" | "queries" | "text_1" | "data_1" => {
                let queries = QuerySink::read(value)?;
                one_name(&mut self.queries, name, queries)
                    .map_err(|reason| complaint.because(format_args!("{reason}")))?;
            }
            "documents" | "texts" | "passages" | "input" | "text_2" | "data_2" | "items" => {
                let candidates = CandidatesSink::read(value, self.documents_max)?;
                one_name(&mut self.candidates, name, candidates)
                    .map_err(|reason| complaint.because(format_args!("{reason}")))?;
            }
            "rank_fields" => {
                let mut texts = TextsSink::default();
                self.rank_fields = value.array(&mut texts)?.then_some(texts.0);
            }
            "top_k" | "top_n" => {
                one_name(&mut self.top, name, value.lax_integer()?)
                    .map_err(|reason| complaint.because(format_args!("{reason}")))?;
            }
            "raw_scores" => self.logits = value.lax_boolean()?.map(|raw| (name, raw)).or(self.logits),
            // vLLM's, of today and of before.
            "use_activation" | "activation" => {
                let activated = value.lax_boolean()?;
                self.logits = self.logits.or(activated.map(|activated| (name, !activated)));
            }
            "return_documents" | "return_text" | "return_input" => self.returns = value.lax_boolean()?.or(self.returns),
            "truncate" => self.truncate = truncate(value)?.or(self.truncate),
            "truncation" => self.truncate = value.lax_boolean()?.or(self.truncate),
            "truncation_direction" | "truncation_side" => {
                if value.text()?.is_some_and(|side| !side.eq_ignore_ascii_case("right")) {
                    return Err(complaint.because(format_args!("expected Right: texts are cut at their end only")));
                }
            }
            "timeout_ms" => self.timeout_ms = timeout_ms(value)?,
            "model" => self.model = value.text()?,
            "min_score" => self.min_score = min_score(value)?,
            "max_tokens_per_doc" | "max_tokens_per_document" => {
                let tokens = at_least(value, 1)?;
                self.max_tokens_per_document = tokens.or(self.max_tokens_per_document);
            }
            // -1 is vLLM's name for the model's own limit.
            "truncate_prompt_tokens" => {
                self.max_tokens_per_pair = at_least(value, -1)?.filter(|tokens| *tokens > 0);
            }
            "max_tokens_per_pair" => self.max_tokens_per_pair = at_least(value, 1)?.or(self.max_tokens_per_pair),
            // Weaviate sends it, empty or not, and nobody else.
            "property" => {
                value.skip()?;
                self.has_property = true;
            }
            _ => self.unused.extend(is_asked(value)?.then_some(name)),
        }
        Ok(())
    }
}

/// Keeps the value of a field that goes by several names.
fn one_name<T>(kept: &mut Option<(&'static str, T)>, name: &'static str, value: Option<T>) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    if let Some((other, _)) = kept {
        return Err(format!("another name of `{other}`: expected one of them, found both"));
    }
    *kept = Some((name, value));
    Ok(())
}

fn at_least<'de, D: Deserializer<'de>>(value: Value<'_, D>, least: i64) -> Result<Option<i64>, D::Error> {
    let complaint = value.complaint();
    match value.lax_integer()? {
        Some(found) if found < least => {
            Err(complaint.because(format_args!("expected an integer of at least {least}, found {found}")))
        }
        found => Ok(found),
    }
}

/// A boolean, or NVIDIA's words.
fn truncate<'de, D: Deserializer<'de>>(value: Value<'_, D>) -> Result<Option<bool>, D::Error> {
    const EXPECTED: &str = "a boolean, or NONE or END";
    let complaint = value.complaint();
    match value.read(&mut reader::Plain, EXPECTED)? {
        Found::Null => Ok(None),
        Found::Bool(value) => Ok(Some(value)),
        Found::Text(text) => match &*text.trim().to_ascii_lowercase() {
            "none" | "false" => Ok(Some(false)),
            "end" | "true" | "right" => Ok(Some(true)),
            _ => Err(complaint.because(format_args!("expected {EXPECTED}, found another string"))),
        },
        found => Err(complaint.mismatch(EXPECTED, &found)),
    }
}

/// Whether there is anything but null and false.
fn is_asked<'de, D: Deserializer<'de>>(value: Value<'_, D>) -> Result<bool, D::Error> {
    let json: Box<RawValue> = value.json()?;
    Ok(!matches!(json.get(), "null" | "false"))
}

impl BodySink {
    /// Whether the body has a field that tells dialects apart.
    fn has(&self, field: &str) -> bool {
        match field {
            "property" => self.has_property,
            name => self.candidates.as_ref().is_some_and(|(known, _)| *known == name),
        }
    }

    fn finish(self, dialect: &'static Dialect) -> Result<ParsedRequest, Refusal> {
        let missing = |field, expected| Refusal::invalid(reader::missing(field, expected));
        let (query_name, queries) = self.queries.ok_or_else(|| missing(dialect.query_field, "a string"))?;
        let (name, candidates) = self
            .candidates
            .ok_or_else(|| missing(dialect.documents_field, "an array of strings or of objects with `text`"))?;
        if candidates.count > self.documents_max {
            return Err(Refusal::too_large(format!(
                "`{name}`: {} documents, more than the limit of {}",
                candidates.count, self.documents_max
            )));
        }
        let mut documents = candidates.finish(name, self.rank_fields.as_deref())?;
        if dialect.scores_pairs && queries.len() > self.documents_max {
            return Err(Refusal::too_large(format!(
                "`{query_name}`: {} queries, more than the limit of {} documents",
                queries.len(),
                self.documents_max
            )));
        }
        let queries = pair_up(dialect, query_name, queries, name, &mut documents)?;
        let top_k = match self.top {
            Some((_, 0)) if dialect.top_zero_is_all => None,
            Some((name, top)) if top < 1 => {
                return Err(Refusal::invalid(format!(
                    "`{name}`: expected an integer of at least 1, found {top}"
                )));
            }
            top => top.map(|(_, top)| saturated(top.unsigned_abs())),
        };
        let tokens = |tokens: Option<i64>| tokens.map(|tokens| saturated(tokens.unsigned_abs()));
        Ok(ParsedRequest {
            queries,
            documents,
            top_k: top_k.filter(|_| !dialect.scores_pairs),
            raw_scores: self.logits.is_some_and(|(_, logits)| logits),
            truncate: self.truncate.unwrap_or(true),
            budget: self.timeout_ms.map(budget_from_ms),
            named_model: self.model.filter(|_| dialect.model != ModelRule::Ignored),
            min_score: self.min_score,
            max_tokens_per_document: tokens(self.max_tokens_per_document),
            max_tokens_per_pair: tokens(self.max_tokens_per_pair),
            dialect,
            returns_documents: self.returns.unwrap_or(dialect.returns_documents),
            asks_for_documents: self.returns == Some(true),
            documents_as_strings: dialect.documents_as_strings
                || self.logits.is_some_and(|(name, _)| name == "raw_scores"),
            warnings: self.unused.iter().filter_map(|name| warning(name)).collect(),
        })
    }
}

/// One query for all documents; or, in dialects that score pairs, as many as there are documents.
fn pair_up(
    dialect: &Dialect,
    query_name: &str,
    mut queries: Vec<String>,
    name: &str,
    documents: &mut Vec<Candidate>,
) -> Result<Vec<String>, Refusal> {
    match (queries.len(), documents.len()) {
        (1, _) => Ok(queries),
        (many, one) if dialect.scores_pairs && one == 1 && many > 1 => {
            let document = documents[0].clone();
            documents.resize(many, document);
            Ok(queries)
        }
        (many, same) if dialect.scores_pairs && many == same => {
            queries.truncate(same);
            Ok(queries)
        }
        (many, _) if dialect.scores_pairs => Err(Refusal::invalid(format!(
            "`{query_name}` and `{name}`: expected one query, or as many as documents, found {many} and {}",
            documents.len()
        ))),
        (many, _) => Err(Refusal::invalid(format!(
            "`{query_name}`: expected one query, found {many}: /score takes several"
        ))),
    }
}

/// What is said of a field that is read and not followed; `None` where nothing is lost by that.
fn warning(field: &str) -> Option<&'static str> {
    match field {
        "relevant_spans" => Some("relevant_spans is not supported: no spans are returned"),
        "max_tokens_per_query" => Some("max_tokens_per_query is not supported: the model's limit cuts the pair"),
        "max_chunks_per_doc" => {
            Some("max_chunks_per_doc is not supported: a long document is cut, not scored in chunks")
        }
        // `priority` orders Cohere's own queue.
        _ => None,
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
