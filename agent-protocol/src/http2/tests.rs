use super::*;
use crate::{
    detect::{Protocol, Verdict, detect},
    fuzzing::sessions::{self, Fed},
    session::{Facts, Forgotten, Key, Outcome, Part},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// HEADERS that are one block.
fn headers(stream: u32, ends_stream: bool, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | u8::from(ends_stream), stream, block)
}

fn get(stream: u32) -> Vec<u8> {
    headers(stream, true, b"\x82\x86\x84")
}

fn data(stream: u32, ends_stream: bool, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, u8::from(ends_stream), stream, payload)
}

/// What is said of these pieces, after both prefaces.
fn said(pieces: &[(Side, Vec<u8>)]) -> String {
    let begin = [(Side::Client, PREFACE.to_vec()), (Side::Server, SETTINGS.to_vec())];
    let fed: Vec<Fed> = begin.iter().chain(pieces).map(|(side, bytes)| Fed::Bytes(*side, bytes.clone())).collect();
    let said = sessions::say(&sessions::feed(new(), &fed));
    sessions::check(&fed, new);
    said
}

fn check(pieces: &[(Side, Vec<u8>)], expected: &str) {
    let said = said(pieces);
    let short: String =
        said.lines().map(|line| line.split(" name=").next().unwrap_or_default().to_owned() + "\n").collect();
    assert_eq!(short, expected);
}

#[test]
fn recordings_say_what_was_written_down() {
    sessions::check_recordings("http2", Protocol::Http2, new);
}

#[test]
fn damaged_recordings_break_no_promise() {
    sessions::check_damaged("http2", new, 200);
}

#[test]
fn what_is_secret_is_not_said() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/http2");
    let read = |path: &std::path::Path| std::fs::read_to_string(path).expect("a recording");
    let (mut secrets, mut recordings) = (0, 0);
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "session") {
            let pieces = sessions::conversation(&read(&path));
            let events = sessions::feed(new(), &pieces);
            assert!(!format!("{events:?}").contains("s3cr3t"), "{}", path.display());
            let sent =
                pieces.iter().filter_map(|piece| if let Fed::Bytes(_, bytes) = piece { Some(bytes) } else { None });
            secrets +=
                usize::from(sent.flatten().copied().collect::<Vec<_>>().windows(6).any(|word| word == b"s3cr3t"));
            recordings += 1;
        }
    }
    assert!(recordings > 20 && secrets > 3, "{secrets} of {recordings} hold one that is not encoded");
}

#[test]
fn an_exchange_of_another_protocol_is_not_taken() {
    for folder in ["http1", "dns", "tls"] {
        for entry in std::fs::read_dir(format!("{}/fixtures/{folder}", env!("CARGO_MANIFEST_DIR"))).expect("a folder") {
            let bytes = std::fs::read(entry.expect("an entry").path()).expect("a file");
            assert_ne!(detect(&bytes, &[]), Verdict::Is(Protocol::Http2));
            assert_ne!(detect(&[], &bytes), Verdict::Is(Protocol::Http2));
        }
    }
}

#[test]
fn streams_are_told_apart_and_answers_may_come_first() {
    use Side::{Client, Server};
    check(
        &[
            (Server, headers(3, false, b"\x88")),
            (Client, [get(1), get(3)].concat()),
            (Server, [headers(1, true, b"\x8d"), data(3, false, b"x"), data(3, true, b"")].concat()),
        ],
        "< #3 9-19 ... Framed outcome=Ok http.response.status_code=200\n\
         > #1 33-45 Framed\n\
         > #3 45-57 Framed\n\
         < #1 19-29 Framed outcome=ClientError(\"404\") http.response.status_code=404\n\
         < #3 39-48 Framed\n",
    );
}

