//! memcached: the text protocol with its meta commands
//! (<https://github.com/memcached/memcached/blob/master/doc/protocol.txt>), and the binary one.
//!
//! In: the bytes of both directions. Out: a request per command and its answer, in order; a `get` of many keys is one request.
//! What `noreply` is said to is a message without an answer. A quiet command has a number of its own: it is answered only
//! with news (a hit, an error), and that there was none shows the answer to a later command, with which it then ends.
//! Misses, and conditions that did not hold, are no errors. Never told: keys, values, flags.
//!
//! Hand-written, for lack of a crate that reads both directions, and all three dialects, from pieces.
//!
//! After a gap over a list of keys, or over the length of a further value, a lone request or answer ends with the gap
//! (inferred); further bytes of the answer are passed over until the next request.

mod binary;
mod pending;
mod request;
mod response;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use self::{
    pending::{Owner, Pending},
    request::{Answered, Request, Requests},
    response::{Response, Responses},
};
use crate::{
    detect::Sign,
    frames::{Frames, Heard, Measure},
    session::{Boundary, Event, Facts, Input, Key, Lost, Outcome, Parser, Part, Side},
};

/// Longest line, its end included. Keys have at most 250 bytes; lists of keys are taken word by word.
const LINE_BYTES_MAX: usize = 2048;
/// Longest value (the server's own limit of `-I`).
const VALUE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// How the first bytes look, if they are a client's.
pub fn check_client(bytes: &[u8]) -> Sign {
    request::check(bytes)
}

/// How the first bytes look, if they are a server's.
pub fn check_server(bytes: &[u8]) -> Sign {
    response::check(bytes)
}

/// A new parser.
pub fn new() -> Box<dyn Parser> {
    Box::<Memcached>::default()
}

/// A line, and behind it a value of that many bytes with its own end of line.
fn with_value(line_bytes: usize, value_bytes: u64) -> Measure {
    if value_bytes > VALUE_BYTES_MAX {
        return Measure::Malformed;
    }
    Measure::Frame { bytes: line_bytes as u64 + value_bytes + 2, keep: line_bytes }
}

/// A number for bytes that are only compared (FNV-1a).
fn tag(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Both directions of a connection.
#[derive(Debug, Default)]
struct Memcached {
    client: Frames,
    server: Frames,
    requests: Requests,
    responses: Responses,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    pending: Pending,
    /// Since the server's framing was lost no request came.
    unasked: bool,
    /// Something was told.
    said: bool,
    /// It is not memcached.
    silent: bool,
}

impl Parser for Memcached {
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>) {
        match from {
            Side::Client => self.client(input, out),
            Side::Server => self.server(input, out),
        }
    }

    fn pending_from(&self, from: Side) -> u64 {
        let (frames, open) = match from {
            Side::Client => (&self.client, self.requests.open_from()),
            Side::Server => (&self.server, self.responses.open_from()),
        };
        open.unwrap_or(frames.pending_from())
    }
}

impl Memcached {
    fn client(&mut self, input: Input<'_>, out: &mut Vec<Event>) {
        let Self { client, requests, state, .. } = self;
        let end = client.offset().saturating_add(input.length());
        let mut feed = client.feed(input);
        loop {
            let measure = |bytes: &[u8]| if state.silent { Measure::Malformed } else { requests.measure(bytes) };
            let resumes = |bytes: &[u8]| !state.silent && matches!(check_client(bytes), Sign::Yes | Sign::Likely);
            match feed.next(measure, resumes) {
                None => return,
                Some(Heard::Frame(frame)) => {
                    if let Some(request) = requests.take(frame.start, frame.kept) {
                        state.request(&request, frame.end, out);
                    }
                }
                Some(Heard::Lost { at, reason }) => state.client_lost(requests.abandon(), (at, end), reason, out),
            }
        }
    }

    fn server(&mut self, input: Input<'_>, out: &mut Vec<Event>) {
        let Self { server, responses, state, .. } = self;
        let end = server.offset().saturating_add(input.length());
        let mut feed = server.feed(input);
        loop {
            let measure = |bytes: &[u8]| if state.silent { Measure::Malformed } else { response::measure(bytes) };
            let resumes = |bytes: &[u8]| {
                !state.silent && !state.unasked && matches!(check_server(bytes), Sign::Yes | Sign::Likely)
            };
            match feed.next(measure, resumes) {
                None => return,
                Some(Heard::Frame(frame)) => {
                    if let Some(response) = responses.take(frame.start, frame.kept) {
                        state.response(response, frame.end, out);
                    }
                }
                Some(Heard::Lost { at, reason }) => state.server_lost(responses.abandon(), (at, end), reason, out),
            }
        }
    }
}

