//! Tests of the client against a real nats-server and scripted workers: they need neither a worker nor libtorch, and
//! run with `--no-default-features --features client` too.

#[path = "../it/support/basics.rs"]
mod basics;
// Shared with the other tests, which use more of it.
#[allow(dead_code)]
#[path = "../it/support/nats_server.rs"]
mod nats_server;

mod building;
mod fakes;
mod frozen;
mod login;
mod metrics;
mod replies;
mod resilience;
mod scatter;
mod switch;

use std::time::Duration;

pub use basics::{PATIENCE, root, signal};

/// A budget that only a broken system spends.
pub const LONG: Duration = Duration::from_secs(60);
