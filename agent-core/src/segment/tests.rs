use std::collections::BTreeMap;

use super::*;
use crate::{
    span::{Evidence::Measured, SegmentName::*, Span, SpanKind},
    testing::{End, Kernel, Read, change, segments, total},
};
use agent_common::{
    connection::{ConnectionRecord, change, role},
    header::kind,
    message::{CallRecord, SendRecord, flag},
    sched::{Blocked, NEVER_SLEPT},
};

mod random;

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// One exchange, as its client's kernel tells of it; with each kind of time in it.
fn client_records() -> Kernel {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    client.write(&mut kernel, 1_000_300, 1_000_330, &GET[..9]);
    client.write(&mut kernel, 1_000_400, 1_000_430, &GET[9..]);
    client.acked(&mut kernel, 1_000_480, GET.len() as u32 - 9, [1_000_400, 1_000_420, 1_000_480], 0);
    let (enter, arrived, softirq) = (1_000_440, (1_000_900, 1_001_000), 1_000_895);
    let read =
        Read { enter, arrived, softirq, woken: 1_001_010, running: 1_001_250, returned: 1_001_300, slept_in: None };
    client.read(&mut kernel, read, OK);
    kernel
}

/// The same of its server: it was accepted late, slept for a lock and a disk, and waited for a CPU, in part throttled.
fn server_records() -> Kernel {
    let (mut kernel, mut server) = (Kernel::default(), End::server());
    server.open(&mut kernel, 1_999_860);
    let arrived = (2_000_000, 2_000_020);
    let read = Read {
        enter: 1_999_000,
        arrived,
        woken: 2_000_030,
        running: 2_000_050,
        returned: 2_000_060,
        ..Read::default()
    };
    server.read(&mut kernel, read, GET);
    (server.queued, server.throttled) = (server.queued + 100, 70);
    (server.slept[Blocked::Lock as usize], server.slept[Blocked::Disk as usize]) = (30, 20);
    server.write(&mut kernel, 2_000_360, 2_001_000, &OK[..9]);
    server.write(&mut kernel, 2_001_100, 2_001_200, &OK[9..]);
    kernel
}

fn only(kernel: &Kernel) -> Option<Span> {
    let run = kernel.run();
    assert!(run.spans.len() + run.flushed.len() <= 1);
    let span = run.spans.into_iter().next()?;
    segments(&span);
    Some(span)
}

fn measured(span: &Span) -> BTreeMap<SegmentName, u64> {
    let mut sums = BTreeMap::new();
    for segment in span.segments.iter().filter(|segment| segment.evidence == Measured) {
        *sums.entry(segment.name).or_default() += segment.duration_ns;
    }
    sums
}

