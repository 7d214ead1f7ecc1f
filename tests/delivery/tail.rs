//! Sampling by whole traces, against the sender's own list of them.

use std::collections::BTreeSet;

use serde_json::Value;
use spantap_tests::{numbered, temp::TempDir};

use crate::{
    late::ratio_without,
    rig::Relay,
    sink::{Behaviour, Sink},
};

/// Traces, and those of them that chance keeps: from this number on.
const TRACES: u64 = 1_000;
const KEPT_FROM: u64 = 896;
/// Spans of a trace, each of another service and in another request.
const SPANS: u32 = 4;

/// Every seventh trace fails, in its last span only.
fn fails(trace: u64) -> bool {
    trace.is_multiple_of(7)
}

fn span(trace: u64, part: u32, is_error: bool) -> Vec<u8> {
    numbered::bare(trace, trace * 100 + u64::from(part) + 1, is_error)
}

#[test]
fn traces_are_whole_and_counted_exactly_also_through_a_kill() {
    let (sink, folder) = (Sink::start(Behaviour::Take), TempDir::new("tail"));
    let file = folder.join("spans.jsonl");
    let sampling =
        format!("sampling: {{ ratio: {}, ratio_min: 1, tail: {{ decision_wait: 4s }} }}", ratio_without(KEPT_FROM));
    let destinations = [
        format!("name: sink, url: '{}', batch: {{ age: 20ms }}, {sampling}", sink.url()),
        format!("name: file, url: 'file:{}', {sampling}", file.display()),
    ];
    let mut relay = Relay::start(&destinations, "");
    for part in 0..SPANS {
        let is_error = |trace| fails(trace) && part == SPANS - 1;
        relay.send(&format!("service-{part}"), (0..TRACES).map(|trace| span(trace, part, is_error(trace))));
    }
    relay.kill();
    relay.restart();
    relay.drained("sink");
    relay.drained("file");
    let expected: BTreeSet<u64> = (0..TRACES).filter(|trace| fails(*trace) || *trace >= KEPT_FROM).collect();
    let times = sink.times();
    assert_eq!(times.keys().copied().collect::<BTreeSet<u64>>(), expected, "{}", relay.messages());
    assert!(times.values().all(|spans| *spans >= SPANS), "a trace is not whole: {times:?}");
    println!(
        "tail: {} traces kept of {TRACES}, {} spans twice",
        times.len(),
        times.values().sum::<u32>() - SPANS * times.len() as u32
    );

    let (kept, left_out) = (7, 8);
    relay.send("service-0", [span(kept, 9, false), span(left_out, 9, true)].into_iter());
    relay.drained("sink");
    assert_eq!((sink.times()[&kept], sink.times().get(&left_out)), (times[&kept] + 1, None), "late spans follow");

    let digits = format!("{KEPT_FROM:014x}");
    let told = format!("ot=th:{}", digits.trim_end_matches('0'));
    let text = std::fs::read_to_string(&file).expect("the file is there");
    let spans = text.lines().flat_map(|line| spans(&serde_json::from_str(line).expect("JSON")));
    for (trace, state) in spans {
        assert_eq!(state, if fails(trace) { "" } else { &told }, "trace {trace}");
    }
}

/// Trace and trace state of each span of a request.
fn spans(request: &Value) -> Vec<(u64, String)> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let scopes = list(request, "resourceSpans").into_iter().flat_map(|it| list(&it, "scopeSpans"));
    let one = |span: Value| {
        let trace = u64::from_str_radix(&span["traceId"].as_str().expect("text")[16..], 16).expect("hexadecimal");
        (trace, span["traceState"].as_str().unwrap_or_default().to_owned())
    };
    scopes.flat_map(|it| list(&it, "spans")).map(one).collect()
}
