//! Recordings, and what none of them holds.

use super::*;
use crate::{
    detect::{Protocol, Sign, Verdict, detect},
    fuzzing::sessions::{self, Fed},
    session::Outcome,
};

#[test]
fn recordings_say_what_is_in_them() {
    sessions::check_recordings("postgres", Protocol::Postgres, new);
}

#[test]
fn damaged_recordings_break_no_promise() {
    sessions::check_damaged("postgres", new, 200);
}

#[test]
fn nothing_secret_is_said() {
    for (path, fed) in sessions::recordings("postgres") {
        let said = sessions::say(&sessions::feed(new(), &fed));
        for secret in ["secret", "testpw", "already exists", "4.50", "it's"] {
            assert!(!said.contains(secret), "{path}: {said}");
        }
    }
}

/// A message.
fn message(kind: u8, contents: &[u8]) -> Vec<u8> {
    [&[kind], &(contents.len() as u32 + 4).to_be_bytes()[..], contents].concat()
}

/// What is said of these calls, `>` from the client and `<` from the server.
fn said(calls: &[(char, Vec<u8>)]) -> Vec<Event> {
    sessions::said(new, calls)
}

fn execute(sql: &str) -> Vec<u8> {
    let parse = message(b'P', format!("\0{sql}\0\0\0").as_bytes());
    [parse, message(b'B', &[0; 8]), message(b'E', &[0; 5])].concat()
}

fn done(tag: &str) -> Vec<u8> {
    [message(b'1', b""), message(b'2', b""), message(b'C', format!("{tag}\0").as_bytes())].concat()
}

#[test]
fn pipelines_may_be_deep() {
    const DEPTH: usize = 10_000;
    let sync = |bytes: Vec<u8>| [bytes, message(b'S', b"")].concat();
    let ready = |bytes: Vec<u8>| [bytes, message(b'Z', b"I")].concat();
    let (asked, answered) = (execute("SELECT 1"), done("SELECT 0"));
    let one_batch = [sync(asked.repeat(DEPTH)), ready(answered.repeat(DEPTH))];
    let many_batches = [sync(asked).repeat(DEPTH), ready(answered).repeat(DEPTH)];
    for [asked, answered] in [one_batch, many_batches] {
        let fed = |side, bytes: &[u8]| bytes.chunks(16 * 1024).map(|it| Fed::Bytes(side, it.to_vec())).collect();
        let fed: [Vec<_>; 2] = [fed(Side::Client, &asked), fed(Side::Server, &answered)];
        let events = sessions::feed(new(), &fed.concat());
        assert_eq!(
            (sessions::parts(&events, Side::Client).len(), sessions::parts(&events, Side::Server).len()),
            (DEPTH, DEPTH)
        );
        assert_eq!(events.len(), 2 * DEPTH);
    }
}

#[test]
fn a_batch_that_fails_aborts_the_rest_of_it() {
    let error = message(b'E', b"SERROR\0VERROR\0C40P01\0Mdeadlock\0\0");
    let asked = [execute("UPDATE a SET b = 1").repeat(3), message(b'S', b"")].concat();
    let events = said(&[('>', asked), ('<', [done("UPDATE 1"), error, message(b'Z', b"E")].concat())]);
    let outcomes: Vec<_> =
        sessions::parts(&events, Side::Server).iter().map(|part| part.facts.outcome.clone()).collect();
    assert_eq!(outcomes, [Some(Outcome::Ok), Some(Outcome::Error("40P01".into()))]);
    let aborted = events.iter().filter(|event| matches!(event, Event::Cancelled { .. })).count();
    assert_eq!((events.len(), aborted), (6, 1));
}

#[test]
fn after_a_loss_no_name_stands_for_an_older_statement() {
    let parse = message(b'P', b"s\0SELECT 1\0\0\0");
    let execute = [message(b'B', b"\0s\0\0\0\0\0\0\0"), message(b'E', &[0; 5]), message(b'S', b"")].concat();
    let mut fed = vec![Fed::Bytes(Side::Client, [parse, execute.clone()].concat())];
    fed.extend([Fed::Gap(Side::Client, 100), Fed::Bytes(Side::Client, execute)]);
    let events = sessions::feed(new(), &fed);
    let names: Vec<_> = sessions::parts(&events, Side::Client).iter().map(|part| part.facts.name.clone()).collect();
    assert_eq!(names, [Some("SELECT".into()), None]);
}

#[test]
fn an_error_at_the_commit_of_a_batch_is_its_last_executes() {
    let error = message(b'E', b"SERROR\0VERROR\0C23503\0\0");
    let answer = [done("INSERT 0 1"), error, message(b'Z', b"I")].concat();
    let length = answer.len() as u64;
    let events = said(&[('>', [execute("INSERT INTO a VALUES (1)"), message(b'S', b"")].concat()), ('<', answer)]);
    let answered = sessions::parts(&events, Side::Server);
    assert_eq!(answered.len(), 1);
    assert_eq!(
        (&answered[0].range, &answered[0].facts.outcome),
        (&(0..length), &Some(Outcome::ClientError("23503".into())))
    );
}

