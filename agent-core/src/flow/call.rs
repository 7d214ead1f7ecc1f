//! When one read or write call ran, and what its thread waited for.
//!
//! In: call records, and send records for calls without one. Out: [`CallTiming`], and the [`Waits`] between two calls
//! and inside one. Called by [`super::timing`] (keeps them) and [`crate::segment`] (asks).

use agent_common::{
    message::{CallRecord, SendRecord, flag},
    sched::{BLOCKED, Blocked, NEVER_SLEPT},
};

/// What a thread waited for in some interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Asleep, by [`Blocked`].
    pub off_cpu_ns: [u64; BLOCKED],
    /// Runnable, without a CPU.
    pub run_queue_ns: u64,
    /// The part of that in which its cgroup was throttled.
    pub throttled_ns: u64,
    /// Of which was not seen whether it slept, waited for a CPU or ran.
    pub unseen_ns: u64,
}

/// A wait for a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// From when it was runnable; 0 if there was none.
    pub from_ns: u64,
    /// When it got a CPU.
    pub until_ns: u64,
    /// The part of it in which its cgroup was throttled.
    pub throttled_ns: u64,
}

/// What a thread had waited for in all its life, at the entry and at the return of a call, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// On run queues.
    pub run_queue_ns: [u64; 2],
    /// The part of it in which its cgroup was throttled.
    pub throttled_ns: [u64; 2],
    /// Of which was not seen what it did.
    pub unseen_ns: [u64; 2],
    /// Asleep, at the return, by [`Blocked`].
    pub off_cpu_ns: [u64; BLOCKED],
    /// How much of it was inside the call, or inside merged calls.
    pub off_cpu_inside_ns: u64,
}

/// What was between calls that are told as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Between {
    /// Time.
    pub ns: u64,
    /// What the thread waited for in it.
    pub waits: Waits,
}

/// One call, or several neighbouring calls inside one message. Many are kept, and hardly any are of several calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// What the thread had waited for; valid if `sched`.
    pub totals: Totals,
    /// The last long wait for a CPU up to the return, in a call or outside; valid if `sched`.
    pub queued: Queued,
    /// When the last byte written left for the device, if that was before the return; else 0.
    pub transmitted_ns: u64,
    /// Bytes that had arrived when the (first) read began to take its own.
    pub receive_queue: u32,
    /// Segments out of order in the connection's life up to the (last) read.
    pub out_of_order: u32,
    /// Process.
    pub pid: u32,
    /// Thread; 0 if several.
    pub tid: u32,
    /// What the thread slept in before it was last woken: a [`Blocked`], or [`NEVER_SLEPT`].
    pub slept_in: u8,
    /// Whether scheduling was observed.
    pub sched: bool,
    /// Whether the bytes moved outside a system call (io_uring): then the return is when the kernel moved them.
    pub outside: bool,
    /// Merged calls: what was between them.
    pub merged: Option<Box<Between>>,
}

impl Totals {
    /// The thread's, as a record of a call has them.
    pub fn new(record: &CallRecord) -> Self {
        Self {
            run_queue_ns: [record.run_queue_enter_ns, record.run_queue_exit_ns],
            throttled_ns: [record.throttled_enter_ns, record.throttled_exit_ns],
            unseen_ns: [record.unseen_enter_ns, record.unseen_exit_ns],
            off_cpu_ns: record.off_cpu_ns,
            off_cpu_inside_ns: record.off_cpu_inside_ns,
        }
    }

    /// Of this call and a later one of the same thread, taken as one.
    fn until(&self, next: &Self) -> Self {
        Self {
            run_queue_ns: [self.run_queue_ns[0], next.run_queue_ns[1]],
            throttled_ns: [self.throttled_ns[0], next.throttled_ns[1]],
            unseen_ns: [self.unseen_ns[0], next.unseen_ns[1]],
            off_cpu_ns: next.off_cpu_ns,
            off_cpu_inside_ns: self.off_cpu_inside_ns.saturating_add(next.off_cpu_inside_ns),
        }
    }
}

impl Waits {
    /// All of it.
    pub fn total_ns(&self) -> u64 {
        let awake_ns = self.run_queue_ns.saturating_add(self.unseen_ns);
        self.off_cpu_ns.iter().fold(awake_ns, |sum, ns| sum.saturating_add(*ns))
    }

    /// What of each is left if so much of any was elsewhere.
    pub fn less(&self, ns: u64) -> Self {
        Self {
            off_cpu_ns: self.off_cpu_ns.map(|off_cpu_ns| off_cpu_ns.saturating_sub(ns)),
            run_queue_ns: self.run_queue_ns.saturating_sub(ns),
            throttled_ns: self.throttled_ns.saturating_sub(ns),
            unseen_ns: self.unseen_ns.saturating_sub(ns),
        }
    }

