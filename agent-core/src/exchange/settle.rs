//! A paired exchange waits for its last facts: only then its timeline is made.
//!
//! In: [`Paired`] exchanges of one connection, oldest first, while the connection keeps their timings. Out: drafts. A
//! server's waits for the acknowledgement of its response, so that what is sent again of it is part of it; a client's for
//! that of its request, and for what the connection's other end saw if that is on this host. Called by [`crate::flow`].
//! Limits: as many as may wait on one connection; the oldest is then settled with what is known, and counted.

use std::{collections::VecDeque, ops::Range};

use agent_common::message::flag;
use agent_protocol::traceparent::TraceParent;

use super::{
    Context, Draft, Selection,
    semconv::{self, Attributes},
    tcp,
};
use crate::{
    config::PipelineConfig,
    flow::{
        connection::{Connection, Direction, Ending, ResetBy, Role},
        thread::Waypoint,
        timing::{CallTiming, Moment, Timings},
    },
    loss::Loss,
    segment::{self, Before, OtherEnd, Parts},
    span::{Protocol, SpanKind, Status, Text, Value},
};

/// A write of at most so many bytes is one segment on an Ethernet.
const SEGMENT_BYTES: u64 = 1_448;
/// If all of a longer one left within this time, so did its first byte.
const AT_ONCE_NS: u64 = 200_000;
/// Requests that had a span, as remembered per connection.
const TOLD_MAX: usize = 256;
/// Settled exchanges of which the other end may still ask.
const POINTS_MAX: usize = 16;

/// A request and its response, or what came instead.
#[derive(Clone, Debug)]
pub struct Paired {
    /// Which end this is.
    pub role: Role,
    /// Kind of its span.
    pub kind: SpanKind,
    /// Protocol.
    pub protocol: Protocol,
    /// First part of the span's name.
    pub name: Text,
    /// Outcome.
    pub status: Status,
    /// How the connection ended it, if that is the error.
    pub ended_by: Option<Ending>,
    /// Attributes of the protocol and the connection.
    pub attributes: Vec<(&'static str, Value)>,
    /// What the request says about its trace.
    pub trace_context: Option<TraceParent>,
    /// Offsets of the request in its direction.
    pub request: Range<u64>,
    /// Offsets of what was seen of the response in its direction.
    pub response: Option<Range<u64>>,
    /// When the exchange was given up, if its end was not seen.
    pub cut_ns: Option<u64>,
    /// Whether both ranges are known for sure.
    pub exact: bool,
    /// Process; 0 if not known.
    pub pid: u32,
}

/// A [`Paired`] exchange with what is known of it on this connection.
#[derive(Debug)]
struct Waiting {
    paired: Paired,
    before: Before,
    first: bool,
    since_ns: u64,
    client_traced: bool,
    /// What the thread that handled it did on other connections meanwhile.
    waypoints: Vec<Waypoint>,
}

/// When bytes of an exchange passed the server's end.
#[derive(Clone, Copy, Debug)]
struct Points {
    request_end: u64,
    response_start: u64,
    arrived: Option<Moment>,
    /// When TCP took the response's first byte, and when the write with it had left; 0 if not observed.
    left_ns: (u64, u64),
    /// Whether that is when its first byte left, too.
    left_at_once: bool,
}

/// The exchanges of one connection that wait, and what is kept of those before.
#[derive(Debug, Default)]
pub struct Unsettled {
    waiting: VecDeque<Waiting>,
    /// First bytes of requests that have a span, newest last: the server's span of the same request asks.
    told: VecDeque<u64>,
    points: VecDeque<Points>,
}

impl Unsettled {
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The first byte of a direction whose timings are still needed.
    pub fn needed_from(&self, direction: Direction) -> Option<u64> {
        let of = |paired: &Paired| match &paired.response {
            _ if paired.role.request_direction() == direction => Some(paired.request.start),
            response => response.as_ref().map(|response| response.start),
        };
        self.waiting.iter().filter_map(|waiting| of(&waiting.paired)).min()
    }

    /// Where the requests began that have a span.
    pub fn into_told(self) -> VecDeque<u64> {
        self.told
    }

