//! Which spans of a block are asked for, with as little decoding as can be.
//!
//! In: a request and the bytes of a block. Out: the spans that match, still encoded. Called by [`super::search`] and [`super::groups`]. A block without the
//! texts that a match must have is passed over by a byte search; of the others a span's own fields are read in place, the process's facts
//! decoded once for all of its spans, and a span only if a filter looks into its attributes and the texts for that are in it.
//!
//! Never: takes a span that [`matches`] would not, or passes over one that it would. A span whose bytes this version cannot decode shows nothing.

use std::net::{Ipv4Addr, SocketAddrV4};

use agent_core::{
    relay::Glob,
    wire::{self, Attribute, StatusCode, Value},
};
use memchr::memmem::Finder;

use super::{
    api::{AttributeMatch, SpanView, SpansRequest},
    search::matches,
};
use crate::otlp::{self, Common, SELECTED};

/// What is looked for.
pub(super) struct Scan<'a> {
    request: &'a SpansRequest,
    /// Texts that stand in every block with a match, and in every span that matches.
    in_block: Vec<Finder<'a>>,
    in_span: Vec<Finder<'a>>,
    /// Whether what matches shows only when the span is decoded.
    needs_view: bool,
}

/// A span that matches.
#[derive(Debug)]
pub(super) struct Hit {
    pub common: Common,
    /// As it stands.
    pub span: Box<[u8]>,
}

impl Hit {
    /// Decoded; nothing if another version wrote it in a way that this one does not read.
    pub fn view(&self) -> Option<SpanView> {
        self.common.view(&self.span).ok()
    }
}

impl<'a> Scan<'a> {
    pub fn new(request: &'a SpansRequest) -> Self {
        let peer = ipv4_of(&request.peer);
        // These are written as they are asked for.
        let texts = [request.protocol.as_str(), &request.cause, peer];
        let in_span: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        // Of what may also be the process's, the key; what a view has a field for may be asked for by another name than it is written.
        let keys = request.attributes.iter().map(|wanted| wanted.key.as_str()).filter(|key| !has_own_field(key));
        let in_block = keys.chain([request.service.as_str()]).filter(|text| !text.is_empty());
        let needs_view = !in_span.is_empty()
            || !request.peer.is_empty()
            || !request.attributes.is_empty()
            || !matches!(request.status.as_str(), "" | "error");
        Self {
            request,
            in_block: in_span.iter().copied().chain(in_block).map(Finder::new).collect(),
            in_span: in_span.into_iter().map(Finder::new).collect(),
            needs_view,
        }
    }

    /// The spans of a block, of which some may match.
    pub fn block<'b>(&'b self, payload: &'b [u8]) -> Spans<'b> {
        let has_all = self.in_block.iter().all(|finder| finder.find(payload).is_some());
        Spans { scan: self, spans: wire::spans(if has_all { payload } else { &[] }), common: None }
    }

    fn matches_own(&self, span: &wire::SpanView<'_>) -> bool {
        let request = self.request;
        end_unix_ns(span) >= request.since_unix_ns
            && span.duration_ns() >= request.min_duration_ns
            && (request.kind.is_empty() || request.kind == otlp::kind_name(span.kind))
            && (request.status.is_empty() || (request.status == "error") == (span.status == StatusCode::Error))
    }
}

/// The end as a view has it.
pub(super) fn end_unix_ns(span: &wire::SpanView<'_>) -> u64 {
    span.start_unix_ns.saturating_add(span.duration_ns())
}

/// The spans of a block whose own fields match.
pub(super) struct Spans<'b> {
    scan: &'b Scan<'b>,
    spans: wire::Spans<'b>,
    /// Of the process of the last span; nothing in it if it is none that is asked for.
    common: Option<(usize, Option<Common>)>,
}

impl<'b> Spans<'b> {
    /// The span that came last, if all of it matches.
    pub fn hit(&mut self, span: &wire::SpanView<'b>) -> Option<Hit> {
        let common = self.process_of(span)?;
        Some(Hit { common, span: span.encoded().into() })
    }

    /// The facts of its process, if all of the span that came last matches.
    pub fn process_of(&mut self, span: &wire::SpanView<'b>) -> Option<Common> {
        let common = self.common()?;
        if self.scan.request.selected_only && is_unselected(span) {
            return None;
        }
        if !self.scan.needs_view {
            return Some(common);
        }
        let encoded = span.encoded();
        let may_match = self.scan.in_span.iter().all(|finder| finder.find(encoded).is_some())
            && self.scan.request.attributes.iter().all(|wanted| may_have(span, &common, wanted));
        (may_match && matches(self.scan.request, &common.view(encoded).ok()?)).then_some(common)
    }

