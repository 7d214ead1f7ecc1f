//! Who asked closes before it has the whole answer: at the client its application gave up, at the server the client is gone. A reset
//! that comes of it ended nothing; one that comes without it did.

use agent_common::{
    connection::{ConnectionRecord, change as what, flag as connection_flag},
    header::kind,
    message::{ArrivalRecord, CallRecord, SendRecord, flag},
    sched::Blocked,
};
use agent_core::{
    loss::Loss,
    span::{SegmentName, Span, Status, Value},
    testing::{End, Kernel, Run, attribute, change, segments, total},
};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
const SENT: &str = "send:10:measured held:5:measured queue:5:measured";

fn open(end: End) -> (Kernel, End) {
    let mut kernel = Kernel::default();
    end.open(&mut kernel, 1_000_000);
    (kernel, end)
}

/// A client that asked, and whose request was acknowledged.
fn asked() -> (Kernel, End) {
    let (mut kernel, mut client) = open(End::client());
    client.write(&mut kernel, 2_000_000, 2_000_030, GET);
    client.acked(&mut kernel, 2_000_080, GET.len() as u32, [2_000_000, 2_000_020, 2_000_080], 0);
    (kernel, client)
}

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    match attribute(span, key) {
        Some(Value::String(value)) => Some(value),
        _ => None,
    }
}

fn int(span: &Span, key: &str) -> Option<i64> {
    match attribute(span, key) {
        Some(Value::Int(value)) => Some(*value),
        _ => None,
    }
}

fn only(run: &Run) -> &Span {
    assert_eq!((run.spans.len(), run.flushed.len()), (1, 0), "{:?}", run.losses);
    segments(&run.spans[0]);
    &run.spans[0]
}

/// Outcome, `error.type`, cause, who reset, who closed, and the length in ms.
type Told<'a> = (Status, Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<&'a str>, u64);

fn told(span: &Span) -> Told<'_> {
    let by = |key| text(span, key);
    let ms = span.duration_ns / 1_000_000;
    (span.status, by("error.type"), span.cause, by("spantap.tcp.reset_by"), by("spantap.tcp.closed_by"), ms)
}

const ABANDONED: Told<'static> =
    (Status::Error, Some("request_abandoned"), Some("request_abandoned"), None, Some("local"), 1_000);
const RESET: Told<'static> =
    (Status::Error, Some("connection_reset"), Some("reset_by_peer"), Some("peer"), None, 2_000);
const GONE: Told<'static> = (Status::Error, Some("client_gone"), Some("client_gone"), None, Some("peer"), 1_000);

#[test]
fn a_client_that_closes_gave_up_whatever_resets_the_answer_later() {
    let (mut kernel, client) = asked();
    client.close_whole(&mut kernel, 3_000_000);
    client.reset_by_peer(&mut kernel, 4_000_000);
    let run = kernel.run();
    let span = only(&run);
    assert_eq!(told(span), ABANDONED);
    assert_eq!(segments(span), format!("{SENT} network:60:measured remote:999920:measured"));
    assert_eq!(int(span, "spantap.tcp.closed_after_ns"), Some(1_000_000_000));
    assert_eq!(run.connections[0].reset_by, None, "the kernel tells its own reset as if one had arrived");
    // It goes without a reset: the kernel keeps no socket for who has closed.
    let (mut kernel, client) = asked();
    client.close_whole(&mut kernel, 3_000_000);
    client.close(&mut kernel, 3_000_200);
    assert_eq!(told(only(&kernel.run())), ABANDONED);
}

#[test]
fn who_ended_its_sending_side_only_or_was_reset_before_still_waited() {
    let (mut kernel, client) = asked();
    let half = client.connection(&mut kernel, 2_000_100, what::LOCAL_CLOSED);
    kernel.emit(&half, &[]);
    client.reset_by_peer(&mut kernel, 4_000_000);
    assert_eq!(told(only(&kernel.run())), RESET);
    let (mut kernel, mut client) = asked();
    client.read_end(&mut kernel, 4_000_000);
    change(&mut kernel, |record: &mut CallRecord| (record.result, record.flags) = (-104, 0));
    client.close_whole(&mut kernel, 4_000_100);
    assert_eq!(told(only(&kernel.run())), RESET);
    // After the half close it waited for a second, and then closed.
    let (mut kernel, client) = asked();
    let half = client.connection(&mut kernel, 2_000_100, what::LOCAL_CLOSED);
    kernel.emit(&half, &[]);
    client.close_whole(&mut kernel, 3_000_000);
    assert_eq!(told(only(&kernel.run())), ABANDONED);
}

