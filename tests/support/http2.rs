//! HTTP/2 and gRPC of other people's making: nghttpd, h2load, grpcio.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    path::PathBuf,
    time::Duration,
};

use crate::{
    clock,
    http::Place,
    nginx::certificate,
    process::{Launch, Process, tool},
    python,
    span::Span,
    temp::{TempDir, free_port},
};

const GRPC_ECHO: &str = include_str!("grpc_echo.py");

/// A running nghttpd without TLS: `/index.html`, and 404 for all else.
pub struct Nghttpd {
    process: Process,
    _folder: TempDir,
    /// `ip:port` that it listens on.
    pub address: String,
}

impl Nghttpd {
    /// Starts it on a free port of loopback.
    pub fn start(place: Place) -> Self {
        Self::start_on(place, "127.0.0.1")
    }

    /// Starts it on a free port of an address that the place has.
    pub fn start_on(place: Place, ip: &str) -> Self {
        let folder = TempDir::new("nghttpd");
        folder.write("index.html", "hello\n");
        let port = free_port().to_string();
        let launch = Launch::new(tool("nghttpd")).args(["--no-tls", "--address", ip, "-n1", "-d"]);
        let launch = launch.arg(folder.path()).arg(&port).stderr_to(&folder.join("stderr"));
        let process = place.apply(launch.stdout_to(&folder.join("stdout"))).spawn();
        let address = format!("{ip}:{port}");
        clock::wait_for("nghttpd listens", Duration::from_secs(10), || {
            let connect = || TcpStream::connect(&address).ok();
            match place.namespace {
                Some(namespace) => namespace.enter(connect),
                None => connect(),
            }
        });
        Self { process, _folder: folder, address }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// What h2load says of one request.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Status code.
    pub status: u64,
    /// From putting the request's HEADERS together, which is before they are written, to the end of its response; whole
    /// microseconds, the rest cut off.
    pub duration_ns: u64,
}

/// A load that is still running.
pub struct H2load {
    process: Process,
    folder: TempDir,
}

impl H2load {
    /// Starts it with these arguments, the last of which are URLs.
    pub fn start(place: Place, args: &[&str]) -> Self {
        let folder = TempDir::new("h2load");
        let launch = Launch::new(tool("h2load")).arg(format!("--log-file={}", folder.join("log").display()));
        let process = place.apply(launch.args(args).stdout_to(&folder.join("stdout"))).spawn();
        Self { process, folder }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for its end; gives its own log, a line per request.
    pub fn finish(mut self) -> Vec<Load> {
        let status = self.process.wait(Duration::from_secs(120));
        assert!(status.success(), "h2load ended with {status}");
        let text = std::fs::read_to_string(self.folder.join("log")).expect("the log of h2load");
        text.lines().map(load).collect()
    }
}

/// `<start in microseconds> <status> <microseconds>`, separated by tabs.
fn load(line: &str) -> Load {
    let numbers: Vec<u64> = line.split('\t').map_while(|number| number.parse().ok()).collect();
    let &[_, status, duration] = numbers.as_slice() else { panic!("not a line of h2load's log: {line}") };
    Load { status, duration_ns: duration * 1000 }
}

/// The spans of gRPC calls at an end, in the order of their starts.
pub fn grpc_calls<'a>(spans: &'a [Span], kind: &str) -> Vec<&'a Span> {
    let mut calls: Vec<&Span> = spans.iter().filter(|span| span.kind == kind && span.protocol == "grpc").collect();
    calls.sort_by_key(|span| span.start_unix_ns);
    calls
}

/// A gRPC server of the tests' own on grpcio; `grpc_echo.py` has its methods.
pub struct GrpcServer {
    process: Process,
    _folder: TempDir,
    /// Key and certificate, with TLS.
    pair: Option<(PathBuf, PathBuf)>,
    /// `ip:port` that it listens on.
    pub address: String,
}

impl GrpcServer {
    /// Starts it on a free port of loopback.
    pub fn start(place: Place) -> Self {
        let folder = TempDir::new("grpc");
        Self::start_with(place, folder, None)
    }

    /// The same with TLS, and a certificate of its own.
    pub fn start_tls(place: Place) -> Self {
        let folder = TempDir::new("grpc");
        let pair = certificate(&folder);
        Self::start_with(place, folder, Some(pair))
    }

    fn start_with(place: Place, folder: TempDir, pair: Option<(PathBuf, PathBuf)>) -> Self {
        let launch = secured(python::script(GRPC_ECHO).args(["server", "0"]), &pair);
        let mut process = place.apply(launch.stdout_piped().stderr_to(&folder.join("stderr"))).spawn();
        let mut port = String::new();
        BufReader::new(process.stdout()).read_line(&mut port).expect("port of the gRPC server");
        Self { process, _folder: folder, pair, address: format!("127.0.0.1:{}", port.trim()) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Runs a client against it; gives what it printed: a line per call, `<method> <status code's name>`.
    pub fn call(&self, place: Place, args: &[&str]) -> Vec<String> {
        let launch = secured(python::script(GRPC_ECHO).arg("client").arg(&self.address), &self.pair);
        place.apply(launch.args(args)).run().lines().map(str::to_owned).collect()
    }
}

/// Tells `grpc_echo.py` of key and certificate, if there are any.
fn secured(launch: Launch, pair: &Option<(PathBuf, PathBuf)>) -> Launch {
    match pair {
        Some((key, certificate)) => launch.env("KEY", key).env("CERTIFICATE", certificate),
        None => launch,
    }
}
