//! HPACK (RFC 7541): the fields of one direction's header blocks, also where the blocks before were not seen.
//!
//! Hand-written: the decoders that exist need a block whole and every block before it, and copy all fields. This one takes a
//! block in any pieces, says of an index that it cannot resolve that it cannot, and passes over what nobody asks for (most
//! of all credentials and cookies) without decoding it. It is tested against an implementation of others.
//!
//! Limits: [`STRING_BYTES_MAX`] bytes of a string are looked at, and those of the table. What it is lenient about: the code of
//! strings that are passed over, and sizes of the table that were not agreed on.

mod field;
mod huffman;
mod table;

pub(super) use self::field::{Field, HEAD_BYTES_MAX};
use self::{
    field::{NAME_BYTES_MAX, Name, Room, TEXT_BYTES_MAX},
    table::{Fits, Length, Table},
};

use crate::session::Side;

/// Most bytes of a string, as sent, that are looked at.
pub(super) const STRING_BYTES_MAX: usize = 2048;

/// Most memory of a decoder: the table, and a string as it came.
pub(super) const MEMORY_BYTES_MAX: usize = table::MEMORY_BYTES_MAX + STRING_BYTES_MAX;

/// A block that breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl From<huffman::Malformed> for Malformed {
    fn from(_: huffman::Malformed) -> Self {
        Self
    }
}

/// Buffers that a decoder needs only while it is called, so that one is enough for both directions.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// What a string decodes to: at most 8/5 of it, in a buffer that doubles.
    text: Vec<u8>,
    room: Room,
}

impl Scratch {
    pub const MEMORY_BYTES_MAX: usize = 2 * STRING_BYTES_MAX + TEXT_BYTES_MAX;
}

/// The decoder of one direction.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    table: Table,
    step: Step,
    /// The number in progress, and how far the next byte's bits are to be shifted.
    number: Option<(u32, u32)>,
    /// The literal in progress.
    literal: Literal,
    string: Partial,
}

/// ```text
///            +-> Indexed -> Start
/// Start -byte+-> SizeUpdate -> Start
///            +-> NameIndex -0-> NameLength -> NameText -> ValueLength -> ValueText -> Start
///                          -index------------------------^
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Start,
    Indexed,
    SizeUpdate,
    NameIndex,
    NameLength,
    NameText,
    ValueLength,
    ValueText,
}

#[derive(Clone, Copy, Debug)]
struct Literal {
    /// Whether it enters the table.
    indexing: bool,
    name: Name,
    name_bytes: Length,
}

impl Default for Literal {
    fn default() -> Self {
        Self { indexing: false, name: Name::Other, name_bytes: Length::UNKNOWN }
    }
}

/// A string whose bytes come in pieces.
#[derive(Debug, Default)]
struct Partial {
    huffman: bool,
    /// All its bytes.
    length: u32,
    /// Those that came.
    taken: u32,
    /// The first of them.
    kept: Vec<u8>,
}

impl Partial {
    /// The string's bytes, as many as are looked at, once all have come. `kept` is its buffer, which the caller puts back.
    fn take<'a, 'b: 'a>(&mut self, bytes: &mut &'b [u8], kept: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let length = self.length as usize;
        if self.taken == 0 && bytes.len() >= length {
            let (string, rest) = bytes.split_at(length);
            *bytes = rest;
            return Some(&string[..length.min(STRING_BYTES_MAX)]);
        }
        let (part, rest) = bytes.split_at(bytes.len().min(length - self.taken as usize));
        *bytes = rest;
        self.taken += part.len() as u32;
        kept.reserve_exact(length.min(STRING_BYTES_MAX) - kept.len());
        kept.extend_from_slice(&part[..part.len().min(STRING_BYTES_MAX - kept.len())]);
        (self.taken == self.length).then_some(kept)
    }

    const fn is_cut(&self) -> bool {
        self.length as usize > STRING_BYTES_MAX
    }

    /// How long it is when decoded, as far as that follows from how long it is.
    const fn decoded(&self) -> Length {
        if !self.huffman {
            return Length::exactly(self.length);
        }
        // The longest code has 30 bits.
        let max = huffman::decoded_bytes_max(self.length as u64);
        let max = if max > u32::MAX as u64 { u32::MAX } else { max as u32 };
        Length { min: (self.length as u64 * 8 / 30) as u32, max }
    }

    /// The same, from its bytes.
    fn decoded_exactly(&self, string: &[u8]) -> Result<Length, Malformed> {
        if !self.huffman || self.is_cut() {
            return Ok(self.decoded());
        }
        Ok(Length::exactly(huffman::decoded_bytes(string)?.try_into().unwrap_or(u32::MAX)))
    }
}

