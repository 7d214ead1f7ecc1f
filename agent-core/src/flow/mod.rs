//! State per connection: streams by position, their timings, what protocol the bytes are, and the table of all.
//!
//! In: records of one connection, nearly in order. Out: drafts of finished exchanges. Called by [`crate::pipeline`].
//! Limits: see [`crate::config::PipelineConfig`]; undecided connections keep [`HELD_MAX`] pieces of [`HELD_BYTES_MAX`].
//!
//! ```text
//! Undecided -bytes say TLS, DNS-> Tls, Dns -no longer selected-> Opaque
//!   | ^
//!   | +-----------------switched (TLS, say)----------------+
//!   +-bytes say another protocol-> Http, Dialogue ---------+-foreign bytes, no longer selected-> Opaque
//!   |                                 ^                                                          |
//!   +-other bytes, no payload---------|--------------------------------------------------> Opaque|
//!                                     +--bytes say what it is, if it was joined late-------------+
//! ```

pub mod call;
pub mod clock;
pub mod connection;
mod ending;
pub mod life;
mod secret;
pub mod stream;
pub mod table;
pub mod thread;
pub mod timing;
pub mod view;

use std::ops::Range;

use agent_common::{
    connection::{ConnectionRecord, change, flag as connection_flag},
    message::{ArrivalRecord, CallRecord, RetransmitRecord, SendRecord, direction, flag, retransmit},
};
use agent_protocol::detect::{Protocol, Verdict, detect_but};

use self::{
    connection::{Connection, Direction, Ending, Facts, ResetBy, Role},
    stream::{Fed, Piece},
    timing::{Arrival, CallTiming, Resent, SendTiming},
};
use crate::{
    event::{Call, Event},
    exchange::{
        Context,
        datagram::DnsStream,
        dialogue::{Dialogue, GoesOn},
        http::Http,
        opaque::Opaque,
        settle,
        tls::Tls,
    },
    loss::Loss,
};

/// Most pieces kept until the protocol is known.
pub const HELD_MAX: usize = 64;
/// Most bytes kept until the protocol is known.
pub const HELD_BYTES_MAX: usize = 16 * 1024;
const ECONNRESET: i32 = -104;

/// What an undecided connection keeps.
#[derive(Debug)]
enum Held {
    Fed(Direction, Fed, u64),
    Sent(Range<u64>, u64),
}

impl Held {
    /// When it came.
    fn ns(&self) -> u64 {
        match self {
            Self::Fed(_, _, ns) | Self::Sent(_, ns) => *ns,
        }
    }
}

#[derive(Debug)]
enum Kind {
    Undecided(Vec<Held>),
    Http(Box<Http>),
    Tls(Box<Tls>),
    Dns(Box<DnsStream>),
    Dialogue(Box<Dialogue>),
    Opaque(Opaque),
}

impl Kind {
    /// At the first byte of a message.
    fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http(Box::default()),
            Protocol::Tls => Self::Tls(Box::default()),
            Protocol::Dns => Self::Dns(Box::default()),
            other => {
                Dialogue::new(other).map_or(Self::Opaque(Opaque::new(false, true)), |it| Self::Dialogue(Box::new(it)))
            }
        }
    }
}

/// One connection and what its bytes mean.
#[derive(Debug)]
pub struct Flow {
    /// The connection.
    pub connection: Connection,
    kind: Kind,
    /// Joined late: messages may begin in the middle.
    late: bool,
    /// Protocols that it was taken for and is not.
    misjudged: Vec<Protocol>,
    /// Last activity.
    pub active_ns: u64,
    /// When it is looked at next, by the table: not after it is due.
    due_ns: Option<u64>,
}

impl Flow {
    /// From the record that opens a connection.
    pub fn new(record: &ConnectionRecord) -> Self {
        let facts = Facts::new(record);
        let late = facts.preexisting;
        let active_ns = record.header.time_ns;
        let mut connection = Connection::new(facts);
        connection.life.handshake(record.handshake_retransmits);
        if late {
            connection.life.begin(&record.tcp);
        } else {
            connection.life.open(&record.tcp);
        }
        Self { connection, kind: Kind::Undecided(Vec::new()), late, misjudged: Vec::new(), active_ns, due_ns: None }
    }

