//! TLS: the handshake as a step of the first exchange, and exchanges of application data that is not seen.
//!
//! In: the bytes of both directions in order, with their timings. Out: what the connection's first exchange waited for
//! ([`crate::segment::Before`]), exchanges by [`Opaque`]'s rule, a span of its own for a handshake that failed. Called by
//! [`crate::flow`]. Decrypts nothing.
//!
//! What is not application data is left out of exchanges: the handshake, alerts, and, in TLS 1.3, where all records look
//! alike, by inference: session tickets (records of equal length at the begin of what the server sends), and alerts at
//! the end (by their length). Early data is left out as well.

mod handshake;
mod inside;
mod placing;

use std::ops::Range;

use agent_protocol::{
    input::Input,
    tls::{Event, Record, Records, content, version_name},
};

pub use self::handshake::Label;
use self::handshake::{ENCRYPTED_ALERT, Handshake, State};
use self::{inside::Inside, placing::Placing};
use super::{
    Context, Draft, Selection,
    ending::{CLOSED, RESET},
    opaque::Opaque,
    semconv::{self, Attributes, text, word},
    tcp,
};
use crate::{
    flow::{
        connection::{Connection, Direction, Ending, Role, Seen},
        stream::Fed,
        timing::CallTiming,
    },
    segment::{Before, Step, Timeline},
    span::{Evidence, Protocol, Status, Value},
};

/// Most session tickets that a server sends at once.
const TICKETS_MAX: u32 = 4;
/// Session tickets are shorter (RFC 8446, 4.6.1, allows more; with certificates inside they may be longer).
const TICKET_BYTES_MAX: u64 = 1024;

/// State of one connection.
#[derive(Debug)]
pub struct Tls {
    /// The client's direction, and the server's.
    lanes: [Lane; 2],
    handshake: Handshake,
    /// Whether the handshake is done, or failed, or nothing more can be known of it.
    over: bool,
    failed: bool,
    tickets: Tickets,
    opaque: Opaque,
    /// What is inside, once a TLS library showed it.
    inside: Option<Box<Inside>>,
    /// Where it is: received, sent.
    placing: [Placing; 2],
}

/// One direction. Bytes are passed on up to the least of `fed` and `allowed`.
#[derive(Debug, Default)]
struct Lane {
    records: Records,
    /// Offset in the stream of the parser's first byte.
    base: Option<u64>,
    /// Bytes before this have moved.
    fed: u64,
    /// Bytes before this are passed on, or never will be.
    passed: u64,
    /// Bytes before this may be passed on.
    allowed: u64,
    /// End of the last record that began.
    record_end: u64,
    held: Option<Held>,
}

/// A record that waits for what follows it.
#[derive(Clone, Copy, Debug)]
struct Held {
    record: Record,
    since_ns: u64,
}

/// What the server sent first of all behind its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tickets {
    /// Nothing yet.
    None,
    /// Records of this length only, and how many.
    Equal(u64, u32),
    /// Something else, too; or there are no tickets to tell.
    Over,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

impl Default for Tls {
    fn default() -> Self {
        Self {
            lanes: [Lane::default(), Lane::default()],
            handshake: Handshake::default(),
            over: false,
            failed: false,
            tickets: Tickets::Over,
            opaque: Opaque::new(false, true),
            inside: None,
            placing: [Placing::default(), Placing::default()],
        }
    }
}

impl Tls {
    /// One of which the bytes before `next` (received, sent) were not followed.
    pub fn late(next: [u64; 2], connection: &Connection) -> Self {
        let mut tls = Self { over: true, opaque: Opaque::new(false, false), ..Self::default() };
        tls.handshake.state = State::Unknown;
        let receives = connection.facts.request_direction() == Some(Direction::Receive);
        for (direction, next) in next.into_iter().enumerate() {
            let lane = &mut tls.lanes[if (direction == 0) == receives { CLIENT } else { SERVER }];
            // Records are found where a call begins.
            lane.records.feed(Input::Gap(next), &mut Vec::new());
            lane.base = Some(0);
            (lane.fed, lane.passed) = (next, next);
        }
        tls
    }

