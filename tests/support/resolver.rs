//! Name servers for tests: the tests' own, which is as slow and as wrong as it is told to be, and dnsmasq before it.
//!
//! In: where they shall run. Out: a `resolv.conf` for those who shall ask them.

use std::{
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::PathBuf,
    sync::mpsc,
    time::Duration,
};

use crate::{
    clock,
    http::{Place, actor},
    process::{Launch, Process, tool},
    temp::TempDir,
};

const BOUND: Duration = Duration::from_secs(10);

/// A running name server.
pub struct NameServer {
    _process: Process,
    lines: mpsc::Receiver<String>,
}

impl NameServer {
    /// Starts the tests' own on `address`, port 53; for the arguments see [`crate::actors::dns`].
    pub fn start(place: Place, address: &str, args: &[String]) -> Self {
        let launch = actor("dns").arg(format!("address={address}:53")).args(args).stdout_piped();
        let mut process = place.apply(launch).spawn();
        let output = BufReader::new(process.stdout());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let ready = lines.recv_timeout(BOUND).expect("the name server says that it listens");
        assert!(ready.starts_with("ready "), "{ready}");
        Self { _process: process, lines }
    }

    /// One JSON line for each query that came since the last call.
    pub fn queries(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}

/// A running dnsmasq that knows nothing and asks another server, like the resolver on a host's loopback.
pub struct Dnsmasq {
    _process: Process,
    _folder: TempDir,
}

impl Dnsmasq {
    /// Starts it on 127.0.0.1, port 53, of the place's namespace.
    pub fn start(place: Place, upstream: &str) -> Self {
        let folder = TempDir::new("dnsmasq");
        let launch = Launch::new(tool("dnsmasq"))
            .args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--cache-size=0"])
            .args(["--bind-interfaces", "--listen-address=127.0.0.1", "--pid-file="])
            .arg(format!("--server={upstream}"))
            .stderr_to(&folder.join("stderr"));
        let process = place.apply(launch).spawn();
        let namespace = place.namespace.expect("dnsmasq wants a namespace of the test's own");
        clock::wait_for("dnsmasq listens", BOUND, || {
            namespace.enter(|| UdpSocket::bind("127.0.0.1:53")).is_err().then_some(())
        });
        Self { _process: process, _folder: folder }
    }
}

/// Writes a `resolv.conf` into `folder`.
pub fn resolv_conf(folder: &TempDir, server: &str, options: &str) -> PathBuf {
    let options = if options.is_empty() { String::new() } else { format!("options {options}\n") };
    folder.write("resolv.conf", format!("nameserver {server}\n{options}"))
}