    /// What is inside a TLS connection: `facts` of that, with positions of their own. `late`: plaintext moved before.
    pub fn inside(mut facts: Facts, late: bool) -> Self {
        (facts.bases, facts.moved, facts.preexisting) = (Some((0, 0)), (late, late), late);
        let mut connection = Connection::new(facts);
        connection.inner = Some(Vec::new());
        Self { connection, kind: Kind::Undecided(Vec::new()), late, misjudged: Vec::new(), active_ns: 0, due_ns: None }
    }

    /// Takes a record of this connection, and the payload out of it.
    pub fn event(&mut self, event: &mut Event, context: &mut Context<'_>) {
        self.active_ns = self.active_ns.max(event.header().time_ns);
        match event {
            Event::Connection(record) => self.changed(record),
            Event::Call(call) => self.called(call, context),
            Event::Send(record) => self.sent(record, context),
            Event::Arrival(record) => self.arrived(record),
            Event::Retransmit(record) => self.resent(record, context),
            Event::Plaintext(plaintext) => self.plaintext(plaintext, context),
            Event::Process(_) | Event::Datagram(_) => {}
        }
        self.advance(context);
    }

    /// Whether this end makes, or is about to make, a span of the request that begins at `offset`.
    pub fn has_request(&self, offset: u64) -> bool {
        let open = match &self.kind {
            Kind::Http(http) => http.has_request(offset),
            Kind::Tls(tls) => tls.has_request(offset),
            Kind::Dns(dns) => dns.has_request(offset),
            Kind::Dialogue(dialogue) => dialogue.has_request(offset),
            Kind::Opaque(opaque) => opaque.has_request(offset),
            Kind::Undecided(_) => false,
        };
        open || self.connection.unsettled.has_request(offset)
    }

    /// Settles what is complete or due. `other`: the connection's other end, if it is on this host.
    pub fn settle(&mut self, other: Option<&Self>, context: &mut Context<'_>) {
        if !self.connection.unsettled.is_empty() {
            self.settle_as(other, self.is_done(context), context);
        }
    }

    /// Settles everything.
    pub fn settle_all(&mut self, other: Option<&Self>, context: &mut Context<'_>) {
        self.settle_as(other, true, context);
    }

    fn settle_as(&mut self, other: Option<&Self>, forced: bool, context: &mut Context<'_>) {
        let client = |offset: u64| {
            other.is_some_and(|other| other.connection.facts.role == Some(Role::Client) && other.has_request(offset))
        };
        let client: &dyn Fn(u64) -> bool = &client;
        settle::settle(&mut self.connection, other.map(|other| (&other.connection, client)), forced, context);
    }

    /// When something is due without further records.
    pub(crate) fn next_due_ns(&self, context: &Context<'_>) -> Option<u64> {
        let config = context.config;
        let hole = |side: &connection::Side| {
            side.stream.waiting_since_ns().map(|since_ns| since_ns.saturating_add(config.hole_wait_ns))
        };
        let kind = match (&self.kind, self.connection.facts.role) {
            (Kind::Http(http), Some(role)) => http.due_ns(&self.connection, role, config.exchange_hold_ns),
            (Kind::Tls(tls), _) => tls.due_ns(context),
            (Kind::Opaque(opaque), _) => opaque.due_ns(config.idle_exchange_ns),
            (Kind::Dialogue(dialogue), _) => dialogue.due_ns(config.exchange_hold_ns),
            (Kind::Undecided(held), _) => held.first().map(|held| held.ns().saturating_add(config.idle_exchange_ns)),
            _ => None,
        };
        let closed = self.connection.closed_ns.map(|closed_ns| closed_ns.saturating_add(config.closed_hold_ns));
        let left = self.connection.left_ns().map(|left_ns| left_ns.saturating_add(config.closed_hold_ns));
        let left = left.filter(|due_ns| *due_ns > context.now_ns);
        let settled = settle::next_due_ns(&self.connection, config);
        let holes = [hole(&self.connection.send), hole(&self.connection.receive)];
        holes.into_iter().chain([kind, closed, left, settled]).flatten().min()
    }

    /// How it ended, as far as can be said by now.
    fn ending(&self, context: &Context<'_>) -> Option<(Ending, u64)> {
        self.connection.ending(self.is_done(context), context.config.closed_hold_ns, context.now_ns)
    }

    /// Whether the connection is gone and its last records have had their time.
    fn is_done(&self, context: &Context<'_>) -> bool {
        let hold_ns = context.config.closed_hold_ns;
        self.connection.closed_ns.is_some_and(|closed_ns| closed_ns.saturating_add(hold_ns) <= context.now_ns)
    }

