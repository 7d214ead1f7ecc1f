//! MongoDB's wire protocol: commands and their answers by request id, in OP_MSG, OP_COMPRESSED and, of old, OP_QUERY.
//!
//! In: both directions. Out: a command and its answer per request id, with the command's name, collection and database, and the
//! code of what failed, errors of single writes included. A write that asks for no acknowledgement is one-way. Several answers to
//! one request extend each other; only those that a driver's monitor gets to `hello` for the connection's whole life are
//! one-way after the first. Compressed messages (snappy, zlib, zstd) are opened as far as they were captured. Never keeps values:
//! of documents only names, numbers of errors and the collection's and database's names are read, on the top level, and of
//! failed operations of a write.
//!
//! Written by hand: the `bson` crate reads only documents that were captured as a whole.
//!
//! What is not understood is lost and never said to be another protocol's: a late join may begin within a message.
//!
//! Limits: [`MESSAGE_BYTES_MAX`] of a message are read, [`STREAMS_MAX`] requests have several answers at a time.

mod bson;
mod command;
mod message;
mod reply;

use std::collections::VecDeque;

use self::{
    message::{Body, Header},
    reply::Reply,
};
use crate::{
    detect::Sign,
    frames::{Frame, Frames, Heard, Measure},
    session::{Event, Facts, Input, Key, Parser, Part, Side, Texts},
    unpack::Budget,
};

/// Most bytes that are read of a message.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Longest message that is recognised: its length's last byte is 0.
const RECOGNISED_BYTES_MAX: u32 = (1 << 24) - 1;
/// Most requests that get several answers at a time; of more the later answers are not known to belong to them.
const STREAMS_MAX: usize = 16;
/// Most `bulkWrite`s at a time that are known when they are answered.
const BULK_WRITES_MAX: usize = 64;

/// Both directions of a connection.
#[derive(Debug, Default)]
pub struct Mongodb {
    client: Frames,
    server: Frames,
    streams: VecDeque<Stream>,
    /// Ids of requests.
    bulk_writes: VecDeque<u32>,
    budget: Budget,
    /// Commands, collections, databases, and names of spans.
    texts: Texts,
}

/// Answers that follow each other.
#[derive(Clone, Copy, Debug)]
struct Stream {
    request: u32,
    last_answer: u32,
    hello: bool,
}

impl Stream {
    /// Servers name the answer before as what the next one answers; some name the request again.
    const fn is_continued_by(&self, answers: u32) -> bool {
        self.last_answer == answers || self.request == answers
    }
}

impl Parser for Mongodb {
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>) {
        let side = match from {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        let mut frames = std::mem::take(side);
        let mut feed = frames.feed(input);
        let resumes = |bytes: &[u8]| check(bytes, from) == Sign::Yes;
        while let Some(heard) = feed.next(measure, resumes) {
            match heard {
                Heard::Frame(frame) => self.message(from, &frame, out),
                Heard::Lost { at, reason } => out.push(Event::Lost { from, at, reason }),
            }
        }
        match from {
            Side::Client => self.client = frames,
            Side::Server => self.server = frames,
        }
    }

    fn pending_from(&self, from: Side) -> u64 {
        match from {
            Side::Client => self.client.pending_from(),
            Side::Server => self.server.pending_from(),
        }
    }
}

impl Mongodb {
    fn message(&mut self, from: Side, frame: &Frame<'_>, out: &mut Vec<Event>) {
        let Some(header) = Header::read(frame.kept) else { return };
        let captured = &frame.kept[message::HEADER_BYTES..];
        let unpacked =
            (header.opcode == message::OP_COMPRESSED).then(|| message::unpacked(captured, &mut self.budget)).flatten();
        let (opcode, captured) = match &unpacked {
            Some((opcode, bytes)) => (*opcode, &bytes[..]),
            None => (header.opcode, captured),
        };
        let body = Body::read(opcode, captured);
        out.push(Event::Part(match from {
            Side::Client => {
                if command::is_bulk_write(&body) && !body.more_to_come {
                    self.bulk_writes.push_back(header.id);
                    let more = self.bulk_writes.len().saturating_sub(BULK_WRITES_MAX);
                    self.bulk_writes.drain(..more);
                }
                request(&header, opcode, &body, frame, &mut self.texts)
            }
            Side::Server => self.answer(&header, opcode, &body, frame),
        }));
    }

