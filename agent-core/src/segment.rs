//! Where the time of an exchange went: tiles that cover a span exactly.
//!
//! In: the ranges of a request and its response, and the [`Timings`] of both directions. Out: a [`Timeline`]: start,
//! end, and segments that touch each other and sum to the duration, by construction. Called by [`crate::exchange`].
//! Never: gives time that nothing observed to a neighbour's `measured`; such time is `unexplained` or `derived`.
//!
//! Two conventions: time that is known only as an amount (run-queue time between two observed points) is placed at the
//! end of its interval; and beyond [`TILES_MAX`] tiles those in the middle are summed by kind.

use std::ops::Range;

use crate::{
    flow::timing::{CallTiming, Timings},
    span::{
        Evidence::{self, Derived, Measured},
        Segment,
        SegmentName::{self, *},
    },
};

mod client;
mod server;

/// Most tiles of a span.
pub const TILES_MAX: usize = 64;

/// A step of which both ends are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Begin.
    pub start_ns: u64,
    /// End.
    pub end_ns: u64,
    /// How they are known.
    pub evidence: Evidence,
}

/// What a connection's first request waited for before it could be written, in the order in which it happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Name resolution.
    pub dns: Option<Step>,
    /// TCP handshake.
    pub connect: Option<Step>,
    /// TLS handshake.
    pub tls: Option<Step>,
}

/// What is known of an exchange when its segments are made.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// Offsets of the request in its direction.
    pub request: Range<u64>,
    /// Offsets of what was seen of the response in its direction.
    pub response: Option<Range<u64>>,
    /// Timings of the request's direction.
    pub request_side: &'a Timings,
    /// Timings of the response's direction.
    pub response_side: &'a Timings,
    /// Client: when the connection was opened and established, if this exchange is why.
    pub connect_ns: Option<(u64, u64)>,
    /// When the exchange was given up, if its end was not seen.
    pub cut_ns: Option<u64>,
    /// Whether both ranges are known for sure; if not, nothing is `measured`.
    pub exact: bool,
}

/// A span's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Start, `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// End.
    pub end_ns: u64,
    /// How the start is known.
    pub start: Evidence,
    /// Tiles of `[0, end - start)`.
    pub segments: Vec<Segment>,
}

/// The time of an exchange as its client saw it; `None` if not even its start is known.
pub fn client(parts: &Parts<'_>) -> Option<Timeline> {
    client::timeline(parts).map(|timeline| timeline.judged(parts))
}

/// The time of an exchange as its server saw it; `None` if not even its start is known.
pub fn server(parts: &Parts<'_>) -> Option<Timeline> {
    server::timeline(parts).map(|timeline| timeline.judged(parts))
}

impl Timeline {
    /// What rests on unsure ranges is not measured.
    fn judged(mut self, parts: &Parts<'_>) -> Self {
        if !parts.exact {
            for segment in &mut self.segments {
                segment.evidence = segment.evidence.max(Derived);
            }
            self.segments = merged(self.segments);
        }
        debug_assert_eq!(
            self.segments.iter().map(|segment| segment.duration_ns).sum::<u64>(),
            self.end_ns - self.start_ns,
            "segments cover the span exactly"
        );
        self
    }
}

/// Lays tiles from a start towards an end; points in time are clamped so that tiles neither overlap nor leave holes.
#[derive(Debug)]
struct Tiles {
    start_ns: u64,
    end_ns: u64,
    now_ns: u64,
    segments: Vec<Segment>,
}

impl Tiles {
    fn new(start_ns: u64, end_ns: u64) -> Self {
        Self { start_ns, end_ns: end_ns.max(start_ns), now_ns: start_ns, segments: Vec::new() }
    }

    /// Up to `ns`, time went to `name`.
    fn until(&mut self, ns: u64, name: SegmentName, evidence: Evidence) {
        let ns = ns.clamp(self.now_ns, self.end_ns);
        let (offset_ns, duration_ns) = (self.now_ns - self.start_ns, ns - self.now_ns);
        self.segments.push(Segment { name, offset_ns, duration_ns, evidence, by: None, lost_records: 0 });
        self.now_ns = ns;
    }

    /// Up to `ns`, time went to `name`, but for the last `queued_ns`, which went to the run queue.
    fn until_queued(&mut self, ns: u64, name: SegmentName, evidence: Evidence, queued_ns: u64) {
        let ns = ns.clamp(self.now_ns, self.end_ns);
        self.until(ns - queued_ns.min(ns - self.now_ns), name, evidence);
        self.until(ns, RunQueue, evidence);
    }

