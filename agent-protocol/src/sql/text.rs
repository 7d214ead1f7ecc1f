//! The text of a statement with its values taken out.
//!
//! In: [`Token`]s. Out: text of at most [`TEXT_BYTES_MAX`] bytes, and a mark if there is more. A list of nothing but values in
//! parentheses or brackets becomes one `?`, and equal lists that follow each other become one, so that the number of values in
//! `IN (…)` and of rows in `VALUES (…), (…)` makes no difference.

use std::ops::Range;

use super::{
    CUT, TEXT_BYTES_MAX,
    lexer::{Kind, Token},
};

/// Parentheses within each other beyond this are written, but not shortened.
const DEPTH_MAX: usize = 32;

#[derive(Default)]
pub(super) struct Writer {
    out: String,
    full: bool,
    /// The last two tokens, and where the last one is written.
    before: [Option<Kind>; 2],
    last_start: usize,
    levels: Vec<Level>,
    /// Levels beyond [`DEPTH_MAX`].
    deeper: usize,
    /// A list that closed on the outermost level.
    outer: Closed,
}

/// An open parenthesis.
#[derive(Default)]
struct Level {
    /// Where it stands in the text.
    start: usize,
    /// Values so far, while there is nothing else in it; only the first is written.
    values: usize,
    mixed: bool,
    has_value: bool,
    /// A comma of a list of values, not written.
    comma: bool,
    /// Signs before a value, not written.
    signs: String,
    closed: Closed,
}

/// The list that closed last on a level, and whether just a comma came since.
#[derive(Default)]
struct Closed {
    list: Option<Range<usize>>,
    comma: bool,
}

impl Writer {
    /// With room for what comes of it.
    pub fn for_text(text: &str) -> Self {
        Self { out: String::with_capacity(text.len().min(TEXT_BYTES_MAX) + CUT.len()), ..Self::default() }
    }

    pub fn push(&mut self, token: &Token<'_>) {
        if self.full {
            return;
        }
        self.drop_sign(token);
        match token.kind {
            Kind::Symbol(b'(' | b'[') => self.open(token),
            Kind::Symbol(b')' | b']') => self.close(token),
            _ if self.is_hidden(token) => {}
            _ => {
                self.mix();
                self.follow(token.kind);
                let value = matches!(token.kind, Kind::Literal | Kind::Placeholder);
                if let Some(level) = self.level().filter(|_| value) {
                    level.has_value = true;
                }
                self.write(if token.kind == Kind::Literal { "?" } else { token.text }, token.spaced);
            }
        }
        self.before = [self.before[1], Some(token.kind)];
        self.full |= self.out.len() > TEXT_BYTES_MAX;
    }

    pub fn finish(mut self, whole: bool) -> String {
        let cut = self.full || !whole;
        if cut {
            self.drop_begun_list();
        } else {
            // A list that never closes is as one that goes on with something else.
            self.mix();
        }
        self.out.truncate(self.out.floor_char_boundary(TEXT_BYTES_MAX));
        if cut {
            self.out.push_str(CUT);
            return self.out;
        }
        let end = self.out.trim_end_matches([' ', ';']).len();
        self.out.truncate(end);
        self.out
    }

    /// Where a text was cut in the last of several lists, that one says nothing new.
    fn drop_begun_list(&mut self) {
        let outer = std::iter::once(&self.outer).chain(self.levels.iter().map(|level| &level.closed));
        let begun =
            outer.zip(&self.levels).find(|(closed, _)| closed.comma).and_then(|(closed, _)| closed.list.clone());
        if let Some(list) = begun {
            self.out.truncate(list.end);
        }
    }

    fn level(&mut self) -> Option<&mut Level> {
        if self.deeper > 0 { None } else { self.levels.last_mut() }
    }

    fn write(&mut self, text: &str, spaced: bool) {
        if spaced && !self.out.is_empty() {
            self.out.push(' ');
        }
        self.last_start = self.out.len();
        self.out.push_str(text);
    }

