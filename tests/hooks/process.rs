//! The end of a process is told, whichever of its threads ends last.
//!
//! Truth: the test's own child.

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::Duration,
};

use agent_common::process::{ProcessRecord, change};
use spantap_tests::{
    process::{Launch, require_root, tool},
    temp::TempDir,
};

use crate::records::{self, Records};

const LAST_THREAD: &str = include_str!("last_thread.py");
const BOUND: Duration = Duration::from_secs(30);

#[test]
fn a_process_ends_with_a_thread_that_never_used_a_socket() {
    require_root();
    let folder = TempDir::new("process");
    let script = folder.write("last_thread.py", LAST_THREAD);
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    let mut process = Launch::new(tool("python3")).arg(script).arg(port.to_string()).spawn();
    let (mut stream, _) = listener.accept().expect("accept");
    let mut records = Records::of(process.pid());
    stream.write_all(b"x").expect("let it go on");
    stream.read_exact(&mut [0]).expect("an answer");
    process.wait(BOUND);
    let ends = |record: &ProcessRecord| record.change == change::EXIT && record.pid == process.pid();
    records.wait_for("the end of the process", BOUND, |taken| records::of_kind(taken).any(|record| ends(&record)));
}
