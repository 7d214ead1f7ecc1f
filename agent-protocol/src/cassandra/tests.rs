use super::*;
use crate::{fuzzing::sessions, session::Protocol};

fn new() -> Box<dyn Parser> {
    Box::<Cassandra>::default()
}

#[test]
fn recordings_say_what_is_recorded() {
    sessions::check_recordings("cassandra", Protocol::Cassandra, new);
}

#[test]
fn damaged_recordings_break_no_promise() {
    sessions::check_damaged("cassandra", new, 200);
}

const VOID: &[u8] = b"\0\0\0\x01";

fn message(version: u8, stream: i16, opcode: u8, body: &[u8]) -> Vec<u8> {
    [&[version, 0][..], &stream.to_be_bytes(), &[opcode], &(body.len() as u32).to_be_bytes(), body].concat()
}

fn query(version: u8, stream: i16, text: &str) -> Vec<u8> {
    let body = [&(text.len() as u32).to_be_bytes()[..], text.as_bytes(), b"\0\x0a\0"].concat();
    message(version, stream, frame::QUERY, &body)
}

fn feed(parser: &mut Cassandra, from: Side, bytes: &[u8]) -> Vec<Event> {
    let mut out = Vec::new();
    parser.feed(from, Input::Bytes(bytes), &mut out);
    out
}

fn facts(events: &[Event]) -> &Facts {
    let [Event::Part(part)] = events else { panic!("one part: {events:?}") };
    &part.facts
}

