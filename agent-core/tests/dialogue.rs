//! Exchanges of protocols whose parsers read both directions: pairing in order, losses, ends.

use agent_core::{
    config::PipelineConfig,
    loss::Loss,
    span::{Protocol, SpanKind, Status, Value},
    testing::{End, Kernel, Random, Run, attribute, segments},
};

const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
const OK: &[u8] = b"+OK\r\n";
const VALUE: &[u8] = b"$1\r\nv\r\n";

/// Name, kind, duration in microseconds and status of each span.
fn told(run: &Run) -> Vec<(&str, SpanKind, u64, Status)> {
    run.spans
        .iter()
        .map(|span| {
            segments(span);
            (span.name.as_str(), span.kind, span.duration_ns / 1000, span.status)
        })
        .collect()
}

fn open(end: End) -> (Kernel, End) {
    let (mut kernel, end) = (Kernel::default(), end);
    end.open(&mut kernel, 1_000_000);
    (kernel, end)
}

#[test]
fn a_client_asks_one_after_the_other() {
    let (mut kernel, mut client) = open(End::client());
    for (at, command, reply) in [(2_000_000, SET, OK), (2_010_000, GET, VALUE)] {
        client.write(&mut kernel, at, at + 20, command);
        client.read_at(&mut kernel, at + 500, reply);
    }
    let run = kernel.run();
    let expected = [("SET", SpanKind::Client, 500, Status::Ok), ("GET", SpanKind::Client, 500, Status::Ok)];
    assert_eq!(told(&run), expected);
    assert_eq!(run.spans[0].protocol, Protocol::Redis);
    assert_eq!(attribute(&run.spans[0], "db.system.name"), Some(&Value::String("redis".into())));
    assert!(run.losses.is_empty(), "{:?}", run.losses);
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let (mut kernel, mut client) = open(End::client());
    client.write(&mut kernel, 2_000_000, 2_000_020, &[SET, GET, GET].concat());
    client.read_at(&mut kernel, 2_000_300, &[OK, VALUE].concat());
    client.read_at(&mut kernel, 2_000_500, b"-WRONGTYPE no\r\n");
    let run = kernel.run();
    let expected = [
        ("SET", SpanKind::Client, 300, Status::Ok),
        ("GET", SpanKind::Client, 300, Status::Ok),
        ("GET", SpanKind::Client, 500, Status::Error),
    ];
    assert_eq!(told(&run), expected);
    assert_eq!(attribute(&run.spans[2], "error.type"), Some(&Value::String("WRONGTYPE".into())));
}

#[test]
fn both_ends_share_a_trace() {
    let (mut kernel, mut client) = open(End::client());
    let mut server = End::server();
    server.open(&mut kernel, 1_000_010);
    client.write(&mut kernel, 2_000_000, 2_000_020, SET);
    server.read_at(&mut kernel, 2_000_100, SET);
    server.write(&mut kernel, 2_000_200, 2_000_220, OK);
    client.read_at(&mut kernel, 2_000_320, OK);
    let run = kernel.run();
    assert_eq!(run.spans.len(), 2, "{:?}", run.losses);
    let of = |kind| run.spans.iter().find(|span| span.kind == kind).expect("a span of this kind");
    let (client, server) = (of(SpanKind::Client), of(SpanKind::Server));
    assert_eq!((server.trace_id, server.parent_span_id), (client.trace_id, Some(client.span_id)));
}

#[test]
fn an_answer_whose_record_comes_before_its_requests_is_no_loss() {
    let (mut kernel, mut client) = open(End::client());
    // Another thread has the answer before the write has returned.
    client.read_at(&mut kernel, 2_000_300, OK);
    client.write(&mut kernel, 2_000_000, 2_000_310, SET);
    let run = kernel.run();
    assert_eq!(told(&run), [("SET", SpanKind::Client, 300, Status::Ok)]);
    assert!(run.losses.is_empty(), "{:?}", run.losses);
}

