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
