//! Laying tiles: points in time are clamped, so that tiles neither overlap nor leave holes.

use std::ops::Range;

use agent_common::sched::{BLOCKED, Blocked};

use super::{Timeline, merged, shortened};
use crate::{
    flow::{
        thread::Waypoint,
        timing::{CallTiming, Moment, Timings, Waits},
    },
    span::{
        By,
        Evidence::{self, Derived, Measured},
        Segment,
        SegmentName::{self, *},
    },
};

/// Who polls for a socket is woken in the softirq that brings its bytes: a later wake-up was for something else.
const POLL_WOKEN_NS: u64 = 1_000_000;
/// A reader that does not take what lies ready for this long does not keep up.
const READER_PAUSE_NS: u64 = 1_000_000;
/// In the order of [`Blocked`]'s indices.
const CATEGORIES: [By; BLOCKED] = [By::Lock, By::Disk, By::Socket, By::Sleep, By::Poll, By::Other];
const _: () = assert!(Blocked::Lock as usize == 0 && Blocked::Poll as usize == 4 && Blocked::Other as usize == 5);

/// Lays tiles from a start towards an end.
#[derive(Debug)]
pub(crate) struct Tiles {
    start_ns: u64,
    end_ns: u64,
    now_ns: u64,
    segments: Vec<Segment>,
}

impl Tiles {
    pub(crate) fn new(start_ns: u64, end_ns: u64) -> Self {
        Self { start_ns, end_ns: end_ns.max(start_ns), now_ns: start_ns, segments: Vec::with_capacity(12) }
    }

    /// Up to where tiles were laid.
    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Up to `ns`, time went to `name`.
    pub(crate) fn until(&mut self, ns: u64, name: SegmentName, evidence: Evidence) {
        self.lay(ns, name, evidence, None);
    }

    /// Nothing observed says where time went up to `ns`.
    pub(crate) fn unexplained(&mut self, ns: u64) {
        self.until(ns, Unexplained, Derived);
    }

    fn lay(&mut self, ns: u64, name: SegmentName, evidence: Evidence, by: Option<By>) {
        let ns = ns.clamp(self.now_ns, self.end_ns);
        let (offset_ns, duration_ns) = (self.now_ns - self.start_ns, ns - self.now_ns);
        if duration_ns > 0 {
            self.segments.push(Segment { name, offset_ns, duration_ns, evidence, by, lost_records: 0 });
        }
        self.now_ns = ns;
    }

    /// Up to `ns`, time went to `name`, but for what the thread waited for, which comes last: sleep, then what was not seen,
    /// then run queue.
    pub(crate) fn until_waits(&mut self, ns: u64, name: SegmentName, evidence: Evidence, waits: &Waits) {
        let ns = ns.clamp(self.now_ns, self.end_ns);
        let waits_ns = waits.total_ns().min(ns - self.now_ns);
        self.until(ns - waits_ns, name, evidence);
        if waits_ns == 0 {
            return;
        }
        for (by, off_cpu_ns) in CATEGORIES.into_iter().zip(waits.off_cpu_ns) {
            self.lay(self.now_ns.saturating_add(off_cpu_ns).min(ns), OffCpu, evidence, Some(by));
        }
        self.unexplained(self.now_ns.saturating_add(waits.unseen_ns).min(ns));
        self.queued(ns, evidence, waits.throttled_ns);
    }

    /// Up to `ns` the thread waited for a CPU, at first for as long as its cgroup was throttled.
    fn queued(&mut self, ns: u64, evidence: Evidence, throttled_ns: u64) {
        self.lay(self.now_ns.saturating_add(throttled_ns).min(ns), RunQueue, evidence, Some(By::Throttled));
        self.until(ns, RunQueue, evidence);
    }

