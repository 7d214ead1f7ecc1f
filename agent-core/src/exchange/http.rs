//! HTTP/1: the k-th response on a connection answers the k-th request.
//!
//! In: the bytes of both directions, each in order; which direction comes first does not matter. Out: a `Draft` per
//! exchange. Called by [`crate::flow`].
//!
//! After a loss (a hole, or a head beyond the captured prefix) it is not known how many messages were hidden. Then time
//! decides: without pipelining, a response answers the last request before it, and that is sure if no record was lost
//! between the two. What is not sure is not paired. If this client pipelines, the exchanges in doubt are given up and
//! counted, until the connection was silent for as long as ends an exchange.

mod finish;

use std::{collections::VecDeque, ops::Range};

use agent_protocol::{
    http1::{RequestHead, Requests, ResponseHead, Responses},
    input::{Boundary, Event, Input, Lost},
};

use super::Context;
use crate::{
    flow::{
        connection::{Connection, Direction, Ending, Role},
        stream::Fed,
    },
    loss::Loss,
};

/// How far a message was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Its end is still to come.
    Open,
    /// Its end was seen.
    Ended(Boundary),
    /// Its end was not seen and will not be.
    Lost,
}

#[derive(Clone, Debug)]
struct Message<H> {
    start: u64,
    /// Past the head, and then past the last byte.
    end: u64,
    progress: Progress,
    head: H,
    head_bytes: u64,
    /// Messages before, or behind, may have been hidden.
    near_loss: [bool; 2],
    /// When the end was noticed.
    noticed_ns: u64,
}

impl<H> Message<H> {
    /// A message whose head is complete.
    fn begin(range: Range<u64>, head_bytes: u64, head: H, after_loss: bool, noticed_ns: u64) -> Self {
        let Range { start, end } = range;
        Self { start, end, progress: Progress::Open, head, head_bytes, near_loss: [after_loss, false], noticed_ns }
    }

    fn is_over(&self) -> bool {
        self.progress != Progress::Open
    }

    fn is_exact(&self) -> bool {
        self.progress == Progress::Ended(Boundary::Framed)
    }

    fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    fn close(&mut self, end: u64, progress: Progress, noticed_ns: u64) {
        (self.end, self.progress, self.noticed_ns) = (self.end.max(end), progress, noticed_ns);
    }
}

/// One direction's messages that wait.
#[derive(Debug)]
struct Half<H> {
    /// Stream offset of the parser's first input.
    base: Option<u64>,
    messages: VecDeque<Message<H>>,
    /// Framing is lost, and no message was found since.
    lost: bool,
    /// End of the last message that left.
    done_end: u64,
    events: Vec<Event<H>>,
}

impl<H> Half<H> {
    fn new() -> Self {
        Self { base: None, messages: VecDeque::new(), lost: false, done_end: 0, events: Vec::new() }
    }

    /// Bytes before this offset are not asked about any more. While framing is lost, a head may be on its way that is
    /// known only when it is complete.
    fn needed_from(&self, next: u64) -> u64 {
        const HEAD_BYTES: u64 = 65_536;
        match self.messages.front() {
            Some(message) => message.start,
            None if self.lost => self.done_end.max(next.saturating_sub(HEAD_BYTES)),
            None => self.done_end,
        }
    }

    fn open(&mut self) -> Option<&mut Message<H>> {
        self.messages.back_mut().filter(|message| !message.is_over())
    }

    fn pop(&mut self) -> Option<Message<H>> {
        let message = self.messages.pop_front()?;
        self.done_end = self.done_end.max(message.end);
        Some(message)
    }

    fn clear(&mut self) {
        while self.pop().is_some() {}
    }

    /// Feeds what came, and answers the events with stream offsets.
    fn feed(&mut self, fed: &Fed, mut parse: impl FnMut(Input<'_>, &mut Vec<Event<H>>)) -> u64 {
        let events = &mut self.events;
        match fed {
            Fed::Hole { start, length } => {
                self.base.get_or_insert(*start);
                parse(Input::Gap(*length), events);
            }
            Fed::Piece(piece) => {
                self.base.get_or_insert(piece.start);
                let tail = piece.tail();
                for input in [Input::Bytes(piece.prefix()), Input::Gap(piece.gap()), Input::Bytes(tail)] {
                    if !matches!(input, Input::Bytes([]) | Input::Gap(0)) {
                        parse(input, events);
                    }
                }
            }
        }
        self.base.unwrap_or(0)
    }
}

/// Why events come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Bytes,
    End,
}

