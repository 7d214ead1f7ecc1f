//! Puts events in order, and tells from the numbering of records which are missing.
//!
//! In: events as the ring buffer gave them, nearly in order. Out: events in order, once nothing older is expected; the
//! intervals in which records were lost. Called by [`crate::pipeline`] only. Limits: a number of waiting events, 1,024
//! intervals (the oldest become one, which says that records were lost somewhere in it), and as many CPUs as have numbers
//! below 4,096.

use std::collections::VecDeque;

use agent_common::header::RecordHeader;

use crate::event::Event;

/// Events that wait for older ones.
#[derive(Debug, Default)]
pub struct Reorder {
    /// In order: when, and where in `events`. Events are large, and many are put between others.
    order: VecDeque<(u64, u32)>,
    events: Vec<Option<Event>>,
    free: Vec<u32>,
}

impl Reorder {
    /// Adds an event.
    pub fn push(&mut self, event: Event) {
        let order_ns = event.order_ns();
        let index = match self.free.pop() {
            Some(index) => {
                self.events[index as usize] = Some(event);
                index
            }
            None => {
                self.events.push(Some(event));
                self.events.len() as u32 - 1
            }
        };
        if self.order.back().is_none_or(|(last, _)| *last <= order_ns) {
            self.order.push_back((order_ns, index));
        } else {
            let place = self.order.partition_point(|(other, _)| *other <= order_ns);
            self.order.insert(place, (order_ns, index));
        }
    }

    /// Gives the next event that is not younger than `until_ns` to `take`, where it lies, and answers whether there was one.
    pub fn pop(&mut self, until_ns: u64, take: impl FnOnce(&mut Event)) -> bool {
        let Some((_, index)) = self.order.pop_front_if(|(order_ns, _)| *order_ns <= until_ns) else { return false };
        self.free.push(index);
        let place = &mut self.events[index as usize];
        if let Some(event) = place {
            take(event);
        }
        *place = None;
        true
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// Records that did not arrive, of some numbers in a range, at some time in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Missing {
    /// Whose numbers they are; `None` if they are of several CPUs.
    cpu: Option<u16>,
    first: u32,
    /// Length of the range.
    numbers: u32,
    count: u64,
    from_ns: u64,
    to_ns: u64,
    /// How many of them were told.
    told: u64,
}

impl Missing {
    /// Whether it begins soon after `self` ended, on the same CPU: then one interval says both well enough.
    fn goes_on_in(&self, next: &Self) -> bool {
        self.told == 0
            && self.cpu == next.cpu
            && next.from_ns.saturating_sub(self.to_ns) < NEAR_NS
            && next.to_ns.saturating_sub(self.from_ns) <= JOINED_NS_MAX
    }

    /// Takes in an interval that was noticed later.
    fn join(&mut self, later: &Self) {
        self.numbers = later.first.wrapping_add(later.numbers).wrapping_sub(self.first);
        if self.cpu != later.cpu {
            self.cpu = None;
        }
        self.count += later.count;
        self.told += later.told;
        self.from_ns = self.from_ns.min(later.from_ns);
        self.to_ns = self.to_ns.max(later.to_ns);
    }
}

/// Follows the numbering of records per CPU.
#[derive(Debug, Default)]
pub struct Numbering {
    /// Per CPU: the number that comes next, and the time of the last record.
    cpus: Vec<Option<(u32, u64)>>,
    missing: VecDeque<Missing>,
}

const CPUS_MAX: usize = 4096;
const INTERVALS_MAX: usize = 1024;
/// Losses that are not further apart are one interval, up to this length.
const NEAR_NS: u64 = 1_000_000;
const JOINED_NS_MAX: u64 = 10_000_000;
/// A record that comes this much late is one of those thought lost (an interrupt came between its numbering and its
/// emission); more is a new beginning.
const LATE_MAX: u32 = 4096;

impl Numbering {
    /// Takes note of a record. Bogus CPU numbers are ignored.
    pub fn see(&mut self, header: &RecordHeader) {
        let cpu = usize::from(header.cpu);
        if cpu >= CPUS_MAX {
            return;
        }
        if self.cpus.len() <= cpu {
            self.cpus.resize(cpu + 1, None);
        }
        let Some((next, last_ns)) = self.cpus[cpu] else {
            self.cpus[cpu] = Some((header.sequence.wrapping_add(1), header.time_ns));
            return;
        };
        let ahead = header.sequence.wrapping_sub(next);
        if ahead == 0 {
            self.cpus[cpu] = Some((next.wrapping_add(1), header.time_ns));
        } else if ahead < 1 << 31 {
            self.miss(header, next, ahead, last_ns);
            self.cpus[cpu] = Some((header.sequence.wrapping_add(1), header.time_ns));
        } else if next.wrapping_sub(header.sequence) <= LATE_MAX {
            self.found(header);
        } else {
            self.cpus[cpu] = Some((header.sequence.wrapping_add(1), header.time_ns));
        }
    }

