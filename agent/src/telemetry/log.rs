//! The agent's own messages on standard error, by `tracing`.
//!
//! The level is the configuration's; `SPANTAP_LOG_FILTER` narrows or widens it by module, in the syntax of
//! `tracing-subscriber`. Messages never carry payload, query values or header values.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use tracing_subscriber::EnvFilter;

use crate::config::{Diagnostics, Format, Level};

/// Name of the variable with filter directives.
pub const FILTER_VARIABLE: &str = "SPANTAP_LOG_FILTER";

/// Sends messages to standard error. A second call changes nothing.
pub fn init(diagnostics: &Diagnostics) {
    let directives = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    // Libraries are told about only when they are in trouble.
    let filter = EnvFilter::new(format!("warn,agent={level},spantap={level},{directives}", level = level(diagnostics)));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that messages go somewhere already.
    let _ = match diagnostics.format {
        Format::Json => lines.json().flatten_event(true).try_init(),
        Format::Text => lines.with_target(false).with_ansi(coloured()).try_init(),
    };
}

fn level(diagnostics: &Diagnostics) -> &'static str {
    match diagnostics.level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

fn coloured() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Lets one message through per interval, and counts the others.
#[derive(Debug)]
pub struct RateLimit {
    interval: Duration,
    last: Option<Instant>,
    unsaid: u64,
}

impl RateLimit {
    /// At most one message per `interval`.
    pub const fn new(interval: Duration) -> Self {
        Self { interval, last: None, unsaid: 0 }
    }

    /// If a message may be said now: how many were not said since the last one.
    pub fn allow(&mut self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.duration_since(last) < self.interval) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_per_interval_and_the_others_are_counted() {
        let mut limit = RateLimit::new(Duration::from_secs(60));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let allowed: Vec<_> = [0, 1, 59, 60, 61, 200].map(|seconds| limit.allow_at(at(seconds))).into();
        assert_eq!(allowed, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
