//! Short texts in place: what is longer than it may be, or not complete, is none.

/// A text of at most `N` bytes, 255 or fewer, as it comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<const N: usize> {
    bytes: [u8; N],
    length: u8,
    over: bool,
    ended: bool,
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        const { assert!(N < 256) };
        Self { bytes: [0; N], length: 0, over: false, ended: false }
    }
}

impl<const N: usize> Text<N> {
    /// Begins anew.
    pub fn clear(&mut self) {
        (self.length, self.over, self.ended) = (0, false, false);
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let from = usize::from(self.length);
        match self.bytes.get_mut(from..from.saturating_add(bytes.len())) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.length += bytes.len() as u8;
            }
            None => self.over = true,
        }
    }

    /// It is complete.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether it is complete, whatever its length.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The text, if it is complete, fits and is not empty.
    pub fn bytes(&self) -> Option<&[u8]> {
        let bytes = &self.bytes[..usize::from(self.length)];
        (self.ended && !self.over && !bytes.is_empty()).then_some(bytes)
    }

    /// The text, if it consists of letters, digits and `others`, which are ASCII: nothing that somebody wrote as prose.
    pub fn word(&self, others: &[u8]) -> Option<&str> {
        let bytes = self.bytes()?;
        let fits = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || others.contains(byte));
        if fits { std::str::from_utf8(bytes).ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_none() {
        let mut text = Text::<4>::default();
        assert_eq!(text.bytes(), None);
        text.push(b"ab");
        text.push(b"c-");
        assert_eq!(text.bytes(), None, "more may follow");
        text.end();
        assert_eq!((text.bytes(), text.word(b"-"), text.word(b"")), (Some(&b"abc-"[..]), Some("abc-"), None));
        text.push(b"e");
        assert_eq!((text.bytes(), text.is_ended()), (None, true));
        text.clear();
        text.push(b"x");
        text.end();
        assert_eq!(text.word(b""), Some("x"));
    }
}
