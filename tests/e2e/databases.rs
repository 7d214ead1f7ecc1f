//! PostgreSQL, MariaDB and PHP-FPM with their own clients: as many spans as the server itself counted, at both ends, with the
//! outcome that the client got.
//!
//! Truth: `pg_stat_statements`, pgbench's own count, MariaDB's `Com_…` counters, nginx's access log, and what the clients' errors said.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use spantap_tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    http::{Client, Place},
    mariadb::MariaDb,
    php::Php,
    postgres::Postgres,
    process::{Launch, tool},
    python,
    span::Span,
};

const SPANS_WITHIN: Duration = Duration::from_secs(30);
const ENDS: [&str; 2] = ["client", "server"];

/// An agent that loses nothing, however busy the host is: the loads here have no rate.
fn agent(cgroup: &Cgroup) -> Agent {
    let capture = "  ring_bytes: 64MiB\n".to_owned();
    Agent::start(&AgentOptions { capture, ..AgentOptions::cgroup(cgroup) })
}

/// The spans of a protocol in the database `test`, once no more than the `least` come.
fn spans(agent: &Agent, protocol: &str, least: usize) -> Vec<Span> {
    let is = |span: &Span| span.protocol == protocol && text(span, "db.namespace").is_none_or(|name| name == "test");
    let enough = |spans: &[Span]| spans.iter().filter(|span| is(span)).count() >= least;
    let spans = agent.wait_for(protocol, SPANS_WITHIN, enough);
    spans.into_iter().filter(is).collect()
}

fn text<'a>(span: &'a Span, name: &str) -> Option<&'a str> {
    span.attribute(name).and_then(Value::as_str)
}

/// How many spans of one end there are of statements that worked, by their first words; preparing is none of the server's own
/// counts.
fn operations(spans: &[Span], kind: &str) -> Vec<(String, usize)> {
    let worked = |span: &&Span| span.status == "ok" && text(span, "db.response.status_code").is_none();
    let mut counts = BTreeMap::new();
    for span in spans.iter().filter(|span| span.kind == kind).filter(worked) {
        let operation = text(span, "db.operation.name").unwrap_or("unknown").to_uppercase();
        let word = operation.split(' ').next().unwrap_or_default();
        if word != "PREPARE" {
            *counts.entry(word.to_owned()).or_insert(0) += 1;
        }
    }
    counts.into_iter().collect()
}

fn pgbench(args: &[&str]) {
    let cgroup = Cgroup::new("pgbench");
    let server = Postgres::start(Place::cgroup(&cgroup));
    server.client("pgbench").args(["-i", "-q"]).run();
    server.reset_calls();
    let agent = agent(&cgroup);
    let client = server.client("pgbench").args(["-n", "-j", "2"]).args(args);
    let said = Place::cgroup(&cgroup).apply(client).run();
    let processed = said.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    let transactions = processed.and_then(|text| text.split('/').next()?.parse().ok()).expect("what pgbench counted");

    let mut calls = server.calls();
    for (word, count) in calls.iter_mut().filter(|(word, _)| ["BEGIN", "END"].contains(&word.as_str())) {
        // Of a utility statement that is prepared, pg_stat_statements counts the first execution only.
        assert!(*count <= transactions, "{count} {word}");
        *count = transactions;
    }
    let least = 2 * calls.iter().map(|(_, count)| count).sum::<usize>();
    let spans = spans(&agent, "postgresql", least);
    for kind in ENDS {
        assert_eq!(operations(&spans, kind), calls, "{kind}; lost: {:?}", agent.losses());
    }
    for span in &spans {
        span.assert_sound();
        assert_eq!(span.status, "ok", "{span:#?}");
        assert!(!text(span, "db.query.text").unwrap_or_default().contains('\''), "{span:#?}");
    }
    let update = spans.iter().find(|span| span.name == "UPDATE pgbench_accounts").expect("an update");
    let statement = text(update, "db.query.text").expect("its text");
    assert!(statement.starts_with("UPDATE pgbench_accounts SET abalance = abalance + "), "{statement}");
}

#[test]
fn postgres_counts_simple_queries_as_often() {
    pgbench(&["-M", "simple", "-c", "1", "-t", "50"]);
}

#[test]
fn postgres_counts_extended_queries_as_often() {
    pgbench(&["-M", "extended", "-c", "1", "-t", "50"]);
}

#[test]
fn postgres_counts_prepared_statements_as_often() {
    pgbench(&["-M", "prepared", "-c", "1", "-t", "50"]);
}

