//! DNS over TCP: the same questions, on a connection.
//!
//! In: the bytes of both directions in order. Out: an exchange per question, settled like any other of the connection,
//! and what was resolved. Called by [`crate::flow`]. Limits: questions that wait on one connection; beyond them the oldest
//! has no answer, and is counted.

use std::{collections::VecDeque, ops::Range};

use agent_protocol::{
    dns::{Frame, Frames, Message},
    input::Input,
};

use super::{
    dns::{Asked, attributes, error_type, name, status},
    resolved::Answered,
};
use crate::{
    exchange::{
        Context, ending,
        semconv::{self, Attributes, int, text, word},
        settle::{self, Paired},
    },
    flow::{
        connection::{Connection, Ending, Role},
        stream::Fed,
    },
    loss::Loss,
    span::{Protocol, Status},
};

/// State of one connection.
#[derive(Debug, Default)]
pub struct DnsStream {
    /// Questions, and answers.
    lanes: [Lane; 2],
    /// Questions without an answer so far, and where they are.
    waiting: VecDeque<(Asked, Range<u64>)>,
}

/// One direction.
#[derive(Debug, Default)]
struct Lane {
    frames: Frames,
    /// Offset in the stream of the parser's first byte.
    base: Option<u64>,
    /// End of the last message.
    end: u64,
}

impl DnsStream {
    /// The next bytes of a direction, or their absence.
    pub fn feed(&mut self, is_request: bool, fed: &Fed, connection: &mut Connection, context: &mut Context<'_>) {
        let lane = &mut self.lanes[usize::from(!is_request)];
        let base = *lane.base.get_or_insert(match fed {
            Fed::Piece(piece) => piece.start,
            Fed::Hole { start, .. } => *start,
        });
        let frames = frames(&mut lane.frames, fed);
        if lane.frames.is_lost() {
            context.losses.add(Loss::MessageLost, self.waiting.len() as u64);
            self.waiting.clear();
        }
        for frame in frames {
            let range = base.saturating_add(frame.start)..base.saturating_add(frame.end());
            self.lanes[usize::from(!is_request)].end = range.end;
            match Message::parse(&frame.captured, usize::from(frame.length)) {
                Ok(query) if is_request && !query.response => self.asked(Asked::of(query), range, context),
                Ok(answer) if !is_request && answer.response => self.answered(&answer, range, connection, context),
                // Zone transfers and the like: what is not understood is no exchange.
                _ => {}
            }
        }
        self.trim(connection);
    }

    /// Ends what waits, if the connection ended.
    pub fn advance(&mut self, connection: &mut Connection, ending: Option<(Ending, u64)>, context: &mut Context<'_>) {
        let (Some((ending, ns)), Some(role)) = (ending, connection.facts.role) else { return };
        let error = ending::error_type(ending, role, true);
        for (asked, request) in std::mem::take(&mut self.waiting) {
            let mut attributes = attributes(&asked, None);
            attributes.extend(error.map(|error| ("error.type", word(error))));
            let status = if error.is_some() { Status::Error } else { Status::Unknown };
            let ended_by = error.map(|_| ending);
            let outcome = Outcome { response: None, cut_ns: Some(ns), status, ended_by, attributes };
            pair(connection, &asked, request, outcome, context);
        }
    }

    /// Whether the question that begins at `offset` waits for its answer.
    pub fn has_request(&self, offset: u64) -> bool {
        self.waiting.iter().any(|(_, range)| range.start == offset)
    }

    fn asked(&mut self, asked: Asked, range: Range<u64>, context: &mut Context<'_>) {
        if self.waiting.len() >= context.config.pending_exchanges_max.max(1) {
            self.waiting.pop_front();
            context.losses.add(Loss::ExchangeOverflow, 1);
        }
        self.waiting.push_back((asked, range));
    }

    fn answered(
        &mut self,
        answer: &Message,
        range: Range<u64>,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) {
        let Some(place) = self.waiting.iter().position(|(asked, _)| asked.is_answered_by(answer)) else { return };
        let Some((asked, request)) = self.waiting.remove(place) else { return };
        if connection.facts.role == Some(Role::Client) {
            context.answers.extend(resolved(connection, answer, &request, &range));
        }
        let role = connection.facts.role.unwrap_or(Role::Client);
        let status = status(answer.rcode, role);
        let mut attributes = attributes(&asked, Some(answer));
        if status == Status::Error {
            attributes.extend(error_type(answer.rcode).map(|error| ("error.type", text(error))));
        }
        attributes.push(("spantap.response.bytes", int(range.end - range.start)));
        pair(
            connection,
            &asked,
            request,
            Outcome { response: Some(range), cut_ns: None, status, ended_by: None, attributes },
            context,
        );
    }

    /// Forgets the timings of what is over.
    fn trim(&self, connection: &mut Connection) {
        let Some(requests) = connection.facts.request_direction() else { return };
        let request_from = self.waiting.iter().map(|(_, range)| range.start).min().unwrap_or(self.lanes[0].end);
        connection.trim(requests, request_from);
        connection.trim(requests.other(), self.lanes[1].end);
    }
}

struct Outcome {
    response: Option<Range<u64>>,
    cut_ns: Option<u64>,
    status: Status,
    /// How the connection ended it, if that is the error.
    ended_by: Option<Ending>,
    attributes: Attributes,
}

fn pair(connection: &mut Connection, asked: &Asked, request: Range<u64>, outcome: Outcome, context: &mut Context<'_>) {
    let Some(role) = connection.facts.role else { return };
    let Outcome { response, cut_ns, status, ended_by, mut attributes } = outcome;
    attributes.push(("spantap.request.bytes", int(request.end - request.start)));
    semconv::server(&mut attributes, connection, role, None);
    semconv::connection(&mut attributes, connection, role);
    let (request_side, _) = connection.timings(role);
    let pid = request_side.calls.holding(request.start).map_or(0, |call| call.pid);
    let paired = Paired {
        role,
        kind: role.span_kind(),
        protocol: Protocol::Dns,
        name: name(asked).into(),
        status,
        ended_by,
        attributes,
        trace_context: None,
        request,
        response,
        cut_ns,
        exact: true,
        pid: if pid != 0 { pid } else { connection.facts.pid },
    };
    settle::pair(connection, paired, context);
}

/// The lookup, from the connection's opening if that was for it.
fn resolved(
    connection: &Connection,
    answer: &Message,
    request: &Range<u64>,
    response: &Range<u64>,
) -> Option<Answered> {
    let write = connection.send.timings.first_write(request.clone())?;
    let read = connection.receive.timings.calls.holding(response.end.checked_sub(1)?)?;
    let before = connection.before(&write);
    let start_ns = before.connect.map_or(write.enter_ns, |connect| connect.start_ns);
    Some(Answered {
        pid: connection.facts.pid,
        tid: if write.tid == read.tid { read.tid } else { 0 },
        name: answer.question.name.clone(),
        start_ns,
        end_ns: read.return_ns,
        addresses: answer.addresses.clone(),
        queries: 1,
        retries: 0,
        over_tcp: Some(answer.question.clone()),
    })
}

fn frames(frames: &mut Frames, fed: &Fed) -> Vec<Frame> {
    match fed {
        Fed::Piece(piece) => {
            let mut told = frames.feed(Input::Bytes(piece.prefix()));
            told.extend(frames.feed(Input::Gap(piece.gap())));
            told.extend(frames.feed(Input::Bytes(piece.tail())));
            told
        }
        Fed::Hole { length, .. } => frames.feed(Input::Gap(*length)),
    }
}