    /// Whether a span of the request that begins at `offset` exists or will. Mostly one of the last is asked for.
    pub fn has_request(&self, offset: u64) -> bool {
        self.told.iter().rev().any(|told| *told == offset)
    }
}

impl Paired {
    fn parts<'a>(&self, connection: &'a Connection, before: Before, waypoints: &'a [Waypoint]) -> Parts<'a> {
        let (request_side, response_side) = connection.timings(self.role);
        Parts {
            request: self.request.clone(),
            response: self.response.clone(),
            request_side,
            response_side,
            before,
            accepted_ns: None,
            other_end: OtherEnd::default(),
            direct: connection.facts.is_direct(),
            cut_ns: self.cut_ns,
            unread_from: matches!(self.ended_by, Some(Ending::LocalClosed | Ending::PeerClosed))
                .then(|| connection.answers().stream.next()),
            moved_nothing: connection.moved_nothing.as_ref(),
            waypoints,
            exact: self.exact,
        }
    }

    /// Entry and thread.
    fn first_write(&self, connection: &Connection) -> CallTiming {
        let (request_side, _) = connection.timings(self.role);
        request_side.first_write(self.request.clone()).unwrap_or_default()
    }
}

/// Takes an exchange of which both ends, or the end of waiting, are known; not one of which no time is.
pub fn pair(connection: &mut Connection, paired: Paired, context: &mut Context<'_>) {
    if let Some(inner) = &mut connection.inner {
        connection.exchanges += 1;
        return inner.push(paired);
    }
    let before = match paired.role {
        Role::Client if connection.exchanges == 0 => connection.before(&paired.first_write(connection)),
        _ => Before::default(),
    };
    let parts = paired.parts(connection, before, &[]);
    if !segment::is_timed(&parts, paired.role) {
        return context.losses.add(Loss::MessageLost, 1);
    }
    let handling = segment::handling(&parts, paired.role);
    let waypoints = handling.map(|(tid, time)| context.threads.waypoints(tid, &time)).unwrap_or_default();
    if paired.role == Role::Client {
        push_bounded(&mut connection.unsettled.told, paired.request.start, TOLD_MAX);
    }
    let first = connection.exchanges == 0 && !connection.facts.preexisting;
    connection.exchanges += 1;
    let since_ns = context.now_ns;
    connection.unsettled.waiting.push_back(Waiting {
        paired,
        before,
        first,
        since_ns,
        client_traced: false,
        waypoints,
    });
    if connection.unsettled.waiting.len() > context.config.pending_exchanges_max {
        context.losses.add(Loss::SettledEarly, 1);
        settle_oldest(connection, None, context);
    }
}

/// Settles what is complete, or waited for long enough; everything if it is to be `forced`. Of the connection's other
/// end, `client` says whether it has a span of the request that begins at an offset.
pub fn settle(
    connection: &mut Connection,
    other: Option<(&Connection, &dyn Fn(u64) -> bool)>,
    forced: bool,
    context: &mut Context<'_>,
) {
    for waiting in connection.unsettled.waiting.iter_mut().rev() {
        if waiting.client_traced || waiting.paired.role == Role::Client {
            break;
        }
        let start = waiting.paired.request.start;
        let has_span = connection.client_told.contains(&start);
        waiting.client_traced = has_span || other.is_some_and(|(_, client)| client(start));
    }
    let other = other.map(|(other, _)| other);
    if let Some(other) = other {
        connection.peer_pid = other.user();
    }
    while let Some(waiting) = connection.unsettled.waiting.front() {
        let late = || due_ns(connection, waiting, context.config).is_none_or(|due_ns| due_ns <= context.now_ns);
        if !forced && !is_complete(connection, &waiting.paired, other) && !late() {
            break;
        }
        settle_oldest(connection, other, context);
    }
}

/// When the oldest that waits is settled at the latest.
pub fn next_due_ns(connection: &Connection, config: &PipelineConfig) -> Option<u64> {
    due_ns(connection, connection.unsettled.waiting.front()?, config)
}

fn due_ns(connection: &Connection, waiting: &Waiting, config: &PipelineConfig) -> Option<u64> {
    let paired = &waiting.paired;
    let wait_ns = match paired.role {
        Role::Client if is_acknowledged(connection, paired) => config.other_end_wait_ns,
        Role::Client => config.exchange_hold_ns.max(config.other_end_wait_ns),
        Role::Server => config.settle_ns,
    };
    // While it is sent again, the acknowledgement is still to come.
    let (resent, range) = sent(connection, paired);
    let again_ns = range.and_then(|range| resent.resent.within(range).map(|resent| resent.time_ns).max());
    Some(waiting.since_ns.max(again_ns.unwrap_or(0)).saturating_add(wait_ns))
}

/// What this end sent of the exchange, and the timings of that direction.
fn sent<'a>(connection: &'a Connection, paired: &Paired) -> (&'a Timings, Option<Range<u64>>) {
    let range = match paired.role {
        Role::Client => Some(paired.request.clone()),
        Role::Server => paired.response.clone(),
    };
    (&connection.send.timings, range.filter(|range| !range.is_empty()))
}

