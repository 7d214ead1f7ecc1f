//! What a request and its response cost the parser of HTTP/2 and gRPC, with allocations, as real clients and servers write them.
//! Run: `cargo bench -p agent-protocol --bench http2`.
//!
//! Target: under 2 microseconds per HEADERS frame.

use agent_protocol::{
    http2,
    session::{Input, Parser, Side},
};
use divan::{AllocProfiler, Bencher, black_box, counter::ItemsCount};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// The pieces of a recording that a side sent, without what begins the connection.
fn recorded(recording: &str, mark: &str) -> Vec<u8> {
    let digits: String = recording.lines().filter_map(|line| line.strip_prefix(mark)).collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The frames of a direction, each with its type, flags and stream.
fn frames(bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let (mut frames, mut rest) = (Vec::new(), bytes.strip_prefix(&PREFACE[..24]).unwrap_or(bytes));
    while let [a, b, c, kind, flags, stream @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let stream = u32::from_be_bytes(stream[..4].try_into().expect("four bytes"));
        frames.push((*kind, *flags, stream, rest[9..9 + length].to_vec()));
        rest = &rest[9 + length..];
    }
    frames
}

/// Each iteration: one more exchange of a connection, as the last of the recording's, on a new stream.
fn exchange(bencher: Bencher, recording: &str, stream: u32) {
    let own =
        |mark| frames(&recorded(recording, mark)).into_iter().filter(move |frame| frame.2 == stream && frame.0 < 2);
    let mut parser = http2::new();
    let mut events = Vec::with_capacity(8);
    let mut feed = |parser: &mut Box<dyn Parser>, side, bytes: &[u8]| {
        parser.feed(side, Input::Bytes(bytes), &mut events);
        let said = events.len();
        events.clear();
        said
    };
    for (side, mark, begin) in [(Side::Client, "> ", PREFACE), (Side::Server, "< ", SETTINGS)] {
        feed(&mut parser, side, begin);
        // What came before fills the table of fields.
        for (kind, flags, id, payload) in frames(&recorded(recording, mark)) {
            if kind < 2 && id < stream {
                feed(&mut parser, side, &bytes_of(kind, flags, id, &payload));
            }
        }
    }
    let mut id = stream;
    let calls: [Vec<u8>; 2] = ["> ", "< "]
        .map(|mark| own(mark).flat_map(|(kind, flags, id, payload)| bytes_of(kind, flags, id, &payload)).collect());
    let places = calls.each_ref().map(|call| {
        let lengths = frames(call).into_iter().map(|frame| 9 + frame.3.len());
        lengths.scan(0, |at, length| Some(std::mem::replace(at, *at + length) + 5)).collect::<Vec<_>>()
    });
    let [mut request, mut response] = calls;
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        places[0].iter().for_each(|at| request[*at..*at + 4].copy_from_slice(&id.to_be_bytes()));
        places[1].iter().for_each(|at| response[*at..*at + 4].copy_from_slice(&id.to_be_bytes()));
        id = if id > 1 << 30 { stream } else { id + 2 };
        let said = feed(&mut parser, Side::Client, black_box(&request));
        assert!(said > 0 && feed(&mut parser, Side::Server, black_box(&response)) > 0);
    });
}

fn bytes_of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The first request of curl: all fields are literals; with trace context and a query.
#[divan::bench(sample_size = 128)]
fn curl_to_nghttpd_first(bencher: Bencher) {
    exchange(bencher, include_str!("../fixtures/http2/curl-nghttpd.session"), 1);
}

/// A later request: everything is in the table.
#[divan::bench(sample_size = 128)]
fn h2load_to_nghttpd(bencher: Bencher) {
    exchange(bencher, include_str!("../fixtures/http2/h2load-nghttpd.session"), 21);
}

#[divan::bench(sample_size = 128)]
fn go_to_go(bencher: Bencher) {
    exchange(bencher, include_str!("../fixtures/http2/go-go.session"), 11);
}

/// Two HEADERS of the server, and a message each way.
#[divan::bench(sample_size = 128)]
fn grpcio_unary(bencher: Bencher) {
    exchange(bencher, include_str!("../fixtures/http2/grpcio-unary.session"), 3);
}

#[divan::bench(sample_size = 128)]
fn large_body_by_gaps(bencher: Bencher) {
    let mut parser = http2::new();
    let mut events = Vec::with_capacity(8);
    parser.feed(Side::Server, Input::Bytes(SETTINGS), &mut events);
    bencher.counter(ItemsCount::new(64_usize)).bench_local(|| {
        for _ in 0..64 {
            parser.feed(Side::Server, Input::Bytes(black_box(b"\0\x40\0\0\0\0\0\0\x01")), &mut events);
            parser.feed(Side::Server, Input::Gap(1 << 14), &mut events);
        }
        assert!(events.is_empty());
    });
}
