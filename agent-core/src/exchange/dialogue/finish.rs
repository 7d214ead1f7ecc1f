//! From an exchange to its span's facts.

use std::borrow::Cow;

use agent_protocol::session::{Facts, Kind, Outcome, Part, Protocol, Side, Text, Value};

use super::{Dialogue, waiting::Exchange};
use crate::{
    exchange::{
        Context,
        ending::{self, is_given_up, last_seen_ns},
        semconv::{self, Attributes},
        settle::{self, Paired},
    },
    flow::connection::{Connection, Ending, Role},
    loss::Loss,
    span::{SpanKind, Status},
};

/// How an exchange turned out, for this end.
struct Result {
    status: Status,
    error_type: Option<Cow<'static, str>>,
    /// When it ended, if not with its answer's last byte.
    cut_ns: Option<u64>,
    /// Whether how it ended was not seen.
    unseen: bool,
    /// How the connection ended it, if that is the error.
    ended_by: Option<Ending>,
}

impl Result {
    fn unknown(cut_ns: u64) -> Self {
        Self { status: Status::Unknown, error_type: None, cut_ns: Some(cut_ns), unseen: false, ended_by: None }
    }

    fn error(error_type: impl Into<Cow<'static, str>>, cut_ns: Option<u64>) -> Self {
        Self { status: Status::Error, error_type: Some(error_type.into()), cut_ns, unseen: false, ended_by: None }
    }

    /// As the answer says.
    fn of(outcome: Option<Outcome>, role: Role) -> Self {
        let ok = || Self { status: Status::Ok, error_type: None, cut_ns: None, unseen: false, ended_by: None };
        match outcome {
            None => Self { status: Status::Unknown, ..ok() },
            Some(Outcome::Ok) => ok(),
            Some(Outcome::ClientError(_)) if role == Role::Server => ok(),
            Some(Outcome::Error(error_type) | Outcome::ClientError(error_type)) => Self::error(error_type, None),
        }
    }
}

impl Dialogue {
    /// It has its answer.
    pub(super) fn finish_answered(
        &self,
        mut exchange: Exchange,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) {
        let Some(role) = connection.facts.role else { return };
        let result = Result::of(exchange.facts.outcome.take(), role);
        self.draft(exchange, role, result, connection, context);
    }

    /// One end gave it up.
    pub(super) fn finish_cancelled(
        &self,
        exchange: Exchange,
        (by, end): (Side, u64),
        error_type: Option<Cow<'static, str>>,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) {
        let Some(role) = connection.facts.role else { return };
        let (requests, responses) = connection.timings(role);
        let side = if by == Side::Client { requests } else { responses };
        let said_ns = side.calls.holding(end.saturating_sub(1)).map_or(context.now_ns, |call| call.return_ns);
        let result = match (error_type, exchange.facts.outcome.clone()) {
            (Some(error_type), _) => Result::error(error_type, Some(said_ns)),
            // The answer had said how it turned out; what was still to come is not wanted.
            (None, Some(outcome)) => Result { cut_ns: Some(said_ns), ..Result::of(Some(outcome), role) },
            (None, None) => Result::unknown(said_ns),
        };
        self.draft(exchange, role, result, connection, context);
    }

    /// How it ended was not seen: it has a span up to its own last byte.
    pub(super) fn finish_cut(&self, exchange: Exchange, connection: &mut Connection, context: &mut Context<'_>) {
        let Some(role) = connection.facts.role else { return };
        let result =
            Result { unseen: true, ..Result::unknown(last_seen_ns(connection, role, exchange.request.clone())) };
        self.draft(exchange, role, result, connection, context);
    }

    /// The connection ended before the answer did.
    pub(super) fn finish_unanswered(
        &self,
        mut exchange: Exchange,
        (ending, ns): (Ending, u64),
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) {
        let Some(role) = connection.facts.role else { return };
        if exchange.request_last && exchange.response_last {
            return self.finish_answered(exchange, connection, context);
        }
        let told = (exchange.request.start, exchange.noticed_ns);
        let hidden = exchange.hidden || ending::hides_answers(connection);
        if hidden || ending::lost_since(connection, role, told, ns, context) {
            // Its answer may be among what was lost, and then it did not last until now.
            context.losses.add(Loss::MessageLost, 1);
            return self.finish_cut(exchange, connection, context);
        }
        exchange.exact &= exchange.request_last || ending != Ending::LocalClosed;
        let begun = exchange.response.is_some();
        let error = ending::error_type(ending, role, begun);
        let on_purpose = error.is_some_and(is_given_up) || ending == Ending::LocalClosed;
        let error = error.filter(|_| !on_purpose || self.asks_for_all(&exchange, begun));
        let is_owed = exchange.request_last && !connection.answers().stream.is_unseen();
        let error = error.filter(|_| is_owed || !ending::is_own_leave(ending, role));
        let result = match error {
            Some(error) => Result { ended_by: Some(ending), ..Result::error(error, Some(ns)) },
            None => Result { ended_by: on_purpose.then_some(ending), ..Result::unknown(ns) },
        };
        self.draft(exchange, role, result, connection, context);
    }

