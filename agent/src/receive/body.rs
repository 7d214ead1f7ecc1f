//! Reads and decompresses request bodies, never beyond the limits.
//!
//! The bytes that a sender announces are checked before they are read, those that come out of a decompressor while they come out.

use std::{
    io::{self, Read},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{admission::Place, answer::Refused};

/// What is decompressed between two looks at the limits.
const STEP_BYTES: usize = 256 << 10;
/// As much larger as compressed spans usually become.
const RATIO: usize = 6;
/// Requests up to this size are decompressed and read in place; larger ones would hold up others.
const INLINE_BYTES_MAX: usize = 256 << 10;
/// What is set aside for a body of unknown length.
const UNKNOWN_BYTES: usize = 64 << 10;
/// Largest window of a zstd frame, as a power of two: what RFC 8878 asks decoders to support. More is memory that a few bytes of a
/// sender could make us take.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// By its name in `content-encoding` and `grpc-encoding`.
    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        match name.trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => Some(Self::Identity),
            b"gzip" | b"x-gzip" => Some(Self::Gzip),
            b"zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// The chunks of a body as they come.
pub(super) struct Chunks {
    body: Incoming,
    next: Bytes,
}

impl Chunks {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, next: Bytes::new() }
    }

    /// Puts back what was read too far.
    pub(super) fn put_back(&mut self, rest: Bytes) {
        self.next = rest;
    }

    /// The next bytes; `None` at the end. Trailers are not looked at.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refused> {
        if !self.next.is_empty() {
            return Ok(Some(std::mem::take(&mut self.next)));
        }
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|_| Refused::Gone)?;
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Reads on and forgets it, at most `bytes_max`. An answer is lost if the connection is closed while the sender still writes.
    pub(super) async fn discard(&mut self, bytes_max: usize) {
        let mut discarded = 0;
        while let Ok(Some(chunk)) = self.next().await {
            discarded += chunk.len();
            if discarded > bytes_max {
                return;
            }
        }
    }

    /// Exactly `length` bytes, without a copy if they came in one piece. There is room for them.
    pub(super) async fn exactly(&mut self, length: usize) -> Result<Bytes, Refused> {
        let mut all = Joined::default();
        while all.len() < length {
            let ended = || Refused::Malformed("the request ends within a message".into());
            let mut chunk = self.next().await?.ok_or_else(ended)?;
            let rest = chunk.split_off(chunk.len().min(length - all.len()));
            self.put_back(rest);
            all.push(chunk, length);
        }
        Ok(all.into_bytes())
    }

    /// All bytes up to the end. There is room for `announced`.
    async fn all(&mut self, announced: usize, bytes_max: usize, place: &mut Place) -> Result<Bytes, Refused> {
        let mut all = Joined::default();
        while let Some(chunk) = self.next().await? {
            let length = all.len() + chunk.len();
            if length > bytes_max {
                return Err(Refused::TooLarge { bytes_max: bytes_max as u64 });
            }
            place.grow_to(length)?;
            all.push(chunk, length.max(announced));
        }
        Ok(all.into_bytes())
    }
}

/// Chunks, copied together only if there are several.
#[derive(Default)]
struct Joined {
    only: Bytes,
    several: BytesMut,
}

impl Joined {
    fn len(&self) -> usize {
        self.only.len() + self.several.len()
    }

    fn push(&mut self, chunk: Bytes, length: usize) {
        if self.len() == 0 {
            self.only = chunk;
            return;
        }
        self.several.reserve(length - self.several.len());
        self.several.extend_from_slice(&std::mem::take(&mut self.only));
        self.several.extend_from_slice(&chunk);
    }

    fn into_bytes(self) -> Bytes {
        if self.several.is_empty() { self.only } else { self.several.freeze() }
    }
}

