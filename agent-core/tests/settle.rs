//! What is known only after an exchange: acknowledgements, retransmissions, the other end's view; and how connections
//! come to be and end.

use agent_common::{
    connection::{ConnectionRecord, change as what, flag as connection_flag},
    message::{CallRecord, SendRecord, flag, retransmit},
    sched::Blocked,
};
use agent_core::{
    flow::view::State,
    loss::Loss,
    pipeline::{ClockOffset, Pipeline, PipelineConfig},
    span::{MonotonicNs, SegmentName, Span, SpanKind, Status, Value},
    testing::{End, Kernel, Read, Run, attribute, change, segments, total},
};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

fn open(mut end: End) -> (Kernel, End) {
    let mut kernel = Kernel::default();
    end.moved = [0, 0];
    end.open(&mut kernel, 1_000_000);
    (kernel, end)
}

fn int(span: &Span, key: &str) -> Option<i64> {
    match attribute(span, key) {
        Some(Value::Int(value)) => Some(*value),
        None => None,
        other => panic!("{key}: {other:?}"),
    }
}

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    match attribute(span, key) {
        Some(Value::String(value)) => Some(value),
        None => None,
        other => panic!("{key}: {other:?}"),
    }
}

fn only(run: &Run) -> &Span {
    assert_eq!((run.spans.len(), run.flushed.len()), (1, 0), "{:?}", run.losses);
    segments(&run.spans[0]);
    &run.spans[0]
}

fn connect_failed(errno: u32, syns: u32) -> Run {
    let mut kernel = Kernel::default();
    let client = End { send_base: 0, ..End::client() };
    let mut record: ConnectionRecord = client.connection(&mut kernel, 4_000_000, what::CONNECT_FAILED);
    (record.opened_ns, record.errno, record.handshake_retransmits) = (1_000_000_000, errno, syns);
    record.flags = 0;
    kernel.emit(&record, &[]);
    kernel.run()
}

#[test]
fn a_connect_that_fails_is_a_span_with_what_the_caller_saw() {
    let run = connect_failed(111, 0);
    let span = only(&run);
    assert_eq!((span.name.as_str(), span.kind, span.status), ("connect", SpanKind::Client, Status::Error));
    assert_eq!((segments(span).as_str(), span.start.0), ("connect:3000000:measured", 1_000_000_000));
    assert_eq!(
        (text(span, "error.type"), text(span, "spantap.connect.errno")),
        (Some("ECONNREFUSED"), Some("ECONNREFUSED"))
    );
    assert_eq!(int(span, "spantap.connect.syn_retransmits"), Some(0));
    assert_eq!(span.process.pid, 11);
    let run = connect_failed(110, 6);
    assert_eq!(text(only(&run), "error.type"), Some("ETIMEDOUT"));
    assert_eq!(int(only(&run), "spantap.connect.syn_retransmits"), Some(6));
    let view = &run.connections[0];
    assert_eq!((view.state, view.retransmits_total, view.retransmits_handshake), (State::Failed, 6, 6));
    assert_eq!(text(only(&connect_failed(4242, 0)), "error.type"), Some("4242"));
}

#[test]
fn a_connect_that_was_given_up_has_no_errno() {
    let run = connect_failed(0, 2);
    assert_eq!(
        (text(only(&run), "error.type"), text(only(&run), "spantap.connect.errno")),
        (Some("connect_abandoned"), None)
    );
}

#[test]
fn a_connect_fails_once() {
    let (mut kernel, client) = (Kernel::default(), End::client());
    for (time, change) in
        [(1_000_000, what::OPENED), (2_000_000, what::CONNECT_FAILED), (2_000_010, what::CONNECT_FAILED)]
    {
        let mut record = client.connection(&mut kernel, time, change);
        (record.opened_ns, record.errno) = (1_000_000_000, 113);
        kernel.emit(&record, &[]);
    }
    client.close(&mut kernel, 2_000_020);
    let run = kernel.run();
    assert_eq!(text(only(&run), "error.type"), Some("EHOSTUNREACH"));
    assert_eq!(run.connections.iter().map(|view| view.state).collect::<Vec<_>>(), [State::Failed]);
}

