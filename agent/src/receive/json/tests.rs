use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message as _;

use super::*;

fn request(json: &str) -> ExportTraceServiceRequest {
    let bytes = to_protobuf(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"));
    ExportTraceServiceRequest::decode(&bytes[..]).unwrap()
}

fn span(members: &str) -> Span {
    let json = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{members}}}]}}]}}]}}"#);
    request(&json).resource_spans.remove(0).scope_spans.remove(0).spans.remove(0)
}

fn value(json: &str) -> Option<Value> {
    let mut span = span(&format!(r#""attributes":[{{"key":"k","value":{json}}}]"#));
    span.attributes.remove(0).value.and_then(|value| value.value)
}

fn check_error(json: &str, part: &str) {
    let error = to_protobuf(json.as_bytes()).unwrap_err().to_string();
    assert!(error.contains(part), "{json}: {error}");
}

fn check_span_error(members: &str, part: &str) {
    check_error(&format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{members}}}]}}]}}]}}"#), part);
}

/// The example of the specification (opentelemetry-proto, `examples/trace.json`), in its members.
pub(in crate::receive) const EXAMPLE: &str = r#"{"resourceSpans":[{
  "resource":{"attributes":[{"key":"service.name","value":{"stringValue":"my.service"}}],"droppedAttributesCount":1},
  "scopeSpans":[{
    "scope":{"name":"my.library","version":"1.0.0","attributes":[{"key":"a","value":{"stringValue":"b"}}]},
    "spans":[{
      "traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"EEE19B7EC3C1B174","parentSpanId":"eee19b7ec3c1b173",
      "traceState":"k=v","flags":257,"name":"I'm a server span","kind":2,
      "startTimeUnixNano":"1544712660000000000","endTimeUnixNano":1544712661000000000,
      "attributes":[{"key":"n","value":{"intValue":"-7"}}],"droppedAttributesCount":2,
      "events":[{"timeUnixNano":"1544712660500000000","name":"e","attributes":[],"droppedAttributesCount":3}],
      "droppedEventsCount":4,
      "links":[{"traceId":"5b8efff798038103d269b633813fc60d","spanId":"eee19b7ec3c1b175","traceState":"l","flags":1}],
      "droppedLinksCount":5,
      "status":{"message":"broken","code":2}}],
    "schemaUrl":"https://s"}],
  "schemaUrl":"https://r"}]}"#;

#[test]
fn every_field_arrives() {
    let mut request = request(EXAMPLE);
    let mut resource = request.resource_spans.remove(0);
    assert_eq!(resource.schema_url, "https://r");
    assert_eq!(resource.resource.as_ref().unwrap().dropped_attributes_count, 1);
    let mut scope = resource.scope_spans.remove(0);
    assert_eq!(scope.schema_url, "https://s");
    let library = scope.scope.take().unwrap();
    assert_eq!((library.name.as_str(), library.version.as_str(), library.attributes.len()), ("my.library", "1.0.0", 1));
    let span = scope.spans.remove(0);
    assert_eq!(span.trace_id, 0x5B8E_FFF7_9803_8103_D269_B633_813F_C60C_u128.to_be_bytes());
    assert_eq!(span.span_id, 0xEEE1_9B7E_C3C1_B174_u64.to_be_bytes());
    assert_eq!(span.parent_span_id, 0xEEE1_9B7E_C3C1_B173_u64.to_be_bytes());
    assert_eq!((span.trace_state.as_str(), span.flags, span.kind), ("k=v", 257, 2));
    assert_eq!(span.name, "I'm a server span");
    assert_eq!(span.start_time_unix_nano, 1_544_712_660_000_000_000);
    assert_eq!(span.end_time_unix_nano, 1_544_712_661_000_000_000);
    assert_eq!(span.attributes[0].value.as_ref().unwrap().value, Some(Value::IntValue(-7)));
    let dropped = (span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count);
    assert_eq!(dropped, (2, 4, 5));
    let event = &span.events[0];
    assert_eq!((event.name.as_str(), event.dropped_attributes_count), ("e", 3));
    assert_eq!(event.time_unix_nano, 1_544_712_660_500_000_000);
    let link = &span.links[0];
    assert_eq!((link.flags, link.trace_state.as_str(), link.span_id[7]), (1, "l", 0x75));
    let status = span.status.unwrap();
    assert_eq!((status.message.as_str(), status.code), ("broken", 2));
}

