//! What is acknowledged is delivered: the agent as a relay, through faults of destinations, disk and agent.
//!
//! Generated is what the sender says, delivered what the sink counts; the agent's own figures are checked against both. The sender
//! keeps what was not acknowledged and sends it again, as SDKs with a queue do, so each test ends with: nothing that was acknowledged is
//! missing, and so many spans came twice. Needs root for the disks only. Run with `-- --test-threads=2` at most: the tests share the CPUs.

mod destination;
mod disk;
mod formats;
mod grpc;
mod judge;
mod kafka;
mod kills;
mod late;
mod nats;
mod prometheus;
mod push;
mod reload;
mod rig;
mod rotate;
mod routes;
mod s3;
mod sdk;
mod sender;
mod sidecar;
mod sink;
mod tail;
mod tls;

use sender::Sender;
use sink::Sink;

/// Spans per second of every test.
const RATE: u64 = 20_000;

/// A destination that is asked again soon.
fn to(name: &str, sink: &Sink) -> String {
    format!(
        "name: {name}, url: '{}', timeout: 2s, retry: {{ initial: 20ms, max: 200ms }}, batch: {{ age: 20ms }}",
        sink.url()
    )
}

/// Everything that the sender was told is safe is at the sink; says what came twice.
fn check(what: &str, sender: Sender, sink: &Sink, relay: &rig::Relay) -> u64 {
    let resent = sender.resent();
    let acknowledged = sender.finish();
    spantap_tests::clock::wait_for(&format!("{what}: everything is delivered"), rig::BOUND, || {
        sink.missing(acknowledged).is_empty().then_some(())
    });
    let (delivered, duplicates) = sink.taken();
    println!(
        "{what}: {acknowledged} acknowledged ({resent} requests resent), {delivered} delivered, {duplicates} twice"
    );
    assert_eq!((delivered, sink.leaks()), (acknowledged, 0), "{}", relay.messages());
    duplicates
}
