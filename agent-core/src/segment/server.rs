//! The server's view: accept queue, transfer, reading, application, send.

use std::ops::Range;

use super::{Parts, Tiles, Timeline};
use crate::{
    flow::timing::CallTiming,
    span::{
        Evidence::{Derived, Measured},
        SegmentName::{AcceptQueue, Application},
    },
};

pub(super) fn is_timed(parts: &Parts<'_>) -> bool {
    let side = parts.request_side;
    let starts =
        side.arrival_of_first(parts.request.start).is_some() || side.calls.holding(parts.request.start).is_some();
    let written = || parts.response.clone().is_some_and(|response| parts.response_side.is_written(response));
    starts && (parts.cut_ns.is_some() || written())
}

/// Whose time it was between the request and its answer, and when that was, if it was one thread's that is known.
pub(super) fn handling(parts: &Parts<'_>) -> Option<(u32, Range<u64>)> {
    let read = parts.request_side.calls.holding(parts.request.end.saturating_sub(1))?;
    let write = parts.response_side.calls.within(parts.response.clone()?).last()?;
    (read.sched && read.tid != 0).then_some((read.tid, read.return_ns..write.enter_ns))
}

pub(super) fn timeline(parts: &Parts<'_>) -> Option<Timeline> {
    let reads = &parts.request_side.calls;
    let first_read = reads.holding(parts.request.start);
    let last_read = reads.holding(parts.request.end.saturating_sub(1));
    let arrived = parts.request_side.arrival_of_first(parts.request.start);
    // A read call may have been entered long before its request existed: only its return is the request's.
    let start_ns = arrived.map(|moment| moment.ns).or(first_read.map(|read| read.return_ns))?;
    let mut seen = Vec::new();
    let writes = parts.response_side.writes(parts.response.clone().unwrap_or(0..0), &mut seen);
    let last_write = writes.clone().next_back();
    let end_ns = match (parts.cut_ns, last_write) {
        (Some(cut_ns), last) => cut_ns.max(last.map_or(0, |write| write.return_ns)),
        (None, Some(last)) => last.return_ns,
        (None, None) => return None,
    };
    let mut tiles = Tiles::new(start_ns, end_ns);
    receiving(&mut tiles, parts, last_read);
    let mut before = last_read;
    for write in writes {
        match before {
            Some(before) => tiles.application(before, write, parts.waypoints),
            None => tiles.unexplained(write.enter_ns),
        }
        tiles.writing(write);
        before = Some(write);
    }
    if let (None, Some(read), true) = (last_write, last_read, parts.exact) {
        // Given up without an answer: the application had the request all the while.
        tiles.unanswered(read, parts.moved_nothing);
    }
    let exact_start = arrived.is_some_and(|moment| moment.exact);
    Some(tiles.finish(if exact_start { Measured } else { Derived }))
}

/// From the request's first byte at this host to the return of the call that read its last one.
fn receiving(tiles: &mut Tiles, parts: &Parts<'_>, last_read: Option<&CallTiming>) {
    let first = parts.request_side.arrival_of_first(parts.request.start);
    let last = parts.request_side.arrival_of_last(parts.request.end);
    let Some(first) = first else { return last_read.into_iter().for_each(|read| tiles.unexplained(read.return_ns)) };
    // Who has not accepted yet cannot read; if it is not known when that was, it may have been at any time.
    let accepted = parts.accepted_ns != Some(0);
    tiles.until(parts.accepted_ns.unwrap_or(0), AcceptQueue, if first.exact { Measured } else { Derived });
    if let Some(last) = last {
        tiles.transferring(parts.request_side, &parts.request, (first.exact, last), Application);
    }
    match (last, last_read) {
        (Some(last), Some(read)) => tiles.reading(read, last.exact && accepted),
        (None, Some(read)) => tiles.unexplained(read.return_ns),
        _ => {}
    }
}
