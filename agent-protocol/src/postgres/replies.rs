//! What the server sends.

use super::{
    Shared,
    batches::Batch,
    requests::Requests,
    wire::{self, Fields},
};
use crate::{
    frames::Frame,
    session::{Boundary, Event, Facts, Key, Lost, Outcome, Part, Side},
    sql,
};

/// Value of `error.type` of what the server passed over after an error in the same batch.
const ABORTED: &str = "pipeline_aborted";

/// State of the server's side.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// Since the last `ReadyForQuery`: responses that ended.
    ended: u32,
    /// Messages of the extended protocol were seen in it.
    extended: bool,
    failed: bool,
    response: Response,
}

/// The response in progress.
#[derive(Debug, Default)]
struct Response {
    start: Option<u64>,
    /// It is complete up to here; `ReadyForQuery` may belong to it.
    complete: Option<u64>,
    /// `ParseComplete` was seen, and a statement's description.
    parsed: bool,
    described: bool,
    /// It answers nothing else.
    prepares: bool,
    /// Rows came, or a description of them; `COPY` sent data.
    gives_rows: bool,
    rows: Option<u64>,
    failure: Option<(String, bool)>,
    /// A gap hid what followed.
    hidden: bool,
}

impl Replies {
    /// Where the response in progress began.
    pub fn open_from(&self) -> Option<u64> {
        self.response.start
    }

    /// Whether a gap hides where the response in progress goes on.
    pub fn is_hidden(&self) -> bool {
        self.response.hidden
    }

    /// Framing was lost.
    pub fn lose(&mut self) {
        *self = Self::default();
    }

    /// A gap hides where messages begin; answers whether what is in progress can do without.
    pub fn hide(&mut self, at: u64, shared: &Shared) -> bool {
        let alone = shared.batches.waiting_alone().is_some_and(|exchanges| exchanges == self.ended + 1);
        if alone {
            self.response.start.get_or_insert(at);
            self.response.hidden = true;
        }
        alone
    }

    /// The next message.
    pub fn message(&mut self, frame: &Frame<'_>, requests: &mut Requests, shared: &mut Shared, out: &mut Vec<Event>) {
        let Some((&kind, _)) = frame.kept.split_first() else { return };
        let mut fields = Fields::new(frame.kept.get(5..).unwrap_or_default());
        match kind {
            b'Z' => return self.ready(frame.end, requests, shared, out),
            b'S' => return parameter(&mut fields, shared),
            b'A' | b'N' | b'R' | b'K' | b'v' | b'3' => return,
            _ => {}
        }
        let goes_on = match kind {
            b't' | b'T' | b'n' => self.response.prepares,
            // At the commit: nothing else of the batch is left.
            b'E' => shared.batches.current().is_some_and(|batch| self.ended.saturating_add(1) >= batch.exchanges),
            _ => false,
        };
        if self.response.complete.is_some() && !self.is_simple(shared) && !goes_on {
            self.tell(None, out);
        }
        self.extended |= matches!(kind, b'1' | b'2' | b't' | b'n' | b's');
        let response = &mut self.response;
        response.start.get_or_insert(frame.start);
        if matches!(kind, b'D' | b'C' | b's' | b'I' | b'E' | b'G' | b'H') && std::mem::take(&mut shared.batches.alone) {
            response.start = Some(frame.start);
        }
        match kind {
            b'1' => response.parse(frame.end, &mut shared.batches.prepared),
            b't' => response.described = true,
            b'T' | b'n' if response.prepares => self.complete(frame.end, None, shared, out),
            // The description before it was asked for, and read, by itself.
            b'2' if response.described => response.start = Some(frame.start),
            b'T' | b'D' | b'H' => response.gives_rows = true,
            b'C' => self.complete(frame.end, rows(fields.text()), shared, out),
            b'I' | b's' | b'V' => self.complete(frame.end, None, shared, out),
            b'W' => {
                response.complete = Some(frame.end);
                self.tell(None, out);
            }
            b'E' => self.error(frame, &mut fields, requests, shared, out),
            _ => {}
        }
    }

    fn is_simple(&self, shared: &Shared) -> bool {
        shared.batches.current().map_or(!self.extended && shared.batches.unsynced == 0, |batch| batch.simple)
    }

    /// A statement is done.
    fn complete(&mut self, end: u64, rows: Option<u64>, shared: &Shared, out: &mut Vec<Event>) {
        let response = &mut self.response;
        response.complete = Some(end);
        if let Some(rows) = rows.filter(|rows| response.gives_rows || response.hidden || *rows == 0) {
            response.rows = Some(response.rows.unwrap_or(0).saturating_add(rows));
        }
        let more_follow = match shared.batches.current() {
            Some(batch) => !batch.simple && self.ended.saturating_add(1) < batch.exchanges,
            None => shared.batches.unsynced > 0,
        };
        if more_follow {
            self.tell(None, out);
        }
    }