/// State of one connection.
#[derive(Debug)]
pub struct Http {
    requests: Requests,
    responses: Responses,
    asked: Half<RequestHead>,
    answered: Half<ResponseHead>,
    /// Which response answers which request is not known any more.
    broken: bool,
    /// Messages were given up: which response answers which request has to be found anew, by time.
    doubt: bool,
    /// This client was seen to send a request before the one before was answered.
    pipelines: bool,
    active_ns: u64,
    /// The connection went on with another protocol, once the exchanges that wait are finished.
    switched: bool,
    not_mine: bool,
}

impl Default for Http {
    /// At the first byte of a message.
    fn default() -> Self {
        Self {
            requests: Requests::default(),
            responses: Responses::default(),
            asked: Half::new(),
            answered: Half::new(),
            broken: false,
            doubt: false,
            pipelines: false,
            active_ns: 0,
            switched: false,
            not_mine: false,
        }
    }
}

impl Http {
    /// Whether the bytes are of another protocol from here on.
    pub fn is_over(&self) -> bool {
        self.not_mine || (self.switched && self.asked.messages.is_empty())
    }

    /// Whether the request that begins at `offset` waits for its response.
    pub fn has_request(&self, offset: u64) -> bool {
        self.asked.messages.iter().any(|message| message.start == offset)
    }

    /// The message in progress in one direction.
    pub fn open_range(&self, is_request: bool, next: u64) -> Range<u64> {
        fn range<H>(half: &Half<H>, next: u64) -> Range<u64> {
            half.messages.back().filter(|message| !message.is_over()).map_or(0..0, |message| message.start..next)
        }
        if is_request { range(&self.asked, next) } else { range(&self.answered, next) }
    }

    /// The next bytes of one direction.
    pub fn feed(&mut self, is_request: bool, fed: &Fed, connection: &mut Connection, context: &mut Context<'_>) {
        if self.switched || self.not_mine {
            return;
        }
        if self.broken && context.now_ns.saturating_sub(self.active_ns) >= context.config.idle_exchange_ns && is_request
        {
            self.broken = false;
        }
        self.active_ns = context.now_ns;
        if is_request {
            let parser = &mut self.requests;
            let base = self.asked.feed(fed, |input, events| parser.feed(input, events));
            self.request_events(base, fed, Cause::Bytes, connection, context);
        } else {
            let parser = &mut self.responses;
            let base = self.answered.feed(fed, |input, events| parser.feed(input, events));
            self.response_events(base, fed, Cause::Bytes, connection, context);
        }
    }

    /// One direction ended: in order, or because the connection is gone.
    pub fn end(&mut self, is_request: bool, orderly: bool, connection: &mut Connection, context: &mut Context<'_>) {
        let nothing = Fed::Hole { start: 0, length: 0 };
        let now_ns = context.now_ns;
        if !orderly {
            // What framing says at such an end (a body until close is complete) is not to be believed.
            let cut = |end: u64| (end, Progress::Lost, now_ns);
            if let Some(message) = self.asked.open().filter(|_| is_request) {
                let (end, progress, ns) = cut(message.end);
                message.close(end, progress, ns);
            }
            if let Some(message) = self.answered.open().filter(|_| !is_request) {
                let (end, progress, ns) = cut(message.end);
                message.close(end, progress, ns);
            }
        } else if is_request {
            self.requests.feed(Input::End, &mut self.asked.events);
            self.request_events(self.asked.base.unwrap_or(0), &nothing, Cause::End, connection, context);
        } else {
            self.responses.feed(Input::End, &mut self.answered.events);
            self.response_events(self.answered.base.unwrap_or(0), &nothing, Cause::End, connection, context);
        }
    }

    fn request_events(
        &mut self,
        base: u64,
        fed: &Fed,
        cause: Cause,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) {
        let mut events = std::mem::take(&mut self.asked.events);
        self.pipelines |= events.iter().filter(|event| matches!(event, Event::Head { .. })).count() > 1;
        for event in events.drain(..) {
            match event {
                Event::Head { start, end, head } => {
                    let after_loss = std::mem::take(&mut self.asked.lost);
                    if self.asked.messages.len() >= context.config.pending_exchanges_max {
                        self.give_up(Loss::ExchangeOverflow, connection, context);
                    }
                    self.responses.expect(&head.method);
                    if self.answered.lost || self.answered.open().is_some() {
                        self.responses.hint_message_start();
                    }
                    self.asked.messages.push_back(Message::begin(
                        base + start..base + end,
                        head.head_bytes,
                        head,
                        after_loss,
                        context.now_ns,
                    ));
                }
                Event::End { end, boundary } => {
                    if let Some(message) = self.asked.open() {
                        message.close(base + end, Progress::Ended(boundary), context.now_ns);
                    }
                }
                Event::Lost { at, reason } => self.request_lost(base + at, reason, fed, cause, context),
                Event::NotMine => self.not_mine = true,
                Event::Switched { .. } => {}
            }
        }
        self.asked.events = events;
    }

