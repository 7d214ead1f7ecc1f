//! Messages of the client protocol: a line, and for some a payload of stated length.

use crate::{
    detect::Sign,
    frames::Measure,
    line::{self, Line, words},
    session::Side,
    traceparent::{self, TraceParent},
};

/// Longest line; `INFO` and `CONNECT` hold JSON, with tokens.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Most bytes of headers that are looked at.
const HEADERS_BYTES_MAX: u64 = 4096;
/// Largest payload (the most that `max_payload` may be).
const PAYLOAD_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// `tls_required`: TLS follows.
    Info {
        tls_required: bool,
    },
    Connect,
    Ping,
    Pong,
    /// `+OK`: answers everything of clients that want that.
    Ok,
    /// `-ERR`, with its text.
    Error(&'a [u8]),
    /// A message on its way to (`PUB`, `HPUB`) or from (`MSG`, `HMSG`) the server.
    Payload(Payload<'a>),
    /// `SUB`, `UNSUB`.
    Other,
}

/// What is known of a message with a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload<'a> {
    pub subject: &'a [u8],
    /// Without headers.
    pub body_bytes: u64,
    /// With their first line, as far as they were kept.
    pub headers: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Info,
    Connect,
    Ping,
    Pong,
    Ok,
    Error,
    Other,
    /// With a payload: the fewest words of its line, and whether two lengths stand at its end.
    Payload {
        words: usize,
        headers: bool,
    },
}

fn verb(word: &[u8], from: Side) -> Option<Verb> {
    let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
    let both = if is(b"PING") {
        Some(Verb::Ping)
    } else if is(b"PONG") {
        Some(Verb::Pong)
    } else {
        None
    };
    let own = match from {
        Side::Client if is(b"PUB") => Some(Verb::Payload { words: 3, headers: false }),
        Side::Client if is(b"HPUB") => Some(Verb::Payload { words: 4, headers: true }),
        Side::Client if is(b"CONNECT") => Some(Verb::Connect),
        Side::Client if is(b"SUB") || is(b"UNSUB") => Some(Verb::Other),
        Side::Server if is(b"MSG") => Some(Verb::Payload { words: 4, headers: false }),
        Side::Server if is(b"HMSG") => Some(Verb::Payload { words: 5, headers: true }),
        Side::Server if is(b"INFO") => Some(Verb::Info),
        Side::Server if is(b"+OK") => Some(Verb::Ok),
        Side::Server if is(b"-ERR") => Some(Verb::Error),
        _ => None,
    };
    both.or(own)
}

/// Lengths at the end of a line: of the headers, and of all.
fn lengths(text: &[u8], fewest: usize, headers: bool) -> Option<(u64, u64)> {
    let count = words(text).count();
    if count != fewest && count != fewest + 1 {
        return None;
    }
    let mut last = words(text).skip(count - 2).map(line::number);
    let (before, total) = (last.next()?, last.next()??);
    let headers = if headers { before? } else { 0 };
    (headers <= total && total <= PAYLOAD_BYTES_MAX).then_some((headers, total))
}

/// How long the message is that begins like that.
pub(super) fn measure(bytes: &[u8], from: Side) -> Measure {
    let (text, length) = match line::first(bytes, LINE_BYTES_MAX) {
        Line::Partial if bytes.is_empty() || may_become(bytes, from) => return Measure::More,
        Line::Partial | Line::None => return Measure::Malformed,
        Line::Is(text, length) => (text, length),
    };
    match verb(line::begin(text), from) {
        None => Measure::Malformed,
        Some(Verb::Payload { words, headers }) => match lengths(text, words, headers) {
            None => Measure::Malformed,
            Some((headers, total)) => Measure::Frame {
                bytes: length as u64 + total + 2,
                keep: length + headers.min(HEADERS_BYTES_MAX) as usize,
            },
        },
        Some(_) => Measure::whole(length as u64),
    }
}

