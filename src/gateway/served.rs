//! Which model answers. The gateway holds none: it knows what the last ranking was signed with, or asks.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::client::Reranker;

/// A name older than this is asked for anew, should anybody want to know.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Two questions are at least this far apart, however many want to know.
const PAUSE: Duration = Duration::from_secs(1);

/// The model that answered last.
#[derive(Debug, Default)]
pub(super) struct Served(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    model: Option<(String, Instant)>,
    asked: Option<Instant>,
}

impl Served {
    /// A ranking was signed with this name.
    pub(super) fn saw(&self, model: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match &mut known.model {
            Some((name, at)) if name == model => *at = now,
            other => *other = Some((model.to_owned(), now)),
        }
    }

    /// Its name; `None` while none has ever answered. Has a worker score a pair if the name is not known or old, within the
    /// reranker's budget.
    pub(super) async fn model(&self, reranker: &Reranker) -> Option<String> {
        if self.is_to_be_asked() {
            let reranked = reranker.rerank("which model", ["this one"], None).await;
            if let Some(model) = &reranked.model {
                self.saw(model);
            }
        }
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.model.as_ref().map(|(name, _)| name.clone())
    }

    fn is_to_be_asked(&self) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh = known.model.as_ref().is_some_and(|(_, at)| now - *at < AGE_MAX);
        let just_asked = known.asked.is_some_and(|at| now - at < PAUSE);
        let ask = !fresh && !just_asked;
        if ask {
            known.asked = Some(now);
        }
        ask
    }
}