/// `name`: the field; the change takes it away from each record of its kind.
type Mutation = (&'static str, u8, fn(&mut CallRecord, &mut SendRecord, &mut ConnectionRecord));

const MUTATIONS: &[Mutation] = &[
    ("enter", kind::CALL, |call, _, _| call.enter_ns = 0),
    ("arrival_first", kind::CALL, |call, _, _| call.arrival_first_ns = 0),
    ("arrival_last", kind::CALL, |call, _, _| call.arrival_last_ns = 0),
    ("out_of_order", kind::CALL, |call, _, _| call.flags |= flag::OUT_OF_ORDER),
    ("merged", kind::CALL, |call, _, _| call.flags |= flag::MERGED),
    ("inferred_range", kind::CALL, |call, _, _| call.flags |= flag::INFERRED_RANGE),
    ("stale", kind::CALL, |call, _, _| call.arrival_end = call.start.wrapping_sub(10)),
    ("woken", kind::CALL, |call, _, _| call.woken_ns = 0),
    ("running", kind::CALL, |call, _, _| call.running_ns = 0),
    ("sched", kind::CALL, |call, _, _| call.flags &= !flag::SCHED),
    ("slept_in", kind::CALL, |call, _, _| call.slept_in = NEVER_SLEPT),
    ("softirq", kind::CALL, |call, _, _| call.softirq_ns = 0),
    ("locked_last", kind::SEND, |_, send, _| send.locked_last_ns = 0),
    ("device_queue", kind::SEND, |_, send, _| (send.queued_ns, send.queue_ns) = (0, 0)),
    ("transmitted", kind::SEND, |_, send, _| send.transmitted_ns = 0),
    ("acked", kind::SEND, |_, send, _| send.acked_ns = 0),
    ("locked", kind::SEND, |_, send, _| send.locked_ns = 0),
    ("done", kind::SEND, |_, send, _| send.done_ns = 0),
    ("rtt", kind::SEND, |_, send, _| (send.tcp.min_rtt_us, send.tcp.srtt_us) = (u32::MAX, 0)),
    ("piggybacked", kind::SEND, |_, send, _| send.flags |= flag::PIGGYBACKED),
    ("opened", kind::CONNECTION, |_, _, connection| connection.opened_ns = 0),
    ("established", kind::CONNECTION, |_, _, connection| connection.established_ns = 0),
    ("accepted", kind::CONNECTION, |_, _, connection| connection.accepted_ns = 0),
];

/// Changes a record where it lies.
fn edit<T: agent_common::Plain>(bytes: &mut [u8], change: impl FnOnce(&mut T)) {
    let mut record = agent_common::read(bytes).unwrap();
    change(&mut record);
    bytes[..size_of::<T>()].copy_from_slice(agent_common::bytes_of(&record));
}

fn mutated(kernel: &Kernel, (_, kind, change): &Mutation) -> Kernel {
    let mut kernel = kernel.clone();
    for bytes in kernel.records.iter_mut().filter(|bytes| bytes[14] == *kind) {
        let (mut call, mut send, mut connection) = Default::default();
        match *kind {
            kind::CALL => edit(bytes, |record| change(record, &mut send, &mut connection)),
            kind::SEND => edit(bytes, |record| change(&mut call, record, &mut connection)),
            _ => edit(bytes, |record| change(&mut call, &mut send, record)),
        }
    }
    kernel
}

#[test]
fn time_that_is_not_observed_never_becomes_a_neighbours_measured() {
    for kernel in [client_records(), server_records()] {
        let whole = measured(&only(&kernel).unwrap());
        assert!(whole.len() >= 5, "{whole:?}");
        for mutation in MUTATIONS {
            let Some(span) = only(&mutated(&kernel, mutation)) else { panic!("{}: no span", mutation.0) };
            for (name, ns) in measured(&span) {
                let mut before = whole.get(&name).copied().unwrap_or(0);
                before += match (mutation.0, name) {
                    // The way from the network interface to TCP is then part of what comes before.
                    ("softirq", Remote) => 5_000,
                    // Bytes do arrive while the connection waits to be accepted.
                    ("accepted", Transfer) => 10_000,
                    _ => 0,
                };
                assert!(ns <= before, "without {}: {name:?} grew: {}", mutation.0, segments(&span));
            }
        }
    }
}

#[test]
fn every_hook_of_the_client_has_its_segment() {
    let kernel = client_records();
    let without = |name: &str| {
        let mutation = MUTATIONS.iter().find(|(other, ..)| *other == name).unwrap();
        segments(&only(&mutated(&kernel, mutation)).unwrap())
    };
    let head = "connect:100:measured application:200:derived send:30:measured application:70:measured";
    let sent = format!("{head} send:10:measured held:5:measured queue:5:measured");
    let answered = "network:60:measured remote:415:measured softirq:5:derived";
    let tail = "transfer:100:measured wakeup:10:measured run_queue:240:measured receive_buffer:50:measured";
    assert_eq!(segments(&only(&kernel).unwrap()), format!("{sent} {answered} {tail}"));
    let estimated = "network:50:derived remote:425:derived softirq:5:derived";
    assert_eq!(without("acked"), format!("{sent} {estimated} {tail}"));
    assert_eq!(without("piggybacked"), without("acked"));
    let unseen = "send:10:measured send:20:derived network:50:derived remote:415:derived softirq:5:derived";
    assert_eq!(without("transmitted"), format!("{head} {unseen} {tail}"));
    assert_eq!(without("locked_last"), format!("{head} send:15:derived queue:5:measured {answered} {tail}"));
    let unqueued = "send:10:measured held:10:derived";
    assert_eq!(without("device_queue"), format!("{head} {unqueued} {answered} {tail}"));
    assert_eq!(without("softirq"), format!("{sent} network:60:measured remote:420:measured {tail}"));
    assert_eq!(without("arrival_first"), format!("{sent} unexplained:880:derived"));
    let unsure = "network:60:measured remote:415:derived softirq:5:derived transfer:100:derived wakeup:10:derived";
    let read = "run_queue:240:measured receive_buffer:50:measured";
    assert_eq!(without("out_of_order"), format!("{sent} {unsure} {read}"));
    assert_eq!(without("merged"), without("out_of_order"));
    assert_eq!(without("stale"), without("arrival_first"));
    assert_eq!(without("inferred_range"), without("arrival_first"));
    assert!(without("slept_in").contains("transfer:100:measured wakeup:10:derived run_queue"));
    assert!(without("enter").contains("transfer:100:measured wakeup:10:derived run_queue"));
    assert!(without("woken").ends_with("transfer:100:measured unexplained:300:derived"));
    assert!(without("running").ends_with("transfer:100:measured wakeup:10:measured unexplained:290:derived"));
}

/// A request of one write call, of which only the entry into TCP is seen: `queued` in the device's queue, left at 2,000,200 us.
fn entry_seen_only(queued_us: u64, queue_us: u64, before_return_us: u64) -> String {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    client.write(&mut kernel, 2_000_000, 2_000_050, GET);
    client.acked(&mut kernel, 2_000_260, GET.len() as u32, [2_000_000, 2_000_200, 2_000_260], 0);
    edit(kernel.records.last_mut().unwrap(), |record: &mut SendRecord| {
        (record.locked_last_ns, record.queued_ns) = (0, queued_us * 1000);
        (record.queue_ns, record.queue_before_last_ns) = (queue_us * 1000, before_return_us * 1000);
    });
    client.read_at(&mut kernel, 2_000_300, OK);
    let text = segments(&only(&kernel).unwrap());
    text.split(" network").next().unwrap().to_owned()
}

#[test]
fn where_only_the_entry_into_tcp_is_seen_the_devices_queue_is_still_told_from_held() {
    // Given to the device within the call, or after it; the amount counts from the entry on.
    assert_eq!(entry_seen_only(2_000_010, 190, 40), "send:10:derived queue:190:measured");
    assert_eq!(entry_seen_only(2_000_150, 90, 40), "send:50:derived held:100:derived queue:50:measured");
    assert_eq!(entry_seen_only(0, 0, 0), "send:50:derived held:150:derived");
    assert_eq!(entry_seen_only(2_000_150, 900, 0), "send:50:derived held:150:derived");
}

#[test]
fn every_hook_of_the_server_has_its_segment() {
    let kernel = server_records();
    let without = |name: &str| {
        let mutation = MUTATIONS.iter().find(|(other, ..)| *other == name).unwrap();
        segments(&only(&mutated(&kernel, mutation)).unwrap())
    };
    let read = "run_queue:20:measured receive_buffer:10:measured";
    let handled = "application:150:measured off_cpu/lock:30:measured off_cpu/disk:20:measured \
                   run_queue/throttled:70:measured run_queue:30:measured";
    let written = "send:640:measured application:100:measured send:100:measured";
    let whole = format!("accept_queue:10:measured transfer:10:measured wakeup:10:measured {read} {handled} {written}");
    assert_eq!(segments(&only(&kernel).unwrap()), whole);
    let unaccepted = format!("transfer:20:measured wakeup:10:derived {read} {handled} {written}");
    assert_eq!(without("accepted"), unaccepted);
    assert!(without("sched").contains("unexplained:40:derived application:300:derived send:640:measured"));
}

#[test]
fn a_delayed_acknowledgement_is_not_the_network() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    client.write(&mut kernel, 2_000_000, 2_000_010, GET);
    client.acked(&mut kernel, 2_040_020, GET.len() as u32, [2_000_000, 2_000_020, 2_040_020], 0);
    client.read_at(&mut kernel, 2_060_020, OK);
    let text = segments(&only(&kernel).unwrap());
    assert!(
        text.starts_with("send:10:measured held:5:measured queue:5:measured network:50:derived remote:59940:derived"),
        "{text}"
    );
}

