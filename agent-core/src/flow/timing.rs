//! When the bytes of one direction were written, sent, acknowledged, arrived and read.
//!
//! In: the timing part of call, send and arrival records, in offsets. Out: what is known about a byte or a range of
//! bytes. Called by [`crate::flow`] (fills, trims) and [`crate::segment`] (asks). Limits: entries per list; inside one
//! message neighbours are merged first, which loses nothing that segments need; then the oldest are dropped.

use std::{collections::VecDeque, ops::Range};

use agent_common::message::{SendRecord, flag};

pub use super::call::{Between, CallTiming, Totals, Waits};

/// A range of offsets.
pub trait Ranged {
    /// First byte.
    fn start(&self) -> u64;
    /// Past the last byte.
    fn end(&self) -> u64;
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
    /// When the softirq that brought the first byte was raised; 0 if not observed.
    pub softirq_ns: u64,
    /// Arrival of the first byte.
    pub first_ns: u64,
    /// Arrival of the last byte.
    pub last_ns: u64,
    /// When the first byte could be read: what comes behind a hole cannot.
    pub readable_ns: u64,
    /// Whether the times are those of exactly these bytes: they came in order, and as one entry.
    pub sure: bool,
}

/// Bytes that were sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resent {
    /// First byte.
    pub start: u64,
    /// Past the last.
    pub end: u64,
    /// When.
    pub time_ns: u64,
    /// Segments.
    pub segments: u32,
    /// One of [`agent_common::message::retransmit`].
    pub reason: u8,
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
ranged!(CallTiming, SendTiming, Arrival, Resent);

/// A point in time, and whether it was observed for exactly the byte that was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When.
    pub ns: u64,
    /// Whether it is that byte's own time, not that of a group of bytes that it belongs to.
    pub exact: bool,
}

/// Ranges hardly ever overlap: who asks for a byte looks at so many entries that begin before it. Mostly there are no more, and
/// nothing is to be searched.
const STEPS: usize = 4;

/// Room for so many entries is never given back.
const ROOM_KEPT: usize = 64;

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
        if self.0.back().is_none_or(|last| last.start() <= entry.start()) {
            return self.0.push_back(entry);
        }
        let place = self.0.partition_point(|e| e.start() <= entry.start());
        self.0.insert(place, entry);
    }

    /// The first entry in order.
    pub fn first(&self) -> Option<&T> {
        self.0.front()
    }

    /// The last entry in order that holds the byte at `offset`.
    pub fn holding(&self, offset: u64) -> Option<&T> {
        let after =
            if self.0.len() <= STEPS { self.0.len() } else { self.0.partition_point(|entry| entry.start() <= offset) };
        let begun = self.0.range(..after).rev().skip_while(|entry| entry.start() > offset);
        begun.take(STEPS).find(|entry| entry.end() > offset)
    }

    /// Entries that share bytes with `range`.
    pub fn within(&self, range: Range<u64>) -> impl DoubleEndedIterator<Item = &T> + Clone + '_ {
        let places = if self.0.len() <= STEPS {
            0..self.0.len()
        } else {
            let from = self.0.partition_point(|entry| entry.start() < range.start).saturating_sub(STEPS);
            from..self.0.partition_point(|entry| entry.start() < range.end).max(from)
        };
        self.0.range(places).filter(move |entry| entry.start() < range.end && entry.end() > range.start)
    }

    /// Forgets entries that end at or before `offset`, and the room of many when few are left.
    pub fn trim(&mut self, offset: u64) {
        let most = self.0.len();
        while self.0.front().is_some_and(|entry| entry.end() <= offset) {
            self.0.pop_front();
        }
        if self.0.len() < most && self.0.capacity() > ROOM_KEPT && self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(self.0.capacity() / 4);
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
    /// What this end sent again.
    pub resent: Ordered<Resent>,
}

impl Timings {
    /// When the byte at `offset` had arrived, taken as the first byte of something.
    pub fn arrival_of_first(&self, offset: u64) -> Option<Moment> {
        let arrival = self.arrivals.holding(offset)?;
        let first = arrival.start == offset || arrival.first_ns == arrival.last_ns;
        let ns = if first { arrival.first_ns } else { arrival.last_ns };
        (ns != 0).then_some(Moment { ns, exact: first && arrival.sure })
    }

    /// When the byte at `offset` could be read first, taken as the first byte of what was read next.
    pub fn readable_from(&self, offset: u64) -> Option<Moment> {
        let arrival = self.arrivals.holding(offset)?;
        let arrived = self.arrival_of_first(offset)?;
        Some(Moment { ns: if arrival.start == offset { arrival.readable_ns } else { arrived.ns }, ..arrived })
    }

    /// When the softirq was raised that brought the byte at `offset`, taken as the first byte of something.
    pub fn softirq_of_first(&self, offset: u64) -> Option<u64> {
        let arrival = self.arrivals.holding(offset).filter(|arrival| arrival.start == offset)?;
        (arrival.softirq_ns != 0).then_some(arrival.softirq_ns)
    }

