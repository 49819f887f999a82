//! All integration tests, in one binary: one link, one nats-server a test.

mod architecture;
mod engine;
mod faults;
mod group;
mod lifecycle;
mod seeds;
mod support;
mod wire;
