//! Which response answers which request, and what is given up.

use agent_protocol::session::{Key, Part, Side};

use super::{Dialogue, waiting::Exchange};
use crate::{
    exchange::Context,
    flow::connection::{Connection, Role},
    loss::Loss,
};

impl Dialogue {
    pub(super) fn asked(&mut self, part: Part, connection: &mut Connection, context: &mut Context<'_>) {
        let key = part.key;
        if let Some(exchange) = self.waiting.asking(key) {
            exchange.ask(part, context.now_ns);
        } else {
            let exchange = Exchange::new(part, context.now_ns);
            if key == Key::InOrder {
                self.asked_in_order(&exchange, connection, context);
                self.answered_before(&exchange, connection, context);
            }
            if self.waiting.len() >= context.config.pending_exchanges_max {
                self.give_up_oldest(connection, context);
            }
            self.waiting.push(exchange);
            if key != Key::InOrder || self.is_heard_in_time(connection, context) {
                self.answered_early(key, connection, context);
            }
        }
        if key == Key::InOrder && self.order.broken {
            return self.finish_unpaired(connection, context);
        }
        self.finish_complete(key, connection, context);
    }

    fn asked_in_order(&mut self, exchange: &Exchange, connection: &mut Connection, context: &mut Context<'_>) {
        if !self.order.pipelines && self.is_asked_together(exchange, connection) {
            self.order.pipelines = true;
            if self.waiting.iter().any(|before| before.doubt) {
                self.order.lose(false);
                self.give_up_order(connection, context);
            }
        }
        let waits = self.waiting.iter().any(|before| before.key == Key::InOrder && !before.response_last);
        let left_over = self.waiting.early(Key::InOrder).any(|answer| came_before(connection, exchange, answer));
        if self.order.ask(waits, left_over) {
            self.give_up_order(connection, context);
        }
    }

    /// Whether answers that wait for their requests may be told by order which of them is the newest request's. They may not
    /// if it is heard of after younger answers (it was behind a hole): its own may have been passed over.
    fn is_heard_in_time(&mut self, connection: &mut Connection, context: &mut Context<'_>) -> bool {
        let is_late = self.moved_ns[0] < self.moved_ns[1];
        let Some(newest) = self.waiting.newest().filter(|_| is_late && !self.order.broken) else {
            return !self.order.broken;
        };
        newest.doubt = true;
        if self.order.pipelines {
            self.order.lose(false);
            self.give_up_order(connection, context);
        }
        false
    }

    /// Answers that waited for their requests, and are older than this one.
    fn answered_before(&mut self, exchange: &Exchange, connection: &mut Connection, context: &mut Context<'_>) {
        let is_older = |answer: &Part| answer.key == Key::InOrder && came_before(connection, exchange, answer);
        for answer in self.waiting.take_early_where(is_older) {
            self.answered_late(answer, connection, context);
        }
    }

    /// An answer waited for its request. It is one to a request that was in doubt, or none is known.
    pub(super) fn answered_late(&mut self, answer: Part, connection: &mut Connection, context: &mut Context<'_>) {
        let key = answer.key;
        if let Some(answer) = self.pair(answer, connection, context) {
            context.losses.add(Loss::MessageLost, u64::from(answer.last));
            if key == Key::InOrder {
                self.order.leave_over();
            }
        }
        self.finish_complete(key, connection, context);
    }

    /// Whether this request began so soon after one that waits that nobody can have had an answer in between: in the same call,
    /// or within less than half of the shortest round trip.
    fn is_asked_together(&self, exchange: &Exchange, connection: &Connection) -> bool {
        let waits = |before: &&Exchange| before.key == Key::InOrder && !before.response_last;
        let Some(before) = self.waiting.iter().rfind(waits) else { return false };
        let Some(role) = connection.facts.role else { return false };
        let calls = &connection.timings(role).0.calls;
        let Some(call) = calls.holding(exchange.request.start) else { return false };
        let Some(call_before) = calls.holding(before.request.start) else { return false };
        // 0 and the greatest number say that there is none.
        let rtt_us = connection.life.latest.min_rtt_us;
        let rtt_ns = if rtt_us == u32::MAX { 0 } else { u64::from(rtt_us) * 1_000 };
        // A request leaves after its write was entered, and is answered after its read returned.
        let after_ns = match role {
            Role::Client => call.enter_ns.saturating_sub(call_before.enter_ns),
            Role::Server => call.return_ns.saturating_sub(call_before.return_ns),
        };
        call.start == call_before.start || (after_ns < rtt_ns / 2 && call.enter_ns != 0)
    }

