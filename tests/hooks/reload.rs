//! A selection that changes while a thread waits in a call.
//!
//! Truth: what the program says that it read, and when it was excluded, selected again or moved.

use std::{
    io::{BufRead, BufReader, Lines, Read, Write},
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixListener,
    process::ChildStdout,
    time::Duration,
};

use agent::kernel::select::{Rules, Wanted};
use agent_common::{
    datagram::DatagramRecord,
    header::{RecordHeader, kind},
    message::CallRecord,
    settings::CGROUP_LEVELS,
};
use spantap_tests::{
    cgroup::Cgroup,
    clock,
    process::{Launch, Process, require_root, tool},
    temp::TempDir,
};

use crate::records::{Records, TELLERS, of_kind, process};

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

/// A program that reads what its peer sends.
struct Waiter {
    kind: &'static str,
    process: Process,
    lines: Lines<BufReader<ChildStdout>>,
    stream: Box<dyn Write>,
}

impl Waiter {
    /// In this cgroup, if there is one.
    fn start(peer: Peer, folder: &TempDir, cgroup: Option<&Cgroup>) -> Self {
        let script = folder.write("waiter.py", WAITER);
        let mut launch = Launch::new(tool("python3")).arg(script).args([peer.kind, &peer.address]);
        if let Some(cgroup) = cgroup {
            launch = launch.in_cgroup(cgroup);
        }
        let mut process = launch.stdout_piped().spawn();
        let lines = BufReader::new(process.stdout()).lines();
        Self { kind: peer.kind, process, lines, stream: (peer.accept)() }
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends it this text, and waits until it has read it.
    fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("send");
        assert_eq!(self.lines.next().expect("a line").expect("a line"), text, "what it read");
    }

    /// Waits until it sleeps in its next read.
    fn sleeps(&self) {
        let folder = format!("/proc/{}", self.pid());
        let file = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default();
        let reading = format!("{} ", libc::SYS_recvfrom);
        // A thread that runs has `running` there.
        clock::wait_for("the next read", BOUND, || file("syscall").starts_with(&reading).then_some(()));
    }

    fn end(mut self) {
        self.say("end");
        self.process.wait(BOUND);
    }
}

fn check(records: &mut Records, mut waiter: Waiter, exclude: impl FnOnce(u32) -> Rules) {
    waiter.sleeps();
    records.replace(process(waiter.pid()), Rules::default());
    // The first is read by a call that was entered before anything was watched.
    waiter.say("first");
    waiter.say("told");
    records.wait_for("the record of a read", BOUND, |taken| is_told(taken, "told"));
    waiter.sleeps();
    records.exclude(waiter.pid(), exclude(waiter.pid()));
    let excluded_ns = clock::monotonic_ns();
    waiter.say("secret");
    let kind = waiter.kind;
    waiter.end();
    let taken = records.wait_for("what is left", BOUND, |_| true);
    for record in &taken {
        let header: RecordHeader = agent_common::read(record).expect("a header");
        let is_end = header.kind == kind::CONNECTION; // of a connection that was told of before
        assert!(!contains(record, "secret"), "{kind}: {header:?}");
        assert!(is_end || header.time_ns < excluded_ns, "{kind}: {header:?}");
    }
}

