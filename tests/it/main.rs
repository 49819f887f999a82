//! All integration tests, in one binary: one link, one nats-server a test.

mod architecture;
mod discovery;
mod engine;
mod health;
mod lifecycle;
mod seeds;
mod support;
mod wire;
