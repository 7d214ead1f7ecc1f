//! A small HTTP/1.1 server, one blocking thread per connection: `address=IP:PORT [log=1] [read=HOW]
//! [late_ms=N]`.
//!
//! Prints `ready` and its address, then with `log=1` one JSON line per request: `path`, `read_ns` (the request's last
//! byte was read), `written_ns` (the answer's last byte was written). Routes: `/sleep/MS…` waits, `/spin/US…` burns that
//! much CPU time, `/big/N…` answers N bytes, `/chunked…` answers in chunks, `/continue…` sends `100 Continue` first,
//! `/close…` closes without an answer, `/rest/N…` answers N bytes that end with the connection, anything else answers
//! `ok`. Reads by `read=plain`, `peek` (before each read) or `recvmsg`; with `late_ms`, that long after the accept.

use std::{
    io::{self, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use super::{
    Arguments,
    message::{Head, How, Reader},
};
use crate::clock;

/// Serves until it is killed.
pub fn run(arguments: &Arguments) {
    let address = arguments.need("address");
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("listen on {address}: {error}"));
    println!("ready {}", listener.local_addr().expect("address of a listener"));
    let log = arguments.get("log", 0) == 1;
    let how = match arguments.get("read", "plain".to_owned()).as_str() {
        "plain" => How::Plain,
        "peek" => How::Peek,
        "recvmsg" => How::Recvmsg,
        other => panic!("no way of reading `{other}`"),
    };
    let late = Duration::from_millis(arguments.get("late_ms", 0));
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            clock::pace(late);
            let _ = serve(&stream, log, how);
        });
    }
}

fn serve(stream: &TcpStream, log: bool, how: How) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = Reader::new(stream, how);
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
        ("rest", Some(length)) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            stream.write_all(&vec![b'x'; length.min(64 << 20) as usize])?;
            return Ok(false);
        }
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
