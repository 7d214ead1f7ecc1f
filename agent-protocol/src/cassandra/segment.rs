//! Segments, which hold frames since version 5 (native_protocol_v5.spec, 2): their headers, and where in the stream what they hold lies.
//!
//! A header is known by its checksum, so neither a late join nor the order of the two directions matters.

use crate::{
    fields::Fields,
    frames::Measure,
    unpack::{self, BLOCK_BYTES_MAX, Budget, Packing},
};

/// Length and flag, then their checksum.
const PLAIN_HEADER_BYTES: usize = 6;
/// The same with the length before compression.
const COMPRESSED_HEADER_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;
const LENGTH_BITS: u32 = 17;

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    header_bytes: usize,
    payload_bytes: usize,
    /// Before compression; `None`: it is not compressed.
    unpacked_bytes: Option<usize>,
}

/// What the first bytes of a segment say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// More are needed.
    Cut,
    /// They begin one.
    Header(Header),
    /// They begin none.
    None,
}

impl Header {
    /// Reads a header without compression, or else one with.
    pub(super) fn find(bytes: &[u8]) -> Found {
        match Self::find_plain(bytes) {
            Found::None => {}
            found => return found,
        }
        let Some(head) = bytes.first_chunk::<COMPRESSED_HEADER_BYTES>() else { return Found::Cut };
        let Some(value) = checked::<5>(head) else { return Found::None };
        let length = |shift: u32| (value >> shift) as usize & ((1 << LENGTH_BITS) - 1);
        let unpacked_bytes = Some(length(LENGTH_BITS)).filter(|bytes| *bytes > 0);
        let header_bytes = COMPRESSED_HEADER_BYTES;
        Found::Header(Self { header_bytes, payload_bytes: length(0), unpacked_bytes })
    }

    /// Reads a header without compression.
    pub(super) fn find_plain(bytes: &[u8]) -> Found {
        let Some(head) = bytes.first_chunk::<PLAIN_HEADER_BYTES>() else {
            // Above length and flag are zeros.
            return if bytes.get(2).is_none_or(|high| *high <= 3) { Found::Cut } else { Found::None };
        };
        let Some(value) = checked::<3>(head) else { return Found::None };
        let payload_bytes = value as usize & ((1 << LENGTH_BITS) - 1);
        Found::Header(Self { header_bytes: PLAIN_HEADER_BYTES, payload_bytes, unpacked_bytes: None })
    }

    /// All of the segment, of which everything is wanted.
    pub(super) const fn measure(&self) -> Measure {
        Measure::whole((self.header_bytes + self.payload_bytes + CHECKSUM_BYTES) as u64)
    }

    /// Length of what it holds.
    pub(super) fn inner_bytes(&self) -> u64 {
        self.unpacked_bytes.unwrap_or(self.payload_bytes) as u64
    }

    /// Whether offsets within are those of the stream.
    pub(super) const fn is_plain(&self) -> bool {
        self.unpacked_bytes.is_none()
    }

    /// Where what it holds begins.
    pub(super) const fn payload_at(&self) -> u64 {
        self.header_bytes as u64
    }

    /// The captured bytes of what it holds: a part if it is not compressed; all or, if it cannot be opened, none if it is.
    pub(super) fn unpack<'a>(&self, captured: &'a [u8], budget: &mut Budget) -> std::borrow::Cow<'a, [u8]> {
        let mut fields = Fields(captured);
        let _: Option<()> = fields.skip(self.header_bytes);
        let payload = fields.take_captured(self.payload_bytes);
        let Some(bytes) = self.unpacked_bytes else { return payload.into() };
        let unpacked = unpack::first_bytes(Packing::Lz4Block(bytes), payload, BLOCK_BYTES_MAX, budget);
        unpacked.filter(|unpacked| unpacked.len() == bytes).unwrap_or_default().into()
    }
}

/// The number in the first `N` bytes, the lowest first, if the checksum behind them is right.
fn checked<const N: usize>(head: &[u8]) -> Option<u64> {
    let mut fields = Fields(head);
    let bytes: [u8; N] = fields.array()?;
    let [low, middle, high] = fields.array()?;
    let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    (crc24(&bytes) == u32::from_le_bytes([low, middle, high, 0])).then_some(value)
}

/// The checksum of headers (native_protocol_v5.spec, 2.1).
fn crc24(bytes: &[u8]) -> u32 {
    const START: u32 = 0x87_5060;
    const POLYNOMIAL: u32 = 0x197_4f0b;
    let mut crc = START;
    for byte in bytes {
        crc ^= u32::from(*byte) << 16;
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x100_0000 != 0 {
                crc ^= POLYNOMIAL;
            }
        }
    }
    crc
}
