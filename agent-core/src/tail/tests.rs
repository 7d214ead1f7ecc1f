//! Whole traces over a simulated clock. The truth is the list of traces that each test makes.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource as ProtoResource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status},
};
use prost::Message;

use super::*;
use crate::relay::{Filter, SpanMatch};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
/// Some time that is no multiple of anything.
const T: u64 = 1_764_000_007 * S + 123 * MS;

/// Of a trace, by its number: the randomness is the number times 2^40.
fn id(trace: u64) -> Vec<u8> {
    [[0xee; 8], (trace << 40).to_be_bytes()].concat()
}

fn span(trace: u64, name: &str, duration_ms: u64) -> Span {
    Span {
        trace_id: id(trace),
        span_id: vec![1; 8],
        name: name.into(),
        kind: 2,
        start_time_unix_nano: T,
        end_time_unix_nano: T + duration_ms * MS,
        ..Span::default()
    }
}

fn failed(trace: u64) -> Span {
    Span { status: Some(Status { message: String::new(), code: 2 }), ..span(trace, "GET /", 1) }
}

fn block(service: &str, spans: Vec<Span>) -> Vec<u8> {
    let text = AnyValue { value: Some(Value::StringValue(service.into())) };
    let attributes = vec![KeyValue { key: "service.name".into(), value: Some(text), ..KeyValue::default() }];
    let resource = Some(ProtoResource { attributes, ..ProtoResource::default() });
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn one(span: Span) -> Vec<u8> {
    block("shop", vec![span])
}

fn kept(choices: Option<Vec<Choice>>) -> Vec<bool> {
    choices.expect("it was looked at").into_iter().map(Choice::is_kept).collect()
}

#[test]
fn an_error_keeps_the_whole_trace_also_what_came_before_and_after() {
    let mut tail = Tail::new(TailConfig::default());
    tail.add(1, &block("shop", vec![span(1, "GET /", 1), span(2, "GET /", 1)]), T);
    tail.add(2, &one(failed(1)), T + 4 * S);
    assert_eq!((tail.undecided(), tail.next_deadline_ns()), (Some(1), Some(T + 10 * S)));
    tail.tick(T + 10 * S - 1);
    assert_eq!(tail.undecided(), Some(1));
    tail.tick(T + 10 * S);
    assert_eq!(tail.undecided(), None);
    tail.add(3, &block("shop", vec![span(1, "late", 1), failed(2)]), T + 11 * S);
    assert_eq!(kept(tail.take(1)), [true, false]);
    assert_eq!(kept(tail.take(2)), [true]);
    assert_eq!(kept(tail.take(3)), [true, false], "late spans follow, whatever they are");
    assert_eq!((tail.take(3), tail.take(9)), (None, None));
    let counts = tail.counts();
    assert_eq!((counts.kept[Reason::Error as usize], counts.left_out, counts.late_spans), (1, 1, 2));
    assert_eq!((tail.bytes(), tail.waiting()), (0, 0), "nothing is left behind");
}

#[test]
fn a_block_is_decided_when_the_last_of_its_traces_is() {
    let mut tail = Tail::new(TailConfig::default());
    for number in 0..5 {
        tail.add(number, &one(span(number, "GET /", 1)), T + number * S);
    }
    tail.add(5, &one(span(0, "GET /", 1)), T + 5 * S);
    for number in 0..5 {
        assert_eq!(tail.undecided(), Some(number));
        tail.tick(T + (10 + number) * S);
    }
    assert_eq!(tail.undecided(), None);
    assert_eq!(kept(tail.take(5)), [false], "blocks that nobody takes are passed over");
    assert_eq!(tail.bytes(), 0);
}

#[test]
fn a_clock_that_is_set_back_holds_up_nothing() {
    let mut tail = Tail::new(TailConfig::default());
    let hour = 3_600 * S;
    tail.add(1, &one(failed(1)), T + hour);
    tail.add(2, &one(failed(2)), T + hour - S);
    assert_eq!(tail.undecided(), Some(1), "times that are a little out of order wait as usual");
    tail.add(3, &one(failed(3)), T);
    assert_eq!(tail.undecided(), Some(3), "what was to wait for an hour does not");
    tail.tick(T + 10 * S);
    assert_eq!(tail.undecided(), None);
    assert_eq!([1, 2, 3].map(|number| kept(tail.take(number))), [[true], [true], [true]]);
}

#[test]
fn slow_and_matching_traces_are_kept() {
    let wanted = SpanMatch { name: Some("POST /pay*".into()), service: Some("shop".into()), ..SpanMatch::default() };
    let matches = Filter { include: vec![wanted], exclude: vec![] };
    let mut tail = Tail::new(TailConfig { slow_ns: 500 * MS, matches, ..TailConfig::default() });
    let spans = vec![span(1, "GET /", 499), span(2, "GET /", 500), span(3, "POST /pay/1", 1)];
    tail.add(1, &block("shop", spans), T);
    tail.add(2, &block("bank", vec![span(4, "POST /pay/1", 1)]), T);
    tail.tick(T + 10 * S);
    assert_eq!((kept(tail.take(1)), kept(tail.take(2))), (vec![false, true, true], vec![false]));
}

#[test]
fn what_is_slow_is_learned_by_service_and_name() {
    let mut tail = Tail::new(TailConfig { slow_p99: true, ..TailConfig::default() });
    let usual = |first: u64, name: &str, ms: u64| (0..100).map(|n| span(first + n, name, ms)).collect::<Vec<_>>();
    tail.add(1, &block("shop", usual(0, "GET /", 10)), T);
    tail.add(2, &block("shop", usual(100, "GET /report", 900)), T);
    let inner = Span { parent_span_id: vec![9; 8], kind: 3, ..span(203, "GET /", 30) };
    let next = vec![span(200, "GET /", 30), span(201, "GET /report", 30), span(202, "GET /", 10), inner];
    tail.add(3, &block("shop", next), T);
    tail.tick(T + 10 * S);
    assert_eq!(kept(tail.take(1)), [false; 100], "the first hundred teach");
    assert_eq!(kept(tail.take(2)), [false; 100]);
    assert_eq!(kept(tail.take(3)), [true, false, false, false], "inner spans are not judged by it");
}

#[test]
fn the_first_of_each_minute_service_and_name_are_kept() {
    let mut tail = Tail::new(TailConfig { per_minute: 2, ..TailConfig::default() });
    let minute = T - T % (60 * S) + 60 * S;
    // Decided 10 s later.
    tail.add(1, &block("shop", (0..4).map(|n| span(n, "GET /", 1)).collect()), minute);
    tail.add(2, &block("bank", (4..7).map(|n| span(n, "GET /", 1)).collect()), minute);
    let both = vec![span(7, "GET /", 1), Span { kind: 3, ..span(7, "SELECT", 1) }];
    tail.add(3, &block("shop", both), minute);
    tail.add(4, &block("shop", (8..11).map(|n| span(n, "GET /", 1)).collect()), minute + 60 * S);
    tail.tick(minute + 70 * S);
    assert_eq!(kept(tail.take(1)), [true, true, false, false]);
    assert_eq!(kept(tail.take(2)), [true, true, false]);
    assert_eq!(kept(tail.take(3)), [true, true], "one name of it is rare");
    assert_eq!(kept(tail.take(4)), [true, true, false]);
}

#[test]
fn counts_stay_exact_in_sum() {
    let rest = Threshold::from_probability(0.25);
    let mut tail = Tail::new(TailConfig { rest, per_minute: 3, ..TailConfig::default() });
    let count = 1 << 14;
    for number in 0..count {
        // Spread over all randomness, in another order.
        let span = span((number * 40_503) % count * 4, "GET /", 1);
        tail.add(number, &one(if number % 1_000 == 0 { Span { status: failed(0).status, ..span } } else { span }), T);
    }
    tail.tick(T + 10 * S);
    let stands_for = |choice: Choice| match choice {
        Choice::LeftOut => 0.0,
        Choice::Kept => 1.0,
        Choice::KeptBy(threshold) => threshold.adjusted_count().expect("it is kept"),
    };
    let sum: f64 = (0..count).flat_map(|number| tail.take(number).expect("known")).map(stands_for).sum();
    let off = (sum / count as f64 - 1.0).abs();
    assert!(off < 0.03, "{sum} of {count}");
}

#[test]
fn a_rate_is_met_by_thresholds_that_are_told() {
    let config = TailConfig { rest: Threshold::ALWAYS, rate: 10.0, decision_wait_ns: S, ..TailConfig::default() };
    let mut tail = Tail::new(config);
    let (mut kept_by_window, mut sum) = (vec![0; 3], 0.0);
    let start = T - T % (10 * S);
    for number in 0..30_000_u64 {
        let at = start + number * MS;
        tail.add(
            number,
            &one(span((number * 40_503) % (1 << 16), if number % 200 == 0 { "rare" } else { "GET /" }, 1)),
            at,
        );
    }
    tail.tick(start + 100 * S);
    for number in 0..30_000 {
        let choice = tail.take(number).expect("known")[0];
        if number % 200 == 0 {
            assert!(choice.is_kept(), "5 a second are not too many");
        } else if let Choice::KeptBy(threshold) = choice {
            kept_by_window[(number / 10_000) as usize] += 1;
            sum += threshold.adjusted_count().expect("kept");
        } else {
            kept_by_window[(number / 10_000) as usize] += u64::from(choice.is_kept());
            sum += f64::from(u8::from(choice.is_kept()));
        }
    }
    let off = (sum / 29_850.0 - 1.0_f64).abs();
    assert!(off < 0.1, "{sum} for 29,850");
    assert!(kept_by_window[1..].iter().all(|kept| (70..=140).contains(kept)), "about 100 in 10 s: {kept_by_window:?}");
    assert!(kept_by_window[0] < 400, "also at first: {kept_by_window:?}");
}

#[test]
fn without_room_the_oldest_are_decided_early_and_counted() {
    for config in [
        TailConfig { traces_max: 10, ..TailConfig::default() },
        TailConfig { bytes_max: 2_200, ..TailConfig::default() },
    ] {
        let mut tail = Tail::new(config);
        for number in 0..100 {
            tail.add(number, &one(if number == 3 { failed(3) } else { span(number, "GET /", 1) }), T);
            tail.take(tail.undecided().map_or(number, |first| first.saturating_sub(1)));
        }
        assert!(tail.waiting() <= 10 && tail.counts().early >= 90, "{} {:?}", tail.waiting(), tail.counts());
        assert_eq!(tail.counts().kept[Reason::Error as usize], 1);
    }
}

#[test]
fn after_a_restart_late_spans_follow_what_is_noted() {
    let mut tail = Tail::new(TailConfig::default());
    let half = Choice::KeptBy(Threshold::from_probability(0.5));
    let before = block("shop", vec![span(1, "GET /", 1), span(2, "GET /", 1), span(3, "GET /", 1)]);
    tail.remember(&before, &[Choice::LeftOut, half]);
    tail.add(8, &block("shop", vec![failed(1), span(2, "x", 1), span(3, "x", 1)]), T);
    assert_eq!(tail.undecided(), None);
    assert_eq!(tail.take(8), Some(vec![Choice::LeftOut, half, Choice::Kept]));
}

#[test]
fn bytes_that_are_no_request_have_the_spans_before_the_damage() {
    let mut tail = Tail::new(TailConfig::default());
    let mut bytes = block("shop", vec![span(1, "GET /", 1)]);
    bytes.extend_from_slice(&[0x0a, 0xff]);
    tail.add(1, &bytes, T);
    tail.add(2, b"\xff\xff", T);
    tail.tick(T + 10 * S);
    assert_eq!((tail.take(1), tail.take(2)), (Some(vec![Choice::LeftOut]), Some(vec![])));
}
