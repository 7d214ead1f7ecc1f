//! When the bytes of one direction were written, sent, acknowledged, arrived and read.
//!
//! In: the timing part of call, send and arrival records, in offsets. Out: what is known about a byte or a range of
//! bytes. Called by [`crate::flow`] (fills, trims) and [`crate::segment`] (asks). Limits: entries per list; inside one
//! message neighbours are merged first, which loses nothing that segments need; then the oldest are dropped.

use std::{collections::VecDeque, ops::Range};

use agent_common::message::{CallRecord, SendRecord, flag};

/// A range of offsets.
pub trait Ranged {
    /// First byte.
    fn start(&self) -> u64;
    /// Past the last byte.
    fn end(&self) -> u64;
}

/// One call, or several neighbouring calls inside one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallTiming {
    /// First byte moved.
    pub start: u64,
    /// Past the last.
    pub end: u64,
    /// Entry of the (first) call; 0 if not observed.
    pub enter_ns: u64,
    /// Return of the (last) call; 0 if not observed.
    pub return_ns: u64,
    /// When the thread was last made runnable; 0 if not observed.
    pub woken_ns: u64,
    /// When it got a CPU after that; 0 if not observed.
    pub running_ns: u64,
    /// Total run-queue time of the thread at entry and at return; valid if `sched`.
    pub run_queue_ns: [u64; 2],
    /// Whether scheduling was observed.
    pub sched: bool,
    /// Process.
    pub pid: u32,
    /// Thread; 0 if several.
    pub tid: u32,
    /// Merged calls: time between them, and how much of it was on a run queue.
    pub between_ns: [u64; 2],
}

/// One write as TCP saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendTiming {
    /// First byte.
    pub start: u64,
    /// Past the last.
    pub end: u64,
    /// The record; times of 0 were not observed.
    pub record: SendRecord,
}

/// When received bytes had arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// First byte.
    pub start: u64,
    /// Past the last.
    pub end: u64,
    /// Arrival of the first byte.
    pub first_ns: u64,
    /// Arrival of the last byte.
    pub last_ns: u64,
    /// Whether the times are those of exactly these bytes: they came in order, and as one entry.
    pub sure: bool,
}

macro_rules! ranged {
    ($($name:ident),*) => { $(impl Ranged for $name {
        fn start(&self) -> u64 {
            self.start
        }
        fn end(&self) -> u64 {
            self.end
        }
    })* };
}
ranged!(CallTiming, SendTiming, Arrival);

/// A point in time, and whether it was observed for exactly the byte that was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When.
    pub ns: u64,
    /// Whether it is that byte's own time, not that of a group of bytes that it belongs to.
    pub exact: bool,
}

