//! What the program says about itself: its log, and the names of its metrics.

pub mod logs;
pub mod names;
