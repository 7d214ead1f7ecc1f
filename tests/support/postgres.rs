//! PostgreSQL with a cluster of the test's own, on loopback, and what it counted itself.

use std::{
    net::TcpStream,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    clock,
    http::Place,
    nginx::certificate,
    process::{Launch, Process, tool},
    temp::{TempDir, free_port},
};

const BOUND: Duration = Duration::from_secs(60);
/// Who owns the cluster; the server refuses to run as root.
pub const USER: &str = "postgres";

/// A running server. Database `test` is for loads, `postgres` for questions about them.
pub struct Postgres {
    process: Process,
    folder: TempDir,
    /// Port on loopback.
    pub port: u16,
}

impl Postgres {
    /// Makes a cluster that trusts everybody, and starts it.
    pub fn start(place: Place) -> Self {
        Self::start_with(place, false)
    }

    /// The same, which speaks TLS to who asks for it ([`Postgres::at`] does not).
    pub fn start_tls(place: Place) -> Self {
        Self::start_with(place, true)
    }

    fn start_with(place: Place, tls: bool) -> Self {
        let (folder, port) = (TempDir::new("postgres"), free_port());
        let owner = owner();
        chown(folder.path(), Some(owner), None).expect("give the folder away");
        let data = folder.join("data");
        as_owner("initdb").args(["-A", "trust", "-U", "root", "--no-sync", "-D"]).arg(&data).run();
        let setting = |setting: &str| ["-c".to_owned(), setting.to_owned()];
        let mut launch = as_owner("postgres")
            .arg("-D")
            .arg(&data)
            .args(setting(&format!("port={port}")))
            .args(setting("listen_addresses=127.0.0.1"))
            .args(setting(&format!("unix_socket_directories={}", folder.path().display())))
            .args(setting("shared_preload_libraries=pg_stat_statements"))
            .args(setting("max_connections=80"))
            // In the folder, which goes with the guard; /dev/shm would keep it.
            .args(setting("dynamic_shared_memory_type=mmap"))
            .args(setting("fsync=off"));
        if tls {
            let (key, certificate) = certificate(&folder);
            chown(&key, Some(owner), None).expect("give the key away");
            let file = |name: &str, path: &Path| setting(&format!("{name}={}", path.display()));
            launch = launch.args(setting("ssl=on"));
            launch = launch.args(file("ssl_key_file", &key)).args(file("ssl_cert_file", &certificate));
        }
        let process = place.apply(launch.stdout_to(&folder.join("log")).stderr_to(&folder.join("errors"))).spawn();
        let server = Self { process, folder, port };
        clock::wait_for("PostgreSQL listens", BOUND, || TcpStream::connect(("127.0.0.1", port)).ok());
        clock::wait_for("PostgreSQL answers", BOUND, || {
            server.client("psql").args(["-d", "postgres", "-c", "SELECT 1"]).output().status.success().then_some(())
        });
        server.ask("CREATE EXTENSION pg_stat_statements");
        server.ask("CREATE DATABASE test");
        server
    }

    /// A client program that is told where the server is by its environment.
    pub fn client(&self, program: impl AsRef<Path>) -> Launch {
        self.at(Launch::new(tool(&program.as_ref().to_string_lossy())))
    }

    /// Tells a program where the server is, by its environment.
    pub fn at(&self, launch: Launch) -> Launch {
        launch
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "root")
            .env("PGDATABASE", "test")
            .env("PGSSLMODE", "disable")
            .env("PGGSSENCMODE", "disable")
            .env("HOME", self.folder.path())
    }

    /// What the server answers in the database `postgres`: rows, with `|` between columns.
    pub fn ask(&self, sql: &str) -> String {
        self.client("psql").args(["-d", "postgres", "-v", "ON_ERROR_STOP=1", "-qAtc", sql]).run()
    }

    /// How often statements that begin with each word were executed in the database `test`, as the server counted.
    pub fn calls(&self) -> Vec<(String, usize)> {
        let text = self.ask(
            "SELECT upper(regexp_replace(query, '^\\s*(\\w+).*', '\\1')), sum(calls) FROM pg_stat_statements \
             WHERE dbid = (SELECT oid FROM pg_database WHERE datname = 'test') GROUP BY 1 ORDER BY 1",
        );
        let line = |line: &str| {
            let (word, calls) = line.split_once('|').expect("two columns");
            (word.to_owned(), calls.parse().expect("a number"))
        };
        text.lines().map(line).collect()
    }

    /// Counts anew.
    pub fn reset_calls(&self) {
        self.ask("SELECT pg_stat_statements_reset()");
    }
}

impl Drop for Postgres {
    /// At once, but so that it gives back its shared memory.
    fn drop(&mut self) {
        quit(&mut self.process);
    }
}

/// Ends a server at once, but so that it gives back its shared memory.
pub fn quit(server: &mut Process) {
    server.signal(libc::SIGQUIT);
    let _ = clock::poll(BOUND, || server.ended());
}

/// Number of [`USER`].
pub fn owner() -> u32 {
    Launch::new("id").args(["-u", USER]).run().trim().parse().expect("a user id")
}

/// One of the server's own programs, run by the owner of the cluster.
pub fn as_owner(program: &str) -> Launch {
    let program = programs().join(program);
    Launch::new(tool("setpriv")).args(["--reuid", USER, "--regid", USER, "--clear-groups"]).arg(program)
}

/// Debian keeps the server's programs out of `PATH`, by version.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("initdb").is_file()).max();
    newest.expect("PostgreSQL is not installed; `cargo xtask setup --tests` installs it, and `cargo xtask bench`")
}