    fn request_lost(&mut self, at: u64, reason: Lost, fed: &Fed, cause: Cause, context: &mut Context<'_>) {
        self.asked.lost = true;
        if let Some(message) = self.asked.open() {
            message.close(at, Progress::Lost, context.now_ns);
        }
        if cause == Cause::Bytes {
            if let Some(message) = self.asked.messages.back_mut() {
                message.near_loss[1] = true;
            }
            self.broken |= self.pipelines;
            count_lost(reason, fed, context);
        }
    }

    fn response_events(
        &mut self,
        base: u64,
        fed: &Fed,
        cause: Cause,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) {
        let mut events = std::mem::take(&mut self.answered.events);
        for event in events.drain(..) {
            match event {
                Event::Head { start, end, head } => {
                    if self.answered.messages.len() >= context.config.pending_exchanges_max {
                        self.give_up(Loss::ExchangeOverflow, connection, context);
                    }
                    let after_loss = std::mem::take(&mut self.answered.lost);
                    self.answered.messages.push_back(Message::begin(
                        base + start..base + end,
                        head.head_bytes,
                        head,
                        after_loss,
                        context.now_ns,
                    ));
                }
                Event::End { end, boundary } => {
                    if let Some(message) = self.answered.open() {
                        message.close(base + end, Progress::Ended(boundary), context.now_ns);
                    }
                    if self.asked.lost && self.asked.messages.len() <= self.answered.messages.len() {
                        self.requests.hint_message_start();
                    }
                }
                Event::Switched { at } => {
                    if let Some(message) = self.answered.open() {
                        message.close(base + at, Progress::Ended(Boundary::Framed), context.now_ns);
                    }
                    self.requests.switch(self.requests.offset());
                    self.switched = true;
                }
                Event::Lost { at, reason } => self.response_lost(base + at, reason, fed, cause, context),
                Event::NotMine => self.not_mine = true,
            }
        }
        self.answered.events = events;
    }

    fn response_lost(&mut self, at: u64, reason: Lost, fed: &Fed, cause: Cause, context: &mut Context<'_>) {
        self.answered.lost = true;
        if let Some(message) = self.answered.open() {
            message.close(at, Progress::Lost, context.now_ns);
        }
        if cause == Cause::Bytes {
            self.broken |= self.pipelines;
            count_lost(reason, fed, context);
            // The parser forgot which requests wait; what comes next answers the last one.
            if let Some(message) =
                self.asked.messages.back().filter(|_| self.asked.messages.len() > self.answered.messages.len())
            {
                self.responses.expect(&message.head.method);
            }
        }
    }

    /// Forgets everything that waits. A client's request has a span nevertheless: the server's may name it as parent.
    fn give_up(&mut self, reason: Loss, connection: &mut Connection, context: &mut Context<'_>) {
        context.losses.add(reason, self.asked.messages.len() as u64);
        if connection.facts.role == Some(Role::Client) {
            while self.finish_cut(connection, Role::Client, context) {}
        }
        self.asked.clear();
        self.answered.clear();
        self.broken = true;
    }

    /// When something is due without further bytes.
    pub fn due_ns(&self, connection: &Connection, role: Role, hold_ns: u64) -> Option<u64> {
        let answer = self.answered.messages.front()?;
        let request = self.asked.messages.front();
        let waits = answer.is_over() && request.is_none_or(Message::is_over);
        waits.then(|| self.end_ns(connection, role, answer).saturating_add(hold_ns))
    }

    /// Finishes what is complete, or will not become so.
    pub fn advance(&mut self, connection: &mut Connection, ending: Option<(Ending, u64)>, context: &mut Context<'_>) {
        let Some(role) = connection.facts.role else { return };
        loop {
            if self.broken {
                self.give_up(Loss::PairingLost, connection, context);
                break;
            }
            if !self.advance_one(connection, role, ending, context) {
                break;
            }
        }
        let requests = connection.facts.request_direction().unwrap_or(Direction::Send);
        for (direction, half_from) in [
            (requests, self.asked.needed_from(connection.side(requests).stream.next())),
            (requests.other(), self.answered.needed_from(connection.side(requests.other()).stream.next())),
        ] {
            connection.trim(direction, half_from);
        }
    }

