//! The client's view: what came before the request, send, held, queue, network, remote, transfer, reading.

use agent_common::message::{SendRecord, flag};

use super::{Before, Parts, Tiles, Timeline};
use crate::{
    flow::timing::{CallTiming, Moment},
    span::{
        Evidence::{self, Derived, Measured},
        SegmentName::{self, Application, Held, Network, Queue, ReceiveBuffer, Remote, Send, Transfer, Unexplained},
    },
};

/// How much later than the smallest round trip an acknowledgement may be that was sent at once, beside four times the
/// variation that TCP computed (RFC 6298, 2.3): at least and at most. A later one waited for the peer to read, or for its
/// delayed-ACK timer (RFC 1122, 4.2.3.2; 40 ms and more in Linux).
const ACK_SLACK_NS: (u64, u64) = (500_000, 30_000_000);

pub(super) fn is_timed(parts: &Parts<'_>) -> bool {
    let Some(first) = parts.request_side.first_write(parts.request.clone()) else { return false };
    let starts = parts.before.steps().next().is_some() || first.enter_ns != 0 || not_entered(parts).is_some();
    starts && (parts.cut_ns.is_some() || last_read(parts).is_some())
}

fn last_read<'a>(parts: &Parts<'a>) -> Option<&'a CallTiming> {
    let answer = parts.response.as_ref().filter(|response| !response.is_empty())?;
    parts.response_side.calls.holding(answer.end - 1)
}

pub(super) fn timeline(parts: &Parts<'_>) -> Option<Timeline> {
    let mut seen = Vec::new();
    let mut writes = parts.request_side.writes(parts.request.clone(), &mut seen);
    let first = writes.next()?;
    let answer = parts.response.as_ref().filter(|response| !response.is_empty());
    let last_read = last_read(parts);
    let end_ns = match (parts.cut_ns, last_read) {
        (Some(cut_ns), read) => cut_ns.max(read.map_or(0, |read| read.return_ns)),
        (None, Some(read)) => read.return_ns,
        (None, None) => return None,
    };
    let seen = first.enter_ns != 0 && !first.outside && first.start <= parts.request.start;
    let begin = parts.before.steps().next().map(|(_, step)| step);
    let start_ns = match begin {
        Some(step) => step.start_ns,
        None if first.enter_ns != 0 => first.enter_ns,
        None => not_entered(parts)?,
    };
    let mut tiles = Tiles::new(start_ns, end_ns);
    if before(&mut tiles, &parts.before) {
        tiles.preparing(first);
    }
    let mut last = first;
    for write in writes {
        tiles.writing(last);
        tiles.between(last, write);
        last = write;
    }
    let arrived = answer.and_then(|answer| parts.response_side.arrival_of_first(answer.start));
    let sent = parts.request_side.sends.holding(parts.request.end.saturating_sub(1)).map(|send| {
        let until_ns = arrived.map_or(u64::MAX, |arrived| arrived.ns);
        Sent { record: &send.record, alone: send.end == parts.request.end, until_ns }
    });
    leaving(&mut tiles, last, sent.as_ref(), parts.direct);
    // Of a request that was not sent whole the peer need not have made anything.
    if let (None, Some(unread_from)) = (answer, parts.unread_from.filter(|_| parts.exact)) {
        abandoned(&mut tiles, parts, sent.as_ref(), (unread_from, end_ns));
    } else if let (Some(answer), Some(arrived)) = (answer, arrived) {
        round_trip(&mut tiles, parts, sent.as_ref(), arrived, parts.response_side.softirq_of_first(answer.start));
        if let Some(last) = parts.response_side.arrival_of_last(answer.end) {
            tiles.transferring(parts.response_side, answer, (arrived.exact, last), ReceiveBuffer);
            if let Some(read) = last_read {
                tiles.reading(read, last.exact);
            }
            if let Some(unread_from) = parts.unread_from {
                unread(&mut tiles, parts, (unread_from, end_ns), (Transfer, Derived));
            }
        }
    }
    let start = begin.map_or(if seen { Measured } else { Derived }, |step| step.evidence);
    Some(tiles.finish(start))
}

/// What TCP did with the write that held the request's last byte.
struct Sent<'a> {
    record: &'a SendRecord,
    /// Whether that was the write's last byte, of which times are.
    alone: bool,
    /// The request's own had left by then.
    until_ns: u64,
}

impl Sent<'_> {
    /// How a time of the write's last byte is known of the request's.
    fn evidence(&self) -> Evidence {
        if self.alone { Measured } else { Derived }
    }

    fn left_ns(&self) -> u64 {
        self.record.transmitted_ns.min(self.until_ns)
    }
}

/// When TCP took the first byte, else when the write returned: the closest to an entry that was not seen.
fn not_entered(parts: &Parts<'_>) -> Option<u64> {
    let locked_ns = parts.request_side.sends.holding(parts.request.start).map(|send| send.record.locked_ns);
    let returned_ns = parts.request_side.calls.holding(parts.request.start).map(|call| call.return_ns);
    [locked_ns, returned_ns].into_iter().flatten().find(|ns| *ns != 0)
}

