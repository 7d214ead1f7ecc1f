//! Messages: header, then, by opcode, the documents that they hold.

use super::bson::Document;
use crate::{
    fields::Fields,
    unpack::{self, Budget, Packing},
};

/// Length, request id, the id that it answers, opcode.
pub(super) const HEADER_BYTES: usize = 16;
/// Longest message (what `hello` answers as `maxMessageSizeBytes`).
const MESSAGE_BYTES_MAX: u32 = 48_000_000;
/// What is read of a message that is compressed.
const UNPACKED_BYTES_MAX: usize = 16 * 1024;

pub(super) const OP_REPLY: u32 = 1;
pub(super) const OP_UPDATE: u32 = 2001;
pub(super) const OP_INSERT: u32 = 2002;
pub(super) const OP_QUERY: u32 = 2004;
pub(super) const OP_GET_MORE: u32 = 2005;
pub(super) const OP_DELETE: u32 = 2006;
pub(super) const OP_KILL_CURSORS: u32 = 2007;
pub(super) const OP_COMPRESSED: u32 = 2012;
pub(super) const OP_MSG: u32 = 2013;

/// Flags of [`OP_MSG`]: nobody answers, or, in an answer, another one follows.
const MORE_TO_COME: u32 = 1 << 1;
/// What holds the operations of a command, in sequences and arrays: of `insert`, `update`, `delete`, `bulkWrite`.
pub(super) const OPERATIONS: [&[u8]; 4] = [b"documents", b"updates", b"deletes", b"ops"];
/// All flags of the lower half must be known (those of the upper half are optional).
const REQUIRED_FLAGS: u32 = 0b11;

/// A message's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) length: u32,
    pub(super) id: u32,
    pub(super) answers: u32,
    pub(super) opcode: u32,
}

impl Header {
    /// `None` if more bytes are needed.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let [length, id, answers] = [fields.u32_le()?, fields.u32_le()?, fields.u32_le()?];
        Some(Self { length, id, answers, opcode: fields.u32_le()? })
    }

    /// Whether it can be one.
    pub(super) fn is_plausible(&self) -> bool {
        let known = matches!(self.opcode, OP_REPLY | OP_UPDATE..=OP_INSERT | OP_QUERY..=OP_KILL_CURSORS | OP_COMPRESSED..=OP_MSG);
        known && (HEADER_BYTES as u32 + 4..=MESSAGE_BYTES_MAX).contains(&self.length)
    }
}

/// What a message holds, as far as it was captured.
#[derive(Debug, Default)]
pub(super) struct Body<'a> {
    /// Of [`OP_MSG`].
    pub(super) more_to_come: bool,
    /// Of [`OP_REPLY`].
    pub(super) reply_flags: u32,
    /// `database.collection`, in messages of the old kind.
    pub(super) full_collection_name: Option<&'a [u8]>,
    /// The command or the answer.
    pub(super) document: Option<Document<'a>>,
    /// How many operations follow it in a sequence; `None`: there is none, or its end was not captured.
    pub(super) sequence: Option<u64>,
}

impl<'a> Body<'a> {
    /// Reads what is behind the header.
    pub(super) fn read(opcode: u32, captured: &'a [u8]) -> Self {
        let mut body = Self::default();
        // What was read before the captured bytes end counts.
        let _: Option<()> = body.fill(opcode, Fields(captured));
        body
    }

    fn fill(&mut self, opcode: u32, mut fields: Fields<'a>) -> Option<()> {
        match opcode {
            OP_MSG => self.sections(fields),
            OP_REPLY => {
                self.reply_flags = fields.u32_le()?;
                // The cursor, where in it this starts, how many documents follow.
                fields.skip(8 + 4 + 4)?;
                self.document = Some(Document::take(&mut fields)?);
                Some(())
            }
            OP_QUERY | OP_UPDATE | OP_INSERT | OP_GET_MORE | OP_DELETE => {
                fields.skip(4)?;
                self.full_collection_name = Some(fields.until_zero()?);
                if opcode == OP_QUERY {
                    fields.skip(4 + 4)?;
                    self.document = Some(Document::take(&mut fields)?);
                }
                Some(())
            }
            _ => None,
        }
    }

    fn sections(&mut self, mut fields: Fields<'a>) -> Option<()> {
        self.more_to_come = fields.u32_le()? & MORE_TO_COME != 0;
        loop {
            match fields.u8()? {
                0 => self.document = Some(Document::take(&mut fields)?),
                1 => {
                    let (name, count) = sequence(&mut fields)?;
                    if OPERATIONS.contains(&name) {
                        self.sequence = count;
                    }
                }
                _ => return None,
            }
        }
    }
}

/// The name of a section that holds a sequence of documents, and their number, if it was captured to its end.
fn sequence<'a>(fields: &mut Fields<'a>) -> Option<(&'a [u8], Option<u64>)> {
    let size = usize::try_from(fields.u32_le()?).ok()?.checked_sub(4)?;
    let captured = fields.take_captured(size);
    let mut documents = Fields(captured);
    let name = documents.until_zero()?;
    let count = if captured.len() == size { count(documents) } else { None };
    Some((name, count))
}

fn count(mut documents: Fields<'_>) -> Option<u64> {
    let mut count = 0;
    while !documents.0.is_empty() {
        if !Document::take(&mut documents)?.whole {
            return None;
        }
        count += 1;
    }
    Some(count)
}

/// The opcode and the bytes of what is compressed, if that can be opened.
pub(super) fn unpacked(captured: &[u8], budget: &mut Budget) -> Option<(u32, Vec<u8>)> {
    let mut fields = Fields(captured);
    let opcode = fields.u32_le()?;
    fields.skip(4)?;
    let bytes = match fields.u8()? {
        0 => fields.0.to_vec(),
        1 => unpack::first_bytes(Packing::Snappy, fields.0, UNPACKED_BYTES_MAX, budget)?,
        2 => unpack::first_bytes(Packing::Zlib, fields.0, UNPACKED_BYTES_MAX, budget)?,
        3 => unpack::first_bytes(Packing::Zstd, fields.0, UNPACKED_BYTES_MAX, budget)?,
        _ => return None,
    };
    Some((opcode, bytes))
}

/// How the bytes behind a plausible header look. `None`: more are needed.
pub(super) fn looks_like_body(opcode: u32, bytes: &[u8]) -> Option<bool> {
    let mut fields = Fields(bytes);
    match opcode {
        OP_MSG => {
            let flags = fields.u32_le()?;
            if flags & 0xffff & !REQUIRED_FLAGS != 0 || fields.u8()? > 1 {
                return Some(false);
            }
            let length = fields.u32_le()?;
            Some((5..MESSAGE_BYTES_MAX).contains(&length))
        }
        OP_COMPRESSED => {
            let (opcode, size, packing) = (fields.u32_le()?, fields.u32_le()?, fields.u8()?);
            Some(matches!(opcode, OP_REPLY | OP_QUERY | OP_MSG) && size < MESSAGE_BYTES_MAX && packing <= 3)
        }
        OP_QUERY => {
            let flags = fields.u32_le()?;
            let printable = fields.0.iter().take_while(|byte| **byte != 0).all(u8::is_ascii_graphic);
            if flags > 0xff || !printable {
                return Some(false);
            }
            Some(fields.until_zero()?.contains(&b'.'))
        }
        OP_REPLY => {
            let flags = fields.u32_le()?;
            fields.skip(8 + 4)?;
            Some(flags < 16 && fields.u32_le()? < 1 << 20)
        }
        _ => Some(true),
    }
}