    fn common(&mut self) -> Option<Common> {
        let place = self.spans.resource_place();
        if self.common.as_ref().is_none_or(|(known, _)| *known != place) {
            let common = self.spans.resource_encoded().ok().and_then(|bytes| Common::decode(&bytes).ok());
            let wanted = &self.scan.request.service;
            let common = common.filter(|common| wanted.is_empty() || common.service() == *wanted);
            self.common = Some((place, common));
        }
        self.common.as_ref()?.1.clone()
    }
}

impl<'b> Iterator for Spans<'b> {
    type Item = wire::SpanView<'b>;

    fn next(&mut self) -> Option<wire::SpanView<'b>> {
        // Its checksum holds, so that a block that cannot be read was written by another version: the rest shows nothing.
        self.spans.by_ref().map_while(Result::ok).find(|span| self.scan.matches_own(span))
    }
}

fn is_unselected(span: &wire::SpanView<'_>) -> bool {
    let is_it = |key: &[u8]| key == SELECTED.as_bytes();
    span.attributes().of_keys(is_it).any(|it| matches!(it, Ok(Attribute { value: Value::Bool(false), .. })))
}

/// Whether the span or its process may have the attribute: `false` only if it has not.
fn may_have(span: &wire::SpanView<'_>, common: &Common, wanted: &AttributeMatch) -> bool {
    let glob = Glob::new(&wanted.glob);
    let is_like = |text: &str| glob.matches(text.as_bytes());
    if has_own_field(&wanted.key) || common.may_have(&wanted.key, is_like) {
        return true;
    }
    span.attributes().of_keys(|key| key == wanted.key.as_bytes()).any(|attribute| match attribute {
        Ok(Attribute { value: Value::Text(text), .. }) => glob.matches(text),
        Ok(Attribute { value: Value::Int(number), .. }) => is_like(&number.to_string()),
        Ok(Attribute { value: Value::Bool(truth), .. }) => is_like(&truth.to_string()),
        Ok(Attribute { value: Value::Empty, .. }) => false,
        // What is rare, or unreadable, is decoded.
        Ok(_) | Err(_) => true,
    })
}

/// Whether an attribute is asked for that is a field of a view, and may be written otherwise.
fn has_own_field(key: &str) -> bool {
    matches!(key, "service.name" | "process.pid" | "spantap.protocol" | "spantap.status")
}

