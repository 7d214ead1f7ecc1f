//! The fuzz targets' checks on stable Rust: over the recorded streams, and over deterministic mutations of them.

use std::{fs, path::Path};

use agent_protocol::fuzzing::{self, Random};

const ITERATIONS: usize = 4000;

fn fixtures() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/http1");
    let entries = fs::read_dir(folder).expect("fixtures/http1").map(|entry| entry.expect("entry").path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|is| is == "txt")).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("stream")).collect()
}

/// One to four of: overwrite a byte, cut a range, repeat a range, put in a range of another stream.
fn mutate(stream: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let start = random.below(stream.len() + 1);
        let end = start + random.below((stream.len() - start).min(64) + 1);
        match random.below(4) {
            0 if start < stream.len() => stream[start] = b"\r\n 0;:/\x00\xff"[random.below(9)],
            1 => drop(stream.drain(start..end)),
            2 => stream.extend_from_within(start..end),
            _ => {
                let from = random.below(other.len());
                let until = from + random.below((other.len() - from).min(64) + 1);
                stream.splice(start..start, other[from..until].iter().copied());
            }
        }
    }
}

fn check(target: fn(&[u8]), seed: u64) {
    let (fixtures, mut random) = (fixtures(), Random::new(seed));
    assert!(fixtures.len() >= 10, "{} recorded streams", fixtures.len());
    fixtures.iter().for_each(|stream| target(stream));
    for _ in 0..ITERATIONS {
        let mut stream = fixtures[random.below(fixtures.len())].clone();
        mutate(&mut stream, &fixtures[random.below(fixtures.len())], &mut random);
        target(&stream);
    }
}

fn check_recorded(text: &str, target: fn(&[u8]), seed: u64) {
    let (messages, mut random) = (fuzzing::recorded(text), Random::new(seed));
    for _ in 0..ITERATIONS {
        let mut message = messages[random.below(messages.len())].1.clone();
        let at = random.below(message.len());
        message[at] = [0, 1, 0x0c, 0x3f, 0x40, 0xc0, 0xff, random.below(256) as u8][random.below(8)];
        if random.below(4) == 0 {
            mutate(&mut message, &messages[random.below(messages.len())].1, &mut random);
        }
        target(&message);
    }
}

#[test]
fn mutated_streams_break_no_promise_of_requests() {
    check(fuzzing::http1_requests, 1);
}

#[test]
fn mutated_streams_break_no_promise_of_responses() {
    check(fuzzing::http1_responses, 2);
}

#[test]
fn mutated_streams_break_no_promise_of_detection() {
    check(fuzzing::detect, 3);
}

#[test]
fn mutated_messages_break_no_promise_of_dns() {
    check_recorded(include_str!("../fixtures/dns/messages.txt"), fuzzing::dns, 5);
}

#[test]
fn mutated_streams_break_no_promise_of_tls() {
    check_recorded(include_str!("../fixtures/tls/streams.txt"), fuzzing::tls, 6);
}

#[test]
fn mutated_values_break_no_promise_of_traceparent() {
    let valid = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut random = Random::new(4);
    for _ in 0..ITERATIONS {
        let mut value = valid.to_vec();
        value[random.below(55)] = b"0123456789abcdefABCDEF-_ g"[random.below(26)];
        if random.below(4) == 0 {
            mutate(&mut value, valid, &mut random);
        }
        fuzzing::traceparent(&value);
    }
}
