//! One direction's frames, walked byte by byte: of large ones nothing is kept, whatever they hold.
//!
//! [`crate::frames`] keeps a frame's first bytes; here each byte of some frames matters (messages of gRPC begin anywhere in DATA),
//! of others none does, and a hole inside a frame hides only what it covers. In: bytes and holes. Out: [`Step`]s. Limits: a
//! frame's header is kept while it arrives, nothing else.

use std::ops::Range;

use super::frame::{HEADER_BYTES, Header, PAYLOAD_BYTES_AGREED, kind};
use crate::{input::Lost, session::Side};

/// What a client sends first (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step<'i> {
    /// A frame begins.
    Begin(Header),
    /// Some of what it carries, without padding, priority and promised stream.
    Content(Header, &'i [u8]),
    /// So many bytes of that were not captured, or more.
    Hidden(Header, u64),
    /// The frame is complete. Its bytes; of a continued header block those of all its frames so far.
    End(Header, Range<u64>),
    /// It is not known where the next frame begins. What is left of the input is to be passed over.
    Lost(Broken),
}

/// Where and why framing was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub at: u64,
    pub reason: Lost,
    /// The direction never was understood.
    pub at_start: bool,
}

/// A piece of input on its way.
#[derive(Debug)]
pub(super) struct Piece<'i> {
    pub bytes: &'i [u8],
    pub gap: u64,
}

/// ```text
/// Start -P-> Preface -> Header -9 bytes-> Payload -last byte-> Header
///       -----------------^                   (a gap within: hidden)
/// malformed, or hidden by a gap: Lost, until `resume`
/// ```
#[derive(Clone, Copy, Debug)]
enum State {
    Start,
    Preface(usize),
    Header { bytes: [u8; HEADER_BYTES], have: usize },
    Payload(Payload),
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Payload {
    header: Header,
    start: u64,
    /// Bytes of the payload that passed.
    at: u32,
    /// Where padding begins; `None`: its length was not captured.
    content_end: Option<u32>,
}

impl State {
    const HEADER: Self = Self::Header { bytes: [0; HEADER_BYTES], have: 0 };
}

/// The frames of one direction.
#[derive(Debug)]
pub(super) struct Walk {
    from: Side,
    /// Of the next input byte.
    offset: u64,
    state: State,
    /// No frame was understood yet.
    fresh: bool,
    /// The header block that is to be continued: its stream, and where it began.
    block: Option<(u32, u64)>,
    /// Longest payload that the other end agreed to, as far as was seen.
    pub payload_bytes_max: u32,
}

impl Walk {
    pub fn new(from: Side) -> Self {
        let payload_bytes_max = PAYLOAD_BYTES_AGREED;
        Self { from, offset: 0, state: State::Start, fresh: true, block: None, payload_bytes_max }
    }

    /// Offset of the first byte of what is not complete; of the next byte, if there is nothing.
    pub fn pending_from(&self) -> u64 {
        let frame = match self.state {
            State::Header { have, .. } => self.offset - have as u64,
            State::Payload(payload) => payload.start,
            State::Start | State::Preface(_) | State::Lost => self.offset,
        };
        self.block.map_or(frame, |(_, start)| start)
    }

    pub const fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// What follows is not to be understood until `resume`.
    pub fn lose(&mut self) {
        (self.state, self.block, self.fresh) = (State::Lost, None, false);
    }

    /// A frame begins behind so many bytes of the input.
    pub fn resume(&mut self, at: usize, piece: &mut Piece<'_>) {
        self.take(piece, at);
        self.state = State::HEADER;
    }

    /// Passes over all that is left of the input.
    pub fn pass_over(&mut self, piece: &mut Piece<'_>) {
        self.advance(piece.gap.saturating_add(piece.bytes.len() as u64));
        (piece.bytes, piece.gap) = (&[], 0);
    }

    fn advance(&mut self, bytes: u64) {
        self.offset = self.offset.saturating_add(bytes);
    }

