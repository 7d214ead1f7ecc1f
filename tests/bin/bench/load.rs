//! The loads: real servers, and how each is asked.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    time::Duration,
};

use spantap_tests::{
    clock,
    http::{Place, actor},
    process::{Launch, Process, tool},
    temp::{TempDir, free_port},
};

use crate::{app::App, fastapi::FastApi};

/// Bytes of nginx's answer.
const BODY_BYTES: usize = 1024;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// 64 bytes there and back, two small programs.
    Ping,
    /// `GET` of a short value from redis-server.
    Redis,
    /// 1 KiB from nginx.
    Nginx,
    /// PHP behind nginx, with a row from PostgreSQL.
    App,
    /// Python on uvicorn, with a row from PostgreSQL.
    FastApi,
}

/// A server of a load that ends with the guard.
pub enum Running {
    /// One process.
    One {
        /// Kept for its end.
        _process: Process,
        /// Its files.
        _folder: TempDir,
        /// `ip:port`.
        address: String,
    },
    /// nginx, PHP, PostgreSQL.
    App(App),
    /// uvicorn, PostgreSQL.
    FastApi(FastApi),
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ping, Self::Redis, Self::Nginx, Self::App, Self::FastApi];

    /// Its name in arguments.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Redis => "redis",
            Self::Nginx => "nginx",
            Self::App => "app",
            Self::FastApi => "fastapi",
        }
    }

    /// Its title in the tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Ping => "64-byte TCP ping-pong",
            Self::Redis => "redis-server, GET",
            Self::Nginx => "nginx, 1 KiB",
            Self::App => "PHP-FPM behind nginx, with PostgreSQL",
            Self::FastApi => "FastAPI on uvicorn, with PostgreSQL",
        }
    }

    /// Requests per second, if the arguments do not say.
    pub const fn rate(self) -> u64 {
        match self {
            Self::Ping | Self::Redis => 5000,
            Self::Nginx => 3000,
            Self::App | Self::FastApi => 200,
        }
    }

    /// Messages of a request, counted once at each end: a request and its answer make four. The application's are those
    /// of client and nginx, nginx and PHP, PHP and PostgreSQL, by `strace` of PHP twice: `pg_pconnect` has the connection reset first. FastAPI's, by `strace` of uvicorn and PostgreSQL: request and answer,
    /// of which head and body are two writes; the cached statement and its row; what asyncpg's pool sends to reset a connection
    /// that it takes back, and its answer.
    pub const fn message_sides(self) -> u64 {
        match self {
            Self::Ping | Self::Redis | Self::Nginx => 4,
            Self::App => 16,
            Self::FastApi => 12,
        }
    }

    /// Whether client and server share a CPU at the fixed rate: without that, what is measured is where the scheduler puts
    /// them. The applications need both.
    pub const fn is_pinned(self) -> bool {
        !matches!(self, Self::App | Self::FastApi)
    }

    /// The paced client's protocol.
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Redis => "redis",
            Self::Nginx | Self::App | Self::FastApi => "http",
        }
    }

    /// The path that an HTTP client asks for.
    pub const fn path(self) -> &'static str {
        match self {
            Self::App => "/item.php?id=7",
            Self::FastApi => "/items/7",
            _ => "/1k",
        }
    }

    /// Starts its server.
    pub fn start(self, place: Place) -> Running {
        match self {
            Self::Ping => echo(place),
            Self::Redis => redis(place),
            Self::Nginx => nginx(place),
            Self::App => Running::App(App::start(place)),
            Self::FastApi => Running::FastApi(FastApi::start(place)),
        }
    }
}

impl Running {
    /// `ip:port` that the client talks to.
    pub fn address(&self) -> &str {
        match self {
            Self::One { address, .. } => address,
            Self::App(app) => app.address(),
            Self::FastApi(app) => app.address(),
        }
    }
}

fn echo(place: Place) -> Running {
    let mut process = place.apply(actor("echo").arg("address=127.0.0.1:0").stdout_piped()).spawn();
    let mut line = String::new();
    BufReader::new(process.stdout()).read_line(&mut line).expect("the echo server says where it listens");
    let address = line.trim().strip_prefix("ready ").expect("the echo server is ready").to_owned();
    Running::One { _process: process, _folder: TempDir::new("echo"), address }
}

fn redis(place: Place) -> Running {
    let folder = TempDir::new("redis");
    let port = free_port().to_string();
    let launch = Launch::new(tool("redis-server")).args(["--port", &port, "--bind", "127.0.0.1", "--save", ""]);
    let launch = launch.args(["--appendonly", "no", "--daemonize", "no", "--dir"]).arg(folder.path());
    let process = place.apply(launch.stdout_to(&folder.join("log"))).spawn();
    let address = format!("127.0.0.1:{port}");
    wait_until_it_listens(&address);
    Launch::new(tool("redis-cli")).args(["-p", &port, "set", "key", "value"]).run();
    Running::One { _process: process, _folder: folder, address }
}

fn nginx(place: Place) -> Running {
    let folder = TempDir::new("nginx");
    std::fs::create_dir(folder.join("www")).expect("create folder for the file");
    folder.write("www/1k", vec![b'x'; BODY_BYTES]);
    let address = format!("127.0.0.1:{}", free_port());
    let root = folder.join("www");
    let process = start_nginx(place, &folder, &address, &format!("location / {{ root {}; }}", root.display()));
    Running::One { _process: process, _folder: folder, address }
}

/// One nginx process with these locations; it logs nothing.
pub fn start_nginx(place: Place, folder: &TempDir, address: &str, locations: &str) -> Process {
    let path = folder.path().display();
    let text = format!(
        "daemon off; master_process off; worker_processes 1; user root; pid {path}/pid; error_log {path}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; keepalive_requests 100000000; keepalive_timeout 75s;
  client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;
  uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
  server {{ listen {address}; {locations} }}
}}
"
    );
    let config = folder.write("nginx.conf", text);
    let launch = Launch::new(tool("nginx")).arg("-p").arg(folder.path()).arg("-c").arg(config);
    let process = place.apply(launch.stderr_to(&folder.join("stderr"))).spawn();
    wait_until_it_listens(address);
    process
}

/// Waits until somebody accepts there.
pub fn wait_until_it_listens(address: &str) {
    clock::wait_for(&format!("a server on {address}"), Duration::from_secs(20), || TcpStream::connect(address).ok());
}
