//! Wire types of the query API, and what the agent supplies to answer it.
//!
//! In: nothing. Out: protobuf messages (field numbers are stable; new fields get new numbers), the paths of the
//! methods, and [`Live`]. Used by `query::server`, `query::client`, `otlp::decode` and the commands. Never does IO.

mod connections;
mod dead;
mod groups;
mod late;

pub use connections::{CONNECTIONS_PATH, ConnView, ConnectionsRequest};
pub use dead::{
    DEAD_LETTERS_PATH, DeadLettersRequest, LetterView, SETTLE_DEAD_LETTERS_PATH, SettleReport, SettleRequest,
    Settlement, WhichLetters,
};
pub use groups::{CauseCount, GROUPS_PATH, GroupOrder, GroupView, GroupsReport, GroupsRequest, SegmentSum};
pub use late::{LATE_SPANS_PATH, LateSpans, LateStatus, SEND_LATE_PATH, SendLateReport, SendLateRequest, SpanBytes};

use crate::export::late::Target;

/// Fully qualified name of the service; part of every method's path.
pub const SERVICE: &str = "spantap.query.v1.Query";
/// Path of the unary method `Status`: [`StatusRequest`] -> [`StatusReport`].
pub const STATUS_PATH: &str = "/spantap.query.v1.Query/Status";
/// Path of the server-streaming method `Spans`: [`SpansRequest`] -> [`SpanView`].
pub const SPANS_PATH: &str = "/spantap.query.v1.Query/Spans";
/// Path of the server-streaming method `Trace`: [`TraceRequest`] -> [`SpanView`].
pub const TRACE_PATH: &str = "/spantap.query.v1.Query/Trace";
/// Path of the unary method `Losses`: [`LossesRequest`] -> [`LossesReport`].
pub const LOSSES_PATH: &str = "/spantap.query.v1.Query/Losses";

/// Path of the unary method `Self`: [`SelfRequest`] -> [`SelfReport`].
pub const SELF_PATH: &str = "/spantap.query.v1.Query/Self";

/// Supplies the live facts that only the running agent knows.
pub trait Live: Send + Sync + 'static {
    /// The facts now. The server adds `log` and each destination's counts from the span log.
    fn status(&self) -> StatusReport;

    /// The connections that are known now, and the last that closed. May block for a moment.
    ///
    /// # Errors
    /// They are not to be had now, and why.
    fn connections(&self) -> Result<Vec<ConnView>, String>;
    /// What the agent costs, measured from now on for as long as `window`; blocks.
    fn measure(&self, window: std::time::Duration) -> SelfReport;
    /// The destinations that run now.
    fn targets(&self) -> Vec<Target> {
        Vec::new()
    }
}

/// Asks for the agent's state.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct StatusRequest {}

/// Asks for every counted loss.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LossesRequest {}

/// The agent's state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusReport {
    /// Version of the agent.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Its process id.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
    /// When it started.
    #[prost(fixed64, tag = "3")]
    pub started_unix_ns: u64,
    /// The kernel hooks, attached or not.
    #[prost(message, repeated, tag = "4")]
    pub hooks: Vec<HookStatus>,
    /// What is selected for payload, in the words of the flags; empty: nothing.
    #[prost(string, repeated, tag = "5")]
    pub selection: Vec<String>,
    /// Connections in the flow table.
    #[prost(uint64, tag = "6")]
    pub connections: u64,
    /// Spans finished since the start.
    #[prost(uint64, tag = "7")]
    pub spans_total: u64,
    /// One per configured destination.
    #[prost(message, repeated, tag = "8")]
    pub destinations: Vec<DestinationStatus>,
    /// The span log; filled by the query server.
    #[prost(message, optional, tag = "9")]
    pub log: Option<LogStatus>,
    /// Every loss that is not zero.
    #[prost(message, repeated, tag = "10")]
    pub losses: Vec<Loss>,
    /// The budget.
    #[prost(message, optional, tag = "20")]
    pub budget: Option<BudgetStatus>,
    /// Selected processes of which TLS is seen, or would be.
    #[prost(message, repeated, tag = "21")]
    pub tls: Vec<TlsProcess>,
    /// Whether it only relays: nothing is captured.
    #[prost(bool, tag = "22")]
    pub only_relays: bool,
    /// What became of received spans; nothing if none are received.
    #[prost(message, optional, tag = "23")]
    pub relay: Option<RelayStatus>,
    /// Requests to send spans that were left out, oldest first: those that are not over, and the last that are; filled by the query
    /// server.
    #[prost(message, repeated, tag = "24")]
    pub late: Vec<LateStatus>,
    /// Symptoms; nothing if none are looked for.
    #[prost(message, optional, tag = "25")]
    pub symptoms: Option<SymptomStatus>,
    /// What is recorded of what no rule names: `timing` or `none` (`capture.unselected`); empty: the agent does not say.
    #[prost(string, tag = "26")]
    pub unselected: String,
    /// The configuration file; empty: none, or the agent does not say.
    #[prost(string, tag = "27")]
    pub config_file: String,
}

