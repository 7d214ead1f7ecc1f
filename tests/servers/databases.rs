//! Databases with clients of Node, and PostgreSQL with fifty of psycopg: as many spans as the server itself counted, at both ends,
//! with the errors that the clients got.
//!
//! Truth: `pg_stat_statements`, MariaDB's `Com_…` counters, `INFO commandstats` of Redis, and the codes that the clients print.

use std::{collections::BTreeMap, net::TcpStream, time::Duration};

use spantap_tests::{
    clock,
    mariadb::MariaDb,
    postgres::Postgres,
    process::{Launch, Process, tool},
    python,
    span::Span,
    temp::{TempDir, free_port},
    traced::Traced,
};

use super::{
    count,
    node::{script, traced},
};

const BOUND: Duration = Duration::from_secs(30);
const ENDS: [&str; 2] = ["client", "server"];
const NODE: &str = include_str!("node_databases.js");

pub(super) type Counts = BTreeMap<String, usize>;

/// Runs a client of `node_databases.js` on so many connections; gives the lines that it printed.
fn node(traced: &Traced, program: &str, port: u16, connections: usize) -> Counts {
    let launch = script(NODE).args([program, &port.to_string(), &connections.to_string()]);
    count(traced.place().apply(launch).run().lines().map(str::to_owned))
}

/// The spans of a protocol that pass, once no more than the `least` come.
fn spans(traced: &Traced, protocol: &str, least: usize, is: impl Fn(&Span) -> bool) -> Vec<Span> {
    let is = |span: &Span| span.protocol == protocol && is(span);
    let enough = |spans: &[Span]| spans.iter().filter(|span| is(span)).count() >= least;
    let spans = traced.agent.wait_for(protocol, BOUND, enough);
    assert!(!spans.iter().any(|span| format!("{span:?}").contains("secret")), "what nobody may see");
    spans.into_iter().filter(is).collect()
}

fn of<'a>(spans: &'a [Span], kind: &str) -> impl Iterator<Item = &'a Span> {
    spans.iter().filter(move |span| span.kind == kind)
}

/// `code: number of spans` of those that have a code.
fn errors(spans: &[Span], kind: &str, code: impl Fn(&Span) -> String) -> Counts {
    count(of(spans, kind).filter(|span| span.attribute("db.response.status_code").is_some()).map(code))
}

/// A table with ten rows, and one to write to.
const TABLES: &str = "CREATE TABLE items (id INT PRIMARY KEY, name VARCHAR(50)); CREATE TABLE log (name VARCHAR(50));
    INSERT INTO items VALUES (0, 'a'), (1, 'a'), (2, 'a'), (3, 'a'), (4, 'a'), (5, 'a'), (6, 'a'), (7, 'a');";

/// Statements of a client against PostgreSQL's own count of them, and its errors against what the client printed.
fn postgres(connections: usize, client: impl Fn(&Traced, &Postgres) -> Counts) {
    let traced = traced("postgres");
    let server = Postgres::start(traced.place());
    make_tables(&server);
    let said = client(&traced, &server);
    hold_against(&traced, &server, connections, &said);
}

/// Makes the tables, which are not counted.
pub(super) fn make_tables(server: &Postgres) {
    server.client("psql").args(["-qc", TABLES]).run();
    server.reset_calls();
}

