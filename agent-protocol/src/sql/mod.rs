//! SQL as a span may show it: without literals and comments, with what it does and to which table.
//!
//! In: a statement's bytes as sent, perhaps cut. Out: a [`Statement`]. Called by the parsers of [`crate::postgres`],
//! [`crate::mysql`] and [`crate::cassandra`]. Never keeps a literal: where it cannot be sure where a literal ends, the rest of the text is dropped.
//!
//! Written by hand: `sqlparser`'s tokenizer allocates a string per token (about ten times this time per statement), and answers
//! an error where a text ends within a literal, which is the normal case for one that was not captured whole.
//!
//! Limits: [`READ_BYTES_MAX`] bytes are read, [`TEXT_BYTES_MAX`] written. A double-quoted text is a literal in MySQL's dialect,
//! since whether `ANSI_QUOTES` is set is not told.

mod lexer;
mod outline;
mod prepared;
mod text;
mod words;

use crate::{
    session::{Facts, ROOM},
    text::Text,
    traceparent::{self, TraceParent},
};

pub use self::prepared::Prepared;
use self::{lexer::Lexer, outline::Outline, text::Writer};

/// Most bytes of a statement that are read.
pub const READ_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of a normalised text, but for a mark where it was cut.
pub const TEXT_BYTES_MAX: usize = 2048;
/// Most bytes of `db.query.summary`, as the semantic conventions say.
pub const SUMMARY_BYTES_MAX: usize = 255;
/// What stands where a text was cut.
const CUT: &str = "...";

/// Whose SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL: `"` quotes names, `$tag$` and `E''` literals, comments nest.
    Postgres,
    /// MySQL and MariaDB: backticks quote names, `#` begins a comment, `/*!` hides SQL.
    Mysql,
    /// Cassandra's CQL: like PostgreSQL's, but `//` begins a comment, and UUIDs stand without quotes.
    Cql,
}

/// What a backslash in a literal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backslash {
    /// It hides a quote behind it.
    Escapes,
    /// Nothing.
    Plain,
    /// Not known: the text ends where that matters.
    Unknown,
}

/// How to read a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whose.
    pub dialect: Dialect,
    /// In literals without a prefix.
    pub backslash: Backslash,
}

/// What a statement says, without anything that may be secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// The text: literals are `?`, lists of values `(?)`, white space and comments one space. Empty if it begins like no
    /// statement.
    pub text: Text,
    /// What it does, in the case of the text: `SELECT`, `CREATE TABLE`; nothing if there are several statements.
    pub operation: Option<Text>,
    /// The table, if exactly one is named for sure.
    pub collection: Option<Text>,
    /// The procedure that is called.
    pub procedure: Option<Text>,
    /// Operations and tables in the order of the text: `INSERT a SELECT b`.
    pub summary: Option<Text>,
    /// What a `traceparent` in a comment says (sqlcommenter).
    pub trace: Option<TraceParent>,
    /// The client sends data after it (`COPY … FROM STDIN`, `LOAD DATA LOCAL`).
    pub streams_in: bool,
    /// The database that it changes to (`USE`), if that is sure.
    pub database: Option<Text>,
    /// Whether it changes the database, or one of several statements does.
    pub uses: bool,
}

impl Statement {
    /// Reads a text; `whole`: it was not cut.
    pub fn read(bytes: &[u8], whole: bool, rules: Rules) -> Self {
        let (text, to_its_end) = readable(bytes);
        let mut lexer = Lexer::new(text, rules);
        let (mut writer, mut outline) = (Writer::for_text(text), Outline::default());
        for token in lexer.by_ref() {
            writer.push(&token);
            outline.push(&token);
        }
        let whole = whole && to_its_end && lexer.is_sure();
        let trace = lexer.trace();
        let mut statement = outline.finish(whole);
        // What begins like no statement may be anything.
        if statement.summary.is_some() {
            let mut text = writer.finish(whole);
            // Most of it was values.
            if text.capacity() > 2 * text.len().max(64) {
                text.shrink_to_fit();
            }
            statement.text = text.into();
        }
        statement.trace = trace;
        statement
    }

    /// As attributes, and the span's name.
    pub fn facts(self, system: &'static str) -> Facts {
        let mut facts = Facts { attributes: Vec::with_capacity(ROOM), ..Facts::default() };
        self.tell(system, &mut facts);
        facts
    }

