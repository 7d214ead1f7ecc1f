//! Messages: recorded ones from `fixtures/dns`, made ones here.

use super::*;
use crate::fuzzing::{Random, dns, recorded};

fn brief(message: &Message) -> String {
    let Message { id, response, truncated, rcode, question, addresses, complete } = message;
    let what = if *response { rcode_name(*rcode) } else { "query".to_owned() };
    let mut out = format!("{id:04x} {what} {} {}", question.kind_name(), question.name);
    addresses.iter().take(4).for_each(|address| out.push_str(&format!(" {address}")));
    if addresses.len() > 4 {
        out.push_str(&format!(" and {} more", addresses.len() - 4));
    }
    out.push_str(if *truncated { " truncated" } else { "" });
    out.push_str(if *complete { "" } else { " incomplete" });
    out
}

fn whole(bytes: &[u8]) -> Result<Message, NoMessage> {
    Message::parse(bytes, bytes.len())
}

#[test]
fn recorded_messages_say_what_is_beside_them() {
    let messages = recorded(include_str!("../../fixtures/dns/messages.txt"));
    assert!(messages.len() >= 15);
    for (name, bytes, expected) in messages {
        let said = whole(&bytes).map_or_else(|no| format!("{no:?}"), |message| brief(&message));
        assert_eq!(said, expected, "{name}");
    }
}

#[test]
fn a_captured_prefix_says_the_same_as_far_as_it_goes() {
    for (name, bytes, _) in recorded(include_str!("../../fixtures/dns/messages.txt")) {
        let message = whole(&bytes).unwrap();
        for end in 0..bytes.len() {
            match Message::parse(&bytes[..end], bytes.len()) {
                Ok(cut) => {
                    assert_eq!((cut.id, cut.rcode, &cut.question), (message.id, message.rcode, &message.question));
                    assert!(message.addresses.starts_with(&cut.addresses), "{name} at {end}");
                    assert!(!cut.complete || cut.addresses == message.addresses, "{name} at {end}");
                }
                Err(no) => assert_eq!(no, NoMessage::Short, "{name} at {end}"),
            }
        }
    }
}

/// A query for A of the name in wire format.
fn query(name: &[u8]) -> Vec<u8> {
    [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name, &[0, 1, 0, 1]].concat()
}

fn check_name(name: &[u8], expected: Result<&str, NoMessage>) {
    let said = whole(&query(name)).map(|message| message.question.name);
    assert_eq!(said.as_deref().map_err(|no| *no), expected, "{}", name.escape_ascii());
}

#[test]
fn names_are_lower_case_and_escaped() {
    check_name(b"\x04ShOp\x04TEST\0", Ok("shop.test"));
    check_name(b"\0", Ok("."));
    check_name(b"\x03a.b\x01\\\x02\x00\xff\0", Ok("a\\.b.\\\\.\\000\\255"));
}

#[test]
fn names_that_break_a_rule_are_no_names() {
    // A pointer to itself, forwards, and to a label that leads to itself.
    check_name(b"\xc0\x0c", Err(NoMessage::NotMine));
    check_name(b"\xc0\x10", Err(NoMessage::NotMine));
    check_name(b"\x01a\xc0\x0c", Err(NoMessage::NotMine));
    // Types of label that are not used, and more than 255 bytes.
    check_name(b"\x41a\0", Err(NoMessage::NotMine));
    let long: Vec<u8> = [&b"\x3f"[..], &[b'a'; 63]].concat().repeat(4);
    check_name(&[&long[..], b"\0"].concat(), Err(NoMessage::NotMine));
}

#[test]
fn an_answer_with_pointers_chains_and_other_records_is_read() {
    let mut bytes = query(b"\x01w\x04test\0");
    (bytes[2], bytes[7]) = (0x81, 3);
    bytes.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x09\0\x04\x01r\xc0\x0e");
    bytes.extend(b"\xc0\x1a\0\x01\0\x01\0\0\0\x09\0\x04\x0a\0\0\x01");
    bytes.extend(b"\xc0\x1a\0\x1c\0\x01\0\0\0\x09\0\x10\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02");
    let message = whole(&bytes).unwrap();
    assert_eq!(brief(&message), "0007 NOERROR A w.test 10.0.0.1 fd00::2");
    // An address of the wrong length: what came before it stays.
    let place = bytes.len() - 17;
    bytes[place] = 15;
    assert_eq!(brief(&whole(&bytes).unwrap()), "0007 NOERROR A w.test 10.0.0.1 incomplete");
}

#[test]
fn other_bytes_are_not_taken_for_messages() {
    let good = query(b"\x01a\0");
    assert!(whole(&good).is_ok());
    let check = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(whole(&bytes), Err(NoMessage::NotMine), "{value} at {at}");
    };
    check(2, 0x09); // another operation: NOTIFY and the like
    check(3, 0x40); // the bit that must be zero
    check(3, 3); // a query that failed
    check(5, 2); // two questions
    check(7, 1); // a query with an answer
    check(18, 9); // a class that does not exist
    assert_eq!(whole(&[&good[..], b"x"].concat()), Err(NoMessage::NotMine), "bytes behind the end");
    assert_eq!(whole(b""), Err(NoMessage::NotMine));
    assert_eq!(whole(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Err(NoMessage::NotMine));
}

#[test]
fn random_bytes_are_hardly_ever_taken_for_messages() {
    let mut random = Random::new(7);
    let taken = (0..200_000).filter(|_| {
        let bytes: Vec<u8> = (0..12 + random.below(60)).map(|_| random.below(256) as u8).collect();
        dns(&bytes);
        whole(&bytes).is_ok()
    });
    assert_eq!(taken.count(), 0);
}

#[test]
fn a_stream_begins_with_a_query_after_its_length() {
    use crate::detect::Sign::{No, Partial, Yes};
    let query = query(b"\x04shop\x04test\0");
    let stream = [&(query.len() as u16).to_be_bytes()[..], &query].concat();
    for end in 0..stream.len() {
        assert_eq!(check_stream(&stream[..end]), Partial, "{end}");
    }
    assert_eq!(check_stream(&stream), Yes);
    assert_eq!(check_stream(&[&stream[..], b"more"].concat()), Yes);
    for other in [&b"GE"[..], b"\x16\x03", b"\0\x03abc", b"\0\x20ab\x81\x80", b"\0\x20ab\x01\0\0\x02", b"*1\r\n"] {
        assert_eq!(check_stream(other), No, "{}", other.escape_ascii());
    }
}
