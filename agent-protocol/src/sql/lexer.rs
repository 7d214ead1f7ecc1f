//! The tokens of a statement, without white space and comments.
//!
//! In: text. Out: [`Token`]s. Called by [`super::Statement::read`]. PostgreSQL: chapter 4.1 of its manual; MySQL: chapter 11 of its
//! manual; Cassandra: its `Lexer.g`. Whatever is doubtful is read as the longer literal, or ends the text.

use super::{Backslash, Dialect, Rules, trace_in};
use crate::traceparent::TraceParent;

/// What kind of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or a name.
    Word,
    /// A name in quotes.
    Quoted,
    /// A value: not to be shown.
    Literal,
    /// `?` or `$1`: a value that is sent apart.
    Placeholder,
    /// One character of anything else.
    Symbol(u8),
}

/// A token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    /// Whether white space, or a comment, was before it.
    pub spaced: bool,
}

impl Token<'_> {
    /// Whether it is this keyword, in any case.
    pub fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(keyword)
    }

    /// Whether it is one of these keywords.
    pub fn is_any(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is(keyword))
    }
}

/// How a literal ended.
#[derive(PartialEq, Eq)]
enum End {
    Closed,
    Open,
    /// Where it ends depends on a setting that is not known.
    Doubtful,
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    rules: Rules,
    trace: Option<TraceParent>,
    traces_differ: bool,
    /// In a comment that MySQL executes, or not, by its version: the end of it must be the same either way.
    executed: bool,
    /// What a backslash means in the literal before: one that goes on on the next line goes on likewise.
    before: Option<Backslash>,
    sure: bool,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str, rules: Rules) -> Self {
        Self { text, at: 0, rules, trace: None, traces_differ: false, executed: false, before: None, sure: true }
    }

    /// Whether it could tell to the end where literals end.
    pub fn is_sure(&self) -> bool {
        self.sure
    }

    /// What the comments say, if they agree.
    pub fn trace(&self) -> Option<TraceParent> {
        self.trace.filter(|_| !self.traces_differ)
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at.min(self.text.len())..]
    }

    fn is_mysql(&self) -> bool {
        self.rules.dialect == Dialect::Mysql
    }

    fn is_cql(&self) -> bool {
        self.rules.dialect == Dialect::Cql
    }

    /// Goes past white space and comments; answers whether there were any.
    fn skip_space(&mut self) -> bool {
        let start = self.at;
        loop {
            match (self.peek(0), self.peek(1)) {
                // Most tokens begin with this; neither white space nor a comment does.
                (Some(b'0'..), _) => return self.at > start,
                (Some(space), _) if space.is_ascii_whitespace() || space == 0x0b => self.at += 1,
                (Some(b'-'), Some(b'-'))
                    if !self.is_mysql() || self.peek(2).is_none_or(|next| next <= b' ' || next == 0x7f) =>
                {
                    self.skip_line();
                }
                (Some(b'#'), _) if self.is_mysql() => self.skip_line(),
                (Some(b'/'), Some(b'/')) if self.is_cql() => self.skip_line(),
                (Some(b'/'), Some(b'*')) => self.skip_comment(),
                (Some(b'*'), Some(b'/')) if self.executed => {
                    self.executed = false;
                    self.at += 2;
                }
                _ => return self.at > start,
            }
        }
    }

    /// MySQL goes on behind a carriage return, and perhaps not behind a zero.
    fn skip_line(&mut self) {
        let other = if self.is_mysql() { 0 } else { b'\r' };
        let start = self.at;
        self.at += memchr::memchr2(b'\n', other, self.rest()).unwrap_or(self.rest().len());
        if self.peek(0) == Some(0) || self.hides_end(start) {
            self.doubt();
        }
    }

    /// Whether what began at `start` hides an end or a begin of a comment from who executes it, and not from others.
    fn hides_end(&self, start: usize) -> bool {
        let hidden = self.text.as_bytes().get(start..self.at).unwrap_or_default();
        self.executed && [b"*/", b"/*"].iter().any(|mark| memchr::memmem::find(hidden, *mark).is_some())
    }

    /// Where literals end is not known from here on.
    fn doubt(&mut self) {
        self.sure = false;
        self.at = self.text.len();
    }

    fn skip_comment(&mut self) {
        if self.is_mysql() {
            let mark = [&b"/*!"[..], b"/*M!"].into_iter().find(|mark| self.rest().starts_with(mark));
            if let Some(mark) = mark {
                if self.executed {
                    return self.doubt();
                }
                let digits = self.rest()[mark.len()..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                self.at += mark.len() + digits.min(6);
                self.executed = true;
                return;
            }
        }
        let start = self.at;
        let mut depth = 0_u32;
        while let Some(found) = memchr::memchr2(b'/', b'*', self.rest()) {
            self.at += found;
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) if depth == 0 || self.rules.dialect == Dialect::Postgres => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                }
                _ => self.at += 1,
            }
            if depth == 0 {
                return self.comment(start);
            }
        }
        self.at = self.text.len();
    }

    fn comment(&mut self, start: usize) {
        let Some(trace) = self.text.get(start..self.at).and_then(trace_in) else { return };
        self.traces_differ |= *self.trace.get_or_insert(trace) != trace;
    }

    /// Goes past a text in quotes; the opening quote is at `self.at`.
    fn skip_quoted(&mut self, quote: u8, backslash: Backslash) -> End {
        self.at += 1;
        while let Some(found) = memchr::memchr2(quote, b'\\', self.rest()) {
            self.at += found;
            if self.peek(0) == Some(quote) {
                if self.peek(1) != Some(quote) {
                    self.at += 1;
                    return End::Closed;
                }
                self.at += 2;
                continue;
            }
            let run = self.rest().iter().take_while(|byte| **byte == b'\\').count();
            let quoted = run % 2 == 1 && self.peek(run) == Some(quote);
            self.at += run;
            match backslash {
                // The last of an odd number hides what follows.
                Backslash::Escapes => self.at += usize::from(quoted),
                Backslash::Plain => {}
                Backslash::Unknown if quoted => return End::Doubtful,
                Backslash::Unknown => {}
            }
        }
        self.at = self.text.len();
        End::Open
    }

    /// A literal in quotes, which are at `self.at`.
    fn literal(&mut self, quote: u8, backslash: Backslash) -> Kind {
        let start = self.at;
        let end = self.skip_quoted(quote, backslash);
        self.before = Some(backslash);
        if end == End::Doubtful || self.hides_end(start) {
            self.doubt();
        }
        Kind::Literal
    }

    fn name(&mut self, quote: u8) -> Kind {
        let start = self.at;
        let open = self.skip_quoted(quote, Backslash::Plain) == End::Open;
        if self.hides_end(start) {
            self.doubt();
            return Kind::Literal;
        }
        if open { Kind::Literal } else { Kind::Quoted }
    }

    fn word(&mut self, before: Option<Backslash>) -> Kind {
        let start = self.at;
        self.skip_while(is_word);
        let [prefix] = self.text.as_bytes()[start..self.at] else { return Kind::Word };
        match (prefix.to_ascii_lowercase(), self.peek(0), self.peek(1)) {
            (b'e', Some(b'\''), _) if !self.is_mysql() => self.literal(b'\'', Backslash::Escapes),
            (b'b' | b'x', Some(b'\''), _) => self.literal(b'\'', Backslash::Plain),
            (b'n', Some(b'\''), _) => self.literal(b'\'', before.unwrap_or(self.rules.backslash)),
            (b'u', Some(b'&'), Some(b'\'')) if !self.is_mysql() => {
                self.at += 1;
                self.literal(b'\'', Backslash::Plain)
            }
            (b'u', Some(b'&'), Some(b'"')) if !self.is_mysql() => {
                self.at += 1;
                self.name(b'"')
            }
            _ => Kind::Word,
        }
    }

    /// Digits, and whatever letters follow: `1e5`, `0xff`, `1_000`.
    fn number(&mut self) -> Kind {
        let hexadecimal = self.peek(0) == Some(b'0') && matches!(self.peek(1), Some(b'x' | b'X'));
        loop {
            self.skip_while(|byte| is_word(byte) || byte == b'.');
            let exponent = self.at > 0 && matches!(self.text.as_bytes()[self.at - 1], b'e' | b'E') && !hexadecimal;
            let signed = matches!(self.peek(0), Some(b'+' | b'-')) && self.peek(1).is_some_and(|n| n.is_ascii_digit());
            if !exponent || !signed {
                return Kind::Literal;
            }
            self.at += 1;
        }
    }

    /// Whether a UUID begins here, or what was captured of one.
    fn begins_uuid(&self) -> bool {
        const FIRST_DIGITS: usize = 8;
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        digits == FIRST_DIGITS && self.peek(FIRST_DIGITS) == Some(b'-')
    }

    /// `$1`, `$tag$ … $tag$`.
    fn dollar(&mut self) -> Kind {
        let digits = self.rest()[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > 0 {
            self.at += 1 + digits;
            return Kind::Placeholder;
        }
        let rest = self.rest();
        let tag = rest[1..].iter().take_while(|byte| is_word(**byte) && **byte != b'$').count() + 2;
        if rest.get(tag - 1) != Some(&b'$') {
            self.at += 1;
            return Kind::Symbol(b'$');
        }
        let end = memchr::memmem::find(&rest[tag..], &rest[..tag]).map_or(rest.len(), |found| tag + found + tag);
        self.at += end;
        Kind::Literal
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        self.at += self.rest().iter().take_while(|byte| wanted(**byte)).count();
    }

    fn symbol(&mut self, first: u8) -> Kind {
        self.at += 1;
        Kind::Symbol(first)
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let space = self.at;
        let spaced = self.skip_space();
        let start = self.at;
        let newline = |space: &[u8]| space.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
        let before = self.before.take().filter(|_| newline(&self.text.as_bytes()[space..start]));
        let mysql = self.is_mysql();
        let kind = match self.peek(0)? {
            first if first.is_ascii_alphabetic() && !self.is_cql() => self.word(before),
            b'\'' => self.literal(b'\'', before.unwrap_or(self.rules.backslash)),
            b'"' if mysql => self.literal(b'"', self.rules.backslash),
            b'"' => self.name(b'"'),
            b'`' if mysql => self.name(b'`'),
            b'$' if !mysql => self.dollar(),
            // Until MySQL 9 a name.
            b'$' if self.dollar() == Kind::Literal => {
                self.doubt();
                Kind::Literal
            }
            b'?' if mysql => {
                self.at += 1;
                Kind::Placeholder
            }
            b'.' if self.peek(1).is_some_and(|next| next.is_ascii_digit()) => self.number(),
            _ if self.is_cql() && self.begins_uuid() => {
                self.skip_while(|byte| byte.is_ascii_hexdigit() || byte == b'-');
                Kind::Literal
            }
            first if first.is_ascii_digit() => self.number(),
            first if is_word(first) => self.word(before),
            first => self.symbol(first),
        };
        Some(Token { kind, text: &self.text[start..self.at], spaced })
    }
}

/// Characters of names; others than ASCII count as letters in all dialects.
fn is_word(byte: u8) -> bool {
    // One look instead of five comparisons: nearly all of a statement are words.
    static WORD: [bool; 256] = {
        let (mut word, mut byte) = ([false; 256], 0);
        while byte < word.len() {
            let character = byte as u8;
            word[byte] = character.is_ascii_alphanumeric() || matches!(character, b'_' | b'$') || !character.is_ascii();
            byte += 1;
        }
        word
    };
    WORD[usize::from(byte)]
}