/// Name, connection and TLS; between them the application had its turn, in which it may have waited for others. Answers
/// whether there was any.
pub(super) fn before(tiles: &mut Tiles, before: &Before) -> bool {
    let mut any = false;
    for (name, step) in before.steps() {
        if any {
            tiles.until(step.start_ns, Application, Derived);
        }
        tiles.until(step.end_ns, name, step.evidence);
        any = true;
    }
    any
}

/// The last write of the request, until its last byte left this host.
fn leaving(tiles: &mut Tiles, write: &CallTiming, sent: Option<&Sent<'_>>, direct: bool) {
    let entered = if write.enter_ns != 0 && !write.outside { Measured } else { Derived };
    let known = sent.map_or(Measured, Sent::evidence);
    let entered = entered.max(known);
    if direct {
        // The call itself puts the bytes into the other socket's queue.
        return tiles.until(write.return_ns, Send, entered);
    }
    let left_ns = sent.map_or(0, Sent::left_ns);
    let left_ns = if left_ns != 0 { left_ns } else { write.transmitted_ns };
    let taken_ns = sent.map_or(0, |sent| sent.record.locked_last_ns.min(sent.until_ns));
    let nothing = SendRecord::default();
    let record = sent.map_or(&nothing, |sent| sent.record);
    if taken_ns != 0 && left_ns != 0 {
        let inside =
            write.run_queue_inside().filter(|waits| waits.total_ns() <= taken_ns.saturating_sub(tiles.now_ns()));
        tiles.until_waits(taken_ns, Send, entered, &inside.unwrap_or_default());
        held(tiles, left_ns, record, (known, known));
    } else if left_ns != 0 {
        taken_at_some_time(tiles, write, left_ns, record, known);
    } else {
        // When the bytes left the host is not known: they went out at the latest some time after the call.
        tiles.until(taken_ns, Send, entered);
        tiles.until(write.return_ns, Send, Derived);
    }
}

/// When TCP had the last byte is not known, as only the function's entry is seen: it was in the call, and before the byte was
/// given to the device.
fn taken_at_some_time(tiles: &mut Tiles, write: &CallTiming, left_ns: u64, sent: &SendRecord, known: Evidence) {
    let returned_ns = write.return_ns.max(tiles.now_ns());
    if (1..=returned_ns.min(left_ns)).contains(&sent.queued_ns) {
        tiles.until(sent.queued_ns, Send, Derived);
        return tiles.until(left_ns, Queue, known);
    }
    tiles.until(left_ns.min(returned_ns), Send, Derived);
    held(tiles, left_ns, sent, (Derived, known));
}

/// TCP has the last byte (now, known as `taken` says); it leaves at `left_ns`, known as `left` says. In between, bytes of the connection were in
/// the device's queue for a time of which the amount is known; it is placed last.
fn held(tiles: &mut Tiles, left_ns: u64, sent: &SendRecord, (taken, left): (Evidence, Evidence)) {
    let queue_ns = sent.queue_ns.saturating_sub(sent.queue_before_last_ns);
    let plausible = queue_ns <= left_ns.saturating_sub(tiles.now_ns());
    // Without a sight of the queue, held and queue cannot be told apart.
    let evidence = if sent.queued_ns != 0 && plausible { left } else { Derived };
    tiles.until(left_ns.saturating_sub(if plausible { queue_ns } else { 0 }), Held, evidence.max(taken));
    tiles.until(left_ns, Queue, evidence);
}

/// From the request's last byte leaving (now) to the response's first byte arriving.
fn round_trip(tiles: &mut Tiles, parts: &Parts<'_>, sent: Option<&Sent<'_>>, arrived: Moment, softirq_ns: Option<u64>) {
    if parts.direct {
        return tiles.arriving(arrived, softirq_ns, Remote, Measured);
    }
    if let Some(there) = parts.other_end.arrived.filter(|there| there.ns <= arrived.ns) {
        let left_ns = sent.filter(|sent| sent.alone).map_or(0, Sent::left_ns);
        let rtt_ns = sent.and_then(|sent| rtt_ns(sent.record));
        return both_ends(tiles, (left_ns, rtt_ns), there, parts.other_end.left, (arrived, softirq_ns));
    }
    let Some(sent) = sent else { return tiles.until(arrived.ns, Unexplained, Derived) };
    let Some((there_ns, evidence)) = way_there(parts, sent, tiles.now_ns(), arrived.ns) else {
        return tiles.until(arrived.ns, Unexplained, Derived);
    };
    tiles.until(there_ns, Network, evidence);
    tiles.arriving(arrived, softirq_ns, Remote, evidence);
}

