//! A timestamping keep-alive HTTP/1.1 client: `address=IP:PORT [mode=…] [count=N] [rate=R] [path=/r/] …`.
//!
//! Request n goes to `<path><n>`. Prints one JSON line per answer: `path`, `status`, `bytes`, `start_ns` (before the
//! first write), `written_ns` (after the last), `read_ns` (before the first read), `head_ns` (the read that completed the head
//! returned, maybe together with an earlier answer), `end_ns` (the last byte is read), all of `CLOCK_MONOTONIC`, and `port` (its own). The first line of a connection has the steps of opening it too: `resolve_ns`,
//! `resolved_ns`, `resolve_ran_ns` (the thread's own CPU time in between), `connect_ns`, `connected_ns`, `connect_waited_ns`. Lines are kept until the end, so that printing does not disturb the timing.
//!
//! Modes: `steady` one after the other at `rate` per second (0: at once), with bodies of `body` bytes; `pipelined` `depth`
//! requests in one write; `split` each in writes of `chunk` bytes; `late` reads `late_ms` after writing; `peek` looks with
//! `MSG_PEEK` before each read; `recvmsg` reads by that call; `splice` moves bodies through a pipe; `uring` sends and
//! receives by io_uring; `half_close` ends its side after the request, like `nc -N`; `writers` two threads write whole
//! requests on one socket; `duplex` writes bodies of `body` bytes while it reads answers; `abort_request` closes in the
//! middle of a request; `abort_response` in the middle of an answer; `garbage` sends `bytes` bytes that are no HTTP;
//! `huge_header` sends a header of `bytes` bytes.
//!
//! More: `read=peek`, `recvmsg` or `splice` reads like that mode in any other. With `late_ms` also `pipelined` reads that long
//! after writing; with `half_close=1` it ends its side after the last write. With `linger_ms` the connection stays open that long after the last answer. With `gate=FOLDER` the client makes the
//! file `connected` there and writes nothing until there is a file `go`. With `connections=N` that many threads do the same on
//! a connection each; request n of thread c goes to `<path>c<c>-<n>`. With `fresh=1` each request of `steady` has a
//! connection of its own. With `fails=1` a connection that cannot be opened or breaks gives a line too, with `errno`; so does one on which
//! nothing came for `patience_ms`, and which it then closes. With
//! `schedstat=1` lines have `waited_ns`: for how long the thread was runnable and not running during the request; and
//! `write_waited_ns`, the same during its writes.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    num::NonZeroU64,
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

use super::{
    Arguments, dial,
    dial::Times,
    message::{How, Reader},
    uring::Ring,
};
use crate::{clock, schedstat};

const GATE_BOUND: Duration = Duration::from_secs(60);
const READ_TIMEOUT: Duration = Duration::from_secs(20);

struct Client<'a> {
    arguments: &'a Arguments,
    stream: TcpStream,
    reader: Reader,
    ring: Option<Ring>,
    times: Option<Times>,
    waited_ns: u64,
    write_waited_ns: u64,
    path: String,
    method: String,
    lines: Vec<String>,
}

/// Runs one mode on each connection.
pub fn run(arguments: &Arguments) {
    let path = arguments.get("path", "/r/".to_owned());
    let lines: Vec<String> = match arguments.get("connections", 0_u32) {
        0 => run_one(arguments, path),
        connections => std::thread::scope(|scope| {
            let one = |c| scope.spawn(|| run_one(arguments, c));
            let threads: Vec<_> = (0..connections).map(|c| one(format!("{path}c{c}-"))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a thread of the client")).collect()
        }),
    };
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    io::stdout().write_all(text.as_bytes()).expect("write the lines");
}

fn run_one(arguments: &Arguments, path: String) -> Vec<String> {
    if arguments.get("fresh", 0) == 1 {
        return (0..arguments.get("count", 1)).flat_map(|n| run_connection(arguments, &path, n, 1)).collect();
    }
    run_connection(arguments, &path, 0, arguments.get("count", 1))
}

/// Runs the mode with the requests from `first` on, on a connection of their own.
fn run_connection(arguments: &Arguments, path: &str, first: u64, count: u64) -> Vec<String> {
    let address = arguments.need("address");
    let label = format!("{}{first}", path.rsplit('/').next().unwrap_or_default());
    let (times, stream) = dial::dial(arguments, &label);
    let fails = arguments.get("fails", 0) == 1;
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) if fails => return vec![failure(&format!("{path}{first}"), &times, 0, &error)],
        Err(error) => panic!("connect to {address}: {error}"),
    };
    let patience = arguments.get("patience_ms", READ_TIMEOUT.as_millis() as u64);
    stream.set_read_timeout(Some(Duration::from_millis(patience))).expect("SO_RCVTIMEO");
    gate(arguments.get("gate", String::new()).as_ref());
    let mut client = Client::new(arguments, stream, times, path.to_owned());
    let start = clock::monotonic_ns();
    match client.run_mode(first..first + count) {
        Err(error) if fails => client.lines.push(failure(&format!("{path}{first}"), &times, start, &error)),
        result => result.unwrap_or_else(|error| panic!("{path}{first} against {address}: {error}")),
    }
    clock::pace(Duration::from_millis(arguments.get("linger_ms", 0)));
    client.lines
}

