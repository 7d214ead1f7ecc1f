//! Packets: their lengths and numbers, their fields, and how they look from outside.

use super::commands::Command;
use crate::{
    detect::Sign,
    frames::{Frame, Measure},
    sql,
};

/// Length of a packet that the next one continues.
pub(super) const PACKET_BYTES_MAX: usize = 0xff_ffff;
/// Length of `EOF` as old clients want it: its mark, warnings, status.
pub(super) const EOF_BYTES: usize = 5;
pub(super) const STATUS_MORE_RESULTS: u16 = 0x0008;
pub(super) const STATUS_CURSOR_EXISTS: u16 = 0x0040;
pub(super) const STATUS_NO_BACKSLASH_ESCAPES: u16 = 0x0200;

const CLIENT_CONNECT_WITH_DB: u32 = 1 << 3;
const CLIENT_COMPRESS: u32 = 1 << 5;
const CLIENT_PROTOCOL_41: u32 = 1 << 9;
const CLIENT_SSL: u32 = 1 << 11;
const CLIENT_SECURE_CONNECTION: u32 = 1 << 15;
const CLIENT_PLUGIN_AUTH_LENENC: u32 = 1 << 21;
const CLIENT_DEPRECATE_EOF: u32 = 1 << 24;
const CLIENT_ZSTD_COMPRESSION: u32 = 1 << 26;

const HEADER_BYTES: usize = 4;
/// Fixed part of the client's answer to the greeting; a request for encryption is just that.
const HANDSHAKE_BYTES: usize = 32;
/// How much is wanted of a command.
const STATEMENT_BYTES: usize = 17 * 1024;
/// How much is wanted of a packet of the log-in.
const LOGIN_BYTES: usize = 1024;
/// How much is wanted of a packet of an answer: its status.
const ANSWER_BYTES: usize = 64;

/// Which numbers a packet may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    Any,
    One(u8),
    Either(u8, u8),
}

impl Numbers {
    fn has(self, number: u8) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => number == one,
            Self::Either(one, other) => number == one || number == other,
        }
    }
}

/// A packet, as far as it was kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub number: u8,
    /// Of its contents.
    pub length: usize,
    pub contents: &'a [u8],
}

impl<'a> Packet<'a> {
    pub fn new(frame: &Frame<'a>) -> Option<Self> {
        Self::read(frame.kept)
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&[one, two, three, number], contents) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let length = u32::from_le_bytes([one, two, three, 0]) as usize;
        Some(Self { number, length, contents: &contents[..contents.len().min(length)] })
    }

    /// Whether the next packet continues it.
    pub fn is_continued(&self) -> bool {
        self.length == PACKET_BYTES_MAX
    }

    fn is_whole(&self) -> bool {
        self.contents.len() == self.length
    }
}