/// Whether the fate of the last byte that this end sent is known.
fn is_acknowledged(connection: &Connection, paired: &Paired) -> bool {
    let (timings, range) = sent(connection, paired);
    connection.facts.is_direct() || range.is_none_or(|range| timings.sends.holding(range.end - 1).is_some())
}

fn is_complete(connection: &Connection, paired: &Paired, other: Option<&Connection>) -> bool {
    if !is_acknowledged(connection, paired) {
        return false;
    }
    let Some(other) = other.filter(|_| paired.role == Role::Client && !connection.facts.is_direct()) else {
        return true;
    };
    paired.response.is_none() || {
        let seen = seen_by(other, paired, u64::MAX);
        seen.arrived.is_some() && seen.left.is_some()
    }
}

/// What the server's end saw of an exchange whose response came back at `back_ns`.
fn seen_by(server: &Connection, paired: &Paired, back_ns: u64) -> OtherEnd {
    let Some(response) = &paired.response else {
        return OtherEnd { arrived: server.receive.timings.arrival_of_last(paired.request.end), left: None };
    };
    let kept = server.unsettled.points.iter().rev().find(|points| points.request_end == paired.request.end);
    let now = || points(server, &paired.request, response);
    let points = kept.filter(|points| points.response_start == response.start).copied().unwrap_or_else(now);
    // The end of a long write left after its begin came back.
    let (taken_ns, left_ns) = points.left_ns;
    let left = match left_ns {
        0 => None,
        ns if ns <= back_ns => Some(Moment { ns, exact: points.left_at_once }),
        _ => (taken_ns != 0 && taken_ns <= back_ns).then_some(Moment { ns: taken_ns, exact: false }),
    };
    OtherEnd { arrived: points.arrived, left }
}

fn points(server: &Connection, request: &Range<u64>, response: &Range<u64>) -> Points {
    let timings = &server.send.timings;
    let sent = timings.sends.holding(response.start);
    let sent = sent.map(|send| (send.end - send.start, send.record.locked_ns, send.record.transmitted_ns));
    let called = timings.calls.holding(response.start);
    let called = called.map(|call| (call.end - call.start, call.enter_ns, call.transmitted_ns));
    let (bytes, taken_ns, left_ns) = sent.filter(|(.., left_ns)| *left_ns != 0).or(called).unwrap_or_default();
    Points {
        request_end: request.end,
        response_start: response.start,
        arrived: server.receive.timings.arrival_of_last(request.end),
        left_ns: (taken_ns, left_ns),
        left_at_once: bytes <= SEGMENT_BYTES || left_ns.saturating_sub(taken_ns) <= AT_ONCE_NS,
    }
}

