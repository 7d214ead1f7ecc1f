//! A copy of a request with edits, made while it is read.
//!
//! In: ranges of the request that are replaced, deleted or inserted at, in ascending order, and which messages enclose them. Out:
//! the new request, or nothing if nothing was edited. What lies between edits is copied in whole ranges, and only the lengths of
//! messages around an edit are written anew. Called by [`super::split`] and [`crate::relay`].

use std::ops::Range;

use super::{Field, PlainPair, Wire, put_bytes, put_varint, varint, varint_bytes};

/// An enclosing message.
#[derive(Clone, Debug)]
struct Open {
    /// Where its length stands in the request, and where its value ends.
    length: Range<usize>,
    end: usize,
    /// Where its value begins in the output, once something in it was edited.
    body_out: usize,
}

/// Edits a request.
#[derive(Clone, Debug)]
pub(crate) struct Editor<'a> {
    request: &'a [u8],
    out: Vec<u8>,
    /// The request up to here is in the output, but for what was edited.
    copied: usize,
    open: Vec<Open>,
    /// How many of `open`, outer ones first, have their length in the output.
    written: usize,
}

/// A state to go back to, as long as the messages that are open then still are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checkpoint {
    out: usize,
    copied: usize,
    written: usize,
    open: usize,
}

impl<'a> Editor<'a> {
    pub fn new(request: &'a [u8]) -> Self {
        Self { request, out: Vec::new(), copied: 0, open: Vec::with_capacity(16), written: 0 }
    }

    /// What follows is within the message whose length stands at `length` and whose value is `body`.
    #[inline]
    pub fn enter(&mut self, length: usize, body: &Range<usize>) {
        self.open.push(Open { length: length..body.start, end: body.end, body_out: 0 });
    }

    /// Leaves the innermost message; writes its length if something in it was edited.
    #[inline]
    pub fn leave(&mut self) {
        if self.written < self.open.len() {
            self.open.pop();
            return;
        }
        self.leave_edited();
    }

    fn leave_edited(&mut self) {
        let Some(message) = self.open.pop() else { return };
        self.written -= 1;
        self.copy_to(message.end);
        let length_out = message.body_out - message.length.len();
        let length = self.out.len() - message.body_out;
        // Nearly all are as long as they were.
        match &mut self.out[length_out..message.body_out] {
            [only] if length < 0x80 => return *only = length as u8,
            [low, high] if (0x80..0x4000).contains(&length) => {
                return (*low, *high) = (length as u8 | 0x80, (length >> 7) as u8);
            }
            _ => {}
        }
        let (length, bytes) = varint(length as u64);
        let length = &length[..bytes];
        if length.len() == message.length.len() {
            self.out[length_out..message.body_out].copy_from_slice(length);
        } else {
            self.out.splice(length_out..message.body_out, length.iter().copied());
        }
    }

    /// Puts `new` in the place of a range.
    pub fn replace(&mut self, range: Range<usize>, new: &[u8]) {
        self.write_lengths();
        self.copy_to(range.start);
        self.out.extend_from_slice(new);
        self.copied = self.copied.max(range.end);
    }

    /// Puts another text in the place of that of a `KeyValue`, which is the field `pair` and was not entered.
    pub fn replace_text(&mut self, pair: &Field, plain: &PlainPair, text: &[u8]) {
        let Wire::Bytes { length, body } = pair.wire else { return };
        let member = 1 + varint_bytes(text.len()) + text.len();
        self.replace(length..body, &[]);
        let key = &self.request[body..plain.value_length];
        put_varint(&mut self.out, (key.len() + varint_bytes(member) + member) as u64);
        self.out.extend_from_slice(key);
        put_varint(&mut self.out, member as u64);
        put_bytes(&mut self.out, plain.member.number, text);
        self.copied = pair.end;
    }

    /// Puts a length-delimited field in the place of a range.
    pub fn replace_field(&mut self, range: Range<usize>, number: u32, value: &[u8]) {
        self.replace(range, &[]);
        put_bytes(&mut self.out, number, value);
    }

    /// Leaves a range out.
    pub fn delete(&mut self, range: Range<usize>) {
        self.replace(range, &[]);
    }

