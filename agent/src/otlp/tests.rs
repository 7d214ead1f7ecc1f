//! Spans through OTLP bytes and back.

use std::{net::SocketAddr, sync::Arc};

use agent_core::{
    container::ContainerFacts,
    endpoint::Endpoint,
    redact::{RedactConfig, Redactor, SafeSpan},
    span::{
        By, Evidence, Link, ProcessFacts, Protocol, Segment, SegmentName, Span, SpanId, SpanKind, Status, TraceId,
        UnixNs, Value,
    },
};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::TracesData};
use prost::Message;

use super::{Encoder, decode};
use crate::query::api::{AttributeValue, SpanView, Texts};

/// A client span with everything that a span can have.
pub(crate) fn span(number: u64) -> Span {
    let facts = ProcessFacts {
        pid: 42,
        executable_name: Some("curl".to_owned()),
        executable_path: Some("/usr/bin/curl".to_owned()),
        service_name: Some("shop".to_owned()),
        service_version: Some("1.2".to_owned()),
        ..ProcessFacts::default()
    };
    let tile = |name, offset_ns, duration_ns, evidence| Segment {
        name,
        offset_ns,
        duration_ns,
        evidence,
        by: None,
        lost_records: 0,
    };
    Span {
        trace_id: TraceId([7; 16]),
        span_id: SpanId(number.to_be_bytes()),
        parent_span_id: Some(SpanId([9; 8])),
        kind: SpanKind::Client,
        name: "GET /orders".into(),
        process: Arc::new(facts),
        start: UnixNs(1_000_000_000 + number),
        duration_ns: 600,
        status: Status::Ok,
        protocol: Protocol::Http1,
        local: "10.0.0.1:40000".parse::<SocketAddr>().expect("an address").into(),
        peer: "[2001:db8::1]:80".parse::<SocketAddr>().expect("an address").into(),
        unix_path: None,
        attributes: vec![
            ("http.response.status_code", Value::Int(200)),
            ("spantap.connection.reused", Value::Bool(true)),
            ("spantap.url.query_names", Value::Strings(["page".to_owned()].into())),
        ],
        segments: vec![
            tile(SegmentName::Send, 0, 100, Evidence::Measured),
            tile(SegmentName::Remote, 100, 300, Evidence::Derived),
            Segment {
                by: Some(By::Throttled),
                lost_records: 2,
                ..tile(SegmentName::Send, 400, 200, Evidence::Derived)
            },
        ],
        cause: Some("remote_slow"),
        links: vec![Link { trace_id: TraceId([3; 16]), span_id: SpanId([4; 8]), evidence: "tcp_sequence" }],
    }
}

pub(crate) fn safe(span: Span) -> SafeSpan {
    Redactor::new(RedactConfig::default()).redact(span)
}

fn round_trip(span: Span) -> SpanView {
    let encoded = Encoder::new(Some("host-1".to_owned()), Some("node-1".to_owned())).encode(&[safe(span)]);
    let mut views = decode(&encoded.bytes).expect("the encoder's own bytes");
    assert_eq!(views.len(), 1);
    views.remove(0)
}

#[test]
fn addresses_are_written_as_they_are_shown() {
    for text in ["0.0.0.0", "1.20.255.9", "100.101.10.200", "::1", "fe80::12"] {
        let address: std::net::IpAddr = text.parse().unwrap();
        let span = Span { peer: Endpoint::Inet(SocketAddr::new(address, 1)), ..span(1) };
        assert_eq!(round_trip(span).peer, SocketAddr::new(address, 1).to_string());
    }
}

#[test]
fn each_of_many_connections_keeps_its_own_ends() {
    let inet = |port| Endpoint::Inet(SocketAddr::from(([127, 0, 0, 1], port)));
    let ends = |number: u64| match number % 7 {
        6 => (Endpoint::Unix(number), Endpoint::Unix(number + 1)),
        port => (inet(port as u16), inet(80)),
    };
    // Each connection comes again after some others, and as its other end sees it.
    let spans = (0..60).map(|number| {
        let (local, peer) = ends(number / 2);
        let (local, peer) = if number % 2 == 0 { (local, peer) } else { (peer, local) };
        Span { local, peer, ..span(number) }
    });
    let encoder = Encoder::default();
    let together = decode(&encoder.encode(&spans.clone().map(safe).collect::<Vec<_>>()).bytes).expect("spans");
    let alone: Vec<_> = spans.map(round_trip).collect();
    let shown =
        |views: &[SpanView]| views.iter().map(|view| (view.local.clone(), view.peer.clone())).collect::<Vec<_>>();
    assert_eq!(shown(&together), shown(&alone));
}

