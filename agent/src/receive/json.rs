//! OTLP/JSON to protobuf: a request as it is read, written straight as protobuf.
//!
//! In: the JSON of an `ExportTraceServiceRequest`. Out: its protobuf. Nothing is built in between, so what is written is never larger
//! than what was read by more than a little, whatever a sender makes up.
//!
//! The rules are those of OTLP ("JSON Protobuf Encoding") and of proto3's JSON: names in lowerCamelCase, `traceId` and `spanId` in
//! hexadecimal, other bytes in base64, enumerations as numbers only, 64-bit numbers as text or number, `null` as not given, unknown
//! names ignored. Depth is bounded by the parser (128 levels).

use std::fmt;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::otlp::wire::Wire;

/// Protobuf of a request in JSON.
///
/// # Errors
/// Where the text is no such request, and why.
pub(super) fn to_protobuf(json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut wire = Wire::with_capacity(json.len() / 2);
    let mut reader = serde_json::Deserializer::from_slice(json);
    Members { message: &REQUEST, wire: &mut wire }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(wire.into_bytes())
}

/// A message of `opentelemetry/proto`.
struct Message {
    fields: &'static [Field],
    /// A member of a `oneof` is written also if it is the default.
    is_oneof: bool,
    /// Bytes that its length usually takes.
    width: usize,
}

struct Field {
    name: &'static str,
    number: u32,
    kind: Kind,
}

enum Kind {
    Text,
    Texts,
    Hex,
    Base64,
    Bool,
    Double,
    Int64,
    Uint32,
    Enum,
    Fixed32,
    Fixed64,
    One(&'static Message),
    Many(&'static Message),
}

use Kind::{Base64, Bool, Double, Enum, Fixed32, Fixed64, Hex, Int64, Many, One, Text, Texts, Uint32};

const fn message(width: usize, fields: &'static [Field]) -> Message {
    Message { fields, is_oneof: false, width }
}

const fn field(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind }
}

static REQUEST: Message = message(3, &[field("resourceSpans", 1, Many(&RESOURCE_SPANS))]);

static RESOURCE_SPANS: Message = message(
    3,
    &[field("resource", 1, One(&RESOURCE)), field("scopeSpans", 2, Many(&SCOPE_SPANS)), field("schemaUrl", 3, Text)],
);

static RESOURCE: Message = message(
    2,
    &[
        field("attributes", 1, Many(&KEY_VALUE)),
        field("droppedAttributesCount", 2, Uint32),
        field("entityRefs", 3, Many(&ENTITY_REF)),
    ],
);

static ENTITY_REF: Message = message(
    1,
    &[
        field("schemaUrl", 1, Text),
        field("type", 2, Text),
        field("idKeys", 3, Texts),
        field("descriptionKeys", 4, Texts),
    ],
);

static SCOPE_SPANS: Message =
    message(3, &[field("scope", 1, One(&SCOPE)), field("spans", 2, Many(&SPAN)), field("schemaUrl", 3, Text)]);

static SCOPE: Message = message(
    1,
    &[
        field("name", 1, Text),
        field("version", 2, Text),
        field("attributes", 3, Many(&KEY_VALUE)),
        field("droppedAttributesCount", 4, Uint32),
    ],
);

static SPAN: Message = message(
    2,
    &[
        field("traceId", 1, Hex),
        field("spanId", 2, Hex),
        field("traceState", 3, Text),
        field("parentSpanId", 4, Hex),
        field("name", 5, Text),
        field("kind", 6, Enum),
        field("startTimeUnixNano", 7, Fixed64),
        field("endTimeUnixNano", 8, Fixed64),
        field("attributes", 9, Many(&KEY_VALUE)),
        field("droppedAttributesCount", 10, Uint32),
        field("events", 11, Many(&EVENT)),
        field("droppedEventsCount", 12, Uint32),
        field("links", 13, Many(&LINK)),
        field("droppedLinksCount", 14, Uint32),
        field("status", 15, One(&STATUS)),
        field("flags", 16, Fixed32),
    ],
);

static EVENT: Message = message(
    1,
    &[
        field("timeUnixNano", 1, Fixed64),
        field("name", 2, Text),
        field("attributes", 3, Many(&KEY_VALUE)),
        field("droppedAttributesCount", 4, Uint32),
    ],
);

static LINK: Message = message(
    1,
    &[
        field("traceId", 1, Hex),
        field("spanId", 2, Hex),
        field("traceState", 3, Text),
        field("attributes", 4, Many(&KEY_VALUE)),
        field("droppedAttributesCount", 5, Uint32),
        field("flags", 6, Fixed32),
    ],
);

static STATUS: Message = message(1, &[field("message", 2, Text), field("code", 3, Enum)]);

static KEY_VALUE: Message = message(1, &[field("key", 1, Text), field("value", 2, One(&ANY_VALUE))]);

static ANY_VALUE: Message = Message {
    fields: &[
        field("stringValue", 1, Text),
        field("boolValue", 2, Bool),
        field("intValue", 3, Int64),
        field("doubleValue", 4, Double),
        field("arrayValue", 5, One(&ARRAY_VALUE)),
        field("kvlistValue", 6, One(&KEY_VALUE_LIST)),
        field("bytesValue", 7, Base64),
    ],
    is_oneof: true,
    width: 1,
};

static ARRAY_VALUE: Message = message(1, &[field("values", 1, Many(&ANY_VALUE))]);

static KEY_VALUE_LIST: Message = message(1, &[field("values", 1, Many(&KEY_VALUE))]);

/// The members of an object, written as the fields of a message.
struct Members<'a> {
    message: &'static Message,
    wire: &'a mut Wire,
}

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.message.fields.first().map_or("", |field| field.name);
        write!(f, "an object with members such as `{first}`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(field) = members.next_key_seed(Name(self.message))? {
            match field {
                Some(field) => {
                    members.next_value_seed(Member { field, is_oneof: self.message.is_oneof, wire: self.wire })?;
                }
                None => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// The name of a member; `None` if it is not known.
struct Name(&'static Message);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.fields.iter().find(|field| field.name == name))
    }
}

/// The value of a member, of whatever kind its field wants.
struct Member<'a> {
    field: &'static Field,
    is_oneof: bool,
    wire: &'a mut Wire,
}

