//! What a server sends: lines of the text protocol, some with values, and packets of the binary one.

use super::{
    LINE_BYTES_MAX,
    binary::{self, Header},
    request::packet_tag,
    tag, with_value,
};
use crate::{
    detect::Sign,
    frames::Measure,
    line::{self, Line, words},
};

/// A response that is complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Response {
    /// Offset of its first byte.
    pub start: u64,
    /// What it repeats of its request.
    pub tags: [Option<u64>; 2],
    /// It answers `mn`.
    pub is_noop: bool,
    /// If it is an error: its status, and whether that is the server's trouble.
    pub error: Option<(String, bool)>,
}

/// The responses of a connection.
#[derive(Debug, Default)]
pub(super) struct Responses {
    /// Where the response in progress began.
    open: Option<u64>,
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// More of the response follows; with a value of that many bytes.
    More(Option<u64>),
    /// A value, and the end of the response.
    Value(u64),
    /// The end of the response.
    Last,
    /// `watch`: nobody asked for this line.
    Notice,
}

const LAST: &[&[u8]] = &[
    b"END",
    b"STORED",
    b"NOT_STORED",
    b"EXISTS",
    b"NOT_FOUND",
    b"DELETED",
    b"TOUCHED",
    b"OK",
    b"RESET",
    b"BUSY",
    b"BADCLASS",
    b"NOSPARE",
    b"NOTFULL",
    b"UNSAFE",
    b"SAME",
    b"ERROR",
    b"CLIENT_ERROR",
    b"SERVER_ERROR",
    b"VERSION",
    b"HD",
    b"EN",
    b"NF",
    b"NS",
    b"EX",
    b"MN",
    b"ME",
];

fn kind(text: &[u8]) -> Option<Kind> {
    let first = line::begin(text);
    let size = |at: usize| words(text).nth(at).and_then(line::number);
    Some(match first {
        b"VALUE" | b"CONFIG" => Kind::More(Some(size(3)?)),
        b"STAT" | b"ITEM" => Kind::More(None),
        b"VA" => Kind::Value(size(1)?),
        _ if text.starts_with(b"key=") => Kind::More(None),
        _ if text.starts_with(b"ts=") => Kind::Notice,
        // What `incr` answers, with spaces behind it.
        _ if line::number(text.trim_ascii_end()).is_some() || LAST.contains(&first) => Kind::Last,
        _ => return None,
    })
}

impl Responses {
    /// Offset of the response in progress.
    pub(super) fn open_from(&self) -> Option<u64> {
        self.open
    }

    /// Takes what was measured; answers the response that it completes.
    pub(super) fn take(&mut self, start: u64, kept: &[u8]) -> Option<Response> {
        let start = *self.open.get_or_insert(start);
        let (last, response) = if kept.first() == Some(&binary::RESPONSE) { packet(kept)? } else { text(kept) };
        if last {
            self.open = None;
        }
        response.filter(|_| last).map(|response| Response { start, ..response })
    }

    /// Gives up the response in progress: where it began.
    pub(super) fn abandon(&mut self) -> Option<u64> {
        self.open.take()
    }
}

fn text(kept: &[u8]) -> (bool, Option<Response>) {
    let text = kept.trim_ascii_end();
    match kind(text) {
        Some(Kind::More(_)) => (false, None),
        Some(Kind::Notice) | None => (true, None),
        Some(Kind::Last | Kind::Value(_)) => {
            (true, Some(Response { start: 0, tags: tags(text), is_noop: text == b"MN", error: error(text) }))
        }
    }
}

/// Flags of a meta command's answer.
fn tags(text: &[u8]) -> [Option<u64>; 2] {
    if !matches!(text.first_chunk(), Some(b"VA" | b"HD" | b"NF" | b"NS" | b"EX" | b"EN")) {
        return [None; 2];
    }
    let flag = |name: u8| words(text).skip(1).find(|flag| flag.first() == Some(&name));
    [flag(b'O').map(tag), flag(b'k').map(|flag| tag(&flag[1..]))]
}

fn error(text: &[u8]) -> Option<(String, bool)> {
    let word = words(text).next()?;
    let is_error = matches!(word, b"ERROR" | b"CLIENT_ERROR" | b"SERVER_ERROR");
    is_error.then(|| (String::from_utf8_lossy(word).into_owned(), word == b"SERVER_ERROR"))
}

/// Whether it is the last of its response, and what it says.
fn packet(kept: &[u8]) -> Option<(bool, Option<Response>)> {
    let header = Header::read(kept)?;
    let more = header.opcode == binary::STATS && header.status == 0 && header.key_bytes > 0;
    let response = Response { tags: [Some(packet_tag(header)), None], error: header.error(), ..Response::default() };
    Some((!more, Some(response)))
}

/// How long the packet or line is that begins like that.
pub(super) fn measure(bytes: &[u8]) -> Measure {
    match bytes.first() {
        None => return Measure::More,
        Some(&binary::RESPONSE) => return binary::measure(binary::RESPONSE, bytes),
        Some(_) => {}
    }
    let (text, length) = match line::first(bytes, LINE_BYTES_MAX) {
        Line::Partial => return Measure::More,
        Line::None => return Measure::Malformed,
        Line::Is(text, length) => (text, length),
    };
    match kind(text) {
        Some(Kind::More(Some(value)) | Kind::Value(value)) => with_value(length, value),
        Some(_) => Measure::whole(length as u64),
        None => Measure::Malformed,
    }
}

/// How the first bytes look, if they are a server's.
pub(super) fn check(bytes: &[u8]) -> Sign {
    if bytes.first() == Some(&binary::RESPONSE) {
        return binary::check(binary::RESPONSE, bytes);
    }
    match line::first(bytes, LINE_BYTES_MAX) {
        Line::None => Sign::No,
        Line::Partial if may_become(bytes) => Sign::Partial,
        Line::Partial => Sign::No,
        Line::Is(text, _) => match kind(text) {
            Some(Kind::More(Some(_))) if text.starts_with(b"VALUE ") => Sign::Yes,
            Some(Kind::Notice) | None => Sign::No,
            Some(_) if text == b"STORED" || text == b"NOT_STORED" => Sign::Yes,
            Some(_) => Sign::Likely,
        },
    }
}

/// Whether a line may go on so that it is one of these.
fn may_become(bytes: &[u8]) -> bool {
    let known = LAST.iter().copied().chain([&b"VALUE"[..], b"CONFIG", b"STAT", b"ITEM", b"VA"]);
    let word = line::begin(bytes);
    let whole = word.len() < bytes.len();
    let pair = [&b"key="[..], b"ts="].iter().any(|name| bytes.starts_with(name) || name.starts_with(bytes));
    let digits = bytes.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b' ' | b'\r'));
    digits || pair || known.into_iter().any(|name| if whole { name == word } else { name.starts_with(word) })
}
