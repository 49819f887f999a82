//! The wire contract: types, codecs, headers and refusals, free of any NATS or tensor type.
//!
//! One request, one reply, each in JSON or MessagePack ([`Encoding`]):
//!
//! | type | what it is |
//! |---|---|
//! | [`RequestHeaders`] | the request headers that mean something here |
//! | [`TraceContext`] | the caller's span, if it has one |
//! | [`Request`] | a query, its documents, and how they are to be ranked |
//! | [`Reply`] | the ranking, with what it cost |
//! | [`Refusal`] | the other reply: why there is no ranking |
//!
//! Decoding treats every body as a stranger's: messages name the field, what was expected and the type found, never
//! the content; nothing is allocated for a length that was only claimed; nesting is bounded. `docs/protocol.md` is
//! the contract in full.

mod activation;
mod encoding;
pub mod headers;
pub(crate) mod place;
pub(crate) mod reader;
mod refusal;
mod reply;
pub(crate) mod request;
mod surrogates;
#[cfg(test)]
mod tests;
mod trace_context;
mod visit;

pub use activation::ScoreActivation;
pub use encoding::Encoding;
pub use headers::RequestHeaders;
pub use refusal::{MESSAGE_BYTES_MAX, Refusal, RefusalKind, RefusalScope};
pub use reply::{DecodeError, RankedDocument, Ranking, Reply, TimingsMs, Usage};
pub use request::{Document, DocumentId, Request};
pub use trace_context::{SpanId, TRACESTATE_BYTES_MAX, TraceContext, TraceId};

/// The subject that workers listen on unless told otherwise.
pub const DEFAULT_SUBJECT: &str = "rerank.v1.score";
