//! What one destination gets.

use std::borrow::Cow;

use super::*;
use crate::wire::{Kind, StatusCode};

fn shaped(config: ShapeConfig, request: &ExportTraceServiceRequest, at_least: Threshold) -> (Vec<Span>, ShapeCounts) {
    let bytes = request.encode_to_vec();
    let (shaped, counts) = Shape::new(config).unwrap().apply(&bytes, at_least).unwrap();
    let decoded = ExportTraceServiceRequest::decode(&*shaped).unwrap();
    let scopes = decoded.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    (scopes.flat_map(|scope| scope.spans).collect(), counts)
}

fn filtering(include: Vec<SpanMatch>, exclude: Vec<SpanMatch>) -> ShapeConfig {
    ShapeConfig { filter: Filter { include, exclude }, ..ShapeConfig::default() }
}

/// Of resource `shop`, a client's span of 1 ms, and an error of a server that took 2 s.
fn two() -> ExportTraceServiceRequest {
    let mut slow =
        span(vec![pair("http.response.status_code", Value::IntValue(503)), pair("retry", Value::BoolValue(true))]);
    (slow.name, slow.kind, slow.start_time_unix_nano) = ("POST /pay".into(), 2, NOW.0 - 2_001_000_000);
    slow.status = Some(Status { message: String::new(), code: 2 });
    request(vec![span(texts(&[("http.route", "/a/b")])), slow])
}

#[test]
fn what_changes_nothing_is_borrowed() {
    let bytes = two().encode_to_vec();
    for config in [ShapeConfig::default(), filtering(vec![SpanMatch::default()], vec![])] {
        let shape = Shape::new(config.clone()).unwrap();
        let (shaped, counts) = shape.apply(&bytes, Threshold::ALWAYS).unwrap();
        assert!(matches!(shaped, Cow::Borrowed(same) if same == bytes));
        assert_eq!(counts, ShapeCounts { kept: 2, ..ShapeCounts::default() });
        assert_eq!(shape.is_identity(), config == ShapeConfig::default());
    }
}

#[test]
fn every_part_of_a_match_has_to_hold() {
    let none = SpanMatch::default;
    let attribute = |key: &str, value: &str| SpanMatch { attributes: vec![(key.into(), value.into())], ..none() };
    let cases = [
        (none(), [true, true]),
        (SpanMatch { service: Some("sh*".into()), ..none() }, [true, true]),
        (SpanMatch { service: Some("sh".into()), ..none() }, [false, false]),
        (SpanMatch { name: Some("POST *".into()), ..none() }, [false, true]),
        (SpanMatch { kind: Some(Kind::Client), ..none() }, [true, false]),
        (SpanMatch { status: Some(StatusCode::Error), ..none() }, [false, true]),
        (SpanMatch { status: Some(StatusCode::Unset), ..none() }, [true, false]),
        (SpanMatch { duration_ns_min: Some(1_000_000), ..none() }, [true, true]),
        (SpanMatch { duration_ns_min: Some(1_000_001), ..none() }, [false, true]),
        (attribute("http.route", "/a/*"), [true, false]),
        (attribute("http.response.status_code", "5??"), [false, true]),
        (attribute("retry", "true"), [false, true]),
        (attribute("service.name", "shop"), [true, true]),
        (attribute("absent", "*"), [false, false]),
        (SpanMatch { kind: Some(Kind::Client), ..attribute("retry", "true") }, [false, false]),
    ];
    for (one, expected) in cases {
        let names = |spans: &[Span]| ["GET /", "POST /pay"].map(|name| spans.iter().any(|span| span.name == name));
        let (spans, counts) = shaped(filtering(vec![one.clone()], vec![]), &two(), Threshold::ALWAYS);
        assert_eq!(names(&spans), expected, "{one:?}");
        assert_eq!((counts.kept, counts.filtered), (spans.len() as u64, 2 - spans.len() as u64));
        let (spans, _) = shaped(filtering(vec![], vec![one.clone()]), &two(), Threshold::ALWAYS);
        assert_eq!(names(&spans), expected.map(|kept| !kept), "not {one:?}");
    }
}

#[test]
fn each_resource_has_its_own_service() {
    let mut both = two();
    let mut other = two();
    other.resource_spans[0].resource.as_mut().unwrap().attributes = texts(&[("service.name", "bank")]);
    both.resource_spans.extend(other.resource_spans);
    let shop = SpanMatch { service: Some("shop".into()), ..SpanMatch::default() };
    let (spans, counts) = shaped(filtering(vec![], vec![shop]), &both, Threshold::ALWAYS);
    assert_eq!((spans.len(), counts), (2, ShapeCounts { kept: 2, filtered: 2, sampled_out: 0 }));
}

#[test]
fn sampling_can_be_made_stricter_while_it_runs() {
    let spans: Vec<_> = (0..64_u8)
        .map(|number| Span { trace_id: [&[7; 9][..], &[number * 4], &[0; 6]].concat(), ..span(vec![]) })
        .collect();
    let half = HeadSampling { threshold: Threshold::from_probability(0.5), keep_errors: false };
    let config = ShapeConfig { sampling: Some(half), ..ShapeConfig::default() };
    for (at_least, kept, state) in [(1.0, 32, "ot=th:8"), (0.75, 32, "ot=th:8"), (0.25, 16, "ot=th:c"), (0.0, 0, "")] {
        let at_least = Threshold::from_probability(at_least);
        let (found, counts) = shaped(config.clone(), &request(spans.clone()), at_least);
        assert_eq!((counts.kept, counts.sampled_out), (kept, 64 - kept));
        assert!(found.len() as u64 == kept && found.iter().all(|span| span.trace_state == state));
        let (_, counts) = shaped(ShapeConfig::default(), &request(spans.clone()), at_least);
        assert_eq!(counts.kept as f64, 64.0 * at_least.probability());
    }
}

#[test]
fn errors_are_kept_where_that_is_wanted() {
    let keep = HeadSampling { threshold: Threshold::ALWAYS, keep_errors: true };
    let config = ShapeConfig { sampling: Some(keep), ..ShapeConfig::default() };
    let (spans, counts) = shaped(config, &two(), Threshold::NEVER);
    assert_eq!((spans[0].name.as_str(), counts), ("POST /pay", ShapeCounts { kept: 1, filtered: 0, sampled_out: 1 }));
}

#[test]
fn attributes_can_be_left_out_and_renamed() {
    let before =
        span(texts(&[("http.request.header.x", "1"), ("password", "seen"), ("http.method", "GET"), ("to", "a@b.de")]));
    let config = ShapeConfig {
        drop_attributes: vec!["http.request.header.*".into()],
        renames: Renames { semantic_conventions: true, keys: vec![("to".into(), "mail".into())] },
        ..ShapeConfig::default()
    };
    let (spans, _) = shaped(config, &request(vec![before]), Threshold::ALWAYS);
    let after = texts(&[("password", "seen"), ("http.request.method", "GET"), ("mail", "a@b.de")]);
    assert_eq!(spans[0].attributes, after, "nothing is redacted here");
}
