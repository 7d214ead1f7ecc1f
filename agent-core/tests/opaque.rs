//! Exchanges of bytes whose protocol is not known or whose payload is not captured.

use agent_common::message::flag;
use agent_core::{
    loss::Loss,
    span::{Protocol, SpanKind, Status, Value},
    testing::{End, Kernel, Run, attribute, segments},
};

fn check(run: &Run, expected: &[(SpanKind, u64, i64, i64)]) {
    let bytes = |span, key| match attribute(span, key) {
        Some(Value::Int(bytes)) => *bytes,
        other => panic!("{key}: {other:?}"),
    };
    let said: Vec<_> = run
        .spans
        .iter()
        .map(|span| {
            assert_eq!((span.protocol, span.name.as_str()), (Protocol::Tcp, "tcp"));
            segments(span);
            (
                span.kind,
                span.duration_ns / 1000,
                bytes(span, "spantap.request.bytes"),
                bytes(span, "spantap.response.bytes"),
            )
        })
        .collect();
    assert_eq!(said, expected, "{:?}", run.losses);
    assert!(run.flushed.is_empty());
}

fn unselected(end: End) -> (Kernel, End) {
    let (mut kernel, end) = (Kernel::default(), End { selected: false, ..end });
    end.open(&mut kernel, 1_000_000);
    (kernel, end)
}

#[test]
fn a_client_without_payload_has_exchanges_with_sizes_and_segments() {
    let (mut kernel, mut client) = unselected(End::client());
    for at in [2_000_000, 2_010_000] {
        client.write_unselected(&mut kernel, [at, at + 20, at + 80], 100, 0);
        client.read_at(&mut kernel, at + 500, &[0; 300]);
        client.read_at(&mut kernel, at + 600, &[0; 200]);
    }
    let run = kernel.run();
    check(&run, &[(SpanKind::Client, 600, 100, 500); 2]);
    assert_eq!(
        segments(&run.spans[0]),
        "send:10:measured held:5:measured queue:5:measured network:60:measured remote:410:measured transfer:100:measured receive_buffer:10:measured"
    );
    assert!(run.spans.iter().all(|span| span.status == Status::Unknown));
    assert!(run.losses.is_empty(), "{:?}", run.losses);
}

#[test]
fn a_server_without_payload_likewise() {
    let (mut kernel, mut server) = unselected(End::server());
    for at in [2_000_000, 2_010_000] {
        server.read_at(&mut kernel, at, &[0; 100]);
        // Acknowledged only by the next request.
        server.write_unselected(&mut kernel, [at + 400, at + 420, at + 9_900], 300, flag::PIGGYBACKED);
    }
    server.close(&mut kernel, 2_030_000);
    check(&kernel.run(), &[(SpanKind::Server, 422, 100, 300); 2]);
}

#[test]
fn both_ends_share_a_trace() {
    let (mut kernel, mut client) = unselected(End::client());
    let mut server = End { selected: false, ..End::server() };
    server.open(&mut kernel, 1_000_010);
    client.write_unselected(&mut kernel, [2_000_000, 2_000_020, 2_000_080], 100, 0);
    server.read_at(&mut kernel, 2_000_100, &[0; 100]);
    server.write_unselected(&mut kernel, [2_000_200, 2_000_220, 2_000_300], 50, 0);
    client.read_at(&mut kernel, 2_000_320, &[0; 50]);
    let run = kernel.run();
    assert_eq!(run.spans.len(), 2);
    assert_eq!(run.spans[0].trace_id, run.spans[1].trace_id);
}

/// One exchange a millisecond.
fn exchange(kernel: &mut Kernel, client: &mut End, server: Option<&mut End>, number: u64) {
    let at = 2_000_000 + number * 1_000;
    client.write_unselected(kernel, [at, at + 20, at + 80], 100, 0);
    if let Some(server) = server {
        server.read_at(kernel, at + 100, &[0; 100]);
        server.write(kernel, at + 200, at + 210, &[0; 50]);
        server.acked(kernel, at + 300, 50, [at + 200, at + 220, at + 300], 0);
    }
    client.read_at(kernel, at + 320, &[0; 50]);
}