    /// Text is kept within its bound.
    pub(super) fn bound_text(&mut self, connection: &mut Connection, context: &mut Context<'_>) {
        while self.waiting.has_more_text_than(context.config.pending_text_bytes_max) {
            if self.waiting.drop_statement() {
                context.losses.add(Loss::ExchangeOverflow, 1);
            } else {
                self.give_up_oldest(connection, context);
            }
        }
    }

    /// The oldest makes room. Its answer will come nevertheless.
    fn give_up_oldest(&mut self, connection: &mut Connection, context: &mut Context<'_>) {
        let Some(oldest) = self.waiting.take_oldest() else { return };
        if oldest.key == Key::InOrder && !oldest.response_last && !oldest.doubt {
            self.order.owe();
        }
        context.losses.add(Loss::ExchangeOverflow, 1);
        self.finish_cut(oldest, connection, context);
    }

    /// While whose the answers are is not known, no request waits for one.
    fn finish_unpaired(&mut self, connection: &mut Connection, context: &mut Context<'_>) {
        let is_whole = |exchange: &Exchange| exchange.key == Key::InOrder && exchange.request_last;
        while let Some(exchange) = self.waiting.take_where(is_whole) {
            context.losses.add(Loss::PairingLost, 1);
            self.finish_cut(exchange, connection, context);
        }
    }

    /// Answers that came before their request was heard of.
    fn answered_early(&mut self, key: Key, connection: &mut Connection, context: &mut Context<'_>) {
        while let Some(part) = self.waiting.take_early(key) {
            let Some(exchange) = self.waiting.answering(key) else { break };
            if came_before(connection, exchange, &part) {
                context.losses.add(Loss::MessageLost, u64::from(part.last));
                continue;
            }
            let last = part.last;
            exchange.answer(part, context.now_ns);
            if last {
                break;
            }
        }
    }

    pub(super) fn answered(&mut self, part: Part, connection: &mut Connection, context: &mut Context<'_>) {
        let key = part.key;
        if key == Key::InOrder {
            self.order.answer(part.last);
            if self.order.broken || self.order.pay(part.last) {
                return;
            }
        }
        if let Some(part) = self.pair(part, connection, context) {
            let lost = self.waiting.push_early(part, context.now_ns);
            context.losses.add(Loss::MessageLost, u64::from(lost));
        }
        self.finish_complete(key, connection, context);
    }

    /// Gives an answer to its request; if none waits for it, it is handed back.
    fn pair(&mut self, answer: Part, connection: &mut Connection, context: &mut Context<'_>) -> Option<Part> {
        self.give_up_reused(&answer, connection, context);
        self.resolve_doubt(&answer, connection, context);
        self.order.pipelines |= answer.key == Key::InOrder && self.is_pipelined(&answer, connection);
        match self.waiting.answering(answer.key) {
            Some(exchange) if !came_before(connection, exchange, &answer) => {
                exchange.answer(answer, context.now_ns);
                None
            }
            _ => Some(answer),
        }
    }

    /// Whether the request after the one that this answers was sent before the answer came, and nothing is in doubt.
    fn is_pipelined(&self, answer: &Part, connection: &Connection) -> bool {
        let mut asked = self.waiting.iter().filter(|exchange| exchange.key == answer.key && !exchange.response_last);
        let sure = asked.next().is_some_and(|exchange| !exchange.doubt && exchange.response.is_none());
        sure && asked.next().is_some_and(|next| !came_before(connection, next, answer))
    }