#[test]
fn a_lost_answer_is_not_taken_from_the_next_request() {
    let (mut kernel, mut client) = open(End::client());
    client.write(&mut kernel, 2_000_000, 2_000_020, SET);
    client.read_at(&mut kernel, 2_000_500, OK);
    kernel.lose();
    for at in [2_010_000, 2_050_000, 2_090_000] {
        client.write(&mut kernel, at, at + 20, GET);
        client.read_at(&mut kernel, at + 700, VALUE);
    }
    let run = kernel.run();
    let told = told(&run);
    assert_eq!(told.last(), Some(&("GET", SpanKind::Client, 700, Status::Ok)), "{:?}", run.losses);
    // Whatever is known of those before, none has the other's answer.
    assert!(told.iter().all(|span| span.3 == Status::Unknown || (span.0, span.2) == ("GET", 700)), "{told:?}");
    assert!(run.losses.get(Loss::MessageLost) > 0 && run.losses.get(Loss::StreamHole) > 0, "{:?}", run.losses);
}

#[test]
fn a_reset_ends_what_waits() {
    let (mut kernel, mut client) = open(End::client());
    client.write(&mut kernel, 2_000_000, 2_000_020, GET);
    client.reset(&mut kernel, 2_003_000);
    let run = kernel.run();
    assert_eq!(told(&run), [("GET", SpanKind::Client, 3_000, Status::Error)]);
    assert_eq!(attribute(&run.spans[0], "error.type"), Some(&Value::String("connection_reset".into())));
}

#[test]
fn a_connection_that_was_joined_late_shows_what_it_is() {
    let (mut kernel, mut server) = (Kernel::default(), End::server());
    server.find(&mut kernel, 1_000_000);
    server.write(&mut kernel, 1_900_000, 1_900_010, b"rest of something");
    server.read_at(&mut kernel, 2_000_000, GET);
    server.write(&mut kernel, 2_000_400, 2_000_420, VALUE);
    let run = kernel.run();
    let last = run.spans.last().expect("a span");
    assert_eq!((last.name.as_str(), last.kind, last.status), ("GET", SpanKind::Server, Status::Ok));
}

#[test]
fn timings_of_what_is_over_are_forgotten() {
    let (mut kernel, mut client) = open(End::client());
    for at in (0..10_000_u64).map(|index| 2_000_000 + index * 1_000) {
        client.write(&mut kernel, at, at + 20, GET);
        client.read_at(&mut kernel, at + 500, VALUE);
    }
    let run = kernel.run();
    assert_eq!(run.spans.len(), 10_000);
    assert!(run.losses.is_empty(), "{:?}", run.losses);
}

/// `SET` and `GET` at once, answered after 300 and 400 us; without the record of the first answer if that is `lost`.
fn pipeline(kernel: &mut Kernel, client: &mut End, at: u64, lost: bool) {
    client.write(kernel, at, at + 20, &[SET, GET].concat());
    client.read_at(kernel, at + 300, OK);
    if lost {
        kernel.lose();
    }
    client.read_at(kernel, at + 400, VALUE);
}

/// What [`told`] says of a [`pipeline`] whose outcome is known, `count` times.
fn known(count: usize) -> Vec<(&'static str, SpanKind, u64, Status)> {
    [("SET", SpanKind::Client, 300, Status::Ok), ("GET", SpanKind::Client, 400, Status::Ok)].repeat(count)
}

/// [`told`], without what has an unknown outcome.
fn told_known(run: &Run) -> Vec<(&str, SpanKind, u64, Status)> {
    told(run).into_iter().filter(|span| span.3 != Status::Unknown).collect()
}

/// A record that has nothing to do with the connection: what was due before it is done.
fn time_goes_on(kernel: &mut Kernel, at: u64) {
    End { id: at, ..End::server() }.open(kernel, at);
}

#[test]
fn a_pipeline_in_which_an_answer_was_lost_is_in_doubt() {
    let (mut kernel, mut client) = open(End::client());
    pipeline(&mut kernel, &mut client, 2_000_000, false);
    pipeline(&mut kernel, &mut client, 2_010_000, true);
    time_goes_on(&mut kernel, 2_500_000);
    pipeline(&mut kernel, &mut client, 4_000_000, false);
    let run = kernel.run();
    assert_eq!(told_known(&run), known(2), "{:?}", run.losses);
    assert_eq!((run.spans.len(), run.losses.get(Loss::PairingLost)), (6, 2), "{:?}", run.losses);
}

