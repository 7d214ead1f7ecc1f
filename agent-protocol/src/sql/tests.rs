//! Statements of both dialects; that no literal survives.

use super::*;
use crate::fuzzing::Random;

const POSTGRES: Rules = Rules { dialect: Dialect::Postgres, backslash: Backslash::Plain };
const MYSQL: Rules = Rules { dialect: Dialect::Mysql, backslash: Backslash::Escapes };

fn text(rules: Rules, sql: &str) -> String {
    Statement::read(sql.as_bytes(), true, rules).text.into_owned()
}

fn check_text(rules: Rules, cases: &[(&str, &str)]) {
    for (sql, expected) in cases {
        assert_eq!(text(rules, sql), *expected, "{sql}");
    }
}

/// Checks what may stand behind `SELECT`.
fn check_rest(rules: Rules, cases: &[(&str, &str)]) {
    for (sql, expected) in cases {
        assert_eq!(text(rules, &format!("SELECT {sql}")), format!("SELECT {expected}"), "{sql}");
    }
}

#[test]
fn literals_of_postgres_are_replaced() {
    let cases = [
        ("SELECT 1", "SELECT ?"),
        ("select 'a''b', 'c' ;", "select ?, ?"),
        ("SELECT 'C:\\', 'x'", "SELECT ?, ?"),
        (r"SELECT E'it\'s', e'\\', 'x'", "SELECT ?, ?, ?"),
        ("SELECT E'a'\n'b\\'c' FROM t", "SELECT ?\n? FROM t".replace('\n', " ").leak()),
        ("SELECT B'01', X'ff', N'n', U&'\\0041', U&\"\\0041\"", "SELECT ?, ?, ?, ?, U&\"\\0041\""),
        ("SELECT $$a 'b$$, $t$ $$ $u$ $t$, $1", "SELECT ?, ?, $1"),
        ("SELECT 1.5e+10, .5, 0xff, 1_000, -3, a.b, t1, $1::int", "SELECT ?, ?, ?, ?, ?, a.b, t1, $1::int"),
        ("SELECT \"a\"\"b'c\", x::text FROM \"T\"", "SELECT \"a\"\"b'c\", x::text FROM \"T\""),
        ("SELECT date '2020-01-01' + interval '1 day'", "SELECT date ? + interval ?"),
        ("SELECT 'open", "SELECT ?"),
        ("SELECT $tag$ open", "SELECT ?"),
        ("SELECT a?b, c ? 'x'", "SELECT a?b, c ? ?"),
        ("DO $$ begin raise notice 'x'; end $$", "DO ?"),
        ("UPDATE t SET a = NULL WHERE b IS NOT TRUE", "UPDATE t SET a = NULL WHERE b IS NOT TRUE"),
    ];
    check_text(POSTGRES, &cases);
}

#[test]
fn literals_of_cql_are_replaced() {
    let cases = [
        ("SELECT * FROM a.b WHERE id = 550e8400-e29b-41d4-a716-446655440000", "SELECT * FROM a.b WHERE id = ?"),
        ("DELETE FROM t WHERE id IN (e29b0000-e29b-41d4-a716-446655440000, ?)", "DELETE FROM t WHERE id IN (?, ?)"),
        ("SELECT a FROM t WHERE id = 550e8400-e29b", "SELECT a FROM t WHERE id = ?"),
        ("INSERT INTO t (a, b, c) VALUES (0xcafe, 1h30m, {'k': 'v'})", "INSERT INTO t (a, b, c) VALUES (?, ?, {?: ?})"),
        (
            "SELECT a // 'x' secret\nFROM \"T\" -- y\nWHERE b = :name AND c = $$it's$$",
            "SELECT a FROM \"T\" WHERE b = :name AND c = ?",
        ),
        ("SELECT 'C:\\', 'x' /* /* */", "SELECT ?, ?"),
    ];
    check_text(Rules { dialect: Dialect::Cql, backslash: Backslash::Plain }, &cases);
}