    /// Nothing observed says where time went up to `ns`.
    fn unexplained(&mut self, ns: u64) {
        self.until(ns, Unexplained, Derived);
    }

    /// From the last byte's arrival (now) to the return of the read call that handed it over.
    ///
    /// A thread that was last woken before that was running, and busy elsewhere. One of which no wake-up was ever seen
    /// may have slept and waited for a CPU: then nothing tells the parts apart. If the arrival is not `exact`, the part
    /// that begins with it is not measured.
    fn reading(&mut self, read: &CallTiming, exact: bool) {
        let mut evidence = if exact { Measured } else { Derived };
        if !read.sched || read.woken_ns == 0 {
            return self.unexplained(read.return_ns);
        }
        if read.running_ns < read.woken_ns {
            self.until(read.woken_ns, ReceiveBuffer, evidence);
            return self.unexplained(read.return_ns);
        }
        let mut queued_ns = read.run_queue_inside();
        if read.running_ns > self.now_ns {
            let slept = read.woken_ns >= self.now_ns;
            self.until(read.woken_ns, ReceiveBuffer, evidence);
            self.until(read.running_ns, RunQueue, if slept { Measured } else { evidence });
            evidence = Measured;
            // Run-queue time inside the call is then that of the wake-up, or older than the message.
            if read.enter_ns <= read.woken_ns {
                queued_ns = Some(0);
            }
        }
        let Some(queued_ns) = queued_ns else { return self.until(read.return_ns, ReceiveBuffer, Derived) };
        self.until(self.now_ns.saturating_add(queued_ns).min(read.return_ns), RunQueue, evidence);
        self.until(read.return_ns, ReceiveBuffer, evidence);
    }

    /// A write call; what is before it has its tile.
    fn writing(&mut self, write: &CallTiming) {
        if write.enter_ns == 0 {
            return self.unexplained(write.return_ns);
        }
        let own_end_ns = write.return_ns.saturating_sub(write.between_ns[0]);
        self.until_queued(own_end_ns, Send, Measured, write.run_queue_inside().unwrap_or(0));
        if write.between_ns[0] > 0 {
            self.until_queued(write.return_ns, Application, Measured, write.between_ns[1]);
        }
    }

    /// In the application, between two calls. If the next one's entry was not seen, that call's tile covers it.
    fn application(&mut self, from: &CallTiming, to: &CallTiming) {
        match from.run_queue_until(to) {
            Some(queued_ns) => self.until_queued(to.enter_ns, Application, Measured, queued_ns),
            None => self.until(to.enter_ns, Application, Derived),
        }
    }

    fn finish(mut self, start: Evidence) -> Timeline {
        self.unexplained(self.end_ns);
        let segments = shortened(merged(self.segments));
        Timeline { start_ns: self.start_ns, end_ns: self.end_ns, start, segments }
    }
}

/// Without empty tiles, equal neighbours as one.
fn merged(segments: Vec<Segment>) -> Vec<Segment> {
    let mut out: Vec<Segment> = Vec::with_capacity(segments.len());
    for segment in segments.into_iter().filter(|segment| segment.duration_ns > 0) {
        match out.last_mut() {
            Some(last) if (last.name, last.evidence, last.by) == (segment.name, segment.evidence, segment.by) => {
                last.duration_ns += segment.duration_ns;
            }
            _ => out.push(segment),
        }
    }
    out
}

/// At most [`TILES_MAX`] tiles: the middle ones become one per kind, in order of first appearance, sums kept.
fn shortened(segments: Vec<Segment>) -> Vec<Segment> {
    const KEPT: usize = 16;
    if segments.len() <= TILES_MAX {
        return segments;
    }
    let (head, rest) = segments.split_at(KEPT);
    let (middle, tail) = rest.split_at(rest.len() - KEPT);
    let mut sums: Vec<Segment> = Vec::new();
    for segment in middle {
        let key = (segment.name, segment.evidence, segment.by);
        match sums.iter_mut().find(|sum| (sum.name, sum.evidence, sum.by) == key) {
            Some(sum) => sum.duration_ns += segment.duration_ns,
            None => sums.push(*segment),
        }
    }
    let mut offset_ns = middle[0].offset_ns;
    for sum in &mut sums {
        sum.offset_ns = offset_ns;
        offset_ns += sum.duration_ns;
    }
    merged([head, &sums, tail].concat())
}

#[cfg(test)]
mod tests;
