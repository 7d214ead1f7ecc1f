//! Whole exchanges: records in, spans out.

use agent_common::message::flag;
use agent_core::{
    loss::Loss,
    pipeline::PipelineConfig,
    redact::{PathPolicy, RedactConfig},
    span::{Evidence, Protocol, SegmentName, SpanKind, Status, Value},
    testing::{End, Kernel, Read, Run, attribute, segments, total},
};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// A client's exchange of 900 us: 20 us in the call, acknowledged after 60 us, answered after 500 us.
fn exchange(kernel: &mut Kernel, client: &mut End, at: u64, request: &[u8], response: &[u8]) {
    client.write(kernel, at, at + 30, request);
    client.acked(kernel, at + 80, request.len() as u32, [at, at + 20, at + 80], 0);
    let read = Read {
        enter: at + 40,
        arrived: (at + 500, at + 600),
        woken: at + 610,
        running: at + 850,
        returned: at + 900,
        ..Read::default()
    };
    client.read(kernel, read, response);
}

/// A server's exchange of 1,000 us: 300 us in the application.
fn serve(kernel: &mut Kernel, server: &mut End, at: u64, request: &[u8], response: &[u8]) {
    let read = Read {
        enter: at,
        arrived: (at, at + 20),
        woken: at + 30,
        running: at + 50,
        returned: at + 60,
        ..Read::default()
    };
    server.read(kernel, read, request);
    server.write(kernel, at + 360, at + 1000, response);
}

fn client() -> (Kernel, End) {
    let (mut kernel, client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    (kernel, client)
}

fn server() -> (Kernel, End) {
    let (mut kernel, server) = (Kernel::default(), End::server());
    server.open(&mut kernel, 1_000_000);
    (kernel, server)
}

/// What comes of what one end does on a new connection.
fn of(end: End, act: impl FnOnce(&mut Kernel, &mut End)) -> Run {
    let (mut kernel, mut end) = (Kernel::default(), end);
    end.open(&mut kernel, 1_000_000);
    act(&mut kernel, &mut end);
    kernel.run()
}

/// `name status code` of each span, in order; nothing may be left for the shutdown.
fn check(run: &Run, expected: &[&str]) {
    assert!(run.flushed.is_empty(), "{:#?}", run.flushed);
    let said: Vec<_> = run.spans.iter().map(summary).collect();
    assert_eq!(said, expected, "{:#?}", run.losses);
    run.spans.iter().for_each(|span| drop(segments(span)));
}

fn summary(span: &agent_core::span::Span) -> String {
    let code = match attribute(span, "http.response.status_code") {
        Some(Value::Int(code)) => format!(" {code}"),
        _ => String::new(),
    };
    let error = match attribute(span, "error.type") {
        Some(Value::String(error)) => format!(" {error}"),
        _ => String::new(),
    };
    format!("{} {}{code}{error}", span.name, span.status.name())
}

#[test]
fn a_clients_exchange_is_decomposed() {
    let run = of(End::client(), |kernel, client| {
        exchange(kernel, client, 2_000_000, GET, OK);
    });
    check(&run, &["GET /a ok 200"]);
    let span = &run.spans[0];
    assert_eq!(
        (span.kind, span.protocol, span.start.0, span.duration_ns),
        (SpanKind::Client, Protocol::Http1, 2_000_000_000, 900_000)
    );
    assert_eq!(
        segments(span),
        "send:10:measured held:5:measured queue:5:measured network:60:measured remote:420:measured transfer:100:measured \
         wakeup:10:measured run_queue:240:measured receive_buffer:50:measured"
    );
    assert!(run.losses.is_empty(), "{:?}", run.losses);
}

#[test]
fn a_servers_exchange_is_decomposed() {
    let run = of(End::server(), |kernel, server| {
        serve(kernel, server, 2_000_000, GET, OK);
    });
    check(&run, &["GET /a ok 200"]);
    assert_eq!(
        segments(&run.spans[0]),
        "transfer:20:measured wakeup:10:measured run_queue:20:measured receive_buffer:10:measured \
         application:300:measured send:640:measured"
    );
}

#[test]
fn waiting_for_a_cpu_within_the_application_is_run_queue() {
    let (mut kernel, mut server) = server();
    server.read_at(&mut kernel, 2_000_000, GET);
    server.queued += 7_000;
    server.write(&mut kernel, 2_010_000, 2_010_010, OK);
    assert_eq!(
        segments(&kernel.run().spans[0]),
        "receive_buffer:10:measured application:3000:measured run_queue:7000:measured send:10:measured"
    );
}

#[test]
fn the_first_exchange_of_a_connection_has_its_connect() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    exchange(&mut kernel, &mut client, 1_000_300, GET, OK);
    exchange(&mut kernel, &mut client, 1_002_000, GET, OK);
    let run = kernel.run();
    check(&run, &["GET /a ok 200"; 2]);
    assert!(
        segments(&run.spans[0]).starts_with(
            "connect:100:measured application:200:derived send:10:measured held:5:measured queue:5:measured"
        )
    );
    assert_eq!(run.spans[0].start.0, 1_000_000_000);
    assert!(segments(&run.spans[1]).starts_with("send:10:measured held:5:measured queue:5:measured"));
    let reused = |index: usize| attribute(&run.spans[index], "spantap.connection.reused");
    assert_eq!((reused(0), reused(1)), (Some(&Value::Bool(false)), Some(&Value::Bool(true))));
}

