//! Tests of the gateway: the real program and a real nats-server, behind it scripted workers. They need no libtorch, and run
//! with `--no-default-features --features gateway` too.

// Shared with the other tests, which use more of them.
#[allow(dead_code)]
#[path = "../callers/fakes.rs"]
mod fakes;
#[allow(dead_code)]
#[path = "../it/support/mod.rs"]
mod support;

mod connections;
mod dialects;
mod door;
mod failing;
mod life;
mod process;
mod shapes;

use support::{PATIENCE, http, nats_server, notify, worker};
