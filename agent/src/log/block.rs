//! The format of a segment file: one [`SegmentHeader`], then blocks. Pure.
//!
//! In: bytes as read from a file, which may be torn, flipped or foreign. Out: headers and the items that [`Walk`]
//! finds. Called by `segment` and `reader`. Never panics, never allocates by a length that it read, never consumes more than
//! it was given.
//!
//! ```text
//! segment header, 64 bytes: magic "SPANTAPL", version u32, header bytes u32, first block u64, first span u64,
//!                           created ns u64, zero.., crc32 of the 60 bytes before
//! block header, 64 bytes:   marker u32, payload bytes u32, payload crc32, spans u32, block u64, first span u64,
//!                           earliest start ns u64, latest end ns u64, appended ns u64, flags u32 (see Flags),
//!                           crc32 of the 60 before
//! block payload:            protobuf of a TracesData (see `otlp`)
//! ```
//!
//! All integers are little-endian. Blocks and spans are numbered from 0 over the life of the log; numbers never come twice, and
//! a jump in the span numbers says exactly how many spans are missing.

/// Version of the format that is written. A segment of an unknown version is left alone and counted.
pub const VERSION: u32 = 2;
/// The oldest version that is read. In version 1 all flags were 0, which still means what it meant.
const VERSION_OLDEST: u32 = 1;
/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a block's header.
pub const BLOCK_HEADER_BYTES: usize = 64;
/// Most payload bytes of a block that a reader believes.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Numbers of blocks are below; no log ever gets that far.
const NUMBERS_MAX: u64 = 1 << 62;

const MAGIC: [u8; 8] = *b"SPANTAPL";
/// Not text, so that no string inside a payload looks like it.
const MARKER: [u8; 4] = [0xB1, 0x0C, 0xF5, 0x7A];
const CRC_AT: usize = 60;

/// First bytes of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number of the first block that was to be written to it.
    pub first_block: u64,
    /// Number of the first span that was to be written to it.
    pub first_span: u64,
    /// When it was made.
    pub created_unix_ns: u64,
    /// Version of the format.
    pub version: u32,
}

/// Where the spans of a block come from, whose they are, and whether they are for the destinations.
///
/// In the header: bit 0 origin, bit 1 local, bits 8 to 31 tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags {
    /// Taken from an application or another agent, who was told that they are safe; else from this host's kernel.
    pub is_relayed: bool,
    /// Not sampled: for the queries on this host, for no destination.
    pub is_local: bool,
    /// Number of the tenant, below 2^24; 0: none.
    pub tenant: u32,
}

/// Why bytes are not the header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentHeaderError {
    /// Too short, another magic, or a wrong checksum.
    NotASegment,
    /// A segment of another version of the format.
    Version(u32),
}

/// First bytes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Payload bytes that follow.
    pub payload_bytes: u32,
    /// Their CRC-32.
    pub payload_crc: u32,
    /// Spans in the payload.
    pub span_count: u32,
    /// Number of the block.
    pub block: u64,
    /// Number of its first span.
    pub first_span: u64,
    /// Earliest start of its spans.
    pub start_unix_ns_min: u64,
    /// Latest end of its spans.
    pub end_unix_ns_max: u64,
    /// When it was appended.
    pub appended_unix_ns: u64,
    /// What the spans have in common.
    pub flags: Flags,
}

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A whole block whose checksums hold.
    Block {
        /// Its header.
        header: BlockHeader,
        /// Its payload.
        payload: &'a [u8],
        /// Where the payload begins, in the bytes that were walked.
        payload_at: usize,
    },
    /// Bytes that are no block, between blocks or in place of one.
    Damaged {
        /// How many.
        bytes: usize,
    },
}

