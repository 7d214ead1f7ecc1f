//! What the tests' server does for a request, by its path.
//!
//! `/sleep/MS…` waits, `/poll/MS…` waits in `poll`, `/spin/US…` burns that much CPU time, `/lock/MS…` waits for a mutex that
//! another thread holds so long, `/disk/N…` reads N blocks of `disk` with `O_DIRECT`, `/call/PATH…` asks `downstream` for
//! `/PATH…`, `/around/US/PATH…` burns CPU time before that and as much after it, `/stall/MS…` waits before it reads the body. `/big/N…` answers N bytes, `/sendfile/N…` and `/splice/N…` do
//! so by these calls, `/chunked…` answers in chunks, `/nagle…` in two small writes without `TCP_NODELAY`, `/drip/MS…` in pieces with a pause before each, as long as somebody takes them, `/continue…` sends `100 Continue` first, `/close…` closes without an answer,
//! `/reset…` resets, `/rest/N…` answers N bytes that end with the connection, anything else answers `ok`.

use std::{
    fs::File,
    io::{self, PipeReader, PipeWriter, Write},
    net::TcpStream,
    os::{
        fd::{AsRawFd, FromRawFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    ptr,
    sync::{Mutex, mpsc},
    time::Duration,
};

use super::{
    Arguments,
    message::{Head, How, Reader},
    uring::Ring,
};
use crate::{clock, schedstat};

const BLOCK: usize = 4096;
const BODY_MAX: u64 = 64 << 20;

/// Answers the requests of one connection.
pub struct Handler<'a> {
    stream: &'a TcpStream,
    arguments: &'a Arguments,
    ring: Option<Ring>,
    downstream: Option<(TcpStream, Reader)>,
    disk: Option<(File, u64)>,
    /// For how long this thread had waited for a CPU before it began to write its last answer.
    pub run_delay_ns: u64,
}

/// A moment in a thread's life.
struct Instant {
    ns: u64,
    run_delay_ns: u64,
}

impl Instant {
    fn now() -> Self {
        Self { ns: clock::monotonic_ns(), run_delay_ns: schedstat::own_run_delay_ns() }
    }

    /// Time since then in which this thread did not want a CPU, if it did nothing but wait.
    fn blocked_ns(&self) -> u64 {
        let elapsed = clock::monotonic_ns() - self.ns;
        elapsed.saturating_sub(schedstat::own_run_delay_ns() - self.run_delay_ns)
    }
}

/// A block that `O_DIRECT` can read into.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

impl<'a> Handler<'a> {
    /// For this connection.
    pub fn new(stream: &'a TcpStream, arguments: &'a Arguments, by_uring: bool) -> Self {
        let ring = by_uring.then(|| Ring::new().expect("a ring to send by"));
        Self { stream, arguments, ring, downstream: None, disk: None, run_delay_ns: 0 }
    }

    /// What happens between a request's head and its body.
    pub fn before_body(&self, head: &Head) {
        if let ("stall", Some(ms)) = route(head) {
            clock::pace(Duration::from_millis(ms));
        }
    }

    /// Answers one request and gives the nanoseconds that the route waited, but not for a CPU; `None` if the connection shall end.
    pub fn answer(&mut self, head: &Head) -> io::Result<Option<u64>> {
        let start = Instant::now();
        let mut blocked_ns = 0;
        let mut body = b"ok\n".to_vec();
        match route(head) {
            ("close", _) => return Ok(None),
            ("reset", _) => return self.reset(),
            ("sleep", Some(ms)) => clock::pace(Duration::from_millis(ms)),
            ("poll", Some(ms)) => poll_nothing(ms),
            ("spin", Some(us)) => spin(Duration::from_micros(us)),
            ("lock", Some(ms)) => blocked_ns = wait_for_lock(Duration::from_millis(ms)),
            ("disk", Some(blocks)) => self.read_disk(blocks)?,
            ("call", _) => self.call(behind(head, "/call"))?,
            ("calls", Some(count)) => {
                (0..count).try_for_each(|_| self.call(behind(head, &format!("/calls/{count}"))))?;
            }
            ("around", Some(us)) => {
                spin(Duration::from_micros(us));
                self.call(behind(head, &format!("/around/{us}")))?;
                spin(Duration::from_micros(us));
            }
            ("big", Some(length)) => body = vec![b'x'; length.min(BODY_MAX) as usize],
            ("sendfile", Some(length)) => return self.send_file(length).map(|()| Some(0)),
            ("splice", Some(length)) => return self.send_spliced(length).map(|()| Some(0)),
            ("rest", Some(length)) => return self.answer_to_the_end(length).map(|()| None),
            ("continue", _) => self.write(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            ("chunked", _) => return self.answer_in_chunks().map(|()| Some(0)),
            ("nagle", _) => return self.answer_in_two_writes().map(|()| Some(0)),
            ("drip", Some(ms)) => {
                let _ = self.answer_by_drops(Duration::from_millis(ms));
                return Ok(Some(0));
            }
            _ => {}
        }
        if blocked_ns == 0 && matches!(route(head).0, "sleep" | "poll" | "disk" | "call" | "calls") {
            blocked_ns = start.blocked_ns();
        }
        self.run_delay_ns = schedstat::own_run_delay_ns();
        let mut response = response_head(body.len() as u64);
        if head.request().0 != "HEAD" {
            response.append(&mut body);
        }
        self.write(&response)?;
        Ok(Some(blocked_ns))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.ring {
            Some(ring) => ring.send_all(self.stream.as_raw_fd(), bytes),
            None => self.stream.write_all(bytes),
        }
    }

    fn answer_to_the_end(&mut self, length: u64) -> io::Result<()> {
        self.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        self.write(&vec![b'x'; length.min(BODY_MAX) as usize])
    }

    fn answer_in_chunks(&mut self) -> io::Result<()> {
        self.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        ["5\r\nfirst\r\n", "6\r\nsecond\r\n", "0\r\n\r\n"].iter().try_for_each(|chunk| self.write(chunk.as_bytes()))
    }

    /// As programs do that do not know of `TCP_NODELAY`: the second waits for the acknowledgement of the first.
    fn answer_in_two_writes(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(false)?;
        self.write(&response_head(3))?;
        self.write(b"ok\n")
    }

    fn answer_by_drops(&mut self, pause: Duration) -> io::Result<()> {
        self.write(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n")?;
        ["first", "and", "another"].iter().try_for_each(|drop| {
            clock::pace(pause);
            self.write(drop.as_bytes())
        })
    }

    /// Closing with nothing left to linger for sends a reset.
    fn reset(&self) -> io::Result<Option<u64>> {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        let size = size_of::<libc::linger>() as u32;
        // SAFETY: a live socket and a valid `linger`.
        let result = unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                ptr::from_ref(&linger).cast(),
                size,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(None) }
    }

    fn send_file(&mut self, length: u64) -> io::Result<()> {
        let file = file_in_memory(length)?;
        self.write(&response_head(length))?;
        let mut offset = 0;
        while (offset as u64) < length {
            // SAFETY: live descriptors and an offset of this function.
            let sent =
                unsafe { libc::sendfile(self.stream.as_raw_fd(), file.as_raw_fd(), &mut offset, length as usize) };
            moved(sent)?;
        }
        Ok(())
    }

    fn send_spliced(&mut self, length: u64) -> io::Result<()> {
        let file = file_in_memory(length)?;
        self.write(&response_head(length))?;
        let (reader, writer): (PipeReader, PipeWriter) = io::pipe()?;
        let (none, mut offset) = (ptr::null_mut(), 0_i64);
        while (offset as u64) < length {
            // SAFETY: live descriptors and an offset of this function.
            let taken = unsafe { libc::splice(file.as_raw_fd(), &mut offset, writer.as_raw_fd(), none, 65_536, 0) };
            let mut left = moved(taken)?;
            while left > 0 {
                // SAFETY: live descriptors, no offsets.
                let sent = unsafe { libc::splice(reader.as_raw_fd(), none, self.stream.as_raw_fd(), none, left, 0) };
                left -= moved(sent)?;
            }
        }
        Ok(())
    }

    fn read_disk(&mut self, blocks: u64) -> io::Result<()> {
        if self.disk.is_none() {
            let mut options = File::options();
            let file = options.read(true).custom_flags(libc::O_DIRECT).open(self.arguments.need("disk"))?;
            self.disk = Some((file, 0));
        }
        let Some((file, next)) = &mut self.disk else { return Ok(()) };
        let mut block = Block([0; BLOCK]);
        for _ in 0..blocks {
            let offset = (*next * BLOCK as u64) as i64;
            // SAFETY: a buffer of one block, aligned as `O_DIRECT` wants it.
            let read = unsafe { libc::pread(file.as_raw_fd(), block.0.as_mut_ptr().cast(), BLOCK, offset) };
            moved(read)?;
            *next += 1;
        }
        Ok(())
    }

    /// Asks the other server, on one connection for all requests of this one.
    fn call(&mut self, target: &str) -> io::Result<()> {
        let (mut stream, mut reader) = match self.downstream.take() {
            Some(pair) => pair,
            None => {
                let stream = TcpStream::connect(self.arguments.need("downstream"))?;
                stream.set_nodelay(true)?;
                let reader = Reader::new(&stream, How::Plain);
                (stream, reader)
            }
        };
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: downstream\r\n\r\n").as_bytes())?;
        let head = reader.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        reader.body(&head, false)?;
        self.downstream = Some((stream, reader));
        Ok(())
    }
}

/// First part of the path, and the second if it is a number.
fn route(head: &Head) -> (&str, Option<u64>) {
    let mut parts = head.request().1.split('/').skip(1);
    (parts.next().unwrap_or(""), parts.next().and_then(|text| text.parse().ok()))
}

/// The rest of a path.
fn behind<'a>(head: &'a Head, route: &str) -> &'a str {
    let path = head.request().1;
    path.strip_prefix(route).unwrap_or(path)
}

fn response_head(length: u64) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes()
}

fn file_in_memory(length: u64) -> io::Result<File> {
    // SAFETY: a valid name; the descriptor is fresh and owned by the file alone.
    let file = unsafe {
        let fd: RawFd = libc::memfd_create(c"body".as_ptr(), 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(fd)
    };
    file.set_len(length.min(BODY_MAX))?;
    Ok(file)
}

/// Bytes that a call moved; none is an error, for the tests know how many there are.
fn moved(result: isize) -> io::Result<usize> {
    match result {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        result => usize::try_from(result).map_err(|_| io::Error::last_os_error()),
    }
}

fn poll_nothing(ms: u64) {
    // SAFETY: no descriptors.
    unsafe { libc::poll(ptr::null_mut(), 0, ms as i32) };
}

/// Waits for a mutex that another thread holds for `held`, and gives how long that took.
fn wait_for_lock(held: Duration) -> u64 {
    let mutex = Mutex::new(());
    let (sender, taken) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = mutex.lock();
            let _ = sender.send(());
            clock::pace(held);
        });
        let _ = taken.recv();
        let start = Instant::now();
        drop(mutex.lock());
        start.blocked_ns()
    })
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
