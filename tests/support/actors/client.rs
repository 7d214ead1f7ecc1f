//! A timestamping keep-alive HTTP/1.1 client: `address=IP:PORT [mode=…] [count=N] [rate=R] [path=/r/] …`.
//!
//! Request n goes to `<path><n>`. Prints one JSON line per answer: `path`, `status`, `bytes`, `start_ns` (before the
//! first write), `written_ns` (after the last), `read_ns` (before the first read), `end_ns` (the last byte is read), all
//! of `CLOCK_MONOTONIC`. Lines are kept until the end, so that printing does not disturb the timing.
//!
//! Modes: `steady` one after the other at `rate` per second (0: at once); `pipelined` `depth` requests in one write;
//! `split` each in writes of `chunk` bytes; `late` reads `late_ms` after writing; `peek` looks with `MSG_PEEK` before each
//! read; `recvmsg` reads by that call; `half_close` ends its side after the request, like `nc -N`; `writers` two threads write whole requests on one socket; `duplex` writes bodies of `body` bytes while it
//! reads answers; `abort_request` closes in the middle of a request; `abort_response` in the middle of an answer;
//! `garbage` sends `bytes` bytes that are no HTTP; `huge_header` sends a header of `bytes` bytes. With `linger_ms` the
//! connection stays open that long after the last answer. With `gate=FOLDER` the client makes the file `connected` there
//! and writes nothing until there is a file `go`.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    num::NonZeroU64,
    path::Path,
    time::Duration,
};

use super::{
    Arguments,
    message::{How, Reader},
};
use crate::clock;

const GATE_BOUND: Duration = Duration::from_secs(60);
const READ_TIMEOUT: Duration = Duration::from_secs(20);

struct Client<'a> {
    arguments: &'a Arguments,
    stream: TcpStream,
    reader: Reader,
    path: String,
    method: String,
    lines: Vec<String>,
}

/// Runs one mode on one connection.
pub fn run(arguments: &Arguments) {
    let address = arguments.need("address");
    let mode: String = arguments.get("mode", "steady".to_owned());
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream.set_read_timeout(Some(READ_TIMEOUT)).expect("SO_RCVTIMEO");
    gate(arguments.get("gate", String::new()).as_ref());
    let how = match mode.as_str() {
        "peek" => How::Peek,
        "recvmsg" => How::Recvmsg,
        _ => How::Plain,
    };
    let mut client = Client {
        arguments,
        reader: Reader::new(&stream, how),
        stream,
        path: arguments.get("path", "/r/".to_owned()),
        method: arguments.get("method", "GET".to_owned()),
        lines: Vec::new(),
    };
    let result = match mode.as_str() {
        "steady" | "peek" | "recvmsg" => client.steady(),
        "half_close" => client.half_close(),
        "pipelined" => client.pipelined(),
        "split" => client.split(),
        "late" => client.late(),
        "writers" => client.writers(),
        "duplex" => client.duplex(),
        "abort_request" => client.abort_request(),
        "abort_response" => client.abort_response(),
        "garbage" => client.garbage(),
        "huge_header" => client.huge_header(),
        other => panic!("no mode `{other}`"),
    };
    result.unwrap_or_else(|error| panic!("{mode} against {address}: {error}"));
    let text: String = client.lines.iter().map(|line| format!("{line}\n")).collect();
    io::stdout().write_all(text.as_bytes()).expect("write the lines");
    clock::pace(Duration::from_millis(arguments.get("linger_ms", 0)));
}

/// Says in `folder` that it is connected, and waits there for leave to go on; no folder, no gate.
fn gate(folder: &Path) {
    if folder.as_os_str().is_empty() {
        return;
    }
    std::fs::write(folder.join("connected"), "").expect("say that it is connected");
    clock::wait_for("leave to go on", GATE_BOUND, || folder.join("go").exists().then_some(()));
}

