//! A request in which every field of OTLP is used, and small ones.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link, SpanKind},
        status::StatusCode,
    },
};

pub(in crate::export) const START: u64 = 1_700_000_000_000_001_234;

pub(in crate::export) fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(any(value)), ..KeyValue::default() }
}

pub(in crate::export) fn text(key: &str, text: &str) -> KeyValue {
    pair(key, Value::StringValue(text.to_owned()))
}

fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

/// Ids that count up from a first byte.
pub(in crate::export) fn id(first: u8, bytes: u8) -> Vec<u8> {
    (first..first + bytes).collect()
}

pub(in crate::export) fn of(resource: Vec<KeyValue>, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let resource = Resource { attributes: resource, ..Resource::default() };
    let scope = InstrumentationScope { name: "lib".into(), version: "1.2".into(), ..InstrumentationScope::default() };
    let scope_spans = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
    let schema_url = "https://example.com/schema".to_owned();
    let resource_spans = ResourceSpans { resource: Some(resource), scope_spans: vec![scope_spans], schema_url };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

/// A span with valid ids and little else.
pub(in crate::export) fn span(name: &str, kind: SpanKind, attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: id(1, 16),
        span_id: id(0x11, 8),
        name: name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: START,
        end_time_unix_nano: START + 1_235_555,
        attributes,
        ..Span::default()
    }
}

pub(in crate::export) fn full() -> ExportTraceServiceRequest {
    let list = ArrayValue { values: vec![any(Value::IntValue(1)), any(Value::StringValue("a\"b".into()))] };
    let map = KeyValueList { values: vec![pair("k", Value::BoolValue(true))] };
    let attributes = vec![
        text("http.request.method", "GET"),
        text("server.address", "shop.example"),
        pair("server.port", Value::IntValue(8080)),
        pair("int", Value::IntValue(i64::MIN)),
        pair("double", Value::DoubleValue(0.5)),
        pair("nan", Value::DoubleValue(f64::NAN)),
        pair("bool", Value::BoolValue(false)),
        pair("bytes", Value::BytesValue(vec![0, 255])),
        pair("list", Value::ArrayValue(list)),
        pair("map", Value::KvlistValue(map)),
        KeyValue { key: "none".into(), value: Some(AnyValue::default()), ..KeyValue::default() },
    ];
    let event = Event {
        time_unix_nano: 1_700_000_000_000_500_000,
        name: "exception".into(),
        attributes: vec![text("exception.type", "Oops"), text("exception.message", "it \"broke\"")],
        dropped_attributes_count: 1,
    };
    let link = Link {
        trace_id: id(0x41, 16),
        span_id: id(0x31, 8),
        trace_state: "c=d".into(),
        attributes: vec![text("why", "queue")],
        ..Link::default()
    };
    let span = Span {
        trace_state: "a=b".into(),
        parent_span_id: id(0x21, 8),
        flags: 0x101,
        dropped_attributes_count: 2,
        events: vec![event],
        links: vec![link],
        status: Some(Status { message: "no such shop".into(), code: StatusCode::Error.into() }),
        ..span("GET /a", SpanKind::Client, attributes)
    };
    of(vec![text("service.name", "shop"), text("host.name", "web-1")], vec![span])
}
