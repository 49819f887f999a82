//! A caller of the reranking service.
//!
//! [`Caller`] sends one request and brings back the worker's answer or the reason why there is none, within a time that
//! the caller sets. What to do without an answer (keep the order of the search before) is the caller's part.

mod caller;

pub use caller::{Answer, CallError, CallOptions, Caller};