fn settle_oldest(connection: &mut Connection, other: Option<&Connection>, context: &mut Context<'_>) {
    let Some(waiting) = connection.unsettled.waiting.pop_front() else { return };
    let Waiting { mut paired, before, first, client_traced, waypoints, .. } = waiting;
    if paired.role == Role::Server
        && connection.other_end.is_some()
        && let Some(response) = &paired.response
    {
        let points = points(connection, &paired.request, response);
        push_bounded(&mut connection.unsettled.points, points, POINTS_MAX);
    }
    let facts = tcp::Facts::take(connection, &paired);
    let mut parts = paired.parts(connection, before, &waypoints);
    if first && paired.role == Role::Server {
        parts.accepted_ns = Some(connection.facts.accepted_ns);
    }
    if let (Some(other), Role::Client) = (other, paired.role) {
        let back = paired.response.as_ref().and_then(|response| parts.response_side.arrival_of_first(response.start));
        parts.other_end = seen_by(other, &paired, back.map_or(0, |back| back.ns));
    }
    let timeline = match paired.role {
        Role::Client => segment::client(&parts),
        Role::Server => segment::server(&parts),
    };
    let Some(timeline) = timeline else { return context.losses.add(Loss::MessageLost, 1) };
    let mut attributes = std::mem::take(&mut paired.attributes);
    if first {
        tcp::opening(&mut attributes, connection, paired.role, &before);
    }
    facts.tell(&mut attributes);
    semconv::evidence(&mut attributes, &parts, &timeline);
    ended(&mut attributes, connection, &paired, timeline.start_ns);
    context.drafts.push(Draft {
        facts: connection.facts.clone(),
        role: paired.role,
        kind: paired.kind,
        protocol: paired.protocol,
        name: paired.name,
        timeline,
        status: paired.status,
        attributes,
        trace_context: paired.trace_context,
        request_offset: paired.request.start,
        key: None,
        client_traced,
        pid: paired.pid,
        peer_pid: connection.peer_pid,
        selection: selection(connection, other),
    });
    let requests = paired.role.request_direction();
    let response_end = paired.response.map_or(0, |response| response.end);
    connection.trim(requests, paired.request.end);
    connection.trim(requests.other(), response_end);
}

/// A connection that is not selected may end in one that is, and then its span may be that one's parent.
fn selection(connection: &Connection, other: Option<&Connection>) -> Selection {
    match (connection.is_selected, other.and_then(|other| other.is_selected)) {
        (Some(true) | None, _) => Selection::Selected,
        (Some(false), Some(true)) => Selection::OtherEnd,
        (Some(false), _) => Selection::Neither,
    }
}

/// Who ended the connection before the exchange was over, and for a close when that was.
fn ended(attributes: &mut Attributes, connection: &Connection, paired: &Paired, start_ns: u64) {
    let (by, ns) = match paired.ended_by {
        Some(Ending::Reset) => {
            let by = connection.reset_by.map(|by| ("spantap.tcp.reset_by", semconv::word(by.name())));
            return attributes.extend(by);
        }
        Some(Ending::LocalClosed) => (ResetBy::Local, connection.local_closed_ns.or(connection.send.ended_ns)),
        Some(Ending::PeerClosed) => (ResetBy::Peer, connection.peer_closed_ns.or(connection.receive.ended_ns)),
        _ => (ResetBy::Peer, answered_to_nobody(connection, paired).or_else(|| unanswered(connection, paired))),
    };
    if let Some(ns) = ns {
        attributes.push(("spantap.tcp.closed_by", semconv::word(by.name())));
        attributes.push(("spantap.tcp.closed_after_ns", semconv::int(ns.saturating_sub(start_ns))));
    }
}

/// When the client had ended its side, if a server gave no answer at all.
fn unanswered(connection: &Connection, paired: &Paired) -> Option<u64> {
    connection.peer_closed_ns.filter(|_| paired.role == Role::Server && paired.response.is_none())
}

/// When the client had closed, if a server's whole answer was written later and never acknowledged.
fn answered_to_nobody(connection: &Connection, paired: &Paired) -> Option<u64> {
    let response = paired.response.as_ref().filter(|_| paired.role == Role::Server && paired.cut_ns.is_none())?;
    let closed_ns = connection.peer_closed_ns?;
    let write = connection.send.timings.calls.holding(response.end.checked_sub(1)?)?;
    let sent = connection.send.timings.sends.holding(response.end - 1)?;
    let lost = sent.record.acked_ns == 0 && sent.record.flags & flag::DESTROYED != 0;
    (lost && closed_ns <= write.return_ns).then_some(closed_ns)
}

fn push_bounded<T>(queue: &mut VecDeque<T>, value: T, max: usize) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(value);
}
