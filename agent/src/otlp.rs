//! Our spans to and from OTLP.
//!
//! In: [`SafeSpan`](agent_core::redact::SafeSpan)s, or protobuf bytes. Out: the bytes of a `TracesData`, which are also those of an
//! `ExportTraceServiceRequest` (both are `repeated ResourceSpans = 1`), so that concatenated blocks are a valid
//! request and nothing is encoded twice; or [`SpanView`](crate::query::api::SpanView)s. Called by the span log (encode) and the
//! query server (decode), and by the exporter for destinations that want segments as spans. Never does IO and never sees an unredacted span.
//!
//! What OTLP has no field for travels in attributes: `spantap.protocol`, `spantap.status` (only `unknown`),
//! `spantap.cause`, `spantap.segments` (a text: the segments one after the other from the span's start, see `segments.rs`) and, for
//! backends that compute with them, per name `spantap.segment.<name>.ns` (the sum), `.evidence` (the worst), and
//! `spantap.segment.<name>.<by>.ns`.

mod decode;
mod encode;
mod facts;
mod fragments;
mod segments;
mod waterfall;
pub(crate) mod wire;

pub use decode::{Common, decode, kind_name};
pub use encode::{Encoded, Encoder};
pub use facts::{Facts, value_text};
pub use segments::Tile;
pub use waterfall::with_segment_spans;

/// `otel.scope.name` of every span.
const SCOPE: &str = "spantap";
const PROTOCOL: &str = "spantap.protocol";
const STATUS: &str = "spantap.status";
const CAUSE: &str = "spantap.cause";
const SEGMENTS: &str = "spantap.segments";
const SEGMENT_PREFIX: &str = "spantap.segment.";
const LINK_EVIDENCE: &str = "spantap.link.evidence";
const LOCAL_ADDRESS: &str = "network.local.address";
const LOCAL_PORT: &str = "network.local.port";
/// What spans of processes that are not selected have, as false.
pub(crate) const SELECTED: &str = "spantap.selected";
/// Only spans of the end that clients connected to have it.
const CLIENT_ADDRESS: &str = "client.address";
const PEER_ADDRESS: &str = "network.peer.address";
const PEER_PORT: &str = "network.peer.port";
const TRANSPORT: &str = "network.transport";
/// Value of [`TRANSPORT`], and what the shown address of a unix socket begins with.
const UNIX: &str = "unix";
const PID: &str = "process.pid";
const SERVICE_NAME: &str = "service.name";

#[cfg(test)]
pub(crate) mod tests;
