//! Fixed spans for the tests that use the agent as a library.

use std::{net::SocketAddr, sync::Arc};

use agent_core::{
    redact::{RedactConfig, Redactor, SafeSpan},
    span::{Evidence, ProcessFacts, Protocol, Segment, SegmentName, Span, SpanId, SpanKind, Status, TraceId, UnixNs},
};

/// The span of this number, all of it in `remote`; its trace has the same number.
pub fn span(number: u64, duration_ns: u64) -> SafeSpan {
    let mut trace_id = [0xee; 16];
    trace_id[..8].copy_from_slice(&number.to_be_bytes());
    let facts = ProcessFacts { pid: 42, service_name: Some("shop".to_owned()), ..ProcessFacts::default() };
    let segment = Segment {
        name: SegmentName::Remote,
        offset_ns: 0,
        duration_ns,
        evidence: Evidence::Measured,
        by: None,
        lost_records: 0,
    };
    let span = Span {
        trace_id: TraceId(trace_id),
        span_id: SpanId(number.to_be_bytes()),
        parent_span_id: None,
        kind: if number.is_multiple_of(2) { SpanKind::Client } else { SpanKind::Server },
        name: "GET /orders".into(),
        process: Arc::new(facts),
        start: UnixNs(1_738_324_800_000_000_000 + number),
        duration_ns,
        status: Status::Ok,
        protocol: Protocol::Http1,
        local: "10.0.0.1:40000".parse::<SocketAddr>().expect("an address").into(),
        peer: "10.0.0.2:80".parse::<SocketAddr>().expect("an address").into(),
        unix_path: None,
        attributes: Vec::new(),
        segments: vec![segment],
        cause: Some(if number.is_multiple_of(3) { "network_delay" } else { "remote_slow" }),
        links: Vec::new(),
    };
    Redactor::new(RedactConfig::default()).redact(span)
}
