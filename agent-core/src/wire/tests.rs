use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status},
};
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

#[test]
fn after_an_error_nothing_follows() {
    let mut bytes = request(&[&[1]]).encode_to_vec();
    bytes.extend([0x0a, 9, 0]);
    let found: Vec<_> = spans(&bytes).map(|span| span.is_ok()).collect();
    assert_eq!(found, [true, false]);
}