#[test]
fn of_what_is_not_selected_so_many_are_told_in_a_second_and_the_others_counted() {
    let (mut kernel, mut client) = unselected(End::client());
    (0..600).for_each(|number| exchange(&mut kernel, &mut client, None, number));
    let run = kernel.run();
    assert_eq!((run.spans.len(), run.losses.get(Loss::UnselectedRate)), (200, 400));
    assert!(run.spans.iter().all(|span| attribute(span, "spantap.selected") == Some(&Value::Bool(false))));
}

#[test]
fn whose_other_end_is_selected_is_told_whole() {
    let (mut kernel, mut client) = unselected(End::client());
    let mut server = End::server();
    server.open(&mut kernel, 1_000_010);
    (0..600).for_each(|number| exchange(&mut kernel, &mut client, Some(&mut server), number));
    let run = kernel.run();
    assert_eq!((run.spans.len(), run.losses.get(Loss::UnselectedRate)), (1_200, 0));
    let unselected = |kind| {
        let spans = run.spans.iter().filter(|span| span.kind == kind);
        spans.filter(|span| attribute(span, "spantap.selected").is_some()).count()
    };
    assert_eq!((unselected(SpanKind::Client), unselected(SpanKind::Server)), (600, 0));
}

#[test]
fn a_server_that_speaks_first_begins_no_exchange() {
    let (mut kernel, mut client) = unselected(End::client());
    client.read_at(&mut kernel, 2_000_000, &[0; 80]);
    client.write_unselected(&mut kernel, [2_010_000, 2_010_020, 2_010_080], 10, 0);
    client.read_at(&mut kernel, 2_010_500, &[0; 20]);
    check(&kernel.run(), &[(SpanKind::Client, 500, 10, 20)]);
}

#[test]
fn a_selected_connection_of_another_protocol_counts_each_byte_once() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    client.write(&mut kernel, 2_000_000, 2_000_010, b"IQ\r\n unknown \xff");
    client.acked(&mut kernel, 2_000_080, 14, [2_000_000, 2_000_020, 2_000_080], 0);
    client.read_at(&mut kernel, 2_000_500, b"?PONG\r\n");
    check(&kernel.run(), &[(SpanKind::Client, 500, 14, 7)]);
}

#[test]
fn a_reset_is_an_error_and_a_close_is_not() {
    let (mut kernel, mut client) = unselected(End::client());
    client.write_unselected(&mut kernel, [2_000_000, 2_000_020, 2_000_080], 100, 0);
    client.reset(&mut kernel, 2_001_000);
    let run = kernel.run();
    check(&run, &[(SpanKind::Client, 1000, 100, 0)]);
    assert_eq!(run.spans[0].status, Status::Error);
    let (mut kernel, mut client) = unselected(End::client());
    client.write_unselected(&mut kernel, [2_000_000, 2_000_020, 2_000_080], 100, 0);
    client.close(&mut kernel, 2_001_000);
    let run = kernel.run();
    check(&run, &[(SpanKind::Client, 1000, 100, 0)]);
    assert_eq!(run.spans[0].status, Status::Unknown);
}

#[test]
fn a_reset_after_the_answer_is_no_error_of_it() {
    let (mut kernel, mut client) = unselected(End::client());
    client.write_unselected(&mut kernel, [2_000_000, 2_000_020, 2_000_080], 100, 0);
    client.read_at(&mut kernel, 2_000_500, &[0; 50]);
    client.reset(&mut kernel, 2_001_000);
    let run = kernel.run();
    check(&run, &[(SpanKind::Client, 500, 100, 50)]);
    assert_eq!((run.spans[0].status, attribute(&run.spans[0], "error.type")), (Status::Unknown, None));
}

#[test]
fn the_role_of_an_old_connection_is_inferred_from_ports_or_not_at_all() {
    let exchange = |local, peer| {
        let (mut kernel, mut end) = (Kernel::default(), End { selected: false, role: 0, local, peer, ..End::client() });
        end.find(&mut kernel, 1_000_000);
        end.write_unselected(&mut kernel, [2_000_000, 2_000_020, 2_000_080], 100, 0);
        end.read_at(&mut kernel, 2_000_500, &[0; 50]);
        kernel.run()
    };
    let run = exchange(40_000, 5432);
    check(&run, &[(SpanKind::Client, 500, 100, 50)]);
    let evidence = attribute(&run.spans[0], "spantap.role.evidence");
    assert_eq!(evidence, Some(&Value::String("inferred".into())));
    let run = exchange(40_000, 50_000);
    check(&run, &[]);
    assert_eq!(run.losses.get(Loss::RoleUnknown), 1);
}