    /// Puts `new` before the byte at `at`.
    pub fn insert(&mut self, at: usize, new: &[u8]) {
        self.replace(at..at, new);
    }

    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { out: self.out.len(), copied: self.copied, written: self.written, open: self.open.len() }
    }

    /// Forgets all edits since.
    pub fn roll_back(&mut self, to: Checkpoint) {
        debug_assert!(to.open == self.open.len() && to.written <= self.written);
        self.out.truncate(to.out);
        self.copied = to.copied;
        self.written = to.written;
    }

    /// The edited request; nothing if it is as it was.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        while !self.open.is_empty() {
            self.leave();
        }
        if self.copied == 0 && self.out.is_empty() {
            return None;
        }
        self.copy_to(self.request.len());
        Some(self.out)
    }

    /// The lengths of all open messages stand in the output as they were, until the messages are left.
    fn write_lengths(&mut self) {
        if self.out.capacity() == 0 {
            self.out.reserve(self.request.len() + self.request.len() / 16 + 64);
        }
        // What is not copied yet goes there in one piece.
        let (out, copied) = (self.out.len(), self.copied);
        let mut end = copied;
        for message in &mut self.open[self.written..] {
            end = message.length.end;
            message.body_out = out + end.saturating_sub(copied);
        }
        self.written = self.open.len();
        self.copy_to(end);
    }

    fn copy_to(&mut self, end: usize) {
        if self.copied < end {
            self.out.extend_from_slice(&self.request[self.copied..end]);
            self.copied = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Fields, pair as pair_of, put_text_attribute};

    /// A message in a message: field 1 { field 1 { "abc" } field 2: 7 }.
    const NESTED: &[u8] = &[0x0a, 7, 0x0a, 3, b'a', b'b', b'c', 0x10, 7];

    fn edited(edit: impl FnOnce(&mut Editor<'_>)) -> Option<Vec<u8>> {
        let mut editor = Editor::new(NESTED);
        editor.enter(1, &(2..9));
        editor.enter(3, &(4..7));
        edit(&mut editor);
        editor.leave();
        editor.leave();
        editor.finish()
    }

    #[test]
    fn without_edits_there_is_nothing_to_copy() {
        assert_eq!(edited(|_| {}), None);
    }

    #[test]
    fn lengths_follow_edits() {
        let longer = [&[0x0a, 9, 0x0a, 5][..], b"aXYZc", &[0x10, 7]].concat();
        assert_eq!(edited(|editor| editor.replace(5..6, b"XYZ")), Some(longer));
        assert_eq!(edited(|editor| editor.delete(4..7)), Some(vec![0x0a, 4, 0x0a, 0, 0x10, 7]));
        assert_eq!(
            edited(|editor| editor.insert(7, b"d")),
            Some([&[0x0a, 8, 0x0a, 4][..], b"abcd", &[0x10, 7]].concat())
        );
    }

    #[test]
    fn a_length_may_need_more_bytes_than_before() {
        let long = [b'x'; 300];
        let expected = [&[0x0a, 0xb4, 2, 0x0a, 0xaf, 2][..], &long, b"abc", &[0x10, 7]].concat();
        assert_eq!(edited(|editor| editor.insert(4, &long)), Some(expected));
    }

    #[test]
    fn a_text_that_is_replaced_is_as_if_its_messages_had_been_entered() {
        let long = |bytes: usize| "y".repeat(bytes);
        for before in [1, 100, 118, 125, 300] {
            let mut request = vec![0x08, 1];
            put_text_attribute(&mut request, 9, "key", &long(before));
            request.extend([0x10, 2]);
            let mut fields = Fields::new(&request, 2..request.len());
            let pair = fields.next().unwrap().unwrap();
            let (length, body) = pair.message().unwrap();
            let plain = PlainPair::read(&request, body.clone()).unwrap();
            for after in [0, 1, 100, 118, 119, 120, 125, 127, 128, 300, 17_000] {
                let (mut at_once, mut entered) = (Editor::new(&request), Editor::new(&request));
                at_once.replace_text(&pair, &plain, long(after).as_bytes());
                entered.enter(length, &body);
                let (length, body) = pair_of(&request, body.clone()).unwrap().1.unwrap().message().unwrap();
                entered.enter(length, &body);
                entered.replace_field(plain.member.range(), plain.member.number, long(after).as_bytes());
                entered.leave();
                entered.leave();
                assert_eq!(at_once.finish(), entered.finish(), "{before} {after}");
            }
        }
    }

    #[test]
    fn edits_can_be_forgotten() {
        let forgotten = edited(|editor| {
            let before = editor.checkpoint();
            editor.delete(4..7);
            editor.roll_back(before);
        });
        assert_eq!(forgotten, None);
    }

    #[test]
    fn the_first_bytes_can_go() {
        let mut editor = Editor::new(NESTED);
        editor.delete(0..9);
        assert_eq!(editor.finish(), Some(vec![]));
    }
}
