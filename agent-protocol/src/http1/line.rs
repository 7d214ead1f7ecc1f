//! Recognises the start of a message, incrementally: is this a request or status line of HTTP/1.x, not one, or too
//! short to tell? Called by the engine for every head, while framing is lost, and by `detect`. Does not look beyond
//! the version (requests) and the status code (responses); `httparse` judges the rest.

use crate::detect::Sign;

/// Which start line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `method SP target SP HTTP/1.x` (RFC 9112 section 3).
    Request,
    /// `HTTP/1.x SP 3DIGIT` (RFC 9112 section 4).
    Response,
}

/// Longest method: the registered ones end at 17 (`UPDATEREDIRECTREF`).
const METHOD_BYTES_MAX: u8 = 32;

/// Position in a start line.
///
/// ```text
/// request:  Method(n) -SP-> Target -SP-> Version(0..8) -> Done
/// response: Version(0..8) -> Status(0..4) -> Done            any other byte: Failed
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Method(u8),
    Target { empty: bool },
    Version(u8),
    Status(u8),
    Done,
    Failed,
}

/// Incremental recogniser; feed it the line's bytes in any pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartLine {
    kind: Kind,
    step: Step,
}

impl StartLine {
    /// At the first byte of a line.
    pub(crate) const fn new(kind: Kind) -> Self {
        let step = match kind {
            Kind::Request => Step::Method(0),
            Kind::Response => Step::Version(0),
        };
        Self { kind, step }
    }

    /// Judges a line of which `bytes` is all there is.
    pub(crate) fn check(kind: Kind, bytes: &[u8]) -> Sign {
        Self::new(kind).push(bytes)
    }

    /// Continues with the next bytes; those behind the recognised part are ignored.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Sign {
        for &byte in bytes {
            if matches!(self.step, Step::Done | Step::Failed) {
                break;
            }
            self.step = next(self.kind, self.step, byte);
        }
        self.verdict()
    }

    /// What the bytes so far say.
    pub(crate) const fn verdict(&self) -> Sign {
        match self.step {
            Step::Done => Sign::Yes,
            Step::Failed => Sign::No,
            _ => Sign::Partial,
        }
    }
}

fn next(kind: Kind, step: Step, byte: u8) -> Step {
    match step {
        Step::Method(count) => match byte {
            b' ' if count > 0 => Step::Target { empty: true },
            _ if is_token(byte) && count < METHOD_BYTES_MAX => Step::Method(count + 1),
            _ => Step::Failed,
        },
        Step::Target { empty } => match byte {
            b' ' if !empty => Step::Version(0),
            0x21..=0x7e | 0x80.. => Step::Target { empty: false },
            _ => Step::Failed,
        },
        Step::Version(at) => version(kind, at, byte),
        Step::Status(0) if byte == b' ' => Step::Status(1),
        Step::Status(1) if byte.is_ascii_digit() && byte != b'0' => Step::Status(2),
        Step::Status(2) if byte.is_ascii_digit() => Step::Status(3),
        Step::Status(3) if byte.is_ascii_digit() => Step::Done,
        Step::Status(_) | Step::Failed => Step::Failed,
        Step::Done => Step::Done,
    }
}

fn version(kind: Kind, at: u8, byte: u8) -> Step {
    match b"HTTP/1.".get(usize::from(at)) {
        Some(&expected) if byte == expected => Step::Version(at + 1),
        None if matches!(byte, b'0' | b'1') => match kind {
            Kind::Request => Step::Done,
            Kind::Response => Step::Status(0),
        },
        _ => Step::Failed,
    }
}

/// RFC 9110 section 5.6.2: tchar.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, line: &[u8], expected: Sign) {
        assert_eq!(StartLine::check(kind, line), expected, "{}", line.escape_ascii());
        let mut bytewise = StartLine::new(kind);
        for byte in line {
            bytewise.push(&[*byte]);
        }
        assert_eq!(bytewise.verdict(), expected, "byte by byte: {}", line.escape_ascii());
    }

    #[test]
    fn request_lines_are_told_from_other_bytes() {
        check(Kind::Request, b"GET / HTTP/1.1\r\n", Sign::Yes);
        check(Kind::Request, b"M-SEARCH * HTTP/1.0", Sign::Yes);
        check(Kind::Request, b"", Sign::Partial);
        check(Kind::Request, b"GET / HTTP/1.", Sign::Partial);
        check(Kind::Request, b"GET /\xff HTTP/1.1", Sign::Yes);
        check(Kind::Request, b"GET / HTTP/1.2", Sign::No);
        check(Kind::Request, b"PRI * HTTP/2.0\r\n", Sign::No);
        check(Kind::Request, b"GET  / HTTP/1.1", Sign::No);
        check(Kind::Request, b" / HTTP/1.1", Sign::No);
        check(Kind::Request, b"GET /\r\n", Sign::No);
        check(Kind::Request, b"*1\r\n$4\r\nPING\r\n", Sign::No);
        check(Kind::Request, b"\x16\x03\x01\x02\x00", Sign::No);
        check(Kind::Request, b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.1", Sign::Yes);
        check(Kind::Request, b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG", Sign::No);
    }

    #[test]
    fn status_lines_are_told_from_other_bytes() {
        check(Kind::Response, b"HTTP/1.1 200 OK\r\n", Sign::Yes);
        check(Kind::Response, b"HTTP/1.0 404", Sign::Yes);
        check(Kind::Response, b"HTTP/1.1 20", Sign::Partial);
        check(Kind::Response, b"HTTP/1.1 099", Sign::No);
        check(Kind::Response, b"HTTP/1.1  200", Sign::No);
        check(Kind::Response, b"HTTP/2 200", Sign::No);
        check(Kind::Response, b"ICY 200 OK", Sign::No);
    }
}