    /// When the byte before `end` and all before it had arrived.
    pub fn arrival_of_last(&self, end: u64) -> Option<Moment> {
        let arrival = self.arrivals.holding(end.checked_sub(1)?)?;
        let exact = arrival.sure && (arrival.end == end || arrival.first_ns == arrival.last_ns);
        (arrival.last_ns != 0).then_some(Moment { ns: arrival.last_ns, exact })
    }

    /// Writes that hold bytes of `range`: calls, and for bytes without one, what TCP saw of it, which is put into `seen`.
    pub fn writes<'a>(
        &'a self,
        range: Range<u64>,
        seen: &'a mut Vec<CallTiming>,
    ) -> impl DoubleEndedIterator<Item = &'a CallTiming> + Clone {
        let calls = self.calls.within(range.clone());
        seen.clear();
        if calls.clone().next().is_none() {
            seen.extend(self.sends.within(range).map(SendTiming::as_call));
        }
        calls.chain(seen.iter())
    }

    /// The first of [`Timings::writes`].
    pub fn first_write(&self, range: Range<u64>) -> Option<CallTiming> {
        let call = self.calls.within(range.clone()).next().cloned();
        call.or_else(|| self.sends.within(range).next().map(SendTiming::as_call))
    }

    /// Whether there is any of [`Timings::writes`].
    pub fn is_written(&self, range: Range<u64>) -> bool {
        self.calls.within(range.clone()).next().is_some() || self.sends.within(range).next().is_some()
    }

    /// Forgets what ends at or before `offset`.
    pub fn trim(&mut self, offset: u64) {
        self.calls.trim(offset);
        self.sends.trim(offset);
        self.arrivals.trim(offset);
        self.resent.trim(offset);
    }

    /// Keeps every list within `max`, given the message in progress; answers how many entries were dropped.
    pub fn shrink(&mut self, message: &Range<u64>, max: usize) -> u64 {
        self.calls.shrink(message, max, CallTiming::merge)
            + self.sends.shrink(message, max, SendTiming::merge)
            + self.arrivals.shrink(message, max, Arrival::merge)
            + self.resent.shrink(&(0..0), max, |last, _| *last)
    }
}

impl SendTiming {
    /// The write call as far as TCP saw it.
    pub fn as_call(&self) -> CallTiming {
        CallTiming::of_send(self.start, self.end, &self.record)
    }

    /// When TCP had the last byte: the latest piece where each is seen, else the begin of the call.
    pub fn taken_ns(&self) -> u64 {
        self.record.locked_last_ns.max(self.record.locked_ns)
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
    ///
    /// `times_ns`: softirq raised, first byte, last byte; `behind_hole_us` as in its record.
    pub fn new(start: u64, end: u64, times_ns: [u64; 3], behind_hole_us: u32, flags: u16) -> Self {
        let sure = flags & (flag::OUT_OF_ORDER | flag::MERGED) == 0;
        let [softirq_ns, first_ns, last_ns] = times_ns;
        let readable_ns = first_ns.saturating_add(u64::from(behind_hole_us) * 1000);
        Self { start, end, softirq_ns, first_ns, last_ns, readable_ns, sure }
    }

    fn merge(&self, next: &Self) -> Self {
        let sure = self.sure && next.sure;
        Self { start: self.start, end: next.end, last_ns: next.last_ns, sure, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(start: u64, end: u64, first_ns: u64, last_ns: u64) -> Arrival {
        Arrival::new(start, end, [0, first_ns, last_ns], 0, 0)
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
    fn a_byte_is_found_among_few_entries_and_among_many() {
        for count in [1, 3, 4, 5, 9, 40] {
            let mut timings = Timings::default();
            for start in (0..count).rev() {
                timings.arrivals.insert(arrival(start * 10, start * 10 + 8, start, start));
            }
            let starts = |range| timings.arrivals.within(range).map(Arrival::start).collect::<Vec<_>>();
            for start in 0..count {
                let at = start * 10;
                assert_eq!(timings.arrivals.holding(at + 7).map(Arrival::start), Some(at), "of {count}");
                assert_eq!(timings.arrivals.holding(at + 8), None, "of {count}");
                assert_eq!(starts(at..at + 1), [at], "of {count}");
                assert_eq!(starts(at + 8..at + 10), [0; 0], "of {count}");
            }
            assert_eq!(starts(0..count * 10).len() as u64, count);
        }
    }

    #[test]
    fn room_for_many_is_given_back_when_few_are_left() {
        let mut timings = Timings::default();
        for start in 0..1000 {
            timings.arrivals.insert(arrival(start, start + 1, start, start));
        }
        let most = timings.arrivals.0.capacity();
        timings.trim(990);
        assert_eq!(timings.arrivals.len(), 10);
        assert!(timings.arrivals.0.capacity() < most / 2);
        assert_eq!(timings.arrival_of_first(995), Some(Moment { ns: 995, exact: true }));
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
}
