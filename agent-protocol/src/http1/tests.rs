//! Streams through the parsers: recorded ones from `fixtures/http1`, made ones here.

use std::{fmt::Debug, fs, path::Path};

use super::{Limits, Requests, Responses};
use crate::{
    fuzzing::{Parser, Random, check_bytewise, check_split, feed_all},
    input::{Boundary, Event, Input},
};

/// One line per event: short for what these tests are about.
fn lines<H: Brief>(events: &[Event<H>]) -> Vec<String> {
    events.iter().map(line).collect()
}

fn line<H: Brief>(event: &Event<H>) -> String {
    match event {
        Event::Head { start, end, head } => format!("head {start}..{end} {}", head.brief()),
        Event::End { end, boundary: Boundary::Framed } => format!("end {end}"),
        Event::End { end, boundary: Boundary::Inferred } => format!("end {end} inferred"),
        Event::Content(content) => format!("content {content:?}"),
        Event::Switched { at } => format!("switched {at}"),
        Event::Lost { at, reason } => format!("lost {at} {reason:?}"),
        Event::NotMine => "not mine".to_owned(),
    }
}

trait Brief: Debug {
    fn brief(&self) -> String;
}

impl Brief for super::RequestHead {
    fn brief(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

impl Brief for super::ResponseHead {
    fn brief(&self) -> String {
        let interim = if self.interim > 0 { format!(" after {}", self.interim) } else { String::new() };
        format!("{}{interim}", self.status)
    }
}

fn responses(methods: &[&str]) -> Responses {
    let mut parser = Responses::default();
    methods.iter().for_each(|method| parser.expect(method));
    parser
}

/// A stream without gaps: its events, and that they do not depend on how it is cut.
fn check<P: Parser<Head: Brief>>(new: impl Fn() -> P, stream: &[u8], expected: &[&str]) {
    assert_eq!(lines(&feed_all(new(), &[Input::Bytes(stream)], true)), expected, "{}", stream.escape_ascii());
    check_bytewise(stream, &new);
    (0..=stream.len()).for_each(|at| check_split(stream, at, &new));
}

fn check_requests(stream: &[u8], expected: &[&str]) {
    check(Requests::default, stream, expected);
}

fn check_responses(methods: &[&str], stream: &[u8], expected: &[&str]) {
    check(|| responses(methods), stream, expected);
}

/// A stream with gaps, fed as given.
fn check_pieces<P: Parser<Head: Brief>>(parser: P, pieces: &[Input<'_>], expected: &[&str]) {
    assert_eq!(lines(&feed_all(parser, pieces, false)), expected, "{pieces:?}");
}

use Input::{Bytes, Gap};

#[test]
fn recorded_streams_give_the_events_beside_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/http1");
    let mut seen = 0;
    for entry in fs::read_dir(&folder).expect("fixtures/http1") {
        let path = entry.expect("entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("name").to_owned();
        let Some(stem) = name.strip_suffix(".txt") else { continue };
        let stream = fs::read(&path).expect("stream");
        let beside = folder.join(format!("{stem}.events"));
        let expected = fs::read_to_string(&beside).unwrap_or_else(|error| panic!("{}: {error}", beside.display()));
        // The first line names the methods that responses answer.
        let (first, events) = expected.split_once('\n').expect("two lines");
        let methods: Vec<_> = first.strip_prefix("expect").expect("expect line").split_whitespace().collect();
        let actual = if stem.ends_with(".requests") {
            recorded(Requests::default, &stream)
        } else {
            recorded(|| responses(&methods), &stream)
        };
        assert_eq!(actual, events, "{name}");
        seen += 1;
    }
    assert!(seen >= 10, "{seen} recorded streams");
}

fn recorded<P: Parser>(new: impl Fn() -> P, stream: &[u8]) -> String {
    check_bytewise(stream, &new);
    (0..=stream.len()).for_each(|at| check_split(stream, at, &new));
    feed_all(new(), &[Bytes(stream)], true).iter().map(|event| format!("{event:?}\n")).collect()
}

#[test]
fn requests_end_where_their_framing_says() {
    check_requests(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &["head 0..27 GET /", "end 27"]);
    check_requests(b"\r\n\r\nGET / HTTP/1.0\n\n", &["head 4..20 GET /", "end 20"]);
    check_requests(
        b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\n\r\n",
        &["head 0..39 POST /a", "end 44", "head 44..63 GET /b", "end 63"],
    );
    check_requests(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", &["head 0..38 POST /", "end 38"]);
    check_requests(
        b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n\
          5;a=\"b\"\r\nhello\r\n00a \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
        &["head 0..65 PUT /", "end 116", "head 116..135 GET /b", "end 135"],
    );
}

#[test]
fn responses_end_where_framing_and_request_say() {
    check_responses(
        &["HEAD", "GET", "GET"],
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\
          HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\nHTTP/1.1 204\r\n\r\n",
        &["head 0..38 200", "end 38", "head 38..86 304", "end 86", "head 86..102 204", "end 102"],
    );
    check_responses(&[], b"HTTP/1.0 200 OK\r\n\r\nuntil the end", &["head 0..19 200", "end 32"]);
    check_responses(
        &["GET"],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        &["head 0..47 200", "end 60"],
    );
    check_responses(&["GET"], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", &["head 0..44 200", "end 47"]);
}

#[test]
fn interim_responses_are_counted() {
    check_responses(
        &["HEAD", "GET"],
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
          HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        &["head 62..100 200 after 2", "end 100", "head 100..138 200", "end 140"],
    );
}

#[test]
fn an_agreed_switch_ends_the_protocol() {
    check_responses(
        &["GET"],
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x05hello",
        &["head 0..56 101", "switched 56"],
    );
    let established = b"HTTP/1.1 200 Connection established\r\n\r\n\x16\x03\x01";
    check_responses(&["CONNECT"], established, &["head 0..39 200", "switched 39"]);
    check_responses(
        &["CONNECT", "GET"],
        b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\nHTTP/1.1 204 A\r\n\r\n",
        &["head 0..38 403", "end 38", "head 38..56 204", "end 56"],
    );
}

#[test]
fn requests_switch_when_told() {
    let (mut parser, mut events) = (Requests::default(), Vec::new());
    parser.feed(Bytes(b"CONNECT a:1 HTTP/1.1\r\n\r\n"), &mut events);
    parser.switch(24);
    parser.feed(Bytes(b"\x16\x03GET / HTTP/1.1\r\n\r\n"), &mut events);
    parser.feed(Input::Gap(9), &mut events);
    assert_eq!(lines(&events), ["head 0..24 CONNECT a:1", "end 24"]);
    assert_eq!(parser.offset(), 53);

    let (mut parser, mut events) = (Requests::default(), Vec::new());
    parser.switch(19);
    parser.feed(Bytes(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"), &mut events);
    assert_eq!((lines(&events), parser.offset()), (vec!["head 0..19 GET /a".to_owned(), "end 19".to_owned()], 38));
}

#[test]
fn foreign_bytes_are_not_mine_and_garbage_behind_a_message_is_malformed() {
    check_requests(b"\x16\x03\x01\x02\x00\x01\x00", &["not mine"]);
    check_requests(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &["not mine"]);
    check_responses(&[], b"220 mail.test ESMTP\r\n", &["not mine"]);
    check_requests(b"GE", &["not mine"]);
    check_requests(b"GET / HTTP/1.1\r\nHost", &["lost 0 Malformed"]);
    check_requests(b"GET / HTTP/1.1\r\n\r\n\x00\x01", &["head 0..18 GET /", "end 18", "lost 18 Malformed"]);
    check_requests(b"GET / HTTP/1.1\r\n\x00\x01garbage\r\n\r\n", &["lost 0 Malformed"]);
    check_requests(b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", &["lost 0 Malformed"]);
    check_requests(b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", &["lost 0 Malformed"]);
}

#[test]
fn malformed_chunks_lose_framing_where_they_are() {
    let head = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, at) in [
        ("x\r\n", 0),
        ("\r\n", 0),
        ("5x\r\n", 1),
        ("5\r5", 2),
        ("1\r\nab", 4),
        ("1\r\na\rb", 5),
        ("10000000000000000\r\n", 16),
    ] {
        let lost = format!("lost {} Malformed", head.len() + at);
        check_requests(format!("{head}{body}").as_bytes(), &["head 0..46 PUT /", &lost]);
    }
    check_requests(format!("{head}ffffffffffffffff\r\nab").as_bytes(), &["head 0..46 PUT /", "lost 66 Malformed"]);
}

#[test]
fn a_message_that_the_end_cuts_off_is_lost() {
    let head = "head 0..38 POST /";
    check_requests(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc", &[head, "lost 41 Malformed"]);
    let head = "head 0..47 200";
    let stream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab";
    check_responses(&[], stream, &[head, "lost 52 Malformed"]);
}

#[test]
fn gaps_within_known_framing_just_advance() {
    let sized = Bytes(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\nabc");
    let next = Bytes(b"GET /b HTTP/1.1\r\n\r\n");
    check_pieces(
        Requests::default(),
        &[sized, Gap(500), Gap(497), next],
        &["head 0..41 POST /", "end 1041", "head 1041..1060 GET /b", "end 1060"],
    );
    let chunked = Bytes(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\nabc");
    for pieces in [
        [chunked, Gap(996), Bytes(b"x\r\n0\r\n\r\n"), next],
        [chunked, Gap(997), Bytes(b"\r\n0\r\n\r\n"), next],
        [chunked, Gap(998), Bytes(b"\n0\r\n\r\n"), next],
        [chunked, Gap(999), Bytes(b"0\r\n\r\n"), next],
    ] {
        let expected = ["head 0..46 PUT /", "end 1058", "head 1058..1077 GET /b", "end 1077"];
        check_pieces(Requests::default(), &pieces, &expected);
    }
    check_pieces(Responses::default(), &[Bytes(b"HTTP/1.1 200 OK\r\n\r\n"), Gap(1 << 40)], &["head 0..19 200"]);
}

#[test]
fn a_gap_beyond_a_body_loses_the_next_head_and_a_later_call_resumes() {
    let post = Bytes(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n");
    let expected = ["head 0..41 POST /", "end 1041", "lost 1041 Gap", "head 1555..1573 GET /", "end 1573"];
    let tail = Bytes(b"tail of head\r\n");
    check_pieces(Requests::default(), &[post, Gap(1500), tail, Bytes(b"GET / HTTP/1.1\r\n\r\n")], &expected);
    let whole = Bytes(b"GET / HTTP/1.1\r\n\r\n");
    let expected = ["lost 0 Gap", "head 14..32 GET /", "end 32", "head 32..50 GET /", "end 50"];
    check_pieces(Requests::default(), &[Gap(9), Bytes(b"GET /"), whole, whole], &expected);
    let expected = ["lost 0 Gap", "head 39..57 GET /", "end 57"];
    check_pieces(Requests::default(), &[Bytes(b"GET / HTTP/1.1\r\nHost"), Gap(19), whole], &expected);
    let hidden = ["lost 0 Gap"];
    check_pieces(Requests::default(), &[Gap(9), Bytes(b"no GET / HTTP/1.1\r\n\r\n")], &hidden);
}

#[test]
fn a_loss_forgets_which_requests_are_waiting() {
    let mut parser = responses(&["HEAD", "HEAD"]);
    let mut events = Vec::new();
    parser.feed(Gap(100), &mut events);
    assert_eq!(parser.expected(), 0);
    parser.expect("GET");
    parser.feed(Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), &mut events);
    assert_eq!(lines(&events), ["lost 0 Gap", "head 100..138 200", "end 140"]);
}

#[test]
fn a_chunked_body_with_hidden_chunks_ends_where_its_last_chunk_shows() {
    let head = Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc");
    let next = Bytes(b"HTTP/1.1 204 No\r\n\r\n");
    let expected = ["head 0..47 200", "end 1070 inferred", "head 1070..1089 204", "end 1089"];
    for tail in [&[Bytes(b"data data\r\n0\r\n\r\n")][..], &[Bytes(b"data data\r"), Bytes(b"\n0\r\n\r\n")]] {
        let pieces = [&[head, Gap(1000)], tail, &[next]].concat();
        check_pieces(Responses::default(), &pieces, &expected);
    }
    let torn = [head, Gap(1000), Bytes(b"data data\r\n0\r"), Gap(1), Bytes(b"\n\r\n")];
    check_pieces(Responses::default(), &torn, &expected[..1]);
    // Written by a call of its own, whatever came before.
    let own_call = [head, Gap(500), Bytes(b"data data da"), Gap(499), Bytes(b"0\r\n\r\n"), next];
    check_pieces(Responses::default(), &own_call, &expected);
    check_pieces(Responses::default(), &own_call[..5], &expected[..2]);
}

#[test]
fn a_chunked_body_with_hidden_chunks_ends_at_the_next_message_or_the_end() {
    let head = Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc");
    let next = Bytes(b"HTTP/1.1 204 No\r\n\r\n");
    let expected = ["head 0..47 200", "end 1058 inferred", "head 1058..1077 204", "end 1077"];
    check_pieces(Responses::default(), &[head, Gap(1000), Bytes(b"data"), next], &expected);
    check_pieces(Responses::default(), &[head, Gap(1000), Bytes(b"0\r\n\r\ndata")], &expected[..1]);
    let ended = feed_all(Responses::default(), &[head, Gap(1000), Bytes(b"data")], true);
    assert_eq!(lines(&ended), ["head 0..47 200", "end 1058 inferred"]);
}

#[test]
fn hints_end_what_framing_cannot() {
    let next = b"HTTP/1.1 204 No\r\n\r\n";
    let hint = |stream: &[Input<'_>], next: &[u8]| {
        let (mut parser, mut events) = (Responses::default(), Vec::new());
        stream.iter().for_each(|piece| parser.feed(*piece, &mut events));
        parser.hint_message_start();
        next.chunks(5).for_each(|piece| parser.feed(Bytes(piece), &mut events));
        lines(&events)
    };
    let until_close = [Bytes(b"HTTP/1.1 200 OK\r\n\r\nabc")];
    assert_eq!(hint(&until_close, next), ["head 0..19 200", "end 22 inferred", "head 22..41 204", "end 41"]);
    assert_eq!(hint(&until_close, b"more data"), ["head 0..19 200"]);
    assert_eq!(hint(&[Gap(7)], next), ["lost 0 Gap", "head 7..26 204", "end 26"]);
    assert_eq!(hint(&[Gap(7)], b"\x00"), ["lost 0 Gap"]);
    assert_eq!(hint(&[], next), ["head 0..19 204", "end 19"]);
    let sized = [Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n")];
    assert_eq!(hint(&sized, next), ["head 0..39 200", "end 58"], "intact framing outweighs half a line");
}

#[test]
fn a_hinted_whole_line_outweighs_framing() {
    // The answer to a HEAD that was not seen: a length, but no body.
    let (mut parser, mut events) = (Responses::default(), Vec::new());
    parser.feed(Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n"), &mut events);
    parser.hint_message_start();
    parser.feed(Bytes(b"HTTP/1.1 204 No\r\n\r\n"), &mut events);
    assert_eq!(lines(&events), ["head 0..39 200", "end 39 inferred", "head 39..58 204", "end 58"]);
}

#[test]
fn oversized_heads_and_chunk_lines_are_lost_once_and_not_stored() {
    let field = [b'x'; 1024];
    let (mut parser, mut events) = (Requests::default(), Vec::new());
    parser.feed(Bytes(b"GET / HTTP/1.1\r\nX: "), &mut events);
    (0..10 * 1024).for_each(|_| parser.feed(Bytes(&field), &mut events));
    parser.feed(Bytes(b"\r\n\r\n"), &mut events);
    parser.feed(Bytes(b"GET /after HTTP/1.1\r\n\r\n"), &mut events);
    assert_eq!(lines(&events), ["lost 0 TooLarge", "head 10485783..10485806 GET /after", "end 10485806"]);

    let small = || Requests::new(Limits { head_bytes_max: 48 });
    let head = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let expected = ["head 0..46 PUT /", "lost 94 TooLarge"];
    check(small, format!("{head}1;{}\r\n", "x".repeat(60)).as_bytes(), &expected);
    check(small, format!("{head}0\r\n{}\r\n", "x: y\r\n".repeat(10)).as_bytes(), &expected);
    check(small, b"GET / HTTP/1.1\r\nX: 0123456789012345678901234\r\n\r\n", &["head 0..48 GET /", "end 48"]);
    check(small, b"GET / HTTP/1.1\r\nX: 01234567890123456789012345\r\n\r\n", &["lost 0 TooLarge"]);
}

#[test]
fn a_limit_holds_for_each_chunk_line_not_for_their_sum() {
    let small = || Requests::new(Limits { head_bytes_max: 48 });
    let head = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let whole = format!("{head}{}0\r\n\r\n", "1\r\na\r\n".repeat(20));
    check(small, whole.as_bytes(), &["head 0..46 PUT /", "end 171"]);
    let mut pieces = vec![Bytes(head.as_bytes())];
    (0..20).for_each(|_| pieces.extend([Bytes(b"3e8\r\n"), Gap(1002)]));
    pieces.push(Bytes(b"0\r\n\r\n"));
    check_pieces(small(), &pieces, &["head 0..46 PUT /", "end 20191"]);
}

#[test]
fn a_pipeline_of_a_thousand_is_a_thousand() {
    let (mut parser, mut events) = (Requests::default(), Vec::new());
    let stream: String = (0..1000).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    parser.feed(Bytes(stream.as_bytes()), &mut events);
    let paths: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Head { head, .. } => Some(head.path.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(paths, (0..1000).map(|n| format!("/{n}")).collect::<Vec<_>>());
    assert_eq!(events.last(), Some(&Event::End { end: stream.len() as u64, boundary: Boundary::Framed }));

    let mut parser = responses(&["HEAD"; 1000]);
    let mut events = Vec::new();
    parser.feed(Bytes("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".repeat(1000).as_bytes()), &mut events);
    assert_eq!((events.len(), parser.expected()), (2000, 0));
}

#[test]
fn random_bytes_never_break_a_promise() {
    let mut random = Random::new(42);
    for _ in 0..2000 {
        // From few letters, so that some of it is nearly HTTP.
        let alphabet = b"GET / HTTP/1.1\r\n\r\n: 0159afContent-Lengthchunked\x00\xff";
        let stream: Vec<_> = (0..random.below(64)).map(|_| alphabet[random.below(alphabet.len())]).collect();
        crate::fuzzing::http1_requests(&stream);
        crate::fuzzing::http1_responses(&stream);
    }
}

#[test]
fn a_parser_falls_silent_at_the_last_offset() {
    check_pieces(Requests::default(), &[Gap(u64::MAX), Bytes(b"GET / HTTP/1.1\r\n\r\n")], &["lost 0 Gap"]);
}
