//! Sends spans: pre-encoded OTLP/HTTP requests on several connections, one at a time on each.
//!
//! In: where to, and a [`Plan`]. Out: a [`Sent`]. What is refused is sent again, as an SDK does, until the time is over. Runs on threads of the
//! benchmark, whose CPU time is not counted.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use spantap_tests::{
    clock,
    otlp::{self, attribute, attribute_number, fixed64, message, number},
    stats::percentile,
};

/// Spans of a request.
pub const REQUEST_SPANS: u64 = 200;
/// Different requests; more than any compressor looks back over.
const REQUESTS: u64 = 64;
const ANSWER_BOUND: Duration = Duration::from_secs(10);
const RESEND: Duration = Duration::from_millis(20);

/// Requests as they go over the wire.
#[derive(Clone)]
pub struct Requests(Arc<Vec<Request>>);

struct Request {
    bytes: Vec<u8>,
    head_bytes: usize,
}

/// How it is sent.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Each with one request on its way.
    pub connections: u64,
    /// Spans per second of all connections; 0: as fast as they are acknowledged.
    pub rate: u64,
    /// For how long.
    pub length: Duration,
}

/// What was sent.
#[derive(Default)]
pub struct Sent {
    /// Spans that were acknowledged.
    pub spans: u64,
    /// Requests that were sent again.
    pub resent: u64,
    /// Median time from before a request to its acknowledgement.
    pub p50_ns: u64,
    /// Of the same.
    pub p99_ns: u64,
}

impl Requests {
    /// Spans with today's time.
    pub fn new() -> Self {
        let one = |n| {
            let body = request(n * REQUEST_SPANS);
            let bytes = otlp::post(&body);
            Request { head_bytes: bytes.len() - body.len(), bytes }
        };
        Self(Arc::new((0..REQUESTS).map(one).collect()))
    }

    /// Each without its HTTP head.
    pub fn bodies(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.0.iter().map(|request| &request.bytes[request.head_bytes..])
    }

    /// Bytes of a span, on average.
    pub fn span_bytes(&self) -> usize {
        self.bodies().map(<[u8]>::len).sum::<usize>() / (REQUESTS * REQUEST_SPANS) as usize
    }

    /// Sends by plan, to its end.
    pub fn send(&self, to: SocketAddr, plan: Plan) -> Sent {
        let begin = Instant::now();
        let threads: Vec<_> = (0..plan.connections)
            .map(|connection| {
                let requests = self.clone();
                std::thread::spawn(move || requests.send_one(to, plan, connection, begin))
            })
            .collect();
        let (mut sent, mut times) = (Sent::default(), Vec::new());
        for thread in threads {
            let (of_one, resent) = thread.join().expect("a sender");
            sent.spans += of_one.len() as u64 * REQUEST_SPANS;
            sent.resent += resent;
            times.extend(of_one);
        }
        if !times.is_empty() {
            (sent.p50_ns, sent.p99_ns) = (percentile(&times, 0.5), percentile(&times, 0.99));
        }
        sent
    }

    /// How long each acknowledgement took, and how often was sent again.
    fn send_one(&self, to: SocketAddr, plan: Plan, connection: u64, begin: Instant) -> (Vec<u64>, u64) {
        let (mut times, mut resent, mut stream) = (Vec::new(), 0, None);
        for turn in 0.. {
            let place = turn * plan.connections + connection;
            if plan.rate > 0 {
                let due = Duration::from_secs_f64((place * REQUEST_SPANS) as f64 / plan.rate as f64);
                clock::pace(due.saturating_sub(begin.elapsed()));
            }
            let (request, from) = (&self.0[(place % REQUESTS) as usize], Instant::now());
            loop {
                if begin.elapsed() >= plan.length {
                    return (times, resent);
                }
                if matches!(otlp::exchange(&mut stream, to, &request.bytes, ANSWER_BOUND), Ok(Some(200))) {
                    break;
                }
                (resent, stream) = (resent + 1, None);
                clock::pace(RESEND);
            }
            times.push(from.elapsed().as_nanos() as u64);
        }
        (times, resent)
    }
}

fn request(first: u64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    otlp::export_request("checkout", (first..first + REQUEST_SPANS).map(|number| span(number, now)))
}

/// A server's span as SDKs make it, with a query string, a statement and a secret among its ten attributes.
fn span(n: u64, now: u64) -> Vec<u8> {
    let ids = [scattered(2 * n), scattered(2 * n + 1), scattered(n ^ u64::MAX)].map(u64::to_be_bytes);
    let mut span = [message(1, &[ids[0], ids[1]].concat()), message(2, &ids[2])].concat();
    span.extend(message(5, b"GET /orders/{id}"));
    span.extend([number(6, 2), fixed64(7, now), fixed64(8, now + 1_000_000 + n)].concat());
    let attributes = [
        attribute("http.request.method", "GET"),
        attribute("http.route", "/orders/{id}"),
        attribute("url.full", &format!("https://shop.example/orders/{n}?user={}&page=2", n % 977)),
        attribute_number("http.response.status_code", 200),
        attribute("server.address", "shop.example"),
        attribute("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0"),
        attribute("db.query.text", &format!("SELECT * FROM orders WHERE id = {n} AND state = 'open'")),
        attribute("http.request.header.authorization", "Bearer hunter2"),
        attribute("app.customer", &format!("{:016x}", scattered(n % 4096))),
        attribute_number("app.items", n % 17),
    ];
    span.extend(attributes.iter().flat_map(|attribute| message(9, attribute)));
    span
}

/// Spreads numbers over all bits (the finalizer of SplitMix64): samplers look at the last bits of trace ids.
fn scattered(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
