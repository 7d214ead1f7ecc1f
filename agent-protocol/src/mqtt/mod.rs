//! MQTT 3.1, 3.1.1 and 5.
//!
//! In: the bytes of both directions. Out: what a client publishes with QoS 0, and all that is delivered to it, as messages without
//! an answer; what it publishes with QoS 1 and 2 as exchanges up to `PUBACK` or `PUBCOMP`, as `SUBSCRIBE`, `UNSUBSCRIBE`,
//! `CONNECT` and pings are with their answers. An error with which a server disconnects is a message as well. Topics are
//! told without ids ([`crate::destination`]). Never told: payloads, user properties but for trace context, credentials.
//!
//! Hand-written: the crates for packets need them whole.
//!
//! The version is what `CONNECT` says; of a connection that was joined later only that is told which all versions write
//! alike. A message whose topic was not captured is told without it. After a gap over a packet's beginning the next one is looked for where a call begins.

mod packet;
mod properties;
mod reason;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use self::packet::{Packet, Publish, Version};
use crate::{
    destination,
    detect::Sign,
    frames::{Frames, Heard, Measure},
    session::{Event, Facts, Input, Key, Kind, Lost, Outcome, Parser, Part, Side, Text, Texts},
};

/// Most requests with packet ids that are followed at once.
const OPEN_MAX: usize = 2048;
/// Most topic aliases that are known at once.
const ALIASES_MAX: usize = 64;

/// How the first bytes look, if they are a client's.
pub fn check_client(bytes: &[u8]) -> Sign {
    packet::check(bytes, Side::Client)
}

/// How the first bytes look, if they are a server's.
pub fn check_server(bytes: &[u8]) -> Sign {
    packet::check(bytes, Side::Server)
}

/// A new parser.
pub fn new() -> Box<dyn Parser> {
    Box::<Mqtt>::default()
}

/// Both directions of a connection.
#[derive(Debug, Default)]
struct Mqtt {
    client: Frames,
    server: Frames,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    version: Option<Version>,
    /// Packet ids of the client's requests that are not answered.
    open: BTreeSet<u16>,
    /// Destinations by direction (client's: `true`) and alias.
    aliases: BTreeMap<(bool, u16), Text>,
    /// Topics, and names of spans.
    texts: Texts,
    /// A packet was understood, or told to be none.
    heard: bool,
    /// It is not MQTT.
    silent: bool,
}

