//! What is inside a TLS connection, as a TLS library shows it: a flow of its own, whose exchanges have the times of the
//! connection's.
//!
//! In: the plaintext of a library's calls, with how it is numbered. Out: exchanges with ranges of the connection's own bytes
//! ([`super::placing`]), so that segments, acknowledgements and the other end's view are what they are without TLS. Called by
//! [`super::Tls`], which makes no exchanges of application data as long as this is there.
//! Limits: exchanges that wait until their bytes are placed.

use std::{collections::VecDeque, ops::Range};

use agent_common::{
    header::{LAYOUT_VERSION, RecordHeader, kind},
    message::{CallRecord, direction, flag},
    plaintext,
    sched::NEVER_SLEPT,
};

use super::{Placing, State, Tls, placing::By, tell};
use crate::{
    event::{Call, Event, Plaintext},
    exchange::{
        Context,
        semconv::word,
        settle::{self, Paired},
    },
    flow::{
        Flow,
        connection::{Connection, Direction, Seen},
    },
    loss::Loss,
};

/// Most exchanges that wait until their bytes are placed.
const UNPLACED_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Inside {
    flow: Flow,
    /// Exchanges whose bytes are not all placed yet, and since when.
    unplaced: VecDeque<(u64, Paired)>,
}

impl Inside {
    /// When something is due without further records.
    pub fn due_ns(&self, context: &Context<'_>) -> Option<u64> {
        let unplaced =
            self.unplaced.front().map(|(since_ns, _)| since_ns.saturating_add(context.config.exchange_hold_ns));
        [unplaced, self.flow.next_due_ns(context)].into_iter().flatten().min()
    }

    /// Nothing more of it is shown.
    pub fn give_up(&mut self, context: &mut Context<'_>) {
        self.flow.give_up(context);
    }

    /// Whether the request whose first record begins at `offset` of the stream waits for its response.
    pub fn has_request(&self, offset: u64, placing: &[Placing; 2]) -> bool {
        let Some(requests) = self.flow.connection.facts.request_direction() else { return false };
        let Some(plain) = placing[index(requests)].plain_at(offset) else { return false };
        self.flow.has_request(plain) || self.unplaced.iter().any(|(_, paired)| paired.request.start == plain)
    }

    /// The first byte of plaintext of a direction that is still asked about.
    fn needed_from(&self, wanted: Direction) -> Option<u64> {
        let flow = self.flow.connection.side(wanted).timings.calls.first().map(|call| call.start);
        let unplaced = self.unplaced.iter().filter_map(|(_, paired)| {
            let is_request = paired.role.request_direction() == wanted;
            if is_request { Some(paired.request.start) } else { paired.response.as_ref().map(|range| range.start) }
        });
        unplaced.chain(flow).min()
    }
}

fn index(direction: Direction) -> usize {
    usize::from(direction == Direction::Send)
}

impl Tls {
    /// A call of a TLS library returned.
    pub fn plaintext(&mut self, plaintext: &mut Plaintext, connection: &mut Connection, context: &mut Context<'_>) {
        let record = plaintext.record;
        if record.start == record.end {
            return; // what moved inside is found by its records
        }
        if self.inside.is_none() {
            self.open(record.start != 0, connection, context);
        }
        let Some(inside) = &mut self.inside else { return };
        let direction = if record.direction == direction::SEND { Direction::Send } else { Direction::Receive };
        let (start, end) = inside.flow.connection.side_mut(direction).stream.range(record.start, record.end);
        let moved = connection.side_mut(direction).stream.range(record.tcp_start, record.tcp_end);
        let (sends, known) = (direction == Direction::Send, record.tcp_start != record.tcp_end);
        let fed = self.lanes[super::lane(connection, direction)].fed;
        let call = super::placing::Call {
            plain: start..end,
            after: if known {
                moved.0
            } else if sends {
                fed
            } else {
                0
            },
            moved: (known && record.flags & plaintext::flag::INSIDE != 0).then_some(moved.0..moved.1),
            filled: end - start == u64::from(record.wanted),
            sends,
        };
        let given_up = self.placing[index(direction)].call(call);
        context.losses.add(Loss::PlaintextUnplaced, u64::from(given_up));
        follow(&mut inside.flow.connection, connection);
        inside.flow.event(&mut as_call(plaintext), context);
        self.advance_inside(connection, context);
    }

    /// From now on the library tells what is inside.
    fn open(&mut self, late: bool, connection: &mut Connection, context: &mut Context<'_>) {
        self.end_doubt(connection, context);
        let late = late || self.handshake.state == State::Unknown || connection.exchanges > 0;
        self.opaque.abandon();
        for lane in &mut self.lanes {
            lane.held = None;
        }
        if self.handshake.is_1_3() {
            self.placing.iter_mut().for_each(Placing::is_1_3);
        }
        let flow = Flow::inside(connection.facts.clone(), late);
        connection.tls = Some(Seen::Plaintext);
        self.inside = Some(Box::new(Inside { flow, unplaced: VecDeque::new() }));
    }

    /// Goes on with what is inside, and takes its exchanges.
    pub(super) fn advance_inside(&mut self, connection: &mut Connection, context: &mut Context<'_>) {
        self.take_exchanges(false, connection, context);
    }

    /// The connection ends.
    pub(super) fn finish_inside(&mut self, connection: &mut Connection, context: &mut Context<'_>) {
        self.take_exchanges(true, connection, context);
    }

