//! JSON (RFC 8259) as it comes, without keeping it: values near the top, by the names that lead to them.
//!
//! In: bytes, cut anywhere. Out: calls of a [`Visit`], for values that at most [`LEVELS_MAX`] names of [`Key`] lead to; all others are
//! passed over. Called by `asked` and `answered`. Never allocates, never looks back; a text that ends early has said what it said.
//!
//! Limits: [`DEPTH_MAX`] levels, numbers of [`WORD_BYTES_MAX`] bytes. Names that are longer, or written with escapes, are other names.
//! What texts hold is not checked (control characters, UTF-8): who keeps some of it does.

use super::key::Key;

/// Most levels; deeper is [`Scanner::is_broken`].
const DEPTH_MAX: u8 = 64;
/// Most names that lead to a value that is told.
const LEVELS_MAX: usize = 3;
/// Longest name, number or word.
const WORD_BYTES_MAX: usize = 32;

/// What a value is, or how it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// `{`; its members follow.
    Object,
    /// `[`; of its elements nothing is told but that there are some.
    Array,
    /// The first element of an array.
    Element,
    /// `"`; its pieces follow.
    Text,
    /// A number, as it is written.
    Number(&'a str),
    /// `true` or `false`.
    Truth,
    /// `null`.
    Null,
    /// The object or array is complete.
    End,
}

/// Who is told.
pub(super) trait Visit {
    /// A value, by the names that lead to it from the top.
    fn value(&mut self, path: &[Key], value: Value<'_>);

    /// The next bytes of the text that began last, escapes resolved. However they are cut, together they are the text.
    fn piece(&mut self, path: &[Key], bytes: &[u8]);

    /// That text is complete.
    fn text_end(&mut self, path: &[Key]);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A value has to come.
    Value,
    /// A value, or the end of the array that began.
    FirstElement,
    /// A name has to come.
    Name,
    /// A name, or the end of the object that began.
    FirstName,
    /// `:`
    Colon,
    /// `,` or the end of what the value is in.
    After,
    /// In a name.
    InName,
    /// In a text.
    InText,
    /// In a number or literal.
    InWord,
    /// The value at the top is complete.
    Done,
    /// This is no JSON.
    Broken,
}

/// Within `\…` of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// Behind the backslash.
    Begun,
    /// Behind `\u` and so many digits.
    Digits(u8, u32),
}

/// A text of JSON on its way.
#[derive(Debug)]
pub(super) struct Scanner {
    step: Step,
    escape: Escape,
    /// Containers that are open.
    depth: u8,
    /// Which of them are objects, the innermost last.
    objects: u64,
    /// The names at the first levels.
    path: [Key; LEVELS_MAX],
    /// The name, number or literal in progress.
    word: [u8; WORD_BYTES_MAX],
    /// Its bytes; one more than fits: it is too long, or has escapes.
    word_bytes: usize,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            step: Step::Value,
            escape: Escape::None,
            depth: 0,
            objects: 0,
            path: [Key::Other; LEVELS_MAX],
            word: [0; WORD_BYTES_MAX],
            word_bytes: 0,
        }
    }
}

impl Scanner {
    /// The value at the top is complete, and nothing but white space followed.
    pub fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// This is no JSON, or too deep; nothing more is told.
    pub fn is_broken(&self) -> bool {
        self.step == Step::Broken
    }

    /// The next bytes.
    pub fn feed(&mut self, mut bytes: &[u8], visit: &mut impl Visit) {
        while let [first, rest @ ..] = bytes {
            bytes = match self.step {
                Step::Broken => return,
                Step::InText | Step::InName => self.text(bytes, visit),
                Step::InWord if is_word(*first) => {
                    self.push(&[*first]);
                    rest
                }
                Step::InWord => {
                    self.word_end(visit);
                    bytes
                }
                _ => {
                    if !matches!(first, b' ' | b'\t' | b'\r' | b'\n') {
                        self.structure(*first, visit);
                    }
                    rest
                }
            };
        }
    }

    /// The names that lead to the value in progress, if all of them mean something.
    fn path(&self) -> Option<([Key; LEVELS_MAX], usize)> {
        self.path_at(self.depth)
    }

    /// The same for a value that is in so many containers, which are the outermost ones.
    fn path_at(&self, depth: u8) -> Option<([Key; LEVELS_MAX], usize)> {
        let levels = usize::from(depth);
        let all = (1 << depth) - 1;
        let known = (1..=LEVELS_MAX).contains(&levels) && self.objects & all == all;
        (known && !self.path[..levels].contains(&Key::Other)).then_some((self.path, levels))
    }

    fn tell(&self, value: Value<'_>, visit: &mut impl Visit) {
        if let Some((path, levels)) = self.path() {
            visit.value(&path[..levels], value);
        }
    }

