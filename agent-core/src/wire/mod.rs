//! OTLP requests as the bytes that they are.
//!
//! In: the protobuf bytes of an `ExportTraceServiceRequest`, which are also those of a `TracesData` (both are
//! `repeated ResourceSpans resource_spans = 1`). Out: what is asked of them, and edited copies in which everything that was not
//! meant is byte for byte what it was, in its order, fields from newer versions of the protocol too. Called by [`crate::relay`], by
//! the span log (index) and by the exporter (bisecting, by trace). Never: decodes into objects, allocates per field, panics.
//!
//! Malformed is what protobuf's own readers refuse: a length beyond its message, a varint of more than 64 bits, an unknown wire
//! type, a group without end, a known field with another wire type. A field that occurs twice counts as its last one.

mod edit;
mod field;
mod span;
mod split;
mod traces;

pub(crate) use self::{
    edit::{Checkpoint, Editor},
    field::{
        Field, Fields, PlainPair, Wire, is_short_pair, put_bytes, put_text_attribute, put_true_attribute, put_varint,
        varint, varint_bytes,
    },
    span::{ATTRIBUTE_TAG, next_message, pair, resource_pieces},
};
pub use self::{
    field::{GROUP_DEPTH_MAX, Malformed},
    span::{Attribute, Attributes, Kind, Scanned, SpanView, Spans, StatusCode, Value, spans},
    split::split,
    traces::{TraceSpans, by_trace},
};
pub use crate::relay::{Shape, ShapeCounts};

/// Field numbers of `opentelemetry/proto`.
pub(crate) mod field_number {
    /// `ExportTraceServiceRequest`, `TracesData`.
    pub mod request {
        pub const RESOURCE_SPANS: u32 = 1;
    }
    /// `ResourceSpans`.
    pub mod resource_spans {
        pub const RESOURCE: u32 = 1;
        pub const SCOPE_SPANS: u32 = 2;
    }
    /// `Resource`.
    pub mod resource {
        pub const ATTRIBUTES: u32 = 1;
    }
    /// `ScopeSpans`.
    pub mod scope_spans {
        pub const SCOPE: u32 = 1;
        pub const SPANS: u32 = 2;
    }
    /// `InstrumentationScope`.
    pub mod scope {
        pub const ATTRIBUTES: u32 = 3;
    }
    /// `Span`.
    pub mod span {
        pub const TRACE_ID: u32 = 1;
        pub const SPAN_ID: u32 = 2;
        pub const TRACE_STATE: u32 = 3;
        pub const PARENT_SPAN_ID: u32 = 4;
        pub const NAME: u32 = 5;
        pub const KIND: u32 = 6;
        pub const START_TIME: u32 = 7;
        pub const END_TIME: u32 = 8;
        pub const ATTRIBUTES: u32 = 9;
        pub const EVENTS: u32 = 11;
        pub const LINKS: u32 = 13;
        pub const STATUS: u32 = 15;
    }
    /// `Span.Event`.
    pub mod event {
        pub const NAME: u32 = 2;
        pub const ATTRIBUTES: u32 = 3;
    }
    /// `Span.Link`.
    pub mod link {
        pub const ATTRIBUTES: u32 = 4;
    }
    /// `Status`.
    pub mod status {
        pub const MESSAGE: u32 = 2;
        pub const CODE: u32 = 3;
    }
    /// `KeyValue`.
    pub mod key_value {
        pub const KEY: u32 = 1;
        pub const VALUE: u32 = 2;
    }
    /// `AnyValue`.
    pub mod any {
        pub const STRING: u32 = 1;
        pub const BOOL: u32 = 2;
        pub const INT: u32 = 3;
        pub const DOUBLE: u32 = 4;
        pub const ARRAY: u32 = 5;
        pub const PAIRS: u32 = 6;
        pub const BYTES: u32 = 7;
    }
    /// `ArrayValue` and `KeyValueList`.
    pub mod list {
        pub const VALUES: u32 = 1;
    }
}

/// What a request holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Spans.
    pub spans: u32,
    /// Earliest start in nanoseconds since the Unix epoch; a start of 0 is none. 0 if no span has one.
    pub start_unix_ns_min: u64,
    /// Latest end, likewise; 0 if there is none.
    pub end_unix_ns_max: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, start_unix_ns: u64, end_unix_ns: u64) {
        self.spans = self.spans.saturating_add(1);
        if start_unix_ns != 0 && (self.start_unix_ns_min == 0 || start_unix_ns < self.start_unix_ns_min) {
            self.start_unix_ns_min = start_unix_ns;
        }
        self.end_unix_ns_max = self.end_unix_ns_max.max(end_unix_ns);
    }
}

/// Counts the spans of a request and finds its time range. Looks at the spans' own fields, not into their attributes, events and
/// links.
pub fn summary(request: &[u8]) -> Result<Summary, Malformed> {
    let mut summary = Summary::default();
    for span in spans(request) {
        let span = span?;
        summary.add(span.start_unix_ns, span.end_unix_ns);
    }
    Ok(summary)
}

/// Counts the spans of a request without looking into them, so that what is in them may be malformed.
pub fn count_spans(request: &[u8]) -> Result<u64, Malformed> {
    let mut spans = 0;
    let mut resources = Fields::new(request, 0..request.len());
    while let Some(resource_spans) = next_message(&mut resources, field_number::request::RESOURCE_SPANS)? {
        let mut scopes = Fields::new(request, resource_spans);
        while let Some(scope_spans) = next_message(&mut scopes, field_number::resource_spans::SCOPE_SPANS)? {
            let mut fields = Fields::new(request, scope_spans);
            loop {
                while fields.next_short((field_number::scope_spans::SPANS << 3 | 2) as u8).is_some() {
                    spans += 1;
                }
                if next_message(&mut fields, field_number::scope_spans::SPANS)?.is_none() {
                    break;
                }
                spans += 1;
            }
        }
    }
    Ok(spans)
}

#[cfg(test)]
mod tests;
