//! What must hold of any bytes; for the fuzz target and its test on stable Rust.

use std::sync::LazyLock;

use bytes::Bytes;

use super::{
    Action, Filter, HeadSampling, Redaction, Relay, RelayConfig, Relayed, Renames, Shape, ShapeConfig, SpanMatch,
    Threshold,
};
use crate::{redact::SafeBatch, span::UnixNs, wire};

/// Relays, and whether they change nothing.
static RELAYS: LazyLock<[(Relay, bool); 3]> = LazyLock::new(|| {
    [(RelayConfig::untouched(), true), (RelayConfig::default(), false), (everything(), false)]
        .map(|(config, untouched)| (Relay::new(config).expect("a valid configuration"), untouched))
});

static SHAPE: LazyLock<Shape> = LazyLock::new(|| {
    let exclude = vec![SpanMatch { attributes: vec![("a".into(), "?*".into())], ..SpanMatch::default() }];
    let config = ShapeConfig {
        filter: Filter { include: vec![], exclude },
        sampling: None,
        renames: Renames { semantic_conventions: true, keys: vec![] },
        drop_attributes: vec!["b*".into()],
    };
    Shape::new(config).expect("a valid configuration")
});

/// Checks that no span is lost, that what comes out can be read, and that nothing changes where nothing is configured.
///
/// # Panics
/// One of these does not hold.
pub fn relay(data: &[u8]) {
    let spans = wire::summary(data).map(|summary| u64::from(summary.spans));
    split(data);
    let request = Bytes::copy_from_slice(data);
    for (relay, untouched) in RELAYS.iter() {
        let Ok(relayed) = relay.accept_from(&request, (!*untouched).then_some("tenant"), UnixNs(1)) else { continue };
        let count = |batch: &Option<SafeBatch>| batch.as_ref().map_or(0, |batch| u64::from(batch.span_count()));
        assert_eq!(
            Ok(count(&relayed.kept) + count(&relayed.local) + relayed.rejected),
            spans,
            "every span is somewhere"
        );
        assert_eq!(relayed.rejected == 0, relayed.reason.is_empty());
        check_batches(&relayed);
        let same = relayed.kept.as_ref().is_none_or(|kept| kept.bytes() == data);
        assert!(!*untouched || relayed.rejected > 0 || same, "nothing was to be changed");
    }
    shape(data);
}

fn everything() -> RelayConfig {
    RelayConfig {
        redact: Redaction {
            deny: vec![("*user*".into(), Action::Hash)],
            allow: vec!["free.?".into()],
            ..Redaction::default()
        },
        resource_attributes: vec![("host.name".into(), "node".into())],
        renames: Renames { semantic_conventions: true, keys: vec![("a".into(), "http.method".into())] },
        sampling: Some(HeadSampling { threshold: Threshold::from_probability(0.5), keep_errors: true }),
        ..RelayConfig::default()
    }
}

fn check_batches(relayed: &Relayed) {
    for batch in [&relayed.kept, &relayed.local].into_iter().flatten() {
        let summary = wire::summary(batch.bytes()).expect("what was written can be read");
        let said = (batch.span_count(), batch.start_unix_ns_min(), batch.end_unix_ns_max());
        assert_eq!(said, (summary.spans, summary.start_unix_ns_min, summary.end_unix_ns_max));
        for span in wire::spans(batch.bytes()) {
            let span = span.expect("a span");
            assert!(span.has_valid_trace_id() && span.has_valid_span_id());
            assert!(span.attributes().all(|attribute| attribute.is_ok()), "attributes were read before");
        }
    }
}

fn split(data: &[u8]) {
    let Ok(summary) = wire::summary(data) else { return };
    for first in [0, summary.spans / 2, summary.spans] {
        let (front, back) = wire::split(data, first).expect("what has a summary can be split");
        let count = |half: &[u8]| wire::summary(half).expect("a half can be read").spans;
        assert_eq!((count(&front), count(&back)), (first, summary.spans - first));
    }
}

fn shape(data: &[u8]) {
    for at_least in [Threshold::ALWAYS, Threshold::from_probability(0.5)] {
        let Ok((shaped, counts)) = SHAPE.apply(data, at_least) else { continue };
        let spans = |bytes: &[u8]| wire::summary(bytes).map(|summary| u64::from(summary.spans));
        assert_eq!(spans(data), Ok(counts.kept + counts.filtered + counts.sampled_out));
        assert!(counts.kept == 0 || spans(&shaped) == Ok(counts.kept));
    }
}
