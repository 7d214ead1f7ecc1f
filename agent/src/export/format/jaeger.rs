//! Jaeger, by OpenTelemetry's "OpenTelemetry to Jaeger Transformation": one model, written as protobuf (`api_v2`) or Thrift.
//!
//! What that leaves open: attributes of a link become a log of the span, as the transformation suggests; a log has the
//! event's name as its field `event`.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{
        span::{Event, Link, SpanKind},
        status::StatusCode,
    },
};
use prost::Message;

use super::{
    Item, Post, Posts, items,
    jaeger_proto::{Batch, Log, PostSpansRequest, Process, Span, SpanRef, SpanRefType, Tag, Time, ValueType},
    jaeger_thrift, one,
    value::{self, Hex},
};

/// The low byte of OTLP's flags is that of `traceparent`, whose first bit says "sampled" as Jaeger's does.
const TRACE_FLAGS: u32 = 0xff;

/// `PostSpansRequest`. Spans of several processes go in one batch, each with its process, so that all or none are taken.
pub(super) fn encode_proto(request: &ExportTraceServiceRequest) -> Posts {
    let mut left_out = 0;
    let mut batches = batches(request, &mut left_out);
    let spans = count(&batches);
    let batch = match batches.len() {
        0 => return Posts { posts: Vec::new(), left_out },
        1 => batches.remove(0),
        _ => merged(batches),
    };
    one(PostSpansRequest { batch: Some(batch) }.encode_to_vec(), spans, left_out)
}

/// One Thrift `Batch` for each process: the collector reads one of a request, and a batch has one process.
pub(super) fn encode_thrift(request: &ExportTraceServiceRequest) -> Posts {
    let mut left_out = 0;
    let batches = batches(request, &mut left_out);
    let post = |batch: &Batch| {
        let spans = batch.spans.len() as u64;
        Post { body: jaeger_thrift::encode(batch).into(), spans, traces: 0 }
    };
    Posts { posts: batches.iter().map(post).collect(), left_out }
}

fn count(batches: &[Batch]) -> u64 {
    batches.iter().map(|batch| batch.spans.len() as u64).sum()
}

/// The spans, by process in the order of each one's first span.
fn batches(request: &ExportTraceServiceRequest, left_out: &mut u64) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut last: Option<(&[KeyValue], usize)> = None;
    for item in items(request, left_out) {
        // Spans of one resource follow each other.
        let place = match last {
            Some((resource, place)) if std::ptr::eq(resource, item.resource) => place,
            _ => place_of(&mut batches, process(&item)),
        };
        last = Some((item.resource, place));
        batches[place].spans.push(span(&item));
    }
    batches
}

fn place_of(batches: &mut Vec<Batch>, process: Process) -> usize {
    if let Some(place) = batches.iter().position(|batch| batch.process.as_ref() == Some(&process)) {
        return place;
    }
    batches.push(Batch { spans: Vec::new(), process: Some(process) });
    batches.len() - 1
}

fn merged(batches: Vec<Batch>) -> Batch {
    let mut all = Batch::default();
    for batch in batches {
        let with_process = batch.spans.into_iter().map(|span| Span { process: batch.process.clone(), ..span });
        all.spans.extend(with_process);
        all.process = all.process.or(batch.process);
    }
    all
}

fn process(item: &Item<'_>) -> Process {
    let others = item.resource.iter().filter(|attribute| attribute.key != "service.name");
    Process { service_name: item.service_name().to_owned(), tags: others.map(tag).collect() }
}

fn span(item: &Item<'_>) -> Span {
    let span = item.span;
    Span {
        trace_id: span.trace_id.clone(),
        span_id: span.span_id.clone(),
        operation_name: span.name.clone(),
        references: references(item),
        flags: span.flags & TRACE_FLAGS,
        start_time: Some(Time::of_ns(span.start_time_unix_nano)),
        duration: Some(Time::of_ns(item.duration_ns())),
        tags: tags(item),
        logs: logs(item),
        process: None,
    }
}