    /// From the first byte's arrival (now) to that of the last of `range`, but for the times in which the reader paused
    /// while bytes lay ready: then `paused` says where it was.
    pub(crate) fn transferring(
        &mut self,
        side: &Timings,
        range: &Range<u64>,
        exact: (bool, Moment),
        paused: SegmentName,
    ) {
        let (first_exact, last) = exact;
        let evidence = if first_exact && last.exact { Measured } else { Derived };
        let long = last.ns.saturating_sub(self.now_ns) >= READER_PAUSE_NS;
        let mut previous: Option<&CallTiming> = None;
        for read in side.calls.within(range.clone()).take_while(|_| long) {
            if let Some(previous) = previous.replace(read) {
                self.pause(side, previous, read, last.ns, paused, evidence);
            }
        }
        self.until(last.ns, Transfer, evidence);
    }

    fn pause(
        &mut self,
        side: &Timings,
        from: &CallTiming,
        to: &CallTiming,
        until_ns: u64,
        name: SegmentName,
        evidence: Evidence,
    ) {
        let Some(ready) = side.readable_from(to.start) else { return };
        let begin_ns = ready.ns.max(from.return_ns).max(self.now_ns);
        let end_ns = to.enter_ns.min(until_ns);
        if end_ns.saturating_sub(begin_ns) < READER_PAUSE_NS {
            return;
        }
        let evidence = if ready.exact { evidence } else { Derived };
        self.until(begin_ns, Transfer, evidence);
        // The totals of its waits are those of the whole pause.
        let waits = from.waits_until(to).filter(|_| begin_ns == from.return_ns && end_ns == to.enter_ns);
        match waits {
            Some(waits) if name == Application => self.until_waits(end_ns, name, Measured, &waits),
            _ => self.until(end_ns, name, if name == Application { Derived } else { evidence }),
        }
    }

    /// From the last byte's arrival (now) to the return of the read call that handed it over.
    ///
    /// A thread that was last woken before that was running, and busy elsewhere. If the arrival is not `exact`, the part
    /// that begins with it is not measured.
    pub(crate) fn reading(&mut self, read: &CallTiming, exact: bool) {
        let mut evidence = if exact { Measured } else { Derived };
        if read.outside {
            return self.until(read.return_ns, ReceiveBuffer, Derived);
        }
        if !read.sched || read.woken_ns == 0 {
            return self.reading_unwoken(read);
        }
        // What it slept in says whether it waited for these bytes; if not, they lay there until it was done.
        let (asleep, sure) = match read.slept_for_bytes() {
            Some(false) => (ReceiveBuffer, Measured),
            // It polled for another one, as long as these bytes lay there.
            Some(true)
                if read.slept_in == Blocked::Poll as u8
                    && read.woken_ns.saturating_sub(self.now_ns) > POLL_WOKEN_NS =>
            {
                (ReceiveBuffer, Derived)
            }
            Some(true) => (Wakeup, Measured),
            None => (Wakeup, Derived),
        };
        if read.running_ns < read.woken_ns {
            self.until(read.woken_ns, asleep, evidence.max(sure));
            return self.unexplained(read.return_ns);
        }
        let mut inside = read.run_queue_inside();
        if read.running_ns > self.now_ns {
            let slept = read.woken_ns >= self.now_ns;
            self.until(read.woken_ns, asleep, evidence.max(sure));
            let queued = if slept { Measured } else { evidence };
            evidence = Measured;
            // Run-queue time inside the call is then that of the wake-up, or older than the message.
            if read.enter_ns <= read.woken_ns {
                let throttled_ns = inside.map_or(0, |waits| waits.throttled_ns);
                self.queued(read.running_ns, queued, throttled_ns);
                inside = Some(Waits::default());
            } else {
                self.queued(read.running_ns, queued, read.throttled_after_wake_ns());
            }
        }
        let Some(inside) = inside else { return self.until(read.return_ns, ReceiveBuffer, Derived) };
        self.queued_before(read, evidence);
        let queued_until_ns = self.now_ns.saturating_add(inside.run_queue_ns).min(read.return_ns);
        self.queued(queued_until_ns, evidence, inside.throttled_ns);
        if inside.unseen_ns > 0 {
            self.unexplained(self.now_ns.saturating_add(inside.unseen_ns).min(read.return_ns));
            evidence = Derived;
        }
        self.until(read.return_ns, ReceiveBuffer, evidence);
    }

