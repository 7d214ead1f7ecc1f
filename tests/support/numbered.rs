//! Numbered spans: the number is the second half of the trace id, behind [`MAGIC`], so that a sink finds it in whatever bytes arrive.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::otlp::{self, attribute, export_request, fixed64, message};

/// First half of every trace id.
pub const MAGIC: [u8; 8] = *b"\xc3\x9aspanta";

/// An `ExportTraceServiceRequest` with these spans, each with ten attributes, one of them sensitive.
pub fn request(first: u64, count: u64) -> Vec<u8> {
    let now = now_unix_ns();
    export_request("checkout", (first..first + count).map(|number| span(number, now)))
}

fn span(number: u64, now: u64) -> Vec<u8> {
    let mut span = message(1, &[MAGIC, number.to_be_bytes()].concat());
    span.extend(message(2, &(number + 1).to_be_bytes()));
    span.extend(message(5, format!("GET /orders/{}", number % 50).as_bytes()));
    span.extend(otlp::number(6, 2));
    span.extend(fixed64(7, now));
    span.extend(fixed64(8, now + 1_000_000));
    for index in 0..9 {
        span.extend(message(9, &attribute(&format!("app.key.{index}"), &format!("value {index} of {number}"))));
    }
    span.extend(message(9, &attribute("http.request.header.authorization", "Bearer hunter2")));
    span
}

/// A span with no more than it needs, that ends now.
pub fn bare(number: u64, span_id: u64, is_error: bool) -> Vec<u8> {
    let now = now_unix_ns();
    let mut span = with_ids(number, span_id);
    span.extend([fixed64(7, now - 1_000_000), fixed64(8, now)].concat());
    if is_error {
        span.extend(message(15, &otlp::number(3, 2)));
    }
    span
}

/// A span as [`bare`] makes it that ends before it begins.
pub fn backwards(number: u64, span_id: u64) -> Vec<u8> {
    let now = now_unix_ns();
    [&with_ids(number, span_id)[..], &fixed64(7, now), &fixed64(8, now - 1_000_000)].concat()
}

/// The number of a span among `count`, by which sampling keeps exactly as many of these as its ratio says: the second half of a trace
/// id without its first byte is what it goes by.
pub fn even(index: u64, count: u64) -> u64 {
    assert!(index < count && count.is_power_of_two(), "{index} of {count}");
    index * ((1 << 56) / count)
}

fn with_ids(number: u64, span_id: u64) -> Vec<u8> {
    let mut span = message(1, &[MAGIC, number.to_be_bytes()].concat());
    span.extend(message(2, &span_id.to_be_bytes()));
    span.extend(message(5, b"GET /"));
    span
}

fn now_unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64
}

/// The numbers of the spans in these bytes, in their order.
pub fn numbers(body: &[u8]) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut rest = body;
    while let Some(at) = find(rest, &MAGIC) {
        let Some(number) = rest[at + 8..].first_chunk() else { break };
        numbers.push(u64::from_be_bytes(*number));
        rest = &rest[at + 16..];
    }
    numbers
}

/// Where `needle` first is.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_a_request() {
        assert_eq!(numbers(&request(7, 3)), [7, 8, 9]);
        assert_eq!(numbers(b"none"), [0; 0]);
    }
}
