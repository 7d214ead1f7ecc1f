//! What a parser says of a connection of which it reads both directions: requests, responses, messages without an answer.
//!
//! In: [`Input`] of either [`Side`], each in order. Out: [`Event`]s. A protocol implements [`Parser`] and has one line in
//! [`crate::detect`]; pairing, timing and spans are `agent-core`'s, the same for all protocols.
//!
//! What a parser promises: it never panics, keeps a bounded number of bytes ([`crate::frames`] helps), takes everything that it is
//! given, says nothing twice, and puts nothing into [`Facts`] that may hold a secret (values, keys, bodies, literals).
//!
//! The two directions are fed as they moved at one end, nearly in the order of time: a response may come shortly before
//! the request that it answers. A parser that needs the request to read the response must cope with its absence.

use std::{borrow::Cow, fmt::Debug, ops::Range};

pub use crate::{
    detect::Protocol,
    input::{Boundary, Input, Lost},
    text::{Text, Texts},
    traceparent::TraceParent,
};

/// Who sent the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Who opened the connection, or makes the requests.
    Client,
    /// Who answers.
    Server,
}

impl Side {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// A parser of both directions of one connection.
pub trait Parser: Debug + Send {
    /// The next piece of what `from` sent.
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>);

    /// Offset of the first byte of `from` that a part which is still to come may begin with: where the frame in progress
    /// began ([`crate::frames::Frames::pending_from`]), or the next byte. What is before it was told or never will be.
    fn pending_from(&self, from: Side) -> u64;
}

/// What a parser has to say. Offsets count the bytes of their side since the parser's first input of it, gaps included.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A message, or a part of one.
    Part(Part),
    /// An exchange ends without its (whole) answer: reset, cancelled, or given up because that may have been lost.
    Cancelled {
        /// Which.
        key: Key,
        /// Who ended it.
        by: Side,
        /// Offset just past the bytes of `by` that say so.
        end: u64,
        /// Value of `error.type`; `None`: no error, only an end.
        error_type: Option<Cow<'static, str>>,
    },
    /// Framing was lost on one side; the parser looks for the next message there.
    Lost {
        /// Which side.
        from: Side,
        /// Offset at which it was lost.
        at: u64,
        /// Why.
        reason: Lost,
    },
    /// The parser's memory is used up: it keeps one thing less than it should, and what that would have said is not told.
    Forgotten(Forgotten),
    /// From the next input on, both directions are another protocol (TLS after a request for it, say), which is found out anew.
    /// What is left of the piece that said so must be empty.
    Switched,
    /// These bytes are not this protocol. Final; only before any other event.
    NotMine,
}

/// What a parser has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// A stream of which more may come: the oldest of too many.
    Stream,
    /// What a body says.
    Body,
}

/// What tells which response answers which request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The k-th response answers the k-th request.
    InOrder,
    /// The response carries the request's number (stream, correlation id …). May be used again once answered.
    Id(u64),
}

/// A message, or a part of one: the first part of a key begins a message, those that follow (until one is `last`) extend it.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Who sent it.
    pub from: Side,
    /// Which exchange.
    pub key: Key,
    /// Its bytes: the first part's start is the message's, the last part's end is the message's.
    pub range: Range<u64>,
    /// Whether the message is complete.
    pub last: bool,
    /// What kind of message.
    pub form: Form,
    /// How sure the bounds are.
    pub boundary: Boundary,
    /// What it says. Those of later parts add to, or replace, those of earlier ones.
    pub facts: Facts,
}

impl Part {
    /// A whole request or response, by its side.
    pub fn whole(from: Side, key: Key, range: Range<u64>, facts: Facts) -> Self {
        Self { from, key, range, last: true, form: Form::Exchange, boundary: Boundary::Framed, facts }
    }

    /// A whole message that nobody answers.
    pub fn one_way(from: Side, range: Range<u64>, facts: Facts) -> Self {
        Self { form: Form::OneWay, ..Self::whole(from, Key::InOrder, range, facts) }
    }