#[test]
fn an_answer_that_was_here_waited_for_its_reader() {
    let (mut kernel, client) = asked();
    let header = kernel.header(kind::ARRIVAL, 2_999_990);
    let (start, end) = (client.receive_base, client.receive_base + OK.len() as u32);
    let [first_ns, last_ns] = [2_400_000_000; 2];
    let arrival =
        ArrivalRecord { header, connection_id: client.id, first_ns, last_ns, start, end, ..Default::default() };
    kernel.emit(&arrival, &[]);
    client.close_whole(&mut kernel, 3_000_000);
    client.reset(&mut kernel, 3_000_020);
    change(&mut kernel, |record: &mut ConnectionRecord| record.flags |= connection_flag::RESET_SENT);
    let run = kernel.run();
    assert_eq!(told(only(&run)), ABANDONED);
    assert_eq!(total(only(&run), SegmentName::Remote), 399_920);
    assert_eq!(total(only(&run), SegmentName::ReceiveBuffer), 600_000);
}

#[test]
fn a_part_of_the_answer_is_none() {
    let partly = |head: &str| {
        let (mut kernel, mut client) = asked();
        let part = format!("HTTP/1.1 {head}\r\nContent-Length: 9000\r\n\r\nhi");
        client.read_at(&mut kernel, 2_500_000, part.as_bytes());
        client.close_whole(&mut kernel, 3_000_000);
        client.close(&mut kernel, 3_000_200);
        kernel.run()
    };
    let run = partly("200 OK");
    assert_eq!(told(only(&run)), ABANDONED);
    assert_eq!(total(only(&run), SegmentName::Transfer), 500_000, "{}", segments(only(&run)));
    assert_eq!(total(only(&run), SegmentName::Unexplained), 0);
    // It says an error, and who was told so need not read its page.
    assert_eq!(text(only(&partly("404 Not Found")), "error.type"), Some("404"));
}

