//! Puts events in order, and tells from the numbering of records which are missing.
//!
//! In: events as the ring buffer gave them, nearly in order. Out: events in order, once nothing older is expected; the
//! intervals in which records were lost. Called by [`crate::pipeline`] only. Limits: a number of waiting events, 1,024
//! intervals, and as many CPUs as have numbers below 4,096.

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
        let place = match self.order.back() {
            Some((last, _)) if *last > order_ns => self.order.partition_point(|(other, _)| *other <= order_ns),
            _ => self.order.len(),
        };
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
        self.order.insert(place, (order_ns, index));
    }

    /// The next event that is not younger than `until_ns`.
    pub fn pop(&mut self, until_ns: u64) -> Option<Event> {
        let (order_ns, index) = *self.order.front()?;
        if order_ns > until_ns {
            return None;
        }
        self.order.pop_front();
        self.free.push(index);
        self.events[index as usize].take()
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

/// Records of one CPU that did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Missing {
    cpu: u16,
    first: u32,
    count: u32,
    from_ns: u64,
    to_ns: u64,
    counted: bool,
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
        if self.missing.len() >= INTERVALS_MAX {
            self.missing.pop_front();
        }
        let (from_ns, to_ns) = (last_ns.min(header.time_ns), last_ns.max(header.time_ns));
        self.missing.push_back(Missing { cpu: header.cpu, first, count, from_ns, to_ns, counted: false });
    }

    fn found(&mut self, header: &RecordHeader) {
        let inside = |gap: &&mut Missing| {
            gap.cpu == header.cpu && !gap.counted && header.sequence.wrapping_sub(gap.first) < gap.count
        };
        // The count shrinks, the place does not matter: what is left is somewhere in the interval.
        if let Some(gap) = self.missing.iter_mut().find(inside) {
            gap.count -= 1;
        }
    }

    /// Records now known to be lost: those missing since before `until_ns`. Each is told once.
    pub fn newly_lost(&mut self, until_ns: u64) -> u64 {
        let mut lost = 0;
        for gap in self.missing.iter_mut().filter(|gap| !gap.counted && gap.to_ns <= until_ns) {
            gap.counted = true;
            lost += u64::from(gap.count);
        }
        self.missing.retain(|gap| gap.count > 0);
        lost
    }

    /// How many records were lost at times that overlap `[from_ns, to_ns]`.
    pub fn lost_within(&self, from_ns: u64, to_ns: u64) -> u64 {
        let overlaps = |gap: &&Missing| gap.from_ns <= to_ns && gap.to_ns >= from_ns;
        self.missing.iter().filter(overlaps).map(|gap| u64::from(gap.count)).sum()
    }

    /// Forgets intervals that ended before `until_ns`.
    pub fn forget(&mut self, until_ns: u64) {
        while self.missing.front().is_some_and(|gap| gap.counted && gap.to_ns < until_ns) {
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
        while let Some(Event::Arrival(record)) = reorder.pop(7) {
            order.push(record.end);
        }
        assert_eq!(order, [4, 0, 2, 3]);
        assert_eq!(reorder.len(), 1);
    }
}