/// Room for a body of `length` bytes and what comes out of it.
pub(super) async fn reserve(
    place: &mut Place,
    length: usize,
    encoding: Encoding,
    bytes_max: usize,
) -> Result<(), Refused> {
    if length > bytes_max {
        return Err(Refused::TooLarge { bytes_max: bytes_max as u64 });
    }
    let decompressed = match encoding {
        Encoding::Identity => 0,
        Encoding::Gzip | Encoding::Zstd => length.saturating_mul(RATIO).min(bytes_max),
    };
    // What is missing later is taken without waiting, or refused.
    place.reserve(length.saturating_add(decompressed).min(bytes_max)).await
}

/// A whole HTTP body, as it came.
pub(super) async fn read(
    body: &mut Chunks,
    encoding: Encoding,
    bytes_max: usize,
    place: &mut Place,
) -> Result<Bytes, Refused> {
    let announced = hyper::body::Body::size_hint(&body.body).exact();
    let length = announced.map_or(UNKNOWN_BYTES.min(bytes_max), |length| usize::try_from(length).unwrap_or(usize::MAX));
    reserve(place, length, encoding, bytes_max).await?;
    body.all(length, bytes_max, place).await
}

/// `work` within `limit`.
pub(super) async fn in_time<T>(limit: Duration, work: impl Future<Output = Result<T, Refused>>) -> Result<T, Refused> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Refused::Timeout(limit)))
}

/// Decompresses `body`; keeps room for what comes out only.
pub(super) async fn decompressed(
    body: Bytes,
    encoding: Encoding,
    bytes_max: usize,
    mut place: Place,
) -> Result<(Bytes, Place), Refused> {
    if encoding == Encoding::Identity {
        return Ok((body, place));
    }
    let length = body.len();
    let work = move || {
        let plain = decompress(&body, encoding, bytes_max, &mut place)?;
        drop(body);
        place.shrink_to(plain.len());
        Ok((plain, place))
    };
    work_on(length, work).await
}

/// Does `work` on so many bytes where it holds up nobody.
pub(super) async fn work_on<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    if bytes <= INLINE_BYTES_MAX {
        return work();
    }
    let failed = |_| Err(Refused::Storage("the request could not be worked on".into()));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(failed)
}

fn decompress(body: &Bytes, encoding: Encoding, bytes_max: usize, place: &mut Place) -> Result<Bytes, Refused> {
    let malformed = |error: io::Error| Refused::Malformed(format!("cannot decompress the request: {error}"));
    match encoding {
        Encoding::Identity => Ok(body.clone()),
        Encoding::Gzip => drain(flate2::bufread::MultiGzDecoder::new(body.as_ref()), body.len(), bytes_max, place),
        Encoding::Zstd => {
            let mut reader = zstd::stream::read::Decoder::with_buffer(body.as_ref()).map_err(malformed)?;
            reader.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(malformed)?;
            drain(reader, body.len(), bytes_max, place)
        }
    }
}