impl State {
    fn request(&mut self, request: &Request, end: u64, out: &mut Vec<Event>) {
        self.unasked = false;
        self.said = true;
        let (range, mut facts) = (request.start..end, facts(request));
        let (key, given_up) = match request.answer {
            Answered::Never => {
                out.push(Event::Part(Part::one_way(Side::Client, range, facts)));
                return;
            }
            Answered::Always if request.name == "mn" => (Key::InOrder, self.pending.push_noop()),
            Answered::Always => (Key::InOrder, self.pending.push_plain()),
            Answered::IfNews(tag) => {
                // Silence is the good news.
                facts.may_go_early = true;
                let (id, given_up) = self.pending.push_quiet(tag);
                (Key::Id(id), given_up)
            }
        };
        out.extend(given_up.map(|id| cancelled(id, 0)));
        out.push(Event::Part(Part::whole(Side::Client, key, range, facts)));
    }

    fn response(&mut self, response: Response, end: u64, out: &mut Vec<Event>) {
        self.said = true;
        let range = response.start..end;
        let answer = |key, facts| Part::whole(Side::Server, key, range.clone(), facts);
        let owner = self.pending.answer(response.is_noop, response.tags, |id| {
            // No news: a miss, or success. What says so is the answer to another one.
            let facts = Facts::default().outcome(Outcome::Ok);
            out.push(Event::Part(Part { boundary: Boundary::Inferred, ..answer(Key::Id(id), facts) }));
        });
        let key = match owner {
            Owner::Plain => Key::InOrder,
            Owner::Quiet(id) => Key::Id(id),
        };
        let facts = match response.error {
            None => Facts::default().outcome(Outcome::Ok),
            Some((status, is_servers)) => failed(status, is_servers),
        };
        out.push(Event::Part(answer(key, facts)));
    }

    fn client_lost(&mut self, open: Option<Request>, (at, end): (u64, u64), reason: Lost, out: &mut Vec<Event>) {
        if self.silent {
            return;
        }
        if !self.said && reason == Lost::Malformed {
            self.silent = true;
            out.push(Event::NotMine);
            return;
        }
        self.said = true;
        if let Some(mut request) = open.filter(|_| reason == Lost::Gap && self.pending.count() == 0) {
            // How many keys it has is not known.
            request.keys = 1;
            self.request(&request, end, out);
            infer(out);
        }
        out.push(Event::Lost { from: Side::Client, at, reason });
    }

    fn server_lost(&mut self, open: Option<u64>, (at, end): (u64, u64), reason: Lost, out: &mut Vec<Event>) {
        if self.silent {
            return;
        }
        self.said = true;
        if let Some(start) = open.filter(|_| reason == Lost::Gap && self.pending.count() == 1) {
            self.response(Response { start, ..Response::default() }, end, out);
            infer_answer(out);
        }
        out.extend(self.pending.clear().map(|id| cancelled(id, at)));
        self.unasked = true;
        out.push(Event::Lost { from: Side::Server, at, reason });
    }
}

/// A quiet request of which nobody will ever know more.
const fn cancelled(id: u64, end: u64) -> Event {
    Event::Cancelled { key: Key::Id(id), by: Side::Server, end, error_type: None }
}

/// The last part is an answer whose end was not seen: it may be an error, or hold one.
fn infer_answer(out: &mut [Event]) {
    infer(out);
    if let Some(Event::Part(part)) = out.last_mut() {
        part.facts.outcome = None;
    }
}

/// The last part's end was not seen.
fn infer(out: &mut [Event]) {
    if let Some(Event::Part(part)) = out.last_mut() {
        part.boundary = Boundary::Inferred;
    }
}

fn facts(request: &Request) -> Facts {
    let facts = Facts::named(request.name);
    let facts = facts.with("db.system.name", "memcached").with("db.operation.name", request.name);
    if request.keys > 1 { facts.with("db.operation.batch.size", request.keys) } else { facts }
}

fn failed(status: String, is_servers: bool) -> Facts {
    let facts = Facts::default().with("db.response.status_code", status.clone());
    let status = Cow::Owned(status);
    facts.outcome(if is_servers { Outcome::Error(status) } else { Outcome::ClientError(status) })
}
