//! The fields of a protobuf message, read in place.
//!
//! In: a message's bytes. Out: [`Field`]s in their order, with offsets into the whole request, so that what is not understood can be
//! copied as it stands. Called by everything that reads a request. Never: allocates, looks into a field's value, or believes a
//! length before it was compared with what is there. Limits: groups within each other, [`GROUP_DEPTH_MAX`].

use std::ops::Range;

/// Groups within each other; deeper is malformed, as in protobuf's own readers.
pub const GROUP_DEPTH_MAX: usize = 100;

/// The bytes are no message of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf at byte {at}: {what}")]
pub struct Malformed {
    /// Offset in the request.
    pub at: usize,
    /// What was expected or wrong.
    pub what: &'static str,
}

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    /// Length-delimited: offset of the length, then of the value, whose end is the field's.
    Bytes {
        length: usize,
        body: usize,
    },
    /// Deprecated; skipped whole.
    Group,
}

/// One field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub number: u32,
    pub start: usize,
    pub end: usize,
    pub wire: Wire,
}

impl Field {
    /// From its tag to its end.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Where the length stands, and the value's range.
    pub fn message(&self) -> Result<(usize, Range<usize>), Malformed> {
        match self.wire {
            Wire::Bytes { length, body } => Ok((length, body..self.end)),
            _ => Err(self.mismatch("a length-delimited field was expected")),
        }
    }

    /// The value's range.
    pub fn bytes(&self) -> Result<Range<usize>, Malformed> {
        self.message().map(|(_, body)| body)
    }

    pub fn varint(&self) -> Result<u64, Malformed> {
        match self.wire {
            Wire::Varint(value) => Ok(value),
            _ => Err(self.mismatch("a varint field was expected")),
        }
    }

    pub fn fixed64(&self) -> Result<u64, Malformed> {
        match self.wire {
            Wire::Fixed64(value) => Ok(value),
            _ => Err(self.mismatch("a 64-bit field was expected")),
        }
    }

    fn mismatch(&self, what: &'static str) -> Malformed {
        Malformed { at: self.start, what }
    }
}

