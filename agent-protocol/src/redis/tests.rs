use super::*;
use crate::{
    detect::{Protocol, Verdict, detect},
    fuzzing::sessions::{self, Fed},
    session::Form,
};

#[test]
fn recordings_say_what_is_in_them() {
    sessions::check_recordings("redis", Protocol::Redis, new);
}

#[test]
fn damaged_recordings_break_no_promise() {
    sessions::check_damaged("redis", new, 200);
}

/// What is said of these calls, `>` from the client and `<` from the server.
fn said(calls: &[(char, &[u8])]) -> Vec<Event> {
    sessions::said(new, calls)
}

#[test]
fn pipelines_may_be_deep() {
    const DEPTH: usize = 10_000;
    let commands = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n".repeat(DEPTH);
    let replies = b"$1\r\n1\r\n".repeat(DEPTH);
    let mut fed: Vec<_> = commands.chunks(16 * 1024).map(|bytes| Fed::Bytes(Side::Client, bytes.to_vec())).collect();
    fed.extend(replies.chunks(16 * 1024).map(|bytes| Fed::Bytes(Side::Server, bytes.to_vec())));
    let events = sessions::feed(new(), &fed);
    assert_eq!(
        (sessions::parts(&events, Side::Client).len(), sessions::parts(&events, Side::Server).len()),
        (DEPTH, DEPTH)
    );
    assert_eq!(events.len(), 2 * DEPTH);
}

#[test]
fn replies_may_nest_deeply() {
    let mut reply = b"*1\r\n".repeat(100_000);
    reply.extend_from_slice(b":1\r\n");
    let length = reply.len() as u64;
    let mut fed = vec![Fed::Bytes(Side::Client, b"*1\r\n$4\r\nROLE\r\n".to_vec())];
    fed.extend(reply.chunks(16 * 1024).map(|bytes| Fed::Bytes(Side::Server, bytes.to_vec())));
    let events = sessions::feed(new(), &fed);
    assert_eq!(sessions::parts(&events, Side::Server)[0].range, 0..length);
    assert_eq!(events.len(), 2);
}

#[test]
fn counts_that_nobody_can_send_allocate_nothing() {
    let events = said(&[('>', b"*1\r\n$4\r\nROLE\r\n"), ('<', b"*9999999999\r\n%9999999999\r\n:1\r\n")]);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(said(&[('>', b"*2147483648\r\n")]), [Event::NotMine]);
    assert_eq!(said(&[('>', b"*1\r\n$2147483648\r\n")]), [Event::NotMine]);
    let lost = Event::Lost { from: Side::Server, at: 0, reason: Lost::Malformed };
    assert_eq!(said(&[('<', b"$2147483648\r\n")]), [lost]);
}

#[test]
fn attributes_belong_to_the_reply_behind_them() {
    let reply = b"|1\r\n+key-popularity\r\n%1\r\n$1\r\na\r\n,0.19\r\n*2\r\n:2039123\r\n:9543892\r\n+OK\r\n";
    let events = said(&[('>', b"*2\r\n$4\r\nMGET\r\n$1\r\na\r\n"), ('<', reply)]);
    let replies: Vec<_> = sessions::parts(&events, Side::Server).iter().map(|part| part.range.clone()).collect();
    assert_eq!(replies, [0..63, 63..68]);
}

