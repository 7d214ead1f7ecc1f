//! Zipkin v2 in JSON, by OpenTelemetry's "OpenTelemetry to Zipkin Transformation".
//!
//! What that leaves open: attributes of the resource are tags too, those of the span are stronger; links are the tags
//! `otlp.link.<n>` (trace id, span id, trace state, attributes, number of dropped ones, with `|` between), which the
//! OpenTelemetry Collector turns into links again.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::KeyValue,
    trace::v1::{
        span::{Event, Link, SpanKind},
        status::StatusCode,
    },
};
use serde::Serialize;

use super::{
    Item, Posts, items, one,
    value::{self, Hex, object, port_of, text_of},
};

const SERVICE_PEER_NAME: &str = "service.peer.name";
/// What names the other side, the first that is there, and what may have its port.
const REMOTE: [(&str, &str); 12] = [
    ("peer.service", ""),
    (SERVICE_PEER_NAME, ""),
    ("server.address", "server.port"),
    ("net.peer.name", "net.peer.port"),
    ("network.peer.address", "network.peer.port"),
    ("server.socket.domain", "server.socket.port"),
    ("server.socket.address", "server.socket.port"),
    ("net.sock.peer.name", "net.sock.peer.port"),
    ("net.sock.peer.addr", "net.sock.peer.port"),
    ("peer.hostname", ""),
    ("peer.address", ""),
    ("db.name", ""),
];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ZipkinSpan<'a> {
    trace_id: Hex<'a>,
    id: Hex<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<Hex<'a>>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    timestamp: u64,
    duration: u64,
    local_endpoint: Endpoint<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_endpoint: Option<Endpoint<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    annotations: Vec<Annotation<'a>>,
    tags: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

#[derive(Serialize)]
struct Annotation<'a> {
    timestamp: u64,
    value: Cow<'a, str>,
}

pub(super) fn encode(request: &ExportTraceServiceRequest) -> Posts {
    let mut left_out = 0;
    let spans: Vec<_> = items(request, &mut left_out).into_iter().map(span).collect();
    if spans.is_empty() {
        return Posts { posts: Vec::new(), left_out };
    }
    // Writing to memory does not fail, and every key is a text.
    one(serde_json::to_vec(&spans).unwrap_or_default(), spans.len() as u64, left_out)
}

fn span(item: Item<'_>) -> ZipkinSpan<'_> {
    let attributes = &item.span.attributes;
    ZipkinSpan {
        trace_id: Hex(&item.span.trace_id),
        id: Hex(&item.span.span_id),
        parent_id: item.parent().map(Hex),
        name: &item.span.name,
        kind: kind(item.kind()),
        timestamp: item.span.start_time_unix_nano / 1000,
        // Zipkin takes 0 for a span that is not over.
        duration: (item.duration_ns() / 1000).max(1),
        local_endpoint: Endpoint {
            service_name: Some(item.service_name()),
            ..address(attributes, "network.local.address", "network.local.port")
        },
        remote_endpoint: remote(&item).filter(|endpoint| *endpoint != Endpoint::default()),
        annotations: item.span.events.iter().map(annotation).collect(),
        tags: tags(&item),
    }
}

fn kind(kind: SpanKind) -> Option<&'static str> {
    match kind {
        SpanKind::Client => Some("CLIENT"),
        SpanKind::Server => Some("SERVER"),
        SpanKind::Producer => Some("PRODUCER"),
        SpanKind::Consumer => Some("CONSUMER"),
        SpanKind::Internal | SpanKind::Unspecified => None,
    }
}