/// Reads the fields of one message.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    /// Of the message at `range` of the request, which lies within it.
    pub fn new(request: &'a [u8], range: Range<usize>) -> Self {
        // A shorter slice makes every look beyond the message's end fail by itself.
        let end = range.end.min(request.len());
        Self { bytes: &request[..end], at: range.start, end }
    }

    /// The next field; nothing at the end.
    // In line, a caller that looks at a field's number alone pays for nothing else: half of a summary's time.
    #[inline(always)]
    pub fn next(&mut self) -> Result<Option<Field>, Malformed> {
        if self.at >= self.end {
            return Ok(None);
        }
        let start = self.at;
        let (number, wire_type) = self.tag()?;
        let wire = match wire_type {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take()?)),
            2 => self.length_delimited()?,
            3 => self.group(number, start)?,
            5 => Wire::Fixed32(u32::from_le_bytes(self.take()?)),
            4 => return Err(Malformed { at: start, what: "a group ends that did not begin" }),
            _ => return Err(Malformed { at: start, what: "there is no such wire type" }),
        };
        Ok(Some(Field { number, start, end: self.at, wire }))
    }

    /// The next field, if it is length-delimited, has this tag of one byte, and a value of less than 16 KiB that is there as a whole.
    // Most of a request are fields like that, one after the other; looking at everything that a field may be costs three times as much.
    #[inline(always)]
    pub fn next_short(&mut self, tag: u8) -> Option<Field> {
        let (start, length) = (self.at, self.at + 1);
        let (bytes, body) = match self.bytes.get(start..)? {
            [first, bytes @ ..0x80, ..] if *first == tag => (usize::from(*bytes), length + 1),
            [first, low, high @ ..0x80, ..] if *first == tag => {
                (usize::from(low & 0x7f) | usize::from(*high) << 7, length + 2)
            }
            _ => return None,
        };
        if bytes > self.end - body {
            return None;
        }
        self.at = body + bytes;
        Some(Field { number: u32::from(tag >> 3), start, end: self.at, wire: Wire::Bytes { length, body } })
    }

    /// The next bytes, if there are so many and `is_it` says that they are what is wanted.
    #[inline(always)]
    pub fn next_if<const N: usize>(&mut self, is_it: impl FnOnce(&[u8; N]) -> bool) -> Option<&'a [u8; N]> {
        let next = self.bytes.get(self.at..)?.first_chunk().filter(|next| is_it(next))?;
        self.at += N;
        Some(next)
    }

    /// Goes over all fields that [`Self::next_short`] gives; gives where they are.
    #[inline(always)]
    pub fn run(&mut self, tag: u8) -> Range<usize> {
        let start = self.at;
        while self.next_short(tag).is_some() {}
        start..self.at
    }

    #[inline(always)]
    fn tag(&mut self) -> Result<(u32, u8), Malformed> {
        let at = self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag).map_err(|_| Malformed { at, what: "a field number is too large" })? >> 3;
        if number == 0 {
            return Err(Malformed { at, what: "field numbers begin with 1" });
        }
        Ok((number, (tag & 7) as u8))
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, Malformed> {
        match self.bytes.get(self.at) {
            Some(byte) if *byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    #[inline(never)]
    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for (index, byte) in self.bytes[self.at..].iter().take(10).enumerate() {
            if index == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.at += index + 1;
                return Ok(value);
            }
        }
        Err(Malformed { at: self.at, what: "a varint does not end" })
    }

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let value = self.bytes[self.at..].first_chunk::<N>();
        let value = *value.ok_or(Malformed { at: self.at, what: "a field is cut off" })?;
        self.at += N;
        Ok(value)
    }

    #[inline(always)]
    fn length_delimited(&mut self) -> Result<Wire, Malformed> {
        let length_at = self.at;
        let length = self.varint()?;
        if length > (self.end - self.at) as u64 {
            return Err(Malformed { at: length_at, what: "a length goes beyond the message" });
        }
        let body = self.at;
        self.at += length as usize;
        Ok(Wire::Bytes { length: length_at, body })
    }

    /// Groups are skipped with all that is in them, without recursion.
    #[cold]
    #[inline(never)]
    fn group(&mut self, number: u32, start: usize) -> Result<Wire, Malformed> {
        let mut open = [0_u32; GROUP_DEPTH_MAX];
        open[0] = number;
        let mut depth = 1;
        while depth > 0 {
            let at = self.at;
            let (number, wire_type) = self.tag()?;
            match wire_type {
                0 => _ = self.varint()?,
                1 => _ = self.take::<8>()?,
                2 => _ = self.length_delimited()?,
                3 if depth < GROUP_DEPTH_MAX => {
                    open[depth] = number;
                    depth += 1;
                }
                3 => return Err(Malformed { at, what: "groups are nested too deeply" }),
                4 if open[depth - 1] == number => depth -= 1,
                5 => _ = self.take::<4>()?,
                _ => return Err(Malformed { at: start, what: "a group does not end" }),
            }
        }
        Ok(Wire::Group)
    }
}

/// A `KeyValue` as nearly all are: a key of less than 128 bytes, then a value of less than 16 KiB that is one text, number or the like.
#[derive(Clone, Debug)]
pub(crate) struct PlainPair {
    pub key: Range<usize>,
    /// Where the value's length stands.
    pub value_length: usize,
    /// The member of the value.
    pub member: Field,
}

