//! The least that a relay can cost: bytes handed on, with and without being decoded and encoded again; and that alone.
//!
//! In: `forward to=IP:PORT prost=0|1` and `prost seconds=S`, as processes of their own. Out: `ready IP:PORT`; a [`Coded`] as JSON.

use std::{
    io::{self, BufReader, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde::{Deserialize, Serialize};
use spantap_tests::{actors::Arguments, otlp, schedstat};

use super::sender::{REQUEST_SPANS, Requests};
use crate::memory::status_kib;

/// What decoding and encoding took.
#[derive(Serialize, Deserialize)]
pub struct Coded {
    /// Spans.
    pub spans: u64,
    /// CPU time.
    pub cpu_ns: u64,
    /// Resident memory at the end.
    pub rss_kib: u64,
}

/// Decodes and encodes on one thread, without any network.
pub fn prost(arguments: &Arguments) {
    let (requests, length) = (Requests::new(), Duration::from_secs(arguments.get("seconds", 1)));
    let (begin, pid) = (Instant::now(), std::process::id());
    let (before, mut spans) = (schedstat::cpu_ns(pid), 0);
    while begin.elapsed() < length {
        requests.bodies().for_each(|body| drop(std::hint::black_box(recoded(body))));
        spans += requests.bodies().len() as u64 * REQUEST_SPANS;
    }
    let cpu_ns = schedstat::cpu_ns(pid) - before;
    let coded = Coded { spans, cpu_ns, rss_kib: status_kib(pid, "VmRSS") };
    println!("{}", serde_json::to_string(&coded).expect("plain data"));
}

/// Hands each request on, on a connection and a thread per sender's connection, and the answer back.
pub fn forward(arguments: &Arguments) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("ready {}", listener.local_addr().expect("bound"));
    let (to, is_recoding) = (arguments.need("to").to_owned(), arguments.get("prost", 0) == 1);
    for stream in listener.incoming().map_while(Result::ok) {
        let to = to.clone();
        // It ends with the connection that is broken off first.
        std::thread::spawn(move || forward_one(stream, &to, is_recoding));
    }
}

fn forward_one(from: TcpStream, to: &str, is_recoding: bool) -> io::Result<()> {
    let to = TcpStream::connect(to)?;
    from.set_nodelay(true)?;
    to.set_nodelay(true)?;
    let (mut from, mut to) = (BufReader::new(from), BufReader::new(to));
    let (mut body, mut answer) = (Vec::new(), Vec::new());
    while otlp::read_message(&mut from, &mut body)?.is_some() {
        if is_recoding {
            body = recoded(&body);
        }
        to.get_mut().write_all(&otlp::post(&body))?;
        let head = otlp::read_message(&mut to, &mut answer)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = otlp::status(&head).ok_or(io::ErrorKind::InvalidData)?;
        from.get_mut().write_all(&otlp::answer(status, "", &answer))?;
    }
    Ok(())
}

fn recoded(body: &[u8]) -> Vec<u8> {
    ExportTraceServiceRequest::decode(body).expect("a request").encode_to_vec()
}
