//! Control packets: how long they are, and what their variable headers say (MQTT 3.1.1 and 5, sections 2 and 3).

use crate::{detect::Sign, frames::Measure, session::Side};

use super::properties::{self, Properties};

/// How much of a packet is wanted: topic and properties.
const KEPT_BYTES_MAX: usize = 4096;

/// Protocol versions, as `CONNECT` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 3.1 and 3.1.1.
    V3 {
        name: &'static str,
    },
    V5,
}

/// A packet, as far as it matters here. `None` in place of a number: it was not captured, or only the version would tell.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Packet<'a> {
    Connect(Version),
    Connack {
        reason: Option<u8>,
    },
    Publish(Publish<'a>),
    Puback {
        id: u16,
        reason: Option<u8>,
    },
    Pubrec {
        id: u16,
        reason: Option<u8>,
    },
    Pubcomp {
        id: u16,
        reason: Option<u8>,
    },
    Subscribe {
        id: u16,
    },
    Unsubscribe {
        id: u16,
    },
    /// `SUBACK` and `UNSUBACK`: the worst of their reasons.
    Suback {
        id: u16,
        reason: Option<u8>,
    },
    Ping,
    Pong,
    Disconnect {
        reason: Option<u8>,
    },
    /// `PUBREL`, `AUTH`.
    Other,
    /// What it is about was not captured.
    Hidden,
}

/// What is known of a `PUBLISH`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Publish<'a> {
    /// Empty if an alias stands for it.
    pub topic: &'a [u8],
    pub qos: u8,
    /// QoS 1 and 2.
    pub id: Option<u16>,
    pub body_bytes: Option<u64>,
    pub properties: Properties,
    /// Topic, id or properties were not captured to their end.
    pub hidden: bool,
}

impl Publish<'_> {
    /// One of which nothing but the first byte was captured.
    fn hidden(first: u8) -> Self {
        Self {
            topic: b"",
            qos: qos(first),
            id: None,
            body_bytes: None,
            properties: Properties::default(),
            hidden: true,
        }
    }
}

impl Packet<'_> {
    /// Whether nothing can be told of it: what it is about is hidden, or which answer it waits for.
    pub(super) fn is_lost(&self, from: Side) -> bool {
        match self {
            Self::Hidden => true,
            Self::Publish(publish) => from == Side::Client && publish.qos > 0 && publish.id.is_none(),
            _ => false,
        }
    }
}

const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const UNSUBSCRIBE: u8 = 10;
const UNSUBACK: u8 = 11;
const PINGREQ: u8 = 12;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;
const AUTH: u8 = 15;

/// Whether a side sends packets that begin with this byte (type, and flags as they must be).
const fn begins(first: u8, from: Side) -> bool {
    let client = matches!(from, Side::Client);
    match (first >> 4, first & 0x0f) {
        (PUBLISH, flags) => flags & 0b0110 != 0b0110,
        (PUBREL, flags) => flags == 0b0010,
        (SUBSCRIBE | UNSUBSCRIBE, flags) => client && flags == 0b0010,
        (CONNECT | PINGREQ, flags) => client && flags == 0,
        (CONNACK | SUBACK | UNSUBACK | PINGRESP, flags) => !client && flags == 0,
        (PUBACK | PUBREC | PUBCOMP | DISCONNECT | AUTH, flags) => flags == 0,
        _ => false,
    }
}

/// A variable byte integer (MQTT 5, 1.5.5), and its own length. `Err`: more bytes are needed; or, if `false`, it is none.
pub(super) fn varint(bytes: &[u8]) -> Result<(u32, usize), bool> {
    let mut value = 0;
    for at in 0..4 {
        let byte = *bytes.get(at).ok_or(true)?;
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((value, at + 1));
        }
    }
    Err(false)
}

