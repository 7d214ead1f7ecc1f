//! Exchanges of any protocol whose parser speaks [`agent_protocol::session`]: requests, responses, messages without an answer.
//!
//! In: the bytes of both directions, each in order. Out: exchanges, settled like any other of the connection. Called by
//! [`crate::flow`]. The parser says which response answers which request: by a number that both carry, or by their order.
//!
//! A response may be heard of shortly before its request, since records of one connection are nearly, not wholly, in order: it
//! then waits. After a loss, responses that answer in order cannot be counted any more. Then time decides: without pipelining, a
//! response answers the last request before it, and that is sure if no record was lost between the two. So it is with requests
//! that are heard of after younger responses, because they were behind a hole. The others get an unknown outcome and are counted.
//! Of a client that pipelines, all that waits is in doubt, and what comes until the order is known again ([`order`] says when that
//! is): these requests end with their own last byte. That a client pipelines is known only from when it was seen to: what is lost
//! before that is judged as if it did not.
//!
//! Limits: exchanges that wait on one connection and the bytes of their text, and [`EARLY_MAX`] responses that wait for their request.

mod finish;
mod order;
mod pairing;
mod waiting;

use agent_protocol::{
    detect::{self, Protocol},
    http2,
    input::Input,
    session::{Event, Forgotten, Form, Lost, Parser, Part, Side},
};

use self::{order::Order, waiting::Waiting};
use super::Context;
use crate::{
    flow::{
        connection::{Connection, Direction, Ending},
        stream::Fed,
    },
    loss::Loss,
};

/// Most responses that wait for their request.
pub const EARLY_MAX: usize = 64;

/// How the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoesOn {
    /// As before.
    Same,
    /// As another protocol, by agreement.
    Switched,
    /// As another protocol: this one was a wrong guess.
    Misjudged,
}

/// State of one connection.
#[derive(Debug)]
pub struct Dialogue {
    protocol: Protocol,
    parser: Box<dyn Parser>,
    /// Stream offsets of the parser's first input from the client, and from the server.
    bases: [Option<u64>; 2],
    waiting: Waiting,
    events: Vec<Event>,
    goes_on: GoesOn,
    /// Of those that only their order tells.
    order: Order,
    /// When the client's bytes, and the server's, last moved, by their records.
    moved_ns: [u64; 2],
}

impl Dialogue {
    /// At the beginning of a connection, or of a message; `None` if the protocol has no parser of this kind.
    pub fn new(protocol: Protocol) -> Option<Self> {
        Some(Self::with(protocol, detect::parser(protocol)?))
    }

    /// HTTP/2 that answers a request of HTTP/1.
    pub fn upgraded(request: Part, connection: &mut Connection, context: &mut Context<'_>) -> Self {
        let mut dialogue = Self::with(Protocol::Http2, http2::upgraded());
        dialogue.part(request, connection, context);
        dialogue.keep(connection);
        dialogue
    }

    fn with(protocol: Protocol, parser: Box<dyn Parser>) -> Self {
        Self {
            protocol,
            parser,
            bases: [None; 2],
            waiting: Waiting::default(),
            events: Vec::new(),
            goes_on: GoesOn::Same,
            order: Order::default(),
            moved_ns: [0; 2],
        }
    }

    /// The protocol that it takes the bytes for.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// How the connection goes on.
    pub fn goes_on(&self) -> GoesOn {
        self.goes_on
    }

    /// Whether the request that begins at `offset` waits for its response.
    pub fn has_request(&self, offset: u64) -> bool {
        self.waiting.iter().any(|exchange| exchange.request.start == offset)
    }

    /// When something is due without further bytes.
    pub fn due_ns(&self, hold_ns: u64) -> Option<u64> {
        let early = self.waiting.early_since_ns();
        let half =
            self.waiting.iter().filter(|exchange| exchange.response_last).map(|exchange| exchange.noticed_ns).min();
        Some(early.into_iter().chain(half).min()?.saturating_add(hold_ns))
    }

    /// The next bytes of one direction, or their absence.
    pub fn feed(&mut self, is_request: bool, fed: &Fed, connection: &mut Connection, context: &mut Context<'_>) {
        if self.goes_on != GoesOn::Same {
            return;
        }
        let from = if is_request { Side::Client } else { Side::Server };
        if let Fed::Piece(piece) = fed {
            let moved_ns = self.moved_ns[0].max(self.moved_ns[1]);
            let is_silent = piece.time_ns.saturating_sub(moved_ns) >= context.config.idle_exchange_ns;
            if is_request && is_silent && self.order.ask_after_silence() {
                self.give_up_order(connection, context);
            }
            self.moved_ns[index(from)] = piece.time_ns;
        }
        self.parse(from, fed);
        for event in std::mem::take(&mut self.events) {
            self.event(event, fed, connection, context);
        }
        self.keep(connection);
    }

