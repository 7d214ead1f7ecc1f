mod change;
mod late;
mod repeats;
mod shape;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span},
};
use prost::Message;

use super::*;

const NOW: UnixNs = UnixNs(1_764_000_000_000_000_000);

fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn text(text: &str) -> Value {
    Value::StringValue(text.into())
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(any(value)), ..Default::default() }
}

fn texts(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    pairs.iter().map(|(key, value)| pair(key, text(value))).collect()
}

fn span(attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: vec![7; 16],
        span_id: vec![8; 8],
        name: "GET /".into(),
        kind: 3,
        start_time_unix_nano: NOW.0 - 2_000_000,
        end_time_unix_nano: NOW.0 - 1_000_000,
        attributes,
        ..Span::default()
    }
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope { name: "scope".into(), version: "1".into(), ..Default::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: "https://x/1".into() }];
    let resource = Resource { attributes: texts(&[("service.name", "shop")]), ..Default::default() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans, schema_url: String::new() }],
    }
}

fn decode(batch: &SafeBatch) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest::decode(batch.bytes()).unwrap()
}

fn accept(config: RelayConfig, request: &ExportTraceServiceRequest) -> Relayed {
    Relay::new(config).unwrap().accept(&request.encode_to_vec(), NOW).unwrap()
}

fn first_span(relayed: &Relayed) -> Span {
    decode(relayed.kept.as_ref().unwrap()).resource_spans[0].scope_spans[0].spans[0].clone()
}

/// What becomes of one span's attributes.
fn check(config: RelayConfig, before: Vec<KeyValue>, after: &[KeyValue], redacted: u64) {
    let relayed = accept(config, &request(vec![span(before)]));
    assert_eq!(first_span(&relayed).attributes, after);
    assert_eq!(relayed.redacted, redacted);
}

fn array(values: &[&str]) -> Value {
    Value::ArrayValue(ArrayValue { values: values.iter().map(|value| any(text(value))).collect() })
}

fn pairs(values: Vec<KeyValue>) -> Value {
    Value::KvlistValue(KeyValueList { values })
}

#[test]
fn what_no_rule_touches_stays_byte_for_byte() {
    let request = request(vec![span(texts(&[("http.request.method", "GET"), ("url.path", "/a/42")]))]).encode_to_vec();
    for config in [RelayConfig::default(), RelayConfig::untouched()] {
        let relayed = Relay::new(config).unwrap().accept(&request, NOW).unwrap();
        assert_eq!(relayed.kept.as_ref().unwrap().bytes(), request);
        let others = Relayed { kept: relayed.kept.clone(), ..Relayed::default() };
        assert_eq!(relayed, others);
    }
}

#[test]
fn sensitive_keys_are_left_out_everywhere() {
    let nested = pairs(vec![
        pair("user", text("joe")),
        pair("password", text("x")),
        pair("deep", pairs(texts(&[("token", "t")]))),
    ]);
    let before = vec![
        pair("http.request.header.authorization", array(&["Basic abc"])),
        pair("a", text("b")),
        pair("nested", nested),
        pair("list", Value::ArrayValue(ArrayValue { values: vec![any(pairs(texts(&[("apiKey", "k"), ("x", "y")])))] })),
    ];
    let kept = pairs(vec![pair("user", text("joe")), pair("deep", pairs(vec![]))]);
    let list = Value::ArrayValue(ArrayValue { values: vec![any(pairs(texts(&[("x", "y")])))] });
    check(RelayConfig::default(), before, &[pair("a", text("b")), pair("nested", kept), pair("list", list)], 4);
}

#[test]
fn events_links_scopes_resources_names_and_messages_are_looked_at() {
    let secret = || texts(&[("password", "x"), ("to", "jane@example.com"), ("n", "1")]);
    let mut original = span(secret());
    original.name = "mail jane@example.com".into();
    original.status = Some(Status { message: "no such user: jane@example.com".into(), code: 2 });
    original.events = vec![span::Event { name: "to a@b.de".into(), attributes: secret(), ..Default::default() }];
    original.links = vec![span::Link { attributes: secret(), ..Default::default() }];
    let mut request = request(vec![original]);
    request.resource_spans[0].resource.as_mut().unwrap().attributes = secret();
    request.resource_spans[0].scope_spans[0].scope.as_mut().unwrap().attributes = secret();
    let relayed = accept(RelayConfig::default(), &request);
    let found = decode(relayed.kept.as_ref().unwrap());
    let safe = texts(&[("to", "{email}"), ("n", "1")]);
    let resource = &found.resource_spans[0];
    let scope = &resource.scope_spans[0];
    assert_eq!(resource.resource.as_ref().unwrap().attributes, safe);
    assert_eq!(scope.scope.as_ref().unwrap().attributes, safe);
    let span = &scope.spans[0];
    assert_eq!((span.name.as_str(), &span.attributes), ("mail {email}", &safe));
    assert_eq!(span.status.as_ref().unwrap().message, "no such user: {email}");
    assert_eq!((span.events[0].name.as_str(), &span.events[0].attributes), ("to {email}", &safe));
    assert_eq!(span.links[0].attributes, safe);
    assert_eq!(relayed.redacted, 13);
}

