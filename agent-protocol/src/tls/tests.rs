//! Streams through the record layer: recorded ones from `fixtures/tls`, made ones here.

use super::*;
use crate::fuzzing::{recorded, tls_feed};
use Input::{Bytes, Gap};

fn line(events: &[Event]) -> String {
    events.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn word(event: &Event) -> String {
    match event {
        Event::Record(record) => {
            let kind = ["ccs", "alert", "handshake", "data", "heartbeat"][usize::from(record.kind - 20)];
            format!("{}{kind}@{}+{}", if record.encrypted { "*" } else { "" }, record.start, record.length())
        }
        Event::ClientHello(hello) => {
            let name = hello.server_name.as_deref().unwrap_or("-");
            let versions: Vec<_> = hello.versions.iter().filter_map(|version| version_name(*version)).collect();
            format!("client({name} {} {}{})", hello.protocols.join(","), versions.join(","), cut(hello.complete))
        }
        Event::ServerHello(hello) => {
            let version = hello.version.and_then(version_name).unwrap_or("?");
            let retry = if hello.retry { " retry" } else { "" };
            format!("server({version} {}{retry}{})", hello.protocol.as_deref().unwrap_or("-"), cut(hello.complete))
        }
        Event::Alert(level, description) => format!("{}:{level}", alert_name(*description)),
        Event::Lost => "lost".to_owned(),
        Event::NotMine => "not mine".to_owned(),
    }
}

fn cut(complete: bool) -> &'static str {
    if complete { "" } else { " cut" }
}

fn check(pieces: &[Input<'_>], expected: &str) {
    assert_eq!(line(&tls_feed(pieces)), expected, "{pieces:?}");
}

fn streams() -> Vec<(String, Vec<u8>, String)> {
    recorded(include_str!("../../fixtures/tls/streams.txt"))
}

#[test]
fn recorded_streams_say_what_is_beside_them() {
    let streams = streams();
    assert!(streams.len() >= 12);
    for (name, bytes, expected) in streams {
        assert_eq!(line(&tls_feed(&[Bytes(&bytes)])), expected, "{name}");
    }
}

#[test]
fn how_a_stream_is_cut_does_not_matter() {
    for (name, bytes, _) in streams() {
        let whole = tls_feed(&[Bytes(&bytes)]);
        for at in 0..=bytes.len() {
            let (first, second) = bytes.split_at(at);
            assert_eq!(tls_feed(&[Bytes(first), Bytes(second)]), whole, "{name} cut at {at}");
        }
    }
}

/// A record with this body.
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3], &(body.len() as u16).to_be_bytes()[..], body].concat()
}

#[test]
fn lengths_lead_over_gaps_within_records() {
    let data = record(content::APPLICATION_DATA, &[0; 100]);
    check(&[Bytes(&data[..20]), Gap(85), Bytes(&data)], "*data@0+100 *data@105+100");
    check(&[Bytes(&data[..20]), Gap(80), Bytes(&data[100..]), Bytes(&data)], "*data@0+100 *data@105+100");
}

#[test]
fn a_gap_over_a_header_loses_the_framing_until_a_call_begins_with_one() {
    let data = record(content::APPLICATION_DATA, &[0; 100]);
    let foreign: &[u8] = b"\x17\x04\x03\x00\x00....";
    check(&[Bytes(&data[..20]), Gap(90), Bytes(foreign), Bytes(&data)], "*data@0+100 lost *data@119+100");
    check(&[Bytes(&data[..3]), Gap(102), Bytes(&data)], "lost *data@105+100");
    // What follows a loss may be encrypted, whatever its type.
    let alert = record(content::ALERT, &[2, 40]);
    check(&[Bytes(&data[..3]), Gap(102), Bytes(&alert)], "lost *alert@105+2");
}

#[test]
fn a_hello_that_was_cut_is_told_as_far_as_it_was_captured() {
    let streams = streams();
    let of = |name: &str| &streams.iter().find(|stream| stream.0 == name).expect("a stream").1;
    let client = of("tls13.client");
    let length = 5 + usize::from(u16::from_be_bytes([client[3], client[4]]));
    let cut_at = |at: usize| line(&tls_feed(&[Bytes(&client[..at]), Gap((length - at) as u64)]));
    assert!(cut_at(100).ends_with("client(-   cut)"), "{}", cut_at(100));
    assert!(cut_at(220).contains("client(shop.test"), "{}", cut_at(220));
    let server = of("tls13.server");
    assert_eq!(line(&tls_feed(&[Bytes(&server[..60]), Gap(67)])), "handshake@0+122 server(? - cut)");
}

#[test]
fn other_bytes_are_not_tls() {
    check(&[Bytes(b"GET / HTTP/1.1\r\n")], "not mine");
    check(&[Bytes(&record(19, b"x"))], "not mine");
    check(&[Bytes(&record(content::HANDSHAKE, b""))], "not mine");
    check(&[Bytes(b"\x16\x03\x01\xff\xff")], "not mine");
    let good = record(content::CHANGE_CIPHER_SPEC, &[1]);
    check(&[Bytes(&good), Bytes(b"STARTTLS")], "ccs@0+1 lost");
}

#[test]
fn versions_and_alerts_have_names() {
    assert_eq!((version_name(0x0304), version_name(0x7f1c)), (Some("1.3"), None));
    assert_eq!((alert_name(48).as_str(), alert_name(200).as_str()), ("unknown_ca", "alert_200"));
}
