//! Traces of a Datadog agent, v0.4: MessagePack, a list of traces of which each is a list of spans.
//!
//! The agent has 64-bit trace ids: the low half is the id, the high half travels as `_dd.p.tid`. Names, resources and types
//! are those that the agent's own OTLP receiver gives. Nothing is sampled here, so every first span of a trace says "keep".

use std::{borrow::Cow, collections::BTreeMap};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{
        span::{Event, Link},
        status::StatusCode,
    },
};
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::{
    Item, Post, Posts, datadog_names, items,
    value::{self, Hex, find, object, text_of},
};

/// `_sampling_priority_v1`: keep, as nobody has decided otherwise.
const AUTO_KEEP: f64 = 1.0;

#[derive(Serialize)]
struct DatadogSpan<'a> {
    service: &'a str,
    name: Cow<'a, str>,
    resource: Cow<'a, str>,
    trace_id: u64,
    span_id: u64,
    parent_id: u64,
    start: i64,
    duration: i64,
    error: i32,
    meta: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    metrics: BTreeMap<Cow<'a, str>, f64>,
    #[serde(rename = "type")]
    kind: &'a str,
}

pub(super) fn encode(request: &ExportTraceServiceRequest) -> Posts {
    let mut left_out = 0;
    let mut traces: Vec<Vec<DatadogSpan>> = Vec::new();
    let mut places = BTreeMap::new();
    let mut spans = 0;
    for item in items(request, &mut left_out) {
        let span = span(item);
        if span.trace_id == 0 {
            // No id to the agent.
            left_out += 1;
            continue;
        }
        spans += 1;
        let place = *places.entry(&item.span.trace_id[..]).or_insert_with(|| {
            traces.push(Vec::new());
            traces.len() - 1
        });
        traces[place].push(span);
    }
    if traces.is_empty() {
        return Posts { posts: Vec::new(), left_out };
    }
    traces.iter_mut().for_each(|trace| keep(trace));
    // Writing to memory does not fail.
    let body = rmp_serde::to_vec_named(&traces).unwrap_or_default();
    Posts { posts: vec![Post { body: body.into(), spans, traces: traces.len() as u64 }], left_out }
}

/// What the agent reads from the first span of a trace that has no parent among the others.
fn keep(trace: &mut [DatadogSpan]) {
    let ids: Vec<u64> = trace.iter().map(|span| span.span_id).collect();
    for span in trace.iter_mut().filter(|span| !ids.contains(&span.parent_id)) {
        span.metrics.insert("_sampling_priority_v1".into(), AUTO_KEEP);
    }
}

fn span(item: Item<'_>) -> DatadogSpan<'_> {
    let (high, low) = item.span.trace_id.split_at(8);
    let mut span = DatadogSpan {
        service: item.service_name(),
        name: datadog_names::operation(&item),
        resource: datadog_names::resource(&item),
        trace_id: id(low),
        span_id: id(&item.span.span_id),
        parent_id: item.parent().map_or(0, id),
        start: item.span.start_time_unix_nano.try_into().unwrap_or(i64::MAX),
        duration: item.duration_ns().try_into().unwrap_or(i64::MAX),
        error: (item.status().0 == StatusCode::Error).into(),
        meta: BTreeMap::new(),
        metrics: BTreeMap::new(),
        kind: datadog_names::kind(&item),
    };
    for attribute in item.resource.iter().chain(&item.span.attributes) {
        put(&mut span, attribute);
    }
    let mut meta = |key: &'static str, value: String| {
        if !value.is_empty() {
            span.meta.insert(key.into(), value.into());
        }
    };
    item.extras().into_iter().for_each(|(key, value)| meta(key, value));
    meta("span.kind", datadog_names::span_kind(&item).to_owned());
    meta("otel.trace_id", Hex(&item.span.trace_id).to_string());
    if id(high) != 0 {
        meta("_dd.p.tid", Hex(high).to_string());
    }
    for (key, value) in facts(&item).into_iter().chain(error(&item)) {
        meta(key, value);
    }
    if !item.span.events.is_empty() {
        meta("events", Json::from_iter(item.span.events.iter().map(event)).to_string());
    }
    if !item.span.links.is_empty() {
        meta("_dd.span_links", Json::from_iter(item.span.links.iter().map(link)).to_string());
    }
    span
}

/// Numbers are metrics, everything else is a text.
fn put<'a>(span: &mut DatadogSpan<'a>, attribute: &'a KeyValue) {
    let key = Cow::Borrowed(attribute.key.as_str());
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        // Datadog's metrics are floating point numbers.
        Some(Value::IntValue(value)) => drop(span.metrics.insert(key, *value as f64)),
        Some(Value::DoubleValue(value)) => drop(span.metrics.insert(key, *value)),
        _ => drop(span.meta.insert(key, value::text(attribute.value.as_ref()))),
    }
}

/// What Datadog has its own names for.
fn facts(item: &Item<'_>) -> Vec<(&'static str, String)> {
    let of_resource = |key| text_of(item.resource, key).unwrap_or_default().to_owned();
    let environment = Some(of_resource("deployment.environment.name")).filter(|name| !name.is_empty());
    let status = find(&item.span.attributes, "http.response.status_code");
    let status = status.or_else(|| find(&item.span.attributes, "http.status_code"));
    let status = match status {
        Some(Value::IntValue(code)) => code.to_string(),
        _ => String::new(),
    };
    vec![
        ("env", environment.unwrap_or_else(|| of_resource("deployment.environment"))),
        ("version", of_resource("service.version")),
        ("http.status_code", status),
    ]
}

