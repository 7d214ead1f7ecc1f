//! What a client sends: commands of the text protocol, classic and meta, and packets of the binary one.

use super::{
    LINE_BYTES_MAX,
    binary::{self, Header},
    tag, with_value,
};
use crate::{
    detect::Sign,
    frames::Measure,
    line::{self, Line, words},
};

/// Longest word of a list of keys.
const WORD_BYTES_MAX: usize = 300;
/// Name of a command that is not known here.
const OTHER: &str = "_OTHER";

/// A request that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Offset of its first byte.
    pub start: u64,
    pub name: &'static str,
    /// How many keys it asks for.
    pub keys: u64,
    pub answer: Answered,
}

/// Whether it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    Always,
    Never,
    /// Only if the answer says something new. The tag is what the answer repeats of the request.
    IfNews(Option<u64>),
}

/// The requests of a connection.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// A list of keys in progress.
    open: Option<Request>,
}

/// What comes behind a command's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Words; the last may be `noreply`.
    Words,
    /// Keys, after this many other words.
    Keys(u64),
    /// Words, of which this one is the length of a value that follows the line.
    Value(usize),
    /// The meta commands' key and flags; of `ms`, a length as well.
    Meta { value: bool },
    /// Nothing, and no answer.
    Quit,
}

const COMMANDS: &[(&str, Shape)] = &[
    ("get", Shape::Keys(0)),
    ("gets", Shape::Keys(0)),
    ("gat", Shape::Keys(1)),
    ("gats", Shape::Keys(1)),
    ("set", Shape::Value(4)),
    ("add", Shape::Value(4)),
    ("replace", Shape::Value(4)),
    ("append", Shape::Value(4)),
    ("prepend", Shape::Value(4)),
    ("cas", Shape::Value(4)),
    ("mg", Shape::Meta { value: false }),
    ("ms", Shape::Meta { value: true }),
    ("md", Shape::Meta { value: false }),
    ("ma", Shape::Meta { value: false }),
    ("mn", Shape::Words),
    ("me", Shape::Words),
    ("delete", Shape::Words),
    ("incr", Shape::Words),
    ("decr", Shape::Words),
    ("touch", Shape::Words),
    ("stats", Shape::Words),
    ("version", Shape::Words),
    ("verbosity", Shape::Words),
    ("flush_all", Shape::Words),
    ("cache_memlimit", Shape::Words),
    ("config", Shape::Words),
    ("lru", Shape::Words),
    ("lru_crawler", Shape::Words),
    ("slabs", Shape::Words),
    ("shutdown", Shape::Quit),
    ("watch", Shape::Words),
    ("quit", Shape::Quit),
];

fn command(word: &[u8]) -> Option<(&'static str, Shape)> {
    COMMANDS.iter().find(|(name, _)| name.as_bytes() == word).copied()
}

impl Requests {
    /// Offset of the request in progress.
    pub(super) fn open_from(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.start)
    }

    /// How long the packet, line or word is that begins like that.
    pub(super) fn measure(&self, bytes: &[u8]) -> Measure {
        match bytes.first() {
            None => Measure::More,
            Some(_) if self.open.is_some() => measure_word(bytes),
            Some(&binary::REQUEST) => binary::measure(binary::REQUEST, bytes),
            Some(_) => measure_command(bytes),
        }
    }

    /// Takes what was measured; answers the request that it completes.
    pub(super) fn take(&mut self, start: u64, kept: &[u8]) -> Option<Request> {
        if let Some(open) = &mut self.open {
            open.keys += u64::from(kept.iter().any(|byte| !byte.is_ascii_whitespace()));
            return if kept.ends_with(b"\n") { self.abandon() } else { None };
        }
        if kept.first() == Some(&binary::REQUEST) {
            return packet(start, kept);
        }
        let text = kept.trim_ascii_end();
        let (name, shape) = command(line::begin(text)).unwrap_or((OTHER, Shape::Words));
        let request = Request { start, name, keys: 1, answer: answered(shape, text) };
        if matches!(shape, Shape::Keys(_)) && !kept.ends_with(b"\n") {
            self.open = Some(Request { keys: 0, ..request });
            return None;
        }
        Some(request)
    }

    /// Ends the request in progress.
    pub(super) fn abandon(&mut self) -> Option<Request> {
        let mut request = self.open.take()?;
        if let Some((_, Shape::Keys(others))) = command(request.name.as_bytes()) {
            request.keys = request.keys.saturating_sub(others);
        }
        Some(request)
    }
}

