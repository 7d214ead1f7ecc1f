//! What must hold of every [`Parser`], and recorded conversations that show it.
//!
//! A recording is text: `> ` and what a client sent, `< ` and what a server sent, each with the bytes of one call as
//! hexadecimal digits or, behind `"`, as text with Rust's escapes; `.` and a number for bytes that were not captured. Lines that
//! begin with `#` say where it comes from. Beside it, `.said` is what the parser says of it, an event per line ([`say`]).

use std::{fmt::Write, fs, path::Path};

use super::Random;
use crate::{
    detect::{Sign, detect_but},
    session::{Event, Form, Input, Key, Parser, Part, Protocol, Side, Value},
};

/// One call's bytes.
pub type Piece = (Side, Vec<u8>);

/// What is fed: a piece, or a gap.
#[derive(Clone, Debug, PartialEq)]
pub enum Fed {
    /// Bytes of a side.
    Bytes(Side, Vec<u8>),
    /// Bytes of a side that were not captured.
    Gap(Side, u64),
}

impl Fed {
    fn side(&self) -> Side {
        match self {
            Self::Bytes(side, _) | Self::Gap(side, _) => *side,
        }
    }

    fn input(&self) -> Input<'_> {
        match self {
            Self::Bytes(_, bytes) => Input::Bytes(bytes),
            Self::Gap(_, gap) => Input::Gap(*gap),
        }
    }
}

/// Reads a recording.
///
/// # Panics
/// The text is not like that.
pub fn conversation(text: &str) -> Vec<Fed> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (side, what) = match line.split_at(2) {
                ("> ", what) => (Side::Client, what),
                ("< ", what) => (Side::Server, what),
                _ => panic!("neither > nor <: {line}"),
            };
            match what.as_bytes() {
                [b'.', ..] => Fed::Gap(side, what[1..].parse().expect("a number")),
                [b'"', ..] => Fed::Bytes(side, unescape(&what[1..])),
                _ => Fed::Bytes(side, unhex(what)),
            }
        })
        .collect()
}

/// Bytes from hexadecimal digits.
pub(crate) fn unhex(digits: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, more @ ..] = rest {
        rest = more;
        let byte = match (first, more) {
            (b'\\', [b'x', ..]) => {
                rest = &more[3..];
                unhex(std::str::from_utf8(&more[1..3]).expect("digits"))[0]
            }
            (b'\\', [escaped, ..]) => {
                rest = &more[1..];
                match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'0' => 0,
                    other => *other,
                }
            }
            _ => *first,
        };
        bytes.push(byte);
    }
    bytes
}

/// Checks every recording of a folder of `fixtures/` against what is recorded beside it, and its promises.
///
/// # Panics
/// Something differs; the message holds what was said, to be read and then recorded.
pub fn check_recordings(folder: &str, protocol: Protocol, new: fn() -> Box<dyn Parser>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder);
    let entries = fs::read_dir(&folder).expect("the folder of fixtures").map(|entry| entry.expect("entry").path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|is| is == "session")).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has recordings", folder.display());
    for path in paths {
        let pieces = conversation(&fs::read_to_string(&path).expect("a recording"));
        let late = path.file_stem().is_some_and(|name| name.to_string_lossy().contains("late"));
        if !late {
            check_detected(&pieces, protocol);
        }
        let said = say(&feed(new(), &pieces));
        let expected = fs::read_to_string(path.with_extension("said")).unwrap_or_default();
        assert_eq!(said, expected, "{}: it said\n{said}", path.display());
        check(&pieces, new);
    }
}

/// The conversation's first bytes must be recognised as this protocol's.
fn check_detected(pieces: &[Fed], protocol: Protocol) {
    let (mut client, mut server) = (Vec::new(), Vec::new());
    for piece in pieces {
        if let Fed::Bytes(side, bytes) = piece {
            if *side == Side::Client { &mut client } else { &mut server }.extend_from_slice(bytes);
        }
        match detect_but(&client, &server, &[]) {
            crate::detect::Verdict::NotYet => {}
            verdict => return assert_eq!(verdict, crate::detect::Verdict::Is(protocol), "{}", client.escape_ascii()),
        }
    }
    panic!("{protocol:?} was not recognised");
}

/// What new parsers say of calls of the client (`>`) and of the server (`<`), after [`check`].
pub fn said(new: fn() -> Box<dyn Parser>, calls: &[(char, impl AsRef<[u8]>)]) -> Vec<Event> {
    let side = |from: char| if from == '>' { Side::Client } else { Side::Server };
    let fed: Vec<_> = calls.iter().map(|(from, bytes)| Fed::Bytes(side(*from), bytes.as_ref().to_vec())).collect();
    check(&fed, new);
    feed(new(), &fed)
}

/// The messages that one side sent.
pub fn parts(events: &[Event], from: Side) -> Vec<&Part> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Part(part) if part.from == from => Some(part),
            _ => None,
        })
        .collect()
}

