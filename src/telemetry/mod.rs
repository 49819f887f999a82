//! What the program says about itself: its log, its metrics, its health.

pub mod health;
pub mod logs;
pub mod names;
pub mod process;
