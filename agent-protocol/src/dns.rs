//! DNS messages (RFC 1035), as far as they were captured: header, question, addresses that were answered.
//!
//! In: the first bytes of a message, on TCP without the length before it ([`Frames`] takes that off). Out: a [`Message`],
//! or why it is none. Called by `agent-core`. Never keeps data of other records than
//! addresses.
//!
//! Written by hand: published parsers refuse a message whose end was not captured, and that is the normal case for
//! answers. Here what was captured is read, and [`Message::complete`] says whether the answers end in it.
//!
//! Limits: names of [`NAME_BYTES_MAX`] bytes on the wire and one pass over their labels; pointers that only go back;
//! [`ADDRESSES_MAX`] addresses.

mod frames;
mod name;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use self::{
    frames::{FRAME_BYTES_MAX, Frame, Frames},
    name::NAME_BYTES_MAX,
};

/// Most addresses kept of one message.
pub const ADDRESSES_MAX: usize = 32;

const HEADER_BYTES: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
const RECORD_TYPES: [(u16, &str); 20] = [
    (TYPE_A, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (15, "MX"),
    (16, "TXT"),
    (TYPE_AAAA, "AAAA"),
    (33, "SRV"),
    (35, "NAPTR"),
    (43, "DS"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (52, "TLSA"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (252, "AXFR"),
    (255, "ANY"),
    (257, "CAA"),
];
/// RFC 6895, 2.3: those that fit into the header.
const RCODES: [&str; 11] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH",
    "NOTZONE",
];

/// What a message says, as far as it was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Chosen by who asks, repeated by who answers.
    pub id: u16,
    /// Whether it is an answer (QR).
    pub response: bool,
    /// Whether the answer did not fit and is to be asked for again over TCP (TC).
    pub truncated: bool,
    /// The header's response code.
    pub rcode: u8,
    /// The question; messages with another number of questions than one are not read.
    pub question: Question,
    /// Addresses in the answer section, of A and AAAA records.
    pub addresses: Vec<IpAddr>,
    /// Whether the answer section was captured to its end, and all its addresses are kept.
    pub complete: bool,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name without its final dot, in lower case (RFC 4343: case does not tell names apart); `.` is the root.
    pub name: String,
    /// The type of record (QTYPE).
    pub kind: u16,
}

/// Why bytes give no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMessage {
    /// They are not DNS, or are of a kind that is not read: other operations than a query, not exactly one question.
    NotMine,
    /// They may be: header and question were not captured to their end.
    Short,
}

impl Message {
    /// Reads a message of `length` bytes of which `captured` are the first.
    ///
    /// # Errors
    /// See [`NoMessage`].
    pub fn parse(captured: &[u8], length: usize) -> Result<Self, NoMessage> {
        let captured = &captured[..captured.len().min(length)];
        let short = if captured.len() < length { NoMessage::Short } else { NoMessage::NotMine };
        let header = Header::read(captured).ok_or(short)?;
        if !header.is_plausible() {
            return Err(NoMessage::NotMine);
        }
        let mut at = HEADER_BYTES;
        let name = match name::read(captured, &mut at) {
            Ok(name) => name,
            Err(name::NoName::Malformed) => return Err(NoMessage::NotMine),
            Err(name::NoName::Cut) => return Err(short),
        };
        let kind = number(captured, at).ok_or(short)?;
        let class = number(captured, at + 2).ok_or(short)?;
        // IN, CH, HS, ANY: what can stand in a question.
        if !matches!(class, CLASS_IN | 3 | 4 | 255) || kind == 0 {
            return Err(NoMessage::NotMine);
        }
        at += 4;
        let nothing_else = header.counts[1..] == [0, 0, 0];
        if nothing_else && at != length {
            return Err(NoMessage::NotMine);
        }
        let mut addresses = Vec::new();
        let complete = answers(captured, at, header.counts[1], &mut addresses).is_some();
        Ok(Self {
            id: header.id,
            response: header.flags & Header::QR != 0,
            truncated: header.flags & Header::TC != 0,
            rcode: (header.flags & 15) as u8,
            question: Question { name, kind },
            addresses,
            complete,
        })
    }
}

