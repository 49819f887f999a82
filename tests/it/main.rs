//! All integration tests, in one binary: one link, one nats-server a test.

mod architecture;
mod bench;
mod caches;
mod chaos;
mod client;
mod discovery;
mod engine;
mod faults;
mod gateway;
mod group;
mod health;
mod identity;
mod lifecycle;
mod memory;
mod outage;
mod overload;
mod oversized;
mod permissions;
mod query;
mod seeds;
mod support;
mod switch;
mod top;
mod traces;
mod wire;