#[test]
fn data_of_a_connection_that_was_never_opened_is_counted() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.read_at(&mut kernel, 2_000_500, &[0; 50]);
    let run = kernel.run();
    check(&run, &[]);
    assert_eq!(run.losses.get(Loss::ConnectionUnknown), 1);
}

#[test]
fn selection_may_change_while_a_connection_lives() {
    let get = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let (mut kernel, mut client) = unselected(End::client());
    client.write_unselected(&mut kernel, [2_000_000, 2_000_020, 2_000_080], 100, 0);
    client.read_at(&mut kernel, 2_000_500, &[0; 50]);
    client.selected = true;
    client.write(&mut kernel, 2_100_000, 2_100_010, get);
    client.read_at(&mut kernel, 2_100_500, ok);
    client.selected = false;
    client.write_unselected(&mut kernel, [2_200_000, 2_200_020, 2_200_080], 100, 0);
    client.read_at(&mut kernel, 2_200_500, &[0; 50]);
    client.write_unselected(&mut kernel, [2_300_000, 2_300_020, 2_300_080], 100, 0);
    client.read_at(&mut kernel, 2_300_500, &[0; 50]);
    let run = kernel.run();
    let names: Vec<_> = run.spans.iter().map(|span| span.name.as_str()).collect();
    assert!(names.contains(&"GET /a"), "{names:?}");
    assert_eq!(names.last(), Some(&"tcp"));
}

#[test]
fn what_was_not_seen_before_it_makes_an_exchange_inferred() {
    let at = |end: &mut End, kernel: &mut Kernel, at: u64| {
        end.write_unselected(kernel, [at, at + 20, at + 80], 100, 0);
        end.read_at(kernel, at + 500, &[0; 50]);
    };
    // The first write that is seen of an old connection may be the middle of a request.
    let (mut kernel, mut old) = (Kernel::default(), End { selected: false, ..End::client() });
    old.find(&mut kernel, 1_000_000);
    at(&mut old, &mut kernel, 2_000_000);
    at(&mut old, &mut kernel, 2_010_000);
    check_inferred(&kernel.run(), &[true, false]);
    // Behind an answer it is not.
    let (mut kernel, mut old) = (Kernel::default(), End { selected: false, ..End::client() });
    old.find(&mut kernel, 1_000_000);
    old.read_at(&mut kernel, 1_500_000, &[0; 50]);
    at(&mut old, &mut kernel, 2_000_000);
    check_inferred(&kernel.run(), &[false]);
}

#[test]
fn bytes_that_were_not_seen_make_exchanges_beside_them_inferred() {
    let exchanges = |lost: fn(&mut End)| {
        let (mut kernel, mut client) = unselected(End::client());
        for at in [2_000_000, 2_010_000, 2_020_000] {
            client.write_unselected(&mut kernel, [at, at + 20, at + 80], 100, 0);
            client.read_at(&mut kernel, at + 500, &[0; 50]);
            if at == 2_000_000 {
                lost(&mut client);
            }
        }
        kernel.run()
    };
    check_inferred(&exchanges(|_| ()), &[false, false, false]);
    // Sent, received: the answer, and with it perhaps whole exchanges.
    check_inferred(&exchanges(|client| client.moved[0] += 10), &[false, true, false]);
    check_inferred(&exchanges(|client| client.moved[1] += 10), &[false, true, false]);
}

/// Fails unless just these exchanges say that their bounds are inferred, and measure nothing.
fn check_inferred(run: &Run, expected: &[bool]) {
    let inferred = Value::String("inferred".into());
    let said: Vec<bool> = run
        .spans
        .iter()
        .map(|span| {
            let is_inferred = attribute(span, "spantap.boundary.evidence") == Some(&inferred);
            assert_eq!(segments(span).contains("measured"), !is_inferred, "{}", segments(span));
            is_inferred
        })
        .collect();
    assert_eq!(said, expected);
}