#[test]
fn keep_alive_exchanges_are_told_apart() {
    let (mut kernel, mut client) = client();
    for index in 0..100 {
        let request = format!("GET /x{} HTTP/1.1\r\nHost: a\r\n\r\n", index % 10);
        exchange(&mut kernel, &mut client, 2_000_000 + index * 1000, request.as_bytes(), OK);
    }
    let expected: Vec<_> = (0..100).map(|index| format!("GET /x{} ok 200", index % 10)).collect();
    let run = kernel.run_with(PipelineConfig {
        redact: RedactConfig { keep_segments: (0..10).map(|n| format!("x{n}")).collect(), ..Default::default() },
        ..Default::default()
    });
    check(&run, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn sixteen_pipelined_requests_in_one_write_and_read() {
    check(
        &of(End::client(), |kernel, end| {
            end.write(kernel, 2_000_000, 2_000_030, &GET.repeat(16));
            end.acked(kernel, 2_000_080, 16 * GET.len() as u32, [2_000_000, 2_000_020, 2_000_080], 0);
            end.read_at(kernel, 2_001_000, &OK.repeat(16));
        }),
        &["GET /a ok 200"; 16],
    );

    check(
        &of(End::server(), |kernel, end| {
            end.read_at(kernel, 2_000_000, &GET.repeat(16));
            for index in 0..16 {
                end.write(kernel, 2_000_100 + index * 100, 2_000_110 + index * 100, OK);
            }
        }),
        &["GET /a ok 200"; 16],
    );
}

#[test]
fn requests_and_responses_split_at_every_byte() {
    let run = of(End::client(), |kernel, end| {
        for (index, byte) in GET.iter().enumerate() {
            end.write(kernel, 2_000_000 + index as u64 * 10, 2_000_001 + index as u64 * 10, &[*byte]);
        }
        for (index, byte) in OK.iter().enumerate() {
            end.read_at(kernel, 2_001_000 + index as u64 * 10, &[*byte]);
        }
    });
    check(&run, &["GET /a ok 200"]);
    assert!(run.spans[0].segments.len() <= agent_core::segment::TILES_MAX);
}

#[test]
fn a_response_read_before_its_requests_call_is_known() {
    let (mut kernel, mut client) = client();
    exchange(&mut kernel, &mut client, 2_000_000, GET, OK);
    kernel.records[1..].reverse();
    check(&kernel.run(), &["GET /a ok 200"]);
}

#[test]
fn sequence_numbers_may_wrap_within_a_message() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    (client.send_base, client.receive_base) = (u32::MAX - 10, u32::MAX - 50);
    client.open(&mut kernel, 1_000_000);
    exchange(&mut kernel, &mut client, 2_000_000, GET, OK);
    exchange(&mut kernel, &mut client, 2_010_000, GET, OK);
    check(&kernel.run(), &["GET /a ok 200"; 2]);
}

#[test]
fn two_writers_whose_calls_return_in_the_wrong_order() {
    let (mut kernel, mut client) = client();
    let (first, second) = GET.split_at(10);
    client.write(&mut kernel, 2_000_000, 2_000_900, first);
    client.write(&mut kernel, 2_000_100, 2_000_200, second);
    let slow = kernel.records.remove(1);
    kernel.records.push(slow);
    client.read_at(&mut kernel, 2_003_000, OK);
    check(&kernel.run(), &["GET /a ok 200"]);
}

#[test]
fn bodies_of_every_framing() {
    let (mut kernel, mut client) = client();
    let mut at = 2_000_000;
    let mut both = |request: &[u8], response: &[u8]| {
        at += 2000;
        exchange(&mut kernel, &mut client, at, request, response);
    };
    both(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n");
    both(GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    both(
        b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    );
    both(GET, b"HTTP/1.1 304 Not Modified\r\n\r\n");
    both(GET, b"HTTP/1.1 503 Oh\r\nContent-Length: 0\r\n\r\n");
    both(b"BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 418 No\r\nContent-Length: 0\r\n\r\n");
    let run = kernel.run();
    check(
        &run,
        &[
            "HEAD / ok 200",
            "GET /a ok 200",
            "POST /p ok 204",
            "GET /a ok 304",
            "GET /a error 503 503",
            "HTTP /pot error 418 418",
        ],
    );
    assert_eq!(attribute(&run.spans[2], "http.request.body.size"), Some(&Value::Int(3)));
    assert_eq!(attribute(&run.spans[5], "http.request.method"), Some(&Value::String("_OTHER".into())));
    assert_eq!(attribute(&run.spans[5], "http.request.method_original"), Some(&Value::String("BREW".into())));
}

#[test]
fn a_client_error_is_no_error_of_the_server() {
    check(
        &of(End::server(), |kernel, server| {
            serve(kernel, server, 2_000_000, GET, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
            serve(kernel, server, 2_002_000, GET, b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
        }),
        &["GET /a ok 404", "GET /a error 500 500"],
    );
}

#[test]
fn bodies_beyond_what_is_captured() {
    let run = of(End::server(), |kernel, server| {
        server.read_at(kernel, 2_000_000, GET);
        server.write(kernel, 2_000_100, 2_000_110, b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n");
        server.sendfile(kernel, 2_000_120, 2_000_300, 500_000);
        let chunked = [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\n".as_slice(),
            &[b'x'; 0x2000],
            b"\r\n0\r\n\r\n",
        ]
        .concat();
        serve(kernel, server, 2_010_000, GET, &chunked);
        serve(kernel, server, 2_020_000, GET, OK);
    });
    check(&run, &["GET /a ok 200"; 3]);
    assert_eq!(run.spans[0].duration_ns, 310_000);
    assert_eq!(attribute(&run.spans[0], "http.response.body.size"), Some(&Value::Int(500_000)));
    assert!(run.losses.is_empty(), "{:?}", run.losses);
}

#[test]
fn a_head_beyond_what_is_captured_is_a_counted_loss_and_the_next_request_is_found() {
    let run = of(End::client(), |kernel, client| {
        exchange(kernel, client, 2_000_000, GET, OK);
        let huge = [b"GET /huge HTTP/1.1\r\nCookie: ".as_slice(), &[b'x'; 4000], b"\r\n\r\n"].concat();
        exchange(kernel, client, 2_010_000, &huge, OK);
        exchange(kernel, client, 2_020_000, GET, b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    });
    check(&run, &["GET /a ok 200", "GET /a ok 201"]);
    assert_eq!((run.losses.get(Loss::PayloadTruncated), run.losses.get(Loss::MessageLost)), (1, 1));
}

#[test]
fn a_lost_record_costs_its_exchange_and_no_other() {
    for lost in [2, 4] {
        let (mut kernel, mut client) = client();
        exchange(&mut kernel, &mut client, 2_000_000, b"GET /one HTTP/1.1\r\n\r\n", OK);
        exchange(
            &mut kernel,
            &mut client,
            2_050_000,
            b"GET /two HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 201 Y\r\nContent-Length: 0\r\n\r\n",
        );
        exchange(
            &mut kernel,
            &mut client,
            2_100_000,
            b"GET /three HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 202 Y\r\nContent-Length: 0\r\n\r\n",
        );
        // Records: opened, then write, acked, read of each.
        let gone = kernel.records.remove(2 + lost);
        assert!(gone.len() > 128);
        let run = kernel.run();
        let said: Vec<_> = run.spans.iter().map(summary).collect();
        assert_eq!(said.first().map(String::as_str), Some("GET /one ok 200"), "lost {lost}");
        assert_eq!(said.last().map(String::as_str), Some("GET /three ok 202"), "lost {lost}: {:?}", run.losses);
        assert!(!said.contains(&"GET /two ok 202".to_owned()) && !said.contains(&"GET /two ok 200".to_owned()));
        assert_eq!(run.losses.get(Loss::KernelRecordsLost), 1);
        assert!(run.losses.get(Loss::StreamHole) > 0);
    }
}

#[test]
fn spans_that_a_loss_touches_say_so() {
    let run = of(End::client(), |kernel, client| {
        exchange(kernel, client, 2_000_000, GET, OK);
        client.write(kernel, 2_010_000, 2_010_030, GET);
        kernel.header(5, 0);
        client.read_at(kernel, 2_010_900, OK);
    });
    check(&run, &["GET /a ok 200"; 2]);
    let lost = |index: usize| attribute(&run.spans[index], "spantap.lost_records");
    assert_eq!((lost(0), lost(1)), (None, Some(&Value::Int(1))));
}

#[test]
fn who_has_no_answer_is_told_why_only_if_that_was_seen() {
    // Closed by the server: seen by the client as the end of the stream.
    check(
        &of(End::client(), |kernel, end| {
            end.write(kernel, 2_000_000, 2_000_010, GET);
            end.read_end(kernel, 2_005_000);
            end.close(kernel, 2_006_000);
        }),
        &["GET /a error connection_closed"],
    );
    // Half an answer.
    check(
        &of(End::client(), |kernel, end| {
            end.write(kernel, 2_000_000, 2_000_010, GET);
            end.read_at(kernel, 2_004_000, &OK[..OK.len() - 1]);
            end.read_end(kernel, 2_005_000);
            end.close(kernel, 2_006_000);
        }),
        &["GET /a error 200 connection_closed"],
    );
    // The client itself went away.
    check(
        &of(End::client(), |kernel, end| {
            end.write(kernel, 2_000_000, 2_000_010, GET);
            end.close(kernel, 2_006_000);
        }),
        &["GET /a unknown"],
    );
    // Reset.
    let run = of(End::client(), |kernel, end| {
        end.write(kernel, 2_000_000, 2_000_010, GET);
        end.reset(kernel, 2_006_000);
    });
    check(&run, &["GET /a error connection_reset"]);
    assert_eq!(run.spans[0].duration_ns, 6_000_000);
    // The server closed without an answer.
    check(
        &of(End::server(), |kernel, end| {
            end.read_at(kernel, 2_000_000, GET);
            end.close(kernel, 2_006_000);
        }),
        &["GET /a unknown"],
    );
}

#[test]
fn an_answer_that_was_lost_is_no_missing_answer() {
    // The end of the stream is read at a position beyond what was seen.
    let run = of(End::client(), |kernel, end| {
        end.write(kernel, 2_000_000, 2_000_010, GET);
        end.moved[1] += OK.len() as u32;
        end.read_end(kernel, 62_000_000);
        end.close(kernel, 62_001_000);
    });
    check(&run, &["GET /a unknown"]);
    assert_eq!((run.spans[0].duration_ns, run.losses.get(Loss::MessageLost)), (10_000, 1));
    // The numbering tells of it, and the connection is reset later.
    check(
        &of(End::client(), |kernel, end| {
            end.write(kernel, 2_000_000, 2_000_010, GET);
            kernel.header(5, 0);
            end.reset(kernel, 2_006_000);
        }),
        &["GET /a unknown"],
    );
    // What was lost before the request is no answer to it.
    check(
        &of(End::client(), |kernel, end| {
            kernel.header(5, 0);
            end.write(kernel, 2_000_000, 2_000_010, GET);
            end.read_end(kernel, 2_005_000);
            end.close(kernel, 2_006_000);
        }),
        &["GET /a error connection_closed"],
    );
    // Half of it was lost.
    check(
        &of(End::client(), |kernel, end| {
            end.write(kernel, 2_000_000, 2_000_010, GET);
            end.read_at(kernel, 2_004_000, &OK[..OK.len() - 1]);
            kernel.header(5, 0);
            end.reset(kernel, 2_006_000);
        }),
        &["GET /a unknown 200"],
    );
}

#[test]
fn a_lost_response_does_not_make_its_request_last_until_the_next() {
    let (mut kernel, mut end) = server();
    serve(&mut kernel, &mut end, 2_000_000, GET, OK);
    serve(&mut kernel, &mut end, 3_000_000, b"GET /two HTTP/1.1\r\n\r\n", OK);
    kernel.lose();
    serve(&mut kernel, &mut end, 63_000_000, GET, OK);
    let run = kernel.run();
    check(&run, &["GET /a ok 200", "GET /two unknown", "GET /a ok 200"]);
    assert_eq!(run.spans[1].duration_ns, 60_000);
    assert_eq!(total(&run.spans[1], SegmentName::Application), 0);
    assert!(run.spans[1].segments.iter().all(|segment| segment.evidence != Evidence::Measured));
    assert_eq!(run.losses.get(Loss::MessageLost), 1);
    // Nor until the connection is closed.
    let (mut kernel, mut end) = server();
    serve(&mut kernel, &mut end, 2_000_000, GET, OK);
    kernel.lose();
    end.close(&mut kernel, 62_000_000);
    let run = kernel.run();
    check(&run, &["GET /a unknown"]);
    assert_eq!((run.spans[0].duration_ns, total(&run.spans[0], SegmentName::Application)), (60_000, 0));
}

#[test]
fn a_parent_has_a_span_even_if_its_connection_is_given_up() {
    let (mut kernel, mut client, mut server) = (Kernel::default(), End::client(), End::server());
    client.open(&mut kernel, 1_000_000);
    server.open(&mut kernel, 1_000_050);
    let two = GET.repeat(2);
    let answers = OK.repeat(2);
    client.write(&mut kernel, 2_000_000, 2_000_030, &two);
    server.read_at(&mut kernel, 2_000_050, &two);
    server.write(&mut kernel, 2_000_300, 2_000_310, &answers);
    // The client's read of both answers is lost; another pair follows.
    client.moved[1] += answers.len() as u32;
    kernel.header(1, 0);
    client.write(&mut kernel, 2_100_000, 2_100_030, &two);
    client.read_at(&mut kernel, 2_100_330, &answers);
    let run = kernel.run();
    let spans: Vec<_> = run.spans.iter().chain(&run.flushed).collect();
    let servers: Vec<_> = spans.iter().filter(|span| span.kind == SpanKind::Server).collect();
    assert_eq!(servers.len(), 2);
    for server in servers {
        let parent = server.parent_span_id.expect("the client is on this host");
        assert!(spans.iter().any(|span| span.span_id == parent && span.kind == SpanKind::Client), "{spans:#?}");
    }
    assert!(run.losses.get(Loss::PairingLost) > 0, "{:?}", run.losses);
}

#[test]
fn half_a_request_is_no_span() {
    check(
        &of(End::client(), |kernel, end| {
            end.write(kernel, 2_000_000, 2_000_010, &GET[..20]);
            end.close(kernel, 2_006_000);
        }),
        &[],
    );
}

#[test]
fn the_end_of_a_connection_may_end_a_response() {
    let response = b"HTTP/1.0 200 OK\r\n\r\nall of it";
    check(
        &of(End::client(), |kernel, end| {
            end.write(kernel, 2_000_000, 2_000_010, GET);
            end.read_at(kernel, 2_004_000, response);
            end.read_end(kernel, 2_005_000);
            end.close(kernel, 2_006_000);
        }),
        &["GET /a ok 200"],
    );
    check(
        &of(End::server(), |kernel, end| {
            end.read_at(kernel, 2_000_000, GET);
            end.write(kernel, 2_004_000, 2_004_010, response);
            end.close(kernel, 2_006_000);
        }),
        &["GET /a ok 200"],
    );
    check(
        &of(End::client(), |kernel, end| {
            end.write(kernel, 2_000_000, 2_000_010, GET);
            end.read_at(kernel, 2_004_000, response);
            end.reset(kernel, 2_006_000);
        }),
        &["GET /a error 200 connection_reset"],
    );
}

#[test]
fn after_an_upgrade_it_is_no_longer_http() {
    let run = of(End::client(), |kernel, client| {
        let upgrade = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        exchange(kernel, client, 2_000_000, upgrade, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n");
        exchange(kernel, client, 2_100_000, b"\x81\x05hello", b"\x81\x02hi");
    });
    check(&run, &["GET /ws ok 101", "tcp unknown"]);
    assert_eq!(run.spans[1].protocol, Protocol::Tcp);
}

#[test]
fn garbage_is_not_http() {
    check(
        &of(End::client(), |kernel, client| {
            exchange(kernel, client, 2_000_000, b"\x17\x03\x01\x02\x00", b"\x15\x03\x01\x00\x02");
        }),
        &["tcp unknown"],
    );
    // What may still become something is told when the connection ends.
    check(
        &of(End::client(), |kernel, client| {
            exchange(kernel, client, 2_000_000, b"\x16\x03\x01\x02\x00", b"\x15\x03\x01\x00\x02");
            client.close(kernel, 2_001_000);
        }),
        &["tcp unknown"],
    );
    let run = of(End::server(), |kernel, server| {
        serve(kernel, server, 2_000_000, &[GET, b"\x00\xff garbage\r\n\r\n"].concat(), OK);
        server.write(kernel, 2_002_000, 2_002_010, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    check(&run, &["GET /a ok 200"]);
    assert_eq!((run.losses.get(Loss::HttpMalformed), run.losses.get(Loss::MessageLost)), (1, 1));
}

#[test]
fn a_connection_joined_in_the_middle_of_a_body_is_understood_from_the_next_message_on() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.role = 0;
    client.moved = [5000, 9_000];
    client.find(&mut kernel, 1_900_000);
    client.read_at(&mut kernel, 2_000_000, b"rest of a response");
    exchange(&mut kernel, &mut client, 2_001_000, GET, OK);
    exchange(&mut kernel, &mut client, 2_003_000, GET, OK);
    let run = kernel.run();
    check(&run, &["GET /a ok 200"; 2]);
    assert_eq!(attribute(&run.spans[0], "spantap.connection.preexisting"), Some(&Value::Bool(true)));
    assert_eq!(run.spans[0].kind, SpanKind::Client);
}

#[test]
fn a_connection_that_is_selected_late_is_no_loss() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.moved = [5000, 9000];
    client.open(&mut kernel, 1_900_000);
    exchange(&mut kernel, &mut client, 2_001_000, GET, OK);
    let run = kernel.run();
    check(&run, &["GET /a ok 200"]);
    assert!(run.losses.is_empty(), "{:?}", run.losses);
}

#[test]
fn the_end_of_a_connection_that_never_moved_bytes_is_no_loss() {
    let (mut kernel, mut server) = (Kernel::default(), End::server());
    server.read_end(&mut kernel, 2_000_000);
    assert!(kernel.run().losses.is_empty());
}

#[test]
fn a_connection_joined_before_a_response_has_no_span_for_it() {
    let (mut kernel, mut server) = (Kernel::default(), End::server());
    server.find(&mut kernel, 1_900_000);
    server.write(&mut kernel, 2_000_000, 2_000_010, b"HTTP/1.1 202 OK\r\nContent-Length: 0\r\n\r\n");
    serve(&mut kernel, &mut server, 2_001_000, GET, OK);
    check(&kernel.run(), &["GET /a ok 200"]);
}

#[test]
fn both_ends_on_one_host_share_a_trace() {
    let (mut kernel, mut client, mut server) = (Kernel::default(), End::client(), End::server());
    client.open(&mut kernel, 1_000_000);
    server.open(&mut kernel, 1_000_050);
    for index in 0..2 {
        let at = 2_000_000 + index * 100_000;
        client.write(&mut kernel, at, at + 30, GET);
        server.read_at(&mut kernel, at + 40, GET);
        server.write(&mut kernel, at + 300, at + 310, OK);
        client.acked(&mut kernel, at + 320, GET.len() as u32, [at, at + 20, at + 315], flag::PIGGYBACKED);
        client.read_at(&mut kernel, at + 330, OK);
    }
    let run = kernel.run();
    check(&run, &["GET /a ok 200"; 4]);
    let of = |kind| run.spans.iter().filter(move |span| span.kind == kind);
    for (client, server) in of(SpanKind::Client).zip(of(SpanKind::Server)) {
        assert_eq!(client.trace_id, server.trace_id);
        assert_eq!(server.parent_span_id, Some(client.span_id));
        assert_eq!(attribute(server, "spantap.parent.evidence"), Some(&Value::String("tcp_sequence".into())));
        assert_eq!(client.parent_span_id, None);
    }
    assert_eq!(run.spans.iter().map(|span| span.trace_id).collect::<std::collections::HashSet<_>>().len(), 2);
}

#[test]
fn a_server_whose_client_is_elsewhere_has_no_parent() {
    let (mut kernel, mut server) = server();
    serve(&mut kernel, &mut server, 2_000_000, GET, OK);
    assert_eq!(kernel.run().spans[0].parent_span_id, None);
}

#[test]
fn traceparent_is_read() {
    let request = b"GET /a HTTP/1.1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
    let run = of(End::client(), |kernel, client| {
        exchange(kernel, client, 2_000_000, request, OK);
    });
    let span = &run.spans[0];
    assert_eq!(span.trace_id.0, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(span.parent_span_id.map(|id| id.0), Some(0xb7ad_6b71_6920_3331_u64.to_be_bytes()));
}

#[test]
fn an_open_request_at_shutdown_is_unknown() {
    let run = of(End::client(), |kernel, client| {
        client.write(kernel, 2_000_000, 2_000_010, GET);
    });
    assert!(run.spans.is_empty());
    assert_eq!(run.flushed.iter().map(|span| span.status).collect::<Vec<_>>(), [Status::Unknown]);
    segments(&run.flushed[0]);
}

#[test]
fn ids_in_paths_leave_only_where_the_configuration_says_so() {
    let (mut kernel, mut client) = client();
    exchange(&mut kernel, &mut client, 2_000_000, b"GET /r/4711?token=secret HTTP/1.1\r\n\r\n", OK);
    let shown = |paths| {
        let redact = RedactConfig { paths, ..Default::default() };
        let run = kernel.run_with(PipelineConfig { redact, ..Default::default() });
        check(&run, &["GET /r/{id} ok 200"]);
        assert!(!format!("{:?}", run.spans).contains("secret"));
        attribute(&run.spans[0], "url.path").cloned()
    };
    assert_eq!(shown(PathPolicy::Redact), Some(Value::String("/r/{id}".into())));
    assert_eq!(shown(PathPolicy::Keep), Some(Value::String("/r/4711".into())));
}

#[test]
fn an_answer_that_nobody_asked_for_is_no_loss() {
    const TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Time-out\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    // On a connection on which nobody asked, and after an exchange.
    let (mut kernel, mut end) = server();
    end.write(&mut kernel, 62_000_000, 62_000_010, TIMEOUT);
    end.close(&mut kernel, 62_000_100);
    let run = kernel.run();
    check(&run, &[]);
    assert!(run.losses.is_empty(), "{:?}", run.losses);
    let (mut kernel, mut end) = server();
    serve(&mut kernel, &mut end, 2_000_000, GET, OK);
    end.write(&mut kernel, 62_000_000, 62_000_010, TIMEOUT);
    end.close(&mut kernel, 62_000_100);
    let run = kernel.run();
    check(&run, &["GET /a ok 200"]);
    assert!(run.losses.is_empty(), "{:?}", run.losses);
    // If a record is missing, it may have been the request's.
    let (mut kernel, mut end) = server();
    end.read_at(&mut kernel, 2_000_000, GET);
    kernel.lose();
    end.write(&mut kernel, 62_000_000, 62_000_010, TIMEOUT);
    end.close(&mut kernel, 62_000_100);
    assert_eq!(kernel.run().losses.get(Loss::MessageLost), 1);
}