/// The spans against what the server counted since, and against the errors that the client printed.
pub(super) fn hold_against(traced: &Traced, server: &Postgres, connections: usize, said: &Counts) {
    let calls = server.calls();
    let [executed, failed] = [calls.iter().map(|(_, count)| count).sum::<usize>(), said.values().sum()];
    assert!(executed >= 40 * connections && failed >= connections, "{calls:?} {said:?}");
    let all = spans(traced, "postgresql", 2 * (executed + failed), |span| {
        let others = ["CREATE", "SHOW"].iter().any(|word| span.text("db.query.text").starts_with(word));
        ["", "test"].contains(&span.text("db.namespace")) && !others
    });
    for kind in ENDS {
        let worked = of(&all, kind).filter(|span| span.attribute("db.response.status_code").is_none());
        let word = |span: &Span| span.name.split(' ').next().unwrap_or_default().to_uppercase();
        let seen = count(worked.inspect(|span| assert_eq!(span.status, "ok", "{span:#?}")).map(word));
        // Preparing is none of the server's own counts.
        let seen: Counts = seen.into_iter().filter(|(word, _)| word != "PREPARE").collect();
        let truth = calls.iter().cloned().collect::<Counts>();
        assert_eq!(seen, truth, "{kind}; lost: {:?}", traced.agent.losses());
        assert_eq!(errors(&all, kind, |span| span.text("db.response.status_code").to_owned()), *said, "{kind}");
        let failed = of(&all, kind).filter(|span| span.attribute("db.response.status_code").is_some());
        failed.for_each(|span| assert_eq!(span.status, if kind == "client" { "error" } else { "ok" }, "{span:#?}"));
    }
}

#[test]
fn postgres_counts_those_of_node_as_often() {
    postgres(1, |traced, server| node(traced, "pg", server.port, 1));
}

#[test]
fn postgres_counts_those_of_fifty_connections_of_node_as_often() {
    postgres(50, |traced, server| node(traced, "pg", server.port, 50));
}

/// Statements of each kind, an error of each class, from so many connections at once. With the path of a file: only once that is
/// there, until when a connection to another database asks again and again.
pub(super) const PSYCOPG: &str = r#"
import os, psycopg, sys, threading, time
if len(sys.argv) > 2:
    with psycopg.connect(dbname="postgres", autocommit=True) as c:
        while not os.path.exists(sys.argv[2]):
            c.execute("SHOW server_version")
            time.sleep(0.02)
lock = threading.Lock()
def work(n):
    c = psycopg.connect(autocommit=True)
    for i in range(20):
        c.execute("SELECT name FROM items WHERE id = %s", (i,), prepare=i % 2 == 0).fetchall()
        c.execute("INSERT INTO log (name) VALUES ('secret')")
    with c.transaction():
        c.cursor().executemany("UPDATE items SET name = %s WHERE id = 5", [("secret",)] * 5)
    for wrong in ["INSERT INTO items VALUES (1, 'secret')", "SELECT name FROM absent", "SELECT 1 / (id - 5) FROM items"]:
        try: c.execute(wrong)
        except psycopg.Error as error:
            with lock: print(error.sqlstate)
    c.close()
