//! UDP request and answer: `udp_server address=IP:PORT [sleep_ms=N]` sends each datagram back after that time;
//! `udp_client address=IP:PORT [count=N] [bytes=N] [connections=N]` sends and waits for each.
//!
//! The server prints `ready` and its address. The client prints one JSON line per answer: `path` (`/udp/c<c>-<n>`),
//! `start_ns`, `written_ns`, `end_ns`, `port`.

use std::{net::UdpSocket, time::Duration};

use super::Arguments;
use crate::clock;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Serves until it is killed.
pub fn run_server(arguments: &Arguments) {
    let address = arguments.need("address");
    let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("UDP {address}: {error}"));
    println!("ready {}", socket.local_addr().expect("address of a socket"));
    let sleep = Duration::from_millis(arguments.get("sleep_ms", 0));
    let mut buffer = [0; 65_536];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        clock::pace(sleep);
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// Asks `count` times on each socket.
pub fn run_client(arguments: &Arguments) {
    let sockets: u32 = arguments.get("connections", 1);
    std::thread::scope(|scope| {
        for c in 0..sockets {
            scope.spawn(move || ask(arguments, c));
        }
    });
}

fn ask(arguments: &Arguments, c: u32) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a UDP socket");
    socket.connect(arguments.need("address")).expect("connect a UDP socket");
    socket.set_read_timeout(Some(ANSWER_WITHIN)).expect("SO_RCVTIMEO");
    let port = socket.local_addr().expect("address of a socket").port();
    let question = vec![b'u'; arguments.get("bytes", 64)];
    let mut answer = vec![0; question.len()];
    for n in 0..arguments.get("count", 1) {
        let start = clock::monotonic_ns();
        socket.send(&question).expect("send a datagram");
        let written = clock::monotonic_ns();
        socket.recv(&mut answer).expect("the answer");
        let end = clock::monotonic_ns();
        println!(
            r#"{{"path":"/udp/c{c}-{n}","port":{port},"start_ns":{start},"written_ns":{written},"end_ns":{end}}}"#
        );
    }
}