#[test]
fn postgres_counts_those_of_fifty_connections_as_often() {
    pgbench(&["-M", "prepared", "-c", "50", "-t", "8", "-N"]);
}

/// Pipelines, an error in one, many rows, data to and fro.
const PSYCOPG: &str = r#"
import psycopg
c = psycopg.connect(autocommit=True)
c.execute("create table items (id int primary key, name text)")
with c.pipeline():
    for i in range(40): c.execute("insert into items values (%s, %s)", (i, "secret"))
try:
    with c.pipeline() as p:
        c.execute("select name from items where id = %s", (1,))
        c.execute("insert into items values (%s, %s)", (1, "secret"))
        c.execute("select count(*) from items")
        p.sync()
except psycopg.Error as error: print(error.sqlstate)
with c.cursor().copy("copy items (id, name) from stdin") as copy:
    for i in range(100, 3100): copy.write_row((i, "secret"))
print(len(c.execute("select * from items").fetchall()))
with c.cursor().copy("copy items to stdout") as copy:
    print(sum(1 for row in copy.rows()))
"#;

#[test]
fn pipelines_and_copies_of_psycopg_are_told_apart() {
    let cgroup = Cgroup::new("psycopg");
    let server = Postgres::start(Place::cgroup(&cgroup));
    server.reset_calls();
    let agent = agent(&cgroup);
    let environment = [("PGHOST", "127.0.0.1"), ("PGUSER", "root"), ("PGDATABASE", "test"), ("PGSSLMODE", "disable")];
    let client = python::script(PSYCOPG).env("PGPORT", server.port.to_string()).env("PGGSSENCMODE", "disable");
    let client = environment.into_iter().fold(client, |client, (name, value)| client.env(name, value));
    assert_eq!(Place::cgroup(&cgroup).apply(client).run(), "23505\n3040\n3040\n");

    let calls = server.calls();
    let least = 2 * calls.iter().map(|(_, count)| count).sum::<usize>();
    let spans = spans(&agent, "postgresql", least);
    for kind in ENDS {
        assert_eq!(operations(&spans, kind), calls, "{kind}; lost: {:?}", agent.losses());
        let of = |name: &str| spans.iter().filter(|span| span.kind == kind && span.name == name).collect::<Vec<_>>();
        let failed: Vec<_> =
            of("insert items").into_iter().filter(|it| text(it, "db.response.status_code").is_some()).collect();
        assert_eq!(failed.len(), 1, "{failed:#?}");
        assert_eq!(text(failed[0], "db.response.status_code"), Some("23505"));
        // The statement was wrong: that is no error of the server's.
        assert_eq!(failed[0].status, if kind == "client" { "error" } else { "ok" });
        let aborted: Vec<_> =
            spans.iter().filter(|it| it.kind == kind && text(it, "error.type") == Some("pipeline_aborted")).collect();
        assert_eq!(aborted.len(), 1, "{aborted:#?}");
        assert!(of("copy items").iter().all(|span| span.status == "ok"));
    }
    assert!(spans.iter().all(|span| !format!("{span:?}").contains("secret")));
}

fn mariadb_slap(args: &[&str]) {
    let cgroup = Cgroup::new("mariadb");
    let server = MariaDb::start(Place::cgroup(&cgroup));
    server.ask("CREATE TABLE test.items (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(50))");
    let agent = agent(&cgroup);
    let before = server.commands();
    let port = format!("--port={}", server.port);
    let login = ["--no-defaults", "--host=127.0.0.1", "--protocol=tcp", "--user=app", "--password=test", &port];
    let statements = "--query=SELECT * FROM items WHERE name = 'secret'; INSERT INTO items (name) VALUES ('secret')";
    let client =
        Launch::new(tool("mariadb-slap")).args(login).args(["--create-schema=test", "--no-drop", "--delimiter=;"]);
    Place::cgroup(&cgroup).apply(client.arg(statements).args(args)).run();

    let after = server.commands();
    let counted = |name: &str| after[name] - before[name];
    let (selects, inserts) = (counted("Com_select"), counted("Com_insert"));
    assert!(selects > 0 && inserts > 0, "{after:?}");
    let spans = spans(&agent, "mysql", 2 * (selects + inserts));
    for kind in ENDS {
        let of = |name: &str| {
            spans.iter().filter(|span| span.kind == kind && span.name == name && span.status == "ok").count()
        };
        let found = [of("SELECT items"), of("INSERT items")];
        assert_eq!(found, [selects, inserts], "{kind}; lost: {:?}", agent.losses());
    }
    spans.iter().for_each(Span::assert_sound);
    assert!(spans.iter().all(|span| !format!("{span:?}").contains("secret")));
}

