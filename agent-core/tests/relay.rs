//! Relayed requests, against what the protocol's own generated types say of them.

use agent_core::{
    relay::{Redaction, Relay, RelayConfig, fuzzing},
    span::UnixNs,
    wire,
};
use agent_protocol::fuzzing::Random;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span},
};
use proptest::{collection::vec, prelude::*};
use prost::Message;

const NOW: u64 = 1_764_000_000_000_000_000;
/// A request with something for every rule; the fuzz target begins with it.
const SEED: &[u8] = include_bytes!("../fixtures/relay/request.pb");
/// Keys for made-up attributes; the first ones are sensitive.
const KEYS: &[&str] =
    &["password", "http.request.header.cookie", "apiKey", "a", "http.method", "db.statement", "url.full", ""];
const SENSITIVE: usize = 3;

fn value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        "[a-z@.0-9?=/ ü-]{0,40}".prop_map(Value::StringValue),
        any::<bool>().prop_map(Value::BoolValue),
        any::<i64>().prop_map(Value::IntValue),
        (-9_i32..9).prop_map(|number| Value::DoubleValue(number.into())),
        vec(any::<u8>(), 0..200).prop_map(Value::BytesValue),
    ];
    let some = |value| AnyValue { value: Some(value) };
    leaf.prop_map(some).prop_recursive(4, 24, 4, move |inner| {
        let values = vec(inner.clone(), 0..4).prop_map(|values| Value::ArrayValue(ArrayValue { values }));
        let pairs = vec(pair(inner), 0..4).prop_map(|values| Value::KvlistValue(KeyValueList { values }));
        prop_oneof![values, pairs].prop_map(some)
    })
}

fn pair(value: impl Strategy<Value = AnyValue>) -> impl Strategy<Value = KeyValue> {
    let key = (0..KEYS.len()).prop_map(|index| KEYS[index].to_owned());
    (key, proptest::option::weighted(0.9, value)).prop_map(|(key, value)| KeyValue { key, value, ..Default::default() })
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    vec(pair(value()), 0..5)
}

fn a_span() -> impl Strategy<Value = Span> {
    let event = (any::<u64>(), "[a-z]{0,9}", attributes()).prop_map(|(time_unix_nano, name, attributes)| span::Event {
        time_unix_nano,
        name,
        attributes,
        dropped_attributes_count: 1,
    });
    let link =
        attributes().prop_map(|attributes| span::Link { trace_id: vec![3; 16], attributes, ..Default::default() });
    let status = (0..3_i32, "[a-z]{0,5}").prop_map(|(code, message)| Status { message, code });
    let own = (1..u64::MAX, any::<[u64; 2]>(), 0..6_i32, "[a-zA-Z /]{0,20}", proptest::option::of(status));
    (own, attributes(), vec(event, 0..2), vec(link, 0..2)).prop_map(
        |((id, [start, end], kind, name, status), attributes, events, links)| Span {
            trace_id: [id.to_be_bytes(), id.to_be_bytes()].concat(),
            span_id: id.to_be_bytes().to_vec(),
            kind,
            name,
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            attributes,
            events,
            links,
            status,
            flags: 0x101,
            ..Span::default()
        },
    )
}

fn a_request() -> impl Strategy<Value = ExportTraceServiceRequest> {
    let scope = (proptest::option::of(attributes()), vec(a_span(), 0..4)).prop_map(|(scope, spans)| ScopeSpans {
        scope: scope.map(|attributes| InstrumentationScope { name: "scope".into(), attributes, ..Default::default() }),
        spans,
        schema_url: "schema".into(),
    });
    let resource =
        (proptest::option::of(attributes()), vec(scope, 0..3)).prop_map(|(resource, scope_spans)| ResourceSpans {
            resource: resource.map(|attributes| Resource { attributes, ..Default::default() }),
            scope_spans,
            schema_url: String::new(),
        });
    vec(resource, 0..3).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
}

