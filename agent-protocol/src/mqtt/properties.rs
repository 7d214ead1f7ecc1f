//! Properties of MQTT 5 (section 2.2.2), of which two matter here.

use super::packet::varint;
use crate::traceparent::{self, TraceParent};

/// What they say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Properties {
    /// A number that stands for the topic from now on, or instead of it.
    pub alias: Option<u16>,
    /// A user property `traceparent`.
    pub trace: Option<TraceParent>,
}

/// Reads as many as are here; what is not understood ends them.
pub(super) fn read(mut bytes: &[u8]) -> Properties {
    let mut properties = Properties::default();
    while let Some((id, rest)) = bytes.split_first()
        && let Some(rest) = one(*id, rest, &mut properties)
    {
        bytes = rest;
    }
    properties
}

/// Takes a property's value.
fn one<'a>(id: u8, bytes: &'a [u8], properties: &mut Properties) -> Option<&'a [u8]> {
    match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => bytes.get(1..),
        0x23 => {
            properties.alias = Some(u16::from_be_bytes(*bytes.first_chunk()?));
            bytes.get(2..)
        }
        0x13 | 0x21 | 0x22 => bytes.get(2..),
        0x02 | 0x11 | 0x18 | 0x27 => bytes.get(4..),
        0x0b => bytes.get(varint(bytes).ok()?.1..),
        0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => Some(text(bytes)?.1),
        0x26 => {
            let (name, rest) = text(bytes)?;
            let (value, rest) = text(rest)?;
            if name.eq_ignore_ascii_case(b"traceparent") && properties.trace.is_none() {
                properties.trace = std::str::from_utf8(value).ok().and_then(|value| traceparent::parse(value.trim()));
            }
            Some(rest)
        }
        _ => None,
    }
}

/// Text after its length, and what follows.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(u16::from_be_bytes(*bytes.first_chunk()?));
    bytes.get(2..)?.split_at_checked(length)
}
