//! The benchmark's own actors, run as processes of their own: a paced client, a server for it, a loop of one system call.
//!
//! In: `paced|echo|getppid|forward|prost key=value …` (the last two: `relay/floor.rs`). Out: lines on standard output. The client is blocking and keeps one request at a time
//! on each connection; requests start by a fixed timetable, whatever the answers do.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use spantap_tests::{actors::Arguments, clock, stats::percentile};

use crate::relay::floor;

/// Bytes of a message of the `ping` protocol.
const PING_BYTES: usize = 64;
/// From `ready` to the first request: time for reading the counters before it.
const LEAD: Duration = Duration::from_millis(50);
/// A request that starts this much after its time was held up by the ones before it.
const LATE_NS: u64 = 1_000_000;
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// What the paced client says at its end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Requests that were answered.
    pub requests: u64,
    /// From the first request to the last answer.
    pub elapsed_ns: u64,
    /// Median time from before the write to the last byte read.
    pub p50_ns: u64,
    /// Of the same.
    pub p99_ns: u64,
    /// Requests that could not start in time.
    pub late: u64,
}

/// Runs the actor that the arguments name, if they name one.
pub fn run(mut args: impl Iterator<Item = String>) -> bool {
    let Some(name) = args.next() else { return false };
    let actor: fn(&Arguments) = match name.as_str() {
        "paced" => paced,
        "echo" => echo,
        "getppid" => getppid,
        "forward" => floor::forward,
        "prost" => floor::prost,
        _ => return false,
    };
    actor(&Arguments::new(args));
    true
}

/// `address= protocol=ping|redis|http rate= seconds= connections= [burst=] [path=]`: prints `ready`, then a [`Report`]. With `burst`, so
/// many requests begin at a time, one after the other, at the same rate: on a virtual machine, going to sleep until the timetable's
/// next entry costs a multiple of a request, and what it costs varies.
fn paced(arguments: &Arguments) {
    let connections: u64 = arguments.get("connections", 1);
    let seconds: u64 = arguments.get("seconds", 1);
    let protocol = Protocol::new(arguments);
    let streams: Vec<TcpStream> = (0..connections).map(|_| connect(arguments.need("address"))).collect();
    println!("ready");
    let begin = clock::monotonic_ns() + LEAD.as_nanos() as u64;
    let pace = Pace::new(arguments.get("rate", 0), connections, begin, begin + seconds * 1_000_000_000);
    let pace = Pace { burst: arguments.get("burst", 1), ..pace };
    let runs: Vec<(Vec<u64>, u64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = streams
            .into_iter()
            .enumerate()
            .map(|(index, stream)| scope.spawn(move || protocol.exchange_all(stream, &pace.of(index as u64))))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a connection's thread")).collect()
    });
    let end = clock::monotonic_ns();
    let late = runs.iter().map(|(_, late)| late).sum();
    let times: Vec<u64> = runs.into_iter().flat_map(|(times, _)| times).collect();
    let report = Report {
        requests: times.len() as u64,
        elapsed_ns: end - begin,
        p50_ns: percentile(&times, 0.5),
        p99_ns: percentile(&times, 0.99),
        late,
    };
    println!("{}", serde_json::to_string(&report).expect("a report is JSON"));
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream.set_read_timeout(Some(READ_TIMEOUT)).expect("SO_RCVTIMEO");
    stream
}

/// The timetable of one connection.
#[derive(Clone, Copy)]
struct Pace {
    /// Zero: at once, one after the other.
    interval_ns: u64,
    begin_ns: u64,
    end_ns: u64,
    /// Requests of one entry.
    burst: u64,
}

impl Pace {
    fn new(rate: u64, connections: u64, begin_ns: u64, end_ns: u64) -> Self {
        Self { interval_ns: (1_000_000_000 * connections).checked_div(rate).unwrap_or(0), begin_ns, end_ns, burst: 1 }
    }

    /// Shifted, so that the connections take turns.
    fn of(self, index: u64) -> Self {
        let shift = self.interval_ns / 16 * (index % 16);
        Self { begin_ns: self.begin_ns + shift, ..self }
    }

    /// When request `n` is to start, if it still is.
    fn start_ns(&self, n: u64) -> Option<u64> {
        let due_ns = self.begin_ns + n / self.burst * self.burst * self.interval_ns;
        let start = if self.interval_ns == 0 { clock::monotonic_ns() } else { due_ns };
        (start.max(self.begin_ns) < self.end_ns).then_some(start.max(self.begin_ns))
    }
}

