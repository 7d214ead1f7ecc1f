//! Cassandra's native protocol (CQL), versions 3 to 5: requests and their answers by stream.
//!
//! In: both directions. Out: a request and its answer per stream, with the statement without its literals, keyspace,
//! consistency and error codes; what servers tell unasked is one-way. Version 5's segments, and compressed bodies and segments
//! (LZ4, and Snappy before version 5), are opened where they were captured as a whole. Never keeps literals, values or what a login says.
//!
//! Not known: what a prepared statement does that another connection prepared; the statements of a batch. Checksums of payloads are
//! not checked.
//!
//! A stream that is used again ends its older request, whose answer was not seen.
//!
//! What is not understood is lost and never said to be another protocol's: a late join may begin within a message.
//!
//! Limits: [`REQUEST_BYTES_MAX`] of a frame are read; of a segment what [`crate::frames`] keeps; the statements of [`statements`].

mod frame;
mod reply;
mod request;
mod segment;
mod statements;

use std::collections::BTreeSet;

use self::{
    frame::Header,
    request::Context,
    segment::{Found, Header as Segment},
};
use crate::{
    detect::Sign,
    frames::{Frame, Frames, Heard, Measure},
    session::{Event, Facts, Input, Key, Lost, Parser, Part, Side},
    unpack::Budget,
};

/// Most bytes that are read of a request or an answer.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Longest frame that is recognised at a begin.
const RECOGNISED_BYTES_MAX: u32 = 1 << 24;
/// Most streams with a request that are known at a time.
const OPEN_MAX: usize = 2048;

/// Both directions of a connection.
#[derive(Debug, Default)]
pub struct Cassandra {
    client: Direction,
    server: Direction,
    context: Context,
    /// Streams whose requests are not answered.
    open: BTreeSet<i16>,
    budget: Budget,
}

#[derive(Debug, Default)]
struct Direction {
    /// Frames, or segments.
    outer: Frames,
    /// Frames within segments; offsets count what segments hold.
    inner: Frames,
    /// Where in the stream the frame within segments begins that is in progress.
    inner_start: u64,
}

/// Where a segment and what it holds lie.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u64,
    end: u64,
    inner_start: u64,
    inner_end: u64,
    /// Where what it holds begins in the stream; `None`: it is compressed.
    payload: Option<u64>,
}

impl Place {
    /// Where in the stream a frame begins that begins at this offset of what segments hold.
    fn start_of(&self, inner: u64) -> u64 {
        match self.payload {
            Some(payload) if inner > self.inner_start => payload.saturating_add(inner - self.inner_start).min(self.end),
            _ => self.start,
        }
    }

    /// Where one ends that ends there.
    fn end_of(&self, inner: u64) -> u64 {
        match self.payload {
            Some(payload) if inner < self.inner_end => {
                payload.saturating_add(inner.saturating_sub(self.inner_start)).min(self.end)
            }
            _ => self.end,
        }
    }
}

impl Parser for Cassandra {
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>) {
        let mut outer = std::mem::take(&mut self.direction(from).outer);
        let mut feed = outer.feed(input);
        while let Some(heard) = feed.next(|bytes| measure(bytes, from), |bytes| resumes(bytes, from)) {
            match heard {
                Heard::Frame(frame) => match Segment::find(frame.kept) {
                    Found::Header(segment) => self.segment(from, &segment, &frame, out),
                    _ => self.frame(from, frame.kept, frame.start..frame.end, out),
                },
                Heard::Lost { at, reason } => {
                    self.direction(from).inner.lose();
                    self.lost(from, at, reason, out);
                }
            }
        }
        self.direction(from).outer = outer;
    }

    fn pending_from(&self, from: Side) -> u64 {
        let direction = match from {
            Side::Client => &self.client,
            Side::Server => &self.server,
        };
        let outer = direction.outer.pending_from();
        if direction.inner.is_inside() { outer.min(direction.inner_start) } else { outer }
    }
}