impl Member<'_> {
    /// A number that is an integer, however it was written.
    fn integer<E: Error>(self, value: i128) -> Result<(), E> {
        let number = self.field.number;
        let is_wanted = self.is_oneof || value != 0;
        let range = |_| E::custom(format!("`{}`: {value} is out of range", self.field.name));
        match self.field.kind {
            Double => self.double(value as f64),
            Int64 => {
                let value = i64::try_from(value).map_err(range)?;
                self.scalar(is_wanted, |wire| wire.varint(number, value.cast_unsigned()))
            }
            // A negative enumeration is ten bytes, as any int32.
            Enum => {
                let value = i32::try_from(value).map_err(range)?;
                self.scalar(is_wanted, |wire| wire.varint(number, i64::from(value).cast_unsigned()))
            }
            Uint32 => {
                let value = u32::try_from(value).map_err(range)?;
                self.scalar(is_wanted, |wire| wire.varint(number, value.into()))
            }
            Fixed32 => {
                let value = u32::try_from(value).map_err(range)?;
                self.scalar(is_wanted, |wire| wire.fixed32(number, value))
            }
            Fixed64 => {
                let value = u64::try_from(value).map_err(range)?;
                self.scalar(is_wanted, |wire| wire.fixed64(number, value))
            }
            _ => Err(self.unfit("a number")),
        }
    }

    fn double<E: Error>(self, value: f64) -> Result<(), E> {
        let number = self.field.number;
        let is_wanted = self.is_oneof || value.to_bits() != 0;
        self.scalar(is_wanted, |wire| wire.fixed64(number, value.to_bits()))
    }

    /// A number as text.
    fn number_text<E: Error>(self, text: &str) -> Result<(), E> {
        match (text.parse::<i128>(), &self.field.kind) {
            (Ok(value), _) => self.integer(value),
            (Err(_), Double) => match text {
                "NaN" => self.double(f64::NAN),
                "Infinity" => self.double(f64::INFINITY),
                "-Infinity" => self.double(f64::NEG_INFINITY),
                _ => match text.parse::<f64>() {
                    Ok(value) if value.is_finite() => self.double(value),
                    _ => Err(self.unfit("a text that is no number")),
                },
            },
            (Err(_), _) => Err(self.unfit("a text that is no whole number")),
        }
    }

    fn bytes<E: Error>(self, value: &[u8]) -> Result<(), E> {
        let number = self.field.number;
        let is_wanted = self.is_oneof || !value.is_empty();
        self.scalar(is_wanted, |wire| wire.bytes(number, value))
    }

    fn scalar<E>(self, is_wanted: bool, write: impl FnOnce(&mut Wire)) -> Result<(), E> {
        if is_wanted {
            write(self.wire);
        }
        Ok(())
    }

    fn unfit<E: Error>(&self, given: &str) -> E {
        E::custom(format!("`{}` is {given}, {}", self.field.name, wanted(&self.field.kind)))
    }
}

