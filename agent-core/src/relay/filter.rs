//! Which spans a destination gets.

use std::ops::Range;

use super::Glob;
use crate::wire::{
    Attribute, Attributes, Kind, Malformed, SpanView, StatusCode, Value, field_number as number, resource_pieces,
};

/// A span passes if it is one of `include`, or that is empty, and none of `exclude`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Wanted.
    pub include: Vec<SpanMatch>,
    /// Not wanted.
    pub exclude: Vec<SpanMatch>,
}

/// A kind of spans: all that is said has to hold. With nothing said, all spans.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanMatch {
    /// `service.name` of the resource; none is an empty one.
    pub service: Option<Glob>,
    /// Span name.
    pub name: Option<Glob>,
    /// Kind.
    pub kind: Option<Kind>,
    /// Status.
    pub status: Option<StatusCode>,
    /// At least this long.
    pub duration_ns_min: Option<u64>,
    /// Attributes by exact key and a glob of the value, of the span or else of its resource. Numbers and booleans are compared as
    /// text (`200`, `true`); arrays, pairs and empty values are like nothing.
    pub attributes: Vec<(String, Glob)>,
}

/// The resource of the spans that are looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resource<'a> {
    request: &'a [u8],
    /// The bodies of its pieces; almost always one.
    pieces: Vec<Range<usize>>,
    service: &'a [u8],
}

impl<'a> Resource<'a> {
    /// Of the `ResourceSpans` at `body`.
    pub fn read(request: &'a [u8], body: Range<usize>) -> Result<Self, Malformed> {
        let mut resource = Self { request, pieces: resource_pieces(request, body)?, service: b"" };
        for attribute in resource.attributes() {
            if let Attribute { key: b"service.name", value: Value::Text(text) } = attribute? {
                resource.service = text;
            }
        }
        Ok(resource)
    }

    /// `service.name`; empty: there is none.
    pub fn service(&self) -> &'a [u8] {
        self.service
    }

    fn attributes(&self) -> impl Iterator<Item = Result<Attribute<'a>, Malformed>> + use<'a> {
        let request = self.request;
        let of = move |piece| Attributes::new(request, piece, number::resource::ATTRIBUTES);
        self.pieces.clone().into_iter().flat_map(of)
    }
}

impl Filter {
    /// Whether every span passes.
    pub fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    pub(crate) fn passes(&self, span: &SpanView<'_>, resource: &Resource<'_>) -> Result<bool, Malformed> {
        let any = |matches: &[SpanMatch]| {
            for one in matches {
                if one.matches(span, resource)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        Ok((self.include.is_empty() || any(&self.include)?) && !any(&self.exclude)?)
    }
}

impl SpanMatch {
    fn matches(&self, span: &SpanView<'_>, resource: &Resource<'_>) -> Result<bool, Malformed> {
        let glob = |glob: &Option<Glob>, text| glob.as_ref().is_none_or(|glob| glob.matches(text));
        let own = self.kind.is_none_or(|kind| kind == span.kind)
            && self.status.is_none_or(|status| status == span.status)
            && self.duration_ns_min.is_none_or(|least| span.duration_ns() >= least)
            && glob(&self.service, resource.service)
            && glob(&self.name, span.name);
        if !own {
            return Ok(false);
        }
        for (key, wanted) in &self.attributes {
            let value = match find(span.attributes(), key)? {
                Some(value) => Some(value),
                None => find(resource.attributes(), key)?,
            };
            if !value.is_some_and(|value| is_like(&value, wanted)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn find<'a>(
    attributes: impl Iterator<Item = Result<Attribute<'a>, Malformed>>,
    key: &str,
) -> Result<Option<Value<'a>>, Malformed> {
    let mut found = None;
    for attribute in attributes {
        let attribute = attribute?;
        if attribute.key == key.as_bytes() {
            found = Some(attribute.value);
        }
    }
    Ok(found)
}

fn is_like(value: &Value<'_>, wanted: &Glob) -> bool {
    match value {
        Value::Text(text) | Value::Bytes(text) => wanted.matches(text),
        Value::Int(number) => wanted.matches(number.to_string().as_bytes()),
        Value::Bool(truth) => wanted.matches(truth.to_string().as_bytes()),
        Value::Double(number) => wanted.matches(number.to_string().as_bytes()),
        Value::Nested(_) | Value::Empty => false,
    }
}
