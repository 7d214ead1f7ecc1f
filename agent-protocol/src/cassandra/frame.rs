//! Frames: header, opcodes, the primitive types in bodies.

use crate::{
    fields::Fields,
    session::Side,
    text::Text,
    unpack::{self, Budget, Packing},
};

/// Version, flags, stream, opcode, length.
pub(super) const HEADER_BYTES: usize = 9;
/// Longest body that servers take by default.
const BODY_BYTES_MAX: u32 = 256 * 1024 * 1024;
/// Set in the version of what servers send.
const RESPONSE: u8 = 0x80;
/// What is read of a body that is compressed.
const UNPACKED_BYTES_MAX: usize = 16 * 1024;

const COMPRESSED: u8 = 0x01;
const TRACING: u8 = 0x02;
const CUSTOM_PAYLOAD: u8 = 0x04;
const WARNING: u8 = 0x08;
const FLAGS: u8 = 0x1f;

pub(super) const ERROR: u8 = 0x00;
pub(super) const STARTUP: u8 = 0x01;
pub(super) const OPTIONS: u8 = 0x05;
pub(super) const QUERY: u8 = 0x07;
pub(super) const RESULT: u8 = 0x08;
pub(super) const PREPARE: u8 = 0x09;
pub(super) const EXECUTE: u8 = 0x0a;
pub(super) const EVENT: u8 = 0x0c;
pub(super) const BATCH: u8 = 0x0d;

/// By opcode: who sends it, and its name.
const OPCODES: [(u8, Side, &str); 16] = [
    (ERROR, Side::Server, "ERROR"),
    (STARTUP, Side::Client, "STARTUP"),
    (0x02, Side::Server, "READY"),
    (0x03, Side::Server, "AUTHENTICATE"),
    (OPTIONS, Side::Client, "OPTIONS"),
    (0x06, Side::Server, "SUPPORTED"),
    (QUERY, Side::Client, "QUERY"),
    (RESULT, Side::Server, "RESULT"),
    (PREPARE, Side::Client, "PREPARE"),
    (EXECUTE, Side::Client, "EXECUTE"),
    (0x0b, Side::Client, "REGISTER"),
    (EVENT, Side::Server, "EVENT"),
    (BATCH, Side::Client, "BATCH"),
    (0x0e, Side::Server, "AUTH_CHALLENGE"),
    (0x0f, Side::Client, "AUTH_RESPONSE"),
    (0x10, Side::Server, "AUTH_SUCCESS"),
];

/// A frame's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Without the direction's bit: 3 to 5, or DataStax's own 0x41 and 0x42, which are like 4.
    pub(super) version: u8,
    flags: u8,
    pub(super) stream: i16,
    pub(super) opcode: u8,
    pub(super) length: u32,
}

/// The algorithm that STARTUP asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// LZ4's block format behind the length.
    Lz4,
    /// Snappy's.
    Snappy,
}

impl Header {
    /// Reads what this side's frame begins with; `None` inside: none begins like that.
    pub(super) fn read(bytes: &[u8], from: Side) -> Option<Option<Self>> {
        let mut fields = Fields(bytes);
        let [version, flags] = fields.array()?;
        let (stream, opcode, length) = (fields.i16()?, fields.u8()?, fields.u32()?);
        let header = Self { version: version & !RESPONSE, flags, stream, opcode, length };
        Some((is_version(version, from) && header.is_plausible(from)).then_some(header))
    }

    fn is_plausible(&self, from: Side) -> bool {
        self.name(from).is_some() && self.flags & !FLAGS == 0 && self.length <= BODY_BYTES_MAX
    }

    /// The opcode's name, if this side sends it.
    pub(super) fn name(&self, from: Side) -> Option<&'static str> {
        let known = OPCODES.iter().find(|(opcode, side, _)| (*opcode, *side) == (self.opcode, from));
        known.map(|(.., name)| *name)
    }

    /// The version as text.
    pub(super) fn version_name(&self) -> Text {
        match self.version {
            3 => "3".into(),
            4 => "4".into(),
            5 => "5".into(),
            other => other.to_string().into(),
        }
    }

    /// The frame's length.
    pub(super) fn frame_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.length)
    }

    /// The body as it was before compression, if it was captured and can be opened.
    pub(super) fn unpack(&self, body: &[u8], compression: Option<Compression>, budget: &mut Budget) -> Option<Vec<u8>> {
        let mut fields = Fields(body);
        let packing = match compression? {
            Compression::Lz4 => Packing::Lz4Block(fields.u32()? as usize),
            Compression::Snappy => Packing::Snappy,
        };
        unpack::first_bytes(packing, fields.0, UNPACKED_BYTES_MAX, budget)
    }

    /// Whether the body is compressed.
    pub(super) const fn is_compressed(&self) -> bool {
        self.flags & COMPRESSED != 0 && self.version != 5
    }

    /// Whether something may come before the opcode's own fields.
    pub(super) const fn has_extras(&self) -> bool {
        self.flags & (TRACING | CUSTOM_PAYLOAD | WARNING) != 0
    }

    /// Passes over what may come before the opcode's own fields.
    pub(super) fn skip_extras(&self, fields: &mut Fields<'_>, from: Side) -> Option<()> {
        if from == Side::Server && self.flags & TRACING != 0 {
            fields.skip(16)?;
        }
        if from == Side::Server && self.flags & WARNING != 0 {
            for _ in 0..fields.u16()? {
                text(fields)?;
            }
        }
        if self.flags & CUSTOM_PAYLOAD != 0 {
            for _ in 0..fields.u16()? {
                text(fields)?;
                let length = fields.i32()?;
                fields.skip(usize::try_from(length).unwrap_or(0))?;
            }
        }
        Some(())
    }
}

/// Whether a frame of this side may begin with this byte.
pub(super) const fn is_version(version: u8, from: Side) -> bool {
    let response = matches!(from, Side::Server);
    matches!(version & !RESPONSE, 3..=5 | 0x41 | 0x42) && (version & RESPONSE != 0) == response
}

/// Whether these, fewer than a header, may begin one.
pub(super) fn may_begin(bytes: &[u8], from: Side) -> bool {
    let flags = bytes.get(1).is_none_or(|flags| flags & !FLAGS == 0);
    bytes.first().is_some_and(|version| is_version(*version, from)) && flags
}

/// `[string]`, and `[short bytes]`.
pub(super) fn text<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let length = fields.u16()?;
    fields.take(length.into())
}
