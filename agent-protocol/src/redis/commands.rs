//! What a client sends: arrays of bulk strings, or lines of words (inline commands).
//!
//! Of a command its name is read, and the arguments of the few that change how the connection goes on; keys and other
//! arguments are skipped.

use super::{
    element::{self, Element},
    keys, names,
};
use crate::{detect::Sign, frames::Measure};

/// Most elements of a command (the server's own limit).
const ELEMENTS_MAX: u64 = 1024 * 1024;

/// A command that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// Offset of its first byte.
    pub start: u64,
    /// Its name, with its sub-command; `None`: it was not captured.
    pub name: Option<&'static str>,
    /// How many words it has, its own included.
    pub words: u64,
    /// What it does to the connection.
    pub effect: Effect,
    /// A digest of its first key, if it has one that was captured.
    pub key: Option<u64>,
}

/// What a command does to the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Effect {
    #[default]
    None,
    /// `SELECT` of this database; `None`: of one that was not captured, or cannot be.
    Select(Option<u32>),
    /// `CLIENT REPLY` `ON`, `OFF`, `SKIP`.
    ReplyOn,
    ReplyOff,
    ReplySkip,
}

/// The commands of a connection.
#[derive(Debug, Default)]
pub(super) struct Commands {
    open: Option<Open>,
}

/// A command in progress.
#[derive(Debug)]
struct Open {
    command: Command,
    /// Elements that are to come.
    left: u64,
}

impl Commands {
    /// Offset of the command in progress.
    pub(super) fn open_from(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.command.start)
    }

    /// How long the element or line is that begins like that.
    pub(super) fn measure(&self, bytes: &[u8]) -> Measure {
        match bytes.first() {
            None => Measure::More,
            Some(b'*') if self.open.is_none() => at_most(ELEMENTS_MAX, bytes),
            Some(b'$') if self.open.is_some() && !bytes.starts_with(b"$-") => element::measure(bytes),
            Some(_) if self.open.is_none() => measure_inline(bytes),
            Some(_) => Measure::Malformed,
        }
    }

    /// Takes a measured element that begins at `start`; answers the command that it completes.
    pub(super) fn take(&mut self, start: u64, kept: &[u8], hidden: bool) -> Option<Command> {
        let Some(open) = &mut self.open else { return self.begin(start, kept) };
        let word = if let Element::Bulk(word) = element::read(kept) { word } else { &[] };
        open.command.argument(word, element::length(kept), hidden);
        open.left -= 1;
        if open.left > 0 { None } else { self.open.take().map(|open| open.command) }
    }

    fn begin(&mut self, start: u64, kept: &[u8]) -> Option<Command> {
        let command = Command { start, name: None, words: 0, effect: Effect::None, key: None };
        if kept.first() != Some(&b'*') {
            return inline(command, kept);
        }
        // Without an element, or with none at all, it is no command, and is not answered.
        if let Element::Aggregate(left @ 1..) = element::read(kept) {
            self.open = Some(Open { command, left });
        }
        None
    }

    /// Gives up the command in progress, if its name is known.
    pub(super) fn abandon(&mut self) -> Option<Command> {
        self.open.take().map(|open| open.command).filter(|command| command.name.is_some())
    }
}

impl Command {
    /// Takes the next word, of which the first bytes were kept.
    fn argument(&mut self, word: &[u8], length: u64, hidden: bool) {
        let word = if hidden { &[] } else { word };
        if !hidden && self.words > 0 && self.name.and_then(keys::place) == Some(self.words) {
            self.key = Some(keys::digest(word, length));
        }
        match (self.words, self.name) {
            (0, _) if !hidden => self.name = Some(names::command(word)),
            (1, Some(name)) if names::has_subcommands(name) => self.name = Some(names::subcommand(name, word)),
            (1, Some("SELECT")) => self.effect = Effect::Select(database(word)),
            (2, Some("CLIENT REPLY")) => self.effect = reply(word),
            _ => {}
        }
        self.words += 1;
    }
}

/// An aggregate of not more elements than that.
fn at_most(elements: u64, bytes: &[u8]) -> Measure {
    let measured = element::measure(bytes);
    match element::read(bytes) {
        Element::Aggregate(count) if count > elements => Measure::Malformed,
        _ => measured,
    }
}

fn database(word: &[u8]) -> Option<u32> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn reply(word: &[u8]) -> Effect {
    match word.to_ascii_uppercase().as_slice() {
        b"ON" => Effect::ReplyOn,
        b"OFF" => Effect::ReplyOff,
        b"SKIP" => Effect::ReplySkip,
        _ => Effect::None,
    }
}

/// A line, of which the first words matter.
fn measure_inline(bytes: &[u8]) -> Measure {
    let searched = &bytes[..bytes.len().min(element::LINE_BYTES_MAX)];
    match memchr::memchr(b'\n', searched) {
        Some(at) if is_inline(&bytes[..at]) => Measure::whole(at as u64 + 1),
        None if searched.len() < element::LINE_BYTES_MAX && is_inline(searched) => Measure::More,
        _ => Measure::Malformed,
    }
}

/// Typed text has no control characters; so binary bytes are soon no command.
fn is_inline(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte >= b' ' || matches!(byte, b'\t' | b'\r'))
}

fn inline(mut command: Command, line: &[u8]) -> Option<Command> {
    let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.for_each(|word| command.argument(word, word.len() as u64, false));
    command.name.is_some().then_some(command)
}

/// How the first bytes look, if they are a client's.
pub(super) fn check(mut bytes: &[u8]) -> Sign {
    let word = loop {
        if bytes.first() != Some(&b'*') {
            return check_inline(bytes);
        }
        match element::measure(bytes) {
            // Nothing is asked.
            Measure::Frame { bytes: length, .. } if bytes.starts_with(b"*0") || length == 5 && bytes[1] == b'-' => {
                bytes = &bytes[length as usize..];
            }
            Measure::Frame { bytes: length, .. } => break &bytes[length as usize..],
            Measure::More => return Sign::Partial,
            Measure::Malformed => return Sign::No,
        }
    };
    match word.first() {
        None => return Sign::Partial,
        Some(b'$') => {}
        Some(_) => return Sign::No,
    }
    match element::measure(word) {
        Measure::More => Sign::Partial,
        Measure::Malformed => Sign::No,
        Measure::Frame { bytes: length, keep } => {
            let Element::Bulk(name) = element::read(&word[..word.len().min(keep)]) else { return Sign::No };
            match (is_name(name), word.len() as u64 >= length) {
                (true, true) if !name.is_empty() => Sign::Yes,
                (true, false) if length < 40 => Sign::Partial,
                _ => Sign::No,
            }
        }
    }
}

fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
        && name.first().is_none_or(u8::is_ascii_alphabetic)
}

/// Lines whose first word is a command's in upper or lower case. memcached, NATS and others have some of them, too, and nearly
/// every line protocol has `QUIT` and `AUTH`, so the answer must look like one of Redis.
fn check_inline(bytes: &[u8]) -> Sign {
    const WORD_BYTES_MAX: usize = 24;
    let Some(end) = bytes.iter().position(|byte| byte.is_ascii_whitespace()) else {
        let may_be = bytes.len() <= WORD_BYTES_MAX && is_name(bytes);
        return if may_be { Sign::Partial } else { Sign::No };
    };
    match names::command(&bytes[..end]) {
        names::OTHER | "QUIT" | "AUTH" | "HELLO" => Sign::No,
        _ => match measure_inline(bytes) {
            Measure::Frame { .. } => Sign::Likely,
            Measure::More => Sign::Partial,
            Measure::Malformed => Sign::No,
        },
    }
}
