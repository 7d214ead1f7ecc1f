//! The tests' own server and client as guarded processes, and what they say.
//!
//! In: modes and routes of [`crate::actors`]. Out: where the server listens; the client's own times per request.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use serde::Deserialize;

use crate::{
    agent::target_dir,
    cgroup::{Cgroup, Limit},
    namespace::Namespace,
    process::{Launch, Process},
};

const SERVER_BOUND: Duration = Duration::from_secs(30);
const CLIENT_BOUND: Duration = Duration::from_secs(120);

/// The body that a server answers with to a `GET`, whatever its status.
///
/// # Errors
/// The connection cannot be made, broke, or gave nothing for ten seconds; what came is no answer.
pub fn get(from: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(from)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // HTTP/1.0: the body ends with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {from}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    Ok(body.to_owned())
}

/// Where a process shall run.
#[derive(Clone, Copy, Default)]
pub struct Place<'a> {
    /// Cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// Network namespace.
    pub namespace: Option<&'a Namespace>,
    /// CPU to pin it to.
    pub cpu: Option<usize>,
    /// Groups of cgroup v1 controllers: what it may use of CPUs and disks.
    pub limits: [Option<&'a Limit>; 2],
    /// What it sees as `/etc/resolv.conf`.
    pub resolver: Option<&'a Path>,
}

impl<'a> Place<'a> {
    /// In this cgroup.
    pub fn cgroup(cgroup: &'a Cgroup) -> Self {
        Self { cgroup: Some(cgroup), ..Self::default() }
    }

    /// And in this namespace.
    pub fn namespace(self, namespace: &'a Namespace) -> Self {
        Self { namespace: Some(namespace), ..self }
    }

    /// And on this CPU.
    pub fn cpu(self, cpu: usize) -> Self {
        Self { cpu: Some(cpu), ..self }
    }

    /// Puts a process there.
    pub fn apply(self, mut launch: Launch) -> Launch {
        if let Some(cgroup) = self.cgroup {
            launch = launch.in_cgroup(cgroup);
        }
        if let Some(namespace) = self.namespace {
            launch = launch.in_namespace(namespace);
        }
        if let Some(cpu) = self.cpu {
            launch = launch.on_cpu(cpu);
        }
        for limit in self.limits.into_iter().flatten() {
            launch = launch.limited_by(limit);
        }
        if let Some(resolver) = self.resolver {
            launch = launch.with_resolver(resolver);
        }
        launch
    }
}

/// What the client says of one request.
#[derive(Clone, Debug, Deserialize)]
pub struct Exchange {
    /// Target.
    pub path: String,
    /// Status code.
    pub status: u16,
    /// Bytes of body.
    pub bytes: u64,
    /// Before the first write.
    pub start_ns: u64,
    /// After the last write.
    pub written_ns: u64,
    /// Before the first read.
    pub read_ns: u64,
    /// After the last byte was read.
    pub end_ns: u64,
    /// Of the first request of a connection.
    #[serde(flatten)]
    pub connect: Option<Connect>,
}

/// When a connection was made.
#[derive(Clone, Debug, Deserialize)]
pub struct Connect {
    /// Before the call that connects.
    pub connect_ns: u64,
    /// After it, or after it became writable.
    pub connected_ns: u64,
}

/// What the server says of one request.
#[derive(Clone, Debug, Deserialize)]
pub struct Served {
    /// Target.
    pub path: String,
    /// When the request's last byte was read.
    pub read_ns: u64,
    /// When the answer's last byte was written.
    pub written_ns: u64,
}

/// The running server.
pub struct Server {
    process: Process,
    lines: mpsc::Receiver<String>,
    /// `ip:port` that it listens on.
    pub address: String,
}

impl Server {
    /// Starts it on a free port of loopback and waits until it listens.
    pub fn start(place: Place) -> Self {
        Self::start_with(place, "127.0.0.1:0", &[])
    }

    /// Starts it on an address, with more arguments.
    pub fn start_with(place: Place, address: &str, args: &[&str]) -> Self {
        Self::start_actor(place, "server", address, args)
    }

    /// Starts another actor that serves.
    pub fn start_actor(place: Place, name: &str, address: &str, args: &[&str]) -> Self {
        let launch = actor(name).arg(format!("address={address}")).args(args).stdout_piped();
        Self::ready(place.apply(launch).spawn())
    }

    /// Starts it from another executable file, a copy of the actors' one.
    pub fn start_copy(place: Place, program: PathBuf) -> Self {
        let launch = Launch::new(program).args(["server", "address=127.0.0.1:0"]).stdout_piped();
        Self::ready(place.apply(launch).spawn())
    }

    fn ready(mut process: Process) -> Self {
        let output = BufReader::new(process.stdout());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let line = lines.recv_timeout(SERVER_BOUND).expect("the server says where it listens");
        let address = line.strip_prefix("ready ").unwrap_or_else(|| panic!("the server did not start: {line}"));
        Self { address: address.to_owned(), process, lines }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    /// The next `count` requests that it served; it must run with `log=1`.
    pub fn served(&self, count: usize) -> Vec<Served> {
        let parse = |line: String| {
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("not a served request: {error}: {line}"))
        };
        self.lines(count).into_iter().map(parse).collect()
    }

    /// The same, as the server printed them.
    pub fn lines(&self, count: usize) -> Vec<String> {
        let next = |_| self.lines.recv_timeout(SERVER_BOUND).expect("the server tells of each request in time");
        (0..count).map(next).collect()
    }

    /// What the server printed since it was last asked, without waiting.
    pub fn lines_so_far(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}

/// The tests' own actor of this name, not yet started.
pub fn actor(name: &str) -> Launch {
    Launch::new(actor_program()).arg(name)
}

/// The file of the tests' own actors: the benchmark is its own.
pub fn actor_program() -> PathBuf {
    let own = std::env::current_exe().expect("path of this program");
    if own.file_name().is_some_and(|name| name == "bench") {
        return own;
    }
    let profile = if own.components().any(|part| part.as_os_str() == "release") { "release" } else { "debug" };
    let program = target_dir().join(profile).join("actor");
    assert!(program.exists(), "{} is not built; `cargo build -p spantap-tests --bins` makes it", program.display());
    program
}

/// A client that is still running.
pub struct Client(Process);

impl Client {
    /// Starts a client in a mode.
    pub fn start(place: Place, address: &str, args: &[&str]) -> Self {
        Self::start_actor(place, "client", address, args)
    }

    /// Starts another actor that asks.
    pub fn start_actor(place: Place, name: &str, address: &str, args: &[&str]) -> Self {
        let launch = actor(name).arg(format!("address={address}")).args(args).stdout_piped();
        Self(place.apply(launch).spawn())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Waits for its end; it must succeed. Gives what it says of each request.
    pub fn finish(self) -> Vec<Exchange> {
        self.finish_text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("not an exchange: {error}: {line}")))
            .collect()
    }

    /// The same, as the client printed it.
    pub fn finish_text(self) -> String {
        self.0.finish(CLIENT_BOUND)
    }
}

/// Runs a client to its end.
pub fn request(place: Place, address: &str, args: &[&str]) -> Vec<Exchange> {
    Client::start(place, address, args).finish()
}