threads = [threading.Thread(target=work, args=(n,)) for n in range(int(sys.argv[1]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"#;

#[test]
fn postgres_counts_those_of_fifty_connections_of_psycopg_as_often() {
    postgres(50, |traced, server| {
        let client = server.at(python::script(PSYCOPG)).arg("50");
        count(traced.place().apply(client).run().lines().map(str::to_owned))
    });
}

/// Statements of mysql2 against MariaDB's own count of them, and its errors against what the client printed.
fn mariadb(connections: usize) {
    let traced = traced("mariadb");
    let server = MariaDb::start(traced.place());
    server.ask(&format!("USE test; {TABLES}"));
    let before = server.commands();
    let said = node(&traced, "mysql2", server.port, connections);
    let after = server.commands();
    let truth: Counts =
        [("DELETE", "Com_delete"), ("INSERT", "Com_insert"), ("SELECT", "Com_select"), ("UPDATE", "Com_update")]
            .into_iter()
            .chain([("PREPARE", "Com_stmt_prepare")])
            .map(|(word, counter)| (word.to_owned(), after[counter] - before[counter]))
            .collect();
    assert!(truth.values().all(|count| *count >= connections), "{truth:?}");
    assert_eq!(said, Counts::from([("1062 23000".to_owned(), connections), ("1146 42S02".to_owned(), connections)]));
    // Not the test's own questions, on the unix socket.
    let there = format!("127.0.0.1:{}", server.port);
    let all = spans(&traced, "mysql", 2 * truth.values().sum::<usize>(), |span| {
        [&span.local, &span.peer].contains(&&there)
            && truth.contains_key(span.name.split(' ').next().unwrap_or_default())
    });
    for kind in ENDS {
        let seen = count(of(&all, kind).map(|span| span.name.split(' ').next().unwrap_or_default().to_owned()));
        assert_eq!(seen, truth, "{kind}; lost: {:?}", traced.agent.losses());
        let code = |span: &Span| {
            assert_eq!(span.status, if kind == "client" { "error" } else { "ok" }, "{span:#?}");
            format!("{} {}", span.text("db.response.status_code"), span.text("spantap.db.sqlstate"))
        };
        assert_eq!(errors(&all, kind, code), said, "{kind}");
    }
}

#[test]
fn mariadb_counts_those_of_node_as_often() {
    mariadb(1);
}

#[test]
fn mariadb_counts_those_of_fifty_connections_of_node_as_often() {
    mariadb(50);
}

struct Redis {
    _process: Process,
    _folder: TempDir,
    port: u16,
}

impl Redis {
    fn start(traced: &Traced) -> Self {
        let (port, folder) = (free_port(), TempDir::new("redis"));
        let launch = Launch::new(tool("redis-server")).args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        let launch = launch.args(["--save", "", "--dir"]).arg(folder.path()).stdout_to(&folder.join("log"));
        let process = traced.place().apply(launch).spawn();
        clock::wait_for("Redis listens", BOUND, || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { _process: process, _folder: folder, port }
    }

    /// Calls and failed calls by command, as the server counted: `cmdstat_client|setinfo:calls=3,…,failed_calls=0`.
    fn calls(&self) -> [Counts; 2] {
        let client = Launch::new(tool("redis-cli")).args(["-p", &self.port.to_string(), "INFO", "commandstats"]);
        let said = client.run();
        let calls = said.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':'));
        let number = |values: &str, name: &str| {
            let value = values.split(',').find_map(|value| value.trim().strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse::<usize>().ok()).unwrap_or_else(|| panic!("no {name} in {values}"))
        };
        let of = |name: &str| {
            let number =
                |(command, values): (&str, &str)| (command.replace('|', " ").to_uppercase(), number(values, name));
            calls.clone().map(number).filter(|(command, count)| *count != 0 && counted(command)).collect()
        };
        [of("calls"), of("failed_calls")]
    }
}

/// What is compared: not how the numbers are asked for, nor what a server does not count because it does not know it: how
/// clients introduce themselves is newer than some servers.
fn counted(command: &str) -> bool {
    !["INFO", "QUIT"].contains(&command) && !command.starts_with("CLIENT ")
}

fn redis(client: &str, connections: usize) {
    let traced = traced(client);
    let server = Redis::start(&traced);
    let said = node(&traced, client, server.port, connections);
    let [calls, failed] = server.calls();
    assert!(calls["SET"] == 100 * connections && said.values().sum::<usize>() >= connections, "{calls:?} {said:?}");
    let all = spans(&traced, "redis", 2 * calls.values().sum::<usize>(), |span| counted(&span.name));
    for kind in ENDS {
        let seen = count(of(&all, kind).map(|span| span.name.clone()));
        assert_eq!(seen, calls, "{kind}; lost: {:?}", traced.agent.losses());
        assert_eq!(errors(&all, kind, |span| span.name.clone()), failed, "{kind}");
        assert_eq!(errors(&all, kind, |span| span.text("db.response.status_code").to_owned()), said, "{kind}");
        for span in of(&all, kind) {
            let error = kind == "client" && span.attribute("db.response.status_code").is_some();
            assert_eq!(span.status, if error { "error" } else { "ok" }, "{span:#?}");
        }
    }
}

#[test]
fn redis_counts_those_of_ioredis_as_often() {
    redis("ioredis", 1);
}

#[test]
fn redis_counts_those_of_fifty_connections_of_ioredis_as_often() {
    redis("ioredis", 50);
}

#[test]
fn redis_counts_those_of_node_redis_as_often() {
    redis("redis", 1);
}

#[test]
fn redis_counts_those_of_fifty_connections_of_node_redis_as_often() {
    redis("redis", 50);
}
