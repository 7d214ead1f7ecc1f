//! nginx with a configuration of the test's own: one process, in the foreground, on loopback or where the test says; with
//! TLS if the test wants it.

use std::{net::TcpStream, path::PathBuf, time::Duration};

use crate::{
    clock,
    http::Place,
    process::{Launch, Process, tool},
    temp::{TempDir, free_port},
};

/// Size of the file behind `/static/big`.
pub const BIG_BYTES: usize = 3 << 20;

/// A running nginx.
pub struct Nginx {
    process: Process,
    folder: TempDir,
    /// `ip:port` that it listens on.
    pub address: String,
}

impl Nginx {
    /// Starts it on a free port of loopback. Routes: `/static/big` is a file sent by `sendfile`, all else answers 200 with
    /// the URI. The access log has one line per request: `msec request_time status request_uri`.
    pub fn start(place: Place) -> Self {
        Self::start_on(place, format!("127.0.0.1:{}", free_port()), "")
    }

    /// Starts it on an address with a certificate of its own, for TLS. The routes are the same.
    pub fn start_tls(place: Place, address: String) -> Self {
        Self::start_on(place, address, "ssl")
    }

    fn start_on(place: Place, address: String, tls: &str) -> Self {
        let folder = TempDir::new("nginx");
        std::fs::create_dir(folder.join("static")).expect("create folder for static files");
        folder.write("static/big", vec![b'x'; BIG_BYTES]);
        let certificate = if tls.is_empty() { String::new() } else { certificate_directives(&folder) };
        let config = folder.write("nginx.conf", configuration(&folder, &format!("{address} {tls}"), &certificate));
        let launch = Launch::new(tool("nginx")).arg("-p").arg(folder.path()).arg("-c").arg(config);
        let process = place.apply(launch.stderr_to(&folder.join("stderr"))).spawn();
        let nginx = Self { process, folder, address };
        nginx.wait_until_it_listens(place);
        nginx
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Lines of the access log so far.
    pub fn access_log(&self) -> Vec<String> {
        let path = self.access_log_path();
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        text.lines().map(str::to_owned).collect()
    }

    /// Stops it gracefully, so that its log is complete, and gives the log.
    pub fn finish(mut self) -> Vec<String> {
        self.process.signal(libc::SIGQUIT);
        self.process.wait(Duration::from_secs(10));
        self.access_log()
    }

    fn access_log_path(&self) -> PathBuf {
        self.folder.join("access.log")
    }

    fn wait_until_it_listens(&self, place: Place) {
        clock::wait_for("nginx listens", Duration::from_secs(10), || {
            let connect = || TcpStream::connect(&self.address).ok();
            match place.namespace {
                Some(namespace) => namespace.enter(connect),
                None => connect(),
            }
        });
    }
}

/// Makes a key, and a certificate that signs itself.
pub fn certificate(folder: &TempDir) -> (PathBuf, PathBuf) {
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    Launch::new(tool("openssl"))
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=tls.test", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .run();
    (key, certificate)
}

/// The directives that name a new certificate.
fn certificate_directives(folder: &TempDir) -> String {
    let (key, certificate) = certificate(folder);
    format!("ssl_certificate {}; ssl_certificate_key {};", certificate.display(), key.display())
}

fn configuration(folder: &TempDir, address: &str, certificate: &str) -> String {
    let folder = folder.path().display();
    format!(
        "daemon off; master_process off; worker_processes 1; user root; pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  log_format times '$msec $request_time $status $request_uri';
  access_log {folder}/access.log times;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  sendfile on; keepalive_requests 1000000; keepalive_timeout 75s;
  server {{
    listen {address};
    {certificate}
    location /static/ {{ root {folder}; }}
    location / {{ return 200 \"$request_uri\\n\"; }}
  }}
}}
"
    )
}
