//! What the agent says about itself: messages, metrics, health. Never traces itself.

pub mod health;
pub mod log;
pub mod metrics;