    /// Whether who asked lacks something if it goes before the whole answer is there. Not who waits for messages, had a stream begin, of which nobody
    /// says when it has what it wanted, or only takes leave.
    fn asks_for_all(&self, exchange: &Exchange, begun: bool) -> bool {
        let protocol = exchange.facts.protocol.unwrap_or(self.protocol);
        let streams = begun && matches!(protocol, Protocol::Http2 | Protocol::Grpc);
        exchange.facts.kind != Kind::Consume && !streams && !exchange.facts.may_go_early
    }

    /// A request or a message that nobody answers: whoever sent it is its client.
    pub(super) fn finish_one_way(&self, part: Part, connection: &mut Connection, context: &mut Context<'_>) {
        let Some(end) = connection.facts.role else { return };
        let sent = (end == Role::Client) == (part.from == Side::Client);
        let role = if sent { Role::Client } else { Role::Server };
        let is_request = is_request(&part);
        let mut exchange = Exchange::new(part, context.now_ns);
        // It tells of an error (a server that says why it will not go on), or it was just sent.
        let outcome = exchange.facts.outcome.take().unwrap_or(Outcome::Ok);
        let cut_ns = Some(last_seen_ns(connection, role, exchange.request.clone()));
        let result = Result { cut_ns, ..Result::of(Some(outcome), end) };
        let kind = if is_request { role.span_kind() } else { message_kind(sent, end) };
        self.draft_as(exchange, role, kind, result, connection, context);
    }

    fn draft(
        &self,
        exchange: Exchange,
        role: Role,
        result: Result,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) {
        let kind = match (role, exchange.facts.kind) {
            (Role::Server, _) => SpanKind::Server,
            (Role::Client, Kind::Request) => SpanKind::Client,
            (Role::Client, Kind::Produce) => SpanKind::Producer,
            (Role::Client, Kind::Consume) => SpanKind::Consumer,
        };
        self.draft_as(exchange, role, kind, result, connection, context);
    }

    fn draft_as(
        &self,
        exchange: Exchange,
        role: Role,
        kind: SpanKind,
        result: Result,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) {
        let Exchange { request, response, facts, exact, .. } = exchange;
        let Facts { name, protocol, attributes, trace, host, .. } = facts;
        let protocol = protocol.unwrap_or(self.protocol);
        let mut attributes = self::attributes(attributes, connection, role, host.as_ref(), &result);
        let (request_side, _) = connection.timings(role);
        let first_call = request_side.calls.holding(request.start);
        if let Some(call) = first_call.filter(|call| call.tid != 0) {
            attributes.push(("thread.id", Value::Int(i64::from(call.tid))));
        }
        let pid =
            first_call.map(|call| call.pid).or_else(|| request_side.first_write(request.clone()).map(|call| call.pid));
        let paired = Paired {
            role,
            kind,
            protocol,
            name: name.unwrap_or(protocol.name().into()),
            status: result.status,
            ended_by: result.ended_by,
            attributes,
            trace_context: trace,
            request,
            response,
            cut_ns: result.cut_ns,
            exact: exact && !result.unseen,
            pid: pid.filter(|pid| *pid != 0).unwrap_or(connection.facts.pid),
        };
        settle::pair(connection, paired, context);
    }
}

/// Whether what nobody answers is a request all the same, and no message to others.
fn is_request(part: &Part) -> bool {
    let Facts { kind, attributes, .. } = &part.facts;
    let is_messaging = || attributes.iter().any(|(key, _)| key.starts_with("messaging."));
    part.from == Side::Client && *kind == Kind::Request && !is_messaging()
}

/// Kind of the span of a message that this end sent, or was sent.
fn message_kind(sent: bool, end: Role) -> SpanKind {
    match (sent, end) {
        (true, _) => SpanKind::Producer,
        (false, Role::Client) => SpanKind::Consumer,
        (false, Role::Server) => SpanKind::Server,
    }
}

fn attributes(
    said: Attributes,
    connection: &mut Connection,
    role: Role,
    host: Option<&Text>,
    result: &Result,
) -> Attributes {
    let mut attributes = Vec::with_capacity(semconv::ATTRIBUTES);
    attributes.extend(said);
    if let Some(error_type) = &result.error_type {
        attributes.retain(|(key, _)| *key != "error.type");
        attributes.push(("error.type", error_type.clone().into()));
    }
    // Who sends a message is not who opened the connection.
    let end = connection.facts.role.unwrap_or(role);
    semconv::server(&mut attributes, connection, end, host);
    semconv::connection(&mut attributes, connection, end);
    attributes
}
