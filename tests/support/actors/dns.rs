//! A name server over UDP and TCP: `address=IP:PORT [answer=IP] [delay_ms=N] [drop=N] [rcode=N] [truncate=1]`.
//!
//! Answers A queries for any name with `answer` (default: the address it listens on) and all others with no record, after
//! `delay_ms`. It ignores the first `drop` queries of each name and type. `rcode` is the code of all answers; with
//! `truncate` the answers over UDP are empty and say TC, so that the asker comes back over TCP. Prints `ready`, then for each
//! query one JSON line: `path` (the name), `type`, `tcp`, `answered`, `got_ns`, `sent_ns`.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use super::Arguments;
use crate::clock;

const A: u16 = 1;

#[derive(Clone)]
struct Server {
    answer: Ipv4Addr,
    delay: Duration,
    drop: u32,
    rcode: u8,
    truncate: bool,
}

/// A query: its name, its type, and the bytes of the question.
struct Question<'a> {
    name: String,
    kind: u16,
    bytes: &'a [u8],
}

/// Serves until it is killed.
pub fn run(arguments: &Arguments) {
    let address: SocketAddr = arguments.need("address").parse().expect("an address and a port");
    let IpAddr::V4(own) = address.ip() else { panic!("{address} is not IPv4") };
    let server = Server {
        answer: arguments.get("answer", own),
        delay: Duration::from_millis(arguments.get("delay_ms", 0)),
        drop: arguments.get("drop", 0),
        rcode: arguments.get("rcode", 0),
        truncate: arguments.get("truncate", 0) == 1,
    };
    let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("UDP {address}: {error}"));
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("TCP {address}: {error}"));
    println!("ready {address}");
    let over_tcp = server.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = over_tcp.clone();
            std::thread::spawn(move || server.serve_stream(stream));
        }
    });
    server.serve_datagrams(&socket);
}

impl Server {
    fn serve_datagrams(&self, socket: &UdpSocket) {
        let mut seen: HashMap<(String, u16), u32> = HashMap::new();
        let mut buffer = [0; 1024];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let got = clock::monotonic_ns();
            let query = buffer[..length].to_vec();
            let Some(question) = Question::of(&query) else { continue };
            let count = seen.entry((question.name.clone(), question.kind)).or_default();
            *count += 1;
            if *count <= self.drop {
                tell(&question, false, got, None);
                continue;
            }
            let (server, socket) = (self.clone(), socket.try_clone().expect("second handle of a socket"));
            std::thread::spawn(move || {
                clock::pace(server.delay);
                let Some(question) = Question::of(&query) else { return };
                let reply = server.reply(&query, &question, server.truncate);
                let _ = socket.send_to(&reply, from);
                tell(&question, false, got, Some(clock::monotonic_ns()));
            });
        }
    }

    /// Messages over TCP have their length before them (RFC 1035 section 4.2.2).
    fn serve_stream(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query)?;
            let got = clock::monotonic_ns();
            let question = Question::of(&query).ok_or(io::ErrorKind::InvalidData)?;
            clock::pace(self.delay);
            let reply = self.reply(&query, &question, false);
            let message = [(reply.len() as u16).to_be_bytes().as_slice(), &reply].concat();
            stream.write_all(&message)?;
            tell(&question, true, got, Some(clock::monotonic_ns()));
        }
    }

    fn reply(&self, query: &[u8], question: &Question, truncated: bool) -> Vec<u8> {
        let answers = !truncated && self.rcode == 0 && question.kind == A;
        let mut reply = query[..2].to_vec();
        // QR, RD as asked, TC; RA and the code; one question, the answers, nothing else (RFC 1035 section 4.1.1).
        reply.extend([0x80 | query[2] & 1 | if truncated { 2 } else { 0 }, 0x80 | self.rcode]);
        reply.extend([0, 1, 0, u8::from(answers), 0, 0, 0, 0]);
        reply.extend(question.bytes);
        if answers {
            // The question's name, type A, class IN, one minute, four bytes.
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            reply.extend(self.answer.octets());
        }
        reply
    }
}

impl<'a> Question<'a> {
    fn of(query: &'a [u8]) -> Option<Self> {
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(query.get(at..at + length)?).into_owned());
            at += length;
        }
        let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
        Some(Self { name: labels.join("."), kind, bytes: query.get(12..at + 4)? })
    }
}

fn tell(question: &Question, tcp: bool, got_ns: u64, sent_ns: Option<u64>) {
    let (answered, sent_ns, tcp) = (u8::from(sent_ns.is_some()), sent_ns.unwrap_or(0), u8::from(tcp));
    println!(
        r#"{{"path":"{}","type":{},"tcp":{tcp},"answered":{answered},"got_ns":{got_ns},"sent_ns":{sent_ns}}}"#,
        question.name, question.kind
    );
}
