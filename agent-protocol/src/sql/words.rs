//! The keywords that say what a statement does.

use super::lexer::Token;

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

/// What the first word of a statement says.
pub(super) fn verb(token: &Token<'_>) -> Option<Verb> {
    let mut upper = [0; 20];
    let word = token.text.as_bytes();
    let upper = upper.get_mut(..word.len())?;
    upper.copy_from_slice(word);
    upper.make_ascii_uppercase();
    let at = VERBS.binary_search_by(|(known, _)| known.as_bytes().cmp(upper)).ok()?;
    Some(VERBS[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_sorted() {
        assert!(VERBS.is_sorted_by(|(one, _), (next, _)| one < next));
    }
}
