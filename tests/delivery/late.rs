//! What sampling left out, delivered after all because somebody asks.

use std::time::Duration;

use serde_json::Value;
use spantap_tests::{clock::wait_for, numbered};

use crate::{
    RATE,
    rig::{BOUND, Relay},
    sender::Sender,
    sink::{Behaviour, Sink},
};

/// Spans of the test; those below the first bound are left out before the log's destinations, those below the second by the
/// destination.
const SPANS: u64 = RATE;
const LOCAL: u64 = RATE / 4;
const LEFT_OUT: u64 = RATE / 2;

/// The ratio that leaves out the spans below this number: a span's number is what sampling decides by.
pub fn ratio_without(number: u64) -> f64 {
    assert!(number.is_multiple_of(8), "next to 1 a double has no finer steps");
    1.0 - number as f64 / (1_u64 << 56) as f64
}

fn exported(relay: &Relay, more: &[&str]) -> Value {
    let command = [&["export", "--since", "1h", "--to", "sink"][..], more].concat();
    relay.ask(&command).remove(0)
}

fn requests(relay: &Relay) -> Vec<Value> {
    let status = relay.ask(&["status"]).remove(0);
    status["late"].as_array().expect("a list").clone()
}

#[test]
fn what_sampling_left_out_is_delivered_on_request_also_through_a_kill() {
    let sink = Sink::start(Behaviour::Take);
    let (local, left_out) = (ratio_without(LOCAL), ratio_without(LEFT_OUT));
    let to = format!(
        "name: sink, url: '{}', retry: {{ initial: 20ms, max: 200ms }}, batch: {{ spans: 500, age: 20ms }}, \
         sampling: {{ ratio: {left_out}, ratio_min: {left_out} }}",
        sink.url()
    );
    let mut relay = Relay::start(&[to], &format!("relay: {{ sampling_ratio: {local} }}\n"));
    let sender = Sender::start(relay.address(), RATE, SPANS);
    assert_eq!(sender.finish(), SPANS);
    relay.drained("sink");
    assert_eq!((sink.taken(), sink.missing(SPANS)[0]), ((SPANS - LEFT_OUT, 0), 0), "{}", relay.messages());
    let accounts = relay.destination("sink");

    let counted = exported(&relay, &["--where", "name: GET /orders/7", "--dry-run"]);
    let all_of_it = SPANS / 50;
    assert_eq!(
        (&counted["matched"], &counted["sent"], &counted["queued"], &counted["request"]),
        (&all_of_it.into(), &(all_of_it / 2).into(), &(all_of_it / 2).into(), &Value::Null),
    );
    let lines = relay.say(&["export", "--since", "1h", "--to", "-"]);
    assert_eq!(lines.matches("\"spanId\"").count() as u64, LEFT_OUT);

    sink.set(Behaviour::Slow(Duration::from_millis(50)));
    let asked = exported(&relay, &[]);
    assert_eq!((&asked["matched"], &asked["queued"]), (&SPANS.into(), &LEFT_OUT.into()));
    wait_for("some of it is there", BOUND, || (sink.taken().0 > SPANS - LEFT_OUT).then_some(()));
    relay.kill();
    let before = sink.taken().0;
    assert!(before < SPANS, "the kill came too late to show anything");
    sink.set(Behaviour::Take);
    relay.restart();
    wait_for("all of it is there", BOUND, || sink.missing(SPANS).is_empty().then_some(()));
    wait_for("the request is over", BOUND, || (requests(&relay)[0]["is_done"] == true).then_some(()));
    let request = requests(&relay).remove(0);
    assert_eq!(
        (&request["delivered"], &request["dead"], &request["gone"]),
        (&LEFT_OUT.into(), &0.into(), &0.into()),
        "{request}"
    );
    let (taken, twice) = sink.taken();
    println!("late: {before} before the kill, {taken} of {SPANS} delivered, {twice} twice");
    assert!(twice <= 1_000 && sink.leaks() == 0, "one request was on its way, got {twice}");
    let again = exported(&relay, &[]);
    assert_eq!((&again["sent"], &again["queued"]), (&SPANS.into(), &0.into()));
    let after = relay.destination("sink");
    assert_eq!((&after["delivered"], &after["filtered"]), (&accounts["delivered"], &accounts["filtered"]));
}

/// Sends spans of a service that end now, and waits until they are acknowledged.
fn send(relay: &Relay, service: &str, numbers: std::ops::Range<u64>, is_error: bool) {
    relay.send(service, numbers.map(|number| numbered::bare(number, number + 1, is_error)));
}

#[test]
fn a_burst_of_errors_delivers_what_was_left_out_of_its_service_and_nothing_else() {
    let sink = Sink::start(Behaviour::Take);
    let to = format!("name: sink, url: '{}', batch: {{ age: 20ms }}", sink.url());
    let relay = Relay::start_with(
        &[to],
        "relay: { sampling_ratio: 0 }\n",
        // One window, whenever this runs.
        "  on_symptom: { destinations: [sink], errors: 30, window: 10000d, after: 3s }\n",
    );
    send(&relay, "bank", 0..1_000, false);
    send(&relay, "shop", 1_000..1_400, false);
    relay.drained("sink");
    assert_eq!(sink.taken(), (0, 0), "everything is left out");
    // Errors are kept: they come at once, by the ordinary way.
    send(&relay, "shop", 1_400..1_450, true);
    wait_for("the burst is seen", BOUND, || (relay.ask(&["status"])[0]["symptoms"]["count"] == 1).then_some(()));
    send(&relay, "bank", 2_000..2_100, false);
    send(&relay, "shop", 1_450..1_500, false);
    wait_for("the request is over", BOUND, || (requests(&relay)[0]["is_done"] == true).then_some(()));
    let expected: Vec<u64> = (1_000..1_500).collect();
    assert_eq!((sink.numbers(), sink.taken()), (expected, (500, 0)), "{}", relay.messages());
    let request = requests(&relay).remove(0);
    assert_eq!((&request["matched"], &request["sent"], &request["delivered"]), (&500.into(), &50.into(), &450.into()));
    let told = relay.messages().matches("errors of shop: 50 of ").count();
    assert_eq!((told, requests(&relay).len()), (1, 1), "{}", relay.messages());
}
