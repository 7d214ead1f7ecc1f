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
        let mut glance = Self::default();
        let mut is_marked = false;
        let (chunks, rest) = text.as_chunks::<CHUNK>();
        // Two loops: with a length that is known, one instruction looks at a whole chunk.
        for chunk in chunks {
            let (at, digits, marks) = count(chunk);
            glance.has_at |= at != 0;
            glance.digits += usize::from(digits);
            is_marked |= marks != 0;
        }
        for byte in rest {
            glance.has_at |= matches!(byte, b'@' | b'%');
            glance.digits += usize::from(byte.is_ascii_digit());
            is_marked |= MARKS.contains(byte);
        }
        glance.may_begin_token = is_marked && text.len() >= token::BYTES_MIN && may_begin_token(text);
        glance
    }
}

/// Every beginning in [`token`] has one of these: what has none need not be looked at again.
pub(super) const MARKS: [u8; 5] = *b"JA_- ";

/// More than 0 if there is an `@` or `%`; how many digits; more than 0 if there is one of [`MARKS`].
#[inline]
fn count(chunk: &[u8; CHUNK]) -> (u8, u8, u8) {
    let (mut at, mut digits, mut marks) = (0_u8, 0_u8, 0_u8);
    for byte in chunk {
        at |= u8::from(*byte == b'@') | u8::from(*byte == b'%');
        digits += u8::from(byte.wrapping_sub(b'0') < 10);
        for mark in MARKS {
            marks |= u8::from(*byte == mark);
        }
    }
    (at, digits, marks)
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
