//! A sender that keeps what was not acknowledged and sends it again: what an SDK with a queue does, over OTLP/HTTP.
//!
//! In: a rate and a number of spans. Out: which spans were acknowledged. Spans are numbered (`spantap_tests::numbered`).

use std::{
    io::BufReader,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use spantap_tests::{numbered::request, otlp};

/// Spans of a request.
pub const REQUEST_SPANS: u64 = 100;
/// When an answer counts as lost.
const ANSWER_BOUND: Duration = Duration::from_secs(10);

/// A running sender.
pub struct Sender {
    acknowledged: Arc<AtomicU64>,
    resent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Sends spans 0 to `count` at `rate` per second, each request until it is acknowledged.
    pub fn start(address: SocketAddr, rate: u64, count: u64) -> Self {
        Self::start_with("", address, rate, count)
    }

    /// With these header lines in each request; each line ends with `\r\n`.
    pub fn start_with(headers: &'static str, address: SocketAddr, rate: u64, count: u64) -> Self {
        let (acknowledged, resent, stop) = (Arc::default(), Arc::default(), Arc::default());
        let run = Run {
            acknowledged: Arc::clone(&acknowledged),
            resent: Arc::clone(&resent),
            stop: Arc::clone(&stop),
            address,
            headers,
        };
        let thread = Some(std::thread::spawn(move || run.all(rate, count)));
        Self { acknowledged, resent, stop, thread }
    }

    /// Spans acknowledged so far; all below, since each request waits for the one before.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(SeqCst)
    }

    /// Requests that were sent more than once.
    pub fn resent(&self) -> u64 {
        self.resent.load(SeqCst)
    }

    /// Waits until everything is acknowledged.
    pub fn finish(mut self) -> u64 {
        self.thread.take().expect("it runs").join().expect("no panic");
        self.acknowledged()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Run {
    acknowledged: Arc<AtomicU64>,
    resent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    address: SocketAddr,
    headers: &'static str,
}

impl Run {
    fn all(&self, rate: u64, count: u64) {
        let start = Instant::now();
        let mut connection = None;
        for first in (0..count).step_by(REQUEST_SPANS as usize) {
            let due = start + Duration::from_secs_f64(first as f64 / rate as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let spans = REQUEST_SPANS.min(count - first);
            let request = otlp::post_with(self.headers, &request(first, spans));
            while !self.stop.load(SeqCst) && !self.post(&mut connection, &request) {
                self.resent.fetch_add(1, SeqCst);
                std::thread::sleep(Duration::from_millis(20));
            }
            if self.stop.load(SeqCst) {
                return;
            }
            self.acknowledged.store(first + spans, SeqCst);
        }
    }

    /// Whether the request was acknowledged.
    fn post(&self, connection: &mut Option<BufReader<TcpStream>>, request: &[u8]) -> bool {
        let is_taken = matches!(otlp::exchange(connection, self.address, request, ANSWER_BOUND), Ok(Some(200)));
        if !is_taken {
            *connection = None;
        }
        is_taken
    }
}
