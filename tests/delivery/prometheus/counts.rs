//! Figures of what is lost, marked, left out or sent twice: their values are what the sink counted and the sender knows.

use std::net::SocketAddr;

use spantap_tests::{
    clock::{poll, wait_for},
    numbered::{backwards, bare, even},
    temp::free_port,
};

use super::Prometheus;
use crate::{
    RATE,
    rig::{BOUND, Relay},
    sender::Sender,
    sink::{Behaviour, Sink},
    to,
};

/// A figure of the reference, what it is asked by, and its value.
type Figure<'a> = (&'a str, &'a str, u64);

/// Where figures are served, and the configuration that says so.
fn metrics() -> (SocketAddr, String) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    (address, format!("metrics: {{ address: '{address}' }}\n"))
}

/// Waits until each has its value; fails with all that have not.
fn check(prometheus: &mut Prometheus, figures: &[Figure]) {
    let mut wrong = figures.to_vec();
    poll(BOUND, || {
        wrong.retain(|(_, query, value)| prometheus.number(query) != Some(*value));
        wrong.is_empty().then_some(())
    });
    let told = wrong.iter().map(|(figure, query, value)| {
        let found = prometheus.number(query);
        format!("{figure}: {query} is {found:?}, not {value}")
    });
    let told: Vec<String> = told.collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}

/// Spans of these tests that [`even`] numbers.
const COUNT: u64 = 1_024;

#[test]
fn what_is_skewed_sampled_sent_twice_or_late_is_what_the_sink_counted() {
    let (address, config) = metrics();
    let sink = Sink::start(Behaviour::Break);
    let half = format!("{}, sampling: {{ ratio: 0.5, ratio_min: 0.5 }}", to("sink", &sink));
    let relay = Relay::start(&[half], &format!("{config}relay: {{ sampling_ratio: 0.75 }}\n"));
    let mut prometheus = Prometheus::scraping(address);
    relay.send("shop", (0..COUNT).map(|index| bare(even(index, COUNT), index + 1, false)));
    // One more, of those that are kept.
    relay.send("shop", [backwards(even(COUNT - 1, COUNT) + 1, COUNT + 1)].into_iter());
    wait_for("answers break", BOUND, || (sink.met() >= 3).then_some(()));
    sink.set(Behaviour::Take);
    relay.drained("sink");
    let (taken, twice) = sink.taken();
    assert!(taken == COUNT / 2 + 1 && twice >= COUNT, "{taken} taken, {twice} twice");
    let kept = COUNT * 3 / 4 + 1;
    let twice = format!("spantap_destination_spans_possible_duplicates_total >= bool {twice}");
    check(
        &mut prometheus,
        &[
            ("M9", "spantap_relayed_spans_skewed_total", 1),
            ("M10", &twice, 1),
            ("M15", "spantap_relayed_spans_local_total", COUNT + 1 - kept),
            ("M15", "spantap_destination_spans_sampled_out_total", kept - taken),
            ("M15", "spantap_destination_sampling_ppm", 500_000),
            ("M15", "spantap_destination_spans_late_total", 0),
        ],
    );
    relay.ask(&["export", "--since", "1h", "--to", "sink"]);
    wait_for("all of it is there", BOUND, || (sink.taken().0 == COUNT + 1).then_some(()));
    check(&mut prometheus, &[("M15", "spantap_destination_spans_late_total", COUNT + 1 - taken)]);
}

#[test]
fn traces_and_symptoms_are_what_was_decided() {
    let (address, config) = metrics();
    let sink = Sink::start(Behaviour::Take);
    let tail = |name: &str, tail: &str| {
        format!("{}, sampling: {{ ratio: 0.5, ratio_min: 0.5, tail: {{ {tail} }} }}", to(name, &sink))
    };
    let destinations = [
        tail("decided", "decision_wait: 100ms"),
        tail("waiting", "decision_wait: 1h"),
        tail("small", "decision_wait: 1h, traces_max: 100"),
        to("all", &sink),
    ];
    // One window, whenever this runs.
    let watched = "  on_symptom: { destinations: [all], errors: 30, window: 10000d }\n";
    let relay = Relay::start_with(&destinations, &config, watched);
    let mut prometheus = Prometheus::scraping(address);
    let fails = |index: u64| index.is_multiple_of(8);
    let spans = (0..COUNT).map(|index| bare(even(index, COUNT), index + 1, fails(index)));
    relay.send("shop", spans);
    relay.drained("decided");
    let errors = COUNT / 8;
    let sampled = (COUNT / 2..COUNT).filter(|index| !fails(*index)).count() as u64;
    check(
        &mut prometheus,
        &[
            ("M15", "spantap_destination_traces_kept_total{destination=\"decided\", reason=\"error\"}", errors),
            ("M15", "spantap_destination_traces_kept_total{destination=\"decided\", reason=\"sampled\"}", sampled),
            ("M15", "spantap_destination_traces_left_out_total{destination=\"decided\"}", COUNT - errors - sampled),
            ("M15", "spantap_destination_traces_waiting{destination=\"waiting\"}", COUNT),
            ("M15", "spantap_destination_traces_early_total{destination=\"small\"}", COUNT - 100),
            ("M15", "spantap_destination_traces_waiting{destination=\"small\"}", 100),
            ("M15", "spantap_symptoms_total", 1),
        ],
    );
}

#[test]
fn a_restart_is_a_change_of_the_start_time() {
    let (address, config) = metrics();
    let sink = Sink::start(Behaviour::Take);
    let mut relay = Relay::start(&[to("sink", &sink)], &config);
    let mut prometheus = Prometheus::scraping(address);
    let changes = "changes(spantap_start_time_seconds[1h])";
    check(&mut prometheus, &[("14", changes, 0)]);
    relay.kill();
    relay.restart();
    check(&mut prometheus, &[("14", changes, 1)]);
}

#[test]
fn spans_that_gave_way_to_newer_ones_are_what_the_sink_has_not_got() {
    let (address, config) = metrics();
    let sink = Sink::start(Behaviour::Take);
    sink.open(false);
    let relay =
        Relay::start(&[to("sink", &sink)], &format!("{config}log: {{ max_bytes: 4MiB, overflow: drop_oldest }}\n"));
    let mut prometheus = Prometheus::scraping(address);
    let acknowledged = Sender::start(relay.address(), RATE * 5, RATE * 2).finish();
    sink.open(true);
    relay.drained("sink");
    let (taken, _) = sink.taken();
    assert!(taken > 0 && taken < acknowledged, "{taken} of {acknowledged}");
    check(
        &mut prometheus,
        &[
            ("M7", "spantap_destination_spans_dropped_total", acknowledged - taken),
            ("M7", "spantap_destination_spans_delivered_total", taken),
            ("M7", "spantap_destination_spans_generated_total", acknowledged),
            // Each span has one that is sensitive.
            ("F7", "spantap_relayed_values_redacted_total", acknowledged),
        ],
    );
}