    /// The next bytes of a direction, or their absence.
    pub fn feed(&mut self, is_request: bool, fed: &Fed, connection: &mut Connection, context: &mut Context<'_>) {
        let lane = if is_request { CLIENT } else { SERVER };
        connection.tls.get_or_insert(Seen::Records);
        let (start, end) = match fed {
            Fed::Piece(piece) => (piece.start, piece.end),
            Fed::Hole { start, length } => (*start, start + length),
        };
        if matches!(fed, Fed::Hole { .. })
            && let Some(requests) = connection.facts.request_direction()
        {
            self.opaque.missed(connection, if is_request { requests } else { requests.other() });
        }
        let base = *self.lanes[lane].base.get_or_insert(start);
        self.lanes[lane].fed = end;
        for event in events(&mut self.lanes[lane].records, fed) {
            let event = moved(event, base);
            self.handshake.see(is_request, &event);
            if let Event::Record(record) = &event {
                self.lanes[lane].record_end = record.end;
            }
            match &event {
                Event::Record(record) if self.over => self.record(lane, record, connection, context),
                Event::Lost if self.over => self.lanes[lane].allowed = u64::MAX,
                _ => self.conclude(lane, connection, context),
            }
        }
        self.conclude(lane, connection, context);
        self.pass(lane, connection, context);
        self.advance_inside(connection, context);
    }

    /// Finishes what is due or cut off.
    pub fn advance(&mut self, connection: &mut Connection, ending: Option<(Ending, u64)>, context: &mut Context<'_>) {
        let Some((ending, ns)) = ending else {
            if self.held_due_ns(context.config.idle_exchange_ns).is_some_and(|due_ns| due_ns <= context.now_ns) {
                self.let_go(connection, context);
            }
            self.advance_inside(connection, context);
            return self.opaque.advance(connection, context);
        };
        // Given up by the agent, not by an end: nothing is known to have failed.
        let ended = ending != Ending::Gone || connection.closed_ns.is_some();
        if !std::mem::replace(&mut self.over, true) && ended {
            let error = if ending == Ending::Reset { RESET } else { CLOSED };
            self.fail(error, ns, connection, context);
        }
        self.let_go(connection, context);
        self.finish_inside(connection, context);
        self.opaque.finish(connection, Some((ending, ns)), context);
    }

    /// When something is due without further records.
    pub fn due_ns(&self, context: &Context<'_>) -> Option<u64> {
        let idle_exchange_ns = context.config.idle_exchange_ns;
        let opaque = self.opaque.due_ns(idle_exchange_ns);
        let inside = self.inside.as_ref().and_then(|inside| inside.due_ns(context));
        [opaque, self.held_due_ns(idle_exchange_ns), inside].into_iter().flatten().min()
    }

    /// Whether an exchange whose request begins at `offset` is in progress.
    pub fn has_request(&self, offset: u64) -> bool {
        let inside = |inside: &Inside| inside.has_request(offset, &self.placing);
        self.inside.as_deref().is_some_and(inside) || self.opaque.has_request(offset)
    }

    /// The message in progress in one direction.
    pub fn open_range(&self, is_request: bool, connection: &Connection) -> Range<u64> {
        let lane = if is_request { CLIENT } else { SERVER };
        let (direction, _) = place(connection, lane);
        match connection.open_from[direction] {
            from if self.inside.is_some() && from != u64::MAX => from..self.lanes[lane].fed.max(from),
            _ => self.opaque.open_range(is_request),
        }
    }

    /// Application data moved that the kernel encrypts. It may do so in one direction only: the other's records are followed as ever.
    pub fn encrypted_by_kernel(
        &mut self,
        direction: Direction,
        range: Range<u64>,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) {
        self.end_handshake(direction, range.start, connection, context);
        let call = connection.side(direction).timings.calls.holding(range.start);
        let ns = call.map_or(context.now_ns, |call| call.enter_ns);
        self.close_inside(ns, connection, context);
        let lane = lane(connection, direction);
        self.release(1 - lane, connection, context);
        let stream = &mut connection.side_mut(direction).stream;
        let missed = stream.is_beyond(range.start);
        let Some((start, end)) = stream.advance(range.start, range.end) else { return };
        (self.lanes[lane].fed, self.lanes[lane].passed) = (end, end);
        if missed {
            self.opaque.missed(connection, direction);
        }
        self.opaque.bytes(connection, direction, start..end, context);
    }

