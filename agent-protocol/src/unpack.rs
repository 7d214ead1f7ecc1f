//! The first bytes of what a message holds compressed.
//!
//! In: compressed bytes as far as they were captured, which may end anywhere. Out: the first bytes of what they hold, as far as
//! that gives some. Called by the parsers of Kafka, MongoDB and Cassandra, for names that stand at the begin; what comes out is
//! read and dropped. Done by `flate2`, `snap`, `lz4_flex` and `ruzstd`, whose decoders are safe on any input; the few bytes
//! around LZ4's and gzip's blocks are read here.
//!
//! Limits, whatever the bytes claim: [`BLOCK_BYTES_MAX`] come out of formats that only come as a whole; a window of
//! [`WINDOW_BYTES_MAX`] while a zstd frame is read. Both are given back at once. What comes out of a connection's messages in all
//! is bounded by what goes in ([`Budget`]). What exceeds them stays closed.

use flate2::{Decompress, FlushDecompress};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::fields::Fields;

/// Most bytes that come out at once.
pub(crate) const BLOCK_BYTES_MAX: usize = 128 * 1024;
/// Most bytes that a zstd frame may refer back to: what levels up to 3 use.
const WINDOW_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Most bytes that a zstd block holds (RFC 8878, 3.1.1.2).
const ZSTD_BLOCK_BYTES_MAX: usize = 128 * 1024;
/// What a connection may open in advance.
const BUDGET_BYTES_MAX: usize = 1024 * 1024;
/// What each compressed byte adds to that. Few messages hold more.
const BUDGET_PER_BYTE: usize = 64;

/// How many bytes may still come out of one connection's messages: a few that claim to hold much must not cost much.
#[derive(Debug)]
pub(crate) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(BUDGET_BYTES_MAX)
    }
}

impl Budget {
    fn give(&mut self, bytes: usize) {
        self.0 = self.0.saturating_add(bytes).min(BUDGET_BYTES_MAX);
    }

    /// `None` if there are not that many.
    fn take(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.checked_sub(bytes)?;
        Some(())
    }
}

/// How it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// RFC 1952.
    Gzip,
    /// RFC 1950.
    Zlib,
    /// Snappy's block format.
    Snappy,
    /// LZ4's frame format.
    Lz4Frame,
    /// LZ4's block format, which holds so many bytes.
    Lz4Block(usize),
    /// RFC 8878.
    Zstd,
}

/// The first bytes, at most `max`; `None` if there are none to be had.
pub(crate) fn first_bytes(packing: Packing, packed: &[u8], max: usize, budget: &mut Budget) -> Option<Vec<u8>> {
    budget.give(packed.len().saturating_mul(BUDGET_PER_BYTE));
    let mut bytes = match packing {
        Packing::Gzip => inflate(Decompress::new(false), gzip_body(packed)?, max)?,
        Packing::Zlib => inflate(Decompress::new(true), packed, max)?,
        Packing::Snappy => snappy(packed)?,
        Packing::Lz4Frame => lz4_frame(packed)?,
        Packing::Lz4Block(bytes) => lz4_block(packed, bytes)?,
        Packing::Zstd => return zstd(packed, max, budget),
    };
    budget.take(bytes.len())?;
    bytes.truncate(max);
    (!bytes.is_empty()).then_some(bytes)
}

/// As many as come before the end of what was captured.
fn inflate(mut decoder: Decompress, packed: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(max);
    decoder.decompress_vec(packed, &mut bytes, FlushDecompress::None).ok()?;
    Some(bytes)
}

/// What follows the header (RFC 1952, 2.3), if it is the short one that libraries write in memory.
fn gzip_body(packed: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields(packed);
    let header: [u8; 10] = fields.array()?;
    header.starts_with(b"\x1f\x8b\x08\0").then_some(fields.0)
}

fn snappy(packed: &[u8]) -> Option<Vec<u8>> {
    let bytes = snap::raw::decompress_len(packed).ok()?;
    if bytes > BLOCK_BYTES_MAX {
        return None;
    }
    snap::raw::Decoder::new().decompress_vec(packed).ok()
}

fn lz4_block(packed: &[u8], bytes: usize) -> Option<Vec<u8>> {
    if bytes > BLOCK_BYTES_MAX {
        return None;
    }
    let mut block = vec![0; bytes];
    let bytes = lz4_flex::block::decompress_into(packed, &mut block).ok()?;
    block.truncate(bytes);
    Some(block)
}

/// The first block of a frame.
fn lz4_frame(packed: &[u8]) -> Option<Vec<u8>> {
    const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
    const HAS_CONTENT_SIZE: u8 = 1 << 3;
    const HAS_DICTIONARY: u8 = 1;
    const IS_UNCOMPRESSED: u32 = 1 << 31;
    let mut fields = Fields(packed);
    let [magic @ .., flags, _largest_block] = fields.array::<6>()?;
    if magic != MAGIC || flags >> 6 != 1 || flags & HAS_DICTIONARY != 0 {
        return None;
    }
    // The content's size, and the header's checksum.
    fields.skip(if flags & HAS_CONTENT_SIZE != 0 { 8 } else { 0 } + 1)?;
    let size = u32::from_le_bytes(fields.array()?);
    let block = fields.take_captured((size & !IS_UNCOMPRESSED) as usize);
    if size & IS_UNCOMPRESSED != 0 { Some(block.to_vec()) } else { lz4_block(block, BLOCK_BYTES_MAX) }
}

