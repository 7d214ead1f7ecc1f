//! The bytes of a `TracesData` to views, whoever wrote the spans.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use agent_core::wire::Kind;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{Span as OtlpSpan, TracesData, span, status},
};
use prost::{DecodeError, Message};

use super::{
    LINK_EVIDENCE, LOCAL_ADDRESS, LOCAL_PORT, PEER_ADDRESS, PEER_PORT, PID, PROTOCOL, SEGMENT_PREFIX, SEGMENTS,
    SERVICE_NAME, STATUS, TRANSPORT, UNIX,
    facts::{NESTED_BYTES_MAX, TOO_LARGE},
};
use crate::query::api::{Attribute, AttributeValue, LinkView, SegmentView, SpanView, Texts};

/// Decodes a block.
///
/// # Errors
/// The bytes are not a `TracesData`.
pub fn decode(bytes: &[u8]) -> Result<Vec<SpanView>, DecodeError> {
    let mut views = Vec::new();
    for resource_spans in TracesData::decode(bytes)?.resource_spans {
        let resource = resource_spans.resource.unwrap_or_default();
        let spans = resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
        views.extend(spans.map(|span| view(span, &resource)));
    }
    Ok(views)
}

/// What the spans of a process have in common, decoded.
#[derive(Clone, Debug)]
pub struct Common(Arc<Resource>);

impl Common {
    /// From a `Resource`.
    ///
    /// # Errors
    /// The bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Resource::decode(bytes).map(|resource| Self(Arc::new(resource)))
    }

    /// `service.name`; empty: there is none.
    pub fn service(&self) -> String {
        text_of(&self.0.attributes, SERVICE_NAME).unwrap_or_default()
    }

    /// An attribute's value as text, as [`attribute_text`] has it, but of one that is too large for that only a sign; nothing if there is
    /// none of this key.
    pub fn text(&self, key: &str) -> Option<String> {
        let attribute = self.0.attributes.iter().find(|attribute| attribute.key == key)?;
        match &attribute.value {
            Some(value) if value.encoded_len() > NESTED_BYTES_MAX => Some(TOO_LARGE.to_owned()),
            value => Some(value.clone().map(attribute_text).unwrap_or_default()),
        }
    }

    /// Whether this and the other are one, not only alike.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether it may have an attribute of this key whose value, as text, is like what is wanted: `false` only if it has not.
    pub fn may_have(&self, key: &str, is_like: impl Fn(&str) -> bool) -> bool {
        let values = self.0.attributes.iter().filter(|attribute| attribute.key == key);
        values.filter_map(|attribute| attribute.value.as_ref()?.value.as_ref()).any(|value| match value {
            any_value::Value::StringValue(text) => is_like(text),
            any_value::Value::IntValue(number) => is_like(&number.to_string()),
            any_value::Value::BoolValue(truth) => is_like(&truth.to_string()),
            _ => true,
        })
    }

    /// One of its spans, from a `Span`.
    ///
    /// # Errors
    /// The bytes are none.
    pub fn view(&self, span: &[u8]) -> Result<SpanView, DecodeError> {
        Ok(view(OtlpSpan::decode(span)?, &self.0))
    }
}

fn view(span: OtlpSpan, resource: &Resource) -> SpanView {
    let mut view = SpanView {
        kind: kind(span.kind()).to_owned(),
        status: status(&span).to_owned(),
        local: socket(&span.attributes, LOCAL_ADDRESS, LOCAL_PORT),
        peer: socket(&span.attributes, PEER_ADDRESS, PEER_PORT),
        protocol: text_of(&span.attributes, PROTOCOL).unwrap_or_default(),
        service: text_of(&resource.attributes, SERVICE_NAME).unwrap_or_default(),
        pid: int_of(&resource.attributes, PID).and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
        start_unix_ns: span.start_time_unix_nano,
        duration_ns: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
        trace_id: span.trace_id,
        span_id: span.span_id,
        parent_span_id: span.parent_span_id,
        name: span.name,
        links: span.links.into_iter().map(link).collect(),
        ..Default::default()
    };
    for attribute in span.attributes {
        match attribute.key.as_str() {
            PROTOCOL | STATUS => {}
            SEGMENTS => view.segments = segments(attribute.value),
            key if key.starts_with(SEGMENT_PREFIX) => {}
            _ => view.attributes.push(self::attribute(attribute)),
        }
    }
    let named = |attribute: &&KeyValue| attribute.key != SERVICE_NAME && attribute.key != PID;
    view.attributes.extend(resource.attributes.iter().filter(named).cloned().map(self::attribute));
    view
}

