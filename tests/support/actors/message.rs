//! Reading HTTP/1.1 messages off a blocking socket: just enough for the tests' own client and server.

use std::{
    io::{self, ErrorKind, PipeReader, PipeWriter, Read},
    net::TcpStream,
    os::fd::AsRawFd,
};

use super::uring::Ring;
use crate::clock;

/// Bytes of a connection that were read and not yet taken.
pub struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
    part: Vec<u8>,
    how: How,
    ring: Option<Ring>,
    pipe: Option<(PipeReader, PipeWriter)>,
    in_body: bool,
    /// When the last call that read something returned.
    pub filled_ns: u64,
}

/// By which call bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `read`.
    Plain,
    /// Three looks at the same bytes with `MSG_PEEK`, then `read`.
    Peek,
    /// `recvmsg`.
    Recvmsg,
    /// Heads by `read`, bodies by `splice` into a pipe, like a proxy.
    Splice,
    /// `IORING_OP_RECV`.
    Uring,
}

/// First line and header fields of a message.
#[derive(Clone, Debug)]
pub struct Head {
    /// First line.
    pub first: String,
    fields: Vec<(String, String)>,
}

impl Reader {
    /// Reads from `stream`.
    pub fn new(stream: &TcpStream, how: How) -> Self {
        Self {
            stream: stream.try_clone().expect("second handle of a socket"),
            buffer: Vec::new(),
            part: vec![0; 4096],
            how,
            ring: (how == How::Uring).then(|| Ring::new().expect("a ring to receive by")),
            pipe: (how == How::Splice).then(|| io::pipe().expect("a pipe to splice into")),
            in_body: false,
            filled_ns: 0,
        }
    }

    /// Reads that many bytes at once, if they are there.
    pub fn reading_at_once(mut self, bytes: usize) -> Self {
        self.part.resize(bytes, 0);
        self
    }

    /// The next message's head; `None` at a clean end of the stream.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 4);
                return Ok(Some(Head::parse(&text)));
            }
            if self.fill()? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Takes the body that follows `head` and gives its length.
    pub fn body(&mut self, head: &Head, none_by_method: bool) -> io::Result<usize> {
        if none_by_method {
            return Ok(0);
        }
        self.in_body = true;
        let length = self.body_by_its_kind(head);
        self.in_body = false;
        length
    }

    fn body_by_its_kind(&mut self, head: &Head) -> io::Result<usize> {
        if head.field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return self.chunks();
        }
        if head.is_response() && head.field("connection") == Some("close") && head.field("content-length").is_none() {
            return self.rest();
        }
        let length = head.field("content-length").map_or(0, |value| value.parse().unwrap_or(0));
        self.skip(length)?;
        Ok(length)
    }

    /// Everything up to the end of the stream.
    fn rest(&mut self) -> io::Result<usize> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffer).len())
    }

    fn chunks(&mut self) -> io::Result<usize> {
        let mut total = 0;
        loop {
            let line = self.line()?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(|_| ErrorKind::InvalidData)?;
            self.skip(length)?;
            self.skip(2)?;
            total += length;
            if length == 0 {
                return Ok(total);
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn skip(&mut self, mut length: usize) -> io::Result<()> {
        loop {
            let taken = length.min(self.buffer.len());
            self.buffer.drain(..taken);
            length -= taken;
            if length == 0 {
                return Ok(());
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        if self.how == How::Peek {
            self.look()?;
        }
        let socket = self.stream.as_raw_fd();
        let part = &mut self.part;
        let length = match self.how {
            How::Splice if self.in_body => splice(socket, self.pipe.as_mut().ok_or(ErrorKind::BrokenPipe)?, part)?,
            // Little at once, so that a body is left to splice.
            How::Splice => self.stream.read(&mut part[..256])?,
            How::Plain | How::Peek => self.stream.read(part)?,
            How::Recvmsg => recvmsg(socket, part)?,
            How::Uring => self.ring.as_mut().ok_or(ErrorKind::BrokenPipe)?.receive(socket, part)?,
        };
        self.filled_ns = clock::monotonic_ns();
        self.buffer.extend_from_slice(&part[..length]);
        Ok(length)
    }

    fn look(&self) -> io::Result<()> {
        for length in [1, 16, 4096] {
            let mut part = [0_u8; 4096];
            // SAFETY: `part` holds at least `length` bytes.
            let result =
                unsafe { libc::recv(self.stream.as_raw_fd(), part.as_mut_ptr().cast(), length, libc::MSG_PEEK) };
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

fn recvmsg(socket: i32, part: &mut [u8]) -> io::Result<usize> {
    let mut room = libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() };
    // SAFETY: a zeroed msghdr is valid: no name, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut room;
    message.msg_iovlen = 1;
    // SAFETY: the header points to one live vector and that to a live buffer.
    let result = unsafe { libc::recvmsg(socket, &mut message, 0) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn splice(socket: i32, pipe: &mut (PipeReader, PipeWriter), part: &mut [u8]) -> io::Result<usize> {
    let (none, into) = (std::ptr::null_mut(), pipe.1.as_raw_fd());
    // SAFETY: two live descriptors, no offsets.
    let moved = unsafe { libc::splice(socket, none, into, none, part.len(), 0) };
    let moved = usize::try_from(moved).map_err(|_| io::Error::last_os_error())?;
    pipe.0.read_exact(&mut part[..moved])?;
    Ok(moved)
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        };
        Self { first, fields: lines.filter_map(field).collect() }
    }

    /// A field's value by its lower-case name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(candidate, _)| candidate == name).map(|(_, value)| value.as_str())
    }

    /// Whether it is a response.
    pub fn is_response(&self) -> bool {
        self.first.starts_with("HTTP/")
    }

    /// Status code of a response, 0 if it has none.
    pub fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Method and target of a request.
    pub fn request(&self) -> (&str, &str) {
        let mut words = self.first.split(' ');
        (words.next().unwrap_or(""), words.next().unwrap_or(""))
    }
}
