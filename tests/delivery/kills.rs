//! The end of the agent, at any moment.

use std::time::Duration;

use spantap_tests::clock::{pace, wait_for};

use crate::{
    RATE, check,
    rig::{BOUND, Relay},
    sender::Sender,
    sink::{Behaviour, Sink},
    to,
};

/// How often the agent is killed; 100 with `SPANTAP_KILLS=100`.
fn kills() -> u64 {
    std::env::var("SPANTAP_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(6)
}

/// Moments that are spread, and the same in each run.
fn moment(kill: u64) -> Duration {
    Duration::from_millis(50 + (kill * 7_919) % 450)
}

fn killed(is_up: bool) {
    let sink = Sink::start(Behaviour::Take);
    sink.open(is_up);
    let mut relay = Relay::start(&[to("sink", &sink)], "");
    // Long enough for all kills, however long a start takes: the sender waits for the agent.
    let sender = Sender::start(relay.address(), RATE, RATE * (2 + kills() / 3));
    for kill in 0..kills() {
        pace(moment(kill));
        relay.kill();
        relay.restart();
    }
    sink.open(true);
    let twice = check(if is_up { "killed, destination up" } else { "killed, destination down" }, sender, &sink, &relay);
    // One request on its way for each end; and what was stored when its acknowledgement was lost.
    assert!(twice <= kills() * (4_096 + 100), "{twice}");
}

#[test]
fn killed_while_the_destination_is_up() {
    killed(true);
}

#[test]
fn killed_while_the_destination_is_down() {
    killed(false);
}

#[test]
fn terminated_and_started_again() {
    let sink = Sink::start(Behaviour::Take);
    let mut relay = Relay::start(&[to("sink", &sink)], "");
    let sender = Sender::start(relay.address(), RATE, RATE * 2);
    for kill in 0..2 {
        pace(moment(kill) * 2);
        relay.terminate();
        relay.restart();
    }
    check("terminated", sender, &sink, &relay);
}

#[test]
fn terminated_when_a_destination_was_down_for_longer_than_the_log_keeps() {
    let sink = Sink::start(Behaviour::Take);
    sink.open(false);
    let mut relay = Relay::start(&[to("sink", &sink)], "log: { max_age: 1s }\n");
    let sender = Sender::start(relay.address(), RATE, RATE);
    wait_for("a later segment", BOUND, || (sender.acknowledged() == RATE && segments(&relay) > 1).then_some(()));
    // Now the first one is too old.
    pace(Duration::from_secs(2));
    relay.terminate();
    relay.restart();
    sink.open(true);
    check("terminated, down for longer than max_age", sender, &sink, &relay);
}

fn segments(relay: &Relay) -> usize {
    std::fs::read_dir(relay.data().join("segments")).expect("a folder").count()
}