    fn changed(&mut self, record: &ConnectionRecord) {
        let connection = &mut self.connection;
        let facts = &mut connection.facts;
        let changed_ns = if record.changed_ns != 0 { record.changed_ns } else { record.header.time_ns };
        if facts.established_ns == 0 {
            facts.established_ns = record.established_ns;
        }
        if facts.pid == 0 {
            facts.pid = record.pid;
        }
        if facts.accepted_ns == 0 {
            facts.accepted_ns = record.accepted_ns;
            facts.accept_backlog = (record.accept_backlog, record.accept_backlog_max);
        }
        connection.life.handshake(record.handshake_retransmits);
        connection.life.see(&record.tcp);
        let by = [(connection_flag::RESET_RECEIVED, ResetBy::Peer), (connection_flag::RESET_SENT, ResetBy::Local)];
        let by = by.into_iter().find(|(flag, _)| record.flags & flag != 0).map(|(_, by)| by);
        if record.flags & connection_flag::RESET != 0 || by.is_some() {
            connection.reset_ns.get_or_insert(changed_ns);
        }
        // Who has closed resets what still comes: the kernel tells that as if a reset had arrived.
        let by = by.filter(|by| *by == ResetBy::Local || connection.local_closed_ns.is_none());
        connection.reset_by = connection.reset_by.or(by);
        match record.change {
            change::LOCAL_CLOSED => {
                connection.send.ended_ns.get_or_insert(changed_ns);
                connection.send.goes_to(record.send_end, 1);
                if record.flags & connection_flag::CLOSED_WHOLE != 0 {
                    connection.local_closed_ns.get_or_insert(changed_ns);
                    let fin = u64::from(connection.peer_closed_ns.is_some());
                    connection.receive.goes_to(record.receive_end, fin);
                }
            }
            change::REMOTE_CLOSED => {
                connection.peer_closed_ns.get_or_insert(changed_ns);
            }
            change::CLOSED | change::CONNECT_FAILED => {
                connection.closed_ns.get_or_insert(changed_ns);
                connection.failed |= record.change == change::CONNECT_FAILED;
            }
            _ => {}
        }
    }

    fn called(&mut self, call: &mut Call, context: &mut Context<'_>) {
        let record = &call.record;
        let direction = if record.direction == direction::SEND { Direction::Send } else { Direction::Receive };
        if record.result == ECONNRESET {
            self.connection.reset_ns.get_or_insert(record.header.time_ns);
            self.connection.reset_by.get_or_insert(ResetBy::Peer);
        }
        if record.flags & flag::END_OF_STREAM != 0 && direction == Direction::Receive {
            let side = &mut self.connection.receive;
            side.ended_ns.get_or_insert(record.header.time_ns);
            side.goes_to(record.start, 1);
        }
        self.connection.used_by(record.pid, record.flags & flag::SELECTED != 0 || record.is_selected != 0);
        if record.start == record.end {
            self.connection.moved_nothing = Some(CallTiming::new(0, 0, record));
            return;
        }
        let range = self.timed(direction, record);
        self.bound_timings(direction, context);
        if record.flags & flag::KERNEL_TLS != 0 {
            return self.kernel_encrypts(direction, record, range, context);
        }
        if record.flags & flag::SELECTED == 0 {
            self.become_opaque(true, context);
        }
        let prefix_len = call.payload.len() - usize::from(record.tail_len);
        if self.opaque_becomes_known(direction, &call.payload[..prefix_len], context) {
            self.connection.side_mut(direction).stream.restart(range.start);
        }
        if let Kind::Opaque(_) = self.kind {
            return self.opaque_bytes(direction, range, context);
        }
        let piece = Piece {
            start: range.start,
            end: range.end,
            tail_len: usize::from(record.tail_len),
            time_ns: record.header.time_ns,
            payload: std::mem::take(&mut call.payload),
        };
        let bytes_max = context.config.stream_bytes_max;
        self.connection.side_mut(direction).stream.push(piece, bytes_max, context.losses);
    }