    fn answer(&mut self, header: &Header, opcode: u32, body: &Body<'_>, frame: &Frame<'_>) -> Part {
        let bulk = self.bulk_writes.iter().position(|id| *id == header.answers);
        let bulk = bulk.and_then(|at| self.bulk_writes.remove(at)).is_some();
        let reply = Reply::read(opcode, body, bulk);
        let before = self.streams.iter().position(|stream| stream.is_continued_by(header.answers));
        let before = before.and_then(|at| self.streams.remove(at));
        let request = before.map_or(header.answers, |stream| stream.request);
        let hello = before.map_or(reply.hello, |stream| stream.hello);
        if body.more_to_come {
            if self.streams.len() >= STREAMS_MAX {
                self.streams.pop_front();
            }
            self.streams.push_back(Stream { request, last_answer: header.id, hello });
        }
        let range = frame.start..frame.end;
        if hello && before.is_some() {
            let facts = Facts::named("hello").with("db.system.name", "mongodb").with("db.operation.name", "hello");
            return Part::one_way(Side::Server, range, facts);
        }
        let part = Part::whole(Side::Server, Key::Id(request.into()), range, reply.facts());
        if body.more_to_come && !hello { part.open() } else { part }
    }
}

fn request(header: &Header, opcode: u32, body: &Body<'_>, frame: &Frame<'_>, texts: &mut Texts) -> Part {
    let facts = command::facts(opcode, body, texts);
    let range = frame.start..frame.end;
    let unanswered =
        matches!(opcode, message::OP_UPDATE | message::OP_INSERT | message::OP_DELETE | message::OP_KILL_CURSORS);
    if body.more_to_come || unanswered {
        return Part::one_way(Side::Client, range, facts);
    }
    Part::whole(Side::Client, Key::Id(header.id.into()), range, facts)
}

fn measure(bytes: &[u8]) -> Measure {
    match Header::read(bytes) {
        None => Measure::More,
        Some(header) if header.is_plausible() => {
            Measure::Frame { bytes: header.length.into(), keep: MESSAGE_BYTES_MAX }
        }
        Some(_) => Measure::Malformed,
    }
}

/// How a client's first bytes look.
pub(crate) fn check_client(bytes: &[u8]) -> Sign {
    check(bytes, Side::Client)
}

/// How a server's first bytes look.
pub(crate) fn check_server(bytes: &[u8]) -> Sign {
    check(bytes, Side::Server)
}

/// A message with a plausible header and begin, whose id of what it answers is zero in requests only.
fn check(bytes: &[u8], from: Side) -> Sign {
    let Some(header) = Header::read(bytes) else {
        // Opcodes are below 2^11.
        let odd = bytes.get(3).is_some_and(|high| *high > 0) || bytes.get(13).is_some_and(|high| *high > 7);
        return if odd { Sign::No } else { Sign::Partial };
    };
    if !header.is_plausible() || header.length > RECOGNISED_BYTES_MAX || (header.answers == 0) != (from == Side::Client)
    {
        return Sign::No;
    }
    if (header.opcode == message::OP_REPLY) && from == Side::Client {
        return Sign::No;
    }
    match message::looks_like_body(header.opcode, &bytes[message::HEADER_BYTES..]) {
        None => Sign::Partial,
        Some(false) => Sign::No,
        Some(true) => Sign::Yes,
    }
}

#[cfg(test)]
mod tests;