/// The address of an IPv4 peer, which is written in one way only; empty for all others.
fn ipv4_of(peer: &str) -> &str {
    let address = peer.split_once(':').filter(|_| peer.parse::<SocketAddrV4>().is_ok()).map_or(peer, |(it, _)| it);
    if address.parse::<Ipv4Addr>().is_ok() { address } else { "" }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use agent_core::span::{ProcessFacts, Protocol, SpanKind, Status};

    use super::*;
    use crate::otlp::{
        Encoder, decode,
        tests::{safe, span},
    };

    /// Spans of two services that differ in all that is asked for; every third ends before it begins, as those of others may.
    pub(in super::super) fn block() -> Vec<u8> {
        let varied = |number: u64| {
            let mut span = span(number);
            let service = if number.is_multiple_of(2) { "shop" } else { "cart" };
            span.process =
                Arc::new(ProcessFacts { service_name: Some(service.into()), ..ProcessFacts::clone(&span.process) });
            span.kind = [SpanKind::Client, SpanKind::Server, SpanKind::Internal][number as usize % 3];
            span.status = [Status::Ok, Status::Error, Status::Unknown][number as usize / 3 % 3];
            span.protocol = if number < 9 { Protocol::Http1 } else { Protocol::Postgres };
            let peer = ["10.0.0.2:80", "10.0.0.20:80", "[::ffff:10.0.0.2]:80", "[2001:db8::1]:5432"];
            span.peer = peer[number as usize % 4].parse::<SocketAddr>().expect("an address").into();
            span.duration_ns = 100 * number;
            for (segment, part) in span.segments.iter_mut().zip([10, 30, 60]) {
                segment.duration_ns = part * number;
            }
            span.cause = (number > 4).then_some("remote_slow");
            if number.is_multiple_of(4) {
                span.attributes.push((SELECTED, agent_core::span::Value::Bool(number == 8)));
            }
            span
        };
        let ours: Vec<_> = (1..=18).map(|number| safe(varied(number))).collect();
        let mut bytes = Encoder::new(Some("host-1".to_owned()), None).encode(&ours).bytes;
        // A span without a resource: `resource_spans { scope_spans { spans { span_id, start 9, end 5 } } }`
        let times = [0x39, 9, 0, 0, 0, 0, 0, 0, 0, 0x41, 5, 0, 0, 0, 0, 0, 0, 0];
        let span = [&[0x12, 8, 1, 2, 3, 4, 5, 6, 7, 8][..], &times].concat();
        bytes.extend([0x0a, 32, 0x12, 30, 0x12, 28]);
        bytes.extend(span);
        bytes
    }

    fn attribute(key: &str, glob: &str) -> SpansRequest {
        let wanted = AttributeMatch { key: key.to_owned(), glob: glob.to_owned() };
        SpansRequest { attributes: vec![wanted], ..Default::default() }
    }

    #[test]
    fn every_filter_finds_what_it_finds_in_decoded_spans() {
        let ask = SpansRequest::default;
        let requests = [
            ask(),
            SpansRequest { service: "shop".into(), ..ask() },
            SpansRequest { service: "sho".into(), ..ask() },
            SpansRequest { kind: "internal".into(), ..ask() },
            SpansRequest { kind: "server".into(), service: "cart".into(), ..ask() },
            SpansRequest { status: "ok".into(), ..ask() },
            SpansRequest { status: "error".into(), ..ask() },
            SpansRequest { status: "unknown".into(), ..ask() },
            SpansRequest { protocol: "postgresql".into(), ..ask() },
            SpansRequest { protocol: "http".into(), status: "error".into(), ..ask() },
            SpansRequest { cause: "remote_slow".into(), ..ask() },
            SpansRequest { peer: "10.0.0.2".into(), ..ask() },
            SpansRequest { peer: "10.0.0.2:80".into(), ..ask() },
            SpansRequest { peer: "10.0.0.2:81".into(), ..ask() },
            SpansRequest { peer: "::ffff:10.0.0.2".into(), ..ask() },
            SpansRequest { peer: "[2001:db8::1]:5432".into(), ..ask() },
            SpansRequest { min_duration_ns: 900, ..ask() },
            SpansRequest { selected_only: true, ..ask() },
            SpansRequest { selected_only: true, protocol: "http".into(), ..ask() },
            SpansRequest { since_unix_ns: 1_000_000_800, ..ask() },
            attribute("http.response.status_code", "2??"),
            attribute("http.response.status_code", "5??"),
            attribute("spantap.connection.reused", "true"),
            attribute("spantap.connection.reused", "false"),
            attribute("spantap.url.query_names", "pa*"),
            attribute("spantap.cause", "remote_*"),
            attribute("service.name", "c*"),
            attribute("process.pid", "42"),
            attribute("spantap.status", "unknown"),
            attribute("spantap.protocol", "post*"),
            attribute("host.name", "host-*"),
            attribute("host.name", "node-*"),
            attribute("absent", "*"),
        ];
        let block = block();
        let all = decode(&block).expect("a block");
        assert_eq!(all.len(), 19);
        let mut partial = 0;
        for request in requests {
            let expected: Vec<SpanView> = all.iter().filter(|view| matches(&request, view)).cloned().collect();
            let scan = Scan::new(&request);
            let (mut spans, mut found) = (scan.block(&block), Vec::new());
            while let Some(span) = spans.next() {
                found.extend(spans.hit(&span).and_then(|hit| hit.view()));
            }
            assert_eq!(found, expected, "{request:?}");
            partial += usize::from(!expected.is_empty() && expected.len() < all.len());
        }
        assert!(partial >= 18, "only {partial} requests chose");
    }

    #[test]
    fn a_block_without_what_is_asked_for_is_not_looked_into() {
        let block = block();
        for request in [
            SpansRequest { service: "nosuch".into(), ..Default::default() },
            SpansRequest { peer: "10.9.9.9:80".into(), ..Default::default() },
            attribute("absent", "*"),
        ] {
            assert_eq!(Scan::new(&request).block(&block).count(), 0, "{request:?}");
        }
    }

    #[test]
    fn of_bytes_that_are_no_block_nothing_is_shown_in_part() {
        let request = SpansRequest::default();
        let scan = Scan::new(&request);
        let whole = block();
        let counts: Vec<usize> = (0..=whole.len()).map(|end| scan.block(&whole[..end]).count()).collect();
        // The processes' spans stand one after the other, and then the one of nobody.
        assert!(counts.iter().all(|count| [0, 9, 18, 19].contains(count)), "{counts:?}");
        assert_eq!((counts[whole.len() - 1], counts[whole.len()]), (18, 19));
    }
}
