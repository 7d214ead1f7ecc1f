//! Lines of the text protocol: how they are found, and their words.

use crate::frames::Measure;

/// Longest line, its end included. Keys have at most 250 bytes; lists of keys are taken word by word.
pub(super) const LINE_BYTES_MAX: usize = 2048;
/// Longest value (the server's own limit of `-I`).
pub(super) const VALUE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What the first line is: without its end, and how long with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Its end is still to come.
    Partial,
    /// It is none.
    None,
    Is(&'a [u8], usize),
}

/// The first line.
pub(super) fn line(bytes: &[u8]) -> Line<'_> {
    let searched = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', searched) else {
        let text = searched.strip_suffix(b"\r").unwrap_or(searched);
        return if searched.len() < LINE_BYTES_MAX && is_text(text) { Line::Partial } else { Line::None };
    };
    let text = &searched[..end];
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if is_text(text) { Line::Is(text, end + 1) } else { Line::None }
}

/// No control characters. Keys may be of any other bytes.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte >= b' ' && *byte != 0x7f)
}

/// Its words.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b' ').filter(|word| !word.is_empty())
}

/// A number without sign.
pub(super) fn number(word: &[u8]) -> Option<u64> {
    let digits = (1..=19).contains(&word.len()) && word.iter().all(u8::is_ascii_digit);
    digits.then(|| word.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

/// A line, and behind it a value of that many bytes with its own end of line.
pub(super) fn with_value(line_bytes: usize, value_bytes: u64) -> Measure {
    if value_bytes > VALUE_BYTES_MAX {
        return Measure::Malformed;
    }
    Measure::Frame { bytes: line_bytes as u64 + value_bytes + 2, keep: line_bytes }
}
