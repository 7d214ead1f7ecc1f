use super::*;
use crate::{
    fuzzing::sessions,
    input::Lost,
    session::{Outcome, Protocol},
};

fn new() -> Box<dyn Parser> {
    Box::<Mongodb>::default()
}

#[test]
fn recordings_say_what_is_recorded() {
    sessions::check_recordings("mongodb", Protocol::Mongodb, new);
}

#[test]
fn damaged_recordings_break_no_promise() {
    sessions::check_damaged("mongodb", new, 200);
}

fn message(id: u32, answers: u32, opcode: u32, body: &[u8]) -> Vec<u8> {
    let length = (message::HEADER_BYTES + body.len()) as u32;
    [&length.to_le_bytes(), &id.to_le_bytes(), &answers.to_le_bytes(), &opcode.to_le_bytes(), body].concat()
}

/// A document of these elements.
fn document(elements: &[u8]) -> Vec<u8> {
    [&(elements.len() as u32 + 5).to_le_bytes()[..], elements, b"\0"].concat()
}

/// OP_MSG with these flags and this command or answer.
fn op_msg(flags: u32, elements: &[u8]) -> Vec<u8> {
    [&flags.to_le_bytes()[..], b"\0", &document(elements)].concat()
}

fn feed(parser: &mut Mongodb, from: Side, bytes: &[u8]) -> Vec<Event> {
    let mut out = Vec::new();
    parser.feed(from, Input::Bytes(bytes), &mut out);
    out
}

fn facts(events: &[Event]) -> &Facts {
    let [Event::Part(part)] = events else { panic!("one part: {events:?}") };
    &part.facts
}

#[test]
fn documents_that_lie_about_their_lengths_say_only_what_came() {
    let mut parser = Mongodb::default();
    for length in [i32::MAX, i32::MIN, -1, 0, 3] {
        let nested = [b"\x02find\0\x02\0\0\0t\0\x03filter\0", &length.to_le_bytes()[..]].concat();
        let events = feed(&mut parser, Side::Client, &message(1, 0, message::OP_MSG, &op_msg(0, &nested)));
        assert_eq!(facts(&events).name.as_deref(), Some("find t"), "{length}");
        let text = [b"\x02find\0", &length.to_le_bytes()[..]].concat();
        feed(&mut parser, Side::Client, &message(1, 0, message::OP_MSG, &op_msg(0, &text)));
        let body = [&[0; 4][..], b"\0", &length.to_le_bytes()].concat();
        feed(&mut parser, Side::Client, &message(1, 0, message::OP_MSG, &body));
    }
    let mut parser = Mongodb::default();
    for from in [Side::Client, Side::Server] {
        assert_eq!(feed(&mut parser, from, &[0xff; 64]), [Event::Lost { from, at: 0, reason: Lost::Malformed }]);
    }
}

#[test]
fn depth_does_not_matter() {
    // 5,000 documents in each other; only the outermost is walked.
    let mut nested = document(b"");
    for _ in 0..5_000 {
        nested = document(&[b"\x03a\0", &nested[..]].concat());
    }
    let command = [b"\x02find\0\x02\0\0\0t\0\x03filter\0", &nested[..], b"\x02$db\0\x02\0\0\0d\0"].concat();
    let events = feed(&mut Mongodb::default(), Side::Client, &message(1, 0, message::OP_MSG, &op_msg(0, &command)));
    assert_eq!(facts(&events).name.as_deref(), Some("find t"));
    // `$query` in `$query` is followed as often as it fits into what is read.
    let mut query = document(b"");
    for _ in 0..1_000 {
        query = document(&[b"\x03$query\0", &query[..]].concat());
    }
    let body = [&b"\0\0\0\0a.$cmd\0\0\0\0\0\xff\xff\xff\xff"[..], &query].concat();
    feed(&mut Mongodb::default(), Side::Client, &message(1, 0, message::OP_QUERY, &body));
}

#[test]
fn compressed_bombs_stay_closed() {
    let mut parser = Mongodb::default();
    for packing in 0..=4_u8 {
        let body = [&message::OP_MSG.to_le_bytes()[..], &u32::MAX.to_le_bytes(), &[packing], &[0xff; 64]].concat();
        let events = feed(&mut parser, Side::Client, &message(1, 0, message::OP_COMPRESSED, &body));
        assert_eq!(facts(&events).name, None, "{packing}");
    }
}

#[test]
fn ten_thousand_requests_and_answers_pass() {
    let mut parser = Mongodb::default();
    let ping = op_msg(0, b"\x10ping\0\x01\0\0\0");
    let pipeline: Vec<u8> = (0..10_000).flat_map(|id| message(id, 0, message::OP_MSG, &ping)).collect();
    assert_eq!(feed(&mut parser, Side::Client, &pipeline).len(), 10_000);
    // Answers that all promise another one.
    let more = op_msg(2, b"\x10ok\0\x01\0\0\0");
    let answers: Vec<u8> = (0..10_000).flat_map(|id| message(90_000 + id, id + 1, message::OP_MSG, &more)).collect();
    assert_eq!(feed(&mut parser, Side::Server, &answers).len(), 10_000);
    assert_eq!(parser.streams.len(), STREAMS_MAX);
}