#[test]
fn nothing_is_lost_on_the_way() {
    let view = round_trip(span(5));
    assert_eq!((view.trace_id.as_slice(), view.span_id.as_slice()), (&[7; 16][..], &5_u64.to_be_bytes()[..]));
    assert_eq!(view.parent_span_id, [9; 8]);
    assert_eq!((view.kind.as_str(), view.status.as_str(), view.protocol.as_str()), ("client", "ok", "http"));
    assert_eq!((view.local.as_str(), view.peer.as_str()), ("10.0.0.1:40000", "[2001:db8::1]:80"));
    assert_eq!((view.start_unix_ns, view.duration_ns, view.pid), (1_000_000_005, 600, 42));
    assert_eq!(view.service, "shop");
    let tiles: Vec<_> = view
        .segments
        .iter()
        .map(|tile| (tile.name.as_str(), tile.start_ns, tile.duration_ns, tile.evidence.as_str()))
        .collect();
    let expected = [("send", 0, 100, "measured"), ("remote", 100, 300, "derived"), ("send", 400, 200, "derived")];
    assert_eq!(tiles, expected);
    assert_eq!((view.segments[2].by.as_str(), view.segments[2].lost_records), ("throttled", 2));
    assert_eq!((view.segments[0].by.as_str(), view.segments[0].lost_records), ("", 0));
    assert_eq!(view.cause(), "remote_slow");
    assert_eq!((view.links[0].trace_id.as_slice(), view.links[0].evidence.as_str()), (&[3; 16][..], "tcp_sequence"));
    assert_eq!(view.int("http.response.status_code"), Some(200));
    assert_eq!(view.attribute("spantap.connection.reused"), Some(&AttributeValue::Bool(true)));
    assert_eq!(view.text("host.name"), Some("host-1"));
    assert_eq!(view.text("process.executable.path"), Some("/usr/bin/curl"));
    assert_eq!(view.text("service.version"), Some("1.2"));
}

#[test]
fn a_container_is_told_with_its_pod() {
    let facts = |container| ProcessFacts { container: Some(Arc::new(container)), ..(*span(1).process).clone() };
    let view = |container| round_trip(Span { process: Arc::new(facts(container)), ..span(1) });
    let pod = ContainerFacts {
        id: "3a1f".into(),
        name: Some("server".into()),
        image_name: Some("nginx".into()),
        image_tag: Some("1.25".into()),
        namespace: Some("shop".into()),
        pod_name: Some("web-0".into()),
        ..ContainerFacts::default()
    };
    let alone = ContainerFacts { namespace: None, pod_name: None, ..pod.clone() };
    let seen = view(pod);
    let expected = [
        ("container.id", Some("3a1f")),
        ("container.name", None),
        ("container.image.name", Some("nginx")),
        ("k8s.container.name", Some("server")),
        ("k8s.namespace.name", Some("shop")),
        ("k8s.pod.name", Some("web-0")),
        ("k8s.pod.uid", None),
        ("k8s.node.name", Some("node-1")),
        ("service.instance.id", Some("shop.web-0.server")),
    ];
    for (key, value) in expected {
        assert_eq!(seen.text(key), value, "{key}");
    }
    let tags = Some(&AttributeValue::Texts(Texts { values: vec!["1.25".into()] }));
    assert_eq!(seen.attribute("container.image.tags"), tags);
    let seen = view(alone);
    assert_eq!((seen.text("container.name"), seen.text("k8s.container.name")), (Some("server"), None));
    assert_eq!(seen.text("service.instance.id"), None);
}

#[test]
fn a_unix_socket_is_shown_by_the_path_of_the_servers_end() {
    let unix = |kind, unix_path: Option<&str>| {
        let (local, peer) = (Endpoint::Unix(77), Endpoint::Unix(78));
        let mut span = Span { kind, local, peer, unix_path: unix_path.map(Into::into), ..span(1) };
        span.attributes.push(("network.transport", Value::String("unix".into())));
        let view = round_trip(span);
        (view.local, view.peer)
    };
    let path = Some("/run/app.sock");
    let ends = |local: &str, peer: &str| (local.to_owned(), peer.to_owned());
    assert_eq!(unix(SpanKind::Client, path), ends("unix:[77]", "unix:/run/app.sock"));
    assert_eq!(unix(SpanKind::Server, path), ends("unix:/run/app.sock", "unix:[78]"));
    assert_eq!(unix(SpanKind::Client, None), ends("unix:[77]", "unix:[78]"));
}