    /// Notes the call's times; answers its range.
    fn timed(&mut self, direction: Direction, record: &CallRecord) -> Range<u64> {
        let side = self.connection.side_mut(direction);
        let (start, end) = side.stream.range(record.start, record.end);
        side.timings.calls.insert(CallTiming::new(start, end, record));
        // Arrivals that end before the call's range, or whose range was not observed, are those of older bytes.
        let known = i64::from(record.arrival_end.wrapping_sub(record.start).cast_signed()).max(0).cast_unsigned();
        let known = if record.flags & flag::INFERRED_RANGE == 0 { known.min(end - start) } else { 0 };
        if direction == Direction::Receive && record.arrival_first_ns != 0 && known > 0 {
            let times_ns = [record.softirq_ns, record.arrival_first_ns, record.arrival_last_ns];
            let hole_us = record.behind_hole_us;
            side.timings.arrivals.insert(Arrival::new(start, start + known, times_ns, hole_us, record.flags));
        }
        start..end
    }

    fn arrived(&mut self, record: &ArrivalRecord) {
        let side = &mut self.connection.receive;
        let (start, end) = side.stream.range(record.start, record.end);
        if start < end && record.first_ns != 0 {
            let times_ns = [record.softirq_ns, record.first_ns, record.last_ns];
            side.timings.arrivals.insert(Arrival::new(start, end, times_ns, record.behind_hole_us, record.flags));
        }
    }

    fn sent(&mut self, record: &SendRecord, context: &mut Context<'_>) {
        let side = &mut self.connection.send;
        let (start, end) = side.stream.range(record.start, record.end);
        if start == end {
            return;
        }
        side.timings.sends.insert(SendTiming { start, end, record: *record });
        self.connection.life.see(&record.tcp);
        self.bound_timings(Direction::Send, context);
        match &mut self.kind {
            Kind::Undecided(held) => {
                held.push(Held::Sent(start..end, context.now_ns));
                if held.len() > HELD_MAX {
                    self.become_opaque(self.late, context);
                }
            }
            Kind::Opaque(_) => self.opaque_bytes(Direction::Send, start..end, context),
            Kind::Http(_) | Kind::Tls(_) | Kind::Dns(_) | Kind::Dialogue(_) => {}
        }
    }

    /// Bytes that left again belong to the exchange that still has their timings.
    fn resent(&mut self, record: &RetransmitRecord, context: &mut Context<'_>) {
        self.connection.life.resent(record.segments, record.reason);
        if record.reason == retransmit::SYN {
            return;
        }
        let (start, end) = self.connection.send.stream.range(record.start, record.end);
        let time_ns = record.header.time_ns;
        let resent = Resent { start, end, time_ns, segments: record.segments, reason: record.reason };
        self.connection.send.timings.resent.insert(resent);
        self.bound_timings(Direction::Send, context);
    }

    fn bound_timings(&mut self, direction: Direction, context: &mut Context<'_>) {
        let side = self.connection.side(direction);
        let max = context.config.timings_max;
        let timings = &side.timings;
        let most = timings.calls.len().max(timings.sends.len()).max(timings.arrivals.len());
        if most.max(timings.resent.len()) <= max {
            return;
        }
        let next = side.stream.next();
        let is_request = self.connection.facts.request_direction() == Some(direction);
        let message = match &self.kind {
            Kind::Http(http) => http.open_range(is_request, next),
            Kind::Tls(tls) => tls.open_range(is_request, &self.connection),
            Kind::Opaque(opaque) => opaque.open_range(is_request),
            Kind::Undecided(_) | Kind::Dns(_) | Kind::Dialogue(_) => 0..0,
        };
        let dropped = self.connection.side_mut(direction).timings.shrink(&message, max);
        context.losses.add(Loss::TimingOverflow, dropped);
    }

    /// Feeds what is in order, and finishes what is due.
    pub(crate) fn advance(&mut self, context: &mut Context<'_>) {
        self.pump(Direction::Send, context);
        self.pump(Direction::Receive, context);
        let ending = self.ending(context);
        self.tell_ends(ending, context);
        match &self.kind {
            Kind::Undecided(_) if ending.is_some() => self.become_opaque(false, context),
            // Too few bytes to tell, and none come: their exchange is told, and later ones may still show what it is.
            Kind::Undecided(held)
                if held.first().is_some_and(|held| {
                    held.ns().saturating_add(context.config.idle_exchange_ns) <= context.now_ns
                }) =>
            {
                self.become_opaque(true, context);
            }
            _ => {}
        }
        match &mut self.kind {
            Kind::Http(http) => http.advance(&mut self.connection, ending, context),
            Kind::Tls(tls) => tls.advance(&mut self.connection, ending, context),
            Kind::Dns(dns) => dns.advance(&mut self.connection, ending, context),
            Kind::Dialogue(dialogue) => dialogue.advance(&mut self.connection, ending, context),
            Kind::Opaque(opaque) if ending.is_some() => opaque.finish(&mut self.connection, ending, context),
            Kind::Opaque(opaque) => opaque.advance(&mut self.connection, context),
            Kind::Undecided(_) => {}
        }
        if matches!(&self.kind, Kind::Http(http) if http.is_over()) {
            self.become_opaque(false, context);
        }
    }

