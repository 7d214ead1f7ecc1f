//! A destination's circuit breaker: while it fails nobody sends, and after a wait one request tries again.
//!
//! In: how requests ended. Out: when the next one may begin. One per destination, shared by its requests, so that many at once
//! fail as one: the wait grows with each trial that fails, not with each request.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::retry::Backoff;
use crate::{capture::lock, config::Retry};

/// The breaker.
#[derive(Debug)]
pub(super) struct Gate {
    retry: Retry,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Counts the changes of phase: what a request that began before the last one says is old news.
    turn: u64,
    backoff: Backoff,
    failing_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Requests pass.
    Closed,
    /// Nobody passes before this.
    Open { until: Instant },
    /// One request is on trial.
    HalfOpen,
}

/// Permission for one request. Dropped without a word (the agent stops) it counts as nothing.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    turn: u64,
    is_trial: bool,
}

impl Gate {
    pub(super) fn new(retry: &Retry) -> Self {
        let state = State { phase: Phase::Closed, turn: 0, backoff: Backoff::new(retry), failing_since: None };
        Self { retry: retry.clone(), state: Mutex::new(state), changed: Notify::new() }
    }

    /// Waits until a request may begin. Dropping the future gives up the place.
    pub(super) async fn pass(&self) -> Pass<'_> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let wait_until = {
                let mut state = self.state();
                match state.phase {
                    Phase::Closed => return Pass { gate: self, turn: state.turn, is_trial: false },
                    Phase::Open { until } if until <= Instant::now() => {
                        state.enter(Phase::HalfOpen);
                        return Pass { gate: self, turn: state.turn, is_trial: true };
                    }
                    Phase::Open { until } => Some(until),
                    Phase::HalfOpen => None,
                }
            };
            match wait_until {
                Some(until) => tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// Ends every wait, for an agent that stops: its last attempts are now.
    pub(super) fn hurry(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Open { .. }) {
            state.enter(Phase::Open { until: Instant::now() });
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether requests have to wait.
    pub(super) fn is_open(&self) -> bool {
        self.state().phase != Phase::Closed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed in single steps that leave it whole.
        lock(&self.state)
    }
}

impl Pass<'_> {
    /// The destination answered. Gives for how long it had failed, if it did.
    pub(super) fn succeeded(mut self) -> Option<Duration> {
        self.is_trial = false;
        let mut state = self.gate.state();
        if state.phase == Phase::Closed {
            return None;
        }
        state.enter(Phase::Closed);
        state.backoff = Backoff::new(&self.gate.retry);
        let failed_for = state.failing_since.take().map(|since| since.elapsed());
        drop(state);
        self.gate.changed.notify_waiters();
        failed_for
    }

    /// The destination did not take the request now; it asks to wait so long.
    pub(super) fn failed(mut self, asked: Option<Duration>) {
        self.is_trial = false;
        let mut state = self.gate.state();
        if state.turn != self.turn {
            // Another request has told already; but a longer wait that was asked for holds.
            if let (Phase::Open { until }, Some(asked)) = (state.phase, asked) {
                state.phase =
                    Phase::Open { until: until.max(Instant::now() + asked.min(super::retry::RETRY_AFTER_MAX)) };
            }
            return;
        }
        let wait = state.backoff.wait(asked);
        state.failing_since.get_or_insert_with(Instant::now);
        state.enter(Phase::Open { until: Instant::now() + wait });
        drop(state);
        self.gate.changed.notify_waiters();
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.is_trial {
            return;
        }
        let mut state = self.gate.state();
        if state.turn == self.turn {
            state.enter(Phase::Open { until: Instant::now() });
        }
        drop(state);
        self.gate.changed.notify_waiters();
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.turn += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Interval;

    fn gate() -> Gate {
        Gate::new(&Retry { initial: Interval::secs(10), max: Interval::secs(10), ..Retry::default() })
    }

    /// Whether a request may begin now.
    async fn is_free(gate: &Gate) -> bool {
        tokio::time::timeout(Duration::ZERO, gate.pass()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn many_failures_at_once_are_one() {
        let gate = gate();
        let passes = [gate.pass().await, gate.pass().await, gate.pass().await];
        for pass in passes {
            pass.failed(None);
        }
        assert!(!is_free(&gate).await);
        tokio::time::advance(Duration::from_secs(10)).await;
        let trial = gate.pass().await;
        assert!(!is_free(&gate).await, "one request is the trial");
        assert!(trial.succeeded().is_some_and(|failed_for| failed_for >= Duration::from_secs(10)));
        let (_one, _two) = (gate.pass().await, gate.pass().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_given_up_lets_the_next_one_try() {
        let gate = gate();
        gate.pass().await.failed(None);
        tokio::time::advance(Duration::from_secs(10)).await;
        drop(gate.pass().await);
        assert!(is_free(&gate).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_destination_asks_for_is_waited_whoever_heard_it() {
        let gate = gate();
        let (one, two) = (gate.pass().await, gate.pass().await);
        one.failed(None);
        two.failed(Some(Duration::from_secs(60)));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(!is_free(&gate).await);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(is_free(&gate).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_from_before_the_failure_closes_the_gate_again() {
        let gate = gate();
        let (one, two) = (gate.pass().await, gate.pass().await);
        one.failed(None);
        assert!(gate.is_open());
        assert!(two.succeeded().is_some());
        assert!(!gate.is_open());
    }
}
