//! A real application: nginx, PHP-FPM, PostgreSQL, all over TCP on loopback.
//!
//! Each request of `/item.php?id=N` runs one query with a parameter on PHP's persistent connection and renders a page of a few
//! hundred bytes. Everything lies in a temporary folder.

use std::{fs, path::PathBuf};

use spantap_tests::{
    http::Place,
    process::{Launch, Process},
    temp::{TempDir, free_port},
};

use crate::{
    load::{start_nginx, wait_until_it_listens},
    postgres::{Postgres, USER},
};

/// The running application. It ends front to back.
pub struct App {
    _nginx: Process,
    _php: Process,
    _postgres: Postgres,
    _folder: TempDir,
    address: String,
}

impl App {
    /// Starts it with a fresh database.
    pub fn start(place: Place) -> Self {
        let folder = TempDir::new("app");
        let postgres = Postgres::start(place, &folder);
        let (php, fastcgi) = php(place, &folder, postgres.port);
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

fn php(place: Place, folder: &TempDir, database: u16) -> (Process, String) {
    fs::create_dir(folder.join("www")).expect("create folder for the script");
    folder.write("www/item.php", script(database));
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
