//! Zipkin v2 JSON (`POST /api/v2/spans`) to OTLP protobuf, span by span as they are read.
//!
//! | Zipkin | OTLP |
//! |---|---|
//! | `traceId` of 16 digits | the lower half of the trace id |
//! | `kind` | the kind; none is none |
//! | `localEndpoint.serviceName` | `service.name` of the resource |
//! | addresses and ports of `localEndpoint`, `remoteEndpoint` | `network.local.*`, `network.peer.*` |
//! | `remoteEndpoint.serviceName` | `peer.service` |
//! | `annotations` | events |
//! | tags `otel.scope.name`, `otel.scope.version` | the scope |
//! | tags `otel.status_code`, `error` | the status |
//! | other `tags` | attributes |
//! | `shared`, `debug`, if true | attributes `zipkin.shared`, `zipkin.debug` |
//!
//! Ids that are none are left out, so that the span is judged like any without ids. Spans of one service that follow each other share
//! a resource.

use std::{borrow::Cow, fmt, net::IpAddr};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::json::hex;
use crate::otlp::wire::Wire;

/// Protobuf of an `ExportTraceServiceRequest` with the spans of a Zipkin list.
///
/// # Errors
/// Where the text is no such list, and why.
pub(super) fn to_protobuf(json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut request = Wire::with_capacity(json.len());
    let mut reader = serde_json::Deserializer::from_slice(json);
    reader.deserialize_seq(List(&mut request))?;
    reader.end()?;
    Ok(request.into_bytes())
}

/// Status codes of OTLP.
const OK: u64 = 1;
const ERROR: u64 = 2;

/// What spans share that go into one resource and scope.
#[derive(Debug, Default, PartialEq, Eq)]
struct Origin {
    service: Option<String>,
    scope: Option<String>,
    scope_version: Option<String>,
}

struct List<'a>(&'a mut Wire);

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of spans")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut spans: A) -> Result<(), A::Error> {
        let (mut origin, mut group) = (Origin::default(), Wire::default());
        while let Some(span) = spans.next_element_seed(Span::default())? {
            if span.origin != origin {
                flush(self.0, &origin, &mut group);
                origin = span.origin;
            }
            group.bytes(2, &span.wire.into_bytes());
        }
        flush(self.0, &origin, &mut group);
        Ok(())
    }
}

/// Writes a resource with the spans so far, if there are any.
fn flush(request: &mut Wire, origin: &Origin, group: &mut Wire) {
    let spans = std::mem::take(group).into_bytes();
    if spans.is_empty() {
        return;
    }
    request.message_of_width(1, 3, |resource_spans| {
        if let Some(service) = &origin.service {
            resource_spans.message(1, |resource| resource.text_pair(1, "service.name", service));
        }
        resource_spans.message_of_width(2, 3, |scope_spans| {
            if origin.scope.is_some() || origin.scope_version.is_some() {
                scope_spans.message(1, |scope| {
                    scope.text(1, origin.scope.as_deref().unwrap_or_default());
                    scope.text(2, origin.scope_version.as_deref().unwrap_or_default());
                });
            }
            scope_spans.append(&spans);
        });
    });
}

/// One span in the making: attributes and events are written as they come, the rest at the end.
#[derive(Default)]
struct Span {
    wire: Wire,
    origin: Origin,
    timestamp_us: Option<u64>,
    duration_us: Option<u64>,
    status_code: Option<u64>,
    status_message: Option<String>,
}

impl<'de> DeserializeSeed<'de> for Span {
    type Value = Self;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Span {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a span")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Self, A::Error> {
        while let Some(name) = members.next_key::<Cow<'_, str>>()? {
            match &*name {
                "traceId" => self.id(1, 16, members.next_value()?),
                "id" => self.id(2, 8, members.next_value()?),
                "parentId" => self.id(4, 8, members.next_value()?),
                "name" => {
                    if let Some(Text(name)) = members.next_value()? {
                        self.wire.text(5, &name);
                    }
                }
                "kind" => self.kind(members.next_value()?)?,
                "timestamp" => self.timestamp_us = members.next_value()?,
                "duration" => self.duration_us = members.next_value()?,
                "localEndpoint" => self.local(members.next_value()?),
                "remoteEndpoint" => self.remote(members.next_value()?),
                "annotations" => self.annotations(members.next_value_seed(Annotations(Wire::default()))?),
                "tags" => {
                    members.next_value_seed(Tags(&mut self))?;
                }
                "shared" => self.flag("zipkin.shared", members.next_value()?),
                "debug" => self.flag("zipkin.debug", members.next_value()?),
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        self.finish();
        Ok(self)
    }
}

impl Span {
    fn id(&mut self, field: u32, width: usize, text: Option<Text<'_>>) {
        if let Some(id) = text.and_then(|Text(text)| padded(&text, width)) {
            self.wire.bytes(field, &id);
        }
    }

    fn kind<E: Error>(&mut self, kind: Option<Text<'_>>) -> Result<(), E> {
        let Some(Text(kind)) = kind else { return Ok(()) };
        let number = match &*kind {
            "SERVER" => 2,
            "CLIENT" => 3,
            "PRODUCER" => 4,
            "CONSUMER" => 5,
            _ => return Err(E::custom("`kind` is none of CLIENT, SERVER, PRODUCER and CONSUMER")),
        };
        self.wire.varint(6, number);
        Ok(())
    }

