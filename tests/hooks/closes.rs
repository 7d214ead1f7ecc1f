//! What an application's end of a connection is: a close, or of its sending side only.
//!
//! Truth: the program that ends its connections, and says how.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    time::Duration,
};

use agent_common::{
    connection::{ConnectionRecord, change, flag},
    header::kind,
    message::ArrivalRecord,
};
use spantap_tests::{
    process::{Launch, require_root, tool},
    temp::TempDir,
};

use crate::records::{Records, is_kind};

const CLOSES: &str = include_str!("closes.py");
const BOUND: Duration = Duration::from_secs(30);

/// By the way in which it ends: for each `LOCAL_CLOSED` in order whether it is of the whole connection.
const EXPECTED: [(&str, &[bool]); 8] = [
    ("close", &[true]),
    // Each is closed in the end.
    ("half", &[false, true]),
    ("half_and_close", &[false, true]),
    ("both", &[true, true]),
    ("unread", &[true]),
    ("linger", &[true]),
    // Nothing more was to come, whatever it meant.
    ("half_after_peer", &[false]),
    ("reset_by_peer", &[]),
];

#[test]
fn each_way_of_ending_a_connection_is_told_apart() {
    require_root();
    let folder = TempDir::new("closes");
    let script = folder.write("closes.py", CLOSES);
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    let launch = Launch::new(tool("python3")).arg(script).arg(port.to_string());
    let mut process = launch.stdout_piped().spawn();
    let (mut control, _) = listener.accept().expect("accept");
    let mut records = Records::of(process.pid());
    control.write_all(b"x").expect("let it go on");
    let said: Vec<String> = BufReader::new(process.stdout()).lines().map(|line| line.expect("a line")).collect();
    process.wait(BOUND);
    let ways: Vec<(u16, &str)> =
        said.iter().filter_map(|line| line.split_once(' ')).map(|(p, way)| (p.parse().expect("a port"), way)).collect();
    assert_eq!(ways.len(), EXPECTED.len(), "{said:?}");
    let gone = |taken: &[Vec<u8>]| {
        let gone = |port| of(taken, port).any(|record| record.change == change::CLOSED);
        ways.iter().all(|(port, _)| gone(*port))
    };
    let taken = records.wait_for("the ends of all connections", BOUND, gone);
    for ((port, way), (expected_way, expected)) in ways.iter().zip(EXPECTED) {
        let closes = of(&taken, *port).filter(|record| record.change == change::LOCAL_CLOSED);
        let whole: Vec<bool> = closes.map(|record| record.flags & flag::CLOSED_WHOLE != 0).collect();
        assert_eq!((*way, whole.as_slice()), (expected_way, expected));
    }
    check_unread(&taken, &ways);
}

/// What was not read when the application closed has its arrival.
fn check_unread(taken: &[Vec<u8>], ways: &[(u16, &str)]) {
    let port = ways.iter().find(|(_, way)| *way == "unread").map_or(0, |(port, _)| *port);
    let close = of(taken, port).find(|record| record.change == change::LOCAL_CLOSED).expect("it closed");
    let arrivals = taken.iter().filter(|record| is_kind(record, kind::ARRIVAL));
    let arrivals = arrivals.filter_map(|record| agent_common::read::<ArrivalRecord>(record));
    let own: Vec<_> = arrivals.filter(|arrival| arrival.connection_id == close.connection_id).collect();
    assert!(
        matches!(own[..], [ArrivalRecord { start, end, first_ns, .. }]
        if start == close.receive_end && end - start == 6 && first_ns != 0 && first_ns < close.changed_ns),
        "{own:?}"
    );
}

fn of(taken: &[Vec<u8>], port: u16) -> impl Iterator<Item = ConnectionRecord> {
    let records = taken.iter().filter(|record| is_kind(record, kind::CONNECTION));
    let records = records.filter_map(|record| agent_common::read::<ConnectionRecord>(record));
    records.filter(move |record| record.local_port == port)
}
