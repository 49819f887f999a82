//! What the hot paths work on: one request of 24 documents, as text and as tokens, and its reply.

use std::path::Path;

use nats_rerank::model::{Checkpoint, PairTokenizer, PairTokens};
use nats_rerank::protocol::{Document, DocumentId, RankedDocument, Ranking, Reply, Request, TimingsMs, Usage};

/// Common English words.
const WORDS: &str = include_str!("../../src/cli/bench/words.txt");
const DOCUMENTS: usize = 24;

/// See the module.
pub struct Material {
    /// English text with capitals, digits and punctuation.
    pub request: Request,
    /// The same with accents, quotation marks and some Greek and Chinese.
    pub accented: Request,
    /// Its tokens.
    pub pairs: Vec<PairTokens>,
    /// Those of the accented one.
    pub accented_pairs: Vec<PairTokens>,
    /// All rankings, with ids, some with their text.
    pub reply: Reply,
    tokenizer: PairTokenizer,
}

impl Material {
    /// Reads the built-in model's tokenizer (BERT WordPiece, 26,200 tokens) and makes the texts.
    pub fn new() -> Material {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/builtin");
        let checkpoint = Checkpoint::open("builtin", &folder, Some(512)).expect("the built-in model");
        let tokenizer = PairTokenizer::open(&checkpoint).expect("its tokenizer");
        let plain = request(|word, place| match place % 11 {
            3 => format!("{word},"),
            5 => format!("{}{}", word[..1].to_uppercase(), &word[1..]),
            7 => format!("{word} {}", 1900 + place % 120),
            9 => format!("{word}s-{word}."),
            _ => word.to_owned(),
        });
        let accented = request(|word, place| match place % 11 {
            2 => word.replace('e', "é").replace('o', "ö"),
            4 => format!("“{word}”"),
            6 => "Ἀθῆναι".to_owned(),
            8 => format!("{word}中文"),
            _ => word.to_owned(),
        });
        let mut material = Material {
            reply: reply(&plain),
            request: plain,
            accented,
            pairs: Vec::new(),
            accented_pairs: Vec::new(),
            tokenizer,
        };
        material.pairs = material.pairs(&material.request);
        material.accented_pairs = material.pairs(&material.accented);
        material
    }

    /// The query once and each of the documents.
    pub fn pairs(&self, request: &Request) -> Vec<PairTokens> {
        let query = self.tokenizer.query(&request.query).expect("tokens");
        let pair = |document: &Document| self.tokenizer.pair(&query, &document.text, true).expect("tokens");
        request.documents.iter().map(pair).collect()
    }
}

/// Documents of 10 to 170 words, as `nats-rerank bench` sends them; every other one with an id.
fn request(shaped: impl Fn(&str, usize) -> String) -> Request {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut place = 0usize;
    let mut text = |length: usize| {
        let chosen: Vec<String> = (0..length)
            .map(|_| {
                place += 1;
                // 131 has no factor in common with the number of words, or the texts would be short circles.
                shaped(words[place * 131 % words.len()], place)
            })
            .collect();
        chosen.join(" ")
    };
    let query = text(6);
    let documents = (0..DOCUMENTS).map(|index| Document {
        text: text(10 + index * 17 % DOCUMENTS * 160 / (DOCUMENTS - 1)),
        id: (index % 2 == 0).then(|| DocumentId::Text(format!("document-{index}"))),
    });
    let documents: Vec<Document> = documents.collect();
    Request::new(query, documents)
}

fn reply(request: &Request) -> Reply {
    let rankings = request.documents.iter().enumerate().map(|(index, document)| Ranking {
        index,
        score: 11.25 - index as f32 * 0.937_13,
        id: document.id.clone(),
        document: (index < 4).then(|| RankedDocument {
            text: document.text.clone(),
        }),
    });
    Reply {
        rankings: rankings.collect(),
        top_k_applied: false,
        below_min_score: None,
        model: "cross-encoder/ms-marco-MiniLM-L6-v2".to_owned(),
        usage: Usage {
            pairs: DOCUMENTS as u64,
            tokens: 2368,
            truncated: 0,
            cached: 0,
        },
        timings_ms: TimingsMs {
            queue: 0.812,
            tokenize: 1.934,
            infer: 11.207,
            total: 14.351,
        },
    }
}
