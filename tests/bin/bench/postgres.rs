//! PostgreSQL for the real applications: a fresh cluster on loopback with one table.
//!
//! It does not run as root; its files are in the application's folder.

use std::{fs, os::unix::fs::chown, path::PathBuf, time::Duration};

use spantap_tests::{
    clock,
    http::Place,
    process::{Launch, Process, tool},
    temp::{TempDir, free_port},
};

const BOUND: Duration = Duration::from_secs(30);
/// Who runs it, its role and its database; Debian's package makes the first.
pub const USER: &str = "postgres";
const ITEMS: u32 = 1000;

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
        let user = user_id();
        chown(&data, Some(user), None).unwrap_or_else(|error| panic!("give {} to {USER}: {error}", data.display()));
        as_user("initdb").args(["-A", "trust", "-U", USER, "--no-sync", "-D"]).arg(&data).run();
        let port = free_port();
        let setting = |name: &str, value: &str| ["-c".to_owned(), format!("{name}={value}")];
        let launch = as_user("postgres").arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
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
    /// At once, but so that it gives back its shared memory.
    fn drop(&mut self) {
        self.process.signal(libc::SIGQUIT);
        let _ = clock::poll(BOUND, || self.process.ended());
    }
}

/// A program of PostgreSQL, which refuses root.
fn as_user(program: &str) -> Launch {
    let user = format!("--reuid={USER}");
    let group = format!("--regid={USER}");
    Launch::new(tool("setpriv")).args([user.as_str(), &group, "--clear-groups"]).arg(server_program(program))
}

/// Debian keeps them outside of the `PATH`, in a folder for each version.
fn server_program(name: &str) -> PathBuf {
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        folders.map(|folder| folder.path().join("bin").join(name)).filter(|path| path.is_file()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| panic!("no {name} of PostgreSQL; `cargo xtask bench` installs it"))
}

fn user_id() -> u32 {
    let text = fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{USER}:")));
    let id = line.and_then(|rest| rest.split(':').nth(1)?.parse().ok());
    id.unwrap_or_else(|| panic!("no user {USER}; `cargo xtask bench` installs PostgreSQL"))
}