    /// A number is used again once it was answered: an answer is one to the last request with its number, and those to the
    /// requests before were lost.
    fn give_up_reused(&mut self, answer: &Part, connection: &mut Connection, context: &mut Context<'_>) {
        if answer.key == Key::InOrder {
            return;
        }
        let same = |exchange: &Exchange| exchange.key == answer.key && !exchange.response_last;
        let asked = |exchange: &&Exchange| same(exchange) && !came_before(connection, exchange, answer);
        let count = self.waiting.iter().filter(asked).count();
        for _ in 1..count {
            let Some(exchange) = self.waiting.take_where(same) else { break };
            context.losses.add(Loss::MessageLost, 1);
            self.finish_cut(exchange, connection, context);
        }
    }

    /// Of the exchanges in doubt, the last one that was asked before this answer is the one that it answers, if nothing was
    /// lost in between; the answers of the others were lost.
    fn resolve_doubt(&mut self, answer: &Part, connection: &mut Connection, context: &mut Context<'_>) {
        if answer.key != Key::InOrder || !self.waiting.iter().any(|exchange| exchange.doubt) {
            return;
        }
        let asked = |exchange: &Exchange| exchange.key == Key::InOrder && !came_before(connection, exchange, answer);
        let count = self.waiting.iter().filter(|exchange| asked(exchange)).count();
        for exchange in self.waiting.take_first(count.saturating_sub(1)) {
            context.losses.add(Loss::MessageLost, 1);
            self.finish_cut(exchange, connection, context);
        }
        let Some(exchange) = self.waiting.answering(Key::InOrder) else { return };
        let sure = between(connection, exchange, answer)
            .is_some_and(|(asked_ns, answered_ns)| context.numbering.lost_within(asked_ns + 1, answered_ns) == 0);
        exchange.doubt = false;
        if !sure && let Some(exchange) = self.waiting.take(Key::InOrder) {
            context.losses.add(Loss::MessageLost, 1);
            self.finish_cut(exchange, connection, context);
        }
    }

    /// Finishes the exchanges of a key that are complete; those in order only as far as all before them are.
    fn finish_complete(&mut self, key: Key, connection: &mut Connection, context: &mut Context<'_>) {
        while let Some(exchange) = self.waiting.take_complete(key) {
            self.finish_answered(exchange, connection, context);
        }
    }

    /// Framing was lost on one side. What is told by numbers is still told; what is told by order is in doubt.
    pub(super) fn lost(&mut self, from: Side, connection: &mut Connection, context: &mut Context<'_>) {
        self.order.lose(from == Side::Server);
        if from == Side::Server {
            self.waiting.hide();
        }
        if from == Side::Server && !self.order.pipelines {
            return self.waiting.doubt();
        }
        let hidden = self.waiting.take_doubtful(self.order.pipelines);
        for exchange in hidden {
            context.losses.add(if self.order.pipelines { Loss::PairingLost } else { Loss::MessageLost }, 1);
            self.finish_cut(exchange, connection, context);
        }
    }

    /// Whose the answers are to what was asked in order so far is not known, and does not matter to what comes.
    pub(super) fn give_up_order(&mut self, connection: &mut Connection, context: &mut Context<'_>) {
        for exchange in self.waiting.take_doubtful(true) {
            context.losses.add(Loss::PairingLost, 1);
            self.finish_cut(exchange, connection, context);
        }
    }
}

/// Whether an answer was given before the question was asked, by what this end's calls say.
fn came_before(connection: &Connection, exchange: &Exchange, answer: &Part) -> bool {
    let Some(role) = connection.facts.role.filter(|_| exchange.response.is_none()) else { return false };
    let (requests, responses) = connection.timings(role);
    let (Some(asked), Some(answered)) =
        (requests.calls.holding(exchange.request.start), responses.calls.holding(answer.range.start))
    else {
        return false;
    };
    match role {
        Role::Client => answered.return_ns < asked.enter_ns,
        // An answer that was sent may be read, and the next request sent and read, before the call returns.
        Role::Server if answered.enter_ns != 0 => answered.enter_ns < asked.return_ns,
        Role::Server => answered.return_ns < asked.return_ns,
    }
}

/// When the records of a request and of its answer were made.
fn between(connection: &Connection, exchange: &Exchange, answer: &Part) -> Option<(u64, u64)> {
    let (requests, responses) = connection.timings(connection.facts.role?);
    let asked = requests.calls.holding(exchange.request.start)?;
    Some((asked.return_ns, responses.calls.holding(answer.range.start)?.return_ns))
}
