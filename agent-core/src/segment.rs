//! Where the time of an exchange went: tiles that cover a span exactly.
//!
//! In: the ranges of a request and its response, and the [`Timings`] of both directions. Out: a [`Timeline`]: start,
//! end, and segments that touch each other and sum to the duration, by construction. Called by [`crate::exchange`].
//! Never: gives time that nothing observed to a neighbour's `measured`; such time is `unexplained` or `derived`.
//!
//! Two conventions: time that is known only as an amount (sleep and run-queue time between two observed points, the nearest that
//! there are) is placed at the end of its interval; and beyond [`TILES_MAX`] tiles those in the middle are summed by kind.

use std::ops::Range;

use crate::{
    flow::{
        connection::Role,
        thread::Waypoint,
        timing::{CallTiming, Moment, Timings},
    },
    span::{
        Evidence::{self, Derived},
        Segment, SegmentName,
    },
};

mod client;
mod server;
mod tiles;

pub(crate) use self::tiles::Tiles;

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
    /// Client: what was waited for before the request could be written, if this exchange is why.
    pub before: Before,
    /// Server: if this is the connection's first exchange, when `accept` returned it; 0 if that was not observed.
    pub accepted_ns: Option<u64>,
    /// Client: what the other end, if it is on this host, saw of the same bytes.
    pub other_end: OtherEnd,
    /// Whether the bytes go from socket to socket without a network (unix sockets).
    pub direct: bool,
    /// When the exchange was given up, if its end was not seen.
    pub cut_ns: Option<u64>,
    /// Client: if its application closed the connection before it had the whole answer, the offset of the first byte that it did not
    /// read.
    pub unread_from: Option<u64>,
    /// The last call that moved nothing.
    pub moved_nothing: Option<&'a CallTiming>,
    /// Server: what the thread that handled it did on other connections meanwhile, in order.
    pub waypoints: &'a [Waypoint],
    /// Whether both ranges are known for sure; if not, nothing is `measured`.
    pub exact: bool,
}

/// What the server's end of a connection saw of an exchange of which the client's end makes the span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtherEnd {
    /// Arrival of the request's last byte.
    pub arrived: Option<Moment>,
    /// When the first byte of the response left for the device.
    pub left: Option<Moment>,
}

impl Before {
    /// The steps that are known, in order.
    pub fn steps(&self) -> impl Iterator<Item = (SegmentName, Step)> {
        let steps = [(SegmentName::Dns, self.dns), (SegmentName::Connect, self.connect), (SegmentName::Tls, self.tls)];
        steps.into_iter().filter_map(|(name, step)| step.map(|step| (name, step)))
    }
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

/// Whether enough is known for a timeline.
pub fn is_timed(parts: &Parts<'_>, role: Role) -> bool {
    match role {
        Role::Client => client::is_timed(parts),
        Role::Server => server::is_timed(parts),
    }
}

/// Whose waypoints say in which order an exchange was handled, and within which time, if anybody's do.
pub fn handling(parts: &Parts<'_>, role: Role) -> Option<(u32, Range<u64>)> {
    if role == Role::Server { server::handling(parts) } else { None }
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
    /// Nothing but steps before a request that could not be made.
    pub fn of_steps(before: &Before) -> Self {
        let start = before.steps().next().map(|(_, step)| step);
        let end_ns = before.steps().last().map_or(0, |(_, step)| step.end_ns);
        let mut tiles = Tiles::new(start.map_or(0, |step| step.start_ns), end_ns);
        client::before(&mut tiles, before);
        tiles.finish(start.map_or(Derived, |step| step.evidence))
    }

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

/// Without empty tiles, equal neighbours as one.
fn merged(mut segments: Vec<Segment>) -> Vec<Segment> {
    segments.retain(|segment| segment.duration_ns > 0);
    segments.dedup_by(|segment, last| {
        let same = (last.name, last.evidence, last.by) == (segment.name, segment.evidence, segment.by);
        last.duration_ns += if same { segment.duration_ns } else { 0 };
        same
    });
    segments
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