/// A line for what did not come to an answer.
fn failure(path: &str, times: &Times, start: u64, error: &io::Error) -> String {
    let errno = error.raw_os_error().unwrap_or(0);
    let end = clock::monotonic_ns();
    format!(r#"{{"path":"{path}","status":0,"errno":{errno},{},"start_ns":{start},"end_ns":{end}}}"#, times.json())
}

/// Says in `folder` that it is connected, and waits there for leave to go on; no folder, no gate.
fn gate(folder: &Path) {
    if folder.as_os_str().is_empty() {
        return;
    }
    std::fs::write(folder.join("connected"), "").expect("say that it is connected");
    clock::wait_for("leave to go on", GATE_BOUND, || folder.join("go").exists().then_some(()));
}

impl<'a> Client<'a> {
    fn new(arguments: &'a Arguments, stream: TcpStream, times: Times, path: String) -> Self {
        let how = match arguments.get("read", arguments.get("mode", String::new())).as_str() {
            "peek" => How::Peek,
            "recvmsg" => How::Recvmsg,
            "splice" => How::Splice,
            "uring" => How::Uring,
            _ => How::Plain,
        };
        let ring = (how == How::Uring).then(|| Ring::new().expect("a ring to send by"));
        let reader = Reader::new(&stream, how).reading_at_once(arguments.get("read_bytes", 4096));
        let method = arguments.get("method", "GET".to_owned());
        Self {
            arguments,
            reader,
            ring,
            stream,
            times: Some(times),
            waited_ns: 0,
            write_waited_ns: 0,
            path,
            method,
            lines: Vec::new(),
        }
    }

    fn run_mode(&mut self, requests: std::ops::Range<u64>) -> io::Result<()> {
        match self.arguments.get("mode", "steady".to_owned()).as_str() {
            "steady" | "peek" | "recvmsg" | "splice" | "uring" => self.steady(requests),
            "half_close" => self.half_close(),
            "pipelined" => self.pipelined(),
            "split" => self.split(),
            "late" => self.late(),
            "writers" => self.writers(),
            "duplex" => self.duplex(),
            "abort_request" => self.abort_request(),
            "abort_response" => self.abort_response(),
            "garbage" => self.garbage(),
            "huge_header" => self.huge_header(),
            other => panic!("no mode `{other}`"),
        }
    }

    fn steady(&mut self, requests: std::ops::Range<u64>) -> io::Result<()> {
        let rate: Option<NonZeroU64> = self.arguments.get("rate", 0).try_into().ok();
        let begin = clock::monotonic_ns() + 1_000_000;
        let body = self.arguments.get("body", 0);
        for (index, n) in (0..).zip(requests) {
            if let Some(rate) = rate {
                clock::pace_until_ns(begin + index * 1_000_000_000 / rate);
            }
            let request = self.request(n, body);
            self.count_waiting();
            let start = clock::monotonic_ns();
            self.send(&request)?;
            let written = clock::monotonic_ns();
            if self.arguments.get("schedstat", 0) == 1 {
                self.write_waited_ns = schedstat::own_run_delay_ns() - self.waited_ns;
            }
            self.answer(n, start, written)?;
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.ring {
            Some(ring) => ring.send_all(self.stream.as_raw_fd(), bytes),
            None => self.stream.write_all(bytes),
        }
    }

    /// Remembers for how long the thread has waited for a CPU so far.
    fn count_waiting(&mut self) {
        if self.arguments.get("schedstat", 0) == 1 {
            self.waited_ns = schedstat::own_run_delay_ns();
        }
    }

    fn pipelined(&mut self) -> io::Result<()> {
        let depth: u64 = self.arguments.get("depth", 16);
        for first in (0..self.count()).step_by(depth as usize) {
            let batch = first..(first + depth).min(self.count());
            let requests: Vec<u8> = batch.clone().flat_map(|n| self.request(n, 0)).collect();
            let start = clock::monotonic_ns();
            self.send(&requests)?;
            let written = clock::monotonic_ns();
            if self.arguments.get("half_close", 0) == 1 && batch.end == self.count() {
                self.stream.shutdown(Shutdown::Write)?;
            }
            clock::pace(Duration::from_millis(self.arguments.get("late_ms", 0)));
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
        let head_ns = self.reader.filled_ns;
        let bytes = self.reader.body(&head, self.method == "HEAD")?;
        let end = clock::monotonic_ns();
        let port = self.stream.local_addr().map_or(0, |address| address.port());
        let mut line = format!(
            r#"{{"path":"{}{n}","status":{},"bytes":{bytes},"port":{port},"start_ns":{start},"written_ns":{written},"read_ns":{read},"head_ns":{head_ns},"end_ns":{end}"#,
            self.path,
            head.status()
        );
        if let Some(times) = self.times.take() {
            line += &format!(",{}", times.json());
        }
        if self.arguments.get("schedstat", 0) == 1 {
            let (all, write) = (schedstat::own_run_delay_ns() - self.waited_ns, self.write_waited_ns);
            line += &format!(r#","waited_ns":{all},"write_waited_ns":{write}"#);
        }
        self.lines.push(line + "}");
        Ok(())
    }
}

fn not_connected(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}