/// Feeds everything; checks what must hold after each piece.
pub fn feed(mut parser: Box<dyn Parser>, pieces: &[Fed]) -> Vec<Event> {
    let (mut events, mut totals) = (Vec::new(), [0_u64; 2]);
    for piece in pieces {
        let before = events.len();
        parser.feed(piece.side(), piece.input(), &mut events);
        let total = &mut totals[usize::from(piece.side() == Side::Server)];
        *total = total.saturating_add(match piece {
            Fed::Bytes(_, bytes) => bytes.len() as u64,
            Fed::Gap(_, gap) => *gap,
        });
        for event in &events[before..] {
            check_event(event, totals);
        }
        for (side, total) in [Side::Client, Side::Server].into_iter().zip(totals) {
            assert!(parser.pending_from(side) <= total, "what is pending has come: {side:?} {totals:?}");
        }
        let silent = events.iter().position(|event| matches!(event, Event::NotMine | Event::Switched));
        if let Some(silent) = silent {
            assert_eq!(silent + 1, events.len(), "nothing follows {:?}", events[silent]);
            assert!(events[silent] != Event::NotMine || silent == 0, "NotMine comes first or not at all: {events:?}");
            break;
        }
    }
    events
}

fn check_event(event: &Event, totals: [u64; 2]) {
    let total = |side: &Side| totals[usize::from(*side == Side::Server)];
    match event {
        Event::Part(part) => {
            assert!(part.range.start <= part.range.end && part.range.end <= total(&part.from), "{part:?} {totals:?}");
            assert!(part.form == Form::Exchange || part.last, "one-way messages are whole: {part:?}");
            for (index, (key, _)) in part.facts.attributes.iter().enumerate() {
                assert!(part.facts.attributes[..index].iter().all(|(known, _)| known != key), "{key} twice: {part:?}");
            }
        }
        Event::Cancelled { by, end, .. } => assert!(*end <= total(by), "{event:?} {totals:?}"),
        Event::Lost { from, at, .. } => assert!(*at <= total(from), "{event:?} {totals:?}"),
        Event::Forgotten(_) | Event::Switched | Event::NotMine => {}
    }
}

/// Checks that how the bytes are cut does not matter (up to the first loss), and that gaps break no promise.
pub fn check(pieces: &[Fed], new: fn() -> Box<dyn Parser>) {
    let whole = up_to_loss(feed(new(), pieces));
    let bytewise: Vec<Fed> = pieces.iter().flat_map(|piece| cut(piece, |_| 1)).collect();
    assert_eq!(up_to_loss(feed(new(), &bytewise)), whole, "byte by byte");
    let mut random = Random::new(pieces.len() as u64 + 77);
    for _ in 0..8 {
        let cut: Vec<Fed> = pieces.iter().flat_map(|piece| cut(piece, |left| 1 + random.below(left))).collect();
        assert_eq!(up_to_loss(feed(new(), &cut)), whole, "cut at random");
    }
    for _ in 0..16 {
        let hide = |piece: Fed, random: &mut Random| match (&piece, random.below(5)) {
            (Fed::Bytes(side, bytes), 0) => Fed::Gap(*side, bytes.len() as u64),
            (Fed::Bytes(side, _), 1) if random.below(8) == 0 => Fed::Gap(*side, u64::MAX),
            _ => piece,
        };
        let mut holed = Vec::new();
        for piece in pieces {
            for part in cut(piece, |left| 1 + random.below(left)) {
                holed.push(hide(part, &mut random));
            }
        }
        feed(new(), &holed);
    }
}

fn cut(piece: &Fed, mut size: impl FnMut(usize) -> usize) -> Vec<Fed> {
    let Fed::Bytes(side, bytes) = piece else { return vec![piece.clone()] };
    let (mut parts, mut rest) = (Vec::new(), &bytes[..]);
    while !rest.is_empty() {
        let (part, more) = rest.split_at(size(rest.len()).min(rest.len()));
        parts.push(Fed::Bytes(*side, part.to_vec()));
        rest = more;
    }
    parts
}

fn up_to_loss(mut events: Vec<Event>) -> Vec<Event> {
    if let Some(lost) = events.iter().position(|event| matches!(event, Event::Lost { .. })) {
        events.truncate(lost + 1);
    }
    events
}

/// Any bytes as a conversation: each piece has a byte that says whose it is, whether it was captured, and how long it is.
pub fn of_bytes(mut data: &[u8]) -> Vec<Fed> {
    let mut pieces = Vec::new();
    while let [head, rest @ ..] = data {
        let side = if head & 1 == 0 { Side::Client } else { Side::Server };
        let length = usize::from(head >> 2).max(1) * if head & 2 == 0 { 1 } else { 16 };
        if head >> 2 == 63 {
            pieces.push(Fed::Gap(side, length as u64));
            data = rest;
            continue;
        }
        let (bytes, more) = rest.split_at(length.min(rest.len()));
        pieces.push(Fed::Bytes(side, bytes.to_vec()));
        data = more;
    }
    pieces
}

