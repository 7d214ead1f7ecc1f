//! The agent as a sidecar: no privilege, little memory, and a backend that is down.

use spantap_tests::clock::wait_for;

use crate::{
    RATE, check,
    rig::{BOUND, Relay},
    sender::Sender,
    sink::{Behaviour, Sink},
    to,
};

/// Less than what waits during the outage and the agent together.
const MEMORY_BYTES: u64 = 64 << 20;
/// About 400 bytes each: 80 MB.
const SPANS: u64 = RATE * 10;

#[test]
fn without_privilege_and_in_little_memory_nothing_is_lost_through_an_outage() {
    let sink = Sink::start(Behaviour::Take);
    sink.open(false);
    // A gentle return would take as long as the backlog took to come.
    let destination = format!("{}, pace: {{ return_factor: 0 }}", to("sink", &sink));
    let relay = Relay::start_as_sidecar(&[destination], MEMORY_BYTES);
    // As fast as it takes them: the backlog is what matters here.
    let sender = Sender::start(relay.address(), RATE * 5, SPANS);
    wait_for("everything waits", BOUND, || (sender.acknowledged() == SPANS).then_some(()));
    let (bytes, capabilities) = relay.taken();
    println!("sidecar: {SPANS} spans wait in {bytes} of {MEMORY_BYTES} bytes");
    assert_eq!(u64::from_str_radix(&capabilities, 16), Ok(0), "capabilities");
    sink.open(true);
    check("sidecar", sender, &sink, &relay);
}
