//! Queries from a file or standard input, read and parsed on a thread of its own.
//!
//! A line that is no query is not the end: it comes as [`What::Broken`], with what is wrong and without what it says.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::cli::query::args::QueriesFormat;
use crate::cli::query::lines::{self, Fields};
use crate::protocol::{Document, DocumentId, Encoding, Request};

use super::output::Done;

/// The longest line; more than most NATS servers take in one message.
pub(super) const LINE_BYTES_MAX: usize = 16 << 20;
/// Lines that are read ahead.
const AHEAD_MAX: usize = 4;

/// How lines become queries.
pub(super) struct Recipe {
    /// Documents for all queries are there; a line need not bring its own.
    pub shared: bool,
    pub fields: Fields,
    /// `None`: the file's ending tells, else the first line.
    pub format: Option<QueriesFormat>,
    /// For queries that do not say so themselves.
    pub top_k: Option<NonZeroUsize>,
    pub raw_scores: bool,
    pub model: Option<String>,
    /// Those that need not be asked again.
    pub done: Done,
}

/// A line that is not blank.
pub(super) struct Line {
    /// From 1.
    pub number: u64,
    pub bytes: usize,
    /// Where the source stands after it.
    pub end_bytes: u64,
    pub what: What,
}

/// What stands in a line.
pub(super) enum What {
    Query(Box<Query>),
    Broken(Broken),
    /// Its result is in the output of an earlier run.
    Done,
}

/// A query and what it is asked about.
pub(super) struct Query {
    pub id: Option<DocumentId>,
    pub request: Request,
    /// The documents are those for all queries, and not yet in the request.
    pub shared: bool,
}

/// A line that is no query.
pub(super) struct Broken {
    pub id: Option<DocumentId>,
    pub message: String,
}

impl From<String> for Broken {
    fn from(message: String) -> Self {
        Self { id: None, message }
    }
}

/// Queries on their way.
pub(super) struct Source {
    pub lines: mpsc::Receiver<io::Result<Line>>,
    /// All there is to read, if that is known.
    pub bytes: Option<u64>,
}

/// Opens the source and starts to read. `-` is standard input.
pub(super) fn open(path: &Path, recipe: Recipe) -> io::Result<Source> {
    let (sender, lines) = mpsc::channel(AHEAD_MAX);
    let (reader, bytes, path): (Box<dyn Read + Send>, _, _) = if path.as_os_str() == "-" {
        (Box::new(io::stdin()), None, None)
    } else {
        let file = File::open(path)?;
        let found = file.metadata()?;
        if found.is_dir() {
            return Err(io::Error::other("it is a folder"));
        }
        (
            Box::new(file),
            found.is_file().then_some(found.len()),
            Some(path.to_owned()),
        )
    };
    std::thread::Builder::new().name("queries".to_owned()).spawn(move || {
        let mut reader = LineReader::new(BufReader::with_capacity(1 << 16, reader), path, recipe);
        // Nobody takes the lines any more: the run is over.
        while let Some(line) = reader.next().transpose()
            && sender.blocking_send(line).is_ok()
        {}
    })?;
    Ok(Source { lines, bytes })
}

struct LineReader<R> {
    reader: R,
    path: Option<PathBuf>,
    recipe: Recipe,
    json: Option<bool>,
    number: u64,
    bytes: u64,
    failed: bool,
}

impl<R: BufRead> LineReader<R> {
    fn new(reader: R, path: Option<PathBuf>, recipe: Recipe) -> Self {
        let json = match recipe.format {
            Some(format) => Some(format == QueriesFormat::Jsonl),
            None => (!recipe.shared).then_some(true),
        };
        Self {
            reader,
            path,
            recipe,
            json,
            number: 0,
            bytes: 0,
            failed: false,
        }
    }

