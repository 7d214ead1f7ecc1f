//! What groups of spans are made of, read from a span in place: without a view of it, which takes several times as long.
//!
//! In: a span as the log has it, and keys. Out: [`Facts`], the same as a view of the span would show (a test compares them). Called by the query
//! server for each span of a log, so texts are made only of what is asked for.

use agent_core::wire::{self, Attribute, StatusCode, Value};
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use prost::Message;

use super::{
    CAUSE, PEER_ADDRESS, PEER_PORT, PROTOCOL, SEGMENTS, STATUS, TRANSPORT, UNIX,
    decode::{attribute_text, socket_text},
    segments::{Tile, tiles},
};

/// Of one span.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    /// Id of the cause; empty: none is known.
    pub cause: &'a [u8],
    /// Protocol; empty: none is known.
    pub protocol: &'a [u8],
    /// `ok`, `error`, `unknown`.
    pub status: &'static str,
    /// The segments; none if the span has none that can be read.
    pub segments: Vec<Tile<'a>>,
    /// The attributes that were asked for, in that order.
    pub values: Vec<Option<Value<'a>>>,
    peer_address: Option<&'a [u8]>,
    peer_port: Option<i64>,
    is_unix: bool,
}

impl<'a> Facts<'a> {
    /// Reads them, and the span's attributes of these keys. Nothing if the span is malformed.
    pub fn read(span: &wire::SpanView<'a>, keys: &[String]) -> Option<Self> {
        let mut facts = Self { values: vec![None; keys.len()], ..Self::default() };
        let (mut is_unknown, mut transport, mut segments) = (None, None, None);
        for attribute in span.attributes() {
            let Attribute { key, value } = attribute.ok()?;
            if let Some(place) = keys.iter().position(|wanted| wanted.as_bytes() == key) {
                facts.values[place].get_or_insert(value);
            }
            let Ok(key) = std::str::from_utf8(key) else { continue };
            match (key, value) {
                (CAUSE, Value::Text(text)) => facts.cause = text,
                (PROTOCOL, Value::Text(text)) => facts.protocol = text,
                (STATUS, Value::Text(text)) => is_unknown = Some(text == b"unknown"),
                (SEGMENTS, Value::Text(text)) => segments = Some(text),
                (PEER_ADDRESS, Value::Text(text)) => facts.peer_address = Some(text),
                (PEER_PORT, Value::Int(port)) => facts.peer_port = Some(port),
                (TRANSPORT, Value::Text(text)) => transport = Some(text),
                _ => {}
            }
        }
        facts.is_unix = transport == Some(UNIX.as_bytes());
        facts.segments = segments.and_then(|text| tiles(std::str::from_utf8(text).ok()?)).unwrap_or_default();
        facts.status = match span.status {
            StatusCode::Error => "error",
            _ if is_unknown == Some(true) => "unknown",
            _ => "ok",
        };
        Some(facts)
    }

    /// The other end, as a view shows it; empty: none is known.
    pub fn peer(&self) -> String {
        let Some(address) = self.peer_address else { return String::new() };
        socket_text(&String::from_utf8_lossy(address), self.peer_port, self.is_unix)
    }
}

/// A value as [`Common::text`](super::Common::text) has it.
pub fn value_text(value: Value<'_>) -> String {
    match value {
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Int(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Bytes(bytes) => attribute_text(AnyValue { value: Some(any_value::Value::BytesValue(bytes.to_vec())) }),
        Value::Nested(encoded) => AnyValue::decode(encoded).map(attribute_text).unwrap_or_default(),
        Value::Empty => String::new(),
    }
}
