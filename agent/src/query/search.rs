//! Finding spans in the log.
//!
//! In: a request and readers of the log. Out: the spans that match. Called by the server, on threads that may block. Blocks that cannot
//! match by their header are not looked into, and what else need not be decoded is not (see [`super::scan`]).
//!
//! Limits: a search with a limit holds that many spans in memory, encoded, and the facts of their processes; one without streams them.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use agent_core::{relay::Glob, wire};

use super::{
    api::{AttributeMatch, AttributeValue, Order, SpanView, SpansRequest, address_of, hex},
    scan::{Hit, Scan, end_unix_ns},
};
use crate::{
    log::{Block, LogError, READ_BYTES, READ_SPANS, Reader, SpanLog},
    otlp::SELECTED,
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
        && !(request.selected_only && span.attribute(SELECTED) == Some(&AttributeValue::Bool(false)))
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
    let Some(blocks) = next_blocks(reader, request, until)? else { return Ok(None) };
    let scan = Scan::new(request);
    let mut views = Vec::new();
    for block in blocks {
        let mut spans = scan.block(&block.payload);
        while let Some(span) = spans.next() {
            views.extend(spans.hit(&span).and_then(|hit| hit.view()));
        }
    }
    Ok(Some(views))
}

/// Reads on, and gives the blocks that may match by their headers and stand before `until`; `None`: there is no more for now.
pub(super) fn next_blocks(
    reader: &mut Reader,
    request: &SpansRequest,
    until: u64,
) -> Result<Option<Vec<Block>>, LogError> {
    let mut blocks = reader.read(READ_SPANS, READ_BYTES)?.blocks;
    if blocks.is_empty() {
        return Ok(None);
    }
    blocks.retain(|Block { header, .. }| header.end_unix_ns_max >= request.since_unix_ns && header.block < until);
    Ok(Some(blocks))
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
    let scan = Scan::new(request);
    let mut kept: BinaryHeap<Reverse<Kept>> = BinaryHeap::new();
    for mut reader in log.segments_newest_first(request.since_unix_ns) {
        while let Some(blocks) = next_blocks(&mut reader, request, until)? {
            for block in blocks {
                let mut spans = scan.block(&block.payload);
                while let Some(span) = spans.next() {
                    let ranked = Ranked::of(&span, is_slowest);
                    let is_full = kept.len() >= limit;
                    if is_full && kept.peek().is_some_and(|Reverse(least)| ranked <= least.ranked) {
                        continue;
                    }
                    let Some(hit) = spans.hit(&span) else { continue };
                    kept.push(Reverse(Kept { ranked, hit }));
                    if is_full {
                        kept.pop();
                    }
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
    Ok(ranked.into_iter().filter_map(|Reverse(kept)| kept.hit.view()))
}

/// Every span whose trace or span id begins with the digits `prefix` (lower-case), in no order.
///
/// # Errors
/// The log cannot be read.
pub fn by_id(log: &SpanLog, prefix: &str) -> Result<Vec<SpanView>, LogError> {
    let Some(needle) = whole_bytes(prefix) else { return Ok(Vec::new()) };
    let finder = memchr::memmem::Finder::new(&needle);
    let request = SpansRequest::default();
    let scan = Scan::new(&request);
    let is_it = |id: &[u8]| id.starts_with(&needle) && hex(id).starts_with(prefix);
    let mut found = Vec::new();
    for mut reader in log.segments_newest_first(0) {
        while let Some(blocks) = next_blocks(&mut reader, &request, u64::MAX)? {
            // Ids stand in the protobuf as they are, so that blocks without the bytes need not be looked into.
            for block in blocks.iter().filter(|block| finder.find(&block.payload).is_some()) {
                let mut spans = scan.block(&block.payload);
                while let Some(span) = spans.next() {
                    if is_it(span.trace_id) || is_it(span.span_id) {
                        found.extend(spans.hit(&span).and_then(|hit| hit.view()));
                    }
                }
            }
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

/// A span that is among the best so far. Ordered by its rank alone.
struct Kept {
    ranked: Ranked,
    hit: Hit,
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.ranked == other.ranked
    }
}

impl Eq for Kept {}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> Ordering {
        self.ranked.cmp(&other.ranked)
    }
}

/// Equal ranks keep a stable order in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    rank: u64,
    span_id: [u8; 8],
}

impl Ranked {
    fn of(span: &wire::SpanView<'_>, is_slowest: bool) -> Self {
        let rank = if is_slowest { span.duration_ns() } else { end_unix_ns(span) };
        Self { rank, span_id: span.span_id.try_into().unwrap_or_default() }
    }
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
