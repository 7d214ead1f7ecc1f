//! What the relay remembers within a request never makes a result differ.

use agent_protocol::fuzzing::Random;

use super::*;
use crate::wire;

const KEYS: &[&str] = &[
    "a",
    "b",
    "enduser.id",
    "url.full",
    "http.url",
    "url.query",
    "db.query.text",
    "db.statement",
    "db.system.name",
    "db.system",
    "password",
    "",
];

fn values() -> Vec<Value> {
    let long = |text: &str, count| text.repeat(count);
    let mut values: Vec<Value> = [
        "",
        "GET",
        "GEt",
        "postgresql",
        "mysql",
        "jane@example.com",
        "4111 1111 1111 1111",
        "Bearer abc123def456",
        "/a?b=c",
        "/a?{value}",
        "x=1",
        "SELECT \"a\" FROM t WHERE b = 'c\\'",
        "SELECT a FROM t WHERE b = 17",
        "SELECT a FROM t WHERE b = 18",
        "SELECT a FROM t WHERE b = ?",
        "WITH 7",
        "(SELECT 7)",
    ]
    .map(text)
    .into();
    values.extend([long("/a/", 50), long("/?a=b", 60), long("/?a=b", 4000), long("x", 20_000)].map(Value::StringValue));
    values.extend([Value::IntValue(4_111_111_111_111_111), Value::IntValue(7), Value::BoolValue(true)]);
    values.extend([Value::BytesValue(b"jane@example.com".into()), array(&["SELECT 'a'", "jane@example.com"])]);
    values
}

fn spans(random: &mut Random, values: &[Value]) -> Vec<Span> {
    let mut one = || {
        let attributes = (0..random.below(7)).map(|_| {
            let (key, value) = (KEYS[random.below(KEYS.len())], values[random.below(values.len())].clone());
            pair(key, value)
        });
        let attributes = attributes.collect();
        let name = ["GET /", "GET /b", "jane@example.com", "jim@example.com"][random.below(4)];
        Span { name: name.into(), kind: random.below(6) as i32, ..span(attributes) }
    };
    (0..12).map(|_| one()).collect()
}

#[test]
fn a_span_becomes_the_same_whatever_came_before_it() {
    let (mut random, values) = (Random::new(7), values());
    let renaming = RelayConfig {
        redact: Redaction { deny: vec![("enduser.*".into(), Action::Hash)], ..Redaction::default() },
        renames: Renames { semantic_conventions: true, keys: vec![("a".into(), "db.system.name".into())] },
        ..RelayConfig::default()
    };
    for config in [RelayConfig::default(), renaming] {
        let relay = Relay::new(config).unwrap();
        let accept = |spans| relay.accept(&request(spans).encode_to_vec(), NOW).unwrap();
        for _ in 0..300 {
            let spans = spans(&mut random, &values);
            let together = accept(spans.clone());
            let found = decode(together.kept.as_ref().unwrap()).resource_spans[0].scope_spans[0].spans.clone();
            let alone: Vec<_> = spans.into_iter().map(|span| accept(vec![span])).collect();
            assert_eq!(found, alone.iter().map(first_span).collect::<Vec<_>>());
            assert_eq!(together.redacted, alone.iter().map(|relayed| relayed.redacted).sum::<u64>());
        }
    }
}

/// A link, even an empty one, makes the relay read a span field by field.
#[test]
fn a_span_that_is_read_at_once_becomes_what_it_becomes_field_by_field() {
    const LINK: &[u8] = &[0x6a, 0];
    let (mut random, values) = (Random::new(11), values());
    let renames = Renames { semantic_conventions: true, keys: vec![("a".into(), "b".into())] };
    let sampling = Some(HeadSampling { threshold: Threshold::from_probability(0.5), keep_errors: true });
    let everything = RelayConfig { renames, sampling, ..RelayConfig::default() };
    let bytes = |spans: &[Vec<u8>]| {
        let (mut scope, mut resource, mut request) = (Vec::new(), Vec::new(), Vec::new());
        spans.iter().for_each(|span| wire::put_bytes(&mut scope, 2, span));
        wire::put_bytes(&mut resource, 2, &scope);
        wire::put_bytes(&mut request, 1, &resource);
        request
    };
    for config in [RelayConfig::untouched(), RelayConfig::default(), everything] {
        let relay = Relay::new(config).unwrap();
        let accept = |spans: &[Vec<u8>]| relay.accept(&bytes(spans), NOW);
        let kept = |batch: &Option<SafeBatch>| -> Vec<Vec<u8>> {
            let Some(batch) = batch else { return vec![] };
            wire::spans(batch.bytes()).map(|span| batch.bytes()[span.unwrap().body].to_vec()).collect()
        };
        for turn in 0..2_000 {
            let mut spans: Vec<Vec<u8>> = spans(&mut random, &values).iter().map(Span::encode_to_vec).collect();
            for span in &mut spans {
                let at = random.below(span.len());
                if turn % 2 == 1 && random.below(8) == 0 {
                    span[at] ^= 1 << random.below(8);
                }
            }
            let linked: Vec<Vec<u8>> = spans.iter().map(|span| [LINK, span].concat()).collect();
            let (Ok(plain), Ok(other)) = (accept(&spans), accept(&linked)) else {
                assert_eq!(accept(&spans).is_err(), accept(&linked).is_err());
                continue;
            };
            // A trace state that is new stands before all.
            let without = |mut spans: Vec<Vec<u8>>| {
                for span in &mut spans {
                    let at = if span.starts_with(LINK) { 0 } else { 2 + usize::from(span[1]) };
                    assert!(span.drain(at..at + LINK.len()).eq(LINK.iter().copied()));
                }
                spans
            };
            assert_eq!(kept(&plain.kept), without(kept(&other.kept)));
            assert_eq!(kept(&plain.local), without(kept(&other.local)));
            assert_eq!((plain.redacted, plain.rejected), (other.redacted, other.rejected));
        }
    }
}

#[test]
fn whose_sql_it_is_may_be_said_before_and_behind_it_and_the_last_one_counts() {
    let statement = ("db.query.text", "SELECT \"a\" FROM t");
    for (attributes, expected) in [
        (vec![("db.system.name", "postgresql"), statement], statement.1),
        (vec![statement, ("db.system.name", "postgresql")], statement.1),
        (vec![("db.system", "mysql"), statement, ("db.system.name", "postgresql")], statement.1),
        (vec![("db.system", "postgresql"), statement, ("db.system.name", "mysql")], "SELECT ? FROM t"),
        (vec![("db.system", "postgresql"), ("db.system", "mysql"), statement], "SELECT ? FROM t"),
        (vec![statement], "SELECT ? FROM t"),
    ] {
        let relayed = accept(RelayConfig::default(), &request(vec![span(texts(&attributes))]));
        let found = first_span(&relayed).attributes.into_iter().find(|pair| pair.key == statement.0);
        assert_eq!(found.unwrap(), pair(statement.0, text(expected)), "{attributes:?}");
    }
}
