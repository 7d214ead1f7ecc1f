//! What to do with an answer, and how long to wait before the next attempt.
//!
//! The rules are those of the OTLP specification, "Failures" of OTLP/gRPC and OTLP/HTTP. Pure.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use tonic::Code;

use crate::config::Retry;

/// Longest wait that a destination can ask for.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Taken, except for some spans.
    Delivered {
        /// Spans that were not taken.
        rejected: u64,
        /// What the destination says about it; empty if nothing.
        message: String,
    },
    /// Not taken, may be sent again.
    Again {
        /// What the destination asks to wait.
        after: Option<Duration>,
        /// Cause and next step.
        cause: String,
    },
    /// Not taken, sending it again is of no use.
    Never {
        /// Cause.
        cause: String,
    },
}

/// Whether a gRPC status may be retried. `RESOURCE_EXHAUSTED` always is: the specification allows it only together
/// with `RetryInfo`, but collectors answer it without one when their queue is full, and the log has room to wait.
pub(super) fn grpc_may_retry(code: Code) -> bool {
    use Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable};
    matches!(code, Cancelled | DeadlineExceeded | Aborted | OutOfRange | Unavailable | DataLoss | ResourceExhausted)
}

/// Whether an HTTP status may be retried.
pub(super) fn http_may_retry(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// `Retry-After`: seconds or a date (RFC 9110, 10.2.3). What cannot be read counts as not given.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// Exponential backoff with full jitter.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    limit: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(retry: &Retry) -> Self {
        Self { limit: retry.initial.0, max: retry.max.0 }
    }

    /// The next wait: random below a limit that doubles each time, and never shorter than what was asked for.
    pub(super) fn wait(&mut self, asked: Option<Duration>) -> Duration {
        let jittered = self.limit.mul_f64(fastrand::f64());
        self.limit = (self.limit * 2).min(self.max);
        asked.map_or(jittered, |asked| asked.min(RETRY_AFTER_MAX).max(jittered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Interval;

    #[test]
    fn codes_are_retried_as_the_specification_says() {
        let retried: Vec<i32> = (0..=16).filter(|code| grpc_may_retry(Code::from_i32(*code))).collect();
        // CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
        assert_eq!(retried, [1, 4, 8, 10, 11, 14, 15]);
        let retried: Vec<u16> =
            (400..600).filter(|code| http_may_retry(StatusCode::from_u16(*code).unwrap())).collect();
        assert_eq!(retried, [429, 502, 503, 504]);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, expected) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("86400", Some(300)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(value, now), expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn waits_grow_to_the_maximum_and_differ() {
        let retry = Retry { initial: Interval::ms(100), max: Interval::ms(400) };
        let mut backoff = Backoff::new(&retry);
        let waits: Vec<u128> = (0..200).map(|_| backoff.wait(None).as_millis()).collect();
        assert!(waits[0] < 100 && waits[1] < 200, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait < 400), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait > 200) && waits.iter().any(|wait| *wait < 200), "{waits:?}");
    }

    #[test]
    fn what_the_destination_asks_for_is_waited_at_least() {
        let retry = Retry { initial: Interval::ms(10), max: Interval::ms(10) };
        assert_eq!(Backoff::new(&retry).wait(Some(Duration::from_secs(2))), Duration::from_secs(2));
        assert_eq!(Backoff::new(&retry).wait(Some(Duration::from_secs(9999))), RETRY_AFTER_MAX);
    }
}
