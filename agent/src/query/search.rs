//! Finding spans in the log.
//!
//! In: a request and readers of the log. Out: the spans that match. Called by the server, on threads that may block. Blocks that cannot
//! match by their header or by a byte search are not decoded.
//!
//! Limits: a search with a limit holds that many spans in memory, encoded; one without streams them.

use std::{cmp::Reverse, collections::BinaryHeap};

use prost::Message;

use agent_core::relay::Glob;

use super::api::{AttributeMatch, AttributeValue, Order, SpanView, SpansRequest, address_of, hex};
use crate::{
    log::{Block, LogError, READ_BYTES, READ_SPANS, Reader, SpanLog},
    otlp,
};

/// Whether a span is asked for.
pub fn matches(request: &SpansRequest, span: &SpanView) -> bool {
    let same = |wanted: &str, value: &str| wanted.is_empty() || wanted == value;
    span.end_unix_ns() >= request.since_unix_ns
        && span.duration_ns >= request.min_duration_ns
        && same(&request.service, &span.service)
        && same(&request.kind, &span.kind)
        && same(&request.status, &span.status)
        && same(&request.protocol, &span.protocol)
        && same(&request.cause, span.cause())
        && is_peer(&request.peer, &span.peer)
        && request.attributes.iter().all(|wanted| has(span, wanted))
}

fn has(span: &SpanView, wanted: &AttributeMatch) -> bool {
    let glob = Glob::new(&wanted.glob);
    let is_like = |text: &str| glob.matches(text.as_bytes());
    // These have fields of their own in a view.
    match wanted.key.as_str() {
        "service.name" => return is_like(&span.service),
        "process.pid" => return span.pid != 0 && is_like(&span.pid.to_string()),
        "spantap.protocol" => return is_like(&span.protocol),
        "spantap.status" => return is_like(&span.status),
        _ => {}
    }
    let values = span.attributes.iter().filter(|attribute| attribute.key == wanted.key);
    values.filter_map(|attribute| attribute.value.as_ref()).any(|value| match value {
        AttributeValue::Text(text) => is_like(text),
        AttributeValue::Int(number) => is_like(&number.to_string()),
        AttributeValue::Bool(truth) => is_like(&truth.to_string()),
        AttributeValue::Real(number) => is_like(&number.to_string()),
        AttributeValue::Texts(texts) => texts.values.iter().any(|text| is_like(text)),
    })
}

/// `peer` is `ip:port` or `unix:path`; `wanted` is the same or only the address, with or without the brackets of IPv6.
fn is_peer(wanted: &str, peer: &str) -> bool {
    if wanted.is_empty() || wanted == peer {
        return true;
    }
    let address = address_of(peer);
    wanted == address || wanted == address.trim_start_matches('[').trim_end_matches(']')
}

/// Reads on, and gives the spans that match and stand before the block `until`; `None`: there is no more for now.
///
/// # Errors
/// The log cannot be read.
pub fn next_spans(reader: &mut Reader, request: &SpansRequest, until: u64) -> Result<Option<Vec<SpanView>>, LogError> {
    let read = reader.read(READ_SPANS, READ_BYTES)?;
    if read.blocks.is_empty() {
        return Ok(None);
    }
    let may_match =
        |block: &&Block| block.header.end_unix_ns_max >= request.since_unix_ns && block.header.block < until;
    let wanted = read.blocks.iter().filter(may_match);
    Ok(Some(wanted.flat_map(views).filter(|span| matches(request, span)).collect()))
}

/// The newest or slowest matching spans before the block `until`, up to the request's limit (which must not be 0), in the order
/// in which they are shown.
///
/// # Errors
/// The log cannot be read.
pub fn best(
    log: &SpanLog,
    request: &SpansRequest,
    until: u64,
) -> Result<impl Iterator<Item = SpanView> + use<>, LogError> {
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let is_slowest = request.order == Order::Slowest as i32;
    let mut kept: BinaryHeap<Reverse<(Ranked, Box<[u8]>)>> = BinaryHeap::new();
    for mut reader in log.segments_newest_first(request.since_unix_ns) {
        while let Some(spans) = next_spans(&mut reader, request, until)? {
            for span in spans {
                let rank = if is_slowest { span.duration_ns } else { span.end_unix_ns() };
                let ranked = Ranked { rank, span_id: span_id(&span) };
                let is_full = kept.len() >= limit;
                if is_full && kept.peek().is_some_and(|Reverse((least, _))| ranked <= *least) {
                    continue;
                }
                // Encoded a span is a fraction of what it is decoded.
                kept.push(Reverse((ranked, span.encode_to_vec().into_boxed_slice())));
                if is_full {
                    kept.pop();
                }
            }
        }
        // Older segments hold only spans that were appended earlier.
        if !is_slowest && kept.len() >= limit {
            break;
        }
    }
    // Descending, as the heap holds them reversed.
    let mut ranked = kept.into_sorted_vec();
    if !is_slowest {
        ranked.reverse();
    }
    // What was encoded here decodes.
    Ok(ranked.into_iter().filter_map(|Reverse((_, bytes))| SpanView::decode(&*bytes).ok()))
}