#[test]
fn how_long_a_softirq_was_raised_is_believed_if_that_is_little_or_most_of_the_time() {
    let raised = |softirq| {
        let (mut kernel, mut client) = (Kernel::default(), End::client());
        client.open(&mut kernel, 1_000_000);
        client.write(&mut kernel, 2_000_000, 2_000_010, GET);
        client.acked(&mut kernel, 2_000_080, GET.len() as u32, [2_000_000, 2_000_020, 2_000_080], 0);
        let (enter, arrived) = (2_000_050, (2_010_080, 2_010_080));
        let (woken, returned) = (2_010_080, 2_010_090);
        let read = Read { enter, arrived, softirq, woken, running: woken, returned, slept_in: None };
        client.read(&mut kernel, read, OK);
        segments(&only(&kernel).unwrap())
    };
    let check = |softirq, expected| {
        let text = raised(softirq);
        assert!(text.contains(&format!("network:60:measured {expected} receive_buffer")), "{text}");
    };
    check(2_009_080, "remote:9000:measured softirq:1000:derived");
    check(2_007_080, "remote:10000:measured");
    check(2_001_080, "remote:1000:derived softirq:9000:derived");
    check(2_000_010, "remote:10000:measured");
}

#[test]
fn a_slow_path_is_the_network_even_if_no_faster_one_is_known() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    client.write(&mut kernel, 2_000_000, 2_000_010, GET);
    // A path of 30 ms: the smallest round trip of the connection is as long.
    client.acked(&mut kernel, 2_030_020, GET.len() as u32, [2_000_000, 2_000_020, 2_030_020], 0);
    edit(kernel.records.last_mut().unwrap(), |record: &mut SendRecord| record.tcp.min_rtt_us = 29_800);
    client.read_at(&mut kernel, 2_090_020, OK);
    let text = segments(&only(&kernel).unwrap());
    assert!(
        text.starts_with(
            "send:10:measured held:5:measured queue:5:measured network:30000:measured remote:59990:measured"
        ),
        "{text}"
    );
}