    fn parse(&mut self, from: Side, fed: &Fed) {
        let base = &mut self.bases[index(from)];
        let events = &mut self.events;
        match fed {
            Fed::Hole { start, length } => {
                base.get_or_insert(*start);
                self.parser.feed(from, Input::Gap(*length), events);
            }
            Fed::Piece(piece) => {
                base.get_or_insert(piece.start);
                for input in [Input::Bytes(piece.prefix()), Input::Gap(piece.gap()), Input::Bytes(piece.tail())] {
                    if !matches!(input, Input::Bytes([]) | Input::Gap(0)) {
                        self.parser.feed(from, input, events);
                    }
                }
            }
        }
    }

    fn event(&mut self, event: Event, fed: &Fed, connection: &mut Connection, context: &mut Context<'_>) {
        match event {
            Event::Part(mut part) => {
                let base = self.base(part.from);
                part.range = base.saturating_add(part.range.start)..base.saturating_add(part.range.end);
                self.part(part, connection, context);
            }
            Event::Cancelled { key, by, end, error_type } => {
                let end = self.base(by).saturating_add(end);
                if let Some(exchange) = self.waiting.take(key) {
                    self.finish_cancelled(exchange, (by, end), error_type, connection, context);
                }
            }
            Event::Lost { from, reason, .. } => {
                count_lost(reason, fed, context);
                if let (Lost::Gap, Fed::Piece(_)) = (reason, fed) {
                    connection.want_whole(context);
                }
                self.lost(from, connection, context);
            }
            Event::Forgotten(Forgotten::Stream) => context.losses.add(Loss::StreamForgotten, 1),
            Event::Forgotten(Forgotten::Body) => context.losses.add(Loss::BodyForgotten, 1),
            Event::Switched => self.goes_on = GoesOn::Switched,
            Event::NotMine => {
                context.losses.add(Loss::ProtocolMisjudged, 1);
                self.goes_on = GoesOn::Misjudged;
            }
        }
    }

    fn part(&mut self, part: Part, connection: &mut Connection, context: &mut Context<'_>) {
        if part.form == Form::OneWay {
            return self.finish_one_way(part, connection, context);
        }
        self.waiting.add_text(&part.facts);
        match part.from {
            Side::Client => self.asked(part, connection, context),
            Side::Server => self.answered(part, connection, context),
        }
        self.bound_text(connection, context);
    }

    /// Finishes what will not become complete.
    pub fn advance(&mut self, connection: &mut Connection, ending: Option<(Ending, u64)>, context: &mut Context<'_>) {
        let hold_ns = context.config.exchange_hold_ns;
        let until_ns = if ending.is_some() { u64::MAX } else { context.now_ns.saturating_sub(hold_ns) };
        while let Some(answer) = self.waiting.take_early_since(until_ns) {
            self.answered_late(answer, connection, context);
        }
        // An answer that is complete before its request is: the rest of that need not come.
        while let Some(exchange) = self.waiting.take_half(until_ns) {
            self.finish_answered(exchange, connection, context);
        }
        if let Some(ending) = ending {
            while let Some(exchange) = self.waiting.take_oldest() {
                self.finish_unanswered(exchange, ending, connection, context);
            }
        }
        self.keep(connection);
    }

    fn base(&self, side: Side) -> u64 {
        self.bases[index(side)].unwrap_or(0)
    }

    /// Keeps the timings that are still needed, and lets go of the others.
    fn keep(&self, connection: &mut Connection) {
        let Some(requests) = connection.facts.request_direction() else { return };
        for (side, direction) in [(Side::Client, requests), (Side::Server, requests.other())] {
            let pending = self.base(side).saturating_add(self.parser.pending_from(side));
            let from = self.waiting.needed_from(side).map_or(pending, |needed| needed.min(pending));
            connection.open_from[usize::from(direction == Direction::Send)] = from;
            connection.trim(direction, from);
        }
    }
}

const fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Server => 1,
    }
}

fn count_lost(reason: Lost, fed: &Fed, context: &mut Context<'_>) {
    match (reason, fed) {
        // A hole is counted where it is found.
        (Lost::Gap, Fed::Hole { .. }) => {}
        (Lost::Gap, Fed::Piece(_)) => context.losses.add(Loss::PayloadTruncated, 1),
        (Lost::Malformed, _) => context.losses.add(Loss::MessageMalformed, 1),
        (Lost::TooLarge, _) => context.losses.add(Loss::MessageTooLarge, 1),
    }
}
