use super::*;
use crate::{
    detect::{Protocol, Verdict, detect},
    fuzzing::sessions::{self, Fed},
};

#[test]
fn recordings_say_what_is_in_them() {
    sessions::check_recordings("memcached", Protocol::Memcached, new);
}

#[test]
fn damaged_recordings_break_no_promise() {
    sessions::check_damaged("memcached", new, 200);
}

/// What is said of these calls, `>` from the client and `<` from the server, a line each.
fn said(calls: &[(char, &[u8])]) -> String {
    sessions::say(&sessions::said(new, calls)).replace(" db.system.name=\"memcached\"", "")
}

#[test]
fn pipelines_may_be_deep() {
    const DEPTH: usize = 10_000;
    let fed = [
        Fed::Bytes(Side::Client, b"get a\r\n".repeat(DEPTH)),
        Fed::Bytes(Side::Server, b"VALUE a 0 1\r\n1\r\nEND\r\n".repeat(DEPTH)),
    ];
    assert_eq!(sessions::feed(new(), &fed).len(), 2 * DEPTH);
}

#[test]
fn quiet_requests_beyond_the_limit_are_given_up_not_paired() {
    const DEPTH: usize = 3000;
    let quiet: Vec<u8> = (0..DEPTH).flat_map(|at| format!("mg k{at} v q k\r\n").into_bytes()).collect();
    let fed = [
        Fed::Bytes(Side::Client, [&quiet[..], b"mn\r\n"].concat()),
        Fed::Bytes(Side::Server, b"VA 1 kk2999\r\n1\r\nMN\r\n".to_vec()),
    ];
    let events = sessions::feed(new(), &fed);
    let given_up = events.iter().filter(|event| matches!(event, Event::Cancelled { .. })).count();
    let answers = events.iter().filter(|event| matches!(event, Event::Part(Part { from: Side::Server, .. }))).count();
    assert_eq!(given_up + answers, DEPTH + 1);
    assert!(answers <= 1025, "{answers}");
}

#[test]
fn a_quiet_request_without_a_tag_has_an_answer_only_if_nobody_else_can_be_meant() {
    let hit = said(&[('>', b"mg a v q\r\nmn\r\n"), ('<', b"VA 1\r\n1\r\nMN\r\n")]);
    assert!(hit.contains("< #0 0-9 Framed") && hit.contains("< 9-13 Framed"), "{hit}");
    let doubtful = said(&[('>', b"mg a v q\r\nmg b v\r\n"), ('<', b"VA 1\r\n1\r\n")]);
    assert!(doubtful.contains("< #0 0-9 Inferred") && doubtful.contains("< 0-9 Framed"), "{doubtful}");
}

#[test]
fn lengths_that_nobody_can_send_are_malformed() {
    assert_eq!(said(&[('>', b"set a 0 0 2147483648\r\n")]), "NotMine\n");
    let lost = "Lost { from: Server, at: 0, reason: Malformed }\n";
    assert_eq!(said(&[('<', b"VALUE a 0 2147483648\r\n")]), lost);
    assert_eq!(said(&[('<', b"VA 99999999999999999999\r\n")]), lost);
    let binary = b"\x80\x01\0\x01\x08\0\0\0\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(said(&[('>', binary)]), "NotMine\n");
    let long = [b"get ", &[b'k'; 400][..]].concat();
    assert_eq!(said(&[('>', &long)]), "NotMine\n");
}

#[test]
fn long_lists_of_keys_are_one_request() {
    let keys: String = (0..5000).map(|key| format!(" key{key}")).collect();
    let text = said(&[('>', format!("get{keys}\r\n").as_bytes()), ('<', b"END\r\n")]);
    assert!(text.contains("db.operation.batch.size=5000"), "{text}");
}

#[test]
fn nothing_that_is_stored_is_told() {
    let texts = ["hunter2", "secret", "user:1", "nope", "nothing", "key0", "bob", "no key"];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/memcached");
    for entry in std::fs::read_dir(folder).expect("recordings").map(|entry| entry.expect("entry").path()) {
        if entry.extension().is_some_and(|is| is == "said") {
            let said = std::fs::read_to_string(&entry).expect("what it says");
            texts.iter().for_each(|text| assert!(!said.contains(text), "{text} in {}", entry.display()));
        }
    }
    let typed = said(&[('>', b"get a\r\nhunter2 hunter2\r\n"), ('<', b"END\r\nERROR\r\n")]);
    assert!(!typed.contains("hunter2"), "{typed}");
}

fn check_not(client: &[u8], server: &[u8]) {
    let verdict = detect(client, server);
    assert_ne!(verdict, Verdict::Is(Protocol::Memcached), "{} / {}", client.escape_ascii(), server.escape_ascii());
}

fn check_sign(client: &[u8], server: &[u8], expected: Verdict) {
    assert_eq!(detect(client, server), expected, "{} / {}", client.escape_ascii(), server.escape_ascii());
}

#[test]
fn commands_are_recognised_and_others_words_are_not() {
    let is = Verdict::Is(Protocol::Memcached);
    check_sign(b"set a 0 0 1\r\n1\r\n", b"", is);
    check_sign(b"set a 0 0", b"", Verdict::NotYet);
    check_sign(b"get a\r\n", b"", Verdict::NotYet);
    check_sign(b"get a\r\n", b"END\r\n", is);
    check_sign(b"get a\r\n", b"VALUE a 0 1\r\n1\r\nEND\r\n", is);
    check_sign(b"mg a v\r\n", b"EN\r\n", is);
    check_sign(b"version\r\n", b"VERSION 1.6.18\r\n", is);
    check_sign(b"\x80\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"", is);
    // Redis with an inline command.
    check_sign(b"get a\r\n", b"$1\r\n1\r\n", Verdict::Is(Protocol::Redis));
    check_not(b"get /index.html\r\n", b"<html>");
    // TLS as SSL 2 began it.
    assert_ne!(detect(b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", b""), is);
    check_not(b"stats\r\n", b"200 ok\r\n");
}

#[test]
fn signs_do_not_waver() {
    let samples: [&[u8]; 6] = [
        b"set a 0 0 1\r\n1\r\n",
        b"gat 1 b c\r\n",
        b"VALUE a 0 1\r\n1\r\nEND\r\n",
        b"VA 1 k\r\n1\r\n",
        b"\x80\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x81\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ];
    for bytes in samples {
        sessions::check_sign(check_client, bytes);
        sessions::check_sign(check_server, bytes);
    }
}

#[test]
fn how_an_answer_turned_out_that_a_gap_cut_is_not_known() {
    let pieces = [
        Fed::Bytes(Side::Client, b"get a b\r\n".to_vec()),
        Fed::Bytes(Side::Server, b"VALUE a 0 1\r\nx\r\n".to_vec()),
        Fed::Gap(Side::Server, 100),
    ];
    let events = sessions::feed(new(), &pieces);
    let [_, Event::Part(answer), Event::Lost { .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((answer.range.clone(), answer.boundary, &answer.facts.outcome), (0..116, Boundary::Inferred, &None));
}