/// Symptoms that had left out spans sent, since the start.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SymptomStatus {
    /// Their number.
    #[prost(uint64, tag = "1")]
    pub count: u64,
    /// The last, in words; empty: none.
    #[prost(string, tag = "2")]
    pub last: String,
    /// When it was seen.
    #[prost(fixed64, tag = "3")]
    pub last_unix_ns: u64,
}

/// What became of the spans of others since the start.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RelayStatus {
    /// Acknowledged to their senders.
    #[prost(uint64, tag = "1")]
    pub accepted: u64,
    /// Of these, kept on this host only, by sampling.
    #[prost(uint64, tag = "2")]
    pub local: u64,
    /// Refused for good, each by itself.
    #[prost(uint64, tag = "3")]
    pub rejected: u64,
    /// With times that cannot be true.
    #[prost(uint64, tag = "4")]
    pub skewed: u64,
    /// Values taken out or replaced.
    #[prost(uint64, tag = "5")]
    pub redacted: u64,
    /// Requests that were not taken: no room, over quota, or the disk failed. Their senders were told to come again.
    #[prost(uint64, tag = "6")]
    pub refused: u64,
}

/// A process that uses TLS libraries.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TlsProcess {
    /// Process id.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// What is probed: library and path.
    #[prost(string, repeated, tag = "2")]
    pub covered_by: Vec<String>,
    /// What cannot be, and why; empty if there is nothing.
    #[prost(string, tag = "3")]
    pub not_covered: String,
}

/// Asks what the agent costs.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SelfRequest {
    /// For how long to measure; at most [`SELF_WINDOW_MS_MAX`]; 0: a second.
    #[prost(uint32, tag = "1")]
    pub window_ms: u32,
}

/// Longest measurement.
pub const SELF_WINDOW_MS_MAX: u32 = 60_000;

/// What the agent cost in a window of time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SelfReport {
    /// Length of the window.
    #[prost(uint64, tag = "1")]
    pub window_ns: u64,
    /// CPUs of the host.
    #[prost(uint64, tag = "2")]
    pub cpus: u64,
    /// The attached programs.
    #[prost(message, repeated, tag = "3")]
    pub programs: Vec<ProgramCost>,
    /// What each run costs beside its body: measured at start.
    #[prost(uint64, tag = "4")]
    pub empty_run_ns: u64,
    /// Why the programs' runs were not counted; empty: they were.
    #[prost(string, tag = "5")]
    pub not_counted: String,
    /// CPU time of the agent itself.
    #[prost(uint64, tag = "6")]
    pub agent_cpu_ns: u64,
    /// Its resident memory.
    #[prost(uint64, tag = "7")]
    pub agent_memory_bytes: u64,
    /// The kernel side's maps, by size.
    #[prost(message, repeated, tag = "8")]
    pub maps: Vec<MapMemory>,
    /// Spans finished in the window.
    #[prost(uint64, tag = "9")]
    pub spans: u64,
    /// Kernel records taken in the window.
    #[prost(uint64, tag = "10")]
    pub records: u64,
    /// How full the ring buffer was at most, in percent.
    #[prost(double, tag = "11")]
    pub ring_percent: f64,
    /// Every loss that is not zero, since the start.
    #[prost(message, repeated, tag = "12")]
    pub losses: Vec<Loss>,
    /// The budget.
    #[prost(message, optional, tag = "13")]
    pub budget: Option<BudgetStatus>,
    /// What of the window the budget counts: CPU time that leaving out detail can lower.
    #[prost(uint64, tag = "14")]
    pub budget_ns: u64,
}

