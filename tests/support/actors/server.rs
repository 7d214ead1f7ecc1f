//! A small HTTP/1.1 server, one blocking thread per connection: `address=IP:PORT` or `unix:PATH` `[log=1] [read=HOW]
//! [late_ms=N] [backlog=N] [accept_late_ms=N] [rcvbuf=N] [read_bytes=N] [downstream=IP:PORT] [disk=PATH]`.
//!
//! Prints `ready` and its address, then with `log=1` one JSON line per request: `path`, `accepted_ns` (the connection's
//! accept returned), `filled_ns` (the last read so far returned), `read_ns` (the request's last byte was taken), `written_ns`
//! (the answer's last byte was written), `blocked_ns` (what the route waited, but not for a CPU), `waited_ns` (the thread was runnable and not
//! running from the line before until the answer was to be written). For the routes see [`super::routes`]. Reads by `read=plain`, `peek` (before each read),
//! `recvmsg` or `uring`; with `late_ms`, that long after the accept. With `accept_late_ms` each accept comes that long after
//! there was something to accept.

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    sync::Arc,
    time::Duration,
};

use super::{
    Arguments, dial,
    message::{How, Reader},
    routes::Handler,
};
use crate::{clock, schedstat};

enum Listener {
    Internet(TcpListener),
    Unix(UnixListener),
}

/// Serves until it is killed.
pub fn run(arguments: &Arguments) {
    let listener = Listener::new(arguments);
    let arguments = Arc::new(arguments.clone());
    let late = Duration::from_millis(arguments.get("accept_late_ms", 0));
    loop {
        if !late.is_zero() {
            wait_for_one(listener.as_raw_fd());
            clock::pace(late);
        }
        let Ok(stream) = listener.accept() else { continue };
        let (accepted_ns, arguments) = (clock::monotonic_ns(), Arc::clone(&arguments));
        std::thread::spawn(move || {
            clock::pace(Duration::from_millis(arguments.get("late_ms", 0)));
            let _ = serve(&stream, &arguments, accepted_ns);
        });
    }
}

impl Listener {
    fn new(arguments: &Arguments) -> Self {
        let address = arguments.need("address");
        let listener = match address.strip_prefix("unix:") {
            Some(path) => UnixListener::bind(path).map(Self::Unix),
            None => TcpListener::bind(address).map(Self::Internet),
        };
        let listener = listener.unwrap_or_else(|error| panic!("listen on {address}: {error}"));
        dial::set_number(&listener, libc::SO_RCVBUFFORCE, arguments.get("rcvbuf", 0)).expect("SO_RCVBUFFORCE");
        let backlog = arguments.get("backlog", 0);
        if backlog > 0 {
            // SAFETY: a live listener; a second `listen` only changes its backlog.
            let result = unsafe { libc::listen(listener.as_raw_fd(), backlog) };
            assert_eq!(result, 0, "listen: {}", io::Error::last_os_error());
        }
        match &listener {
            Self::Internet(internet) => println!("ready {}", internet.local_addr().expect("address of a listener")),
            Self::Unix(_) => println!("ready {address}"),
        }
        listener
    }

    /// A connection, of whatever family, as std's TCP stream, which only calls `send` and `recv`.
    fn accept(&self) -> io::Result<TcpStream> {
        match self {
            Self::Internet(listener) => listener.accept().map(|(stream, _)| stream),
            Self::Unix(listener) => listener.accept().map(|(stream, _)| TcpStream::from(OwnedFd::from(stream))),
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Internet(listener) => listener.as_raw_fd(),
            Self::Unix(listener) => listener.as_raw_fd(),
        }
    }
}

fn serve(stream: &TcpStream, arguments: &Arguments, accepted_ns: u64) -> io::Result<()> {
    // A unix socket has no such option.
    let _ = stream.set_nodelay(true);
    let how = how(arguments);
    let mut reader = Reader::new(stream, how).reading_at_once(arguments.get("read_bytes", 4096));
    let mut handler = Handler::new(stream, arguments, how == How::Uring);
    let log = arguments.get("log", 0) == 1;
    let mut waited = if log { schedstat::own_run_delay_ns() } else { 0 };
    while let Some(head) = reader.head()? {
        handler.before_body(&head);
        reader.body(&head, false)?;
        let (read_ns, filled_ns) = (clock::monotonic_ns(), reader.filled_ns);
        let Some(blocked_ns) = handler.answer(&head)? else { return Ok(()) };
        if log {
            let (_, path) = head.request();
            let written_ns = clock::monotonic_ns();
            let waited_ns = handler.run_delay_ns.saturating_sub(waited);
            println!(
                r#"{{"path":"{path}","accepted_ns":{accepted_ns},"filled_ns":{filled_ns},"read_ns":{read_ns},"written_ns":{written_ns},"blocked_ns":{blocked_ns},"waited_ns":{waited_ns}}}"#
            );
            waited = schedstat::own_run_delay_ns();
        }
    }
    Ok(())
}

fn how(arguments: &Arguments) -> How {
    match arguments.get("read", "plain".to_owned()).as_str() {
        "plain" => How::Plain,
        "peek" => How::Peek,
        "recvmsg" => How::Recvmsg,
        "uring" => How::Uring,
        other => panic!("no way of reading `{other}`"),
    }
}

/// Sleeps until somebody can be accepted.
fn wait_for_one(listener: RawFd) {
    let mut poll = libc::pollfd { fd: listener, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut poll, 1, -1) };
}
