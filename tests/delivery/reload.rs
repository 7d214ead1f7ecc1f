//! The configuration changes while spans flow.

use std::time::Duration;

use spantap_tests::clock::{pace, wait_for};

use crate::{
    RATE, check,
    rig::{BOUND, Relay},
    sender::Sender,
    sink::{Behaviour, Sink},
    to,
};

#[test]
fn destinations_come_change_and_go_and_a_bad_configuration_changes_nothing() {
    let (stays, comes) = (Sink::start(Behaviour::Take), Sink::start(Behaviour::Take));
    let relay = Relay::start(&[to("stays", &stays)], "");
    let sender = Sender::start(relay.address(), RATE, RATE * 3);
    pace(Duration::from_millis(300));
    relay.configure(&[to("stays", &stays), to("comes", &comes)], "relay: { attributes: [site=here] }\n");
    wait_for("the file is noticed", BOUND, || (comes.taken().0 > 0).then_some(()));

    relay.configure(&[to("stays", &stays)], "relay: { smapling: 1 }\n");
    wait_for("the bad file is told", BOUND, || relay.messages().contains("sampling_ratio").then_some(()));
    assert_eq!(relay.destination("comes")["name"], "comes", "what ran still runs");

    relay.configure(&[format!("{}, concurrency: 4", to("stays", &stays))], "relay: { attributes: [site=here] }\n");
    wait_for("a destination goes", BOUND, || {
        let status = relay.ask(&["status"]).remove(0);
        (status["destinations"].as_array().expect("a list").len() == 1).then_some(())
    });
    check("reload", sender, &stays, &relay);
    assert!(relay.messages().contains("the configuration was applied"), "{}", relay.messages());
}

#[test]
fn a_change_that_cannot_be_applied_holds_nothing_in_the_log() {
    let sink = Sink::start(Behaviour::Take);
    let small = "log: { max_bytes: 8MiB }\n";
    let relay = Relay::start(&[to("sink", &sink)], small);
    let certificate = "url: 'otlp+https://127.0.0.1:1', name: other, tls: { ca_file: /nowhere }".to_owned();
    relay.configure(&[to("sink", &sink), certificate], small);
    wait_for("the change is refused", BOUND, || relay.messages().contains("stays as it was").then_some(()));
    // Several times what the log may take: what was delivered goes.
    check("after a refused change", Sender::start(relay.address(), RATE, RATE * 4), &sink, &relay);
    assert!(relay.ask(&["status"])[0]["log"]["bytes"].as_u64().expect("a number") <= 8 << 20);
}
