//! Tiles cover a span exactly, whatever times the records claim.

use agent_common::{
    connection::TcpSnapshot,
    header::RecordHeader,
    message::{CallRecord, SendRecord, flag},
    sched::{BLOCKED, Blocked},
};
use proptest::prelude::*;

use super::super::*;
use crate::{
    flow::timing::{Arrival, Between, CallTiming, Resent, SendTiming, Totals, Waits},
    span::{Evidence::Measured, SegmentName::OffCpu},
};

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1000_u64..2000, any::<u64>()]
}

fn timings() -> impl Strategy<Value = Timings> {
    let ranges = || (0_u64..20, 1_u64..8);
    let totals = || prop_oneof![Just(0), 0_u64..300, any::<u64>()];
    let call = (
        ranges(),
        prop::array::uniform4(time()),
        prop::array::uniform4(totals()),
        prop::array::uniform6(totals()),
        any::<(bool, bool)>(),
        (0_u32..3, 0_u8..7),
        prop::array::uniform5(totals()),
    );
    let call =
        call.prop_map(|((start, length), times, queued, off_cpu_ns, (sched, outside), (tid, slept_in), more)| {
            let [enter_ns, return_ns, woken_ns, running_ns] = times;
            let [between_ns, run_queue_ns, throttled_ns, transmitted_ns, off_cpu_inside_ns] = more;
            CallTiming {
                start,
                end: start + length,
                enter_ns,
                return_ns,
                woken_ns,
                running_ns,
                totals: Totals {
                    run_queue_ns: [queued[0], queued[1]],
                    throttled_ns: [queued[2], queued[3]],
                    unseen_ns: [0; 2],
                    off_cpu_ns,
                    off_cpu_inside_ns,
                },
                transmitted_ns,
                sched,
                outside,
                tid,
                slept_in,
                merged: Some(Box::new(Between {
                    ns: between_ns,
                    waits: Waits { run_queue_ns, throttled_ns, ..Waits::default() },
                })),
                ..CallTiming::default()
            }
        });
    let send =
        (ranges(), prop::array::uniform6(time()), prop::array::uniform2(totals()), any::<[u32; 2]>(), any::<u16>());
    let send = send.prop_map(|((start, length), times, queue_ns, [srtt_us, min_rtt_us], flags)| {
        let [locked_ns, locked_last_ns, done_ns, queued_ns, transmitted_ns, acked_ns] = times;
        let record = SendRecord {
            locked_ns,
            locked_last_ns,
            done_ns,
            queued_ns,
            queue_ns: queue_ns[0],
            queue_before_last_ns: queue_ns[1],
            transmitted_ns,
            acked_ns,
            tcp: TcpSnapshot { srtt_us, min_rtt_us, ..Default::default() },
            flags,
            ..Default::default()
        };
        SendTiming { start, end: start + length, record }
    });
    let arrival = (ranges(), prop::array::uniform3(time()))
        .prop_map(|((start, length), times)| Arrival::new(start, start + length, times, 0, 0));
    let again = (ranges(), time()).prop_map(|((start, length), time_ns)| Resent {
        start,
        end: start + length,
        time_ns,
        segments: 1,
        reason: 0,
    });
    let several = (
        prop::collection::vec(call, 0..5),
        prop::collection::vec(send, 0..4),
        prop::collection::vec(arrival, 0..4),
        prop::collection::vec(again, 0..2),
    );
    several.prop_map(|(calls, sends, arrivals, again)| {
        let mut timings = Timings::default();
        calls.into_iter().for_each(|call| timings.calls.insert(call));
        sends.into_iter().for_each(|send| timings.sends.insert(send));
        arrivals.into_iter().for_each(|arrival| timings.arrivals.insert(arrival));
        again.into_iter().for_each(|resent| timings.resent.insert(resent));
        timings
    })
}

fn waypoint() -> impl Strategy<Value = Waypoint> {
    let totals = || prop_oneof![3 => Just(0), 1 => 0_u64..300];
    let numbers = (time(), time(), prop::array::uniform5(totals()), prop::array::uniform6(totals()), 0_u32..3);
    numbers.prop_map(|(enter_ns, time_ns, [queued, waited, throttled, unseen, off_cpu_inside_ns], off_cpu_ns, tid)| {
        Waypoint::new(&CallRecord {
            header: RecordHeader { time_ns, ..RecordHeader::default() },
            enter_ns,
            run_queue_enter_ns: queued,
            run_queue_exit_ns: queued + waited,
            throttled_exit_ns: throttled,
            unseen_exit_ns: unseen,
            off_cpu_ns,
            off_cpu_inside_ns,
            tid,
            ..CallRecord::default()
        })
    })
}

fn step() -> impl Strategy<Value = Option<Step>> {
    prop::option::of((time(), time()).prop_map(|(start_ns, end_ns)| Step { start_ns, end_ns, evidence: Measured }))
}

