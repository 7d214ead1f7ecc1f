//! OTLP requests to what other receivers want.
//!
//! In: the protobuf bytes of an `ExportTraceServiceRequest`. Out: the bodies to send for it. Pure; called by the clients.
//! Spans without valid ids cannot be said in other formats: they are left out, and counted.

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{InstrumentationScope, KeyValue},
    resource::v1::Resource,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;

use super::{Pieces, blocking, compress::Compressor};
use crate::config::{Destination, Encoding, Protocol};

mod datadog;
mod datadog_names;
mod jaeger;
mod jaeger_proto;
mod jaeger_thrift;
mod json;
mod value;
mod zipkin;

#[cfg(test)]
pub(super) mod samples;

pub(super) use json::encode as otlp_json;

/// OpenTelemetry's name of a service that has none.
const UNKNOWN_SERVICE: &str = "unknown_service";

/// What a body is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The request's own bytes.
    Otlp,
    OtlpJson,
    Zipkin,
    JaegerProto,
    JaegerThrift,
    Datadog,
}

/// One body, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Post {
    pub body: Pieces,
    pub spans: u64,
    /// Only counted where the receiver asks.
    pub traces: u64,
}

/// What to send for a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Posts {
    pub posts: Vec<Post>,
    /// Spans that the format cannot say.
    pub left_out: u64,
}

impl Posts {
    /// The body of a format that puts a request into one; empty if it has nothing to say.
    pub(super) fn into_body(mut self) -> Bytes {
        self.posts.pop().map_or_else(Bytes::new, |post| post.body.joined())
    }
}

impl Format {
    /// Of what is sent to a destination; Jaeger's by gRPC is another.
    pub(super) fn of(destination: &Destination) -> Self {
        match destination.url.protocol {
            Protocol::Zipkin => Self::Zipkin,
            Protocol::Jaeger => Self::JaegerThrift,
            Protocol::Datadog => Self::Datadog,
            Protocol::Otlp if destination.encoding == Encoding::Json => Self::OtlpJson,
            Protocol::Otlp => Self::Otlp,
        }
    }

    /// How HTTP calls it.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Otlp | Self::JaegerProto => "application/x-protobuf",
            Self::OtlpJson | Self::Zipkin => "application/json",
            Self::JaegerThrift => "application/x-thrift",
            Self::Datadog => "application/msgpack",
        }
    }

    /// The bodies for a request.
    ///
    /// # Errors
    /// The bytes are no request.
    pub(super) fn encode(self, request: &Bytes) -> Result<Posts, String> {
        if self == Self::Otlp {
            // How many spans it has does not matter: the answer speaks for the request.
            let post = Post { body: request.clone().into(), spans: 0, traces: 0 };
            return Ok(Posts { posts: vec![post], left_out: 0 });
        }
        let request = decode(request)?;
        Ok(match self {
            Self::Otlp | Self::OtlpJson => one(json::encode(&request), 0, 0),
            Self::Zipkin => zipkin::encode(&request),
            Self::JaegerProto => jaeger::encode_proto(&request),
            Self::JaegerThrift => jaeger::encode_thrift(&request),
            Self::Datadog => datadog::encode(&request),
        })
    }

    /// The bodies for a request, compressed. That takes a while and waits for nothing, so it is not done where others wait.
    pub(super) async fn prepare(self, request: &Pieces, compressor: Compressor) -> Result<Posts, String> {
        let as_it_is = |body| Posts { posts: vec![Post { body, spans: 0, traces: 0 }], left_out: 0 };
        if self == Self::Otlp && compressor.content_encoding().is_none() {
            return Ok(as_it_is(request.clone()));
        }
        let request = request.clone();
        blocking(move || {
            let mut posts = if self == Self::Otlp { as_it_is(request) } else { self.encode(&request.joined())? };
            for post in &mut posts.posts {
                post.body = compressor.compress_pieces(&post.body).map_err(|cause| cause.to_string())?.into();
            }
            Ok::<_, String>(posts)
        })
        .await
    }
}

