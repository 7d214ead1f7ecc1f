//! The keywords that say what a statement does.

use super::lexer::Token;
use crate::text::Text;

/// What a statement is, as far as that says where its tables stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Verb {
    /// Not a statement, or not yet.
    #[default]
    Nothing,
    Select,
    Insert,
    Update,
    Delete,
    Merge,
    Truncate,
    Copy,
    Load,
    Call,
    Use,
    With,
    Explain,
    /// `CREATE`, `ALTER`, `DROP`.
    Define,
    /// `TABLE name`.
    Table,
    /// Tables in parentheses.
    Tables,
    /// May hold a `SELECT`.
    Other,
    /// Makes a routine: may hold statements.
    Routine,
    /// Says nothing about tables.
    Opaque,
}

/// First words of statements, sorted.
const VERBS: &[(&str, Verb)] = &[
    ("ABORT", Verb::Opaque),
    ("ALTER", Verb::Define),
    ("ANALYSE", Verb::Opaque),
    ("ANALYZE", Verb::Opaque),
    ("BEGIN", Verb::Opaque),
    ("CALL", Verb::Call),
    ("CHANGE", Verb::Opaque),
    ("CHECK", Verb::Opaque),
    ("CHECKPOINT", Verb::Opaque),
    ("CHECKSUM", Verb::Opaque),
    ("CLOSE", Verb::Opaque),
    ("CLUSTER", Verb::Opaque),
    ("COMMENT", Verb::Opaque),
    ("COMMIT", Verb::Opaque),
    ("COPY", Verb::Copy),
    ("CREATE", Verb::Define),
    ("DEALLOCATE", Verb::Opaque),
    ("DECLARE", Verb::Other),
    ("DELETE", Verb::Delete),
    ("DESC", Verb::Explain),
    ("DESCRIBE", Verb::Explain),
    ("DISCARD", Verb::Opaque),
    ("DO", Verb::Opaque),
    ("DROP", Verb::Define),
    ("END", Verb::Opaque),
    ("EXECUTE", Verb::Opaque),
    ("EXPLAIN", Verb::Explain),
    ("FETCH", Verb::Opaque),
    ("FLUSH", Verb::Opaque),
    ("GRANT", Verb::Opaque),
    ("HANDLER", Verb::Opaque),
    ("HELP", Verb::Opaque),
    ("IMPORT", Verb::Opaque),
    ("INSERT", Verb::Insert),
    ("INSTALL", Verb::Opaque),
    ("KILL", Verb::Opaque),
    ("LISTEN", Verb::Opaque),
    ("LOAD", Verb::Load),
    ("LOCK", Verb::Opaque),
    ("MERGE", Verb::Merge),
    ("MOVE", Verb::Opaque),
    ("NOTIFY", Verb::Opaque),
    ("OPTIMIZE", Verb::Opaque),
    ("PREPARE", Verb::Opaque),
    ("PURGE", Verb::Opaque),
    ("REASSIGN", Verb::Opaque),
    ("REFRESH", Verb::Opaque),
    ("REINDEX", Verb::Opaque),
    ("RELEASE", Verb::Opaque),
    ("RENAME", Verb::Opaque),
    ("REPAIR", Verb::Opaque),
    ("REPLACE", Verb::Insert),
    ("RESET", Verb::Opaque),
    ("REVOKE", Verb::Opaque),
    ("ROLLBACK", Verb::Opaque),
    ("SAVEPOINT", Verb::Opaque),
    ("SECURITY", Verb::Opaque),
    ("SELECT", Verb::Select),
    ("SET", Verb::Opaque),
    ("SHOW", Verb::Opaque),
    ("SHUTDOWN", Verb::Opaque),
    ("SIGNAL", Verb::Opaque),
    ("START", Verb::Define),
    ("START_REPLICATION", Verb::Opaque),
    ("STOP", Verb::Opaque),
    ("TABLE", Verb::Table),
    ("TRUNCATE", Verb::Truncate),
    ("UNINSTALL", Verb::Opaque),
    ("UNLISTEN", Verb::Opaque),
    ("UNLOCK", Verb::Opaque),
    ("UPDATE", Verb::Update),
    ("USE", Verb::Use),
    ("VACUUM", Verb::Opaque),
    ("VALUES", Verb::Other),
    ("WITH", Verb::With),
    ("XA", Verb::Opaque),
];