impl PlainPair {
    /// Reads the pair at `body`; nothing if it is another, or malformed, which the long way finds out.
    #[inline(always)]
    pub fn read(request: &[u8], body: Range<usize>) -> Option<Self> {
        const KEY: u8 = (super::field_number::key_value::KEY << 3 | 2) as u8;
        const VALUE: u8 = (super::field_number::key_value::VALUE << 3 | 2) as u8;
        const TEXT: u8 = (super::field_number::any::STRING << 3 | 2) as u8;
        let [KEY, key_length @ ..0x80, rest @ ..] = request.get(body.clone())? else { return None };
        let (_, [VALUE, rest @ ..]) = rest.split_at_checked(usize::from(*key_length))? else { return None };
        let (length, any) = match rest {
            [length @ ..0x80, any @ ..] => (usize::from(*length), any),
            [low, high @ ..0x80, any @ ..] => (usize::from(low & 0x7f) | usize::from(*high) << 7, any),
            _ => return None,
        };
        if any.len() != length || any.is_empty() {
            return None;
        }
        let (key, value) = (body.start + 2..body.start + 2 + usize::from(*key_length), body.end - length..body.end);
        let mut fields = Fields::new(request, value.clone());
        let member = match fields.next_short(TEXT) {
            Some(text) => text,
            None => fields.next().ok()??,
        };
        (member.end == value.end).then_some(Self { value_length: key.end + 1, key, member })
    }
}

/// Whether the bytes are a `KeyValue` of a key and a text of less than 128 bytes each, or a small number, as most are: one of those that
/// [`PlainPair`] reads, with nothing wrong in it.
#[inline(always)]
pub(crate) fn is_short_pair(pair: &[u8]) -> bool {
    const KEY: u8 = (super::field_number::key_value::KEY << 3 | 2) as u8;
    const VALUE: u8 = (super::field_number::key_value::VALUE << 3 | 2) as u8;
    const TEXT: u8 = (super::field_number::any::STRING << 3 | 2) as u8;
    const BOOL: u8 = (super::field_number::any::BOOL << 3) as u8;
    const INT: u8 = (super::field_number::any::INT << 3) as u8;
    let [KEY, key_length @ ..0x80, rest @ ..] = pair else { return false };
    match rest.get(usize::from(*key_length)..) {
        Some([VALUE, length @ ..0x80, TEXT, text_length @ ..0x80, text @ ..]) => {
            text.len() == usize::from(*text_length) && text.len() + 2 == usize::from(*length)
        }
        Some([VALUE, 2, BOOL | INT, ..0x80] | [VALUE, 3, INT, 0x80..=0xff, ..0x80]) => true,
        _ => false,
    }
}

/// A varint, and how many bytes it has.
pub(crate) fn varint(mut value: u64) -> ([u8; 10], usize) {
    let (mut bytes, mut count) = ([0; 10], 0);
    while value >= 0x80 {
        bytes[count] = value as u8 | 0x80;
        count += 1;
        value >>= 7;
    }
    bytes[count] = value as u8;
    (bytes, count + 1)
}

pub(crate) fn put_varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..0x80 => out.push(value as u8),
        0x80..0x4000 => out.extend_from_slice(&[value as u8 | 0x80, (value >> 7) as u8]),
        _ => {
            let (bytes, count) = varint(value);
            out.extend_from_slice(&bytes[..count]);
        }
    }
}

/// Bytes of a varint.
pub(crate) fn varint_bytes(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        _ => varint(value as u64).1,
    }
}

/// Writes a length-delimited field.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Writes a `KeyValue` with a text as field `number`.
pub(crate) fn put_text_attribute(out: &mut Vec<u8>, number: u32, key: &str, value: &str) {
    let mut any = Vec::with_capacity(value.len() + 4);
    put_bytes(&mut any, super::field_number::any::STRING, value.as_bytes());
    put_attribute(out, number, key, &any);
}

/// Writes a `KeyValue` that is true as field `number`.
pub(crate) fn put_true_attribute(out: &mut Vec<u8>, number: u32, key: &str) {
    put_attribute(out, number, key, &[(super::field_number::any::BOOL << 3) as u8, 1]);
}