    /// A sign between an operator and a number belongs to the number.
    fn drop_sign(&mut self, token: &Token<'_>) {
        let [Some(Kind::Symbol(before)), Some(Kind::Symbol(b'-' | b'+'))] = self.before else { return };
        let number = token.kind == Kind::Literal && !token.spaced;
        let written = matches!(self.out.get(self.last_start..), Some("-" | "+"));
        if number && !matches!(before, b')' | b']' | b'(' | b'[') && written {
            self.out.truncate(self.last_start);
        }
    }

    /// Takes values and commas in a list of values; the first value is written as `?`.
    fn is_hidden(&mut self, token: &Token<'_>) -> bool {
        let Some(level) = self.level().filter(|level| !level.mixed) else { return false };
        match token.kind {
            Kind::Symbol(b',') if level.values > 0 && !level.comma => {
                level.comma = true;
                true
            }
            Kind::Symbol(sign @ (b'-' | b'+')) if level.values == 0 || level.comma => {
                if level.signs.len() < 8 {
                    level.signs.push(char::from(sign));
                }
                true
            }
            _ if is_value(token) && (level.values == 0 || level.comma) => {
                level.values += 1;
                (level.comma, level.has_value) = (false, true);
                level.signs.clear();
                if level.values == 1 {
                    self.out.push('?');
                }
                true
            }
            _ => false,
        }
    }

    /// The innermost list is not one of values only: what was left out is written after all.
    fn mix(&mut self) {
        let Some(level) = self.level().filter(|level| !level.mixed) else { return };
        level.mixed = true;
        let (more, comma) = (level.values.saturating_sub(1), level.comma);
        let signs = std::mem::take(&mut level.signs);
        for _ in 0..more.min(TEXT_BYTES_MAX / 3) {
            self.out.push_str(", ?");
        }
        if comma {
            self.out.push(',');
        }
        if !signs.is_empty() {
            self.out.push_str(if comma { " " } else { "" });
            self.out.push_str(&signs);
        }
    }

    fn closed(&mut self) -> &mut Closed {
        match self.levels.last_mut() {
            Some(level) if self.deeper == 0 => &mut level.closed,
            _ => &mut self.outer,
        }
    }

    /// Something follows the list that closed last.
    fn follow(&mut self, kind: Kind) {
        let closed = self.closed();
        if kind == Kind::Symbol(b',') && closed.list.is_some() && !closed.comma {
            closed.comma = true;
        } else {
            *closed = Closed::default();
        }
    }

    fn open(&mut self, token: &Token<'_>) {
        self.mix();
        if !self.closed().comma {
            *self.closed() = Closed::default();
        }
        self.write("", token.spaced);
        let start = self.out.len();
        self.out.push_str(token.text);
        if self.deeper > 0 || self.levels.len() >= DEPTH_MAX {
            self.deeper += 1;
        } else {
            self.levels.push(Level { start, ..Level::default() });
        }
    }

    fn close(&mut self, token: &Token<'_>) {
        if self.deeper > 0 {
            self.deeper -= 1;
            return self.write(token.text, token.spaced);
        }
        if self.levels.last().is_some_and(|level| level.comma || !level.signs.is_empty()) {
            self.mix();
        }
        let Some(level) = self.levels.pop() else { return self.write(token.text, token.spaced) };
        self.write(token.text, token.spaced && level.mixed);
        let list = level.start..self.out.len();
        if let Some(outer) = self.level() {
            outer.has_value |= level.has_value;
        }
        let closed = self.closed();
        let before = closed.list.take().filter(|_| closed.comma && level.has_value);
        closed.comma = false;
        match before {
            Some(before) if self.out[before.clone()] == self.out[list.clone()] => {
                self.out.truncate(before.end);
                self.closed().list = Some(before);
            }
            _ => self.closed().list = Some(list),
        }
    }
}

/// Values, and what stands for one in a row.
fn is_value(token: &Token<'_>) -> bool {
    matches!(token.kind, Kind::Literal | Kind::Placeholder) || token.is_any(&["NULL", "DEFAULT", "TRUE", "FALSE"])
}
