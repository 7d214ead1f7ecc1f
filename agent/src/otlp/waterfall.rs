//! Segments as child spans, for trace viewers that draw nothing else.
//!
//! In: the bytes of a `TracesData`, whoever wrote the spans. Out: the same with a child span after each span's segments. Called by the
//! exporter for destinations that are configured so; all others get the log's bytes unmodified. Span ids are made from
//! the parent's id and the place of the segment, so that a repeated request repeats them.
//!
//! Limits: [`TILES_MAX`] children of a span.

use agent_core::segment::TILES_MAX;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span as OtlpSpan, TracesData, span},
};
use prost::{DecodeError, Message};

use super::{SEGMENTS, decode::segments};
use crate::query::api::SegmentView;

/// Appends the segments of each span as child spans of kind `INTERNAL`, named like the segment.
///
/// # Errors
/// The bytes are not a `TracesData`.
pub fn with_segment_spans(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut data = TracesData::decode(bytes)?;
    for scope in data.resource_spans.iter_mut().flat_map(|resource| &mut resource.scope_spans) {
        let children: Vec<OtlpSpan> = scope.spans.iter().flat_map(children).collect();
        scope.spans.extend(children);
    }
    Ok(data.encode_to_vec())
}

fn children(parent: &OtlpSpan) -> Vec<OtlpSpan> {
    let value = parent.attributes.iter().find(|attribute| attribute.key == SEGMENTS);
    let tiles = segments(value.and_then(|attribute| attribute.value.clone()));
    (0..).zip(tiles.iter().take(TILES_MAX)).map(|(index, tile)| child(parent, index, tile)).collect()
}

fn child(parent: &OtlpSpan, index: u64, tile: &SegmentView) -> OtlpSpan {
    let start = parent.start_time_unix_nano.saturating_add(tile.start_ns);
    OtlpSpan {
        trace_id: parent.trace_id.clone(),
        span_id: span_id(&parent.span_id, index).to_vec(),
        trace_state: parent.trace_state.clone(),
        parent_span_id: parent.span_id.clone(),
        flags: parent.flags,
        name: tile.name.clone(),
        kind: span::SpanKind::Internal as i32,
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(tile.duration_ns),
        attributes: attributes(tile),
        ..Default::default()
    }
}

fn attributes(tile: &SegmentView) -> Vec<KeyValue> {
    let mut list = vec![pair("spantap.segment", Value::StringValue(tile.name.clone()))];
    for (key, value) in [("spantap.evidence", &tile.evidence), ("spantap.by", &tile.by)] {
        if !value.is_empty() {
            list.push(pair(key, Value::StringValue(value.clone())));
        }
    }
    if tile.lost_records > 0 {
        let count = i64::try_from(tile.lost_records).unwrap_or(i64::MAX);
        list.push(pair("spantap.lost_records", Value::IntValue(count)));
    }
    list
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

/// Mixes the parent's id, which is random already, with the place (the finalizer of splitmix64). Never all zeros, which
/// would be no id.
fn span_id(parent: &[u8], index: u64) -> [u8; 8] {
    let parent = parent.iter().fold(0_u64, |id, byte| id.rotate_left(8) ^ u64::from(*byte));
    let mut id = parent.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (id ^ (id >> 31)).max(1).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::otlp::{
        Encoder, decode,
        tests::{safe, span},
    };

    #[test]
    fn children_tile_their_parent_and_say_how_they_are_known() {
        let block = Encoder::default().encode(&[safe(span(5)), safe(span(6))]).bytes;
        let bytes = with_segment_spans(&block).expect("own bytes");
        let views = decode(&bytes).expect("own bytes");
        assert_eq!(views[..2], decode(&block).expect("own bytes")[..], "the spans themselves stay as they are");
        for parent in &views[..2] {
            let children: Vec<_> = views[2..].iter().filter(|it| it.parent_span_id == parent.span_id).collect();
            assert_eq!(children.len(), parent.segments.len());
            let mut end = parent.start_unix_ns;
            for (child, tile) in children.iter().zip(&parent.segments) {
                assert_eq!((child.start_unix_ns, child.duration_ns), (end, tile.duration_ns));
                assert_eq!((child.name.as_str(), child.kind.as_str()), (tile.name.as_str(), "internal"));
                assert_eq!(child.text("spantap.evidence"), Some(tile.evidence.as_str()));
                assert_eq!(child.text("spantap.by").unwrap_or_default(), tile.by);
                assert_eq!((&child.trace_id, &child.service), (&parent.trace_id, &parent.service));
                end = child.end_unix_ns();
            }
            assert_eq!(end, parent.end_unix_ns());
        }
        let ids: BTreeSet<_> = views.iter().map(|view| &view.span_id).collect();
        assert_eq!(ids.len(), views.len(), "every id is its own");
        assert_eq!(with_segment_spans(&block).expect("own bytes"), bytes, "the same again");
    }

    #[test]
    fn no_parent_has_endless_children_and_no_id_is_zero() {
        let mut endless = span(1);
        endless.segments = vec![endless.segments[0]; 5 * TILES_MAX];
        let bytes = with_segment_spans(&Encoder::default().encode(&[safe(endless)]).bytes).expect("own bytes");
        assert_eq!(decode(&bytes).expect("own bytes").len(), 1 + TILES_MAX);
        // The parent for which the mixed value is 0.
        let zero = 0_u64.wrapping_sub(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        assert_eq!(span_id(&zero, 0), 1_u64.to_be_bytes());
        assert!(with_segment_spans(b"no protobuf").is_err());
    }
}