    fn error(
        &mut self,
        frame: &Frame<'_>,
        fields: &mut Fields<'_>,
        requests: &mut Requests,
        shared: &mut Shared,
        out: &mut Vec<Event>,
    ) {
        let error = wire::error(fields);
        if let Some(login) = shared.login.take() {
            requests.login(login, out);
            shared.batches.unsynced = shared.batches.unsynced.saturating_add(1);
        }
        let asked = shared.batches.current().is_some() || shared.batches.unsynced > 0;
        if error.fatal && !asked {
            // Why the connection ends, said unasked.
            self.response = Response::default();
            return;
        }
        self.failed = true;
        self.response.failure = Some((error.sqlstate, error.fatal));
        self.response.complete = Some(frame.end);
        if error.fatal {
            requests.finish_streaming(out);
            self.tell(None, out);
        }
    }

    /// `ReadyForQuery`: the batch is answered.
    fn ready(&mut self, end: u64, requests: &mut Requests, shared: &mut Shared, out: &mut Vec<Event>) {
        if shared.login.take().is_some() {
            self.lose();
            return;
        }
        requests.finish_streaming(out);
        let unsynced = shared.batches.unsynced;
        let batch = shared.batches.pop();
        let told = batch.is_none_or(|batch| batch.exchanges > self.ended);
        let response = &self.response;
        if told && (response.complete.is_some() || response.parsed || response.hidden) {
            self.tell(Some(end), out);
        }
        let exchanges = match batch {
            Some(Batch { exchanges, .. }) => exchanges,
            None => unsynced,
        };
        let aborted = if self.failed { exchanges.saturating_sub(self.ended) } else { 0 };
        for _ in 0..aborted {
            let error_type = Some(ABORTED.into());
            out.push(Event::Cancelled { key: Key::InOrder, by: Side::Server, end, error_type });
        }
        self.lose();
    }

    /// Behind a gap a call ended with `ReadyForQuery`.
    pub fn found_ready(
        &mut self,
        end: u64,
        tail: &wire::Tail,
        requests: &mut Requests,
        shared: &mut Shared,
        out: &mut Vec<Event>,
    ) {
        if !self.response.hidden {
            shared.login = None;
            return self.lose();
        }
        if tail.ok {
            self.response.complete = Some(end);
            self.response.rows = tail.rows.or(self.response.rows);
        }
        self.ready(end, requests, shared, out);
    }

    /// The client goes on: what a gap hid was the rest of the response.
    pub fn asked_again(&mut self, end: u64, shared: &mut Shared, out: &mut Vec<Event>) {
        if self.response.hidden {
            shared.batches.pop();
            self.tell(Some(end), out);
            self.lose();
            out.push(Event::Lost { from: Side::Server, at: end, reason: Lost::Gap });
        }
    }

    /// Tells the response in progress, up to `end` or to where it was complete.
    fn tell(&mut self, end: Option<u64>, out: &mut Vec<Event>) {
        let response = std::mem::take(&mut self.response);
        let Some(end) = end.or(response.complete) else { return };
        let range = response.start.unwrap_or(end)..end;
        let mut part = Part::whole(Side::Server, Key::InOrder, range, response.facts());
        if response.hidden {
            part.boundary = Boundary::Inferred;
        }
        self.ended = self.ended.saturating_add(1);
        out.push(Event::Part(part));
    }
}

impl Response {
    /// `ParseComplete`; the statement's description may follow.
    fn parse(&mut self, end: u64, prepared: &mut u32) {
        self.parsed = true;
        if *prepared > 0 {
            *prepared -= 1;
            (self.prepares, self.complete) = (true, Some(end));
        }
    }

    fn facts(&self) -> Facts {
        let facts = Facts::default();
        if let Some((sqlstate, fatal)) = &self.failure {
            let outcome = sql::outcome(sqlstate, sqlstate.clone());
            let outcome = match outcome {
                // Who may not log in is to blame; else what ends a session is the server's.
                Outcome::ClientError(error) if *fatal && !error.starts_with("28") && !error.starts_with("3D") => {
                    Outcome::Error(error)
                }
                outcome => outcome,
            };
            return facts.with("db.response.status_code", sqlstate.clone()).outcome(outcome);
        }
        let known = self.complete.is_some() || (self.parsed && !self.hidden);
        let facts = if known { facts.outcome(Outcome::Ok) } else { facts };
        match self.rows {
            Some(rows) => facts.with("db.response.returned_rows", rows),
            None => facts,
        }
    }
}

/// The number of rows that a command's tag says were given.
pub(super) fn rows(tag: &[u8]) -> Option<u64> {
    let tag = std::str::from_utf8(tag).ok()?;
    let (command, rows) = tag.split_once(' ')?;
    if !matches!(command, "SELECT" | "FETCH" | "COPY") {
        return None;
    }
    rows.parse().ok()
}

/// `ParameterStatus`: what a backslash means.
fn parameter(fields: &mut Fields<'_>, shared: &mut Shared) {
    if fields.text() == b"standard_conforming_strings" {
        shared.backslash_plain = Some(fields.text() != b"off");
    }
}
