//! A destination that counts what it takes and fails as it is told: OTLP/HTTP over TCP, one thread per connection, or OTLP/gRPC.
//!
//! In: a [`Behaviour`]. Out: how often each numbered span was taken. A span counts when the answer that says so begins.

mod grpc;

pub use grpc::RUNTIME;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use spantap_tests::{
    numbered::{find, numbers},
    otlp,
};

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// 200.
    Take,
    /// This status with these header lines; each `\r\n` at its end.
    Refuse { status: u16, headers: String },
    /// 429 or RESOURCE_EXHAUSTED, with the time to wait as `Retry-After` or RetryInfo.
    Exhausted(Option<Duration>),
    /// 400 or INVALID_ARGUMENT if one of these spans is in it, else 200.
    Poison(Vec<u64>),
    /// 200 with so many rejected spans.
    Partial(u8),
    /// Nothing, for as long as the connection lives.
    Hang,
    /// Half an answer, then the end of the connection; of gRPC, of the stream.
    Break,
    /// Half an answer, then a reset of the connection (TCP's RST).
    Reset,
    /// 200 after this.
    Slow(Duration),
    /// 401 unless this token comes.
    Token(String),
}

/// A running sink.
pub struct Sink {
    scheme: &'static str,
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A behaviour, how many requests met it, and when the first did.
struct Current {
    behaviour: Behaviour,
    met: u64,
    first: Option<Instant>,
}

struct Shared {
    current: Mutex<Current>,
    taken: Mutex<BTreeMap<u64, u32>>,
    /// Bytes that a redacted value stood in.
    leaks: AtomicU64,
    requests: AtomicU64,
    is_open: AtomicBool,
    stop: AtomicBool,
}

impl Sink {
    /// OTLP/HTTP on a free port.
    pub fn start(behaviour: Behaviour) -> Self {
        Self::listen("otlp+http", behaviour, |stream, shared| {
            std::thread::spawn(move || shared.serve(stream));
        })
    }

    /// OTLP/gRPC on a free port.
    pub fn start_grpc(behaviour: Behaviour) -> Self {
        Self::listen("otlp+grpc", behaviour, grpc::serve)
    }