    /// What a library showed so far was before the kernel had the keys, or is of the other direction alone.
    fn close_inside(&mut self, ns: u64, connection: &mut Connection, context: &mut Context<'_>) {
        let Some(inside) = &mut self.inside else { return };
        // Who waits for an answer has a span nevertheless: the other end's may name it as parent.
        let now_ns = std::mem::replace(&mut context.now_ns, ns);
        inside.give_up(context);
        context.now_ns = now_ns;
        self.finish_inside(connection, context);
        self.inside = None;
        connection.open_from = [u64::MAX; 2];
        for lane in [CLIENT, SERVER] {
            let state = &mut self.lanes[lane];
            state.passed = state.fed;
            state.allowed = if state.records.is_lost() { u64::MAX } else { state.fed };
            self.opaque.missed(connection, place(connection, lane).1);
        }
    }

    /// The handshake is over by the byte at `from`, if its last messages were seen or not.
    fn end_handshake(
        &mut self,
        direction: Direction,
        from: u64,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) {
        self.end_doubt(connection, context);
        if self.over {
            return;
        }
        let last = |direction: Direction, before: u64| {
            connection.side(direction).timings.calls.within(0..before).last().map(|call| call.return_ns)
        };
        let end_ns = last(direction, from).max(last(direction.other(), u64::MAX));
        self.concluded(CLIENT, end_ns.map(|ns| (ns, Evidence::Derived)), connection, context);
    }

    /// What goes on when payload is no longer captured.
    pub fn into_opaque(self, connection: &mut Connection) -> Opaque {
        connection.open_from = [u64::MAX; 2];
        self.opaque
    }

    /// A record behind the handshake.
    fn record(&mut self, lane: usize, record: &Record, connection: &mut Connection, context: &mut Context<'_>) {
        let modern = self.handshake.is_1_3();
        let data = record.kind == content::APPLICATION_DATA;
        if data {
            self.placing[place(connection, lane).0].record(*record, lane == CLIENT);
        }
        if self.inside.is_some() {
            return;
        }
        if lane == SERVER && data && modern && self.is_another_ticket(record) {
            self.lanes[lane].held = None;
            return self.lanes[lane].skip(record);
        }
        // Who asks anew was answered by what waited.
        for waiting in [lane, SERVER] {
            self.release(waiting, connection, context);
        }
        let state = &mut self.lanes[lane];
        state.allowed = state.allowed.min(record.start);
        self.pass(lane, connection, context);
        let may_be_ticket = matches!(self.tickets, Tickets::Equal(_, 1)) && lane == SERVER;
        let state = &mut self.lanes[lane];
        if !data {
            // Alerts, renegotiation: nothing of theirs belongs to an exchange.
            state.skip(record);
        } else if modern && (may_be_ticket || record.length() == ENCRYPTED_ALERT) {
            state.held = Some(Held { record: *record, since_ns: context.now_ns });
        } else {
            state.allowed = record.end;
        }
    }

    /// Whether the server's record is at least the second that looks like a session ticket: one length, and nothing else
    /// before.
    fn is_another_ticket(&mut self, record: &Record) -> bool {
        self.tickets = match self.tickets {
            Tickets::None if record.length() <= TICKET_BYTES_MAX && record.length() != ENCRYPTED_ALERT => {
                Tickets::Equal(record.length(), 1)
            }
            Tickets::Equal(length, count) if length == record.length() && count < TICKETS_MAX => {
                Tickets::Equal(length, count + 1)
            }
            _ => Tickets::Over,
        };
        matches!(self.tickets, Tickets::Equal(_, 2..))
    }

    /// What waited for the next record of its direction is neither a farewell nor a ticket.
    fn release(&mut self, lane: usize, connection: &mut Connection, context: &mut Context<'_>) {
        if let Some(held) = self.lanes[lane].held.take() {
            if lane == SERVER && self.opaque.is_unanswered() {
                self.tickets = Tickets::Over;
            }
            self.lanes[lane].allowed = held.record.end;
            self.pass(lane, connection, context);
        }
    }

    /// Nothing follows what waits in the server's direction: it is the answer, unless there is one and it looks like a
    /// farewell.
    fn let_go(&mut self, connection: &mut Connection, context: &mut Context<'_>) {
        let Some(held) = self.lanes[SERVER].held else { return };
        if held.record.length() == ENCRYPTED_ALERT && !self.opaque.is_unanswered() {
            self.lanes[SERVER].held = None;
            return self.lanes[SERVER].skip(&held.record);
        }
        self.release(SERVER, connection, context);
    }

    fn held_due_ns(&self, idle_exchange_ns: u64) -> Option<u64> {
        self.lanes[SERVER].held.map(|held| held.since_ns.saturating_add(idle_exchange_ns / 4))
    }

