//! The server's view: transfer, reading, application, send.

use super::{Parts, Tiles, Timeline};
use crate::span::{
    Evidence::{Derived, Measured},
    SegmentName::{Application, Transfer},
};

pub(super) fn timeline(parts: &Parts<'_>) -> Option<Timeline> {
    let reads = &parts.request_side.calls;
    let first_read = reads.holding(parts.request.start);
    let last_read = reads.holding(parts.request.end.saturating_sub(1));
    let arrived = parts.request_side.arrival_of_first(parts.request.start);
    // A read call may have been entered long before its request existed: only its return is the request's.
    let start_ns = arrived.map(|moment| moment.ns).or(first_read.map(|read| read.return_ns))?;
    let writes =
        parts.response.as_ref().map(|response| parts.response_side.writes(response.clone())).unwrap_or_default();
    let end_ns = match (parts.cut_ns, writes.last()) {
        (Some(cut_ns), last) => cut_ns.max(last.map_or(0, |write| write.return_ns)),
        (None, Some(last)) => last.return_ns,
        (None, None) => return None,
    };
    let mut tiles = Tiles::new(start_ns, end_ns);
    if let Some(first) = arrived {
        let last = parts.request_side.arrival_of_last(parts.request.end);
        if let Some(last) = last {
            tiles.until(last.ns, Transfer, if first.exact && last.exact { Measured } else { Derived });
        }
        match (last, last_read) {
            (Some(last), Some(read)) => tiles.reading(read, last.exact),
            (None, Some(read)) => tiles.unexplained(read.return_ns),
            _ => {}
        }
    } else if let Some(read) = last_read {
        tiles.unexplained(read.return_ns);
    }
    let mut before = last_read.copied();
    for write in &writes {
        match &before {
            Some(before) => tiles.application(before, write),
            None => tiles.unexplained(write.enter_ns),
        }
        tiles.writing(write);
        before = Some(*write);
    }
    if writes.is_empty() && last_read.is_some() && parts.exact {
        // Given up without an answer: the application had the request all the while.
        tiles.until(end_ns, Application, Derived);
    }
    let exact_start = arrived.is_some_and(|moment| moment.exact);
    Some(tiles.finish(if exact_start { Measured } else { Derived }))
}
