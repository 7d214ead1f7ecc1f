//! Recordings, and what none of them holds.

use super::*;
use crate::{
    detect::{Protocol, Verdict, detect},
    fuzzing::sessions::{self, Fed},
    input::Lost,
};

#[test]
fn recordings_say_what_is_in_them() {
    sessions::check_recordings("fastcgi", Protocol::FastCgi, new);
}

#[test]
fn damaged_recordings_break_no_promise() {
    sessions::check_damaged("fastcgi", new, 200);
}

#[test]
fn nothing_secret_is_said() {
    for (path, fed) in sessions::recordings("fastcgi") {
        let said = sessions::say(&sessions::feed(new(), &fed));
        for secret in ["secret", "body", "warning", "hello", "curl", "127.0.0.1"] {
            assert!(!said.contains(secret), "{path}: {said}");
        }
    }
}

fn record(kind: u8, id: u16, content: &[u8]) -> Vec<u8> {
    let ([id_high, id_low], [high, low]) = (id.to_be_bytes(), (content.len() as u16).to_be_bytes());
    [&[1, kind, id_high, id_low, high, low, 0, 0], content].concat()
}

fn begin(id: u16, role: u8) -> Vec<u8> {
    record(1, id, &[0, role, 1, 0, 0, 0, 0, 0])
}

fn pair(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| match u8::try_from(text.len()) {
        Ok(short @ ..128) => vec![short],
        _ => (text.len() as u32 | 1 << 31).to_be_bytes().to_vec(),
    };
    [length(name), length(value), name.into(), value.into()].concat()
}

fn ended(id: u16, status: u8) -> Vec<u8> {
    record(3, id, &[0, 0, 0, 0, status, 0, 0, 0])
}

/// What is said of these calls, `>` from the client and `<` from the server, a line each.
fn said(calls: &[(char, Vec<u8>)]) -> Vec<String> {
    sessions::say(&sessions::said(new, calls)).lines().map(str::to_owned).collect()
}

#[test]
fn requests_on_one_connection_are_told_apart_by_their_ids() {
    let parameters =
        |id| [record(4, id, &pair("REQUEST_METHOD", "GET")), record(4, id, b""), record(5, id, b"")].concat();
    let lines = said(&[
        ('>', [begin(1, 1), begin(2, 1), parameters(2), parameters(1)].concat()),
        ('<', [record(6, 2, b"Status: 404\n\n"), record(6, 1, b"A: b\r\nLoc"), ended(2, 0)].concat()),
        ('<', [record(6, 1, b"ation: http://a/b\r\n\r\n"), ended(1, 0)].concat()),
        ('>', begin(3, 1)),
        ('<', ended(3, 2)),
    ]);
    let facts = "name=\"GET\" http.request.method=\"GET\" network.protocol.name=\"fastcgi\"";
    let expected = [
        format!("> #2 16-67 ... Framed {facts}"),
        "> #2 16-75 Framed".into(),
        format!("> #1 0-110 ... Framed {facts}"),
        "> #1 0-118 Framed".into(),
        "< #2 0-54 Framed outcome=ClientError(\"404\") http.response.status_code=404".into(),
        "< #1 21-99 Framed outcome=Ok http.response.status_code=302".into(),
        "> #3 118-134 ... Framed network.protocol.name=\"fastcgi\"".into(),
        "> #3 118-134 Framed".into(),
        "< #3 99-115 Framed outcome=Error(\"overloaded\")".into(),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_response_without_end_is_not_the_next_requests() {
    let request = |id| [begin(id, 1), record(4, id, b""), record(5, id, b"")].concat();
    let lines = said(&[
        ('>', request(1)),
        ('<', record(6, 1, b"Status: 500\n\n")),
        ('>', request(1)),
        ('<', [record(6, 1, b"Status: 404\n\n"), ended(1, 0)].concat()),
    ]);
    let cancelled = "Cancelled { key: Id(1), by: Client, end: 32, error_type: None }";
    let answered = "< #1 21-58 Framed outcome=ClientError(\"404\") http.response.status_code=404";
    assert_eq!((lines[2].as_str(), lines[5].as_str(), lines.len()), (cancelled, answered, 6), "{lines:?}");
}

#[test]
fn a_response_may_begin_before_its_request_was_heard_of() {
    let request = [begin(1, 1), record(4, 1, b""), record(5, 1, b"")].concat();
    let lines = said(&[('<', record(6, 1, b"Status: 404\n\n")), ('>', request), ('<', ended(1, 0))]);
    assert_eq!(lines[2], "< #1 0-37 Framed outcome=ClientError(\"404\") http.response.status_code=404");
}

#[test]
fn parameters_may_be_cut_anywhere_between_records_and_be_long() {
    let long = format!("/{}", "p".repeat(300));
    let pairs = [pair("SCRIPT_NAME", &long), pair("HTTPS", "on"), pair("REQUEST_METHOD", "PURGE")].concat();
    for at in [1, 3, 5, 200, 330] {
        let (left, right) = pairs.split_at(at);
        let lines = said(&[('>', [begin(9, 2), record(4, 9, left), record(4, 9, right), record(4, 9, b"")].concat())]);
        let path = format!("url.path={long:?} url.scheme=\"https\"");
        assert!(lines[0].contains(&path) && lines[0].contains("name=\"HTTP\"") && lines.len() == 1, "{lines:?}");
    }
}

#[test]
fn requests_without_end_are_bounded() {
    let mut fed = Vec::new();
    for id in 1..=10_000_u16 {
        fed.push(Fed::Bytes(Side::Client, [begin(id, 1), record(4, id, &[b'x'; 8000])].concat()));
        fed.push(Fed::Bytes(Side::Server, record(6, id, &[b'x'; 8000])));
    }
    let mut parser = FastCgi::default();
    let mut events = Vec::new();
    for piece in &fed {
        let Fed::Bytes(side, bytes) = piece else { unreachable!() };
        parser.feed(*side, Input::Bytes(bytes), &mut events);
        assert!(parser.exchanges.open.len() <= REQUESTS_MAX);
        let kept: usize = parser.exchanges.open.iter().map(|it| it.parameters.bytes() + it.head.bytes()).sum();
        assert!(kept <= KEPT_BYTES_MAX + 32 * 1024, "{kept}");
    }
}

#[test]
fn what_is_no_record_is_malformed() {
    for bytes in [&b"\x02\x01"[..], b"\x01\x00", b"\x01\x0c", b"\x01\x06"] {
        let events = sessions::feed(new(), &[Fed::Bytes(Side::Client, bytes.to_vec())]);
        assert!(matches!(events[..], [Event::Lost { reason: Lost::Malformed, .. }]), "{events:?}");
    }
}

#[test]
fn first_bytes_are_recognised() {
    let is = Verdict::Is(Protocol::FastCgi);
    let cases: &[(&[u8], &[u8], Verdict)] = &[
        (&begin(1, 1), b"", is),
        (&begin(1, 1)[..7], b"", Verdict::NotYet),
        (b"", &record(6, 1, b"X-Powered-By: x"), is),
        (b"", &ended(1, 0), is),
    ];
    for (client, server, expected) in cases {
        assert_eq!(detect(client, server), *expected, "{} {}", client.escape_ascii(), server.escape_ascii());
    }
    assert_eq!([check_client(&begin(1, 4)), check_client(&begin(0, 1)), check_server(&ended(1, 4))], [Sign::No; 3]);
    sessions::check_sign(check_client, &begin(1, 1));
    sessions::check_sign(check_server, &record(6, 1, b"X-Powered-By: x"));
    sessions::check_sign(check_server, &ended(1, 0));
}
