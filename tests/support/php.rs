//! PHP-FPM behind nginx, both of the test's own.

use std::{net::TcpStream, time::Duration};

use crate::{
    clock,
    http::Place,
    process::{Launch, Process, tool},
    temp::{TempDir, free_port},
};

const BOUND: Duration = Duration::from_secs(20);
/// Answers `/status/N…` with that status.
const SCRIPT: &str = r#"<?php
preg_match('~^/status/(\d+)~', $_SERVER['REQUEST_URI'], $found) && http_response_code((int) $found[1]);
echo "hello\n";
"#;

/// nginx and PHP-FPM.
pub struct Php {
    nginx: Process,
    _fpm: Process,
    folder: TempDir,
    /// `ip:port` that nginx listens on.
    pub address: String,
}

impl Php {
    /// Starts both. nginx keeps connections to PHP-FPM.
    pub fn start(place: Place) -> Self {
        let folder = TempDir::new("php");
        let (php, http) = (free_port(), free_port());
        folder.write("index.php", SCRIPT);
        let root = folder.path().display();
        let config = folder.write(
            "fpm.conf",
            format!(
                "[global]\nerror_log={root}/fpm.log\n[www]\nuser=root\ngroup=root\nlisten=127.0.0.1:{php}\n\
             pm=static\npm.max_children=8\n"
            ),
        );
        let launch = Launch::new(fpm()).args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config"]).arg(config);
        let launch = launch.stdout_to(&folder.join("fpm.out")).stderr_to(&folder.join("fpm.errors"));
        let fpm = place.apply(launch).spawn();
        listens(php);
        let config = folder.write("nginx.conf", nginx(&root.to_string(), php, http));
        let launch = Launch::new(tool("nginx")).arg("-p").arg(folder.path()).arg("-c").arg(config);
        let nginx = place.apply(launch.stderr_to(&folder.join("nginx.errors"))).spawn();
        listens(http);
        Self { nginx, _fpm: fpm, folder, address: format!("127.0.0.1:{http}") }
    }

    /// Stops nginx gracefully, so that its log is complete, and gives the log: status and path of each request.
    pub fn finish(mut self) -> Vec<(u64, String)> {
        self.nginx.signal(libc::SIGQUIT);
        self.nginx.wait(BOUND);
        let text = std::fs::read_to_string(self.folder.join("access.log")).expect("the access log");
        let line = |line: &str| {
            let (status, path) = line.split_once(' ').expect("two words");
            (status.parse().expect("a status"), path.to_owned())
        };
        text.lines().map(line).collect()
    }
}

fn listens(port: u16) {
    clock::wait_for("the server listens", BOUND, || TcpStream::connect(("127.0.0.1", port)).ok());
}

/// Debian's name of the program has the version in it.
fn fpm() -> std::path::PathBuf {
    let names = std::fs::read_dir("/usr/sbin").into_iter().flatten().flatten().map(|entry| entry.path());
    let newest =
        names.filter(|path| path.file_name().is_some_and(|it| it.to_string_lossy().starts_with("php-fpm"))).max();
    newest.expect("PHP-FPM is not installed; `cargo xtask setup --tests` installs it")
}

fn nginx(root: &str, php: u16, http: u16) -> String {
    format!(
        "daemon off; master_process off; worker_processes 1; user root; pid {root}/pid; error_log {root}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  log_format brief '$status $request_uri';
  access_log {root}/access.log brief;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  keepalive_requests 1000000;
  upstream php {{ server 127.0.0.1:{php}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{http};
    location / {{
      fastcgi_pass php; fastcgi_keep_conn on;
      fastcgi_param SCRIPT_FILENAME {root}/index.php; fastcgi_param SCRIPT_NAME $uri;
      fastcgi_param REQUEST_METHOD $request_method; fastcgi_param REQUEST_URI $request_uri;
      fastcgi_param QUERY_STRING $query_string; fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param CONTENT_TYPE $content_type; fastcgi_param REQUEST_SCHEME $scheme;
    }}
  }}
}}
"
    )
}