    fn pump(&mut self, direction: Direction, context: &mut Context<'_>) {
        // What waits when the connection is gone waits for nothing.
        let wait_ns = if self.is_done(context) { 0 } else { context.config.hole_wait_ns };
        let hole_before_ns = context.now_ns.saturating_sub(wait_ns);
        while let Some(fed) = self.connection.side_mut(direction).stream.pop(hole_before_ns, context.losses) {
            let is_request = self.connection.facts.request_direction() == Some(direction);
            match &mut self.kind {
                Kind::Http(http) => {
                    http.feed(is_request, &fed, &mut self.connection, context);
                    self.go_up(&fed, context);
                }
                Kind::Tls(tls) => tls.feed(is_request, &fed, &mut self.connection, context),
                Kind::Dns(dns) => dns.feed(is_request, &fed, &mut self.connection, context),
                Kind::Dialogue(dialogue) => {
                    dialogue.feed(is_request, &fed, &mut self.connection, context);
                    self.go_on(context);
                }
                Kind::Undecided(held) => {
                    held.push(Held::Fed(direction, fed, context.now_ns));
                    self.decide(context);
                }
                Kind::Opaque(opaque) => match &fed {
                    Fed::Piece(piece) => {
                        opaque.bytes(&mut self.connection, direction, piece.start..piece.end, context);
                    }
                    Fed::Hole { .. } => opaque.missed(&self.connection, direction),
                },
            }
        }
    }

    /// Tells the parser of ends that nothing can come before any more.
    fn tell_ends(&mut self, ending: Option<(Ending, u64)>, context: &mut Context<'_>) {
        if self.connection.left_ns().is_some() && ending.is_none() {
            return;
        }
        let given_up = matches!(ending, Some((Ending::LocalClosed, _)));
        let gone = self.is_done(context) || self.connection.reset_ns.is_some() || given_up;
        let Kind::Http(http) = &mut self.kind else { return };
        // Whatever a server's close provoked, or was, what it had written by then is what it wrote.
        let left =
            self.connection.left_ns().is_some_and(|ns| self.connection.reset_ns.is_none_or(|reset_ns| ns <= reset_ns));
        for direction in [Direction::Send, Direction::Receive] {
            let is_request = self.connection.facts.request_direction() == Some(direction);
            let reset = self.connection.reset_ns.is_some() && !(left && direction == Direction::Send);
            let side = self.connection.side_mut(direction);
            let orderly = side.ended_ns.is_some() || (direction == Direction::Send && !reset);
            let now = side.ended_ns.is_some() || gone;
            if now && !side.end_told && side.stream.waiting_since_ns().is_none() {
                side.end_told = true;
                http.end(is_request, orderly && !reset, &mut self.connection, context);
            }
        }
    }

    /// Which protocol is it?
    fn decide(&mut self, context: &mut Context<'_>) {
        let Kind::Undecided(held) = &self.kind else { return };
        self.late |= begins_late(held, Direction::Send) || begins_late(held, Direction::Receive);
        let (sent, sent_hidden) = first_bytes(held, Direction::Send);
        let (received, received_hidden) = first_bytes(held, Direction::Receive);
        let role = self.connection.facts.role;
        let judge = |client: &[u8], server: &[u8]| detect_but(client, server, &self.misjudged);
        let as_client = if role == Some(Role::Server) { Verdict::Unknown } else { judge(&sent, &received) };
        let as_server = if role == Some(Role::Client) { Verdict::Unknown } else { judge(&received, &sent) };
        let too_much = held.len() >= HELD_MAX || sent.len().max(received.len()) >= HELD_BYTES_MAX;
        let hopeless = too_much || sent_hidden || received_hidden;
        let (role, protocol) = match (as_client, as_server) {
            (Verdict::Is(protocol), _) => (Role::Client, protocol),
            (_, Verdict::Is(protocol)) => (Role::Server, protocol),
            (Verdict::NotYet, _) | (_, Verdict::NotYet) if !hopeless => return,
            _ => return self.become_opaque(self.late || sent_hidden || received_hidden, context),
        };
        self.become_known(role, protocol, context);
    }