fn put_attribute(out: &mut Vec<u8>, number: u32, key: &str, any: &[u8]) {
    let mut pair = Vec::with_capacity(key.len() + any.len() + 8);
    put_bytes(&mut pair, super::field_number::key_value::KEY, key.as_bytes());
    put_bytes(&mut pair, super::field_number::key_value::VALUE, any);
    put_bytes(out, number, &pair);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Result<&[(u32, usize, Wire)], &str>) {
        let (mut fields, mut found) = (Fields::new(bytes, 0..bytes.len()), Vec::new());
        let result = loop {
            match fields.next() {
                Ok(Some(field)) => found.push((field.number, field.end, field.wire)),
                Ok(None) => break Ok(found.as_slice()),
                Err(error) => break Err(error.what),
            }
        };
        assert_eq!(result, expected, "{bytes:?}");
    }

    #[test]
    fn short_fields_are_read_as_all_are() {
        let value = |bytes: usize| vec![7; bytes];
        for body in [0, 1, 127, 128, 16_383].map(value) {
            let mut bytes = Vec::new();
            [9, 9, 10, 9].iter().for_each(|number| put_bytes(&mut bytes, *number, &body));
            for end in 0..=bytes.len().min(300) {
                let (mut short, mut all) = (Fields::new(&bytes, 0..end), Fields::new(&bytes, 0..end));
                while let Some(field) = short.next_short(9 << 3 | 2) {
                    assert_eq!(all.next(), Ok(Some(field)));
                }
                assert!(!matches!(all.next(), Ok(Some(field)) if field.number == 9), "{} of {end}", body.len());
            }
            let mut fields = Fields::new(&bytes, 0..bytes.len());
            let run = fields.run(9 << 3 | 2);
            assert_eq!((run, fields.run(9 << 3 | 2).len()), (0..bytes.len() / 2, 0));
        }
        let mut long = Vec::new();
        put_bytes(&mut long, 9, &value(16_384));
        assert_eq!(Fields::new(&long, 0..long.len()).next_short(9 << 3 | 2), None, "is left to the long way");
        assert_eq!(Fields::new(&[9 << 3], 0..1).next_short(9 << 3 | 2), None);
        assert_eq!(
            Fields::new(&[0x4a, 0x85, 0, 1, 2, 3, 4, 5], 0..8).run(9 << 3 | 2),
            0..8,
            "a length may be longer than it needs to be"
        );
    }

    #[test]
    fn every_wire_type_is_read() {
        check(&[], Ok(&[]));
        check(&[0x08, 0x96, 0x01], Ok(&[(1, 3, Wire::Varint(150))]));
        check(&[0x11, 1, 0, 0, 0, 0, 0, 0, 0], Ok(&[(2, 9, Wire::Fixed64(1))]));
        check(&[0x1d, 2, 0, 0, 0], Ok(&[(3, 5, Wire::Fixed32(2))]));
        check(&[0x22, 1, 9], Ok(&[(4, 3, Wire::Bytes { length: 1, body: 2 })]));
        check(&[0x2b, 0x08, 1, 0x33, 0x34, 0x2c, 0x08, 7], Ok(&[(5, 6, Wire::Group), (1, 8, Wire::Varint(7))]));
    }

    #[test]
    fn a_varint_may_be_longer_than_it_needs_to_be_but_not_than_64_bits() {
        let number = |last: u8| [&[0x08][..], &[0xff; 9], &[last]].concat();
        check(&number(1), Ok(&[(1, 11, Wire::Varint(u64::MAX))]));
        check(&number(2), Err("a varint does not end"));
        check(&[0x08, 0x81, 0x80, 0x00], Ok(&[(1, 4, Wire::Varint(1))]));
    }

    #[test]
    fn what_cannot_be_skipped_is_malformed() {
        check(&[0x00], Err("field numbers begin with 1"));
        check(&[0x80, 0x80, 0x80, 0x80, 0x10, 0], Err("a field number is too large"));
        check(&[0x0e], Err("there is no such wire type"));
        check(&[0x0c], Err("a group ends that did not begin"));
        check(&[0x0b, 0x14], Err("a group does not end"));
        check(&[0x0b, 0x08, 0x01], Err("a varint does not end"));
        check(&[0x0a, 2, 0], Err("a length goes beyond the message"));
        check(
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            Err("a length goes beyond the message"),
        );
        check(&[0x09, 0, 0], Err("a field is cut off"));
        check(&[0x0b; 101], Err("groups are nested too deeply"));
    }
}
