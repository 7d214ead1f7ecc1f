//! Every socket call that the agent watches, made in a fixed order on loopback TCP by one thread, with its result
//! printed: bytes, return value, errno, short reads. The transcript must be the same with and without the agent.
//!
//! Both ends live in one process, and the reader waits until all bytes have arrived (`FIONREAD`), so the results are
//! fixed. Ports, descriptors and addresses of memory are not printed.

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use libc::{c_int, c_void, iovec, mmsghdr, msghdr};

use super::Arguments;
use crate::clock;

/// Prints the transcript.
pub fn run(_: &Arguments) {
    let (client, server) = connected();
    let (a, b) = (client.as_raw_fd(), server.as_raw_fd());
    plain(a, b);
    vectors(a, b);
    messages(a, b);
    flags(a, b);
    mistakes(a, b);
    duplicates(a, b);
    files(a, b);
    endings(client, server);
    refused();
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen on loopback");
    let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect to loopback");
    // SAFETY: a listening socket, no address wanted.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), 0) };
    say("accept4", if fd >= 0 { 0 } else { -1 });
    // SAFETY: a fresh descriptor that nothing else owns.
    (client, unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
}

fn plain(a: RawFd, b: RawFd) {
    let request = b"GET /transcript HTTP/1.1\r\nHost: t\r\n\r\n";
    say("write", write(a, request));
    arrived(b, request.len());
    for size in [1, 7, 4096] {
        read_and_say("read", b, size);
    }
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    // SAFETY: valid buffers of the given lengths.
    unsafe {
        say("sendto", libc::sendto(b, answer.as_ptr().cast(), answer.len(), 0, std::ptr::null(), 0));
        arrived(a, answer.len());
        let mut part = [0_u8; 11];
        let none = std::ptr::null_mut();
        let result = libc::recvfrom(a, part.as_mut_ptr().cast(), part.len(), 0, none, std::ptr::null_mut());
        say_bytes("recvfrom", result, &part);
    }
    read_and_say("read rest", a, 4096);
    say("write nothing", write(a, b""));
}

fn vectors(a: RawFd, b: RawFd) {
    let parts = [b"one".as_slice(), b"", b"three"].map(vector);
    // SAFETY: the vectors point to live buffers.
    say("writev", unsafe { libc::writev(a, parts.as_ptr(), 3) });
    arrived(b, 8);
    let (mut first, mut second) = ([0_u8; 2], [0_u8; 100]);
    let room = [vector_mut(&mut first), vector_mut(&mut second)];
    // SAFETY: as above, writable.
    let result = unsafe { libc::readv(b, room.as_ptr(), 2) };
    say_bytes("readv first", result.min(2), &first);
    say_bytes("readv second", result - 2, &second);
}

fn messages(a: RawFd, b: RawFd) {
    let mut parts = [b"alpha".as_slice(), b"beta"].map(vector);
    let message = header(&mut parts);
    // SAFETY: headers point to live vectors and those to live buffers, here and below.
    say("sendmsg", unsafe { libc::sendmsg(a, &message, 0) });
    arrived(b, 9);
    let mut part = [0_u8; 6];
    let mut room = [vector_mut(&mut part)];
    let mut message = header(&mut room);
    let result = unsafe { libc::recvmsg(b, &mut message, 0) };
    say_bytes("recvmsg short", result, &part);
    read_and_say("read rest", b, 100);

    let (mut x, mut y) = ([vector(b"first")], [vector(b"second!")]);
    let mut many = [header(&mut x), header(&mut y)].map(|msg_hdr| mmsghdr { msg_hdr, msg_len: 0 });
    say("sendmmsg", unsafe { libc::sendmmsg(b, many.as_mut_ptr(), 2, 0) } as isize);
    say("sendmmsg lengths", (many[0].msg_len * 100 + many[1].msg_len) as isize);
    arrived(a, 12);
    let (mut p, mut q) = ([0_u8; 5], [0_u8; 100]);
    let (mut x, mut y) = ([vector_mut(&mut p)], [vector_mut(&mut q)]);
    let mut many = [header(&mut x), header(&mut y)].map(|msg_hdr| mmsghdr { msg_hdr, msg_len: 0 });
    let result = unsafe { libc::recvmmsg(a, many.as_mut_ptr(), 2, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
    say("recvmmsg", result as isize);
    say_bytes("recvmmsg first", many[0].msg_len as isize, &p);
    say_bytes("recvmmsg second", many[1].msg_len as isize, &q);
}

fn flags(a: RawFd, b: RawFd) {
    write(a, b"0123456789");
    arrived(b, 10);
    for (name, size, flags) in [
        ("MSG_PEEK", 4, libc::MSG_PEEK),
        ("MSG_PEEK again", 100, libc::MSG_PEEK),
        ("MSG_WAITALL", 6, libc::MSG_WAITALL),
        ("MSG_TRUNC", 2, libc::MSG_TRUNC),
        ("MSG_DONTWAIT", 100, libc::MSG_DONTWAIT),
        ("MSG_DONTWAIT on empty", 100, libc::MSG_DONTWAIT),
        ("MSG_OOB without", 1, libc::MSG_OOB),
    ] {
        let mut part = [0_u8; 100];
        // SAFETY: `size` is at most the length of `part`.
        let result = unsafe { libc::recv(b, part.as_mut_ptr().cast(), size, flags) };
        // MSG_TRUNC on TCP discards the bytes and leaves the buffer alone.
        say_bytes(name, result, &part);
    }
}

fn mistakes(a: RawFd, b: RawFd) {
    let nowhere = std::ptr::without_provenance_mut::<c_void>(8);
    // SAFETY: the kernel checks the address and answers EFAULT; nothing is read or written in this process.
    unsafe {
        say("write from nowhere", libc::write(a, nowhere, 10));
        write(a, b"x");
        arrived(b, 1);
        say("read to nowhere", libc::read(b, nowhere, 10));
        say("sendmsg from nowhere", libc::sendmsg(a, nowhere.cast(), 0));
    }
    read_and_say("read after EFAULT", b, 10);
    say("write to no descriptor", write(-1, b"x"));
    say("close of no descriptor", close(1_000_000) as isize);
}

fn duplicates(a: RawFd, b: RawFd) {
    // SAFETY: valid descriptors.
    let copies = unsafe { [libc::dup(a), libc::dup3(a, 700, libc::O_CLOEXEC), libc::fcntl(a, libc::F_DUPFD, 800)] };
    for (index, copy) in copies.into_iter().enumerate() {
        say("write on a copy", write(copy, format!("copy{index}").as_bytes()));
        say("close of the copy", close(copy) as isize);
        say("write on the closed copy", write(copy, b"x"));
    }
    arrived(b, 15);
    read_and_say("read from copies", b, 100);
    say("write on the original", write(a, b"original"));
    arrived(b, 8);
    read_and_say("read from the original", b, 100);
}

fn files(a: RawFd, b: RawFd) {
    let path = std::env::temp_dir().join(format!("st-transcript-{}", std::process::id()));
    std::fs::write(&path, vec![b'f'; 10_000]).expect("write a file to send");
    let file = std::fs::File::open(&path).expect("open the file to send");
    let _ = std::fs::remove_file(&path);
    // SAFETY: valid descriptors, no offset.
    say("sendfile", unsafe { libc::sendfile(a, file.as_raw_fd(), std::ptr::null_mut(), 6_000) });
    say("sendfile to the end", unsafe { libc::sendfile(a, file.as_raw_fd(), std::ptr::null_mut(), 6_000) });
    say("sendfile past the end", unsafe { libc::sendfile(a, file.as_raw_fd(), std::ptr::null_mut(), 6_000) });
    arrived(b, 10_000);
    read_and_say("read of the file", b, 16_384);
}

fn endings(client: TcpStream, server: TcpStream) {
    let (a, b) = (client.as_raw_fd(), server.as_raw_fd());
    // SAFETY: valid descriptors.
    say("shutdown", unsafe { libc::shutdown(a, libc::SHUT_WR) } as isize);
    read_and_say("read at the end", b, 10);
    say("write after shutdown", unsafe { libc::send(a, b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL) });
    say("write to half-closed", write(b, b"still"));
    arrived(a, 5);
    read_and_say("read of half-closed", a, 10);
    drop(server);
    clock::wait_for("end of the stream", Duration::from_secs(5), || ready(a));
    read_and_say("read at the other end", a, 10);
}

fn refused() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen on loopback");
    let address = listener.local_addr().expect("address");
    drop(listener);
    let error = TcpStream::connect(address).expect_err("nothing listens there");
    println!("connect refused: {:?}", error.raw_os_error());
}

fn vector(bytes: &[u8]) -> iovec {
    iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn vector_mut(bytes: &mut [u8]) -> iovec {
    iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

fn header(parts: &mut [iovec]) -> msghdr {
    // SAFETY: a zeroed msghdr is valid: no name, no control data.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    message
}

fn write(fd: RawFd, bytes: &[u8]) -> isize {
    // SAFETY: a valid buffer.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) }
}

fn close(fd: RawFd) -> c_int {
    // SAFETY: a descriptor of this transcript, or none at all.
    unsafe { libc::close(fd) }
}

fn read_and_say(what: &str, fd: RawFd, size: usize) {
    let mut part = vec![0_u8; size];
    // SAFETY: a valid buffer.
    let result = unsafe { libc::read(fd, part.as_mut_ptr().cast(), size) };
    say_bytes(what, result, &part);
}

fn arrived(fd: RawFd, bytes: usize) {
    clock::wait_for(&format!("{bytes} bytes"), Duration::from_secs(5), || {
        let mut waiting: c_int = 0;
        // SAFETY: FIONREAD writes one int.
        unsafe { libc::ioctl(fd, libc::FIONREAD, &mut waiting) };
        (waiting as usize >= bytes).then_some(())
    });
}

fn ready(fd: RawFd) -> Option<()> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN | libc::POLLRDHUP, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut poll, 1, 0) };
    (poll.revents & libc::POLLRDHUP != 0).then_some(())
}

fn say(what: &str, result: isize) {
    let error = if result < 0 { io::Error::last_os_error().raw_os_error() } else { None };
    println!("{what}: {result} errno {error:?}");
}

fn say_bytes(what: &str, result: isize, bytes: &[u8]) {
    let error = if result < 0 { io::Error::last_os_error().raw_os_error() } else { None };
    let length = result.clamp(0, bytes.len() as isize) as usize;
    println!("{what}: {result} errno {error:?} {:?}", bytes[..length].escape_ascii().to_string());
}
