//! Statements without their literals, by the SQL reader of `agent-protocol`.
//!
//! In: the text of `db.query.text` and what `db.system.name` says. Out: the normalised text, if the text is SQL and there may be a
//! literal in it. Called by [`super::attributes`]. What begins like no SQL statement (Redis, MongoDB) is left to the patterns.

mod skeleton;

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

/// Statements repeat, but for the values in them: the results of the last ones.
pub(super) struct Statements {
    entries: [Option<Entry>; ENTRIES],
    skeleton: Vec<u8>,
}

struct Entry {
    /// Texts with the same have the same result.
    skeleton: Vec<u8>,
    rules: Rules,
    result: Normalised,
}

/// A power of two.
const ENTRIES: usize = 16;

impl Statements {
    pub fn new() -> Self {
        Self { entries: [const { None }; ENTRIES], skeleton: vec![] }
    }

    pub fn normalise(&mut self, text: &[u8], system: &[u8]) -> &Normalised {
        let rules = rules(system);
        skeleton::write(text, rules.dialect, &mut self.skeleton);
        let key = &self.skeleton;
        let ends =
            [key.first(), key.get(key.len() / 2), key.last()].map(|byte| usize::from(byte.copied().unwrap_or(0)));
        let place = (key.len() ^ ends[0] ^ ends[1] << 1 ^ ends[2] << 2) % ENTRIES;
        let entry = &mut self.entries[place];
        if !entry.as_ref().is_some_and(|entry| entry.skeleton == *key && entry.rules == rules) {
            *entry = Some(Entry { skeleton: key.clone(), rules, result: normalise(text, rules) });
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
    use proptest::prelude::*;

    use super::*;

    /// What statements are made of, and what their readers stumble over.
    const PIECES: &[&str] = &[
        "SELECT ",
        "select ",
        "WITH a AS (",
        "INSERT INTO t VALUES ",
        "UPDATE t SET ",
        "GET ",
        " WHERE ",
        "a",
        "t2",
        " ",
        "\n",
        ", ",
        "(",
        ")",
        "[",
        "]",
        "'",
        "''",
        "'x'",
        "'12'",
        "'\n'",
        "e'",
        "n'",
        "x'",
        "u&'",
        "U&\"",
        "\"",
        "`",
        "\\",
        "--",
        "-",
        "+",
        "/*",
        "*/",
        "/*!40101 ",
        "//",
        "#",
        "$",
        "$1",
        "$$",
        "?",
        ":",
        "@",
        "=",
        ";",
        ".",
        "1",
        "22",
        "333333333",
        "12345678-",
        "0x1F",
        "1e",
        "1.5",
        "_",
        "NULL",
        "é",
        "\u{2019}",
    ];

    fn a_text() -> impl Strategy<Value = String> {
        let pieces = prop::collection::vec(prop::sample::select(PIECES), 0..12);
        (prop::sample::select(&["SELECT a ", "", "USE "][..]), pieces)
            .prop_map(|(begin, pieces)| begin.to_owned() + &pieces.concat())
    }

    /// The same with other values.
    fn other_values(text: &str) -> String {
        text.replace("22", "7").replace("'x'", "'a b 1'").replace("'12'", "''").replace("333333333", "12345678")
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_remembered_is_what_would_be_read(texts in prop::collection::vec(a_text(), 1..4)) {
            for system in ["postgresql", "mysql", "cassandra", ""] {
                let mut statements = Statements::new();
                for text in texts.iter().flat_map(|text| [text.clone(), other_values(text)]) {
                    let read = normalise(text.as_bytes(), rules(system.as_bytes()));
                    prop_assert_eq!(statements.normalise(text.as_bytes(), system.as_bytes()), &read, "{}", text);
                }
            }
        }
    }

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
    fn only_values_make_no_difference() {
        let mut statements = Statements::new();
        let mut result = |text: &str| statements.normalise(text.as_bytes(), b"postgresql").clone();
        let by_id = text("SELECT a1 FROM t WHERE id = ? AND b = ?");
        assert_eq!(result("SELECT a1 FROM t WHERE id = 7 AND b = 'x'"), by_id);
        assert_eq!(result("SELECT a1 FROM t WHERE id = 1234 AND b = ''"), by_id);
        assert_eq!(
            result("SELECT a2 FROM t WHERE id = 7 AND b = 'x'"),
            text("SELECT a2 FROM t WHERE id = ? AND b = ?")
        );
        assert_eq!(result("SELECT a1 FROM t WHERE id = 7 AND b = ?"), by_id);
        assert_eq!(result("SELECT \"a 1\" FROM t"), Normalised::Clean);
        assert_eq!(result("SELECT \"a 2\" FROM t WHERE b = 1"), text("SELECT \"a 2\" FROM t WHERE b = ?"));
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
