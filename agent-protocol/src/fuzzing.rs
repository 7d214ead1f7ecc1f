//! What the fuzz targets and their stable-Rust smoke test check; no part of the public interface.
//!
//! In: any bytes. Out: nothing, or a panic that says which promise of the parsers was broken: events do not depend on
//! how the bytes were cut into pieces (up to the first loss; behind it, where calls begin matters), offsets only grow
//! and never pass the input, and messages open and close in turn, gaps or not.

pub mod sessions;

use std::fmt::Debug;

use crate::{
    content::{Asked, Content, Media, Scan, Target},
    detect::{self, Protocol, Verdict},
    dns,
    http1::{RequestHead, Requests, ResponseHead, Responses},
    input::{Event, Input},
    tls, traceparent,
};

/// Any bytes as the requests of a connection.
pub fn http1_requests(data: &[u8]) {
    check_stream(data, Requests::default);
}

/// Any bytes as the responses of a connection, to requests whose methods follow from the bytes.
pub fn http1_responses(data: &[u8]) {
    let mut random = Random::from_data(data);
    let methods: Vec<_> = (0..8).map(|_| ["GET", "GET", "HEAD", "CONNECT"][random.below(4)]).collect();
    check_stream(data, || {
        let mut responses = Responses::default();
        for method in &methods {
            responses.expect(method);
            responses.expect_content();
        }
        responses
    });
}

/// Any bytes as a `traceparent` value: what is read can be written again.
pub fn traceparent(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(parsed) = traceparent::parse(text) else { return };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (trace_id, parent_id) = (hex(&parsed.trace_id), hex(&parsed.parent_id));
    let written = format!("{:02x}-{trace_id}-{parent_id}-{:02x}", parsed.version, parsed.flags);
    assert_eq!(text.get(..written.len()), Some(written.as_str()));
    assert!(parsed.version > 0 || text.len() == written.len(), "version 0 has nothing behind its flags");
}

/// Any bytes as a DNS message, whole and cut: what a prefix says, the whole says too, unless it is none.
pub fn dns(data: &[u8]) {
    let whole = dns::Message::parse(data, data.len());
    for end in 0..=data.len().min(600) {
        let Ok(cut) = dns::Message::parse(&data[..end], data.len()) else { continue };
        assert!(cut.addresses.len() <= dns::ADDRESSES_MAX);
        let whole = whole.as_ref().expect("a question within the prefix is one within the whole");
        assert_eq!((cut.id, &cut.question, cut.rcode), (whole.id, &whole.question, whole.rcode));
        assert!(whole.addresses.starts_with(&cut.addresses), "{cut:?} {whole:?}");
    }
    let (mut frames, mut random, mut end) = (dns::Frames::default(), Random::from_data(data), 0);
    for piece in random.pieces(data) {
        for frame in frames.feed(piece) {
            assert!(end <= frame.start && frame.end() <= frames.offset(), "{frame:?} at {end}");
            assert!(frame.captured.len() <= usize::from(frame.length).min(dns::FRAME_BYTES_MAX));
            end = frame.end();
        }
    }
}

/// Any bytes as a statement: what is said of it is within its limits, and its text, read again, stays the same.
pub fn sql(data: &[u8]) {
    use crate::sql::{self, Backslash, Dialect, Rules, SUMMARY_BYTES_MAX, Statement, TEXT_BYTES_MAX};
    for dialect in [Dialect::Postgres, Dialect::Mysql, Dialect::Cql] {
        for backslash in [Backslash::Plain, Backslash::Escapes, Backslash::Unknown] {
            let read = |bytes: &[u8]| Statement::read(bytes, true, Rules { dialect, backslash });
            let Statement { text, summary, .. } = read(data);
            let alone = sql::text(data, Rules { dialect, backslash });
            assert_eq!(alone.as_deref(), sql::begins(data, true).then_some(&*text), "{}", data.escape_ascii());
            assert!(text.len() <= TEXT_BYTES_MAX + 3, "{text}");
            assert!(summary.is_none_or(|summary| summary.len() <= SUMMARY_BYTES_MAX));
            // What was no comment, or no UUID, for want of a space may look like one.
            let cql = dialect == Dialect::Cql && text.contains(['/', '-']);
            let comparable = !text.ends_with("...") && !text.contains("--") && !cql;
            assert!(!comparable || read(text.as_bytes()).text == text, "{text}");
        }
    }
}

