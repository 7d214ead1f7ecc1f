//! Spans that destinations did not get, asked for after all.

use crate::{
    config::Match,
    export::late::{Asked, Found},
    log,
};

/// Path of the unary method `SendLate`: [`SendLateRequest`] -> [`SendLateReport`].
pub const SEND_LATE_PATH: &str = "/spantap.query.v1.Query/SendLate";
/// Path of the server-streaming method `LateSpans`: [`LateSpans`] -> [`SpanBytes`].
pub const LATE_SPANS_PATH: &str = "/spantap.query.v1.Query/LateSpans";

/// Which spans.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LateSpans {
    /// Ended at or after; 0: whenever.
    #[prost(fixed64, tag = "1")]
    pub since_unix_ns: u64,
    /// Ended before.
    #[prost(fixed64, tag = "2")]
    pub until_unix_ns: u64,
    /// One of these, each as in a filter of the configuration; empty: all.
    #[prost(string, repeated, tag = "3")]
    pub matches: Vec<String>,
    /// Also those that were sent before.
    #[prost(bool, tag = "4")]
    pub all: bool,
    /// Only of this tenant; empty: of any.
    #[prost(string, tag = "5")]
    pub tenant: String,
}

/// Asks to send spans to a destination. Only root and the agent's own user may.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SendLateRequest {
    /// Its name.
    #[prost(string, tag = "1")]
    pub destination: String,
    /// Which.
    #[prost(message, optional, tag = "2")]
    pub spans: Option<LateSpans>,
    /// Only count them.
    #[prost(bool, tag = "3")]
    pub only_count: bool,
}

/// What was found, in spans.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SendLateReport {
    /// Number of the request; 0: they were only counted.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Asked for, and for this destination.
    #[prost(uint64, tag = "2")]
    pub matched: u64,
    /// Of these, sent before.
    #[prost(uint64, tag = "3")]
    pub sent: u64,
    /// Of these, about to be sent anyway.
    #[prost(uint64, tag = "4")]
    pub waiting: u64,
    /// Of these, queued now.
    #[prost(uint64, tag = "5")]
    pub queued: u64,
    /// Bytes of these, before compression.
    #[prost(uint64, tag = "6")]
    pub bytes: u64,
}

/// Spans as they stand in the log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SpanBytes {
    /// An `ExportTraceServiceRequest`.
    #[prost(bytes = "vec", tag = "1")]
    pub request: Vec<u8>,
}

/// A request, and how far it is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LateStatus {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// To whom.
    #[prost(string, tag = "2")]
    pub destination: String,
    /// Who or what asked.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// When.
    #[prost(fixed64, tag = "4")]
    pub created_unix_ns: u64,
    /// Spans found so far.
    #[prost(uint64, tag = "5")]
    pub matched: u64,
    /// Of these, sent before.
    #[prost(uint64, tag = "6")]
    pub sent: u64,
    /// Of these, delivered now.
    #[prost(uint64, tag = "7")]
    pub delivered: u64,
    /// Of these, refused for good.
    #[prost(uint64, tag = "8")]
    pub dead: u64,
    /// Spans that were deleted or damaged before they could be looked at.
    #[prost(uint64, tag = "9")]
    pub gone: u64,
    /// Bytes that were sent.
    #[prost(uint64, tag = "10")]
    pub bytes: u64,
    /// Whether it is over.
    #[prost(bool, tag = "11")]
    pub is_done: bool,
}

impl LateSpans {
    /// In the exporter's words.
    ///
    /// # Errors
    /// A match cannot be used, and why.
    pub fn asked(&self) -> Result<Asked, String> {
        let matches: Result<Vec<Match>, String> = self.matches.iter().map(|text| text.parse()).collect();
        let until_unix_ns = if self.until_unix_ns == 0 { u64::MAX } else { self.until_unix_ns };
        Ok(Asked {
            since_unix_ns: self.since_unix_ns,
            until_unix_ns,
            matches: matches?,
            all: self.all,
            tenant: Some(self.tenant.clone()).filter(|tenant| !tenant.is_empty()),
        })
    }
}

impl SendLateReport {
    /// Of what was found.
    pub fn new(id: u64, found: Found) -> Self {
        let Found { matched, sent, waiting, queued, bytes } = found;
        Self { id, matched, sent, waiting, queued, bytes }
    }
}

impl From<log::LateExport> for LateStatus {
    fn from(it: log::LateExport) -> Self {
        Self {
            id: it.id,
            destination: it.destination,
            reason: it.reason,
            created_unix_ns: it.created_unix_ns,
            matched: it.matched,
            sent: it.sent,
            delivered: it.delivered,
            dead: it.dead,
            gone: it.gone,
            bytes: it.bytes,
            is_done: it.is_done,
        }
    }
}
