//! From a pair of messages to a [`Draft`].

use agent_protocol::http1::{RequestHead, ResponseHead};

use super::{Http, Message, Progress, refine};
use crate::{
    exchange::{
        Context,
        ending::{self, ABANDONED, CLIENT_GONE, CLOSED, last_seen_ns},
        semconv::{self, Attributes, int, text},
        settle::{self, Paired},
    },
    flow::connection::{Connection, Ending, Role},
    loss::Loss,
    span::{Protocol, Status, Value},
};

/// How an exchange turned out.
struct Outcome {
    status: Status,
    error_type: Option<String>,
    /// How it ended was not seen: nothing after the request's last byte is known to be part of it.
    cut: bool,
    /// How the connection ended it, if that is the error, or would be one if more had been wanted.
    ended_by: Option<Ending>,
}

impl Outcome {
    const UNKNOWN: Self = Self { status: Status::Unknown, error_type: None, cut: false, ended_by: None };
    const CUT: Self = Self { cut: true, ..Self::UNKNOWN };

    fn error(error_type: impl Into<String>) -> Self {
        Self { status: Status::Error, error_type: Some(error_type.into()), ..Self::UNKNOWN }
    }

    fn ended(error_type: &str, ended_by: Option<Ending>) -> Self {
        Self { ended_by, ..Self::error(error_type) }
    }

    /// Semantic conventions: 4xx is an error to who asked, not to who answered.
    fn of_status(code: u16, role: Role) -> Self {
        let least = if role == Role::Client { 400 } else { 500 };
        if code >= least { Self::error(code.to_string()) } else { Self { status: Status::Ok, ..Self::UNKNOWN } }
    }

    /// What the body says outweighs what HTTP says, if how the exchange ended was seen.
    fn refine(&mut self, error_type: String) {
        if self.status != Status::Unknown {
            (self.status, self.error_type) = (Status::Error, Some(error_type));
        }
    }
}

impl Http {
    /// The oldest request has a response, whole or as far as it will come.
    pub(super) fn finish_answered(
        &mut self,
        connection: &mut Connection,
        role: Role,
        ending: Option<(Ending, u64)>,
        context: &mut Context<'_>,
    ) {
        let (Some(request), Some(answer)) = (self.asked.pop(), self.answered.pop()) else { return };
        let whole = matches!(answer.progress, Progress::Ended(_));
        let ending = ending.or_else(|| ending::ended_sending(connection, role));
        let answered = connection.answers().timings.calls.holding(answer.end.saturating_sub(1));
        self.answered_ns = answered.map_or(self.answered_ns, |call| call.return_ns);
        let said = Outcome::of_status(answer.head.status, role);
        let seen = |_: &(Ending, u64)| {
            !ending::hides_answers(connection) && !lost_since(connection, role, &request, ending, context)
        };
        let ended_by = ending.filter(|_| !whole).filter(seen).map(|(ending, _)| ending);
        // RFC 9112, 8: an answer that ends before its length, or its last chunk, is incomplete.
        let is_short = ended_by.is_some_and(|ending| ending::is_left(ending, role)) && !answer.head.until_close;
        let error = ended_by.and_then(|ending| ending::error_type(ending, role, true));
        let outcome = match error.or(is_short.then_some(CLOSED)) {
            _ if whole => said,
            // Of an error that was told, whether all of its page came is no matter.
            Some(ABANDONED | CLOSED) if said.status == Status::Error => said,
            // Of a stream it may have had all that it wanted: nobody says when that is.
            Some(ABANDONED | CLIENT_GONE) if answer.head.content_length.is_none() => {
                Outcome { ended_by, ..Outcome::UNKNOWN }
            }
            Some(error) => Outcome::ended(error, ended_by),
            None => Outcome::UNKNOWN,
        };
        let cut_ns = if whole { None } else { Some(ending.map_or(answer.noticed_ns, |(_, ns)| ns)) };
        self.draft(connection, role, &request, Some(&answer), cut_ns, outcome, context);
    }

    /// The oldest request's response was lost; when it came is not known.
    pub(super) fn finish_hidden(&mut self, connection: &mut Connection, role: Role, context: &mut Context<'_>) {
        self.doubt = true;
        context.losses.add(Loss::MessageLost, 1);
        self.finish_cut(connection, role, context);
    }

    /// The oldest request has a span up to its own last byte; answers whether there was one.
    pub(super) fn finish_cut(&mut self, connection: &mut Connection, role: Role, context: &mut Context<'_>) -> bool {
        let Some(request) = self.asked.pop() else { return false };
        let cut_ns = last_seen_ns(connection, role, request.range());
        self.draft(connection, role, &request, None, Some(cut_ns), Outcome::CUT, context);
        true
    }

