//! A GraphQL document (October 2021, section 2) as it comes: which operations it has, nothing else of it.
//!
//! In: its bytes, cut anywhere. Out: types and names of its operations. Called by `asked`. Limits: the first [`OPERATIONS_MAX`], names
//! of [`NAME_BYTES_MAX`] bytes. Of what selections hold, brackets are counted, and texts
//! and comments passed over.

use super::text::Text;

/// Most operations that are told apart.
const OPERATIONS_MAX: usize = 4;
/// Longest name.
pub(super) const NAME_BYTES_MAX: usize = 64;

/// What an operation does (section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationType {
    /// Reads.
    Query,
    /// Writes.
    Mutation,
    /// Follows.
    Subscription,
}

impl OperationType {
    /// As documents say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Mutation => "mutation",
            Self::Subscription => "subscription",
        }
    }
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub kind: OperationType,
    pub name: Text<NAME_BYTES_MAX>,
}

/// What has to come outside of texts and comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// An operation or a fragment, at the top.
    Definition,
    /// The rest of an operation up to its selections; its name, if it has one, is still to come.
    Name(OperationType),
    /// The same, behind the name.
    Selections(OperationType),
    /// The rest of a fragment up to its selections.
    Fragment,
    /// A field or fragment: the first of an operation that is nothing but selections.
    FirstField,
    /// The end of what is in brackets.
    End,
}

/// Where the next byte lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    /// Between tokens, or in punctuation.
    Nothing,
    /// A name.
    Word,
    /// A comment.
    Comment,
    /// Behind so many quotation marks that may begin a text: 1 or 2.
    Quotes(u8),
    /// A text, behind a backslash or not.
    Text { escaped: bool },
    /// A block text, behind so many of the quotation marks that end it, behind a backslash or not.
    Block { quotes: u8, escaped: bool },
}

/// A document on its way.
#[derive(Debug)]
pub(super) struct Document {
    within: Within,
    expect: Expect,
    /// Brackets that are open.
    depth: u16,
    /// Whether these are the selections of a definition and not its variables.
    selections: bool,
    /// The definition in progress is an operation that was added.
    noted: bool,
    word: Text<NAME_BYTES_MAX>,
    operations: [Option<Operation>; OPERATIONS_MAX],
    count: usize,
    name: Text<NAME_BYTES_MAX>,
    malformed: bool,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            within: Within::Nothing,
            expect: Expect::Definition,
            depth: 0,
            selections: false,
            noted: false,
            word: Text::default(),
            operations: [None; OPERATIONS_MAX],
            count: 0,
            name: Text::default(),
            malformed: false,
        }
    }
}

