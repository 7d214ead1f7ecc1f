//! The documented, stable JSON forms. One object per line; fields are only ever added.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::query::api::{AttributeValue, SpanView, hex};

/// A span. `pid` is 0 if it is not known; ids are lower-case hexadecimal.
#[derive(Debug, Serialize)]
pub(super) struct Span<'a> {
    trace_id: String,
    span_id: String,
    /// `null`: none is known.
    parent_span_id: Option<String>,
    kind: &'a str,
    name: &'a str,
    service: &'a str,
    start_unix_ns: u64,
    duration_ns: u64,
    status: &'a str,
    protocol: &'a str,
    local: &'a str,
    peer: &'a str,
    pid: u32,
    attributes: BTreeMap<&'a str, Value>,
    segments: Vec<Segment<'a>>,
    links: Vec<Link<'a>>,
}

/// A tile of a span.
#[derive(Debug, Serialize)]
struct Segment<'a> {
    name: &'a str,
    /// Counted from the span's start.
    start_ns: u64,
    duration_ns: u64,
    evidence: &'a str,
    /// What the time was spent on in particular; `null`: nothing says.
    by: Option<&'a str>,
    /// Kernel records that were lost while it ran.
    lost_records: u64,
}

/// A related span.
#[derive(Debug, Serialize)]
struct Link<'a> {
    trace_id: String,
    span_id: String,
    evidence: &'a str,
}

/// A span as one line.
pub(super) fn span(view: &SpanView) -> String {
    line(&Span {
        trace_id: hex(&view.trace_id),
        span_id: hex(&view.span_id),
        parent_span_id: (!view.parent_span_id.is_empty()).then(|| hex(&view.parent_span_id)),
        kind: &view.kind,
        name: &view.name,
        service: &view.service,
        start_unix_ns: view.start_unix_ns,
        duration_ns: view.duration_ns,
        status: &view.status,
        protocol: &view.protocol,
        local: &view.local,
        peer: &view.peer,
        pid: view.pid,
        attributes: view.attributes.iter().map(|attribute| (&*attribute.key, value(&attribute.value))).collect(),
        segments: view.segments.iter().map(segment).collect(),
        links: view.links.iter().map(link).collect(),
    })
}

/// Anything as one line. What JSON need not escape (RFC 8259, 7), but a terminal would obey, is escaped too.
pub(super) fn line(object: &impl Serialize) -> String {
    let line = serde_json::to_string(object).expect("these types have only keys that are text");
    let is_obeyed = |character| matches!(character, '\u{7f}'..='\u{9f}');
    if !line.contains(is_obeyed) {
        return line;
    }
    let escaped = |character| match is_obeyed(character) {
        true => format!("\\u{:04x}", u32::from(character)),
        false => character.to_string(),
    };
    line.chars().map(escaped).collect()
}

fn segment(view: &crate::query::api::SegmentView) -> Segment<'_> {
    Segment {
        name: &view.name,
        start_ns: view.start_ns,
        duration_ns: view.duration_ns,
        evidence: &view.evidence,
        by: Some(view.by.as_str()).filter(|by| !by.is_empty()),
        lost_records: view.lost_records,
    }
}

fn link(view: &crate::query::api::LinkView) -> Link<'_> {
    Link { trace_id: hex(&view.trace_id), span_id: hex(&view.span_id), evidence: &view.evidence }
}

fn value(value: &Option<AttributeValue>) -> Value {
    match value {
        None => Value::Null,
        Some(AttributeValue::Text(text)) => Value::from(text.as_str()),
        Some(AttributeValue::Int(number)) => Value::from(*number),
        Some(AttributeValue::Bool(truth)) => Value::from(*truth),
        Some(AttributeValue::Real(number)) => Value::from(*number),
        Some(AttributeValue::Texts(texts)) => Value::from(texts.values.clone()),
    }
}
