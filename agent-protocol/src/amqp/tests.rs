use super::*;
use crate::{fuzzing::sessions, session::Protocol};

fn new() -> Box<dyn Parser> {
    Box::<Amqp>::default()
}

#[test]
fn recordings_say_what_is_recorded() {
    sessions::check_recordings("amqp", Protocol::Amqp, new);
}

#[test]
fn damaged_recordings_break_no_promise() {
    sessions::check_damaged("amqp", new, 200);
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&[kind][..], &channel.to_be_bytes(), &size, payload, &[FRAME_END]].concat()
}

fn method(channel: u16, Id(class, id): Id, arguments: &[u8]) -> Vec<u8> {
    frame(METHOD, channel, &[&class.to_be_bytes(), &id.to_be_bytes(), arguments].concat())
}

fn header(channel: u16, body_bytes: u64, properties: &[u8]) -> Vec<u8> {
    frame(HEADER, channel, &[b"\0\x3c\0\0", &body_bytes.to_be_bytes()[..], properties].concat())
}

fn feed(parser: &mut Amqp, from: Side, bytes: &[u8]) -> Vec<Event> {
    let mut out = Vec::new();
    parser.feed(from, Input::Bytes(bytes), &mut out);
    out
}

const DECLARE: Id = Id(50, 10);
const PURGE: Id = Id(50, 30);
const PUBLISH_ARGUMENTS: &[u8] = b"\0\0\x06orders\x01k\0";

#[test]
fn a_close_answers_what_caused_it_and_cancels_the_rest() {
    let mut parser = Amqp::default();
    for (channel, asked) in [(1, PURGE), (1, DECLARE), (2, DECLARE)] {
        feed(&mut parser, Side::Client, &method(channel, asked, b"\0\0\x01q\0"));
    }
    let close = method(1, method::CHANNEL_CLOSE, b"\x01\x94\x02no\0\x32\0\x0a");
    let said = sessions::say(&feed(&mut parser, Side::Server, &close));
    let expected = "< #4298244106 0-21 Framed outcome=ClientError(\"not-found\")\n\
        Cancelled { key: Id(4298244126), by: Server, end: 21, error_type: Some(\"not-found\") }\n";
    assert_eq!(said, expected);
    let close = method(0, method::CONNECTION_CLOSE, b"\x01\x40\x02no\0\0\0\0");
    let said = sessions::say(&feed(&mut parser, Side::Server, &close));
    // Whose fault that is the code says; nothing waits on the connection's own channel.
    let expected = "< one-way 21-42 Framed name=\"connection.close\" outcome=Error(\"connection-forced\") \
        messaging.system=\"rabbitmq\" network.protocol.version=\"0-9-1\" messaging.operation.name=\"connection.close\"\n\
        Cancelled { key: Id(8593211402), by: Server, end: 42, error_type: Some(\"connection-forced\") }\n";
    assert_eq!(said, expected);
}

#[test]
fn after_a_loss_an_answer_is_no_older_requests() {
    for lossy in [Side::Client, Side::Server] {
        let mut parser = Amqp::default();
        let declare = method(1, DECLARE, b"\0\0\x01q\0");
        let declared = method(1, Id(50, 11), b"\x01q\0\0\0\0\0\0\0\0");
        feed(&mut parser, Side::Client, &declare);
        let mut out = Vec::new();
        parser.feed(lossy, Input::Gap(declared.len() as u64), &mut out);
        let [Event::Lost { .. }, Event::Cancelled { key: lost, error_type: None, .. }] = out[..] else {
            panic!("{out:?}")
        };
        let asked = feed(&mut parser, Side::Client, &declare);
        let answered = feed(&mut parser, Side::Server, &declared);
        let ([Event::Part(asked)], [Event::Part(answered)]) = (&asked[..], &answered[..]) else {
            panic!("{asked:?} {answered:?}")
        };
        assert_eq!((asked.key, answered.key), (lost, lost), "{lossy:?}");
    }
}

#[test]
fn what_was_hidden_is_counted() {
    let declare = method(1, DECLARE, b"\0\0\x01q\0");
    let publish = method(1, method::PUBLISH, PUBLISH_ARGUMENTS);
    let header = header(1, 4, b"\0\0");
    let message = [&publish[..], &header].concat();
    for (bytes, captured) in [(&declare, 9), (&publish, 8), (&message, publish.len() + 9)] {
        let (mut parser, mut out) = (Amqp::default(), Vec::new());
        feed(&mut parser, Side::Client, &method(1, PURGE, b"\0\0\x01q\0"));
        parser.feed(Side::Client, Input::Bytes(&bytes[..captured]), &mut out);
        parser.feed(Side::Client, Input::Gap((bytes.len() - captured) as u64), &mut out);
        assert!(matches!(out[0], Event::Lost { reason: Lost::Gap, .. }), "{out:?}");
        let of_a_method = captured < publish.len();
        assert_eq!(out.len(), 1 + usize::from(of_a_method), "what waits on the channel is given up: {out:?}");
    }
    // A message whose rest never came.
    let mut parser = Amqp::default();
    let events = feed(&mut parser, Side::Client, &publish.repeat(2));
    assert!(matches!(events[..], [Event::Lost { reason: Lost::Malformed, .. }]), "{events:?}");
}

#[test]
fn a_message_that_was_got_is_given_up_with_the_loss_of_its_rest() {
    let mut parser = Amqp::default();
    feed(&mut parser, Side::Client, &method(1, method::GET, b"\0\0\x01q\0"));
    feed(&mut parser, Side::Server, &method(1, method::GET_OK, b"\0\0\0\0\0\0\0\x01\0\0\x01q\0\0\0\0"));
    let mut out = Vec::new();
    parser.feed(Side::Server, Input::Gap(100), &mut out);
    assert!(matches!(out[..], [Event::Lost { .. }, Event::Cancelled { by: Side::Server, .. }]), "{out:?}");
}

