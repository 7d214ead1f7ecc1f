use super::*;
use crate::{
    detect::{Protocol, Verdict, detect},
    fuzzing::sessions::{self, Fed},
};

#[test]
fn recordings_say_what_is_in_them() {
    sessions::check_recordings("mqtt", Protocol::Mqtt, new);
}

#[test]
fn damaged_recordings_break_no_promise() {
    sessions::check_damaged("mqtt", new, 200);
}

/// What is said of these calls, `>` from the client and `<` from the server, a line each.
fn said(calls: &[(char, &[u8])]) -> String {
    sessions::say(&sessions::said(new, calls))
}

/// `PUBLISH` with QoS 1 to `a`, without a payload.
fn publish(id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    vec![0x32, 5, 0, 1, b'a', high, low]
}

#[test]
fn many_requests_may_wait() {
    let requests: Vec<u8> = (1..=10_000).flat_map(publish).collect();
    let answers: Vec<u8> =
        (1..=10_000_u16).flat_map(|id| [0x40, 2, id.to_be_bytes()[0], id.to_be_bytes()[1]]).collect();
    let fed = [Fed::Bytes(Side::Client, requests), Fed::Bytes(Side::Server, answers)];
    let events = sessions::feed(new(), &fed);
    let parts = events.iter().filter(|event| matches!(event, Event::Part(_))).count();
    assert_eq!((parts, events.len() - parts), (20_000, 10_000 - OPEN_MAX), "those beyond the limit are given up");
}

#[test]
fn an_id_that_is_used_again_does_not_get_the_old_answer() {
    let text = said(&[('>', &publish(7)), ('>', &publish(7)), ('<', b"\x40\x02\0\x07")]);
    let lines: Vec<_> = text.lines().map(|line| &line[..line.len().min(14)]).collect();
    assert_eq!(lines, ["> #7 0-7 Frame", "Cancelled { ke", "> #7 7-14 Fram", "< #7 0-4 Frame"]);
}

#[test]
fn lengths_that_are_none_are_malformed() {
    for packet in
        [&b"\x30\xff\xff\xff\xff\x01"[..], b"\x30\x05\xff\xff", b"\xc0\x01", b"\x36\x04\0\x01a", b"\x10\x0c\0\x04HTTP"]
    {
        assert_eq!(said(&[('>', packet)]), "NotMine\n", "{}", packet.escape_ascii());
    }
    // The longest there may be is skipped, not kept.
    let pieces = [
        Fed::Bytes(Side::Client, b"\x30\xff\xff\xff\x7f\0\x01a".to_vec()),
        Fed::Gap(Side::Client, 268_435_452),
        Fed::Bytes(Side::Client, b"\xc0\0".to_vec()),
    ];
    let text = sessions::say(&sessions::feed(new(), &pieces));
    assert!(text.contains("0-268435460") && text.contains("name=\"ping\""), "{text}");
}

#[test]
fn an_alias_stands_for_its_topic_only_in_its_direction() {
    let mut parser = new();
    let mut events = Vec::new();
    let mut feed = |from, bytes: &[u8]| parser.feed(from, Input::Bytes(bytes), &mut events);
    feed(Side::Client, b"\x10\x0d\0\x04MQTT\x05\x02\0\x3c\0\0\0");
    feed(Side::Client, b"\x30\x08\0\x01a\x03\x23\0\x01x");
    feed(Side::Client, b"\x30\x07\0\0\x03\x23\0\x01x");
    feed(Side::Server, b"\x30\x07\0\0\x03\x23\0\x01x");
    let names: Vec<_> = events
        .iter()
        .filter_map(|event| if let Event::Part(part) = event { part.facts.name.clone() } else { None })
        .collect();
    assert_eq!(names, ["connect", "publish a", "publish a", "deliver"]);
}

#[test]
fn after_a_loss_an_alias_stands_for_nothing() {
    let mut parser = new();
    let mut events = Vec::new();
    parser.feed(Side::Client, Input::Bytes(b"\x10\x0d\0\x04MQTT\x05\x02\0\x3c\0\0\0"), &mut events);
    for side in [Side::Client, Side::Server] {
        parser.feed(side, Input::Bytes(b"\x30\x08\0\x01a\x03\x23\0\x01x"), &mut events);
    }
    parser.feed(Side::Client, Input::Gap(10), &mut events);
    parser.feed(Side::Client, Input::Bytes(b"\xc0\0"), &mut events);
    events.clear();
    for side in [Side::Client, Side::Server] {
        parser.feed(side, Input::Bytes(b"\x30\x07\0\0\x03\x23\0\x01x"), &mut events);
    }
    let said = sessions::say(&events);
    assert!(said.contains(" name=\"publish\" ") && said.contains(" name=\"deliver a\" "), "{said}");
}

