//! Fields of a binary message, one after the other.
//!
//! In: the bytes of a message that were captured. Out: its numbers and texts; `None` where they end. Called by the parsers of
//! binary protocols. Never panics, never allocates.

/// What is left of a message's captured bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next bytes, `length` or, if fewer were captured, all.
    pub(crate) fn take_captured(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Passes over `length` bytes.
    pub(crate) fn skip(&mut self, length: usize) -> Option<()> {
        self.take(length).map(drop)
    }

    /// So many bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    /// One byte.
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, the high one first.
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Two bytes with a sign, the high one first.
    pub(crate) fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    /// Four bytes, the highest first.
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Four bytes with a sign, the highest first.
    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// Eight bytes, the highest first.
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Four bytes, the lowest first.
    pub(crate) fn u32_le(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Four bytes with a sign, the lowest first.
    pub(crate) fn i32_le(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    /// Eight bytes with a sign, the lowest first.
    pub(crate) fn i64_le(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// Bytes up to a zero, which is passed over, too.
    pub(crate) fn until_zero(&mut self) -> Option<&'a [u8]> {
        let length = memchr::memchr(0, self.0)?;
        let taken = self.take(length);
        self.skip(1)?;
        taken
    }
}

/// A name as text, if it is one that can stand in an attribute: UTF-8 without control characters, and not empty.
pub(crate) fn name(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_captured_is_none_and_moves_nothing() {
        let mut fields = Fields(&[1, 2, 3]);
        assert_eq!(
            (fields.u32(), fields.u16(), fields.u16(), fields.u8(), fields.u8()),
            (None, Some(258), None, Some(3), None)
        );
        assert_eq!((Fields(b"ab\0c").until_zero(), Fields(b"ab").until_zero()), (Some(&b"ab"[..]), None));
        assert_eq!(Fields(b"abc").take(usize::MAX), None);
    }

    #[test]
    fn names_are_text() {
        assert_eq!((name(b"orders"), name(b""), name(b"a\nb"), name(b"\xff")), (Some("orders"), None, None, None));
    }
}
