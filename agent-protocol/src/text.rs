//! The texts of facts: known beforehand, made for one place, or told in several of them.
//!
//! In: what parsers read. Out: [`Text`], which is a `str` to all who read it. Most texts of a span are the same for all spans of its
//! kind, or for all of a connection or a prepared statement, and such a copy allocates nothing. [`Texts`] knows those that a
//! connection repeats: one for each parser that needs it, and one for each connection in `agent-core`.
//!
//! Limits: [`Texts::MEMORY_BYTES_MAX`].

use std::{borrow::Cow, collections::VecDeque, fmt, ops::Deref, sync::Arc};

/// A text.
#[derive(Clone)]
pub enum Text {
    /// Known beforehand.
    Known(&'static str),
    /// Made for one place.
    Own(String),
    /// Told in several places.
    Shared(Arc<str>),
}

impl Text {
    /// The text.
    pub fn as_str(&self) -> &str {
        self
    }

    /// The same, of which copies allocate nothing.
    pub fn shared(self) -> Self {
        match self {
            Self::Own(text) => Self::Shared(text.into()),
            text => text,
        }
    }

    /// The text alone.
    pub fn into_owned(self) -> String {
        match self {
            Self::Own(text) => text,
            text => text.to_string(),
        }
    }

    /// Changes it here, and in no other place.
    pub fn change(&mut self, change: impl FnOnce(&mut String)) {
        let mut text = std::mem::take(self).into_owned();
        change(&mut text);
        *self = Self::Own(text);
    }

    /// Bytes that were allocated for it, perhaps for others as well.
    pub fn allocated(&self) -> usize {
        match self {
            Self::Known(_) => 0,
            Self::Own(text) => text.capacity(),
            Self::Shared(text) => text.len(),
        }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Known(text) => text,
            Self::Own(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::Known("")
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self::Known(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::Own(text)
    }
}

impl From<Arc<str>> for Text {
    fn from(text: Arc<str>) -> Self {
        Self::Shared(text)
    }
}

impl From<Cow<'static, str>> for Text {
    fn from(text: Cow<'static, str>) -> Self {
        match text {
            Cow::Borrowed(text) => Self::Known(text),
            Cow::Owned(text) => Self::Own(text),
        }
    }
}

/// Most texts that are known at once; the one that was not needed for longest is forgotten.
const TEXTS_MAX: usize = 16;
/// Longest text that is known: with what counts its users, 128 bytes.
const TEXT_BYTES_MAX: usize = 112;
/// Most bytes that are kept to write the next text into.
const SCRATCH_BYTES_MAX: usize = 512;

/// Texts that a connection repeats (topics, collections, names of a client), the last few of them, each at most 112 bytes long. Those
/// that are longer, or that were not needed for a while, are copied anew.
#[derive(Debug, Default)]
pub struct Texts {
    /// Needed last: last.
    known: VecDeque<Arc<str>>,
    /// What the last one was written into.
    scratch: String,
}

impl Texts {
    /// Most memory beside itself: less than 3 KiB.
    pub const MEMORY_BYTES_MAX: usize =
        TEXTS_MAX * (2 * size_of::<usize>() + TEXT_BYTES_MAX + size_of::<Arc<str>>()) + SCRATCH_BYTES_MAX;

    /// This text; copied only if it is not known.
    pub fn text(&mut self, text: &str) -> Text {
        if text.len() > TEXT_BYTES_MAX {
            return text.to_owned().into();
        }
        let known = self.known.iter().rposition(|known| **known == *text).and_then(|at| self.known.remove(at));
        if known.is_none() && self.known.len() == TEXTS_MAX {
            self.known.pop_front();
        }
        let text = known.unwrap_or_else(|| text.into());
        self.known.push_back(Arc::clone(&text));
        text.into()
    }

    /// The text that these are together.
    pub fn concat(&mut self, parts: &[&str]) -> Text {
        self.written(|text| parts.iter().for_each(|part| text.push_str(part)))
    }

    /// The text that is written.
    pub fn written(&mut self, write: impl FnOnce(&mut String)) -> Text {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        write(&mut scratch);
        let text = self.text(&scratch);
        if scratch.capacity() <= SCRATCH_BYTES_MAX {
            self.scratch = scratch;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_known_is_not_copied() {
        let mut texts = Texts::default();
        let Text::Shared(first) = texts.concat(&["a", " ", "b"]) else { panic!("not shared") };
        let Text::Shared(second) = texts.text("a b") else { panic!("not shared") };
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn what_is_needed_again_stays_known() {
        let mut texts = Texts::default();
        let Text::Shared(first) = texts.text("topic") else { panic!("not shared") };
        for number in 0..1000 {
            texts.text(&number.to_string());
            let Text::Shared(again) = texts.text("topic") else { panic!("not shared") };
            assert!(Arc::ptr_eq(&first, &again));
        }
    }

    #[test]
    fn what_is_known_is_bounded() {
        let mut texts = Texts::default();
        let long = "x".repeat(10_000);
        for number in 0..1000 {
            assert_eq!(texts.concat(&["n", &number.to_string()]), *format!("n{number}"));
            assert_eq!(texts.concat(&[&long, "y"]), *format!("{long}y"));
        }
        let bytes: usize = texts.known.iter().map(|known| known.len()).sum();
        assert_eq!((texts.known.len(), bytes), (TEXTS_MAX, TEXTS_MAX * 4));
        assert!(texts.scratch.capacity() <= SCRATCH_BYTES_MAX);
    }

    #[test]
    fn a_copy_that_is_changed_leaves_the_others() {
        for text in [Text::from("a"), Text::from("a".to_owned()), Text::from("a".to_owned()).shared()] {
            let mut copy = text.clone();
            copy.change(|text| text.push('b'));
            assert_eq!((text.as_str(), copy.as_str(), &copy.clone().into_owned()), ("a", "ab", &"ab".to_owned()));
        }
    }
}