    /// A byte between values, which is no white space.
    fn structure(&mut self, byte: u8, visit: &mut impl Visit) {
        match (self.step, byte) {
            (Step::FirstElement, b']') | (Step::FirstName, b'}') => self.close(visit),
            (Step::After, b'}') if self.is_in_object() => self.close(visit),
            (Step::After, b']') if self.depth > 0 && !self.is_in_object() => self.close(visit),
            (Step::After, b',') => self.step = if self.is_in_object() { Step::Name } else { Step::Value },
            (Step::Name | Step::FirstName, b'"') => (self.step, self.word_bytes) = (Step::InName, 0),
            (Step::Colon, b':') => self.step = Step::Value,
            (Step::FirstElement, _) => {
                self.first_element(visit);
                self.begin(byte, visit);
            }
            (Step::Value, _) => self.begin(byte, visit),
            _ => self.step = Step::Broken,
        }
    }

    /// Of an array whose own path is known, that it is not empty.
    fn first_element(&mut self, visit: &mut impl Visit) {
        if let Some((path, levels)) = self.path_at(self.depth - 1) {
            visit.value(&path[..levels], Value::Element);
        }
    }

    fn begin(&mut self, byte: u8, visit: &mut impl Visit) {
        match byte {
            b'{' => {
                self.tell(Value::Object, visit);
                self.open(true);
            }
            b'[' => {
                self.tell(Value::Array, visit);
                self.open(false);
            }
            b'"' => {
                self.tell(Value::Text, visit);
                self.step = Step::InText;
            }
            _ if is_word(byte) => {
                (self.step, self.word_bytes) = (Step::InWord, 0);
                self.push(&[byte]);
            }
            _ => self.step = Step::Broken,
        }
    }

    fn open(&mut self, is_object: bool) {
        if self.depth == DEPTH_MAX - 1 {
            self.step = Step::Broken;
            return;
        }
        let level = u64::from(is_object) << self.depth;
        self.objects = (self.objects & ((1 << self.depth) - 1)) | level;
        self.depth += 1;
        self.step = if is_object { Step::FirstName } else { Step::FirstElement };
    }

    fn close(&mut self, visit: &mut impl Visit) {
        self.depth -= 1;
        self.objects &= (1 << self.depth) - 1;
        self.tell(Value::End, visit);
        self.value_end();
    }

    fn is_in_object(&self) -> bool {
        self.depth > 0 && self.objects >> (self.depth - 1) & 1 == 1
    }

    fn value_end(&mut self) {
        self.step = if self.depth == 0 { Step::Done } else { Step::After };
    }

    /// Bytes within a text or name; answers those behind what was taken.
    fn text<'a>(&mut self, bytes: &'a [u8], visit: &mut impl Visit) -> &'a [u8] {
        if self.escape != Escape::None {
            let (first, rest) = bytes.split_at(1);
            self.escaped(first[0], visit);
            return rest;
        }
        let end = memchr::memchr2(b'"', b'\\', bytes);
        let (plain, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        self.plain(plain, visit);
        match rest.split_first() {
            Some((b'"', rest)) => {
                self.text_end(visit);
                rest
            }
            Some((_, rest)) => {
                self.escape = Escape::Begun;
                rest
            }
            None => rest,
        }
    }

    fn plain(&mut self, bytes: &[u8], visit: &mut impl Visit) {
        match (self.step, self.path()) {
            (Step::InName, _) => self.push(bytes),
            (_, Some((path, levels))) if !bytes.is_empty() => visit.piece(&path[..levels], bytes),
            _ => {}
        }
    }

    fn escaped(&mut self, byte: u8, visit: &mut impl Visit) {
        let (code, digits) = match (self.escape, byte) {
            (Escape::Begun, b'u') => (0, 0),
            (Escape::Digits(digits, code), _) if byte.is_ascii_hexdigit() => {
                (code << 4 | char::from(byte).to_digit(16).unwrap_or_default(), digits + 1)
            }
            (Escape::Begun, _) => {
                let known = b"\"\\/bfnrt".iter().position(|known| *known == byte);
                let Some(at) = known else { return self.step = Step::Broken };
                return self.resolved(char::from(b"\"\\/\x08\x0c\n\r\t"[at]), visit);
            }
            _ => return self.step = Step::Broken,
        };
        if digits < 4 {
            self.escape = Escape::Digits(digits, code);
        } else {
            // Halves of what is beyond 16 bits are no characters of their own, and of no name that is told.
            self.resolved(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), visit);
        }
    }

    fn resolved(&mut self, character: char, visit: &mut impl Visit) {
        self.escape = Escape::None;
        if self.step == Step::InName {
            self.word_bytes = WORD_BYTES_MAX + 1;
        } else {
            self.plain(character.encode_utf8(&mut [0; 4]).as_bytes(), visit);
        }
    }

    fn text_end(&mut self, visit: &mut impl Visit) {
        if self.step == Step::InName {
            let level = usize::from(self.depth - 1);
            let key = self.word.get(..self.word_bytes).map_or(Key::Other, Key::of);
            if let Some(known) = self.path.get_mut(level) {
                *known = key;
            }
            self.step = Step::Colon;
            return;
        }
        if let Some((path, levels)) = self.path() {
            visit.text_end(&path[..levels]);
        }
        self.value_end();
    }

    /// Adds to the word in progress.
    fn push(&mut self, bytes: &[u8]) {
        match self.word.get_mut(self.word_bytes..self.word_bytes.saturating_add(bytes.len())) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.word_bytes += bytes.len();
            }
            None => self.word_bytes = WORD_BYTES_MAX + 1,
        }
    }

    fn word_end(&mut self, visit: &mut impl Visit) {
        let word = self.word;
        let word = word.get(..self.word_bytes).and_then(|word| std::str::from_utf8(word).ok());
        let value = match word {
            Some("null") => Value::Null,
            Some("true" | "false") => Value::Truth,
            // A number that is too long is one all the same, but it is not told.
            None => return self.value_end(),
            Some(number) if is_number(number.as_bytes()) => Value::Number(number),
            Some(_) => return self.step = Step::Broken,
        };
        self.tell(value, visit);
        self.value_end();
    }
}