/// One kernel program.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ProgramCost {
    /// Its hook.
    #[prost(string, tag = "1")]
    pub hook: String,
    /// By which means it is attached.
    #[prost(string, tag = "2")]
    pub means: String,
    /// Runs in the window.
    #[prost(uint64, tag = "3")]
    pub runs: u64,
    /// Time in its body.
    #[prost(uint64, tag = "4")]
    pub run_ns: u64,
}

/// One map.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MapMemory {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Bytes in use, as the kernel accounts them.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Most bytes that it can come to use.
    #[prost(uint64, tag = "3")]
    pub bytes_max: u64,
}

/// The budget of CPU time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BudgetStatus {
    /// Percent of all CPUs; 0: no limit.
    #[prost(uint32, tag = "1")]
    pub cpu_percent_max: u32,
    /// Cost in the last window that was measured: only what leaving out detail can lower.
    #[prost(double, tag = "2")]
    pub cpu_percent: f64,
    /// How full the ring buffer was at most in that window.
    #[prost(double, tag = "3")]
    pub ring_percent: f64,
    /// Steps of detail that are left out now.
    #[prost(uint32, tag = "4")]
    pub level: u32,
    /// What is left out now, in words.
    #[prost(string, repeated, tag = "5")]
    pub left_out: Vec<String>,
    /// Steps taken since the start.
    #[prost(uint64, tag = "6")]
    pub sheds: u64,
    /// Steps taken back since the start.
    #[prost(uint64, tag = "7")]
    pub restores: u64,
}

/// One kernel hook.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HookStatus {
    /// Its name, as `--without-hook` takes it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it is for.
    #[prost(string, tag = "2")]
    pub means: String,
    /// Whether it is attached.
    #[prost(bool, tag = "3")]
    pub attached: bool,
    /// The rung of the ladder, or why it is not attached and what is lost.
    #[prost(string, tag = "4")]
    pub detail: String,
}

/// One destination. `generated = delivered + queued + dead + dropped`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DestinationStatus {
    /// Name in the configuration.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where to.
    #[prost(string, tag = "2")]
    pub url: String,
    /// Spans in the log that are still to be sent.
    #[prost(uint64, tag = "3")]
    pub queued: u64,
    /// Spans that the destination acknowledged.
    #[prost(uint64, tag = "4")]
    pub delivered: u64,
    /// Spans that it refused for good.
    #[prost(uint64, tag = "5")]
    pub dead: u64,
    /// Spans that left the log, or never got into it, before they could be sent.
    #[prost(uint64, tag = "6")]
    pub dropped: u64,
    /// The last failure; empty: none since the start.
    #[prost(string, tag = "7")]
    pub last_error: String,
    /// Spans that are not for it: another tenant's, or left out by its filter or sampling.
    #[prost(uint64, tag = "8")]
    pub filtered: u64,
    /// Spans of requests that may have arrived before, since the start: their answer was not seen.
    #[prost(uint64, tag = "9")]
    pub possible_duplicates: u64,
    /// When the last failure was, nanoseconds since the epoch; 0: none since the start.
    #[prost(uint64, tag = "10")]
    pub last_error_unix_ns: u64,
    /// Whether its spans do not arrive: the last request failed, and not only because of its spans.
    #[prost(bool, tag = "11")]
    pub is_failing: bool,
}

