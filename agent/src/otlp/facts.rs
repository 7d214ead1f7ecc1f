//! What groups of spans are made of, read from a span in place: without a view of it, which takes several times as long.
//!
//! In: a span as the log has it, and keys. Out: [`Facts`], the same as a view of the span shows (a test compares them). Called by the query
//! server for each span of a log, so texts are made only of what is asked for.
//!
//! Never: believes segments that are not as long as their span. Limits: of a value that is a list, or bytes, [`NESTED_BYTES_MAX`].

use agent_core::wire::{self, Attribute, StatusCode, Value};
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use prost::Message;

use super::{
    CAUSE, CLIENT_ADDRESS, PEER_ADDRESS, PEER_PORT, PROTOCOL, SEGMENTS, STATUS, TRANSPORT, UNIX,
    decode::{attribute_text, socket_text},
    segments::{Tile, tiles},
};

/// Largest list, or bytes, of which a text is made.
const NESTED_BYTES_MAX: usize = 4 << 10;

/// Of one span.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    /// Name.
    pub name: &'a str,
    /// Id of the cause; empty: none is known.
    pub cause: &'a str,
    /// Protocol; empty: none is known.
    pub protocol: &'a str,
    /// `ok`, `error`, `unknown`.
    pub status: &'static str,
    /// The attributes that were asked for, in that order.
    pub values: Vec<Option<Value<'a>>>,
    /// Whether it tells of the end that clients connected to.
    pub is_server_end: bool,
    segments: Option<&'a str>,
    peer_address: Option<&'a str>,
    peer_port: Option<i64>,
    is_unix: bool,
}

impl<'a> Facts<'a> {
    /// Reads them, and the span's attributes of these keys. Nothing if the span is malformed, or its texts are no UTF-8: there is no view
    /// of it either.
    pub fn read(span: &wire::SpanView<'a>, keys: &[String]) -> Option<Self> {
        let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).ok();
        let mut facts = Self { name: text(span.name)?, values: vec![None; keys.len()], ..Self::default() };
        let (mut cause, mut protocol, mut status, mut transport) = (None, None, None, None);
        for attribute in span.attributes() {
            let Attribute { key, value } = attribute.ok()?;
            let key = text(key)?;
            if let Some(place) = keys.iter().position(|wanted| wanted == key) {
                facts.values[place].get_or_insert(value);
            }
            if let Value::Text(value) = value {
                let value = text(value)?;
                // As in a view, the first of a key counts, but for segments.
                match key {
                    CAUSE => {
                        cause.get_or_insert(value);
                    }
                    PROTOCOL => {
                        protocol.get_or_insert(value);
                    }
                    STATUS => {
                        status.get_or_insert(value);
                    }
                    PEER_ADDRESS => {
                        facts.peer_address.get_or_insert(value);
                    }
                    TRANSPORT => {
                        transport.get_or_insert(value);
                    }
                    CLIENT_ADDRESS => facts.is_server_end = true,
                    SEGMENTS => facts.segments = Some(value),
                    _ => {}
                }
            } else if let (PEER_PORT, Value::Int(port)) = (key, value) {
                facts.peer_port.get_or_insert(port);
            }
        }
        facts.cause = cause.unwrap_or_default();
        facts.protocol = protocol.unwrap_or_default();
        facts.is_unix = transport == Some(UNIX);
        facts.is_server_end |= span.kind == wire::Kind::Server;
        facts.status = match span.status {
            StatusCode::Error => "error",
            _ if status == Some("unknown") => "unknown",
            _ => "ok",
        };
        facts.segments = facts.segments.filter(|text| is_as_long(text, span.duration_ns()));
        Some(facts)
    }

    /// The segments; none if the span has none that can be believed.
    pub fn tiles(&self) -> impl Iterator<Item = Tile<'a>> + use<'a> {
        self.segments.into_iter().flat_map(tiles).flatten()
    }

    /// The other end, as a view shows it; empty: none is known.
    pub fn peer(&self) -> String {
        let Some(address) = self.peer_address else { return String::new() };
        socket_text(address, self.peer_port, self.is_unix)
    }
}

/// Whether it is a text of segments that are together as long as their span.
fn is_as_long(text: &str, duration_ns: u64) -> bool {
    let sum = tiles(text).try_fold(0_u64, |sum, tile| sum.checked_add(tile?.duration_ns));
    sum == Some(duration_ns)
}

/// A value as [`Common::text`](super::Common::text) has it.
pub fn value_text(value: Value<'_>) -> String {
    match value {
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Int(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Bytes(bytes) | Value::Nested(bytes) if bytes.len() > NESTED_BYTES_MAX => "…".to_owned(),
        Value::Bytes(bytes) => attribute_text(AnyValue { value: Some(any_value::Value::BytesValue(bytes.to_vec())) }),
        Value::Nested(encoded) => AnyValue::decode(encoded).map(attribute_text).unwrap_or_default(),
        Value::Empty => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_of_another_length_than_their_span_are_not_believed() {
        assert!(is_as_long("send:10:measured network:5:derived", 15));
        assert!(!is_as_long("send:10:measured network:5:derived", 16));
        assert!(!is_as_long("send:18446744073709551615:measured network:16:derived", 15));
        assert!(!is_as_long("send:15", 15));
    }

    #[test]
    fn large_values_are_not_made_into_texts() {
        let large = vec![b'x'; NESTED_BYTES_MAX + 1];
        assert_eq!([Value::Nested(&large), Value::Bytes(&large)].map(value_text), ["…", "…"]);
        assert_eq!(value_text(Value::Bytes(&[0xab])), "ab");
    }
}