fn zstd(packed: &[u8], max: usize, budget: &mut Budget) -> Option<Vec<u8>> {
    let (mut decoder, mut source) = (FrameDecoder::new(), packed);
    decoder.set_max_window_size(WINDOW_BYTES_MAX);
    decoder.init(&mut source).ok()?;
    // Nothing comes out before a window of bytes has come behind it, or the end.
    let mut taken = 0;
    while decoder.can_collect() < max && !decoder.is_finished() {
        let Some(bytes) = zstd_block(source) else { break };
        budget.take(bytes)?;
        taken += bytes;
        if decoder.decode_blocks(&mut source, BlockDecodingStrategy::UptoBlocks(1)).is_err() {
            break;
        }
    }
    let finished = decoder.is_finished();
    let mut bytes = decoder.collect()?;
    if finished {
        budget.give(taken.saturating_sub(bytes.len()));
    }
    bytes.truncate(max);
    (!bytes.is_empty()).then_some(bytes)
}

/// How many bytes the block that begins here holds, or may hold (RFC 8878, 3.1.1.2); `None`: it was not captured as a whole.
fn zstd_block(source: &[u8]) -> Option<usize> {
    let ([low, middle, high], body) = source.split_first_chunk()?;
    let header = u32::from_le_bytes([*low, *middle, *high, 0]);
    let size = (header >> 3) as usize;
    match header >> 1 & 3 {
        // One byte, so many times.
        1 => Some(size),
        0 if size <= body.len() => Some(size),
        2 if size <= body.len() => Some(ZSTD_BLOCK_BYTES_MAX),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn first(packing: Packing, packed: &[u8], max: usize) -> Option<Vec<u8>> {
        first_bytes(packing, packed, max, &mut Budget::default())
    }

    fn text() -> Vec<u8> {
        (0..2000).flat_map(|line: u32| format!("line {line} of a text\n").into_bytes()).collect()
    }

    fn packed() -> Vec<(Packing, Vec<u8>)> {
        let text = text();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        gzip.write_all(&text).unwrap();
        zlib.write_all(&text).unwrap();
        lz4.write_all(&text).unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(&text[..], ruzstd::encoding::CompressionLevel::Fastest);
        vec![
            (Packing::Gzip, gzip.finish().unwrap()),
            (Packing::Zlib, zlib.finish().unwrap()),
            (Packing::Snappy, snap::raw::Encoder::new().compress_vec(&text).unwrap()),
            (Packing::Lz4Frame, lz4.finish().unwrap()),
            (Packing::Lz4Block(text.len()), lz4_flex::block::compress(&text)),
            (Packing::Zstd, zstd),
        ]
    }

    #[test]
    fn the_first_bytes_come_out() {
        for (packing, packed) in packed() {
            assert_eq!(first(packing, &packed, 100).as_deref(), Some(&text()[..100]), "{packing:?}");
        }
    }

    #[test]
    fn cut_off_or_damaged_they_are_the_same_or_none() {
        for (packing, packed) in packed() {
            for end in (0..packed.len()).step_by(7) {
                let got = first(packing, &packed[..end], 100).unwrap_or_default();
                assert!(text().starts_with(&got), "{packing:?} cut at {end}");
                let mut damaged = packed.clone();
                damaged[end] ^= 0x55;
                let _ = first(packing, &damaged, 100);
            }
        }
    }

    #[test]
    fn what_claims_too_much_stays_closed() {
        assert_eq!(first(Packing::Snappy, b"\xff\xff\xff\xff\x0f\0", 100), None);
        assert_eq!(first(Packing::Lz4Block(1 << 31), b"\x10a", 100), None);
        // A window of 2 GiB (RFC 8878, 3.1.1.1.2: exponent 21, so 2^31), then a last block of one byte.
        assert_eq!(first(Packing::Zstd, b"\x28\xb5\x2f\xfd\0\xa8\x09\0\0a", 100), None);
        let bomb = flate2::Compression::best();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), bomb);
        gzip.write_all(&vec![0; 1 << 24]).unwrap();
        assert_eq!(first(Packing::Gzip, &gzip.finish().unwrap(), 100), Some(vec![0; 100]));
    }

    #[test]
    fn what_comes_out_in_all_is_bounded_by_what_goes_in() {
        // A window of 2 MiB, then eight blocks of 128 KiB that are one byte each.
        let mut bomb = b"\x28\xb5\x2f\xfd\0\x58".to_vec();
        for last in [0, 0, 0, 0, 0, 0, 0, 1_u32] {
            bomb.extend(&((ZSTD_BLOCK_BYTES_MAX as u32) << 3 | 1 << 1 | last).to_le_bytes()[..3]);
            bomb.push(b'x');
        }
        let mut budget = Budget::default();
        let opened = (0..1000).filter(|_| first_bytes(Packing::Zstd, &bomb, 100, &mut budget).is_some()).count();
        assert_eq!(opened, 1, "1000 messages of {} bytes each", bomb.len());
        // What is honest is opened however often it comes.
        for (packing, packed) in packed() {
            let mut budget = Budget::default();
            assert!((0..100).all(|_| first_bytes(packing, &packed, 100, &mut budget).is_some()), "{packing:?}");
        }
    }
}