    /// Up to the entry of a read of a thread that was busy elsewhere, bytes lay in the buffer; its last long wait for a CPU in
    /// that time stands out. Of those before it only the time that all of it took is known.
    fn queued_before(&mut self, read: &CallTiming, evidence: Evidence) {
        let until_ns = read.queued.until_ns.min(read.enter_ns);
        if until_ns <= self.now_ns || read.queued.from_ns >= until_ns {
            return;
        }
        self.until(read.queued.from_ns, ReceiveBuffer, evidence);
        // Of a wait that had begun before, the throttled part may be of that time.
        let throttled_ns = if read.queued.from_ns >= self.now_ns { read.queued.throttled_ns } else { 0 };
        self.queued(until_ns, evidence, throttled_ns);
        self.until(read.enter_ns, ReceiveBuffer, evidence);
    }

    /// The same of a reader of which no wake-up was seen. What had arrived before it called lay in the buffer until then;
    /// whether it was busy, asleep or queued for a CPU is not known. A call that did not sleep only took it out.
    fn reading_unwoken(&mut self, read: &CallTiming) {
        if read.enter_ns < self.now_ns {
            return self.unexplained(read.return_ns);
        }
        self.until(read.enter_ns, ReceiveBuffer, Derived);
        match read.run_queue_inside().filter(|_| read.totals.off_cpu_inside_ns == 0) {
            Some(waits) => self.until_waits(read.return_ns, ReceiveBuffer, Measured, &waits),
            None => self.unexplained(read.return_ns),
        }
    }

    /// A write call; what is before it has its tile.
    pub(crate) fn writing(&mut self, write: &CallTiming) {
        if write.enter_ns == 0 {
            return self.unexplained(write.return_ns);
        }
        let between = write.between();
        let own_end_ns = write.return_ns.saturating_sub(between.ns);
        self.until_waits(own_end_ns, Send, Measured, &write.run_queue_inside().unwrap_or_default());
        if between.ns > 0 {
            let known = if write.sched { Measured } else { Derived };
            self.until_waits(write.return_ns, Application, known, &between.waits);
        }
    }

    /// In the application, between a step that it waited for and its first write. If it slept in between, the rest is told
    /// by what its thread did since; of the time before nothing is known.
    pub(crate) fn preparing(&mut self, write: &CallTiming) {
        let order = [self.now_ns, write.woken_ns, write.running_ns, write.enter_ns];
        if write.sched && order.is_sorted() {
            self.until(write.woken_ns, Application, Derived);
            self.queued(write.running_ns, Measured, write.throttled_after_wake_ns());
        }
        self.until(write.enter_ns, Application, Derived);
    }

    /// In the application, between two writes of one message; of what lies between if bytes between them are missing,
    /// nothing is known.
    pub(crate) fn between(&mut self, from: &CallTiming, to: &CallTiming) {
        if from.end == to.start {
            return self.application(from, to, &[]);
        }
        self.until(to.begin_ns(), Application, Derived);
    }

    /// In the application, between two calls. If the next one's entry was not seen, that call's tile covers it; outside
    /// of calls, the time at which the kernel took the bytes is as near. `waypoints`: what the thread did on other connections
    /// meanwhile, which says when it waited.
    pub(crate) fn application(&mut self, from: &CallTiming, to: &CallTiming, waypoints: &[Waypoint]) {
        if to.outside {
            return self.until(to.begin_ns(), Application, Derived);
        }
        let Some(whole) = from.waits_until(to) else { return self.until(to.enter_ns, Application, Derived) };
        for (ns, waits) in by_waypoints(from, to, waypoints).unwrap_or_else(|| vec![(to.enter_ns, whole)]) {
            self.until_waits(ns, Application, Measured, &waits);
        }
    }

