//! Spans to the bytes of a `TracesData`. One `ResourceSpans` per process, one scope.

use std::sync::Arc;

use agent_core::{
    endpoint::Endpoint,
    redact::SafeSpan,
    span::{Link, ProcessFacts, Segment, Span, SpanKind, Status, Value},
};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status as OtlpStatus, TracesData, span, status},
};
use prost::Message;

use super::{
    LINK_EVIDENCE, LOCAL_ADDRESS, LOCAL_PORT, PEER_ADDRESS, PEER_PORT, PID, PROTOCOL, SCOPE, SEGMENT_PREFIX, SEGMENTS,
    SERVICE_NAME, STATUS,
};

/// Encodes spans; holds what is the same for all of them.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    host_name: Option<String>,
}

/// Encoded spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Protobuf of a `TracesData`.
    pub bytes: Vec<u8>,
    /// Number of spans in it.
    pub span_count: u32,
    /// Earliest start.
    pub start_unix_ns_min: u64,
    /// Latest end.
    pub end_unix_ns_max: u64,
}

impl Encoder {
    /// An encoder that puts `host.name` on every resource, if it is known.
    pub fn new(host_name: Option<String>) -> Self {
        Self { host_name }
    }

    /// Encodes spans, grouped by process in the order of each process's first span.
    pub fn encode(&self, spans: &[SafeSpan]) -> Encoded {
        let mut groups: Vec<(&Arc<ProcessFacts>, Vec<OtlpSpan>)> = Vec::new();
        for span in spans.iter().map(SafeSpan::span) {
            let encoded = otlp_span(span);
            // Blocks are small and hold few processes; the last group is the likely one.
            match groups
                .iter_mut()
                .rev()
                .find(|(facts, _)| Arc::ptr_eq(facts, &span.process) || **facts == span.process)
            {
                Some((_, list)) => list.push(encoded),
                None => groups.push((&span.process, vec![encoded])),
            }
        }
        let resource_spans = groups.into_iter().map(|(facts, spans)| self.resource_spans(facts, spans)).collect();
        Encoded {
            bytes: TracesData { resource_spans }.encode_to_vec(),
            span_count: u32::try_from(spans.len()).unwrap_or(u32::MAX),
            start_unix_ns_min: spans.iter().map(|span| span.span().start.0).min().unwrap_or(0),
            end_unix_ns_max: spans.iter().map(|span| end_unix_ns(span.span())).max().unwrap_or(0),
        }
    }

    fn resource_spans(&self, facts: &ProcessFacts, spans: Vec<OtlpSpan>) -> ResourceSpans {
        let scope = InstrumentationScope {
            name: SCOPE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        };
        let resource = Resource { attributes: self.resource_attributes(facts), ..Default::default() };
        ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..Default::default() }],
            ..Default::default()
        }
    }

    fn resource_attributes(&self, facts: &ProcessFacts) -> Vec<KeyValue> {
        let service = facts.service_name.clone().unwrap_or_else(|| unknown_service(facts));
        let mut attributes = vec![text(SERVICE_NAME, service)];
        let optional = [
            ("service.namespace", &facts.service_namespace),
            ("service.version", &facts.service_version),
            ("deployment.environment.name", &facts.deployment_environment),
            ("process.executable.name", &facts.executable_name),
            ("process.executable.path", &facts.executable_path),
            ("host.name", &self.host_name),
        ];
        attributes.extend(optional.into_iter().filter_map(|(key, value)| Some(text(key, value.clone()?))));
        if facts.pid != 0 {
            attributes.push(int(PID, i64::from(facts.pid)));
        }
        attributes
    }
}

/// OpenTelemetry's rule for a service without a name: `unknown_service`, with the executable where it is known.
fn unknown_service(facts: &ProcessFacts) -> String {
    match &facts.executable_name {
        Some(name) => format!("unknown_service:{name}"),
        None => "unknown_service".to_owned(),
    }
}

fn end_unix_ns(span: &Span) -> u64 {
    span.start.0.saturating_add(span.duration_ns)
}

fn otlp_span(span: &Span) -> OtlpSpan {
    OtlpSpan {
        trace_id: span.trace_id.0.to_vec(),
        span_id: span.span_id.0.to_vec(),
        parent_span_id: span.parent_span_id.map(|id| id.0.to_vec()).unwrap_or_default(),
        name: span.name.clone(),
        kind: kind(span.kind) as i32,
        start_time_unix_nano: span.start.0,
        end_time_unix_nano: end_unix_ns(span),
        attributes: attributes(span),
        links: span.links.iter().map(link).collect(),
        // Instrumentation leaves the status unset unless there was an error (OpenTelemetry trace API, "Set Status").
        status: (span.status == Status::Error)
            .then(|| OtlpStatus { code: status::StatusCode::Error as i32, ..Default::default() }),
        ..Default::default()
    }
}