    /// Both together.
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = *self;
        for (ns, more) in sum.off_cpu_ns.iter_mut().zip(other.off_cpu_ns) {
            *ns = ns.saturating_add(more);
        }
        sum.run_queue_ns = sum.run_queue_ns.saturating_add(other.run_queue_ns);
        sum.throttled_ns = sum.throttled_ns.saturating_add(other.throttled_ns);
        sum.unseen_ns = sum.unseen_ns.saturating_add(other.unseen_ns);
        sum
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
            totals: Totals::new(record),
            queued: Queued {
                from_ns: record.queued_from_ns,
                until_ns: record.queued_until_ns,
                throttled_ns: record.queued_throttled_ns,
            },
            transmitted_ns: record.transmitted_ns,
            receive_queue: record.receive_queue,
            out_of_order: record.out_of_order,
            pid: record.pid,
            tid: record.tid,
            slept_in: record.slept_in,
            sched: record.flags & flag::SCHED != 0,
            outside: record.flags & flag::OUTSIDE_CALL != 0,
            merged: None,
        }
    }

    /// A write as far as TCP saw it. Without a return it counts as returned when TCP took its first byte.
    pub fn of_send(start: u64, end: u64, record: &SendRecord) -> Self {
        let return_ns = if record.done_ns != 0 { record.done_ns } else { record.locked_ns };
        Self {
            start,
            end,
            enter_ns: if record.enter_ns != 0 { record.enter_ns } else { record.locked_ns },
            return_ns,
            totals: Totals { run_queue_ns: [record.run_queue_enter_ns, 0], ..Totals::default() },
            pid: record.pid,
            tid: record.tid,
            slept_in: NEVER_SLEPT,
            outside: record.flags & flag::OUTSIDE_CALL != 0,
            ..Self::default()
        }
    }

    /// What was between its calls, if they are several.
    pub fn between(&self) -> Between {
        self.merged.as_deref().copied().unwrap_or_default()
    }

    /// The entry; if that was not seen, the return is as near.
    pub fn begin_ns(&self) -> u64 {
        if self.enter_ns != 0 { self.enter_ns } else { self.return_ns }
    }

    /// The throttled part of the wait for a CPU that ended at `running_ns`, as far as it is known.
    pub fn throttled_after_wake_ns(&self) -> u64 {
        if self.queued.until_ns == self.running_ns { self.queued.throttled_ns } else { 0 }
    }

    /// What the thread waited for from this call's return to `next`'s entry, if it is known to be one thread and the
    /// totals do not contradict the clock.
    pub fn waits_until(&self, next: &Self) -> Option<Waits> {
        let known = self.sched && next.sched && self.tid != 0 && self.tid == next.tid;
        let gap_ns = next.enter_ns.saturating_sub(self.return_ns);
        let run_queue_ns = next.totals.run_queue_ns[0].checked_sub(self.totals.run_queue_ns[1])?;
        let throttled_ns = next.totals.throttled_ns[0].saturating_sub(self.totals.throttled_ns[1]).min(run_queue_ns);
        let unseen_ns = next.totals.unseen_ns[0].checked_sub(self.totals.unseen_ns[1])?;
        let waits = Waits { off_cpu_ns: self.slept_until(next)?, run_queue_ns, throttled_ns, unseen_ns };
        (known && waits.total_ns() <= gap_ns).then_some(waits)
    }

    /// Sleep between this call's return and `next`'s entry. Of the sleep inside `next` only the amount is known, not
    /// what it was in: a call on a socket sleeps for the socket, or at a page fault for a disk.
    fn slept_until(&self, next: &Self) -> Option<[u64; BLOCKED]> {
        const IN_CALLS: [Blocked; BLOCKED] =
            [Blocked::Socket, Blocked::Disk, Blocked::Other, Blocked::Lock, Blocked::Poll, Blocked::Sleep];
        let mut slept_ns = [0; BLOCKED];
        for (index, ns) in slept_ns.iter_mut().enumerate() {
            *ns = next.totals.off_cpu_ns[index].checked_sub(self.totals.off_cpu_ns[index])?;
        }
        if let Some(between) = &next.merged {
            for (ns, between_ns) in slept_ns.iter_mut().zip(between.waits.off_cpu_ns) {
                *ns = ns.checked_sub(between_ns)?;
            }
        }
        let mut inside_ns = next.totals.off_cpu_inside_ns;
        for blocked in IN_CALLS {
            let ns = &mut slept_ns[blocked as usize];
            let part_ns = inside_ns.min(*ns);
            *ns -= part_ns;
            inside_ns -= part_ns;
        }
        (inside_ns == 0).then_some(slept_ns)
    }

    /// What the thread waited for inside `next`, its next call: as for [`CallTiming::waits_until`].
    pub fn waits_inside(&self, next: &Self) -> Option<Waits> {
        let before = self.slept_until(next)?;
        let mut inside = next.run_queue_inside()?;
        for (index, ns) in inside.off_cpu_ns.iter_mut().enumerate() {
            *ns =
                next.totals.off_cpu_ns[index].checked_sub(self.totals.off_cpu_ns[index])?.checked_sub(before[index])?;
        }
        (inside.total_ns() <= next.return_ns.saturating_sub(next.enter_ns)).then_some(inside)
    }

    /// Time of the thread on run queues within this call, likewise; and the throttled part of it. Not what it slept:
    /// that is what the call is for.
    pub fn run_queue_inside(&self) -> Option<Waits> {
        let run_queue_ns = self.totals.run_queue_ns[1].checked_sub(self.totals.run_queue_ns[0])?;
        let unseen_ns = self.totals.unseen_ns[1].checked_sub(self.totals.unseen_ns[0])?;
        let all_ns = run_queue_ns.saturating_add(unseen_ns);
        let plausible = self.sched && all_ns <= self.return_ns.saturating_sub(self.enter_ns);
        let between = self.between().waits;
        let unseen_ns = unseen_ns.saturating_sub(between.unseen_ns);
        let run_queue_ns = run_queue_ns.saturating_sub(between.run_queue_ns);
        let throttled_ns = self.totals.throttled_ns[1].saturating_sub(self.totals.throttled_ns[0]);
        let throttled_ns = throttled_ns.saturating_sub(between.throttled_ns).min(run_queue_ns);
        plausible.then_some(Waits { run_queue_ns, throttled_ns, unseen_ns, ..Waits::default() })
    }

    /// Whether the sleep that ended at `woken_ns` was for bytes to arrive: in this very call, or waiting for whatever
    /// event comes first. `None` if what tells is not known.
    pub fn slept_for_bytes(&self) -> Option<bool> {
        match self.slept_in {
            poll if poll == Blocked::Poll as u8 => Some(true),
            socket if socket == Blocked::Socket as u8 => (self.enter_ns != 0).then_some(self.enter_ns <= self.woken_ns),
            known if usize::from(known) < BLOCKED => Some(false),
            _ => None,
        }
    }

    pub(super) fn merge(&self, next: &Self) -> Self {
        let pause_ns = next.enter_ns.saturating_sub(self.return_ns);
        let waits = self.waits_until(next);
        let (before, later) = (self.between(), next.between());
        let between = Between {
            ns: before.ns.saturating_add(later.ns).saturating_add(pause_ns),
            waits: before.waits.plus(&later.waits).plus(&waits.unwrap_or_default()),
        };
        Self {
            start: self.start,
            enter_ns: self.enter_ns,
            totals: self.totals.until(&next.totals),
            receive_queue: self.receive_queue,
            sched: waits.is_some(),
            tid: if self.tid == next.tid { self.tid } else { 0 },
            outside: self.outside || next.outside,
            merged: Some(Box::new(between)),
            ..next.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(times_ns: (u64, u64), queued_ns: [u64; 2], off_cpu_ns: [u64; BLOCKED], inside_ns: u64) -> CallTiming {
        let record = CallRecord {
            enter_ns: times_ns.0,
            run_queue_enter_ns: queued_ns[0],
            run_queue_exit_ns: queued_ns[1],
            off_cpu_ns,
            off_cpu_inside_ns: inside_ns,
            tid: 7,
            flags: flag::SCHED,
            ..Default::default()
        };
        CallTiming { return_ns: times_ns.1, ..CallTiming::new(0, 1, &record) }
    }

    const NONE: [u64; BLOCKED] = [0; BLOCKED];

    #[test]
    fn merged_calls_keep_the_time_between_them() {
        let merged = call((10, 20), [0, 1], NONE, 0).merge(&call((50, 60), [6, 8], NONE, 0));
        assert_eq!((merged.enter_ns, merged.return_ns, merged.between().ns), (10, 60, 30));
        assert_eq!(merged.run_queue_inside().unwrap().run_queue_ns, 3, "8 in all, 5 of them between the calls");
    }

    #[test]
    fn sleep_inside_the_next_call_is_not_the_applications() {
        let (read, write) = (call((0, 10), [0, 0], [1, 2, 3, 4, 5, 6], 0), [11, 2, 33, 4, 5, 6]);
        let waits = read.waits_until(&call((100, 140), [0, 0], write, 25)).unwrap();
        assert_eq!(waits.off_cpu_ns, [10, 0, 5, 0, 0, 0], "25 of the 30 for a socket were in the write");
    }

    #[test]
    fn totals_that_contradict_the_clock_say_nothing() {
        let read = call((0, 10), [0, 0], NONE, 0);
        assert_eq!(read.waits_until(&call((20, 30), [0, 0], [11, 0, 0, 0, 0, 0], 0)), None, "11 in a gap of 10");
        assert_eq!(read.waits_until(&call((20, 30), [0, 0], [5, 0, 0, 0, 0, 0], 6)), None, "less than was inside");
        let back = call((0, 10), [0, 0], [9, 0, 0, 0, 0, 0], 0);
        assert_eq!(back.waits_until(&call((20, 30), [0, 0], NONE, 0)), None, "totals do not shrink");
    }
}