/// Any bytes as a body, of each kind that is looked at: the first byte says of which call and media type, the rest is the body.
pub fn content(data: &[u8]) {
    const PATHS: [&str; 6] =
        ["/graphql", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"];
    let Some((head, body)) = data.split_first() else { return };
    let path = PATHS[usize::from(head >> 1) % PATHS.len()];
    let target = Target { path, host: Some("api.openai.com"), anthropic: true };
    let media = if head & 1 == 0 { Media::Json } else { Media::Events };
    check_content(body, || Scan::request("POST", Media::Json, target));
    check_content(body, || Scan::response(media));
}

fn check_content(body: &[u8], new: impl Fn() -> Option<Scan>) {
    let fed = |pieces: &[Input<'_>]| {
        let mut scan = new().expect("a body that is looked at");
        for piece in pieces {
            match piece {
                Input::Bytes(bytes) => scan.feed(bytes),
                Input::Gap(gap) => scan.skip(*gap),
                Input::End => {}
            }
        }
        scan.finish()
    };
    let whole = fed(&[Input::Bytes(body)]);
    let bytes: Vec<_> = body.chunks(1).map(Input::Bytes).collect();
    assert_eq!(fed(&bytes), whole, "{}", body.escape_ascii());
    for found in [whole, fed(&Random::from_data(body).pieces(body))].into_iter().flatten() {
        check_found(&found);
    }
}

/// Names are words of bounded length.
fn check_found(found: &Content) {
    let names = match found {
        Content::Asked(Asked::GraphQl { name, .. }) => [name, &None],
        Content::Asked(Asked::JsonRpc { method, id }) => [method, id],
        Content::Asked(Asked::GenAi { model, .. }) => [model, &None],
        Content::Answered(answered) => [&answered.model, &answered.error_type],
    };
    for name in names.into_iter().flatten() {
        assert!((1..=128).contains(&name.len()) && name.is_ascii(), "{name:?}");
        assert!(!name.contains(char::is_whitespace) && !name.contains('"'), "{name:?}");
    }
}

/// Any bytes as one direction of TLS: how they are cut does not matter, and records follow each other.
pub fn tls(data: &[u8]) {
    let whole = tls_feed(&[Input::Bytes(data)]);
    let bytes: Vec<_> = data.chunks(1).map(Input::Bytes).collect();
    // Behind the first loss, where calls begin matters.
    let up_to_loss = |events: Vec<tls::Event>| {
        let lost = events.iter().position(|event| *event == tls::Event::Lost);
        events.into_iter().take(lost.map_or(usize::MAX, |lost| lost + 1)).collect::<Vec<_>>()
    };
    assert_eq!(up_to_loss(tls_feed(&bytes)), up_to_loss(whole), "{}", data.escape_ascii());
    tls_feed(&Random::from_data(data).pieces(data));
}

/// Feeds pieces and then the end; checks what must hold of records.
pub fn tls_feed(pieces: &[Input<'_>]) -> Vec<tls::Event> {
    let (mut records, mut events, mut total) = (tls::Records::default(), Vec::new(), 0_u64);
    for piece in pieces.iter().copied().chain([Input::End]) {
        records.feed(piece, &mut events);
        total = total.saturating_add(match piece {
            Input::Bytes(bytes) => bytes.len() as u64,
            Input::Gap(gap) => gap,
            Input::End => 0,
        });
        assert_eq!(records.offset(), total, "every byte is counted once");
    }
    let mut end = 0;
    for event in &events {
        if let tls::Event::Record(record) = event {
            assert!(end <= record.start && record.start < record.end && record.start <= total, "{record:?} at {end}");
            end = record.end;
        }
    }
    events
}

/// Messages recorded as text: a name, lines of hexadecimal digits, then what they say behind `= `.
///
/// # Panics
/// The text is not like that.
pub fn recorded(text: &str) -> Vec<(String, Vec<u8>, String)> {
    let mut messages = Vec::new();
    let (mut name, mut digits) = (String::new(), String::new());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(said) = line.strip_prefix("= ") {
            let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
            let bytes = (0..digits.len()).step_by(2).map(byte).collect();
            messages.push((std::mem::take(&mut name), bytes, said.to_owned()));
            digits.clear();
        } else if name.is_empty() {
            name = line.to_owned();
        } else {
            digits.push_str(line.trim());
        }
    }
    assert!(name.is_empty(), "{name} says nothing");
    messages
}

/// Any bytes as both directions' first: what is recognised can be read, and is not recognised once it is excluded. More bytes may
/// still change a verdict; who asks keeps to the first one.
pub fn detect(data: &[u8]) {
    for end in 1..=data.len().min(256) {
        for [client, server] in [[&data[..end], &[]], [&[], &data[..end]]] {
            let Verdict::Is(protocol) = detect::detect(client, server) else { continue };
            let by_hand = matches!(protocol, Protocol::Http1 | Protocol::Tls | Protocol::Dns);
            assert!(by_hand || detect::parser(protocol).is_some(), "{protocol:?} has no parser");
            let without = detect::detect_but(client, server, &[protocol]);
            assert_ne!(without, Verdict::Is(protocol), "{protocol:?} was excluded");
        }
    }
}

/// A parser of one direction.
pub trait Parser {
    /// What a message's head says.
    type Head: Clone + Debug + PartialEq;

    /// Feeds the next piece.
    fn feed(&mut self, input: Input<'_>, out: &mut Vec<Event<Self::Head>>);

    /// Offset of the next input byte.
    fn offset(&self) -> u64;

    /// The next input byte starts a message.
    fn hint_message_start(&mut self);
}

macro_rules! parser {
    ($parser:ty, $head:ty) => {
        impl Parser for $parser {
            type Head = $head;

            fn feed(&mut self, input: Input<'_>, out: &mut Vec<Event<$head>>) {
                <$parser>::feed(self, input, out);
            }

            fn offset(&self) -> u64 {
                <$parser>::offset(self)
            }

            fn hint_message_start(&mut self) {
                <$parser>::hint_message_start(self);
            }
        }
    };
}

parser!(Requests, RequestHead);
parser!(Responses, ResponseHead);

/// Feeds pieces and then, if `ended`, the end; checks what must hold after each.
pub fn feed_all<P: Parser>(mut parser: P, pieces: &[Input<'_>], ended: bool) -> Vec<Event<P::Head>> {
    let (mut events, mut total, mut order) = (Vec::new(), 0_u64, Order::default());
    let end = ended.then_some(Input::End);
    for piece in pieces.iter().copied().chain(end) {
        let before = events.len();
        parser.feed(piece, &mut events);
        total = total.saturating_add(match piece {
            Input::Bytes(bytes) => bytes.len() as u64,
            Input::Gap(gap) => gap,
            Input::End => 0,
        });
        assert_eq!(parser.offset(), total, "every byte is counted once");
        events[before..].iter().for_each(|event| order.check(event, total));
    }
    events
}

/// Cuts the stream in two at `at`, and into single bytes; the events must be those of the whole.
pub fn check_split<P: Parser>(data: &[u8], at: usize, new: impl Fn() -> P) {
    let whole = up_to_loss(feed_all(new(), &[Input::Bytes(data)], true));
    let (first, second) = data.split_at(at);
    let halves = feed_all(new(), &[Input::Bytes(first), Input::Bytes(second)], true);
    assert_eq!(up_to_loss(halves), whole, "cut at {at}: {}", data.escape_ascii());
    // What a prefix says, without its end, is what the whole says first.
    let prefix = up_to_loss(feed_all(new(), &[Input::Bytes(first)], false));
    assert_eq!(prefix, whole[..prefix.len().min(whole.len())], "cut off at {at}: {}", data.escape_ascii());
}

/// The same for single bytes.
pub fn check_bytewise<P: Parser>(data: &[u8], new: impl Fn() -> P) {
    let whole = up_to_loss(feed_all(new(), &[Input::Bytes(data)], true));
    let bytes: Vec<_> = data.chunks(1).map(Input::Bytes).collect();
    assert_eq!(up_to_loss(feed_all(new(), &bytes, true)), whole, "byte by byte: {}", data.escape_ascii());
}

/// Events up to and with the first loss.
fn up_to_loss<H>(mut events: Vec<Event<H>>) -> Vec<Event<H>> {
    if let Some(lost) = events.iter().position(|event| matches!(event, Event::Lost { .. })) {
        events.truncate(lost + 1);
    }
    events
}

fn check_stream<P: Parser>(data: &[u8], new: impl Fn() -> P) {
    let mut random = Random::from_data(data);
    check_bytewise(data, &new);
    check_split(data, random.below(data.len() + 1), &new);
    let pieces = random.pieces(data);
    feed_all(new(), &pieces, true);
    let mut hinted = new();
    let mut events = Vec::new();
    for piece in pieces {
        if random.below(4) == 0 {
            hinted.hint_message_start();
        }
        hinted.feed(piece, &mut events);
    }
    let mut order = Order::default();
    events.iter().for_each(|event| order.check(event, hinted.offset()));
}

/// What must hold of the order of events.
#[derive(Default)]
struct Order {
    at: u64,
    open: bool,
    said: bool,
    silent: bool,
}

impl Order {
    fn check<H: Debug>(&mut self, event: &Event<H>, total: u64) {
        assert!(!self.silent, "nothing follows the last word: {event:?}");
        let (from, to) = match *event {
            Event::Head { start, end, .. } => {
                assert!(start < end && !self.open, "a head is not empty and not in another message: {event:?}");
                self.open = true;
                (start, end)
            }
            Event::Content(_) => {
                assert!(self.open, "only a message that began has a body: {event:?}");
                (self.at, self.at)
            }
            Event::End { end, .. } => {
                assert!(self.open, "only a message that began can end: {event:?}");
                self.open = false;
                (end, end)
            }
            Event::Lost { at, .. } => {
                self.open = false;
                (at, at)
            }
            Event::Switched { at } => {
                self.silent = true;
                (at, at)
            }
            Event::NotMine => {
                assert!(!self.said, "only before anything else");
                self.silent = true;
                (self.at, self.at)
            }
        };
        assert!(self.at <= from && to <= total, "{event:?} lies between {} and {total}", self.at);
        self.at = to;
        self.said = true;
    }
}

/// Xorshift: deterministic, and good enough to cut with.
pub struct Random(u64);

impl Random {
    /// From any number.
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn from_data(data: &[u8]) -> Self {
        // FNV-1a.
        Self::new(
            data.iter()
                .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)),
        )
    }

    /// A number below `bound`, which is not 0.
    pub const fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    /// The stream in pieces, about a quarter of them lost, some gaps beyond it.
    fn pieces<'a>(&mut self, mut data: &'a [u8]) -> Vec<Input<'a>> {
        let mut pieces = Vec::new();
        while !data.is_empty() {
            let (piece, rest) = data.split_at(1 + self.below(data.len()));
            data = rest;
            pieces.push(match self.below(16) {
                0..4 => Input::Gap(piece.len() as u64),
                4 => Input::Gap(u64::MAX),
                _ => Input::Bytes(piece),
            });
        }
        pieces
    }
}