    fn miss(&mut self, header: &RecordHeader, first: u32, count: u32, last_ns: u64) {
        let (from_ns, to_ns) = (last_ns.min(header.time_ns), last_ns.max(header.time_ns));
        let cpu = Some(header.cpu);
        let gap = Missing { cpu, first, numbers: count, count: u64::from(count), from_ns, to_ns, told: 0 };
        if let Some(last) = self.missing.iter_mut().rev().find(|last| last.cpu == cpu)
            && last.goes_on_in(&gap)
        {
            return last.join(&gap);
        }
        if self.missing.len() >= INTERVALS_MAX
            && let Some(oldest) = self.missing.pop_front()
            && let Some(second) = self.missing.pop_front()
        {
            let mut both = oldest;
            both.join(&second);
            self.missing.push_front(both);
        }
        self.missing.push_back(gap);
    }

    fn found(&mut self, header: &RecordHeader) {
        let inside = |gap: &&mut Missing| {
            gap.cpu == Some(header.cpu) && gap.told < gap.count && header.sequence.wrapping_sub(gap.first) < gap.numbers
        };
        // The count shrinks, the place does not matter: what is left is somewhere in the interval.
        if let Some(gap) = self.missing.iter_mut().find(inside) {
            gap.count -= 1;
        }
    }

    /// Records now known to be lost: those missing since before `until_ns`. Each is told once.
    pub fn newly_lost(&mut self, until_ns: u64) -> u64 {
        let mut lost = 0;
        for gap in self.missing.iter_mut().filter(|gap| gap.to_ns <= until_ns) {
            lost += gap.count - gap.told;
            gap.told = gap.count;
        }
        self.missing.retain(|gap| gap.count > 0);
        lost
    }

    /// How many records were lost at times that overlap `[from_ns, to_ns]`.
    pub fn lost_within(&self, from_ns: u64, to_ns: u64) -> u64 {
        let overlaps = |gap: &&Missing| gap.from_ns <= to_ns && gap.to_ns >= from_ns;
        self.missing.iter().filter(overlaps).map(|gap| gap.count).sum()
    }

