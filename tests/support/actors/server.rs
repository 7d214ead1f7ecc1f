//! A small HTTP/1.1 server, one blocking thread per connection: `address=IP:PORT [log=1] [peek=1]`.
//!
//! Prints `ready` and its address, then with `log=1` one JSON line per request: `path`, `read_ns` (the request's last
//! byte was read), `written_ns` (the answer's last byte was written). Routes: `/sleep/MS…` waits, `/spin/US…` burns that
//! much CPU time, `/big/N…` answers N bytes, `/chunked…` answers in chunks, `/continue…` sends `100 Continue` first,
//! `/close…` closes without an answer, anything else answers `ok`.

use std::{
    io::{self, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use super::{
    Arguments,
    message::{Head, Reader},
};
use crate::clock;

/// Serves until it is killed.
pub fn run(arguments: &Arguments) {
    let address = arguments.need("address");
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("listen on {address}: {error}"));
    println!("ready {}", listener.local_addr().expect("address of a listener"));
    let (log, peek) = (arguments.get("log", 0) == 1, arguments.get("peek", 0) == 1);
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let _ = serve(&stream, log, peek);
        });
    }
}

fn serve(stream: &TcpStream, log: bool, peek: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = Reader::new(stream, peek);
    while let Some(head) = reader.head()? {
        reader.body(&head, false)?;
        let read_ns = clock::monotonic_ns();
        if !answer(stream, &head)? {
            return Ok(());
        }
        if log {
            let (_, path) = head.request();
            let written_ns = clock::monotonic_ns();
            println!(r#"{{"path":"{path}","read_ns":{read_ns},"written_ns":{written_ns}}}"#);
        }
    }
    Ok(())
}

/// Answers one request; false if the connection shall end.
fn answer(mut stream: &TcpStream, head: &Head) -> io::Result<bool> {
    let (method, target) = head.request();
    let mut parts = target.split('/').skip(1);
    let (route, number) = (parts.next().unwrap_or(""), parts.next().and_then(|text| text.parse::<u64>().ok()));
    let mut body = b"ok\n".to_vec();
    match (route, number) {
        ("close", _) => return Ok(false),
        ("sleep", Some(ms)) => clock::pace(Duration::from_millis(ms)),
        ("spin", Some(us)) => spin(Duration::from_micros(us)),
        ("big", Some(length)) => body = vec![b'x'; length.min(64 << 20) as usize],
        ("continue", _) => stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
        ("chunked", _) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for chunk in ["5\r\nfirst\r\n", "6\r\nsecond\r\n", "0\r\n\r\n"] {
                stream.write_all(chunk.as_bytes())?;
            }
            return Ok(true);
        }
        _ => {}
    }
    let mut response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    if method != "HEAD" {
        response.append(&mut body);
    }
    stream.write_all(&response)?;
    Ok(true)
}

/// Runs until this thread has used `work` of CPU time, however long that takes.
fn spin(work: Duration) {
    let until = thread_cpu_ns() + work.as_nanos() as u64;
    while thread_cpu_ns() < until {
        for _ in 0..1000 {
            std::hint::spin_loop();
        }
    }
}

fn thread_cpu_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
