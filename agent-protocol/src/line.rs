//! Lines of text protocols: how they are found, and their words.

/// What the first line is: without its end, and how long with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// Its end is still to come.
    Partial,
    /// It is none.
    None,
    Is(&'a [u8], usize),
}

/// The first line, if it has at most `bytes_max` bytes with its end (CRLF or LF). It has no control characters but tabs.
pub(crate) fn first(bytes: &[u8], bytes_max: usize) -> Line<'_> {
    let searched = &bytes[..bytes.len().min(bytes_max)];
    let Some(end) = memchr::memchr(b'\n', searched) else {
        let text = searched.strip_suffix(b"\r").unwrap_or(searched);
        return if searched.len() < bytes_max && is_text(text) { Line::Partial } else { Line::None };
    };
    let text = &searched[..end];
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if is_text(text) { Line::Is(text, end + 1) } else { Line::None }
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| (*byte >= b' ' && *byte != 0x7f) || *byte == b'\t')
}

/// Its words.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty())
}

/// What it begins with, up to a blank or its end: nothing if it begins with one.
pub(crate) fn begin(line: &[u8]) -> &[u8] {
    line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).next().unwrap_or_default()
}

/// A number without sign.
pub(crate) fn number(word: &[u8]) -> Option<u64> {
    let digits = (1..=19).contains(&word.len()) && word.iter().all(u8::is_ascii_digit);
    digits.then(|| word.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}