/// How long the packet is that begins like that.
pub(super) fn measure(bytes: &[u8], from: Side) -> Measure {
    let Some((&first, rest)) = bytes.split_first() else { return Measure::More };
    if !begins(first, from) {
        return Measure::Malformed;
    }
    let (length, length_bytes) = match varint(rest) {
        Ok(length) => length,
        Err(true) => return Measure::More,
        Err(false) => return Measure::Malformed,
    };
    let header = 1 + length_bytes;
    match fits(first >> 4, length, &bytes[header..]) {
        Sign::No => Measure::Malformed,
        Sign::Partial => Measure::More,
        Sign::Yes | Sign::Likely => Measure::Frame {
            bytes: header as u64 + u64::from(length),
            keep: header + KEPT_BYTES_MAX.min(length as usize),
        },
    }
}

/// Whether a packet may have this length, and begin like that.
fn fits(kind: u8, length: u32, body: &[u8]) -> Sign {
    let allowed = match kind {
        PINGREQ | PINGRESP => length == 0,
        DISCONNECT | AUTH => true,
        CONNECT => length >= 10,
        PUBLISH => length >= 2,
        SUBSCRIBE | SUBACK | UNSUBSCRIBE => length >= 3,
        _ => length >= 2,
    };
    if !allowed {
        return Sign::No;
    }
    match kind {
        CONNECT => protocol_name(body),
        PUBLISH => match body.first_chunk() {
            None => Sign::Partial,
            Some(topic) if u32::from(u16::from_be_bytes(*topic)) + 2 > length => Sign::No,
            Some(_) => Sign::Yes,
        },
        _ => Sign::Yes,
    }
}

const NAMES: [&[u8]; 2] = [b"\0\x04MQTT", b"\0\x06MQIsdp"];

fn protocol_name(body: &[u8]) -> Sign {
    for name in NAMES {
        if body.starts_with(name) {
            return match body.get(name.len()) {
                None => Sign::Partial,
                Some(3..=5) => Sign::Yes,
                Some(_) => Sign::No,
            };
        }
        if name.starts_with(body) {
            return Sign::Partial;
        }
    }
    Sign::No
}

/// Reads what was measured; bytes may be missing at its end.
pub(super) fn read(kept: &[u8], from: Side, version: Option<Version>) -> Packet<'_> {
    parse(kept, from, version).unwrap_or_else(|| match kept.first() {
        Some(first) if first >> 4 == PUBLISH => Packet::Publish(Publish::hidden(*first)),
        _ => Packet::Hidden,
    })
}

fn parse(kept: &[u8], from: Side, version: Option<Version>) -> Option<Packet<'_>> {
    let (&first, rest) = kept.split_first()?;
    let (length, length_bytes) = varint(rest).ok()?;
    let body = rest.get(length_bytes..)?;
    let id = || body.first_chunk().map(|id| u16::from_be_bytes(*id));
    let reason = |at: usize| match length as usize {
        // Left out, it is success.
        length if length <= at => Some(0),
        _ => body.get(at).copied(),
    };
    Some(match (first >> 4, from) {
        (CONNECT, _) => Packet::Connect(connect_version(body)?),
        (CONNACK, _) => Packet::Connack { reason: body.get(1).copied() },
        (PUBLISH, _) => Packet::Publish(publish(first, length, body, version)?),
        (PUBACK, _) => Packet::Puback { id: id()?, reason: reason(2) },
        (PUBREC, _) => Packet::Pubrec { id: id()?, reason: reason(2) },
        (PUBCOMP, _) => Packet::Pubcomp { id: id()?, reason: reason(2) },
        (SUBSCRIBE, _) => Packet::Subscribe { id: id()? },
        (UNSUBSCRIBE, _) => Packet::Unsubscribe { id: id()? },
        (SUBACK, _) => Packet::Suback { id: id()?, reason: worst(body, length, version) },
        // Before MQTT 5 it says nothing.
        (UNSUBACK, _) if length == 2 => Packet::Suback { id: id()?, reason: Some(0) },
        (UNSUBACK, _) => Packet::Suback { id: id()?, reason: worst(body, length, version) },
        (PINGREQ, _) => Packet::Ping,
        (PINGRESP, _) => Packet::Pong,
        (DISCONNECT, _) => Packet::Disconnect { reason: reason(0) },
        _ => Packet::Other,
    })
}

fn connect_version(body: &[u8]) -> Option<Version> {
    let level = NAMES.iter().find_map(|name| body.strip_prefix(*name))?.first()?;
    Some(match level {
        3 => Version::V3 { name: "3.1" },
        4 => Version::V3 { name: "3.1.1" },
        _ => Version::V5,
    })
}

