//! What a parser keeps of one connection, as the allocator counts it. One test: others would count as well.

use agent_protocol::{
    http2,
    session::{Event, Forgotten, Input, Parser, Side},
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const BYTES_MAX: usize = 64 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// A connection, and the most that was kept after any of its inputs.
struct Connection {
    parser: Box<dyn Parser>,
    out: Vec<Event>,
    before: usize,
    most: usize,
    forgotten: [usize; 2],
}

impl Connection {
    fn new() -> Self {
        let out = Vec::with_capacity(64);
        let before = MEMORY.current_usage();
        let mut connection = Self { parser: http2::new(), out, before, most: 0, forgotten: [0; 2] };
        connection.feed(Side::Client, PREFACE);
        connection.feed(Side::Server, SETTINGS);
        connection
    }

    fn feed(&mut self, from: Side, bytes: &[u8]) {
        self.parser.feed(from, Input::Bytes(bytes), &mut self.out);
        for (count, what) in self.forgotten.iter_mut().zip([Forgotten::Stream, Forgotten::Body]) {
            *count += self.out.iter().filter(|event| **event == Event::Forgotten(what)).count();
        }
        assert!(!self.out.iter().any(|event| matches!(event, Event::Lost { .. } | Event::NotMine)), "{:?}", self.out);
        assert!(self.out.capacity() <= 64);
        self.out.clear();
        self.most = self.most.max(MEMORY.current_usage() - self.before);
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A literal that enters the table, under a name of the static one.
fn literal(name: u8, value: &str) -> Vec<u8> {
    let mut field = vec![0x40 | name, value.len().min(0x7f) as u8];
    if let Some(mut rest) = value.len().checked_sub(0x7f) {
        while rest >= 128 {
            field.push(0x80 | (rest % 128) as u8);
            rest /= 128;
        }
        field.push(rest as u8);
    }
    field.extend(value.as_bytes());
    field
}

#[test]
fn a_connection_of_http2_keeps_at_most_64_kib_whatever_it_carries() {
    let mut connection = Connection::new();
    let long = |number: u32, length: usize| format!("/{number:0>length$}");
    // Both tables hold as many fields, and as much text, as they may.
    for (from, stream) in [(Side::Client, 1), (Side::Server, 1)] {
        let mut block = if from == Side::Client { b"\x82\x86".to_vec() } else { b"\x88".to_vec() };
        for number in 0..40 {
            block.extend(literal(4, &long(number, 200)));
        }
        block.extend((0..100).flat_map(|_| *b"\x40\x01x\x01y"));
        connection.feed(from, &frame(1, 4, stream, &block));
    }
    // Texts that may repeat, as many and as long as are known at once.
    for number in 0..16 {
        let mut block = b"\x83\x86\x5f\x10application/grpc".to_vec();
        block.extend(literal(4, &format!("/{number:0>54}.Service/{number:0>47}")));
        block.extend(literal(1, &long(number, 111)));
        connection.feed(Side::Client, &frame(1, 4, 5101 + 2 * number, &block));
    }
    // Calls of JSON, none of which ends: more than may be kept, with long heads.
    let mut calls = |first: u32, count: u32, step: usize| {
        for number in 0..count {
            let stream = first + 2 * number;
            let mut block = b"\x83\x86\x5f\x10application/json".to_vec();
            block.extend(literal(4, &format!("{}?{}", long(number, 1500), "name=x&".repeat(80))));
            block.extend(literal(1, &long(number, 400)[1..]));
            block.extend(literal(38, &long(number, 400)[1..]));
            let headers = frame(1, 4, stream, &block);
            let body = format!(r#"{{"operationName":"a","query":"query {} {{ a "#, "b".repeat(60));
            for piece in [headers, frame(0, 0, stream, body.as_bytes())].concat().chunks(step) {
                connection.feed(Side::Client, piece);
            }
        }
    };
    calls(3, 40, usize::MAX);
    calls(83, 20, 700);
    calls(123, 700, usize::MAX);
    // A string of either direction stops in the middle.
    let cut = frame(1, 4, 5001, &literal(4, &long(1, 3000)));
    connection.feed(Side::Client, &cut[..1800]);
    connection.feed(Side::Client, &cut[1800..2900]);
    let Connection { most, forgotten: [streams, bodies], .. } = connection;
    assert!((BYTES_MAX / 2..=BYTES_MAX).contains(&most), "{most} bytes");
    assert!(streams > 100 && bodies > 500, "{streams} streams and {bodies} bodies were forgotten");
}
