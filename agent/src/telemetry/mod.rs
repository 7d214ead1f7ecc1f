//! What the agent says about itself: messages, metrics, health. Never traces itself.

pub mod family;
pub mod health;
pub mod log;
pub mod metrics;
pub mod otlp;
pub mod push;
pub mod text;

#[cfg(test)]
mod alerts;
#[cfg(test)]
mod reference;
