//! The ranking, with what it cost.

use std::fmt;

use serde::de::Deserializer;
use serde::{Serialize, Serializer};

use super::reader::{self, Sink, Value};
use super::{DocumentId, Encoding, Refusal};

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reply {
    /// Best first; equal scores in the order of the request's documents.
    pub rankings: Vec<Ranking>,
    /// Whether `top_k` left documents out.
    pub top_k_applied: bool,
    /// How many of the best `top_k` were left out for a score below the request's `min_score`; there only if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below_min_score: Option<u64>,
    /// The id of the model that gave the scores.
    pub model: String,
    /// What was computed.
    pub usage: Usage,
    /// Where the time went, measured by the worker.
    pub timings_ms: TimingsMs,
}

/// A document's place in the ranking.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranking {
    /// Its place in the request's documents, from 0.
    pub index: usize,
    /// How well it answers the query; finite.
    pub score: f32,
    /// Its id, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<DocumentId>,
    /// The document itself, if the request asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<RankedDocument>,
}

/// A document handed back with its ranking.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct RankedDocument {
    /// Its text as it was sent.
    pub text: String,
}

impl fmt::Debug for RankedDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RankedDocument")
            .field("text_bytes", &self.text.len())
            .finish()
    }
}

/// What a request made the worker compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Pairs of query and document.
    pub pairs: u64,
    /// Tokens of all pairs, special tokens counted, padding not.
    pub tokens: u64,
    /// Pairs that were cut to the model's limit.
    pub truncated: u64,
    /// Pairs whose score was remembered rather than computed.
    pub cached: u64,
}

/// Where the time of a request went, in milliseconds. Written to the microsecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TimingsMs {
    /// Waiting, for the tokenizer and for a batch.
    #[serde(serialize_with = "to_the_microsecond")]
    pub queue: f64,
    /// Making tokens of the texts.
    #[serde(serialize_with = "to_the_microsecond")]
    pub tokenize: f64,
    /// In the model, from the first batch with a pair of this request to the last.
    #[serde(serialize_with = "to_the_microsecond")]
    pub infer: f64,
    /// From receipt to the encoding of the reply.
    #[serde(serialize_with = "to_the_microsecond")]
    pub total: f64,
}

fn to_the_microsecond<S: Serializer>(ms: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    let rounded = (ms * 1e3).round() / 1e3;
    // A clock that went wrong must not make a number that JSON cannot hold.
    serializer.serialize_f64(if rounded.is_finite() { rounded } else { 0.0 })
}

/// A body that is not what it should be. The message names the place and carries no content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

impl DecodeError {
    pub(super) fn new(message: String) -> Self {
        Self(message)
    }
}

impl Reply {
    /// Writes the reply. Scores are written as single-precision floats: JSON shows the shortest number that reads back
    /// as the same one.
    ///
    /// # Errors
    /// `internal` for a score that is not finite: such a one never leaves a worker.
    pub fn encode(&self, encoding: Encoding) -> Result<Vec<u8>, Refusal> {
        if let Some(ranking) = self.rankings.iter().find(|ranking| !ranking.score.is_finite()) {
            return Err(Refusal::internal(format!(
                "the model gave document {} a score that is not a finite number",
                ranking.index
            )));
        }
        Ok(encoding.write(self))
    }

    /// Reads a reply. Whether it fits a request is [`Reply::check`]'s question.
    ///
    /// # Errors
    /// The body is not a reply: a field is missing or of another type, or a score is not finite. `usage` and
    /// `timings_ms` may be missing, in whole or in part; what is missing is zero.
    pub fn decode(encoding: Encoding, body: &[u8]) -> Result<Reply, DecodeError> {
        let (sink, read) = reader::read(encoding, body, ReplySink::default);
        read.map_err(DecodeError::new)?;
        let missing = |field, expected| move || DecodeError::new(reader::missing(field, expected));
        Ok(Reply {
            rankings: sink.rankings.ok_or_else(missing("rankings", "an array"))?,
            top_k_applied: sink.top_k_applied.ok_or_else(missing("top_k_applied", "a boolean"))?,
            model: sink.model.ok_or_else(missing("model", "a string"))?,
            below_min_score: sink.below_min_score,
            usage: sink.usage.0,
            timings_ms: sink.timings_ms.0,
        })
    }