/// What is shown of an error: the status, and the last exception.
fn error(item: &Item<'_>) -> Vec<(&'static str, String)> {
    let (StatusCode::Error, description) = item.status() else { return Vec::new() };
    let exception = item.span.events.iter().rfind(|event| event.name == "exception");
    let of = |key| exception.and_then(|event| text_of(&event.attributes, key)).unwrap_or_default().to_owned();
    let message = if description.is_empty() { of("exception.message") } else { description.to_owned() };
    let kind = match of("exception.type") {
        kind if kind.is_empty() => item.text("error.type").unwrap_or_default().to_owned(),
        kind => kind,
    };
    vec![("error.msg", message), ("error.type", kind), ("error.stack", of("exception.stacktrace"))]
}

fn event(event: &Event) -> Json {
    json!({"name": event.name, "time_unix_nano": event.time_unix_nano, "attributes": object(&event.attributes)})
}

fn link(link: &Link) -> Json {
    let attributes: serde_json::Map<_, _> = link
        .attributes
        .iter()
        .map(|attribute| (attribute.key.clone(), json!(value::text(attribute.value.as_ref()))))
        .collect();
    json!({
        "trace_id": Hex(&link.trace_id).to_string(),
        "span_id": Hex(&link.span_id).to_string(),
        "tracestate": link.trace_state,
        "attributes": attributes,
        "dropped_attributes_count": link.dropped_attributes_count,
    })
}

fn id(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};

    use super::{super::samples, *};

    fn written(request: &ExportTraceServiceRequest) -> Json {
        let posts = encode(request);
        let traces: Json = rmp_serde::from_slice(&posts.posts[0].body.joined()).unwrap();
        assert_eq!(traces.as_array().unwrap().len() as u64, posts.posts[0].traces);
        traces
    }

    #[test]
    fn a_span_has_what_the_agent_asks_for() {
        let traces = written(&samples::full());
        let span = &traces[0][0];
        for (key, value) in [
            ("service", json!("shop")),
            ("name", json!("http.client.request")),
            ("resource", json!("GET")),
            ("type", json!("http")),
            ("trace_id", json!(0x090a_0b0c_0d0e_0f10_u64)),
            ("span_id", json!(0x1112_1314_1516_1718_u64)),
            ("parent_id", json!(0x2122_2324_2526_2728_u64)),
            ("start", json!(samples::START)),
            ("duration", json!(1_235_555)),
            ("error", json!(1)),
        ] {
            assert_eq!(span[key], value, "{key}");
        }
        for (key, value) in [
            ("_dd.p.tid", "0102030405060708"),
            ("otel.trace_id", "0102030405060708090a0b0c0d0e0f10"),
            ("span.kind", "client"),
            ("host.name", "web-1"),
            ("bool", "false"),
            ("list", r#"[1,"a\"b"]"#),
            ("error.msg", "no such shop"),
            ("error.type", "Oops"),
            ("otel.status_code", "ERROR"),
        ] {
            assert_eq!(span["meta"][key], value, "{key}");
        }
        assert_eq!((&span["metrics"]["double"], &span["metrics"]["server.port"]), (&json!(0.5), &json!(8080.0)));
        assert_eq!(span["metrics"]["_sampling_priority_v1"], 1.0);
        let parsed = |key: &str| serde_json::from_str::<Json>(span["meta"][key].as_str().unwrap()).unwrap();
        assert_eq!(parsed("events")[0]["attributes"]["exception.type"], "Oops");
        assert_eq!(parsed("_dd.span_links")[0]["span_id"], "3132333435363738");
    }

    #[test]
    fn spans_are_grouped_by_trace_and_local_roots_are_kept() {
        let span = |trace: u8, id: u8, parent: u8| Span {
            trace_id: samples::id(trace, 16),
            span_id: samples::id(id, 8),
            parent_span_id: if parent == 0 { Vec::new() } else { samples::id(parent, 8) },
            ..samples::span("s", SpanKind::Internal, Vec::new())
        };
        let mut request = samples::of(Vec::new(), vec![span(1, 1, 9), span(2, 2, 0), span(1, 3, 1)]);
        request.resource_spans.extend(samples::of(Vec::new(), vec![span(1, 4, 3)]).resource_spans);
        let traces = written(&request);
        let sizes: Vec<_> = traces.as_array().unwrap().iter().map(|trace| trace.as_array().unwrap().len()).collect();
        assert_eq!(sizes, [3, 1]);
        let kept: Vec<_> =
            traces[0].as_array().unwrap().iter().map(|s| !s["metrics"]["_sampling_priority_v1"].is_null()).collect();
        assert_eq!(kept, [true, false, false]);
        assert_eq!(traces[1][0]["parent_id"], 0);
    }

    #[test]
    fn a_trace_without_a_low_half_cannot_be_said() {
        let mut trace_id = samples::id(1, 16);
        trace_id[8..].fill(0);
        let span = Span { trace_id, ..samples::span("s", SpanKind::Internal, Vec::new()) };
        assert_eq!(encode(&samples::of(Vec::new(), vec![span])), Posts { posts: Vec::new(), left_out: 1 });
    }
}
