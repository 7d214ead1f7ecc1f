//! NATS: the client protocol (<https://docs.nats.io/reference/reference-protocols/nats-protocol>), with headers.
//!
//! In: the bytes of both directions. Out: a message without an answer for each that is published or delivered, and exchanges:
//! `CONNECT`, which a `PONG` or an error answers, and the client's `PING`s. An error that nothing asked for is a message as
//! well. A request and its reply are two messages, by whose subjects only their client knows which belong together.
//! Subjects are told without ids ([`crate::destination`]), an inbox as `_INBOX.{id}`. Never told: payloads, headers but for
//! trace context, credentials.
//!
//! Hand-written: the clients' crates own their connection.
//!
//! After a gap over a line the next message is looked for where a call begins.

mod message;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use self::message::{Message, Payload};
use crate::{
    destination,
    detect::Sign,
    frames::{Frames, Heard, Measure},
    session::{Event, Facts, Input, Key, Kind, Lost, Outcome, Parser, Part, Side, Texts},
};

/// Key of the `CONNECT`; a connection has one.
const CONNECT: Key = Key::Id(0);

/// How the first bytes look, if they are a client's.
pub fn check_client(bytes: &[u8]) -> Sign {
    message::check(bytes, Side::Client)
}

/// How the first bytes look, if they are a server's.
pub fn check_server(bytes: &[u8]) -> Sign {
    message::check(bytes, Side::Server)
}

/// A new parser.
pub fn new() -> Box<dyn Parser> {
    Box::<Nats>::default()
}

/// Both directions of a connection.
#[derive(Debug, Default)]
struct Nats {
    client: Frames,
    server: Frames,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    /// `CONNECT` waits for what it leads to.
    connecting: bool,
    /// A message was understood, or told to be none.
    heard: bool,
    /// It is not NATS, or not any more.
    silent: bool,
    /// Subjects, and names of spans.
    texts: Texts,
}

impl Parser for Nats {
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>) {
        let Self { client, server, state } = self;
        let frames = if from == Side::Client { client } else { server };
        let mut feed = frames.feed(input);
        loop {
            let measure = |bytes: &[u8]| if state.silent { Measure::Malformed } else { message::measure(bytes, from) };
            let resumes =
                |bytes: &[u8]| !state.silent && matches!(message::check(bytes, from), Sign::Yes | Sign::Likely);
            match feed.next(measure, resumes) {
                None => return,
                Some(Heard::Frame(frame)) => {
                    state.heard = true;
                    state.message(message::read(frame.kept, from), from, frame.start..frame.end, out);
                }
                Some(Heard::Lost { at, reason }) => state.lost(from, at, reason, out),
            }
        }
    }

    fn pending_from(&self, from: Side) -> u64 {
        if from == Side::Client { self.client.pending_from() } else { self.server.pending_from() }
    }
}

impl State {
    fn message(&mut self, message: Message<'_>, from: Side, range: std::ops::Range<u64>, out: &mut Vec<Event>) {
        let part = |key, facts| Event::Part(Part::whole(from, key, range.clone(), facts));
        match (message, from) {
            (Message::Payload(payload), _) => {
                let facts = facts(payload, from, &mut self.texts);
                out.push(Event::Part(Part::one_way(from, range, facts)));
            }
            (Message::Connect, _) => {
                self.connecting = true;
                out.push(part(CONNECT, control("CONNECT", "connect")));
            }
            (Message::Ping, Side::Client) => out.push(part(Key::InOrder, control("PING", "ping"))),
            (Message::Pong, Side::Server) => {
                if self.connected() {
                    out.push(part(CONNECT, ok()));
                }
                out.push(part(Key::InOrder, ok()));
            }
            (Message::Ok, _) if self.connected() => out.push(part(CONNECT, ok())),
            (Message::Error(text), _) => {
                let outcome = Outcome::ClientError(Cow::Borrowed(error_type(text)));
                let answer = self.connected();
                out.push(match answer {
                    true => part(CONNECT, Facts::default().outcome(outcome)),
                    false => Event::Part(Part::one_way(from, range, control("error", "error").outcome(outcome))),
                });
            }
            (Message::Info { tls_required: true }, _) => {
                self.silent = true;
                out.push(Event::Switched);
            }
            // What a server asks its client, and what needs no answer.
            _ => {}
        }
    }