impl Client<'_> {
    fn steady(&mut self) -> io::Result<()> {
        let rate: Option<NonZeroU64> = self.arguments.get("rate", 0).try_into().ok();
        let begin = clock::monotonic_ns() + 1_000_000;
        for n in 0..self.count() {
            if let Some(rate) = rate {
                clock::pace_until_ns(begin + n * 1_000_000_000 / rate);
            }
            let request = self.request(n, 0);
            let start = clock::monotonic_ns();
            self.stream.write_all(&request)?;
            let written = clock::monotonic_ns();
            self.answer(n, start, written)?;
        }
        Ok(())
    }

    fn pipelined(&mut self) -> io::Result<()> {
        let depth: u64 = self.arguments.get("depth", 16);
        for first in (0..self.count()).step_by(depth as usize) {
            let batch = first..(first + depth).min(self.count());
            let requests: Vec<u8> = batch.clone().flat_map(|n| self.request(n, 0)).collect();
            let start = clock::monotonic_ns();
            self.stream.write_all(&requests)?;
            let written = clock::monotonic_ns();
            for n in batch {
                self.answer(n, start, written)?;
            }
        }
        Ok(())
    }

    fn split(&mut self) -> io::Result<()> {
        let chunk: usize = self.arguments.get("chunk", 5);
        for n in 0..self.count() {
            let request = self.request(n, self.arguments.get("body", 0));
            let start = clock::monotonic_ns();
            for part in request.chunks(chunk) {
                self.stream.write_all(part)?;
            }
            self.answer(n, start, clock::monotonic_ns())?;
        }
        Ok(())
    }

    fn late(&mut self) -> io::Result<()> {
        let late = Duration::from_millis(self.arguments.get("late_ms", 100));
        for n in 0..self.count() {
            let request = self.request(n, 0);
            let start = clock::monotonic_ns();
            self.stream.write_all(&request)?;
            let written = clock::monotonic_ns();
            clock::pace(late);
            self.answer(n, start, written)?;
        }
        Ok(())
    }

    fn half_close(&mut self) -> io::Result<()> {
        let start = clock::monotonic_ns();
        self.stream.write_all(&self.request(0, 0))?;
        let written = clock::monotonic_ns();
        self.stream.shutdown(Shutdown::Write)?;
        self.answer(0, start, written)
    }

    fn writers(&mut self) -> io::Result<()> {
        let half = self.count() / 2;
        let halves = [0..half, half..self.count()].map(|range| range.map(|n| self.request(n, 0)).collect::<Vec<_>>());
        let start = clock::monotonic_ns();
        let streams = [self.stream.try_clone()?, self.stream.try_clone()?];
        std::thread::scope(|scope| {
            for (mut stream, requests) in streams.into_iter().zip(halves) {
                scope.spawn(move || requests.iter().try_for_each(|request| stream.write_all(request)));
            }
            (0..self.count()).try_for_each(|n| self.answer(n, start, start))
        })
    }

    fn duplex(&mut self) -> io::Result<()> {
        let body = self.arguments.get("body", 65_536);
        self.method = "POST".to_owned();
        let requests: Vec<Vec<u8>> = (0..self.count()).map(|n| self.request(n, body)).collect();
        let mut stream = self.stream.try_clone()?;
        let start = clock::monotonic_ns();
        std::thread::scope(|scope| {
            scope.spawn(move || requests.iter().try_for_each(|request| stream.write_all(request)));
            (0..self.count()).try_for_each(|n| self.answer(n, start, start))
        })
    }

    fn abort_request(&mut self) -> io::Result<()> {
        let request = self.request(0, 0);
        self.stream.write_all(&request[..request.len() - 6])
    }

    fn abort_response(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.request(0, 0))?;
        self.stream.read_exact(&mut [0])
    }

    fn garbage(&mut self) -> io::Result<()> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let noise = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let bytes: Vec<u8> = (0..self.arguments.get("bytes", 4096)).map(noise).collect();
        // Zero first: no method begins so. A server may close or reset before it has read everything.
        let _ = self.stream.write_all(&[0; 8]);
        let _ = self.stream.write_all(&bytes);
        self.stream.shutdown(Shutdown::Write).or_else(not_connected)?;
        let _ = self.stream.read_to_end(&mut Vec::new());
        Ok(())
    }

    fn huge_header(&mut self) -> io::Result<()> {
        let mut request = format!("GET {}0 HTTP/1.1\r\nHost: test\r\nX-Huge: ", self.path).into_bytes();
        request.resize(request.len() + self.arguments.get("bytes", 10 << 20), b'a');
        request.extend_from_slice(b"\r\n\r\n");
        // The server may refuse long before the end.
        let _ = self.stream.write_all(&request);
        let _ = self.stream.read_to_end(&mut Vec::new());
        Ok(())
    }

    fn count(&self) -> u64 {
        self.arguments.get("count", 1)
    }

    fn request(&self, n: u64, body: usize) -> Vec<u8> {
        let length = if body > 0 { format!("Content-Length: {body}\r\n") } else { String::new() };
        let head = format!("{} {}{n} HTTP/1.1\r\nHost: test\r\n{length}\r\n", self.method, self.path);
        let mut request = head.into_bytes();
        request.resize(request.len() + body, b'b');
        request
    }

    fn answer(&mut self, n: u64, start: u64, written: u64) -> io::Result<()> {
        let read = clock::monotonic_ns();
        let head = loop {
            let head = self.reader.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if head.status() >= 200 {
                break head;
            }
        };
        let bytes = self.reader.body(&head, self.method == "HEAD")?;
        let end = clock::monotonic_ns();
        self.lines.push(format!(
            r#"{{"path":"{}{n}","status":{},"bytes":{bytes},"start_ns":{start},"written_ns":{written},"read_ns":{read},"end_ns":{end}}}"#,
            self.path,
            head.status()
        ));
        Ok(())
    }
}

fn not_connected(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}
