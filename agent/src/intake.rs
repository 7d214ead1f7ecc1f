//! What receivers hand requests to, and what it says of each.
//!
//! In: one OTLP `ExportTraceServiceRequest` in protobuf, and whose it is. Out: [`Accepted`], which a sender may rely on, or a
//! [`Refusal`], which says whether sending again helps. Called by the receivers.

use std::time::Duration;

use bytes::Bytes;

/// Takes requests. Clones take for the same log.
pub trait Take: Clone + Send + Sync + 'static {
    /// Takes the spans of `request`, an `ExportTraceServiceRequest` in protobuf, for `tenant`. Returns when the spans are as
    /// durable as configured, or when it is known that they are not taken. The future is not dropped before it ends, whatever
    /// the sender does.
    ///
    /// # Errors
    /// None of the spans was taken.
    fn accept(&self, request: Bytes, tenant: &str) -> impl Future<Output = Result<Accepted, Refusal>> + Send;
}

/// The spans of a request were taken, but for those that were rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Spans that were not taken and must not be sent again.
    pub rejected: u64,
    /// Why, for people. May also be a warning if nothing was rejected; empty: all is well.
    pub message: String,
}

/// No span of a request was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes are no request; sending them again does not help.
    Malformed(String),
    /// There is no room; there may be later.
    Full {
        /// When to try again.
        retry_after: Duration,
    },
    /// The tenant has used up what it may send; it may send again later.
    Quota {
        /// When to try again.
        retry_after: Duration,
    },
    /// The spans could not be stored, now.
    Storage(String),
}
