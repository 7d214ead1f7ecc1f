//! FastCGI 1.0 (<https://fastcgi-archives.github.io/FastCGI_Specification.html>).
//!
//! In: the bytes of both directions. Out: an exchange per request, told apart by its id, in the words of HTTP. Never told: values of
//! other parameters than method, path, scheme and trace context; bodies; what is written to the error log.
//!
//! Written by hand: the crates for this protocol are servers or clients, which own their connection.
//!
//! A request lasts from `FCGI_BEGIN_REQUEST` to the end of its input, a response from its first record to `FCGI_END_REQUEST`. Its
//! status is that of its `Status` field, or 200 (RFC 3875, 6.3.3). A gap over records' headers hides at most records of a body,
//! since requests have ids; the next record is looked for where a call begins; of a request's input, its end.
//!
//! Limits: [`REQUESTS_MAX`] requests at a time, whose parameters and heads take at most [`KEPT_BYTES_MAX`] bytes.

mod record;
mod request;
mod response;

#[cfg(test)]
mod tests;

use self::{
    record::{Kind, Record},
    request::Parameters,
    response::{Head, Status},
};
use crate::{
    detect::Sign,
    frames::{Frame, Frames, Heard, Trail},
    session::{Boundary, Event, Facts, Input, Key, Outcome, Parser, Part, Side},
};

/// Most requests at a time; the oldest is no longer followed beyond that.
const REQUESTS_MAX: usize = 64;
/// Most bytes of parameters and heads of responses that wait for their ends.
const KEPT_BYTES_MAX: usize = 48 * 1024;

/// How a client's first bytes look.
pub fn check_client(bytes: &[u8]) -> Sign {
    record::check_client(bytes)
}

/// How a server's first bytes look.
pub fn check_server(bytes: &[u8]) -> Sign {
    record::check_server(bytes)
}

/// A new parser.
pub fn new() -> Box<dyn Parser> {
    Box::<FastCgi>::default()
}

/// Both directions of a connection.
#[derive(Debug, Default)]
struct FastCgi {
    client: Frames,
    server: Frames,
    exchanges: Exchanges,
    trail: Trail,
}

/// Requests in progress, the oldest first.
#[derive(Debug, Default)]
struct Exchanges {
    open: Vec<Exchange>,
}

#[derive(Debug, Default)]
struct Exchange {
    id: u16,
    /// Where the request began, and goes on so far; nothing if that was not seen.
    request: Option<(u64, u64)>,
    parameters: Parameters,
    /// Its parameters were told.
    told: bool,
    /// Authorizers get no input.
    input: bool,
    /// Its input ended.
    asked: bool,
    /// A gap hides where its input ends.
    hidden: bool,
    /// Where the response began.
    response: Option<u64>,
    head: Head,
}

impl Parser for FastCgi {
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>) {
        let Some(input) = self.search(from, input, out) else { return };
        let Self { client, server, exchanges, .. } = self;
        let (frames, resumes): (_, fn(&[u8]) -> bool) = match from {
            Side::Client => (client, |bytes| record::check_client(bytes) == Sign::Yes),
            Side::Server => (server, |bytes| record::check_server(bytes) == Sign::Yes),
        };
        let mut feed = frames.feed(input);
        while let Some(heard) = feed.next(|bytes| record::measure(bytes, from), resumes) {
            match heard {
                Heard::Frame(frame) => exchanges.frame(from, &frame, out),
                Heard::Lost { at, reason } => {
                    out.push(Event::Lost { from, at, reason });
                    exchanges.lose(from);
                }
            }
        }
    }

    fn pending_from(&self, from: Side) -> u64 {
        let open = self.exchanges.open.iter();
        match from {
            Side::Client => {
                open.filter_map(|it| it.request).map(|(start, _)| start).fold(self.client.pending_from(), u64::min)
            }
            Side::Server => open.filter_map(|it| it.response).fold(self.server.pending_from(), u64::min),
        }
    }
}

impl FastCgi {
    /// While it is not known where the client's records begin, the end of a lone request's input is looked for; what follows it
    /// is left.
    fn search<'a>(&mut self, from: Side, input: Input<'a>, out: &mut Vec<Event>) -> Option<Input<'a>> {
        let Self { client, exchanges, trail, .. } = self;
        let (Side::Client, Input::Bytes(bytes), Some(open)) = (from, input, exchanges.hidden(client.is_lost())) else {
            if from == Side::Client {
                trail.clear();
            }
            return Some(input);
        };
        let Some((used, ())) = trail.find(bytes, |last| record::ends_input(last, open.id)) else {
            client.skip(bytes);
            open.request = open.request.map(|(start, _)| (start, client.offset()));
            return None;
        };
        client.skip(&bytes[..used]);
        client.resume();
        open.request = open.request.map(|(start, _)| (start, client.offset()));
        let id = open.id;
        exchanges.finish_request(id, out);
        Some(Input::Bytes(&bytes[used..]))
    }
}

impl Exchanges {
    /// The only request whose input is in progress, if a gap hides how it goes on.
    fn hidden(&mut self, lost: bool) -> Option<&mut Exchange> {
        let mut going_on = self.open.iter_mut().filter(|open| open.hidden && !open.asked);
        going_on.next().filter(|_| lost && going_on.next().is_none())
    }

