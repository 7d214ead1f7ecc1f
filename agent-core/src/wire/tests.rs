use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status},
};
use proptest::prelude::*;
use prost::Message;

use super::*;

/// A request of resources of scopes of so many spans, numbered through.
fn request(resources: &[&[u32]]) -> ExportTraceServiceRequest {
    let mut number = 0;
    let mut span = || {
        number += 1;
        Span {
            trace_id: vec![1; 16],
            span_id: vec![number; 8],
            name: format!("span {number}"),
            kind: 3,
            start_time_unix_nano: 100 + u64::from(number),
            end_time_unix_nano: 200 + u64::from(number),
            status: Some(Status { message: String::new(), code: 2 }),
            ..Span::default()
        }
    };
    let mut scope = |spans: &u32| ScopeSpans {
        scope: Some(InstrumentationScope { name: "scope".into(), ..Default::default() }),
        spans: (0..*spans).map(|_| span()).collect(),
        schema_url: "schema".into(),
    };
    let mut resource = |scopes: &&[u32]| ResourceSpans {
        resource: Some(Resource { dropped_attributes_count: 3, ..Default::default() }),
        scope_spans: scopes.iter().map(&mut scope).collect(),
        schema_url: String::new(),
    };
    ExportTraceServiceRequest { resource_spans: resources.iter().map(&mut resource).collect() }
}

fn decode(bytes: &[u8]) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest::decode(bytes).unwrap()
}

#[test]
fn a_summary_counts_and_finds_the_time_range() {
    let bytes = request(&[&[2, 1], &[3]]).encode_to_vec();
    assert_eq!(summary(&bytes), Ok(Summary { spans: 6, start_unix_ns_min: 101, end_unix_ns_max: 206 }));
    assert_eq!(summary(&[]), Ok(Summary::default()));
    assert_eq!((count_spans(&bytes), count_spans(&[])), (Ok(6), Ok(0)));
    assert!(count_spans(&bytes[..bytes.len() - 1]).is_err());
}

#[test]
fn a_time_of_0_is_none() {
    let mut request = request(&[&[2]]);
    request.resource_spans[0].scope_spans[0].spans[0].start_time_unix_nano = 0;
    assert_eq!(summary(&request.encode_to_vec()).unwrap().start_unix_ns_min, 102);
}

#[test]
fn a_view_says_what_stands_in_the_fields() {
    let bytes = request(&[&[1]]).encode_to_vec();
    let span = spans(&bytes).next().unwrap().unwrap();
    assert_eq!((span.trace_id, span.span_id, span.parent_span_id), (&[1; 16][..], &[1; 8][..], &[][..]));
    assert_eq!((span.name, span.kind, span.status), (&b"span 1"[..], Kind::Client, StatusCode::Error));
    assert_eq!((span.duration_ns(), span.has_valid_trace_id(), span.has_valid_span_id()), (100, true, true));
}

#[test]
fn a_request_is_taken_apart_by_trace_and_nothing_is_lost() {
    let mut whole = request(&[&[3, 1], &[2], &[]]);
    for (number, span) in
        whole.resource_spans.iter_mut().flat_map(|r| &mut r.scope_spans).flat_map(|s| &mut s.spans).enumerate()
    {
        span.trace_id = vec![number as u8 % 3; 16];
    }
    let bytes = whole.encode_to_vec();
    let traces = by_trace(&bytes).unwrap();
    let counts: Vec<_> = traces.iter().map(|trace| (trace.trace_id[0], trace.spans)).collect();
    assert_eq!(counts, [(0, 2), (1, 2), (2, 2)]);
    for trace in &traces {
        let decoded = decode(&trace.request);
        for resource in &decoded.resource_spans {
            assert_eq!(resource.resource.as_ref().unwrap().dropped_attributes_count, 3);
            assert!(resource.scope_spans.iter().all(|scope| scope.schema_url == "schema" && !scope.spans.is_empty()));
        }
        let of = |request: &ExportTraceServiceRequest| -> Vec<Span> {
            let spans = request.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans);
            spans.filter(|span| span.trace_id == trace.trace_id).cloned().collect()
        };
        assert_eq!(of(&decoded), of(&whole));
        assert_eq!(u64::from(summary(&trace.request).unwrap().spans), of(&whole).len() as u64);
    }
    assert_eq!(by_trace(&[]), Ok(vec![]));
    assert!(by_trace(&bytes[..bytes.len() - 1]).is_err());
}

#[test]
fn what_is_not_understood_stays_in_each_trace() {
    let unknown = [0xf8, 0x07, 5];
    let mut span = Vec::new();
    put_bytes(&mut span, field_number::span::TRACE_ID, &[7; 16]);
    span.extend(unknown);
    let mut other = Vec::new();
    put_bytes(&mut other, field_number::span::TRACE_ID, &[8; 16]);
    let (mut scope, mut resource, mut request) = (unknown.to_vec(), unknown.to_vec(), Vec::new());
    put_bytes(&mut scope, field_number::scope_spans::SPANS, &span);
    put_bytes(&mut scope, field_number::scope_spans::SPANS, &other);
    put_bytes(&mut resource, field_number::resource_spans::SCOPE_SPANS, &scope);
    put_bytes(&mut request, field_number::request::RESOURCE_SPANS, &resource);
    let traces = by_trace(&request).unwrap();
    let count = |bytes: &[u8]| bytes.windows(3).filter(|window| *window == unknown).count();
    assert_eq!(traces.iter().map(|trace| count(&trace.request)).collect::<Vec<_>>(), [3, 2]);
}