/// Everything that `reader` gives, step by step, so that a small body that becomes a large one is stopped at the limit.
fn drain(mut reader: impl Read, compressed: usize, bytes_max: usize, place: &mut Place) -> Result<Bytes, Refused> {
    let mut plain = Vec::with_capacity(compressed.saturating_mul(RATIO).min(bytes_max));
    loop {
        let step = STEP_BYTES.min(bytes_max - plain.len() + 1);
        place.grow_to((compressed + plain.len() + step).min(compressed + bytes_max))?;
        let read = (&mut reader).take(step as u64).read_to_end(&mut plain);
        let read = read.map_err(|error| Refused::Malformed(format!("cannot decompress the request: {error}")))?;
        if plain.len() > bytes_max {
            return Err(Refused::TooLarge { bytes_max: bytes_max as u64 });
        }
        if read < step {
            // It may be kept for longer than the request, whose room it then takes.
            plain.shrink_to(2 * plain.len());
            return Ok(plain.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::receive::admission::Admission;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        writer.write_all(plain).unwrap();
        writer.finish().unwrap()
    }

    fn zstd(plain: &[u8]) -> Vec<u8> {
        zstd::encode_all(plain, 3).unwrap()
    }

    async fn place() -> Place {
        Admission::new(1, 64 << 20).enter().await.unwrap()
    }

    async fn unpack(body: Vec<u8>, encoding: Encoding, bytes_max: usize) -> Result<Bytes, Refused> {
        decompressed(body.into(), encoding, bytes_max, place().await).await.map(|(plain, _)| plain)
    }

    #[tokio::test]
    async fn what_was_compressed_comes_out() {
        for length in [0, 1, 1_000, STEP_BYTES, 3 * STEP_BYTES + 1] {
            let plain: Vec<u8> = (0..length).map(|n| (n * 31 % 251) as u8).collect();
            for (body, encoding) in [(gzip(&plain), Encoding::Gzip), (zstd(&plain), Encoding::Zstd)] {
                assert_eq!(unpack(body, encoding, length.max(1)).await.unwrap(), plain, "{encoding:?} {length}");
            }
        }
        let mut members = gzip(b"ab");
        members.extend(gzip(b"cd"));
        assert_eq!(unpack(members, Encoding::Gzip, 4).await.unwrap(), &b"abcd"[..]);
    }

    #[tokio::test]
    async fn bombs_stop_at_the_limit_and_take_no_more_room() {
        let bomb = vec![0; 64 << 20];
        for (body, encoding) in [(gzip(&bomb), Encoding::Gzip), (zstd(&bomb), Encoding::Zstd)] {
            let admission = Admission::new(1, 2 << 20);
            let place = admission.enter().await.unwrap();
            let result = decompressed(body.clone().into(), encoding, 1 << 20, place).await;
            assert!(matches!(result, Err(Refused::TooLarge { bytes_max }) if bytes_max == 1 << 20), "{encoding:?}");
            let place = Admission::new(1, 1 << 20).enter().await.unwrap();
            let result = decompressed(body.into(), encoding, 16 << 20, place).await;
            assert!(matches!(result, Err(Refused::Full { .. })), "{encoding:?}");
        }
    }

    #[tokio::test]
    async fn damaged_bodies_are_malformed_at_every_cut() {
        let plain: Vec<u8> = (0..2_000_u32).flat_map(u32::to_le_bytes).collect();
        for (body, encoding) in [(gzip(&plain), Encoding::Gzip), (zstd(&plain), Encoding::Zstd)] {
            for cut in (1..body.len()).step_by(7) {
                let result = unpack(body[..cut].to_vec(), encoding, 1 << 20).await;
                assert!(matches!(result, Err(Refused::Malformed(_))), "{encoding:?} {cut}");
            }
            let garbage = unpack(b"these bytes are no frame".to_vec(), encoding, 1 << 20).await;
            assert!(matches!(garbage, Err(Refused::Malformed(_))), "{encoding:?}");
        }
    }

    #[tokio::test]
    async fn a_frame_that_asks_for_a_large_window_is_refused() {
        let mut writer = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        writer.window_log(27).unwrap();
        writer.write_all(&[1; 1_000]).unwrap();
        let result = unpack(writer.finish().unwrap(), Encoding::Zstd, 1 << 20).await;
        assert!(matches!(result, Err(Refused::Malformed(_))), "{result:?}");
    }

    #[test]
    fn encodings_are_known_by_their_names() {
        for (name, encoding) in [
            (&b"gzip"[..], Some(Encoding::Gzip)),
            (b"X-GZIP", Some(Encoding::Gzip)),
            (b"zstd ", Some(Encoding::Zstd)),
            (b"identity", Some(Encoding::Identity)),
            (b"deflate", None),
            (b"gzip, zstd", None),
        ] {
            assert_eq!(Encoding::parse(name), encoding);
        }
    }
}