fn recording(name: &str) -> String {
    let path = format!("{}/fixtures/cassandra/{name}.session", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("a recording")
}

#[test]
fn versions_and_compressions_say_the_same() {
    let said = |name: &str| {
        let events = sessions::feed(new(), &sessions::conversation(&recording(name)));
        let parts =
            events.into_iter().filter_map(|event| if let Event::Part(part) = event { Some(part) } else { None });
        let asked = parts.filter(|part| part.from == Side::Client).map(|part| part.facts.name.unwrap_or_default());
        let asked: Vec<_> = asked.filter(|name| name != "AUTH_RESPONSE").take(17).collect();
        assert_eq!(asked.len(), 17, "{name}");
        asked
    };
    let plain = said("python-v3");
    for name in ["python-v4-lz4", "python-v4-snappy", "python-v5", "python-v5-lz4"] {
        assert_eq!(said(name), plain, "{name}");
    }
}

#[test]
fn lengths_of_2_to_the_31_are_not_believed() {
    let mut parser = Cassandra::default();
    for from in [Side::Client, Side::Server] {
        let version = if from == Side::Client { 4 } else { 0x84 };
        let bytes = [version, 0, 0, 0, 7, 0x80, 0, 0, 0, 0];
        let lost = Event::Lost { from, at: 0, reason: crate::input::Lost::Malformed };
        assert_eq!(feed(&mut parser, from, &bytes), [lost]);
    }
    // Texts, lists and metadata that claim too much.
    for length in [u32::MAX, 1 << 31, 0x7fff_ffff] {
        let mut parser = Cassandra::default();
        let claims = [&length.to_be_bytes()[..], b"SELECT 1"].concat();
        assert_eq!(
            facts(&feed(&mut parser, Side::Client, &message(4, 0, frame::QUERY, &claims))).name.as_deref(),
            Some("SELECT")
        );
        feed(&mut parser, Side::Client, &message(4, 1, frame::PREPARE, &claims));
        let prepared = [b"\0\0\0\x04\0\x10aaaaaaaaaaaaaaaa\0\0\0\x01\0\0\0\x01", &length.to_be_bytes()[..]].concat();
        feed(&mut parser, Side::Server, &message(0x84, 1, frame::RESULT, &prepared));
        assert!(parser.context.statements.get(*b"aaaaaaaaaaaaaaaa").is_some_and(|known| known.database.is_none()));
    }
}

#[test]
fn ten_thousand_statements_are_bounded() {
    let mut parser = Cassandra::default();
    for number in 0..10_000_u32 {
        let stream = (number % 1000) as i16;
        feed(&mut parser, Side::Client, &message(4, stream, frame::PREPARE, b"\0\0\0\x08SELECT 1"));
        let id = [&[0; 12][..], &number.to_be_bytes()].concat();
        let body = [b"\0\0\0\x04\0\x10", &id[..], &[0; 12]].concat();
        feed(&mut parser, Side::Server, &message(0x84, stream, frame::RESULT, &body));
    }
    let mut known = |number: u32| parser.context.statements.get(u128::from(number).to_be_bytes()).is_some();
    assert!(!known(0) && known(9_999), "the oldest are forgotten");
}

#[test]
fn answers_follow_their_streams_and_errors_have_codes() {
    let mut parser = Cassandra::default();
    let pipeline: Vec<u8> = (0..10_000).flat_map(|stream| query(4, stream, "SELECT * FROM t")).collect();
    assert_eq!(feed(&mut parser, Side::Client, &pipeline).len(), 10_000);
    let answer = feed(&mut parser, Side::Server, &message(0x84, 9_999, frame::RESULT, VOID));
    assert!(matches!(&answer[..], [Event::Part(Part { key: Key::Id(9_999), .. })]));
    let overloaded = feed(&mut parser, Side::Server, &message(0x84, 1, frame::ERROR, b"\0\0\x10\x01\0\0"));
    assert_eq!(facts(&overloaded).outcome, Some(crate::session::Outcome::Error("0x1001".into())));
    let told = feed(&mut parser, Side::Server, &message(0x84, -1, frame::EVENT, b"\0\0"));
    assert!(matches!(&told[..], [Event::Part(Part { form: crate::session::Form::OneWay, .. })]));
}

#[test]
fn an_answer_is_not_an_older_requests() {
    let mut parser = Cassandra::default();
    feed(&mut parser, Side::Client, &query(4, 7, "SELECT * FROM t"));
    let asked = query(4, 7, "SELECT * FROM u");
    let events = feed(&mut parser, Side::Client, &asked);
    let end = asked.len() as u64;
    let cancelled = Event::Cancelled { key: Key::Id(7), by: Side::Client, end, error_type: None };
    assert!(matches!(&events[..], [first, Event::Part(_)] if *first == cancelled), "{events:?}");
    feed(&mut parser, Side::Server, &message(0x84, 7, frame::RESULT, VOID));
    assert_eq!(feed(&mut parser, Side::Client, &asked).len(), 1, "it was answered");
}

#[test]
fn a_keyspace_and_what_is_prepared_are_not_known_after_a_loss() {
    let mut parser = Cassandra::default();
    let namespace = |parser: &mut Cassandra, stream| {
        let events = feed(parser, Side::Client, &query(4, stream, "SELECT * FROM t"));
        facts(&events).attributes.iter().any(|(key, _)| *key == "db.namespace")
    };
    feed(&mut parser, Side::Server, &message(0x84, 1, frame::RESULT, b"\0\0\0\x03\0\x04shop"));
    assert!(namespace(&mut parser, 1));
    feed(&mut parser, Side::Client, &message(4, 2, frame::PREPARE, b"\0\0\0\x08SELECT 1"));
    parser.feed(Side::Server, Input::Gap(10), &mut Vec::new());
    assert!(!namespace(&mut parser, 3));
    let prepared = [&b"\0\0\0\x04\0\x10aaaaaaaaaaaaaaaa"[..], &[0; 12]].concat();
    feed(&mut parser, Side::Server, &message(0x84, 2, frame::RESULT, &prepared));
    assert!(parser.context.statements.get(*b"aaaaaaaaaaaaaaaa").is_none());
}

#[test]
fn texts_values_and_logins_are_not_said() {
    for name in ["python-v3", "python-v5", "python-v5-lz4", "python-v4-snappy", "node"] {
        let said = format!("{:?}", sessions::feed(new(), &sessions::conversation(&recording(name))));
        let found = ["secret", "unconfigured", "viable"].into_iter().find(|secret| said.contains(secret));
        assert_eq!(found, None, "{name}");
    }
    let secret: String = b"secret".iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(recording("python-v3").contains(&secret) && recording("node").contains(&secret));
}

#[test]
fn of_a_statement_that_was_cut_the_last_word_is_not_said() {
    for text in [
        "SELECT * FROM t WHERE id = e29b",
        "SELECT * FROM t WHERE id = e29b0000-e29b-41",
        "SELECT * FROM t WHERE id = 'e29b",
    ] {
        let whole = query(4, 1, &format!("{text}{}", " ".repeat(64)));
        let (mut parser, mut out) = (Cassandra::default(), Vec::new());
        let captured = frame::HEADER_BYTES + 4 + text.len();
        parser.feed(Side::Client, Input::Bytes(&whole[..captured]), &mut out);
        parser.feed(Side::Client, Input::Gap((whole.len() - captured) as u64), &mut out);
        let said = format!("{:?}", facts(&out));
        assert!(said.contains("SELECT") && !said.contains("e29b"), "{said}");
    }
}

#[test]
fn cassandra_is_recognised_at_its_begin_and_in_its_midst() {
    assert_eq!(check_client(b"\x05\0\0\0\x05\0\0\0\0"), Sign::Yes);
    assert_eq!(check_client(&query(4, 7, "SELECT 1")), Sign::Yes);
    assert_eq!(check_server(&message(0x84, 7, frame::RESULT, VOID)), Sign::Yes);
    assert_eq!(check_client(&message(0x84, 7, frame::RESULT, VOID)), Sign::No);
    for end in 1..20 {
        assert_ne!(check_client(&query(4, 7, "SELECT 1")[..end]), Sign::No, "{end}");
        sessions::check_sign(check_client, &query(4, 7, "SELECT 1")[..end]);
    }
    let late = sessions::conversation(&recording("python-v5-late"));
    assert!(matches!(&late[0], sessions::Fed::Bytes(from, bytes) if check(bytes, *from) == Sign::Yes), "{:?}", late[0]);
    let others: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03aaaaaaaaaaaaaaaa",
        b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0\xff\xff",
        b"\x03\0\0\0\x03\x53\x45\x4c\x45\x43\x54",
        b"\0\0\0\x0d\0\x12\0\0\0\0\0\x01\0\x03aio",
        b"AMQP\0\0\x09\x01",
        b"\x01\0\0\0\0\0\x05\0\x14\0\x0a\0\xce",
    ];
    for bytes in others {
        assert_eq!((check_client(bytes), check_server(bytes)), (Sign::No, Sign::No), "{}", bytes.escape_ascii());
    }
}