#[test]
fn routing_keys_lose_their_ids_and_queues_do_not() {
    let said = |arguments: &[u8]| {
        let publish = [method(1, method::PUBLISH, arguments), header(1, 0, b"\0\0")].concat();
        let events = feed(&mut Amqp::default(), Side::Client, &publish);
        sessions::say(&events)
    };
    let routed = said(b"\0\0\x06orders\x10order.4711.paid!\0");
    let name = r#"messaging.destination.name="orders:order.{id}.paid!" messaging.rabbitmq.destination.routing_key="order.{id}.paid!""#;
    assert!(routed.contains(name) && !routed.contains("4711"), "{routed}");
    assert!(said(b"\0\0\0\x0bworker-1001\0").contains(r#"messaging.destination.name="worker-1001""#));
}

#[test]
fn messages_of_several_channels_may_mix() {
    let mut parser = Amqp::default();
    let pieces = [
        method(1, method::PUBLISH, PUBLISH_ARGUMENTS),
        method(2, method::PUBLISH, PUBLISH_ARGUMENTS),
        header(2, 4, b"\0\0"),
        header(1, 3, b"\0\0"),
        frame(BODY, 2, b"ab"),
        frame(BODY, 1, b"abc"),
        frame(BODY, 2, b"cd"),
    ];
    let events = feed(&mut parser, Side::Client, &pieces.concat());
    let ranges: Vec<_> =
        events.iter().map(|event| matches!(event, Event::Part(_)).then(|| format!("{event:?}"))).collect();
    assert_eq!(ranges.len(), 2);
    assert_eq!((parser.client.contents.len(), parser.pending_from(Side::Client)), (0, parser.client.frames.offset()));
}

#[test]
fn what_is_pending_begins_with_the_messages_method() {
    let mut parser = Amqp::default();
    feed(&mut parser, Side::Client, &frame(HEARTBEAT, 0, b""));
    feed(&mut parser, Side::Client, &method(1, method::PUBLISH, PUBLISH_ARGUMENTS));
    assert_eq!(parser.pending_from(Side::Client), 8);
}

#[test]
fn lengths_of_2_to_the_31_are_not_believed() {
    let mut parser = Amqp::default();
    for from in [Side::Client, Side::Server] {
        let lost = Event::Lost { from, at: 0, reason: crate::input::Lost::Malformed };
        assert_eq!(feed(&mut parser, from, b"\x01\0\0\x80\0\0\0"), [lost]);
    }
    // A body, a table and a text within it that claim too much.
    let mut parser = Amqp::default();
    feed(&mut parser, Side::Client, &method(1, method::PUBLISH, PUBLISH_ARGUMENTS));
    let table = b"\x20\0\xff\xff\xff\xff\x01kS\xff\xff\xff\xff";
    assert_eq!(feed(&mut parser, Side::Client, &header(1, u64::MAX, table)), []);
    assert_eq!(feed(&mut parser, Side::Client, &frame(BODY, 1, b"abc")), []);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut parser = Amqp::default();
    let mut told = 0;
    for channel in 0..10_000 {
        told += feed(&mut parser, Side::Client, &method(channel, method::PUBLISH, PUBLISH_ARGUMENTS)).len();
    }
    // None is lost: the oldest are told as if they ended.
    assert_eq!((parser.client.contents.len(), told), (CONTENTS_MAX, 10_000 - CONTENTS_MAX));
}

#[test]
fn bodies_logins_and_texts_of_replies_are_not_said() {
    for name in ["pika", "pika-login", "aio-pika", "amqplib"] {
        let path = format!("{}/fixtures/amqp/{name}.session", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let secret: String = b"secret".iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(text.contains(&secret), "{name} holds the secret");
        let said = format!("{:?}", sessions::feed(new(), &sessions::conversation(&text)));
        let found = ["secret", "guest", "NOT_FOUND", "vhost"].into_iter().find(|secret| said.contains(secret));
        assert_eq!(found, None, "{name}");
    }
}

#[test]
fn amqp_is_recognised_at_its_begin_and_in_its_midst() {
    let publish = method(1, method::PUBLISH, PUBLISH_ARGUMENTS);
    let deliver = method(1, method::DELIVER, b"\x01c\0\0\0\0\0\0\0\x01\0\0\x01q");
    assert_eq!((check_client(b"AMQP\0\0\x09\x01"), check_client(b"AMQP\0\x01\0\0")), (Sign::Yes, Sign::No));
    assert_eq!((check_client(&publish), check_server(&publish)), (Sign::Yes, Sign::No));
    assert_eq!((check_client(&deliver), check_server(&deliver)), (Sign::No, Sign::Yes));
    assert_eq!(check_client(&header(1, 5, b"\0\0")), Sign::Yes);
    assert_eq!(check_client(&frame(HEARTBEAT, 0, b"")), Sign::Yes);
    for end in 1..publish.len() {
        assert_ne!(check_client(&publish[..end]), Sign::No, "{end}");
    }
    let others: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03aaaaaaaaaaaaaaaa",
        b"\x03\0\0\0\x01\0\0\0\x16\0\x01\0\x0bCQL_VERSION\0\x053.0.0",
        b"\0\0\0\x0d\0\x12\0\0\0\0\0\x01\0\x03aio",
        // FastCGI: a request begins.
        b"\x01\x01\0\x01\0\x08\0\0\0\x01\0\0\0\0\0\0",
        b"\x01\0\0\0\x01SELECT 1",
    ];
    for bytes in others {
        assert_eq!((check_client(bytes), check_server(bytes)), (Sign::No, Sign::No), "{}", bytes.escape_ascii());
    }
}
