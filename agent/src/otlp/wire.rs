//! Protobuf written straight into one buffer.
//!
//! Building the generated types first costs two allocations per attribute and a second pass for the lengths; that was more than
//! everything else that is done for a span. Field numbers are those of `opentelemetry/proto`.

use std::fmt::{self, Display, Write};

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

/// A message in the making.
#[derive(Debug, Default)]
pub(super) struct Wire(Vec<u8>);

impl Wire {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn bytes(&mut self, field: u32, value: &[u8]) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        encode_varint(value.len() as u64, &mut self.0);
        self.0.extend_from_slice(value);
    }

    /// Text; written even if it is empty, as the member of a `oneof` has to be.
    pub(super) fn text(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    pub(super) fn display(&mut self, field: u32, value: impl Display) {
        self.message(field, |wire| {
            let _ = write!(wire, "{value}"); // writing into memory does not fail
        });
    }

    pub(super) fn varint(&mut self, field: u32, value: u64) {
        encode_key(field, WireType::Varint, &mut self.0);
        encode_varint(value, &mut self.0);
    }

    pub(super) fn fixed64(&mut self, field: u32, value: u64) {
        encode_key(field, WireType::SixtyFourBit, &mut self.0);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A message within this one. Its length is known when it is written: one byte is left for it, and what is longer is
    /// moved.
    pub(super) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        let at = self.0.len();
        self.0.push(0);
        write(self);
        let length = self.0.len() - at - 1;
        let width = encoded_len_varint(length as u64);
        if width > 1 {
            self.0.resize(self.0.len() + width - 1, 0);
            self.0.copy_within(at + 1..at + 1 + length, at + width);
        }
        encode_varint(length as u64, &mut &mut self.0[at..at + width]);
    }

    /// A `KeyValue` whose `AnyValue` is written by `value`.
    pub(super) fn pair(&mut self, field: u32, key: &str, value: impl FnOnce(&mut Self)) {
        self.message(field, |wire| {
            wire.text(1, key);
            wire.message(2, value);
        });
    }

    /// A `KeyValue` with a text.
    pub(super) fn text_pair(&mut self, field: u32, key: &str, value: &str) {
        self.pair(field, key, |wire| wire.text(1, value));
    }

    /// A `KeyValue` with an integer.
    pub(super) fn int_pair(&mut self, field: u32, key: &str, value: i64) {
        self.pair(field, key, |wire| wire.varint(3, value.cast_unsigned()));
    }
}

impl Write for Wire {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    use prost::Message;

    use super::*;

    fn check(write: impl FnOnce(&mut Wire), expected: &KeyValue) {
        let mut wire = Wire::default();
        write(&mut wire);
        assert_eq!(wire.into_bytes(), expected.encode_to_vec());
    }

    fn pair(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
    }

    #[test]
    fn what_is_written_is_what_the_generated_types_write() {
        for length in [0, 1, 120, 127, 128, 129, 16_383, 16_384, 70_000] {
            let text = "x".repeat(length);
            check(
                |wire| {
                    wire.text(1, "key");
                    wire.message(2, |wire| wire.text(1, &text));
                },
                &pair("key", Value::StringValue(text.clone())),
            );
        }
        for value in [0, 1, -1, i64::MIN, i64::MAX] {
            check(
                |wire| {
                    wire.text(1, "key");
                    wire.message(2, |wire| wire.varint(3, value.cast_unsigned()));
                },
                &pair("key", Value::IntValue(value)),
            );
        }
    }
}