/// What numbers and literals are made of.
const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

/// Near enough to RFC 8259, section 6: who wants a number reads it.
fn is_number(word: &[u8]) -> bool {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    digits.first().is_some_and(u8::is_ascii_digit)
        && digits.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'-' | b'+'))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[derive(Default)]
    struct Said {
        text: String,
        pieces: Vec<u8>,
    }

    impl Visit for Said {
        fn value(&mut self, path: &[Key], value: Value<'_>) {
            if value == Value::End {
                write!(self.text, "{path:?}. ").expect("a string");
            } else if value != Value::Text {
                write!(self.text, "{path:?}={value:?} ").expect("a string");
            }
        }

        fn piece(&mut self, _: &[Key], bytes: &[u8]) {
            self.pieces.extend_from_slice(bytes);
        }

        fn text_end(&mut self, path: &[Key]) {
            let text = String::from_utf8(std::mem::take(&mut self.pieces)).expect("UTF-8");
            write!(self.text, "{path:?}={text:?} ").expect("a string");
        }
    }

    fn said(text: &str, size: usize) -> (String, Step) {
        let (mut scanner, mut said) = (Scanner::default(), Said::default());
        text.as_bytes().chunks(size).for_each(|bytes| scanner.feed(bytes, &mut said));
        (said.text, scanner.step)
    }

    fn check(text: &str, expected: &str, step: Step) {
        for size in 1..=text.len() {
            assert_eq!(said(text, size), (expected.to_owned(), step), "{text} in pieces of {size}");
        }
    }

    #[test]
    fn values_are_told_by_the_names_that_lead_to_them() {
        check(
            r#" { "model" : "a\"b\u00e9\n" , "usage":{"input_tokens":12,"x":{"input_tokens":3}},"n":[{"model":"no"}]} "#,
            r#"[Model]="a\"bé\n" [Usage]=Object [Usage, InputTokens]=Number("12") [Usage]. "#,
            Step::Done,
        );
        check(
            r#"{"messages":[{"model":"x"}],"errors":[],"data":null,"id":-1.5e3,"x":true}"#,
            "[Messages]=Array [Messages]=Element [Messages]. [Errors]=Array [Errors]. [Data]=Null [Id]=Number(\"-1.5e3\") ",
            Step::Done,
        );
        check(r#"[{"model":"x"}]"#, "", Step::Done);
        check("12 ", "", Step::Done);
    }

    #[test]
    fn names_with_escapes_and_long_ones_are_others() {
        check(r#"{"mod\u0065l":"x","mo\del":1}"#, "", Step::Broken);
        check(&format!(r#"{{"{}":1,"id":{}}}"#, "x".repeat(99), "9".repeat(99)), "", Step::Done);
    }

    #[test]
    fn what_is_cut_says_what_came() {
        check(r#"{"model":"x","query":"{ a"#, r#"[Model]="x" "#, Step::InText);
        check(r#"{"model":"x","id":12"#, r#"[Model]="x" "#, Step::InWord);
    }

    #[test]
    fn other_texts_are_broken() {
        for other in
            ["<html>", "{]", "{\"a\" 1}", "{,}", "[1 2]", "[1}", "{\"a\":}", "{} {}", "{\"a\":\"\\x\"}", "nul]"]
        {
            assert_eq!(said(other, 1).1, Step::Broken, "{other}");
        }
        assert_eq!(said(&"[".repeat(64), 7).1, Step::Broken);
        assert_eq!(said(&format!("{}1{}", "[".repeat(63), "]".repeat(63)), 7).1, Step::Done);
    }
}