#[test]
fn who_reset_is_told_if_it_was_seen() {
    let reset_by = |flags: u16| {
        let (mut kernel, mut end) = open(End::client());
        end.write(&mut kernel, 2_000_000, 2_000_010, GET);
        end.reset(&mut kernel, 2_006_000);
        change(&mut kernel, |record: &mut ConnectionRecord| record.flags |= flags);
        let run = kernel.run();
        assert_eq!(text(only(&run), "error.type"), Some("connection_reset"));
        text(only(&run), "spantap.tcp.reset_by").map(str::to_owned)
    };
    assert_eq!(reset_by(0), None);
    assert_eq!(reset_by(connection_flag::RESET_RECEIVED).as_deref(), Some("peer"));
    assert_eq!(reset_by(connection_flag::RESET_SENT).as_deref(), Some("local"));
    // The caller's errno tells as well: a reset had arrived.
    let (mut kernel, mut end) = open(End::client());
    end.write(&mut kernel, 2_000_000, 2_000_010, GET);
    end.read_end(&mut kernel, 2_001_000);
    change(&mut kernel, |record: &mut CallRecord| (record.result, record.flags) = (-104, 0));
    assert_eq!(text(only(&kernel.run()), "spantap.tcp.reset_by"), Some("peer"));
}

/// When the pipeline gives out how many spans, told by milliseconds after the start.
fn told_at(kernel: &Kernel, until_ms: u64) -> Vec<(u64, usize)> {
    let mut pipeline = Pipeline::new(PipelineConfig::default(), ClockOffset::default());
    kernel.records.iter().for_each(|record| pipeline.record(record));
    let mut told = Vec::new();
    for ms in 2_000..2_000 + until_ms {
        pipeline.tick(MonotonicNs(ms * 1_000_000));
        let spans = pipeline.drain().len();
        // Nobody reads facts of processes here: spans wait 40 ms for them.
        if spans > 0 {
            told.push((ms - 2_000, spans));
        }
    }
    told
}

#[test]
fn a_servers_exchange_waits_for_the_fate_of_its_response_and_not_for_ever() {
    let serve = |acked_ms: Option<u64>| {
        let (mut kernel, mut server) = open(End::server());
        server.read_at(&mut kernel, 2_000_000, GET);
        server.write(&mut kernel, 2_000_300, 2_000_310, OK);
        if let Some(ms) = acked_ms {
            let acked = 2_000_000 + ms * 1000;
            server.acked(&mut kernel, acked, OK.len() as u32, [2_000_300, 2_000_320, acked], 0);
        }
        kernel
    };
    let at = |acked_ms| told_at(&serve(acked_ms), 500)[0].0;
    assert!(at(Some(1)) <= 60, "reorder and facts: {}", at(Some(1)));
    let late = at(None);
    assert!((300..360).contains(&late), "{late}");
}

#[test]
fn retransmissions_belong_to_the_exchange_whose_bytes_they_carry() {
    let (mut kernel, mut server) = open(End::server());
    for (index, reason) in [(0, retransmit::FAST), (1, retransmit::TIMEOUT)] {
        let at = 2_000_000 + index * 1_000_000;
        server.read_at(&mut kernel, at, GET);
        server.write(&mut kernel, at + 300, at + 310, OK);
        // Long after the call, and twice, before the acknowledgement.
        server.resend(&mut kernel, at + 200_000, OK.len() as u32, OK.len() as u32, reason);
        server.resend(&mut kernel, at + 450_000, OK.len() as u32, 1, reason);
        server.acked(&mut kernel, at + 460_000, OK.len() as u32, [at + 300, at + 320, at + 460_000], 0);
    }
    // FIN, after everything.
    server.resend(&mut kernel, 9_000_000, 0, 1, retransmit::TIMEOUT);
    server.close(&mut kernel, 9_100_000);
    let run = kernel.run();
    assert_eq!(run.spans.len(), 2);
    let told = |index: usize, key: &str| int(&run.spans[index], &format!("spantap.tcp.retransmits{key}"));
    assert_eq!((told(0, ""), told(0, ".fast"), told(0, ".timeout")), (Some(2), Some(2), None));
    assert_eq!((told(1, ""), told(1, ".fast"), told(1, ".timeout")), (Some(2), None, Some(2)));
    let view = &run.connections[0];
    let parts = (view.retransmits_in_requests, view.retransmits_handshake, view.retransmits_outside);
    assert_eq!((view.retransmits_total, parts), (5, (4, 0, 1)));
    assert_eq!((view.state, view.exchanges, view.bytes_sent), (State::Closed, 2, 2 * OK.len() as u64));
}

