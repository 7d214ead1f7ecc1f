//! What the server sends.

use super::{
    Login, Shared,
    pending::{Answer, Pending},
    requests::Requests,
    result::{Results, Step},
    wire::{self, Numbers, Packet},
};
use crate::{
    frames::Frame,
    session::{Boundary, Event, Facts, Key, Lost, Outcome, Part, Side},
    sql,
};

/// State of the server's side.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// Where the answer in progress began, and ends so far.
    range: Option<(u64, u64)>,
    /// Of the last packet.
    number: Option<u8>,
    results: Results,
    /// The packet before was as long as a packet can be: the next one continues it.
    continued: bool,
    /// The rest of an answer whose beginning was not seen.
    ignoring: bool,
    /// A gap hid what followed.
    hidden: bool,
}

impl Replies {
    /// Where the answer in progress began.
    pub fn open_from(&self) -> Option<u64> {
        self.range.map(|(start, _)| start)
    }

    /// Whether a gap hides where the answer in progress goes on.
    pub fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// Framing was lost.
    pub fn lose(&mut self) {
        *self = Self::default();
    }

    /// Which number the next packet may have.
    pub fn expected(&self, shared: &Shared) -> Numbers {
        match self.number {
            _ if shared.login != Login::Done || shared.sends_file => Numbers::Any,
            None => Numbers::One(1),
            Some(before) if self.ignoring || self.results.may_be_over() => Numbers::Either(before.wrapping_add(1), 1),
            Some(before) => Numbers::One(before.wrapping_add(1)),
        }
    }

    /// A gap hides where packets begin; answers whether the answer in progress can do without.
    pub fn hide(&mut self, at: u64, shared: &Shared) -> bool {
        let alone = shared.queue.is_alone() && shared.login == Login::Done && !self.ignoring;
        if alone {
            self.range.get_or_insert((at, at));
            self.hidden = true;
        }
        alone
    }

    /// The next packet.
    pub fn packet(&mut self, frame: &Frame<'_>, requests: &mut Requests, shared: &mut Shared, out: &mut Vec<Event>) {
        let Some(packet) = Packet::new(frame) else { return };
        if std::mem::replace(&mut self.continued, packet.is_continued()) {
            self.number = Some(packet.number);
            return self.grow(frame);
        }
        if self.is_login(frame, &packet, requests, shared, out) {
            return;
        }
        let begins = self.number.is_none() || self.ignoring;
        if begins && packet.number != 1 && !shared.sends_file {
            (self.ignoring, self.number) = (true, Some(packet.number));
            return;
        }
        if begins {
            self.begin(shared);
        }
        let over = !begins && packet.number == 1 && self.results.may_be_over();
        let step = if over { Step::Over } else { self.step(&packet, shared) };
        match step {
            Step::More => {}
            Step::File => shared.sends_file = true,
            Step::Done => {
                self.grow(frame);
                return self.finish(requests, shared, out);
            }
            Step::Over => {
                self.finish(requests, shared, out);
                return self.packet(frame, requests, shared, out);
            }
        }
        self.number = Some(packet.number);
        self.grow(frame);
    }

    fn step(&mut self, packet: &Packet<'_>, shared: &mut Shared) -> Step {
        shared.sends_file = false;
        let answer = shared.queue.current().map_or(Answer::Results, |pending| pending.answer);
        self.results.packet(answer, packet)
    }

    fn begin(&mut self, shared: &Shared) {
        self.ignoring = false;
        if self.range.is_none() {
            self.results = Results::default();
            self.results.ends_marked = shared.ends_marked;
        }
    }

    fn grow(&mut self, frame: &Frame<'_>) {
        self.range.get_or_insert((frame.start, frame.end)).1 = frame.end;
    }