impl Decoder {
    /// The next piece of a block; `told` gets its fields in order.
    pub fn decode(
        &mut self,
        mut bytes: &[u8],
        scratch: &mut Scratch,
        told: &mut impl FnMut(Field<&str>),
    ) -> Result<(), Malformed> {
        while self.step(&mut bytes, scratch, told)? {}
        Ok(())
    }

    /// The block is complete.
    pub fn end_block(&mut self) -> Result<(), Malformed> {
        if self.step == Step::Start && self.number.is_none() { Ok(()) } else { Err(Malformed) }
    }

    /// Some of a block was not seen: it is not known what is in the table, and the rest of that block cannot be read.
    pub fn forget(&mut self) {
        self.table.clear();
        self.step = Step::Start;
        self.number = None;
        self.end_string();
    }

    /// Whether there may be more to read of these bytes.
    fn step(
        &mut self,
        bytes: &mut &[u8],
        scratch: &mut Scratch,
        told: &mut impl FnMut(Field<&str>),
    ) -> Result<bool, Malformed> {
        match self.step {
            Step::Start => {
                let Some(first) = bytes.first() else { return Ok(false) };
                // RFC 7541, 6.1 to 6.3.
                self.step = match first {
                    0x80.. => Step::Indexed,
                    0x20..0x40 => Step::SizeUpdate,
                    _ => Step::NameIndex,
                };
                self.literal.indexing = *first >= 0x40;
            }
            Step::Indexed => {
                let Some(index) = self.number(bytes, 7)? else { return Ok(false) };
                told(self.table.field(index)?);
                self.step = Step::Start;
            }
            Step::SizeUpdate => {
                let Some(size) = self.number(bytes, 5)? else { return Ok(false) };
                self.table.resize(size);
                self.step = Step::Start;
            }
            Step::NameIndex => {
                let Some(index) = self.number(bytes, if self.literal.indexing { 6 } else { 4 })? else {
                    return Ok(false);
                };
                if index == 0 {
                    self.step = Step::NameLength;
                } else {
                    (self.literal.name, self.literal.name_bytes) = self.table.name(index);
                    self.step = Step::ValueLength;
                }
            }
            Step::NameLength | Step::ValueLength => return self.string_length(bytes),
            Step::NameText => return self.name(bytes, scratch),
            Step::ValueText => return self.value(bytes, scratch, told),
        }
        Ok(true)
    }

    /// An integer with a prefix of so many bits (5.1).
    fn number(&mut self, bytes: &mut &[u8], bits: u32) -> Result<Option<u32>, Malformed> {
        let mut take = || {
            let (first, rest) = bytes.split_first()?;
            *bytes = rest;
            Some(u32::from(*first))
        };
        let (mut number, mut shift) = match self.number {
            Some(known) => known,
            None => {
                let Some(first) = take() else { return Ok(None) };
                let all = (1 << bits) - 1;
                if first & all < all {
                    return Ok(Some(first & all));
                }
                (all, 0)
            }
        };
        while let Some(byte) = take() {
            // No number here has a use beyond 28 bits, whatever its encoding.
            if shift > 21 {
                return Err(Malformed);
            }
            number += (byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                self.number = None;
                return Ok(Some(number));
            }
        }
        self.number = Some((number, shift));
        Ok(None)
    }

    fn string_length(&mut self, bytes: &mut &[u8]) -> Result<bool, Malformed> {
        if self.number.is_none() {
            let Some(first) = bytes.first() else { return Ok(false) };
            self.string.huffman = first & 0x80 != 0;
        }
        let Some(length) = self.number(bytes, 7)? else { return Ok(false) };
        self.string.length = length;
        self.step = if self.step == Step::NameLength { Step::NameText } else { Step::ValueText };
        Ok(true)
    }

