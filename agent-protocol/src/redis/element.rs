//! Elements of RESP2 and RESP3: a line, and behind the line of a bulk string that many bytes.
//!
//! In: the first bytes of an element. Out: how long it is, and what it is. An aggregate's line is an element of its own, which
//! says how many elements belong to it; who counts them needs no stack, however deep they nest.
//!
//! Streamed strings and aggregates (`$?`, `*?`) are in the RESP3 text, but no server sends them: they are malformed here.
//! Limits: a line of [`LINE_BYTES_MAX`], bulk strings of [`BULK_BYTES_MAX`] (the server's own default limit).

use crate::{detect::Sign, frames::Measure};

/// Longest line, its end included.
pub(super) const LINE_BYTES_MAX: usize = 8 * 1024;
/// Longest bulk string (`proto-max-bulk-len`).
const BULK_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Most digits of a length.
const DIGITS_MAX: usize = 10;
/// How much of an element is wanted: a word, or the beginning of an error.
const KEPT_BYTES_MAX: usize = 64;

/// An element, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element<'a> {
    /// `*`, `~`, `%`: this many elements belong to it.
    Aggregate(u64),
    /// `>`: likewise; nobody asked for it.
    Push(u64),
    /// `|`: likewise, and then comes what they say something about.
    Attributes(u64),
    /// `$` and `=`, as far as it was kept.
    Bulk(&'a [u8]),
    /// `+`.
    Status(&'a [u8]),
    /// `-` and `!`, as far as it was kept.
    Error(&'a [u8]),
    /// `:`.
    Integer(&'a [u8]),
    /// Null, boolean, double, big number.
    Other,
}

/// How long the element is that begins like that.
pub(super) fn measure(bytes: &[u8]) -> Measure {
    let Some(first) = bytes.first() else { return Measure::More };
    match first {
        b'$' | b'!' | b'=' | b'*' | b'~' | b'>' | b'%' | b'|' => measure_counted(*first, bytes),
        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => measure_line(bytes),
        _ => Measure::Malformed,
    }
}

fn measure_counted(first: u8, bytes: &[u8]) -> Measure {
    let (count, line) = match number(&bytes[1..]) {
        Number::Partial => return Measure::More,
        Number::None => return Measure::Malformed,
        Number::Null => return Measure::whole(b"$-1\r\n".len() as u64),
        Number::Is { value, line } => (value, line as u64 + 1),
    };
    if !matches!(first, b'$' | b'!' | b'=') {
        return Measure::whole(line);
    }
    if count > BULK_BYTES_MAX {
        return Measure::Malformed;
    }
    Measure::Frame { bytes: line + count + 2, keep: line as usize + KEPT_BYTES_MAX.min(count as usize) }
}

/// A line of any text; it ends with CRLF.
pub(super) fn measure_line(bytes: &[u8]) -> Measure {
    let searched = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match memchr::memchr(b'\n', searched) {
        Some(at) if bytes[..at].ends_with(b"\r") => {
            Measure::Frame { bytes: at as u64 + 1, keep: (at + 1).min(KEPT_BYTES_MAX) }
        }
        None if searched.len() < LINE_BYTES_MAX => Measure::More,
        _ => Measure::Malformed,
    }
}

enum Number {
    Partial,
    /// No number.
    None,
    /// `-1`.
    Null,
    Is {
        value: u64,
        /// Bytes up to the end of the line.
        line: usize,
    },
}

/// A number and the end of its line.
fn number(bytes: &[u8]) -> Number {
    let digits = bytes.iter().take(DIGITS_MAX + 1).take_while(|byte| byte.is_ascii_digit()).count();
    if digits > DIGITS_MAX {
        return Number::None;
    }
    let (text, rest) = bytes.split_at(digits);
    match rest {
        [] | [b'\r'] if digits > 0 || rest.is_empty() => Number::Partial,
        [b'\r', b'\n', ..] if digits > 0 => {
            let value = text.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
            Number::Is { value, line: digits + 2 }
        }
        [b'-', rest @ ..] if digits == 0 => match rest {
            [b'1', b'\r', b'\n', ..] => Number::Null,
            rest if b"1\r\n".starts_with(rest) => Number::Partial,
            _ => Number::None,
        },
        _ => Number::None,
    }
}

/// How many bytes a bulk string has, as its line says; 0 of other elements.
pub(super) fn length(kept: &[u8]) -> u64 {
    match kept.split_first().map(|(_, rest)| number(rest)) {
        Some(Number::Is { value, .. }) => value,
        _ => 0,
    }
}

/// What a measured element is; of its bytes as many are here as were kept.
pub(super) fn read(kept: &[u8]) -> Element<'_> {
    let Some((first, rest)) = kept.split_first() else { return Element::Other };
    let line = rest.iter().position(|byte| *byte == b'\r').map_or(rest, |end| &rest[..end]);
    let count = || match number(rest) {
        Number::Is { value, line } => Some((value, line)),
        _ => None,
    };
    match (first, count()) {
        (b'*' | b'~', Some((count, _))) => Element::Aggregate(count),
        (b'%', Some((count, _))) => Element::Aggregate(count * 2),
        (b'>', Some((count, _))) => Element::Push(count),
        (b'|', Some((count, _))) => Element::Attributes(count * 2),
        (b'$' | b'=', Some((count, line))) => Element::Bulk(body(rest, line, count)),
        (b'!', Some((count, line))) => Element::Error(body(rest, line, count)),
        (b'+', _) => Element::Status(line),
        (b'-', _) => Element::Error(line),
        (b':', _) => Element::Integer(line),
        _ => Element::Other,
    }
}

fn body(rest: &[u8], line: usize, count: u64) -> &[u8] {
    let kept = rest.get(line..).unwrap_or_default();
    &kept[..kept.len().min(usize::try_from(count).unwrap_or(usize::MAX))]
}

/// Whether an element begins here, of a kind that servers answer with.
pub(super) fn check(bytes: &[u8]) -> Sign {
    match measure(bytes) {
        Measure::Frame { .. } if looks_right(bytes) => Sign::Likely,
        Measure::More if looks_right(bytes) => Sign::Partial,
        _ => Sign::No,
    }
}

/// The first bytes behind a type; for `-` and `+` a word as Redis writes it, so as not to take POP3 for it.
fn looks_right(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    match line {
        [b'-', text @ ..] => {
            let word = text.split(|byte| *byte == b' ').next().unwrap_or_default();
            word.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'_')
        }
        [b'+', text @ ..] => text.iter().all(u8::is_ascii_alphanumeric),
        [b':' | b'(', text @ ..] => text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-'),
        [b'_', rest @ ..] => rest.is_empty(),
        [b'#', rest @ ..] => matches!(rest, [] | [b't' | b'f']),
        [b',', rest @ ..] => rest.iter().all(|byte| byte.is_ascii_alphanumeric() || b".+-".contains(byte)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_element(bytes: &[u8], length: u64, expected: Element<'_>) {
        let Measure::Frame { bytes: measured, keep } = measure(bytes) else { panic!("{}", bytes.escape_ascii()) };
        let kept = &bytes[..keep.min(measured as usize)];
        assert_eq!((measured, read(kept)), (length, expected), "{}", bytes.escape_ascii());
        for end in 0..bytes.len().min(keep) {
            let cut = measure(&bytes[..end]);
            assert!(cut == Measure::More || cut == measure(bytes), "{}", bytes[..end].escape_ascii());
        }
    }

    #[test]
    fn elements_are_measured_and_read() {
        check_element(b"+OK\r\n", 5, Element::Status(b"OK"));
        check_element(b"-ERR no\r\n", 9, Element::Error(b"ERR no"));
        check_element(b"!6\r\nERR no\r\n", 12, Element::Error(b"ERR no"));
        check_element(b":-12\r\n", 6, Element::Integer(b"-12"));
        check_element(b"$3\r\na\r\n\r\n", 9, Element::Bulk(b"a\r\n"));
        check_element(b"$0\r\n\r\n", 6, Element::Bulk(b""));
        check_element(b"=5\r\ntxt:a\r\n", 11, Element::Bulk(b"txt:a"));
        check_element(b"*2\r\n:1\r\n:2\r\n", 4, Element::Aggregate(2));
        check_element(b"%2\r\n", 4, Element::Aggregate(4));
        check_element(b"|1\r\n", 4, Element::Attributes(2));
        check_element(b">3\r\n", 4, Element::Push(3));
        check_element(b"*-1\r\n", 5, Element::Other);
        check_element(b"$-1\r\n", 5, Element::Other);
        check_element(b"_\r\n", 3, Element::Other);
        check_element(b"#t\r\n", 4, Element::Other);
        check_element(b",1.5\r\n", 6, Element::Other);
    }

    #[test]
    fn lengths_are_bounded_and_bytes_skipped() {
        for bytes in [
            &b"$536870913\r\n"[..],
            b"$2147483648\r\n",
            b"$99999999999",
            b"$-2\r\n",
            b"$?\r\n",
            b"$\r\n",
            b"*1 \r\n",
            b"x",
        ] {
            assert_eq!(measure(bytes), Measure::Malformed, "{}", bytes.escape_ascii());
        }
        assert_eq!(measure(b"$536870912\r\n"), Measure::Frame { bytes: 536_870_912 + 14, keep: 12 + KEPT_BYTES_MAX });
        assert_eq!(measure(&[b'+'; LINE_BYTES_MAX]), Measure::Malformed);
    }
}