#[test]
fn what_was_asked_while_order_was_in_doubt_takes_no_later_answer() {
    let (mut kernel, mut client) = open(End::client());
    pipeline(&mut kernel, &mut client, 2_000_000, false);
    pipeline(&mut kernel, &mut client, 2_010_000, true);
    time_goes_on(&mut kernel, 2_500_000);
    pipeline(&mut kernel, &mut client, 2_600_000, false);
    time_goes_on(&mut kernel, 3_000_000);
    for at in [5_000_000, 5_010_000] {
        pipeline(&mut kernel, &mut client, at, false);
    }
    let run = kernel.run();
    assert_eq!(told_known(&run), known(3), "{:?}", run.losses);
    assert_eq!((run.spans.len(), run.losses.get(Loss::PairingLost)), (10, 4), "{:?}", run.losses);
}

#[test]
fn a_steady_pipeline_is_told_again_after_a_loss() {
    let (mut kernel, mut client) = open(End::client());
    for index in 0..100 {
        pipeline(&mut kernel, &mut client, 2_000_000 + index * 1_000, index == 40);
    }
    let run = kernel.run();
    let (known_spans, lost) = (told_known(&run), run.losses.get(Loss::PairingLost));
    assert_eq!((known_spans.len() as u64 + lost, run.spans.len()), (200, 200), "{:?}", run.losses);
    // What waited while the lost bytes might still have come, and two batches.
    assert!((2..=50).contains(&lost), "{:?}", run.losses);
    assert!(known_spans.chunks(2).all(|pair| pair == known(1)), "{known_spans:?}");
}

#[test]
fn a_pipeline_that_always_waits_is_not_told_again_before_it_is_silent() {
    let (mut kernel, mut client) = open(End::client());
    let mut burst = |kernel: &mut Kernel, at: u64, lost: Option<u64>| {
        client.write(kernel, at, at + 20, GET);
        for index in 1..=60 {
            let at = at + index * 1_000;
            client.write(kernel, at, at + 20, GET);
            client.read_at(kernel, at + 500, VALUE);
            if lost == Some(index) {
                kernel.lose();
            }
        }
        client.read_at(kernel, at + 60_900, VALUE);
    };
    burst(&mut kernel, 2_000_000, Some(30));
    time_goes_on(&mut kernel, 2_500_000);
    burst(&mut kernel, 4_000_000, None);
    let run = kernel.run();
    let told_known = told_known(&run);
    assert_eq!((told_known.len(), run.spans.len()), (29 + 61, 122), "{:?}", run.losses);
    assert!(told_known.iter().all(|span| [1_500, 900].contains(&span.2)), "{told_known:?}");
}

#[test]
fn a_message_that_tells_of_an_error_is_one_to_the_client() {
    let (mut kernel, mut client) = open(End::client());
    client.read_at(&mut kernel, 2_000_000, b"INFO {\"server_id\":\"N\"}\r\n");
    client.write(&mut kernel, 2_000_100, 2_000_120, b"PUB a.b 1\r\nx\r\n");
    client.read_at(&mut kernel, 2_000_500, b"-ERR 'Permissions Violation for Publish to \"a.b\"'\r\n");
    let run = kernel.run();
    let told: Vec<_> = run.spans.iter().map(|span| (span.name.as_str(), span.kind, span.status)).collect();
    let expected = [("publish a.b", SpanKind::Producer, Status::Ok), ("error", SpanKind::Consumer, Status::Error)];
    assert_eq!(told, expected, "{:?}", run.losses);
    let error_type = Value::String("permissions_violation_publish".into());
    assert_eq!(attribute(&run.spans[1], "error.type"), Some(&error_type));
}