#[test]
fn a_server_that_closed_first_cut_its_answer() {
    let (mut kernel, mut client) = asked();
    client.read_at(&mut kernel, 2_500_000, b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\nhi");
    client.peer_closes(&mut kernel, 2_600_000);
    client.close_whole(&mut kernel, 3_000_000);
    client.close(&mut kernel, 3_000_200);
    assert_ne!(text(only(&kernel.run()), "error.type"), Some("request_abandoned"));
}

#[test]
fn a_server_that_resets_within_its_answer_did_so() {
    let (mut kernel, mut server) = served();
    server.write(&mut kernel, 3_000_000, 3_000_010, b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\nhi");
    server.reset(&mut kernel, 4_000_000);
    change(&mut kernel, |record: &mut ConnectionRecord| record.flags |= connection_flag::RESET_SENT);
    let run = kernel.run();
    assert_eq!(told(only(&run)).2, Some("reset_by_local"), "{}", segments(only(&run)));
}

#[test]
fn who_leaves_a_stream_may_have_had_all_that_it_wanted() {
    for head in ["Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", "\r\nhi"] {
        let (mut kernel, mut client) = asked();
        client.read_at(&mut kernel, 2_500_000, format!("HTTP/1.1 200 OK\r\n{head}").as_bytes());
        client.close_whole(&mut kernel, 3_000_000);
        client.close(&mut kernel, 3_000_200);
        let run = kernel.run();
        assert_eq!((only(&run).status, text(only(&run), "error.type")), (Status::Unknown, None), "{head}");
        assert_eq!(text(only(&run), "spantap.tcp.closed_by"), Some("local"), "{head}");
    }
}

#[test]
fn who_takes_leave_waits_for_no_answer() {
    let (mut kernel, mut client) = open(End::client());
    client.write(&mut kernel, 2_000_000, 2_000_030, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
    client.read_at(&mut kernel, 2_100_000, b"$1\r\nb\r\n");
    client.write(&mut kernel, 2_200_000, 2_200_030, b"*1\r\n$4\r\nQUIT\r\n");
    client.close_whole(&mut kernel, 2_300_000);
    client.reset_by_peer(&mut kernel, 2_400_000);
    let run = kernel.run();
    let seen: Vec<_> = run.spans.iter().map(|span| (span.name.as_str(), span.status)).collect();
    assert_eq!(seen, [("GET", Status::Ok), ("QUIT", Status::Unknown)]);
}

#[test]
fn what_was_read_before_the_close_and_is_told_later_counts() {
    let (mut kernel, mut client) = asked();
    client.moved[1] = OK.len() as u32;
    client.close_whole(&mut kernel, 3_000_000);
    client.moved[1] = 0;
    client.read_at(&mut kernel, 2_900_000, OK);
    client.close(&mut kernel, 3_000_200);
    assert_eq!(only(&kernel.run()).status, Status::Ok);
    // And what never is told may have been the answer.
    let (mut kernel, mut client) = asked();
    client.moved[1] = OK.len() as u32;
    client.close_whole(&mut kernel, 3_000_000);
    client.close(&mut kernel, 3_000_200);
    let run = kernel.run();
    assert_eq!((only(&run).status, run.losses.get(Loss::MessageLost)), (Status::Unknown, 1));
}

#[test]
fn a_request_that_was_not_sent_whole_asked_nobody() {
    let (mut kernel, mut client) = open(End::client());
    client.write(&mut kernel, 2_000_000, 2_000_030, b"POST /a HTTP/1.1\r\nContent-Length: 9000\r\n\r\nhalf");
    client.close_whole(&mut kernel, 3_000_000);
    let run = kernel.run();
    assert_eq!(told(only(&run)), ABANDONED);
    assert_eq!(total(only(&run), SegmentName::Remote), 0);
}

#[test]
fn bytes_that_nobody_understands_need_no_answer() {
    let (mut kernel, mut client) = open(End { selected: false, ..End::client() });
    client.write(&mut kernel, 2_000_000, 2_000_030, b"x=1\n");
    client.close_whole(&mut kernel, 3_000_000);
    client.reset_by_peer(&mut kernel, 4_000_000);
    assert_eq!(told(only(&kernel.run())), (Status::Unknown, None, Some("unexplained"), None, None, 1_000));
}

#[test]
fn requests_of_every_protocol_are_given_up_alike() {
    let (mut kernel, mut client) = open(End::client());
    client.write(&mut kernel, 2_000_000, 2_000_030, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
    client.acked(&mut kernel, 2_000_080, 20, [2_000_000, 2_000_020, 2_000_080], 0);
    client.close_whole(&mut kernel, 3_000_000);
    client.reset_by_peer(&mut kernel, 4_000_000);
    let run = kernel.run();
    assert_eq!(told(only(&run)), ABANDONED);
    assert_eq!(total(only(&run), SegmentName::Remote), 999_920);
}

/// A server that read a request, at 2 s.
fn served() -> (Kernel, End) {
    let (mut kernel, mut server) = open(End::server());
    server.read_at(&mut kernel, 2_000_010, GET);
    (kernel, server)
}

#[test]
fn a_server_whose_client_had_closed_was_not_reset() {
    // The answer was begun, and provoked a reset.
    let (mut kernel, mut server) = served();
    server.peer_closes(&mut kernel, 3_000_000);
    server.write(&mut kernel, 3_500_000, 3_500_010, &OK[..OK.len() - 1]);
    server.reset_by_peer(&mut kernel, 4_000_000);
    let run = kernel.run();
    let span = only(&run);
    assert_eq!(told(span), (GONE.0, GONE.1, GONE.2, GONE.3, GONE.4, 1_500));
    assert_eq!(int(span, "spantap.tcp.closed_after_ns"), Some(1_000_000_000));
    // None was, and it closed: the client may have ended its sending side only, and waited.
    let (mut kernel, server) = served();
    server.peer_closes(&mut kernel, 3_000_000);
    server.close(&mut kernel, 4_000_000);
    let run = kernel.run();
    let span = only(&run);
    assert_eq!((span.status, text(span, "error.type"), span.duration_ns), (Status::Unknown, None, 2_000_000_000));
    assert_eq!(text(span, "spantap.tcp.closed_by"), Some("peer"), "which is what was seen");
    assert_eq!(int(span, "spantap.tcp.closed_after_ns"), Some(1_000_000_000));
    // Without a close of the client it is a reset.
    let (mut kernel, server) = served();
    server.reset_by_peer(&mut kernel, 4_000_000);
    assert_eq!(told(only(&kernel.run())), RESET);
    // A server that resets did so.
    let (mut kernel, server) = served();
    server.peer_closes(&mut kernel, 3_000_000);
    server.reset(&mut kernel, 4_000_000);
    change(&mut kernel, |record: &mut ConnectionRecord| record.flags |= connection_flag::RESET_SENT);
    assert_eq!(told(only(&kernel.run())).2, Some("reset_by_local"));
}

#[test]
fn a_server_that_closes_before_the_whole_answer_left_its_client() {
    const LEFT: Told<'static> =
        (Status::Error, Some("connection_closed"), Some("closed_by_local"), None, Some("local"), 1_000);
    // What comes of it is told much later, or never.
    let closes = |answer: &[u8]| {
        let (mut kernel, mut server) = served();
        if !answer.is_empty() {
            server.write(&mut kernel, 2_500_000, 2_500_010, answer);
        }
        server.close_whole(&mut kernel, 3_000_000);
        kernel.run()
    };
    let run = closes(b"");
    assert_eq!(told(only(&run)), LEFT);
    assert_eq!(int(only(&run), "spantap.tcp.closed_after_ns"), Some(1_000_000_000));
    for head in ["Content-Length: 9000\r\n\r\nhi", "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"] {
        assert_eq!(told(only(&closes(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()))), LEFT, "{head}");
    }
    for whole in ["HTTP/1.1 200 OK\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"] {
        assert_eq!(only(&closes(whole.as_bytes())).status, Status::Ok, "{whole}");
    }
    // It closed with a reset, which is told just after.
    let (mut kernel, server) = served();
    server.close_whole(&mut kernel, 3_000_000);
    server.reset(&mut kernel, 3_000_020);
    change(&mut kernel, |record: &mut ConnectionRecord| record.flags |= connection_flag::RESET_SENT);
    assert_eq!(told(only(&kernel.run())).2, Some("reset_by_local"));
    // What it had written, and is not told, may have been the answer.
    let (mut kernel, mut server) = served();
    server.moved[0] = OK.len() as u32;
    server.close_whole(&mut kernel, 3_000_000);
    let run = kernel.run();
    assert_eq!((only(&run).status, text(only(&run), "error.type")), (Status::Unknown, None));
    assert_eq!(run.losses.get(Loss::MessageLost), 1);
}

#[test]
fn what_a_close_provokes_ends_nothing() {
    const WHOLE: &[u8] = b"HTTP/1.0 200 OK\r\n\r\nhi";
    let closes = |answer: &[u8], local: bool| {
        let (mut kernel, mut server) = served();
        if !answer.is_empty() {
            server.write(&mut kernel, 2_500_000, 2_500_010, answer);
        }
        server.close_whole(&mut kernel, 3_000_000);
        if local {
            server.reset(&mut kernel, 3_000_020);
            change(&mut kernel, |record: &mut ConnectionRecord| record.flags |= connection_flag::RESET_SENT);
        } else {
            server.reset_by_peer(&mut kernel, 3_000_020);
        }
        kernel.run()
    };
    // An answer that ends with the connection, whose server had not read everything, or whose client sent more.
    for local in [false, true] {
        assert_eq!(only(&closes(WHOLE, local)).status, Status::Ok, "{local}");
    }
    assert_eq!(told(only(&closes(b"", false))).2, Some("closed_by_local"));
    assert_eq!(
        told(only(&closes(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\nhi", false))).2,
        Some("closed_by_local")
    );
}

#[test]
fn a_server_owes_no_answer_to_what_was_not_whole_or_came_behind() {
    // Two requests in one read, and only the first is answered.
    let (mut kernel, mut server) = open(End::server());
    server.read_at(&mut kernel, 2_000_010, &[GET, GET].concat());
    let close = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
    server.write(&mut kernel, 2_500_000, 2_500_010, close);
    server.close_whole(&mut kernel, 3_000_000);
    let seen: Vec<_> = kernel.run().spans.iter().map(|span| span.status).collect();
    assert_eq!(seen, [Status::Ok, Status::Unknown]);
    // One that came after the answer is owed one.
    let (mut kernel, mut server) = served();
    server.write(&mut kernel, 2_500_000, 2_500_010, OK);
    server.read_at(&mut kernel, 2_600_010, GET);
    server.close_whole(&mut kernel, 3_000_000);
    let seen: Vec<_> = kernel.run().spans.iter().map(|span| span.status).collect();
    assert_eq!(seen, [Status::Ok, Status::Error]);
    // A client that is slow to send all of it.
    let (mut kernel, mut server) = open(End::server());
    server.read_at(&mut kernel, 2_000_010, b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\nhalf");
    server.close_whole(&mut kernel, 62_000_000);
    let run = kernel.run();
    assert_eq!((only(&run).status, text(only(&run), "spantap.tcp.closed_by")), (Status::Unknown, Some("local")));
    // Of a connection that was joined late its answer may be what was not seen.
    let (mut kernel, mut server) = (Kernel::default(), End { moved: [5000, 3000], ..End::server() });
    server.find(&mut kernel, 1_000_000);
    server.read_at(&mut kernel, 2_000_010, GET);
    server.moved[0] += OK.len() as u32;
    server.close_whole(&mut kernel, 3_000_000);
    assert_eq!(only(&kernel.run()).status, Status::Unknown);
    // Redis goes when it is told to.
    let (mut kernel, mut server) = open(End::server());
    server.read_at(&mut kernel, 2_000_010, b"*1\r\n$4\r\nPING\r\n");
    server.write(&mut kernel, 2_100_000, 2_100_010, b"+PONG\r\n");
    server.read_at(&mut kernel, 2_200_010, b"*1\r\n$8\r\nSHUTDOWN\r\n");
    server.close_whole(&mut kernel, 3_000_000);
    let seen: Vec<_> = kernel.run().spans.iter().map(|span| (span.name.to_string(), span.status)).collect();
    assert_eq!(seen, [("PING".to_owned(), Status::Ok), ("SHUTDOWN".to_owned(), Status::Unknown)]);
}

#[test]
fn a_server_that_ends_its_sending_side_within_an_answer_cut_it() {
    let (mut kernel, mut server) = served();
    server.write(&mut kernel, 2_500_000, 2_500_010, b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\nhi");
    let half = server.connection(&mut kernel, 2_600_000, what::LOCAL_CLOSED);
    kernel.emit(&half, &[]);
    server.close_whole(&mut kernel, 3_100_000);
    let run = kernel.run();
    let told = told(only(&run));
    assert_eq!(
        (told.1, told.2, told.4, told.5),
        (Some("connection_closed"), Some("closed_by_local"), Some("local"), 600)
    );
}

#[test]
fn a_server_that_gave_no_answer_slept_nevertheless() {
    // It slept for 900 ms, and its write fails.
    let (mut kernel, mut server) = served();
    server.slept[Blocked::Sleep as usize] += 900_000;
    server.write(&mut kernel, 3_000_000, 3_000_010, b"");
    change(&mut kernel, |record: &mut CallRecord| record.result = -104);
    let run = kernel.run();
    assert_eq!(text(only(&run), "spantap.tcp.reset_by"), Some("peer"));
    let expected =
        "receive_buffer:10:measured application:99990:derived off_cpu/sleep:900000:derived application:10:derived";
    assert_eq!(segments(only(&run)), expected);
    // The client had closed after 400 ms: of the sleep, 600 ms may have been later.
    let (mut kernel, mut server) = served();
    server.peer_closes(&mut kernel, 2_400_000);
    server.slept[Blocked::Sleep as usize] += 900_000;
    server.read_end(&mut kernel, 3_000_001);
    server.reset_by_peer(&mut kernel, 3_000_100);
    let run = kernel.run();
    assert_eq!((only(&run).cause, only(&run).duration_ns), (Some("client_gone"), 400_000_000));
    let expected = "receive_buffer:10:measured application:99990:derived off_cpu/sleep:300000:derived";
    assert_eq!(segments(only(&run)), expected);
}

#[test]
fn a_whole_answer_keeps_its_outcome_and_says_if_nobody_was_there() {
    let answered = |acked: bool| {
        let (mut kernel, mut server) = served();
        server.peer_closes(&mut kernel, 2_100_000);
        server.write(&mut kernel, 2_500_000, 2_500_010, OK);
        server.acked(&mut kernel, 2_500_100, OK.len() as u32, [2_500_000, 2_500_005, 2_500_100], 0);
        change(&mut kernel, |record: &mut SendRecord| {
            if !acked {
                (record.acked_ns, record.flags) = (0, flag::DESTROYED);
            }
        });
        server.reset_by_peer(&mut kernel, 2_500_110);
        kernel.run()
    };
    assert_eq!(
        (only(&answered(true)).status, text(only(&answered(true)), "spantap.tcp.closed_by")),
        (Status::Ok, None)
    );
    let run = answered(false);
    assert_eq!((only(&run).status, text(only(&run), "spantap.tcp.closed_by")), (Status::Ok, Some("peer")));
    assert_eq!(int(only(&run), "spantap.tcp.closed_after_ns"), Some(100_000_000));
}