/// Whether a line may go on so that it is a message.
fn may_become(bytes: &[u8], from: Side) -> bool {
    const CLIENT: &[&[u8]] = &[b"CONNECT", b"PUB", b"HPUB", b"SUB", b"UNSUB", b"PING", b"PONG"];
    const SERVER: &[&[u8]] = &[b"INFO", b"MSG", b"HMSG", b"PING", b"PONG", b"+OK", b"-ERR"];
    let known = if from == Side::Client { CLIENT } else { SERVER };
    let word = bytes.split(|byte| matches!(byte, b' ' | b'\t' | b'\r')).next().unwrap_or_default();
    let whole = word.len() < bytes.len();
    let begins = |name: &&[u8]| name.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
    known.iter().any(|name| begins(name) && (!whole || name.len() == word.len()))
}

/// Reads what was measured.
pub(super) fn read(kept: &[u8], from: Side) -> Message<'_> {
    let Line::Is(text, length) = line::first(kept, LINE_BYTES_MAX) else { return Message::Other };
    let mut rest = words(text);
    match rest.next().and_then(|word| verb(word, from)) {
        Some(Verb::Info) => {
            Message::Info { tls_required: memchr::memmem::find(text, b"\"tls_required\":true").is_some() }
        }
        Some(Verb::Connect) => Message::Connect,
        Some(Verb::Ping) => Message::Ping,
        Some(Verb::Pong) => Message::Pong,
        Some(Verb::Ok) => Message::Ok,
        Some(Verb::Error) => Message::Error(text.get(b"-ERR".len()..).unwrap_or_default()),
        Some(Verb::Payload { words, headers }) => {
            let (header_bytes, total) = lengths(text, words, headers).unwrap_or_default();
            Message::Payload(Payload {
                subject: rest.next().unwrap_or_default(),
                body_bytes: total - header_bytes,
                headers: kept.get(length..).filter(|_| headers).unwrap_or_default(),
            })
        }
        Some(Verb::Other) | None => Message::Other,
    }
}

impl Payload<'_> {
    /// What its headers say about its trace.
    pub(super) fn trace(&self) -> Option<TraceParent> {
        let field = |line: &[u8]| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = line.split_at(colon);
            let value = name.eq_ignore_ascii_case(b"traceparent").then(|| value[1..].trim_ascii())?;
            traceparent::parse(std::str::from_utf8(value).ok()?)
        };
        self.headers.split(|byte| *byte == b'\n').find_map(field)
    }

    /// Status of a message that the server itself wrote: `NATS/1.0 503`.
    pub(super) fn status(&self) -> Option<u64> {
        let first = self.headers.split(|byte| *byte == b'\n').next()?;
        line::number(words(first.trim_ascii_end()).nth(1)?)
    }
}

/// How the first bytes of one side look.
pub(super) fn check(bytes: &[u8], from: Side) -> Sign {
    let word = line::begin(bytes);
    let json = |name: &[u8]| {
        let rest = bytes.get(name.len()..).unwrap_or_default().trim_ascii_start();
        word.eq_ignore_ascii_case(name) && rest.first() == Some(&b'{')
    };
    if (from == Side::Server && json(b"INFO")) || (from == Side::Client && json(b"CONNECT")) {
        return Sign::Yes;
    }
    match measure(bytes, from) {
        Measure::Malformed => Sign::No,
        Measure::More => Sign::Partial,
        Measure::Frame { .. } => match verb(word, from) {
            Some(Verb::Payload { .. }) => Sign::Yes,
            // Theirs is JSON, which was looked for above.
            Some(Verb::Info | Verb::Connect) => Sign::No,
            // They stand alone, other protocols' do not.
            Some(Verb::Ping | Verb::Pong | Verb::Ok) if bytes.get(word.len()) == Some(&b' ') => Sign::No,
            Some(Verb::Error) if !bytes.starts_with(b"-ERR '") => Sign::No,
            Some(_) => Sign::Likely,
            None => Sign::No,
        },
    }
}
