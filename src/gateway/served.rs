//! Which model answers, and within which limits. The gateway holds none: it knows what the last ranking was signed with, or asks.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::client::{Reranker, WorkerInfo};

/// A name older than this is asked for anew, should anybody want to know.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Two questions are at least this far apart, however many want to know.
const PAUSE: Duration = Duration::from_secs(1);

/// Workers have this long to say what they are.
const DISCOVERY_WAIT: Duration = Duration::from_millis(400);

/// The model that answered last, and what its workers say of themselves.
#[derive(Debug)]
pub(super) struct Served {
    service_name: String,
    subject: String,
    known: Mutex<Known>,
    limits: Mutex<KnownLimits>,
}

#[derive(Debug, Default)]
struct Known {
    model: Option<(String, Instant)>,
    asked: Option<Instant>,
}

#[derive(Debug, Default)]
struct KnownLimits {
    limits: Option<(Limits, Instant)>,
    asked: Option<Instant>,
}

/// What the workers of a subject have in common: of each limit the least.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) workers: usize,
    pub(super) precision: Option<String>,
    pub(super) length_max: Option<u64>,
    pub(super) batch_tokens_max: Option<u64>,
    pub(super) documents_max: Option<u64>,
}

impl Limits {
    fn of(workers: &[WorkerInfo]) -> Limits {
        let least = |limit: fn(&WorkerInfo) -> Option<u64>| workers.iter().filter_map(limit).min();
        Limits {
            workers: workers.len(),
            precision: workers.first().and_then(|worker| worker.precision.clone()),
            length_max: least(|worker| worker.length_max),
            batch_tokens_max: least(|worker| worker.batch_tokens_max),
            documents_max: least(|worker| worker.documents_max),
        }
    }
}

impl Served {
    pub(super) fn new(service_name: &str, subject: &str) -> Served {
        Served {
            service_name: service_name.to_owned(),
            subject: subject.to_owned(),
            known: Mutex::default(),
            limits: Mutex::default(),
        }
    }

    /// The subject of its workers.
    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    /// The limits of its workers; asks them if that was not done of late. All unknown while none answers.
    pub(super) async fn limits(&self, reranker: &Reranker) -> Limits {
        let ask = {
            let mut known = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let fresh = known.limits.as_ref().is_some_and(|(_, at)| now - *at < AGE_MAX);
            let ask = !fresh && known.asked.is_none_or(|at| now - at >= PAUSE);
            if ask {
                known.asked = Some(now);
            }
            ask
        };
        if ask {
            let workers = reranker.workers(&self.service_name, DISCOVERY_WAIT).await;
            if let Some(first) = workers.first() {
                self.saw(&first.model);
                let mut known = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
                known.limits = Some((Limits::of(&workers), Instant::now()));
            }
        }
        let known = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .limits
            .as_ref()
            .map(|(limits, _)| limits.clone())
            .unwrap_or_default()
    }

    /// A ranking was signed with this name.
    pub(super) fn saw(&self, model: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
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
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.model.as_ref().map(|(name, _)| name.clone())
    }

    fn is_to_be_asked(&self) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
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
