//! What is sent: requests of a file, or built-in text of known lengths.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cli::CliError;
use crate::protocol::{Encoding, Request};

/// Requests of built-in text, sent in turn. No two have a document in common.
const REQUESTS_DIFFERENT: usize = 64;
/// Words of a built-in query.
const QUERY_WORDS: usize = 6;
/// Common words, each one token of BERT's English vocabulary; so a text's length in words is its length in tokens.
const WORDS: &str = include_str!("words.txt");

/// How long built-in documents are, in words. A request holds every length once, shuffled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LengthMix {
    /// 5 to 40 words in even steps
    Short,
    /// 10 to 170 words in even steps
    Mixed,
    /// 150 to 350 words in even steps
    Long,
    /// 10 to 40 words in even steps, but for one document of 400
    OneLong,
}

impl LengthMix {
    /// The name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            LengthMix::Short => "short",
            LengthMix::Mixed => "mixed",
            LengthMix::Long => "long",
            LengthMix::OneLong => "one-long",
        }
    }

    /// The lengths of the documents of one request, in words.
    fn lengths(self, documents: usize) -> Vec<usize> {
        let steps = |least: usize, most: usize| -> Vec<usize> {
            let step = (most - least) as f64 / documents.saturating_sub(1).max(1) as f64;
            (0..documents)
                .map(|place| least + (place as f64 * step).round() as usize)
                .collect()
        };
        match self {
            LengthMix::Short => steps(5, 40),
            LengthMix::Mixed => steps(10, 170),
            LengthMix::Long => steps(150, 350),
            LengthMix::OneLong => {
                let mut lengths = steps(10, 40);
                if let Some(last) = lengths.last_mut() {
                    *last = 400;
                }
                lengths
            }
        }
    }
}

/// Requests of built-in text: the same seed gives the same ones.
pub(super) fn built_in(documents: usize, mix: LengthMix, seed: u64) -> Vec<Request> {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut random = fastrand::Rng::with_seed(seed);
    let text = |random: &mut fastrand::Rng, length: usize| {
        let chosen: Vec<&str> = (0..length).map(|_| words[random.usize(..words.len())]).collect();
        chosen.join(" ")
    };
    let mut lengths = mix.lengths(documents);
    (0..REQUESTS_DIFFERENT)
        .map(|_| {
            random.shuffle(&mut lengths);
            let query = text(&mut random, QUERY_WORDS);
            let documents: Vec<String> = lengths.iter().map(|length| text(&mut random, *length)).collect();
            Request::new(query, documents.iter().map(String::as_str))
        })
        .collect()
}

/// Requests of a file: one, an array of them, or one a line.
///
/// # Errors
/// The file cannot be read, or holds something that is no request; its content is not repeated.
pub(in crate::cli) fn from_file(path: &Path) -> Result<Vec<Request>, CliError> {
    let shown = path.display();
    let wrong = |reason: String| CliError::Usage(format!("--payload {shown}: {reason}"));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let values = serde_json::Deserializer::from_str(&text)
        .into_iter::<serde_json::Value>()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    let values = match <[serde_json::Value; 1]>::try_from(values) {
        Ok([serde_json::Value::Array(values)]) => values,
        Ok([value]) => vec![value],
        Err(values) => values,
    };
    if values.is_empty() {
        return Err(wrong("there is no request in it".to_owned()));
    }
    values
        .iter()
        .map(|value| {
            Request::decode(Encoding::Json, value.to_string().as_bytes()).map_err(|refusal| wrong(refusal.message))
        })
        .collect()
}

/// What was sent, as a report tells it: enough to know whether two runs sent the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Described {
    /// `built-in`, or `file`.
    pub(super) source: String,
    /// Different requests.
    pub(super) requests: usize,
    /// Documents of all of them.
    pub(super) documents: usize,
    /// Bytes of text of all of them.
    pub(super) text_bytes: usize,
    /// A checksum of queries and documents.
    pub(super) fingerprint: String,
}

/// Describes requests without their content.
pub(super) fn describe(source: &str, requests: &[Request]) -> Described {
    let mut hash = Fnv::default();
    let (mut documents, mut text_bytes) = (0, 0);
    for request in requests {
        documents += request.documents.len();
        hash.text(&request.query);
        text_bytes += request.query.len();
        for document in &request.documents {
            hash.text(&document.text);
            text_bytes += document.text.len();
        }
    }
    Described {
        source: source.to_owned(),
        requests: requests.len(),
        documents,
        text_bytes,
        fingerprint: format!("{:016x}", hash.0),
    }
}

/// FNV-1a: std's hasher may change from version to version, and reports outlive one.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn text(&mut self, text: &str) {
        // A byte that no text holds ends each.
        for byte in text.bytes().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> usize {
        text.split(' ').count()
    }

    #[test]
    fn mixed_lengths_are_those_of_the_repositorys_bench() {
        let lengths = LengthMix::Mixed.lengths(24);
        assert_eq!(
            (lengths[0], lengths[23], lengths.iter().sum::<usize>()),
            (10, 170, 24 * 90)
        );
        assert!(lengths.is_sorted());
    }

    #[test]
    fn every_mix_gives_as_many_lengths_as_documents() {
        for mix in [LengthMix::Short, LengthMix::Mixed, LengthMix::Long, LengthMix::OneLong] {
            for documents in [1, 2, 24, 1000] {
                assert_eq!(mix.lengths(documents).len(), documents, "{mix:?}");
            }
        }
        assert_eq!(
            LengthMix::OneLong
                .lengths(24)
                .iter()
                .filter(|length| **length > 40)
                .count(),
            1
        );
    }

    #[test]
    fn a_seed_gives_the_same_text_and_another_seed_other_text() {
        let requests = built_in(24, LengthMix::Mixed, 7);
        assert_eq!(requests, built_in(24, LengthMix::Mixed, 7));
        assert_eq!(requests.len(), REQUESTS_DIFFERENT);
        assert_ne!(
            describe("built-in", &requests),
            describe("built-in", &built_in(24, LengthMix::Mixed, 8))
        );
        let lengths = |request: &Request| {
            let mut lengths: Vec<_> = request.documents.iter().map(|document| words(&document.text)).collect();
            lengths.sort_unstable();
            lengths
        };
        assert_eq!(lengths(&requests[5]), LengthMix::Mixed.lengths(24));
        assert_eq!(words(&requests[5].query), QUERY_WORDS);
    }

    #[test]
    fn a_fingerprint_tells_texts_apart_that_are_cut_elsewhere() {
        let one = describe("file", &[Request::new("a", ["bc", "d"])]);
        let two = describe("file", &[Request::new("a", ["b", "cd"])]);
        assert_ne!(one.fingerprint, two.fingerprint);
    }

    #[test]
    fn a_file_holds_one_request_an_array_or_one_a_line() {
        let one = r#"{"query": "q", "documents": ["a"]}"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests");
        for (text, count) in [
            (one.to_owned(), 1),
            (format!("[{one}, {one}]"), 2),
            (format!("{one}\n{one}\n{one}\n"), 3),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(from_file(&path).unwrap().len(), count);
        }
        for wrong in ["", "[]", "{}", r#"{"query": 1, "documents": []}"#] {
            std::fs::write(&path, wrong).unwrap();
            assert!(matches!(from_file(&path), Err(CliError::Usage(_))), "{wrong}");
        }
    }
}
