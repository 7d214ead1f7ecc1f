//! What a statement does, and to which tables: read from its keywords, not parsed by its grammar.
//!
//! In: [`Token`]s. Out: operations and tables. A table is what stands where only a table can stand: behind `FROM`, `JOIN`, `INTO`,
//! `UPDATE` and the like, unless it is called like a function or defined by `WITH`. What does not fit makes the whole unsure.

use std::borrow::Cow;

use super::{
    SUMMARY_BYTES_MAX, Statement,
    lexer::{Kind, Token},
    words::{self, Verb},
};
use crate::text::Text;

/// Parentheses within each other beyond this are not looked into.
const DEPTH_MAX: usize = 32;
/// Names defined by `WITH` that are told from tables.
const DEFINED_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 128;
/// Tables that are told from each other.
const TABLES_MAX: usize = 8;

#[derive(Default)]
pub(super) struct Outline<'a> {
    /// The innermost parenthesis last.
    frames: [Frame; DEPTH_MAX],
    depth: usize,
    current: Frame,
    deeper: usize,
    summary: Summary,
    /// Of the first operation; of two words if the second says what it is done to.
    operation: Option<Text>,
    statements: usize,
    tables: [Cow<'a, str>; TABLES_MAX],
    table_count: usize,
    procedure: Option<Cow<'a, str>>,
    database: Option<Cow<'a, str>>,
    uses: bool,
    defined: Vec<Cow<'a, str>>,
    /// Name in progress, and whether a part of it must follow.
    name: Option<(Cow<'a, str>, bool)>,
    unsure: bool,
    streams_in: bool,
    /// The first word of the statement in progress was read.
    begun: bool,
    /// In the body of a routine: `;` does not end the statement.
    body: bool,
    /// The word before was `AS` or `FOR`.
    after_as: bool,
}

/// Words as they come, to be copied once.
struct Summary {
    bytes: [u8; SUMMARY_BYTES_MAX],
    length: usize,
}

impl Default for Summary {
    fn default() -> Self {
        Self { bytes: [0; SUMMARY_BYTES_MAX], length: 0 }
    }
}

impl Summary {
    /// Adds a word, if there is room.
    fn push(&mut self, word: &str) {
        let blank = usize::from(self.length > 0);
        let end = self.length + blank + word.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room[..blank].fill(b' ');
            room[blank..].copy_from_slice(word.as_bytes());
            self.length = end;
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

/// What a parenthesis, or the statement itself, is about.
#[derive(Clone, Copy, Default)]
struct Frame {
    verb: Verb,
    expect: Expect,
    /// A comma is followed by another table.
    list: bool,
    /// After `JOIN`: what `USING` names is no table.
    joined: bool,
    /// After `AS` of a `WITH`: the parenthesis is a statement.
    defining: bool,
    /// After `DISTINCT`: `FROM` compares.
    distinct: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    /// A statement's first word.
    #[default]
    Statement,
    /// What `CREATE`, `ALTER`, `DROP` is about.
    Object,
    /// A table's name, or a list in parentheses.
    Table,
    /// A table's name, behind which a parenthesis belongs to the statement.
    Target,
    /// A procedure's name.
    Procedure,
    /// A name that `WITH` defines.
    Defined,
    /// The first word in a parenthesis: a statement, or not.
    Inner,
    /// Nothing of interest.
    Rest,
}

impl<'a> Outline<'a> {
    pub fn push(&mut self, token: &Token<'a>) {
        if self.goes_on(token) {
            return;
        }
        match token.kind {
            Kind::Symbol(b'(') => self.open(),
            Kind::Symbol(b')') => self.close(),
            _ if self.deeper > 0 => {}
            Kind::Symbol(b';') => self.end_statement(),
            Kind::Symbol(b',') => self.comma(),
            Kind::Word => self.word(token),
            Kind::Quoted => self.begin_name(token),
            Kind::Literal | Kind::Placeholder | Kind::Symbol(_) => self.other(),
        }
    }

    pub fn finish(mut self, whole: bool) -> Statement {
        self.end_name(false);
        let sure = whole && !self.unsure && self.statements == 1;
        let [table, ..] = self.tables;
        let said = Some(self.summary.as_str()).filter(|summary| !summary.is_empty());
        let summary = said.map(|said| match &self.operation {
            Some(operation) if **operation == *said => operation.clone(),
            _ => Text::Shared(said.into()),
        });
        Statement {
            operation: self.operation.filter(|_| self.statements == 1),
            collection: Some(table).filter(|_| sure && self.table_count == 1).map(text),
            procedure: self.procedure.filter(|_| sure).map(text),
            database: self.database.filter(|_| sure).map(text),
            uses: self.uses,
            summary,
            streams_in: self.streams_in,
            ..Statement::default()
        }
    }

    /// A name goes on over dots.
    fn goes_on(&mut self, token: &Token<'a>) -> bool {
        let Some((name, part_follows)) = &mut self.name else { return false };
        match token.kind {
            Kind::Symbol(b'.') if !*part_follows => *part_follows = true,
            Kind::Word | Kind::Quoted if *part_follows => {
                *part_follows = false;
                let part = unquoted(token);
                match name {
                    Cow::Borrowed(first) => *name = [first, ".", &part].concat().into(),
                    Cow::Owned(name) => name.extend([".", &part]),
                }
            }
            Kind::Symbol(b'*') if !*part_follows => {}
            kind => {
                self.end_name(kind == Kind::Symbol(b'('));
                return false;
            }
        }
        true
    }

    fn begin_name(&mut self, token: &Token<'a>) {
        match self.current.expect {
            Expect::Table | Expect::Target | Expect::Procedure => self.name = Some((unquoted(token), false)),
            Expect::Defined => self.define(unquoted(token)),
            Expect::Statement | Expect::Object => self.give_up(),
            Expect::Inner => self.current.expect = Expect::Rest,
            Expect::Rest => {}
        }
    }

    fn end_name(&mut self, called: bool) {
        let Some((name, part_follows)) = self.name.take() else { return };
        let expected = std::mem::replace(&mut self.current.expect, Expect::Rest);
        if part_follows || name.len() > NAME_BYTES_MAX {
            return self.unsure = true;
        }
        if expected == Expect::Procedure {
            self.summary.push(&name);
            match self.current.verb {
                Verb::Use => self.database = Some(name),
                _ => self.procedure = Some(name),
            }
            return;
        }
        let function = called && expected == Expect::Table;
        let nothing = name.eq_ignore_ascii_case("DUAL");
        if !function && !nothing && !self.defined.iter().any(|defined| defined.eq_ignore_ascii_case(&name)) {
            self.table(name);
        }
    }

    fn table(&mut self, name: Cow<'a, str>) {
        if self.tables[..self.table_count].contains(&name) {
            return;
        }
        self.summary.push(&name);
        // Two are as many as are needed to know that there is not one.
        if let Some(free) = self.tables.get_mut(self.table_count) {
            *free = name;
            self.table_count += 1;
        }
    }

    /// Not understood: no more of this statement.
    fn give_up(&mut self) {
        self.unsure = true;
        (self.current.verb, self.current.expect, self.current.list) = (Verb::Other, Expect::Rest, false);
        if !self.begun {
            self.begin();
            self.current.verb = Verb::Opaque;
        }
    }

    fn begin(&mut self) {
        self.begun = true;
        self.statements += 1;
    }

    fn define(&mut self, name: Cow<'a, str>) {
        self.unsure |= self.defined.len() >= DEFINED_MAX;
        if self.defined.len() < DEFINED_MAX {
            self.defined.push(name);
        }
        self.current.expect = Expect::Rest;
    }

    fn open(&mut self) {
        if self.deeper > 0 || self.depth >= DEPTH_MAX {
            self.unsure = true;
            self.deeper += 1;
            return;
        }
        let inner = match self.current.expect {
            // Tables in parentheses, or a query there.
            Expect::Table => Frame { verb: Verb::Tables, expect: Expect::Table, list: true, ..Frame::default() },
            Expect::Target | Expect::Procedure => {
                Frame { verb: Verb::Nothing, expect: Expect::Inner, ..Frame::default() }
            }
            Expect::Statement if self.current.verb == Verb::Nothing => Frame::default(),
            _ => Frame { verb: Verb::Nothing, expect: Expect::Inner, ..Frame::default() },
        };
        if matches!(self.current.expect, Expect::Table | Expect::Target | Expect::Procedure | Expect::Inner) {
            self.current.expect = Expect::Rest;
        }
        self.frames[self.depth] = std::mem::replace(&mut self.current, inner);
        self.depth += 1;
    }

    fn close(&mut self) {
        if self.deeper > 0 {
            self.deeper -= 1;
            return;
        }
        let Some(depth) = self.depth.checked_sub(1) else { return };
        (self.current, self.depth) = (self.frames[depth], depth);
        if self.current.verb == Verb::Nothing && self.current.expect == Expect::Statement && depth == 0 {
            // `(SELECT …) UNION (SELECT …)`
            (self.current.verb, self.current.expect) = (Verb::Other, Expect::Rest);
        }
        if self.current.defining {
            (self.current.defining, self.current.expect) = (false, Expect::Statement);
        }
    }

    fn end_statement(&mut self) {
        if self.body {
            return;
        }
        self.begun = false;
        self.depth = 0;
        self.current = Frame::default();
        self.defined.clear();
    }

    fn comma(&mut self) {
        match self.current.verb {
            Verb::With if self.current.expect == Expect::Statement => self.current.expect = Expect::Defined,
            _ if self.current.list => self.current.expect = Expect::Table,
            _ => {}
        }
        self.current.distinct = false;
    }

    /// A value, or a symbol, where something else may have been expected.
    fn other(&mut self) {
        match self.current.expect {
            Expect::Table | Expect::Target | Expect::Procedure => {
                self.unsure = true;
                self.current.expect = Expect::Rest;
            }
            Expect::Inner => self.current.expect = Expect::Rest,
            Expect::Statement if self.current.verb == Verb::Nothing => self.give_up(),
            _ => {}
        }
        self.current.distinct = false;
    }

    fn word(&mut self, token: &Token<'a>) {
        let distinct = std::mem::replace(&mut self.current.distinct, token.is("DISTINCT"));
        match self.current.expect {
            Expect::Statement => self.statement(token),
            Expect::Object => self.object(token),
            Expect::Table if token.is_any(words::QUERIES) => self.statement(token),
            Expect::Table | Expect::Target | Expect::Procedure => self.table_word(token),
            Expect::Defined if token.is("RECURSIVE") => {}
            Expect::Defined => self.define(token.text.into()),
            Expect::Inner if token.is_any(words::QUERIES) => self.statement(token),
            Expect::Inner if self.frames[..self.depth].last().is_some_and(|outer| outer.defining) => {
                self.statement(token)
            }
            Expect::Inner | Expect::Rest => {
                self.current.expect = Expect::Rest;
                self.clause(token, distinct);
            }
        }
    }

    /// The first word of a statement.
    fn statement(&mut self, token: &Token<'a>) {
        let explained = self.current.verb == Verb::Explain;
        let Some(verb) = words::verb(token).filter(|_| !explained || !token.is("ANALYZE")) else {
            // `EXPLAIN ANALYZE VERBOSE SELECT`
            if !explained {
                self.give_up();
            }
            return;
        };
        if !self.begun {
            self.begin();
        }
        self.current.verb = verb;
        self.uses |= verb == Verb::Use;
        self.current.list = matches!(verb, Verb::Update | Verb::Truncate);
        self.current.expect = match verb {
            Verb::With => Expect::Defined,
            Verb::Explain => Expect::Statement,
            Verb::Define => Expect::Object,
            Verb::Insert | Verb::Copy | Verb::Merge => Expect::Target,
            Verb::Update | Verb::Truncate | Verb::Table => Expect::Table,
            Verb::Call | Verb::Use => Expect::Procedure,
            _ => Expect::Rest,
        };
        // `WITH` is no operation: what it is with is.
        if verb != Verb::With {
            self.summary.push(token.text);
            self.operation.get_or_insert_with(|| words::written(token.text));
        }
    }

    /// `CREATE UNIQUE INDEX`, `DROP TABLE`.
    fn object(&mut self, token: &Token<'a>) {
        if !token.is_any(words::OBJECTS) {
            return;
        }
        self.summary.push(token.text);
        if let Some(operation) = self.operation.as_mut().filter(|operation| !operation.contains(' ')) {
            *operation = Text::from([operation, " ", token.text].concat()).shared();
        }
        let table = token.is("TABLE");
        self.unsure |= !table;
        self.current.expect = if table { Expect::Target } else { Expect::Rest };
        let drops =
            self.operation.as_deref().and_then(|text| text.get(..4)).is_some_and(|it| it.eq_ignore_ascii_case("DROP"));
        self.current.list = table && drops;
        self.current.verb = if token.is_any(words::ROUTINES) { Verb::Routine } else { Verb::Other };
    }

    fn table_word(&mut self, token: &Token<'a>) {
        if token.is_any(words::BEFORE_TABLE) {
            return;
        }
        if token.is_any(words::NO_NAME) {
            (self.unsure, self.current.expect) = (true, Expect::Rest);
            return self.clause(token, false);
        }
        self.begin_name(token);
    }

    /// A keyword within a statement.
    fn clause(&mut self, token: &Token<'a>, distinct: bool) {
        use Verb::{Copy, Delete, Insert, Load, Merge, Opaque, Routine, Select, Tables, Update, With};
        let verb = self.current.verb;
        let after_as = std::mem::replace(&mut self.after_as, token.is("AS") || token.is("FOR"));
        match verb {
            Routine if token.is("BEGIN") => (self.body, self.current.verb) = (true, Opaque),
            Opaque | Verb::Nothing => {}
            _ if token.is("SELECT") => self.statement(token),
            _ if token.is("WITH") && (after_as || verb == Insert) => self.statement(token),
            With if token.is("AS") => self.current.defining = true,
            Copy => self.streams_in |= token.is("STDIN") && self.depth == 0,
            Load if token.is("LOCAL") => self.streams_in = true,
            Load | Merge | Insert if token.is("INTO") => self.current.expect = Expect::Target,
            Select if token.is("INTO") => self.unsure = true,
            Select | Delete | Update if token.is("FROM") && !distinct => self.tables_follow(),
            Delete | Merge if token.is("USING") && !self.current.joined => self.tables_follow(),
            Select | Delete | Update | Tables if token.is("JOIN") || token.is("STRAIGHT_JOIN") => {
                (self.current.expect, self.current.joined) = (Expect::Table, true);
            }
            _ if token.is_any(words::AFTER_TABLES) => self.current.list = false,
            _ => {}
        }
    }

    fn tables_follow(&mut self) {
        (self.current.expect, self.current.list) = (Expect::Table, true);
    }
}

/// A name without its quotes.
fn unquoted<'a>(token: &Token<'a>) -> Cow<'a, str> {
    let text = token.text.trim_start_matches(['u', 'U', '&']);
    let quote = text.chars().next().filter(|quote| token.kind == Kind::Quoted && matches!(quote, '"' | '`'));
    let Some(quote) = quote else { return token.text.into() };
    let inner = text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)).unwrap_or(text);
    if !inner.contains(quote) {
        return inner.into();
    }
    inner.replace(&format!("{quote}{quote}"), &quote.to_string()).into()
}

/// A name to be told.
fn text(name: Cow<'_, str>) -> Text {
    match name {
        Cow::Borrowed(name) => Text::Shared(name.into()),
        Cow::Owned(name) => name.into(),
    }
}