/// As [`SpanView::kind`] names it.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Server => "server",
        Kind::Client => "client",
        Kind::Producer => "producer",
        Kind::Consumer => "consumer",
        // OTLP: unspecified is treated as internal.
        Kind::Internal | Kind::Unspecified => "internal",
    }
}

fn kind(kind: span::SpanKind) -> &'static str {
    kind_name(match kind {
        span::SpanKind::Server => Kind::Server,
        span::SpanKind::Client => Kind::Client,
        span::SpanKind::Producer => Kind::Producer,
        span::SpanKind::Consumer => Kind::Consumer,
        span::SpanKind::Internal => Kind::Internal,
        span::SpanKind::Unspecified => Kind::Unspecified,
    })
}

fn status(span: &OtlpSpan) -> &'static str {
    let is_error = span.status.as_ref().is_some_and(|status| status.code() == status::StatusCode::Error);
    match text_of(&span.attributes, STATUS) {
        _ if is_error => "error",
        Some(status) if status == "unknown" => "unknown",
        _ => "ok",
    }
}

fn link(link: span::Link) -> LinkView {
    let evidence = text_of(&link.attributes, LINK_EVIDENCE).unwrap_or_default();
    LinkView { trace_id: link.trace_id, span_id: link.span_id, evidence }
}

/// Empty if the value is none of ours.
pub(super) fn segments(value: Option<AnyValue>) -> Vec<SegmentView> {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => super::segments::read(&text).unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn attribute(attribute: KeyValue) -> Attribute {
    Attribute { key: attribute.key, value: attribute.value.and_then(|value| value.value).map(attribute_value) }
}

fn attribute_value(value: any_value::Value) -> AttributeValue {
    match value {
        any_value::Value::StringValue(text) => AttributeValue::Text(text),
        any_value::Value::BoolValue(value) => AttributeValue::Bool(value),
        any_value::Value::IntValue(value) => AttributeValue::Int(value),
        any_value::Value::DoubleValue(value) => AttributeValue::Real(value),
        any_value::Value::ArrayValue(array) => {
            AttributeValue::Texts(Texts { values: array.values.into_iter().map(any_text).collect() })
        }
        // Not written by the agent; shown as text so that nothing is hidden.
        other => AttributeValue::Text(any_text(AnyValue { value: Some(other) })),
    }
}

fn any_text(value: AnyValue) -> String {
    match value.value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::BoolValue(value)) => value.to_string(),
        Some(any_value::Value::IntValue(value)) => value.to_string(),
        Some(any_value::Value::DoubleValue(value)) => value.to_string(),
        Some(any_value::Value::BytesValue(bytes)) => crate::query::api::hex(&bytes),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

/// A value as one text: a list's texts with commas between them.
pub(super) fn attribute_text(value: AnyValue) -> String {
    match value.value {
        Some(any_value::Value::ArrayValue(array)) => {
            array.values.into_iter().map(any_text).collect::<Vec<_>>().join(",")
        }
        other => any_text(AnyValue { value: other }),
    }
}

/// `ip:port`, or `unix:` and the path.
fn socket(attributes: &[KeyValue], address_key: &str, port_key: &str) -> String {
    let Some(address) = text_of(attributes, address_key) else { return String::new() };
    let is_unix = text_of(attributes, TRANSPORT).as_deref() == Some(UNIX);
    socket_text(&address, int_of(attributes, port_key), is_unix)
}

/// Likewise, from the values.
pub(super) fn socket_text(address: &str, port: Option<i64>, is_unix: bool) -> String {
    if is_unix {
        return format!("{UNIX}:{address}");
    }
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
    match address.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{address}:{port}"),
    }
}

fn find<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a any_value::Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()
}

pub(super) fn text_of(attributes: &[KeyValue], key: &str) -> Option<String> {
    match find(attributes, key)? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

pub(super) fn int_of(attributes: &[KeyValue], key: &str) -> Option<i64> {
    match find(attributes, key)? {
        any_value::Value::IntValue(value) => Some(*value),
        _ => None,
    }
}