impl Question {
    /// The type's name; `TYPE` and the number (RFC 3597, 5) if it is not a common one.
    pub fn kind_name(&self) -> String {
        let known = RECORD_TYPES.iter().find(|(kind, _)| *kind == self.kind);
        known.map_or_else(|| format!("TYPE{}", self.kind), |(_, name)| (*name).to_owned())
    }
}

/// The name of a response code; `RCODE` and the number if it has none.
pub fn rcode_name(rcode: u8) -> String {
    RCODES.get(usize::from(rcode)).map_or_else(|| format!("RCODE{rcode}"), |name| (*name).to_owned())
}

/// Whether these are, or may yet become, the first bytes of a client's stream: a query after its length.
pub(crate) fn check_stream(bytes: &[u8]) -> crate::detect::Sign {
    use crate::detect::Sign;
    /// Queries are short; a length like that of a text's first two letters is none.
    const QUERY_BYTES_MAX: u16 = 4096;
    let Some(length) = number(bytes, 0) else {
        return if bytes.first().is_none_or(|high| *high < (QUERY_BYTES_MAX >> 8) as u8) {
            Sign::Partial
        } else {
            Sign::No
        };
    };
    if !(HEADER_BYTES as u16 + 5..QUERY_BYTES_MAX).contains(&length) {
        return Sign::No;
    }
    let message = &bytes[2..];
    let flags = number(message, 2).unwrap_or(0);
    let questions = number(message, 4).unwrap_or(1);
    if flags & (Header::QR | Header::OPCODE | Header::Z | 15) != 0 || questions != 1 {
        return Sign::No;
    }
    match Message::parse(message, usize::from(length)) {
        Ok(message) if !message.response => Sign::Yes,
        Err(NoMessage::Short) => Sign::Partial,
        _ => Sign::No,
    }
}

/// RFC 1035, 4.1.1.
struct Header {
    id: u16,
    flags: u16,
    /// Questions, answers, authorities, additional records.
    counts: [u16; 4],
}

impl Header {
    const QR: u16 = 0x8000;
    const OPCODE: u16 = 0x7800;
    const TC: u16 = 0x0200;
    /// Must be zero in all messages.
    const Z: u16 = 0x0040;

    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |index: usize| number(bytes, index * 2);
        Some(Self { id: word(0)?, flags: word(1)?, counts: [word(2)?, word(3)?, word(4)?, word(5)?] })
    }

    /// A query or the answer to one, with one question; queries hold no answers, and no failure.
    fn is_plausible(&self) -> bool {
        let query = self.flags & Self::QR == 0;
        let plain = self.flags & (Self::OPCODE | Self::Z) == 0 && self.counts[0] == 1;
        plain && (!query || (self.counts[1..3] == [0, 0] && self.counts[3] <= 4 && self.flags & 15 == 0))
    }
}

/// The addresses of the answer section; `None` if it was not captured to its end, or makes no sense, or holds more
/// addresses than are kept.
fn answers(bytes: &[u8], mut at: usize, count: u16, addresses: &mut Vec<IpAddr>) -> Option<()> {
    for _ in 0..count {
        name::skip(bytes, &mut at)?;
        let (kind, class) = (number(bytes, at)?, number(bytes, at + 2)?);
        let length = usize::from(number(bytes, at + 8)?);
        let data = bytes.get(at + 10..at + 10 + length)?;
        at += 10 + length;
        let address = match kind {
            TYPE_A if class == CLASS_IN => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?)),
            TYPE_AAAA if class == CLASS_IN => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?)),
            _ => continue,
        };
        if addresses.len() >= ADDRESSES_MAX {
            return None;
        }
        addresses.push(address);
    }
    Some(())
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
mod tests;
