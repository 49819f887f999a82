//! nats-rerank: horizontally scaled NATS workers that rerank search candidates with a device-resident cross-encoder.
//!
//! The map of the crate (ARCHITECTURE.md tells the whole story):
//!
//! | module | what it is for |
//! |---|---|
//! | [`protocol`] | the wire types, their JSON and MessagePack codecs, headers, refusals; shared by everyone |
//! | [`nats`] | how a connection to NATS is made from plain settings |
//! | [`client`] | a caller: one request, one answer, within a budget |
//! | [`config`] | settings: layered, then validated |
//! | [`model`] | checkpoint files, hub, tokenizer, and the engine (the only place that names `tch`) |
//! | [`worker`] | the pipeline: one file a stage |
//! | [`telemetry`] | logs and metric names |
//! | [`cli`] | the subcommands of the program |
//!
//! `client` and what it needs build without libtorch: `default-features = false, features = ["client"]`.

#![warn(missing_docs)]

pub mod protocol;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
pub mod nats;
#[cfg(feature = "worker")]
mod switch;

#[cfg(feature = "worker")]
pub mod cli;
#[cfg(feature = "worker")]
pub mod config;
#[cfg(feature = "worker")]
pub mod model;
#[cfg(feature = "worker")]
pub mod telemetry;
#[cfg(feature = "worker")]
pub mod worker;