    fn become_known(&mut self, role: Role, protocol: Protocol, context: &mut Context<'_>) {
        self.connection.facts.role = Some(role);
        let requests = self.connection.facts.request_direction();
        let Kind::Undecided(held) = std::mem::replace(&mut self.kind, Kind::Undecided(Vec::new())) else { return };
        self.kind = Kind::new(protocol);
        // Inside TLS the kernel side asks, at the preface.
        if protocol.packs_messages() && self.connection.inner.is_none() {
            self.connection.want_whole(context);
        }
        for held in &held {
            let Held::Fed(direction, fed, _) = held else { continue };
            let is_request = Some(*direction) == requests;
            match &mut self.kind {
                Kind::Http(http) => {
                    http.feed(is_request, fed, &mut self.connection, context);
                    self.go_up(fed, context);
                }
                Kind::Tls(tls) => tls.feed(is_request, fed, &mut self.connection, context),
                Kind::Dns(dns) => dns.feed(is_request, fed, &mut self.connection, context),
                Kind::Dialogue(dialogue) => dialogue.feed(is_request, fed, &mut self.connection, context),
                Kind::Undecided(_) | Kind::Opaque(_) => {}
            }
        }
        self.go_on(context);
    }

    /// HTTP/1 may go on as HTTP/2, by agreement: in the middle of what the server sent last.
    fn go_up(&mut self, fed: &Fed, context: &mut Context<'_>) {
        let Kind::Http(http) = &mut self.kind else { return };
        let Some((request, at)) = http.take_upgrade() else { return };
        http.advance(&mut self.connection, None, context);
        let mut dialogue = Dialogue::upgraded(request, &mut self.connection, context);
        if let Fed::Piece(piece) = fed
            && piece.end > at
        {
            dialogue.feed(false, &Fed::Piece(piece.clone().cut_front(at)), &mut self.connection, context);
        }
        self.kind = Kind::Dialogue(Box::new(dialogue));
    }

    /// A dialogue may end before its connection does.
    fn go_on(&mut self, context: &mut Context<'_>) {
        let Kind::Dialogue(dialogue) = &mut self.kind else { return };
        match dialogue.goes_on() {
            GoesOn::Same => {}
            GoesOn::Switched => {
                dialogue.advance(&mut self.connection, Some((Ending::Gone, context.now_ns)), context);
                self.connection.open_from = [u64::MAX; 2];
                self.kind = Kind::Undecided(Vec::new());
            }
            GoesOn::Misjudged => {
                self.misjudged.push(dialogue.protocol());
                self.become_opaque(true, context);
            }
        }
    }

    /// A connection that was joined in the middle of something shows what it is where a message begins.
    fn opaque_becomes_known(&mut self, direction: Direction, prefix: &[u8], context: &mut Context<'_>) -> bool {
        let Kind::Opaque(opaque) = &mut self.kind else { return false };
        if !opaque.undecided || prefix.is_empty() {
            return false;
        }
        let facts = &self.connection.facts;
        let role = if facts.role_guessed { None } else { facts.role };
        let is = |requests: bool| {
            let [client, server] = if requests { [prefix, &[]] } else { [&[], prefix] };
            match detect_but(client, server, &self.misjudged) {
                Verdict::Is(protocol) if !matches!(protocol, Protocol::Tls | Protocol::Dns) => Some(protocol),
                _ => None,
            }
        };
        let sender = match direction {
            Direction::Send => [Role::Client, Role::Server],
            Direction::Receive => [Role::Server, Role::Client],
        };
        let (found, protocol) = match (is(true), is(false)) {
            (Some(protocol), _) => (sender[0], protocol),
            (_, Some(protocol)) => (sender[1], protocol),
            _ => return false,
        };
        if role.is_some_and(|role| role != found) {
            return false;
        }
        if opaque.abandon() {
            context.losses.add(Loss::MessageLost, 1);
        }
        (self.connection.facts.role, self.connection.facts.role_guessed) = (Some(found), false);
        self.kind = Kind::new(protocol);
        true
    }

