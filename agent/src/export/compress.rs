//! Compression of bodies and files.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::write::GzEncoder;

use super::Pieces;
use crate::config::Compression;

/// Levels that cost least for what they save.
const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: u32 = 1;

/// A way to compress, and how hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compressor {
    kind: Compression,
    level: u32,
}

impl Compressor {
    /// `level` as validated; the default without.
    pub(super) fn new(kind: Compression, level: Option<u32>) -> Self {
        let usual = if kind == Compression::Zstd { ZSTD_LEVEL } else { GZIP_LEVEL };
        Self { kind, level: level.unwrap_or(usual) }
    }

    /// Value of `Content-Encoding`, if any.
    pub(super) fn content_encoding(self) -> Option<&'static str> {
        match self.kind {
            Compression::None => None,
            Compression::Gzip => Some("gzip"),
            Compression::Zstd => Some("zstd"),
        }
    }

    /// End of a compressed file's name.
    pub(super) fn suffix(self) -> &'static str {
        match self.kind {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
        }
    }

    /// The bytes, compressed. A copy of several pieces is made only for zstd, which takes them all at once.
    pub(super) fn compress_pieces(self, pieces: &Pieces) -> io::Result<Bytes> {
        if self.kind != Compression::Gzip {
            return self.compress(pieces.joined());
        }
        let mut encoder = GzEncoder::new(Vec::with_capacity(pieces.len() / 4), flate2::Compression::new(self.level));
        pieces.iter().try_for_each(|piece| encoder.write_all(&piece))?;
        encoder.finish().map(Bytes::from)
    }

    /// The bytes, compressed.
    pub(super) fn compress(self, bytes: Bytes) -> io::Result<Bytes> {
        if self.kind == Compression::None {
            return Ok(bytes);
        }
        if self.kind == Compression::Zstd {
            return self.zstd(&bytes);
        }
        let mut out = Vec::with_capacity(bytes.len() / 4);
        self.copy(&mut &bytes[..], &mut out)?;
        Ok(out.into())
    }

    /// All at once, which needs neither buffers nor a window beside the bytes themselves.
    fn zstd(self, bytes: &[u8]) -> io::Result<Bytes> {
        let mut out = zstd::bulk::compress(bytes, self.zstd_level())?;
        // Room for bytes that do not become smaller.
        out.shrink_to_fit();
        Ok(out.into())
    }

    fn zstd_level(self) -> i32 {
        self.level.try_into().unwrap_or_default()
    }

    /// Compresses a stream.
    pub(super) fn copy(self, from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
        match self.kind {
            Compression::None => io::copy(from, to).map(drop),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(to, flate2::Compression::new(self.level));
                io::copy(from, &mut encoder)?;
                encoder.finish().map(drop)
            }
            Compression::Zstd => zstd::stream::copy_encode(from, to, self.zstd_level()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_is_smaller_and_comes_back() {
        let text = Bytes::from("spans and spans and spans ".repeat(100));
        for (kind, level) in [(Compression::Gzip, None), (Compression::Gzip, Some(9)), (Compression::Zstd, Some(22))] {
            let small = Compressor::new(kind, level).compress(text.clone()).unwrap();
            assert!(small.len() < text.len() / 5);
            let mut back = Vec::new();
            match kind {
                Compression::Gzip => flate2::read::GzDecoder::new(&small[..]).read_to_end(&mut back).unwrap(),
                _ => zstd::Decoder::new(&small[..]).unwrap().read_to_end(&mut back).unwrap(),
            };
            assert_eq!(back, text);
            let halves = Pieces::from(vec![text.slice(..100), text.slice(100..)]);
            assert_eq!(Compressor::new(kind, level).compress_pieces(&halves).unwrap(), small);
        }
        assert_eq!(Compressor::new(Compression::None, None).compress(text.clone()).unwrap(), text);
    }
}