/// A request of MongoDB with the number 7, and its answer.
fn find(collection: &str) -> Vec<u8> {
    let text = |key: &str, value: &str| {
        let length = value.len() as u32 + 1;
        [&[0x02][..], key.as_bytes(), &[0], &length.to_le_bytes(), value.as_bytes(), &[0]].concat()
    };
    message(7, 0, &[text("find", collection), text("$db", "d")].concat())
}

fn found() -> Vec<u8> {
    message(8, 7, &[&b"\x01ok\0"[..], &1_f64.to_le_bytes()].concat())
}

fn message(id: u32, answers: u32, elements: &[u8]) -> Vec<u8> {
    const OP_MSG: u32 = 2013;
    let document = [&(elements.len() as u32 + 5).to_le_bytes()[..], elements, &[0]].concat();
    let body = [&[0; 5][..], &document].concat();
    let header = [body.len() as u32 + 16, id, answers, OP_MSG].map(u32::to_le_bytes);
    [header.as_flattened(), &body].concat()
}

#[test]
fn an_answer_goes_to_the_last_request_with_its_number() {
    let (mut kernel, mut client) = open(End::client());
    for (at, lost) in [(2_000_000, false), (2_100_000, true), (2_200_000, false), (2_300_000, false)] {
        client.write(&mut kernel, at, at + 20, &find("t"));
        client.read_at(&mut kernel, at + 700, &found());
        if lost {
            kernel.lose();
        }
    }
    let run = kernel.run();
    let of = |us, status| ("find t", SpanKind::Client, us, status);
    let expected = [of(700, Status::Ok), of(20, Status::Unknown), of(700, Status::Ok), of(700, Status::Ok)];
    assert_eq!((&told(&run)[..], run.losses.get(Loss::MessageLost)), (&expected[..], 1), "{:?}", run.losses);
}

#[test]
fn an_answer_whose_record_comes_after_the_next_request_with_its_number_is_not_that_ones() {
    let (mut kernel, mut server) = (Kernel::default(), End::server());
    server.open(&mut kernel, 1_000_000);
    server.read_at(&mut kernel, 2_000_000, &find("t"));
    server.read_at(&mut kernel, 2_000_400, &find("u"));
    // The thread that answered was off its CPU before its call returned.
    server.write(&mut kernel, 2_000_200, 2_000_500, &found());
    server.write(&mut kernel, 2_000_600, 2_000_620, &found());
    let run = kernel.run();
    let names: Vec<_> = told(&run).into_iter().map(|span| (span.0, span.1, span.3)).collect();
    let expected = ["find t", "find u"].map(|name| (name, SpanKind::Server, Status::Ok));
    assert_eq!(names, expected, "{:?}", run.losses);
    assert!(run.losses.is_empty(), "{:?}", run.losses);
}

#[test]
fn a_delivery_has_the_address_of_the_brokers_client_at_the_broker_only() {
    const INFO: &[u8] = b"INFO {\"server_id\":\"N\"}\r\n";
    const MESSAGE: &[u8] = b"MSG a.b 1 1\r\nx\r\n";
    let (mut kernel, mut client) = open(End::client());
    let mut server = End::server();
    server.open(&mut kernel, 1_000_010);
    server.write(&mut kernel, 2_000_000, 2_000_010, INFO);
    client.read_at(&mut kernel, 2_000_100, INFO);
    server.write(&mut kernel, 2_001_000, 2_001_010, MESSAGE);
    client.read_at(&mut kernel, 2_001_100, MESSAGE);
    let run = kernel.run();
    let mut told: Vec<_> = run
        .spans
        .iter()
        .map(|span| {
            let number = |key| attribute(span, key).cloned();
            (span.kind, number("client.port"), number("server.port"), span.peer.port())
        })
        .collect();
    told.sort_by_key(|span| span.0 == SpanKind::Consumer);
    let (client, server) = (Some(Value::Int(40_000)), Some(Value::Int(80)));
    let at_broker = (SpanKind::Producer, client, server.clone(), Some(40_000));
    assert_eq!(told, [at_broker, (SpanKind::Consumer, None, server, Some(80))], "{:?}", run.losses);
}

