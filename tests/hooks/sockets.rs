//! UDP and unix stream sockets: each call has its record, with the bytes, the time of arrival and both ends.
//!
//! Truth: the program's own clock around its calls, and the inode numbers that `fstat` gives it. On loopback and on unix
//! sockets a datagram arrives within the call that sends it.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{BufRead, BufReader, Write},
    time::Duration,
};

use agent::kernel::attach::SyscallHooks;
use agent_common::{
    connection::{ConnectionRecord, change, role},
    datagram::{self, DatagramRecord},
    header::kind,
    loss::KernelLoss,
    message::{CallRecord, direction, flag},
};
use serde::Deserialize;
use spantap_tests::{
    namespace::Namespace,
    process::{Launch, require_root, tool},
    temp::TempDir,
};

use crate::records::{PAYLOAD_BYTES, Records, TELLERS, is_kind, of_kind};

const INTERRUPTED: &str = include_str!("interrupted.py");
/// Each has four calls.
const ROUNDS: usize = 300;
const SOCKETS: &str = include_str!("sockets.py");
const BOUND: Duration = Duration::from_secs(30);
/// The family of unix sockets, and that of IPv6.
const AF_UNIX: u16 = 1;
const AF_INET6: u16 = 10;

/// What the program says of a call.
#[derive(Clone, Debug, Deserialize)]
struct Said {
    way: String,
    data: String,
    length: u32,
    errno: i32,
    start_ns: u64,
    end_ns: u64,
    own: u64,
    other: u64,
    arrived: Option<Vec<[u64; 2]>>,
}

impl Said {
    fn direction(&self) -> u8 {
        direction_of(&self.way)
    }

    /// Fails unless the arrival is within the calls that sent what arrived; the first and the last of them.
    fn check_arrival(&self, first_ns: u64, last_ns: u64) {
        let Some(windows) = &self.arrived else {
            return assert_eq!((first_ns, last_ns), (0, 0), "nobody can know the arrival: {self:?}");
        };
        let (first, last) = (windows[0], windows[windows.len() - 1]);
        let within = |at: u64, [from, to]: [u64; 2]| (from..=to).contains(&at);
        assert!(within(first_ns, first) && within(last_ns, last), "arrived {first_ns}, {last_ns}: {self:?}");
    }

    /// Fails unless the record is of this call: its times, and the bytes as far as they are captured.
    fn check_call(&self, way: u8, enter_ns: u64, return_ns: u64, length: u32, payload: &[u8]) {
        let what = format!("{self:?}, recorded {way} {enter_ns} {return_ns} {length}");
        assert_eq!((way, length), (self.direction(), self.length), "{what}");
        assert!(self.start_ns <= enter_ns && enter_ns <= return_ns && return_ns <= self.end_ns, "{what}");
        let bytes = &self.data.as_bytes()[..self.length as usize];
        let most = bytes.len().min(PAYLOAD_BYTES as usize);
        assert_eq!(payload.get(..most), Some(&bytes[..most]), "{what}");
    }
}

fn direction_of(way: &str) -> u8 {
    if way == "send" { direction::SEND } else { direction::RECEIVE }
}

/// Runs the program with the kernel side watching it; gives what it says of its calls.
fn run(what: &str, told_by: SyscallHooks) -> (Vec<Said>, Records) {
    require_root();
    let folder = TempDir::new("sockets");
    let (script, go) = (folder.write("sockets.py", SOCKETS), folder.join("go"));
    assert!(Launch::new(tool("mkfifo")).arg(&go).output().status.success());
    let line = "exec \"$0\" \"$1\" \"$2\" \"$3\" < \"$4\"";
    let launch = Launch::new(tool("sh")).args(["-c", line]).arg(tool("python3")).arg(script).arg(what);
    let mut process = launch.arg(folder.join("socket")).arg(&go).stdout_piped().spawn();
    let mut lines = BufReader::new(process.stdout()).lines();
    let records = Records::told_by(told_by, process.pid());
    let mut go = File::options().write(true).open(&go).expect("open the FIFO");
    assert_eq!(lines.next().expect("a line").expect("a line"), "ready");
    go.write_all(b"\n").expect("start the calls");
    let said = lines.map(|line| serde_json::from_str(&line.expect("a line")).expect("a call")).collect();
    process.wait(BOUND);
    (said, records)
}

#[test]
fn each_datagram_has_its_record() {
    TELLERS.into_iter().for_each(check_datagrams);
}