fn wanted(kind: &Kind) -> &'static str {
    match kind {
        Text => "but should be a text",
        Texts => "but should be a list of texts",
        Hex => "but should be bytes in hexadecimal",
        Base64 => "but should be bytes in base64",
        Bool => "but should be true or false",
        Double => "but should be a number",
        Enum => "but should be a whole number: OTLP/JSON has no names of enumerations",
        Int64 | Uint32 | Fixed32 | Fixed64 => "but should be a whole number",
        One(_) => "but should be an object",
        Many(_) => "but should be a list of objects",
    }
}

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of `{}`", self.field.name)
    }

    /// `null` is as good as nothing.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        let number = self.field.number;
        match self.field.kind {
            Bool => {
                let is_wanted = self.is_oneof || value;
                self.scalar(is_wanted, |wire| wire.varint(number, value.into()))
            }
            _ => Err(self.unfit("true or false")),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.integer(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.integer(value.into())
    }

    /// proto3 allows `1.0` and `1e3` for integers.
    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.field.kind {
            Double => self.double(value),
            _ if value.fract() == 0.0 && value.abs() < 1e30 => self.integer(value as i128),
            _ => Err(self.unfit("a fraction")),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.field.kind {
            Text => self.bytes(text.as_bytes()),
            Hex => match hex(text) {
                Some(bytes) => self.bytes(&bytes),
                None => Err(self.unfit("a text")),
            },
            Base64 => match base64(text) {
                Some(bytes) => self.bytes(&bytes),
                None => Err(self.unfit("a text")),
            },
            Double | Int64 | Uint32 | Fixed32 | Fixed64 => self.number_text(text),
            _ => Err(self.unfit("a text")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<(), A::Error> {
        let One(message) = self.field.kind else { return Err(self.unfit("an object")) };
        within(self.wire, self.field.number, message, |wire| Members { message, wire }.visit_map(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        match self.field.kind {
            Many(message) => {
                while items.next_element_seed(Item { field: self.field, message, wire: self.wire })?.is_some() {}
                Ok(())
            }
            Texts => {
                while let Some(text) = items.next_element::<String>()? {
                    self.wire.text(self.field.number, &text);
                }
                Ok(())
            }
            _ => Err(self.unfit("a list")),
        }
    }
}

/// One message of a list.
struct Item<'a> {
    field: &'static Field,
    message: &'static Message,
    wire: &'a mut Wire,
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let message = self.message;
        within(self.wire, self.field.number, message, |wire| Members { message, wire }.deserialize(from))
    }
}

fn within<E>(
    wire: &mut Wire,
    number: u32,
    message: &Message,
    write: impl FnOnce(&mut Wire) -> Result<(), E>,
) -> Result<(), E> {
    let mut result = Ok(());
    wire.message_of_width(number, message.width, |wire| result = write(wire));
    result
}

/// Bytes of hexadecimal digits of either case.
pub(super) fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(pair).collect()
}

/// proto3 accepts the standard and the URL-safe alphabet, with and without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let engine = if text.contains(['-', '_']) { URL_SAFE } else { STANDARD };
    engine.decode(text).ok()
}

#[cfg(test)]
pub(super) mod tests;
