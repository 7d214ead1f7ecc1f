//! Where a body ends: by length, by chunks, by the stream's end, or as well as can be told after a gap hid a chunk line.
//!
//! In: the bytes and gaps that follow a head. Out: how many of them belong to the body. Called by the engine. Never
//! keeps a body's bytes, but for the last seven while framing is hidden; what they are the content of is shown to a [`Scan`] in passing.

use crate::{content::Scan, input::Lost};

/// A body in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// This many bytes are left; at least one.
    Sized(u64),
    /// Everything up to the stream's end.
    UntilClose,
    /// Chunks (RFC 9112 section 7.1).
    Chunked(Chunked),
    /// Chunks whose sizes a gap hid.
    Hidden(Tail),
}

/// What became of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on.
    More,
    /// It ended after the bytes taken.
    Done,
    /// It is broken at the byte behind those taken.
    Broken(Lost),
}

impl Body {
    /// At the first chunk line of a body whose lines may have `line_bytes_max` bytes.
    pub(super) const fn chunked(line_bytes_max: usize) -> Self {
        Self::Chunked(Chunked { step: Step::LINE, line_bytes: 0, line_bytes_max })
    }

    /// Takes bytes; answers how many of them. `content` sees those that are no framing.
    pub(super) fn advance(&mut self, bytes: &[u8], content: &mut Option<Scan>) -> (usize, Progress) {
        let mut show = |bytes: &[u8]| {
            if let Some(content) = content {
                content.feed(bytes);
            }
        };
        match self {
            Self::Sized(left) => {
                let taken = bounded(*left, bytes.len());
                *left -= taken as u64;
                show(&bytes[..taken]);
                (taken, if *left == 0 { Progress::Done } else { Progress::More })
            }
            Self::UntilClose => {
                show(bytes);
                (bytes.len(), Progress::More)
            }
            Self::Chunked(chunked) => chunked.advance(bytes, &mut show),
            // Lines of chunks may be among them, which are none of an event.
            Self::Hidden(tail) => {
                show(bytes);
                (bytes.len(), if tail.ends_body(bytes) { Progress::Done } else { Progress::More })
            }
        }
    }

    /// Passes over a gap; answers how much of it surely belongs to the body. `More` says that all of it may.
    pub(super) fn skip(&mut self, gap: u64) -> (u64, Progress) {
        match self {
            Self::Sized(left) if gap >= *left => (*left, Progress::Done),
            Self::Sized(left) => {
                *left -= gap;
                (gap, Progress::More)
            }
            Self::UntilClose => (gap, Progress::More),
            Self::Chunked(chunked) => {
                match chunked.step.skip(gap) {
                    Some(step) => chunked.step = step,
                    None => *self = Self::Hidden(Tail::default()),
                }
                (gap, Progress::More)
            }
            Self::Hidden(tail) => {
                *tail = Tail::default();
                (gap, Progress::More)
            }
        }
    }
}

/// `min(left, have)`.
fn bounded(left: u64, have: usize) -> usize {
    usize::try_from(left).map_or(have, |left| left.min(have))
}

/// Position in a chunked body.
///
/// ```text
/// Size -CR-> SizeCr -LF-> Data (size > 0) -> DataEnd -CR-> DataCr -LF-> Size
///   | ;                   TrailerStart (size = 0) -CR-> TrailerCr -LF-> done
///   Extension -LF-^          ^-LF- Trailer <- any other byte
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Size { size: u64, digits: bool },
    Extension { size: u64 },
    SizeCr { size: u64 },
    Data { left: u64 },
    DataEnd,
    DataCr,
    TrailerStart,
    Trailer,
    TrailerCr,
}

impl Step {
    const LINE: Self = Self::Size { size: 0, digits: false };

    const fn after_line(size: u64) -> Self {
        if size == 0 { Self::TrailerStart } else { Self::Data { left: size } }
    }

