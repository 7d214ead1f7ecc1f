//! A path with a known delay: two TUN devices, one in each of two namespaces, and a forwarder between them.
//!
//! In: two namespaces and a delay for each way. Out: a link 10.98.0.1 (client side) to 10.98.0.2 (server side), and a
//! log of what the forwarder really did to each packet: the truth about `network`. Packets are delayed as they are, so
//! TCP's acknowledgements travel too; a TCP proxy would answer them itself. Order is kept.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{clock, namespace::Namespace, temp};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TUN: i16 = 0x0001;
const IFF_NO_PI: i16 = 0x1000;
const STOP_CHECK_MS: i32 = 50;

/// Address of the client side.
pub const CLIENT: &str = "10.98.0.1";
/// Address of the server side.
pub const SERVER: &str = "10.98.0.2";

/// One packet's way through the forwarder.
#[derive(Clone, Copy, Debug)]
pub struct Passage {
    /// From client to server.
    pub to_server: bool,
    /// When it was read from one device.
    pub in_ns: u64,
    /// When it was written to the other.
    pub out_ns: u64,
    /// Bytes of TCP payload; zero for what is not TCP.
    pub payload: usize,
}

/// A running forwarder.
pub struct Tun {
    log: Arc<Mutex<Vec<Passage>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Tun {
    /// Joins two namespaces, with a delay each way.
    pub fn join(client: &Namespace, server: &Namespace, to_server: Duration, to_client: Duration) -> Self {
        let (near, far) = (device(client, CLIENT), device(server, SERVER));
        let (near_copy, far_copy) = (duplicate(&near), duplicate(&far));
        let mut tun = Self { log: Arc::default(), stop: Arc::default(), threads: Vec::new() };
        tun.carry(true, near, far, to_server);
        tun.carry(false, far_copy, near_copy, to_client);
        tun
    }

    /// What the forwarder did so far.
    pub fn passages(&self) -> Vec<Passage> {
        self.log.lock().expect("log of the forwarder").clone()
    }

    /// Median of the real delay there plus that of the real delay back: what a round trip spends on this path.
    pub fn round_trip_ns(&self) -> u64 {
        let passages = self.passages();
        let median = |to_server| {
            let way = passages.iter().filter(|passage| passage.to_server == to_server);
            crate::stats::median(&way.map(|passage| passage.out_ns - passage.in_ns).collect::<Vec<_>>())
        };
        median(true) + median(false)
    }

    fn carry(&mut self, to_server: bool, from: File, to: File, delay: Duration) {
        let (sender, receiver) = mpsc::channel();
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || read_packets(from, &stop, &sender)));
        let log = Arc::clone(&self.log);
        self.threads.push(std::thread::spawn(move || write_packets(to, to_server, delay, &receiver, &log)));
    }
}

impl Drop for Tun {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn read_packets(mut from: File, stop: &AtomicBool, sender: &mpsc::Sender<(u64, Vec<u8>)>) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let mut poll = libc::pollfd { fd: from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        if unsafe { libc::poll(&mut poll, 1, STOP_CHECK_MS) } <= 0 {
            continue;
        }
        let Ok(length) = from.read(&mut buffer) else { continue };
        if sender.send((clock::monotonic_ns(), buffer[..length].to_vec())).is_err() {
            return;
        }
    }
}

fn write_packets(
    mut to: File,
    to_server: bool,
    delay: Duration,
    receiver: &mpsc::Receiver<(u64, Vec<u8>)>,
    log: &Mutex<Vec<Passage>>,
) {
    while let Ok((in_ns, packet)) = receiver.recv() {
        clock::pace_until_ns(in_ns + delay.as_nanos() as u64);
        let out_ns = clock::monotonic_ns();
        if to.write_all(&packet).is_ok() {
            let passage = Passage { to_server, in_ns, out_ns, payload: tcp_payload(&packet) };
            log.lock().expect("log of the forwarder").push(passage);
        }
    }
}

/// Bytes of TCP payload in an IPv4 packet (RFC 791 section 3.1, RFC 9293 section 3.1).
fn tcp_payload(packet: &[u8]) -> usize {
    if packet.len() < 40 || packet[0] >> 4 != 4 || packet[9] != 6 {
        return 0;
    }
    let ip_header = usize::from(packet[0] & 15) * 4;
    let data_offset = packet.get(ip_header + 12).map_or(0, |byte| usize::from(byte >> 4) * 4);
    packet.len().saturating_sub(ip_header + data_offset)
}

/// A TUN device in a namespace, up, with an address; it goes with its file.
fn device(namespace: &Namespace, address: &str) -> File {
    let name = format!("tun{}", temp::unique());
    let file = namespace.enter(|| open(&name));
    namespace.ip(&["addr", "add", &format!("{address}/24"), "dev", &name]);
    namespace.ip(&["link", "set", &name, "up"]);
    file
}

fn open(name: &str) -> File {
    let file =
        File::options().read(true).write(true).open("/dev/net/tun").unwrap_or_else(|error| {
            panic!("open /dev/net/tun: {error}; `modprobe tun` provides it where it is a module")
        });
    // struct ifreq: 16 bytes of name, then the flags, 40 bytes in all.
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is large enough for.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(result, 0, "TUNSETIFF {name}: {}", std::io::Error::last_os_error());
    file
}

fn duplicate(file: &File) -> File {
    // SAFETY: a valid descriptor in, a fresh one out that nothing else owns.
    unsafe {
        let fd = libc::dup(file.as_raw_fd());
        assert!(fd >= 0, "dup: {}", std::io::Error::last_os_error());
        File::from(OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::tcp_payload;

    #[test]
    fn payload_is_what_the_headers_leave() {
        let mut packet = vec![0; 20 + 32 + 7];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[20 + 12] = 8 << 4;
        assert_eq!(tcp_payload(&packet), 7);
        packet[9] = 17;
        assert_eq!(tcp_payload(&packet), 0);
        assert_eq!(tcp_payload(&[0x45; 10]), 0);
    }
}
