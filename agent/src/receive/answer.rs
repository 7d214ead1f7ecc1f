//! What a sender is told, in gRPC and in HTTP: one table for both.
//!
//! The codes are those of the OTLP specification: after RESOURCE_EXHAUSTED with RetryInfo, UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED, 429
//! and 503 a sender comes again; after all others it gives up.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::stats::Outcome;
use crate::intake::Refusal;

/// When senders are asked to come again after a failure that has no time of its own.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// Why a request is not taken.
#[derive(Debug)]
pub(super) enum Refused {
    Malformed(String),
    Unauthenticated(&'static str),
    Forbidden(String),
    TooLarge {
        bytes_max: u64,
    },
    Full {
        retry_after: Duration,
    },
    Quota {
        retry_after: Duration,
    },
    Storage(String),
    Timeout(Duration),
    /// The sender's stream ended before the request did.
    Gone,
    Unsupported {
        code: Code,
        status: StatusCode,
        message: String,
    },
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed(message) => Self::Malformed(message),
            Refusal::Full { retry_after } => Self::Full { retry_after },
            Refusal::Quota { retry_after } => Self::Quota { retry_after },
            Refusal::Storage(message) => Self::Storage(message),
        }
    }
}

impl Refused {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Malformed(_) => Outcome::Malformed,
            Self::Unauthenticated(_) => Outcome::Unauthenticated,
            Self::Forbidden(_) => Outcome::Forbidden,
            Self::TooLarge { .. } => Outcome::TooLarge,
            Self::Full { .. } => Outcome::RefusedFull,
            Self::Quota { .. } => Outcome::RefusedQuota,
            Self::Storage(_) => Outcome::Storage,
            Self::Timeout(_) => Outcome::Timeout,
            Self::Gone => Outcome::Cancelled,
            Self::Unsupported { .. } => Outcome::Unsupported,
        }
    }

    pub(super) fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::InvalidArgument,
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::Forbidden(_) => Code::PermissionDenied,
            // Without RetryInfo, so that a sender does not come again with the same request.
            Self::TooLarge { .. } | Self::Full { .. } | Self::Quota { .. } => Code::ResourceExhausted,
            Self::Storage(_) => Code::Unavailable,
            Self::Timeout(_) => Code::DeadlineExceeded,
            Self::Gone => Code::Cancelled,
            Self::Unsupported { code, .. } => *code,
        }
    }

    pub(super) fn http_status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::Gone => StatusCode::BAD_REQUEST,
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Full { .. } | Self::Quota { .. } => StatusCode::TOO_MANY_REQUESTS,
            // Not 408, after which OTLP lets senders give up.
            Self::Storage(_) | Self::Timeout(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unsupported { status, .. } => *status,
        }
    }

    /// When to come again, if that helps.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Full { retry_after } | Self::Quota { retry_after } => Some(*retry_after),
            Self::Storage(_) | Self::Timeout(_) => Some(COME_AGAIN),
            _ => None,
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::Malformed(message) | Self::Storage(message) | Self::Forbidden(message) => message.clone(),
            Self::Unauthenticated(message) => (*message).to_owned(),
            Self::TooLarge { bytes_max } => format!("the request is larger than {bytes_max} bytes, decompressed"),
            Self::Full { .. } => "no room now".to_owned(),
            Self::Quota { .. } => "the tenant's quota is used up now".to_owned(),
            Self::Timeout(limit) => format!("the request did not arrive within {limit:?}"),
            Self::Gone => "the request ended early".to_owned(),
            Self::Unsupported { message, .. } => message.clone(),
        }
    }

    pub(super) fn grpc_status(&self) -> Status {
        match self.retry_after() {
            Some(_) => {
                let details = ErrorDetails::with_retry_info(self.retry_after());
                Status::with_error_details(self.code(), self.message(), details)
            }
            None => Status::new(self.code(), self.message()),
        }
    }

    /// `Retry-After` in whole seconds, never less than asked for.
    pub(super) fn retry_after_seconds(&self) -> Option<u64> {
        let after = self.retry_after()?;
        Some(after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0)).max(1))
    }
}

/// A short answer, with trailers in gRPC.
#[derive(Debug, Default)]
pub(super) struct AnswerBody {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl AnswerBody {
    pub(super) fn new(data: impl Into<Bytes>, trailers: Option<HeaderMap>) -> Self {
        Self { data: Some(data.into()).filter(|data: &Bytes| !data.is_empty()), trailers }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_never_earlier_than_asked() {
        for (asked, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (30_000, 30)] {
            let refused = Refused::Quota { retry_after: Duration::from_millis(asked) };
            assert_eq!(refused.retry_after_seconds(), Some(seconds), "{asked}");
        }
        assert_eq!(Refused::TooLarge { bytes_max: 1 }.retry_after_seconds(), None);
    }

    #[test]
    fn only_what_helps_again_has_retry_info() {
        let delay = |refused: Refused| refused.grpc_status().get_details_retry_info().and_then(|info| info.retry_delay);
        let again = Duration::from_millis(1_500);
        assert_eq!(delay(Refused::Full { retry_after: again }), Some(again));
        assert_eq!(delay(Refused::Storage("full disk".into())), Some(COME_AGAIN));
        assert_eq!(delay(Refused::TooLarge { bytes_max: 1 }), None);
        assert_eq!(delay(Refused::Malformed(String::new())), None);
    }
}