#[test]
fn a_late_reader_leaves_bytes_in_the_receive_buffer() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    client.write(&mut kernel, 2_000_000, 2_000_010, GET);
    client.acked(&mut kernel, 2_000_080, GET.len() as u32, [2_000_000, 2_000_020, 2_000_080], 0);
    // It slept for something else and came 70 ms later: the wake-up was not by these bytes.
    let (enter, arrived) = (2_070_500, (2_000_500, 2_000_500));
    client.read(
        &mut kernel,
        Read { enter, arrived, woken: 2_070_400, running: 2_070_450, returned: 2_070_510, ..Read::default() },
        OK,
    );
    let span = only(&kernel).unwrap();
    assert_eq!((total(&span, ReceiveBuffer), total(&span, RunQueue)), (69_960, 50), "{}", segments(&span));
}

/// Changes the last record of a call.
fn change_last(kernel: &mut Kernel, change: impl FnOnce(&mut CallRecord)) {
    edit(kernel.records.iter_mut().rev().find(|bytes| bytes[14] == kind::CALL).unwrap(), change);
}

/// A server's span: its request came at 2,000,000 us and was read from 2,070,500 to 2,070,510 us.
fn read_late(change: impl FnOnce(&mut CallRecord)) -> String {
    let (mut kernel, mut server) = (Kernel::default(), End::server());
    server.open(&mut kernel, 1_000_000);
    let (arrived, returned) = ((2_000_000, 2_000_000), 2_070_510);
    let read = Read { enter: 2_070_500, arrived, woken: 1_999_000, running: 1_999_010, returned, ..Read::default() };
    server.read(&mut kernel, read, GET);
    change_last(&mut kernel, change);
    server.write(&mut kernel, 2_070_510, 2_070_550, OK);
    segments(&only(&kernel).unwrap())
}

#[test]
fn a_reader_that_had_no_cpu_was_not_busy() {
    let queued = |from_us: u64, until_us: u64, throttled_us: u64| {
        read_late(|call| {
            (call.queued_from_ns, call.queued_until_ns) = (from_us * 1000, until_us * 1000);
            call.queued_throttled_ns = throttled_us * 1000;
        })
    };
    let rest = "receive_buffer:10:measured send:40:measured";
    assert_eq!(queued(0, 0, 0), "receive_buffer:70510:measured send:40:measured");
    assert_eq!(
        queued(2_010_000, 2_060_000, 45_000),
        "receive_buffer:10000:measured run_queue/throttled:45000:measured run_queue:5000:measured \
         receive_buffer:10510:measured send:40:measured"
    );
    // It had begun before the bytes came.
    assert_eq!(queued(1_990_000, 2_070_500, 45_000), format!("run_queue:70500:measured {rest}"));
    assert_eq!(queued(1_990_000, 1_999_500, 0), queued(0, 0, 0));
}

