//! What a tenant may send: spans and bytes per second.
//!
//! A token bucket that holds what one second allows. A request is let in while there is anything left, and then charged in full, so
//! that one that is larger than the bucket is not refused for ever: the debt is paid by waiting.

use std::{sync::Mutex, time::Duration};

use agent_core::wire;
use tokio::time::Instant;

use crate::{capture::lock, config};

/// The buckets of one tenant.
#[derive(Debug)]
pub(super) struct Meter {
    spans: Bucket,
    bytes: Bucket,
}

impl Meter {
    pub(super) fn new(quota: config::Quota) -> Self {
        Self { spans: Bucket::new(quota.spans_per_second), bytes: Bucket::new(quota.bytes_per_second.0) }
    }

    /// How long to wait before anything may be sent; `None`: not at all.
    pub(super) fn wait(&self) -> Option<Duration> {
        self.spans.wait().max(self.bytes.wait())
    }

    pub(super) fn charge(&self, spans: u64, bytes: u64) {
        self.spans.take(spans as f64);
        self.bytes.take(bytes as f64);
    }

    /// For a request that was charged and then not taken.
    pub(super) fn give_back(&self, spans: u64, bytes: u64) {
        self.spans.take(-(spans as f64));
        self.bytes.take(-(bytes as f64));
    }
}

#[derive(Debug)]
struct Bucket {
    /// Per second, and its size; 0: no limit.
    rate: f64,
    level: Mutex<(f64, Instant)>,
}

impl Bucket {
    fn new(rate: u64) -> Self {
        Self { rate: rate as f64, level: Mutex::new((rate as f64, Instant::now())) }
    }

    fn is_unlimited(&self) -> bool {
        self.rate == 0.0
    }

    /// Takes from the bucket, and says what is left.
    fn take(&self, amount: f64) -> f64 {
        let mut level = lock(&self.level);
        let now = Instant::now();
        let filled = level.0 + (now - level.1).as_secs_f64() * self.rate;
        *level = (filled.min(self.rate) - amount, now);
        level.0
    }

    fn wait(&self) -> Option<Duration> {
        if self.is_unlimited() {
            return None;
        }
        let left = self.take(0.0);
        // A whole unit, so that a sender that waits so long finds one.
        (left < 1.0).then(|| Duration::from_secs_f64((1.0 - left) / self.rate))
    }
}

/// Number of spans in a request; `None` if the bytes are no request.
pub(super) fn span_count(request: &[u8]) -> Option<u64> {
    wire::count_spans(request).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Size, otlp::wire::Wire};

    fn meter(spans: u64, bytes: u64) -> Meter {
        Meter::new(config::Quota { spans_per_second: spans, bytes_per_second: Size(bytes) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_sends_what_it_may_and_then_waits_exactly() {
        let meter = meter(100, 0);
        assert_eq!(meter.wait(), None);
        meter.charge(100, 1 << 40);
        let wait = meter.wait().unwrap();
        assert_eq!(wait, Duration::from_millis(10));
        tokio::time::advance(wait).await;
        assert_eq!(meter.wait(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_beyond_the_bucket_is_paid_by_waiting() {
        let meter = meter(0, 1_000);
        meter.charge(1, 5_000);
        assert_eq!(meter.wait(), Some(Duration::from_millis(4_001)));
        tokio::time::advance(Duration::from_secs(4_002)).await;
        assert_eq!(meter.wait(), None);
        meter.charge(1, 1_000);
        assert!(meter.wait().is_some(), "silence is not saved up");
        meter.give_back(1, 1_000);
        assert_eq!(meter.wait(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn over_an_hour_no_more_than_the_quota_is_let_in() {
        let meter = meter(1_000, 0);
        let (mut taken, start) = (0, Instant::now());
        while start.elapsed() < Duration::from_secs(3_600) {
            match meter.wait() {
                None => {
                    meter.charge(77, 0);
                    taken += 77;
                }
                Some(wait) => tokio::time::advance(wait).await,
            }
        }
        assert!((3_600_000 - 77..=3_601_000 + 77).contains(&taken), "{taken}");
    }

    #[test]
    fn spans_are_counted_without_decoding() {
        let mut wire = Wire::default();
        for spans in [0, 1, 3] {
            wire.message(1, |wire| {
                wire.text(3, "schema");
                wire.message(2, |wire| {
                    wire.message(1, |scope| scope.text(1, "name"));
                    for _ in 0..spans {
                        wire.message(2, |span| span.text(5, "x"));
                    }
                });
            });
        }
        let request = wire.into_bytes();
        assert_eq!(span_count(&request), Some(4));
        assert_eq!(span_count(&[]), Some(0));
        assert_eq!(span_count(b"\xff\xff\xff"), None);
        for cut in 0..request.len() {
            assert!(span_count(&request[..cut]).is_none_or(|spans| spans <= 4), "{cut}");
        }
    }
}