#[test]
fn a_request_that_nobody_answers_is_one_to_both_ends() {
    let (mut kernel, mut client) = open(End::client());
    let mut server = End::server();
    server.open(&mut kernel, 1_000_010);
    let request = b"set k 0 0 1 noreply\r\nv\r\n";
    client.write(&mut kernel, 2_000_000, 2_000_020, request);
    server.read_at(&mut kernel, 2_000_100, request);
    let run = kernel.run();
    let of = |kind| run.spans.iter().find(|span| span.kind == kind);
    let (client, server) = (of(SpanKind::Client).expect("a client's"), of(SpanKind::Server).expect("a server's"));
    assert_eq!((run.spans.len(), client.protocol, client.status), (2, Protocol::Memcached, Status::Ok));
    assert_eq!(server.parent_span_id, Some(client.span_id));
}

#[test]
fn what_is_given_up_for_room_takes_its_answer_with_it() {
    let (mut kernel, mut client) = open(End::client());
    client.write(&mut kernel, 2_000_000, 2_000_020, &GET.repeat(12));
    for index in 1..=12 {
        client.read_at(&mut kernel, 2_000_000 + index * 100, VALUE);
    }
    let run = kernel.run_with(PipelineConfig { pending_exchanges_max: 8, ..PipelineConfig::default() });
    let durations: Vec<_> = told_known(&run).iter().map(|span| span.2).collect();
    assert_eq!(durations, [500, 600, 700, 800, 900, 1_000, 1_100, 1_200], "{:?}", run.losses);
    assert_eq!((run.spans.len(), run.losses.get(Loss::ExchangeOverflow)), (12, 4), "{:?}", run.losses);
}

/// A simple query of PostgreSQL, and its answer.
fn query(text: &str) -> Vec<u8> {
    [b"Q", &(text.len() as u32 + 5).to_be_bytes()[..], text.as_bytes(), b"\0"].concat()
}

const QUERIED: &[u8] = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";

#[test]
fn text_that_waits_is_bounded() {
    let ask = |bytes_max: usize| {
        let (mut kernel, mut client) = open(End::client());
        client.write(&mut kernel, 2_000_000, 2_000_020, &query("SELECT warm FROM up"));
        client.read_at(&mut kernel, 2_000_500, QUERIED);
        for index in 0..6 {
            let text = format!("SELECT {} FROM t{index}", "column, ".repeat(20));
            client.write(&mut kernel, 2_010_000 + index, 2_010_020 + index, &query(&text));
        }
        for index in 0..6 {
            client.read_at(&mut kernel, 2_020_000 + index * 100, QUERIED);
        }
        kernel.run_with(PipelineConfig { pending_text_bytes_max: bytes_max, ..PipelineConfig::default() })
    };
    let check = |bytes_max: usize, with_text: usize, known: usize| {
        let run = ask(bytes_max);
        let has_text = |span: &&agent_core::span::Span| attribute(span, "db.query.text").is_some();
        let count = (run.spans.iter().filter(has_text).count(), told_known(&run).len(), run.spans.len());
        assert_eq!(count, (with_text, known, 7), "{bytes_max}: {:?}", run.losses);
        let lost = 7 - with_text + 7 - known;
        assert_eq!(run.losses.get(Loss::ExchangeOverflow), lost as u64, "{bytes_max}: {:?}", run.losses);
    };
    check(64 * 1024, 7, 7);
    check(600, 3, 7);
    check(45, 1, 3);
}

const DEL: &[u8] = b"*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n";
const ONE: &[u8] = b":1\r\n";