/// Until when the network had a request that left at `now_ns`, and how that is known: by its acknowledgement, else by the round-trip
/// time. At most until `end_ns`.
fn way_there(parts: &Parts<'_>, sent: &Sent<'_>, now_ns: u64, end_ns: u64) -> Option<(u64, Evidence)> {
    let &Sent { record: sent, alone, .. } = sent;
    let rtt_ns = rtt_ns(sent)?;
    let observed = alone && sent.transmitted_ns != 0 && sent.acked_ns != 0 && sent.flags & flag::PIGGYBACKED == 0;
    // What was lost on the way is there only after it was sent again.
    let again_ns = left_again(parts, end_ns).unwrap_or(0);
    let ack_ns = sent.acked_ns.saturating_sub(sent.transmitted_ns.max(again_ns));
    let slack_ns = (u64::from(sent.tcp.rttvar_us) * 4000).clamp(ACK_SLACK_NS.0, ACK_SLACK_NS.1);
    let prompt = ack_ns <= rtt_ns + slack_ns;
    if observed && prompt && (now_ns..end_ns).contains(&sent.acked_ns) {
        return Some((sent.acked_ns, Measured));
    }
    Some((now_ns.max(again_ns).saturating_add(rtt_ns).min(end_ns), Derived))
}

/// From the request's last byte leaving (now) to the close of an application that waited for the answer, or had it and did not read.
fn abandoned(tiles: &mut Tiles, parts: &Parts<'_>, sent: Option<&Sent<'_>>, (unread_from, end_ns): (u64, u64)) {
    if parts.direct {
        return unread(tiles, parts, (unread_from, end_ns), (Remote, Measured));
    }
    let arrived = parts.response_side.arrival_of_first(unread_from).map_or(end_ns, |arrived| arrived.ns.min(end_ns));
    let left_ns = sent.filter(|sent| sent.alone).map_or(0, Sent::left_ns);
    let there = match parts.other_end.arrived.filter(|there| there.ns <= arrived) {
        Some(there) => (there.ns, if there.exact && left_ns != 0 && left_ns <= there.ns { Measured } else { Derived }),
        None => match sent.and_then(|sent| way_there(parts, sent, tiles.now_ns(), arrived)) {
            Some(there) => there,
            None => return tiles.until(end_ns, Unexplained, Derived),
        },
    };
    tiles.until(there.0.min(arrived), Network, there.1);
    unread(tiles, parts, (unread_from, end_ns), (Remote, there.1));
}

/// Up to the close, time went to what the application waited for; but bytes that it did not read were here.
fn unread(
    tiles: &mut Tiles,
    parts: &Parts<'_>,
    (unread_from, end_ns): (u64, u64),
    (awaited, evidence): (SegmentName, Evidence),
) {
    match parts.response_side.readable_from(unread_from) {
        Some(arrived) => {
            tiles.until(arrived.ns, awaited, if arrived.exact { evidence } else { Derived });
            tiles.until(end_ns, ReceiveBuffer, if arrived.exact { Measured } else { Derived });
        }
        None => tiles.until(end_ns, awaited, evidence),
    }
}

/// When bytes of the request last left again, before its answer came.
fn left_again(parts: &Parts<'_>, until_ns: u64) -> Option<u64> {
    let resent = parts.request_side.resent.within(parts.request.clone()).map(|resent| resent.time_ns);
    resent.filter(|ns| *ns < until_ns).max()
}

/// The same, with what the other end saw: both legs of the network, and what is between them.
fn both_ends(
    tiles: &mut Tiles,
    (left_ns, rtt_ns): (u64, Option<u64>),
    there: Moment,
    answered: Option<Moment>,
    back: (Moment, Option<u64>),
) {
    let judge = |sure: bool| -> Evidence { if sure { Measured } else { Derived } };
    let (arrived, softirq_ns) = back;
    tiles.until(there.ns, Network, judge(left_ns != 0 && left_ns <= there.ns && there.exact));
    match answered.filter(|answered| (there.ns..=arrived.ns).contains(&answered.ns)) {
        Some(answered) => {
            tiles.until(answered.ns, Remote, judge(there.exact && answered.exact));
            tiles.arriving(arrived, softirq_ns, Network, judge(answered.exact));
        }
        // Its last part is the way back: what the way there leaves of the smallest round trip.
        None => {
            let there_ns = if left_ns == 0 { 0 } else { there.ns.saturating_sub(left_ns) };
            let back_ns = rtt_ns.unwrap_or(0).saturating_sub(there_ns).min(arrived.ns.saturating_sub(there.ns));
            if left_ns == 0 || back_ns == 0 {
                return tiles.arriving(arrived, softirq_ns, Remote, Derived);
            }
            tiles.until(arrived.ns - back_ns, Remote, Derived);
            tiles.arriving(arrived, softirq_ns, Network, Derived);
        }
    }
}

/// The smallest round-trip time, else the smoothed one, if the kernel had a sample.
fn rtt_ns(sent: &SendRecord) -> Option<u64> {
    let known = |us: u32| us != 0 && us != u32::MAX;
    [sent.tcp.min_rtt_us, sent.tcp.srtt_us].into_iter().find(|us| known(*us)).map(|us| u64::from(us) * 1000)
}