#[test]
fn an_outcome_that_was_not_captured_is_unknown() {
    let answer = message(2, 1, message::OP_MSG, &op_msg(0, b"\x10n\0\x01\0\0\0\x10ok\0\x01\0\0\0"));
    let (mut parser, mut out) = (Mongodb::default(), Vec::new());
    parser.feed(Side::Server, Input::Bytes(&answer[..30]), &mut out);
    parser.feed(Side::Server, Input::Gap(answer.len() as u64 - 30), &mut out);
    assert_eq!(facts(&out).outcome, None);
}

#[test]
fn a_bulk_write_of_which_operations_failed_is_an_error() {
    let command = [&op_msg(0, b"\x10bulkWrite\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0")[..]].concat();
    let sequence = |name: &[u8], documents: usize| {
        let body = [name, b"\0", &document(b"").repeat(documents)].concat();
        [b"\x01", &(body.len() as u32 + 4).to_le_bytes()[..], &body].concat()
    };
    let command = [command, sequence(b"ops", 3), sequence(b"nsInfo", 1)].concat();
    let result = document(b"\x10ok\0\0\0\0\0\x10idx\0\0\0\0\0\x10code\0\xf8\x2a\0\0");
    let fine = document(b"\x10ok\0\x01\0\0\0");
    let batch = document(&[&b"\x030\0"[..], &fine, b"\x031\0", &result].concat());
    let cursor = document(&[&b"\x04firstBatch\0"[..], &batch].concat());
    let reply = |errors: u8| {
        let counts = [b"\x10nErrors\0", &[errors, 0, 0, 0][..], b"\x10ok\0\x01\0\0\0"].concat();
        message(2, 1, message::OP_MSG, &op_msg(0, &[&b"\x03cursor\0"[..], &cursor, &counts].concat()))
    };
    let said = |reply: &[u8], captured: usize| {
        let (mut parser, mut out) = (Mongodb::default(), Vec::new());
        let asked = feed(&mut parser, Side::Client, &message(1, 0, message::OP_MSG, &command));
        let size = ("db.operation.batch.size", 3_u64.into());
        assert!(facts(&asked).attributes.contains(&size), "{asked:?}");
        parser.feed(Side::Server, Input::Bytes(&reply[..captured]), &mut out);
        parser.feed(Side::Server, Input::Gap((reply.len() - captured) as u64), &mut out);
        facts(&out).outcome.clone()
    };
    let [failed, worked] = [reply(1), reply(0)];
    assert_eq!(said(&failed, failed.len()), Some(Outcome::ClientError("11000".into())));
    assert_eq!(said(&worked, worked.len()), Some(Outcome::Ok));
    assert_eq!(said(&failed, failed.len() - 20), None, "the number of errors was not captured");
}

#[test]
fn values_and_logins_are_not_said() {
    for name in ["pymongo", "node-mongodb", "node-mongodb-pool", "pymongo-login"] {
        let path = format!("{}/fixtures/mongodb/{name}.session", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let secret: String = b"secret".iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(text.contains(&secret) || name == "pymongo-login", "{name} holds the secret");
        let said = format!("{:?}", sessions::feed(new(), &sessions::conversation(&text)));
        let found = ["secret", "4111", "root", "n,,"].into_iter().find(|secret| said.contains(secret));
        assert_eq!(found, None, "{name}");
    }
}

#[test]
fn mongodb_is_recognised_by_either_side() {
    let request = message(7, 0, message::OP_MSG, &op_msg(0, b"\x10ping\0\x01\0\0\0"));
    let answer = message(8, 7, message::OP_MSG, &op_msg(0, b"\x10ok\0\x01\0\0\0"));
    assert_eq!((check_client(&request), check_server(&answer)), (Sign::Yes, Sign::Yes));
    assert_eq!((check_client(&answer), check_server(&request)), (Sign::No, Sign::No));
    for end in 1..request.len() {
        assert_ne!(check_client(&request[..end]), Sign::No, "{end}");
        sessions::check_sign(check_client, &request[..end]);
    }
    let others: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03aaaaaaaaaaaaaaaa",
        // MySQL's greeting, PostgreSQL's start, Kafka, Cassandra.
        b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0\xff\xff",
        b"\0\0\0\x21\0\x03\0\0user\0postgres\0database\0x\0\0",
        b"\0\0\0\x0d\0\x12\0\0\0\0\0\x01\0\x03aio",
        b"\x04\0\0\0\x01\0\0\0\x16\0\x01\0\x0bCQL_VERSION\0\x053.0.0",
    ];
    for bytes in others {
        assert_eq!((check_client(bytes), check_server(bytes)), (Sign::No, Sign::No), "{}", bytes.escape_ascii());
    }
}
