//! All integration tests, in one binary: one link, one nats-server a test.

mod architecture;
mod chaos;
mod engine;
mod faults;
mod group;
mod identity;
mod lifecycle;
mod seeds;
mod support;
mod wire;