    /// Adds them to facts that have none of them.
    pub fn tell(self, system: &'static str, facts: &mut Facts) {
        let name = self.summary.as_ref().or(self.operation.as_ref());
        facts.name = name.cloned().or(facts.name.take());
        facts.attributes.push(("db.system.name", system.into()));
        let texts = [
            ("db.operation.name", self.operation),
            ("db.collection.name", self.collection),
            ("db.stored_procedure.name", self.procedure),
            ("db.query.summary", self.summary),
            ("db.query.text", Some(self.text).filter(|text| !text.is_empty())),
        ];
        facts.attributes.extend(texts.into_iter().filter_map(|(key, text)| Some((key, text?.into()))));
    }

    /// The same, to be told again and again: copies of its texts allocate nothing.
    pub fn shared(self) -> Self {
        let [collection, procedure, database] =
            [self.collection, self.procedure, self.database].map(|text| text.map(Text::shared));
        Self { text: self.text.shared(), collection, procedure, database, ..self }
    }

    /// Bytes that it takes.
    fn bytes(&self) -> usize {
        let texts = [&self.operation, &self.collection, &self.procedure, &self.summary, &self.database];
        size_of::<Self>() + self.text.len() + texts.into_iter().flatten().map(|text| text.len()).sum::<usize>()
    }
}

/// What can be read of a statement, and whether that is all of it.
fn readable(bytes: &[u8]) -> (&str, bool) {
    let read = &bytes[..bytes.len().min(READ_BYTES_MAX)];
    match std::str::from_utf8(read) {
        Ok(text) => (text, read.len() == bytes.len()),
        // In some encodings the second byte of a character looks like a backslash.
        Err(error) => (std::str::from_utf8(&read[..error.valid_up_to()]).unwrap_or_default(), false),
    }
}

/// The text alone of what [`Statement::read`] says of a whole statement, for a part of its time; nothing if it does not
/// [begin](begins) like one.
pub fn text(bytes: &[u8], rules: Rules) -> Option<String> {
    if !bytes.first().is_some_and(u8::is_ascii_alphabetic) {
        return begins(bytes, true).then(|| Statement::read(bytes, true, rules).text.into_owned());
    }
    let (readable, to_its_end) = readable(bytes);
    let mut lexer = Lexer::new(readable, rules);
    // A word at the very beginning is the same in all dialects.
    let first = lexer.next()?;
    if words::verb(&first)? == words::Verb::With {
        // Only what follows says whether it is a statement.
        return Some(Statement::read(bytes, true, rules).text.into_owned());
    }
    let mut writer = Writer::for_text(readable);
    writer.push(&first);
    lexer.by_ref().for_each(|token| writer.push(&token));
    Some(writer.finish(to_its_end && lexer.is_sure()))
}

/// Whether a text, `whole` or just begun, begins with a word that begins statements.
pub fn begins(bytes: &[u8], whole: bool) -> bool {
    let begin = &bytes[..bytes.len().min(256)];
    let text = std::str::from_utf8(begin)
        .unwrap_or_else(|error| std::str::from_utf8(&begin[..error.valid_up_to()]).unwrap_or_default());
    let rules = Rules { dialect: Dialect::Mysql, backslash: Backslash::Unknown };
    let mut tokens = Lexer::new(text, rules).skip_while(|token| token.kind == lexer::Kind::Symbol(b'('));
    let first = tokens.next();
    // A word at the end may go on.
    first.is_some_and(|first| words::verb(&first).is_some() && (whole || tokens.next().is_some()))
}

/// Who is to blame for an error, by the class of its SQLSTATE (SQL:2016 part 2, 24.1; PostgreSQL, appendix A): the client for its
/// statement or data; the server for resources, conflicts between transactions, an operator, itself.
pub fn outcome(sqlstate: &str, error_type: String) -> crate::session::Outcome {
    use crate::session::Outcome;
    const SERVER: [&str; 9] = ["08", "40", "53", "54", "55", "57", "58", "F0", "HV"];
    let class = sqlstate.get(..2).unwrap_or_default();
    let server = SERVER.contains(&class) || matches!(class, "XX" | "HY" | "");
    if server { Outcome::Error(error_type.into()) } else { Outcome::ClientError(error_type.into()) }
}

/// The `traceparent` of a sqlcommenter comment: `key='value'` pairs.
fn trace_in(comment: &str) -> Option<TraceParent> {
    const KEY: &str = "traceparent='";
    let at = comment.find(KEY)?;
    let value = &comment[at + KEY.len()..];
    traceparent::parse(&value[..value.find('\'')?])
}

#[cfg(test)]
mod tests;
