//! OTLP in JSON: protobuf's JSON mapping with what OTLP changes about it. Ids are hexadecimal, enums are numbers, 64-bit
//! numbers are texts, and what has its default value is left out. One line.

use base64::{Engine, prelude::BASE64_STANDARD};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link},
    },
};
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::value::Hex;

/// The request as JSON. Values nest no deeper than protobuf's decoder allows.
pub(in crate::export) fn encode(request: &ExportTraceServiceRequest) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to memory does not fail, and every key is a text.
    let _ = serde_json::to_writer(&mut out, &View(request));
    out
}

/// Something of OTLP, to be written as JSON.
struct View<'a, T>(&'a T);

/// A list of it.
struct List<'a, T>(&'a [T]);

impl<'a, T> Serialize for List<'a, T>
where
    View<'a, T>: Serialize,
{
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(View))
    }
}

/// A 64-bit number, which JavaScript could not read as a number.
struct Number64<T>(T);

impl<T: std::fmt::Display> Serialize for Number64<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

/// An object in the making. Leaves out what is empty or zero.
struct Object<S: Serializer>(S::SerializeMap);

impl<S: Serializer> Object<S> {
    fn new(to: S) -> Result<Self, S::Error> {
        to.serialize_map(None).map(Self)
    }

    fn put(&mut self, key: &str, value: &impl Serialize) -> Result<(), S::Error> {
        self.0.serialize_entry(key, value)
    }

    fn text(&mut self, key: &str, text: &str) -> Result<(), S::Error> {
        if text.is_empty() { Ok(()) } else { self.put(key, &text) }
    }

    fn id(&mut self, key: &str, id: &[u8]) -> Result<(), S::Error> {
        if id.is_empty() { Ok(()) } else { self.put(key, &Hex(id)) }
    }

    fn number(&mut self, key: &str, number: u32) -> Result<(), S::Error> {
        if number == 0 { Ok(()) } else { self.put(key, &number) }
    }

    fn time(&mut self, key: &str, time: u64) -> Result<(), S::Error> {
        if time == 0 { Ok(()) } else { self.put(key, &Number64(time)) }
    }

    fn list<'a, T>(&mut self, key: &str, list: &'a [T]) -> Result<(), S::Error>
    where
        View<'a, T>: Serialize,
    {
        if list.is_empty() { Ok(()) } else { self.put(key, &List(list)) }
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

impl Serialize for View<'_, ExportTraceServiceRequest> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        object.put("resourceSpans", &List(&self.0.resource_spans))?;
        object.end()
    }
}

impl Serialize for View<'_, ResourceSpans> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        if let Some(resource) = &self.0.resource {
            object.put("resource", &View(resource))?;
        }
        object.list("scopeSpans", &self.0.scope_spans)?;
        object.text("schemaUrl", &self.0.schema_url)?;
        object.end()
    }
}

impl Serialize for View<'_, Resource> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        object.list("attributes", &self.0.attributes)?;
        object.number("droppedAttributesCount", self.0.dropped_attributes_count)?;
        object.list("entityRefs", &self.0.entity_refs)?;
        object.end()
    }
}

impl Serialize for View<'_, EntityRef> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        object.text("schemaUrl", &self.0.schema_url)?;
        object.text("type", &self.0.r#type)?;
        object.put("idKeys", &self.0.id_keys)?;
        object.put("descriptionKeys", &self.0.description_keys)?;
        object.end()
    }
}

impl Serialize for View<'_, ScopeSpans> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        if let Some(scope) = &self.0.scope {
            object.put("scope", &View(scope))?;
        }
        object.list("spans", &self.0.spans)?;
        object.text("schemaUrl", &self.0.schema_url)?;
        object.end()
    }
}

impl Serialize for View<'_, InstrumentationScope> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        object.text("name", &self.0.name)?;
        object.text("version", &self.0.version)?;
        object.list("attributes", &self.0.attributes)?;
        object.number("droppedAttributesCount", self.0.dropped_attributes_count)?;
        object.end()
    }
}

impl Serialize for View<'_, Span> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let span = self.0;
        let mut object = Object::<S>::new(to)?;
        object.id("traceId", &span.trace_id)?;
        object.id("spanId", &span.span_id)?;
        object.text("traceState", &span.trace_state)?;
        object.id("parentSpanId", &span.parent_span_id)?;
        object.number("flags", span.flags)?;
        object.text("name", &span.name)?;
        object.put("kind", &span.kind)?;
        object.time("startTimeUnixNano", span.start_time_unix_nano)?;
        object.time("endTimeUnixNano", span.end_time_unix_nano)?;
        object.list("attributes", &span.attributes)?;
        object.number("droppedAttributesCount", span.dropped_attributes_count)?;
        object.list("events", &span.events)?;
        object.number("droppedEventsCount", span.dropped_events_count)?;
        object.list("links", &span.links)?;
        object.number("droppedLinksCount", span.dropped_links_count)?;
        if let Some(status) = &span.status {
            object.put("status", &View(status))?;
        }
        object.end()
    }
}

