//! Messages: their lengths, their fields, and how they look from outside.

use crate::{detect::Sign, frames::Measure};

/// Value of `db.system.name`.
pub(super) const SYSTEM: &str = "postgresql";
pub(super) const SSL_REQUEST: u32 = 80_877_103;
pub(super) const GSSENC_REQUEST: u32 = 80_877_104;
pub(super) const CANCEL_REQUEST: u32 = 80_877_102;

/// Bytes before a message's contents: type and length.
const HEADER_BYTES: usize = 5;
/// `MAX_STARTUP_PACKET_LENGTH`.
const START_BYTES_MAX: u32 = 10_000;
/// `PQ_LARGE_MESSAGE_LIMIT`.
const MESSAGE_BYTES_MAX: u32 = 0x3fff_ffff;
/// How much is wanted of a message with a statement.
const STATEMENT_BYTES: usize = 17 * 1024;
/// How much is wanted of other messages of which something is.
const DETAIL_BYTES: usize = 1024;

/// Types of a client's messages.
const CLIENT: &[u8] = b"BCDEFHPQSXcdfp";
/// Types of a server's messages.
const SERVER: &[u8] = b"123ACDEGHIKNRSTVWZcdnstv";

/// Fields of a message, in order; behind its end, or what was kept of it, all are empty.
#[derive(Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Up to a zero, or to the end.
    pub fn text(&mut self) -> &'a [u8] {
        let end = memchr::memchr(0, self.0).unwrap_or(self.0.len());
        let (text, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        text
    }

    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    fn short(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    fn long(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    /// A text that must end here, of characters that names and tags have.
    fn whole_text(&mut self) -> Option<&'a [u8]> {
        memchr::memchr(0, self.0)?;
        let text = self.text();
        text.iter().all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace()).then_some(text)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The length of a client's message.
pub(super) fn measure_client(bytes: &[u8]) -> Measure {
    match bytes {
        [0, ..] => measure_start(bytes),
        [kind, ..] if !CLIENT.contains(kind) => Measure::Malformed,
        [kind, ..] => measure(
            bytes,
            match kind {
                b'Q' | b'P' => STATEMENT_BYTES,
                b'B' | b'C' | b'E' | b'D' => DETAIL_BYTES,
                _ => 1,
            },
        ),
        [] => Measure::More,
    }
}

/// A message without a type: length and code.
fn measure_start(bytes: &[u8]) -> Measure {
    let Some(length) = number(bytes, 0) else { return Measure::More };
    if (8..=START_BYTES_MAX).contains(&length) { Measure::whole(length.into()) } else { Measure::Malformed }
}

/// The length of a server's message; `encryption`: its answer to a request for that is expected.
pub(super) fn measure_server(bytes: &[u8], encryption: bool) -> Measure {
    match bytes {
        [b'N' | b'S' | b'G', ..] if encryption => Measure::whole(1),
        [kind, ..] if !SERVER.contains(kind) => Measure::Malformed,
        [kind, ..] => measure(
            bytes,
            match kind {
                b'E' | b'S' | b'C' => DETAIL_BYTES,
                _ => 1,
            },
        ),
        [] => Measure::More,
    }
}

fn measure(bytes: &[u8], keep: usize) -> Measure {
    match number(bytes, 1) {
        None => Measure::More,
        Some(length) if is_length(bytes[0], length) => Measure::Frame { bytes: u64::from(length) + 1, keep },
        Some(_) => Measure::Malformed,
    }
}

/// Whether a message of this type may have this length.
fn is_length(kind: u8, length: u32) -> bool {
    match kind {
        b'1' | b'2' | b'3' | b'n' | b's' | b'I' | b'c' => length == 4,
        b'Z' => length == 5,
        _ => (4..=MESSAGE_BYTES_MAX).contains(&length),
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// What a message without a type asks for.
pub(super) fn code(start: &[u8]) -> Option<u32> {
    number(start, 4)
}

/// Whether a client's message asks for something new.
pub(super) fn is_request(message: &[u8]) -> bool {
    matches!(message, [b'Q' | b'P' | b'B' | b'E' | b'F', ..])
}

/// The database of a start message's parameters; without one, it is the user's name.
pub(super) fn database(parameters: &[u8]) -> Option<String> {
    let mut fields = Fields::new(parameters);
    let mut user = None;
    loop {
        let name = fields.text();
        if name.is_empty() {
            return user;
        }
        let value = || Some(String::from_utf8_lossy(fields.0.split(|byte| *byte == 0).next()?).into_owned());
        match name {
            b"database" => return value().filter(|name| !name.is_empty()),
            b"user" => user = value(),
            _ => {}
        }
        fields.text();
    }
}

/// What an `ErrorResponse` says, but for its texts.
pub(super) struct Error {
    pub sqlstate: String,
    /// The session ends.
    pub fatal: bool,
}

pub(super) fn error(fields: &mut Fields<'_>) -> Error {
    let mut error = Error { sqlstate: String::new(), fatal: false };
    while let Some(field) = fields.byte().filter(|field| *field != 0) {
        let value = fields.text();
        match field {
            b'C' if value.len() == 5 && value.iter().all(u8::is_ascii_alphanumeric) => {
                error.sqlstate = String::from_utf8_lossy(value).into_owned();
            }
            b'V' => error.fatal = matches!(value, b"FATAL" | b"PANIC"),
            _ => {}
        }
    }
    if error.sqlstate.is_empty() {
        // Not told, or beyond what was captured: `internal_error` would be a guess.
        error.sqlstate = "_OTHER".into();
    }
    error
}

/// How a client's first bytes look.
pub fn check_client(bytes: &[u8]) -> Sign {
    match bytes {
        [0, ..] => check_start(bytes),
        _ => check(bytes, CLIENT, valid_request, b"QPB"),
    }
}

/// How a server's first bytes look.
pub fn check_server(bytes: &[u8]) -> Sign {
    match bytes {
        // The answer to a request for encryption.
        [b'N' | b'S'] => Sign::Partial,
        _ => check(bytes, SERVER, valid_reply, b"RZCETS12"),
    }
}

/// A message surely begins here: of a client.
pub(super) fn resumes_client(bytes: &[u8]) -> bool {
    check(bytes, CLIENT, valid_request, CLIENT) == Sign::Yes
}

/// A message surely begins here: of a server.
pub(super) fn resumes_server(bytes: &[u8]) -> bool {
    check(bytes, SERVER, valid_reply, SERVER) == Sign::Yes
}

/// By the first message: sure if it is here to its end, is as it must be, and of a `telling` type.
fn check(bytes: &[u8], types: &[u8], valid: fn(u8, &[u8]) -> Option<()>, telling: &[u8]) -> Sign {
    let Some((kind, _)) = bytes.split_first().filter(|(kind, _)| types.contains(kind)) else { return Sign::No };
    let Some(length) = number(bytes, 1) else {
        return if bytes.get(1).is_none_or(|high| *high < 4) { Sign::Partial } else { Sign::No };
    };
    // Text in place of a length is more than that.
    if length >= 1 << 26 || !is_length(*kind, length) {
        return Sign::No;
    }
    let Some(contents) = bytes.get(HEADER_BYTES..1 + length as usize) else {
        let long = !bytes[HEADER_BYTES..].is_empty();
        return if !long || length < 4096 { Sign::Partial } else { Sign::Likely };
    };
    match valid(*kind, contents) {
        None => Sign::No,
        Some(()) if telling.contains(kind) => Sign::Yes,
        Some(()) => Sign::Likely,
    }
}

/// A start message: version 3 and pairs of texts; or one of the requests instead of it.
fn check_start(bytes: &[u8]) -> Sign {
    let (Some(length), Some(code)) = (number(bytes, 0), number(bytes, 4)) else {
        let begin = [0, 0];
        return if bytes.iter().zip(begin).all(|(byte, zero)| *byte == zero) { Sign::Partial } else { Sign::No };
    };
    match (code, length) {
        (SSL_REQUEST | GSSENC_REQUEST, 8) | (CANCEL_REQUEST, 16) => return Sign::Yes,
        (0x0003_0000..=0x0003_00ff, 10..=START_BYTES_MAX) => {}
        _ => return Sign::No,
    }
    let whole = bytes.get(8..length as usize);
    let parameters = whole.unwrap_or(&bytes[8..]);
    let named = parameters.iter().take_while(|byte| byte.is_ascii_lowercase() || **byte == b'_').count();
    match (parameters.get(named), whole) {
        (None, _) => Sign::Partial,
        (Some(0), _) if named == 0 => Sign::No,
        (Some(0), None) => Sign::Partial,
        (Some(0), Some([.., 0, 0])) => Sign::Yes,
        _ => Sign::No,
    }
}

/// Whether a client's message holds what it must.
fn valid_request(kind: u8, contents: &[u8]) -> Option<()> {
    let mut fields = Fields::new(contents);
    match kind {
        b'Q' | b'f' => _ = fields.whole_text()?,
        b'P' => {
            fields.whole_text()?;
            fields.whole_text()?;
            let types = fields.short()?;
            fields.skip(usize::from(types) * 4)?;
        }
        b'B' => {
            fields.whole_text()?;
            fields.whole_text()?;
            let formats = fields.short()?;
            fields.skip(usize::from(formats) * 2)?;
            values(&mut fields)?;
            let formats = fields.short()?;
            fields.skip(usize::from(formats) * 2)?;
        }
        b'D' | b'C' => {
            fields.byte().filter(|what| matches!(what, b'S' | b'P'))?;
            fields.whole_text()?;
        }
        b'E' => {
            fields.whole_text()?;
            fields.skip(4)?;
        }
        b'S' | b'H' | b'X' | b'c' => {}
        // Anything may be in them.
        b'd' | b'p' | b'F' => return (!contents.is_empty()).then_some(()),
        _ => return None,
    }
    fields.is_empty().then_some(())
}

/// Whether a server's message holds what it must.
fn valid_reply(kind: u8, contents: &[u8]) -> Option<()> {
    let mut fields = Fields::new(contents);
    match kind {
        b'1' | b'2' | b'3' | b'n' | b's' | b'I' | b'c' => {}
        b'Z' => _ = fields.byte().filter(|state| matches!(state, b'I' | b'T' | b'E'))?,
        b'C' => _ = fields.whole_text().filter(|tag| tag.first().is_some_and(u8::is_ascii_uppercase))?,
        b'R' => return fields.long().filter(|code| *code <= 12).map(|_| ()),
        b'S' => _ = (fields.whole_text().filter(|name| !name.is_empty())?, fields.whole_text()?),
        b'A' => {
            fields.skip(4)?;
            _ = (fields.whole_text()?, fields.whole_text()?);
        }
        b'E' | b'N' => {
            while fields.byte().filter(u8::is_ascii_alphabetic).is_some() {
                fields.whole_text()?;
            }
            return (fields.is_empty() && contents.len() > 1 && contents.ends_with(&[0, 0])).then_some(());
        }
        b'T' => {
            for _ in 0..fields.short()? {
                fields.whole_text()?;
                fields.skip(18)?;
            }
        }
        b'D' => values(&mut fields)?,
        b't' => {
            let types = fields.short()?;
            fields.skip(usize::from(types) * 4)?;
        }
        b'G' | b'H' | b'W' => {
            fields.byte().filter(|format| *format <= 1)?;
            let formats = fields.short()?;
            fields.skip(usize::from(formats) * 2)?;
        }
        b'K' => return (contents.len() >= 8).then_some(()),
        b'd' | b'V' | b'v' => return (!contents.is_empty()).then_some(()),
        _ => return None,
    }
    fields.is_empty().then_some(())
}

/// A number, and as many values, each after its length.
fn values(fields: &mut Fields<'_>) -> Option<()> {
    for _ in 0..fields.short()? {
        let length = fields.long()?;
        if length != u32::MAX {
            fields.skip(usize::try_from(length).ok()?)?;
        }
    }
    Some(())
}

/// What bytes say that end with `ReadyForQuery`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// What came before it was no error.
    pub ok: bool,
    /// The number of rows in the command's tag, if that much of it is here.
    pub rows: Option<u64>,
}

/// Reads the bytes that came last, behind a gap.
pub(super) fn ready_at_end(bytes: &[u8]) -> Option<Tail> {
    let (before, [b'Z', 0, 0, 0, 5, b'I' | b'T' | b'E']) = bytes.split_last_chunk()? else { return None };
    // An error, like a notice, ends with two zeros: its last field's and its own.
    let tag = match before {
        [.., 0, 0] => return Some(Tail { ok: false, rows: None }),
        [tag @ .., 0] => tag,
        [.., b'I', 0, 0, 0, 4] => return Some(Tail { ok: true, rows: None }),
        _ => return Some(Tail { ok: false, rows: None }),
    };
    let digits = tag.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (command, rows) = tag.split_at(tag.len() - digits);
    let given = [&b"ECT "[..], b"ETCH "].into_iter().any(|end| command.ends_with(end));
    let rows = std::str::from_utf8(rows).ok().and_then(|rows| rows.parse().ok()).filter(|_| given);
    Some(Tail { ok: true, rows })
}
