//! What one request and its response cost the parsers, with allocations. Run: `cargo bench -p agent-protocol`.
//!
//! Target: under 1.5 microseconds per exchange as curl, wrk and nginx write them.

use agent_protocol::{
    detect::detect,
    http1::{Requests, Responses},
    input::Input,
    traceparent,
};
use divan::{AllocProfiler, Bencher, black_box, counter::ItemsCount};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const WRK: &[u8] = b"GET /wrk HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
const CURL: &[u8] = b"GET /orders/42?limit=10&token=x HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/7.88.1\r\n\
    Accept: */*\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
const NGINX: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 18:12:41 GMT\r\n\
    Content-Type: text/html\r\nContent-Length: 13\r\nLast-Modified: Sun, 22 Nov 2026 18:12:39 GMT\r\n\
    Connection: keep-alive\r\nETag: \"6b033097-d\"\r\nAccept-Ranges: bytes\r\n\r\n<p>hello</p>\n";

/// A keep-alive connection's next exchange, `pieces` bytes per call.
fn exchange(bencher: Bencher, request: &[u8], response: &[u8], piece_bytes: usize) {
    let (mut requests, mut responses) = (Requests::default(), Responses::default());
    let (mut sent, mut received) = (Vec::with_capacity(4), Vec::with_capacity(4));
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        for piece in black_box(request).chunks(piece_bytes) {
            requests.feed(Input::Bytes(piece), &mut sent);
        }
        responses.expect("GET");
        for piece in black_box(response).chunks(piece_bytes) {
            responses.feed(Input::Bytes(piece), &mut received);
        }
        assert_eq!((sent.len(), received.len()), (2, 2));
        sent.clear();
        received.clear();
    });
}

#[divan::bench(sample_size = 256)]
fn wrk_to_nginx(bencher: Bencher) {
    exchange(bencher, WRK, NGINX, usize::MAX);
}

#[divan::bench(sample_size = 256)]
fn curl_to_nginx(bencher: Bencher) {
    exchange(bencher, CURL, NGINX, usize::MAX);
}

#[divan::bench(sample_size = 256)]
fn curl_to_nginx_in_pieces_of_16(bencher: Bencher) {
    exchange(bencher, CURL, NGINX, 16);
}

#[divan::bench(sample_size = 256)]
fn large_body_by_gap(bencher: Bencher) {
    let (mut parser, mut events) = (Responses::default(), Vec::with_capacity(4));
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let head = black_box(&b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n"[..]);
        parser.feed(Input::Bytes(head), &mut events);
        parser.feed(Input::Gap(1 << 20), &mut events);
        assert_eq!(events.len(), 2);
        events.clear();
    });
}

#[divan::bench(sample_size = 256)]
fn detection(bencher: Bencher) {
    bencher.bench_local(|| detect(black_box(CURL), black_box(NGINX)));
}

#[divan::bench(sample_size = 256)]
fn trace_parent(bencher: Bencher) {
    let value = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    bencher.bench_local(|| traceparent::parse(black_box(value)));
}
