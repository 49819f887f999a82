//! nats-rerank: horizontally scaled NATS workers that rerank search candidates with a device-resident cross-encoder.
//!
//! The map of the crate (ARCHITECTURE.md tells the whole story):
//!
//! | module | what it is for |
//! |---|---|
//! | [`protocol`] | the wire types, their JSON and MessagePack codecs, headers, refusals; shared by everyone |
//! | [`nats`] | how a connection to NATS is made from plain settings |
//! | [`client`] | callers: one request and its answer, and the call that cannot fail |
//! | [`config`] | settings: layered, then validated |
//! | [`model`] | checkpoint files, hub, tokenizer, and the engine (the only place that names `tch`) |
//! | [`worker`] | the pipeline: one file a stage |
//! | [`gateway`] | HTTP in, NATS out |
//! | [`telemetry`] | logs, metrics, health, traces |
//! | [`cli`] | the subcommands of the program |
//!
//! `client` and what it needs build without libtorch: `default-features = false, features = ["client"]`; so does the
//! program without `worker` and `model`: `features = ["gateway"]`.

#![warn(missing_docs)]

pub mod protocol;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "gateway")]
mod listen;
#[cfg(feature = "client")]
pub mod nats;
#[cfg(feature = "client")]
mod switch;
#[cfg(feature = "worker")]
mod tls;

#[cfg(any(feature = "gateway", feature = "bench"))]
// What benches/ measures needs one of the choices alone.
#[cfg_attr(not(feature = "gateway"), allow(dead_code, unused_imports))]
mod choices;
#[cfg(feature = "gateway")]
pub mod cli;
#[cfg(feature = "gateway")]
pub mod config;
#[cfg(feature = "gateway")]
mod folder;
#[cfg(feature = "gateway")]
pub mod gateway;
#[cfg(any(feature = "worker", feature = "bench"))]
pub mod model;
#[cfg(feature = "client")]
pub mod telemetry;
#[cfg(feature = "worker")]
pub mod worker;

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench_support;
