//! Scores of pairs: a query for each document, as one answer.

use futures_util::future::join_all;
use tokio::time::Instant;

use super::candidates::Candidate;
use crate::client::{Order, Partial, RerankOptions, Reranked, Reranker};

/// Calls of one request under way at once.
const CALLS_MAX: usize = 16;

/// Scores each document against the query at its place; neighbours with one query are one call.
pub(super) async fn score(
    reranker: &Reranker,
    queries: &[String],
    documents: Vec<Candidate>,
    options: &RerankOptions,
    deadline: Instant,
) -> Reranked<Candidate> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    for (index, (query, document)) in queries.iter().zip(documents).enumerate() {
        match runs.last_mut() {
            Some((same, _, run)) if *same == query.as_str() => run.push(document),
            _ => runs.push((query, index, vec![document])),
        }
    }
    let mut answers = Vec::with_capacity(runs.len());
    let mut runs = runs.into_iter();
    loop {
        let calls = runs.by_ref().take(CALLS_MAX);
        let part = join_all(calls.map(|run| score_run(reranker, run, options, deadline))).await;
        if part.is_empty() {
            return join(answers);
        }
        answers.extend(part);
    }
}

/// One query and its documents, of which the first has this place.
type Run<'a> = (&'a str, usize, Vec<Candidate>);

async fn score_run(
    reranker: &Reranker,
    (query, start, documents): Run<'_>,
    options: &RerankOptions,
    deadline: Instant,
) -> (usize, Reranked<Candidate>) {
    let options = options
        .clone()
        .budget(deadline.saturating_duration_since(Instant::now()));
    let reranked = reranker
        .rerank_with(query, documents, |document| &document.text, None, &options)
        .await;
    (start, reranked)
}

/// The answers as one. What has no score is a part that is missing, unless nothing has one.
fn join(answers: Vec<(usize, Reranked<Candidate>)>) -> Reranked<Candidate> {
    let mut unscored = 0;
    let mut reason = None;
    let mut joined: Option<Reranked<Candidate>> = None;
    for (start, mut answer) in answers {
        for item in &mut answer.items {
            item.index += start;
        }
        unscored += answer.items.iter().filter(|item| item.score.is_none()).count();
        reason = reason
            .or(answer.order.fallback())
            .or(answer.partial.map(|partial| partial.reason));
        let Some(joined) = &mut joined else {
            joined = Some(answer);
            continue;
        };
        joined.items.extend(answer.items);
        if answer.order == Order::Model {
            joined.order = Order::Model;
        }
        joined.model = joined.model.take().or(answer.model);
        joined.activation = joined.activation.or(answer.activation);
        joined.detail = joined.detail.take().or(answer.detail);
        joined.usage.pairs += answer.usage.pairs;
        joined.usage.tokens += answer.usage.tokens;
        joined.usage.truncated += answer.usage.truncated;
        joined.usage.cached += answer.usage.cached;
    }
    // There is a query for each of at least two documents.
    let mut joined = joined.unwrap_or_else(super::rerank::nothing);
    // Those without a score behind, as in any ranking.
    joined.items.sort_by_key(|item| item.score.is_none());
    joined.partial = match (joined.order, reason) {
        (Order::Model, Some(reason)) if unscored > 0 => Some(Partial { unscored, reason }),
        _ => None,
    };
    joined
}
