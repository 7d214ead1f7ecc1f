//! What the parsers found in the bytes: messages begin, end, and get lost.

use agent_protocol::{
    content::{Asked, Content},
    input::{Boundary, Event, Lost},
};

use super::{Cause, Http, Progress};
use crate::{
    exchange::Context,
    flow::{connection::Connection, stream::Fed},
    loss::Loss,
};

impl Http {
    pub(super) fn request_events(
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
                    if self.asked.messages.len() >= context.config.pending_exchanges_max {
                        self.give_up(Loss::ExchangeOverflow, connection, context);
                    }
                    self.responses.expect(&head.method);
                    if self.answered.lost || self.answered.open().is_some() {
                        self.responses.hint_message_start();
                    }
                    self.asked.begin(base + start..base + end, head.head_bytes, head, context.now_ns);
                }
                Event::Content(content) => {
                    self.responses.expect_content();
                    if matches!(*content, Content::Asked(Asked::GenAi { .. })) {
                        // What matters of its answer is at the answer's end.
                        connection.want_whole(context);
                    }
                    self.asked.found(content);
                }
                Event::End { end, boundary } => {
                    self.asked.close_open(base + end, Progress::Ended(boundary), context.now_ns);
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
        self.asked.close_open(at, Progress::Lost, context.now_ns);
        if cause == Cause::Bytes {
            if let Some(message) = self.asked.messages.back_mut() {
                message.near_loss[1] = true;
            }
            self.broken |= self.pipelines;
            count_lost(reason, fed, context);
        }
    }

    pub(super) fn response_events(
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
                    self.answered.begin(base + start..base + end, head.head_bytes, head, context.now_ns);
                }
                Event::Content(content) => self.answered.found(content),
                Event::End { end, boundary } => {
                    self.answered.close_open(base + end, Progress::Ended(boundary), context.now_ns);
                    if self.asked.lost && self.asked.messages.len() <= self.answered.messages.len() {
                        self.requests.hint_message_start();
                    }
                }
                Event::Switched { at } => {
                    self.answered.close_open(base + at, Progress::Ended(Boundary::Framed), context.now_ns);
                    self.requests.switch(self.requests.offset());
                    self.switched = true;
                    self.upgrade(base + at);
                }
                Event::Lost { at, reason } => self.response_lost(base + at, reason, fed, cause, context),
                Event::NotMine => self.not_mine = true,
            }
        }
        self.answered.events = events;
    }

    /// If the last answer is to the last request, and goes on as HTTP/2: the request is answered there.
    fn upgrade(&mut self, at: u64) {
        let agreed = self.answered.messages.back().is_some_and(|answer| answer.head.upgrade_http2);
        if agreed && self.asked.messages.len() == self.answered.messages.len() && !self.broken && !self.doubt {
            self.answered.messages.pop_back();
            self.upgraded = self.asked.messages.pop_back().map(|request| (request, at));
        }
    }

    fn response_lost(&mut self, at: u64, reason: Lost, fed: &Fed, cause: Cause, context: &mut Context<'_>) {
        self.answered.lost = true;
        self.answered.close_open(at, Progress::Lost, context.now_ns);
        if cause == Cause::Bytes {
            self.broken |= self.pipelines;
            count_lost(reason, fed, context);
            // The parser forgot which requests wait; what comes next answers the last one.
            if let Some(message) =
                self.asked.messages.back().filter(|_| self.asked.messages.len() > self.answered.messages.len())
            {
                self.responses.expect(&message.head.method);
                if message.content.is_some() {
                    self.responses.expect_content();
                }
            }
        }
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