/// Fields of a packet, in order.
#[derive(Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn short(&mut self) -> Option<u16> {
        self.take::<2>().map(u16::from_le_bytes)
    }

    pub fn long(&mut self) -> Option<u32> {
        self.take::<4>().map(u32::from_le_bytes)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    /// An integer that says its own length.
    pub fn number(&mut self) -> Option<u64> {
        match self.byte()? {
            small @ ..=0xfa => Some(small.into()),
            0xfc => self.short().map(u64::from),
            0xfd => self.take::<3>().map(|[one, two, three]| u32::from_le_bytes([one, two, three, 0]).into()),
            0xfe => self.take().map(u64::from_le_bytes),
            _ => None,
        }
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    /// Up to a zero.
    fn text(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(0, self.0)?;
        let (text, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Some(text)
    }
}

/// The length of a client's packet.
pub(super) fn measure_client(bytes: &[u8], expected: Numbers) -> Measure {
    let Some(packet) = Packet::read(bytes) else { return Measure::More };
    if !expected.has(packet.number) {
        return Measure::Malformed;
    }
    let begins = expected == Numbers::One(0);
    match packet.contents.first() {
        None if begins && packet.length > 0 => return Measure::More,
        Some(command) if begins && Command::of(*command).is_none() => return Measure::Malformed,
        None if begins => return Measure::Malformed,
        _ => {}
    }
    let keep = if packet.number == 0 { STATEMENT_BYTES } else { LOGIN_BYTES };
    Measure::Frame { bytes: (HEADER_BYTES + packet.length) as u64, keep }
}

/// The length of a server's packet.
pub(super) fn measure_server(bytes: &[u8], expected: Numbers) -> Measure {
    let Some(packet) = Packet::read(bytes) else { return Measure::More };
    if !expected.has(packet.number) {
        return Measure::Malformed;
    }
    let keep = if expected == Numbers::Any { LOGIN_BYTES } else { ANSWER_BYTES };
    Measure::Frame { bytes: (HEADER_BYTES + packet.length) as u64, keep }
}

/// Whether a client's packet asks for something that is answered.
pub(super) fn is_answered_command(packet: &[u8]) -> bool {
    matches!(packet, [_, _, _, 0, command, ..] if Command::of(*command).is_some_and(Command::is_answered))
}

/// What the server says of itself.
pub(super) struct Greeting {
    pub system: &'static str,
    pub status: Option<u16>,
}

pub(super) fn greeting(packet: &Packet<'_>) -> Greeting {
    let mut fields = Fields::new(packet.contents.get(1..).unwrap_or_default());
    let version = fields.text().unwrap_or_default();
    let mariadb = memchr::memmem::find(version, b"MariaDB").is_some();
    // Connection id, half a challenge and a zero, half of the capabilities, character set.
    let status = fields.skip(4 + 9 + 2 + 1).and_then(|()| fields.short());
    Greeting { system: if mariadb { "mariadb" } else { "mysql" }, status }
}

/// What the client says of itself.
pub(super) struct Handshake {
    pub encrypts: bool,
    pub compressed: bool,
    /// `EOF` follows descriptions.
    pub ends_marked: bool,
    pub database: Option<String>,
}

pub(super) fn handshake(packet: &Packet<'_>) -> Option<Handshake> {
    let capabilities = capabilities(packet)?;
    let set = |flag: u32| capabilities & flag != 0;
    Some(Handshake {
        encrypts: set(CLIENT_SSL) && packet.length == HANDSHAKE_BYTES,
        compressed: set(CLIENT_COMPRESS) || set(CLIENT_ZSTD_COMPRESSION),
        ends_marked: !set(CLIENT_DEPRECATE_EOF),
        database: if set(CLIENT_CONNECT_WITH_DB) { database(packet, capabilities) } else { None },
    })
}

/// The capabilities in a client's answer to the greeting, of protocol 4.1 and later.
fn capabilities(packet: &Packet<'_>) -> Option<u32> {
    let mut fields = Fields::new(packet.contents);
    let capabilities = fields.long()?;
    // Longest packet, character set, and zeros (of which MariaDB uses the last four).
    fields.skip(4 + 1)?;
    let zeros: [u8; 19] = fields.take()?;
    (capabilities & CLIENT_PROTOCOL_41 != 0 && zeros == [0; 19] && packet.length >= HANDSHAKE_BYTES)
        .then_some(capabilities)
}

fn database(packet: &Packet<'_>, capabilities: u32) -> Option<String> {
    let mut fields = Fields::new(packet.contents.get(HANDSHAKE_BYTES..)?);
    fields.text()?;
    if capabilities & CLIENT_PLUGIN_AUTH_LENENC != 0 {
        let length = fields.number()?;
        fields.skip(usize::try_from(length).ok()?)?;
    } else if capabilities & CLIENT_SECURE_CONNECTION != 0 {
        let length = fields.byte()?;
        fields.skip(length.into())?;
    } else {
        fields.text()?;
    }
    Some(String::from_utf8_lossy(fields.text()?).into_owned()).filter(|name| !name.is_empty())
}

/// The text of `COM_QUERY`. A new client sends the number of attributes, and that there is one set of them, before it; with
/// attributes, the text is not looked for.
pub(super) fn query_text(contents: &[u8]) -> &[u8] {
    match contents {
        [0, 1, text @ ..] => text,
        [1..=8, 1, ..] => &[],
        text => text,
    }
}

/// The status flags of `OK`.
pub(super) fn ok_status(packet: &Packet<'_>) -> Option<u16> {
    let mut fields = Fields::new(packet.contents.get(1..)?);
    fields.number()?;
    fields.number()?;
    fields.short()
}

/// The status flags at the end of rows: of `EOF`, or of the `OK` that new clients want there.
pub(super) fn end_status(packet: &Packet<'_>) -> Option<u16> {
    if packet.length != EOF_BYTES {
        return ok_status(packet);
    }
    let mut fields = Fields::new(packet.contents.get(3..)?);
    fields.short()
}

/// An error, but for its text.
#[derive(Debug)]
pub(super) struct Error {
    pub code: u16,
    /// Empty if it is not said.
    pub sqlstate: String,
}

pub(super) fn error(packet: &Packet<'_>) -> Error {
    let mut fields = Fields::new(packet.contents.get(1..).unwrap_or_default());
    let code = fields.short().unwrap_or(0);
    let sqlstate = match fields.0 {
        [b'#', state @ ..] => state.get(..5).filter(|state| state.iter().all(u8::is_ascii_alphanumeric)),
        _ => None,
    };
    Error { code, sqlstate: String::from_utf8_lossy(sqlstate.unwrap_or_default()).into_owned() }
}

/// How a client's first bytes look.
pub fn check_client(bytes: &[u8]) -> Sign {
    let Some(packet) = Packet::read(bytes) else { return Sign::Partial };
    match packet.number {
        1 => match capabilities(&packet) {
            Some(_) => Sign::Yes,
            None if packet.contents.len() < 28.min(packet.length) => Sign::Partial,
            None => Sign::No,
        },
        0 => check_command(&packet),
        _ => Sign::No,
    }
}

/// A command, at whose beginning a connection was joined.
fn check_command(packet: &Packet<'_>) -> Sign {
    let Some((first, contents)) = packet.contents.split_first() else {
        return if packet.length == 0 { Sign::No } else { Sign::Partial };
    };
    let Some(command) = Command::of(*first) else { return Sign::No };
    match command {
        Command::Query | Command::Prepare => {
            let text = query_text(contents);
            // What comes behind does not take back how it began.
            if sql::begins(text, packet.is_whole()) {
                return Sign::Yes;
            }
            let begin = text.len().min(24);
            if text[..begin].iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()) {
                return Sign::No;
            }
            if packet.is_whole() || begin == 24 { Sign::Likely } else { Sign::Partial }
        }
        // Number of the statement, flags, and an iteration count that is always 1.
        Command::Execute if packet.length >= 10 => match contents.get(4..9) {
            Some([flags, 1, 0, 0, 0]) if *flags < 16 => Sign::Likely,
            Some(_) => Sign::No,
            None => Sign::Partial,
        },
        Command::InitDb | Command::ChangeUser if (2..=256).contains(&packet.length) => Sign::Likely,
        Command::Fetch if packet.length == 9 => Sign::Likely,
        Command::Close if packet.length == 5 => Sign::Likely,
        Command::Silent | Command::Named(..) if matches!(packet.length, 1 | 5) => Sign::Likely,
        _ => Sign::No,
    }
}

/// How a server's first bytes look.
pub fn check_server(bytes: &[u8]) -> Sign {
    let Some(packet) = Packet::read(bytes) else { return Sign::Partial };
    let Some(first) = packet.contents.first() else {
        return if packet.length > 0 && packet.number < 2 { Sign::Partial } else { Sign::No };
    };
    match (packet.number, first) {
        (0, 10) if (30..1024).contains(&packet.length) => check_greeting(&packet),
        (1, 0xff) if packet.length >= 9 => match packet.contents.get(3..9) {
            Some([b'#', state @ ..]) if state.iter().all(u8::is_ascii_alphanumeric) => Sign::Yes,
            Some(_) => Sign::No,
            None => Sign::Partial,
        },
        (1, 0) if (7..4096).contains(&packet.length) => Sign::Likely,
        (1, 0xfe) if matches!(packet.length, 5 | 7) => Sign::Likely,
        (1, 1..=0xfa) if packet.length <= 2 => check_columns(bytes, packet.length),
        _ => Sign::No,
    }
}

/// Protocol 10, and a version that begins with a digit.
fn check_greeting(packet: &Packet<'_>) -> Sign {
    let version = &packet.contents[1..];
    let end = version.iter().position(|byte| *byte == 0);
    let printable = version[..end.unwrap_or(version.len())].iter().all(|byte| byte.is_ascii_graphic());
    match (version.first(), end) {
        (None, _) => Sign::Partial,
        (Some(first), _) if !first.is_ascii_digit() || !printable || version.len() > 64 && end.is_none() => Sign::No,
        (_, None) => Sign::Partial,
        (_, Some(_)) => Sign::Yes,
    }
}

/// The number of columns, and then the first one's description (or none, if the client knows it).
fn check_columns(bytes: &[u8], length: usize) -> Sign {
    let next = bytes.get(HEADER_BYTES + length..).unwrap_or_default();
    match next {
        [_, _, _, 2, 3, b'd', b'e', b'f', ..] => Sign::Yes,
        [5, 0, 0, 2, 0xfe, ..] => Sign::Likely,
        [] | [_] | [_, _] | [_, _, _] | [_, _, _, 2] | [_, _, _, 2, 3] | [_, _, _, 2, 3, b'd'] => Sign::Partial,
        [_, _, _, 2, 3, b'd', b'e'] => Sign::Partial,
        _ => Sign::No,
    }
}

/// A command surely begins here.
pub(super) fn resumes_client(bytes: &[u8]) -> bool {
    let whole = Packet::read(bytes).is_some_and(|packet| packet.is_whole());
    matches!(check_client(bytes), Sign::Yes) || (whole && check_client(bytes) == Sign::Likely)
}

/// An answer surely begins here.
pub(super) fn resumes_server(bytes: &[u8]) -> bool {
    let lone = Packet::read(bytes).is_some_and(|packet| packet.length + HEADER_BYTES == bytes.len());
    match check_server(bytes) {
        Sign::Yes => true,
        Sign::Likely => lone,
        _ => false,
    }
}

/// Whether the bytes that came last, behind a gap, are the end of the last rows: `EOF`, or the `OK` that new clients want there.
/// Answers the packet's number. Rows may hold such bytes: the flag for backslashes has to be as it was.
pub(super) fn ends_rows(trail: &[u8], backslash_plain: Option<bool>) -> Option<u8> {
    [EOF_BYTES, 7].into_iter().find_map(|length| {
        let packet = Packet::read(trail.get(trail.len().checked_sub(HEADER_BYTES + length)?..)?)?;
        let end = packet.length == length && packet.contents.first() == Some(&0xfe);
        let status = end_status(&packet).filter(|status| end && status & STATUS_MORE_RESULTS == 0)?;
        let plain = status & STATUS_NO_BACKSLASH_ESCAPES != 0;
        backslash_plain.is_none_or(|known| known == plain).then_some(packet.number)
    })
}
