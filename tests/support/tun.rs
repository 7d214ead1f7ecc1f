//! A path with a known delay: two TUN devices, one in each of two namespaces, and a forwarder between them.
//!
//! In: two namespaces and a delay for each way, more for some kinds of packets. Out: a link 10.98.0.1 (client side) to
//! 10.98.0.2 (server side), and a log of what the forwarder really did to each packet: the truth about `network`, and about
//! when a byte left. Packets are delayed as they are, so TCP's acknowledgements travel too; a TCP proxy would answer them
//! itself. Packets with the same delay keep their order. The forwarder runs before other work, so that its delays are its own.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
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

use crate::{clock, namespace::Namespace, realtime, temp};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TUN: i16 = 0x0001;
const IFF_NO_PI: i16 = 0x1000;
const STOP_CHECK_MS: i32 = 50;
/// Below that of a hog that wants to be first.
const REALTIME_PRIORITY: i32 = 5;

/// Address of the client side.
pub const CLIENT: &str = "10.98.0.1";
/// Address of the server side.
pub const SERVER: &str = "10.98.0.2";

/// How long packets take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delays {
    /// From client to server.
    pub to_server: Duration,
    /// From server to client.
    pub to_client: Duration,
    /// More for each packet with SYN.
    pub syn_more: Duration,
    /// More for each packet from the server whose payload begins with a TLS handshake record.
    pub tls_more: Duration,
}

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
    /// The client's TCP port; zero for what is not TCP.
    pub client_port: u16,
}

/// A running forwarder.
pub struct Tun {
    /// Name of the client side's device.
    pub client_device: String,
    /// Name of the server side's device.
    pub server_device: String,
    log: Arc<Mutex<Vec<Passage>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Tun {
    /// Joins two namespaces, with a delay each way.
    pub fn join(client: &Namespace, server: &Namespace, to_server: Duration, to_client: Duration) -> Self {
        Self::join_with(client, server, Delays { to_server, to_client, ..Delays::default() })
    }

    /// Joins two namespaces, with these delays.
    pub fn join_with(client: &Namespace, server: &Namespace, delays: Delays) -> Self {
        let (near_name, far_name) = (format!("tun{}", temp::unique()), format!("tun{}", temp::unique()));
        let (near, far) = (device(client, &near_name, CLIENT), device(server, &far_name, SERVER));
        let (near_copy, far_copy) = (duplicate(&near), duplicate(&far));
        let mut tun = Self {
            client_device: near_name,
            server_device: far_name,
            log: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        tun.carry(true, near, far, delays);
        tun.carry(false, far_copy, near_copy, delays);
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

    fn carry(&mut self, to_server: bool, from: File, to: File, delays: Delays) {
        let (sender, receiver) = mpsc::channel();
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || read_packets(from, &stop, &sender)));
        let log = Arc::clone(&self.log);
        self.threads.push(std::thread::spawn(move || write_packets(to, to_server, &delays, &receiver, &log)));
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
    realtime::take(REALTIME_PRIORITY);
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

/// A packet on its way: when it is due, its number, when it came.
type Queued = Reverse<(u64, u64, u64, Vec<u8>)>;

fn write_packets(
    mut to: File,
    to_server: bool,
    delays: &Delays,
    receiver: &mpsc::Receiver<(u64, Vec<u8>)>,
    log: &Mutex<Vec<Passage>>,
) {
    realtime::take(REALTIME_PRIORITY);
    let mut queue: BinaryHeap<Queued> = BinaryHeap::new();
    for number in 0.. {
        let due = queue.peek().map_or(u64::MAX, |Reverse((due, ..))| *due);
        let left = due.saturating_sub(clock::monotonic_ns());
        if left == 0 {
            let Some(Reverse((_, _, in_ns, packet))) = queue.pop() else { continue };
            let out_ns = clock::monotonic_ns();
            if to.write_all(&packet).is_ok() {
                let header = Header::of(&packet).unwrap_or_default();
                let client_port = if to_server { header.source } else { header.destination };
                let passage = Passage { to_server, in_ns, out_ns, payload: header.payload, client_port };
                log.lock().expect("log of the forwarder").push(passage);
            }
            continue;
        }
        match receiver.recv_timeout(Duration::from_nanos(left.min(1_000_000_000))) {
            Ok((in_ns, packet)) => {
                let due = in_ns + delays.of(to_server, &packet).as_nanos() as u64;
                queue.push(Reverse((due, number, in_ns, packet)));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Delays {
    fn of(&self, to_server: bool, packet: &[u8]) -> Duration {
        let usual = if to_server { self.to_server } else { self.to_client };
        let header = Header::of(packet).unwrap_or_default();
        let syn = if header.syn { self.syn_more } else { Duration::ZERO };
        let tls = if header.tls_handshake && !to_server { self.tls_more } else { Duration::ZERO };
        usual + syn + tls
    }
}

/// What the forwarder reads of a TCP segment in an IPv4 packet (RFC 791 section 3.1, RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    source: u16,
    destination: u16,
    payload: usize,
    syn: bool,
    /// The payload begins with a record of type handshake (RFC 8446 section 5.1).
    tls_handshake: bool,
}

impl Header {
    fn of(packet: &[u8]) -> Option<Self> {
        if packet.len() < 40 || packet[0] >> 4 != 4 || packet[9] != 6 {
            return None;
        }
        let tcp = packet.get(usize::from(packet[0] & 15) * 4..)?;
        let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
        let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..).unwrap_or_default();
        Some(Self {
            source: port(0)?,
            destination: port(2)?,
            payload: payload.len(),
            syn: tcp.get(13)? & 2 != 0,
            tls_handshake: payload.first() == Some(&22),
        })
    }
}

/// A TUN device in a namespace, up, with an address; it goes with its file.
fn device(namespace: &Namespace, name: &str, address: &str) -> File {
    let file = namespace.enter(|| open(name));
    namespace.ip(&["addr", "add", &format!("{address}/24"), "dev", name]);
    // Nothing is dropped because the forwarder has not come to it yet.
    namespace.ip(&["link", "set", name, "txqueuelen", "100000", "up"]);
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
    use super::Header;

    #[test]
    fn a_segment_is_read_from_its_headers() {
        let mut packet = vec![0; 20 + 32 + 7];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[20..24].copy_from_slice(&[1, 2, 3, 4]);
        packet[20 + 12] = 8 << 4;
        packet[20 + 13] = 2;
        packet[20 + 32] = 22;
        let header = Header { source: 0x102, destination: 0x304, payload: 7, syn: true, tls_handshake: true };
        assert_eq!(Header::of(&packet), Some(header));
        packet[9] = 17;
        assert_eq!(Header::of(&packet), None);
        assert_eq!(Header::of(&[0x45; 10]), None);
    }

    #[test]
    fn headers_that_claim_too_much_are_harmless() {
        let mut packet = [0xff_u8; 60];
        packet[0] = 0x4f;
        packet[9] = 6;
        assert_eq!(Header::of(&packet), None);
        packet[0] = 0x45;
        assert_eq!(Header::of(&packet).map(|header| header.payload), Some(0));
    }
}