#[test]
fn a_poll_that_was_woken_much_later_waited_for_something_else() {
    let polled = |woken_us: u64| {
        read_late(|call| {
            (call.woken_ns, call.running_ns) = (woken_us * 1000, woken_us * 1000 + 100_000);
            call.slept_in = Blocked::Poll as u8;
        })
    };
    assert!(polled(2_000_900).starts_with("wakeup:900:measured run_queue:100:measured receive_buffer"));
    assert!(polled(2_060_000).starts_with("receive_buffer:60000:derived run_queue:100:measured receive_buffer"));
}

#[test]
fn what_was_not_seen_of_a_thread_is_unexplained_and_the_rest_stays() {
    let mut kernel = server_records();
    for (number, bytes) in kernel.records.iter_mut().filter(|bytes| bytes[14] == kind::CALL).enumerate() {
        // 60 us between the read and the first write, 200 within that.
        let unseen_ns = [(0, 0), (60_000, 260_000), (260_000, 260_000)][number];
        edit(bytes, |record: &mut CallRecord| (record.unseen_enter_ns, record.unseen_exit_ns) = unseen_ns);
    }
    let text = segments(&only(&kernel).unwrap());
    let handled = "application:90:measured off_cpu/lock:30:measured off_cpu/disk:20:measured unexplained:60:derived \
                   run_queue/throttled:70:measured run_queue:30:measured";
    assert!(text.contains(&format!("{handled} send:440:measured unexplained:200:derived application:100")), "{text}");
}

#[test]
fn a_thread_that_waited_for_a_cpu_after_connecting_was_not_the_application() {
    let mut kernel = Kernel::default();
    let mut client = End::client();
    client.open(&mut kernel, 1_000_000);
    // The connection stands at 1,000,100 us; the write comes long after.
    client.write(&mut kernel, 1_090_300, 1_090_330, GET);
    change_last(&mut kernel, |call| {
        (call.woken_ns, call.running_ns, call.slept_in) = (1_000_110_000, 1_090_110_000, Blocked::Poll as u8);
    });
    client.acked(&mut kernel, 1_090_380, GET.len() as u32, [1_090_300, 1_090_320, 1_090_380], 0);
    client.read_at(&mut kernel, 1_090_500, OK);
    let text = segments(&only(&kernel).unwrap());
    let expected = "connect:100:measured application:10:derived run_queue:90000:measured application:190:derived send";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn of_a_write_that_went_on_behind_the_request_no_time_is_the_requests() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    let two = [GET, GET].concat();
    client.write(&mut kernel, 2_000_000, 2_000_010, &two);
    client.acked(&mut kernel, 2_000_900, two.len() as u32, [2_000_000, 2_000_800, 2_000_860], 0);
    client.read_at(&mut kernel, 2_000_300, OK);
    client.read_at(&mut kernel, 2_001_300, OK);
    let run = kernel.run();
    let text = segments(&run.spans[0]);
    assert!(!text.contains("held:5:measured") && !text.contains("network:60:measured"), "{text}");
    let last = run.spans.iter().map(segments).find(|text| text.contains("network:60:measured"));
    assert!(last.is_some(), "{:?}", run.spans.iter().map(segments).collect::<Vec<_>>());
}

#[test]
fn a_request_whose_arrival_is_unknown_starts_when_it_is_read() {
    let (mut kernel, mut server) = (Kernel::default(), End::server());
    server.open(&mut kernel, 1_000_000);
    server.read(&mut kernel, Read { enter: 1_500_000, returned: 2_000_060, ..Read::default() }, GET);
    server.write(&mut kernel, 2_000_360, 2_000_400, OK);
    let span = only(&kernel).unwrap();
    assert_eq!(segments(&span), "application:300:measured send:40:measured");
    let evidence = crate::testing::attribute(&span, "spantap.start.evidence");
    assert_eq!(evidence, Some(&crate::span::Value::String("derived".into())));
}

#[test]
fn a_request_that_arrived_out_of_order_has_no_measured_start() {
    let (_, _, out_of_order) = MUTATIONS.iter().find(|(name, ..)| *name == "out_of_order").unwrap();
    let span = only(&mutated(&server_records(), &("", kind::CALL, *out_of_order))).unwrap();
    let text = segments(&span);
    let expected = "accept_queue:10:derived transfer:10:derived wakeup:10:derived run_queue:20:measured";
    assert!(text.starts_with(expected), "{text}");
    let evidence = crate::testing::attribute(&span, "spantap.start.evidence");
    assert_eq!(evidence, Some(&crate::span::Value::String("derived".into())));
}