/// The other side. What `server.address` and the like name is the other side only of who calls.
fn remote<'a>(item: &Item<'a>) -> Option<Endpoint<'a>> {
    let attributes = &item.span.attributes;
    match item.kind() {
        SpanKind::Client | SpanKind::Producer => {}
        SpanKind::Server | SpanKind::Consumer => {
            let peer = address(attributes, "network.peer.address", "network.peer.port");
            return Some(Endpoint { service_name: item.text(SERVICE_PEER_NAME), ..peer });
        }
        SpanKind::Internal | SpanKind::Unspecified => return None,
    }
    let (key, port) = REMOTE.iter().find(|(key, _)| item.text(key).is_some())?;
    let by_address = address(attributes, key, port);
    if by_address != Endpoint::default() {
        return Some(by_address);
    }
    // Only the agent says who is at the address, which is still known then.
    if *key == SERVICE_PEER_NAME {
        let peer = address(attributes, "network.peer.address", "network.peer.port");
        return Some(Endpoint { service_name: item.text(key), ..peer });
    }
    Some(Endpoint { service_name: item.text(key), port: port_of(attributes, port), ..Endpoint::default() })
}

/// An endpoint of an address and its port; empty if the text is no address.
fn address<'a>(attributes: &[KeyValue], key: &str, port: &str) -> Endpoint<'a> {
    let address = text_of(attributes, key).and_then(|text| text.parse::<IpAddr>().ok());
    let Some(address) = address else { return Endpoint::default() };
    Endpoint {
        service_name: None,
        ipv4: Some(address).filter(IpAddr::is_ipv4),
        ipv6: Some(address).filter(IpAddr::is_ipv6),
        port: port_of(attributes, port),
    }
}

fn annotation(event: &Event) -> Annotation<'_> {
    let value = if event.attributes.is_empty() {
        Cow::Borrowed(event.name.as_str())
    } else {
        Cow::Owned(format!("{}: {}", serde_json::json!(event.name), object(&event.attributes)))
    };
    Annotation { timestamp: event.time_unix_nano / 1000, value }
}

fn tags<'a>(item: &Item<'a>) -> BTreeMap<Cow<'a, str>, Cow<'a, str>> {
    let mut tags = BTreeMap::new();
    let of_resource = item.resource.iter().filter(|attribute| attribute.key != "service.name");
    for attribute in of_resource.chain(&item.span.attributes) {
        tags.insert(Cow::Borrowed(attribute.key.as_str()), value::text(attribute.value.as_ref()));
    }
    for (index, link) in item.span.links.iter().enumerate() {
        tags.insert(Cow::Owned(format!("otlp.link.{index}")), Cow::Owned(link_text(link)));
    }
    tags.extend(item.extras().into_iter().map(|(key, value)| (Cow::Borrowed(key), Cow::Owned(value))));
    // Zipkin takes a span with this tag for failed, whatever the tag says.
    tags.remove("error");
    if let (StatusCode::Error, description) = item.status() {
        tags.insert("error".into(), description.into());
    }
    tags
}

