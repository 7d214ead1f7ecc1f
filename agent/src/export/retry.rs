//! What became of a request, and how long to wait before the next attempt. Pure.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

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
    /// Taken, except for these spans, which are refused for good.
    Partly {
        /// The spans, as a request.
        refused: Bytes,
        /// How many.
        spans: u64,
        /// Cause.
        cause: String,
    },
    /// Not taken, may be sent again.
    Again {
        /// What kind of trouble.
        kind: AgainKind,
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
    /// Not taken, because the request is too large; parts of it may be taken.
    TooLarge {
        /// Cause.
        cause: String,
    },
}

/// Why a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AgainKind {
    /// No connection, or an answer that says "not now".
    Unavailable,
    /// The connection ended, or a gateway gave up, before the answer was seen: the spans may have been taken.
    Unanswered,
    /// No answer in time.
    Timeout,
    /// The credentials are missing, wrong or not enough. That says nothing about the spans.
    Auth,
    /// More than the destination wants now.
    RateLimited,
    /// Something answered that is no receiver of this format: a redirect, an unknown path, a web page. Nor does that.
    Misconfigured,
}

/// Why a request was not taken whole. One of a few words, the same in every format and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No connection or no answer, or one that says "not now".
    Unavailable,
    /// No answer in time.
    Timeout,
    /// Credentials.
    Credentials,
    /// More than the destination wants now.
    Quota,
    /// What is there is no receiver of this format.
    Address,
    /// Refused for good, all of it.
    Refused,
    /// Too large.
    Size,
    /// Some of its spans were refused for good.
    Partial,
}

impl FailureKind {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Unavailable,
        Self::Timeout,
        Self::Credentials,
        Self::Quota,
        Self::Address,
        Self::Refused,
        Self::Size,
        Self::Partial,
    ];

    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Credentials => "credentials",
            Self::Quota => "quota",
            Self::Address => "address",
            Self::Refused => "refused",
            Self::Size => "size",
            Self::Partial => "partial",
        }
    }
}

impl From<AgainKind> for FailureKind {
    fn from(kind: AgainKind) -> Self {
        match kind {
            AgainKind::Unavailable | AgainKind::Unanswered => Self::Unavailable,
            AgainKind::Timeout => Self::Timeout,
            AgainKind::Auth => Self::Credentials,
            AgainKind::RateLimited => Self::Quota,
            AgainKind::Misconfigured => Self::Address,
        }
    }
}

impl Outcome {
    /// Why it was not taken whole; nothing if it was.
    pub(super) fn failure(&self) -> Option<FailureKind> {
        match self {
            Self::Delivered { rejected: 0, .. } => None,
            Self::Delivered { .. } | Self::Partly { .. } => Some(FailureKind::Partial),
            Self::Again { kind, .. } => Some((*kind).into()),
            Self::Never { .. } => Some(FailureKind::Refused),
            Self::TooLarge { .. } => Some(FailureKind::Size),
        }
    }

    /// To be sent again, whenever.
    pub(super) fn again(kind: AgainKind, cause: String) -> Self {
        Self::Again { kind, after: None, cause }
    }
}

/// `Retry-After`: seconds or a date (RFC 9110, 10.2.3). What cannot be read counts as not given. A date is one of the server's
/// clock, so it is compared with the `Date` of the same answer (6.6.1), and with this host's clock only if there is none.
pub(super) fn retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let now = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok());
            let until = httpdate::parse_http_date(value).ok()?;
            until.duration_since(now.unwrap_or_else(SystemTime::now)).unwrap_or_default()
        }
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
    fn retry_after_is_seconds_or_a_date() {
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        for (value, expected) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("86400", Some(300)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(value, date), expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn waits_grow_to_the_maximum_and_differ() {
        let retry = Retry { initial: Interval::ms(100), max: Interval::ms(400), ..Retry::default() };
        let mut backoff = Backoff::new(&retry);
        let waits: Vec<u128> = (0..200).map(|_| backoff.wait(None).as_millis()).collect();
        assert!(waits[0] < 100 && waits[1] < 200, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait < 400), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait > 200) && waits.iter().any(|wait| *wait < 200), "{waits:?}");
    }

    #[test]
    fn what_the_destination_asks_for_is_waited_at_least() {
        let retry = Retry { initial: Interval::ms(10), max: Interval::ms(10), ..Retry::default() };
        assert_eq!(Backoff::new(&retry).wait(Some(Duration::from_secs(2))), Duration::from_secs(2));
        assert_eq!(Backoff::new(&retry).wait(Some(Duration::from_secs(9999))), RETRY_AFTER_MAX);
    }
}
