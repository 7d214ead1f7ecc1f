//! What threads did last, on whatever connection: it says in which order a handler computed and waited.
//!
//! In: call records, nearly in order. Out: the [`Waypoint`]s of one thread within a time. Called by [`crate::pipeline`] (tells) and
//! [`crate::exchange::settle`] (asks). Limits: the last [`WAYPOINTS_MAX`] calls of a thread, and only of threads that use several
//! connections; [`THREADS_MAX`] threads. A waypoint that is forgotten makes the order coarser, and nothing wrong.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

use agent_common::message::{CallRecord, flag};
use foldhash::fast::RandomState;

use super::call::{CallTiming, Totals};

/// Calls that are kept of a thread.
pub const WAYPOINTS_MAX: usize = 16;
/// Threads that are kept.
pub const THREADS_MAX: usize = 1_024;
/// Who did nothing for this long makes room for others; looked for as often.
const QUIET_NS: u64 = 1_000_000_000;

/// One call of a thread, and what the thread had waited for by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waypoint {
    enter_ns: u64,
    return_ns: u64,
    totals: Totals,
    tid: u32,
}

/// The last waypoints of each thread.
#[derive(Debug, Default)]
pub struct Threads {
    threads: HashMap<u32, Thread, RandomState>,
    /// When room was looked for last.
    swept_ns: u64,
}

#[derive(Debug)]
struct Thread {
    /// Where it was last, and what it did there.
    connection_id: u64,
    last: Waypoint,
    /// Empty while it uses one connection.
    waypoints: VecDeque<Waypoint>,
}

impl Waypoint {
    /// From the record of a call of which the scheduler was seen.
    pub fn new(record: &CallRecord) -> Self {
        Self {
            enter_ns: record.enter_ns,
            return_ns: record.header.time_ns,
            totals: Totals::new(record),
            tid: record.tid,
        }
    }

    /// As a call that moves no bytes of the connection that is looked at.
    pub fn as_call(&self) -> CallTiming {
        CallTiming {
            enter_ns: self.enter_ns,
            return_ns: self.return_ns,
            totals: self.totals,
            tid: self.tid,
            sched: true,
            ..CallTiming::default()
        }
    }

    /// Whether it was wholly within this time.
    pub fn is_within(&self, time: &Range<u64>) -> bool {
        time.start <= self.enter_ns && self.enter_ns <= self.return_ns && self.return_ns <= time.end
    }
}

impl Threads {
    /// A thread made a call.
    pub fn called(&mut self, record: &CallRecord) {
        if record.flags & flag::SCHED == 0 || record.flags & flag::OUTSIDE_CALL != 0 || record.tid == 0 {
            return;
        }
        let (connection_id, last) = (record.connection_id, Waypoint::new(record));
        let Some(thread) = self.threads.get_mut(&record.tid) else {
            if self.has_room(last.return_ns) {
                self.threads.insert(record.tid, Thread { connection_id, last, waypoints: VecDeque::new() });
            }
            return;
        };
        if thread.waypoints.is_empty() && thread.connection_id != connection_id {
            thread.waypoints.push_back(thread.last);
        }
        if !thread.waypoints.is_empty() {
            if thread.waypoints.len() >= WAYPOINTS_MAX {
                thread.waypoints.pop_front();
            }
            thread.waypoints.push_back(last);
        }
        (thread.connection_id, thread.last) = (connection_id, last);
    }

    /// The waypoints of a thread within this time, in their order.
    pub fn waypoints(&self, tid: u32, time: &Range<u64>) -> Vec<Waypoint> {
        let thread = self.threads.get(&tid);
        thread
            .into_iter()
            .flat_map(|thread| &thread.waypoints)
            .filter(|waypoint| waypoint.is_within(time))
            .copied()
            .collect()
    }

    fn has_room(&mut self, now_ns: u64) -> bool {
        if self.threads.len() >= THREADS_MAX && now_ns.saturating_sub(self.swept_ns) >= QUIET_NS {
            self.swept_ns = now_ns;
            self.threads.retain(|_, thread| thread.last.return_ns.saturating_add(QUIET_NS) > now_ns);
        }
        self.threads.len() < THREADS_MAX
    }
}

#[cfg(test)]
mod tests {
    use agent_common::header::RecordHeader;

    use super::*;

    fn call(connection_id: u64, tid: u32, enter_ns: u64) -> CallRecord {
        let header = RecordHeader { time_ns: enter_ns + 5, ..RecordHeader::default() };
        CallRecord { header, connection_id, tid, enter_ns, flags: flag::SCHED, ..CallRecord::default() }
    }

    fn entered(threads: &Threads, tid: u32, time: Range<u64>) -> Vec<u64> {
        threads.waypoints(tid, &time).iter().map(|waypoint| waypoint.enter_ns).collect()
    }

    #[test]
    fn a_thread_of_one_connection_keeps_nothing_and_one_of_two_its_last_calls() {
        let mut threads = Threads::default();
        for at in [100, 200] {
            threads.called(&call(1, 7, at));
        }
        assert_eq!(entered(&threads, 7, 0..1000), []);
        threads.called(&call(2, 7, 300));
        threads.called(&call(2, 7, 400));
        threads.called(&call(1, 8, 350));
        assert_eq!(entered(&threads, 7, 0..1000), [200, 300, 400]);
        assert_eq!(entered(&threads, 7, 201..404), [300], "those that are not wholly within are left out");
        for at in 0..100 {
            threads.called(&call(1 + at % 2, 7, 1000 + at * 10));
        }
        assert_eq!(entered(&threads, 7, 0..10_000).len(), WAYPOINTS_MAX);
        assert_eq!(entered(&threads, 8, 0..1000), []);
    }

    #[test]
    fn calls_of_which_the_scheduler_was_not_seen_are_no_waypoints() {
        let mut threads = Threads::default();
        for (flags, tid) in [(0, 7), (flag::SCHED | flag::OUTSIDE_CALL, 7), (flag::SCHED, 0)] {
            for connection_id in [1, 2] {
                threads.called(&CallRecord { flags, ..call(connection_id, tid, 100) });
            }
        }
        assert!(threads.threads.is_empty());
    }

    #[test]
    fn threads_that_are_quiet_make_room() {
        let mut threads = Threads::default();
        for tid in 1..=THREADS_MAX as u32 + 5 {
            threads.called(&call(1, tid, 100));
        }
        assert_eq!(threads.threads.len(), THREADS_MAX);
        threads.called(&call(1, 3, QUIET_NS));
        threads.called(&call(1, 9_999, 2 * QUIET_NS - 1));
        assert!(threads.threads.contains_key(&9_999) && threads.threads.contains_key(&3));
        assert_eq!(threads.threads.len(), 2);
    }
}
