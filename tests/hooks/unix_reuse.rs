//! Unix sockets at addresses where others were before.
//!
//! Truth: the program holds a few sockets at a time; and of clients that nobody watches nothing can be known.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::Duration,
};

use agent_common::{
    connection::{ConnectionRecord, change, role},
    loss::KernelLoss,
};
use spantap_tests::{
    process::{Launch, Process, require_root, tool},
    temp::TempDir,
};

use crate::records::{self, Records};

const UNIX_REUSE: &str = include_str!("unix_reuse.py");
const BOUND: Duration = Duration::from_secs(60);
/// As the program's.
const COUNT: usize = 200;

struct Program {
    process: Process,
    records: Records,
    path: PathBuf,
    _control: UnixStream,
    _folder: TempDir,
}

/// Starts the program, with the kernel side watching it.
fn start(kind: &str) -> Program {
    require_root();
    let folder = TempDir::new("unix-reuse");
    let (script, path) = (folder.write("unix_reuse.py", UNIX_REUSE), folder.join("socket"));
    let listener = UnixListener::bind(&path).expect("listen");
    let process = Launch::new(tool("python3")).arg(script).arg(kind).arg(&path).stdout_piped().spawn();
    let (mut control, _) = listener.accept().expect("accept");
    let records = Records::of(process.pid());
    control.write_all(b"x").expect("let it go on");
    Program { process, records, path, _control: control, _folder: folder }
}

#[test]
fn sockets_that_come_and_go_do_not_fill_the_table() {
    let mut program = start("churn");
    let said: Vec<String> = BufReader::new(program.process.stdout()).lines().map_while(Result::ok).collect();
    assert_eq!(said, ["done"]);
    assert_eq!(program.records.lost(KernelLoss::ConnectionTableFull), 0);
}

#[test]
fn a_client_that_nobody_watches_has_no_times_of_another_at_its_address() {
    let mut program = start("stale");
    let mut lines = BufReader::new(program.process.stdout()).lines();
    assert_eq!(lines.next().expect("a line").expect("a line"), "serves");
    let served = program.path.with_extension("served");
    let held: Vec<UnixStream> = std::iter::repeat_with(|| {
        let mut stream = UnixStream::connect(&served).expect("connect");
        stream.write_all(b"y").expect("send");
        stream
    })
    .take(COUNT)
    .collect();
    assert_eq!(lines.next().expect("a line").expect("a line"), "done");
    let path = format!("{}\0", served.display());
    let is_served = |record: &ConnectionRecord| {
        let name = &record.path.as_flattened()[..record.path_len as usize];
        record.change == change::OPENED && record.role == role::SERVER && name == path.as_bytes()
    };
    let opened = |taken: &[Vec<u8>]| -> Vec<ConnectionRecord> { records::of_kind(taken).filter(is_served).collect() };
    let taken = program.records.wait_for("each connection", BOUND, |taken| opened(taken).len() == held.len());
    let invented: Vec<(u64, u64)> = opened(&taken)
        .iter()
        .map(|record| (record.opened_ns, record.established_ns))
        .filter(|times| *times != (0, 0))
        .collect();
    assert!(invented.is_empty(), "{} of {COUNT} have times that nobody saw: {:?}", invented.len(), &invented[..1]);
}