/// The parent first, then the links.
fn references(item: &Item<'_>) -> Vec<SpanRef> {
    let of = |trace_id: &[u8], span_id: &[u8], kind: SpanRefType| SpanRef {
        trace_id: trace_id.to_vec(),
        span_id: span_id.to_vec(),
        ref_type: kind.into(),
    };
    let parent = item.parent().map(|parent| of(&item.span.trace_id, parent, SpanRefType::ChildOf));
    let valid = |link: &&Link| link.trace_id.len() == 16 && link.span_id.len() == 8;
    let links = item.span.links.iter().filter(valid);
    parent.into_iter().chain(links.map(|link| of(&link.trace_id, &link.span_id, SpanRefType::FollowsFrom))).collect()
}

fn tags(item: &Item<'_>) -> Vec<Tag> {
    let mut tags: Vec<Tag> =
        item.span.attributes.iter().filter(|attribute| attribute.key != "error").map(tag).collect();
    let kind = match item.kind() {
        SpanKind::Client => "client",
        SpanKind::Server => "server",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
        SpanKind::Internal | SpanKind::Unspecified => "",
    };
    let (code, description) = item.status();
    for (key, value) in [("span.kind", kind), ("otel.status_description", description)] {
        if !value.is_empty() {
            tags.push(text(key, value));
        }
    }
    if code == StatusCode::Error {
        tags.push(Tag { v_type: ValueType::Bool.into(), v_bool: true, ..named("error") });
    }
    tags.extend(item.extras().iter().map(|(key, value)| text(key, value)));
    tags
}

fn logs(item: &Item<'_>) -> Vec<Log> {
    let events = item.span.events.iter().map(event);
    let links = item.span.links.iter().filter(|link| !link.attributes.is_empty());
    events.chain(links.map(|link| link_log(link, item.span.start_time_unix_nano))).collect()
}

fn event(event: &Event) -> Log {
    let mut fields: Vec<Tag> = event.attributes.iter().map(tag).collect();
    if !event.name.is_empty() && fields.iter().all(|field| field.key != "event") {
        fields.insert(0, text("event", &event.name));
    }
    if event.dropped_attributes_count > 0 {
        fields.push(int("otel.event.dropped_attributes_count", event.dropped_attributes_count.into()));
    }
    Log { timestamp: Some(Time::of_ns(event.time_unix_nano)), fields }
}

fn link_log(link: &Link, start: u64) -> Log {
    let ids = [("trace_id", Hex(&link.trace_id)), ("span_id", Hex(&link.span_id))];
    let mut fields = vec![text("event", "link")];
    fields.extend(ids.map(|(key, id)| text(key, &id.to_string())));
    fields.extend(link.attributes.iter().map(tag));
    Log { timestamp: Some(Time::of_ns(start)), fields }
}

fn named(key: &str) -> Tag {
    Tag { key: key.to_owned(), ..Tag::default() }
}

fn text(key: &str, value: &str) -> Tag {
    Tag { v_type: ValueType::String.into(), v_str: value.to_owned(), ..named(key) }
}

fn int(key: &str, value: i64) -> Tag {
    Tag { v_type: ValueType::Int64.into(), v_int64: value, ..named(key) }
}

