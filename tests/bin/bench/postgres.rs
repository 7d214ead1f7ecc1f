//! PostgreSQL for the real applications: a fresh cluster on loopback with one table.
//!
//! It does not run as root; its files are in the application's folder.

use std::{fs, os::unix::fs::chown, time::Duration};

use spantap_tests::{
    clock,
    http::Place,
    postgres::{as_owner, owner, quit},
    process::{Launch, Process, tool},
    temp::{TempDir, free_port},
};

const BOUND: Duration = Duration::from_secs(30);
const ITEMS: u32 = 1000;

/// Who runs it, its role and its database.
pub use spantap_tests::postgres::USER;

/// A running server.
pub struct Postgres {
    process: Process,
    /// Port on loopback.
    pub port: u16,
}

impl Postgres {
    /// Starts it, with `item (id, name, price)`, ids from 1.
    pub fn start(place: Place, folder: &TempDir) -> Self {
        let data = folder.join("pg");
        fs::create_dir(&data).expect("create folder for PostgreSQL");
        chown(&data, Some(owner()), None).unwrap_or_else(|error| panic!("give {} to {USER}: {error}", data.display()));
        as_owner("initdb").args(["-A", "trust", "-U", USER, "--no-sync", "-D"]).arg(&data).run();
        let port = free_port();
        let setting = |name: &str, value: &str| ["-c".to_owned(), format!("{name}={value}")];
        let launch = as_owner("postgres").arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
        let launch = launch.args(setting("unix_socket_directories", "")).args(setting("fsync", "off"));
        // In the folder, which goes with the guard; /dev/shm would keep it.
        let launch = launch.args(setting("dynamic_shared_memory_type", "mmap"));
        let process = place.apply(launch.stderr_to(&folder.join("pg.log"))).spawn();
        let psql = |sql: &str| {
            let port = port.to_string();
            Launch::new(tool("psql")).args(["-h", "127.0.0.1", "-p", &port, "-U", USER, "-q", "-c", sql]).output()
        };
        clock::wait_for("PostgreSQL answers", BOUND, || psql("select 1").status.success().then_some(()));
        let table = format!(
            "create table item (id int primary key, name text, price numeric);
             insert into item select n, 'item ' || n, n * 1.25 from generate_series(1, {ITEMS}) n; analyze item;"
        );
        assert!(psql(&table).status.success(), "the table could not be made");
        Self { process, port }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        quit(&mut self.process);
    }
}