/// A request's bytes with a field that nobody knows behind it.
fn bytes_of(request: &ExportTraceServiceRequest) -> Vec<u8> {
    let mut bytes = request.encode_to_vec();
    bytes.extend([0xc2, 0x3e, 3, 1, 2, 3]);
    bytes
}

fn all_spans(request: &ExportTraceServiceRequest) -> Vec<Span> {
    request
        .resource_spans
        .iter()
        .flat_map(|resource| &resource.scope_spans)
        .flat_map(|scope| scope.spans.clone())
        .collect()
}

/// Leaves out sensitive keys, on the generated types.
fn without_secrets(mut request: ExportTraceServiceRequest) -> ExportTraceServiceRequest {
    for resource in &mut request.resource_spans {
        resource.resource.iter_mut().for_each(|resource| clear(&mut resource.attributes));
        for scope in &mut resource.scope_spans {
            scope.scope.iter_mut().for_each(|scope| clear(&mut scope.attributes));
            for span in &mut scope.spans {
                clear(&mut span.attributes);
                span.events.iter_mut().for_each(|event| clear(&mut event.attributes));
                span.links.iter_mut().for_each(|link| clear(&mut link.attributes));
            }
        }
    }
    request
}

fn clear(attributes: &mut Vec<KeyValue>) {
    attributes.retain(|pair| !KEYS[..SENSITIVE].contains(&pair.key.as_str()));
    attributes.iter_mut().filter_map(|pair| pair.value.as_mut()).for_each(clear_value);
}

fn clear_value(value: &mut AnyValue) {
    match &mut value.value {
        Some(Value::ArrayValue(array)) => array.values.iter_mut().for_each(clear_value),
        Some(Value::KvlistValue(pairs)) => clear(&mut pairs.values),
        _ => {}
    }
}

fn accept(config: RelayConfig, bytes: &[u8]) -> Option<Vec<u8>> {
    let relayed = Relay::new(config).unwrap().accept(bytes, UnixNs(NOW)).unwrap();
    assert_eq!((relayed.rejected, relayed.local), (0, None));
    relayed.kept.map(|kept| kept.into_bytes().into())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_everything_off_every_byte_stays(request in a_request()) {
        let bytes = bytes_of(&request);
        let expected = (!all_spans(&request).is_empty()).then(|| bytes.clone());
        prop_assert_eq!(accept(RelayConfig::untouched(), &bytes), expected);
    }

    #[test]
    fn sensitive_keys_go_and_nothing_else(request in a_request()) {
        let redact = Redaction { sensitive_keys: true, ..Redaction::off() };
        let config = RelayConfig { redact, ..RelayConfig::untouched() };
        let Some(bytes) = accept(config, &bytes_of(&request)) else { return Ok(()) };
        prop_assert!(bytes.ends_with(&[0xc2, 0x3e, 3, 1, 2, 3]));
        prop_assert_eq!(ExportTraceServiceRequest::decode(&*bytes).unwrap(), without_secrets(request));
    }

    #[test]
    fn two_halves_have_all_spans_in_order(request in a_request(), share in 0..=100_u32) {
        let (bytes, spans) = (bytes_of(&request), all_spans(&request));
        let first = spans.len() * share as usize / 100;
        let (front, back) = wire::split(&bytes, first as u32).unwrap();
        let of = |half: &[u8]| all_spans(&ExportTraceServiceRequest::decode(half).unwrap());
        prop_assert_eq!(of(&front), &spans[..first]);
        prop_assert_eq!(of(&back), &spans[first..]);
    }

    #[test]
    fn what_must_hold_of_any_bytes_holds_of_requests(request in a_request()) {
        fuzzing::relay(&bytes_of(&request));
    }

    #[test]
    fn whatever_comes_out_is_a_request(request in a_request()) {
        let relayed = Relay::new(RelayConfig::default()).unwrap().accept(&bytes_of(&request), UnixNs(NOW)).unwrap();
        let Some(kept) = relayed.kept else { return Ok(()) };
        let decoded = ExportTraceServiceRequest::decode(kept.bytes()).unwrap();
        prop_assert_eq!(all_spans(&decoded).len(), all_spans(&request).len());
    }
}

