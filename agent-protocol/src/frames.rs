//! Frames of known length, one direction of a connection at a time: found, kept as far as wanted, and skipped.
//!
//! In: [`Input`], and what the protocol says of a frame's first bytes ([`Measure`]). Out: [`Heard`], one at a time. Called by
//! the parsers of protocols whose messages say how long they are, in a header or by the end of a line. Limits: a frame's
//! beginning must say its length within [`MEASURED_BYTES_MAX`]; of each frame at most [`KEPT_BYTES_MAX`] are kept.
//!
//! Gaps: one inside a frame just advances, since its length is known; bytes that were wanted are then missing, and the frame
//! says so. One that hides where a frame begins is [`Heard::Lost`]; the next frame is looked for only at the first byte
//! of a later input, where a call of the application began.

use crate::input::{Input, Lost};

/// Most bytes that a frame may need until they say its length.
pub const MEASURED_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of a frame that are kept, whatever is wanted.
pub const KEPT_BYTES_MAX: usize = 64 * 1024;
/// A buffer above this is given back after its frame.
const BUFFER_BYTES_MAX: usize = 4096;

/// What a frame's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// More of them are needed.
    More,
    /// The frame's length.
    Frame {
        /// All of it, what was measured included; at least 1.
        bytes: u64,
        /// How many of its first bytes are wanted.
        keep: usize,
    },
    /// No frame begins like that.
    Malformed,
}

impl Measure {
    /// A frame of which everything is wanted.
    pub const fn whole(bytes: u64) -> Self {
        Self::Frame { bytes, keep: KEPT_BYTES_MAX }
    }
}

/// A frame that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Offset of its first byte.
    pub start: u64,
    /// Offset just past its last byte.
    pub end: u64,
    /// Its first bytes, as many as were wanted, allowed and captured.
    pub kept: &'a [u8],
    /// Whether bytes that were wanted were not captured.
    pub hidden: bool,
}

impl Frame<'_> {
    /// Whether all its bytes are here.
    pub fn is_whole(&self) -> bool {
        self.kept.len() as u64 == self.end - self.start
    }
}

/// What a direction has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A frame, all of which has moved.
    Frame(Frame<'a>),
    /// It is not known where the next frame begins.
    Lost {
        /// Offset of the frame that was not understood, or of the gap.
        at: u64,
        /// Why.
        reason: Lost,
    },
}

/// The frames of one direction.
#[derive(Debug, Default)]
pub struct Frames {
    /// Of the next input byte.
    offset: u64,
    /// The first bytes of the frame in progress, as far as they are wanted.
    kept: Vec<u8>,
    state: State,
}

/// ```text
///   Between -length known-> Inside -last byte-> Between
///      |  ^                    (a gap within: hidden)
///      v  +--- found --- Searching
///   malformed, too long, hidden by a gap ----^
/// ```
#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// At a frame's beginning: `kept` holds what does not say its length yet.
    #[default]
    Between,
    /// In a frame that begins at `start`; `left` bytes are to come, `wanted` more of them are kept.
    Inside { start: u64, left: u64, wanted: usize, hidden: bool },
    /// Looking for a frame at the first byte of every input.
    Searching,
}

impl Frames {
    /// Offset of the next input byte.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Offset of the first byte of the frame in progress; of the next input byte if there is none.
    pub fn pending_from(&self) -> u64 {
        match self.state {
            State::Inside { start, .. } => start,
            State::Between | State::Searching => self.offset - self.kept.len() as u64,
        }
    }

    /// Whether a frame is in progress.
    pub fn is_inside(&self) -> bool {
        matches!(self.state, State::Inside { .. }) || !self.kept.is_empty()
    }

    /// Whether it is not known where the next frame begins.
    pub const fn is_lost(&self) -> bool {
        matches!(self.state, State::Searching)
    }

    /// What follows is not to be understood until a frame is found at the first byte of an input.
    pub fn lose(&mut self) {
        self.kept.clear();
        self.state = State::Searching;
    }

    /// The next input byte begins a frame: the caller knows it from the end of what came last.
    pub fn resume(&mut self) {
        self.kept.clear();
        self.state = State::Between;
    }

    /// Goes past a piece while it is not known where frames begin, without looking for one at its beginning.
    pub fn skip(&mut self, bytes: &[u8]) {
        let mut feed = self.feed(Input::Bytes(bytes));
        while feed.next(|_| Measure::Malformed, |_| false).is_some() {}
    }

    /// The next piece; what it holds is asked for by [`Feed::next`] until that answers `None`.
    pub fn feed<'f, 'i>(&'f mut self, input: Input<'i>) -> Feed<'f, 'i> {
        let (bytes, gap): (&[u8], u64) = match input {
            Input::Bytes(bytes) => (bytes, 0),
            Input::Gap(gap) => (&[], gap),
            Input::End => (&[], 0),
        };
        Feed { frames: self, bytes, gap, first: !bytes.is_empty(), used: false }
    }
}

/// Looks for what ends a frame, while it is not known where frames begin: the bytes that came last, without a gap.
#[derive(Debug, Default)]
pub struct Trail {
    bytes: Vec<u8>,
}

