//! Opening the client's connection, with the times of its steps.
//!
//! In: `address=HOST:PORT` or `unix:PATH`, where `%` in HOST stands for the label of the request, so that each asks for a
//! name of its own; and options: `abandon_ms=N` gives up connecting after that time; `sndbuf=N`,
//! `rcvbuf=N`, `congestion=NAME`, `pacing=BYTES_PER_SECOND` set socket options. Out: a stream, or where it failed.

use std::{
    ffi::c_int,
    io,
    net::{TcpStream, ToSocketAddrs},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use super::Arguments;
use crate::{clock, schedstat};

/// When the steps of opening a connection began and ended; zero for those that were not taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Before the name was looked up.
    pub resolve_ns: u64,
    /// After it was.
    pub resolved_ns: u64,
    /// For how long the thread ran meanwhile.
    pub resolve_ran_ns: u64,
    /// Before `connect`.
    pub connect_ns: u64,
    /// After it, whatever it gave.
    pub connected_ns: u64,
    /// For how long the thread was runnable and not running meanwhile.
    pub connect_waited_ns: u64,
}

impl Times {
    /// As members of a JSON object.
    pub fn json(&self) -> String {
        let Self { resolve_ns, resolved_ns, resolve_ran_ns, connect_ns, connected_ns, connect_waited_ns } = self;
        format!(
            r#""resolve_ns":{resolve_ns},"resolved_ns":{resolved_ns},"resolve_ran_ns":{resolve_ran_ns},"connect_ns":{connect_ns},"connected_ns":{connected_ns},"connect_waited_ns":{connect_waited_ns}"#
        )
    }
}

/// Opens a connection; the times tell how far it came.
pub fn dial(arguments: &Arguments, label: &str) -> (Times, io::Result<TcpStream>) {
    let mut times = Times { resolve_ns: clock::monotonic_ns(), ..Times::default() };
    let address = arguments.need("address");
    let result = match address.strip_prefix("unix:") {
        Some(path) => unix(path, &mut times),
        None => internet(&address.replace('%', label), arguments, &mut times),
    };
    (times, result)
}

/// A unix socket as std's TCP stream, which only calls `send`, `recv` and `shutdown`, and those know every family.
fn unix(path: &str, times: &mut Times) -> io::Result<TcpStream> {
    times.resolved_ns = times.resolve_ns;
    times.connect_ns = clock::monotonic_ns();
    let stream = UnixStream::connect(path);
    times.connected_ns = clock::monotonic_ns();
    stream.map(|stream| TcpStream::from(OwnedFd::from(stream)))
}

fn internet(address: &str, arguments: &Arguments, times: &mut Times) -> io::Result<TcpStream> {
    let ran = clock::thread_ran_ns();
    let found = address.to_socket_addrs();
    times.resolved_ns = clock::monotonic_ns();
    times.resolve_ran_ns = clock::thread_ran_ns() - ran;
    let address = found?.next().ok_or(io::ErrorKind::NotFound)?;
    let waited = schedstat::own_run_delay_ns();
    times.connect_ns = clock::monotonic_ns();
    let stream = match arguments.get("abandon_ms", 0) {
        0 => TcpStream::connect(address),
        ms => TcpStream::connect_timeout(&address, Duration::from_millis(ms)),
    };
    times.connected_ns = clock::monotonic_ns();
    times.connect_waited_ns = schedstat::own_run_delay_ns() - waited;
    let stream = stream?;
    stream.set_nodelay(true)?;
    for (key, option) in [("sndbuf", libc::SO_SNDBUFFORCE), ("rcvbuf", libc::SO_RCVBUFFORCE)] {
        set_number(&stream, option, arguments.get(key, 0))?;
    }
    set_number(&stream, libc::SO_MAX_PACING_RATE, arguments.get("pacing", 0))?;
    set_congestion(&stream, &arguments.get("congestion", String::new()))?;
    Ok(stream)
}

/// Sets an option of the socket layer; 0 leaves it.
pub fn set_number(socket: &impl AsRawFd, option: c_int, value: c_int) -> io::Result<()> {
    if value == 0 { Ok(()) } else { set(socket, libc::SOL_SOCKET, option, &value.to_ne_bytes()) }
}

fn set_congestion(socket: &impl AsRawFd, name: &str) -> io::Result<()> {
    if name.is_empty() { Ok(()) } else { set(socket, libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_bytes()) }
}

fn set(socket: &impl AsRawFd, level: c_int, option: c_int, value: &[u8]) -> io::Result<()> {
    // SAFETY: a live socket and a value of the stated length.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.as_ptr().cast(), value.len() as u32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