#[test]
fn literals_of_mysql_are_replaced() {
    let cases = [
        (r#"SELECT 'a\'b', "c\"d", 'e''f', "g'h""#, "SELECT ?, ?, ?, ?"),
        ("SELECT `a``'b` FROM `t`", "SELECT `a``'b` FROM `t`"),
        ("SELECT _utf8mb4'x', N'y', x'00', b'1', 0x1F, @v, @@sql_mode", "SELECT _utf8mb4?, ?, ?, ?, ?, @v, @@sql_mode"),
        ("SELECT 5--5, 6 -- rest\n, 7 # rest 'x\n, ?", "SELECT ?-?, ? , ? , ?"),
        ("/*!40101 SET NAMES utf8 */", "SET NAMES utf8"),
        ("SELECT /*+ hint('x') */ 1 /*M!100100 + 'y' */", "SELECT ? + ?"),
        ("SET PASSWORD FOR 'u'@'h' = 'secret'", "SET PASSWORD FOR ?@? = ?"),
    ];
    check_text(MYSQL, &cases);
}

#[test]
fn where_mysqls_versions_differ_the_text_ends() {
    let cases = [
        ("SELECT /*!99999 don't */ 'hunter2'", "SELECT don?..."),
        ("SELECT /*!99999 `a */ 'hunter2', `b'` */ 1", "SELECT ?..."),
        ("SELECT /*!99999 # it's */ 'hunter2'", "SELECT..."),
        ("SELECT /*!50000 /*!99999 'a */ 'hunter2' */ 1", "SELECT..."),
        ("SELECT /*!99999 'a /* b' */ don't */ 'hunter2'", "SELECT ?..."),
        ("SELECT /*M!999999 it's */ 'hunter2'", "SELECT it?..."),
        ("SELECT /*!50000 'a', /* it's */ `b` */, 'c'", "SELECT ?, `b` , ?"),
        ("SELECT 1 # it\r' \n, 'hunter2'", "SELECT ? , ?"),
        ("SELECT 1 -- it\r' \n, 'hunter2'", "SELECT ? , ?"),
        ("SELECT 1 --\x7fit's \n, 'hunter2'", "SELECT ? , ?"),
        ("SELECT 1 # a\0, 'hunter2", "SELECT ?..."),
        (
            "CREATE FUNCTION f() RETURNS INT LANGUAGE JAVASCRIPT AS $$ return hunter2 $$",
            "CREATE FUNCTION f() RETURNS INT LANGUAGE JAVASCRIPT AS ?...",
        ),
        ("SELECT 1 AS $mle$ return hunter2 $mle$", "SELECT ? AS ?..."),
        ("SELECT $a, b$$ FROM t$", "SELECT $a, b$$ FROM t$"),
    ];
    check_text(MYSQL, &cases);
}

#[test]
fn comments_are_space_and_nest_only_in_postgres() {
    check_rest(POSTGRES, &[("a/* x /* 'y */ z */b -- c\nd", "a b d"), ("x /* open 'x", "x"), ("a -- b\rc", "a c")]);
    check_rest(MYSQL, &[("a/* x /* 'y */b", "a b")]);
}

#[test]
fn lists_of_values_are_one_value() {
    let cases = [
        ("a IN (1, 2, 3)", "a IN (?)"),
        ("a IN ($1,$2)", "a IN (?)"),
        ("a = -1 AND b + -2 > c - 3", "a = ? AND b + ? > c - ?"),
        ("VALUES (1, 'a', NULL), (2, DEFAULT, -3),(4, '', TRUE)", "VALUES (?)"),
        ("VALUES (1, now()), (2, now()), (3, now())", "VALUES (?, now())"),
        ("(a, 1, 2), (b, 3)", "(a, ?, ?), (b, ?)"),
        ("(1, 2, a)", "(?, ?, a)"),
        ("(1, - a), (- b)", "(?, - a), (- b)"),
        ("(- -2), (- - a)", "(?), (-- a)"),
        ("ARRAY[1,2], x[1]", "ARRAY[?], x[?]"),
        ("((1, 2), (3, 4)), ((5, 6))", "((?))"),
        ("f(a), f(a)", "f(a), f(a)"),
        ("(a), (a)", "(a), (a)"),
        ("(1,) (2", "(?,) (?"),
        ("(1, 2", "(?, ?"),
        ("(1, -;", "(?, -"),
        ("(-;", "(-"),
    ];
    check_rest(POSTGRES, &cases);
    let many = format!("VALUES {}", vec!["(1, 'x', now())"; 1000].join(", "));
    assert_eq!(text(POSTGRES, &many), "VALUES (?, ?, now())...", "16 KiB of it were read");
}

#[test]
fn what_begins_like_no_statement_is_not_told() {
    check_text(POSTGRES, &[("hunter2", ""), ("selec 1", ""), ("", ""), ("'x' SELECT", "")]);
}

#[test]
fn texts_are_bounded_and_say_that_they_were_cut() {
    let long = text(POSTGRES, &format!("SELECT {}", "\u{e9}, ".repeat(3000)));
    assert!(long.len() <= TEXT_BYTES_MAX + CUT.len() && long.ends_with("..."), "{}", long.len());
    let cut = Statement::read(b"SELECT a FROM t WHERE x = 'sec", false, POSTGRES);
    assert_eq!((cut.text.as_str(), cut.collection), ("SELECT a FROM t WHERE x = ?...", None));
    assert_eq!(cut.summary.as_deref(), Some("SELECT t"));
    for depth in [31, 32, 33, 5000] {
        let nested = format!("SELECT {}1{} FROM t", "(".repeat(depth), ")".repeat(depth));
        let read = Statement::read(nested.as_bytes(), true, POSTGRES);
        assert_eq!(read.operation.as_deref(), Some("SELECT"), "{depth}");
        assert!(depth > 32 || read.text.ends_with(")) FROM t"), "{}", read.text);
    }
}

fn outline(sql: &str) -> String {
    let Statement { operation, collection, summary, .. } = Statement::read(sql.as_bytes(), true, POSTGRES);
    let [operation, collection, summary] = [operation, collection, summary].map(Option::unwrap_or_default);
    format!("{operation} | {collection} | {summary}")
}

#[test]
fn tables_are_named_if_they_are_sure() {
    let cases = [
        ("SELECT * FROM songs WHERE a = 1", "SELECT | songs | SELECT songs"),
        ("select * from public.\"My songs\" s", "select | public.My songs | select public.My songs"),
        ("SELECT * FROM a, b AS x, c JOIN d ON a.i = d.i, e", "SELECT |  | SELECT a b c d e"),
        ("SELECT a.x FROM a JOIN a b USING (x)", "SELECT | a | SELECT a"),
        ("SELECT x FROM (SELECT * FROM t) s ORDER BY a, b", "SELECT | t | SELECT SELECT t"),
        ("SELECT extract(year FROM ts), trim(both from x) FROM t", "SELECT | t | SELECT t"),
        ("SELECT a IS DISTINCT FROM b FROM t", "SELECT | t | SELECT t"),
        ("SELECT * FROM generate_series(1, 3) g, t", "SELECT | t | SELECT t"),
        ("SELECT 1", "SELECT |  | SELECT"),
        ("SELECT 1 FROM dual", "SELECT |  | SELECT"),
        ("SELECT a FROM t UNION SELECT b FROM u", "SELECT |  | SELECT t SELECT u"),
        ("(SELECT a FROM t) UNION (SELECT b FROM t)", "SELECT | t | SELECT t SELECT"),
        ("SELECT * FROM (a JOIN b ON a.x = b.x), c", "SELECT |  | SELECT a b c"),
        ("SELECT * INTO n FROM t", "SELECT |  | SELECT t"),
        ("INSERT INTO t (a, b) VALUES (1, 2), (3, 4)", "INSERT | t | INSERT t"),
        ("INSERT INTO t SELECT * FROM u", "INSERT |  | INSERT t SELECT u"),
        ("INSERT INTO t WITH x AS (SELECT 1) SELECT * FROM x", "INSERT | t | INSERT t SELECT SELECT"),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 2", "INSERT | t | INSERT t"),
        ("UPDATE ONLY t SET a = 1, b = 2 FROM u WHERE x", "UPDATE |  | UPDATE t u"),
        ("UPDATE t SET a = (SELECT max(b) FROM t)", "UPDATE | t | UPDATE t SELECT"),
        ("DELETE FROM a.b.c WHERE d IN (1)", "DELETE | a.b.c | DELETE a.b.c"),
        ("DELETE FROM a USING b WHERE x", "DELETE |  | DELETE a b"),
        ("MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN UPDATE SET b = 1, c = 2", "MERGE |  | MERGE t s"),
        (
            "WITH RECURSIVE x (i) AS (SELECT 1), y AS NOT MATERIALIZED (DELETE FROM t RETURNING *) SELECT * FROM x, Y",
            "SELECT | t | SELECT DELETE t SELECT",
        ),
        ("CREATE TABLE IF NOT EXISTS t (a int, b text)", "CREATE TABLE | t | CREATE TABLE t"),
        (
            "CREATE TEMP TABLE t AS WITH x AS (SELECT 1) SELECT * FROM x",
            "CREATE TABLE | t | CREATE TABLE t SELECT SELECT",
        ),
        ("CREATE UNIQUE INDEX i ON t (a)", "CREATE INDEX |  | CREATE INDEX"),
        ("ALTER TABLE t ADD a int, ADD b int", "ALTER TABLE | t | ALTER TABLE t"),
        ("DROP TABLE a, b", "DROP TABLE |  | DROP TABLE a b"),
        ("TRUNCATE TABLE a, b", "TRUNCATE |  | TRUNCATE a b"),
        ("COPY t (a, b) FROM STDIN WITH (FORMAT csv)", "COPY | t | COPY t"),
        ("COPY (SELECT * FROM t) TO STDOUT", "COPY | t | COPY SELECT t"),
        ("EXPLAIN (ANALYZE, BUFFERS) SELECT * FROM t", "EXPLAIN | t | EXPLAIN SELECT t"),
        ("EXPLAIN ANALYZE VERBOSE DELETE FROM t", "EXPLAIN | t | EXPLAIN DELETE t"),
        ("DECLARE c CURSOR FOR SELECT * FROM t", "DECLARE | t | DECLARE SELECT t"),
        ("BEGIN; SELECT * FROM t; COMMIT", " |  | BEGIN SELECT t COMMIT"),
        ("START TRANSACTION READ ONLY", "START TRANSACTION |  | START TRANSACTION"),
        ("GRANT SELECT, INSERT ON t TO u", "GRANT |  | GRANT"),
        ("CREATE PROCEDURE p() BEGIN SELECT 1; DELETE FROM t; END", "CREATE PROCEDURE |  | CREATE PROCEDURE"),
        ("SELECT * FROM 'x'", "SELECT |  | SELECT"),
        ("SELECT * FROM WHERE x", "SELECT |  | SELECT"),
        ("SELECT * FROM ROWS FROM (f(1), g(2))", "SELECT |  | SELECT"),
        ("frobnicate the table", " |  | "),
        ("", " |  | "),
    ];
    for (sql, expected) in cases {
        assert_eq!(outline(sql).replace("frobnicate", ""), expected, "{sql}");
    }
}

#[test]
fn mysqls_own_statements_are_understood() {
    let read = |sql: &str| Statement::read(sql.as_bytes(), true, MYSQL);
    let load = read("LOAD DATA LOCAL INFILE 'secret.csv' INTO TABLE items FIELDS TERMINATED BY ','");
    assert_eq!((load.collection.as_deref(), load.streams_in), (Some("items"), true));
    assert_eq!(read("CALL shop.two(1)").procedure.as_deref(), Some("shop.two"));
    assert_eq!(read("use `shop`;").database.as_deref(), Some("shop"));
    assert_eq!(read("INSERT IGNORE INTO t SET a = 1").collection.as_deref(), Some("t"));
    assert_eq!(read("UPDATE LOW_PRIORITY a, b SET a.x = b.x").summary.as_deref(), Some("UPDATE a b"));
    assert_eq!(read("DELETE a FROM a JOIN b USING (id)").summary.as_deref(), Some("DELETE a b"));
    assert!(read("COPY t FROM STDIN").streams_in && !read("COPY t TO STDOUT").streams_in);
}

#[test]
fn a_comment_may_hold_the_trace() {
    let one = "/*db_driver='x',traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/";
    let read = |sql: &str| Statement::read(sql.as_bytes(), true, POSTGRES);
    let found = read(&format!("SELECT 1 {one}"));
    assert_eq!((found.text.as_str(), found.trace.map(|trace| trace.flags)), ("SELECT ?", Some(1)));
    assert_eq!(read(&format!("{one} SELECT 1 {one}")).trace.map(|trace| trace.flags), Some(1));
    assert_eq!(read(&format!("SELECT 1 {one}{}", one.replace("-01", "-00"))).trace, None, "two differ");
    assert_eq!(read(&format!("SELECT '{}'", one.replace('\'', ""))).trace, None, "in a literal");
    assert_eq!(read("SELECT 1 /*traceparent='00-1'*/").trace, None);
}

#[test]
fn where_a_literal_ends_must_be_sure() {
    let unknown = Rules { backslash: Backslash::Unknown, ..MYSQL };
    let read = |sql: &[u8]| Statement::read(sql, true, unknown);
    assert_eq!(read(br"SELECT 'a\\', b").text, "SELECT ?, b", "the same either way");
    assert_eq!(read(br"SELECT 'a\' OR x = 'secret'").text, "SELECT ?...");
    assert_eq!(read(b"SELECT a, 'x\x83\\', secret 'y").text, "SELECT a, ?...", "Shift JIS");
}

/// Literals in every form that a dialect has.
fn literal(rules: Rules, random: &mut Random) -> String {
    let secret = "S3CRET";
    let postgres = [
        format!("'{secret}'"),
        format!("'a''{secret}'"),
        format!("'\\'|| '{secret}'"),
        format!("E'\\'{secret}\\\\'"),
        format!("$${secret}'$$"),
        format!("$x$ $$ {secret} ' $x$"),
        format!("'--{secret}'"),
        format!("'/*{secret}'"),
        "51413".to_owned(),
        "0x51413".to_owned(),
        "1.51413e-51413".to_owned(),
        format!("/* {secret} ' */ 1"),
        format!("-- {secret} '\n 1"),
    ];
    let mysql = [
        format!("'{secret}'"),
        format!("'\\'{secret}\\\\'"),
        format!("\"{secret}'\""),
        format!("\"\\\"{secret}\""),
        format!("'\"{secret}'"),
        format!("'# {secret}'"),
        format!("_latin1'{secret}'"),
        format!("# {secret} '\n 1"),
        format!("-- {secret} \"\n 1"),
        format!("/* {secret} ` */ 1"),
        "51413.51413".to_owned(),
    ];
    let forms: &[String] = if rules == POSTGRES { &postgres } else { &mysql };
    forms[random.below(forms.len())].clone()
}

#[test]
fn no_literal_survives_wherever_the_text_is_cut() {
    let words =
        ["SELECT ", "FROM t ", "(", ")", ", ", " = ", "a.b ", " IN (", " VALUES ", "; ", " WITH x AS ", "INTO "];
    for rules in [POSTGRES, MYSQL] {
        let mut random = Random::new(99);
        for _ in 0..4000 {
            let mut sql = String::new();
            for _ in 0..1 + random.below(12) {
                sql.push_str(words[random.below(words.len())]);
                sql.push_str(&literal(rules, &mut random));
                sql.push(' ');
            }
            for end in [sql.len(), random.below(sql.len() + 1)] {
                let unsure = Rules { backslash: Backslash::Unknown, ..rules };
                for rules in [rules, unsure] {
                    let said = format!("{:?}", Statement::read(&sql.as_bytes()[..end], true, rules));
                    assert!(!said.contains("S3CRET") && !said.contains("51413"), "{sql}: {said}");
                }
            }
        }
    }
}

#[test]
fn any_text_is_read_within_its_limits() {
    let pieces = [
        "'", "\"", "`", "$", "$$", "E'", "\\", "/*", "*/", "/*!", "--", "#", "(", ")", ",", ".", "1e", "x", ";",
        "\u{e9}", "WITH ", "FROM ",
    ];
    let mut random = Random::new(5);
    for _ in 0..20_000 {
        let sql: String = (0..random.below(24)).map(|_| pieces[random.below(pieces.len())]).collect();
        crate::fuzzing::sql(sql.as_bytes());
    }
}

#[test]
fn the_text_alone_is_the_same() {
    for sql in [
        "SELECT a FROM t WHERE b = 'c'",
        "WITH x AS (SELECT 1) SELECT 2 FROM x",
        "WITH 1",
        "(SELECT 1)",
        "/* a */ SELECT 1",
        " SELECT 1",
        "BEGIN",
        "GET user:17",
        "e'x'",
        "",
        "SELECT 'open",
        "SELECT \"a\"",
    ] {
        for rules in [POSTGRES, MYSQL] {
            let expected = begins(sql.as_bytes(), true).then(|| text(rules, sql));
            assert_eq!(super::text(sql.as_bytes(), rules), expected, "{sql}");
        }
    }
}