#[test]
fn a_session_that_is_ended_fails_what_waits_and_else_says_nothing() {
    let fatal = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0");
    let query = message(b'Q', b"SELECT 1\0");
    let answer = [message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat();
    let calls = [('>', query.clone()), ('<', answer), ('<', fatal.clone())];
    assert_eq!(said(&calls).len(), 2);
    let events = said(&[('>', query), ('<', fatal)]);
    assert_eq!(sessions::parts(&events, Side::Server)[0].facts.outcome, Some(Outcome::Error("57P01".into())));
}

#[test]
fn a_replication_stream_is_one_answer_and_then_silence() {
    let copy = message(b'd', b"anything");
    let start = message(b'W', &[0, 0, 0]);
    let calls = [
        ('>', message(b'Q', b"START_REPLICATION 0/0\0")),
        ('<', start),
        ('<', copy.clone()),
        ('>', copy.clone()),
        ('<', [copy, message(b'c', b""), message(b'C', b"COPY 0\0"), message(b'Z', b"I")].concat()),
        ('>', message(b'Q', b"SELECT 1\0")),
        ('<', [message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat()),
    ];
    let events = said(&calls);
    assert_eq!(
        sessions::parts(&events, Side::Server).iter().map(|part| part.range.clone()).collect::<Vec<_>>(),
        [0..8, 57..77]
    );
}

#[test]
fn lengths_beyond_all_bounds_are_malformed() {
    for kind in [b'Q', b'D', b'E', b'Z', b'1'] {
        for length in [0_u32, 3, 1 << 30, 1 << 31, u32::MAX] {
            let bytes = [&[kind][..], &length.to_be_bytes(), b"xxxxxxxx"].concat();
            for side in [Side::Client, Side::Server] {
                let events = sessions::feed(new(), &[Fed::Bytes(side, bytes.clone())]);
                assert!(matches!(events[..], [Event::Lost { reason: Lost::Malformed, .. }]), "{events:?}");
            }
        }
    }
}

#[test]
fn values_in_backslashes_are_read_as_the_server_says() {
    let text = |setting: &str| {
        let parameter = message(b'S', format!("standard_conforming_strings\0{setting}\0").as_bytes());
        let events = said(&[('<', parameter), ('>', message(b'Q', br"SELECT 'a\', b, 'y'"))]);
        format!("{:?}", sessions::parts(&events, Side::Client)[0].facts.attributes)
    };
    assert!(text("on").contains(r#""SELECT ?, b, ?""#), "{}", text("on"));
    assert!(text("off").contains(r#""SELECT ?y?""#), "{}", text("off"));
}

#[test]
fn first_bytes_are_recognised() {
    let is = Verdict::Is(Protocol::Postgres);
    let start = b"\0\0\0\x20\0\x03\0\0user\0app\0database\0shop\0\0";
    let kafka_metadata = b"\0\0\0\x1d\0\x03\0\0\0\0\0\x01\0\x09anything\0\0\0\x01\0\0\0\0\0\0";
    // Whether it is this protocol for sure; what else it is, or may still become, is others' matter.
    let cases: &[(&[u8], &[u8], bool)] = &[
        (start, b"", true),
        (&start[..20], b"", false),
        (b"\0\0\0\x08\x04\xd2\x16/", b"", true),
        (b"Q\0\0\0\x0dSELECT 1\0", b"", true),
        (b"Q\0\0\0\x0dSELEC\0\0\0\0", b"", false),
        (b"", b"Z\0\0\0\x05I", true),
        (b"", b"1\0\0\0\x042\0\0\0\x04", true),
        (b"", b"R\0\0\0\x08\0\0\0\0", true),
        (b"", b"220 mail.test ESMTP\r\n", false),
        (kafka_metadata, b"", false),
    ];
    for (client, server, expected) in cases {
        let found = detect(client, server);
        assert_eq!(found == is, *expected, "{found:?} {} {}", client.escape_ascii(), server.escape_ascii());
    }
    for (_, fed) in sessions::recordings("postgres") {
        for piece in fed {
            match piece {
                Fed::Bytes(Side::Client, bytes) => sessions::check_sign(check_client, &bytes),
                Fed::Bytes(Side::Server, bytes) => sessions::check_sign(check_server, &bytes),
                Fed::Gap(..) => {}
            }
        }
    }
    assert_eq!(check_client(b"X\0\0\0\x04"), Sign::Likely);
}

#[test]
fn the_start_message_names_the_database_or_the_user() {
    assert_eq!(wire::database(b"user\0app\0database\0shop\0\0").as_deref(), Some("shop"));
    assert_eq!(wire::database(b"database\0shop\0user\0app\0\0").as_deref(), Some("shop"));
    assert_eq!(wire::database(b"user\0app\0application_name\0psql\0\0").as_deref(), Some("app"));
    assert_eq!(wire::database(b"\0"), None);
}