    /// The next line that is not blank. After an error there is none.
    fn next(&mut self) -> io::Result<Option<Line>> {
        let mut buffer = Vec::new();
        while !self.failed {
            buffer.clear();
            let mut bounded = self.reader.by_ref().take(LINE_BYTES_MAX as u64 + 1);
            let read = bounded.read_until(b'\n', &mut buffer);
            let overlong = buffer.len() > LINE_BYTES_MAX && !buffer.ends_with(b"\n");
            let skipped = match &read {
                Ok(_) if overlong => self.reader.skip_until(b'\n'),
                _ => Ok(0),
            };
            let (read, skipped) = match (read, skipped) {
                (Ok(read), Ok(skipped)) => (read, skipped),
                (Err(error), _) | (_, Err(error)) => {
                    self.failed = true;
                    return Err(error);
                }
            };
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.bytes += (read + skipped) as u64;
            if buffer.trim_ascii().is_empty() {
                continue;
            }
            let what = if overlong {
                Err(format!("longer than {} MiB", LINE_BYTES_MAX >> 20).into())
            } else {
                self.parse(&buffer)
            };
            let id = match &what {
                Ok(query) => query.id.as_ref(),
                Err(broken) => broken.id.as_ref(),
            };
            let what = match what {
                _ if self.recipe.done.contains(id, self.number) => What::Done,
                Ok(query) => What::Query(Box::new(query)),
                Err(broken) => What::Broken(broken),
            };
            return Ok(Some(Line {
                number: self.number,
                bytes: buffer.len(),
                end_bytes: self.bytes,
                what,
            }));
        }
        Ok(None)
    }

    fn parse(&mut self, line: &[u8]) -> Result<Query, Broken> {
        let line = std::str::from_utf8(line).map_err(|_| "not UTF-8 text".to_owned())?;
        // The mark that some editors begin a file with.
        let line = line.strip_prefix('\u{feff}').unwrap_or(line).trim();
        let path = self.path.as_deref();
        let json = *self.json.get_or_insert_with(|| lines::look_like_json(path, line));
        let recipe = &self.recipe;
        let mut query = if json {
            from_json(line, recipe)?
        } else {
            Query {
                id: None,
                request: Request::new(line, Vec::<Document>::new()),
                shared: true,
            }
        };
        let request = &mut query.request;
        request.top_k = request.top_k.or(recipe.top_k.map(NonZeroUsize::get));
        request.raw_scores |= recipe.raw_scores;
        if request.model.is_none() {
            request.model.clone_from(&recipe.model);
        }
        Ok(query)
    }
}

/// Reads a request as the wire contract has it, with an id, and with the documents' fields named as the caller likes. A
/// string is a query.
fn from_json(line: &str, recipe: &Recipe) -> Result<Query, Broken> {
    let mut object = match lines::value(line)? {
        Value::Object(object) => object,
        Value::String(query) => Map::from_iter([("query".to_owned(), Value::String(query))]),
        other => {
            let found = lines::kind(&other);
            return Err(format!("expected a JSON object with `query`, found {found}").into());
        }
    };
    let id = lines::id("id", object.remove("id"))?;
    let broken = |message: String| Broken {
        id: id.clone(),
        message,
    };
    // `texts` is the contract's other name; what is wrong with it, the request's own reader tells below.
    let name = if object.contains_key("documents") {
        "documents"
    } else {
        "texts"
    };
    let documents = match object.get_mut(name) {
        Some(Value::Array(values)) => {
            let read = |(index, value)| {
                lines::document(value, &recipe.fields).map_err(|problem| format!("`documents[{index}]`: {problem}"))
            };
            let values = std::mem::take(values);
            Some(values.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>())
        }
        Some(_) => None,
        None if recipe.shared => {
            object.insert("documents".to_owned(), json!([]));
            None
        }
        None => None,
    };
    let rest = serde_json::to_vec(&object).map_err(|error| broken(error.to_string()))?;
    let mut request = Request::decode(Encoding::Json, &rest).map_err(|refusal| broken(refusal.message))?;
    // The texts are here: they need not come back over the wire.
    request.return_documents = false;
    let shared = documents.is_none();
    if let Some(documents) = documents {
        request.documents = documents.map_err(broken)?;
    }
    Ok(Query { id, request, shared })
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
