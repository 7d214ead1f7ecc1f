//! Relayed spans that may be stored and sent.

use bytes::Bytes;

use crate::wire::Summary;

/// The wire bytes of an `ExportTraceServiceRequest` (or `TracesData`, which is the same) that went through
/// [`Relay::accept`](crate::relay::Relay::accept), the only place where one is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafeBatch {
    bytes: Bytes,
    summary: Summary,
}

impl SafeBatch {
    /// For the relay alone: bytes that it has checked and redacted.
    pub(crate) fn new(bytes: Bytes, summary: Summary) -> Self {
        Self { bytes, summary }
    }

    /// The request.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The request.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Spans in it; at least one.
    pub fn span_count(&self) -> u32 {
        self.summary.spans
    }

    /// Earliest start in nanoseconds since the Unix epoch, as the senders' clocks say; 0 if no span has one.
    pub fn start_unix_ns_min(&self) -> u64 {
        self.summary.start_unix_ns_min
    }

    /// Latest end, likewise.
    pub fn end_unix_ns_max(&self) -> u64 {
        self.summary.end_unix_ns_max
    }
}
