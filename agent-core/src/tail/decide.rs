//! Which traces are kept.

use super::{Facts, Map, stricter};
use crate::{
    relay::{Choice, Filter, Resource, Threshold},
    sketch::Trailing,
    wire::{Malformed, SpanView, StatusCode},
};

/// Spans of a service and name before one can be slow among them.
const SLOW_SPANS_MIN: u64 = 100;
/// How long durations are remembered at least.
const TURN_NS: u64 = 300 * 1_000_000_000;
/// Services and names whose durations are known, each about 2 KiB; those of others are not judged by their percentile.
const SKETCHES_MAX: usize = 1_024;
/// Services and names that are counted per minute or for their rate; further ones are left to chance.
const COUNTED_MAX: usize = 16_384;
const MINUTE_NS: u64 = 60 * 1_000_000_000;
/// Rates are those of so long.
const RATE_WINDOW_NS: u64 = 10 * 1_000_000_000;

/// How traces are sampled.
#[derive(Clone, Debug, PartialEq)]
pub struct TailConfig {
    /// Time from a trace's first span to the decision.
    pub decision_wait_ns: u64,
    /// Traces with a span with status error are kept.
    pub keep_errors: bool,
    /// Traces with a span at least this long are kept; 0: not for that.
    pub slow_ns: u64,
    /// Traces with a span that a service begins with (of a server or consumer, or without parent) are kept if it is slower than 99 %
    /// of those of its service and name in the last minutes.
    pub slow_p99: bool,
    /// So many traces of each minute are kept of each service and name; 0: not for that.
    pub per_minute: u32,
    /// Traces with such a span are kept; an empty one is none.
    pub matches: Filter,
    /// Which of the rest are kept.
    pub rest: Threshold,
    /// Of the rest, about so many per second and route (service and name of a trace's beginning) are kept; 0: no limit.
    pub rate: f64,
    /// Most traces that wait; beyond it the oldest are decided before their time.
    pub traces_max: usize,
    /// Likewise, most bytes that these take, about; without what is noted of the spans of blocks that nobody has taken.
    pub bytes_max: u64,
    /// Most decisions that are remembered.
    pub decisions_max: usize,
}

impl Default for TailConfig {
    fn default() -> Self {
        Self {
            decision_wait_ns: 10 * 1_000_000_000,
            keep_errors: true,
            slow_ns: 0,
            slow_p99: false,
            per_minute: 0,
            matches: Filter::default(),
            rest: Threshold::NEVER,
            rate: 0.0,
            traces_max: 50_000,
            bytes_max: 64 << 20,
            decisions_max: 100_000,
        }
    }
}

/// Why a trace is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A span has status error.
    Error,
    /// A span is slow.
    Slow,
    /// A span matches.
    Matched,
    /// It is one of the first of its minute.
    PerMinute,
    /// By chance.
    Sampled,
}

impl Reason {
    /// All.
    pub const ALL: [Self; 5] = [Self::Error, Self::Slow, Self::Matched, Self::PerMinute, Self::Sampled];

    /// A word for figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Slow => "slow",
            Self::Matched => "matched",
            Self::PerMinute => "per_minute",
            Self::Sampled => "sampled",
        }
    }
}

/// Decides, and knows what came before.
#[derive(Debug)]
pub(super) struct Judge {
    pub config: TailConfig,
    durations: Map<u64, Trailing>,
    minute: u64,
    kept_in_minute: Map<u64, u32>,
    window: u64,
    /// Traces of the rest by route, in this window and the one before.
    rates: Map<u64, (u32, u32)>,
}

/// What else is known of a span.
#[derive(Clone, Copy, Debug)]
pub(super) struct By {
    /// Its service and name.
    pub key: u64,
    /// A service begins with it.
    pub is_entry: bool,
    pub now_ns: u64,
}

impl Judge {
    pub fn new(config: TailConfig) -> Self {
        Self {
            config,
            durations: Map::default(),
            minute: 0,
            kept_in_minute: Map::default(),
            window: 0,
            rates: Map::default(),
        }
    }