    /// `undecided`: bytes that begin like a known protocol may still show what it is.
    fn become_opaque(&mut self, undecided: bool, context: &mut Context<'_>) {
        if let Kind::Opaque(opaque) = &mut self.kind {
            opaque.undecided |= undecided;
            return;
        }
        let begins = match &self.kind {
            Kind::Undecided(_) => !self.late,
            Kind::Http(http) => http.is_over(),
            Kind::Tls(_) | Kind::Dns(_) | Kind::Dialogue(_) | Kind::Opaque(_) => false,
        };
        match std::mem::replace(&mut self.kind, Kind::Opaque(Opaque::new(undecided, begins))) {
            Kind::Undecided(held) => {
                self.set_replaying(true);
                held.into_iter().for_each(|held| self.replay(held, context));
                self.set_replaying(false);
            }
            // Who waits still has a span: the other end's may name it as parent.
            Kind::Http(mut http) => {
                let ending = Some((Ending::Gone, context.now_ns));
                http.advance(&mut self.connection, ending, context);
            }
            Kind::Tls(tls) => self.kind = Kind::Opaque(tls.into_opaque(&mut self.connection)),
            Kind::Dns(mut dns) => {
                dns.advance(&mut self.connection, Some((Ending::Gone, context.now_ns)), context);
            }
            Kind::Dialogue(mut dialogue) => {
                dialogue.advance(&mut self.connection, Some((Ending::Gone, context.now_ns)), context);
                self.connection.open_from = [u64::MAX; 2];
            }
            Kind::Opaque(_) => {}
        }
    }

    fn set_replaying(&mut self, replaying: bool) {
        if let Kind::Opaque(opaque) = &mut self.kind {
            opaque.replaying = replaying;
        }
    }

    fn replay(&mut self, held: Held, context: &mut Context<'_>) {
        let now_ns = context.now_ns;
        match held {
            Held::Fed(direction, Fed::Piece(piece), ns) => {
                context.now_ns = ns;
                if let Kind::Opaque(opaque) = &mut self.kind {
                    opaque.bytes(&mut self.connection, direction, piece.start..piece.end, context);
                }
            }
            Held::Sent(range, ns) => {
                context.now_ns = ns;
                self.opaque_bytes(Direction::Send, range, context);
            }
            Held::Fed(direction, Fed::Hole { .. }, _) => {
                if let Kind::Opaque(opaque) = &mut self.kind {
                    opaque.missed(&self.connection, direction);
                }
            }
        }
        context.now_ns = now_ns;
    }

    /// Bytes of an opaque connection: each counts once, whichever record tells of it first.
    fn opaque_bytes(&mut self, direction: Direction, range: Range<u64>, context: &mut Context<'_>) {
        let stream = &mut self.connection.side_mut(direction).stream;
        let missed = stream.is_beyond(range.start);
        let Some((start, end)) = stream.advance(range.start, range.end) else { return };
        if let Kind::Opaque(opaque) = &mut self.kind {
            if missed {
                opaque.missed(&self.connection, direction);
            }
            opaque.bytes(&mut self.connection, direction, start..end, context);
        }
    }

    /// Finishes everything as known so far: the connection is forgotten.
    pub(crate) fn give_up(&mut self, context: &mut Context<'_>) {
        self.connection.closed_ns.get_or_insert(context.now_ns);
        let now_ns = context.now_ns;
        let hold_ns = context.config.closed_hold_ns;
        context.now_ns = now_ns.saturating_add(hold_ns);
        self.advance(context);
        context.now_ns = now_ns;
    }
}

/// Whether bytes of one direction moved before the first that were seen.
fn begins_late(held: &[Held], wanted: Direction) -> bool {
    let start = held.iter().find_map(|held| match held {
        Held::Fed(direction, Fed::Piece(piece), _) if *direction == wanted => Some(piece.start),
        _ => None,
    });
    start.is_some_and(|start| start > 0)
}

/// The bytes of one direction from where it was first seen, and whether more are hidden behind them.
fn first_bytes(held: &[Held], wanted: Direction) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    for held in held {
        match held {
            Held::Fed(direction, Fed::Piece(piece), _) if *direction == wanted => {
                bytes.extend_from_slice(piece.prefix());
                if piece.gap() > 0 {
                    return (bytes, true);
                }
            }
            Held::Fed(direction, Fed::Hole { .. }, _) if *direction == wanted => return (bytes, true),
            _ => {}
        }
    }
    (bytes, false)
}