fn contains(record: &[u8], text: &str) -> bool {
    record.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Whether one of the records has this text.
fn is_told(records: &[Vec<u8>], text: &str) -> bool {
    records.iter().any(|record| contains(record, text))
}

/// The call that moved this text: when it was entered, 0 if that is not known, and when it returned.
fn call_of(records: &[Vec<u8>], text: &str) -> Option<(u64, u64)> {
    let record = std::slice::from_ref(records.iter().find(|record| contains(record, text))?);
    let streams = of_kind::<CallRecord>(record).map(|call| (call.enter_ns, call.header.time_ns));
    let datagrams = of_kind::<DatagramRecord>(record).map(|call| (call.enter_ns, call.header.time_ns));
    streams.chain(datagrams).next()
}

/// With each way to tell of calls, for each kind of socket; with words for both.
fn by_each_teller(check: impl Fn(&mut Records, Peer, &TempDir, &str)) {
    require_root();
    for told_by in TELLERS {
        let mut records = Records::selecting(told_by, Rules::default());
        let folder = TempDir::new("reload");
        for peer in [tcp(), udp(), unix(&folder)] {
            let what = format!("{} by {told_by:?}", peer.kind);
            check(&mut records, peer, &folder, &what);
        }
    }
}

#[test]
fn what_a_waiting_call_reads_after_its_exclusion_is_not_recorded() {
    require_root();
    let mut records = Records::selecting(TELLERS[0], Rules::default());
    let folder = TempDir::new("reload");
    for peer in [tcp(), udp(), unix(&folder)] {
        check(&mut records, Waiter::start(peer, &folder, None), process);
    }
}

#[test]
fn a_waiting_reader_is_recorded_again_when_its_exclusion_ends() {
    by_each_teller(|records, peer, folder, what| check_again(records, Waiter::start(peer, folder, None), what));
}

fn check_again(records: &mut Records, mut waiter: Waiter, what: &str) {
    let pid = waiter.pid();
    waiter.sleeps();
    records.replace(process(pid), Rules::default());
    waiter.say("first");
    waiter.sleeps();
    records.exclude(pid, process(pid));
    waiter.say("secret");
    let before_ns = clock::monotonic_ns();
    waiter.sleeps();
    records.replace(process(pid), Rules::default());
    let selected_ns = clock::monotonic_ns();
    waiter.say("again");
    waiter.sleeps();
    waiter.say("told");
    let taken = records.wait_for("the record of a read", BOUND, |taken| is_told(taken, "told"));
    assert!(!is_told(&taken, "secret"), "{what}");
    // What was read by the call that was entered while nobody looked may be told, but not what nobody saw of it.
    if let Some((enter_ns, return_ns)) = call_of(&taken, "again") {
        assert!(return_ns > selected_ns, "{what}: returned {return_ns}, selected {selected_ns}");
        assert!(enter_ns == 0 || enter_ns > before_ns, "{what}: entered {enter_ns}, printed {before_ns}");
    }
    let (enter_ns, return_ns) = call_of(&taken, "told").expect("the call");
    assert!((selected_ns..return_ns).contains(&enter_ns), "{what}: {enter_ns}, {return_ns}, selected {selected_ns}");
    waiter.end();
}

#[test]
fn a_reader_that_moves_while_it_waits_is_told_of_by_its_new_cgroup() {
    by_each_teller(|records, peer, folder, what| {
        let other = Cgroup::new("other");
        check_move(records, Waiter::start(peer, folder, Some(&other)), &other, what);
    });
}

fn check_move(records: &mut Records, mut waiter: Waiter, other: &Cgroup, what: &str) {
    let watched = Cgroup::new("watched");
    records.replace(Rules { cgroups: vec![watched.path().to_path_buf()], ..Rules::default() }, Rules::default());
    waiter.say("first");
    waiter.sleeps();
    watched.adopt(waiter.pid());
    let moved_ns = clock::monotonic_ns();
    // Of the call that it moved in, either cgroup may decide.
    waiter.say("between");
    waiter.sleeps();
    waiter.say("told");
    let taken = records.wait_for("the record of a read", BOUND, |taken| is_told(taken, "told"));
    assert!(!is_told(&taken, "first"), "{what}");
    let (enter_ns, return_ns) = call_of(&taken, "told").expect("the call");
    assert!((moved_ns..return_ns).contains(&enter_ns), "{what}: {enter_ns}, {return_ns}, moved {moved_ns}");
    waiter.sleeps();
    other.adopt(waiter.pid());
    waiter.say("between");
    waiter.say("secret");
    waiter.end();
    let taken = records.wait_for("what is left", BOUND, |_| true);
    assert!(!is_told(&taken, "secret"), "{what}");
}

#[test]
fn the_root_of_all_cgroups_can_be_excluded() {
    require_root();
    let some = Cgroup::new("reload");
    let root = some.path().parent().expect("the mount").to_path_buf();
    let mut records = Records::selecting(TELLERS[0], Rules::default());
    let waiter = Waiter::start(tcp(), &TempDir::new("reload"), None);
    check(&mut records, waiter, |_| Rules { cgroups: vec![root], ..Rules::default() });
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