/// What is sent, and how the end of the answer is known.
#[derive(Clone, Copy)]
enum Protocol {
    Ping,
    Redis,
    Http(&'static str),
}

impl Protocol {
    fn new(arguments: &Arguments) -> Self {
        match arguments.need("protocol") {
            "ping" => Self::Ping,
            "redis" => Self::Redis,
            // One string for the life of the process, so that the protocol can be copied into threads.
            "http" => Self::Http(arguments.get("path", "/".to_owned()).leak()),
            other => panic!("no protocol `{other}`"),
        }
    }

    fn request(self) -> Vec<u8> {
        match self {
            Self::Ping => vec![b'p'; PING_BYTES],
            Self::Redis => b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n".to_vec(),
            Self::Http(path) => format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes(),
        }
    }

    /// The times of all exchanges, and how many began late.
    fn exchange_all(self, mut stream: TcpStream, pace: &Pace) -> (Vec<u64>, u64) {
        let request = self.request();
        let mut buffer = vec![0; 64 << 10];
        let (mut times, mut late) = (Vec::new(), 0);
        while let Some(start) = pace.start_ns(times.len() as u64) {
            clock::pace_until_ns(start);
            let before = clock::monotonic_ns();
            stream.write_all(&request).expect("write a request");
            self.answer(&mut stream, &mut buffer).expect("read an answer");
            times.push(clock::monotonic_ns() - before);
            late += u64::from(pace.interval_ns > 0 && before > start + LATE_NS);
        }
        (times, late)
    }

    fn answer(self, stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        loop {
            match stream.read(&mut buffer[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
            if self.is_whole(&buffer[..filled])? {
                return Ok(());
            }
        }
    }

    fn is_whole(self, bytes: &[u8]) -> io::Result<bool> {
        match self {
            Self::Ping => Ok(bytes.len() >= PING_BYTES),
            Self::Redis => Ok(bytes.ends_with(b"\r\n") && bytes.iter().filter(|byte| **byte == b'\n').count() == 2),
            Self::Http(_) => http_is_whole(bytes),
        }
    }
}

/// Knows `Content-Length` only: what the benchmark's servers send. Another answer than 200 ends the run.
fn http_is_whole(bytes: &[u8]) -> io::Result<bool> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(false) };
    let text = String::from_utf8_lossy(&bytes[..head]);
    if !text.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!("the server answers {}", text.lines().next().unwrap_or_default())));
    }
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.ok_or_else(|| io::Error::other("an answer without Content-Length"))?;
    Ok(bytes.len() >= head + 4 + length)
}

/// `address=`: prints `ready ADDRESS`; answers each [`PING_BYTES`] by as many.
fn echo(arguments: &Arguments) {
    let listener = TcpListener::bind(arguments.need("address")).expect("listen");
    println!("ready {}", listener.local_addr().expect("address of a listener"));
    for mut stream in listener.incoming().flatten() {
        std::thread::spawn(move || -> io::Result<()> {
            stream.set_nodelay(true)?;
            let mut message = [0; PING_BYTES];
            loop {
                stream.read_exact(&mut message)?;
                stream.write_all(&message)?;
            }
        });
    }
}

/// `count=`: prints the nanoseconds that one `getppid` takes, as the least of ten loops: nothing else can make it less.
fn getppid(arguments: &Arguments) {
    let count: u64 = arguments.get("count", 200_000);
    let once = |_| {
        let before = clock::monotonic_ns();
        for _ in 0..count {
            // SAFETY: no arguments, cannot fail. By number, since a C library may remember the answer.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
        (clock::monotonic_ns() - before) as f64 / count as f64
    };
    let least = (0..10).map(once).fold(f64::INFINITY, f64::min);
    println!("{least}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_answer_is_known() {
        let redis = |bytes: &[u8]| Protocol::Redis.is_whole(bytes).unwrap();
        assert!(redis(b"$5\r\nvalue\r\n") && !redis(b"$5\r\n") && !redis(b"$5\r\nval"));
        let http = |bytes: &[u8]| http_is_whole(bytes).unwrap();
        assert!(http(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"));
        assert!(!http(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok") && !http(b"HTTP/1.1 200 OK\r\n"));
        assert!(http_is_whole(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").is_err());
    }

    #[test]
    fn a_timetable_ends_and_takes_turns() {
        let pace = Pace::new(1000, 2, 100, 100 + 10_000_000);
        assert_eq!((pace.start_ns(0), pace.start_ns(4), pace.start_ns(5)), (Some(100), Some(8_000_100), None));
        assert_eq!(pace.of(1).start_ns(0), Some(100 + 125_000));
        assert_eq!(Pace::new(0, 4, 1, 2).interval_ns, 0);
        let bursts = Pace { burst: 3, ..pace };
        assert_eq!((bursts.start_ns(2), bursts.start_ns(3)), (Some(100), Some(6_000_100)));
    }
}