    /// The packets up to the log-in's end; answers whether this was one.
    fn is_login(
        &mut self,
        frame: &Frame<'_>,
        packet: &Packet<'_>,
        requests: &mut Requests,
        shared: &mut Shared,
        out: &mut Vec<Event>,
    ) -> bool {
        match (std::mem::take(&mut shared.login), packet.contents.first()) {
            (Login::Done, _) => {
                shared.login = Login::Done;
                return false;
            }
            (Login::Unseen, Some(10)) if packet.number == 0 => {
                let greeting = wire::greeting(packet);
                shared.system = Some(greeting.system);
                greeting.status.into_iter().for_each(|status| shared.status(status));
                shared.login = Login::Asked;
                return true;
            }
            (Login::Answered { range, .. }, Some(0xff)) => {
                shared.login = Login::Done;
                requests.failed_login(range, shared, out);
                shared.asked(Pending::default());
                self.begin(shared);
                self.step(packet, shared);
                self.grow(frame);
                self.finish(requests, shared, out);
                return true;
            }
            (Login::Answered { compressed, .. }, Some(0)) => {
                wire::ok_status(packet).into_iter().for_each(|status| shared.status(status));
                shared.login = Login::Done;
                if compressed {
                    shared.over = true;
                    out.push(Event::Switched);
                }
                return true;
            }
            // How to log in is negotiated.
            (login @ Login::Answered { .. }, _) => {
                shared.login = login;
                return true;
            }
            (Login::Unseen | Login::Asked, _) => shared.login = Login::Done,
        }
        // An error instead of a greeting answers nothing.
        packet.number == 0
    }

    /// The answer is complete.
    fn finish(&mut self, requests: &mut Requests, shared: &mut Shared, out: &mut Vec<Event>) {
        requests.finish_open(out);
        let pending = shared.queue.pop().unwrap_or_default();
        self.results.status.into_iter().for_each(|status| shared.status(status));
        if pending.answer == Answer::Columns {
            self.results.rows = None;
        }
        let worked = self.results.error.is_none();
        shared.change_database(pending.database, Some(worked));
        if worked && let (Some(id), Some(statement)) = (self.results.prepared, pending.statement) {
            requests.prepared(id, statement);
        }
        self.tell(Some(Outcome::Ok), out);
    }

    /// Behind a gap a packet of this number looks like the end of rows.
    pub fn found_end(
        &mut self,
        end: u64,
        number: u8,
        requests: &mut Requests,
        shared: &mut Shared,
        out: &mut Vec<Event>,
    ) {
        if !self.hidden {
            return self.lose();
        }
        if self.number.is_some_and(|last| self.results.columns_end_at(last) == Some(number)) {
            // The gap hid columns, and rows are still to come.
            self.number = Some(number);
            return self.results.begin_rows();
        }
        if let Some((_, known_end)) = &mut self.range {
            *known_end = end;
        }
        self.finish(requests, shared, out);
    }

    /// The client goes on: what a gap hid was the rest of the answer.
    pub fn asked_again(&mut self, end: u64, shared: &mut Shared, out: &mut Vec<Event>) {
        if !self.hidden {
            return;
        }
        if let Some((_, known_end)) = &mut self.range {
            *known_end = end;
        }
        let pending = shared.queue.pop().unwrap_or_default();
        shared.change_database(pending.database, None);
        self.tell(None, out);
        out.push(Event::Lost { from: Side::Server, at: end, reason: Lost::Gap });
    }

    fn tell(&mut self, outcome: Option<Outcome>, out: &mut Vec<Event>) {
        if let Some((start, end)) = self.range {
            let facts = facts(&self.results, outcome, self.hidden);
            let mut part = Part::whole(Side::Server, Key::InOrder, start..end, facts);
            if self.hidden {
                part.boundary = Boundary::Inferred;
            }
            out.push(Event::Part(part));
        }
        self.lose();
    }
}

fn facts(results: &Results, outcome: Option<Outcome>, hidden: bool) -> Facts {
    let facts = Facts::default();
    if let Some(error) = &results.error {
        let facts = facts.with("db.response.status_code", error.code.to_string());
        let outcome = sql::outcome(&error.sqlstate, error.code.to_string());
        let facts = facts.outcome(outcome);
        return if error.sqlstate.is_empty() {
            facts
        } else {
            facts.with("spantap.db.sqlstate", error.sqlstate.clone())
        };
    }
    let facts = Facts { outcome, ..facts };
    match results.rows.filter(|_| !hidden) {
        Some(rows) => facts.with("db.response.returned_rows", rows),
        None => facts,
    }
}
