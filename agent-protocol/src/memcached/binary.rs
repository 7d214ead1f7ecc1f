//! The binary protocol: packets with a header of 24 bytes
//! (<https://github.com/memcached/memcached/wiki/BinaryProtocolRevamped>).

use crate::{detect::Sign, frames::Measure};

/// First byte of a request.
pub(super) const REQUEST: u8 = 0x80;
/// First byte of a response.
pub(super) const RESPONSE: u8 = 0x81;

const HEADER_BYTES: usize = 24;
const KEY_BYTES_MAX: u16 = 250;
/// The largest value, and what stands before it.
const BODY_BYTES_MAX: u32 = 1024 * 1024 * 1024 + 1024;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub opcode: u8,
    pub key_bytes: u16,
    /// Responses only.
    pub status: u16,
    pub body_bytes: u32,
    /// The client's number, which the response repeats.
    pub opaque: u32,
}

/// Name of an operation, and whether it is quiet: its response is left out if it says nothing new (a miss, or success).
pub(super) const fn operation(opcode: u8) -> Option<(&'static str, bool)> {
    Some(match opcode {
        0x00 | 0x0c => ("get", false),
        0x09 | 0x0d => ("get", true),
        0x01 => ("set", false),
        0x11 => ("set", true),
        0x02 => ("add", false),
        0x12 => ("add", true),
        0x03 => ("replace", false),
        0x13 => ("replace", true),
        0x04 => ("delete", false),
        0x14 => ("delete", true),
        0x05 => ("incr", false),
        0x15 => ("incr", true),
        0x06 => ("decr", false),
        0x16 => ("decr", true),
        0x07 => ("quit", false),
        0x17 => ("quit", true),
        0x08 => ("flush_all", false),
        0x18 => ("flush_all", true),
        0x0a => ("noop", false),
        0x0b => ("version", false),
        0x0e => ("append", false),
        0x19 => ("append", true),
        0x0f => ("prepend", false),
        0x1a => ("prepend", true),
        0x10 => ("stats", false),
        0x1b => ("verbosity", false),
        0x1c => ("touch", false),
        0x1d | 0x23 => ("gat", false),
        0x1e | 0x24 => ("gat", true),
        0x20 => ("sasl_list_mechs", false),
        0x21 => ("sasl_auth", false),
        0x22 => ("sasl_step", false),
        _ => return None,
    })
}

/// `stats`: its response has many packets, the last without a key.
pub(super) const STATS: u8 = 0x10;
/// `quit` without a response.
pub(super) const QUIET_QUIT: u8 = 0x17;

impl Header {
    /// Reads a header that was measured.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let [_, opcode, key_high, key_low, _, _, status_high, status_low, rest @ ..] = *header;
        let [b0, b1, b2, b3, o0, o1, o2, o3, ..] = rest;
        Some(Self {
            opcode,
            key_bytes: u16::from_be_bytes([key_high, key_low]),
            status: u16::from_be_bytes([status_high, status_low]),
            body_bytes: u32::from_be_bytes([b0, b1, b2, b3]),
            opaque: u32::from_be_bytes([o0, o1, o2, o3]),
        })
    }

    /// What the response says, if it is an error: its status, and whether that is the server's trouble.
    pub(super) fn error(self) -> Option<(String, bool)> {
        // A miss, a key that exists, and what was not stored are answers; 0x21 goes on with authentication.
        let servers = match self.status {
            0x00 | 0x01 | 0x02 | 0x05 | 0x21 => return None,
            0x82 | 0x84 | 0x85 | 0x86 => true,
            _ => false,
        };
        Some((format!("0x{:04x}", self.status), servers))
    }
}

/// How long the packet is that begins like that, with this first byte.
pub(super) fn measure(magic: u8, bytes: &[u8]) -> Measure {
    let fits = |at: usize, fits: fn(u8) -> bool| bytes.get(at).is_none_or(|byte| fits(*byte));
    let plausible =
        fits(1, |opcode| operation(opcode).is_some()) && fits(2, |high| high == 0) && fits(5, |kind| kind == 0);
    if bytes.first().is_some_and(|first| *first != magic) || !plausible {
        return Measure::Malformed;
    }
    let Some(header) = Header::read(bytes) else { return Measure::More };
    let extras_bytes = u32::from(bytes[4]);
    let fits = header.key_bytes <= KEY_BYTES_MAX
        && extras_bytes <= 20
        && u32::from(header.key_bytes) + extras_bytes <= header.body_bytes
        && header.body_bytes <= BODY_BYTES_MAX;
    if !fits {
        return Measure::Malformed;
    }
    Measure::Frame { bytes: HEADER_BYTES as u64 + u64::from(header.body_bytes), keep: HEADER_BYTES }
}

/// Whether a packet begins here.
pub(super) fn check(magic: u8, bytes: &[u8]) -> Sign {
    match measure(magic, bytes) {
        Measure::Frame { .. } => Sign::Yes,
        Measure::More => Sign::Partial,
        Measure::Malformed => Sign::No,
    }
}