/// A request's bytes as the generated types.
pub(super) fn decode(request: &Bytes) -> Result<ExportTraceServiceRequest, String> {
    ExportTraceServiceRequest::decode(request.clone()).map_err(|cause| format!("the spans cannot be decoded: {cause}"))
}

fn one(body: Vec<u8>, spans: u64, left_out: u64) -> Posts {
    Posts { posts: vec![Post { body: body.into(), spans, traces: 0 }], left_out }
}

/// A span with what it belongs to.
#[derive(Clone, Copy)]
struct Item<'a> {
    resource: &'a [KeyValue],
    scope: Option<&'a InstrumentationScope>,
    span: &'a Span,
}

/// Spans in order. Those without valid ids are counted in `left_out`.
fn items<'a>(request: &'a ExportTraceServiceRequest, left_out: &mut u64) -> Vec<Item<'a>> {
    let mut found = Vec::new();
    for resource_spans in &request.resource_spans {
        let resource = resource_spans.resource.as_ref().map_or(&[][..], |resource: &Resource| &resource.attributes);
        for scope_spans in &resource_spans.scope_spans {
            let scope = scope_spans.scope.as_ref();
            let (valid, invalid): (Vec<_>, Vec<_>) = scope_spans.spans.iter().partition(|span| has_ids(span));
            *left_out += invalid.len() as u64;
            found.extend(valid.into_iter().map(|span| Item { resource, scope, span }));
        }
    }
    found
}

/// OTLP: ids of the right length that are not all zero.
fn has_ids(span: &Span) -> bool {
    let valid = |id: &[u8], bytes: usize| id.len() == bytes && id.iter().any(|byte| *byte != 0);
    valid(&span.trace_id, 16) && valid(&span.span_id, 8)
}

impl<'a> Item<'a> {
    fn service_name(&self) -> &'a str {
        value::text_of(self.resource, "service.name").filter(|name| !name.is_empty()).unwrap_or(UNKNOWN_SERVICE)
    }

    /// An attribute of the span that is a text.
    fn text(&self, key: &str) -> Option<&'a str> {
        value::text_of(&self.span.attributes, key).filter(|text| !text.is_empty())
    }

    /// The parent's id, if the span has one.
    fn parent(&self) -> Option<&'a [u8]> {
        let parent = &self.span.parent_span_id[..];
        (parent.len() == 8 && parent.iter().any(|byte| *byte != 0)).then_some(parent)
    }

    fn duration_ns(&self) -> u64 {
        self.span.end_time_unix_nano.saturating_sub(self.span.start_time_unix_nano)
    }

    /// The kind; what is unspecified counts as internal, as OTLP says.
    fn kind(&self) -> SpanKind {
        match self.span.kind() {
            SpanKind::Unspecified => SpanKind::Internal,
            kind => kind,
        }
    }

    /// Code and description; what is not known counts as unset.
    fn status(&self) -> (StatusCode, &'a str) {
        let Some(status) = &self.span.status else { return (StatusCode::Unset, "") };
        (StatusCode::try_from(status.code).unwrap_or(StatusCode::Unset), &status.message)
    }

    /// What has no attribute in OTLP and no field elsewhere, by the names of OpenTelemetry's "Mapping to non-OTLP formats".
    fn extras(&self) -> Vec<(&'static str, String)> {
        let (name, version) = self.scope.map_or(("", ""), |scope| (&scope.name, &scope.version));
        let count = |count: u32| if count == 0 { String::new() } else { count.to_string() };
        let code = match self.status().0 {
            StatusCode::Unset => "",
            StatusCode::Ok => "OK",
            StatusCode::Error => "ERROR",
        };
        let all = [
            ("otel.scope.name", name.to_owned()),
            ("otel.scope.version", version.to_owned()),
            ("otel.dropped_attributes_count", count(self.span.dropped_attributes_count)),
            ("otel.dropped_events_count", count(self.span.dropped_events_count)),
            ("otel.dropped_links_count", count(self.span.dropped_links_count)),
            ("w3c.tracestate", self.span.trace_state.clone()),
            ("otel.status_code", code.to_owned()),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}
