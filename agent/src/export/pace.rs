//! How fast a destination is sent to: a limit that is configured, and a gentle return after an outage.
//!
//! In: what is sent, what comes in. Out: how long to wait before a request. After an outage the backlog is sent at a multiple of the
//! rate at which spans usually come in, so that a destination that has just come back is not thrown down again. So is what waits when the
//! agent starts: all agents of a fleet may have been started at once. Their rate is then the one at which the log was filled. What is usual
//! is remembered for about an hour: what came by day must not leave at the pace of the night.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::{capture::lock, config};

/// An outage that was shorter needs no gentle return.
const OUTAGE_MIN: Duration = Duration::from_secs(5);
/// Spans per second at which a return may always go on.
const RETURN_RATE_MIN: f64 = 2_000.0;
/// Weight of the last interval in the measured rate.
const SMOOTHING: f64 = 0.2;
/// Seconds in which the usual rate goes down to a third, if nothing comes.
const USUAL_FOR: f64 = 3_600.0;
/// Interval of the measurement.
const INTERVAL: Duration = Duration::from_secs(1);

/// The pace of one destination.
#[derive(Debug)]
pub(super) struct Pace {
    config: config::Pace,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    spans: Bucket,
    bytes: Bucket,
    /// Spans per second that come in.
    incoming: f64,
    /// The most of it, as it is remembered.
    usual: f64,
    seen: Option<(Instant, u64)>,
    is_returning: bool,
}

impl Pace {
    pub(super) fn new(config: &config::Pace) -> Self {
        let now = Instant::now();
        let state = State {
            spans: Bucket::new(now),
            bytes: Bucket::new(now),
            incoming: 0.0,
            usual: 0.0,
            seen: None,
            is_returning: false,
        };
        Self { config: config.clone(), state: Mutex::new(state) }
    }

    /// How long to wait before so much may be sent. It counts as sent.
    pub(super) fn wait(&self, spans: u64, bytes: u64) -> Duration {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let limits = [limit(self.config.spans_per_second), state.return_rate(self.config.return_factor)];
        let spans_rate = limits.into_iter().flatten().reduce(f64::min);
        let waits = [
            spans_rate.map(|rate| state.spans.take(spans as f64, rate, now)),
            limit(self.config.bytes_per_second.0).map(|rate| state.bytes.take(bytes as f64, rate, now)),
        ];
        waits.into_iter().flatten().max().unwrap_or_default()
    }

    /// Measures what comes in: spans that ever came for the destination, and those that wait.
    pub(super) fn observe(&self, generated: u64, waiting: u64, batch_spans: u64) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.is_returning && waiting <= batch_spans {
            state.is_returning = false;
        }
        let Some((at, before)) = state.seen else {
            state.seen = Some((now, generated));
            return;
        };
        let elapsed = now - at;
        if elapsed >= INTERVAL {
            let rate = generated.saturating_sub(before) as f64 / elapsed.as_secs_f64();
            state.incoming += (rate - state.incoming) * SMOOTHING;
            state.usual = (state.usual * (-elapsed.as_secs_f64() / USUAL_FOR).exp()).max(state.incoming);
            state.seen = Some((now, generated));
        }
    }

    /// The agent starts with a backlog; before, spans came in at this rate.
    pub(super) fn resumed(&self, incoming: f64) {
        let mut state = lock(&self.state);
        (state.incoming, state.usual) = (incoming, incoming);
        state.is_returning = true;
    }

    /// The destination takes spans again after so long.
    pub(super) fn returned(&self, failed_for: Duration) {
        if failed_for >= OUTAGE_MIN {
            lock(&self.state).is_returning = true;
        }
    }
}

impl State {
    fn return_rate(&self, factor: f64) -> Option<f64> {
        (self.is_returning && factor > 0.0).then(|| (self.usual * factor).max(RETURN_RATE_MIN))
    }
}

/// 0: none.
fn limit(per_second: u64) -> Option<f64> {
    (per_second > 0).then_some(per_second as f64)
}

/// A token bucket that goes into debt: a request of any size passes, and the next one waits for it.
#[derive(Debug)]
struct Bucket {
    /// When everything that was taken is paid for.
    free_at: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { free_at: now }
    }

    fn take(&mut self, amount: f64, rate: f64, now: Instant) -> Duration {
        let begin = self.free_at.max(now);
        self.free_at = begin + Duration::from_secs_f64(amount / rate);
        begin - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Size;

    fn pace(spans: u64, bytes: u64) -> Pace {
        Pace::new(&config::Pace { spans_per_second: spans, bytes_per_second: Size(bytes), return_factor: 2.0 })
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        let pace = pace(0, 0);
        assert_eq!([pace.wait(1_000_000, 1 << 30), pace.wait(1, 1)], [Duration::ZERO; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_those_before_it() {
        let pace = pace(100, 1_000);
        assert_eq!(pace.wait(50, 10), Duration::ZERO);
        assert_eq!(pace.wait(1, 2_000), Duration::from_millis(500), "by spans");
        assert_eq!(pace.wait(1, 1), Duration::from_millis(2_010), "by bytes");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.wait(1, 1), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_outage_the_backlog_goes_at_twice_what_comes_in() {
        let pace = pace(0, 0);
        let mut generated = 0;
        for _ in 0..60 {
            pace.observe(generated, 1_000_000, 512);
            generated += 5_000;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        pace.returned(Duration::from_secs(4));
        assert_eq!([pace.wait(10_000, 1), pace.wait(1, 1)], [Duration::ZERO; 2], "that was no outage");
        pace.returned(Duration::from_secs(60));
        let second = [pace.wait(10_000, 1), pace.wait(1, 1)][1];
        assert!((0.99..1.01).contains(&second.as_secs_f64()), "{second:?}");
        pace.observe(generated, 100, 512);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!([pace.wait(10_000, 1), pace.wait(1, 1)], [Duration::ZERO; 2], "the backlog is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_by_day_does_not_leave_at_the_pace_of_the_night() {
        let pace = pace(0, 0);
        let mut generated = 0;
        for per_second in [[5_000; 60], [0; 60]].concat() {
            pace.observe(generated, 1_000_000, 512);
            generated += per_second;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        pace.returned(Duration::from_secs(120));
        let after = |pace: &Pace| [pace.wait(10_000, 1), pace.wait(1, 1)][1].as_secs_f64();
        let now = after(&pace);
        assert!((0.99..1.05).contains(&now), "{now}");
        for _ in 0..4 * 3_600 {
            pace.observe(generated, 1_000_000, 512);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let later = after(&pace);
        assert!((4.9..5.1).contains(&later), "the least, hours after: {later}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_start_the_backlog_goes_at_twice_what_came_in_before() {
        let pace = pace(0, 0);
        pace.resumed(5_000.0);
        let second = [pace.wait(10_000, 1), pace.wait(1, 1)][1];
        assert_eq!(second, Duration::from_secs(1));
        pace.resumed(0.0);
        tokio::time::advance(Duration::from_secs(2)).await;
        let least = [pace.wait(2_000, 1), pace.wait(1, 1)][1];
        assert_eq!(least, Duration::from_secs(1), "as after an outage, if nothing is known");
    }
}