    fn frame(&mut self, from: Side, frame: &Frame<'_>, out: &mut Vec<Event>) {
        let Some(record) = Record::new(frame).filter(|record| record.id != 0) else { return };
        match from {
            Side::Client => self.client(&record, frame, out),
            Side::Server => self.server(&record, frame, out),
        }
        self.bound();
    }

    fn client(&mut self, record: &Record<'_>, frame: &Frame<'_>, out: &mut Vec<Event>) {
        if record.kind == Kind::BeginRequest {
            self.give_up(record.id, frame.start, out);
            let open = self.entry(record.id);
            open.input = record.content.get(1) != Some(&2);
            open.request = Some((frame.start, frame.end));
            return;
        }
        let Some(open) = self.find(record.id) else { return };
        let Some((_, end)) = &mut open.request else { return };
        *end = frame.end;
        match record.kind {
            Kind::Params if record.length > 0 => open.parameters.add(record.content, frame.hidden),
            Kind::Params => open.tell_request(out),
            Kind::Stdin if record.length == 0 => self.finish_request(record.id, out),
            _ => {}
        }
    }

    fn server(&mut self, record: &Record<'_>, frame: &Frame<'_>, out: &mut Vec<Event>) {
        if !matches!(record.kind, Kind::Stdout | Kind::Stderr | Kind::EndRequest) {
            return;
        }
        let open = self.entry(record.id);
        open.response.get_or_insert(frame.start);
        match record.kind {
            Kind::Stdout => open.head.add(record.content, frame.hidden),
            Kind::EndRequest => {
                self.finish_request(record.id, out);
                self.finish(record, frame, out);
            }
            _ => {}
        }
    }

    /// An id is used again: the end of the response to its older request was not seen, and never will be. What came of a
    /// response before any request is the new one's.
    fn give_up(&mut self, id: u16, end: u64, out: &mut Vec<Event>) {
        let Some(at) = self.open.iter().position(|open| open.id == id && open.request.is_some()) else { return };
        self.finish_request(id, out);
        let key = self.open.remove(at).key();
        out.push(Event::Cancelled { key, by: Side::Client, end, error_type: None });
    }

    /// The request is complete, or nothing more of it will come.
    fn finish_request(&mut self, id: u16, out: &mut Vec<Event>) {
        let Some(open) = self.find(id).filter(|open| !open.asked) else { return };
        open.tell_request(out);
        open.asked = true;
        if let Some((start, end)) = open.request.filter(|_| open.input) {
            let mut part = Part::whole(Side::Client, open.key(), start..end, Facts::default());
            if open.hidden {
                part.boundary = Boundary::Inferred;
            }
            out.push(Event::Part(part));
        }
    }

    fn finish(&mut self, record: &Record<'_>, frame: &Frame<'_>, out: &mut Vec<Event>) {
        let Some(at) = self.open.iter().position(|open| open.id == record.id) else { return };
        let open = self.open.remove(at);
        let facts = match record.content.get(4) {
            Some(1) => Facts::default().outcome(Outcome::Error("cant_mpx_conn".into())),
            Some(2) => Facts::default().outcome(Outcome::Error("overloaded".into())),
            Some(3) => Facts::default().outcome(Outcome::Error("unknown_role".into())),
            _ => status(open.head.status()),
        };
        let start = open.response.unwrap_or(frame.start);
        out.push(Event::Part(Part::whole(Side::Server, open.key(), start..frame.end, facts)));
    }

    fn find(&mut self, id: u16) -> Option<&mut Exchange> {
        self.open.iter_mut().find(|open| open.id == id)
    }

    fn entry(&mut self, id: u16) -> &mut Exchange {
        let at = self.open.iter().position(|open| open.id == id).unwrap_or_else(|| {
            self.open.push(Exchange { id, ..Exchange::default() });
            self.open.len() - 1
        });
        &mut self.open[at]
    }

    /// Keeps to the limits.
    fn bound(&mut self) {
        let bytes = |open: &[Exchange]| open.iter().map(|it| it.parameters.bytes() + it.head.bytes()).sum::<usize>();
        while self.open.len() > REQUESTS_MAX || (self.open.len() > 1 && bytes(&self.open) > KEPT_BYTES_MAX) {
            self.open.remove(0);
        }
    }

    /// What was hidden may have been anything of any request in progress.
    fn lose(&mut self, from: Side) {
        for open in &mut self.open {
            match from {
                Side::Client => {
                    open.parameters.hide();
                    open.hidden = !open.asked;
                }
                Side::Server => open.head.hide(),
            }
        }
    }
}

impl Exchange {
    fn key(&self) -> Key {
        Key::Id(self.id.into())
    }

    /// All parameters are here.
    fn tell_request(&mut self, out: &mut Vec<Event>) {
        let Some((start, end)) = self.request.filter(|_| !std::mem::replace(&mut self.told, true)) else { return };
        let part = Part::whole(Side::Client, self.key(), start..end, self.parameters.facts());
        out.push(Event::Part(if self.input { part.open() } else { part }));
        self.asked |= !self.input;
    }
}

fn status(status: Status) -> Facts {
    let Status::Said(status) = status else { return Facts::default() };
    let facts = Facts::default().with("http.response.status_code", u32::from(status));
    facts.outcome(match status {
        400..500 => Outcome::ClientError(status.to_string().into()),
        500.. => Outcome::Error(status.to_string().into()),
        _ => Outcome::Ok,
    })
}
