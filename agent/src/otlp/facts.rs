//! What groups of spans are made of, read from a span in place: without a view of it, which takes several times as long.
//!
//! In: a span as the log has it, and keys. Out: [`Facts`], the same as a view of the span shows (a test compares them), but for segments that
//! are not as long as their span, which are not believed, and for values that are large. Called by the query server for each span of a log,
//! so texts are made only of what is asked for.
//!
//! Limits: of a value that is a list, or bytes, [`NESTED_BYTES_MAX`].

use agent_core::wire::{self, Attribute, StatusCode, Value};
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use prost::Message;

use super::{
    CAUSE, CLIENT_ADDRESS, PEER_ADDRESS, PEER_PORT, PROTOCOL, SEGMENTS, SELECTED, STATUS, TRANSPORT, UNIX,
    decode::{attribute_text, socket_text},
    segments::{Tile, tiles},
};

/// Largest list, or bytes, of which a text is made.
pub(super) const NESTED_BYTES_MAX: usize = 4 << 10;
/// Stands for larger ones.
pub(super) const TOO_LARGE: &str = "…";

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
    /// The segments; none if the span has none that can be believed.
    pub segments: Vec<Tile<'a>>,
    /// The attributes that were asked for, in that order.
    pub values: Vec<Option<Value<'a>>>,
    /// Whether it tells of the end that clients connected to.
    pub is_server_end: bool,
    /// Whether it is of a process that is not selected.
    pub is_unselected: bool,
    peer_address: Option<&'a str>,
    peer_port: Option<i64>,
    is_unix: bool,
}

impl<'a> Facts<'a> {
    /// Reads them, and the span's attributes of these keys. Nothing if the span is malformed, or a text of these is no UTF-8: there is no view
    /// of it either.
    pub fn read(span: &wire::SpanView<'a>, keys: &[String]) -> Option<Self> {
        let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).ok();
        let mut facts = Self { name: text(span.name)?, values: vec![None; keys.len()], ..Self::default() };
        let (mut cause, mut protocol, mut status, mut transport, mut segments) = (None, None, None, None, None);
        let is_wanted =
            |key: &[u8]| OWN.iter().any(|own| own.as_bytes() == key) || keys.iter().any(|own| own.as_bytes() == key);
        for attribute in span.attributes().of_keys(is_wanted) {
            let Attribute { key, value } = attribute.ok()?;
            let key = text(key)?;
            if let Some(place) = keys.iter().position(|wanted| wanted == key) {
                facts.values[place].get_or_insert(value);
            }
            if let Value::Text(value) = value {
                let value = text(value)?;
                let place = match key {
                    CAUSE => &mut cause,
                    PROTOCOL => &mut protocol,
                    STATUS => &mut status,
                    PEER_ADDRESS => &mut facts.peer_address,
                    TRANSPORT => &mut transport,
                    SEGMENTS => {
                        segments = Some(value);
                        continue;
                    }
                    _ => {
                        facts.is_server_end |= key == CLIENT_ADDRESS;
                        continue;
                    }
                };
                // As in a view, the first of a key counts, but for segments.
                place.get_or_insert(value);
                continue;
            }
            match (key, value) {
                (PEER_PORT, Value::Int(port)) => drop(facts.peer_port.get_or_insert(port)),
                (SELECTED, Value::Bool(false)) => facts.is_unselected = true,
                _ => {}
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
        facts.segments = segments.and_then(|text| as_long(text, span.duration_ns())).unwrap_or_default();
        Some(facts)
    }

    /// The other end, as a view shows it; empty: none is known.
    pub fn peer(&self) -> String {
        let Some(address) = self.peer_address else { return String::new() };
        socket_text(address, self.peer_port, self.is_unix)
    }
}

/// What is read of every span.
const OWN: [&str; 9] =
    [CAUSE, PROTOCOL, STATUS, SEGMENTS, SELECTED, PEER_ADDRESS, PEER_PORT, TRANSPORT, CLIENT_ADDRESS];

/// The segments of a text, if they are together as long as their span.
fn as_long(text: &str, duration_ns: u64) -> Option<Vec<Tile<'_>>> {
    let tiles: Vec<Tile<'_>> = tiles(text).collect::<Option<_>>()?;
    let sum = tiles.last().map_or(0, |last| last.start_ns + last.duration_ns);
    (sum == duration_ns).then_some(tiles)
}

/// A value as [`Common::text`](super::Common::text) has it.
pub fn value_text(value: Value<'_>) -> String {
    match value {
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Int(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Bytes(bytes) | Value::Nested(bytes) if bytes.len() > NESTED_BYTES_MAX => TOO_LARGE.to_owned(),
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
        let count = |text, duration_ns| as_long(text, duration_ns).map(|tiles| tiles.len());
        assert_eq!(count("send:10:measured network:5:derived", 15), Some(2));
        assert_eq!(count("send:10:measured network:5:derived", 16), None);
        assert_eq!(count("send:18446744073709551615:measured network:16:derived", 15), None);
        assert_eq!(count("send:15", 15), None);
    }

    #[test]
    fn large_values_are_not_made_into_texts() {
        let large = vec![b'x'; NESTED_BYTES_MAX + 1];
        assert_eq!([Value::Nested(&large), Value::Bytes(&large)].map(value_text), ["…", "…"]);
        assert_eq!(value_text(Value::Bytes(&[0xab])), "ab");
    }
}