fn link_text(link: &Link) -> String {
    let (trace, span, state) = (Hex(&link.trace_id), Hex(&link.span_id), &link.trace_state);
    format!("{trace}|{span}|{state}|{}|{}", object(&link.attributes), link.dropped_attributes_count)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{common::v1::any_value::Value, trace::v1::Span};
    use serde_json::{Value as Json, json};

    use super::{
        super::samples::{self, pair, text},
        *,
    };

    fn written(request: &ExportTraceServiceRequest) -> Json {
        let posts = encode(request);
        let json: Json = serde_json::from_slice(&posts.posts[0].body.joined()).unwrap();
        assert_eq!(json.as_array().unwrap().len() as u64, posts.posts[0].spans);
        json[0].clone()
    }

    fn one_span(kind: SpanKind, attributes: Vec<KeyValue>) -> Json {
        written(&samples::of(Vec::new(), vec![samples::span("s", kind, attributes)]))
    }

    #[test]
    fn a_span_is_mapped_as_the_specification_says() {
        let mut span = written(&samples::full());
        let tags = span["tags"].take();
        assert_eq!(
            span,
            json!({
                "traceId": "0102030405060708090a0b0c0d0e0f10",
                "id": "1112131415161718",
                "parentId": "2122232425262728",
                "name": "GET /a",
                "kind": "CLIENT",
                "timestamp": 1_700_000_000_000_001_u64,
                "duration": 1235,
                "localEndpoint": {"serviceName": "shop"},
                "remoteEndpoint": {"serviceName": "shop.example", "port": 8080},
                "annotations": [{
                    "timestamp": 1_700_000_000_000_500_u64,
                    "value": r#""exception": {"exception.type":"Oops","exception.message":"it \"broke\""}"#,
                }],
                "tags": null,
            })
        );
        for (key, value) in [
            ("host.name", "web-1"),
            ("http.request.method", "GET"),
            ("int", "-9223372036854775808"),
            ("bool", "false"),
            ("list", r#"[1,"a\"b"]"#),
            ("otel.status_code", "ERROR"),
            ("error", "no such shop"),
            ("otel.scope.name", "lib"),
            ("otel.scope.version", "1.2"),
            ("otel.dropped_attributes_count", "2"),
            ("w3c.tracestate", "a=b"),
            ("otlp.link.0", r#"4142434445464748494a4b4c4d4e4f50|3132333435363738|c=d|{"why":"queue"}|0"#),
        ] {
            assert_eq!(tags[key], value, "{key}");
        }
        assert!(tags.get("service.name").is_none());
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let span = Span { end_time_unix_nano: 0, ..samples::span("s", SpanKind::Internal, Vec::new()) };
        let span = written(&samples::of(Vec::new(), vec![span]));
        for key in ["parentId", "kind", "remoteEndpoint", "annotations"] {
            assert!(span.get(key).is_none(), "{key}");
        }
        assert_eq!((&span["duration"], &span["localEndpoint"]["serviceName"]), (&json!(1), &json!("unknown_service")));
        assert_eq!(span["tags"], json!({"otel.scope.name": "lib", "otel.scope.version": "1.2"}));
    }

    #[test]
    fn only_errors_have_the_tag_that_says_so() {
        let attribute = || vec![pair("error", Value::BoolValue(false))];
        assert!(one_span(SpanKind::Client, attribute())["tags"].get("error").is_none());
    }

    #[test]
    fn the_other_side_is_named_by_the_best_attribute() {
        let peer = || [text("network.peer.address", "10.0.0.7"), pair("network.peer.port", Value::IntValue(5432))];
        let remote = |kind, more: &[KeyValue]| {
            let attributes = peer().into_iter().chain(more.iter().cloned()).collect();
            one_span(kind, attributes)["remoteEndpoint"].clone()
        };
        assert_eq!(remote(SpanKind::Client, &[]), json!({"ipv4": "10.0.0.7", "port": 5432}));
        assert_eq!(remote(SpanKind::Client, &[text("peer.service", "db")]), json!({"serviceName": "db"}));
        for kind in [SpanKind::Client, SpanKind::Server] {
            let named = remote(kind, &[text("service.peer.name", "db")]);
            assert_eq!(named, json!({"serviceName": "db", "ipv4": "10.0.0.7", "port": 5432}));
        }
        assert_eq!(remote(SpanKind::Client, &[text("server.address", "::1")]), json!({"ipv6": "::1"}));
        // Its own address, which is not the other side's.
        let own = [text("server.address", "shop.example")];
        assert_eq!(remote(SpanKind::Server, &own), json!({"ipv4": "10.0.0.7", "port": 5432}));
        assert_eq!(remote(SpanKind::Internal, &[]), Json::Null);
    }

    #[test]
    fn spans_without_valid_ids_are_left_out_and_counted() {
        let valid = samples::span("s", SpanKind::Client, Vec::new());
        let bad = [
            Span { trace_id: vec![0; 16], ..valid.clone() },
            Span { trace_id: vec![1; 8], ..valid.clone() },
            Span { span_id: Vec::new(), ..valid.clone() },
        ];
        let mut spans = bad.to_vec();
        assert_eq!(encode(&samples::of(Vec::new(), spans.clone())), Posts { posts: Vec::new(), left_out: 3 });
        spans.push(valid);
        let posts = encode(&samples::of(Vec::new(), spans));
        assert_eq!((posts.posts[0].spans, posts.left_out), (1, 3));
    }
}