#[test]
fn a_request_is_split_between_any_two_spans() {
    let whole = request(&[&[2, 1], &[3]]);
    let bytes = whole.encode_to_vec();
    for first in 0..=7 {
        let (front, back) = split(&bytes, first).unwrap();
        assert_eq!(summary(&front).unwrap().spans, first.min(6));
        let spans = |half: &[u8]| spans(half).map(|span| span.unwrap().name.to_vec()).collect::<Vec<_>>();
        assert_eq!([spans(&front), spans(&back)].concat(), spans(&bytes));
        for scope in [decode(&front), decode(&back)].iter().flat_map(|half| &half.resource_spans) {
            assert_eq!(scope.resource, whole.resource_spans[0].resource);
            assert!(scope.scope_spans.iter().all(|scope| scope.schema_url == "schema" && !scope.spans.is_empty()));
        }
    }
    assert_eq!(split(&bytes, 6).unwrap(), (bytes.clone(), vec![]));
}

#[test]
fn what_is_cut_off_or_garbled_is_never_a_panic() {
    let bytes = request(&[&[2, 1], &[1]]).encode_to_vec();
    for end in 0..bytes.len() {
        let _ = (summary(&bytes[..end]), split(&bytes[..end], 1));
        for flip in [1, 0x80, 0xff] {
            let mut garbled = bytes.clone();
            garbled[end] ^= flip;
            let _ = (summary(&garbled), split(&garbled, 2));
        }
    }
}

/// Fields of spans: usual ones, others, and what is wrong.
fn pieces() -> Vec<Vec<u8>> {
    let field = |number: u32, value: &[u8]| {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, number, value);
        bytes
    };
    let time = |tag: u8, time: u64| [&[tag][..], &time.to_le_bytes()].concat();
    let usual = [field(1, &[1; 16]), field(2, &[2; 8]), field(4, &[3; 8]), field(5, b"GET")];
    let times = [vec![0x30, 3], time(0x39, 100), time(0x41, 200)];
    let attributes = [field(9, b"a"), field(9, &[7; 200]), field(9, &[7; 20_000])];
    let others = [field(1, &[1; 15]), field(2, &[]), field(3, b"a=b"), field(4, &[4; 9]), field(5, &[b'x'; 300])];
    let more = [field(11, &[]), field(13, &[]), field(15, &[]), field(15, &[0x18, 2]), field(15, &[0x12, 1, b'm'])];
    let odd = [
        vec![0x30, 0x83, 0],
        vec![0x85, 2, 1, 1, 0, 0],
        vec![0x48, 1],
        vec![0x4a, 3, 1],
        vec![0x0a, 16, 1],
        vec![0x39, 1],
    ];
    [&usual[..], &times, &attributes, &others, &more, &odd].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fields_that_are_read_at_once_are_read_as_all_are(
        begins in 0..8_usize,
        rest in prop::collection::vec(prop::sample::select(pieces()), 0..9),
    ) {
        let body = [pieces()[..begins].concat(), rest.concat()].concat();
        let (read, slowly) = (SpanView::read(&body, 0..body.len()), SpanView::read_slowly(&body, 0..body.len()));
        prop_assert_eq!(slowly.clone().err(), read.clone().err());
        let (Ok(read), Ok(slowly)) = (read, slowly) else { return Ok(()) };
        let (mut fields, mut seen) = (Fields::new(&body, 0..body.len()), Vec::new());
        while let Some(field) = fields.next().unwrap() {
            let is_message = || field.bytes().is_ok_and(|range| body[range].first() == Some(&0x12));
            if matches!(field.number, 5 | 9 | 11 | 13) || (field.number == 15 && is_message()) {
                seen.push(field);
            }
        }
        if read.is_plain {
            let name = seen.first().filter(|field| field.number == 5).copied();
            let attributes = &seen[usize::from(name.is_some())..];
            prop_assert_eq!(read.name_field, name);
            prop_assert!(attributes.iter().all(|field| field.number == 9 && field.bytes().is_ok()));
            prop_assert!(attributes.windows(2).all(|pair| pair[0].end == pair[1].start));
            let range = attributes.first().zip(attributes.last()).map(|(first, last)| first.start..last.end);
            prop_assert_eq!(read.attributes.clone(), range.unwrap_or_default());
        }
        let said = |mut span: SpanView<'_>| {
            (span.is_plain, span.name_field, span.attributes) = (true, None, 0..0);
            format!("{span:?}")
        };
        prop_assert_eq!(said(read), said(slowly));
    }
}

#[test]
fn a_pair_that_is_known_at_a_glance_is_one_by_the_long_way() {
    let pairs: [&[u8]; 5] = [
        b"\x0a\x01a\x12\x03\x0a\x01b",
        b"\x0a\x00\x12\x02\x0a\x00",
        b"\x0a\x01a\x12\x02\x18\x07",
        b"\x0a\x01a\x12\x03\x18\xc8\x01",
        b"\x0a\x01a\x12\x02\x10\x01",
    ];
    for bytes in pairs {
        assert!(is_short_pair(bytes));
        for at in 0..bytes.len() {
            for other in 0..=u8::MAX {
                let mut changed = bytes.to_vec();
                changed[at] = other;
                for end in 0..=changed.len() {
                    let changed = &changed[..end];
                    if is_short_pair(changed) {
                        assert!(PlainPair::read(changed, 0..end).is_some());
                        let (_, value) = pair(changed, 0..end).unwrap();
                        let value = Value::read(changed, value.unwrap().bytes().unwrap()).unwrap();
                        assert!(
                            matches!(value, Value::Text(_) | Value::Bool(_) | Value::Int(0..16_384)),
                            "{changed:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn after_an_error_nothing_follows() {
    let mut bytes = request(&[&[1]]).encode_to_vec();
    bytes.extend([0x0a, 9, 0]);
    let found: Vec<_> = spans(&bytes).map(|span| span.is_ok()).collect();
    assert_eq!(found, [true, false]);
}