fn check_datagrams(told_by: SyscallHooks) {
    let (said, mut records) = run("udp", told_by);
    // That a socket is closed is no datagram.
    let is_datagram = |record: &&Vec<u8>| {
        let read = || agent_common::read::<DatagramRecord>(record);
        is_kind(record, kind::DATAGRAM) && read().is_some_and(|record| record.flags & datagram::flag::CLOSED == 0)
    };
    let count = |taken: &[Vec<u8>]| taken.iter().filter(is_datagram).count();
    let taken = records.wait_for("a record of each datagram", BOUND, |taken| count(taken) >= said.len());
    let datagrams: Vec<&Vec<u8>> = taken.iter().filter(is_datagram).collect();
    assert_eq!(datagrams.len(), said.len(), "records and calls");
    for (said, bytes) in said.iter().zip(&datagrams) {
        let record: DatagramRecord = agent_common::read(bytes).expect("a record");
        check_datagram(said, &record, &bytes[size_of::<DatagramRecord>()..]);
    }
    assert_eq!(records.lost(KernelLoss::DatagramOmitted), 2, "two of the ten of one call are not told");
}

fn check_datagram(said: &Said, record: &DatagramRecord, payload: &[u8]) {
    said.check_call(record.direction, record.enter_ns, record.header.time_ns, record.length, payload);
    assert_eq!(record.result, -said.errno, "{said:?}");
    assert_eq!((u64::from(record.local_port), u64::from(record.remote_port)), (said.own, said.other), "{said:?}");
    let anonymous = record.flags & datagram::flag::NO_REMOTE != 0;
    assert_eq!(anonymous, said.other == 0, "{said:?}");
    let loopback = if anonymous {
        &[0; 16]
    } else if record.family == AF_INET6 {
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1]
    } else {
        &[127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    };
    assert_eq!(&record.remote_address, loopback, "{said:?}");
    said.check_arrival(record.arrival_ns, record.arrival_ns);
    let cut = record.flags & datagram::flag::TRUNCATED != 0;
    assert_eq!(cut, said.length > PAYLOAD_BYTES, "{said:?}");
}

#[test]
fn each_call_on_a_unix_stream_has_its_record() {
    TELLERS.into_iter().for_each(check_unix_streams);
}

fn check_unix_streams(told_by: SyscallHooks) {
    let (said, mut records) = run("unix", told_by);
    let closed = |record: &Vec<u8>| {
        is_kind(record, kind::CONNECTION)
            && agent_common::read::<ConnectionRecord>(record).is_some_and(|record| record.change == change::CLOSED)
    };
    // Before Linux 6.5 a socket goes only after `close` has returned; then nothing tells its end here.
    let both = |taken: &[Vec<u8>]| taken.iter().filter(|record| closed(record)).count() >= 2;
    let taken = records.wait_for("both ends' closing", BOUND, both);
    let opened = taken.iter().filter(|record| is_kind(record, kind::CONNECTION));
    let opened: Vec<ConnectionRecord> = opened.filter_map(|record| agent_common::read(record)).collect();
    let calls: Vec<&Vec<u8>> = taken.iter().filter(|record| is_kind(record, kind::CALL)).collect();
    assert_eq!(calls.len(), said.len(), "records and calls");
    let mut positions = HashMap::new();
    for (said, bytes) in said.iter().zip(&calls) {
        let record: CallRecord = agent_common::read(bytes).expect("a record");
        said.check_call(
            record.direction,
            record.enter_ns,
            record.header.time_ns,
            record.end - record.start,
            &bytes[size_of::<CallRecord>()..],
        );
        said.check_arrival(record.arrival_first_ns, record.arrival_last_ns);
        assert_eq!(record.result, if said.errno == 0 { said.length as i32 } else { -said.errno }, "{said:?}");
        // Both ends count the same bytes.
        let sender = if record.direction == direction::SEND { said.own } else { said.other };
        let position = positions.entry((sender, record.direction)).or_insert(0);
        assert_eq!(record.start, *position, "{said:?}");
        *position = record.end;
        let several = said.arrived.as_ref().is_some_and(|arrived| arrived.len() > 1);
        assert_eq!(record.flags & flag::MERGED != 0, several, "{said:?}");
        check_end(said, &record, &opened);
    }
    let ends = calls.last().and_then(|record| agent_common::read::<CallRecord>(record)).expect("a call");
    assert!(
        ends.result < 0
            && calls.iter().any(|record| {
                agent_common::read::<CallRecord>(record).is_some_and(|call| call.flags & flag::END_OF_STREAM != 0)
            })
    );
}

/// What the program says of a call beside which datagrams arrived.
#[derive(Debug, Deserialize)]
struct Interrupted {
    text: String,
    way: String,
    start_ns: u64,
    end_ns: u64,
}

#[test]
fn a_datagram_that_interrupts_a_thread_says_nothing_of_its_call() {
    require_root();
    TELLERS.into_iter().for_each(check_interrupted);
}

