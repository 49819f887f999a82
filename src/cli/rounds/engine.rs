//! The engine without the worker around it: tokens in, logits out, timed by nobody but itself.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Obey, Order, in_turn, loaded};
use crate::cli::CliError;
use crate::cli::bench::requests_from_file;
use crate::cli::worker::load_model;
use crate::config::Config;
use crate::model::engine::{Engine, EngineError};
use crate::model::tokenizer::{PairTokens, TokenizeError};
use crate::protocol::Request;
use crate::worker::Loaded;

/// An engine, and the requests that it was given, as tokens.
pub(super) struct Alone {
    loaded: Loaded,
    tokens_max: usize,
    requests: Vec<Vec<PairTokens>>,
    next: usize,
}

impl Alone {
    /// Loads the configured model as a worker does; what it is.
    pub(super) fn load(config: &Config) -> Result<(Alone, Value), CliError> {
        let began = Instant::now();
        let loaded = load_model(&config.model).map_err(|error| CliError::Failed(error.to_string()))?;
        let info = loaded.engine.info();
        let about = json!({
            "model": info.model_id, "device": info.device, "precision": info.precision, "attention": info.attention,
            "batch_tokens": info.batch_tokens,
            "load_ms": began.elapsed().as_secs_f64() * 1e3,
        });
        let tokens_max = config.batch.tokens_max.unwrap_or(info.batch_tokens);
        let alone = Alone {
            loaded,
            tokens_max,
            requests: Vec::new(),
            next: 0,
        };
        Ok((alone, about))
    }

    fn tokenize(&self, request: &Request) -> Result<Vec<PairTokens>, TokenizeError> {
        let tokenizer = &self.loaded.tokenizer;
        let query = tokenizer.query(&request.query)?;
        request
            .documents
            .iter()
            .map(|document| tokenizer.pair(&query, &document.text, true))
            .collect()
    }
}

/// The logits of these pairs, in batches no larger than a worker's.
fn score<'a>(
    engine: &mut dyn Engine,
    pairs: impl IntoIterator<Item = &'a PairTokens>,
    tokens_max: usize,
) -> Result<Vec<f32>, EngineError> {
    let mut logits = Vec::new();
    let mut batch: Vec<&PairTokens> = Vec::new();
    let mut tokens = 0;
    for pair in pairs {
        if !batch.is_empty() && tokens + pair.ids.len() > tokens_max {
            logits.extend(engine.score(&batch)?);
            batch.clear();
            tokens = 0;
        }
        tokens += pair.ids.len();
        batch.push(pair);
    }
    logits.extend(engine.score(&batch)?);
    Ok(logits)
}

impl Obey for Alone {
    fn obey(&mut self, order: Order) -> Result<Value, CliError> {
        let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
        match order {
            Order::Load { path } => {
                let requests = requests_from_file(&path)?;
                let began = Instant::now();
                let tokenized: Result<Vec<_>, _> = requests.iter().map(|request| self.tokenize(request)).collect();
                self.requests = tokenized.map_err(|error| failed(&error))?;
                let tokenize_ms = began.elapsed().as_secs_f64() * 1e3 / requests.len() as f64;
                self.next = 0;
                let tokens: Vec<usize> = self
                    .requests
                    .iter()
                    .map(|pairs| pairs.iter().map(|pair| pair.ids.len()).sum())
                    .collect();
                Ok(json!({"requests": requests.len(), "tokens": tokens, "tokenize_ms": tokenize_ms}))
            }
            Order::Round { count, callers } => {
                loaded(&self.requests)?;
                let mut took_ms = Vec::with_capacity(count);
                let round_began = Instant::now();
                // Callers of one moment are computed together, as a worker would.
                for places in in_turn(&mut self.next, count, self.requests.len()).chunks(callers.max(1)) {
                    let began = Instant::now();
                    let pairs = places.iter().flat_map(|&place| &self.requests[place]);
                    score(&mut *self.loaded.engine, pairs, self.tokens_max).map_err(|error| failed(&error))?;
                    let took = began.elapsed().as_secs_f64() * 1e3;
                    took_ms.extend(std::iter::repeat_n(took, places.len()));
                }
                Ok(json!({"ms": took_ms, "seconds": round_began.elapsed().as_secs_f64()}))
            }
            Order::Scores { count } => {
                loaded(&self.requests)?;
                let engine = &mut *self.loaded.engine;
                let scores: Result<Vec<_>, _> = self
                    .requests
                    .iter()
                    .take(count)
                    .map(|pairs| score(engine, pairs, self.tokens_max))
                    .collect();
                Ok(json!({"scores": scores.map_err(|error| failed(&error))?}))
            }
        }
    }
}
