//! HTTP/2 (RFC 9113) and gRPC over it, both directions of a connection.
//!
//! In: [`Input`] of both sides, from the preface on, from a server's SETTINGS on (an upgrade of HTTP/1), or from any call that begins
//! with a frame. Out: a [`crate::session::Part`] where a request or response begins (HEADERS) and one where it ends (END_STREAM), by stream;
//! [`Event::Cancelled`] for RST_STREAM, and for GOAWAY of what the server did not look at. What a call's trailers say belongs to its
//! response, and what was found in a body to the part that ends it. Never keeps a header's value beyond method, path, scheme, authority, status, trace and gRPC's, nor a body's bytes.
//!
//! Pushed responses are left out; interim ones are counted, and begin no message.
//!
//! Limits: 64 KiB of a connection in all. Of them 24 KiB are for streams, 512 at a time, and for what is looked for in their bodies
//! ([`crate::content`]): some 20 of those at a time, fewer with hundreds of streams. What finds no room there is
//! [`Event::Forgotten`]. The newest 128 fields of a table, with 4 KiB of text; 2 KiB of a string. A
//! header block may have any length and number of frames: it is read as it comes.
//!
//! Gaps: one inside a frame hides what it covers. If that is of a header block, nothing is known of the table of fields any
//! more: an index into it is unresolved and counted (`spantap.http.unresolved_headers`) until what it points to was added
//! again. The same holds where the agent joined late. One that hides where a frame begins is [`Lost::Gap`]; frames go on at the first
//! byte of a later input that looks like them ([`look`]).

mod exchange;
mod frame;
mod grpc;
mod head;
mod hpack;
mod look;
mod streams;
mod walk;

pub(crate) use self::look::{check_client, check_server};
use std::ops::Range;

use self::{
    frame::{Header, PAYLOAD_BYTES_MAX, error_name, flag, kind},
    head::Head,
    hpack::{Decoder, Field, Malformed, Scratch},
    streams::{Phase, Streams},
    walk::{Broken, Piece, Step, Walk},
};
use crate::{
    detect::Sign,
    input::{Input, Lost},
    session::{Event, Parser, Side, Texts},
};

/// Where framing is lost, the frames that a call ends with are looked for in inputs of at most this many bytes.
const TAIL_BYTES_MAX: usize = 64;

/// SETTINGS_MAX_FRAME_SIZE (RFC 9113, 6.5.2).
const MAX_FRAME_SIZE: u16 = 5;

/// Most memory of a connection: both directions' fields and texts of a head, texts that repeat, and the streams.
const MEMORY_BYTES_MAX: usize = size_of::<Http2>()
    + 2 * (hpack::MEMORY_BYTES_MAX + hpack::HEAD_BYTES_MAX)
    + Scratch::MEMORY_BYTES_MAX
    + Texts::MEMORY_BYTES_MAX
    + streams::MEMORY_BYTES_MAX;
const _: () = assert!(MEMORY_BYTES_MAX <= 64 * 1024);

/// A new parser.
pub fn new() -> Box<dyn Parser> {
    Box::new(Http2::default())
}

/// A new parser behind an upgrade of HTTP/1 (RFC 7540, 3.2): what was asked for there is stream 1, whose answer is told like any other.
pub fn upgraded() -> Box<dyn Parser> {
    let mut parser = Http2::default();
    let stream = parser.streams.entry(1);
    (stream.request.phase, stream.plain) = (streams::Phase::Ended, true);
    Box::new(parser)
}

/// The parser of a connection.
#[derive(Debug)]
struct Http2 {
    sides: [Direction; 2],
    scratch: Scratch,
    streams: Streams,
    /// Hosts, methods and services of calls.
    texts: Texts,
    /// Something was said.
    said: bool,
    /// These bytes are not HTTP/2.
    foreign: bool,
}

impl Default for Http2 {
    fn default() -> Self {
        let sides = [Direction::new(Side::Client), Direction::new(Side::Server)];
        let (scratch, streams, texts) = (Scratch::default(), Streams::default(), Texts::default());
        Self { sides, scratch, streams, texts, said: false, foreign: false }
    }
}

/// What is known of one direction's framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing came yet.
    New,
    /// It began with a frame.
    Sound,
    /// It did not, which is not told yet: if the other direction's does not either, it is none of HTTP/2.
    Doubtful(Broken),
}

#[derive(Debug)]
struct Direction {
    walk: Walk,
    fields: Decoder,
    head: Head,
    standing: Standing,
    /// The block in progress.
    block: Block,
    /// Of DATA: whether somebody looks at what it carries.
    is_watched: bool,
    /// The first bytes of RST_STREAM, GOAWAY and of a setting.
    control: Control,
}

