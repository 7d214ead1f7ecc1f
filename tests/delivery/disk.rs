//! Disks that are full, torn or wrong.

use std::fs;

use spantap_tests::{clock::wait_for, disk::SmallDisk};

use crate::{
    RATE, check,
    rig::{BOUND, Relay},
    sender::Sender,
    sink::{Behaviour, Sink},
    to,
};

#[test]
fn a_full_disk_refuses_drains_and_recovers_without_a_restart() {
    let disk = SmallDisk::new(6 << 20);
    let sink = Sink::start(Behaviour::Take);
    sink.open(false);
    let relay = Relay::start_in(Some(&disk.path().join("data")), &[to("sink", &sink)], "");
    let sender = Sender::start(relay.address(), RATE, RATE * 2);
    wait_for("the agent refuses", BOUND, || (sender.resent() > 3 || sender.acknowledged() == RATE * 2).then_some(()));
    let acknowledged = sender.acknowledged();
    assert!(acknowledged < RATE * 2, "everything fitted");
    sink.open(true);
    wait_for("the destination gets what was stored", BOUND, || sink.missing(acknowledged).is_empty().then_some(()));
    disk.resize(64 << 20);
    check("full disk", sender, &sink, &relay);
}

#[test]
fn a_log_at_its_bound_refuses_and_loses_nothing() {
    let sink = Sink::start(Behaviour::Take);
    sink.open(false);
    let relay = Relay::start(&[to("sink", &sink)], "log: { max_bytes: 4MiB }\n");
    let sender = Sender::start(relay.address(), RATE, RATE * 2);
    wait_for("the agent refuses", BOUND, || (sender.resent() > 3).then_some(()));
    sink.open(true);
    check("full log", sender, &sink, &relay);
    let on_disk: u64 = fs::read_dir(relay.data().join("segments"))
        .expect("segments")
        .map(|entry| entry.expect("an entry").metadata().expect("there").len())
        .sum();
    assert!(on_disk <= 4 << 20, "{on_disk}");
}

#[test]
fn a_torn_tail_and_a_flipped_byte_cost_at_most_their_blocks_and_are_counted() {
    let sink = Sink::start(Behaviour::Take);
    sink.open(false);
    let mut relay = Relay::start(&[to("sink", &sink)], "");
    let sender = Sender::start(relay.address(), RATE, RATE / 2);
    let acknowledged = sender.finish();
    relay.kill();
    let mut segments: Vec<_> = fs::read_dir(relay.data().join("segments"))
        .expect("segments")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    segments.sort();
    let path = segments.last().expect("a segment");
    let mut bytes = fs::read(path).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    bytes.truncate(bytes.len() - 7);
    fs::write(path, bytes).expect("writable");
    sink.open(true);
    relay.restart();
    relay.drained("sink");
    let (delivered, _) = sink.taken();
    let dropped = relay.destination("sink")["dropped"].as_u64().expect("a number");
    let lost = acknowledged - delivered;
    println!("damaged: {acknowledged} acknowledged, {delivered} delivered, {dropped} counted as dropped");
    // A block is what one request brought; one is flipped, the last one torn. Nothing behind a torn tail tells how many it had.
    assert!(lost == 200 && dropped == 100, "{lost} lost, {dropped} counted");
    let losses = relay.ask(&["losses"]);
    assert!(losses.iter().any(|loss| loss["reason"] == "bytes of a torn tail cut"), "{losses:?}");
}

#[test]
fn a_second_agent_in_the_same_folder_is_refused() {
    let sink = Sink::start(Behaviour::Take);
    let relay = Relay::start(&[to("sink", &sink)], "");
    let output = spantap_tests::process::Launch::new(spantap_tests::agent::binary())
        .args(["run", "--no-capture", "--socket", "/nonexistent/s.sock", "--data-dir"])
        .arg(relay.data())
        .output();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("in use by another spantap agent"), "{said}");
}