/// Walks over the blocks in `bytes`, skipping damage. See [`Walk::position`] for what is left at the end.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl SegmentHeader {
    /// As it stands in the file.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&(SEGMENT_HEADER_BYTES as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_block.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_span.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.created_unix_ns.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// From the first bytes of a file.
    ///
    /// # Errors
    /// They are not the header of a segment of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, SegmentHeaderError> {
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>() else {
            return Err(SegmentHeaderError::NotASegment);
        };
        if bytes[..8] != MAGIC {
            return Err(SegmentHeaderError::NotASegment);
        }
        // The version comes first: another version may have its checksum elsewhere.
        let version = u32_at(bytes, 8);
        match version {
            VERSION_OLDEST..=VERSION if is_sealed(bytes) => {}
            VERSION_OLDEST..=VERSION => return Err(SegmentHeaderError::NotASegment),
            other => return Err(SegmentHeaderError::Version(other)),
        }
        Ok(Self {
            first_block: u64_at(bytes, 16),
            first_span: u64_at(bytes, 24),
            created_unix_ns: u64_at(bytes, 32),
            version,
        })
    }
}

impl Flags {
    fn encode(self) -> u32 {
        u32::from(self.is_relayed) | u32::from(self.is_local) << 1 | self.tenant << 8
    }

    fn decode(bits: u32) -> Self {
        Self { is_relayed: bits & 1 != 0, is_local: bits & 2 != 0, tenant: bits >> 8 }
    }
}

