//! Statements without their literals, by the SQL reader of `agent-protocol`.
//!
//! In: the text of `db.query.text` and what `db.system.name` says. Out: the normalised text, if the text is SQL and there may be a
//! literal in it. Called by [`super::attributes`]. What begins like no SQL statement (Redis, MongoDB) is left to the patterns.

use agent_protocol::sql::{self, Backslash, Dialect, Rules};

/// What a text becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Normalised {
    /// Nothing in it can be a literal.
    Clean,
    /// Not SQL, so nothing is known of it.
    Unknown,
    /// SQL without literals.
    Text(String),
}

/// Statements repeat: the results of the last ones.
pub(super) struct Statements<'a> {
    entries: [Option<Entry<'a>>; ENTRIES],
}

struct Entry<'a> {
    text: &'a [u8],
    rules: Rules,
    result: Normalised,
}

/// A power of two.
const ENTRIES: usize = 16;

impl<'a> Statements<'a> {
    pub fn new() -> Self {
        Self { entries: [const { None }; ENTRIES] }
    }

    /// Of a text that is found again in the request.
    pub fn normalise(&mut self, text: &'a [u8], system: &[u8]) -> &Normalised {
        let rules = rules(system);
        let ends =
            [text.first(), text.get(text.len() / 2), text.last()].map(|byte| usize::from(byte.copied().unwrap_or(0)));
        let place = (text.len() ^ ends[0] ^ ends[1] << 1 ^ ends[2] << 2) % ENTRIES;
        let entry = &mut self.entries[place];
        if !entry.as_ref().is_some_and(|entry| entry.text == text && entry.rules == rules) {
            *entry = Some(Entry { text, rules, result: normalise(text, rules) });
        }
        entry.as_ref().map_or(&Normalised::Unknown, |entry| &entry.result)
    }
}

fn normalise(text: &[u8], rules: Rules) -> Normalised {
    let in_literal_or_comment = |byte: &u8| byte.is_ascii_digit() || !byte.is_ascii() || b"'\"`$#-/".contains(byte);
    if text.len() <= sql::TEXT_BYTES_MAX && !text.iter().any(in_literal_or_comment) {
        return if sql::begins(text, true) { Normalised::Clean } else { Normalised::Unknown };
    }
    match sql::text(text, rules) {
        Some(same) if same.as_bytes() == text => Normalised::Clean,
        Some(other) if !other.is_empty() => Normalised::Text(other),
        _ => Normalised::Unknown,
    }
}

/// How to read a system's SQL. Of what is not known, double-quoted texts count as literals, and the text ends at a backslash in one.
fn rules(system: &[u8]) -> Rules {
    let (dialect, backslash) = match system {
        b"postgresql"
        | b"cockroachdb"
        | b"redshift"
        | b"aws.redshift"
        | b"sqlite"
        | b"oracle"
        | b"oracle.db"
        | b"mssql"
        | b"microsoft.sql_server"
        | b"db2"
        | b"ibm.db2"
        | b"trino"
        | b"snowflake" => (Dialect::Postgres, Backslash::Unknown),
        b"cassandra" => (Dialect::Cql, Backslash::Plain),
        b"mysql" | b"mariadb" => (Dialect::Mysql, Backslash::Escapes),
        _ => (Dialect::Mysql, Backslash::Unknown),
    };
    Rules { dialect, backslash }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(system: &str, text: &str, expected: &Normalised) {
        assert_eq!(Statements::new().normalise(text.as_bytes(), system.as_bytes()), expected, "{system} {text}");
    }

    fn text(text: &str) -> Normalised {
        Normalised::Text(text.to_owned())
    }

    #[test]
    fn literals_go() {
        check(
            "postgresql",
            "SELECT * FROM users WHERE name = 'joe' AND id = 7",
            &text("SELECT * FROM users WHERE name = ? AND id = ?"),
        );
        check("mysql", "SELECT \"joe\"", &text("SELECT ?"));
        check("postgresql", "SELECT \"joe\" FROM t", &Normalised::Clean);
        check("", "SELECT \"joe\" FROM t", &text("SELECT ? FROM t"));
        check("postgresql", "SELECT a FROM t WHERE b = $1", &Normalised::Clean);
        check("mysql", "SELECT a FROM t WHERE b = ?", &Normalised::Clean);
    }

    #[test]
    fn what_is_no_sql_is_left_alone() {
        check("redis", "GET user:17", &Normalised::Unknown);
        check("mongodb", "{\"find\": \"users\"}", &Normalised::Unknown);
        check("", "", &Normalised::Unknown);
    }

    #[test]
    fn a_statement_is_read_once_for_each_dialect() {
        let mut statements = Statements::new();
        for _ in 0..2 {
            assert_eq!(statements.normalise(b"SELECT \"a\" FROM t", b"postgresql"), &Normalised::Clean);
            assert_eq!(statements.normalise(b"SELECT \"a\" FROM t", b"mysql"), &text("SELECT ? FROM t"));
        }
    }
}
