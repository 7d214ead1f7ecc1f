//! Attribute values as text and as JSON, for formats that have fewer types.

use std::{borrow::Cow, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use serde_json::{Value as Json, json};

/// The first attribute of that name.
pub(super) fn find<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()
}

/// The attribute of that name, if it is a text.
pub(super) fn text_of<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match find(attributes, key)? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The attribute of that name as a port.
pub(super) fn port_of(attributes: &[KeyValue], key: &str) -> Option<u16> {
    match find(attributes, key)? {
        Value::IntValue(port) => u16::try_from(*port).ok().filter(|port| *port > 0),
        Value::StringValue(port) => port.parse().ok(),
        _ => None,
    }
}

/// A value as text: primitive ones as they are, lists and maps as JSON, bytes in base64.
pub(super) fn text(value: Option<&AnyValue>) -> Cow<'_, str> {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => Cow::Borrowed(text),
        Some(Value::BoolValue(value)) => Cow::Owned(value.to_string()),
        Some(Value::IntValue(value)) => Cow::Owned(value.to_string()),
        Some(Value::DoubleValue(value)) => Cow::Owned(value.to_string()),
        Some(Value::BytesValue(bytes)) => Cow::Owned(BASE64_STANDARD.encode(bytes)),
        Some(Value::ArrayValue(_) | Value::KvlistValue(_)) => Cow::Owned(json(value).to_string()),
        Some(Value::StringValueStrindex(_)) | None => Cow::Borrowed(""),
    }
}

/// A value as JSON. A number that JSON cannot hold is a text.
pub(super) fn json(value: Option<&AnyValue>) -> Json {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => json!(text),
        Some(Value::BoolValue(value)) => json!(value),
        Some(Value::IntValue(value)) => json!(value),
        Some(Value::DoubleValue(value)) if value.is_finite() => json!(value),
        Some(Value::DoubleValue(value)) => json!(value.to_string()),
        Some(Value::BytesValue(bytes)) => json!(BASE64_STANDARD.encode(bytes)),
        Some(Value::ArrayValue(array)) => array.values.iter().map(|value| json(Some(value))).collect(),
        Some(Value::KvlistValue(list)) => object(&list.values),
        Some(Value::StringValueStrindex(_)) | None => Json::Null,
    }
}

/// Attributes as a JSON object.
pub(super) fn object(attributes: &[KeyValue]) -> Json {
    attributes.iter().map(|attribute| (attribute.key.clone(), json(attribute.value.as_ref()))).collect()
}

/// Bytes in lower-case hexadecimal digits.
pub(super) struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl serde::Serialize for Hex<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValueList};

    use super::*;

    fn any(value: Value) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    #[test]
    fn every_type_has_a_text() {
        let list = Value::ArrayValue(ArrayValue {
            values: vec![any(Value::IntValue(1)), any(Value::StringValue("a\"b".into())), AnyValue::default()],
        });
        let pair = KeyValue { key: "k".into(), value: Some(any(Value::BoolValue(true))), ..KeyValue::default() };
        for (value, expected) in [
            (Value::StringValue("ü".into()), "ü"),
            (Value::BoolValue(false), "false"),
            (Value::IntValue(i64::MIN), "-9223372036854775808"),
            (Value::DoubleValue(0.5), "0.5"),
            (Value::DoubleValue(f64::NAN), "NaN"),
            (Value::BytesValue(vec![0, 255]), "AP8="),
            (list, r#"[1,"a\"b",null]"#),
            (Value::KvlistValue(KeyValueList { values: vec![pair] }), r#"{"k":true}"#),
            (Value::StringValueStrindex(3), ""),
        ] {
            assert_eq!(text(Some(&any(value))), expected);
        }
        assert_eq!(text(None), "");
    }

    #[test]
    fn ports_are_numbers_or_texts_in_range() {
        let of = |value| {
            let pair = KeyValue { key: "p".into(), value: Some(any(value)), ..KeyValue::default() };
            port_of(&[pair], "p")
        };
        assert_eq!(of(Value::IntValue(80)), Some(80));
        assert_eq!(of(Value::StringValue("80".into())), Some(80));
        assert_eq!(of(Value::IntValue(0)), None);
        assert_eq!(of(Value::IntValue(65536)), None);
        assert_eq!(of(Value::IntValue(-1)), None);
    }

    #[test]
    fn ids_are_hexadecimal() {
        assert_eq!(Hex(&[0, 0xab, 9]).to_string(), "00ab09");
    }
}