fn moment() -> impl Strategy<Value = Option<Moment>> {
    prop::option::of((time(), any::<bool>()).prop_map(|(ns, exact)| Moment { ns, exact }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tiles_cover_every_span_exactly_whatever_the_times_say(
        (request_side, response_side) in (timings(), timings()),
        (request, response) in ((0_u64..20, 0_u64..8), prop::option::of((0_u64..20, 0_u64..8))),
        (before, accepted_ns, other_end) in ([step(), step(), step()], prop::option::of(time()), [moment(), moment()]),
        ((cut_ns, unread_from), exact, direct) in
            ((prop::option::of(time()), prop::option::of(0_u64..28)), any::<bool>(), prop::bool::weighted(0.1)),
        waypoints in prop::collection::vec(waypoint(), 0..4),
    ) {
        let parts = Parts {
            request: request.0..request.0 + request.1,
            response: response.map(|(start, length)| start..start + length),
            request_side: &request_side,
            response_side: &response_side,
            before: Before { dns: before[0], connect: before[1], tls: before[2] },
            accepted_ns,
            other_end: OtherEnd { arrived: other_end[0], left: other_end[1] },
            direct,
            cut_ns,
            unread_from,
            moved_nothing: response_side.calls.first(),
            waypoints: &waypoints,
            exact,
        };
        let timelines = [client(&parts), server(&parts)];
        prop_assert_eq!(timelines[0].is_some(), is_timed(&parts, Role::Client));
        prop_assert_eq!(timelines[1].is_some(), is_timed(&parts, Role::Server));
        for timeline in timelines.into_iter().flatten() {
            let mut at = 0;
            for segment in &timeline.segments {
                prop_assert_eq!(segment.offset_ns, at);
                prop_assert!(segment.duration_ns > 0);
                at += segment.duration_ns;
            }
            prop_assert_eq!(at, timeline.end_ns - timeline.start_ns);
            prop_assert!(timeline.segments.len() <= TILES_MAX);
        }
    }
}

/// A thread's calls: for each how long it computed, slept, waited for a CPU and was not seen before it, and the same within it.
fn calls() -> impl Strategy<Value = Vec<([u64; 4], [u64; 4])>> {
    let amounts = || prop::array::uniform4(prop_oneof![Just(0), 1_u64..1_000]);
    prop::collection::vec((amounts(), amounts()), 2..8)
}

/// As records, one thread's, with totals that grow.
fn thread(calls: &[([u64; 4], [u64; 4])]) -> Vec<CallRecord> {
    let (mut now_ns, mut slept_ns, mut queued_ns, mut unseen_ns) = (1_000, [7; BLOCKED], 5, 3);
    let record = |(before, inside): &([u64; 4], [u64; 4])| {
        let asleep = usize::try_from(before[0] % 6).unwrap();
        slept_ns[asleep] += before[1];
        (now_ns, queued_ns, unseen_ns) =
            (now_ns + before.iter().sum::<u64>(), queued_ns + before[2], unseen_ns + before[3]);
        let enter = (now_ns, queued_ns, unseen_ns);
        slept_ns[Blocked::Socket as usize] += inside[1];
        (now_ns, queued_ns, unseen_ns) =
            (now_ns + inside.iter().sum::<u64>(), queued_ns + inside[2], unseen_ns + inside[3]);
        CallRecord {
            header: RecordHeader { time_ns: now_ns, ..RecordHeader::default() },
            enter_ns: enter.0,
            run_queue_enter_ns: enter.1,
            run_queue_exit_ns: queued_ns,
            unseen_enter_ns: enter.2,
            unseen_exit_ns: unseen_ns,
            off_cpu_ns: slept_ns,
            off_cpu_inside_ns: inside[1],
            tid: 7,
            flags: flag::SCHED,
            ..CallRecord::default()
        }
    };
    calls.iter().map(record).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn waypoints_place_time_and_neither_add_nor_take_any(calls in calls()) {
        let records = thread(&calls);
        let (first, last) = (CallTiming::new(0, 1, &records[0]), CallTiming::new(1, 2, records.last().unwrap()));
        let told = |waypoints: &[Waypoint]| {
            let mut tiles = Tiles::new(first.return_ns, last.enter_ns);
            tiles.application(&first, &last, waypoints);
            tiles.finish(Measured).segments
        };
        let between: Vec<Waypoint> = records[1..records.len() - 1].iter().map(Waypoint::new).collect();
        let (whole, divided) = (told(&[]), told(&between));
        let sum = |segments: &[Segment]| {
            let mut sums = std::collections::BTreeMap::new();
            for segment in segments {
                *sums.entry(format!("{:?} {:?} {:?}", segment.name, segment.by, segment.evidence)).or_insert(0) += segment.duration_ns;
            }
            sums
        };
        prop_assert_eq!(sum(&whole), sum(&divided));
        // A wait that is a hundredth of the time and more begins where its call, or the next one, says, but for what is less than that.
        let gap_ns = last.enter_ns - first.return_ns;
        for (record, (before, inside)) in records[1..].iter().zip(&calls[1..]) {
            let ends = if inside[1] > 0 && record.enter_ns < last.enter_ns { record.header.time_ns } else { record.enter_ns };
            let slept = before[1] > gap_ns / 100 || (inside[1] > gap_ns / 100 && record.enter_ns < last.enter_ns);
            let by_then = |segments: &[Segment]| segments.iter().filter(|segment| {
                segment.name == OffCpu && first.return_ns + segment.offset_ns < ends
            }).count();
            prop_assert!(!slept || by_then(&divided) > 0, "{:?} {:?}", calls, divided);
        }
    }
}
