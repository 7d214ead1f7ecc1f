//! The client's view: connect, send, network, remote, transfer, reading.

use agent_common::message::{SendRecord, flag};

use super::{Parts, Tiles, Timeline};
use crate::span::{
    Evidence::{Derived, Measured},
    SegmentName::{Application, Connect, Network, Remote, Send, Transfer, Unexplained},
};

/// An acknowledgement later than twice the smallest round trip, and by at least this much, waited for the peer's
/// delayed-ACK timer (RFC 1122, 4.2.3.2; 40 ms and more in Linux).
const ACK_SLACK_NS: u64 = 2_000_000;

pub(super) fn timeline(parts: &Parts<'_>) -> Option<Timeline> {
    let writes = parts.request_side.writes(parts.request.clone());
    let first = writes.first()?;
    let last_read = parts.response.as_ref().and_then(|response| {
        response
            .end
            .checked_sub(1)
            .and_then(|last| parts.response_side.calls.holding(last))
            .filter(|_| !response.is_empty())
    });
    let end_ns = match (parts.cut_ns, last_read) {
        (Some(cut_ns), read) => cut_ns.max(read.map_or(0, |read| read.return_ns)),
        (None, Some(read)) => read.return_ns,
        (None, None) => return None,
    };
    let seen = first.enter_ns != 0;
    let start_ns = match parts.connect_ns {
        Some((opened_ns, _)) => opened_ns,
        None if seen => first.enter_ns,
        None => not_entered(parts)?,
    };
    let mut tiles = Tiles::new(start_ns, end_ns);
    if let Some((_, established_ns)) = parts.connect_ns {
        tiles.until(established_ns, Connect, Measured);
        tiles.until(first.enter_ns, Application, Measured);
    }
    for pair in writes.windows(2) {
        tiles.writing(&pair[0]);
        tiles.application(&pair[0], &pair[1]);
    }
    let sent = parts.request_side.sends.holding(parts.request.end.saturating_sub(1)).map(|send| send.record);
    let last_write = writes.last().expect("not empty");
    match &sent {
        Some(record) if record.transmitted_ns != 0 => {
            tiles.until(record.transmitted_ns, Send, if last_write.enter_ns != 0 { Measured } else { Derived });
        }
        // When the bytes left the host is not known: they went out at the latest some time after the call.
        _ => tiles.until(last_write.return_ns, Send, Derived),
    }
    let answer = parts.response.as_ref().filter(|response| !response.is_empty());
    let arrived = answer.and_then(|response| parts.response_side.arrival_of_first(response.start));
    if let (Some(answer), Some(arrived)) = (answer, arrived) {
        round_trip(&mut tiles, sent.as_ref(), arrived.ns, arrived.exact);
        if let Some(last) = parts.response_side.arrival_of_last(answer.end) {
            let exact = arrived.exact && last.exact;
            tiles.until(last.ns, Transfer, if exact { Measured } else { Derived });
            if let Some(read) = last_read {
                tiles.reading(read, last.exact);
            }
        }
    }
    Some(tiles.finish(if seen || parts.connect_ns.is_some() { Measured } else { Derived }))
}

/// When TCP took the first byte, else when the write returned: the closest to an entry that was not seen.
fn not_entered(parts: &Parts<'_>) -> Option<u64> {
    let locked_ns = parts.request_side.sends.holding(parts.request.start).map(|send| send.record.locked_ns);
    let returned_ns = parts.request_side.calls.holding(parts.request.start).map(|call| call.return_ns);
    [locked_ns, returned_ns].into_iter().flatten().find(|ns| *ns != 0)
}

/// From the request's last byte leaving (now) to the response's first byte arriving.
fn round_trip(tiles: &mut Tiles, sent: Option<&SendRecord>, arrived_ns: u64, exact: bool) {
    let judge = |measured: bool| if measured && exact { Measured } else { Derived };
    let rtt_ns = sent.and_then(rtt_ns);
    let Some(sent) = sent else { return tiles.until(arrived_ns, Unexplained, Derived) };
    let observed = sent.transmitted_ns != 0 && sent.acked_ns != 0 && sent.flags & flag::PIGGYBACKED == 0;
    let ack_ns = sent.acked_ns.saturating_sub(sent.transmitted_ns);
    let prompt = rtt_ns.is_some_and(|rtt_ns| ack_ns <= (2 * rtt_ns).max(rtt_ns + ACK_SLACK_NS));
    if observed && prompt && sent.acked_ns >= tiles.now_ns && sent.acked_ns < arrived_ns {
        tiles.until(sent.acked_ns, Network, Measured);
        tiles.until(arrived_ns, Remote, judge(true));
    } else if let Some(rtt_ns) = rtt_ns {
        tiles.until(tiles.now_ns.saturating_add(rtt_ns).min(arrived_ns), Network, Derived);
        tiles.until(arrived_ns, Remote, Derived);
    } else {
        tiles.until(arrived_ns, Unexplained, Derived);
    }
}

/// The smallest round-trip time, else the smoothed one, if the kernel had a sample.
fn rtt_ns(sent: &SendRecord) -> Option<u64> {
    let known = |us: u32| us != 0 && us != u32::MAX;
    [sent.tcp.min_rtt_us, sent.tcp.srtt_us].into_iter().find(|us| known(*us)).map(|us| u64::from(us) * 1000)
}