    /// Why a span's trace is kept for sure, by the span alone.
    pub fn certain(
        &mut self,
        span: &SpanView<'_>,
        resource: &Resource<'_>,
        by: By,
    ) -> Result<Option<Reason>, Malformed> {
        let By { key, is_entry, now_ns } = by;
        let duration = span.duration_ns();
        let is_slow_here = self.config.slow_p99 && is_entry && self.is_slow(key, duration, now_ns);
        if self.config.keep_errors && span.status == StatusCode::Error {
            return Ok(Some(Reason::Error));
        }
        let is_slow = is_slow_here || (self.config.slow_ns > 0 && duration >= self.config.slow_ns);
        if is_slow {
            return Ok(Some(Reason::Slow));
        }
        let is_match = !self.config.matches.is_empty() && self.config.matches.passes(span, resource)?;
        Ok(is_match.then_some(Reason::Matched))
    }

    /// Whether it is slow among those before, which it joins.
    fn is_slow(&mut self, key: u64, duration: u64, now_ns: u64) -> bool {
        if self.durations.len() >= SKETCHES_MAX && !self.durations.contains_key(&key) {
            return false;
        }
        let before = self.durations.entry(key).or_default();
        let is_slow = before.len() >= SLOW_SPANS_MIN && before.is_beyond(0.99, duration);
        before.add(duration, now_ns, TURN_NS);
        is_slow
    }

    /// What becomes of a trace, and if it is kept, why.
    pub fn decide(&mut self, facts: &Facts, now_ns: u64) -> (Choice, Option<Reason>) {
        if let Some(reason) = facts.certain {
            return (Choice::Kept, Some(reason));
        }
        if self.config.per_minute > 0 && self.is_one_of_the_first(&facts.keys, now_ns) {
            return (Choice::Kept, Some(Reason::PerMinute));
        }
        let threshold = stricter(self.config.rest, self.by_rate(facts.entry.1, now_ns));
        if threshold == Threshold::ALWAYS {
            return (Choice::Kept, Some(Reason::Sampled));
        }
        match facts.randomness {
            Some(randomness) if threshold.keeps(randomness) => (Choice::KeptBy(threshold), Some(Reason::Sampled)),
            _ => (Choice::LeftOut, None),
        }
    }

    fn is_one_of_the_first(&mut self, keys: &[u64], now_ns: u64) -> bool {
        let minute = now_ns / MINUTE_NS;
        if minute != self.minute {
            self.minute = minute;
            self.kept_in_minute.clear();
        }
        let max = self.config.per_minute;
        let has_room = self.kept_in_minute.len() + keys.len() <= COUNTED_MAX;
        let is_first = |key: &u64| self.kept_in_minute.get(key).map_or(has_room, |kept| *kept < max);
        let is_one = keys.iter().any(is_first);
        if is_one {
            for key in keys {
                *self.kept_in_minute.entry(*key).or_default() += 1;
            }
        }
        is_one
    }

    /// By what came before and how many came so far, so that it says nothing about this trace's randomness.
    fn by_rate(&mut self, route: u64, now_ns: u64) -> Threshold {
        if self.config.rate <= 0.0 {
            return Threshold::ALWAYS;
        }
        let window = now_ns / RATE_WINDOW_NS;
        if window != self.window {
            let is_next = window == self.window + 1;
            self.window = window;
            self.rates.retain(|_, (now, before)| {
                (*before, *now) = (if is_next { *now } else { 0 }, 0);
                *before > 0
            });
        }
        let route = if self.rates.len() < COUNTED_MAX || self.rates.contains_key(&route) { route } else { 0 };
        let (now, before) = self.rates.entry(route).or_default();
        *now = now.saturating_add(1);
        let wanted = self.config.rate * (RATE_WINDOW_NS / 1_000_000_000) as f64;
        // The whole window, at the pace of what came of it; a tenth of it at least, so that one trace is no pace.
        let part = (now_ns % RATE_WINDOW_NS) as f64 / RATE_WINDOW_NS as f64;
        let expected = f64::from(*now) / part.max(0.1);
        Threshold::from_probability(wanted / expected.max(f64::from(*before)))
    }
}