    fn listen(scheme: &'static str, behaviour: Behaviour, serve: fn(TcpStream, Arc<Shared>)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            current: Mutex::new(Current::new(behaviour)),
            taken: Mutex::default(),
            leaks: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            is_open: AtomicBool::new(true),
            stop: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if accepting.stop.load(SeqCst) {
                    return;
                }
                serve(stream, Arc::clone(&accepting));
            }
        });
        Self { scheme, address, shared, thread: Some(thread) }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it answers from now on.
    pub fn set(&self, behaviour: Behaviour) {
        *self.shared.current() = Current::new(behaviour);
    }

    /// Requests that met what was set last.
    pub fn met(&self) -> u64 {
        self.shared.current().met
    }

    /// When the first of them came.
    pub fn first_met(&self) -> Option<Instant> {
        self.shared.current().first
    }

    /// Whether connections are served from now on; else they are closed at once, also those that are there.
    pub fn open(&self, is_open: bool) {
        self.shared.is_open.store(is_open, SeqCst);
    }

    /// Different spans taken, and how many were taken more than once.
    pub fn taken(&self) -> (u64, u64) {
        let taken = self.shared.taken.lock().expect("no panic");
        (taken.len() as u64, taken.values().map(|times| u64::from(*times - 1)).sum())
    }

    /// The first few of `0..count` that were never taken.
    pub fn missing(&self, count: u64) -> Vec<u64> {
        let taken = self.shared.taken.lock().expect("no panic");
        (0..count).filter(|number| !taken.contains_key(number)).take(10).collect()
    }

    /// How often each was taken; by trace, where several spans are of one.
    pub fn times(&self) -> BTreeMap<u64, u32> {
        self.shared.taken.lock().expect("no panic").clone()
    }

    /// The spans that were taken.
    pub fn numbers(&self) -> Vec<u64> {
        self.shared.taken.lock().expect("no panic").keys().copied().collect()
    }

    /// Requests answered.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(SeqCst)
    }

    /// Requests in which a value stood that should have been redacted.
    pub fn leaks(&self) -> u64 {
        self.shared.leaks.load(SeqCst)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.is_open.store(false, SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Current {
    fn new(behaviour: Behaviour) -> Self {
        Self { behaviour, met: 0, first: None }
    }
}

impl Shared {
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().expect("no panic")
    }

    fn serve(&self, mut stream: TcpStream) {
        // So that a thread notices when the sink closes.
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket");
        let (mut bytes, mut whole) = (Vec::new(), 0);
        while self.is_open.load(SeqCst) {
            let mut buffer = [0; 64 << 10];
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => return,
            }
            let (mut rest, mut body) = (&bytes[..], Vec::new());
            // An error: it is not whole yet.
            while let Ok(Some(head)) = otlp::read_message(&mut rest, &mut body) {
                if !self.is_open.load(SeqCst) || self.answer(&mut stream, &head, &body).is_err() {
                    return;
                }
                whole = bytes.len() - rest.len();
            }
            bytes.drain(..std::mem::take(&mut whole));
        }
    }

    fn answer(&self, stream: &mut TcpStream, head: &str, body: &[u8]) -> std::io::Result<()> {
        let numbers = self.note(body);
        let behaviour = self.behaviour();
        let ok = |body: &[u8]| otlp::answer(200, "content-type: application/x-protobuf\r\n", body);
        let (bytes, is_taken) = match behaviour {
            Behaviour::Take => (ok(b""), true),
            Behaviour::Refuse { status, headers } => (otlp::answer(status, &headers, b""), false),
            Behaviour::Exhausted(after) => {
                let headers = after.map(|after| format!("retry-after: {}\r\n", after.as_secs())).unwrap_or_default();
                (otlp::answer(429, &headers, b""), false)
            }
            Behaviour::Poison(poison) if numbers.iter().any(|number| poison.contains(number)) => {
                (otlp::answer(400, "", b"poison"), false)
            }
            Behaviour::Poison(_) => (ok(b""), true),
            // ExportTraceServiceResponse { partial_success: { rejected_spans } }
            Behaviour::Partial(rejected) => (ok(&[0x0a, 2, 0x08, rejected]), true),
            Behaviour::Hang => {
                while self.hangs() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            // Taken, and the answer that says so does not arrive.
            Behaviour::Break => {
                self.take(numbers);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le")?;
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            Behaviour::Reset => {
                self.take(numbers);
                reset_at_the_end(stream)?;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\x0a")?;
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            Behaviour::Slow(wait) => {
                std::thread::sleep(wait);
                (ok(b""), true)
            }
            Behaviour::Token(token) if head.contains(&format!("authorization: bearer {token}\r\n")) => (ok(b""), true),
            Behaviour::Token(_) => (otlp::answer(401, "", b"expired"), false),
        };
        if is_taken {
            self.take(numbers);
        }
        stream.write_all(&bytes)
    }

    /// Counts the request; gives the numbers of its spans.
    fn note(&self, body: &[u8]) -> Vec<u64> {
        self.requests.fetch_add(1, SeqCst);
        self.leaks.fetch_add(find(body, b"hunter2").is_some().into(), SeqCst);
        numbers(body)
    }

    /// What a request meets now.
    fn behaviour(&self) -> Behaviour {
        let mut current = self.current();
        current.met += 1;
        current.first.get_or_insert_with(Instant::now);
        current.behaviour.clone()
    }

    fn hangs(&self) -> bool {
        self.is_open.load(SeqCst) && self.current().behaviour == Behaviour::Hang
    }

    fn take(&self, numbers: Vec<u64>) {
        let mut taken = self.taken.lock().expect("no panic");
        numbers.into_iter().for_each(|number| *taken.entry(number).or_default() += 1);
    }
}

/// Closing the connection resets it, whatever is still to be sent.
fn reset_at_the_end(stream: &TcpStream) -> std::io::Result<()> {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))
}
