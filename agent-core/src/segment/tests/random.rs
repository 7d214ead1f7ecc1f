//! Tiles cover a span exactly, whatever times the records claim.

use agent_common::{
    connection::TcpSnapshot,
    header::RecordHeader,
    message::{CallRecord, SendRecord},
};
use proptest::prelude::*;

use super::super::*;
use crate::{
    flow::timing::{Arrival, CallTiming, Resent, SendTiming, Waits},
    span::Evidence::Measured,
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
                run_queue_ns: [queued[0], queued[1]],
                throttled_ns: [queued[2], queued[3]],
                off_cpu_ns,
                off_cpu_inside_ns,
                transmitted_ns,
                sched,
                outside,
                tid,
                slept_in,
                between_ns,
                between: Waits { run_queue_ns, throttled_ns, ..Waits::default() },
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
        .prop_map(|((start, length), times)| Arrival::new(start, start + length, times, 0));
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