/// Primitive types stay what they are, lists and maps are JSON.
fn tag(attribute: &KeyValue) -> Tag {
    let key = &attribute.key;
    let value: Option<&AnyValue> = attribute.value.as_ref();
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::BoolValue(value)) => Tag { v_type: ValueType::Bool.into(), v_bool: *value, ..named(key) },
        Some(Value::IntValue(value)) => int(key, *value),
        Some(Value::DoubleValue(value)) => Tag { v_type: ValueType::Float64.into(), v_float64: *value, ..named(key) },
        Some(Value::BytesValue(value)) => {
            Tag { v_type: ValueType::Binary.into(), v_binary: value.clone(), ..named(key) }
        }
        _ => text(key, &value::text(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    fn decoded(request: &ExportTraceServiceRequest) -> Batch {
        let posts = encode_proto(request);
        assert_eq!((posts.posts.len(), posts.left_out), (1, 0));
        let batch = PostSpansRequest::decode(posts.posts[0].body.joined()).unwrap().batch.unwrap();
        assert_eq!(posts.posts[0].spans, batch.spans.len() as u64);
        batch
    }

    fn find<'a>(tags: &'a [Tag], key: &str) -> &'a Tag {
        let found: Vec<_> = tags.iter().filter(|tag| tag.key == key).collect();
        assert_eq!(found.len(), 1, "{key}");
        found[0]
    }

    #[test]
    fn a_span_is_mapped_as_the_specification_says() {
        let batch = decoded(&samples::full());
        let process = batch.process.unwrap();
        assert_eq!((process.service_name.as_str(), process.tags.len()), ("shop", 1));
        assert_eq!(find(&process.tags, "host.name").v_str, "web-1");
        let span = &batch.spans[0];
        assert_eq!((&span.trace_id, &span.span_id), (&samples::id(1, 16), &samples::id(0x11, 8)));
        assert_eq!((span.operation_name.as_str(), span.flags), ("GET /a", 1));
        assert_eq!(span.start_time, Some(Time { seconds: 1_700_000_000, nanos: 1234 }));
        assert_eq!(span.duration, Some(Time { seconds: 0, nanos: 1_235_555 }));
        let references: Vec<_> = span.references.iter().map(|r| (r.ref_type(), r.span_id.clone())).collect();
        let expected = [(SpanRefType::ChildOf, samples::id(0x21, 8)), (SpanRefType::FollowsFrom, samples::id(0x31, 8))];
        assert_eq!(references, expected);
        for (key, value) in [
            ("span.kind", "client"),
            ("otel.status_code", "ERROR"),
            ("otel.status_description", "no such shop"),
            ("otel.scope.name", "lib"),
            ("list", r#"[1,"a\"b"]"#),
            ("w3c.tracestate", "a=b"),
        ] {
            let tag = find(&span.tags, key);
            assert_eq!((tag.v_type(), tag.v_str.as_str()), (ValueType::String, value), "{key}");
        }
        assert_eq!(find(&span.tags, "int").v_int64, i64::MIN);
        assert_eq!(find(&span.tags, "double").v_float64, 0.5);
        assert_eq!(find(&span.tags, "bool").v_type(), ValueType::Bool);
        assert_eq!(find(&span.tags, "bytes").v_binary, [0, 255]);
        assert!(find(&span.tags, "error").v_bool);
        let [event, link] = &span.logs[..] else { panic!("{:?}", span.logs) };
        assert_eq!(event.timestamp, Some(Time { seconds: 1_700_000_000, nanos: 500_000 }));
        assert_eq!(find(&event.fields, "event").v_str, "exception");
        assert_eq!(find(&event.fields, "exception.type").v_str, "Oops");
        assert_eq!(find(&event.fields, "otel.event.dropped_attributes_count").v_int64, 1);
        assert_eq!((find(&link.fields, "event").v_str.as_str(), link.timestamp), ("link", span.start_time));
    }

    #[test]
    fn spans_are_grouped_by_process() {
        let span = |name| samples::span(name, SpanKind::Internal, Vec::new());
        let mut request = samples::of(vec![samples::text("service.name", "a")], vec![span("1"), span("2")]);
        for (service, name) in [("b", "3"), ("a", "4")] {
            request
                .resource_spans
                .extend(samples::of(vec![samples::text("service.name", service)], vec![span(name)]).resource_spans);
        }
        let posts = encode_thrift(&request);
        assert_eq!(posts.posts.iter().map(|post| post.spans).collect::<Vec<_>>(), [3, 1]);
        let batch = decoded(&request);
        let of = |span: &Span| (span.operation_name.clone(), span.process.clone().unwrap().service_name);
        let expected = [("1", "a"), ("2", "a"), ("4", "a"), ("3", "b")].map(|(n, s)| (n.to_owned(), s.to_owned()));
        assert_eq!(batch.spans.iter().map(of).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn nothing_to_send_is_nothing() {
        let request = samples::of(Vec::new(), vec![opentelemetry_proto::tonic::trace::v1::Span::default()]);
        let nothing = Posts { posts: Vec::new(), left_out: 1 };
        assert_eq!((encode_proto(&request), encode_thrift(&request)), (nothing.clone(), nothing));
    }
}
