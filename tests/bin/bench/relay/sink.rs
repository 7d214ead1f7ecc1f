//! Where relayed spans end: an OTLP/HTTP server that takes everything and counts it, compressed or not.
//!
//! In: connections. Out: spans, requests and bytes so far. Runs on threads of the benchmark, whose CPU time is not counted.

use std::{
    io::{self, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use spantap_tests::otlp;

/// A running sink; its threads end with the program.
pub struct Sink {
    address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    spans: AtomicU64,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Sink {
    /// On a free port.
    pub fn start() -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// On this address.
    pub fn start_on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("bound");
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let counts = Arc::clone(&shared);
                // A connection that a relay breaks off is no failure; spans that are missing are seen in the counts.
                std::thread::spawn(move || counts.serve(stream));
            }
        });
        Self { address, counts }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Spans so far.
    pub fn spans(&self) -> u64 {
        self.counts.spans.load(SeqCst)
    }

    /// Requests, and bytes of their bodies as they came, so far.
    pub fn requests(&self) -> (u64, u64) {
        (self.counts.requests.load(SeqCst), self.counts.bytes.load(SeqCst))
    }
}

impl Counts {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        let (mut body, mut unpacked) = (Vec::new(), Vec::new());
        let answer = otlp::answer(200, "content-type: application/x-protobuf\r\n", b"");
        while let Some(head) = otlp::read_message(&mut reader, &mut body)? {
            let request = match otlp::header(&head, "content-encoding") {
                Some("gzip") => unpack(flate2::read::GzDecoder::new(&body[..]), &mut unpacked)?,
                Some("zstd") => unpack(zstd::Decoder::new(&body[..])?, &mut unpacked)?,
                _ => &body,
            };
            let spans = otlp::count_spans(request).ok_or(io::ErrorKind::InvalidData)?;
            self.spans.fetch_add(spans, SeqCst);
            self.requests.fetch_add(1, SeqCst);
            self.bytes.fetch_add(body.len() as u64, SeqCst);
            reader.get_mut().write_all(&answer)?;
        }
        Ok(())
    }
}

fn unpack(mut from: impl Read, into: &mut Vec<u8>) -> io::Result<&Vec<u8>> {
    into.clear();
    from.read_to_end(into)?;
    Ok(into)
}
