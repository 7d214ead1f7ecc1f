//! Protobuf written straight into one buffer.
//!
//! Building the generated types first costs two allocations per attribute and a second pass for the lengths; that was more than
//! everything else that is done for a span. Field numbers are those of `opentelemetry/proto`.

use std::fmt::{self, Display, Write};

use prost::encoding::{WireType, encoded_len_varint};

/// Keys of fields within `KeyValue { key = 1, value = 2 }` and `AnyValue { string_value = 1, int_value = 3 }`.
const TEXT_1: u8 = 1 << 3 | WireType::LengthDelimited as u8;
const TEXT_2: u8 = 2 << 3 | WireType::LengthDelimited as u8;
const VARINT_3: u8 = 3 << 3 | WireType::Varint as u8;

/// The key of a field and lengths in it, if they take one byte each.
fn short(field: u32, lengths: [usize; 3]) -> Option<[u8; 4]> {
    let [all, key, value] = lengths;
    let field = field << 3 | WireType::LengthDelimited as u32;
    // The first length is that of all, and the largest.
    (field < 0x80 && all < 0x80).then_some([field as u8, all as u8, key as u8, value as u8])
}

/// A message in the making.
#[derive(Debug, Default)]
pub(crate) struct Wire(Vec<u8>);

impl Wire {
    /// Empty, with room for this many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Behind what is in `bytes`.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn key(&mut self, field: u32, wire_type: WireType) {
        self.number(u64::from(field << 3 | wire_type as u32));
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, WireType::LengthDelimited);
        self.number(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// Fields that are protobuf already.
    pub(crate) fn append(&mut self, fields: &[u8]) {
        self.0.extend_from_slice(fields);
    }

    /// Text; written even if it is empty, as the member of a `oneof` has to be.
    pub(crate) fn text(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    pub(crate) fn display(&mut self, field: u32, value: impl Display) {
        self.message(field, |wire| {
            let _ = write!(wire, "{value}"); // writing into memory does not fail
        });
    }

    pub(crate) fn varint(&mut self, field: u32, value: u64) {
        self.key(field, WireType::Varint);
        self.number(value);
    }

    pub(crate) fn fixed64(&mut self, field: u32, value: u64) {
        self.key(field, WireType::SixtyFourBit);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn fixed32(&mut self, field: u32, value: u32) {
        self.key(field, WireType::ThirtyTwoBit);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A short message within this one.
    pub(crate) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        self.message_of_width(field, 1, write);
    }

    /// A message within this one whose length is expected to take `width` bytes. It is known only when the message is
    /// written; a message whose length takes more or less is moved.
    pub(crate) fn message_of_width(&mut self, field: u32, width: usize, write: impl FnOnce(&mut Self)) {
        self.key(field, WireType::LengthDelimited);
        let at = self.0.len();
        self.0.resize(at + width, 0);
        write(self);
        let length = self.0.len() - at - width;
        let needed = encoded_len_varint(length as u64);
        if needed != width {
            self.0.resize(at + length + width.max(needed), 0);
            self.0.copy_within(at + width..at + width + length, at + needed);
            self.0.truncate(at + needed + length);
        }
        let mut rest = length;
        for byte in &mut self.0[at..at + needed] {
            *byte = rest as u8 & 0x7f | 0x80;
            rest >>= 7;
        }
        self.0[at + needed - 1] &= 0x7f;
    }

    /// A `KeyValue` whose `AnyValue` is written by `value`.
    pub(crate) fn pair(&mut self, field: u32, key: &str, value: impl FnOnce(&mut Self)) {
        self.message(field, |wire| {
            wire.text(1, key);
            wire.message(2, value);
        });
    }

    /// A `KeyValue` with a text.
    pub(crate) fn text_pair(&mut self, field: u32, key: &str, value: &str) {
        const AROUND: usize = 6;
        let lengths = [AROUND + key.len() + value.len(), key.len(), value.len()];
        let Some([field, pair, key_length, value_length]) = short(field, lengths) else {
            return self.pair(field, key, |wire| wire.text(1, value));
        };
        self.0.reserve(2 + usize::from(pair));
        self.0.extend_from_slice(&[field, pair, TEXT_1, key_length]);
        self.append(key.as_bytes());
        self.0.extend_from_slice(&[TEXT_2, value_length + 2, TEXT_1, value_length]);
        self.append(value.as_bytes());
    }

    /// A `KeyValue` with an integer.
    pub(crate) fn int_pair(&mut self, field: u32, key: &str, value: i64) {
        const AROUND: usize = 5;
        let number = value.cast_unsigned();
        let bytes = encoded_len_varint(number);
        let lengths = [AROUND + key.len() + bytes, key.len(), 1 + bytes];
        let Some([field, pair, key_length, value_length]) = short(field, lengths) else {
            return self.pair(field, key, |wire| wire.varint(3, number));
        };
        self.0.reserve(2 + usize::from(pair));
        self.0.extend_from_slice(&[field, pair, TEXT_1, key_length]);
        self.append(key.as_bytes());
        self.0.extend_from_slice(&[TEXT_2, value_length, VARINT_3]);
        self.number(number);
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
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, KeyValueList, any_value::Value};
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
        for (length, width) in [(5, 3), (200, 3), (200, 1), (200, 2), (0, 2)] {
            let text = "x".repeat(length);
            check(
                |wire| {
                    wire.text(1, "key");
                    wire.message_of_width(2, width, |wire| wire.text(1, &text));
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

    #[test]
    fn pairs_are_the_same_whether_short_or_long() {
        let list = |pair: KeyValue| KeyValueList { values: vec![pair] }.encode_to_vec();
        let written = |write: &dyn Fn(&mut Wire)| {
            let mut wire = Wire::default();
            write(&mut wire);
            wire.into_bytes()
        };
        for key in ["k", "key", &"k".repeat(110), &"k".repeat(130)] {
            for length in [0, 1, 8, 60, 118, 119, 120, 121, 122, 200] {
                let text = "x".repeat(length);
                let expected = list(KeyValue { key: key.to_owned(), ..pair("", Value::StringValue(text.clone())) });
                assert_eq!(written(&|wire| wire.text_pair(1, key, &text)), expected, "{key} {length}");
            }
            for value in [0, 1, 127, 128, 1 << 40, -1, i64::MIN, i64::MAX] {
                let expected = list(KeyValue { key: key.to_owned(), ..pair("", Value::IntValue(value)) });
                assert_eq!(written(&|wire| wire.int_pair(1, key, value)), expected, "{key} {value}");
            }
        }
    }
}