/// What the fuzz target of a parser does: any bytes break no promise.
pub fn fuzz(data: &[u8], new: fn() -> Box<dyn Parser>) {
    let pieces = of_bytes(data);
    let whole = up_to_loss(feed(new(), &pieces));
    let bytewise: Vec<Fed> = pieces.iter().flat_map(|piece| cut(piece, |_| 1)).collect();
    assert_eq!(up_to_loss(feed(new(), &bytewise)), whole, "{pieces:?}");
}

/// The recordings of a folder of `fixtures/`, by their paths.
///
/// # Panics
/// There are none.
pub fn recordings(folder: &str) -> Vec<(String, Vec<Fed>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder);
    let entries = fs::read_dir(&folder).expect("the folder of fixtures").map(|entry| entry.expect("entry").path());
    let paths = entries.filter(|path| path.extension().is_some_and(|is| is == "session"));
    let read = |path: &Path| conversation(&fs::read_to_string(path).expect("a recording"));
    let recordings: Vec<_> = paths.map(|path| (path.display().to_string(), read(&path))).collect();
    assert!(!recordings.is_empty(), "{} has recordings", folder.display());
    recordings
}

/// Recordings, cut and damaged at random, break no promise: the fuzz target's check on a stable compiler.
pub fn check_damaged(folder: &str, new: fn() -> Box<dyn Parser>, iterations: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder);
    let entries = fs::read_dir(&folder).expect("the folder of fixtures").map(|entry| entry.expect("entry").path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|is| is == "session")).collect();
    paths.sort();
    let mut random = Random::new(4711);
    for path in paths {
        let pieces = conversation(&fs::read_to_string(&path).expect("a recording"));
        for _ in 0..iterations {
            let damaged: Vec<Fed> = pieces.iter().map(|piece| damage(piece, &mut random)).collect();
            let whole = up_to_loss(feed(new(), &damaged));
            let cut: Vec<Fed> = damaged.iter().flat_map(|piece| cut(piece, |left| 1 + random.below(left))).collect();
            assert_eq!(up_to_loss(feed(new(), &cut)), whole, "{damaged:?}");
        }
    }
}

fn damage(piece: &Fed, random: &mut Random) -> Fed {
    let Fed::Bytes(side, bytes) = piece else { return piece.clone() };
    let mut bytes = bytes.clone();
    for _ in 0..random.below(3) {
        let at = random.below(bytes.len());
        bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'\r', b'\n', random.below(256) as u8][random.below(8)];
    }
    if random.below(8) == 0 {
        bytes.truncate(random.below(bytes.len()).max(1));
    }
    Fed::Bytes(*side, bytes)
}

/// Events as text, one per line.
pub fn say(events: &[Event]) -> String {
    let mut text = String::new();
    for event in events {
        match event {
            Event::Part(part) => say_part(&mut text, part),
            other => writeln!(text, "{other:?}").expect("a string"),
        }
    }
    text
}

fn say_part(text: &mut String, part: &Part) {
    let from = if part.from == Side::Client { '>' } else { '<' };
    let key = match part.key {
        Key::InOrder => String::new(),
        Key::Id(id) => format!(" #{id}"),
    };
    let form = if part.form == Form::OneWay { " one-way" } else { "" };
    let open = if part.last { "" } else { " ..." };
    let Part { range, facts, boundary, .. } = part;
    write!(text, "{from}{key}{form} {}-{}{open} {boundary:?}", range.start, range.end).expect("a string");
    let mut word = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            write!(text, " {name}={value}").expect("a string");
        }
    };
    word("name", facts.name.as_ref().map(|name| format!("{name:?}")));
    word("protocol", facts.protocol.map(|protocol| protocol.name().to_owned()));
    word("kind", (facts.kind != Default::default()).then(|| format!("{:?}", facts.kind)));
    word("host", facts.host.as_ref().map(ToString::to_string));
    word("outcome", facts.outcome.as_ref().map(|outcome| format!("{outcome:?}")));
    word("trace", facts.trace.map(|trace| trace.parent_id.iter().map(|byte| format!("{byte:02x}")).collect()));
    for (key, value) in &facts.attributes {
        let value = match value {
            Value::String(value) => format!("{value:?}"),
            Value::Int(value) => value.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Strings(values) => format!("{values:?}"),
        };
        word(key, Some(value));
    }
    text.push('\n');
}

/// A sign may become sure or be taken back while more bytes come, but not once it is sure.
pub fn check_sign(check: fn(&[u8]) -> Sign, data: &[u8]) {
    let mut before = Sign::Partial;
    for end in 1..=data.len().min(512) {
        let now = check(&data[..end]);
        assert!(!matches!(before, Sign::Yes | Sign::No) || before == now, "{before:?} became {now:?} at {end}");
        before = now;
    }
}