/// With which a query in parentheses begins.
pub(super) const QUERIES: &[&str] = &["SELECT", "WITH", "VALUES"];

/// What `CREATE` and its like are about.
pub(super) const OBJECTS: &[&str] = &[
    "TABLE",
    "INDEX",
    "VIEW",
    "FUNCTION",
    "PROCEDURE",
    "TRIGGER",
    "DATABASE",
    "SCHEMA",
    "USER",
    "ROLE",
    "SEQUENCE",
    "EXTENSION",
    "TYPE",
    "DOMAIN",
    "TABLESPACE",
    "POLICY",
    "PUBLICATION",
    "SUBSCRIPTION",
    "STATISTICS",
    "AGGREGATE",
    "OPERATOR",
    "COLLATION",
    "SERVER",
    "RULE",
    "EVENT",
    "LANGUAGE",
    "CAST",
    "CONVERSION",
    "SYSTEM",
    "DEFAULT",
    "GROUP",
    "TRANSACTION",
];

/// Those of them that have a body.
pub(super) const ROUTINES: &[&str] = &["FUNCTION", "PROCEDURE", "TRIGGER", "EVENT"];

/// What may stand before a table's name.
pub(super) const BEFORE_TABLE: &[&str] = &[
    "ONLY",
    "LATERAL",
    "TABLE",
    "INTO",
    "IF",
    "NOT",
    "EXISTS",
    "LOW_PRIORITY",
    "HIGH_PRIORITY",
    "DELAYED",
    "IGNORE",
    "QUICK",
];

/// Reserved words: no names of tables.
pub(super) const NO_NAME: &[&str] = &[
    "SET", "WHERE", "VALUES", "FROM", "JOIN", "ON", "AS", "USING", "ORDER", "GROUP", "HAVING", "LIMIT", "SELECT",
    "UNION", "ROWS", "OUTFILE", "DUMPFILE", "AND", "OR", "IN", "IS", "NULL", "DEFAULT", "WHEN", "THEN", "ELSE", "END",
    "CASE",
];

/// What ends a list of tables.
pub(super) const AFTER_TABLES: &[&str] = &[
    "WHERE",
    "GROUP",
    "ORDER",
    "HAVING",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "UNION",
    "EXCEPT",
    "INTERSECT",
    "SET",
    "WINDOW",
    "FOR",
    "RETURNING",
    "VALUES",
    "WHEN",
    "PROCEDURE",
    "LOCK",
];

/// Where the verbs of each letter begin in [`VERBS`], and where the last ones end.
const LETTERS: [u8; 27] = {
    let (mut begins, mut at) = ([0; 27], 0);
    while at < VERBS.len() {
        let mut later = (VERBS[at].0.as_bytes()[0] - b'A') as usize + 1;
        while later < begins.len() {
            begins[later] = at as u8 + 1;
            later += 1;
        }
        at += 1;
    }
    begins
};

/// What the first word of a statement says.
pub(super) fn verb(token: &Token<'_>) -> Option<Verb> {
    find(token.text).map(|(_, verb)| verb)
}

/// The first word of a statement as it is written.
pub(super) fn written(word: &str) -> Text {
    match find(word) {
        Some((known, _)) if known == word => known.into(),
        _ => Text::Shared(word.into()),
    }
}

fn find(word: &str) -> Option<(&'static str, Verb)> {
    let letter = usize::from(word.bytes().next()?.to_ascii_uppercase().checked_sub(b'A')?);
    let (begin, end) = (*LETTERS.get(letter)?, *LETTERS.get(letter + 1)?);
    let mut verbs = VERBS[usize::from(begin)..usize::from(end)].iter();
    verbs.find(|(known, _)| word.eq_ignore_ascii_case(known)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_sorted() {
        assert!(VERBS.is_sorted_by(|(one, _), (next, _)| one < next));
    }

    #[test]
    fn every_verb_is_found_in_any_case_and_nothing_else_is() {
        let found = |text: &str| verb(&Token { kind: super::super::lexer::Kind::Word, text, spaced: false });
        for (text, expected) in VERBS {
            assert_eq!(found(text), Some(*expected), "{text}");
            assert_eq!(found(&text.to_lowercase()), Some(*expected), "{text}");
            assert_eq!(found(&format!("{text}X")), None);
        }
        for text in ["", "SELEC", "1", "@", "[", "Z", "é", "\u{7f}"] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