/// The span log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LogStatus {
    /// Bytes of its segment files.
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
    /// Their number.
    #[prost(uint64, tag = "2")]
    pub segments: u64,
    /// When the oldest one was begun; 0: none.
    #[prost(fixed64, tag = "3")]
    pub oldest_unix_ns: u64,
    /// Most bytes that it may take.
    #[prost(uint64, tag = "4")]
    pub bytes_max: u64,
    /// Spans appended since the agent started.
    #[prost(uint64, tag = "5")]
    pub spans_appended: u64,
    /// Spans that could not be appended (full disk and the like).
    #[prost(uint64, tag = "6")]
    pub spans_dropped: u64,
    /// Blocks that were skipped because they are damaged.
    #[prost(uint64, tag = "7")]
    pub blocks_damaged: u64,
    /// Bytes cut from a torn tail at start.
    #[prost(uint64, tag = "8")]
    pub torn_bytes: u64,
    /// The last write error; empty: none since the start.
    #[prost(string, tag = "9")]
    pub last_error: String,
    /// Folder of the segment files.
    #[prost(string, tag = "10")]
    pub path: String,
}

/// A number of things lost, by where and why.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Loss {
    /// Where: `kernel`, `pipeline`, `log`, `destination NAME`.
    #[prost(string, tag = "1")]
    pub source: String,
    /// Why.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// How many.
    #[prost(uint64, tag = "3")]
    pub count: u64,
}

/// Every counted loss.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LossesReport {
    /// In the order of source, then count.
    #[prost(message, repeated, tag = "1")]
    pub losses: Vec<Loss>,
}

/// Which spans come first, and which are left out at the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Order {
    /// The newest up to the limit, printed in the order of their end.
    Newest = 0,
    /// The slowest up to the limit, slowest first; without a limit in no order.
    Slowest = 1,
}

/// Selects spans. An empty or zero field selects everything.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SpansRequest {
    /// Spans that ended at this time or later.
    #[prost(fixed64, tag = "1")]
    pub since_unix_ns: u64,
    /// `service.name`, exactly.
    #[prost(string, tag = "2")]
    pub service: String,
    /// Kind: `server`, `client`, ...
    #[prost(string, tag = "3")]
    pub kind: String,
    /// Shortest duration.
    #[prost(uint64, tag = "4")]
    pub min_duration_ns: u64,
    /// `ok`, `error` or `unknown`.
    #[prost(string, tag = "5")]
    pub status: String,
    /// `http`, `tcp`, ...
    #[prost(string, tag = "6")]
    pub protocol: String,
    /// Peer: an address, or `address:port`.
    #[prost(string, tag = "7")]
    pub peer: String,
    /// Most spans to send; 0: no limit.
    #[prost(uint64, tag = "8")]
    pub limit: u64,
    /// After the spans that are there, keep sending new ones.
    #[prost(bool, tag = "9")]
    pub follow: bool,
    /// Which spans first.
    #[prost(enumeration = "Order", tag = "10")]
    pub order: i32,
    /// With `follow`: send only new spans.
    #[prost(bool, tag = "11")]
    pub only_new: bool,
    /// `spantap.cause`, exactly.
    #[prost(string, tag = "12")]
    pub cause: String,
    /// Attributes, each of the span or of its resource; all of them.
    #[prost(message, repeated, tag = "13")]
    pub attributes: Vec<AttributeMatch>,
    /// Not those of processes that are not selected (`spantap.selected` is false).
    #[prost(bool, tag = "14")]
    pub selected_only: bool,
}

/// An attribute that a span has.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AttributeMatch {
    /// Its key, exactly.
    #[prost(string, tag = "1")]
    pub key: String,
    /// What its value is like; numbers and truth values as text, of a list any of its texts. `*` stands for any text, `?` for a byte.
    #[prost(string, tag = "2")]
    pub glob: String,
}

/// Selects the one trace that has the id, or that has a span with it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TraceRequest {
    /// At least [`ID_DIGITS_MIN`] leading hexadecimal digits of a trace id or a span id.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// Fewest digits that name a span or trace.
pub const ID_DIGITS_MIN: usize = 4;

