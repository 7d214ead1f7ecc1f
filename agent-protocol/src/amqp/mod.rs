//! AMQP 0-9-1, as RabbitMQ speaks it: what clients ask of connection, channels, exchanges and queues, and messages both ways.
//!
//! In: both directions. Out: a request and its answer per channel and method; a message that is published or delivered, from its
//! method to the last byte of its body, is one-way, and one that is got belongs to the answer. When the server closes a channel
//! or the connection, that is the answer to the request that caused it, and what else waits there is cancelled.
//! Acknowledgements and heartbeats are no spans. Never keeps bodies, properties other than `traceparent`, texts of replies, or what a login says.
//!
//! Not known: which messages the server's confirmations are about: a message is told when it is sent, and only its return or
//! refusal when that comes.
//!
//! Written by hand: the published parsers (`amq-protocol`) want frames that were captured as a whole.
//!
//! What is not understood is lost and never said to be another protocol's: a late join may begin within a message. After a loss
//! what waits is given up, since answers carry no numbers.
//!
//! Limits: [`METHOD_BYTES_MAX`] of a method and [`HEADER_BYTES_MAX`] of a header are read, nothing of bodies; messages on
//! [`CONTENTS_MAX`] channels at a time; the kinds of requests that wait ([`asked`]).

mod asked;
mod content;
mod error;
mod method;

use std::borrow::Cow;

use self::{
    asked::Waiting,
    method::{Close, Id},
};
use crate::{
    detect::Sign,
    fields::{Fields, name},
    frames::{Frame, Frames, Heard, Measure},
    session::{Boundary, Event, Facts, Input, Key, Kind, Lost, Outcome, Parser, Part, Side, Texts},
};

/// Most bytes that are read of a method's frame.
const METHOD_BYTES_MAX: usize = 1024;
/// Most bytes that are read of a content header's frame.
const HEADER_BYTES_MAX: usize = 4096;
/// Most messages of which parts are to come, on each side; the oldest of more is told as if it ended.
const CONTENTS_MAX: usize = 64;
/// Longest frame; 128 KiB is usual.
const FRAME_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Type, channel and size.
const FRAME_HEADER_BYTES: usize = 7;
const FRAME_END: u8 = 0xce;
/// What clients send first.
const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";
/// Stands for [`PROTOCOL_HEADER`] as what is asked.
const HELLO: Id = Id(0, 0);

/// Types of frames.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// Both directions of a connection.
#[derive(Debug, Default)]
pub struct Amqp {
    client: Direction,
    server: Direction,
    waiting: Waiting,
    /// Exchanges, queues, routing keys, and names of spans.
    texts: Texts,
}

#[derive(Debug, Default)]
struct Direction {
    frames: Frames,
    /// Messages of which parts are to come.
    contents: Vec<Content>,
}

/// A message in progress.
#[derive(Debug)]
struct Content {
    channel: u16,
    start: u64,
    /// What of its body is to come; `None` before its header.
    left: Option<u64>,
    /// The request that it is the answer to; `None`: it is one-way.
    answers: Option<Key>,
    facts: Facts,
}

impl Content {
    /// As what is told.
    fn part(self, from: Side, end: u64) -> Part {
        match self.answers {
            Some(key) => Part::whole(from, key, self.start..end, self.facts),
            None => Part::one_way(from, self.start..end, self.facts),
        }
    }
}

impl Parser for Amqp {
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>) {
        let mut frames = std::mem::take(&mut self.direction(from).frames);
        let mut feed = frames.feed(input);
        while let Some(heard) = feed.next(measure, |bytes| check(bytes, from) == Sign::Yes) {
            match heard {
                Heard::Frame(frame) => {
                    let _: Option<()> = self.frame(from, &frame, out);
                }
                Heard::Lost { at, reason } => {
                    out.push(Event::Lost { from, at, reason });
                    self.lost(from, at, out);
                }
            }
        }
        self.direction(from).frames = frames;
    }

    fn pending_from(&self, from: Side) -> u64 {
        let direction = match from {
            Side::Client => &self.client,
            Side::Server => &self.server,
        };
        let contents = direction.contents.iter().map(|content| content.start);
        contents.min().map_or(direction.frames.pending_from(), |start| start.min(direction.frames.pending_from()))
    }
}

