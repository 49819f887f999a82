//! All integration tests, in one binary: one link, one nats-server a test.

mod engine;
mod lifecycle;
mod seeds;
mod support;
mod wire;
