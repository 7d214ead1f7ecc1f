//! The elements of a BSON document (bsonspec.org, 1.1), of the top level only, as far as they were captured.
//!
//! Numbers and names are read; everything else is passed over by its length.

use crate::fields::Fields;

/// An element's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// Text; without its final zero.
    Text(&'a [u8]),
    /// A number or truth value.
    Number(i64),
    /// A document or an array.
    Document(Document<'a>),
    /// Anything else.
    Other,
}

/// A document, or an array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// Its captured bytes behind the length.
    captured: &'a [u8],
    /// Whether that is all of it.
    pub(super) whole: bool,
}

impl<'a> Document<'a> {
    /// The document at the begin of what is left; takes it off.
    pub(super) fn take(fields: &mut Fields<'a>) -> Option<Self> {
        let length = usize::try_from(fields.i32_le()?).ok()?.checked_sub(4)?;
        let captured = fields.take_captured(length);
        Some(Self { captured, whole: captured.len() == length })
    }

    /// Its elements: key and value.
    pub(super) fn elements(&self) -> Elements<'a> {
        Elements(Fields(self.captured))
    }
}

/// Elements, until the document's or the captured bytes' end, or what is none.
#[derive(Clone, Debug)]
pub(super) struct Elements<'a>(Fields<'a>);

impl<'a> Iterator for Elements<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let kind = self.0.u8().filter(|kind| *kind != 0)?;
        let key = self.0.until_zero()?;
        Some((key, value(&mut self.0, kind)?))
    }
}

fn value<'a>(fields: &mut Fields<'a>, kind: u8) -> Option<Value<'a>> {
    let bytes = match kind {
        0x01 => return Some(Value::Number(f64::from_bits(fields.i64_le()? as u64) as i64)),
        0x02 | 0x0d | 0x0e => return Some(Value::Text(text(fields)?)),
        0x03 | 0x04 => return Some(Value::Document(Document::take(fields)?)),
        0x08 => return Some(Value::Number(fields.u8()?.into())),
        0x10 => return Some(Value::Number(fields.i32_le()?.into())),
        0x12 => return Some(Value::Number(fields.i64_le()?)),
        // Binary: a length, a kind, and as many bytes.
        0x05 => usize::try_from(fields.i32_le()?).ok()?.checked_add(1)?,
        // A regular expression: two texts that end with zero.
        0x0b => {
            fields.until_zero()?;
            fields.until_zero()?;
            0
        }
        // A reference: a text and an object id.
        0x0c => {
            text(fields)?;
            12
        }
        // Code with its scope: a length that counts itself.
        0x0f => usize::try_from(fields.i32_le()?).ok()?.checked_sub(4)?,
        0x07 => 12,
        0x09 | 0x11 => 8,
        0x13 => 16,
        0x06 | 0x0a | 0x7f | 0xff => 0,
        _ => return None,
    };
    fields.skip(bytes)?;
    Some(Value::Other)
}

fn text<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let length = usize::try_from(fields.i32_le()?).ok()?;
    fields.take(length)?.split_last().map(|(_, text)| text)
}
