//! A selection that changes while a thread waits in a call.
//!
//! Truth: what the program says that it read, and when it was excluded.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixListener,
    time::Duration,
};

use agent::kernel::select::{Rules, Wanted};
use agent_common::{
    header::{RecordHeader, kind},
    settings::CGROUP_LEVELS,
};
use spantap_tests::{
    cgroup::Cgroup,
    clock,
    process::{Launch, require_root, tool},
    temp::TempDir,
};

use crate::records::Records;

const WAITER: &str = include_str!("waiter.py");
const BOUND: Duration = Duration::from_secs(30);

/// The other end: makes an address, and gives what sends to who comes.
struct Peer {
    kind: &'static str,
    address: String,
    accept: Box<dyn FnOnce() -> Box<dyn Write>>,
}

/// Of a connected datagram socket.
struct Datagrams(UdpSocket);

impl Write for Datagrams {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn tcp() -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address").to_string();
    let accept = move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.read_exact(&mut [0; 5]).expect("hello");
        Box::new(stream) as Box<dyn Write>
    };
    Peer { kind: "tcp", address, accept: Box::new(accept) }
}

fn udp() -> Peer {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = socket.local_addr().expect("an address").to_string();
    let accept = move || {
        let (_, from) = socket.recv_from(&mut [0; 5]).expect("hello");
        socket.connect(from).expect("connect");
        Box::new(Datagrams(socket)) as Box<dyn Write>
    };
    Peer { kind: "udp", address, accept: Box::new(accept) }
}

fn unix(folder: &TempDir) -> Peer {
    let path = folder.join("socket");
    let listener = UnixListener::bind(&path).expect("listen");
    let accept = move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.read_exact(&mut [0; 5]).expect("hello");
        Box::new(stream) as Box<dyn Write>
    };
    Peer { kind: "unix", address: path.display().to_string(), accept: Box::new(accept) }
}

fn check(peer: Peer, folder: &TempDir, exclude: impl FnOnce(u32) -> Rules) {
    let script = folder.write("waiter.py", WAITER);
    let launch = Launch::new(tool("python3")).arg(script).args([peer.kind, &peer.address]);
    let mut process = launch.stdout_piped().spawn();
    let mut lines = BufReader::new(process.stdout()).lines();
    let mut stream = (peer.accept)();
    let mut records = Records::of(process.pid());
    let mut say = |text: &str| {
        stream.write_all(text.as_bytes()).expect("send");
        assert_eq!(lines.next().expect("a line").expect("a line"), text, "what it read");
    };
    // The first is read by a call that was entered before anything was watched.
    say("first");
    say("told");
    records.wait_for("the record of a read", BOUND, |taken| taken.iter().any(|record| contains(record, b"told")));
    let reading = format!("{} ", libc::SYS_recvfrom);
    let in_call = || std::fs::read_to_string(format!("/proc/{}/syscall", process.pid())).unwrap_or_default();
    clock::wait_for("the next read", BOUND, || in_call().starts_with(&reading).then_some(()));
    records.exclude(process.pid(), exclude(process.pid()));
    let excluded_ns = clock::monotonic_ns();
    say("secret");
    say("end");
    process.wait(BOUND);
    let taken = records.wait_for("what is left", BOUND, |_| true);
    for record in &taken {
        let header: RecordHeader = agent_common::read(record).expect("a header");
        let is_end = header.kind == kind::CONNECTION; // of a connection that was told of before
        assert!(!contains(record, b"secret"), "{}: {header:?}", peer.kind);
        assert!(is_end || header.time_ns < excluded_ns, "{}: {header:?}", peer.kind);
    }
}

fn contains(record: &[u8], text: &[u8]) -> bool {
    record.windows(text.len()).any(|window| window == text)
}

#[test]
fn what_a_waiting_call_reads_after_its_exclusion_is_not_recorded() {
    require_root();
    let folder = TempDir::new("reload");
    for peer in [tcp(), udp(), unix(&folder)] {
        check(peer, &folder, |pid| Rules { pids: vec![pid], ..Rules::default() });
    }
}

#[test]
fn the_root_of_all_cgroups_can_be_excluded() {
    require_root();
    let some = Cgroup::new("reload");
    let root = some.path().parent().expect("the mount").to_path_buf();
    check(tcp(), &TempDir::new("reload"), |_| Rules { cgroups: vec![root], ..Rules::default() });
}

#[test]
fn a_cgroup_too_deep_for_a_rule_is_refused() {
    require_root();
    let mut cgroups = vec![Cgroup::new("deep")];
    for level in 1..=CGROUP_LEVELS {
        let deepest = &cgroups[0]; // and removed first
        let wanted = Wanted {
            select: Rules { cgroups: vec![deepest.path().to_path_buf()], ..Rules::default() },
            exclude: Rules::default(),
            select_all: false,
            unselected_timing: false,
            payload_bytes_max: 0,
        };
        let result = wanted.check();
        assert_eq!(result.is_ok(), level < CGROUP_LEVELS, "{level}: {result:?}");
        let deeper = deepest.child("deeper");
        cgroups.insert(0, deeper);
    }
}