    /// The same, but not complete.
    pub fn open(self) -> Self {
        Self { last: false, ..self }
    }
}

/// What kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A request if the client sent it, else a response.
    Exchange,
    /// Neither: nobody answers it. Always one part.
    OneWay,
}

/// What the end that asks makes of an exchange, or the end that sends of a message: the span's kind there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// A client's span, and a server's at the other end. One-way messages: a producer's at the sender, a consumer's at the receiver.
    #[default]
    Request,
    /// The client hands messages over (`send`): its span is a producer's.
    Produce,
    /// The client takes messages (`receive`): its span is a consumer's.
    Consume,
}

/// What is known of a message, in the words of OpenTelemetry's semantic conventions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Name of the span: of low cardinality.
    pub name: Option<Text>,
    /// The protocol, if it is more exactly known than by detection (gRPC over HTTP/2).
    pub protocol: Option<Protocol>,
    /// Attributes; no key twice.
    pub attributes: Attributes,
    /// How it turned out: of responses, and of one-way messages that tell of a failure.
    pub outcome: Option<Outcome>,
    /// What the request says about its trace.
    pub trace: Option<TraceParent>,
    /// Name of the server as the client says it: `host[:port]`.
    pub host: Option<Text>,
    /// Kind of the span.
    pub kind: Kind,
    /// Whether who asked lacks nothing if it goes before the answer: it waits for news, takes leave, or hears only of failure.
    pub may_go_early: bool,
}

/// Attributes by their names.
pub type Attributes = Vec<(&'static str, Value)>;

/// Attributes of most requests, with those that their answers add.
pub const ROOM: usize = 8;

impl Facts {
    /// Facts with a name, and with room for the attributes of most that have one.
    pub fn named(name: impl Into<Text>) -> Self {
        Self { name: Some(name.into()), attributes: Vec::with_capacity(ROOM), ..Self::default() }
    }

    /// With one more attribute.
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.set(key, value);
        self
    }

    /// With this outcome.
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Sets an attribute, or replaces it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let value = value.into();
        match self.attributes.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => self.attributes.push((key, value)),
        }
    }

    /// Takes what a later part, or the response, adds.
    pub fn add(&mut self, later: Self) {
        self.name = later.name.or(self.name.take());
        self.protocol = later.protocol.or(self.protocol);
        self.outcome = later.outcome.or(self.outcome.take());
        self.trace = self.trace.or(later.trace);
        self.host = self.host.take().or(later.host);
        if later.kind != Kind::Request {
            self.kind = later.kind;
        }
        self.may_go_early |= later.may_go_early;
        for (key, value) in later.attributes {
            self.set(key, value);
        }
    }
}

/// How an exchange turned out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer says that it worked.
    Ok,
    /// It says error, to both ends: value of `error.type`, of low cardinality.
    Error(Cow<'static, str>),
    /// It says that the request was wrong: an error to the client only.
    ClientError(Cow<'static, str>),
}

/// An attribute value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text; most of it is the same for every span.
    String(Text),
    /// Integer.
    Int(i64),
    /// Truth value.
    Bool(bool),
    /// List of texts.
    Strings(Box<[String]>),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::String(text.into())
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Self {
        Self::String(text)
    }
}

impl From<Cow<'static, str>> for Value {
    fn from(text: Cow<'static, str>) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Int(number.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_facts_add_and_replace() {
        let mut facts = Facts::named("a").with("x", 1_u64).with("y", "1");
        facts.add(Facts::named("b").with("x", 2_u64).with("z", true).outcome(Outcome::Ok));
        let expected = vec![("x", Value::Int(2)), ("y", Value::String("1".into())), ("z", Value::Bool(true))];
        assert_eq!((facts.name.as_deref(), facts.attributes, facts.outcome), (Some("b"), expected, Some(Outcome::Ok)));
    }
}
