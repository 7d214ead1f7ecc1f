//! A metric with all its rows, before it is written down in one format or another.

use std::time::Duration;

use crate::export::LATENCY_BOUNDS;

/// Names and values of labels.
pub type Labels = Vec<(&'static str, String)>;

/// What the values of a metric are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Counts from the start of the agent.
    Counter,
    /// Counts from before it: the span log keeps it.
    Account,
    /// Goes up and down.
    Gauge,
    /// Durations since the start of the agent, by their length.
    Histogram,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number of things.
    Count(u64),
    /// A time.
    Seconds(f64),
    /// Durations.
    Durations(Buckets),
}

/// Durations: how many are up to each of [`LATENCY_BOUNDS`] and beyond (not cumulative), and their sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// By length.
    pub counts: [u64; LATENCY_BOUNDS.len() + 1],
    /// All together.
    pub sum: Duration,
}

/// A metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Name, without `spantap_`, the unit of times, and what formats add to it.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// Values by their labels.
    pub rows: Vec<(Labels, Value)>,
}

impl Family {
    /// Whether its unit is the second; if not it has none, or the name says it.
    pub fn is_of_seconds(&self) -> bool {
        matches!(self.rows.first(), Some((_, Value::Seconds(_) | Value::Durations(_))))
    }
}