#[test]
fn answers_that_look_like_messages_are_answers_to_who_did_not_subscribe() {
    let get = b"*4\r\n$6\r\nLRANGE\r\n$1\r\na\r\n$1\r\n0\r\n$2\r\n-1\r\n";
    let events = said(&[('>', get), ('<', b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n")]);
    assert_eq!(sessions::parts(&events, Side::Server)[0].form, Form::Exchange);
}

#[test]
fn a_lone_reply_ends_with_the_gap_that_hides_its_end() {
    let mut pieces = vec![
        Fed::Bytes(Side::Client, b"*2\r\n$8\r\nSMEMBERS\r\n$1\r\na\r\n".to_vec()),
        Fed::Bytes(Side::Server, b"*100\r\n$1\r\na\r\n$1\r\n".to_vec()),
        Fed::Gap(Side::Server, 700),
        // More of the reply, which looks like one.
        Fed::Bytes(Side::Server, b"$1\r\na\r\n".to_vec()),
        Fed::Bytes(Side::Client, b"*1\r\n$4\r\nPING\r\n".to_vec()),
        Fed::Bytes(Side::Server, b"+PONG\r\n".to_vec()),
    ];
    let events = sessions::feed(new(), &pieces);
    let said = |part: &&Part| (part.range.clone(), part.boundary, part.facts.outcome.clone());
    let replies: Vec<_> = sessions::parts(&events, Side::Server).iter().map(said).collect();
    // What the gap hid may have been an error of a transaction's command.
    assert_eq!(replies, [(0..717, Boundary::Inferred, None), (724..731, Boundary::Framed, Some(Outcome::Ok))]);
    // With others behind it, nobody knows which of them the gap hid.
    pieces.insert(1, pieces[0].clone());
    let events = sessions::feed(new(), &pieces);
    assert_eq!(sessions::parts(&events, Side::Server).len(), 1);
    assert!(events.contains(&Event::Lost { from: Side::Server, at: 20, reason: Lost::Gap }));
}

#[test]
fn the_database_is_told_only_while_it_is_known() {
    const GET: &[u8] = b"GET a\r\n";
    const SELECT: &[u8] = b"SELECT 3\r\n";
    let namespace = |calls: &[(char, &[u8])], gap: Option<Side>| {
        let side = |from: char| if from == '>' { Side::Client } else { Side::Server };
        let mut fed: Vec<_> = calls.iter().map(|(from, bytes)| Fed::Bytes(side(*from), bytes.to_vec())).collect();
        fed.extend(gap.map(|side| Fed::Gap(side, 10)));
        // The framing is found again by a whole command.
        fed.extend([&b"*1\r\n$4\r\nPING\r\n"[..], GET].map(|bytes| Fed::Bytes(Side::Client, bytes.to_vec())));
        let events = sessions::feed(new(), &fed);
        let last = sessions::parts(&events, Side::Client).last().expect("a command").facts.attributes.clone();
        last.into_iter().find(|(key, _)| *key == "db.namespace").map(|(_, value)| value)
    };
    let known = Some("3".into());
    let selected: &[(char, &[u8])] = &[('>', SELECT), ('<', b"+OK\r\n")];
    assert_eq!(namespace(selected, None), known);
    assert_eq!(namespace(selected, Some(Side::Client)), None);
    assert_eq!(namespace(selected, Some(Side::Server)), None);
    let failed: &[(char, &[u8])] =
        &[('>', GET), ('>', SELECT), ('>', GET), ('<', b"$-1\r\n"), ('<', b"-NOPERM no\r\n"), ('<', b"$-1\r\n")];
    assert_eq!(namespace(failed, None), None);
    let other_failed: &[(char, &[u8])] = &[('>', SELECT), ('>', GET), ('<', b"+OK\r\n"), ('<', b"-WRONGTYPE no\r\n")];
    assert_eq!(namespace(other_failed, None), known);
    let transaction: &[(char, &[u8])] = &[('>', b"MULTI\r\nSELECT 3\r\nEXEC\r\n"), ('<', b"+OK\r\n+QUEUED\r\n*-1\r\n")];
    assert_eq!(namespace(transaction, None), None);
    assert_eq!(namespace(&[('>', b"SELECT three\r\n")], None), None);
}

#[test]
fn nothing_that_was_said_to_the_server_is_told() {
    let texts = ["hunter2", "secret", "news", "user", "mylist", "token", "bob", "my bad", "LIB-NAME"];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/redis");
    for entry in std::fs::read_dir(folder).expect("recordings").map(|entry| entry.expect("entry").path()) {
        if entry.extension().is_some_and(|is| is == "session") {
            let recording = std::fs::read_to_string(&entry).expect("a recording");
            let said = format!("{:?}", sessions::feed(new(), &sessions::conversation(&recording)));
            texts.iter().for_each(|text| assert!(!said.contains(text), "{text} in {}", entry.display()));
        }
    }
    let typed = said(&[('>', b"SET a b\r\nhunter2 hunter2\r\n*1\r\n$7\r\nhunter2\r\n")]);
    assert!(!format!("{typed:?}").contains("hunter2"), "{typed:?}");
}

fn check_not(client: &[u8], server: &[u8]) {
    let verdict = detect(client, server);
    assert_ne!(verdict, Verdict::Is(Protocol::Redis), "{} / {}", client.escape_ascii(), server.escape_ascii());
}

fn check_sign(client: &[u8], server: &[u8], expected: Verdict) {
    assert_eq!(detect(client, server), expected, "{} / {}", client.escape_ascii(), server.escape_ascii());
}

#[test]
fn commands_are_recognised_and_others_words_are_not() {
    let is = Verdict::Is(Protocol::Redis);
    check_sign(b"*1\r\n$4\r\nPING\r\n", b"", is);
    check_sign(b"*3\r\n$3\r\nSET\r", b"", Verdict::NotYet);
    check_sign(b"PING\r\n", b"", Verdict::NotYet);
    check_sign(b"PING\r\n", b"+PONG\r\n", is);
    check_sign(b"", b"+PONG\r\n", Verdict::NotYet);
    // NATS, POP3, SMTP.
    check_sign(b"PING\r\n", b"PONG\r\n", Verdict::Is(Protocol::Nats));
    check_not(b"AUTH\r\n", b"+OK ready\r\n");
    check_not(b"AUTH\r\n", b"-ERR\r\n");
    check_not(b"QUIT\r\n", b"+OK\r\n");
    check_not(b"EHLO a\r\n", b"250 a\r\n");
    check_not(b"*1\r\n$4\r\nP NG\r\n", b"");
    check_not(b"*1\r\n:4\r\n", b"");
    check_not(b"*1\r\n$40000\r\n", b"");
}

#[test]
fn many_commands_that_ask_nothing_are_passed_over() {
    let nothing = b"*0\r\n".repeat(1_000_000);
    assert_eq!(check_client(&[&nothing[..], b"*1\r\n$4\r\nPING\r\n"].concat()), Sign::Yes);
    assert_eq!(check_client(&nothing), Sign::Partial);
}

#[test]
fn signs_do_not_waver() {
    for bytes in
        [&b"*1\r\n$4\r\nPING\r\n"[..], b"get a b c\r\n", b"*-1\r\n*1\r\n$4\r\nPING\r\n", b"-ERR no\r\n", b"+OK\r\n"]
    {
        sessions::check_sign(check_client, bytes);
        sessions::check_sign(check_server, bytes);
    }
}
