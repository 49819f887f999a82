//! The hot paths that benches/ measures and that are private otherwise. Not part of the interface.
//!
//! Their files are compiled here once more, by themselves, so that neither NATS nor libtorch has to be built for a
//! count of instructions. What is pure can be taken out of its place like that.

// With the feature `worker` beside `bench` they are in the crate twice, and meant to be.
#![allow(clippy::duplicate_mod)]

use std::time::{Duration, Instant};

#[path = "worker/batch.rs"]
pub mod batch;
#[path = "model/engine/layout.rs"]
pub mod layout;
#[path = "worker/load.rs"]
pub mod load;
#[path = "worker/rank.rs"]
pub mod rank;
#[path = "worker/rate.rs"]
pub mod rate;
#[path = "client/scatter.rs"]
mod scatter;

/// The client's way from candidates of these sizes (bytes) to parts of `pairs` each, and from the parts' logits back to
/// one ranking.
pub fn split_and_merge(bytes: &[usize], pairs: usize, logit: impl Fn(usize) -> f32) -> Vec<(usize, f32)> {
    let bounds = scatter::Bounds {
        bytes_max: 1 << 20,
        split_pairs: Some(pairs),
        parts_max: 8,
    };
    let split = scatter::split(bytes, bounds);
    let logits = split.parts.concat().into_iter().map(|index| (index, logit(index)));
    scatter::merge(logits.collect(), None)
}

/// What admission computes for a request: an estimate of its tokens, and whether they can be ready in time.
///
/// # Errors
/// Who would be late.
pub fn admit(
    load: &mut load::Load,
    now: Instant,
    budget: Duration,
    query_bytes: usize,
    document_bytes: impl Iterator<Item = usize>,
) -> Result<load::WorkId, load::Late> {
    let tokens = load.estimate(query_bytes, document_bytes);
    load.learn_request(now, budget, tokens);
    load.check(now, now + budget, tokens)?;
    Ok(load.add(now + budget, tokens))
}
