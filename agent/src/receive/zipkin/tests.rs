use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1 as otlp,
};
use prost::Message as _;

use super::*;

fn request(json: &str) -> ExportTraceServiceRequest {
    let bytes = to_protobuf(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"));
    ExportTraceServiceRequest::decode(&bytes[..]).unwrap()
}

fn span(members: &str) -> otlp::Span {
    request(&format!("[{{{members}}}]")).resource_spans.remove(0).scope_spans.remove(0).spans.remove(0)
}

fn texts(attributes: &[KeyValue]) -> Vec<String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => format!("{}={text}", pair.key),
        Some(Value::IntValue(number)) => format!("{}={number}", pair.key),
        Some(Value::BoolValue(value)) => format!("{}={value}", pair.key),
        other => format!("{}={other:?}", pair.key),
    };
    attributes.iter().map(text).collect()
}

/// The members are those of the example of Zipkin's API (`zipkin2-api.yaml`).
const EXAMPLE: &str = r#"[{
  "id":"352bff9a74ca9ad2","traceId":"5af7183fb1d4cf5f","parentId":"6b221d5bc9e6496c","name":"get /api","kind":"CLIENT",
  "timestamp":1556604172355737,"duration":1431,
  "localEndpoint":{"serviceName":"backend","ipv4":"192.168.99.1","port":3306},
  "remoteEndpoint":{"ipv4":"172.19.0.2","port":58648,"serviceName":"db"},
  "annotations":[{"timestamp":1556604172355800,"value":"ws"}],
  "tags":{"http.method":"GET","http.path":"/api","otel.scope.name":"lib","otel.scope.version":"1"},
  "shared":true,"debug":false}]"#;

#[test]
fn every_member_arrives() {
    let mut request = request(EXAMPLE);
    let mut resource = request.resource_spans.remove(0);
    assert_eq!(texts(&resource.resource.unwrap().attributes), ["service.name=backend"]);
    let mut scope = resource.scope_spans.remove(0);
    let library = scope.scope.take().unwrap();
    assert_eq!((library.name.as_str(), library.version.as_str()), ("lib", "1"));
    let span = scope.spans.remove(0);
    assert_eq!(span.trace_id, 0x5af7_183f_b1d4_cf5f_u128.to_be_bytes());
    assert_eq!(span.span_id, 0x352b_ff9a_74ca_9ad2_u64.to_be_bytes());
    assert_eq!(span.parent_span_id, 0x6b22_1d5b_c9e6_496c_u64.to_be_bytes());
    assert_eq!((span.name.as_str(), span.kind), ("get /api", otlp::span::SpanKind::Client as i32));
    assert_eq!(span.start_time_unix_nano, 1_556_604_172_355_737_000);
    assert_eq!(span.end_time_unix_nano, 1_556_604_172_357_168_000);
    assert_eq!(
        texts(&span.attributes),
        [
            "network.local.address=192.168.99.1",
            "network.local.port=3306",
            "network.peer.address=172.19.0.2",
            "network.peer.port=58648",
            "peer.service=db",
            "http.method=GET",
            "http.path=/api",
            "zipkin.shared=true",
        ]
    );
    assert_eq!((span.events[0].name.as_str(), span.events[0].time_unix_nano), ("ws", 1_556_604_172_355_800_000));
    assert!(span.status.is_none());
}

#[test]
fn ids_are_padded_and_what_is_none_is_left_out() {
    let check = |text: &str, expected: Option<u128>| {
        let id = span(&format!(r#""traceId":"{text}""#)).trace_id;
        assert_eq!(id, expected.map_or(Vec::new(), |id| id.to_be_bytes().to_vec()), "{text}");
    };
    check("1", Some(1));
    check("5AF7183FB1D4CF5F5af7183fb1d4cf5f", Some(0x5af7_183f_b1d4_cf5f_5af7_183f_b1d4_cf5f));
    check("", None);
    check("xyz", None);
    check(&"1".repeat(33), None);
}

#[test]
fn the_status_is_in_tags() {
    let check = |tags: &str, code: i32, message: &str| {
        let span = span(&format!(r#""tags":{{{tags}}}"#));
        let status = span.status.unwrap_or_default();
        assert_eq!((status.code, status.message.as_str()), (code, message), "{tags}");
    };
    check(r#""error":"timed out""#, 2, "timed out");
    check(r#""error":"true""#, 2, "");
    check(r#""error":"""#, 2, "");
    check(r#""error":"false""#, 0, "");
    check(r#""otel.status_code":"OK""#, 1, "");
    check(r#""otel.status_code":"ERROR","error":"broken""#, 2, "broken");
    check(r#""error":"broken","otel.status_code":"ERROR""#, 2, "broken");
    check(r#""otel.status_description":"d","otel.status_code":"ERROR""#, 2, "d");
    check(r#""a":"b""#, 0, "");
}

#[test]
fn spans_of_one_service_share_a_resource() {
    let of = |service: &str| format!(r#"{{"localEndpoint":{{"serviceName":"{service}"}}}}"#);
    let request = request(&format!("[{},{},{},{{}}]", of("a"), of("a"), of("b")));
    let counts: Vec<_> = request.resource_spans.iter().map(|resource| resource.scope_spans[0].spans.len()).collect();
    assert_eq!(counts, [2, 1, 1]);
    assert!(request.resource_spans[2].resource.is_none());
}

#[test]
fn null_and_unknown_members_are_left_out() {
    let span = span(
        r#""name":null,"kind":null,"tags":null,"annotations":null,"localEndpoint":null,"timestamp":null,"new":{"a":[]},
           "remoteEndpoint":{"ipv4":"no address","port":0}"#,
    );
    assert_eq!(span, otlp::Span::default());
    assert_eq!(request("[]").resource_spans.len(), 0);
}

#[test]
fn what_does_not_fit_is_told() {
    for (json, part) in [
        ("{}", "a list of spans"),
        ("[1]", "a span"),
        (r#"[{"kind":"OTHER"}]"#, "CLIENT, SERVER"),
        (r#"[{"timestamp":-1}]"#, "-1"),
        (r#"[{"tags":{"a":1}}]"#, "string"),
        (r#"[{"tags":[]}]"#, "an object of tags"),
        ("[", "EOF"),
        ("[] []", "trailing"),
    ] {
        let error = to_protobuf(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{json}: {error}");
    }
}

/// Whatever is cut or changed: an error, or protobuf that decodes.
#[test]
fn damaged_json_never_panics_and_never_becomes_damaged_protobuf() {
    let check = |json: &[u8]| {
        if let Ok(bytes) = to_protobuf(json) {
            ExportTraceServiceRequest::decode(&bytes[..]).unwrap();
        }
    };
    let example = EXAMPLE.as_bytes();
    for at in 0..example.len() {
        check(&example[..at]);
        for byte in [b'"', b'{', b'}', b'[', b']', b',', b'0', b'-', b'\\', 0, 0xff] {
            let mut changed = example.to_vec();
            changed[at] = byte;
            check(&changed);
        }
    }
}