/// A word of a list of keys, with what ends it.
fn measure_word(bytes: &[u8]) -> Measure {
    let searched = &bytes[..bytes.len().min(WORD_BYTES_MAX)];
    let end = memchr::memchr2(b' ', b'\n', searched);
    let word = &searched[..end.unwrap_or(searched.len())];
    let word =
        if end.is_none_or(|end| searched[end] == b'\n') { word.strip_suffix(b"\r").unwrap_or(word) } else { word };
    match end {
        _ if word.iter().any(|byte| *byte < b' ') => Measure::Malformed,
        Some(end) => Measure::whole(end as u64 + 1),
        None if searched.len() < WORD_BYTES_MAX => Measure::More,
        None => Measure::Malformed,
    }
}

/// A line, with the value behind it; of a list of keys, only the command's name and the space.
fn measure_command(bytes: &[u8]) -> Measure {
    let name = bytes.iter().take(5).position(|byte| *byte == b' ').map(|end| &bytes[..end]);
    if let Some((name, Shape::Keys(_))) = name.and_then(command) {
        return Measure::whole(name.len() as u64 + 1);
    }
    let (text, length) = match line::first(bytes, LINE_BYTES_MAX) {
        Line::Partial => return Measure::More,
        Line::None => return Measure::Malformed,
        Line::Is(text, length) => (text, length),
    };
    // Without a number the server refuses the line, and reads no value.
    match value_bytes(text) {
        Some(value_bytes) => with_value(length, value_bytes),
        None => Measure::whole(length as u64),
    }
}

fn value_bytes(text: &[u8]) -> Option<u64> {
    let (_, shape) = command(line::begin(text))?;
    let at = match shape {
        Shape::Value(at) => at,
        Shape::Meta { value: true } => 2,
        _ => return None,
    };
    words(text).nth(at).and_then(line::number)
}

fn answered(shape: Shape, text: &[u8]) -> Answered {
    match shape {
        Shape::Quit => Answered::Never,
        Shape::Words | Shape::Value(_) | Shape::Keys(_) if words(text).last() == Some(b"noreply") => Answered::Never,
        Shape::Words | Shape::Value(_) | Shape::Keys(_) => Answered::Always,
        Shape::Meta { value } => quiet(text, if value { 3 } else { 2 }),
    }
}

/// The flags of a meta command: `q` leaves out answers, which repeat `O` and, if `k` asks for it, the key.
fn quiet(text: &[u8], flags_at: usize) -> Answered {
    let flags = || words(text).skip(flags_at);
    if !flags().any(|flag| flag == b"q") {
        return Answered::Always;
    }
    let opaque = flags().find(|flag| flag.first() == Some(&b'O')).map(tag);
    let key = || flags().any(|flag| flag == b"k").then(|| words(text).nth(1).map(tag)).flatten();
    Answered::IfNews(opaque.or_else(key))
}

fn packet(start: u64, kept: &[u8]) -> Option<Request> {
    let header = Header::read(kept)?;
    let (name, quiet) = binary::operation(header.opcode)?;
    let answer = match (header.opcode, quiet) {
        (binary::QUIET_QUIT, _) => Answered::Never,
        (_, false) => Answered::Always,
        (_, true) => Answered::IfNews(Some(packet_tag(header))),
    };
    Some(Request { start, name, keys: 1, answer })
}

/// What a response repeats.
pub(super) fn packet_tag(header: Header) -> u64 {
    u64::from(header.opcode) << 32 | u64::from(header.opaque)
}

/// How the first bytes look, if they are a client's.
pub(super) fn check(bytes: &[u8]) -> Sign {
    if bytes.first() == Some(&binary::REQUEST) {
        return binary::check(binary::REQUEST, bytes);
    }
    let may_become = |bytes: &[u8]| COMMANDS.iter().any(|(name, _)| name.as_bytes().starts_with(bytes));
    let name_bytes = bytes.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n')).unwrap_or(bytes.len());
    let name = &bytes[..name_bytes];
    let Some((_, shape)) = command(name) else {
        return if name_bytes == bytes.len() && may_become(name) { Sign::Partial } else { Sign::No };
    };
    match line::first(bytes, LINE_BYTES_MAX) {
        Line::None => Sign::No,
        // A long list of keys.
        Line::Partial if bytes.len() > LINE_BYTES_MAX / 4 && matches!(shape, Shape::Keys(_)) => Sign::Likely,
        Line::Partial => Sign::Partial,
        Line::Is(text, _) => check_line(shape, text),
    }
}

fn check_line(shape: Shape, text: &[u8]) -> Sign {
    let count = words(text).count();
    match shape {
        Shape::Value(at) => {
            let numbers =
                words(text).skip(2).take(3).filter_map(|word| line::number(word.strip_prefix(b"-").unwrap_or(word)));
            if count > at && numbers.count() == 3 { Sign::Yes } else { Sign::No }
        }
        Shape::Keys(others) if count as u64 > others + 1 => Sign::Likely,
        Shape::Meta { value: true } if value_bytes(text).is_none() => Sign::No,
        Shape::Meta { .. } if count > 1 => Sign::Likely,
        Shape::Words => Sign::Likely,
        _ => Sign::No,
    }
}