impl Direction {
    fn new(from: Side) -> Self {
        Self {
            walk: Walk::new(from),
            fields: Decoder::default(),
            head: Head::default(),
            standing: Standing::New,
            block: Block::default(),
            is_watched: false,
            control: Control::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    ends_stream: bool,
    promised: bool,
    /// Some of it was not captured.
    hidden: bool,
}

#[derive(Debug, Default)]
struct Control {
    bytes: [u8; 8],
    have: usize,
}

impl Control {
    /// Adds what fits into `length` bytes; answers what is left.
    fn fill<'a>(&mut self, length: usize, bytes: &'a [u8]) -> &'a [u8] {
        let taken = bytes.len().min(length.saturating_sub(self.have));
        self.bytes[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
        self.have += taken;
        &bytes[taken..]
    }

    fn word(&self, index: usize) -> Option<u32> {
        let words = self.bytes[..self.have].as_chunks::<4>().0;
        words.get(index).map(|word| u32::from_be_bytes(*word))
    }
}

impl Parser for Http2 {
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>) {
        if self.foreign {
            return;
        }
        let mut piece = match input {
            Input::Bytes(bytes) => Piece { bytes, gap: 0 },
            Input::Gap(gap) => Piece { bytes: &[], gap },
            Input::End => return,
        };
        let before = out.len();
        self.resume(from, &mut piece);
        while !self.foreign
            && let Some(step) = self.side(from).walk.next(&mut piece)
        {
            self.step(from, step, out);
        }
        self.said |= out.len() > before;
    }

    fn pending_from(&self, from: Side) -> u64 {
        self.sides[index(from)].walk.pending_from()
    }
}

const fn index(from: Side) -> usize {
    match from {
        Side::Client => 0,
        Side::Server => 1,
    }
}

/// Streams that clients open have odd numbers (RFC 9113, 5.1.1); others are pushed.
const fn is_pushed(stream: u32) -> bool {
    stream.is_multiple_of(2)
}

impl Http2 {
    fn side(&mut self, from: Side) -> &mut Direction {
        &mut self.sides[index(from)]
    }

    /// Where framing is lost: do frames begin with this input, or, if it is the end of a call, end with it?
    fn resume(&mut self, from: Side, piece: &mut Piece<'_>) {
        let side = &self.sides[index(from)];
        if !side.walk.is_lost() || piece.bytes.is_empty() || matches!(side.standing, Standing::Doubtful(_)) {
            return;
        }
        let found = match look::frames(from, piece.bytes, side.walk.payload_bytes_max) {
            Sign::Yes => Some(0),
            // DATA looks like many things; it must be of a stream that is open.
            Sign::Likely if piece.bytes[3] != kind::DATA || self.is_open(from, piece.bytes) => Some(0),
            _ if piece.bytes.len() <= TAIL_BYTES_MAX => self.last_frames(from, piece.bytes),
            _ => None,
        };
        if let Some(at) = found {
            self.side(from).walk.resume(at, piece);
        }
    }

    /// Where frames of open streams begin that end exactly with these bytes.
    fn last_frames(&mut self, from: Side, bytes: &[u8]) -> Option<usize> {
        (1..bytes.len()).find(|at| {
            let mut rest = &bytes[*at..];
            while let Some((header, payload)) = rest.split_first_chunk() {
                let header = Header::read(header);
                let plausible = header.is_plausible(from, frame::PAYLOAD_BYTES_AGREED) && header.stream != 0;
                match payload.get(header.length as usize..) {
                    Some(more) if plausible && self.is_open(from, rest) => rest = more,
                    _ => return false,
                }
            }
            rest.is_empty()
        })
    }

    fn is_open(&mut self, from: Side, frame: &[u8]) -> bool {
        let Some(header) = frame.first_chunk() else { return false };
        let stream = self.streams.get(Header::read(header).stream);
        stream.is_some_and(|stream| stream.request.phase != Phase::Unseen && stream.half(from).phase != Phase::Ended)
    }

    fn step(&mut self, from: Side, step: Step<'_>, out: &mut Vec<Event>) {
        match step {
            Step::Begin(header) => self.begin(from, header, out),
            Step::Content(header, bytes) => self.content(from, header, bytes, out),
            Step::Hidden(header, bytes) => self.hidden(from, header, bytes),
            Step::End(header, range) => self.end(from, header, range, out),
            Step::Lost(broken) => self.lost(from, broken, out),
        }
    }

    fn begin(&mut self, from: Side, header: Header, out: &mut Vec<Event>) {
        let is_watched = header.kind == kind::DATA
            && self.streams.get(header.stream).is_some_and(|stream| stream.grpc || stream.scan(from).is_some());
        let side = self.side(from);
        (side.is_watched, side.control.have) = (is_watched, 0);
        if matches!(header.kind, kind::HEADERS | kind::PUSH_PROMISE) {
            let promised = header.kind == kind::PUSH_PROMISE;
            side.block = Block { ends_stream: header.ends_stream(), promised, hidden: false };
            side.head.clear();
        }
        if side.standing == Standing::New {
            side.standing = Standing::Sound;
            self.tell_doubt(from.other(), out);
        }
    }