    /// Holds the reply to the request it answers: as many rankings as were asked for (but those below `min_score`), each of
    /// another document of the request, best first.
    ///
    /// # Errors
    /// The reply does not fit a request of `documents` documents with this `top_k`.
    pub fn check(&self, documents: usize, top_k: Option<usize>) -> Result<(), DecodeError> {
        let below = usize::try_from(self.below_min_score.unwrap_or(0)).unwrap_or(usize::MAX);
        let expected = top_k.unwrap_or(documents).min(documents).saturating_sub(below);
        if self.rankings.len() != expected {
            return Err(DecodeError::new(format!(
                "`rankings`: expected {expected} rankings of {documents} documents, found {}",
                self.rankings.len()
            )));
        }
        let mut seen = vec![false; documents];
        for (place, ranking) in self.rankings.iter().enumerate() {
            match seen.get_mut(ranking.index) {
                None => {
                    return Err(DecodeError::new(format!(
                        "`rankings[{place}].index`: {} is not among the {documents} documents of the request",
                        ranking.index
                    )));
                }
                Some(true) => {
                    return Err(DecodeError::new(format!(
                        "`rankings[{place}].index`: {} is ranked more than once",
                        ranking.index
                    )));
                }
                Some(seen) => *seen = true,
            }
            if !ranking.score.is_finite() {
                return Err(DecodeError::new(format!(
                    "`rankings[{place}].score`: expected a finite number"
                )));
            }
            if place > 0 && self.rankings[place - 1].score < ranking.score {
                return Err(DecodeError::new(format!(
                    "`rankings[{place}].score`: higher than the one before it"
                )));
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct ReplySink {
    rankings: Option<Vec<Ranking>>,
    top_k_applied: Option<bool>,
    model: Option<String>,
    below_min_score: Option<u64>,
    usage: UsageSink,
    timings_ms: TimingsSink,
}

impl Sink for ReplySink {
    const FIELDS: &'static [&'static str] = &[
        "rankings",
        "top_k_applied",
        "model",
        "below_min_score",
        "usage",
        "timings_ms",
    ];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        match name {
            "rankings" => {
                let mut sink = RankingsSink::default();
                self.rankings = value.array(&mut sink)?.then_some(sink.0);
            }
            "top_k_applied" => self.top_k_applied = value.boolean()?,
            "model" => self.model = value.text()?,
            "below_min_score" => self.below_min_score = value.count()?,
            "usage" => drop(value.object(&mut self.usage)?),
            _ => drop(value.object(&mut self.timings_ms)?),
        }
        Ok(())
    }
}

#[derive(Default)]
struct RankingsSink(Vec<Ranking>);

impl Sink for RankingsSink {
    const ELEMENTS: bool = true;

    fn element<'de, D: Deserializer<'de>>(&mut self, _: usize, value: Value<'_, D>) -> Result<(), D::Error> {
        let complaint = value.complaint();
        let mut sink = RankingSink::default();
        if !value.object(&mut sink)? {
            return Err(complaint.because(format_args!("expected an object, found null")));
        }
        let Some(index) = sink.index else {
            return Err(complaint.missing("index", "an integer of at least 0"));
        };
        let Some(score) = sink.score else {
            return Err(complaint.missing("score", "a finite number"));
        };
        self.0.push(Ranking {
            index,
            score,
            id: sink.id,
            document: sink.document,
        });
        Ok(())
    }
}

#[derive(Default)]
struct RankingSink {
    index: Option<usize>,
    score: Option<f32>,
    id: Option<DocumentId>,
    document: Option<RankedDocument>,
}

impl Sink for RankingSink {
    const FIELDS: &'static [&'static str] = &["index", "score", "id", "document"];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        let complaint = value.complaint();
        match name {
            "index" => {
                self.index = match value.count()?.map(usize::try_from) {
                    Some(Err(_)) => {
                        return Err(complaint.because(format_args!("too large a number")));
                    }
                    Some(Ok(index)) => Some(index),
                    None => None,
                }
            }
            "score" => {
                self.score = value.single()?;
                if self.score.is_some_and(|score| !score.is_finite()) {
                    return Err(complaint.because(format_args!("expected a finite number")));
                }
            }
            "id" => self.id = DocumentId::read(value)?,
            _ => {
                let mut sink = RankedDocumentSink::default();
                if value.object(&mut sink)? {
                    let Some(text) = sink.0 else {
                        return Err(complaint.missing("text", "a string"));
                    };
                    self.document = Some(RankedDocument { text });
                }
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct RankedDocumentSink(Option<String>);

impl Sink for RankedDocumentSink {
    const FIELDS: &'static [&'static str] = &["text"];

    fn field<'de, D: Deserializer<'de>>(&mut self, _: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        self.0 = value.text()?;
        Ok(())
    }
}

#[derive(Default)]
struct UsageSink(Usage);

impl Sink for UsageSink {
    const FIELDS: &'static [&'static str] = &["pairs", "tokens", "truncated", "cached"];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        let count = value.count()?.unwrap_or_default();
        match name {
            "pairs" => self.0.pairs = count,
            "tokens" => self.0.tokens = count,
            "truncated" => self.0.truncated = count,
            _ => self.0.cached = count,
        }
        Ok(())
    }
}

#[derive(Default)]
struct TimingsSink(TimingsMs);

impl Sink for TimingsSink {
    const FIELDS: &'static [&'static str] = &["queue", "tokenize", "infer", "total"];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        let complaint = value.complaint();
        let ms = value.number("a number of milliseconds")?.unwrap_or_default();
        if !ms.is_finite() {
            return Err(complaint.because(format_args!("expected a finite number of milliseconds")));
        }
        match name {
            "queue" => self.0.queue = ms,
            "tokenize" => self.0.tokenize = ms,
            "infer" => self.0.infer = ms,
            _ => self.0.total = ms,
        }
        Ok(())
    }
}