impl Serialize for View<'_, Event> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        object.time("timeUnixNano", self.0.time_unix_nano)?;
        object.text("name", &self.0.name)?;
        object.list("attributes", &self.0.attributes)?;
        object.number("droppedAttributesCount", self.0.dropped_attributes_count)?;
        object.end()
    }
}

impl Serialize for View<'_, Link> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        object.id("traceId", &self.0.trace_id)?;
        object.id("spanId", &self.0.span_id)?;
        object.text("traceState", &self.0.trace_state)?;
        object.list("attributes", &self.0.attributes)?;
        object.number("droppedAttributesCount", self.0.dropped_attributes_count)?;
        object.number("flags", self.0.flags)?;
        object.end()
    }
}

impl Serialize for View<'_, Status> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        object.text("message", &self.0.message)?;
        if self.0.code != 0 {
            object.put("code", &self.0.code)?;
        }
        object.end()
    }
}

impl Serialize for View<'_, KeyValue> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        object.put("key", &self.0.key)?;
        if let Some(value) = &self.0.value {
            object.put("value", &View(value))?;
        }
        object.end()
    }
}

impl Serialize for View<'_, AnyValue> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        match &self.0.value {
            Some(Value::StringValue(text)) => object.put("stringValue", text)?,
            Some(Value::BoolValue(value)) => object.put("boolValue", value)?,
            Some(Value::IntValue(value)) => object.put("intValue", &Number64(value))?,
            Some(Value::DoubleValue(value)) => match special(*value) {
                Some(name) => object.put("doubleValue", &name)?,
                None => object.put("doubleValue", value)?,
            },
            Some(Value::BytesValue(bytes)) => object.put("bytesValue", &BASE64_STANDARD.encode(bytes))?,
            Some(Value::ArrayValue(array)) => object.put("arrayValue", &View(array))?,
            Some(Value::KvlistValue(list)) => object.put("kvlistValue", &View(list))?,
            // Belongs to another signal: OTLP asks to treat it as absent.
            Some(Value::StringValueStrindex(_)) | None => {}
        }
        object.end()
    }
}

/// The names that protobuf's JSON mapping has for what is no number.
fn special(value: f64) -> Option<&'static str> {
    match value {
        _ if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

impl Serialize for View<'_, ArrayValue> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        object.put("values", &List(&self.0.values))?;
        object.end()
    }
}

impl Serialize for View<'_, KeyValueList> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::<S>::new(to)?;
        object.put("values", &List(&self.0.values))?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::{super::samples, *};

    fn written(request: &ExportTraceServiceRequest) -> Json {
        let bytes = encode(request);
        assert!(!bytes.contains(&b'\n'));
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn every_field_is_written_as_otlp_wants_it() {
        let json = written(&samples::full());
        let resource = &json["resourceSpans"][0];
        assert_eq!(
            resource["resource"]["attributes"][0],
            json!({"key": "service.name", "value": {"stringValue": "shop"}})
        );
        assert_eq!(resource["schemaUrl"], "https://example.com/schema");
        let scope = &resource["scopeSpans"][0];
        assert_eq!(scope["scope"], json!({"name": "lib", "version": "1.2"}));
        let span = &scope["spans"][0];
        for (key, value) in [
            ("traceId", json!("0102030405060708090a0b0c0d0e0f10")),
            ("spanId", json!("1112131415161718")),
            ("parentSpanId", json!("2122232425262728")),
            ("traceState", json!("a=b")),
            ("flags", json!(0x101)),
            ("name", json!("GET /a")),
            ("kind", json!(3)),
            ("startTimeUnixNano", json!("1700000000000001234")),
            ("endTimeUnixNano", json!("1700000000001236789")),
            ("droppedAttributesCount", json!(2)),
            ("status", json!({"message": "no such shop", "code": 2})),
        ] {
            assert_eq!(span[key], value, "{key}");
        }
        let attribute = |key: &str| {
            let all = span["attributes"].as_array().unwrap();
            all.iter().find(|attribute| attribute["key"] == key).unwrap()["value"].clone()
        };
        assert_eq!(attribute("int"), json!({"intValue": "-9223372036854775808"}));
        assert_eq!(attribute("double"), json!({"doubleValue": 0.5}));
        assert_eq!(attribute("nan"), json!({"doubleValue": "NaN"}));
        assert_eq!(attribute("bool"), json!({"boolValue": false}));
        assert_eq!(attribute("bytes"), json!({"bytesValue": "AP8="}));
        assert_eq!(attribute("list"), json!({"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "a\"b"}]}}));
        assert_eq!(attribute("map"), json!({"kvlistValue": {"values": [{"key": "k", "value": {"boolValue": true}}]}}));
        assert_eq!(attribute("none"), json!({}));
        assert_eq!(span["events"][0]["timeUnixNano"], "1700000000000500000");
        assert_eq!(span["links"][0]["spanId"], "3132333435363738");
    }

    #[test]
    fn what_is_empty_is_left_out() {
        let request = samples::of(Vec::new(), vec![Span::default()]);
        let span = &written(&request)["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(*span, json!({"kind": 0}));
        assert_eq!(written(&ExportTraceServiceRequest::default()), json!({"resourceSpans": []}));
    }
}
