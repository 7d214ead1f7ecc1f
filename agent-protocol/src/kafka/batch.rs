//! Record batches (message format 2, since Kafka 0.11): how many records, and the trace context of the first.
//!
//! Older formats hold no headers; how many messages they hold is not read.

use super::wire::varint;
use crate::{
    fields::Fields,
    session::TraceParent,
    traceparent,
    unpack::{self, Budget, Packing},
};

/// What is decompressed to find the first record's headers.
const UNPACKED_BYTES_MAX: usize = 4096;
/// A batch's base offset and length.
const PREFIX_BYTES: usize = 12;
/// Before an Xerial block: magic, version, the oldest version that reads it, then the block's length.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";

/// A batch.
struct Batch<'a> {
    /// The lowest bits: how it is compressed.
    attributes: u16,
    records: u32,
    /// Its records, as far as they were captured.
    body: &'a [u8],
    /// Whether it ends within the field that holds it; a broker may cut off the last one.
    complete: bool,
}

impl<'a> Batch<'a> {
    /// Marks of transactions, which no application gets.
    const CONTROL: u16 = 1 << 5;

    /// The first batch of what is left (`left` bytes) of a field of records; takes it off both.
    fn next(fields: &mut Fields<'a>, left: &mut usize) -> Option<Self> {
        fields.skip(8)?;
        let length = usize::try_from(fields.i32()?).ok()?;
        let complete = length <= left.saturating_sub(PREFIX_BYTES);
        let mut batch = Fields(fields.take_captured(length));
        *left = left.saturating_sub(PREFIX_BYTES).saturating_sub(length);
        batch.skip(4)?;
        if batch.u8()? != 2 {
            return None;
        }
        batch.skip(4)?;
        let attributes = batch.u16()?;
        batch.skip(4 + 8 + 8 + 8 + 2 + 4)?;
        let records = batch.u32()?;
        Some(Self { attributes, records, body: batch.0, complete })
    }
}

/// How many records a field of records (`length` bytes, of which `captured` are the first) holds; `None` if not known.
pub(super) fn records(captured: &[u8], length: usize) -> Option<u64> {
    let (mut fields, mut left, mut records) = (Fields(captured), length, 0);
    while left > 0 {
        if left < PREFIX_BYTES {
            break;
        }
        let batch = Batch::next(&mut fields, &mut left)?;
        if batch.complete && batch.attributes & Batch::CONTROL == 0 {
            records += u64::from(batch.records);
        }
    }
    Some(records)
}

/// The trace context in the headers of the first record.
pub(super) fn trace(captured: &[u8], length: usize, budget: &mut Budget) -> Option<TraceParent> {
    let batch = Batch::next(&mut Fields(captured), &mut { length })?;
    let packing = match batch.attributes & 7 {
        0 => return record_trace(batch.body),
        1 => Packing::Gzip,
        2 => Packing::Snappy,
        3 => Packing::Lz4Frame,
        4 => Packing::Zstd,
        _ => return None,
    };
    let body = if packing == Packing::Snappy { xerial_block(batch.body) } else { batch.body };
    record_trace(&unpack::first_bytes(packing, body, UNPACKED_BYTES_MAX, budget)?)
}

/// What Java clients put around Snappy's blocks is taken off; only the first block is wanted.
fn xerial_block(body: &[u8]) -> &[u8] {
    let Some(rest) = body.strip_prefix(XERIAL_MAGIC) else { return body };
    let mut fields = Fields(rest);
    let length = fields.skip(8).and_then(|()| fields.u32()).unwrap_or(0);
    fields.take_captured(length as usize)
}

fn record_trace(body: &[u8]) -> Option<TraceParent> {
    let mut fields = Fields(body);
    let _length = varint(&mut fields)?;
    fields.skip(1)?;
    let (_timestamp, _offset) = (varint(&mut fields)?, varint(&mut fields)?);
    for _key_and_value in 0..2 {
        text(&mut fields)?;
    }
    for _ in 0..varint(&mut fields)? {
        let (key, value) = (text(&mut fields)?, text(&mut fields)?);
        if key == b"traceparent" {
            return traceparent::parse(std::str::from_utf8(value).ok()?);
        }
    }
    None
}

/// Bytes behind their length; empty if null.
fn text<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let length = varint(fields)?;
    fields.take(usize::try_from(length).unwrap_or(0))
}