impl Parser for Mqtt {
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>) {
        let Self { client, server, state } = self;
        let frames = if from == Side::Client { client } else { server };
        let mut feed = frames.feed(input);
        loop {
            let measure = |bytes: &[u8]| if state.silent { Measure::Malformed } else { packet::measure(bytes, from) };
            let resumes =
                |bytes: &[u8]| !state.silent && matches!(packet::check(bytes, from), Sign::Yes | Sign::Likely);
            match feed.next(measure, resumes) {
                None => return,
                Some(Heard::Frame(frame)) => {
                    state.heard = true;
                    let packet = packet::read(frame.kept, from, state.version);
                    if packet.is_lost(from) {
                        let reason = if frame.hidden { Lost::Gap } else { Lost::Malformed };
                        state.lost(from, frame.start, reason, out);
                    } else {
                        state.packet(packet, from, frame.start..frame.end, out);
                    }
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
    fn packet(&mut self, packet: Packet<'_>, from: Side, range: Range<u64>, out: &mut Vec<Event>) {
        let part = |key, facts| Event::Part(Part::whole(from, key, range.clone(), facts));
        match (packet, from) {
            (Packet::Publish(publish), _) => self.publish(publish, from, range, out),
            (Packet::Connect(version), _) => {
                self.version = Some(version);
                out.push(part(Key::InOrder, connect(version)));
            }
            (Packet::Connack { reason }, _) => {
                let reason = reason.map(|code| if code < reason::ERROR { reason::of_return_code(code) } else { code });
                out.push(part(Key::InOrder, outcome(reason)));
            }
            (Packet::Subscribe { id }, _) => self.ask(id, control("subscribe"), range, out),
            (Packet::Unsubscribe { id }, _) => self.ask(id, control("unsubscribe"), range, out),
            (
                Packet::Puback { id, reason } | Packet::Pubcomp { id, reason } | Packet::Suback { id, reason },
                Side::Server,
            ) => {
                self.open.remove(&id);
                out.push(part(key(id), outcome(reason)));
            }
            (Packet::Pubrec { id, reason }, Side::Server) => {
                let refused = reason.is_some_and(|reason| reason >= reason::ERROR);
                let answer =
                    Part::whole(from, key(id), range, if refused { outcome(reason) } else { Facts::default() });
                out.push(Event::Part(if refused { answer } else { answer.open() }));
                if refused {
                    self.open.remove(&id);
                }
            }
            (Packet::Ping, _) => out.push(part(Key::InOrder, control("ping"))),
            (Packet::Pong, _) => out.push(part(Key::InOrder, outcome(Some(0)))),
            (Packet::Disconnect { reason: Some(code @ reason::ERROR..) }, Side::Server) => {
                let facts = Facts { outcome: outcome(Some(code)).outcome, ..control("disconnect") };
                out.push(Event::Part(Part::one_way(
                    from,
                    range,
                    facts.with("spantap.mqtt.reason_code", u32::from(code)),
                )));
            }
            // A client's acknowledgements, what needs none, and what was lost.
            _ => {}
        }
    }

    fn publish(&mut self, publish: Publish<'_>, from: Side, range: Range<u64>, out: &mut Vec<Event>) {
        if publish.hidden {
            self.forget_aliases(from);
        }
        let topic = self.topic(&publish, from);
        let facts = facts(&publish, topic, from, &mut self.texts);
        match publish.id {
            Some(id) if from == Side::Client => self.ask(id, facts, range, out),
            _ => out.push(Event::Part(Part::one_way(from, range, facts))),
        }
    }

    /// The destination, also by its alias; `None`: it is not known what that stands for.
    fn topic(&mut self, publish: &Publish<'_>, from: Side) -> Option<Text> {
        let alias = publish.properties.alias.map(|alias| (from == Side::Client, alias));
        if publish.topic.is_empty() {
            return self.aliases.get(&alias?).cloned();
        }
        let topic = self.texts.written(|name| destination::write(name, publish.topic, b'/'));
        if let Some(alias) = alias
            && (self.aliases.len() < ALIASES_MAX || self.aliases.contains_key(&alias))
        {
            self.aliases.insert(alias, topic.clone());
        }
        Some(topic)
    }

    /// A request that carries a packet id. One whose answer was not heard must not get the answer to this one.
    fn ask(&mut self, id: u16, facts: Facts, range: Range<u64>, out: &mut Vec<Event>) {
        if !self.open.insert(id) {
            out.push(Event::Cancelled { key: key(id), by: Side::Client, end: range.start, error_type: None });
        }
        if self.open.len() > OPEN_MAX
            && let Some(given_up) = self.open.pop_first()
        {
            out.push(Event::Cancelled { key: key(given_up), by: Side::Client, end: range.start, error_type: None });
        }
        out.push(Event::Part(Part::whole(Side::Client, key(id), range, facts)));
    }

    /// What was lost may have given them another meaning.
    fn forget_aliases(&mut self, from: Side) {
        self.aliases.retain(|(is_clients, _), _| *is_clients != (from == Side::Client));
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
        self.forget_aliases(from);
        out.push(Event::Lost { from, at, reason });
    }
}

const fn key(id: u16) -> Key {
    Key::Id(id as u64)
}

fn control(operation: &'static str) -> Facts {
    Facts::named(operation).with("messaging.system", "mqtt").with("messaging.operation.name", operation)
}

fn connect(version: Version) -> Facts {
    let version = match version {
        Version::V3 { name } => name,
        Version::V5 => "5",
    };
    control("connect").with("network.protocol.version", version)
}

/// What an answer says; `None`: what it says is not known.
fn outcome(reason: Option<u8>) -> Facts {
    let Some(reason) = reason else { return Facts::default() };
    if reason < reason::ERROR {
        return Facts::default().outcome(Outcome::Ok);
    }
    let (error_type, is_servers) = reason::error(reason);
    let error_type = Cow::Borrowed(error_type);
    let outcome = if is_servers { Outcome::Error(error_type) } else { Outcome::ClientError(error_type) };
    Facts::default().outcome(outcome).with("spantap.mqtt.reason_code", u32::from(reason))
}

/// The span's kind, and `messaging.operation.type`: brokers push what they deliver, which by the conventions is `process`.
const fn operation(from: Side) -> (Kind, &'static str) {
    match from {
        Side::Client => (Kind::Produce, "send"),
        Side::Server => (Kind::Consume, "process"),
    }
}

fn facts(publish: &Publish<'_>, topic: Option<Text>, from: Side, texts: &mut Texts) -> Facts {
    let name = if from == Side::Client { "publish" } else { "deliver" };
    let mut facts = control(name).with("spantap.mqtt.qos", u32::from(publish.qos));
    if let Some(topic) = topic {
        facts.name = Some(texts.concat(&[name, " ", &topic]));
        facts.set("messaging.destination.name", topic);
    }
    if let Some(body_bytes) = publish.body_bytes {
        facts.set("messaging.message.body.size", body_bytes);
    }
    let (kind, operation_type) = operation(from);
    facts.kind = kind;
    facts.set("messaging.operation.type", operation_type);
    facts.trace = publish.properties.trace;
    facts
}