    /// The next step; `None`: more input is needed.
    pub fn next<'i>(&mut self, piece: &mut Piece<'i>) -> Option<Step<'i>> {
        loop {
            if let State::Payload(payload) = self.state
                && payload.at == payload.header.length
            {
                return Some(self.end(payload));
            }
            if piece.bytes.is_empty() && piece.gap == 0 {
                return None;
            }
            match &mut self.state {
                State::Payload(_) if piece.gap > 0 => {
                    if let Some(step) = self.hide(piece) {
                        return Some(step);
                    }
                }
                State::Lost => {
                    self.pass_over(piece);
                    return None;
                }
                _ if piece.gap > 0 => return Some(self.broken(Lost::Gap)),
                State::Start => {
                    let preface = self.from == Side::Client && piece.bytes[0] == PREFACE[0];
                    self.state = if preface { State::Preface(0) } else { State::HEADER };
                }
                State::Preface(at) => {
                    let expected = &PREFACE[*at..];
                    let length = expected.len().min(piece.bytes.len());
                    if piece.bytes[..length] != expected[..length] {
                        return Some(self.broken(Lost::Malformed));
                    }
                    *at += length;
                    if *at == PREFACE.len() {
                        self.state = State::HEADER;
                    }
                    self.take(piece, length);
                }
                State::Header { bytes, have } => {
                    let length = (HEADER_BYTES - *have).min(piece.bytes.len());
                    bytes[*have..*have + length].copy_from_slice(&piece.bytes[..length]);
                    *have += length;
                    let header = (*have == HEADER_BYTES).then(|| Header::read(bytes));
                    self.take(piece, length);
                    if let Some(header) = header {
                        return Some(self.begin(header));
                    }
                }
                State::Payload(_) => {
                    if let Some(content) = self.payload(piece) {
                        return Some(content);
                    }
                }
            }
        }
    }

    fn take<'i>(&mut self, piece: &mut Piece<'i>, length: usize) -> &'i [u8] {
        let (taken, rest) = piece.bytes.split_at(length);
        piece.bytes = rest;
        self.advance(length as u64);
        taken
    }

    fn broken(&mut self, reason: Lost) -> Step<'static> {
        let at = match self.state {
            State::Header { have, .. } | State::Preface(have) => self.offset - have as u64,
            _ => self.offset,
        };
        let at_start = self.fresh;
        self.lose();
        Step::Lost(Broken { at, reason, at_start })
    }

    fn begin(&mut self, header: Header) -> Step<'static> {
        // RFC 9113, 6.10: a block is continued by its own frames only.
        let continues = header.kind == kind::CONTINUATION;
        let in_turn = match self.block {
            Some((stream, _)) => continues && header.stream == stream,
            None => !continues,
        };
        let begins = !self.fresh || header.is_plausible(self.from, PAYLOAD_BYTES_AGREED);
        // What was agreed on may not have been seen; but a frame of a type that is not known must keep to it.
        let known = header.kind <= kind::CONTINUATION;
        let within = header.is_allowed() && (known || header.length <= self.payload_bytes_max);
        let own = self.from == Side::Server || header.kind != kind::HEADERS || header.stream % 2 == 1;
        if !in_turn || !begins || !within || !own {
            return self.broken(Lost::Malformed);
        }
        self.fresh = false;
        let start = self.offset - HEADER_BYTES as u64;
        let content_end = if header.is_padded() { None } else { Some(header.length) };
        self.state = State::Payload(Payload { header, start, at: 0, content_end });
        Step::Begin(header)
    }

    fn payload<'i>(&mut self, piece: &mut Piece<'i>) -> Option<Step<'i>> {
        let State::Payload(payload) = &mut self.state else { return None };
        let Header { length, .. } = payload.header;
        let prefix = payload.header.prefix_bytes();
        if payload.at == 0 && payload.header.is_padded() {
            // RFC 9113, 6.1: padding is shorter than the payload.
            let padding = u32::from(piece.bytes[0]);
            match length.checked_sub(padding) {
                Some(end) if end >= prefix => payload.content_end = Some(end),
                _ => {
                    self.offset = payload.start;
                    return Some(self.malformed_from(piece));
                }
            }
        }
        let (header, from) = (payload.header, payload.at);
        let taken = usize::try_from(length - from).map_or(piece.bytes.len(), |left| left.min(piece.bytes.len()));
        payload.at += taken as u32;
        let (at, end) = (payload.at, payload.content_end.unwrap_or(0));
        let bytes = self.take(piece, taken);
        let (first, last) = (from.max(prefix), at.min(end));
        (first < last).then(|| Step::Content(header, &bytes[(first - from) as usize..(last - from) as usize]))
    }

    /// The frame that begins at the offset is none; the bytes of it that passed are not to be counted twice.
    fn malformed_from(&mut self, piece: &mut Piece<'_>) -> Step<'static> {
        let at = self.offset;
        self.lose();
        self.advance(HEADER_BYTES as u64);
        self.pass_over(piece);
        Step::Lost(Broken { at, reason: Lost::Malformed, at_start: false })
    }

    /// Passes over as much of the gap as lies within the frame.
    fn hide(&mut self, piece: &mut Piece<'_>) -> Option<Step<'static>> {
        let State::Payload(payload) = &mut self.state else { return None };
        let (header, from, length) = (payload.header, payload.at, payload.header.length);
        let moved = piece.gap.min(u64::from(length - from));
        payload.at += moved as u32;
        let (prefix, at) = (payload.header.prefix_bytes(), payload.at);
        let content_end = payload.content_end;
        piece.gap -= moved;
        self.advance(moved);
        let Some(end) = content_end else {
            // How much of it is padding is not known.
            return (moved > 0).then_some(Step::Hidden(header, u64::MAX));
        };
        let hidden = at.min(end).saturating_sub(from.max(prefix));
        (hidden > 0).then_some(Step::Hidden(header, hidden.into()))
    }

    fn end(&mut self, payload: Payload) -> Step<'static> {
        let Payload { header, start, .. } = payload;
        let start = self.block.map_or(start, |(_, block)| block);
        self.block = header.opens_block().then_some((header.stream, start));
        self.state = State::HEADER;
        Step::End(header, start..self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(from: Side, inputs: &[(&[u8], u64)]) -> String {
        let (mut walk, mut said) = (Walk::new(from), String::new());
        for (bytes, gap) in inputs {
            let mut piece = Piece { bytes, gap: *gap };
            while let Some(step) = walk.next(&mut piece) {
                said.push_str(&match step {
                    Step::Begin(header) => format!("{}#{} ", header.kind, header.stream),
                    Step::Content(_, bytes) => format!("{} ", bytes.escape_ascii()),
                    Step::Hidden(_, bytes) => format!("?{bytes} "),
                    Step::End(_, range) => format!("{}-{} ", range.start, range.end),
                    Step::Lost(Broken { at, reason, .. }) => format!("{reason:?}@{at} "),
                });
                assert!(walk.pending_from() <= walk.offset);
            }
            assert!(piece.bytes.is_empty() || walk.is_lost());
        }
        said
    }

    const DATA: &[u8] = b"\0\0\x03\0\0\0\0\0\x01abc";
    const PADDED: &[u8] = b"\0\0\x06\0\x08\0\0\0\x01\x02abc\0\0";

    #[test]
    fn frames_follow_the_preface() {
        let mut stream = PREFACE.to_vec();
        stream.extend_from_slice(b"\0\0\0\x04\0\0\0\0\0");
        stream.extend_from_slice(PADDED);
        assert_eq!(run(Side::Client, &[(&stream, 0)]), "4#0 24-33 0#1 abc 33-48 ");
        assert_eq!(run(Side::Client, &[(b"PRI * HTTP/1", 0)]), "Malformed@0 ");
    }

    #[test]
    fn padding_is_no_content() {
        assert_eq!(run(Side::Server, &[(PADDED, 0), (DATA, 0)]), "0#1 abc 0-15 0#1 abc 15-27 ");
        let too_long = b"\0\0\x02\0\x08\0\0\0\x01\x02a";
        assert_eq!(run(Side::Server, &[(too_long, 0), (DATA, 0)]), "0#1 Malformed@0 ");
    }

    #[test]
    fn a_gap_hides_only_what_it_covers() {
        assert_eq!(run(Side::Server, &[(&DATA[..10], 0), (b"", 1), (b"c", 0)]), "0#1 a ?1 c 0-12 ");
        assert_eq!(run(Side::Server, &[(&PADDED[..13], 0), (b"", 2), (DATA, 0)]), "0#1 abc 0-15 0#1 abc 15-27 ");
        assert_eq!(run(Side::Server, &[(&DATA[..10], 0), (b"", 3), (b"c", 0)]), "0#1 a ?2 0-12 Gap@12 ");
    }

    #[test]
    fn a_block_is_continued_by_its_own_frames_only() {
        let headers = b"\0\0\x01\x01\0\0\0\0\x01\x82";
        let rest = b"\0\0\x01\x09\x04\0\0\0\x01\x84";
        assert_eq!(run(Side::Client, &[(headers, 0), (rest, 0)]), "1#1 \\x82 0-10 9#1 \\x84 0-20 ");
        assert_eq!(run(Side::Client, &[(headers, 0), (DATA, 0)]), "1#1 \\x82 0-10 Malformed@10 ");
        assert_eq!(run(Side::Client, &[(rest, 0)]), "Malformed@0 ");
    }
}