#[test]
fn every_outcome_comes_back() {
    for (status, code) in [(Status::Ok, 0), (Status::Error, 2), (Status::Unknown, 0)] {
        let view = round_trip(Span { status, ..span(1) });
        assert_eq!(view.status, status.name());
        let bytes = Encoder::default().encode(&[safe(Span { status, ..span(1) })]).bytes;
        let data = TracesData::decode(bytes.as_slice()).expect("protobuf");
        let sent = data.resource_spans[0].scope_spans[0].spans[0].status.clone().unwrap_or_default();
        assert_eq!(sent.code, code, "{status:?}");
    }
}

#[test]
fn room_that_was_used_before_changes_nothing() {
    let spans = [safe(span(1)), safe(span(2))];
    let encoded = Encoder::default().encode(&spans);
    assert_eq!(Encoder::default().encode_into(vec![9; 5000], &spans), encoded);
}

#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "would stand twice")]
fn no_attribute_stands_twice() {
    let mut span = span(1);
    span.attributes.push(("network.peer.port", Value::Int(1)));
    Encoder::default().encode(&[safe(span)]);
}

#[test]
fn segments_of_one_name_are_summed_for_backends_without_lists() {
    let data = TracesData::decode(Encoder::default().encode(&[safe(span(1))]).bytes.as_slice()).expect("protobuf");
    let attributes = &data.resource_spans[0].scope_spans[0].spans[0].attributes;
    assert_eq!(super::decode::int_of(attributes, "spantap.segment.send.ns"), Some(300));
    assert_eq!(super::decode::int_of(attributes, "spantap.segment.remote.ns"), Some(300));
    assert_eq!(super::decode::int_of(attributes, "spantap.segment.send.throttled.ns"), Some(200));
    let evidence = |name| super::decode::text_of(attributes, &format!("spantap.segment.{name}.evidence"));
    assert_eq!(evidence("send").as_deref(), Some("derived"), "the worst");
    assert_eq!(evidence("remote").as_deref(), Some("derived"));
}

#[test]
fn spans_of_one_process_share_a_resource() {
    let other = Span { process: Arc::new(ProcessFacts { pid: 1, ..ProcessFacts::default() }), ..span(3) };
    let encoded = Encoder::default().encode(&[safe(span(1)), safe(other), safe(span(2))]);
    let data = TracesData::decode(encoded.bytes.as_slice()).expect("protobuf");
    let counts: Vec<_> = data.resource_spans.iter().map(|resource| resource.scope_spans[0].spans.len()).collect();
    assert_eq!(counts, [2, 1]);
    assert_eq!(
        (encoded.span_count, encoded.start_unix_ns_min, encoded.end_unix_ns_max),
        (3, 1_000_000_001, 1_000_000_603)
    );
    assert_eq!(decode(&encoded.bytes).expect("own bytes")[2].service, "unknown_service");
}

#[test]
fn the_generated_types_would_write_the_same_bytes() {
    let bytes = Encoder::new(Some("host-1".to_owned()), None).encode(&[safe(span(1)), safe(span(2))]).bytes;
    let data = TracesData::decode(bytes.as_slice()).expect("protobuf");
    assert_eq!(data.encode_to_vec(), bytes);
}

#[test]
fn blocks_one_after_the_other_are_one_request() {
    let encoder = Encoder::default();
    let bytes = [encoder.encode(&[safe(span(1))]).bytes, encoder.encode(&[safe(span(2))]).bytes].concat();
    let request = ExportTraceServiceRequest::decode(bytes.as_slice()).expect("a request");
    assert_eq!(request.resource_spans.len(), 2);
}

#[test]
fn no_bytes_make_the_decoder_panic() {
    let bytes = Encoder::default().encode(&[safe(span(1))]).bytes;
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..20_000 {
        let mut bytes = bytes.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.truncate(random.usize(..=bytes.len()));
        // Whatever it is, it is spans or an error.
        if let Ok(views) = decode(&bytes) {
            assert!(views.iter().all(|view| !view.kind.is_empty()));
        }
    }
}
