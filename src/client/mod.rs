//! A caller of the reranking service.
//!
//! [`Reranker`] is what a search service wants: it takes the candidates and gives them back in their new order or, if
//! there is none within the budget, in the order they came in; it says which, and it cannot fail.
//!
//! [`Caller`] lies below it: one request, one answer or the reason why there is none, within a time that the caller
//! sets. What to do without an answer is then the caller's part.

mod ask;
mod breaker;
mod builder;
mod caller;
mod circuit;
mod discover;
mod enabled;
mod gather;
mod hedge;
mod inbox;
mod options;
mod record;
mod reranked;
mod reranker;
mod scatter;
mod size_class;
mod text;

pub use breaker::{BreakerSettings, CircuitState};
pub use builder::{BuildError, RerankerBuilder};
pub use caller::{Answer, CallError, CallOptions, Caller};
pub use discover::WorkerInfo;
pub use hedge::HedgeSettings;
pub use options::RerankOptions;
pub use reranked::{AnnReason, Order, Partial, Ranked, Reranked};
pub use reranker::Reranker;
pub use text::Text;