/// Every span whose trace or span id begins with the digits `prefix` (lower-case), in no order.
///
/// # Errors
/// The log cannot be read.
pub fn by_id(log: &SpanLog, prefix: &str) -> Result<Vec<SpanView>, LogError> {
    let Some(needle) = whole_bytes(prefix) else { return Ok(Vec::new()) };
    let finder = memchr::memmem::Finder::new(&needle);
    let mut found = Vec::new();
    for mut reader in log.segments_newest_first(0) {
        loop {
            let read = reader.read(READ_SPANS, READ_BYTES)?;
            if read.blocks.is_empty() {
                break;
            }
            // Ids stand in the protobuf as they are, so that blocks without the bytes need no decoding.
            let candidates = read.blocks.iter().filter(|block| finder.find(&block.payload).is_some());
            let is_it =
                |span: &SpanView| hex(&span.trace_id).starts_with(prefix) || hex(&span.span_id).starts_with(prefix);
            found.extend(candidates.flat_map(views).filter(is_it));
        }
    }
    Ok(found)
}

/// The bytes of the leading whole pairs of digits; `None`: there is something else in it.
fn whole_bytes(digits: &str) -> Option<Vec<u8>> {
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    digits.as_bytes().chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// The spans of a block. Its checksum holds, so that it decodes unless another version wrote it; then it shows nothing.
fn views(block: &Block) -> Vec<SpanView> {
    otlp::decode(&block.payload).unwrap_or_default()
}

/// Equal ranks keep a stable order in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    rank: u64,
    span_id: [u8; 8],
}

fn span_id(span: &SpanView) -> [u8; 8] {
    span.span_id.as_slice().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{
        super::api::{Attribute, Texts},
        *,
    };

    fn check_peer(wanted: &str, peer: &str, expected: bool) {
        assert_eq!(is_peer(wanted, peer), expected, "{wanted:?} against {peer:?}");
    }

    #[test]
    fn a_peer_is_named_with_or_without_its_port() {
        check_peer("", "10.0.0.1:80", true);
        check_peer("10.0.0.1", "10.0.0.1:80", true);
        check_peer("10.0.0.1:80", "10.0.0.1:80", true);
        check_peer("10.0.0.1:8", "10.0.0.1:80", false);
        check_peer("10.0.0", "10.0.0.1:80", false);
        check_peer("::1", "[::1]:80", true);
        check_peer("[::1]", "[::1]:80", true);
        check_peer("[::1]:80", "[::1]:80", true);
        check_peer("/run/a.sock", "unix:/run/a.sock", true);
        check_peer("unix:/run/a.sock", "unix:/run/a.sock", true);
        check_peer("/run/a", "unix:/run/a.sock", false);
        check_peer("unix", "unix:/run/a.sock", false);
    }

    #[test]
    fn attributes_are_matched_whatever_their_kind() {
        let attribute = |key: &str, value| Attribute { key: key.to_owned(), value: Some(value) };
        let texts = Texts { values: vec!["2.1".into(), "latest".into()] };
        let span = SpanView {
            service: "checkout".into(),
            pid: 42,
            attributes: vec![
                attribute("k8s.pod.name", AttributeValue::Text("checkout-7d9f8b6c5d-x2x4z".into())),
                attribute("http.response.status_code", AttributeValue::Int(503)),
                attribute("container.image.tags", AttributeValue::Texts(texts)),
            ],
            ..SpanView::default()
        };
        let check = |key: &str, glob: &str, expected| {
            let wanted = AttributeMatch { key: key.into(), glob: glob.into() };
            assert_eq!(has(&span, &wanted), expected, "{key}={glob}");
        };
        check("k8s.pod.name", "checkout-*", true);
        check("k8s.pod.name", "checkout", false);
        check("http.response.status_code", "5??", true);
        check("container.image.tags", "2.1", true);
        check("container.image.tags", "2.2", false);
        check("service.name", "check*", true);
        check("process.pid", "42", true);
        check("absent", "*", false);
    }

    #[test]
    fn digits_become_the_bytes_to_look_for() {
        assert_eq!(whole_bytes("0aff1"), Some(vec![0x0a, 0xff]));
        assert_eq!(whole_bytes("0g"), None);
        assert_eq!(whole_bytes("é"), None);
    }
}
