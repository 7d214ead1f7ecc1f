//! What the relay remembers within a request never makes a result differ.

use agent_protocol::fuzzing::Random;

use super::*;

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
