//! Exchanges of bytes that no parser knows or that were not captured.
//!
//! An exchange is bytes in the direction of requests followed by bytes in the other. It ends with the next byte in the
//! first direction, after a silence, or with the connection. Bytes of a server that speaks first belong to none. Its
//! status stays unknown unless the connection was reset before an answer: what the bytes mean is not understood.
//! Where bytes before or within it were not seen, it may be a part of an exchange, or several: its bounds are inferred.

use std::ops::Range;

use super::{
    Context,
    ending::RESET,
    semconv::{self, int, word},
    settle::{self, Paired},
    tls::{self, Label},
};
use crate::{
    flow::connection::{Connection, Direction, Ending},
    loss::Loss,
    span::{Protocol, Status},
};

#[derive(Debug)]
struct Current {
    request: Range<u64>,
    response: Range<u64>,
    active_ns: u64,
    /// Whether all bytes since the one before its first were seen.
    exact: bool,
}

/// State of one connection.
#[derive(Debug)]
pub struct Opaque {
    current: Option<Current>,
    /// Whether bytes of a request that come next begin one.
    begins: bool,
    /// Whether bytes that begin like a known protocol may still show what it is: it was joined late.
    pub undecided: bool,
    role_loss_told: bool,
    /// Whether bytes are told that moved before: then what is beyond them is still needed.
    pub replaying: bool,
    /// What is known of the TLS connection whose application data it is.
    pub label: Option<Box<Label>>,
}

impl Opaque {
    /// Without an exchange in progress. `begins`: whether the next byte may be the first of a request, and not the middle of one.
    pub fn new(undecided: bool, begins: bool) -> Self {
        Self { current: None, begins, undecided, role_loss_told: false, replaying: false, label: None }
    }

    /// Bytes of one direction moved before the next ones, and were not seen.
    pub fn missed(&mut self, connection: &Connection, direction: Direction) {
        self.begins = false;
        let is_request = connection.facts.request_direction() == Some(direction);
        if let Some(current) = self.current.as_mut().filter(|current| !is_request || current.response.is_empty()) {
            current.exact = false;
        }
    }

    /// Bytes moved that had not moved before.
    pub fn bytes(
        &mut self,
        connection: &mut Connection,
        direction: Direction,
        range: Range<u64>,
        context: &mut Context<'_>,
    ) {
        if connection.facts.role.is_none() {
            connection.facts.guess_role();
        }
        let Some(requests) = connection.facts.request_direction() else {
            if !std::mem::replace(&mut self.role_loss_told, true) {
                context.losses.add(Loss::RoleUnknown, 1);
            }
            return;
        };
        if direction == requests {
            self.request_bytes(connection, range, context);
            return self.trim(connection);
        }
        self.begins = true;
        if let Some(current) = &mut self.current {
            if current.response.is_empty() {
                current.response = range;
            } else {
                current.response.end = range.end;
            }
            current.active_ns = context.now_ns;
        }
        self.trim(connection);
    }

    fn request_bytes(&mut self, connection: &mut Connection, range: Range<u64>, context: &mut Context<'_>) {
        if self.current.as_ref().is_some_and(|current| !current.response.is_empty()) {
            self.finish(connection, None, context);
        }
        match &mut self.current {
            Some(current) => {
                current.request.end = range.end;
                current.active_ns = context.now_ns;
            }
            None => {
                let exact = self.begins;
                self.current = Some(Current { request: range, response: 0..0, active_ns: context.now_ns, exact });
            }
        }
    }

    /// When the exchange in progress ends by silence.
    pub fn due_ns(&self, idle_exchange_ns: u64) -> Option<u64> {
        let current = self.current.as_ref().filter(|current| !current.response.is_empty())?;
        Some(current.active_ns.saturating_add(idle_exchange_ns))
    }

    /// Ends the exchange in progress if it is silent for long enough.
    pub fn advance(&mut self, connection: &mut Connection, context: &mut Context<'_>) {
        if self.due_ns(context.config.idle_exchange_ns).is_some_and(|due_ns| due_ns <= context.now_ns) {
            self.finish(connection, None, context);
        }
    }

    /// Forgets the exchange in progress: its bytes turned out to be something else.
    pub fn abandon(&mut self) -> bool {
        self.current.take().is_some()
    }

    /// Whether an exchange whose request begins at `offset` is in progress.
    pub fn has_request(&self, offset: u64) -> bool {
        self.current.as_ref().is_some_and(|current| current.request.start == offset)
    }

    /// Whether an exchange is in progress that has no answer yet.
    pub fn is_unanswered(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.response.is_empty())
    }

    /// The message in progress in one direction.
    pub fn open_range(&self, is_request: bool) -> Range<u64> {
        let range = |current: &Current| if is_request { current.request.clone() } else { current.response.clone() };
        self.current.as_ref().map_or(0..0, range)
    }

    /// Ends the exchange in progress: it is complete, or the connection ended.
    pub fn finish(&mut self, connection: &mut Connection, ending: Option<(Ending, u64)>, context: &mut Context<'_>) {
        let (Some(current), Some(role)) = (self.current.take(), connection.facts.role) else { return };
        let answered = !current.response.is_empty();
        let reset = !answered && matches!(ending, Some((Ending::Reset, _)));
        let mut attributes = Vec::with_capacity(semconv::ATTRIBUTES);
        attributes.push(("spantap.request.bytes", int(current.request.end - current.request.start)));
        attributes.push(("spantap.response.bytes", int(current.response.end - current.response.start)));
        if reset {
            attributes.push(("error.type", word(RESET)));
        }
        let label = self.label.as_deref();
        label.inspect(|label| tls::tell(label, &mut attributes));
        semconv::server(&mut attributes, connection, role, label.and_then(|label| label.server_name.as_ref()));
        semconv::connection(&mut attributes, connection, role);
        let (request_side, _) = connection.timings(role);
        let owner = request_side.calls.holding(current.request.start).map(|call| call.pid);
        let owner = owner.or_else(|| request_side.first_write(current.request.clone()).map(|write| write.pid));
        let paired = Paired {
            role,
            kind: role.span_kind(),
            protocol: if label.is_some() { Protocol::Tls } else { Protocol::Tcp },
            name: if label.is_some() { "tls" } else { "tcp" }.into(),
            status: if reset { Status::Error } else { Status::Unknown },
            ended_by: reset.then_some(Ending::Reset),
            attributes,
            trace_context: None,
            request: current.request,
            response: answered.then_some(current.response),
            cut_ns: if answered { None } else { Some(ending.map_or(context.now_ns, |(_, ns)| ns)) },
            exact: current.exact,
            pid: owner.filter(|pid| *pid != 0).unwrap_or(connection.facts.pid),
        };
        settle::pair(connection, paired, context);
    }

    /// Forgets the timings of what is over.
    fn trim(&self, connection: &mut Connection) {
        let Some(requests) = connection.facts.request_direction().filter(|_| !self.replaying) else { return };
        let (request_from, response_from) = match &self.current {
            Some(current) if current.response.is_empty() => {
                (current.request.start, connection.side(requests.other()).stream.next())
            }
            Some(current) => (current.request.start, current.response.start),
            None => (connection.side(requests).stream.next(), connection.side(requests.other()).stream.next()),
        };
        connection.trim(requests, request_from);
        connection.trim(requests.other(), response_from);
    }
}
