//! All integration tests, in one binary: one link, one nats-server a test.

mod architecture;
mod chaos;
mod discovery;
mod engine;
mod faults;
mod group;
mod health;
mod identity;
mod lifecycle;
mod seeds;
mod support;
mod wire;