/// Most bytes before an end that are shown.
const TRAIL_BYTES: usize = 32;

impl Trail {
    /// A gap: what came before is not next to what comes.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// The first place in a piece where the bytes that came last `end` a frame; and how many bytes of the piece that are.
    pub fn find<T>(&mut self, piece: &[u8], end: impl Fn(&[u8]) -> Option<T>) -> Option<(usize, T)> {
        for (at, byte) in piece.iter().enumerate() {
            if self.bytes.len() == 2 * TRAIL_BYTES {
                self.bytes.drain(..TRAIL_BYTES);
            }
            self.bytes.push(*byte);
            let last = &self.bytes[self.bytes.len().saturating_sub(TRAIL_BYTES)..];
            if let Some(found) = end(last) {
                self.clear();
                return Some((at + 1, found));
            }
        }
        None
    }
}

/// One piece on its way through [`Frames`]. What is not asked for is lost: ask until `None`.
#[derive(Debug)]
pub struct Feed<'f, 'i> {
    frames: &'f mut Frames,
    bytes: &'i [u8],
    gap: u64,
    /// Whether `bytes` begins where the input began.
    first: bool,
    /// Whether the frame in `frames.kept` was told.
    used: bool,
}

impl Feed<'_, '_> {
    /// The next frame that is complete. `measure` is given the first bytes of a frame, more of them each time;
    /// `resumes` says whether bytes at the begin of an input surely begin a frame, and is asked only while that is not known.
    pub fn next(
        &mut self,
        mut measure: impl FnMut(&[u8]) -> Measure,
        resumes: impl Fn(&[u8]) -> bool,
    ) -> Option<Heard<'_>> {
        if std::mem::take(&mut self.used) {
            self.frames.kept.clear();
            self.frames.kept.shrink_to(BUFFER_BYTES_MAX);
        }
        loop {
            match self.frames.state {
                State::Searching => {
                    if !std::mem::take(&mut self.first) || !resumes(self.bytes) {
                        self.skip_all();
                        return None;
                    }
                    self.frames.state = State::Between;
                }
                State::Between if self.gap > 0 => {
                    let at = self.frames.offset - self.frames.kept.len() as u64;
                    return Some(self.lost(at, Lost::Gap));
                }
                State::Between if self.bytes.is_empty() => return None,
                State::Between => match self.measured(&mut measure) {
                    Measure::Frame { bytes, keep } => match usize::try_from(bytes) {
                        Ok(length) if self.frames.kept.is_empty() && length <= self.bytes.len() => {
                            return Some(self.borrowed(length, keep));
                        }
                        _ => self.begin(bytes, keep),
                    },
                    Measure::More => {
                        if let Some(lost) = self.gather() {
                            return Some(lost);
                        }
                    }
                    Measure::Malformed => {
                        return Some(self.lost(self.frames.offset - self.frames.kept.len() as u64, Lost::Malformed));
                    }
                },
                State::Inside { start, left: 0, hidden, .. } => {
                    self.frames.state = State::Between;
                    self.used = true;
                    let end = self.frames.offset;
                    return Some(Heard::Frame(Frame { start, end, kept: &self.frames.kept, hidden }));
                }
                State::Inside { .. } if self.bytes.is_empty() && self.gap == 0 => return None,
                State::Inside { .. } => self.advance(),
            }
        }
    }

    /// What the frame's bytes say, those of earlier pieces included.
    fn measured(&mut self, measure: &mut impl FnMut(&[u8]) -> Measure) -> Measure {
        self.first = false;
        let before = self.frames.kept.len();
        let measured = if before == 0 {
            measure(self.bytes)
        } else {
            let room = MEASURED_BYTES_MAX - before;
            self.frames.kept.extend_from_slice(&self.bytes[..self.bytes.len().min(room)]);
            let measured = measure(&self.frames.kept);
            self.frames.kept.truncate(before);
            measured
        };
        match measured {
            Measure::Frame { bytes, .. } if bytes == 0 || bytes < before as u64 => Measure::Malformed,
            measured => measured,
        }
    }

    /// A frame that lies wholly in this piece.
    fn borrowed(&mut self, length: usize, keep: usize) -> Heard<'_> {
        let start = self.frames.offset;
        let (frame, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        self.frames.offset = start.saturating_add(length as u64);
        let kept = &frame[..length.min(keep).min(KEPT_BYTES_MAX)];
        Heard::Frame(Frame { start, end: self.frames.offset, kept, hidden: false })
    }

    /// The frame in progress has this length; what is kept of it came in earlier pieces.
    fn begin(&mut self, bytes: u64, keep: usize) {
        let keep = keep.min(KEPT_BYTES_MAX);
        let before = self.frames.kept.len();
        self.frames.kept.truncate(keep);
        let start = self.frames.offset - before as u64;
        let wanted = keep - self.frames.kept.len();
        self.frames.state = State::Inside { start, left: bytes - before as u64, wanted, hidden: false };
    }

    /// Takes all that is here towards a length that is not known yet.
    fn gather(&mut self) -> Option<Heard<'static>> {
        if self.frames.kept.len() + self.bytes.len() >= MEASURED_BYTES_MAX {
            let at = self.frames.offset - self.frames.kept.len() as u64;
            return Some(self.lost(at, Lost::TooLarge));
        }
        self.frames.kept.extend_from_slice(self.bytes);
        self.frames.offset = self.frames.offset.saturating_add(self.bytes.len() as u64);
        self.bytes = &[];
        None
    }

    /// Takes what is here of the frame in progress.
    fn advance(&mut self) {
        let State::Inside { left, wanted, hidden, .. } = &mut self.frames.state else { return };
        let moved = if self.gap > 0 {
            let moved = self.gap.min(*left);
            let unseen = usize::try_from(moved).map_or(*wanted, |moved| moved.min(*wanted));
            *hidden |= unseen > 0;
            // What comes behind a hole is not where it seems to be.
            *wanted = if unseen > 0 { 0 } else { *wanted };
            self.gap -= moved;
            moved
        } else {
            let moved = usize::try_from(*left).map_or(self.bytes.len(), |left| left.min(self.bytes.len()));
            let (bytes, rest) = self.bytes.split_at(moved);
            let taken = moved.min(*wanted);
            self.frames.kept.extend_from_slice(&bytes[..taken]);
            *wanted -= taken;
            self.bytes = rest;
            moved as u64
        };
        *left -= moved;
        self.first = false;
        self.frames.offset = self.frames.offset.saturating_add(moved);
    }

    fn lost(&mut self, at: u64, reason: Lost) -> Heard<'static> {
        self.frames.lose();
        self.skip_all();
        Heard::Lost { at, reason }
    }

    fn skip_all(&mut self) {
        self.frames.offset = self.frames.offset.saturating_add(self.gap).saturating_add(self.bytes.len() as u64);
        (self.bytes, self.gap, self.first) = (&[], 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte of length, which counts what follows, and then that.
    fn measure(bytes: &[u8]) -> Measure {
        match bytes {
            [] => Measure::More,
            [b'!', ..] => Measure::Malformed,
            [length, ..] => Measure::Frame { bytes: u64::from(length - b'0') + 1, keep: 4 },
        }
    }

    fn run(inputs: &[Input<'_>]) -> String {
        let (mut frames, mut said) = (Frames::default(), String::new());
        for input in inputs {
            let mut feed = frames.feed(*input);
            while let Some(heard) = feed.next(measure, |bytes| bytes.first().is_some_and(u8::is_ascii_digit)) {
                match heard {
                    Heard::Frame(frame) => {
                        let kept = std::str::from_utf8(frame.kept).unwrap();
                        let hidden = if frame.hidden { "?" } else { "" };
                        said.push_str(&format!("{}-{}:{kept}{hidden} ", frame.start, frame.end));
                    }
                    Heard::Lost { at, reason } => said.push_str(&format!("{reason:?}@{at} ")),
                }
            }
        }
        said
    }

    #[test]
    fn frames_follow_each_other_however_they_are_cut() {
        let expected = "0-3:2ab 3-4:0 4-12:7abc ";
        let stream = b"2ab07abcdefg";
        assert_eq!(run(&[Input::Bytes(stream)]), expected);
        let bytes: Vec<_> = stream.chunks(1).map(Input::Bytes).collect();
        assert_eq!(run(&bytes), expected);
        for at in 0..stream.len() {
            let (left, right) = stream.split_at(at);
            assert_eq!(run(&[Input::Bytes(left), Input::Bytes(right)]), expected, "{at}");
        }
    }

    #[test]
    fn a_gap_inside_a_frame_hides_only_what_was_wanted() {
        assert_eq!(run(&[Input::Bytes(b"7abcd"), Input::Gap(3), Input::Bytes(b"1x")]), "0-8:7abc 8-10:1x ");
        assert_eq!(run(&[Input::Bytes(b"7a"), Input::Gap(3), Input::Bytes(b"efg1x")]), "0-8:7a? 8-10:1x ");
    }

    #[test]
    fn after_a_gap_over_a_header_a_frame_is_found_where_an_input_begins() {
        let pieces = [Input::Bytes(b"1a"), Input::Gap(5), Input::Bytes(b"xyz"), Input::Bytes(b"1b")];
        assert_eq!(run(&pieces), "0-2:1a Gap@2 10-12:1b ");
        assert_eq!(run(&[Input::Bytes(b"2a"), Input::Gap(9), Input::Bytes(b"1b")]), "0-3:2a? Gap@3 11-13:1b ");
    }

    #[test]
    fn what_is_no_frame_is_lost_once() {
        assert_eq!(run(&[Input::Bytes(b"1a!zz"), Input::Bytes(b"0")]), "0-2:1a Malformed@2 5-6:0 ");
    }

    #[test]
    fn a_length_must_be_said_in_time() {
        let mut frames = Frames::default();
        let mut feed = frames.feed(Input::Bytes(&[b'x'; MEASURED_BYTES_MAX]));
        let heard = feed.next(|_| Measure::More, |_| false);
        assert_eq!(heard, Some(Heard::Lost { at: 0, reason: Lost::TooLarge }));
    }
}