#[test]
fn what_tcp_counted_before_an_exchange_is_not_its_own() {
    let (mut kernel, mut client) = open(End::client());
    for (index, zero_window_us, sndbuf_limited_ms, out_of_order) in [(0, 300, 0, 0), (1, 300, 40, 7), (2, 900, 40, 7)] {
        let at = 2_000_000 + index * 10_000;
        client.tcp.zero_window_us = zero_window_us;
        client.tcp.sndbuf_limited_ms = sndbuf_limited_ms;
        client.tcp.out_of_order = out_of_order;
        client.write(&mut kernel, at, at + 30, GET);
        client.tcp.cwnd = 10 + index as u32 * 5;
        client.acked(&mut kernel, at + 80, GET.len() as u32, [at, at + 20, at + 80], 0);
        // Of what the peer's window was closed in all, this much since the write.
        change(&mut kernel, |record: &mut SendRecord| record.zero_window_us = [0, 0, 600][index as usize]);
        client.read_at(&mut kernel, at + 500, OK);
        change(&mut kernel, |record: &mut CallRecord| record.receive_queue = 10 * index as u32);
    }
    let run = kernel.run();
    let told = |key: &str| run.spans.iter().map(|span| int(span, &format!("spantap.tcp.{key}"))).collect::<Vec<_>>();
    assert_eq!(told("zero_window_ns"), [None, None, Some(600_000)]);
    assert_eq!(told("cwnd.change"), [None, Some(5), Some(5)]);
    assert_eq!(told("sndbuf_limited_ns"), [None, Some(40_000_000), None]);
    assert_eq!(told("out_of_order"), [None, Some(7), None]);
    assert_eq!(told("receive_queue_bytes"), [None, Some(10), Some(20)]);
}

#[test]
fn what_tcp_kept_of_an_answer_is_told_of_the_server() {
    for (kept_us, expected) in [(40_000, Some(40_000_000)), (20, None)] {
        let (mut kernel, mut server) = open(End::server());
        server.read_at(&mut kernel, 2_000_000, GET);
        server.write(&mut kernel, 2_000_100, 2_000_130, OK);
        let left = 2_000_110 + kept_us;
        server.acked(&mut kernel, left + 100, OK.len() as u32, [2_000_100, left, left + 100], 0);
        change(&mut kernel, |record: &mut SendRecord| record.queued_ns = record.locked_last_ns + kept_us * 1000);
        let run = kernel.run();
        assert_eq!(int(&run.spans[0], "spantap.tcp.response.held_ns"), expected, "{:?}", run.spans);
    }
}

/// A request over a path of 10 ms each way; both ends are on this host, and the answer carries the acknowledgement.
fn both_ends(answer: &[u8], answer_left: [u64; 2]) -> Run {
    let (mut kernel, mut client, mut server) = (Kernel::default(), End::client(), End::server());
    client.open(&mut kernel, 1_000_000);
    server.open(&mut kernel, 1_000_050);
    client.tcp.min_rtt_us = 20_000;
    let at = 2_000_000;
    client.write(&mut kernel, at, at + 30, GET);
    let arrived = (at + 10_020, at + 10_020);
    let read =
        Read { enter: at, arrived, woken: at + 10_030, running: at + 10_040, returned: at + 10_050, ..Read::default() };
    server.read(&mut kernel, read, GET);
    server.write(&mut kernel, at + 40_000, at + 40_030, answer);
    change(&mut kernel, |record: &mut CallRecord| record.transmitted_ns = answer_left[0] * 1000);
    client.acked(&mut kernel, at + 50_030, GET.len() as u32, [at, at + 20, at + 50_020], flag::PIGGYBACKED);
    client.read_at(&mut kernel, at + 50_040, answer);
    let (left, acked) = (answer_left[1], at + 60_050);
    server.acked(&mut kernel, acked, answer.len() as u32, [at + 40_000, left, acked], 0);
    let run = kernel.run();
    assert_eq!(run.spans.len(), 2);
    run
}

fn client_of(run: &Run) -> &Span {
    run.spans.iter().find(|span| span.kind == SpanKind::Client).expect("the client has a span")
}