#[test]
fn a_message_whose_topic_was_hidden_is_told_without_it() {
    let said = |from, first: u8, captured: usize| {
        let packet = [&[first, 9, 0, 4][..], b"a/b/", &[0, 7, b'x']].concat();
        let (mut parser, mut events) = (new(), Vec::new());
        parser.feed(from, Input::Bytes(&packet[..captured]), &mut events);
        parser.feed(from, Input::Gap((packet.len() - captured) as u64), &mut events);
        sessions::say(&events)
    };
    assert!(said(Side::Client, 0x30, 6).starts_with("> one-way 0-11 Framed name=\"publish\" "));
    assert!(said(Side::Server, 0x32, 6).starts_with("< one-way 0-11 Framed name=\"deliver\" "));
    // Which acknowledgement answers it is not known.
    for captured in [6, 8, 9] {
        assert_eq!(said(Side::Client, 0x32, captured), "Lost { from: Client, at: 0, reason: Gap }\n");
    }
    assert!(said(Side::Client, 0x32, 10).starts_with("> #7 0-11"));
    // An alias that it may have given another meaning stands for nothing.
    let (mut parser, mut events) = (new(), Vec::new());
    for bytes in
        [&b"\x10\x0d\0\x04MQTT\x05\x02\0\x3c\0\0\0"[..], b"\x30\x08\0\x01a\x03\x23\0\x01x", b"\x30\x08\0\x01b\x03"]
    {
        parser.feed(Side::Client, Input::Bytes(bytes), &mut events);
    }
    parser.feed(Side::Client, Input::Gap(4), &mut events);
    events.clear();
    parser.feed(Side::Client, Input::Bytes(b"\x30\x07\0\0\x03\x23\0\x01x"), &mut events);
    assert!(sessions::say(&events).contains(" name=\"publish\" "), "{events:?}");
}

#[test]
fn nothing_of_what_messages_hold_is_told() {
    let texts = ["hunter", "secret", "bob", "eve", "token", "4711", "text/plain"];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/mqtt");
    for entry in std::fs::read_dir(folder).expect("recordings").map(|entry| entry.expect("entry").path()) {
        if entry.extension().is_some_and(|is| is == "said") {
            let said = std::fs::read_to_string(&entry).expect("what it says");
            texts.iter().for_each(|text| assert!(!said.contains(text), "{text} in {}", entry.display()));
        }
    }
}

fn check_not(client: &[u8], server: &[u8]) {
    let verdict = detect(client, server);
    assert_ne!(verdict, Verdict::Is(Protocol::Mqtt), "{} / {}", client.escape_ascii(), server.escape_ascii());
}

fn check_sign(client: &[u8], server: &[u8], expected: Verdict) {
    assert_eq!(detect(client, server), expected, "{} / {}", client.escape_ascii(), server.escape_ascii());
}

#[test]
fn packets_are_recognised_and_others_bytes_are_not() {
    let is = Verdict::Is(Protocol::Mqtt);
    check_sign(b"\x10\x0e\0\x04MQTT\x04\x02\0\x3c\0\x02me", b"", is);
    check_sign(b"\x10\x0e\0\x04MQ", b"", Verdict::NotYet);
    check_sign(b"\x32\x07\0\x01a\0\x01xx", b"\x40\x02\0\x01", is);
    check_sign(b"\xc0\0", b"\xd0\0", is);
    check_sign(b"\xc0\0", b"\x30\x05\0\x01axx", is);
    // LDAP, memcached's answer to incr, PostgreSQL, MySQL, HTTP, a length.
    check_not(b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0", b"\x30\x0c\x02\x01\x01\x61\x07");
    check_sign(b"", b"5\r\n", Verdict::NotYet);
    check_sign(b"incr a 1\r\n", b"50000\r\n", Verdict::Is(Protocol::Memcached));
    check_not(b"P\0\0\0\x10\0select 1\0\0\0", b"1\0\0\0\x04");
    check_not(b"\x20\0\0\x01\x85", b"\x30\0\0\0\x0a8.0");
    check_sign(b"POST / HTTP/1.1\r\n", b"", Verdict::Is(Protocol::Http1));
    check_not(b"\x10\0\0\0\x01", b"\x20\0\0\0\x01");
}

#[test]
fn signs_do_not_waver() {
    for bytes in [
        &b"\x10\x0e\0\x04MQTT\x04\x02\0\x3c\0\x02me"[..],
        b"\x32\x07\0\x01a\0\x01xx",
        b"\x82\x06\0\x01\0\x01a\0",
        b"\x40\x02\0\x01",
    ] {
        sessions::check_sign(check_client, bytes);
    }
    for bytes in [&b"\x20\x02\0\0"[..], b"\x30\x05\0\x01axx", b"\x90\x03\0\x01\x01", b"\xd0\0", b"\x40\x02\0\x01"] {
        sessions::check_sign(check_server, bytes);
    }
}