fn check_interrupted(told_by: SyscallHooks) {
    let namespace = Namespace::new();
    // What arrives is taken to the first CPU, where the program runs, from the second, where it was sent by its children.
    let steer = "mount -t sysfs sysfs /sys && echo 1 > /sys/class/net/lo/queues/rx-0/rps_cpus";
    let private = Launch::new(tool("unshare")).in_namespace(&namespace).args(["--mount", "--propagation", "private"]);
    private.arg(tool("sh")).args(["-c", steer]).run();
    let folder = TempDir::new("interrupted");
    let (script, go) = (folder.write("interrupted.py", INTERRUPTED), folder.join("go"));
    assert!(Launch::new(tool("mkfifo")).arg(&go).output().status.success());
    let line = "exec \"$0\" \"$1\" \"$2\" < \"$3\"";
    let launch = Launch::new(tool("sh")).in_namespace(&namespace).on_cpu(0).args(["-c", line]).arg(tool("python3"));
    let mut process = launch.arg(script).arg(ROUNDS.to_string()).arg(&go).stdout_piped().spawn();
    let mut lines = BufReader::new(process.stdout()).lines();
    let mut go = File::options().write(true).open(&go).expect("open the FIFO");
    assert_eq!(lines.next().expect("a line").expect("a line"), "ready");
    let mut records = Records::told_by(told_by, process.pid());
    go.write_all(b"\n").expect("start the calls");
    // It says nothing before the last of them, and the rings have to be emptied until then.
    let pid = process.pid();
    let last = format!("unix {:06}", ROUNDS - 1);
    let taken = records.wait_for("the last call's record", BOUND, |taken| {
        of_texts(taken, pid).any(|(text, _)| text == (direction::RECEIVE, last.as_bytes()))
    });
    let said: Vec<Interrupted> =
        lines.map(|line| serde_json::from_str(&line.expect("a line")).expect("a call")).collect();
    process.wait(BOUND);
    assert_eq!(said.len(), ROUNDS * 4, "calls");
    assert_eq!(records.lost(KernelLoss::RingFull), 0, "records lost");
    let calls: HashMap<(u8, &[u8]), CallRecord> = of_texts(&taken, pid).collect();
    let arrivals: BTreeSet<u64> = of_kind::<DatagramRecord>(&taken).map(|datagram| datagram.arrival_ns).collect();
    let mut interrupted = 0;
    for said in &said {
        let way = direction_of(&said.way);
        let call = calls.get(&(way, said.text.as_bytes())).unwrap_or_else(|| panic!("{told_by:?}: no {said:?}"));
        let (enter_ns, return_ns) = (call.enter_ns, call.header.time_ns);
        let within = said.start_ns <= enter_ns && enter_ns <= return_ns && return_ns <= said.end_ns;
        assert!(within, "{told_by:?}: {said:?}, recorded {enter_ns} to {return_ns}");
        // While a thread sleeps nothing interrupts it.
        let may_sleep = said.way == "receive" && said.text.starts_with("tcp");
        interrupted += usize::from(!may_sleep && arrivals.range(enter_ns..return_ns).next().is_some());
    }
    assert!(interrupted >= ROUNDS / 50, "{told_by:?}: datagrams arrived within {interrupted} of {} calls", said.len());
}

/// The records of a process's calls that moved bytes, by their direction and bytes.
fn of_texts(records: &[Vec<u8>], pid: u32) -> impl Iterator<Item = ((u8, &[u8]), CallRecord)> {
    let call = |record: &Vec<u8>| agent_common::read::<CallRecord>(record);
    let calls = records.iter().filter(|record| is_kind(record, kind::CALL));
    calls.filter_map(move |record| {
        let call = call(record).filter(|call| call.pid == pid)?;
        Some(((call.direction, &record[size_of::<CallRecord>()..]), call))
    })
}

/// The connection of a call was told before, with this end's number, its role and the listener's name.
fn check_end(said: &Said, call: &CallRecord, connections: &[ConnectionRecord]) {
    let of = |record: &&ConnectionRecord| record.connection_id == call.connection_id && record.change == change::OPENED;
    let record = connections.iter().find(of).unwrap_or_else(|| panic!("no connection of {said:?}"));
    let number = |address: [u8; 16]| u64::from_ne_bytes(std::array::from_fn(|index| address[index]));
    assert_eq!((record.family, number(record.local_address)), (AF_UNIX, said.own), "{said:?}");
    let path = &record.path.as_flattened()[..record.path_len as usize];
    assert!(path.ends_with(b"/socket\0"), "{path:?}");
    match record.role {
        // It was told before the other end was accepted and had a number.
        role::CLIENT => assert!(record.opened_ns < record.established_ns && number(record.remote_address) == 0),
        role::SERVER => assert!(record.accepted_ns != 0 && number(record.remote_address) == said.other),
        other => panic!("role {other}"),
    }
}