const fn qos(first: u8) -> u8 {
    first >> 1 & 0b11
}

fn publish(first: u8, length: u32, body: &[u8], version: Option<Version>) -> Option<Publish<'_>> {
    let qos = qos(first);
    let topic_bytes = usize::from(u16::from_be_bytes(*body.first_chunk()?));
    let topic = body.get(2..2 + topic_bytes)?;
    let mut at = 2 + topic_bytes;
    let mut id = None;
    if qos > 0 {
        id = Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
        at += 2;
    }
    let (mut properties, mut known, mut hidden) = (Properties::default(), version.is_some(), false);
    if version == Some(Version::V5) {
        let rest = body.get(at..).unwrap_or_default();
        match varint(rest) {
            Ok((bytes, own)) => {
                let end = (own + bytes as usize).min(rest.len());
                properties = properties::read(&rest[own.min(end)..end]);
                at += own + bytes as usize;
                hidden = end < own + bytes as usize;
            }
            Err(_) => (known, hidden) = (false, true),
        }
    }
    let body_bytes = if known { u64::from(length).checked_sub(at as u64) } else { None };
    Some(Publish { topic, qos, id, body_bytes, properties, hidden })
}

/// The worst reason of an acknowledgement of several filters.
fn worst(body: &[u8], length: u32, version: Option<Version>) -> Option<u8> {
    let skipped = match version? {
        Version::V3 { .. } => 2,
        Version::V5 => {
            let (properties, own) = varint(body.get(2..)?).ok()?;
            2 + own + properties as usize
        }
    };
    if body.len() < length as usize {
        return None;
    }
    body.get(skipped..)?.iter().copied().max()
}

/// How the first bytes of one side look.
pub(super) fn check(bytes: &[u8], from: Side) -> Sign {
    match measure(bytes, from) {
        Measure::Malformed => Sign::No,
        Measure::More => Sign::Partial,
        Measure::Frame { bytes: length, .. } => {
            let whole = usize::try_from(length).ok().filter(|length| *length <= bytes.len());
            check_packet(bytes, whole, from)
        }
    }
}

/// The packets of small value as evidence are believed only if what they hold makes sense.
fn check_packet(bytes: &[u8], whole: Option<usize>, from: Side) -> Sign {
    const LOOKED_AT_MAX: usize = 512;
    let kind = bytes[0] >> 4;
    if kind == CONNECT {
        return Sign::Yes;
    }
    let seen = &bytes[..bytes.len().min(whole.unwrap_or(LOOKED_AT_MAX))];
    let id_follows = |at: usize| seen.get(at..at + 2).map(|id| id != [0, 0]);
    let sensible = match (kind, parse(seen, from, None)) {
        (PUBLISH, Some(Packet::Publish(publish))) => Some(is_topic(publish.topic)),
        (PUBLISH | SUBSCRIBE, None) if whole.is_none() && bytes.len() < LOOKED_AT_MAX => None,
        (CONNACK, _) if seen.len() < 3 => None,
        (CONNACK, _) => Some(seen[2] <= 1),
        (PUBACK | PUBREC | PUBREL | PUBCOMP, _) => id_follows(2).map(|follows| follows && is_short(bytes[1])),
        (SUBSCRIBE | SUBACK | UNSUBSCRIBE | UNSUBACK, _) => id_follows(2),
        (PINGREQ | PINGRESP, _) => Some(true),
        // Nothing else is the first thing that is heard.
        _ => Some(false),
    };
    match sensible {
        None => Sign::Partial,
        Some(true) => Sign::Likely,
        Some(false) => Sign::No,
    }
}

/// Acknowledgements with a reason, but no texts.
const fn is_short(length: u8) -> bool {
    length == 2 || length == 3 || length == 4
}

/// Text without wild cards.
fn is_topic(topic: &[u8]) -> bool {
    let text = std::str::from_utf8(topic).unwrap_or_default();
    !text.is_empty() && !text.contains(|letter: char| letter.is_control() || matches!(letter, '+' | '#'))
}