#[test]
fn mariadb_counts_queries_as_often() {
    mariadb_slap(&["--concurrency=1", "--number-of-queries=200"]);
}

#[test]
fn mariadb_counts_those_of_fifty_connections_as_often() {
    mariadb_slap(&["--concurrency=50", "--number-of-queries=1000"]);
}

/// Prepared statements on eight connections at a time; an error of each.
const MYSQL_CONNECTOR: &str = r#"
import mysql.connector, sys, threading
def work(n):
    c = mysql.connector.connect(host="127.0.0.1", port=int(sys.argv[1]), user="app", password="test", database="test",
                                ssl_disabled=True, use_pure=True, autocommit=True)
    k = c.cursor(prepared=True)
    for i in range(20):
        k.execute("SELECT name FROM items WHERE id = %s", (i,)); k.fetchall()
    k = c.cursor(prepared=True)
    try: k.execute("INSERT INTO items VALUES (%s, 'secret')", (1,))
    except mysql.connector.Error as error: assert (error.errno, error.sqlstate) == (1062, "23000"), error
    else: raise Exception("no error")
    c.close()
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"#;

#[test]
fn mariadb_counts_prepared_statements_as_often() {
    let cgroup = Cgroup::new("mysql-connector");
    let server = MariaDb::start(Place::cgroup(&cgroup));
    server.ask(
        "CREATE TABLE test.items (id INT PRIMARY KEY, name VARCHAR(50)); INSERT INTO test.items VALUES (1, 'secret')",
    );
    let agent = agent(&cgroup);
    let before = server.commands();
    let client = python::script(MYSQL_CONNECTOR).arg(server.port.to_string());
    Place::cgroup(&cgroup).apply(client).run();

    let after = server.commands();
    let counted = |name: &str| after[name] - before[name];
    let [prepared, executed] = [counted("Com_stmt_prepare"), counted("Com_stmt_execute")];
    assert!(prepared >= 16 && executed == 8 * 21, "{prepared} {executed}");
    let spans = spans(&agent, "mysql", 2 * (prepared + executed));
    for kind in ENDS {
        let of = |name: &str| spans.iter().filter(|span| span.kind == kind && span.name == name).collect::<Vec<_>>();
        let all = [of("PREPARE SELECT items").len() + of("PREPARE INSERT items").len(), of("SELECT items").len()];
        assert_eq!(all, [prepared, executed - 8], "{kind}; lost: {:?}", agent.losses());
        let failed = of("INSERT items");
        assert_eq!(failed.len(), 8, "{failed:#?}");
        for span in failed {
            assert_eq!(
                (text(span, "db.response.status_code"), text(span, "spantap.db.sqlstate")),
                (Some("1062"), Some("23000"))
            );
        }
    }
    assert!(spans.iter().all(|span| !format!("{span:?}").contains("secret")));
}

fn php(clients: usize, count: usize) {
    let cgroup = Cgroup::new("php");
    let server = Php::start(Place::cgroup(&cgroup));
    let agent = agent(&cgroup);
    let arguments = |n: usize| {
        let status = [200, 404, 503][n % 3];
        [format!("path=/status/{status}/"), format!("count={count}")]
    };
    let start = |n: usize| {
        let arguments = arguments(n);
        Client::start(Place::default(), &server.address, &arguments.each_ref().map(String::as_str))
    };
    let running: Vec<_> = (0..clients).map(start).collect();
    running.into_iter().for_each(|client| assert_eq!(client.finish().len(), count));

    let mut log = server.finish();
    log.sort();
    let spans = spans(&agent, "fastcgi", 2 * log.len());
    for kind in ENDS {
        let of = |span: &Span| (span.http_status().unwrap_or(0), span.path().to_owned());
        let mut found: Vec<_> = spans.iter().filter(|span| span.kind == kind).map(of).collect();
        found.sort();
        assert_eq!(found, log, "{kind}; lost: {:?}", agent.losses());
    }
    for span in &spans {
        span.assert_sound();
        let error = match span.http_status() {
            Some(503) => true,
            Some(404) => span.kind == "client",
            _ => false,
        };
        assert_eq!(span.status, if error { "error" } else { "ok" }, "{span:#?}");
        assert!(span.name.starts_with("GET"), "{}", span.name);
    }
}

#[test]
fn php_has_a_span_for_each_line_of_the_access_log() {
    php(1, 200);
}

#[test]
fn php_with_fifty_clients_has_a_span_for_each_line_of_the_access_log() {
    php(50, 20);
}
