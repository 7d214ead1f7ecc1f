//! What can be seen of a text in one pass, 16 bytes at a time.
//!
//! Nearly all texts hold nothing, so this is what redaction costs. The loops over 16 bytes have no branches: compilers make vector
//! instructions of them.

use super::token;

const CHUNK: usize = 16;
/// How far [`token_begins`] looks ahead.
const AHEAD: usize = 6;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Glance {
    /// An `@`, or a `%` that may begin `%40`.
    pub has_at: bool,
    /// Digits.
    pub digits: usize,
    /// Two bytes that the beginning of a token has, at their distance, in a text that is long enough for one.
    pub may_begin_token: bool,
}

impl Glance {
    #[inline]
    pub fn at(text: &[u8]) -> Self {
        let (chunks, rest) = text.as_chunks::<CHUNK>();
        let mut seen = Seen::default();
        for chunk in chunks {
            seen.add(chunk);
        }
        if !rest.is_empty() {
            // What is behind the text is none of what is looked for. With a length that is known, one instruction looks at a whole chunk.
            let mut last = [0; CHUNK];
            last[..rest.len()].copy_from_slice(rest);
            seen.add(&last);
        }
        Self {
            has_at: seen.at,
            digits: seen.digits,
            may_begin_token: seen.marks && text.len() >= token::BYTES_MIN && may_begin_token(text),
        }
    }
}

/// Every beginning in [`token`] has one of these: what has none need not be looked at again.
pub(super) const MARKS: [u8; 5] = *b"JA_- ";

/// What was in some chunks.
#[derive(Default)]
struct Seen {
    /// An `@` or `%`.
    at: bool,
    digits: usize,
    /// One of [`MARKS`].
    marks: bool,
}

impl Seen {
    #[inline]
    fn add(&mut self, chunk: &[u8; CHUNK]) {
        let (mut at, mut digits, mut marks) = (0_u8, 0_u8, 0_u8);
        for byte in chunk {
            at |= u8::from(*byte == b'@') | u8::from(*byte == b'%');
            digits += u8::from(byte.wrapping_sub(b'0') < 10);
            for mark in MARKS {
                marks |= u8::from(*byte == mark);
            }
        }
        self.at |= at != 0;
        self.digits += usize::from(digits);
        self.marks |= marks != 0;
    }
}

/// Of a text of at least [`CHUNK`] bytes.
#[inline]
fn may_begin_token(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(window) = text[at..].first_chunk::<{ CHUNK + AHEAD }>() {
        if token_begins(window) {
            return true;
        }
        at += CHUNK;
    }
    // What is left is shorter than that: the last 16 places and those whose bytes ahead were not there.
    let mut last = [0; 2 * CHUNK + AHEAD];
    let rest = &text[at..];
    last[..rest.len()].copy_from_slice(rest);
    (0..rest.len()).step_by(CHUNK).filter_map(|at| last[at..].first_chunk()).any(token_begins)
}

/// Whether one of the first 16 places may begin a token. Every beginning in [`token`] has one of these pairs.
#[inline]
fn token_begins(window: &[u8; CHUNK + AHEAD]) -> bool {
    let mut found = 0_u8;
    for at in 0..CHUNK {
        let is = |ahead: usize, byte: u8| u8::from(window[at + ahead] == byte);
        let jwt = is(0, b'e') & is(2, b'J');
        let bearer = is(1, b'e') & is(5, b'r') & is(6, b' ');
        let capitals = is(1, b'K') & is(3, b'A') | is(1, b'S') & is(3, b'A') | is(0, b'A') & is(2, b'z');
        let git = is(0, b'g') & is(3, b'_') | is(0, b'g') & is(6, b'_') | is(0, b'g') & is(5, b'-');
        let others = is(0, b'x') & is(1, b'o') & is(2, b'x') | is(1, b'k') & is(2, b'_') | is(0, b'-') & is(1, b'-');
        found |= jwt | bearer | capitals | git | others;
    }
    found != 0
}
