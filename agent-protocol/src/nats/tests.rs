use super::*;
use crate::{
    detect::{Protocol, Verdict, detect},
    fuzzing::sessions::{self, Fed},
};

#[test]
fn recordings_say_what_is_in_them() {
    sessions::check_recordings("nats", Protocol::Nats, new);
}

#[test]
fn damaged_recordings_break_no_promise() {
    sessions::check_damaged("nats", new, 200);
}

/// What is said of these calls, `>` from the client and `<` from the server, a line each.
fn said(calls: &[(char, &[u8])]) -> String {
    sessions::say(&sessions::said(new, calls))
}

#[test]
fn many_messages_in_one_call_are_many() {
    let publish = b"PUB orders.new 5\r\nhello\r\n".repeat(10_000);
    assert_eq!(sessions::feed(new(), &[Fed::Bytes(Side::Client, publish)]).len(), 10_000);
}

#[test]
fn no_line_begins_with_a_blank() {
    let line = b"  MSG a 1 0\r\n\r\n".as_slice();
    assert_eq!(said(&[('S', line)]), said(&[('S', &line[..1]), ('S', &line[1..])]));
}

#[test]
fn lengths_that_nobody_can_send_are_malformed() {
    for line in [
        "PUB a 2147483648\r\n",
        "PUB a 99999999999999999999\r\n",
        "PUB a -1\r\n",
        "HPUB a 5 4\r\n",
        "PUB a b c 1\r\n",
        "PUB 1\r\n",
        "MSG a 1 1\r\n",
    ] {
        assert_eq!(said(&[('>', line.as_bytes())]), "NotMine\n", "{line}");
    }
    let long = [b"PUB ", &[b'a'; 9000][..]].concat();
    assert_eq!(said(&[('>', &long)]), "NotMine\n");
}

#[test]
fn after_a_gap_the_next_message_is_found_where_a_call_begins() {
    let pieces = [
        Fed::Bytes(Side::Client, b"PUB a.b 5\r\nhello\r\nPUB a.".to_vec()),
        Fed::Gap(Side::Client, 500),
        Fed::Bytes(Side::Client, b" 1\r\nx\r\n".to_vec()),
        Fed::Bytes(Side::Client, b"PUB a.c 1\r\nx\r\n".to_vec()),
    ];
    let said = sessions::say(&sessions::feed(new(), &pieces));
    let lines: Vec<_> = said.lines().map(|line| line.split(" kind=").next().unwrap_or_default()).collect();
    let expected = [
        "> one-way 0-18 Framed name=\"publish a.b\"",
        "Lost { from: Client, at: 18, reason: Gap }",
        "> one-way 531-545 Framed name=\"publish a.c\"",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn nothing_of_what_messages_hold_is_told() {
    let texts = ["hunter", "secret", "bob", "eve", "token", "Nats-Subject", "Jg6AFb", "\"x\""];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/nats");
    for entry in std::fs::read_dir(folder).expect("recordings").map(|entry| entry.expect("entry").path()) {
        if entry.extension().is_some_and(|is| is == "said") {
            let said = std::fs::read_to_string(&entry).expect("what it says");
            texts.iter().for_each(|text| assert!(!said.contains(text), "{text} in {}", entry.display()));
        }
    }
}

fn check_not(client: &[u8], server: &[u8]) {
    let verdict = detect(client, server);
    assert_ne!(verdict, Verdict::Is(Protocol::Nats), "{} / {}", client.escape_ascii(), server.escape_ascii());
}

fn check_sign(client: &[u8], server: &[u8], expected: Verdict) {
    assert_eq!(detect(client, server), expected, "{} / {}", client.escape_ascii(), server.escape_ascii());
}

#[test]
fn messages_are_recognised_and_others_words_are_not() {
    let is = Verdict::Is(Protocol::Nats);
    check_sign(b"", b"INFO {\"server_id\":\"NC", is);
    check_sign(b"CONNECT {\"verbose\":false", b"", is);
    check_sign(b"PUB a.b 5\r\nhel", b"", is);
    check_sign(b"", b"MSG a.b 1 5\r\nhel", is);
    check_sign(b"PING\r\n", b"PONG\r\n", is);
    check_sign(b"PING\r\n", b"", Verdict::NotYet);
    check_sign(b"SUB a 1\r\n", b"+OK\r\n", is);
    // Redis, HTTP, STOMP, IRC, POP3.
    check_sign(b"PING\r\n", b"+PONG\r\n", Verdict::Is(Protocol::Redis));
    check_sign(b"CONNECT a.test:443 HTTP/1.1\r\n", b"", Verdict::Is(Protocol::Http1));
    check_not(b"CONNECT\naccept-version:1.2\n", b"");
    check_not(b"PING :irc.test\r\n", b":irc.test PONG\r\n");
    check_not(b"", b"+OK POP3 ready\r\n");
}

#[test]
fn signs_do_not_waver() {
    for bytes in [&b"CONNECT {\"a\":1}\r\n"[..], b"PUB a.b 5\r\nhello\r\n", b"PING\r\n", b"sub a 1\r\n"] {
        sessions::check_sign(check_client, bytes);
    }
    for bytes in [&b"INFO {\"a\":1}\r\n"[..], b"MSG a 1 5\r\nhello\r\n", b"PONG\r\n", b"-ERR 'x'\r\n", b"+OK\r\n"] {
        sessions::check_sign(check_server, bytes);
    }
}