    fn take_exchanges(&mut self, ends: bool, connection: &mut Connection, context: &mut Context<'_>) {
        let Some(inside) = &mut self.inside else { return };
        follow(&mut inside.flow.connection, connection);
        inside.flow.advance(context);
        if connection.facts.role.is_none() || connection.facts.role_guessed {
            (connection.facts.role, connection.facts.role_guessed) =
                (inside.flow.connection.facts.role, inside.flow.connection.facts.role_guessed);
        }
        let paired = inside.flow.connection.inner.as_mut().map(std::mem::take).unwrap_or_default();
        inside.unplaced.extend(paired.into_iter().map(|paired| (context.now_ns, paired)));
        let wait_ns = context.config.exchange_hold_ns;
        for (direction, placing) in [Direction::Receive, Direction::Send].into_iter().zip(&mut self.placing) {
            let lane = super::lane(connection, direction);
            let by = if self.lanes[lane].records.is_lost() { By::Moved } else { By::Records };
            placing.place(self.lanes[lane].fed, by);
        }
        while let Some((since_ns, paired)) = inside.unplaced.front() {
            let late =
                ends || since_ns.saturating_add(wait_ns) <= context.now_ns || inside.unplaced.len() > UNPLACED_MAX;
            if late {
                for (direction, placing) in [Direction::Receive, Direction::Send].into_iter().zip(&mut self.placing) {
                    placing.place(self.lanes[super::lane(connection, direction)].fed, By::Force);
                }
            }
            let placed = placed(paired, &self.placing);
            if placed.is_none() && !late {
                break;
            }
            let Some((_, mut paired)) = inside.unplaced.pop_front() else { break };
            let Some((request, response, exact)) = placed else {
                context.losses.add(Loss::PlaintextUnplaced, 1);
                continue;
            };
            (paired.request, paired.response, paired.exact) = (request, response, paired.exact && exact);
            tell(&self.handshake.label, &mut paired.attributes);
            for (key, value) in &mut paired.attributes {
                if *key == "url.scheme" {
                    *value = word("https");
                }
            }
            settle::pair(connection, paired, context);
        }
        for (direction, placing) in [Direction::Receive, Direction::Send].into_iter().zip(&mut self.placing) {
            let needed = inside.needed_from(direction);
            needed.inspect(|needed| placing.trim(*needed));
            // What moved on the socket and is not placed yet may be the next plaintext.
            let placed = placing.placed_until();
            let from = needed.map_or(placed, |needed| placing.first(needed).unwrap_or(0).min(placed));
            connection.open_from[index(direction)] = from;
            connection.trim(direction, from);
        }
    }
}

/// The ranges of the stream that hold an exchange, and whether they are exact; `None` if its bytes are not placed (yet).
fn placed(paired: &Paired, placing: &[Placing; 2]) -> Option<(Range<u64>, Option<Range<u64>>, bool)> {
    let requests = paired.role.request_direction();
    let range = |direction: Direction, plain: &Range<u64>| {
        let placing = &placing[index(direction)];
        let start = placing.first(plain.start)?;
        let (end, exact) = if plain.is_empty() { (start, true) } else { placing.past(plain.end)? };
        Some((start..end.max(start), exact))
    };
    let (request, exact) = range(requests, &paired.request)?;
    match &paired.response {
        None => Some((request, None, exact)),
        Some(response) => {
            let (response, also) = range(requests.other(), response)?;
            Some((request, Some(response), exact && also))
        }
    }
}

/// What happens to the connection happens to what is inside.
fn follow(inner: &mut Connection, outer: &Connection) {
    if let Some(role) = outer.facts.role.filter(|_| !outer.facts.role_guessed) {
        inner.facts.role = Some(role);
    }
    inner.facts.preexisting = outer.facts.preexisting;
    inner.facts.pid = outer.facts.pid;
    inner.exchanges = inner.exchanges.max(outer.exchanges);
    (inner.reset_ns, inner.reset_by, inner.closed_ns) = (outer.reset_ns, outer.reset_by, outer.closed_ns);
    (inner.local_closed_ns, inner.peer_closed_ns) = (outer.local_closed_ns, outer.peer_closed_ns);
    for direction in [Direction::Receive, Direction::Send] {
        let ended_ns = outer.side(direction).ended_ns;
        let side = inner.side_mut(direction);
        (side.ended_ns, side.ended_at) = (ended_ns, side.stream.next());
    }
}

/// The library's call, with its payload, as one of the connection that is inside.
fn as_call(plaintext: &mut Plaintext) -> Event {
    let from = &plaintext.record;
    let captured = if from.flags & plaintext::flag::UNREADABLE != 0 { flag::UNREADABLE } else { 0 };
    let record = CallRecord {
        header: RecordHeader { kind: kind::CALL, version: LAYOUT_VERSION, ..from.header },
        connection_id: from.connection_id,
        enter_ns: from.enter_ns,
        start: from.start,
        end: from.end,
        arrival_end: from.start,
        result: from.end.wrapping_sub(from.start).cast_signed(),
        pid: from.pid,
        tid: from.tid,
        flags: flag::SELECTED | captured,
        payload_len: from.payload_len,
        tail_len: from.tail_len,
        direction: from.direction,
        slept_in: NEVER_SLEPT,
        ..CallRecord::default()
    };
    Event::Call(Call { record, payload: std::mem::take(&mut plaintext.payload) })
}