#[test]
fn what_arrived_before_a_thread_that_never_slept_called_lay_in_the_buffer() {
    let read_by = |enter| {
        let (mut kernel, mut server) = (Kernel::default(), End::server());
        server.open(&mut kernel, 1_000_000);
        server.read(
            &mut kernel,
            Read { enter, arrived: (2_000_000, 2_000_000), returned: 2_000_060, ..Read::default() },
            GET,
        );
        server.write(&mut kernel, 2_000_060, 2_000_100, OK);
        segments(&only(&kernel).unwrap())
    };
    assert_eq!(read_by(2_000_050), "receive_buffer:50:derived receive_buffer:10:measured send:40:measured");
    assert_eq!(read_by(1_999_000), "unexplained:60:derived send:40:measured");
}

#[test]
fn a_reader_that_pauses_while_bytes_lie_ready_is_no_slow_transfer() {
    let post = b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n";
    let (mut kernel, mut server) = (Kernel::default(), End::server());
    server.open(&mut kernel, 1_000_000);
    let read = |enter, arrived, returned| Read {
        enter,
        arrived: (arrived, arrived),
        woken: 1_900_000,
        running: 1_900_000,
        returned,
        ..Read::default()
    };
    server.read(&mut kernel, read(2_000_000, 2_000_000, 2_000_010), post);
    // It sleeps, and its window closes; what is missing comes only when it reads on.
    server.slept[Blocked::Sleep as usize] += 45_000;
    server.read(&mut kernel, read(2_050_010, 2_000_005, 2_050_020), b"abc");
    // It waits for the rest.
    server.read(&mut kernel, read(2_050_030, 2_070_000, 2_070_010), b"defghi");
    server.write(&mut kernel, 2_070_020, 2_070_030, OK);
    let text = segments(&only(&kernel).unwrap());
    let expected = "transfer:10:measured application:5000:measured off_cpu/sleep:45000:measured \
                    transfer:19990:measured";
    assert!(text.starts_with(expected), "{text}");
}

/// Of an answer whose middle is lost the rest is here, and is sent again 200 ms later; the reader takes each part at once.
#[test]
fn what_lies_behind_a_hole_does_not_wait_for_its_reader() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    client.write(&mut kernel, 2_000_000, 2_000_030, GET);
    client.acked(&mut kernel, 2_000_100, GET.len() as u32, [2_000_000, 2_000_020, 2_000_080], 0);
    let read = |enter, arrived: (u64, u64)| Read {
        enter,
        arrived,
        woken: arrived.1 + 1,
        running: arrived.1 + 2,
        returned: enter + 10,
        slept_in: Some(Blocked::Poll),
        ..Read::default()
    };
    client.read(
        &mut kernel,
        read(2_010_003, (2_010_000, 2_010_000)),
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    );
    client.read(&mut kernel, read(2_210_003, (2_010_001, 2_210_000)), b"def");
    change_last(&mut kernel, |call| (call.flags, call.behind_hole_us) = (call.flags | flag::OUT_OF_ORDER, 199_999));
    client.read(&mut kernel, read(2_220_003, (2_220_000, 2_220_000)), b"ghi");
    let text = segments(&only(&kernel).unwrap());
    assert!(text.contains("transfer:210000:"), "{text}");
}

