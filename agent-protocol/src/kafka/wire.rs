//! Kafka's primitive types, in the old encoding and in the compact one of flexible versions (KIP-482).

use super::topics::Topics;
use crate::fields::{Fields, name};

/// What is left of a message's captured bytes, and how lengths are written in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire<'a> {
    pub(super) fields: Fields<'a>,
    pub(super) flexible: bool,
}

impl<'a> Wire<'a> {
    /// UNSIGNED_VARINT, of at most 5 bytes.
    pub(super) fn uvarint(&mut self) -> Option<u32> {
        u32::try_from(uvarint(&mut self.fields)?).ok()
    }

    /// A string's length; `None` inside: null.
    fn string_length(&mut self) -> Option<Option<usize>> {
        if self.flexible {
            return Some((self.uvarint()? as usize).checked_sub(1));
        }
        Some(usize::try_from(self.fields.i16()?).ok())
    }

    /// STRING, NULLABLE_STRING and their compact forms; empty if null.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.string_length()?.unwrap_or(0);
        self.fields.take(length)
    }

    /// A topic's name, or, if it is said by id, what is known of it; `None` inside: unknown.
    pub(super) fn topic(&mut self, by_id: bool, topics: &'a Topics) -> Option<Option<&'a str>> {
        Some(if by_id { topics.name(self.fields.array()?) } else { name(self.string()?) })
    }

    /// The length of BYTES, RECORDS or of an ARRAY; 0 if null.
    pub(super) fn count(&mut self) -> Option<usize> {
        if self.flexible {
            return Some((self.uvarint()? as usize).saturating_sub(1));
        }
        Some(usize::try_from(self.fields.i32()?).unwrap_or(0))
    }

    /// Passes over tagged fields, if there are any in this version.
    pub(super) fn tags(&mut self) -> Option<()> {
        if !self.flexible {
            return Some(());
        }
        for _ in 0..self.uvarint()? {
            self.uvarint()?;
            let length = self.uvarint()? as usize;
            self.fields.skip(length)?;
        }
        Some(())
    }

    /// Passes over an array of elements of this many bytes, without tags.
    pub(super) fn skip_array(&mut self, element_bytes: usize) -> Option<()> {
        let bytes = self.count()?.checked_mul(element_bytes)?;
        self.fields.skip(bytes)
    }
}

/// Seven bits per byte, the lowest first; at most 10 bytes.
fn uvarint(fields: &mut Fields<'_>) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = fields.u8()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// VARINT and VARLONG: the sign in the lowest bit.
pub(super) fn varint(fields: &mut Fields<'_>) -> Option<i64> {
    let value = uvarint(fields)?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}