#[test]
fn what_may_be_a_call_is_no_success_until_it_has_ended() {
    use Side::{Client, Server};
    // `:method: POST`, or GET, and a field that only a table knew that was not seen; `:status: 200` and such a field.
    let (post, get, ok) = (b"\x83\xbe", b"\x82\xbe", b"\x88\xbe");
    let outcomes = |request: &[u8], end: Vec<u8>| {
        let answer = [headers(1, false, ok), end].concat();
        let fed = [Fed::Bytes(Client, headers(1, true, request)), Fed::Bytes(Server, answer)];
        let told = |event| if let Event::Part(Part { from: Server, facts, .. }) = event { facts.outcome } else { None };
        sessions::feed(new(), &fed).into_iter().filter_map(told).collect::<Vec<_>>()
    };
    let hidden_status = || headers(1, true, b"\xbf");
    let failed = || headers(1, true, b"\0\x0bgrpc-status\x0213");
    let other = || headers(1, true, b"\0\x01x\x01y");
    assert_eq!(outcomes(post, hidden_status()), []);
    assert_eq!(outcomes(post, failed()), [Outcome::Error("INTERNAL".into())]);
    assert_eq!(outcomes(post, other()), [Outcome::Ok]);
    assert_eq!(outcomes(post, data(1, true, b"x")), [Outcome::Ok]);
    assert_eq!(outcomes(get, hidden_status()), [Outcome::Ok]);
}

#[test]
fn interim_responses_begin_no_message_and_trailers_end_one() {
    use Side::{Client, Server};
    let interim = headers(1, false, b"\x08\x03103");
    check(
        &[
            (Client, get(1)),
            (
                Server,
                [interim.clone(), interim, headers(1, false, b"\x88"), headers(1, true, b"\0\x01x\x01y")].concat(),
            ),
        ],
        "> #1 33-45 Framed\n\
         < #1 37-47 ... Framed outcome=Ok http.response.status_code=200 spantap.http.interim_responses=2\n\
         < #1 47-61 Framed\n",
    );
}

#[test]
fn a_reset_cancels_what_is_not_answered() {
    use Side::{Client, Server};
    let reset = |stream, code: u32| frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes());
    check(
        &[
            (Client, [get(1), get(3), get(5), headers(7, false, b"\x83\x86\x84")].concat()),
            (Server, [reset(1, 7), headers(5, false, b"\x88"), headers(7, true, b"\x88"), reset(7, 0)].concat()),
            (Client, [reset(3, 8), reset(5, 0xfeed), reset(9, 8)].concat()),
            (Server, headers(3, true, b"\x88")),
        ],
        "> #1 33-45 Framed\n> #3 45-57 Framed\n> #5 57-69 Framed\n> #7 69-81 ... Framed\n\
         Cancelled { key: Id(1), by: Server, end: 22, error_type: Some(\"REFUSED_STREAM\") }\n\
         < #5 22-32 ... Framed outcome=Ok http.response.status_code=200\n\
         < #7 32-42 Framed outcome=Ok http.response.status_code=200\n\
         Cancelled { key: Id(3), by: Client, end: 94, error_type: Some(\"CANCEL\") }\n\
         Cancelled { key: Id(5), by: Client, end: 107, error_type: Some(\"UNKNOWN_ERROR_CODE\") }\n",
    );
}

#[test]
fn a_server_that_goes_away_leaves_streams_out() {
    use Side::{Client, Server};
    let notice = frame(kind::GOAWAY, 0, 0, b"\x7f\xff\xff\xff\0\0\0\0");
    let last = |code: u8| frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, code, b'b', b'y', b'e']);
    check(
        &[(Client, [get(1), get(3)].concat()), (Server, [notice, last(0), headers(1, true, b"\x88")].concat())],
        "> #1 33-45 Framed\n> #3 45-57 Framed\n\
         Cancelled { key: Id(3), by: Server, end: 46, error_type: Some(\"GOAWAY\") }\n\
         < #1 46-56 Framed outcome=Ok http.response.status_code=200\n",
    );
    let said = said(&[(Client, get(3)), (Server, last(11))]);
    assert!(said.ends_with("error_type: Some(\"ENHANCE_YOUR_CALM\") }\n"), "{said}");
}

