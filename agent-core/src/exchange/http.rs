//! HTTP/1: the k-th response on a connection answers the k-th request.
//!
//! In: the bytes of both directions, each in order; which direction comes first does not matter. Out: a `Draft` per
//! exchange. Called by [`crate::flow`].
//!
//! After a loss (a hole, or a head beyond the captured prefix) it is not known how many messages were hidden. Then time
//! decides: without pipelining, a response answers the last request before it, and that is sure if no record was lost
//! between the two. What is not sure is not paired. If this client pipelines, the exchanges in doubt are given up and
//! counted, until the connection was silent for as long as ends an exchange.

mod events;
mod finish;
mod pairing;
mod refine;

use std::{collections::VecDeque, ops::Range};

use agent_protocol::{
    content::Content,
    http1::{RequestHead, Requests, ResponseHead, Responses},
    input::{Boundary, Event, Input},
    session::Part,
};

use super::{Context, semconv};
use crate::{
    flow::{
        connection::{Connection, Role},
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
    /// What was found in its body.
    content: Option<Box<Content>>,
    /// Messages before, or behind, may have been hidden.
    near_loss: [bool; 2],
    /// When the end was noticed.
    noticed_ns: u64,
}

impl<H> Message<H> {
    /// A message whose head is complete.
    fn begin(range: Range<u64>, head_bytes: u64, head: H, after_loss: bool, noticed_ns: u64) -> Self {
        let Range { start, end } = range;
        let (progress, near_loss) = (Progress::Open, [after_loss, false]);
        Self { start, end, progress, head, head_bytes, content: None, near_loss, noticed_ns }
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

    /// A message whose head is complete.
    fn begin(&mut self, range: Range<u64>, head_bytes: u64, head: H, noticed_ns: u64) {
        let after_loss = std::mem::take(&mut self.lost);
        self.messages.push_back(Message::begin(range, head_bytes, head, after_loss, noticed_ns));
    }

    fn open(&mut self) -> Option<&mut Message<H>> {
        self.messages.back_mut().filter(|message| !message.is_over())
    }

    /// What was found in the body of the message in progress.
    fn found(&mut self, content: Box<Content>) {
        if let Some(message) = self.open() {
            message.content = Some(content);
        }
    }

    /// Ends the message in progress, if there is one.
    fn close_open(&mut self, end: u64, progress: Progress, noticed_ns: u64) {
        if let Some(message) = self.open() {
            message.close(end, progress, noticed_ns);
        }
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
    /// When the last answer that left was written or read, if that is known.
    answered_ns: u64,
    active_ns: u64,
    /// The connection went on with another protocol, once the exchanges that wait are finished.
    switched: bool,
    /// That is HTTP/2, which begins at this offset of the responses, and whose first request is this one.
    upgraded: Option<(Message<RequestHead>, u64)>,
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
            answered_ns: 0,
            pipelines: false,
            active_ns: 0,
            switched: false,
            upgraded: None,
            not_mine: false,
        }
    }
}

impl Http {
    /// Whether the bytes are of another protocol from here on.
    pub fn is_over(&self) -> bool {
        self.not_mine || (self.switched && self.asked.messages.is_empty())
    }

    /// Whether HTTP/2 begins here by agreement: what it is to answer, and where its server's bytes begin.
    pub fn take_upgrade(&mut self) -> Option<(Part, u64)> {
        let (request, at) = self.upgraded.take()?;
        Some((semconv::upgraded(&request.head, request.range()), at))
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
        if !orderly {
            // What framing says at such an end (a body until close is complete) is not to be believed.
            // Where it is cut: at what was seen of it, which `close` keeps.
            if is_request {
                self.asked.close_open(0, Progress::Lost, context.now_ns);
            } else {
                self.cut_off_answer(connection, context);
            }
        } else if is_request {
            self.requests.feed(Input::End, &mut self.asked.events);
            self.request_events(self.asked.base.unwrap_or(0), &nothing, Cause::End, connection, context);
        } else {
            self.responses.feed(Input::End, &mut self.answered.events);
            self.response_events(self.answered.base.unwrap_or(0), &nothing, Cause::End, connection, context);
        }
    }

    /// Nothing more of the answer in progress will be seen. One that says itself that it has said all is complete: clients close when they
    /// have read `[DONE]`, and not the end of the body.
    fn cut_off_answer(&mut self, connection: &Connection, context: &mut Context<'_>) {
        let content = self.responses.take_content();
        let said_all = matches!(&content, Some(Content::Answered(answered)) if answered.said_last);
        if let Some(content) = content {
            self.answered.found(Box::new(content));
        }
        if said_all {
            let end = connection.answers().stream.next();
            self.answered.close_open(end, Progress::Ended(Boundary::Inferred), context.now_ns);
        } else {
            self.answered.close_open(0, Progress::Lost, context.now_ns);
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
}
