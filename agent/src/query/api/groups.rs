//! Messages about groups of spans.

use super::SpansRequest;

/// Path of the unary method `Groups`: [`GroupsRequest`] -> [`GroupsReport`].
pub const GROUPS_PATH: &str = "/spantap.query.v1.Query/Groups";

/// Most keys to group by.
const KEYS_MAX: usize = 8;
/// Longest key.
const KEY_BYTES_MAX: usize = 256;

/// Asks for groups of spans.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GroupsRequest {
    /// Of which spans; `limit`, `follow`, `order` and `only_new` say nothing here.
    #[prost(message, optional, tag = "1")]
    pub spans: Option<SpansRequest>,
    /// What the spans of a group have in common: `service`, `kind`, `name`, `peer` (of a server's end only the address), `cause`, `protocol`,
    /// `status`, or the key of an attribute of the span or its resource.
    #[prost(string, repeated, tag = "2")]
    pub by: Vec<String>,
    /// Which groups come first.
    #[prost(enumeration = "GroupOrder", tag = "3")]
    pub order: i32,
    /// Most groups to send; 0: all that there is room for.
    #[prost(uint64, tag = "4")]
    pub limit: u64,
}

impl GroupsRequest {
    /// Whether it can be answered.
    ///
    /// # Errors
    /// What is wrong with the keys.
    pub fn check(&self) -> Result<(), String> {
        if self.by.len() > KEYS_MAX {
            return Err(format!("groups are made by at most {KEYS_MAX} keys, and these are {}", self.by.len()));
        }
        for (place, key) in self.by.iter().enumerate() {
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err(format!("a key to group by has between 1 and {KEY_BYTES_MAX} bytes"));
            }
            if self.by[..place].contains(key) {
                return Err(format!("groups are made by `{key}` twice: leave out one of them"));
            }
        }
        Ok(())
    }
}

/// What groups are sorted by, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum GroupOrder {
    /// The sum of the durations.
    Total = 0,
    /// The number of spans.
    Spans = 1,
    /// Those with an error.
    Errors = 2,
    /// [`GroupView::p50_ns`].
    P50 = 3,
    /// [`GroupView::p90_ns`].
    P90 = 4,
    /// [`GroupView::p99_ns`].
    P99 = 5,
    /// [`GroupView::max_ns`].
    Max = 6,
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
    /// The first ones, in the order that was asked for.
    #[prost(message, repeated, tag = "3")]
    pub groups: Vec<GroupView>,
    /// Spans that match, but are in no group, as there are more than there is room for. The groups that were the least by the order at some
    /// point are left out then, and one that comes again begins anew: its numbers may lack as many.
    #[prost(uint64, tag = "4")]
    pub spans_left_out: u64,
    /// Spans that match of processes that are not selected, of which not every one is kept.
    #[prost(uint64, tag = "5")]
    pub spans_unselected: u64,
    /// Spans that match in whose time kernel records were lost.
    #[prost(uint64, tag = "6")]
    pub spans_with_losses: u64,
    /// Spans in groups, those included that are not sent.
    #[prost(uint64, tag = "7")]
    pub spans: u64,
    /// Groups, likewise.
    #[prost(uint64, tag = "8")]
    pub groups_found: u64,
    /// When the agent started: before that it captured nothing.
    #[prost(fixed64, tag = "9")]
    pub started_unix_ns: u64,
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
    /// Duration that half of them do not exceed; as the other percentiles, within [`agent_core::sketch::ERROR_PERCENT`] if it is between a
    /// microsecond and 73 minutes.
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