    /// That a direction did not begin with a frame, now that the other one did.
    fn tell_doubt(&mut self, from: Side, out: &mut Vec<Event>) {
        let side = self.side(from);
        if let Standing::Doubtful(Broken { at, reason, .. }) = side.standing {
            side.standing = Standing::Sound;
            out.push(Event::Lost { from, at, reason });
        }
    }

    fn content(&mut self, from: Side, header: Header, mut bytes: &[u8], out: &mut Vec<Event>) {
        let side = &mut self.sides[index(from)];
        match header.kind {
            kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION if !side.block.hidden => {
                let head = &mut side.head;
                if side.fields.decode(bytes, &mut self.scratch, &mut |field| head.add(field)) == Err(Malformed) {
                    self.malformed(from, out);
                }
            }
            kind::DATA if side.is_watched => {
                if let Some(stream) = self.streams.get(header.stream) {
                    if let Some(scan) = stream.scan(from) {
                        scan.feed(bytes);
                    }
                    stream.half(from).messages.feed(bytes);
                }
            }
            kind::RST_STREAM | kind::GOAWAY => {
                side.control.fill(8, bytes);
            }
            kind::SETTINGS => {
                while !bytes.is_empty() {
                    bytes = self.side(from).control.fill(6, bytes);
                    self.setting(from);
                }
            }
            _ => {}
        }
    }

    fn setting(&mut self, from: Side) {
        let control = &mut self.side(from).control;
        let [a, b, value @ .., _, _] = control.bytes;
        if control.have < 6 {
            return;
        }
        control.have = 0;
        if u16::from_be_bytes([a, b]) == MAX_FRAME_SIZE {
            self.side(from.other()).walk.payload_bytes_max = u32::from_be_bytes(value).min(PAYLOAD_BYTES_MAX);
        }
    }

    fn hidden(&mut self, from: Side, header: Header, bytes: u64) {
        let side = &mut self.sides[index(from)];
        match header.kind {
            kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION => {
                side.block.hidden = true;
                side.fields.forget();
                side.head.add(Field::Unresolved);
            }
            kind::DATA if side.is_watched => {
                if let Some(stream) = self.streams.get(header.stream) {
                    if let Some(scan) = stream.scan(from) {
                        scan.skip(bytes);
                    }
                    stream.half(from).messages.skip(bytes);
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, from: Side, header: Header, range: Range<u64>, out: &mut Vec<Event>) {
        let side = self.side(from);
        let whole = !side.block.hidden;
        match header.kind {
            kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION if header.has(flag::END_HEADERS) => {
                if whole && side.fields.end_block() == Err(Malformed) {
                    self.malformed(from, out);
                } else if !side.block.promised && !is_pushed(header.stream) {
                    self.block(from, header.stream, range, out);
                }
            }
            kind::DATA if header.ends_stream() && !is_pushed(header.stream) => {
                self.body_end(from, header.stream, range, out);
            }
            kind::RST_STREAM => {
                if let Some(code) = side.control.word(0) {
                    self.reset(from, header.stream, code, range.end, out);
                }
            }
            kind::GOAWAY => {
                if let (Some(last), Some(code)) = (side.control.word(0), side.control.word(1)) {
                    self.go_away(from, last, code, range.end, out);
                }
            }
            _ => {}
        }
    }

    /// A block that cannot be read (RFC 9113, 4.3: an error of the connection).
    fn malformed(&mut self, from: Side, out: &mut Vec<Event>) {
        let walk = &mut self.side(from).walk;
        let at = walk.pending_from();
        walk.lose();
        self.lost(from, Broken { at, reason: Lost::Malformed, at_start: false }, out);
    }

    fn lost(&mut self, from: Side, broken: Broken, out: &mut Vec<Event>) {
        let other = self.side(from.other()).standing;
        let side = self.side(from);
        side.fields.forget();
        let new = broken.at_start && broken.reason == Lost::Malformed;
        self.foreign = match other {
            // How one direction looks is not enough.
            Standing::New if new => return side.standing = Standing::Doubtful(broken),
            Standing::Doubtful(_) => broken.reason == Lost::Malformed,
            Standing::New | Standing::Sound => !new && broken.reason == Lost::Malformed && !self.said && out.is_empty(),
        };
        if self.foreign {
            return out.push(Event::NotMine);
        }
        self.side(from).standing = Standing::Sound;
        self.tell_doubt(from.other(), out);
        out.push(Event::Lost { from, at: broken.at, reason: broken.reason });
    }
}

#[cfg(test)]
mod tests;
