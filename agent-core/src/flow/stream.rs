//! One direction of a connection: sequence numbers to offsets, pieces to an unbroken stream with announced holes.
//!
//! In: ranges with captured bytes, in any order. Out: [`Fed`] items in order of offset, each byte at most once. Called
//! by [`crate::flow`]. Never: parses. Limits: the waiting bytes, by the caller's bound.

use std::collections::BTreeMap;

use crate::loss::{Loss, Losses};

/// Bytes that one call moved.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Offset of the first.
    pub start: u64,
    /// Offset past the last.
    pub end: u64,
    /// First bytes, then the last `tail_len`.
    pub payload: Box<[u8]>,
    /// How many of `payload` are the range's last bytes.
    pub tail_len: usize,
    /// When the call moved them.
    pub time_ns: u64,
}

impl Piece {
    /// The bytes from its start.
    pub fn prefix(&self) -> &[u8] {
        &self.payload[..self.payload.len() - self.tail_len]
    }

    /// The bytes up to its end.
    pub fn tail(&self) -> &[u8] {
        &self.payload[self.payload.len() - self.tail_len..]
    }

    /// How many bytes between them were not captured.
    pub fn gap(&self) -> u64 {
        (self.end - self.start).saturating_sub(self.payload.len() as u64)
    }

    /// Without the bytes before `start`, which lies within it.
    pub(crate) fn cut_front(mut self, start: u64) -> Self {
        let cut = start - self.start;
        let prefix_len = (self.payload.len() - self.tail_len) as u64;
        let gone = if cut <= prefix_len { cut } else { prefix_len + cut.saturating_sub(prefix_len + self.gap()) };
        self.payload = self.payload[(gone as usize).min(self.payload.len())..].into();
        self.tail_len = self.tail_len.min(self.payload.len());
        self.start = start;
        self
    }
}

/// What comes next in a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Fed {
    /// These bytes.
    Piece(Piece),
    /// A hole: bytes of which no record came.
    Hole {
        /// Offset of its first byte.
        start: u64,
        /// Its length.
        length: u64,
    },
}

/// Position and waiting pieces of one direction.
#[derive(Debug, Default)]
pub struct Stream {
    base: Option<u32>,
    next: u64,
    started: bool,
    /// Whether bytes before the first piece are expected to be missing.
    late: bool,
    waiting: BTreeMap<u64, Piece>,
    waiting_bytes: usize,
}

impl Stream {
    /// A stream whose first byte has the sequence number `base`, if that is known; `late` if it began before it was
    /// watched.
    pub fn new(base: Option<u32>, late: bool) -> Self {
        Self { base, late: late || base.is_none(), ..Self::default() }
    }

    /// The offset of the byte `sequence`; sequence numbers wrap every 4 GiB, offsets do not (RFC 9293, 3.4).
    pub fn offset(&mut self, sequence: u32) -> u64 {
        let base = *self.base.get_or_insert(sequence);
        if !self.started {
            return u64::from(sequence.wrapping_sub(base));
        }
        let expected = base.wrapping_add(self.next as u32);
        self.next.saturating_add_signed(i64::from(sequence.wrapping_sub(expected) as i32))
    }

    /// Offsets of a range of sequence numbers.
    pub fn range(&mut self, start: u32, end: u32) -> (u64, u64) {
        let offset = self.offset(start);
        (offset, offset + u64::from(end.wrapping_sub(start)))
    }

    /// Offset of the next byte that is expected.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How far `sequence` is beyond the next byte that is expected; 0 if it is not, or none is expected yet.
    pub fn ahead(&self, sequence: u32) -> u64 {
        let Some(base) = self.base.filter(|_| self.started || !self.late) else { return 0 };
        let expected = base.wrapping_add(self.next as u32);
        i64::from(sequence.wrapping_sub(expected).cast_signed()).max(0).cast_unsigned()
    }

    /// Whether it was joined late and nothing of it was seen.
    pub fn is_unseen(&self) -> bool {
        self.late && !self.started
    }

    /// Whether bytes before `offset` are expected that did not come yet.
    pub fn is_beyond(&self, offset: u64) -> bool {
        (self.started || !self.late) && offset > self.next
    }

    /// Goes on at `offset`, whatever is missing before it.
    pub fn restart(&mut self, offset: u64) {
        (self.next, self.started, self.late) = (offset, true, false);
    }

    /// Takes bytes without putting them in order: what is beyond all bytes so far, or `None`.
    pub fn advance(&mut self, start: u64, end: u64) -> Option<(u64, u64)> {
        if !self.started && self.late {
            self.next = start;
        }
        self.started = true;
        let fresh = (start.max(self.next), end);
        if fresh.0 >= fresh.1 {
            return None;
        }
        self.next = end;
        Some(fresh)
    }