impl Amqp {
    const fn direction(&mut self, from: Side) -> &mut Direction {
        match from {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Framing was lost on one side: requests or answers may have been among it, so nobody knows what answers what waits.
    fn lost(&mut self, from: Side, at: u64, out: &mut Vec<Event>) {
        let contents = std::mem::take(&mut self.direction(from).contents);
        let answers = contents.into_iter().filter_map(|content| content.answers);
        cancel(answers.chain(self.waiting.drain(None)), from, at, None, out);
    }

    /// A request's key; what is given up for it has an unknown end.
    fn ask(&mut self, channel: u16, id: Id, frame: &Frame<'_>, out: &mut Vec<Event>) -> Key {
        let mut given_up = Vec::new();
        let key = self.waiting.ask(channel, id, &mut given_up);
        cancel(given_up, Side::Client, frame.start, None, out);
        key
    }

    /// What a frame was about, on a channel, is not known: it may have asked or answered something, or begun a message.
    fn hidden(&mut self, from: Side, channel: u16, frame: &Frame<'_>, out: &mut Vec<Event>) {
        let reason = if frame.hidden { Lost::Gap } else { Lost::Malformed };
        out.push(Event::Lost { from, at: frame.start, reason });
        self.drop_content(from, channel, frame.start, out);
        cancel(self.waiting.drain(Some(channel)), from, frame.start, None, out);
    }

    /// The rest of a message is not going to be seen; answers whether there was one.
    fn drop_content(&mut self, from: Side, channel: u16, end: u64, out: &mut Vec<Event>) -> bool {
        let contents = &mut self.direction(from).contents;
        let Some(at) = contents.iter().position(|content| content.channel == channel) else { return false };
        cancel(contents.remove(at).answers, from, end, None, out);
        true
    }

    /// `None` if the frame says nothing.
    fn frame(&mut self, from: Side, frame: &Frame<'_>, out: &mut Vec<Event>) -> Option<()> {
        if frame.kept.starts_with(b"AMQP") {
            let key = self.ask(0, HELLO, frame, out);
            let facts = content::system("connection.start");
            out.push(Event::Part(Part::whole(from, key, frame.start..frame.end, facts)));
            return Some(());
        }
        let mut fields = Fields(frame.kept);
        let (kind, channel, size) = (fields.u8()?, fields.u16()?, fields.u32()?);
        // Without the octet that ends every frame.
        let payload = fields.take_captured(size as usize);
        match kind {
            METHOD => {
                let mut fields = Fields(payload);
                let Some(id) = Id::take(&mut fields) else {
                    self.hidden(from, channel, frame, out);
                    return None;
                };
                match from {
                    Side::Client => self.client_method(channel, id, fields, frame, out),
                    Side::Server => self.server_method(channel, id, fields, frame, out),
                }
            }
            HEADER => self.header(from, channel, payload, frame, out),
            BODY => self.body(from, channel, size.into(), frame, out),
            _ => None,
        }
    }

    fn client_method(
        &mut self,
        channel: u16,
        id: Id,
        fields: Fields<'_>,
        frame: &Frame<'_>,
        out: &mut Vec<Event>,
    ) -> Option<()> {
        if id == method::PUBLISH {
            let facts = content::facts(id, fields, &mut self.texts);
            self.begin(Side::Client, channel, frame, None, facts, out);
            return Some(());
        }
        let request = id.request()?;
        let mut facts = content::system(request.name);
        let asked = request.read(fields);
        match id {
            method::GET => {
                facts.set("messaging.operation.type", "receive");
                facts.kind = Kind::Consume;
            }
            method::REJECT | method::NACK => facts.set("messaging.operation.type", "settle"),
            _ => {}
        }
        if let Some(destination) = asked.destination.and_then(name) {
            content::set_destination(&mut facts, destination, &mut self.texts);
        }
        let range = frame.start..frame.end;
        let part = if asked.no_wait {
            Part::one_way(Side::Client, range, facts)
        } else {
            Part::whole(Side::Client, self.ask(channel, id, frame, out), range, facts)
        };
        out.push(Event::Part(part));
        Some(())
    }

    fn server_method(
        &mut self,
        channel: u16,
        id: Id,
        fields: Fields<'_>,
        frame: &Frame<'_>,
        out: &mut Vec<Event>,
    ) -> Option<()> {
        let range = frame.start..frame.end;
        match id {
            method::DELIVER => {
                let facts = content::facts(id, fields, &mut self.texts);
                self.begin(Side::Server, channel, frame, None, facts, out);
            }
            method::RETURN => {
                let code = fields.clone().u16();
                let mut facts = content::facts(id, fields, &mut self.texts);
                facts.outcome = code.map(error::outcome);
                self.begin(Side::Server, channel, frame, None, facts, out);
            }
            method::GET_OK => {
                let key = self.waiting.answer(channel, method::GET);
                let facts = content::got(fields, &mut self.texts);
                self.begin(Side::Server, channel, frame, Some(key), facts, out);
            }
            method::GET_EMPTY => {
                let mut part = self.answer(channel, method::GET, frame);
                part.facts.set("messaging.batch.message_count", 0_u64);
                out.push(Event::Part(part));
            }
            method::CONNECTION_CLOSE | method::CHANNEL_CLOSE => {
                let Some(close) = Close::read(fields) else {
                    self.hidden(Side::Server, channel, frame, out);
                    return None;
                };
                let closed = (id == method::CHANNEL_CLOSE).then_some(channel);
                self.close(closed, closed.unwrap_or(0), close, frame, out);
            }
            method::START | method::SECURE | method::TUNE => {
                let asked = match id {
                    method::START => HELLO,
                    _ if self.waiting.waits(channel, method::SECURE_OK) => method::SECURE_OK,
                    _ => method::START_OK,
                };
                out.push(Event::Part(self.answer(channel, asked, frame)));
            }
            _ => match (id.answered(), id.told()) {
                (Some(asked), _) => {
                    let part = self.answer(channel, asked, frame);
                    out.push(Event::Part(part));
                }
                (None, Some(told)) => {
                    out.push(Event::Part(Part::one_way(Side::Server, range, content::system(told))));
                }
                (None, None) => {}
            },
        }
        Some(())
    }

    fn answer(&mut self, channel: u16, asked: Id, frame: &Frame<'_>) -> Part {
        let facts = Facts::default().outcome(Outcome::Ok);
        Part::whole(Side::Server, self.waiting.answer(channel, asked), frame.start..frame.end, facts)
    }

    /// The server closes a channel, or (`None`) the connection. What it says is the answer to the request that caused it, if one
    /// waits: the one that it names, or else the oldest; nothing else that waits there is answered.
    fn close(&mut self, closed: Option<u16>, channel: u16, close: Close, frame: &Frame<'_>, out: &mut Vec<Event>) {
        let (range, outcome) = (frame.start..frame.end, error::outcome(close.code));
        let named = self.waiting.waits(channel, close.cause).then_some(close.cause);
        // A message that was published is no request: who else waits has no part in it.
        let cause = named.or_else(|| if close.cause == method::PUBLISH { None } else { self.waiting.oldest(channel) });
        if let Some(cause) = cause {
            let key = self.waiting.answer(channel, cause);
            out.push(Event::Part(Part::whole(Side::Server, key, range, Facts::default().outcome(outcome))));
        } else {
            let told = if closed.is_some() { "channel.close" } else { "connection.close" };
            let facts = content::system(told).outcome(outcome);
            out.push(Event::Part(Part::one_way(Side::Server, range, facts)));
        }
        cancel(self.waiting.drain(closed), Side::Server, frame.end, Some(&error::name(close.code)), out);
    }

    /// A message begins.
    fn begin(
        &mut self,
        from: Side,
        channel: u16,
        frame: &Frame<'_>,
        answers: Option<Key>,
        facts: Facts,
        out: &mut Vec<Event>,
    ) {
        // One that was not complete on the same channel never will be.
        if self.drop_content(from, channel, frame.start, out) {
            out.push(Event::Lost { from, at: frame.start, reason: Lost::Malformed });
        }
        let contents = &mut self.direction(from).contents;
        if contents.len() >= CONTENTS_MAX {
            let part = contents.remove(0).part(from, frame.start);
            out.push(Event::Part(Part { boundary: Boundary::Inferred, ..part }));
        }
        contents.push(Content { channel, start: frame.start, left: None, answers, facts });
    }

    fn header(
        &mut self,
        from: Side,
        channel: u16,
        payload: &[u8],
        frame: &Frame<'_>,
        out: &mut Vec<Event>,
    ) -> Option<()> {
        let contents = &mut self.direction(from).contents;
        let at = contents.iter().position(|content| content.channel == channel)?;
        let Some(header) = content::Header::read(payload) else {
            // Where the message ends is not known.
            let reason = if frame.hidden { Lost::Gap } else { Lost::Malformed };
            out.push(Event::Lost { from, at: frame.start, reason });
            self.drop_content(from, channel, frame.start, out);
            return None;
        };
        let content = &mut contents[at];
        // One that was got is in its sender's trace, and the request for it is not.
        content.facts.trace = header.trace.filter(|_| content.answers.is_none());
        content.facts.set("messaging.message.body.size", header.body_bytes);
        content.left = Some(header.body_bytes);
        self.end(from, at, frame, out);
        Some(())
    }

    fn body(&mut self, from: Side, channel: u16, size: u64, frame: &Frame<'_>, out: &mut Vec<Event>) -> Option<()> {
        let contents = &mut self.direction(from).contents;
        let at = contents.iter().position(|content| content.channel == channel)?;
        let left = contents[at].left.as_mut()?;
        *left = left.saturating_sub(size);
        self.end(from, at, frame, out);
        Some(())
    }

    /// Tells the message if nothing more of it is to come.
    fn end(&mut self, from: Side, at: usize, frame: &Frame<'_>, out: &mut Vec<Event>) {
        let contents = &mut self.direction(from).contents;
        if contents[at].left == Some(0) {
            out.push(Event::Part(contents.remove(at).part(from, frame.end)));
        }
    }
}

/// Tells that these are not going to be answered.
fn cancel(
    keys: impl IntoIterator<Item = Key>,
    by: Side,
    end: u64,
    error_type: Option<&Cow<'static, str>>,
    out: &mut Vec<Event>,
) {
    out.extend(keys.into_iter().map(|key| Event::Cancelled { key, by, end, error_type: error_type.cloned() }));
}

fn measure(bytes: &[u8]) -> Measure {
    if bytes.first() == Some(&b'A') {
        return match bytes.first_chunk::<8>() {
            None if PROTOCOL_HEADER.starts_with(bytes) => Measure::More,
            Some(&PROTOCOL_HEADER) => Measure::whole(PROTOCOL_HEADER.len() as u64),
            _ => Measure::Malformed,
        };
    }
    let Some([kind, _, _, size @ ..]) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else { return Measure::More };
    let size = u32::from_be_bytes(*size);
    let keep = match *kind {
        METHOD => METHOD_BYTES_MAX,
        HEADER => HEADER_BYTES_MAX,
        BODY | HEARTBEAT => FRAME_HEADER_BYTES,
        _ => return Measure::Malformed,
    };
    if size > FRAME_BYTES_MAX {
        return Measure::Malformed;
    }
    Measure::Frame { bytes: FRAME_HEADER_BYTES as u64 + u64::from(size) + 1, keep }
}

/// How a client's first bytes look.
pub(crate) fn check_client(bytes: &[u8]) -> Sign {
    check(bytes, Side::Client)
}

/// How a server's first bytes look.
pub(crate) fn check_server(bytes: &[u8]) -> Sign {
    check(bytes, Side::Server)
}

/// The protocol header, or a whole frame of a method that this side may send, or of a content header, or a heartbeat.
fn check(bytes: &[u8], from: Side) -> Sign {
    if bytes.first() == Some(&b'A') && from == Side::Client {
        return match bytes.first_chunk::<8>() {
            None if PROTOCOL_HEADER.starts_with(bytes) => Sign::Partial,
            Some(&PROTOCOL_HEADER) => Sign::Yes,
            _ => Sign::No,
        };
    }
    let Some((head, payload)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        // No frame that is recognised is longer than 64 KiB.
        let fits = matches!(bytes, [METHOD | HEADER | HEARTBEAT] | [METHOD | HEADER | HEARTBEAT, _, ..]);
        return if fits && bytes.get(3..5).is_none_or(|high| high == [0, 0]) { Sign::Partial } else { Sign::No };
    };
    let [kind, channel @ .., _, _, _, _] = *head;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let mut fields = Fields(payload);
    let fits = match kind {
        METHOD if (4..=METHOD_BYTES_MAX * 8).contains(&size) => Id::take(&mut fields).map(|id| id.is_of(from)),
        // The class, always `basic`, and a weight of 0.
        HEADER if (14..=HEADER_BYTES_MAX * 4).contains(&size) => fields.u32().map(|class| class == 60 << 16),
        HEARTBEAT => Some(channel == [0, 0] && size == 0),
        _ => Some(false),
    };
    match (fits, payload.get(size)) {
        (Some(false), _) => Sign::No,
        (Some(true), Some(&FRAME_END)) => Sign::Yes,
        (_, Some(_)) => Sign::No,
        (_, None) => Sign::Partial,
    }
}

#[cfg(test)]
mod tests;
