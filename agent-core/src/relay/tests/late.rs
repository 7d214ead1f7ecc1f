//! What is sent of a block by choices made before, and on request afterwards.

use super::*;

/// Spans of one service, numbered by their ids; each ended a millisecond after the one before.
fn numbered(count: u8, trace_state: &str) -> Vec<u8> {
    let one = |number: u8| Span {
        trace_id: vec![number + 1; 16],
        span_id: vec![number + 1; 8],
        trace_state: trace_state.into(),
        end_time_unix_nano: NOW.0 + u64::from(number) * 1_000_000,
        ..span(vec![])
    };
    request((0..count).map(one).collect()).encode_to_vec()
}

fn decoded(bytes: &[u8]) -> Vec<Span> {
    let request = ExportTraceServiceRequest::decode(bytes).unwrap();
    request.resource_spans.into_iter().flat_map(|it| it.scope_spans).flat_map(|it| it.spans).collect()
}

fn numbers(spans: &[Span]) -> Vec<u8> {
    spans.iter().map(|span| span.span_id[0] - 1).collect()
}

fn any_time() -> Late {
    Late { until_unix_ns: u64::MAX, ..Late::default() }
}

#[test]
fn choices_leave_out_keep_and_tell_the_threshold() {
    let bytes = numbered(3, "a=b");
    let quarter = Threshold::from_probability(0.25);
    // Randomness is 0x0101.., 0x0202.., 0x0303..: none of them passes, so nothing can be told about the third.
    let choices = [Choice::LeftOut, Choice::Kept, Choice::KeptBy(quarter)];
    let (sent, kept) = apply_choices(&bytes, &choices).unwrap();
    let spans = decoded(&sent);
    assert_eq!((kept, numbers(&spans)), (2, vec![1, 2]));
    assert_eq!(spans.iter().map(|span| span.trace_state.as_str()).collect::<Vec<_>>(), ["a=b", "a=b"]);
    let rare = numbered(1, "ot=rv:f0000000000000");
    let (sent, _) = apply_choices(&rare, &[Choice::KeptBy(quarter)]).unwrap();
    assert_eq!(decoded(&sent)[0].trace_state, "ot=th:c;rv:f0000000000000");
    assert_eq!(apply_choices(&bytes, &[Choice::LeftOut; 3]).unwrap(), (vec![].into(), 0));
    assert_eq!(apply_choices(&bytes, &[]).unwrap(), (bytes.as_slice().into(), 3), "nothing was decided");
}

#[test]
fn what_was_left_out_is_found_again_and_marked() {
    let bytes = numbered(4, "ot=th:8");
    let shape = Shape::new(ShapeConfig::default()).unwrap();
    let choices = [Choice::Kept, Choice::LeftOut, Choice::KeptBy(Threshold::ALWAYS), Choice::LeftOut];
    let mut kept = Vec::new();
    let (late, counts) = shape.late(&bytes, &any_time(), &choices, Choice::Kept, &mut kept).unwrap();
    let spans = decoded(&late);
    assert_eq!(kept, [false, true, false, true]);
    assert_eq!((numbers(&spans), counts), (vec![1, 3], LateCounts { matched: 4, sent: 2, kept: 2 }));
    for span in &spans {
        assert_eq!(
            (span.trace_state.as_str(), span.attributes.as_slice()),
            ("", &[pair(LATE, Value::BoolValue(true))][..])
        );
    }
    let all = Late { all: true, ..any_time() };
    let (late, counts) = shape.late(&bytes, &all, &choices, Choice::Kept, &mut kept).unwrap();
    assert_eq!((decoded(&late).len(), counts), (4, LateCounts { matched: 4, sent: 2, kept: 4 }));
    let (late, counts) = shape.late(&bytes, &any_time(), &[], Choice::Kept, &mut kept).unwrap();
    assert_eq!((late.len(), counts.sent, counts.kept), (0, 4, 0));
}

#[test]
fn time_request_and_destination_have_to_agree() {
    let bytes = numbered(4, "");
    let named = |name: &str| SpanMatch { name: Some(name.into()), ..SpanMatch::default() };
    let check = |include: Vec<SpanMatch>, exclude: Vec<SpanMatch>, expected: &[u8]| {
        let filter = Filter { include: vec![], exclude };
        let shape = Shape::new(ShapeConfig { filter, ..ShapeConfig::default() }).unwrap();
        let late = Late {
            filter: Filter { include, exclude: vec![] },
            since_unix_ns: NOW.0 + 1_000_000,
            until_unix_ns: NOW.0 + 3_000_000,
            all: false,
        };
        let (late, counts) = shape.late(&bytes, &late, &[], Choice::LeftOut, &mut Vec::new()).unwrap();
        assert_eq!((numbers(&decoded(&late)).as_slice(), counts.matched), (expected, expected.len() as u64));
    };
    check(vec![], vec![], &[1, 2]);
    check(vec![named("GET *")], vec![], &[1, 2]);
    check(vec![named("POST *")], vec![], &[]);
    check(vec![], vec![named("GET *")], &[]);
}

#[test]
fn a_shape_notes_what_becomes_of_each_span() {
    let bytes = numbered(3, "");
    let sampling = Some(HeadSampling { threshold: Threshold::from_value(0x02_0202_0202_0202), keep_errors: false });
    let shape = Shape::new(ShapeConfig { sampling, ..ShapeConfig::default() }).unwrap();
    let mut choices = Vec::new();
    let (_, counts) = shape.apply_noting(&bytes, Threshold::ALWAYS, &mut choices).unwrap();
    assert_eq!(choices, [Choice::LeftOut, Choice::Kept, Choice::Kept]);
    assert_eq!((counts.kept, counts.sampled_out), (2, 1));
}