impl Document {
    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.malformed {
                return;
            }
            self.byte(*byte);
        }
    }

    /// Whether what came reads as a document with an operation; `whole`: nothing follows.
    pub fn is_document(&self, whole: bool) -> bool {
        let closed = self.expect == Expect::Definition && matches!(self.within, Within::Nothing | Within::Comment);
        !self.malformed && self.count > 0 && (closed || !whole)
    }

    /// The operations whose selections, or variables, were seen to begin.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter().flatten()
    }

    /// How many there were, also of those that are not told apart.
    pub fn count(&self) -> usize {
        self.count
    }

    fn byte(&mut self, byte: u8) {
        match (self.within, byte) {
            (Within::Comment, b'\n' | b'\r') => self.within = Within::Nothing,
            (Within::Comment, _) => {}
            (Within::Word, b'_') => self.word.push(&[byte]),
            (Within::Word, _) if byte.is_ascii_alphanumeric() => self.word.push(&[byte]),
            (Within::Word, _) => {
                self.within = Within::Nothing;
                self.word_end();
                self.token(byte);
            }
            (Within::Quotes(1), b'"') => self.within = Within::Quotes(2),
            (Within::Quotes(1), _) => self.text(false, byte),
            (Within::Quotes(_), b'"') => self.within = Within::Block { quotes: 0, escaped: false },
            (Within::Quotes(_), _) => {
                self.within = Within::Nothing;
                self.token(byte);
            }
            (Within::Text { escaped }, _) => self.text(escaped, byte),
            (Within::Block { quotes, escaped }, _) => self.block(quotes, escaped, byte),
            (Within::Nothing, _) => self.token(byte),
        }
    }

    fn text(&mut self, escaped: bool, byte: u8) {
        self.within = match byte {
            // Section 2.9.4: no line ends within.
            b'\n' | b'\r' => return self.malformed = true,
            b'"' if !escaped => Within::Nothing,
            _ => Within::Text { escaped: byte == b'\\' && !escaped },
        };
    }

    fn block(&mut self, quotes: u8, escaped: bool, byte: u8) {
        self.within = match (byte, quotes) {
            (b'"', 2) if !escaped => Within::Nothing,
            // `\"""` is no end.
            (b'"', _) if escaped => Within::Block { quotes: quotes + 1, escaped: quotes < 2 },
            (b'"', _) => Within::Block { quotes: quotes + 1, escaped: false },
            _ => Within::Block { quotes: 0, escaped: byte == b'\\' },
        };
        if let Within::Block { quotes: 3.., .. } = self.within {
            self.within = Within::Block { quotes: 0, escaped: false };
        }
    }

    /// A byte outside of names, texts and comments.
    fn token(&mut self, byte: u8) {
        match byte {
            // Section 2.1.7: commas mean nothing. A byte order mark may come first.
            b' ' | b'\t' | b'\n' | b'\r' | b',' | 0xef | 0xbb | 0xbf => {}
            b'#' => self.within = Within::Comment,
            b'_' => self.word_begin(byte),
            _ if byte.is_ascii_alphabetic() => self.word_begin(byte),
            b'"' if self.depth > 0 => self.within = Within::Quotes(1),
            b'(' | b'[' | b'{' => self.open(byte),
            b')' | b']' | b'}' => self.close(),
            b'@' => self.directive(),
            b'.' if self.expect == Expect::FirstField => self.shorthand(),
            _ if self.depth > 0 && self.expect != Expect::FirstField => {}
            // Arguments of directives in front of selections are in brackets; nothing else stands there.
            _ => self.malformed = true,
        }
    }

    fn word_begin(&mut self, byte: u8) {
        self.within = Within::Word;
        self.word.clear();
        self.word.push(&[byte]);
    }

    fn word_end(&mut self) {
        self.word.end();
        match (self.expect, self.word.bytes()) {
            (Expect::Definition, Some(b"query")) => self.begin(OperationType::Query),
            (Expect::Definition, Some(b"mutation")) => self.begin(OperationType::Mutation),
            (Expect::Definition, Some(b"subscription")) => self.begin(OperationType::Subscription),
            (Expect::Definition, Some(b"fragment")) => self.expect = Expect::Fragment,
            (Expect::Definition, _) => self.malformed = true,
            (Expect::Name(kind), _) => (self.name, self.expect) = (self.word, Expect::Selections(kind)),
            (Expect::FirstField, _) => self.shorthand(),
            (Expect::Selections(_) | Expect::Fragment | Expect::End, _) => {}
        }
    }

    fn begin(&mut self, kind: OperationType) {
        (self.expect, self.noted) = (Expect::Name(kind), false);
        self.name.clear();
    }

    /// An operation without a word in front (section 2.3: a query), now that its first field came.
    fn shorthand(&mut self) {
        self.name.clear();
        self.add(OperationType::Query);
        self.expect = Expect::End;
    }

    fn directive(&mut self) {
        match self.expect {
            Expect::Name(kind) => self.expect = Expect::Selections(kind),
            Expect::Definition | Expect::FirstField => self.malformed = true,
            Expect::Selections(_) | Expect::Fragment | Expect::End => {}
        }
    }

    fn add(&mut self, kind: OperationType) {
        if let Some(place) = self.operations.get_mut(self.count) {
            *place = Some(Operation { kind, name: self.name });
        }
        self.count = self.count.saturating_add(1);
    }

    fn open(&mut self, byte: u8) {
        if self.depth > 0 {
            self.malformed |= self.expect == Expect::FirstField || self.depth == u16::MAX;
            self.depth = self.depth.saturating_add(1);
            return;
        }
        match (self.expect, byte) {
            (Expect::Definition, b'{') => self.expect = Expect::FirstField,
            (Expect::Name(kind) | Expect::Selections(kind), b'{') => {
                self.note(kind);
                self.expect = Expect::End;
            }
            (Expect::Name(kind) | Expect::Selections(kind), b'(') => self.note(kind),
            (Expect::Fragment, b'{') => self.expect = Expect::End,
            (Expect::Fragment, b'(') => {}
            _ => return self.malformed = true,
        }
        self.selections = byte == b'{';
        self.depth = 1;
    }

    /// The operation in progress is one, as its variables, a directive's arguments or its selections show.
    fn note(&mut self, kind: OperationType) {
        if !std::mem::replace(&mut self.noted, true) {
            self.add(kind);
        }
        self.expect = Expect::Selections(kind);
    }

    fn close(&mut self) {
        match self.depth {
            _ if self.expect == Expect::FirstField => self.malformed = true,
            0 => self.malformed = true,
            1 if self.selections => (self.depth, self.expect) = (0, Expect::Definition),
            depth => self.depth = depth - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, size: usize) -> (String, [bool; 2]) {
        let mut document = Document::default();
        text.as_bytes().chunks(size).for_each(|bytes| document.feed(bytes));
        let name = |operation: &Operation| match operation.name.word(b"_") {
            Some(name) => format!("{} {name}", operation.kind.name()),
            None => operation.kind.name().to_owned(),
        };
        let said: Vec<_> = document.operations().map(name).collect();
        (said.join(", "), [document.is_document(true), document.is_document(false)])
    }

    fn check(text: &str, expected: &str, [whole, cut]: [bool; 2]) {
        for size in 1..=text.len() {
            assert_eq!(said(text, size), (expected.to_owned(), [whole, cut]), "{text} in pieces of {size}");
        }
    }

    const WHOLE: [bool; 2] = [true, true];
    const CUT: [bool; 2] = [false, true];
    const NONE: [bool; 2] = [false, false];

    #[test]
    fn operations_are_told_by_type_and_name() {
        check("{ books { title } }", "query", WHOLE);
        check("query { books }", "query", WHOLE);
        check(
            "query Books($first: Int = 3, $x: [In] = {a: \"}\"}) @x(y: \"(\") { books(n: $first) { t } }",
            "query Books",
            WHOLE,
        );
        check("# a comment { }\n mutation _Add1{add}", "mutation _Add1", WHOLE);
        check("subscription S @live { s }", "subscription S", WHOLE);
        check("subscription @live(if: true) { s }", "subscription", WHOLE);
        check("{...F} fragment F on T @x { a # }\n b }", "query", WHOLE);
        check(
            "query A {a} query B {b(x: \"\", y: \"\"\"{ \\\"\"\" \" \"\"\")} fragment F on T {c}",
            "query A, query B",
            WHOLE,
        );
        check("query{q:query}", "query", WHOLE);
    }

    #[test]
    fn what_is_cut_is_a_document_where_an_operation_was_seen_to_begin() {
        check("query Books { books(", "query Books", CUT);
        check("query Books(", "query Books", CUT);
        check("{ boo", "", NONE);
        check("{ books ", "query", CUT);
        check("query Books", "", NONE);
    }

    #[test]
    fn other_texts_are_none() {
        for other in [
            "",
            " ",
            "shoes",
            "query shoes",
            "{}",
            "{ }",
            "{\"match\": 1}",
            "{1}",
            "}",
            "type T { a: Int }",
            "query A { a } x",
            "query A { a(x: \"\n\") }",
            "(a)",
            "a{b}",
            "SELECT 1",
            "query \u{e9} {a}",
            "{ a } }",
            "fragment F on T {a}",
            "{{a}}",
        ] {
            assert!(!said(other, 1).1[0], "{other}");
        }
    }

    #[test]
    fn operations_beyond_the_limit_are_counted() {
        let mut document = Document::default();
        (0..9).for_each(|index| document.feed(format!("query Q{index} {{a}} ").as_bytes()));
        assert_eq!((document.operations().count(), document.count()), (OPERATIONS_MAX, 9));
    }
}