impl BlockHeader {
    /// As it stands in the file.
    pub fn encode(&self) -> [u8; BLOCK_HEADER_BYTES] {
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        bytes[..4].copy_from_slice(&MARKER);
        bytes[4..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.span_count.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.block.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_span.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.start_unix_ns_min.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.end_unix_ns_max.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.appended_unix_ns.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.flags.encode().to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// From the first bytes of a block; `None`: they are not a block's header.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<BLOCK_HEADER_BYTES>()?;
        if bytes[..4] != MARKER || !is_sealed(bytes) {
            return None;
        }
        let header = Self {
            payload_bytes: u32_at(bytes, 4),
            payload_crc: u32_at(bytes, 8),
            span_count: u32_at(bytes, 12),
            block: u64_at(bytes, 16),
            first_span: u64_at(bytes, 24),
            start_unix_ns_min: u64_at(bytes, 32),
            end_unix_ns_max: u64_at(bytes, 40),
            appended_unix_ns: u64_at(bytes, 48),
            flags: Flags::decode(u32_at(bytes, 56)),
        };
        // Numbers must not wrap: everything that counts with them adds the span count.
        let sane = header.payload_bytes as usize <= PAYLOAD_BYTES_MAX
            && header.first_span.checked_add(u64::from(header.span_count)).is_some()
            && header.block < NUMBERS_MAX;
        sane.then_some(header)
    }

    /// Bytes of the block in the file.
    pub fn bytes(&self) -> u64 {
        BLOCK_HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }

    /// Number of the span after its last one.
    pub fn end_span(&self) -> u64 {
        self.first_span + u64::from(self.span_count)
    }
}

impl<'a> Walk<'a> {
    /// Walks over `bytes`, which begin where a block should begin.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// How many bytes the items so far took. At the end of the walk the rest is torn: it holds no whole block.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes from here to the next thing that is surely a block's header.
    fn damaged(&self) -> Option<usize> {
        let rest = &self.bytes[self.position..];
        memchr::memmem::find_iter(rest.get(1..)?, &MARKER)
            .map(|at| at + 1)
            .find(|at| BlockHeader::parse(&rest[*at..]).is_some())
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        let rest = &self.bytes[self.position..];
        let Some(header) = BlockHeader::parse(rest) else {
            let bytes = self.damaged()?;
            self.position += bytes;
            return Some(Item::Damaged { bytes });
        };
        let bytes = BLOCK_HEADER_BYTES + header.payload_bytes as usize;
        let payload = rest.get(BLOCK_HEADER_BYTES..bytes)?;
        let payload_at = self.position + BLOCK_HEADER_BYTES;
        self.position += bytes;
        if crc32fast::hash(payload) == header.payload_crc {
            Some(Item::Block { header, payload, payload_at })
        } else {
            Some(Item::Damaged { bytes })
        }
    }
}

fn seal(bytes: &mut [u8; 64]) {
    let crc = crc32fast::hash(&bytes[..CRC_AT]);
    bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

fn is_sealed(bytes: &[u8; 64]) -> bool {
    crc32fast::hash(&bytes[..CRC_AT]) == u32_at(bytes, CRC_AT)
}

fn u32_at(bytes: &[u8; 64], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("offsets are constants inside the header"))
}

fn u64_at(bytes: &[u8; 64], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("offsets are constants inside the header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u64, payload: &[u8]) -> Vec<u8> {
        let header = BlockHeader {
            payload_bytes: payload.len() as u32,
            payload_crc: crc32fast::hash(payload),
            span_count: 2,
            block: number,
            first_span: number * 2,
            start_unix_ns_min: 1,
            end_unix_ns_max: 2,
            appended_unix_ns: 3,
            flags: Flags { is_relayed: true, is_local: false, tenant: 5 },
        };
        [&header.encode()[..], payload].concat()
    }

    /// Walks and gives the numbers of the blocks found, the damaged items, and the torn bytes.
    fn walk(bytes: &[u8]) -> (Vec<u64>, usize, usize) {
        let (mut blocks, mut damaged) = (Vec::new(), 0);
        let mut walk = Walk::new(bytes);
        for item in &mut walk {
            match item {
                Item::Block { header, payload, payload_at } => {
                    assert_eq!(&bytes[payload_at..payload_at + payload.len()], payload);
                    blocks.push(header.block);
                }
                Item::Damaged { .. } => damaged += 1,
            }
        }
        (blocks, damaged, bytes.len() - walk.position())
    }

    #[test]
    fn headers_survive_the_file() {
        let header = SegmentHeader { first_block: 7, first_span: u64::MAX, created_unix_ns: 9, version: VERSION };
        assert_eq!(SegmentHeader::parse(&header.encode()), Ok(header));
        let bytes = block(3, b"payload");
        assert_eq!(BlockHeader::parse(&bytes).map(|header| header.encode().to_vec()), Some(bytes[..64].to_vec()));
    }

    #[test]
    fn version_1_had_no_flags() {
        let header = SegmentHeader { first_block: 0, first_span: 0, created_unix_ns: 0, version: 1 };
        assert_eq!(SegmentHeader::parse(&header.encode()), Ok(header));
        assert_eq!(Flags::decode(0), Flags::default());
    }

    #[test]
    fn another_version_is_told_from_garbage() {
        let mut bytes = SegmentHeader { first_block: 0, first_span: 0, created_unix_ns: 0, version: 9 }.encode();
        assert_eq!(SegmentHeader::parse(&bytes), Err(SegmentHeaderError::Version(9)));
        bytes[0] = 0;
        assert_eq!(SegmentHeader::parse(&bytes), Err(SegmentHeaderError::NotASegment));
    }

    #[test]
    fn truncated_at_each_byte_keeps_every_whole_block() {
        let bytes = [block(0, b"first"), block(1, b""), block(2, b"the third")].concat();
        let ends = [0, 69, 133, 206];
        assert_eq!(bytes.len(), ends[3]);
        for length in 0..=bytes.len() {
            let whole = ends.iter().rposition(|end| *end <= length).expect("0 is an end");
            let expected = ((0..whole as u64).collect(), 0, length - ends[whole]);
            assert_eq!(walk(&bytes[..length]), expected, "cut at {length}");
        }
    }

    #[test]
    fn a_flipped_bit_costs_exactly_its_block() {
        let bytes = [block(0, b"first"), block(1, b"second"), block(2, b"third")].concat();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (blocks, damaged, torn) = walk(&bytes);
            // A damaged header of the last block looks like a torn tail: nothing after it says otherwise.
            assert!(damaged == 1 || torn > 0, "bit {bit}");
            assert_eq!(blocks.len(), 2, "bit {bit}");
        }
    }

    #[test]
    fn mutated_bytes_never_panic_and_never_invent_a_block() {
        let original = [block(0, b"first"), block(1, &[7; 200]), block(2, b"third"), block(3, b"")].concat();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut bytes = original.clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..bytes.len());
                match random.u8(..4) {
                    0 => bytes[at] = random.u8(..),
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, random.u8(..)),
                    _ => bytes.extend_from_within(at..),
                }
            }
            let (blocks, _, torn) = walk(&bytes);
            assert!(blocks.iter().all(|block| *block < 4));
            assert!(torn <= bytes.len());
        }
    }
}