/// A span as the log has it, whoever wrote it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpanView {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// 8 bytes; empty: no parent is known.
    #[prost(bytes = "vec", tag = "3")]
    pub parent_span_id: Vec<u8>,
    /// `server`, `client`, `producer`, `consumer`, `internal`.
    #[prost(string, tag = "4")]
    pub kind: String,
    /// Low-cardinality name.
    #[prost(string, tag = "5")]
    pub name: String,
    /// `service.name`.
    #[prost(string, tag = "6")]
    pub service: String,
    /// Start.
    #[prost(fixed64, tag = "7")]
    pub start_unix_ns: u64,
    /// Length.
    #[prost(uint64, tag = "8")]
    pub duration_ns: u64,
    /// `ok`, `error`, `unknown`.
    #[prost(string, tag = "9")]
    pub status: String,
    /// `http`, `tcp`, ...
    #[prost(string, tag = "10")]
    pub protocol: String,
    /// This end, `ip:port`.
    #[prost(string, tag = "11")]
    pub local: String,
    /// The other end, `ip:port`.
    #[prost(string, tag = "12")]
    pub peer: String,
    /// Process id; 0: unknown.
    #[prost(uint32, tag = "13")]
    pub pid: u32,
    /// The span's attributes, then its resource's, without those that the fields here already carry.
    #[prost(message, repeated, tag = "14")]
    pub attributes: Vec<Attribute>,
    /// Tiles of the span, in order.
    #[prost(message, repeated, tag = "15")]
    pub segments: Vec<SegmentView>,
    /// Related spans.
    #[prost(message, repeated, tag = "16")]
    pub links: Vec<LinkView>,
}

/// A key and its value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attribute {
    /// OpenTelemetry name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value; none: empty.
    #[prost(oneof = "AttributeValue", tags = "2, 3, 4, 5, 6")]
    pub value: Option<AttributeValue>,
}

/// An attribute's value.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AttributeValue {
    /// Text.
    #[prost(string, tag = "2")]
    Text(String),
    /// Integer.
    #[prost(int64, tag = "3")]
    Int(i64),
    /// Truth value.
    #[prost(bool, tag = "4")]
    Bool(bool),
    /// Real number.
    #[prost(double, tag = "5")]
    Real(f64),
    /// Texts.
    #[prost(message, tag = "6")]
    Texts(Texts),
}

/// A list of texts.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Texts {
    /// The texts.
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

/// One tile of a span.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SegmentView {
    /// Where the time went.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Offset from the span's start.
    #[prost(uint64, tag = "2")]
    pub start_ns: u64,
    /// Length.
    #[prost(uint64, tag = "3")]
    pub duration_ns: u64,
    /// `measured`, `derived`, `inferred`.
    #[prost(string, tag = "4")]
    pub evidence: String,
    /// What the time was spent on in particular: `lock`, `disk`, `throttled`, ...; empty: nothing says.
    #[prost(string, tag = "5")]
    pub by: String,
    /// Kernel records that were lost while it ran.
    #[prost(uint64, tag = "6")]
    pub lost_records: u64,
}

/// A reference to a related span.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LinkView {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// How the link was made; empty: its writer did not say.
    #[prost(string, tag = "3")]
    pub evidence: String,
}

impl SpanView {
    /// When it ended.
    pub fn end_unix_ns(&self) -> u64 {
        self.start_unix_ns.saturating_add(self.duration_ns)
    }

    /// The value of an attribute.
    pub fn attribute(&self, key: &str) -> Option<&AttributeValue> {
        self.attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()
    }

    /// The value of a textual attribute.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.attribute(key)? {
            AttributeValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The id of its cause; empty: none is known.
    pub fn cause(&self) -> &str {
        self.text("spantap.cause").unwrap_or_default()
    }

    /// The value of an integer attribute.
    pub fn int(&self, key: &str) -> Option<i64> {
        match self.attribute(key)? {
            AttributeValue::Int(value) => Some(*value),
            _ => None,
        }
    }
}

/// The address in `ip:port` or `unix:path`.
pub fn address_of(end: &str) -> &str {
    match end.strip_prefix("unix:") {
        Some(path) => path,
        None => end.rsplit_once(':').map_or(end, |(address, _)| address),
    }
}

/// Lower-case hexadecimal digits of an id.
pub fn hex(id: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    id.iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}