/// Both ends of a connection with batches of so many commands, answered after 300, 400 and 500 us.
fn batches(sizes: impl IntoIterator<Item = usize>, every: u64) -> Kernel {
    let (mut kernel, mut client) = open(End::client());
    let mut server = End::server();
    server.open(&mut kernel, 1_000_010);
    let commands = [(SET, OK, 300), (GET, VALUE, 400), (DEL, ONE, 500)];
    for (at, size) in (0..).map(|index| 2_000_000 + index * every).zip(sizes) {
        let request: Vec<_> = commands[..size].iter().flat_map(|command| command.0).copied().collect();
        client.write(&mut kernel, at, at + 20, &request);
        server.read_at(&mut kernel, at + 100, &request);
        for (_, answer, after) in &commands[..size] {
            server.write(&mut kernel, at + after - 100, at + after - 90, answer);
            client.read_at(&mut kernel, at + after, answer);
        }
    }
    kernel
}

#[test]
fn no_span_has_anothers_answer_whatever_is_lost() {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let mut told = 0;
    for round in 0..150 {
        let size = |index: usize| [3, 1, 1 + index * 7 % 3, 1 + 2 * (index / 30), 1 + index % 2][round % 5];
        let mut kernel = batches((0..60).map(size), [1_000, 5_000, 30_000][round % 3]);
        for _ in 0..=random.below(4) {
            // Not of what opens the connection.
            let place = 2 + random.below(kernel.records.len() - 2);
            kernel.records.remove(place);
        }
        let run = kernel.run();
        for span in run.spans.iter().filter(|span| span.status == Status::Ok) {
            let is_client = span.kind == SpanKind::Client;
            let expected = match (span.name.as_str(), is_client) {
                ("SET", true) => 300,
                ("GET", true) => 400,
                ("DEL", true) => 500,
                ("SET", false) => 120,
                ("GET", false) => 220,
                _ => 320,
            };
            assert_eq!(span.duration_ns / 1_000, expected, "{round}: {:?}", run.losses);
            told += 1;
        }
    }
    assert!(told > 20_000, "{told}");
}

#[test]
fn more_of_each_call_is_asked_for_once_where_a_message_began_in_what_was_cut() {
    let of = |replies: &[&[u8]]| {
        let (mut kernel, mut client) = open(End::client());
        client.write(&mut kernel, 2_000_000, 2_000_020, &GET.repeat(replies.len()));
        for (at, reply) in replies.iter().enumerate() {
            client.read_at(&mut kernel, 2_000_300 + at as u64 * 100, reply);
        }
        kernel.run().whole
    };
    assert_eq!(of(&[VALUE]), [(0_u64, 0_u32); 0]);
    // One message is as long as it says, whatever of it is cut.
    let long = [b"$2000\r\n".as_slice(), &[b'v'; 2000], b"\r\n"].concat();
    assert_eq!(of(&[&long]), [(0_u64, 0_u32); 0]);
    let many = VALUE.repeat(500);
    assert_eq!(of(&[&many, VALUE, &many]).len(), 1);
}

#[test]
fn more_of_each_call_is_asked_for_where_a_protocol_packs_messages() {
    let (mut kernel, mut client) = open(End::client());
    client.write(&mut kernel, 2_000_000, 2_000_020, b"AMQP\x00\x00\x09\x01");
    assert_eq!(kernel.run().whole.len(), 1);
}

/// A frame of HTTP/2 on stream 1.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

#[test]
fn an_answer_whose_end_may_be_in_what_was_cut_did_not_fail_by_the_reset_behind_it() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let with = |last: &[u8]| {
        let (mut kernel, mut client) = open(End::client());
        client.write(&mut kernel, 2_000_000, 2_000_020, &[PREFACE, &frame(1, 5, b"\x82\x86\x84\x41\x01a")].concat());
        let answer = [frame(1, 4, b"\x88"), frame(0, 0, &[b'x'; 900]), last.to_vec()].concat();
        client.read_at(&mut kernel, 2_000_300, &answer);
        client.reset(&mut kernel, 2_001_000);
        let run = kernel.run();
        (run.spans[0].status, run.losses.get(Loss::MessageLost))
    };
    assert_eq!(with(&frame(0, 0, b"")), (Status::Error, 0));
    // The last frame's header lies behind what was captured.
    let behind = [frame(0, 0, &[b'x'; 500]), frame(0, 0, &[b'x'; 200])].concat();
    assert_eq!(with(&behind), (Status::Unknown, 1));
}
