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