#[test]
fn pushed_streams_are_left_out_but_their_fields_count() {
    use Side::{Client, Server};
    let promise = frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, b"\0\0\0\x02\x82\x86\x84\x48\x03503");
    check(
        &[
            (Client, get(1)),
            (Server, [promise, headers(2, false, b"\x88"), data(2, true, b"x"), headers(1, true, b"\xbe")].concat()),
        ],
        "> #1 33-45 Framed\n< #1 50-60 Framed outcome=Error(\"503\") http.response.status_code=503\n",
    );
}

#[test]
fn a_hole_in_a_block_makes_what_it_may_have_added_unknown() {
    let fed = |gap: bool| {
        let first = headers(1, true, b"\x82\x86\x44\x02/a\x41\x01h");
        let piece = |bytes: &[u8]| Fed::Bytes(Side::Client, bytes.to_vec());
        let hidden = if gap { Fed::Gap(Side::Client, 4) } else { piece(&first[14..18]) };
        let second = piece(&headers(3, true, b"\x82\x86\xbf\xbe"));
        let third = piece(&headers(5, true, b"\x82\x86\x44\x02/b\xbe"));
        let fourth = piece(&headers(7, true, b"\x82\x86\xbe\xbf"));
        let pieces = [piece(PREFACE), piece(&first[..14]), hidden, piece(&first[18..]), second, third, fourth];
        sessions::check(&pieces, new);
        sessions::feed(new(), &pieces)
            .into_iter()
            .map(|event| match event {
                Event::Part(Part { key: Key::Id(_), facts: Facts { attributes, .. }, .. }) => {
                    let path = attributes.iter().find(|(key, _)| *key == "url.path").map(|(_, value)| value.clone());
                    let unresolved = attributes.iter().any(|(key, _)| *key == "spantap.http.unresolved_headers");
                    (path, unresolved)
                }
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    let known = |path: &'static str| (Some(path.into()), false);
    assert_eq!(
        fed(false),
        [known("/a"), known("/a"), known("/b"), known("/b")].map(|(path, unresolved)| (path, unresolved))
    );
    // The last one has the path that was added since, and another field that was not seen.
    assert_eq!(fed(true), [(None, true), (None, true), known("/b"), (Some("/b".into()), true)]);
}

#[test]
fn a_block_of_many_frames_is_read_as_it_comes_and_not_kept() {
    let mut parser = Http2::default();
    let mut out = Vec::new();
    let mut feed = |bytes: &[u8]| parser.feed(Side::Client, Input::Bytes(bytes), &mut out);
    feed(PREFACE);
    feed(&frame(kind::HEADERS, flag::END_STREAM, 1, b"\x82\x86\x84"));
    // 10,000 frames with a field each, and one field of 100 MB that never ends.
    for _ in 0..10_000 {
        feed(&frame(kind::CONTINUATION, 0, 1, b"\0\x01x\x01y"));
    }
    feed(&frame(kind::CONTINUATION, 0, 1, b"\0\x01x\x7f\x80\xc2\xd7\x2f"));
    for _ in 0..100 {
        feed(&frame(kind::CONTINUATION, 0, 1, &[b'x'; 16_000]));
    }
    assert_eq!(out, []);
    assert_eq!(parser.pending_from(Side::Client), 33);
    let memory = format!("{parser:?}");
    assert!(memory.len() < 40_000, "{} bytes of debugging for what is kept", memory.len());
}

#[test]
fn ten_thousand_streams_are_bounded() {
    let mut parser = Http2::default();
    let mut out = Vec::new();
    parser.feed(Side::Client, Input::Bytes(PREFACE), &mut out);
    for index in 0..10_000 {
        parser.feed(Side::Client, Input::Bytes(&get(1 + 2 * index)), &mut out);
    }
    let is_forgotten = |event: &Event| *event == Event::Forgotten(Forgotten::Stream);
    assert_eq!(out.iter().filter(|event| is_forgotten(event)).count(), 10_000 - 512);
    out.retain(|event| !is_forgotten(event));
    assert_eq!(out.len(), 10_000);
    // Of those that are not in use any more, where an answer ends is still told.
    parser.feed(Side::Server, Input::Bytes(&[SETTINGS.to_vec(), data(1, true, b"x")].concat()), &mut out);
    assert!(matches!(&out[10_000], Event::Part(Part { key: Key::Id(1), last: true, .. })), "{:?}", out.last());
}

#[test]
fn framing_is_found_again_where_a_call_begins_or_ends_with_frames() {
    use Side::{Client, Server};
    let bytes = |side, bytes: Vec<u8>| Fed::Bytes(side, bytes);
    let body = data(1, false, &[b'x'; 1000]);
    let mut pieces = vec![
        bytes(Client, PREFACE.to_vec()),
        bytes(Client, [get(1), get(3), get(5)].concat()),
        bytes(
            Server,
            [SETTINGS.to_vec(), headers(1, false, b"\x88"), headers(3, false, b"\x88"), headers(5, false, b"\x88")]
                .concat(),
        ),
        // A call of two frames, of which the middle was not captured.
        bytes(Server, body[..100].to_vec()),
        Fed::Gap(Server, 2000),
        bytes(Server, [&b"xxxxxxx"[..], &data(1, true, b"")].concat()),
    ];
    let ends = |pieces: &[Fed]| {
        let events = sessions::feed(new(), pieces);
        let last = events.into_iter().filter_map(|event| match event {
            Event::Part(Part { key: Key::Id(id), from: Side::Server, last: true, range, .. }) => {
                Some((id, range.start))
            }
            _ => None,
        });
        last.collect::<Vec<_>>()
    };
    assert_eq!(ends(&pieces), [(1, 2146)], "the last frame of the call");
    pieces.push(Fed::Gap(Server, 50));
    pieces.push(bytes(Server, b"not a frame".to_vec()));
    pieces.push(bytes(Server, data(7, true, b"of no stream")));
    pieces.push(bytes(Server, data(3, true, b"of an open stream")));
    assert_eq!(ends(&pieces)[1..], [(3, 2237)]);
}

#[test]
fn bytes_of_others_are_given_back_or_lost() {
    let feed = |pieces: &[(Side, &[u8])]| {
        let fed: Vec<Fed> = pieces.iter().map(|(side, bytes)| Fed::Bytes(*side, bytes.to_vec())).collect();
        sessions::check(&fed, new);
        sessions::say(&sessions::feed(new(), &fed))
    };
    let garbage = &b"not a frame at all"[..];
    assert_eq!(feed(&[(Side::Client, garbage), (Side::Server, garbage)]), "NotMine\n");
    assert_eq!(feed(&[(Side::Client, PREFACE), (Side::Client, garbage)]), "NotMine\n");
    // One direction that was joined in the middle of a frame says nothing of the other.
    let late = feed(&[(Side::Server, garbage), (Side::Client, &get(5))]);
    assert!(late.starts_with("Lost { from: Server, at: 0, reason: Malformed }\n> #5 0-12 Framed"), "{late}");
    let later = feed(&[(Side::Client, PREFACE), (Side::Client, &get(1)), (Side::Client, garbage)]);
    assert!(later.ends_with("Lost { from: Client, at: 45, reason: Malformed }\n"), "{later}");
}

#[test]
fn lengths_beyond_all_reason_are_no_reason_to_wait_or_to_keep() {
    use Side::{Client, Server};
    // A frame of 16 MB on an open stream is one; a message of gRPC may say that it has 4 GB.
    let mut large = b"\xff\xff\xff\0\0\0\0\0\x01".to_vec();
    large.extend(b"\0\xff\xff\xff\xff");
    check(
        &[(Client, headers(1, false, b"\x83\x86\x84\x5f\x10application/grpc")), (Client, large)],
        "> #1 33-63 ... Framed\n",
    );
    let padded = frame(kind::DATA, flag::PADDED, 1, b"\xffxx");
    check(
        &[(Client, get(1)), (Server, padded)],
        "> #1 33-45 Framed\nLost { from: Server, at: 9, reason: Malformed }\n",
    );
}
