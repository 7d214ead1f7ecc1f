//! Destinations of gRPC that fail in every way.

use std::time::Duration;

use spantap_tests::clock::wait_for;

use crate::{
    RATE, check,
    rig::{BOUND, Relay},
    sender::Sender,
    sink::{Behaviour, Sink},
};

/// One request at a time, so that what is sent while it should wait can be counted.
fn to(sink: &Sink) -> String {
    let url = sink.url();
    format!(
        "name: sink, url: '{url}', timeout: 300ms, retry: {{ initial: 20ms, max: 100ms }}, batch: {{ age: 20ms }}, concurrency: 1"
    )
}

/// A behaviour in the middle of the stream, until so many requests were answered with it.
fn until_seen(sink: &Sink, behaviour: Behaviour, requests: u64) {
    let what = format!("{behaviour:?} is seen");
    sink.set(behaviour);
    wait_for(&what, BOUND, || (sink.met() >= requests).then_some(()));
}

fn number(relay: &Relay, account: &str) -> u64 {
    relay.destination("sink")[account].as_u64().unwrap_or_else(|| panic!("no {account}"))
}

#[test]
fn resource_exhausted_waits_as_long_as_retry_info_says_or_backs_off_without() {
    let wait = Duration::from_millis(1_500);
    let sink = Sink::start_grpc(Behaviour::Take);
    let relay = Relay::start(&[to(&sink)], "");
    let sender = Sender::start(relay.address(), RATE, RATE * 5 / 2);
    until_seen(&sink, Behaviour::Take, 1);
    until_seen(&sink, Behaviour::Exhausted(None), 5);
    until_seen(&sink, Behaviour::Exhausted(Some(wait)), 1);
    let refused = sink.first_met().expect("it was seen");
    until_seen(&sink, Behaviour::Take, 1);
    let waited = sink.first_met().expect("it was seen") - refused;
    assert!(waited >= wait, "{waited:?}: RetryInfo was not waited for");
    check("gRPC, RESOURCE_EXHAUSTED", sender, &sink, &relay);
    relay.drained("sink");
    let accounts = relay.destination("sink");
    assert_eq!((&accounts["dead"], &accounts["dropped"]), (&0.into(), &0.into()), "{accounts}");
}

#[test]
fn invalid_argument_costs_only_the_spans_that_it_is_about() {
    let poison = [17, 18, 5_000, 29_999];
    let sink = Sink::start_grpc(Behaviour::Poison(poison.to_vec()));
    let relay = Relay::start(&[to(&sink)], "");
    let sender = Sender::start(relay.address(), RATE, RATE * 3 / 2);
    let acknowledged = sender.finish();
    wait_for("all but the poison is delivered", BOUND, || (sink.missing(acknowledged) == poison).then_some(()));
    wait_for("the poison is dead", BOUND, || (number(&relay, "dead") == 4).then_some(()));
    let letters = relay.ask(&["dlq", "ls"]);

    assert!(
        letters.iter().all(|letter| letter["reason"].as_str().expect("text").contains("InvalidArgument")),
        "{letters:?}"
    );
    relay.drained("sink");
    assert_eq!(number(&relay, "delivered"), acknowledged - 4);
    println!("gRPC, INVALID_ARGUMENT: {acknowledged} acknowledged, 4 dead, {} twice", sink.taken().1);
}

#[test]
fn outages_in_every_form() {
    let sink = Sink::start_grpc(Behaviour::Take);
    let relay = Relay::start(&[to(&sink)], "");
    let sender = Sender::start(relay.address(), RATE, RATE * 3);
    for behaviour in [
        Behaviour::Refuse { status: 503, headers: String::new() },
        Behaviour::Hang,
        Behaviour::Break,
        Behaviour::Reset,
        Behaviour::Slow(Duration::from_millis(100)),
        Behaviour::Token("another".into()),
    ] {
        until_seen(&sink, Behaviour::Take, 2);
        until_seen(&sink, behaviour, 3);
    }
    sink.set(Behaviour::Take);
    check("gRPC, outages", sender, &sink, &relay);
    relay.drained("sink");
    let accounts = relay.destination("sink");
    assert_eq!((&accounts["dead"], &accounts["dropped"]), (&0.into(), &0.into()), "{accounts}");
}