/// What the seed holds.
fn seed() -> ExportTraceServiceRequest {
    let any = |value| Some(AnyValue { value: Some(value) });
    let pair = |key: &str, value| KeyValue { key: key.into(), value: any(value), ..Default::default() };
    let text = |key: &str, value: &str| pair(key, Value::StringValue(value.into()));
    let nested = Value::KvlistValue(KeyValueList { values: vec![text("token", "x"), text("a", "jane@example.com")] });
    let list = Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(nested) }] });
    let attributes = vec![
        text("http.method", "GET"),
        text("http.url", "https://joe:pw@shop.test/a?user=1&page=2#x"),
        text("http.request.header.authorization", "Bearer abc123def456"),
        text("db.system", "postgresql"),
        text("db.statement", "SELECT * FROM users WHERE name = 'joe'"),
        text("user.id", "4711"),
        pair("card", Value::IntValue(4_111_111_111_111_111)),
        pair("list", list),
    ];
    let event = span::Event {
        name: "exception".into(),
        attributes: vec![text("m", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln")],
        ..Default::default()
    };
    let spans = (1..=3_u8).map(|number| Span {
        trace_id: vec![number * 80; 16],
        span_id: vec![number; 8],
        trace_state: ["", "ot=th:8;rv:0123456789abcd", "a=b,ot=th:c"][usize::from(number) - 1].into(),
        name: "GET /a".into(),
        kind: number.into(),
        start_time_unix_nano: NOW,
        end_time_unix_nano: NOW + u64::from(number),
        attributes: attributes.clone(),
        events: vec![event.clone()],
        links: vec![span::Link {
            trace_id: vec![5; 16],
            span_id: vec![5; 8],
            attributes: vec![text("apiKey", "k")],
            ..Default::default()
        }],
        status: Some(Status { message: "4111 1111 1111 1111".into(), code: i32::from(number) - 1 }),
        ..Span::default()
    });
    let scope = ScopeSpans {
        scope: Some(InstrumentationScope {
            name: "scope".into(),
            attributes: vec![text("a", "b")],
            ..Default::default()
        }),
        spans: spans.collect(),
        schema_url: "schema".into(),
    };
    let resource = Resource {
        attributes: vec![text("service.name", "shop"), text("spantap.tenant", "evil")],
        ..Default::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![scope],
            schema_url: String::new(),
        }],
    }
}

#[test]
fn the_seed_is_what_it_is_said_to_be() {
    if std::env::var_os("SPANTAP_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/relay/request.pb"), seed().encode_to_vec())
            .unwrap();
        return;
    }
    assert_eq!(ExportTraceServiceRequest::decode(SEED).unwrap(), seed());
}

#[test]
fn cut_off_or_garbled_at_any_byte_there_is_no_panic_and_no_span_is_lost() {
    fuzzing::relay(SEED);
    for at in 0..SEED.len() {
        fuzzing::relay(&SEED[..at]);
        for flip in [0x01, 0x04, 0x80, 0xff] {
            let mut garbled = SEED.to_vec();
            garbled[at] ^= flip;
            fuzzing::relay(&garbled);
        }
    }
}

#[test]
fn garbage_is_no_panic() {
    let mut random = Random::new(5);
    for _ in 0..2_000 {
        let mut bytes = SEED.to_vec();
        for _ in 0..=random.below(8) {
            let (at, value) = (random.below(bytes.len()), random.below(256) as u8);
            match random.below(3) {
                0 => bytes[at] = value,
                1 => bytes.insert(at, value),
                _ => _ = bytes.remove(at),
            }
        }
        fuzzing::relay(&bytes);
    }
}