fn kind(kind: SpanKind) -> span::SpanKind {
    match kind {
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Client => span::SpanKind::Client,
        SpanKind::Producer => span::SpanKind::Producer,
        SpanKind::Consumer => span::SpanKind::Consumer,
        SpanKind::Internal => span::SpanKind::Internal,
    }
}

fn attributes(span: &Span) -> Vec<KeyValue> {
    let mut list: Vec<KeyValue> =
        span.attributes.iter().filter(|(key, _)| !is_ours(key)).map(|(key, value)| pair(key, any(value))).collect();
    // What a unix socket is bound to is the name of the server's end; the client's has none.
    let is_server = span.kind == SpanKind::Server;
    let path = |is_server: bool| span.unix_path.as_deref().filter(|_| is_server);
    address(&mut list, span.local, path(is_server), LOCAL_ADDRESS, LOCAL_PORT);
    address(&mut list, span.peer, path(!is_server), PEER_ADDRESS, PEER_PORT);
    list.push(text(PROTOCOL, span.protocol.name()));
    if span.status == Status::Unknown {
        list.push(text(STATUS, span.status.name()));
    }
    if !span.segments.is_empty() {
        let values = span.segments.iter().map(segment).collect();
        list.push(pair(SEGMENTS, any_value::Value::ArrayValue(ArrayValue { values })));
        segment_sums(&mut list, &span.segments);
    }
    list
}

/// Attributes that are written from the span's fields or its resource; a key must not stand twice.
fn is_ours(key: &str) -> bool {
    const KEYS: [&str; 10] = [
        LOCAL_ADDRESS,
        LOCAL_PORT,
        PEER_ADDRESS,
        PEER_PORT,
        PROTOCOL,
        STATUS,
        SEGMENTS,
        PID,
        "process.executable.name",
        "process.executable.path",
    ];
    KEYS.contains(&key) || key.starts_with(SEGMENT_PREFIX)
}

/// Address and port; of a unix socket its path, else its inode number in brackets, as in `/proc/<pid>/fd`.
fn address(list: &mut Vec<KeyValue>, end: Endpoint, path: Option<&str>, address_key: &str, port_key: &str) {
    match end {
        Endpoint::Inet(address) => {
            list.push(text(address_key, address.ip().to_canonical().to_string()));
            list.push(int(port_key, i64::from(address.port())));
        }
        Endpoint::Unix(inode) => {
            list.push(text(address_key, path.map_or_else(|| format!("[{inode}]"), str::to_owned)));
        }
    }
}

fn segment(segment: &Segment) -> AnyValue {
    let values = vec![
        text("name", segment.name.name()),
        int("start_ns", clamp(segment.offset_ns)),
        int("duration_ns", clamp(segment.duration_ns)),
        text("evidence", segment.evidence.name()),
    ];
    AnyValue { value: Some(any_value::Value::KvlistValue(KeyValueList { values })) }
}

fn segment_sums(list: &mut Vec<KeyValue>, segments: &[Segment]) {
    let mut sums: Vec<(&str, u64)> = Vec::new();
    for segment in segments {
        match sums.iter_mut().find(|(name, _)| *name == segment.name.name()) {
            Some((_, sum)) => *sum += segment.duration_ns,
            None => sums.push((segment.name.name(), segment.duration_ns)),
        }
    }
    list.extend(sums.into_iter().map(|(name, sum)| int(&format!("{SEGMENT_PREFIX}{name}.ns"), clamp(sum))));
}

fn link(link: &Link) -> span::Link {
    span::Link {
        trace_id: link.trace_id.0.to_vec(),
        span_id: link.span_id.0.to_vec(),
        attributes: vec![text(LINK_EVIDENCE, link.evidence)],
        ..Default::default()
    }
}

fn any(value: &Value) -> any_value::Value {
    match value {
        Value::String(value) => any_value::Value::StringValue(value.clone()),
        Value::Int(value) => any_value::Value::IntValue(*value),
        Value::Bool(value) => any_value::Value::BoolValue(*value),
        Value::Strings(values) => {
            let value = |text: &String| AnyValue { value: Some(any_value::Value::StringValue(text.clone())) };
            any_value::Value::ArrayValue(ArrayValue { values: values.iter().map(value).collect() })
        }
    }
}

fn pair(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key, any_value::Value::StringValue(value.into()))
}

fn int(key: &str, value: i64) -> KeyValue {
    pair(key, any_value::Value::IntValue(value))
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