    /// Whether `CONNECT` waited until now.
    fn connected(&mut self) -> bool {
        std::mem::take(&mut self.connecting)
    }

    fn lost(&mut self, from: Side, at: u64, reason: Lost, out: &mut Vec<Event>) {
        if self.silent {
            return;
        }
        if !self.heard && from == Side::Client && reason == Lost::Malformed {
            self.silent = true;
            out.push(Event::NotMine);
            return;
        }
        self.heard = true;
        out.push(Event::Lost { from, at, reason });
    }
}

fn ok() -> Facts {
    Facts::default().outcome(Outcome::Ok)
}

fn control(name: &'static str, operation: &'static str) -> Facts {
    Facts::named(name).with("messaging.system", "nats").with("messaging.operation.name", operation)
}

/// The span's kind, and `messaging.operation.type`: brokers push what they deliver, which by the conventions is `process`.
const fn operation(from: Side) -> (Kind, &'static str) {
    match from {
        Side::Client => (Kind::Produce, "send"),
        Side::Server => (Kind::Consume, "process"),
    }
}

fn facts(payload: Payload<'_>, from: Side, texts: &mut Texts) -> Facts {
    let is_inbox = payload.subject.starts_with(b"_INBOX.");
    let subject = match is_inbox {
        true => "_INBOX.{id}".into(),
        false => texts.written(|name| destination::write(name, payload.subject, b'.')),
    };
    let name = if from == Side::Client { "publish" } else { "deliver" };
    let mut facts = Facts::named(texts.concat(&[name, " ", &subject]))
        .with("messaging.system", "nats")
        .with("messaging.operation.name", name)
        .with("messaging.destination.name", subject)
        .with("messaging.message.body.size", payload.body_bytes);
    let (kind, operation_type) = operation(from);
    facts.kind = kind;
    facts.set("messaging.operation.type", operation_type);
    if is_inbox {
        facts.set("messaging.destination.temporary", true);
    }
    facts.trace = payload.trace();
    match payload.status() {
        None => facts,
        // Nobody listens to the subject of a request.
        Some(503) => facts.with("spantap.nats.status", 503_u64).outcome(Outcome::ClientError("no_responders".into())),
        Some(status) => facts.with("spantap.nats.status", status),
    }
}

/// Errors by the beginning of their text, which may go on with a subject.
const ERRORS: &[(&str, &str)] = &[
    ("unknown protocol operation", "unknown_protocol_operation"),
    ("attempted to connect to", "wrong_port"),
    ("authorization violation", "authorization_violation"),
    ("authorization timeout", "authorization_timeout"),
    ("user authentication expired", "authentication_expired"),
    ("account authentication expired", "authentication_expired"),
    ("user authentication revoked", "authentication_revoked"),
    ("invalid client protocol", "invalid_client_protocol"),
    ("maximum control line exceeded", "maximum_control_line_exceeded"),
    ("maximum connections exceeded", "maximum_connections_exceeded"),
    ("maximum account active connections exceeded", "maximum_connections_exceeded"),
    ("maximum payload violation", "maximum_payload_violation"),
    ("maximum subscriptions exceeded", "maximum_subscriptions_exceeded"),
    ("parser error", "parser_error"),
    ("secure connection - tls required", "tls_required"),
    ("stale connection", "stale_connection"),
    ("slow consumer", "slow_consumer"),
    ("invalid subject", "invalid_subject"),
    ("invalid publish subject", "invalid_subject"),
    ("permissions violation for publish", "permissions_violation_publish"),
    ("permissions violation for subscription", "permissions_violation_subscription"),
    ("no responders available", "no_responders"),
    ("server shutdown", "server_shutdown"),
];

fn error_type(text: &[u8]) -> &'static str {
    let text = text.trim_ascii().strip_prefix(b"'").unwrap_or(text.trim_ascii());
    let begins = |with: &str| text.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with.as_bytes()));
    ERRORS.iter().find(|(with, _)| begins(with)).map_or("_OTHER", |(_, error_type)| error_type)
}
