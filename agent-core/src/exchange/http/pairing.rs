//! Which response answers which request, and when that is decided.

use agent_protocol::http1::{RequestHead, ResponseHead};

use super::{Http, Message};
use crate::{
    exchange::Context,
    flow::connection::{Connection, Direction, Ending, Role},
    loss::Loss,
};

impl Http {
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
                if drop && self.was_not_asked_for(connection, answer, context) {
                    self.answered.pop();
                } else if drop {
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

    /// Whether no request can be missing for this response: a server may give up a connection on which nobody asked in time, or at all
    /// (RFC 9110, 15.5.9).
    fn was_not_asked_for(
        &self,
        connection: &Connection,
        answer: &Message<ResponseHead>,
        context: &Context<'_>,
    ) -> bool {
        let facts = &connection.facts;
        let asked = &connection.side(facts.request_direction().unwrap_or(Direction::Send)).stream;
        let from_begin = facts.opened_ns != 0 && !facts.preexisting && facts.bases.is_some();
        let seen = from_begin && !self.doubt && !self.asked.lost && !answer.near_loss[0];
        let all_answered = asked.next() <= self.asked.done_end && asked.waiting_since_ns().is_none();
        seen && all_answered && context.numbering.lost_within(facts.opened_ns, context.now_ns) == 0
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
