//! Sampling that follows the destination: while it cannot keep up, or says that it wants less, half of the traces are sent, then a
//! quarter, and so on; when it has caught up they come back one step at a time.
//!
//! In: refusals for their rate, and how much waits. Out: the least strict threshold for the next batch. Steps are whole halves, so
//! that all agents which adapt keep the same traces, and each span says what it stands for (`ot=th`).

use std::{sync::Mutex, time::Duration};

use agent_core::relay::Threshold;
use tokio::time::Instant;

use crate::{capture::lock, config::Sampling};

/// Time between two steps.
const STEP_INTERVAL: Duration = Duration::from_secs(2);
/// Calm before a step back.
const CALM: Duration = Duration::from_secs(10);
/// So many full requests that wait are a backlog.
const BACKLOG_REQUESTS: u64 = 8;

/// The sampling of one destination beyond what is configured.
#[derive(Debug)]
pub(super) struct Adapt {
    ratio: f64,
    ratio_min: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Halvings.
    level: u32,
    /// When it was changed last, or pressed.
    changed: Instant,
    pressed: Instant,
}

impl Adapt {
    pub(super) fn new(sampling: &Sampling) -> Self {
        let now = Instant::now();
        let state = State { level: 0, changed: now, pressed: now };
        Self { ratio: sampling.ratio, ratio_min: sampling.ratio_min, state: Mutex::new(state) }
    }

    /// The destination says that it wants less.
    pub(super) fn press(&self) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.pressed = now;
        if now - state.changed >= STEP_INTERVAL && self.ratio_at(state.level + 1) >= self.ratio_min {
            state.level += 1;
            state.changed = now;
        }
    }

    /// What waits.
    pub(super) fn observe(&self, waiting: u64, request_spans: u64) {
        if waiting > request_spans.saturating_mul(BACKLOG_REQUESTS) {
            return self.press();
        }
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.level > 0 && now - state.pressed >= CALM && now - state.changed >= CALM {
            state.level -= 1;
            state.changed = now;
        }
    }

    /// At least as strict as this.
    pub(super) fn threshold(&self) -> Threshold {
        match lock(&self.state).level {
            0 => Threshold::ALWAYS,
            level => Threshold::from_probability(self.ratio_at(level)),
        }
    }

    /// Part of the traces that is sent now.
    pub(super) fn ratio(&self) -> f64 {
        self.ratio_at(lock(&self.state).level)
    }

    fn ratio_at(&self, level: u32) -> f64 {
        self.ratio / 2_f64.powi(level.min(60).cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pressure_halves_down_to_the_bound_and_calm_brings_back() {
        let adapt = Adapt::new(&Sampling { ratio: 0.8, ratio_min: 0.2, keep_errors: true, tail: None });
        assert_eq!((adapt.ratio(), adapt.threshold()), (0.8, Threshold::ALWAYS), "what is configured is not repeated");
        let mut ratios = Vec::new();
        for _ in 0..4 {
            tokio::time::advance(STEP_INTERVAL).await;
            adapt.observe(1_000, 100);
            adapt.press();
            ratios.push(adapt.ratio());
        }
        assert_eq!(ratios, [0.4, 0.2, 0.2, 0.2]);
        assert_eq!(adapt.threshold(), Threshold::from_probability(0.2));
        adapt.observe(800, 100);
        assert_eq!(adapt.ratio(), 0.2, "not at once");
        for expected in [0.4, 0.8, 0.8] {
            tokio::time::advance(CALM).await;
            adapt.observe(0, 100);
            assert_eq!(adapt.ratio(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn by_default_nothing_adapts() {
        let adapt = Adapt::new(&Sampling::default());
        tokio::time::advance(STEP_INTERVAL).await;
        adapt.press();
        assert_eq!(adapt.threshold(), Threshold::ALWAYS);
    }
}