#[test]
fn values_keep_their_type_even_if_they_are_empty() {
    assert_eq!(value(r#"{"stringValue":""}"#), Some(Value::StringValue(String::new())));
    assert_eq!(value(r#"{"stringValue":"\u00fc\n"}"#), Some(Value::StringValue("ü\n".into())));
    assert_eq!(value(r#"{"boolValue":false}"#), Some(Value::BoolValue(false)));
    for (text, number) in [("0", 0), ("\"-9223372036854775808\"", i64::MIN), ("9223372036854775807", i64::MAX)] {
        assert_eq!(value(&format!(r#"{{"intValue":{text}}}"#)), Some(Value::IntValue(number)));
    }
    assert_eq!(value(r#"{"intValue":1e3}"#), Some(Value::IntValue(1_000)));
    for (text, number) in
        [("1.5", 1.5), ("1", 1.0), ("-0.0", -0.0), ("\"2.5\"", 2.5), ("\"-Infinity\"", f64::NEG_INFINITY)]
    {
        assert_eq!(value(&format!(r#"{{"doubleValue":{text}}}"#)), Some(Value::DoubleValue(number)), "{text}");
    }
    let nan = value(r#"{"doubleValue":"NaN"}"#);
    assert!(matches!(nan, Some(Value::DoubleValue(value)) if value.is_nan()));
    for text in ["+/8=", "+/8", "-_8", "-_8="] {
        assert_eq!(
            value(&format!(r#"{{"bytesValue":"{text}"}}"#)),
            Some(Value::BytesValue(vec![0xfb, 0xff])),
            "{text}"
        );
    }
    assert_eq!(value("{}"), None);
    assert_eq!(value(r#"{"newValue":{"a":[1]},"stringValue":null}"#), None);
}

#[test]
fn values_nest() {
    let nested =
        r#"{"arrayValue":{"values":[{"kvlistValue":{"values":[{"key":"a","value":{"boolValue":true}}]}},{}]}}"#;
    let Some(Value::ArrayValue(array)) = value(nested) else { panic!() };
    let Some(Value::KvlistValue(list)) = &array.values[0].value else { panic!() };
    assert_eq!(list.values[0].value, Some(AnyValue { value: Some(Value::BoolValue(true)) }));
    assert_eq!(array.values[1].value, None);
    let deep = |levels: usize| {
        let open = r#"{"arrayValue":{"values":["#.repeat(levels);
        format!(
            r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"k","value":{open}{}}}]}}}}]}}"#,
            "]}}".repeat(levels)
        )
    };
    request(&deep(30));
    check_error(&deep(100), "recursion limit");
    check_error(&deep(100_000), "recursion limit");
}

#[test]
fn what_is_null_or_not_known_is_left_out() {
    let span = span(r#""name":null,"attributes":null,"status":null,"trace_id":"00","more":{"x":[{"y":1}]},"kind":3"#);
    assert_eq!((span.name.as_str(), span.kind, span.trace_id.len()), ("", 3, 0));
    assert!(span.status.is_none());
    assert_eq!(request("{}"), ExportTraceServiceRequest::default());
}

#[test]
fn what_does_not_fit_is_told() {
    check_span_error(r#""kind":"SPAN_KIND_SERVER""#, "no names of enumerations");
    check_span_error(r#""traceId":"xyz""#, "`traceId` is a text, but should be bytes in hexadecimal");
    check_span_error(r#""traceId":"5b8efff79803810"#, "EOF");
    check_span_error(r#""spanId":"eee""#, "hexadecimal");
    check_span_error(r#""spanId":7"#, "`spanId` is a number");
    check_span_error(r#""startTimeUnixNano":"-1""#, "out of range");
    check_span_error(r#""startTimeUnixNano":"soon""#, "no whole number");
    check_span_error(r#""startTimeUnixNano":1.5"#, "a fraction");
    check_span_error(r#""flags":4294967296"#, "out of range");
    check_span_error(r#""name":{}"#, "`name` is an object");
    check_span_error(r#""events":{}"#, "list of objects");
    check_span_error(r#""attributes":[1]"#, "object with members such as `key`");
    check_span_error(r#""attributes":[{"key":"k","value":{"bytesValue":"?"}}]"#, "base64");
    check_span_error(r#""attributes":[{"key":"k","value":{"boolValue":"true"}}]"#, "true or false");
    check_error("", "EOF");
    check_error("[]", "resourceSpans");
    check_error("{} {}", "trailing");
    check_error("{\"resourceSpans\":[]", "EOF");
}

#[test]
fn small_json_does_not_become_large_protobuf() {
    let many = |item: &str| vec![item; 10_000].join(",");
    for spans in [many("{}"), many(r#"{"attributes":[{}]}"#), many(r#"{"startTimeUnixNano":1}"#)] {
        let json = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#);
        assert!(to_protobuf(json.as_bytes()).unwrap().len() <= json.len(), "{}", &json[..80]);
    }
}

/// Whatever is cut or changed: an error, or protobuf that decodes.
#[test]
fn damaged_json_never_panics_and_never_becomes_damaged_protobuf() {
    let example = EXAMPLE.as_bytes();
    let check = |json: &[u8]| {
        if let Ok(bytes) = to_protobuf(json) {
            ExportTraceServiceRequest::decode(&bytes[..]).unwrap();
        }
    };
    for at in 0..example.len() {
        check(&example[..at]);
        for byte in [b'"', b'{', b'}', b'[', b']', b',', b'0', b'-', b'\\', 0, 0xff] {
            let mut changed = example.to_vec();
            changed[at] = byte;
            check(&changed);
        }
    }
}
