//! Messages about groups of spans.

use super::SpansRequest;

/// Path of the unary method `Groups`: [`GroupsRequest`] -> [`GroupsReport`].
pub const GROUPS_PATH: &str = "/spantap.query.v1.Query/Groups";

/// Asks for groups of spans.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GroupsRequest {
    /// Of which spans; `limit`, `follow`, `order` and `only_new` say nothing here.
    #[prost(message, optional, tag = "1")]
    pub spans: Option<SpansRequest>,
    /// What the spans of a group have in common: `service`, `kind`, `name`, `peer` (of server spans only the address), `cause`, `protocol`,
    /// `status`, or the key of an attribute of the span or its resource.
    #[prost(string, repeated, tag = "2")]
    pub by: Vec<String>,
}

/// The groups of the spans that match.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupsReport {
    /// From when on: what was asked for, or the beginning of the log if that is later.
    #[prost(fixed64, tag = "1")]
    pub since_unix_ns: u64,
    /// Until when.
    #[prost(fixed64, tag = "2")]
    pub until_unix_ns: u64,
    /// In no order.
    #[prost(message, repeated, tag = "3")]
    pub groups: Vec<GroupView>,
    /// Spans that match, but belong to a group that there was no room for.
    #[prost(uint64, tag = "4")]
    pub spans_left_out: u64,
    /// Spans that match of processes that are not selected, of which not every one is kept.
    #[prost(uint64, tag = "5")]
    pub spans_unselected: u64,
    /// Spans that match in whose time kernel records were lost.
    #[prost(uint64, tag = "6")]
    pub spans_with_losses: u64,
}

/// One group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupView {
    /// What they have in common, in the order that was asked for; empty: they have none.
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
    /// Their number.
    #[prost(uint64, tag = "2")]
    pub spans: u64,
    /// Of these, with an error.
    #[prost(uint64, tag = "3")]
    pub errors: u64,
    /// Of these, whose end was not seen.
    #[prost(uint64, tag = "4")]
    pub unknown: u64,
    /// Sum of their durations.
    #[prost(uint64, tag = "5")]
    pub total_ns: u64,
    /// Duration that half of them do not exceed; as the other percentiles, within [`agent_core::sketch::ERROR_PERCENT`].
    #[prost(uint64, tag = "6")]
    pub p50_ns: u64,
    /// That nine tenths do not exceed.
    #[prost(uint64, tag = "7")]
    pub p90_ns: u64,
    /// That 99 of a hundred do not exceed.
    #[prost(uint64, tag = "8")]
    pub p99_ns: u64,
    /// The longest, exactly.
    #[prost(uint64, tag = "9")]
    pub max_ns: u64,
    /// The span that took that long.
    #[prost(bytes = "vec", tag = "10")]
    pub slowest_span_id: Vec<u8>,
    /// Where their time went, the most first.
    #[prost(message, repeated, tag = "11")]
    pub segments: Vec<SegmentSum>,
    /// Their causes, the most frequent first; spans without a known cause are in none.
    #[prost(message, repeated, tag = "12")]
    pub causes: Vec<CauseCount>,
}

/// The segments of one name of all spans of a group.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SegmentSum {
    /// Where the time went.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it was spent on in particular; empty: nothing says.
    #[prost(string, tag = "2")]
    pub by: String,
    /// Sum.
    #[prost(uint64, tag = "3")]
    pub total_ns: u64,
    /// Of this, measured; the rest is derived or inferred.
    #[prost(uint64, tag = "4")]
    pub measured_ns: u64,
}

/// How many spans of a group have a cause.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CauseCount {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Spans.
    #[prost(uint64, tag = "2")]
    pub spans: u64,
}
