//! What a request comes to, as a reply: ranked, with what it cost.

use std::time::Duration;

use super::forward::Scored;
use super::rank::rank;
use super::tokenize::Tokenized;
use crate::model::engine::EngineInfo;
use crate::protocol::{Reply, TimingsMs, Usage};

/// From logits to the reply; on the engine thread, since it takes microseconds.
pub fn answer(scored: Scored, info: &EngineInfo) {
    let Scored {
        ticket,
        request,
        logits,
        cost,
    } = scored;
    let pairs = logits.len();
    let best = request.top_k.unwrap_or(pairs).min(pairs);
    let has_min_score = request.min_score.is_some();
    let rankings = rank(request, &logits, info.activation);
    ticket.answer(Reply {
        top_k_applied: best < pairs,
        below_min_score: has_min_score.then_some((best - rankings.len()) as u64),
        rankings,
        model: info.model_id.clone(),
        usage: Usage {
            pairs: pairs as u64,
            tokens: cost.tokens,
            truncated: cost.truncated,
            cached: cost.cached,
        },
        timings_ms: TimingsMs {
            queue: ms(cost.queue),
            tokenize: ms(cost.tokenize),
            infer: ms(cost.infer),
            total: 0.0,
        },
    });
}

/// No candidates: nothing to score.
pub fn answer_empty(tokenized: Tokenized, info: &EngineInfo) {
    tokenized.ticket.answer(Reply {
        rankings: Vec::new(),
        top_k_applied: false,
        below_min_score: None,
        model: info.model_id.clone(),
        usage: Usage::default(),
        timings_ms: TimingsMs {
            queue: ms(tokenized.waited),
            tokenize: ms(tokenized.tokenize),
            infer: 0.0,
            total: 0.0,
        },
    });
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
