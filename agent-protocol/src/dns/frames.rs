//! Messages of a stream (RFC 1035, 4.2.2): each after its length, two bytes.

use crate::input::Input;

/// Most bytes of one message that are kept while it arrives.
pub const FRAME_BYTES_MAX: usize = 4096;
const LENGTH_BYTES: u64 = 2;

/// A message, as far as it was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Offset of its length.
    pub start: u64,
    /// Length of the message.
    pub length: u16,
    /// Its first bytes.
    pub captured: Vec<u8>,
}

impl Frame {
    /// Offset just past it.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(LENGTH_BYTES).saturating_add(u64::from(self.length))
    }
}

/// One direction of a stream.
#[derive(Debug, Default)]
pub struct Frames {
    offset: u64,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Begin,
    /// After the first byte of a length.
    Length(u8),
    /// `cut`: bytes of it were not captured, so that what follows them cannot be kept.
    Body {
        frame: Frame,
        left: u16,
        cut: bool,
    },
    Lost,
}

impl Frames {
    /// Feeds the next piece; answers the messages that ended in it. After a gap where a length stands nothing is told
    /// any more.
    pub fn feed(&mut self, input: Input<'_>) -> Vec<Frame> {
        let mut frames = Vec::new();
        match input {
            Input::Bytes(bytes) => self.bytes(bytes, &mut frames),
            Input::Gap(gap) => self.gap(gap, &mut frames),
            Input::End => {}
        }
        frames
    }

    /// Whether framing is lost for good.
    pub fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// Offset of the next input byte.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn bytes(&mut self, mut bytes: &[u8], frames: &mut Vec<Frame>) {
        while let Some((first, rest)) = bytes.split_first() {
            let used = match &mut self.state {
                State::Begin => {
                    self.state = State::Length(*first);
                    1
                }
                State::Length(high) => {
                    let length = u16::from_be_bytes([*high, *first]);
                    let start = self.offset.saturating_sub(1);
                    let frame = Frame { start, length, captured: Vec::new() };
                    self.state = State::Body { frame, left: length, cut: false };
                    1
                }
                State::Body { frame, left, cut } => {
                    let used = bytes.len().min(usize::from(*left));
                    if !*cut {
                        let room = FRAME_BYTES_MAX - frame.captured.len();
                        frame.captured.extend_from_slice(&bytes[..used.min(room)]);
                    }
                    *left -= used as u16;
                    used
                }
                State::Lost => 1 + rest.len(),
            };
            self.offset = self.offset.saturating_add(used as u64);
            bytes = &bytes[used..];
            self.end_body(frames);
        }
    }

    fn gap(&mut self, gap: u64, frames: &mut Vec<Frame>) {
        if gap == 0 {
            return;
        }
        self.offset = self.offset.saturating_add(gap);
        let beyond = match &mut self.state {
            State::Body { left, cut, .. } => {
                let within = gap.min(u64::from(*left));
                (*left, *cut) = (*left - within as u16, true);
                gap - within
            }
            _ => gap,
        };
        self.end_body(frames);
        if beyond > 0 {
            self.state = State::Lost;
        }
    }

    fn end_body(&mut self, frames: &mut Vec<Frame>) {
        if let State::Body { left: 0, .. } = self.state
            && let State::Body { frame, .. } = std::mem::take(&mut self.state)
        {
            frames.push(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Input::{Bytes, Gap};

    fn check(pieces: &[Input<'_>], expected: &[(u64, u16, &[u8])]) -> Frames {
        let mut frames = Frames::default();
        let told: Vec<_> = pieces.iter().flat_map(|piece| frames.feed(*piece)).collect();
        let brief: Vec<_> = told.iter().map(|frame| (frame.start, frame.length, frame.captured.as_slice())).collect();
        assert_eq!(brief, expected, "{pieces:?}");
        frames
    }

    #[test]
    fn messages_follow_each_other_however_they_are_cut() {
        let stream = b"\0\x03abc\0\0\0\x01d";
        let expected: [(u64, u16, &[u8]); 3] = [(0, 3, b"abc"), (5, 0, b""), (7, 1, b"d")];
        for at in 0..=stream.len() {
            let (first, second) = stream.split_at(at);
            check(&[Bytes(first), Bytes(second)], &expected);
        }
    }

    #[test]
    fn a_gap_cuts_a_message_and_one_over_a_length_ends_it_all() {
        check(&[Bytes(b"\0\x05ab"), Gap(2), Bytes(b"e\0\x01f")], &[(0, 5, b"ab"), (7, 1, b"f")]);
        let lost = check(&[Bytes(b"\0\x05ab"), Gap(4), Bytes(b"\0\x01f")], &[(0, 5, b"ab")]);
        assert!(lost.is_lost());
        assert!(check(&[Bytes(b"\0"), Gap(1), Bytes(b"\0\x01f")], &[]).is_lost());
    }
}