    /// Adds a piece.
    pub fn push(&mut self, piece: Piece, bytes_max: usize, losses: &mut Losses) {
        if !self.started && self.late {
            self.next = piece.start;
        }
        self.started = true;
        if piece.end <= self.next {
            losses.add(Loss::StreamOverlap, piece.end - piece.start);
            return;
        }
        if self.waiting_bytes + piece.payload.len() > bytes_max || self.waiting.len() >= WAITING_MAX {
            losses.add(Loss::StreamOverflow, 1);
            return;
        }
        self.waiting_bytes += piece.payload.len();
        if let Some(same) = self.waiting.insert(piece.start, piece) {
            self.waiting_bytes -= same.payload.len();
            losses.add(Loss::StreamOverlap, same.end - same.start);
        }
    }

    /// What comes next; a hole only if the piece after it has waited since before `hole_before_ns`.
    pub fn pop(&mut self, hole_before_ns: u64, losses: &mut Losses) -> Option<Fed> {
        loop {
            let first = self.waiting.first_entry()?;
            let start = *first.key();
            if start > self.next {
                if first.get().time_ns > hole_before_ns {
                    return None;
                }
                let hole = Fed::Hole { start: self.next, length: start - self.next };
                losses.add(Loss::StreamHole, start - self.next);
                self.next = start;
                return Some(hole);
            }
            let piece = first.remove();
            self.waiting_bytes -= piece.payload.len();
            let overlap = self.next - start;
            if overlap > 0 {
                losses.add(Loss::StreamOverlap, overlap.min(piece.end - start));
                if piece.end <= self.next {
                    continue;
                }
            }
            let piece = if overlap > 0 { piece.cut_front(self.next) } else { piece };
            self.next = piece.end;
            return Some(Fed::Piece(piece));
        }
    }

    /// Since when the oldest piece waits for bytes before it.
    pub fn waiting_since_ns(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(_, piece)| piece.time_ns)
    }
}

/// Most pieces that wait on one stream.
const WAITING_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(start: u64, text: &str) -> Piece {
        Piece { start, end: start + text.len() as u64, payload: text.as_bytes().into(), tail_len: 0, time_ns: 1 }
    }

    fn check(pieces: Vec<Piece>, hole_before_ns: u64, expected: &str) -> Losses {
        let (mut stream, mut losses, mut said) = (Stream::new(Some(0), false), Losses::default(), String::new());
        for piece in pieces {
            stream.push(piece, 1 << 20, &mut losses);
        }
        while let Some(fed) = stream.pop(hole_before_ns, &mut losses) {
            match fed {
                Fed::Piece(piece) => said.push_str(std::str::from_utf8(&piece.payload).unwrap()),
                Fed::Hole { length, .. } => said.push_str(&format!("[{length}]")),
            }
        }
        assert_eq!(said, expected);
        losses
    }

    #[test]
    fn pieces_come_out_in_order_each_byte_once() {
        check(vec![piece(3, "def"), piece(0, "abc"), piece(6, "g")], 0, "abcdefg");
        let losses = check(vec![piece(0, "abcd"), piece(2, "cdef"), piece(1, "b")], 0, "abcdef");
        assert_eq!(losses.get(Loss::StreamOverlap), 3);
    }

    #[test]
    fn a_hole_is_announced_only_after_its_wait() {
        assert!(check(vec![piece(2, "cd")], 0, "").is_empty());
        assert_eq!(check(vec![piece(2, "cd")], 1, "[2]cd").get(Loss::StreamHole), 2);
    }

    #[test]
    fn cutting_the_front_leaves_the_tail_in_place() {
        let whole = Piece { start: 0, end: 10, payload: b"abXY".as_slice().into(), tail_len: 2, time_ns: 0 };
        for (cut, prefix, gap, tail) in
            [(1, "b", 6, "XY"), (2, "", 6, "XY"), (5, "", 3, "XY"), (8, "", 0, "XY"), (9, "", 0, "Y")]
        {
            let piece = whole.clone().cut_front(cut);
            assert_eq!((piece.prefix(), piece.gap(), piece.tail()), (prefix.as_bytes(), gap, tail.as_bytes()), "{cut}");
        }
    }

    #[test]
    fn offsets_go_on_after_sequence_numbers_wrap() {
        let base = u32::MAX - 9;
        let mut stream = Stream::new(Some(base), false);
        assert_eq!(stream.advance(0, 1 << 31), Some((0, 1 << 31)));
        assert_eq!(stream.advance(1 << 31, (1 << 32) - 4), Some((1 << 31, (1 << 32) - 4)));
        let (start, end) = stream.range(base.wrapping_sub(4), base.wrapping_add(6));
        assert_eq!((start, end), ((1 << 32) - 4, (1 << 32) + 6));
    }

    #[test]
    fn a_late_stream_begins_where_it_is_joined() {
        let (mut stream, mut losses) = (Stream::new(Some(100), true), Losses::default());
        let (start, _) = stream.range(3_000_000_100, 3_000_000_103);
        stream.push(piece(start, "abc"), 99, &mut losses);
        assert_eq!(stream.pop(0, &mut losses), Some(Fed::Piece(piece(3_000_000_000, "abc"))));
        assert!(losses.is_empty());
    }
}