    /// The next step; `None` at the body's end.
    fn next(self, byte: u8) -> Result<Option<Self>, Lost> {
        let step = match (self, byte) {
            (Self::Size { size, .. }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                // A size beyond 64 bits is no size (RFC 9112 section 7.1: anticipate large numerals).
                let size = size.checked_mul(16).ok_or(Lost::Malformed)? | u64::from(digit);
                Self::Size { size, digits: true }
            }
            (Self::Size { digits: false, .. }, _) => return Err(Lost::Malformed),
            (Self::Size { size, .. } | Self::Extension { size } | Self::SizeCr { size }, b'\n') => {
                Self::after_line(size)
            }
            (Self::Size { size, .. }, b'\r') => Self::SizeCr { size },
            (Self::Size { size, .. }, b';' | b' ' | b'\t') | (Self::Extension { size }, _) => Self::Extension { size },
            (Self::DataEnd, b'\r') => Self::DataCr,
            (Self::DataEnd | Self::DataCr, b'\n') => Self::LINE,
            (Self::TrailerStart | Self::TrailerCr, b'\n') => return Ok(None),
            (Self::TrailerStart, b'\r') => Self::TrailerCr,
            (Self::Trailer, b'\n') => Self::TrailerStart,
            (Self::TrailerStart | Self::Trailer | Self::TrailerCr, _) => Self::Trailer,
            (Self::Size { .. } | Self::SizeCr { .. } | Self::Data { .. } | Self::DataEnd | Self::DataCr, _) => {
                return Err(Lost::Malformed);
            }
        };
        Ok(Some(step))
    }

    /// The step after a gap, if the gap hid nothing but data and the line end that must follow it.
    fn skip(self, gap: u64) -> Option<Self> {
        let (left, line_end) = match self {
            Self::Data { left } => (left, 2),
            Self::DataEnd => (0, 2),
            Self::DataCr => (0, 1),
            _ => return None,
        };
        match gap.checked_sub(left) {
            None => Some(Self::Data { left: left - gap }),
            Some(beyond) if beyond == line_end => Some(Self::LINE),
            Some(0) => Some(Self::DataEnd),
            Some(1) => Some(Self::DataCr),
            Some(_) => None,
        }
    }
}

/// A chunked body in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunked {
    step: Step,
    /// Bytes of this chunk line, or of the trailer section with the line before it.
    line_bytes: usize,
    line_bytes_max: usize,
}

impl Chunked {
    fn advance(&mut self, bytes: &[u8], show: &mut dyn FnMut(&[u8])) -> (usize, Progress) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let Step::Data { left } = self.step {
                let taken = bounded(left, bytes.len() - at);
                let left = left - taken as u64;
                self.step = if left == 0 { Step::DataEnd } else { Step::Data { left } };
                show(&bytes[at..at + taken]);
                at += taken;
                continue;
            }
            if self.line_bytes == self.line_bytes_max {
                return (at, Progress::Broken(Lost::TooLarge));
            }
            self.line_bytes += 1;
            match self.step.next(byte) {
                Ok(Some(step)) => {
                    // Here, not behind the data, which a gap may hide.
                    if matches!(step, Step::Data { .. }) {
                        self.line_bytes = 0;
                    }
                    self.step = step;
                }
                Ok(None) => return (at + 1, Progress::Done),
                Err(reason) => return (at, Progress::Broken(reason)),
            }
            at += 1;
        }
        (at, Progress::More)
    }
}

const LAST_CHUNK: &[u8; 7] = b"\r\n0\r\n\r\n";

/// The last bytes since a gap, to recognise the last chunk by what it looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    bytes: [u8; LAST_CHUNK.len()],
}

impl Tail {
    /// Whether the body ends with these bytes: they end in a last chunk, or are nothing else (written by a call of its
    /// own, as many servers do). Only at the end of an input, so that data that looks like it does not end the body.
    fn ends_body(&mut self, bytes: &[u8]) -> bool {
        let kept = bytes.len().min(self.bytes.len());
        self.bytes.rotate_left(kept);
        let (_, room) = self.bytes.split_at_mut(LAST_CHUNK.len() - kept);
        room.copy_from_slice(&bytes[bytes.len() - kept..]);
        self.bytes == *LAST_CHUNK || bytes == &LAST_CHUNK[2..]
    }
}