#[test]
fn values_are_looked_at_in_every_form() {
    let deep = Value::ArrayValue(ArrayValue { values: vec![any(array(&["ok", "4111111111111111"]))] });
    let safe = Value::ArrayValue(ArrayValue { values: vec![any(array(&["ok", "{card}"]))] });
    let before = vec![
        pair("number", Value::IntValue(4_111_111_111_111_111)),
        pair("time", Value::IntValue(NOW.0 as i64)),
        pair("bytes", Value::BytesValue(b"to a@b.de".to_vec())),
        pair("deep", deep),
        pair("ok", Value::BoolValue(true)),
        pair("ratio", Value::DoubleValue(0.5)),
        KeyValue { key: "none".into(), value: None, ..Default::default() },
    ];
    let mut after = before.clone();
    after[0] = pair("number", text("{card}"));
    after[2] = pair("bytes", Value::BytesValue(b"to {email}".to_vec()));
    after[3] = pair("deep", safe);
    check(RelayConfig::default(), before, &after, 3);
}

#[test]
fn urls_lose_values_and_statements_literals() {
    let before = texts(&[
        ("url.full", "https://joe:pw@h/a?q=jane&page=2"),
        ("http.target", "/a?x=1#y"),
        ("url.query", "x=1"),
        ("db.system", "postgresql"),
        ("db.statement", "SELECT * FROM t WHERE a = 'x'"),
        ("other", "SELECT 'x'"),
    ]);
    let after = texts(&[
        ("url.full", "https://{credentials}@h/a?q={value}&page={value}"),
        ("http.target", "/a?x={value}#y"),
        ("url.query", "x={value}"),
        ("db.system", "postgresql"),
        ("db.statement", "SELECT * FROM t WHERE a = ?"),
        ("other", "SELECT 'x'"),
    ]);
    check(RelayConfig::default(), before, &after, 4);
}

#[test]
fn hashes_are_equal_for_equal_values_and_differ_by_key() {
    let config = |hash_key| {
        let redact = Redaction { deny: vec![("user.*".into(), Action::Hash)], hash_key, ..Redaction::default() };
        RelayConfig { redact, ..RelayConfig::default() }
    };
    let hashed = |hash_key, value: Value| {
        let relayed = accept(config(hash_key), &request(vec![span(vec![pair("user.id", value)])]));
        let found = first_span(&relayed).attributes[0].value.clone().unwrap().value.unwrap();
        match found {
            Value::StringValue(text) if text.len() == 32 => text,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(hashed([1; 16], text("joe")), hashed([1; 16], text("joe")));
    assert_ne!(hashed([1; 16], text("joe")), hashed([1; 16], text("joa")));
    assert_ne!(hashed([1; 16], text("joe")), hashed([2; 16], text("joe")));
    assert_ne!(hashed([1; 16], Value::IntValue(1)), hashed([1; 16], Value::IntValue(2)));
}

#[test]
fn what_is_too_deep_is_not_kept() {
    let nest = |levels| {
        (0..levels).fold(text("a@b.de"), |value, _| Value::ArrayValue(ArrayValue { values: vec![any(value)] }))
    };
    let relayed = accept(RelayConfig::default(), &request(vec![span(vec![pair("x", nest(NESTED_MAX + 1))])]));
    let bytes = relayed.kept.unwrap().into_bytes();
    assert!(memchr::memmem::find(&bytes, b"{nested}").is_some() && memchr::memmem::find(&bytes, b"a@b").is_none());
    let relayed = accept(RelayConfig::default(), &request(vec![span(vec![pair("x", nest(NESTED_MAX))])]));
    assert!(memchr::memmem::find(relayed.kept.unwrap().bytes(), b"{email}").is_some());
}

#[test]
fn spans_without_ids_are_rejected_and_counted() {
    let mut spans = vec![span(vec![]); 5];
    spans[0].trace_id = vec![0; 16];
    spans[1].trace_id = vec![1; 15];
    spans[3].span_id = vec![];
    let relayed = accept(RelayConfig::default(), &request(spans.clone()));
    assert_eq!(relayed.rejected, 3);
    assert_eq!(
        relayed.reason,
        "rejected spans: 2 without a trace id (16 bytes, not all zero), 1 without a span id (8 bytes, not all zero)"
    );
    assert_eq!(decode(relayed.kept.as_ref().unwrap()), request(vec![spans[2].clone(), spans[4].clone()]));
    assert_eq!(relayed.kept.unwrap().span_count(), 2);
    let nothing = accept(RelayConfig::default(), &request(vec![spans[0].clone()]));
    assert_eq!((nothing.kept, nothing.local, nothing.rejected), (None, None, 1));
}

#[test]
fn skewed_clocks_are_flagged_and_times_stay() {
    let day = 24 * 3600 * 1_000_000_000;
    let times = [(NOW.0, NOW.0 - 1), (NOW.0 - day - 1, NOW.0), (NOW.0, NOW.0 + 300_000_000_001), (NOW.0 - day, NOW.0)];
    let spans = times.map(|(start_time_unix_nano, end_time_unix_nano)| Span {
        start_time_unix_nano,
        end_time_unix_nano,
        ..span(texts(&[("a", "b")]))
    });
    let relayed = accept(RelayConfig::default(), &request(spans.to_vec()));
    let mut expected = spans;
    expected[..3].iter_mut().for_each(|span| span.attributes.push(pair(CLOCK_SKEWED, Value::BoolValue(true))));
    assert_eq!(decode(relayed.kept.as_ref().unwrap()), request(expected.to_vec()));
    assert_eq!(relayed.skewed, 3);
}