    /// Forgets intervals that ended before `until_ns`.
    pub fn forget(&mut self, until_ns: u64) {
        while self.missing.front().is_some_and(|gap| gap.told == gap.count && gap.to_ns < until_ns) {
            self.missing.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cpu: u16, sequence: u32, time_ns: u64) -> RecordHeader {
        RecordHeader { time_ns, sequence, cpu, ..Default::default() }
    }

    fn check(records: &[(u16, u32, u64)], lost: u64, around: (u64, u64), within: u64) {
        let mut numbering = Numbering::default();
        for (cpu, sequence, time_ns) in records {
            numbering.see(&header(*cpu, *sequence, *time_ns));
        }
        assert_eq!(numbering.newly_lost(u64::MAX), lost);
        assert_eq!(numbering.newly_lost(u64::MAX), 0, "each loss is told once");
        assert_eq!(numbering.lost_within(around.0, around.1), within);
    }

    #[test]
    fn unbroken_numbers_of_several_cpus_lose_nothing() {
        check(&[(0, 7, 1), (1, 90, 2), (0, 8, 3), (1, 91, 4)], 0, (0, 9), 0);
    }

    #[test]
    fn a_jump_is_a_loss_between_its_neighbours() {
        check(&[(0, 7, 10), (0, 11, 20)], 3, (12, 13), 3);
        check(&[(0, 7, 10), (0, 11, 20)], 3, (21, 30), 0);
    }

    #[test]
    fn numbers_wrap() {
        check(&[(0, u32::MAX, 10), (0, 0, 20), (0, 2, 30)], 1, (25, 25), 1);
    }

    #[test]
    fn a_late_record_was_not_lost() {
        check(&[(0, 7, 10), (0, 9, 20), (0, 8, 21), (0, 10, 22)], 0, (0, 99), 0);
    }

    #[test]
    fn a_late_record_was_not_lost_whatever_was_found_before_it() {
        check(&[(0, 7, 10), (0, 11, 20), (0, 8, 21), (0, 10, 22), (0, 12, 23)], 1, (0, 99), 1);
        check(&[(0, 7, 10), (0, 9, 20), (0, 11, 30), (0, 10, 31), (0, 8, 32)], 0, (0, 99), 0);
    }

    /// Losses of one record each, `apart_ns` from one to the next, by each CPU in turn.
    fn losses(count: u64, cpus: u16, apart_ns: u64) -> Numbering {
        let mut numbering = Numbering::default();
        for index in 0..count {
            for cpu in 0..cpus {
                numbering.see(&header(cpu, index as u32 * 2, index * apart_ns));
            }
        }
        numbering
    }

    #[test]
    fn however_many_intervals_there_are_nothing_lost_is_forgotten() {
        for (count, cpus, apart_ns) in [(5000, 1, 10_000), (5000, 1, 2_000_000), (3000, 3, 2_000_000), (3, 2000, 9)] {
            let mut numbering = losses(count, cpus, apart_ns);
            let what = format!("{count} times of {cpus} CPUs, {apart_ns} ns apart");
            assert!(numbering.missing.len() <= INTERVALS_MAX, "{what}");
            for index in [0, 1, count / 2, count - 2] {
                assert!(numbering.lost_within(index * apart_ns + 1, index * apart_ns + 2) > 0, "{index}: {what}");
            }
            assert_eq!(numbering.newly_lost(u64::MAX), (count - 1) * u64::from(cpus), "{what}");
            assert_eq!(numbering.newly_lost(u64::MAX), 0, "{what}");
            numbering.forget(u64::MAX);
            assert!(numbering.missing.is_empty(), "{what}");
        }
    }

    #[test]
    fn what_was_lost_long_ago_casts_no_doubt_on_now() {
        let mut numbering = Numbering::default();
        for index in 0..3000 {
            // 1 ms of losses in each 100 ms.
            let at_ns = index * 100_000_000;
            numbering.see(&header(0, index as u32 * 3, at_ns));
            numbering.see(&header(0, index as u32 * 3 + 2, at_ns + 1_000_000));
        }
        assert_eq!(numbering.newly_lost(u64::MAX), 3000);
        for index in 2000..3000 {
            let at_ns = index * 100_000_000;
            assert_eq!(numbering.lost_within(at_ns, at_ns + 1_000_000), 1);
            assert_eq!(numbering.lost_within(at_ns + 1_000_001, at_ns + 99_999_999), 0);
        }
    }

    #[test]
    fn order_is_by_time_and_stable() {
        let event = |time_ns, end| {
            let header = RecordHeader { time_ns, ..Default::default() };
            Event::Arrival(agent_common::message::ArrivalRecord { header, end, ..Default::default() })
        };
        let mut reorder = Reorder::default();
        for (time_ns, end) in [(5, 0), (9, 1), (7, 2), (7, 3), (1, 4)] {
            reorder.push(event(time_ns, end));
        }
        let mut order = Vec::new();
        while reorder.pop(7, |event| match event {
            Event::Arrival(record) => order.push(record.end),
            other => panic!("{other:?}"),
        }) {}
        assert_eq!(order, [4, 0, 2, 3]);
        assert_eq!(reorder.len(), 1);
    }
}