    /// In the application, from a call to the end, without another one that moved bytes. If the thread made one that moved nothing, what it
    /// waited for until then is known; of a wait that may have been later, only what cannot have been.
    pub(crate) fn unanswered(&mut self, from: &CallTiming, next: Option<&CallTiming>) {
        let next = next.filter(|next| next.enter_ns >= from.return_ns);
        if let Some((next, waits)) = next.and_then(|next| Some((next, from.waits_until(next)?))) {
            let later_ns = next.enter_ns.saturating_sub(self.end_ns);
            // Not measured: that there was no answer meanwhile is what nobody saw.
            self.until_waits(next.enter_ns, Application, Derived, &waits.less(later_ns));
        }
        self.until(self.end_ns, Application, Derived);
    }

    /// Up to the arrival of a message's first byte, time went to `name`, but for the delivery from the softirq's raise
    /// on. How long the raise is ago is the most that the packet may have waited: others may have come before it. Within
    /// the accuracy that is promised that makes no difference. If it is most of the time, it is told as what it was
    /// spent on, and nothing here is measured; in between it says nothing.
    pub(crate) fn arriving(&mut self, arrived: Moment, softirq_ns: Option<u64>, name: SegmentName, evidence: Evidence) {
        const ACCURACY_NS: u64 = 10_000;
        let mut evidence = if arrived.exact { evidence } else { Derived };
        let all_ns = arrived.ns.saturating_sub(self.now_ns);
        let raised_ns = softirq_ns.filter(|raised_ns| (self.now_ns..arrived.ns).contains(raised_ns));
        let waited_ns = raised_ns.map_or(0, |raised_ns| arrived.ns - raised_ns);
        let small = waited_ns <= ACCURACY_NS.max(all_ns / 10);
        if !small && waited_ns >= all_ns / 2 {
            evidence = evidence.max(Derived);
        } else if !small {
            return self.until(arrived.ns, name, evidence);
        }
        self.until(arrived.ns - waited_ns, name, evidence);
        self.until(arrived.ns, Softirq, Derived);
    }

    pub(crate) fn finish(mut self, start: Evidence) -> Timeline {
        self.unexplained(self.end_ns);
        let segments = shortened(merged(self.segments));
        Timeline { start_ns: self.start_ns, end_ns: self.end_ns, start, segments }
    }
}

/// What a thread waited for between two of its calls on one connection: up to each entry and each return of those that it made on
/// others in between. `None` if it made none, or if one contradicts another.
fn by_waypoints(from: &CallTiming, to: &CallTiming, waypoints: &[Waypoint]) -> Option<Vec<(u64, Waits)>> {
    let mut parts = Vec::new();
    let mut before = from.clone();
    for waypoint in waypoints {
        if !waypoint.is_within(&(before.return_ns..to.enter_ns)) {
            continue;
        }
        let call = waypoint.as_call();
        parts.push((call.enter_ns, before.waits_until(&call)?));
        parts.push((call.return_ns, before.waits_inside(&call)?));
        before = call;
    }
    if parts.is_empty() {
        return None;
    }
    parts.push((to.enter_ns, before.waits_until(to)?));
    // What was waited for is placed to a hundredth, so that a span of many short calls does not have as many tiles. A long wait is
    // not moved by the short ones before it.
    let least_ns = to.enter_ns.saturating_sub(from.return_ns) / 100;
    let mut pending = Waits::default();
    let mut before_ns = from.return_ns;
    let mut divided = Vec::new();
    for (ns, waits) in parts {
        if waits.total_ns() > least_ns && pending != Waits::default() {
            divided.push((before_ns, std::mem::take(&mut pending)));
        }
        pending = pending.plus(&waits);
        if pending.total_ns() > least_ns || ns == to.enter_ns {
            divided.push((ns, std::mem::take(&mut pending)));
        }
        before_ns = ns;
    }
    Some(divided)
}
