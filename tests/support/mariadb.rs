//! MariaDB with databases of the test's own, on loopback, and what it counted itself.

use std::{collections::BTreeMap, net::TcpStream, time::Duration};

use crate::{
    clock,
    http::Place,
    process::{Launch, Process, tool},
    temp::{TempDir, free_port},
};

const BOUND: Duration = Duration::from_secs(60);

/// A running server. Its user `app` has the password `test`; the database `test` is for loads.
pub struct MariaDb {
    _process: Process,
    folder: TempDir,
    /// Port on loopback.
    pub port: u16,
}

impl MariaDb {
    /// Makes its databases, and starts it.
    pub fn start(place: Place) -> Self {
        let (folder, port) = (TempDir::new("mariadb"), free_port());
        let data = format!("--datadir={}", folder.join("data").display());
        Launch::new(tool("mariadb-install-db"))
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--user=root", &data])
            .run();
        let launch = Launch::new(tool("mariadbd"))
            .args([
                "--no-defaults",
                "--user=root",
                "--bind-address=127.0.0.1",
                "--skip-log-bin",
                "--max-connections=80",
            ])
            .args([&data, &format!("--port={port}"), &format!("--socket={}", folder.join("s").display())]);
        let process = place.apply(launch.stdout_to(&folder.join("log")).stderr_to(&folder.join("errors"))).spawn();
        let server = Self { _process: process, folder, port };
        clock::wait_for("MariaDB listens", BOUND, || TcpStream::connect(("127.0.0.1", port)).ok());
        server.ask("CREATE DATABASE test");
        for host in ["127.0.0.1", "localhost"] {
            server.ask(&format!("CREATE USER app@'{host}' IDENTIFIED BY 'test'; GRANT ALL ON test.* TO app@'{host}'"));
        }
        server
    }

    /// What the server answers on its unix socket: rows, with tabs between columns.
    pub fn ask(&self, sql: &str) -> String {
        let socket = format!("--socket={}", self.folder.join("s").display());
        Launch::new(tool("mariadb")).args(["--no-defaults", &socket, "-uroot", "-BNe", sql]).run()
    }

    /// How often it executed statements, by the names of its counters (`Com_select`).
    pub fn commands(&self) -> BTreeMap<String, usize> {
        let text = self.ask("SHOW GLOBAL STATUS LIKE 'Com\\_%'");
        let line = |line: &str| {
            let (name, count) = line.split_once('\t').expect("two columns");
            (name.to_owned(), count.parse().expect("a number"))
        };
        text.lines().map(line).collect()
    }
}