#[test]
fn the_other_end_on_this_host_measures_what_the_client_can_only_estimate() {
    let run = both_ends(OK, [2_040_020; 2]);
    let sent = "send:10:measured held:5:measured queue:5:measured";
    let expected = format!(
        "{sent} network:10000:measured remote:30000:measured network:10010:measured receive_buffer:10:measured"
    );
    assert_eq!(segments(client_of(&run)), expected);
    let server = run.spans.iter().find(|span| span.kind == SpanKind::Server).expect("the server has a span");
    assert_eq!(server.parent_span_id, Some(client_of(&run).span_id));
}

#[test]
fn a_long_answer_that_still_leaves_while_its_begin_is_back_makes_the_split_derived() {
    let run = both_ends(OK, [0, 2_070_000]);
    let text = segments(client_of(&run));
    let expected = "network:10000:measured remote:29980:derived network:10029:derived receive_buffer:10:measured";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn an_other_end_that_says_nothing_is_waited_for_briefly() {
    let (mut kernel, mut client) = open(End::client());
    End::server().open(&mut kernel, 1_000_050);
    client.write(&mut kernel, 2_000_000, 2_000_030, GET);
    client.acked(&mut kernel, 2_000_080, GET.len() as u32, [2_000_000, 2_000_020, 2_000_080], 0);
    client.read_at(&mut kernel, 2_000_900, OK);
    let told = told_at(&kernel, 300);
    assert!(told[0].0 < 100, "{told:?}");
    assert!(segments(only(&kernel.run())).contains("network:60:measured remote:810:measured"));
}

#[test]
fn a_request_that_was_lost_and_sent_again_spent_that_time_in_the_network() {
    let exchange = |acked: u64, flags: u16| {
        let (mut kernel, mut client) = open(End::client());
        client.write(&mut kernel, 2_000_000, 2_000_030, GET);
        client.resend(&mut kernel, 2_200_020, GET.len() as u32, GET.len() as u32, retransmit::TIMEOUT);
        client.acked(&mut kernel, acked, GET.len() as u32, [2_000_000, 2_000_020, acked], flags);
        client.read_at(&mut kernel, 2_201_030, OK);
        segments(only(&kernel.run()))
    };
    let sent = "send:10:measured held:5:measured queue:5:measured";
    let read = "receive_buffer:10:measured";
    assert_eq!(exchange(2_200_090, 0), format!("{sent} network:200070:measured remote:930:measured {read}"));
    let estimated = "network:200050:derived remote:950:derived";
    assert_eq!(exchange(2_201_020, flag::PIGGYBACKED), format!("{sent} {estimated} {read}"));
}

#[test]
fn a_unix_socket_has_no_network() {
    let unix = |end: End, ids: [u64; 2]| {
        move |kernel: &mut Kernel| {
            let mut record = end.connection(kernel, 1_000_000, what::OPENED);
            (record.family, record.local_port, record.remote_port) = (1, 0, 0);
            record.local_address[..8].copy_from_slice(&ids[0].to_ne_bytes());
            record.remote_address[..8].copy_from_slice(&ids[1].to_ne_bytes());
            record.accepted_ns = 1_000_000_000;
            kernel.emit(&record, &[]);
        }
    };
    let (mut kernel, mut client, mut server) = (
        Kernel::default(),
        End { send_base: 0, receive_base: 0, ..End::client() },
        End { send_base: 0, receive_base: 0, ..End::server() },
    );
    unix(client.clone(), [71, 72])(&mut kernel);
    unix(server.clone(), [72, 71])(&mut kernel);
    client.write(&mut kernel, 2_000_000, 2_000_010, GET);
    server.read_at(&mut kernel, 2_000_025, GET);
    server.write(&mut kernel, 2_000_300, 2_000_310, OK);
    client.read_at(&mut kernel, 2_000_320, OK);
    let run = kernel.run();
    assert_eq!(segments(client_of(&run)), "send:10:measured remote:300:measured receive_buffer:10:measured");
    let server = run.spans.iter().find(|span| span.kind == SpanKind::Server).expect("the server has a span");
    assert_eq!(server.parent_span_id, Some(client_of(&run).span_id));
    assert!(run.losses.is_empty(), "{:?}", run.losses);
}

#[test]
fn bytes_that_moved_without_a_call_are_timed_by_what_the_kernel_did() {
    let (mut kernel, mut client) = open(End { selected: false, ..End::client() });
    let outside = |record: &mut CallRecord| {
        (record.enter_ns, record.woken_ns, record.running_ns) = (0, 0, 0);
        record.flags |= flag::OUTSIDE_CALL;
    };
    client.write(&mut kernel, 2_000_000, 2_000_001, GET);
    change(&mut kernel, outside);
    client.acked(&mut kernel, 2_000_080, GET.len() as u32, [2_000_000, 2_000_020, 2_000_080], flag::OUTSIDE_CALL);
    change(&mut kernel, |record: &mut SendRecord| record.enter_ns = 0);
    client.read_at(&mut kernel, 2_000_900, OK);
    change(&mut kernel, outside);
    client.close(&mut kernel, 2_001_000);
    let run = kernel.run();
    let text = segments(only(&run));
    assert!(text.contains("network:60:measured remote:810:measured receive_buffer:10:derived"), "{text}");
    assert!(!text.contains("send:10:measured"), "{text}");
    assert_eq!(attribute(only(&run), "spantap.start.evidence"), Some(&Value::String("derived".into())));
}

#[test]
fn an_event_loop_waits_for_readiness_and_its_other_work_is_a_busy_reader() {
    let (mut kernel, mut server) = open(End::server());
    server.read_at(&mut kernel, 2_000_000, GET);
    server.write(&mut kernel, 2_000_010, 2_000_020, OK);
    // Asleep in epoll_wait when the second request comes; then other connections have their turn first.
    let at = 3_000_000;
    let poll = Some(Blocked::Poll);
    let read = Read {
        enter: at + 5_000,
        arrived: (at, at),
        woken: at + 7,
        running: at + 47,
        returned: at + 5_010,
        slept_in: poll,
        softirq: 0,
    };
    server.read(&mut kernel, read, GET);
    server.write(&mut kernel, at + 5_010, at + 5_020, OK);
    // The same, but it slept for a lock.
    let at = 4_000_000;
    let lock = Some(Blocked::Lock);
    server.read(
        &mut kernel,
        Read {
            enter: at + 100,
            arrived: (at, at),
            woken: at + 70,
            running: at + 80,
            returned: at + 110,
            slept_in: lock,
            softirq: 0,
        },
        GET,
    );
    server.write(&mut kernel, at + 110, at + 120, OK);
    let run = kernel.run();
    let polled = segments(&run.spans[1]);
    assert!(polled.starts_with("wakeup:7:measured run_queue:40:measured receive_buffer:4963:measured"), "{polled}");
    assert_eq!((total(&run.spans[2], SegmentName::ReceiveBuffer), total(&run.spans[2], SegmentName::Wakeup)), (100, 0));
}

#[test]
fn a_loss_is_told_by_the_segments_in_whose_time_it_was() {
    let (mut kernel, mut client) = open(End::client());
    client.write(&mut kernel, 2_000_000, 2_000_030, GET);
    client.acked(&mut kernel, 2_000_080, GET.len() as u32, [2_000_000, 2_000_020, 2_000_080], 0);
    kernel.header(1, 0);
    client.read_at(&mut kernel, 2_000_900, OK);
    let run = kernel.run();
    let lost: Vec<_> = only(&run).segments.iter().map(|segment| (segment.name.name(), segment.lost_records)).collect();
    let expected = [("send", 0), ("held", 0), ("queue", 0), ("network", 1), ("remote", 1), ("receive_buffer", 1)];
    assert_eq!(lost, expected);
    assert_eq!(run.losses.get(Loss::KernelRecordsLost), 1);
}

#[test]
fn too_many_that_wait_are_settled_early_and_counted() {
    let (mut kernel, mut server) = open(End::server());
    for index in 0..40 {
        let at = 2_000_000 + index * 100;
        server.read_at(&mut kernel, at, GET);
        server.write(&mut kernel, at + 30, at + 40, OK);
    }
    let run = kernel.run_with(PipelineConfig { pending_exchanges_max: 8, ..Default::default() });
    assert_eq!(run.spans.len(), 40);
    assert_eq!(run.losses.get(Loss::SettledEarly), 32);
}