/// A handler that computes for 300 us, asks another server, which takes 5 ms, and the thread another 40 us to get a CPU, computes for
/// 700 us, and waits for a lock for 200 us. Before it asks it waits for a lock for `early_us`. What it asks tells of `more_ns` more
/// sleep than there was.
fn handler(asks: bool, early_us: u64, more_ns: u64) -> Kernel {
    let (mut kernel, mut server) = (Kernel::default(), End::server());
    server.open(&mut kernel, 1_000_000);
    let mut behind = End { id: 7, local: 50_000, peer: 5_432, pid: server.pid, ..End::client() };
    behind.open(&mut kernel, 1_000_100);
    server.read_at(&mut kernel, 2_000_000, GET);
    behind.queued = server.queued;
    behind.slept[Blocked::Lock as usize] += early_us;
    let asleep = Blocked::Socket as usize;
    if asks {
        behind.write(&mut kernel, 2_000_300, 2_000_310, b"?");
        behind.slept[asleep] += 5_000;
        let read = Read {
            enter: 2_000_320,
            arrived: (2_005_320, 2_005_320),
            woken: 2_005_320,
            running: 2_005_360,
            returned: 2_005_370,
            ..Read::default()
        };
        behind.read(&mut kernel, read, b"!");
        change(&mut kernel, |record: &mut CallRecord| {
            record.off_cpu_inside_ns = 5_000_000;
            record.off_cpu_ns[asleep] += more_ns;
        });
    } else {
        behind.slept[asleep] += 5_000;
        behind.queued += 40;
    }
    (server.slept, server.queued) = (behind.slept, behind.queued);
    server.slept[Blocked::Lock as usize] += 200;
    server.write(&mut kernel, 2_006_270, 2_006_280, OK);
    kernel
}

fn handled(kernel: &Kernel) -> Span {
    let spans = kernel.run().spans;
    spans.into_iter().find(|span| span.kind == SpanKind::Server).expect("the handler's span")
}

#[test]
fn what_a_handler_did_comes_in_the_order_in_which_it_did_it() {
    let told = |asks| segments(&handled(&handler(asks, 0, 0))).replace(":measured", "");
    // The call itself takes ten microseconds, as do the moments before and after it.
    let in_order = "application:330 off_cpu/socket:5000 run_queue:40 application:700 off_cpu/lock:200";
    // What nothing is known of but the sums.
    let summed = "application:1030 off_cpu/lock:200 off_cpu/socket:5000 run_queue:40";
    assert!(told(true).contains(in_order), "{}", told(true));
    assert!(told(false).contains(summed), "{}", told(false));
}

/// Less than a hundredth of it all has no tile where it was, but goes to a call's entry or return.
#[test]
fn a_short_wait_does_not_move_the_long_one_after_it() {
    let told = segments(&handled(&handler(true, 50, 0))).replace(":measured", "");
    assert!(told.contains("application:270 off_cpu/lock:50 application:10 off_cpu/socket:5000 run_queue:40"), "{told}");
}

/// The read from the other server claims more sleep than the whole handler had.
#[test]
fn waypoints_that_contradict_the_calls_change_nothing() {
    let told = segments(&handled(&handler(true, 0, 1_000_000)));
    assert!(told.contains("off_cpu/lock:200:measured off_cpu/socket:5000:measured run_queue:40"), "{told}");
}

#[test]
fn different_threads_make_the_application_derived() {
    let (mut kernel, mut server) = (Kernel::default(), End::server());
    server.open(&mut kernel, 1_000_000);
    server.read_at(&mut kernel, 2_000_000, GET);
    server.pid = 99;
    server.write(&mut kernel, 2_000_300, 2_000_310, OK);
    assert!(segments(&only(&kernel).unwrap()).contains("application:300:derived"));
}

#[test]
fn many_writes_are_summed_by_kind() {
    let (mut kernel, mut server) = (Kernel::default(), End::server());
    server.open(&mut kernel, 1_000_000);
    server.read_at(&mut kernel, 2_000_000, GET);
    server.write(&mut kernel, 2_000_010, 2_000_020, b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n");
    for index in 0..9000 {
        server.write(&mut kernel, 2_000_100 + index * 10, 2_000_103 + index * 10, b"x");
    }
    let span = only(&kernel).unwrap();
    assert!(span.segments.len() <= TILES_MAX, "{}", span.segments.len());
    assert_eq!(total(&span, Send), 10 + 9000 * 3);
    assert_eq!(total(&span, Application), 10 + 80 + 8999 * 7);
}

#[test]
fn a_connect_is_only_that_of_the_role_that_connects() {
    let (mut kernel, mut server) = (Kernel::default(), End::server());
    server.role = role::SERVER;
    let mut record = server.connection(&mut kernel, 1_000_000, change::OPENED);
    (record.opened_ns, record.established_ns) = (1_000_000_000, 1_000_100_000);
    kernel.emit(&record, &[]);
    server.read_at(&mut kernel, 1_000_300, GET);
    server.write(&mut kernel, 1_000_400, 1_000_410, OK);
    assert!(!segments(&only(&kernel).unwrap()).contains("connect"));
}
