//! Recordings, and what none of them holds.

use super::*;
use crate::{
    detect::{Protocol, Sign, Verdict, detect},
    fuzzing::sessions::{self, Fed},
    session::{Boundary, Outcome, Value},
};

#[test]
fn recordings_say_what_is_in_them() {
    sessions::check_recordings("mysql", Protocol::Mysql, new);
}

#[test]
fn damaged_recordings_break_no_promise() {
    sessions::check_damaged("mysql", new, 200);
}

#[test]
fn nothing_secret_is_said() {
    for (path, fed) in sessions::recordings("mysql") {
        let said = sessions::say(&sessions::feed(new(), &fed));
        for secret in ["secret", "testpw", "Duplicate", "load.csv", "it's", "3.5"] {
            assert!(!said.contains(secret), "{path}: {said}");
        }
    }
}

fn packet(number: u8, contents: &[u8]) -> Vec<u8> {
    let [one, two, three, _] = (contents.len() as u32).to_le_bytes();
    [&[one, two, three, number], contents].concat()
}

fn query(sql: &str) -> Vec<u8> {
    packet(0, &[b"\x03", sql.as_bytes()].concat())
}

const OK: &[u8] = &[7, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0];

/// What is said of these calls, `>` from the client and `<` from the server.
fn said(calls: &[(char, Vec<u8>)]) -> Vec<Event> {
    sessions::said(new, calls)
}

#[test]
fn pipelines_may_be_deep() {
    const DEPTH: usize = 10_000;
    let fed = |side, bytes: Vec<u8>| bytes.chunks(16 * 1024).map(|it| Fed::Bytes(side, it.to_vec())).collect();
    let fed: [Vec<_>; 2] = [fed(Side::Client, query("SELECT 1").repeat(DEPTH)), fed(Side::Server, OK.repeat(DEPTH))];
    let events = sessions::feed(new(), &fed.concat());
    assert_eq!(
        (sessions::parts(&events, Side::Client).len(), sessions::parts(&events, Side::Server).len()),
        (DEPTH, DEPTH)
    );
    assert_eq!(events.len(), 2 * DEPTH);
}

#[test]
fn packets_as_long_as_they_can_be_go_on() {
    let long = |number: u8| Fed::Bytes(Side::Client, vec![0xff, 0xff, 0xff, number]);
    let fed = [
        long(0),
        Fed::Bytes(Side::Client, b"\x03INSERT INTO t VALUES ('".to_vec()),
        Fed::Gap(Side::Client, 0xff_ffff - 24),
        long(1),
        Fed::Gap(Side::Client, 0xff_ffff),
        Fed::Bytes(Side::Client, packet(2, b"secret')")),
        Fed::Bytes(Side::Server, OK.to_vec()),
        Fed::Bytes(Side::Client, query("SELECT 1")),
        Fed::Bytes(
            Side::Server,
            [&[1, 0, 0, 1, 1, 5, 0, 0, 2, 0xfe, 0, 0, 2, 0, 0xff, 0xff, 0xff, 3][..], b"x"].concat(),
        ),
        Fed::Gap(Side::Server, 0xff_fffe),
        Fed::Bytes(Side::Server, [packet(4, b"rest"), packet(5, &[0xfe, 0, 0, 2, 0])].concat()),
    ];
    let events = sessions::feed(new(), &fed);
    let asked = sessions::parts(&events, Side::Client);
    assert_eq!(asked[1].range, 0..2 * 0x0100_0003 + 12);
    assert!(!asked[0].last && asked[1].last && asked.len() == 3, "{events:?}");
    let answered = sessions::parts(&events, Side::Server);
    assert_eq!(answered.len(), 2, "{events:?}");
    assert_eq!(answered[1].facts.attributes, [("db.response.returned_rows", Value::Int(1))]);
    assert_eq!(answered[1].boundary, Boundary::Framed);
}

#[test]
fn numbers_of_packets_begin_anew_after_255() {
    let mut answer = [packet(1, &[1]), packet(2, b"\x03def"), packet(3, &[0xfe, 0, 0, 2, 0])].concat();
    let rows = (4_u32..604).flat_map(|number| packet(number as u8, b"\x01x"));
    answer.extend(rows.chain(packet(604_u32 as u8, &[0xfe, 0, 0, 2, 0])));
    let events = said(&[('>', query("SELECT 1")), ('<', answer), ('>', query("SELECT 1")), ('<', OK.to_vec())]);
    let answered = sessions::parts(&events, Side::Server);
    assert_eq!((events.len(), answered.len()), (4, 2), "{events:?}");
    assert_eq!(answered[0].facts.attributes, [("db.response.returned_rows", Value::Int(600))]);
}

#[test]
fn wrong_numbers_are_malformed() {
    let lost = |side, bytes: Vec<u8>| {
        let events = sessions::feed(new(), &[Fed::Bytes(Side::Client, query("SELECT 1")), Fed::Bytes(side, bytes)]);
        matches!(events[1..], [Event::Lost { reason: Lost::Malformed, .. }])
    };
    assert!(lost(Side::Server, packet(3, &OK[4..])));
    assert!(lost(Side::Client, packet(7, b"\x03SELECT 1")));
    assert!(lost(Side::Client, packet(0, b"\x7fSELECT 1")));
    assert!(lost(Side::Client, packet(0, b"")));
    assert!(!lost(Side::Server, OK.to_vec()));
}