    fn name(&mut self, bytes: &mut &[u8], scratch: &mut Scratch) -> Result<bool, Malformed> {
        let mut kept = std::mem::take(&mut self.string.kept);
        let string = self.string.take(bytes, &mut kept);
        let done = string.is_some();
        if let Some(string) = string {
            self.literal.name_bytes = self.string.decoded_exactly(string)?;
            self.literal.name = Name::Other;
            if self.literal.name_bytes.max as usize <= NAME_BYTES_MAX {
                let decoded = plain(string, &self.string, &mut scratch.text)?;
                self.literal.name = Name::of(decoded);
            }
            self.step = Step::ValueLength;
        }
        self.string.kept = kept;
        if done {
            self.end_string();
        }
        Ok(done)
    }

    fn value(
        &mut self,
        bytes: &mut &[u8],
        scratch: &mut Scratch,
        told: &mut impl FnMut(Field<&str>),
    ) -> Result<bool, Malformed> {
        let mut kept = std::mem::take(&mut self.string.kept);
        let string = self.string.take(bytes, &mut kept);
        let done = string.is_some();
        if let Some(string) = string {
            self.literal(string, scratch, told)?;
            self.step = Step::Start;
        }
        self.string.kept = kept;
        if done {
            self.end_string();
        }
        Ok(done)
    }

    /// A literal field is complete.
    fn literal(
        &mut self,
        value: &[u8],
        Scratch { text, room }: &mut Scratch,
        told: &mut impl FnMut(Field<&str>),
    ) -> Result<(), Malformed> {
        let Literal { indexing, name, name_bytes } = self.literal;
        let field = match name {
            Name::Other => Field::Other,
            Name::Unresolved => Field::Unresolved,
            name => {
                let decoded = plain(value, &self.string, text)?;
                Field::read(name, decoded, self.string.is_cut(), room)
            }
        };
        told(field);
        if !indexing {
            return Ok(());
        }
        let mut fits = self.table.fits(name_bytes, self.string.decoded());
        if fits == Fits::Unknown {
            fits = self.table.fits(name_bytes, self.string.decoded_exactly(value)?);
        }
        match fits {
            Fits::Yes => self.table.insert(name, name_bytes, field.keep()),
            // If it is not known whether it is in there now, it is not known where all others are.
            Fits::No | Fits::Unknown => self.table.clear(),
        }
        Ok(())
    }

    fn end_string(&mut self) {
        self.string.taken = 0;
        self.string.kept.clear();
    }
}

/// A string as it was before it was encoded.
fn plain<'a>(string: &'a [u8], how: &Partial, room: &'a mut Vec<u8>) -> Result<&'a [u8], Malformed> {
    if !how.huffman {
        return Ok(string);
    }
    room.clear();
    huffman::decode(string, how.is_cut(), room)?;
    Ok(room)
}

/// How the first bytes of a block look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// They hold a field that begins a message of this side.
    Surely,
    /// They can be read, but some fields are not known.
    Maybe,
    /// They are none.
    Not,
}

/// How these first bytes of a block, or all of them (`complete`), look as one that `from` begins a message with.
pub(super) fn look(from: Side, bytes: &[u8], complete: bool) -> Look {
    let (mut decoder, mut scratch) = (Decoder::default(), Scratch::default());
    // The first field that only one side sends decides, so that bytes which are still to come do not.
    let (mut sender, mut unknown) = (None, false);
    let read = decoder.decode(bytes, &mut scratch, &mut |field| match field {
        Field::Method(_) | Field::Path(_) | Field::Scheme(_) | Field::Authority(_) => {
            sender.get_or_insert(Side::Client);
        }
        Field::Status(_) => {
            sender.get_or_insert(Side::Server);
        }
        Field::Unresolved => unknown = true,
        _ => {}
    });
    let broken = read.is_err() || (complete && decoder.end_block().is_err());
    match sender {
        Some(sender) if sender == from => Look::Surely,
        Some(_) => Look::Not,
        None if !broken && (unknown || !complete) => Look::Maybe,
        None => Look::Not,
    }
}

#[cfg(test)]
mod tests;