    /// The oldest request will have no response.
    pub(super) fn finish_unanswered(
        &mut self,
        connection: &mut Connection,
        role: Role,
        (ending, ns): (Ending, u64),
        context: &mut Context<'_>,
    ) -> bool {
        let Some(request) = self.asked.messages.front() else { return false };
        let answers = connection.answers();
        if ending::hides_answers(connection) || lost_since(connection, role, request, Some((ending, ns)), context) {
            // Its answer may be among what was lost, and then it did not last until now.
            context.losses.add(Loss::MessageLost, 1);
            return self.finish_cut(connection, role, context);
        }
        let silent = answers.stream.next() <= self.answered.done_end.max(self.answered.base.unwrap_or(0));
        // RFC 9112, 9.6: what was sent behind a request that was answered may be left without an answer, and is sent again.
        let read = connection.timings(role).0.calls.holding(request.start);
        let is_pipelined = read.is_some_and(|read| read.return_ns <= self.answered_ns);
        let is_owed = matches!(request.progress, Progress::Ended(_)) && !is_pipelined && !answers.stream.is_unseen();
        let Some(request) = self.asked.pop() else { return false };
        let error = ending::error_type(ending, role, !silent);
        // That it closed says something although nobody may be to blame.
        let left = ending::is_own_leave(ending, role);
        let outcome = match error.filter(|_| is_owed || !left) {
            Some(error) => Outcome::ended(error, Some(ending)),
            None => Outcome { ended_by: left.then_some(ending), ..Outcome::UNKNOWN },
        };
        self.draft(connection, role, &request, None, Some(ns), outcome, context);
        true
    }

    #[allow(clippy::too_many_arguments)]
    fn draft(
        &mut self,
        connection: &mut Connection,
        role: Role,
        request: &Message<RequestHead>,
        answer: Option<&Message<ResponseHead>>,
        cut_ns: Option<u64>,
        outcome: Outcome,
        context: &mut Context<'_>,
    ) {
        let head = &request.head;
        let mut outcome = outcome;
        let refined = refine::refine(request, answer);
        let is_whole = answer.is_some_and(|answer| matches!(answer.progress, Progress::Ended(_)));
        if let Some(said) = refined.outcome.filter(|_| is_whole || outcome.status != Status::Error) {
            outcome.refine(said);
        }
        let mut attributes = Vec::with_capacity(semconv::ATTRIBUTES);
        tell(&mut attributes, connection, role, request, answer, &outcome);
        attributes.extend(refined.attributes);
        let first_call = connection.timings(role).0.calls.holding(request.start);
        if let Some(call) = first_call.filter(|call| call.tid != 0) {
            attributes.push(("thread.id", Value::Int(i64::from(call.tid))));
        }
        let paired = Paired {
            role,
            kind: role.span_kind(),
            protocol: Protocol::Http1,
            name: refined.name.unwrap_or(semconv::http_name(head).into()),
            status: outcome.status,
            ended_by: outcome.ended_by,
            attributes,
            trace_context: head.trace,
            request: request.range(),
            response: answer.map(Message::range),
            cut_ns,
            exact: !outcome.cut && request.is_exact() && answer.is_none_or(Message::is_exact),
            pid: first_call.map(|call| call.pid).filter(|pid| *pid != 0).unwrap_or(connection.facts.pid),
        };
        settle::pair(connection, paired, context);
    }
}

/// Whether records were lost between the request and the connection's end.
fn lost_since(
    connection: &Connection,
    role: Role,
    request: &Message<RequestHead>,
    ending: Option<(Ending, u64)>,
    context: &Context<'_>,
) -> bool {
    let told = (request.start, request.noticed_ns);
    ending.is_some_and(|(_, ns)| ending::lost_since(connection, role, told, ns, context))
}

fn tell(
    attributes: &mut Attributes,
    connection: &mut Connection,
    role: Role,
    request: &Message<RequestHead>,
    answer: Option<&Message<ResponseHead>>,
    outcome: &Outcome,
) {
    let head = &request.head;
    semconv::request(attributes, head);
    if let Some(size) = body_bytes(request) {
        attributes.push(("http.request.body.size", int(size)));
    }
    if let Some(answer) = answer {
        semconv::response(attributes, &answer.head);
        if let Some(size) = body_bytes(answer) {
            attributes.push(("http.response.body.size", int(size)));
        }
    }
    if let Some(error_type) = &outcome.error_type {
        attributes.push(("error.type", text(error_type.as_str())));
    }
    semconv::server(attributes, connection, role, head.host.as_ref());
    semconv::connection(attributes, connection, role);
}

/// Bytes between the head's end and the message's, if both were seen. With chunks, that is what was sent, framing
/// included, and not the body's size.
fn body_bytes<H: Framed>(message: &Message<H>) -> Option<u64> {
    let body = (message.end - message.start).saturating_sub(message.head_bytes);
    (message.is_exact() && !message.head.is_chunked()).then_some(body)
}

trait Framed {
    fn is_chunked(&self) -> bool;
}

impl Framed for RequestHead {
    fn is_chunked(&self) -> bool {
        self.chunked
    }
}

impl Framed for ResponseHead {
    fn is_chunked(&self) -> bool {
        self.chunked
    }
}