    /// Passes on what may be and was not yet.
    fn pass(&mut self, lane: usize, connection: &mut Connection, context: &mut Context<'_>) {
        let state = &mut self.lanes[lane];
        let range = state.passed..state.fed.min(state.allowed);
        let Some(requests) = connection.facts.request_direction() else { return };
        if self.over && !self.failed && !range.is_empty() && self.inside.is_none() {
            state.passed = range.end;
            let direction = if lane == CLIENT { requests } else { requests.other() };
            self.opaque.bytes(connection, direction, range, context);
        }
    }

    /// Notes that the handshake is over, if it is by now; `lane` moved last.
    fn conclude(&mut self, lane: usize, connection: &mut Connection, context: &mut Context<'_>) {
        if self.over {
            return;
        }
        let done = match &self.handshake.state {
            State::Running | State::Finished { sure: false, .. } => return,
            State::Finished { client, end, .. } => {
                let lane = if *client { CLIENT } else { SERVER };
                if self.lanes[lane].fed < *end {
                    return;
                }
                self.lanes[lane].passed = *end;
                moment(connection, lane, end - 1, Some(*end)).map(|ns| (ns, Evidence::Measured))
            }
            State::Before { client, start } => {
                let lane = if *client { CLIENT } else { SERVER };
                self.lanes[lane].passed = *start;
                moment(connection, lane, *start, Some(*start)).map(|ns| (ns, Evidence::Derived))
            }
            State::Failed(error) => {
                let error = error.clone();
                let last = self.lanes[lane].fed.saturating_sub(1);
                let ns = moment(connection, lane, last, None).unwrap_or(context.now_ns);
                self.over = true;
                return self.fail(&error, ns, connection, context);
            }
            State::Unknown => None,
        };
        self.concluded(lane, done, connection, context);
    }

    /// The handshake is over since then, if that is known; `lane` moved last.
    fn concluded(
        &mut self,
        lane: usize,
        done: Option<(u64, Evidence)>,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) {
        self.over = true;
        self.opaque.label = Some(Box::new(self.handshake.label.clone()));
        connection.before.tls = self.hello_ns(connection).zip(done).map(|(start_ns, (end_ns, evidence))| Step {
            start_ns,
            end_ns: end_ns.max(start_ns),
            evidence,
        });
        if self.handshake.is_1_3() {
            self.tickets = Tickets::None;
        }
        self.begin(lane, connection, context);
    }

    /// What was taken for the Finished is: application data is known to follow it.
    fn end_doubt(&mut self, connection: &mut Connection, context: &mut Context<'_>) {
        if let State::Finished { client, end, .. } = self.handshake.state {
            self.handshake.state = State::Finished { client, end, sure: true };
            self.conclude(if client { CLIENT } else { SERVER }, connection, context);
        }
    }

    /// From now on records are application data. Those that began are the handshake's, but for those that ended it.
    fn begin(&mut self, lane: usize, connection: &mut Connection, context: &mut Context<'_>) {
        let unknown = self.handshake.state == State::Unknown;
        for state in &mut self.lanes {
            let from = if unknown { state.fed } else { state.record_end };
            if state.passed == 0 {
                state.passed = from;
            }
            state.allowed = if unknown { u64::MAX } else { state.record_end.max(state.passed) };
        }
        if let State::Before { client, start } = self.handshake.state {
            let lane = if client { CLIENT } else { SERVER };
            let end = self.lanes[lane].record_end;
            let record = Record { start, end, kind: content::APPLICATION_DATA, encrypted: true };
            self.placing[place(connection, lane).0].record(record, lane == CLIENT);
        }
        // A server's record that ends all doubt about the client's last one came after it.
        if let State::Finished { client: true, .. } = self.handshake.state
            && lane == SERVER
            && let Some(record) = self.handshake.doubt_ended_by
        {
            self.lanes[SERVER].passed = record.start;
            self.lanes[SERVER].allowed = record.start;
            self.record(SERVER, &record, connection, context);
        }
    }

    /// When the client's first hello began to be written; only its own end knows.
    fn hello_ns(&self, connection: &Connection) -> Option<u64> {
        if connection.facts.role != Some(Role::Client) {
            return None;
        }
        let call = connection.send.timings.calls.holding(self.lanes[CLIENT].base?)?;
        (call.enter_ns != 0).then_some(call.enter_ns)
    }

