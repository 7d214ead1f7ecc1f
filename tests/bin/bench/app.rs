//! A real application: nginx, PHP-FPM, PostgreSQL, all over TCP on loopback.
//!
//! Each request of `/item.php?id=N` runs one query with a parameter on PHP's persistent connection and renders a page of a few
//! hundred bytes. PostgreSQL does not run as root; everything lies in a temporary folder.

use std::{fs, os::unix::fs::chown, path::PathBuf, time::Duration};

use spantap_tests::{
    clock,
    http::Place,
    process::{Launch, Process, tool},
    temp::{TempDir, free_port},
};

use crate::load::{start_nginx, wait_until_it_listens};

/// Who runs PostgreSQL; Debian's package makes it.
const USER: &str = "postgres";
const ITEMS: u32 = 1000;

/// The running application. It ends front to back.
pub struct App {
    _nginx: Process,
    _php: Process,
    _postgres: Process,
    _folder: TempDir,
    address: String,
}

impl App {
    /// Starts it with a fresh database.
    pub fn start(place: Place) -> Self {
        let folder = TempDir::new("app");
        let (postgres, database) = postgres(place, &folder);
        let (php, fastcgi) = php(place, &folder, &database);
        let address = format!("127.0.0.1:{}", free_port());
        let root = folder.join("www");
        let locations = format!(
            "location / {{ include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME {}$fastcgi_script_name; \
             fastcgi_pass {fastcgi}; }}",
            root.display()
        );
        let nginx = start_nginx(place, &folder, &address, &locations);
        Self { _nginx: nginx, _php: php, _postgres: postgres, _folder: folder, address }
    }

    /// `ip:port` of nginx.
    pub fn address(&self) -> &str {
        &self.address
    }
}

fn postgres(place: Place, folder: &TempDir) -> (Process, u16) {
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
    clock::wait_for("PostgreSQL answers", Duration::from_secs(30), || psql("select 1").status.success().then_some(()));
    let table = format!(
        "create table item (id int primary key, name text, price numeric);
         insert into item select n, 'item ' || n, n * 1.25 from generate_series(1, {ITEMS}) n; analyze item;"
    );
    assert!(psql(&table).status.success(), "the table could not be made");
    (process, port)
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

fn php(place: Place, folder: &TempDir, database: &u16) -> (Process, String) {
    fs::create_dir(folder.join("www")).expect("create folder for the script");
    folder.write("www/item.php", script(*database));
    let address = format!("127.0.0.1:{}", free_port());
    let config = folder.write(
        "fpm.conf",
        format!(
            "[global]\nerror_log = {}\ndaemonize = no\n[www]\nuser = root\ngroup = root\nlisten = {address}\n\
             pm = static\npm.max_children = 2\n",
            folder.join("fpm.log").display()
        ),
    );
    let launch = Launch::new(php_fpm()).args(["-F", "-R", "-y"]).arg(config);
    let process = place.apply(launch.stderr_to(&folder.join("fpm.stderr"))).spawn();
    wait_until_it_listens(&address);
    (process, address)
}

/// Debian's name carries the version.
fn php_fpm() -> PathBuf {
    let entries = fs::read_dir("/usr/sbin").expect("read /usr/sbin").flatten();
    let found = entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm")));
    found.expect("no php-fpm; `cargo xtask bench` installs it")
}

fn script(database: u16) -> String {
    format!(
        r#"<?php
$db = pg_pconnect("host=127.0.0.1 port={database} user={USER} dbname={USER}");
if (!$db) {{ http_response_code(500); exit; }}
$row = pg_fetch_assoc(pg_query_params($db, 'select id, name, price from item where id = $1', [(int)$_GET['id']]));
$lines = [];
for ($n = 1; $n <= 10; $n++) {{
    $lines[] = sprintf('<li>%d x %s: %.2f</li>', $n, htmlspecialchars($row['name']), $n * $row['price']);
}}
$page = '<html><body><h1>' . htmlspecialchars($row['name']) . '</h1><ul>' . implode("\n", $lines) . '</ul></body></html>';
header('Content-Length: ' . strlen($page));
echo $page;
"#
    )
}