#[test]
fn the_database_is_told_only_while_it_is_known() {
    let failed = packet(1, b"\xff\x28\x04#42000no");
    let namespace = |asked: &[u8], answer: &[u8], gap: Option<Side>| {
        let begin = [('>', query("USE a")), ('<', OK.to_vec()), ('>', asked.to_vec()), ('<', answer.to_vec())];
        let side = |from: char| if from == '>' { Side::Client } else { Side::Server };
        let mut fed: Vec<_> = begin.into_iter().map(|(from, bytes)| Fed::Bytes(side(from), bytes)).collect();
        fed.extend(gap.map(|side| Fed::Gap(side, 10)));
        fed.push(Fed::Bytes(Side::Client, query("SELECT 1")));
        let events = sessions::feed(new(), &fed);
        let last = sessions::parts(&events, Side::Client).last().expect("a command").facts.attributes.clone();
        last.into_iter().find(|(key, _)| *key == "db.namespace").map(|(_, value)| value)
    };
    let [a, b] = ["a", "b"].map(|name| Some(name.into()));
    assert_eq!(namespace(&query("SELECT 1"), OK, None), a);
    assert_eq!(namespace(&query("USE b"), OK, None), b);
    assert_eq!(namespace(&query("USE b"), &failed, None), a);
    assert_eq!(namespace(&packet(0, b"\x02b"), OK, None), b);
    for answer in [OK, &failed] {
        assert_eq!(namespace(&query("USE b; SELECT 1"), answer, None), None);
    }
    assert_eq!(namespace(&packet(0, b"\x11root\0\0b\0"), OK, None), None);
    for side in [Side::Client, Side::Server] {
        assert_eq!(namespace(&query("SELECT 1"), OK, Some(side)), None, "{side:?}");
    }
}

#[test]
fn descriptions_of_columns_are_no_rows() {
    let list = [packet(1, b"\x03def"), packet(2, b"\x03def"), packet(3, &[0xfe, 0, 0, 2, 0])].concat();
    let events = said(&[('>', packet(0, b"\x04t\0")), ('<', list)]);
    let answered = sessions::parts(&events, Side::Server);
    assert_eq!((&answered[0].facts.outcome, &answered[0].facts.attributes[..]), (&Some(Outcome::Ok), &[][..]));
}

#[test]
fn errors_are_whose_they_are() {
    let outcome = |code: u16, state: &[u8]| {
        let error = packet(1, &[&[0xff][..], &code.to_le_bytes(), b"#", state, b"text"].concat());
        let events = said(&[('>', query("SELECT 1")), ('<', error)]);
        sessions::parts(&events, Side::Server)[0].facts.outcome.clone()
    };
    assert_eq!(outcome(1062, b"23000"), Some(Outcome::ClientError("1062".into())));
    assert_eq!(outcome(1213, b"40001"), Some(Outcome::Error("1213".into())));
    assert_eq!(outcome(1205, b"HY000"), Some(Outcome::Error("1205".into())));
}

#[test]
fn queries_with_attributes_are_told_without_their_text() {
    let text = |contents: &[u8]| {
        let events = said(&[('>', packet(0, contents)), ('<', OK.to_vec())]);
        sessions::parts(&events, Side::Client)[0].facts.name.clone()
    };
    assert_eq!(text(b"\x03\0\x01SELECT 1").as_deref(), Some("SELECT"));
    assert_eq!(text(b"\x03\x01\x01\0\x01\xfe\0\x01a\x06secretSELECT 1").as_deref(), None);
}

#[test]
fn first_bytes_are_recognised() {
    let is = Verdict::Is(Protocol::Mysql);
    let mongodb = b"\x21\0\0\0\x03\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\x0c\0\0\0\x10ping\0\0\0\0\0\0";
    // Whether it is this protocol for sure; what else it is, or may still become, is others' matter.
    let cases: &[(&[u8], &[u8], bool)] = &[
        (b"", b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0", true),
        (b"", b"\x4a\0\0\0\x0a8.0", false),
        (b"", b"\x4a\0\0\0\x0bx", false),
        (b"\x09\0\0\0\x03SELECT 1", b"", true),
        (b"\x09\0\0\0\x16SELE", b"", false),
        (b"\x08\0\0\0\x16selec 1", OK, true),
        (b"\x01\0\0\0\x0e", OK, true),
        (b"\x01\0\0\0\x0e", b"+OK\r\n", false),
        (mongodb, b"", false),
    ];
    for (client, server, expected) in cases {
        let found = detect(client, server);
        assert_eq!(found == is, *expected, "{found:?} {} {}", client.escape_ascii(), server.escape_ascii());
    }
    for (_, fed) in sessions::recordings("mysql") {
        for piece in fed {
            match piece {
                Fed::Bytes(Side::Client, bytes) => sessions::check_sign(check_client, &bytes),
                Fed::Bytes(Side::Server, bytes) => sessions::check_sign(check_server, &bytes),
                Fed::Gap(..) => {}
            }
        }
    }
    assert_eq!(check_client(b"\x01\0\0\0\x01"), Sign::Likely);
    sessions::check_sign(check_client, b"\x14\0\0\0\x03SELECT 1 \x01 FROM \0t");
}