impl Cassandra {
    const fn direction(&mut self, from: Side) -> &mut Direction {
        match from {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Frames that lie in a segment, or end in it.
    fn segment(&mut self, from: Side, segment: &Segment, outer: &Frame<'_>, out: &mut Vec<Event>) {
        let mut inner = std::mem::take(&mut self.direction(from).inner);
        let inner_start = inner.offset();
        let place = Place {
            start: outer.start,
            end: outer.end,
            inner_start,
            inner_end: inner_start.saturating_add(segment.inner_bytes()),
            payload: segment.is_plain().then(|| outer.start.saturating_add(segment.payload_at())),
        };
        let captured = segment.unpack(outer.kept, &mut self.budget);
        let gap = segment.inner_bytes().saturating_sub(captured.len() as u64);
        let mut start = self.direction(from).inner_start;
        for input in [Input::Bytes(&captured), Input::Gap(gap)] {
            let mut feed = inner.feed(input);
            while let Some(heard) =
                feed.next(|bytes| measure_frame(bytes, from), |bytes| check_frame(bytes, from) == Sign::Yes)
            {
                match heard {
                    Heard::Frame(frame) => {
                        // One that began in an earlier segment began where that was noted.
                        let began = if frame.start < inner_start { start } else { place.start_of(frame.start) };
                        self.frame(from, frame.kept, began..place.end_of(frame.end), out);
                    }
                    Heard::Lost { reason, .. } => self.lost(from, place.end, reason, out),
                }
            }
        }
        if inner.pending_from() >= inner_start {
            start = place.start_of(inner.pending_from());
        }
        let direction = self.direction(from);
        (direction.inner, direction.inner_start) = (inner, start);
    }

    /// What is lost may have prepared a statement, or set the keyspace.
    fn lost(&mut self, from: Side, at: u64, reason: Lost, out: &mut Vec<Event>) {
        self.context.statements.lose();
        self.context.keyspace = None;
        out.push(Event::Lost { from, at, reason });
    }

    fn frame(&mut self, from: Side, captured: &[u8], range: std::ops::Range<u64>, out: &mut Vec<Event>) {
        let Some(Some(header)) = Header::read(captured, from) else { return };
        let body = &captured[frame::HEADER_BYTES..];
        let unpacked = header.is_compressed().then(|| header.unpack(body, self.context.compression, &mut self.budget));
        let body = unpacked.as_ref().map_or(Some(body), |unpacked| unpacked.as_deref());
        let key = key(header.stream);
        if from == Side::Server {
            self.open.remove(&header.stream);
        } else if self.open.contains(&header.stream) {
            // Its answer was not seen, and must not be taken for the answer to this one.
            out.push(Event::Cancelled { key, by: Side::Client, end: range.start, error_type: None });
        } else if self.open.len() < OPEN_MAX {
            self.open.insert(header.stream);
        }
        out.push(Event::Part(match from {
            Side::Client => Part::whole(from, key, range, request::facts(&header, body, &mut self.context)),
            Side::Server if header.opcode == frame::EVENT => {
                let facts =
                    Facts::named("EVENT").with("db.system.name", request::SYSTEM).with("db.operation.name", "EVENT");
                Part::one_way(from, range, facts)
            }
            Side::Server => Part::whole(from, key, range, reply::facts(&header, body, &mut self.context)),
        }));
    }
}

fn key(stream: i16) -> Key {
    Key::Id((stream as u16).into())
}

/// A segment or a frame.
fn measure(bytes: &[u8], from: Side) -> Measure {
    match Segment::find(bytes) {
        Found::Cut => Measure::More,
        Found::Header(segment) => segment.measure(),
        Found::None => measure_frame(bytes, from),
    }
}

fn measure_frame(bytes: &[u8], from: Side) -> Measure {
    match Header::read(bytes, from) {
        None => Measure::More,
        Some(None) => Measure::Malformed,
        Some(Some(header)) => Measure::Frame { bytes: header.frame_bytes(), keep: REQUEST_BYTES_MAX },
    }
}

fn resumes(bytes: &[u8], from: Side) -> bool {
    matches!(Segment::find(bytes), Found::Header(_)) || check_frame(bytes, from) == Sign::Yes
}

/// How a client's first bytes look.
pub(crate) fn check_client(bytes: &[u8]) -> Sign {
    check(bytes, Side::Client)
}

/// How a server's first bytes look.
pub(crate) fn check_server(bytes: &[u8]) -> Sign {
    check(bytes, Side::Server)
}

/// A segment that is not compressed and begins with a frame, or a frame.
fn check(bytes: &[u8], from: Side) -> Sign {
    match (Segment::find_plain(bytes), check_frame(bytes, from)) {
        (Found::Header(segment), frame) => match bytes.get(segment.payload_at() as usize) {
            None => Sign::Partial,
            Some(version) if frame::is_version(*version, from) => Sign::Yes,
            Some(_) => frame,
        },
        (_, Sign::Yes) => Sign::Yes,
        (Found::Cut, Sign::No) => Sign::Partial,
        (_, frame) => frame,
    }
}

/// What the first frame holds must fit, too, to be sure.
fn check_frame(bytes: &[u8], from: Side) -> Sign {
    let Some(header) = Header::read(bytes, from) else {
        return if frame::may_begin(bytes, from) { Sign::Partial } else { Sign::No };
    };
    let Some(header) = header.filter(|header| header.length < RECOGNISED_BYTES_MAX) else { return Sign::No };
    let mut body = crate::fields::Fields(&bytes[frame::HEADER_BYTES..]);
    let sure = match header.opcode {
        frame::OPTIONS => return if header.length == 0 { Sign::Yes } else { Sign::No },
        _ if header.is_compressed() || header.has_extras() => return Sign::Likely,
        // How many options there are, then the first one's name.
        frame::STARTUP => body.u16().and_then(|options| {
            let name = frame::text(&mut body)?;
            Some(options < 32 && name.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'_'))
        }),
        // A text that ends within the frame and begins with a letter, a space or a comment.
        frame::QUERY | frame::PREPARE => body.u32().and_then(|length| {
            let first = body.u8()?;
            Some(
                length < header.length
                    && (first.is_ascii_alphabetic() || first.is_ascii_whitespace() || matches!(first, b'-' | b'/')),
            )
        }),
        frame::EXECUTE => body.u16().map(|length| length == 16),
        // Rows, nothing, and three other kinds.
        frame::RESULT => body.u32().map(|kind| (1..=5).contains(&kind)),
        _ => return Sign::Likely,
    };
    match sure {
        None => Sign::Partial,
        Some(true) => Sign::Yes,
        Some(false) => Sign::No,
    }
}

#[cfg(test)]
mod tests;