    fn local(&mut self, endpoint: Option<Endpoint<'_>>) {
        let Some(endpoint) = endpoint else { return };
        endpoint.write(&mut self.wire, "network.local.address", "network.local.port");
        self.origin.service = endpoint.service().map(str::to_owned);
    }

    fn remote(&mut self, endpoint: Option<Endpoint<'_>>) {
        let Some(endpoint) = endpoint else { return };
        endpoint.write(&mut self.wire, "network.peer.address", "network.peer.port");
        if let Some(service) = endpoint.service() {
            self.wire.text_pair(9, "peer.service", service);
        }
    }

    fn annotations(&mut self, events: Wire) {
        self.wire.append(&events.into_bytes());
    }

    fn flag(&mut self, key: &str, is_set: Option<bool>) {
        if is_set == Some(true) {
            self.wire.pair(9, key, |wire| wire.varint(2, 1));
        }
    }

    /// The names are those that OpenTelemetry's Zipkin exporters write.
    fn tag(&mut self, key: &str, value: &str) {
        match (key, value) {
            ("otel.scope.name" | "otel.library.name", _) => self.origin.scope = Some(value.to_owned()),
            ("otel.scope.version" | "otel.library.version", _) => self.origin.scope_version = Some(value.to_owned()),
            ("otel.status_code", "OK") => self.status_code = Some(OK),
            ("otel.status_code", "ERROR") => self.status_code = Some(ERROR),
            ("otel.status_description", _) => self.status_message = Some(value.to_owned()),
            ("error", "false") => self.wire.text_pair(9, key, value),
            ("error", _) => {
                self.status_code = self.status_code.or(Some(ERROR));
                let message = Some(value).filter(|value| !value.is_empty() && *value != "true");
                self.status_message = self.status_message.take().or(message.map(str::to_owned));
            }
            _ => self.wire.text_pair(9, key, value),
        }
    }

    fn finish(&mut self) {
        if let Some(start_us) = self.timestamp_us {
            let start_ns = start_us.saturating_mul(1_000);
            self.wire.fixed64(7, start_ns);
            self.wire.fixed64(8, start_ns.saturating_add(self.duration_us.unwrap_or(0).saturating_mul(1_000)));
        }
        let (code, message) = (self.status_code, self.status_message.take());
        // A message belongs to errors only.
        let message = message.filter(|_| code == Some(ERROR));
        if let Some(code) = code {
            self.wire.message(15, |status| {
                if let Some(message) = message {
                    status.text(2, &message);
                }
                status.varint(3, code);
            });
        }
    }
}

/// An id with leading zeros left out is the same id.
fn padded(text: &str, width: usize) -> Option<Vec<u8>> {
    let digits = width * 2;
    if text.is_empty() || text.len() > digits {
        return None;
    }
    hex(&format!("{text:0>digits$}"))
}

/// Borrowed where the JSON has it without escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint<'a> {
    #[serde(borrow, default)]
    service_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    ipv4: Option<Text<'a>>,
    #[serde(borrow, default)]
    ipv6: Option<Text<'a>>,
    #[serde(default)]
    port: Option<i64>,
}

impl Endpoint<'_> {
    fn service(&self) -> Option<&str> {
        self.service_name.as_ref().map(|text| &*text.0).filter(|name| !name.is_empty())
    }

    fn write(&self, span: &mut Wire, address: &str, port: &str) {
        let ip = |text: &Option<Text<'_>>| text.as_ref().and_then(|text| text.0.parse::<IpAddr>().ok());
        if let Some(ip) = ip(&self.ipv4).or(ip(&self.ipv6)) {
            span.text_pair(9, address, &ip.to_string());
        }
        if let Some(number) = self.port.filter(|port| (1..=65_535).contains(port)) {
            span.int_pair(9, port, number);
        }
    }
}

/// A list of annotations, written as events.
struct Annotations(Wire);

#[derive(Deserialize)]
struct Annotation<'a> {
    #[serde(default)]
    timestamp: Option<u64>,
    #[serde(borrow, default)]
    value: Option<Text<'a>>,
}

impl<'de> DeserializeSeed<'de> for Annotations {
    type Value = Wire;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Wire, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Annotations {
    type Value = Wire;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of annotations")
    }

    fn visit_unit<E>(self) -> Result<Wire, E> {
        Ok(self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Wire, A::Error> {
        while let Some(annotation) = items.next_element::<Annotation<'_>>()? {
            self.0.message(11, |event| {
                event.fixed64(1, annotation.timestamp.unwrap_or(0).saturating_mul(1_000));
                event.text(2, annotation.value.as_ref().map_or("", |text| &text.0));
            });
        }
        Ok(self.0)
    }
}

/// An object of tags, written as attributes.
struct Tags<'a>(&'a mut Span);

impl<'de> DeserializeSeed<'de> for Tags<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tags<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tags")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some((Text(key), value)) = members.next_entry::<Text<'_>, Option<Text<'_>>>()? {
            if let Some(Text(value)) = value {
                self.0.tag(&key, &value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
