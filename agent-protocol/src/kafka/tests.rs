use super::*;
use crate::{
    detect::{Verdict, detect},
    fuzzing::sessions,
    input::Lost,
    session::{Facts, Outcome, Protocol, Value},
};

fn new() -> Box<dyn Parser> {
    Box::<Kafka>::default()
}

#[test]
fn recordings_say_what_is_recorded() {
    sessions::check_recordings("kafka", Protocol::Kafka, new);
}

#[test]
fn damaged_recordings_break_no_promise() {
    sessions::check_damaged("kafka", new, 200);
}

/// A request: its header with a client id, then this body.
fn request(key: i16, version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((8 + 2 + 3 + body.len() as i32).to_be_bytes());
    bytes.extend(key.to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes.extend(correlation.to_be_bytes());
    bytes.extend(b"\0\x03app");
    bytes.extend(body);
    bytes
}

fn response(correlation: i32, body: &[u8]) -> Vec<u8> {
    [&(4 + body.len() as i32).to_be_bytes(), &correlation.to_be_bytes(), body].concat()
}

fn feed(parser: &mut Kafka, from: Side, bytes: &[u8]) -> Vec<Event> {
    let mut out = Vec::new();
    parser.feed(from, Input::Bytes(bytes), &mut out);
    out
}

fn facts(events: &[Event]) -> &Facts {
    let [Event::Part(part)] = events else { panic!("one part: {events:?}") };
    &part.facts
}

#[test]
fn the_first_error_of_a_produce_is_its_outcome() {
    let mut parser = Kafka::default();
    feed(&mut parser, Side::Client, &request(api::PRODUCE, 7, 1, b"\xff\xff\xff\xff\0\0\x13\x88\0\0\0\0"));
    // One topic of two partitions: the first without error, the second too large.
    let mut body = b"\0\0\0\x01\0\x01t\0\0\0\x02".to_vec();
    for (partition, error) in [(0_i32, 0_i16), (1, 10)] {
        body.extend(partition.to_be_bytes());
        body.extend(error.to_be_bytes());
        body.extend([0; 24]);
    }
    let events = feed(&mut parser, Side::Server, &response(1, &body));
    assert_eq!(facts(&events).outcome, Some(Outcome::ClientError("MESSAGE_TOO_LARGE".into())));
}

#[test]
fn a_member_without_an_id_goes_on_joining() {
    let outcome = |key: i16, version: i16, answer: &[u8]| {
        let mut parser = Kafka::default();
        feed(&mut parser, Side::Client, &request(key, version, 1, b"\0\x01g\0\0\0\0"));
        facts(&feed(&mut parser, Side::Server, &response(1, answer))).outcome.clone()
    };
    let error = |name: &'static str| Some(Outcome::ClientError(name.into()));
    assert_eq!(outcome(api::JOIN_GROUP, 4, b"\0\0\0\0\0\x4f\xff\xff\xff\xff"), Some(Outcome::Ok));
    assert_eq!(outcome(api::JOIN_GROUP, 4, b"\0\0\0\0\0\x19\xff\xff\xff\xff"), error("UNKNOWN_MEMBER_ID"));
    assert_eq!(outcome(api::HEARTBEAT, 1, b"\0\0\0\0\0\x4f"), error("MEMBER_ID_REQUIRED"));
    // One member that left, and one that the group does not know.
    let left = b"\0\0\0\0\0\0\0\0\0\x02\0\x01a\xff\xff\0\0\0\x01b\xff\xff\0\x19";
    assert_eq!(outcome(api::LEAVE_GROUP, 3, left), error("UNKNOWN_MEMBER_ID"));
    assert_eq!(outcome(api::LEAVE_GROUP, 3, &left[..20]), None);
    assert_eq!(outcome(api::LEAVE_GROUP, 3, b"\0\0\0\0\0\0\0\0\0\0"), Some(Outcome::Ok));
    assert_eq!(outcome(api::LEAVE_GROUP, 2, b"\0\0\0\0\0\0"), Some(Outcome::Ok));
}

#[test]
fn an_outcome_behind_what_was_captured_is_unknown() {
    let mut parser = Kafka::default();
    feed(&mut parser, Side::Client, &request(api::PRODUCE, 7, 1, b"\xff\xff\xff\xff\0\0\x13\x88\0\0\0\0"));
    let whole = response(1, &[b"\0\0\0\x01\0\x01t\0\0\0\x01", &[0_u8; 30][..]].concat());
    let mut out = Vec::new();
    parser.feed(Side::Server, Input::Bytes(&whole[..20]), &mut out);
    parser.feed(Side::Server, Input::Gap(whole.len() as u64 - 20), &mut out);
    assert_eq!(facts(&out).outcome, None);
}

#[test]
fn lengths_of_2_to_the_31_are_not_believed() {
    for count in [i32::MAX, i32::MIN, -1] {
        let mut parser = Kafka::default();
        let body =
            [&b"\xff\xff\xff\xff\0\0\x13\x88"[..], &count.to_be_bytes(), b"\0\x01t", &count.to_be_bytes()].concat();
        let events = feed(&mut parser, Side::Client, &request(api::PRODUCE, 7, 1, &body));
        assert_eq!(facts(&events).name.as_deref(), Some("send"));
        feed(
            &mut parser,
            Side::Server,
            &response(1, &[&count.to_be_bytes()[..], b"\0\x01t", &count.to_be_bytes()].concat()),
        );
    }
    let mut parser = Kafka::default();
    for from in [Side::Client, Side::Server] {
        assert_eq!(feed(&mut parser, from, &[0xff; 64]), [Event::Lost { from, at: 0, reason: Lost::Malformed }]);
    }
}

#[test]
fn many_requests_may_wait_and_the_oldest_are_forgotten() {
    let mut parser = Kafka::default();
    for correlation in 0..10_000 {
        feed(&mut parser, Side::Client, &request(api::HEARTBEAT, 0, correlation, b"\0\x01g"));
    }
    assert_eq!(parser.asked.len(), ASKED_MAX);
    let known = feed(&mut parser, Side::Server, &response(9_999, b"\0\0"));
    let forgotten = feed(&mut parser, Side::Server, &response(0, b"\0\0"));
    assert_eq!((facts(&known).outcome.as_ref(), &facts(&forgotten).outcome), (Some(&Outcome::Ok), &None));
}

#[test]
fn without_acknowledgement_a_produce_is_one_way() {
    let mut parser = Kafka::default();
    let events = feed(&mut parser, Side::Client, &request(api::PRODUCE, 7, 1, b"\xff\xff\0\0\0\0\x13\x88\0\0\0\0"));
    assert!(matches!(&events[..], [Event::Part(Part { form: crate::session::Form::OneWay, .. })]), "{events:?}");
    assert!(parser.asked.is_empty());
}

#[test]
fn versions_that_come_later_are_named_and_not_read() {
    let mut parser = Kafka::default();
    let events = feed(&mut parser, Side::Client, &request(api::PRODUCE, 14, 1, &[0; 64]));
    let version = ("spantap.kafka.api_version", Value::Int(14));
    assert!(facts(&events).attributes.contains(&version) && facts(&events).name.as_deref() == Some("send"));
    assert_eq!(facts(&feed(&mut parser, Side::Server, &response(1, &[0; 64]))), &Facts::default());
}

#[test]
fn keys_values_and_other_headers_are_not_said() {
    let said = ["produce", "produce-tansu", "kafkajs-fetch", "kafka-python-produce"].map(|name| {
        let path = format!("{}/fixtures/kafka/{name}.session", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let secret: String = b"secret".iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(text.contains(&secret), "{name} holds the secret");
        format!("{:?}", sessions::feed(new(), &sessions::conversation(&text)))
    });
    assert!(said.iter().all(|said| !said.contains("secret") && said.contains("messaging.batch.message_count")));
}

#[test]
fn kafka_is_recognised_by_its_client() {
    let check =
        |client: &[u8], server: &[u8], expected| assert_eq!(detect(client, server), expected, "{client:?} {server:?}");
    let is = Verdict::Is(Protocol::Kafka);
    let whole = request(api::FETCH, 11, 7, b"");
    check(&whole, b"", is);
    for end in 1..whole.len() {
        check(&whole[..end], b"", Verdict::NotYet);
        sessions::check_sign(check_client, &whole[..end]);
    }
    // Without a client id the server must agree.
    let nameless = b"\0\0\0\x0a\0\x12\0\0\0\0\0\x01\xff\xff";
    check(nameless, b"", Verdict::NotYet);
    check(nameless, b"\0\0\0\x10\0\0\0\x01\0\0", is);
    check(nameless, b"HTTP/1.1 200 OK\r\n", Verdict::Is(Protocol::Http1));
    check(nameless, b"+PONG\r\n", Verdict::Unknown);
}

#[test]
fn others_bytes_are_not_kafkas() {
    let others: [&[u8]; 9] = [
        // PostgreSQL: SSLRequest, and a start-up message.
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\0\0\x21\0\x03\0\0user\0postgres\0database\0x\0\0",
        // AMQP, Cassandra, MongoDB, TLS, DNS over TCP, HTTP/2.
        b"AMQP\0\0\x09\x01",
        b"\x04\0\0\0\x05\0\0\0\0",
        b"\x3a\x01\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x04test\0\0\x01\0\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        // A gRPC message of three bytes in an HTTP/2 DATA frame.
        b"\0\0\x08\0\0\0\0\0\x03\0\0\0\0\x03abc",
    ];
    for bytes in others {
        assert_eq!(check_client(bytes), Sign::No, "{}", bytes.escape_ascii());
    }
}