    /// Finishes the oldest exchange if that is due; answers whether to try the next.
    fn advance_one(
        &mut self,
        connection: &mut Connection,
        role: Role,
        ending: Option<(Ending, u64)>,
        context: &mut Context<'_>,
    ) -> bool {
        let due = |due_ns: Option<u64>| ending.is_some() || due_ns.is_some_and(|due_ns| due_ns <= context.now_ns);
        let due = due(self.due_ns(connection, role, context.config.exchange_hold_ns));
        match (self.asked.messages.front(), self.answered.messages.front()) {
            (None, None) => false,
            (None, Some(answer)) => {
                // Its request may still come: records of one connection are nearly, not wholly, in order.
                let drop = due && answer.is_over();
                if drop {
                    self.drop_answer(context);
                }
                drop
            }
            (Some(_), None) => ending.is_some_and(|ending| self.finish_unanswered(connection, role, ending, context)),
            (Some(request), Some(answer)) => {
                let over = answer.is_over() && request.is_over();
                if !over && ending.is_none() {
                    return false;
                }
                let times = Times::of(connection, role, request, answer, self.asked.messages.get(1));
                if times.answer_came_before() {
                    self.drop_answer(context);
                    return true;
                }
                let checked = self.doubt || request.near_loss[0] || answer.near_loss[0];
                if checked && times.next_asked_before_answer().is_some() {
                    self.finish_hidden(connection, role, context);
                    return true;
                }
                if checked && (request.near_loss[1] || !times.all_is_known(context)) {
                    self.finish_hidden(connection, role, context);
                    self.drop_answer(context);
                    return true;
                }
                self.pipelines |= !checked && times.next_asked_before_answer().is_some();
                self.doubt = false;
                self.finish_answered(connection, role, ending, context);
                true
            }
        }
    }

    /// The oldest response answers a request that was not seen.
    fn drop_answer(&mut self, context: &mut Context<'_>) {
        self.answered.pop();
        context.losses.add(Loss::MessageLost, 1);
        self.doubt = true;
        self.broken |= self.pipelines;
    }

    /// When this end saw the response's end.
    fn end_ns(&self, connection: &Connection, role: Role, answer: &Message<ResponseHead>) -> u64 {
        let (_, response_side) = connection.timings(role);
        response_side.calls.holding(answer.end.saturating_sub(1)).map_or(answer.noticed_ns, |call| call.return_ns)
    }
}

/// When the oldest request, the one after it and the oldest response began, as far as that is known.
struct Times {
    asked_ns: Option<u64>,
    answered_ns: Option<u64>,
    next_ns: Option<u64>,
    /// When the records of the oldest request and response were made.
    told_ns: Option<(u64, u64)>,
}

impl Times {
    /// A client asks before it enters the write, and has an answer when the read returns; a server the other way round.
    fn of(
        connection: &Connection,
        role: Role,
        request: &Message<RequestHead>,
        answer: &Message<ResponseHead>,
        next: Option<&Message<RequestHead>>,
    ) -> Self {
        let (request_side, response_side) = connection.timings(role);
        let asked = |start: u64| {
            request_side.calls.holding(start).map(|call| match role {
                Role::Client => call.enter_ns,
                Role::Server => call.return_ns,
            })
        };
        let answered = response_side.calls.holding(answer.start);
        let told_ns = request_side.calls.holding(request.start).zip(answered);
        let answered_ns = answered.map(|call| match role {
            Role::Client => call.return_ns,
            Role::Server if call.enter_ns == 0 => call.return_ns,
            Role::Server => call.enter_ns,
        });
        Self {
            asked_ns: asked(request.start),
            answered_ns,
            next_ns: next.and_then(|next| asked(next.start)),
            told_ns: told_ns.map(|(asked, answered)| (asked.return_ns, answered.return_ns)),
        }
    }

    fn answer_came_before(&self) -> bool {
        self.answered_ns.zip(self.asked_ns).is_some_and(|(answered_ns, asked_ns)| answered_ns < asked_ns)
    }

    /// Whether every record between the request and the response arrived.
    fn all_is_known(&self, context: &Context<'_>) -> bool {
        // What was lost before the request's own record is no request after it.
        let lost = |(from_ns, to_ns): (u64, u64)| context.numbering.lost_within(from_ns.saturating_add(1), to_ns);
        self.told_ns.map(lost) == Some(0)
    }

    /// When the request after the oldest began, if that was before the response did.
    fn next_asked_before_answer(&self) -> Option<u64> {
        self.next_ns.filter(|next_ns| self.answered_ns.is_some_and(|answered_ns| *next_ns < answered_ns))
    }
}

fn count_lost(reason: Lost, fed: &Fed, context: &mut Context<'_>) {
    match (reason, fed) {
        // A hole is counted where it is found.
        (Lost::Gap, Fed::Hole { .. }) => {}
        (Lost::Gap, Fed::Piece(_)) => context.losses.add(Loss::PayloadTruncated, 1),
        (Lost::Malformed, _) => context.losses.add(Loss::HttpMalformed, 1),
        (Lost::TooLarge, _) => context.losses.add(Loss::HttpTooLarge, 1),
    }
}