    /// A handshake that failed is a span of the client.
    fn fail(&mut self, error: &str, ns: u64, connection: &mut Connection, context: &mut Context<'_>) {
        self.failed = true;
        let Some(start_ns) = self.hello_ns(connection) else { return };
        let base = self.lanes[CLIENT].base.unwrap_or(0);
        let hello = connection.send.timings.calls.holding(base);
        let pid = hello.map_or(connection.facts.pid, |call| call.pid);
        let hello = CallTiming { enter_ns: start_ns, ..hello.cloned().unwrap_or_default() };
        let tls = Step { start_ns, end_ns: ns.max(start_ns), evidence: Evidence::Measured };
        let before = Before { tls: Some(tls), ..connection.before(&hello) };
        let mut attributes = Vec::with_capacity(semconv::ATTRIBUTES);
        attributes.push(("error.type", text(error)));
        tell(&self.handshake.label, &mut attributes);
        let name = self.handshake.label.server_name.as_ref();
        semconv::server(&mut attributes, connection, Role::Client, name);
        semconv::connection(&mut attributes, connection, Role::Client);
        tcp::opening(&mut attributes, connection, Role::Client, &before);
        connection.exchanges += 1;
        context.drafts.push(Draft {
            facts: connection.facts.clone(),
            role: Role::Client,
            kind: Role::Client.span_kind(),
            protocol: Protocol::Tls,
            name: "tls".into(),
            timeline: Timeline::of_steps(&before),
            status: Status::Error,
            attributes,
            trace_context: None,
            request_offset: base,
            key: None,
            client_traced: false,
            pid,
            peer_pid: 0,
            selection: Selection::Selected,
        });
    }
}

impl Lane {
    /// Nothing of this record is passed on.
    fn skip(&mut self, record: &Record) {
        self.passed = self.passed.max(record.end);
        self.allowed = self.passed;
    }
}

/// What the hellos said, as attributes.
pub(super) fn tell(label: &Label, attributes: &mut Attributes) {
    attributes.push(("tls.protocol.name", word("tls")));
    if let Some(version) = label.version.and_then(version_name) {
        attributes.push(("tls.protocol.version", word(version)));
    }
    if let Some(name) = &label.server_name {
        attributes.push(("tls.client.server_name", Value::String(name.clone())));
    }
    if let Some(protocol) = &label.next_protocol {
        attributes.push(("tls.next_protocol", Value::String(protocol.clone())));
    }
}

/// A lane's index by direction (received, sent), and its direction.
fn place(connection: &Connection, lane: usize) -> (usize, Direction) {
    let requests = connection.facts.request_direction().unwrap_or(Direction::Send);
    let direction = if lane == CLIENT { requests } else { requests.other() };
    (usize::from(direction == Direction::Send), direction)
}

/// The lane of a direction.
fn lane(connection: &Connection, direction: Direction) -> usize {
    if connection.facts.request_direction().unwrap_or(Direction::Send) == direction { CLIENT } else { SERVER }
}

/// When the byte at `offset` moved at this end. A write that goes on behind `last` had that behind it when it began.
fn moment(connection: &Connection, lane: usize, offset: u64, last: Option<u64>) -> Option<u64> {
    let requests = connection.facts.request_direction()?;
    let direction = if lane == CLIENT { requests } else { requests.other() };
    let call = connection.side(direction).timings.calls.holding(offset)?;
    let goes_on = direction == Direction::Send && last.is_some_and(|last| call.end > last);
    let ns = if goes_on { call.enter_ns } else { call.return_ns };
    (ns != 0).then_some(ns)
}

fn events(records: &mut Records, fed: &Fed) -> Vec<Event> {
    let mut events = Vec::new();
    match fed {
        Fed::Piece(piece) => {
            records.feed(Input::Bytes(piece.prefix()), &mut events);
            records.feed(Input::Gap(piece.gap()), &mut events);
            // Records are found again where calls begin, which is not here.
            let (tail, lost) = (piece.tail(), records.is_lost());
            records.feed(if lost { Input::Gap(tail.len() as u64) } else { Input::Bytes(tail) }, &mut events);
        }
        Fed::Hole { length, .. } => records.feed(Input::Gap(*length), &mut events),
    }
    events
}

/// From the parser's offsets to the stream's.
fn moved(event: Event, base: u64) -> Event {
    match event {
        Event::Record(record) => {
            let (start, end) = (record.start.saturating_add(base), record.end.saturating_add(base));
            Event::Record(Record { start, end, ..record })
        }
        other => other,
    }
}