/// Entries in order of their first byte.
#[derive(Debug)]
pub struct Ordered<T>(VecDeque<T>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Ranged> Ordered<T> {
    /// Adds an entry at its place.
    pub fn insert(&mut self, entry: T) {
        let place = match self.0.back() {
            Some(last) if last.start() > entry.start() => self.0.partition_point(|e| e.start() <= entry.start()),
            _ => self.0.len(),
        };
        self.0.insert(place, entry);
    }

    /// The last entry in order that holds the byte at `offset`.
    pub fn holding(&self, offset: u64) -> Option<&T> {
        let after = self.0.partition_point(|entry| entry.start() <= offset);
        // Ranges hardly ever overlap: a few steps back are enough.
        self.0.range(after.saturating_sub(4)..after).rev().find(|entry| entry.end() > offset)
    }

    /// Entries that share bytes with `range`.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = &T> + '_ {
        let from = self.0.partition_point(|entry| entry.start() < range.start).saturating_sub(4);
        let to = self.0.partition_point(|entry| entry.start() < range.end);
        self.0.range(from..to.max(from)).filter(move |entry| entry.end() > range.start)
    }

    /// Forgets entries that end at or before `offset`.
    pub fn trim(&mut self, offset: u64) {
        while self.0.front().is_some_and(|entry| entry.end() <= offset) {
            self.0.pop_front();
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Merges neighbours that lie wholly inside `range`, then drops the oldest beyond `max`; answers how many.
    fn shrink(&mut self, range: &Range<u64>, max: usize, merge: impl Fn(&T, &T) -> T) -> u64 {
        if self.0.len() <= max {
            return 0;
        }
        let mut kept: VecDeque<T> = VecDeque::with_capacity(self.0.len() / 2 + 1);
        let inside = |entry: &T| entry.start() > range.start && entry.end() < range.end;
        let mut merged_last = true;
        for entry in self.0.drain(..) {
            let joins = kept.back().is_some_and(|last: &T| last.end() == entry.start() && inside(last));
            if joins && inside(&entry) && !merged_last {
                let last = kept.pop_back().expect("checked");
                kept.push_back(merge(&last, &entry));
                merged_last = true;
            } else {
                kept.push_back(entry);
                merged_last = false;
            }
        }
        self.0 = kept;
        let excess = self.0.len().saturating_sub(max);
        self.0.drain(..excess);
        excess as u64
    }
}

/// All timings of one direction.
#[derive(Debug, Default)]
pub struct Timings {
    /// Calls of this end.
    pub calls: Ordered<CallTiming>,
    /// Writes of this end, as TCP saw them.
    pub sends: Ordered<SendTiming>,
    /// Arrivals at this end.
    pub arrivals: Ordered<Arrival>,
}

impl Timings {
    /// When the byte at `offset` had arrived, taken as the first byte of something.
    pub fn arrival_of_first(&self, offset: u64) -> Option<Moment> {
        let arrival = self.arrivals.holding(offset)?;
        let first = arrival.start == offset || arrival.first_ns == arrival.last_ns;
        let ns = if first { arrival.first_ns } else { arrival.last_ns };
        (ns != 0).then_some(Moment { ns, exact: first && arrival.sure })
    }

    /// When the byte before `end` and all before it had arrived.
    pub fn arrival_of_last(&self, end: u64) -> Option<Moment> {
        let arrival = self.arrivals.holding(end.checked_sub(1)?)?;
        let exact = arrival.sure && (arrival.end == end || arrival.first_ns == arrival.last_ns);
        (arrival.last_ns != 0).then_some(Moment { ns: arrival.last_ns, exact })
    }

    /// Writes that hold bytes of `range`: calls, and for bytes without one, what TCP saw of it.
    pub fn writes(&self, range: Range<u64>) -> Vec<CallTiming> {
        let mut writes: Vec<_> = self.calls.within(range.clone()).copied().collect();
        if writes.is_empty() {
            writes.extend(self.sends.within(range).map(SendTiming::as_call));
        }
        writes
    }

    /// Forgets what ends at or before `offset`.
    pub fn trim(&mut self, offset: u64) {
        self.calls.trim(offset);
        self.sends.trim(offset);
        self.arrivals.trim(offset);
    }

    /// Keeps every list within `max`, given the message in progress; answers how many entries were dropped.
    pub fn shrink(&mut self, message: &Range<u64>, max: usize) -> u64 {
        self.calls.shrink(message, max, CallTiming::merge)
            + self.sends.shrink(message, max, SendTiming::merge)
            + self.arrivals.shrink(message, max, Arrival::merge)
    }
}

impl CallTiming {
    /// The timing part of a record.
    pub fn new(start: u64, end: u64, record: &CallRecord) -> Self {
        Self {
            start,
            end,
            enter_ns: record.enter_ns,
            return_ns: record.header.time_ns,
            woken_ns: record.woken_ns,
            running_ns: record.running_ns,
            run_queue_ns: [record.run_queue_enter_ns, record.run_queue_exit_ns],
            sched: record.flags & flag::SCHED != 0,
            pid: record.pid,
            tid: record.tid,
            between_ns: [0, 0],
        }
    }

    /// Run-queue time of the thread from this call's return to `next`'s entry, if it is known to be one thread and the
    /// totals do not contradict the clock.
    pub fn run_queue_until(&self, next: &Self) -> Option<u64> {
        let known = self.sched && next.sched && self.tid != 0 && self.tid == next.tid;
        let queued_ns = next.run_queue_ns[0].checked_sub(self.run_queue_ns[1])?;
        (known && queued_ns <= next.enter_ns.saturating_sub(self.return_ns)).then_some(queued_ns)
    }

    /// Run-queue time of the thread within this call, likewise.
    pub fn run_queue_inside(&self) -> Option<u64> {
        let queued_ns = self.run_queue_ns[1].checked_sub(self.run_queue_ns[0])?;
        let plausible = self.sched && queued_ns <= self.return_ns.saturating_sub(self.enter_ns);
        plausible.then_some(queued_ns.saturating_sub(self.between_ns[1]))
    }

    fn merge(&self, next: &Self) -> Self {
        let pause_ns = next.enter_ns.saturating_sub(self.return_ns);
        let queued_ns = self.run_queue_until(next).unwrap_or(0).min(pause_ns);
        Self {
            start: self.start,
            enter_ns: self.enter_ns,
            run_queue_ns: [self.run_queue_ns[0], next.run_queue_ns[1]],
            sched: self.sched && next.sched && self.tid == next.tid,
            tid: if self.tid == next.tid { self.tid } else { 0 },
            between_ns: [
                self.between_ns[0].saturating_add(next.between_ns[0]).saturating_add(pause_ns),
                self.between_ns[1].saturating_add(next.between_ns[1]).saturating_add(queued_ns),
            ],
            ..*next
        }
    }
}

impl SendTiming {
    /// The write call as far as TCP saw it. Without a return it counts as returned when TCP took its first byte.
    pub fn as_call(&self) -> CallTiming {
        let record = &self.record;
        let return_ns = if record.done_ns != 0 { record.done_ns } else { record.locked_ns };
        CallTiming {
            start: self.start,
            end: self.end,
            enter_ns: if record.enter_ns != 0 { record.enter_ns } else { record.locked_ns },
            return_ns,
            woken_ns: 0,
            running_ns: 0,
            run_queue_ns: [record.run_queue_enter_ns, 0],
            sched: false,
            pid: record.pid,
            tid: record.tid,
            between_ns: [0, 0],
        }
    }

    fn merge(&self, next: &Self) -> Self {
        let first = &self.record;
        let record = SendRecord {
            enter_ns: first.enter_ns,
            locked_ns: first.locked_ns,
            retransmits: first.retransmits.max(next.record.retransmits),
            ..next.record
        };
        Self { start: self.start, end: next.end, record }
    }
}

impl Arrival {
    /// From the flags of its record: bytes out of order came later than the entry's first segment says, and an entry for
    /// several segments may be read in parts, each told with the times of all.
    pub fn new(start: u64, end: u64, times_ns: [u64; 2], flags: u16) -> Self {
        let sure = flags & (flag::OUT_OF_ORDER | flag::MERGED) == 0;
        Self { start, end, first_ns: times_ns[0], last_ns: times_ns[1], sure }
    }

    fn merge(&self, next: &Self) -> Self {
        let sure = self.sure && next.sure;
        Self { start: self.start, end: next.end, first_ns: self.first_ns, last_ns: next.last_ns, sure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(start: u64, end: u64, first_ns: u64, last_ns: u64) -> Arrival {
        Arrival::new(start, end, [first_ns, last_ns], 0)
    }

    #[test]
    fn a_byte_is_found_in_the_entry_that_holds_it() {
        let mut timings = Timings::default();
        timings.arrivals.insert(arrival(10, 20, 1, 2));
        timings.arrivals.insert(arrival(0, 10, 5, 5));
        let first = |offset| timings.arrival_of_first(offset).map(|moment| (moment.ns, moment.exact));
        let last = |end| timings.arrival_of_last(end).map(|moment| (moment.ns, moment.exact));
        assert_eq!(
            (first(0), first(9), first(10), first(11), first(20)),
            (Some((5, true)), Some((5, true)), Some((1, true)), Some((2, false)), None)
        );
        assert_eq!(
            (last(10), last(15), last(20), last(21), last(0)),
            (Some((5, true)), Some((2, false)), Some((2, true)), None, None)
        );
    }

    #[test]
    fn neighbours_inside_a_message_are_merged_and_its_ends_kept() {
        let mut timings = Timings::default();
        for start in 0..10 {
            timings.arrivals.insert(arrival(start, start + 1, 100 + start, 100 + start));
        }
        assert_eq!(timings.shrink(&(0..10), 6), 0);
        assert!(timings.arrivals.len() <= 6);
        assert_eq!(timings.arrival_of_first(0), Some(Moment { ns: 100, exact: true }));
        assert_eq!(timings.arrival_of_last(10), Some(Moment { ns: 109, exact: true }));
    }

    #[test]
    fn without_a_message_the_oldest_are_dropped_and_told() {
        let mut timings = Timings::default();
        for start in 0..10 {
            timings.arrivals.insert(arrival(start, start + 1, 1, 1));
        }
        assert_eq!(timings.shrink(&(0..0), 6), 4);
        assert_eq!(timings.arrival_of_first(3), None);
    }

    #[test]
    fn merged_calls_keep_the_time_between_them() {
        let call = |start, enter_ns, return_ns, queued: [u64; 2]| {
            let record = CallRecord {
                enter_ns,
                run_queue_enter_ns: queued[0],
                run_queue_exit_ns: queued[1],
                tid: 7,
                flags: flag::SCHED,
                ..Default::default()
            };
            CallTiming { return_ns, ..CallTiming::new(start, start + 1, &record) }
        };
        let merged = call(0, 10, 20, [0, 1]).merge(&call(1, 50, 60, [6, 8]));
        assert_eq!((merged.enter_ns, merged.return_ns, merged.between_ns), (10, 60, [30, 5]));
        assert_eq!(merged.run_queue_inside(), Some(3), "8 in all, 5 of them between the calls");
    }
}
